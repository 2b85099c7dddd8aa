"""Clients that mean harm, each kind in a process of its own. None of what they do may reach another client.

An attack is a function of a [`Target`]. It attacks until it is ended, and comes back to life from each refusal.
"""

import contextlib
import os
import random
import socket
import ssl
import struct
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from lib.tunnels import connect_raw, hello, reset
from lib.world import PROXY

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
BROKEN = (OSError, ssl.SSLError)
PAUSE = 0.02  # seconds after a refusal: an attacker shares the machine with those who are measured


@dataclass
class Target:
    """What an attacker knows: the port, its own certificate, and the authority of the gateway."""

    port: int
    admin: int
    folder: Path
    device: str
    source: str
    held: list = field(default_factory=list)

    def context(self, protocols=("http/1.1",), certificate=None):
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        if certificate != "none":
            chain = self.folder / (certificate or f"{self.device}.pem")
            context.load_cert_chain(chain, self.folder / f"{self.device}.key")
        context.set_alpn_protocols(list(protocols))
        return context

    def raw(self):
        return connect_raw(self.port, self.source)

    def session(self, context):
        raw = self.raw()
        try:
            return context.wrap_socket(raw, server_hostname="localhost")
        except BROKEN:
            raw.close()
            raise

    def tunnel(self, context, host="a.echo.test"):
        session = self.session(context)
        session.sendall(f"CONNECT {host}:1 HTTP/1.1\r\nHost: {host}:1\r\n\r\n".encode())
        if b" 200 " not in session.recv(4096):
            session.close()
            raise OSError("refused")
        return session

    def hold(self, one, most):
        """Keeps a connection open, `most` at once: the oldest goes."""
        self.held.append(one)
        if len(self.held) > most:
            with contextlib.suppress(OSError):
                self.held.pop(0).close()


def forever(step):
    def attack(target):
        while True:
            try:
                step(target)
            except BROKEN:
                time.sleep(PAUSE)

    attack.__name__ = step.__name__
    return attack


# ---- before authentication ----


def send_and_hold(first, most):
    def step(target):
        raw = target.raw()
        raw.sendall(first(target))
        target.hold(raw, most)
        time.sleep(0.001)

    return forever(step)


def half_hello(target):
    whole = hello(target.context())
    return whole[: random.randrange(6, len(whole))]


def half_proxy_header(_target):
    return b"PROXY TCP4 192.0.2.7 192.0.2.1 50000 4"


@forever
def failed_handshakes(target):
    session = target.session(target.context(certificate="none"))
    session.recv(1)


@forever
def garbage(target):
    raw = target.raw()
    raw.sendall(os.urandom(random.randrange(1, 2000)))
    with contextlib.suppress(OSError):
        raw.recv(100)
    reset(raw)


@forever
def cut_handshakes(target):
    raw = target.raw()
    raw.sendall(hello(target.context()))
    raw.recv(1)
    reset(raw)


# ---- devices with a good certificate ----


@forever
def appended_certificates(target):
    """A chain with somebody else's expired certificate behind it."""
    target.hold(target.tunnel(target.context(certificate="appended.pem")), 100)


@forever
def half_records(target):
    """Tunnels that each hold a record which is not complete."""
    context = target.context()
    session = target.tunnel(context)
    raw = socket.socket(fileno=session.detach())
    raw.sendall(b"\x17\x03\x03\x40\x00" + b"x" * random.randrange(0, 200))
    target.hold(raw, 200)
    time.sleep(0.01)


@forever
def slow_readers(target):
    """Sends as much as it can, and reads nothing of the echo."""
    session = target.tunnel(target.context())
    session.settimeout(0.2)
    target.hold(session, 100)
    for _ in range(64):
        session.send(bytes(16 << 10))


@forever
def half_requests(target):
    session = target.session(target.context())
    session.sendall(b"CONNECT a.echo.test:1 HTTP/1.1\r\nHost: a")
    target.hold(session, 500)


