"""Clients of a soak: they open tunnels in every way, compare each byte that comes back, and leave at any point."""

import asyncio
import contextlib
import socket
import ssl
import struct

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from lib.world import Wrong

WAIT = 30  # seconds for any one step of a client that must succeed
PIECE = 16 << 10


class Refused(Exception):
    """An answer other than 200, or an end before it."""


async def within(step):
    return await asyncio.wait_for(step, WAIT)


async def session(world, device, protocols=("http/1.1",), source="127.0.0.1", version=None):
    context = world.context(device, protocols, version)
    opened = asyncio.open_connection(
        "127.0.0.1", world.port, ssl=context, server_hostname="localhost", local_addr=(source, 0)
    )
    try:
        return await within(opened)
    except (OSError, ssl.SSLError) as error:
        raise Refused(f"{type(error).__name__}: {error}") from None


async def tunnel(world, device, host, **more):
    """A tunnel over HTTP/1.1: its two ends."""
    reader, writer = await session(world, device, **more)
    try:
        writer.write(f"CONNECT {host}:1 HTTP/1.1\r\nHost: {host}:1\r\n\r\n".encode())
        head = await within(reader.readuntil(b"\r\n\r\n"))
    except (OSError, ssl.SSLError, asyncio.IncompleteReadError) as error:
        writer.transport.abort()
        raise Refused(f"{type(error).__name__}: {error}") from None
    if b" 200 " not in head.split(b"\r\n")[0]:
        writer.transport.abort()
        raise Refused(head.split(b"\r\n")[0].decode())
    return reader, writer


async def leave(writer):
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError, asyncio.TimeoutError):
        await asyncio.wait_for(writer.wait_closed(), 5)


async def echoed(reader, writer, chance, size):
    """Sends so many random bytes in pieces of random sizes, and compares what comes back."""
    payload = chance.randbytes(size)

    async def send():
        at = 0
        while at < size:
            piece = payload[at : at + chance.randrange(1, PIECE)]
            writer.write(piece)
            await writer.drain()
            at += len(piece)

    async def receive():
        at = 0
        while at < size:
            got = await reader.read(PIECE)
            if not got:
                raise Wrong(f"the tunnel ended after {at} of {size} bytes")
            if got != payload[at : at + len(got)]:
                raise Wrong(f"other bytes came back than were sent, at {at} of {size}")
            at += len(got)

    both = [asyncio.ensure_future(send()), asyncio.ensure_future(receive())]
    try:
        await within(asyncio.gather(*both))
    except (OSError, ssl.SSLError) as error:
        raise Wrong(f"the tunnel broke: {type(error).__name__}: {error}") from None
    except asyncio.TimeoutError:
        raise Wrong(f"{size} bytes did not come back in {WAIT} s") from None
    finally:
        for each in both:
            each.cancel()


def reset(raw):
    """Closes so that the peer gets a RST."""
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()


def connect_raw(port, source="127.0.0.1"):
    raw = socket.socket()
    raw.bind((source, 0))
    raw.settimeout(5)
    raw.connect(("127.0.0.1", port))
    return raw


def hello(context):
    """A ClientHello's bytes."""
    outgoing = ssl.MemoryBIO()
    begun = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        begun.do_handshake()
    return outgoing.read()


class Http2:
    """One HTTP/2 session with many tunnels."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.streams = {}
        self.changed = asyncio.Condition()
        self.over = None
        self.pump = None

    @classmethod
    async def open(cls, world, device):
        self = cls(*await session(world, device, ("h2",)))
        self.connection.initiate_connection()
        self.flush()
        self.pump = asyncio.ensure_future(self.run())
        return self

    def flush(self):
        self.writer.write(self.connection.data_to_send())

    async def run(self):
        try:
            while got := await self.reader.read(64 << 10):
                for event in self.connection.receive_data(got):
                    self.take(event)
                self.flush()
                async with self.changed:
                    self.changed.notify_all()
            self.over = "the session ended"
        except (OSError, ssl.SSLError, h2.exceptions.ProtocolError) as error:
            self.over = f"{type(error).__name__}: {error}"
        async with self.changed:
            self.changed.notify_all()

    def take(self, event):
        stream = self.streams.get(getattr(event, "stream_id", None))
        if stream is None:
            return
        if isinstance(event, h2.events.ResponseReceived):
            stream["status"] = dict(event.headers)[":status"]
        elif isinstance(event, h2.events.DataReceived):
            stream["data"] += event.data
            self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
            stream["over"] = True

    async def until(self, what, done):
        async def wait():
            async with self.changed:
                await self.changed.wait_for(lambda: self.over or done())

        try:
            await within(wait())
        except asyncio.TimeoutError:
            raise Wrong(f"HTTP/2: {what} did not come in {WAIT} s") from None
        if not done():
            raise Refused(f"HTTP/2: {what}: {self.over}")

    async def tunnel(self, host):
        number = self.connection.get_next_available_stream_id()
        stream = self.streams[number] = {"status": None, "data": bytearray(), "over": False}
        self.connection.send_headers(number, [(":method", "CONNECT"), (":authority", f"{host}:1")])
        self.flush()
        await self.until("an answer", lambda: stream["status"] or stream["over"])
        if stream["status"] != "200":
            raise Refused(f"HTTP/2: {stream['status']}")
        return number

    async def echo(self, number, payload):
        stream, sent = self.streams[number], 0
        start = len(stream["data"])
        while sent < len(payload):
            await self.until("a window", lambda: stream["over"] or self.connection.local_flow_control_window(number))
            if stream["over"]:
                raise Refused("HTTP/2: the stream ended")
            room = min(self.connection.local_flow_control_window(number), self.connection.max_outbound_frame_size)
            piece = payload[sent : sent + room]
            self.connection.send_data(number, piece)
            self.flush()
            sent += len(piece)
        await self.until("the echo", lambda: stream["over"] or len(stream["data"]) - start >= len(payload))
        if bytes(stream["data"][start:]) != payload:
            raise Wrong("HTTP/2: other bytes came back than were sent")

    def reset(self, number):
        self.connection.reset_stream(number, h2.errors.ErrorCodes.CANCEL)
        self.flush()

    async def close(self):
        with contextlib.suppress(h2.exceptions.ProtocolError, OSError):
            self.connection.close_connection()
            self.flush()
        await leave(self.writer)
        if self.pump:
            self.pump.cancel()

    def abort(self):
        self.writer.transport.abort()
        if self.pump:
            self.pump.cancel()
