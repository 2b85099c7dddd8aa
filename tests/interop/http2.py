"""Clients of HTTP/2 tunnels that are not Rust's: Python's h2, and curl's library through pycurl.

http2.py h2   GATEWAY CA CERTIFICATE KEY TUNNELS BYTES    every tunnel is to an echo
http2.py curl GATEWAY CA CERTIFICATE KEY URL              what the URL returns goes to standard output
Both say on standard error what they have done, and fail with a status of 1.
"""

import io
import select
import socket
import ssl
import sys


def session(gateway, ca, certificate, key):
    host, port = gateway.rsplit(":", 1)
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    stream = context.wrap_socket(socket.create_connection((host, int(port)), 10), server_hostname="localhost")
    assert stream.selected_alpn_protocol() == "h2", stream.selected_alpn_protocol()
    stream.setblocking(False)
    return stream


class Tunnel:
    def __init__(self, seed, size):
        self.bytes = bytes((at * 31 + at // 251 + seed * 7) % 256 for at in range(size))
        self.sent, self.back, self.open, self.ended = 0, bytearray(), False, False


def pump(connection, tunnels):
    """Sends what the gateway's windows let go, a frame of each tunnel in turn."""
    moved = True
    while moved:
        moved = False
        for number, tunnel in tunnels.items():
            if not tunnel.open or tunnel.sent == len(tunnel.bytes):
                continue
            room = min(connection.local_flow_control_window(number), connection.max_outbound_frame_size)
            piece = tunnel.bytes[tunnel.sent : tunnel.sent + room]
            if piece:
                tunnel.sent += len(piece)
                connection.send_data(number, piece, end_stream=tunnel.sent == len(tunnel.bytes))
                moved = True


def take(connection, tunnels, events, seen):
    import h2.events

    for event in events:
        seen.add(type(event).__name__)
        if isinstance(event, h2.events.ResponseReceived):
            assert dict(event.headers)[b":status"] == b"200", event.headers
            tunnels[event.stream_id].open = True
        elif isinstance(event, h2.events.DataReceived):
            tunnels[event.stream_id].back += event.data
            if event.flow_controlled_length:
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            tunnels[event.stream_id].ended = True
        elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
            sys.exit(f"cut: {event}")


def python_h2(gateway, ca, certificate, key, count, size):
    import h2.config
    import h2.connection

    stream = session(gateway, ca, certificate, key)
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
    connection.initiate_connection()
    connection.ping(b"12345678")
    tunnels = {}
    for seed in range(int(count)):
        number = connection.get_next_available_stream_id()
        connection.send_headers(number, [(":method", "CONNECT"), (":authority", f"t{seed}.test:443")])
        tunnels[number] = Tunnel(seed, int(size) + seed)
    out, seen = b"", set()
    while not all(tunnel.ended for tunnel in tunnels.values()):
        pump(connection, tunnels)
        out += connection.data_to_send()
        ready = select.select([stream], [stream] if out else [], [], 10)
        assert ready[0] or ready[1], "nothing moves"
        try:
            if out:
                out = out[stream.send(out) :]
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        try:
            while data := stream.recv(65536):
                take(connection, tunnels, connection.receive_data(data), seen)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
    for tunnel in tunnels.values():
        assert tunnel.back == tunnel.bytes, "other bytes came back"
    assert {"RemoteSettingsChanged", "SettingsAcknowledged", "PingAckReceived"} <= seen, seen
    extended = connection.remote_settings.enable_connect_protocol
    assert extended == 1, extended
    print(f"{len(tunnels)} tunnels", file=sys.stderr)


def curl(gateway, ca, certificate, key, url):
    import pycurl

    https2 = 3  # CURLPROXY_HTTPS2, for which pycurl has no name
    body, head = io.BytesIO(), io.BytesIO()
    handle = pycurl.Curl()
    for option, value in (
        (pycurl.URL, url), (pycurl.PROXY, f"https://{gateway}"), (pycurl.PROXYTYPE, https2),
        (pycurl.HTTPPROXYTUNNEL, 1), (pycurl.PROXY_CAINFO, ca), (pycurl.PROXY_SSLCERT, certificate),
        (pycurl.PROXY_SSLKEY, key), (pycurl.PROXY_SSL_VERIFYHOST, 2), (pycurl.TIMEOUT, 20),
        (pycurl.WRITEDATA, body), (pycurl.HEADERFUNCTION, head.write),
    ):  # fmt: skip
        handle.setopt(option, value)
    try:
        handle.perform()
    except pycurl.error as error:
        sys.exit(f"curl: {error}: {head.getvalue().decode()}")
    sys.stdout.buffer.write(body.getvalue())
    print(pycurl.version, file=sys.stderr)


if __name__ == "__main__":
    {"h2": python_h2, "curl": curl}[sys.argv[1]](*sys.argv[2:])
