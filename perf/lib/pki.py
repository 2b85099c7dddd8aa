"""One authority, one server, a device and a revoked device: the same files for every peer."""

import base64
import random
import subprocess


def make(adit, folder):
    def certs(*words):
        subprocess.run([adit, "certs", *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)

    certs("make-ca", "--name", "group")
    certs("issue", "server", "--name", "localhost", "--dns", "localhost", "--ip", "127.0.0.1")
    certs("issue", "client", "--name", "device-1", "--app", "bench")
    certs("issue", "client", "--name", "device-2", "--app", "bench")
    certs("revoke", "device-2.pem")
    both = (folder / "localhost.pem").read_text() + (folder / "localhost.key").read_text()
    (folder / "both.pem").write_text(both)
    (folder / "hosts").write_text("127.0.0.1 bench.test\n")
    # squid gives its rights up before it reads its key.
    folder.chmod(0o755)
    for name in ("localhost.key", "both.pem"):
        (folder / name).chmod(0o644)


def element(tag, content):
    """A DER element."""
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 128 | len(length)]) + length + content


def elements(der):
    """The elements that a DER content consists of, each whole."""
    while der:
        size, start = der[1], 2
        if size >= 128:
            start += size & 127
            size = int.from_bytes(der[2:start], "big")
        yield der[: start + size]
        der = der[start + size :]


def inside(whole):
    return whole[2 + (whole[1] & 127 if whole[1] >= 128 else 0) :]


def lengthen_crl(folder, entries):
    """ca.crl with so many further serials of 16 random octets, signed anew (RFC 5280, section 5.1). Its old bytes come back."""
    file = folder / "ca.crl"
    old = file.read_text()
    body = "".join(line for line in old.splitlines() if not line.startswith("-"))
    to_sign, algorithm, _ = elements(inside(base64.b64decode(body)))
    fields = list(elements(inside(to_sign)))
    at = next(at for at, field in enumerate(fields) if field[0] == 0x30 and at > 4)  # behind the two times
    chance, when = random.Random(1), fields[3]
    serials = (element(2, bytes([1 + chance.randrange(127)]) + chance.randbytes(15)) for _ in range(entries))
    fields[at] = element(0x30, inside(fields[at]) + b"".join(element(0x30, serial + when) for serial in serials))
    to_sign = element(0x30, b"".join(fields))
    sign = ["openssl", "dgst", "-sha256", "-sign", folder / "ca.key"]
    signature = subprocess.run(sign, input=to_sign, check=True, capture_output=True).stdout
    text = base64.encodebytes(element(0x30, to_sign + algorithm + element(3, b"\0" + signature))).decode()
    file.write_text(f"-----BEGIN X509 CRL-----\n{text}-----END X509 CRL-----\n")
    return old
