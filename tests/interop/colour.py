"""Prints the width and height of a PNG file, and the share of its pixels that have a colour: colour.py FILE RRGGBB

Reads 8 bits a sample, RGB or RGBA, without interlace, which is what browsers write.
"""

import struct
import sys
import zlib


def chunks(data):
    assert data[:8] == b"\x89PNG\r\n\x1a\n", "not a PNG file"
    at = 8
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        yield kind, data[at + 8 : at + 8 + size]
        at += size + 12


def paeth(left, up, corner):
    guess = left + up - corner
    return min((abs(guess - left), 0, left), (abs(guess - up), 1, up), (abs(guess - corner), 2, corner))[2]


def rows(packed, width, height, channels):
    """The rows of bytes, with their filters undone (PNG specification, section 9)."""
    data, stride = zlib.decompress(packed), width * channels
    above = bytearray(stride)
    for y in range(height):
        start = y * (stride + 1)
        filter_type, row = data[start], bytearray(data[start + 1 : start + 1 + stride])
        for x in range(stride if filter_type else 0):
            left = row[x - channels] if x >= channels else 0
            corner = above[x - channels] if x >= channels else 0
            add = (0, left, above[x], (left + above[x]) // 2, paeth(left, above[x], corner))[filter_type]
            row[x] = (row[x] + add) & 255
        yield row
        above = row


path, colour = sys.argv[1:]
with open(path, "rb") as file:
    parts = list(chunks(file.read()))
width, height, depth, kind, _, _, interlace = struct.unpack(">IIBBBBB", parts[0][1])
assert depth == 8 and kind in (2, 6) and not interlace, (depth, kind, interlace)
channels = {2: 3, 6: 4}[kind]
packed = b"".join(body for name, body in parts if name == b"IDAT")
wanted, seen = bytes.fromhex(colour), 0
for row in rows(packed, width, height, channels):
    seen += sum(row[x : x + 3] == wanted for x in range(0, len(row), channels))
print(width, height, seen / (width * height))