@forever
def cold_names(target):
    """Names that nobody has asked for, and no patience."""
    session = target.session(target.context())
    name = f"x{random.randrange(1 << 40)}.cold.test"
    session.sendall(f"CONNECT {name}:1 HTTP/1.1\r\nHost: {name}:1\r\n\r\n".encode())
    target.hold(session, 200)


@forever
def renegotiation(target):
    """TLS 1.2 renegotiation asked for again and again."""
    command = ["openssl", "s_client", "-tls1_2", "-connect", f"127.0.0.1:{target.port}", "-CAfile", "ca.pem"]
    command += ["-cert", f"{target.device}.pem", "-key", f"{target.device}.key", "-servername", "localhost"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    client = subprocess.Popen(command, cwd=target.folder, **pipes)
    try:
        for _ in range(50):
            client.stdin.write(b"R\n")
            client.stdin.flush()
            time.sleep(PAUSE)
    finally:
        client.kill()
        client.wait()


# ---- HTTP/2 ----


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def connect_request(stream, host="a.echo.test:1"):
    """HEADERS with CONNECT, as literals without indexing (RFC 7541, section 6.2.2)."""
    block = b"\x02\x07CONNECT" + b"\x01" + bytes([len(host)]) + host.encode()
    return frame(HEADERS, 4, stream, block)


def http2(target, settings=b""):
    session = target.session(target.context(("h2",)))
    session.settimeout(2)
    session.sendall(PREFACE + frame(SETTINGS, 0, 0, settings) + frame(SETTINGS, 1, 0))
    return session


def flood(make, reading=False):
    def step(target):
        session = http2(target)
        with contextlib.closing(session):
            for turn in range(5000):
                session.sendall(make(2 * turn + 1))
                if reading:
                    session.recv(64 << 10)

    return forever(step)


def rapid_reset(stream):
    return connect_request(stream) + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))


@forever
def small_messages(target):
    """Many echoes of one byte in windows that are never opened again."""
    session = http2(target)
    target.hold(session, 8)
    for stream in range(1, 200, 2):
        session.sendall(connect_request(stream))
    for turn in range(300):
        session.sendall(b"".join(frame(DATA, 0, stream, b"x") for stream in range(1, 200, 2)))
        time.sleep(0.005)


@forever
def delayed_pongs(target):
    """Uploads to a server that does not read, and answers PING late, so that the round trip looks long."""
    session = http2(target)
    target.hold(session, 4)
    for stream in range(1, 64, 2):
        session.sendall(connect_request(stream, "a.sink.test:1"))
    for _ in range(200):
        session.sendall(b"".join(frame(DATA, 0, stream, bytes(1024)) for stream in range(1, 64, 2)))
        time.sleep(0.05)


@forever
def no_tunnels(target):
    """HTTP/2 sessions that ask for nothing."""
    target.hold(http2(target), 1000)


ATTACKS = {
    "one-byte": send_and_hold(lambda _target: b"\x16", 4000),
    "half-hellos": send_and_hold(half_hello, 2000),
    "half-proxy-headers": send_and_hold(half_proxy_header, 1000),
    "failed-handshakes": failed_handshakes,
    "garbage": garbage,
    "cut-handshakes": cut_handshakes,
    "appended-certificates": appended_certificates,
    "half-records": half_records,
    "slow-readers": slow_readers,
    "half-requests": half_requests,
    "cold-names": cold_names,
    "renegotiation": renegotiation,
    "rapid-reset": flood(rapid_reset),
    "ping-flood": flood(lambda _stream: frame(PING, 0, 0, bytes(8))),
    "settings-flood": flood(lambda _stream: frame(SETTINGS, 0, 0)),
    "small-messages": small_messages,
    "delayed-pongs": delayed_pongs,
    "no-tunnels": no_tunnels,
}

SOURCES = {"half-proxy-headers": PROXY}
