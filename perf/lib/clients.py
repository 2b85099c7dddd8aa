"""TLS clients of Python's: for the check before measuring, and to hold tunnels open while the server's memory is read."""

import socket
import ssl
import time

ANSWER = 10  # seconds to wait for any answer


def context(folder, device):
    made = ssl.create_default_context(cafile=folder / "ca.pem")
    if device:
        made.load_cert_chain(folder / f"{device}.pem", folder / f"{device}.key")
    return made


def tunnel(made, port, connect=None):
    """An open tunnel through which one byte has come back."""
    raw = socket.create_connection(("127.0.0.1", port), ANSWER)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    session = made.wrap_socket(raw, server_hostname="localhost")
    if connect:
        session.sendall(f"CONNECT {connect} HTTP/1.1\r\nHost: {connect}\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = session.recv(1)
            if not byte:
                raise ConnectionError("the peer closed before it answered CONNECT")
            head += byte
        if b" 200 " not in head.split(b"\r\n")[0]:
            raise ConnectionError(head.split(b"\r\n")[0].decode(errors="replace"))
    exchange(session, b"a")
    return session


def exchange(session, message):
    session.sendall(message)
    left = len(message)
    while left:
        got = session.recv(left)
        if not got:
            raise ConnectionError("the peer closed")
        left -= len(got)


def opens(folder, device, port, connect):
    try:
        tunnel(context(folder, device), port, connect).close()
        return True
    except (OSError, ConnectionError):
        return False


def hold(folder, port, connect, count, measure):
    """Memory with `count` tunnels: idle, after each has carried 16 KiB each way, and ten seconds later."""
    made, held = context(folder, "device-1"), []
    try:
        for _ in range(count):
            held.append(tunnel(made, port, connect))
        time.sleep(2)
        stages = [measure()]
        for session in held:
            exchange(session, b"a" * 16384)
        stages.append(measure())
        time.sleep(10)
        stages.append(measure())
        return stages
    finally:
        for session in held:
            session.close()
