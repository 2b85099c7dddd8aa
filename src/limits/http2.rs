//! Bounds of HTTP/2 sessions.

use std::time::Duration;

use super::REQUEST_HEADER_MAX;

/// Tunnels of one HTTP/2 session at once (SETTINGS_MAX_CONCURRENT_STREAMS). RFC 9113, section 6.5.2
/// advises 100 at least; an app that holds more opens another session, which may be on another
/// core.
pub const HTTP2_TUNNELS_MAX: usize = 256;

/// Bytes from the client that one HTTP/2 session holds at most, in all its tunnels: its receive
/// window. They are held only where servers do not read.
pub const HTTP2_SESSION_WINDOW: u32 = 16 << 20;

/// Receive window of a tunnel, whatever was measured: as much of [`HTTP2_SESSION_WINDOW`] as each
/// may have when all tunnels are open. It is the protocol's own first window, too (RFC 9113,
/// section 6.9.2).
pub const HTTP2_WINDOW_MIN: u32 = 64 << 10;

/// Least receive window of a session, while few tunnels are open: the first bytes of some that
/// begin at once, before their requests are looked at. `h2` also holds half of it in the overhead
/// of small DATA frames at most.
pub const HTTP2_SESSION_WINDOW_MIN: u32 = 1 << 20;

/// Bytes of receive windows beyond [`HTTP2_WINDOW_MIN`] that all HTTP/2 sessions of a device have
/// at most: four tunnels with the largest.
pub const HTTP2_DEVICE_WINDOWS: usize = 32 << 20;

/// The same of all sessions of a core. One device has as much of it at most as is left for the
/// others.
pub const HTTP2_CORE_WINDOWS: usize = 256 << 20;

/// Sessions that a device may have beyond `max_tunnels_per_device`: such as have lost their
/// tunnels, or their client its network, and wait for the idle timeout.
pub const SESSIONS_SPARE: usize = 16;

/// Receive window of a tunnel at its start, if few are open: what one TCP connection starts with is
/// less, and 10 ms of 200 Mbit/s fit.
pub const HTTP2_WINDOW_START: u32 = 256 << 10;

/// The largest receive window of a tunnel, if few are open and the measured bandwidth-delay product
/// asks for it: 100 ms of 600 Mbit/s.
pub const HTTP2_WINDOW_MAX: u32 = 8 << 20;

/// Bytes to the client that one tunnel has queued in an HTTP/2 session at most.
pub const HTTP2_SEND_QUEUE: usize = 64 << 10;

/// Buffers with bytes to the client that one tunnel has queued at most, however little is in them:
/// one on its way, and one that was received meanwhile.
pub const HTTP2_STREAM_BUFFERS: usize = 2;

/// Bytes of buffers with bytes to the client in all tunnels of a session beyond which each tunnel
/// has one at most, and a small one: 16 large ones, 4 MB. A client that reads empties them a
/// thousand times a second.
pub const HTTP2_SESSION_QUEUE: usize = 16 * crate::ring::LARGE_PAYLOAD;

/// Largest frame that a client may send (SETTINGS_MAX_FRAME_SIZE), in bytes: a frame is held until
/// it is whole.
pub const HTTP2_FRAME_MAX: u32 = 64 << 10;

/// Bytes that go to a server in one send, from as many frames as are there.
pub const HTTP2_UP_BATCH: usize = 64 << 10;

/// Bytes that one receive from a server brings for a tunnel: what its client does not take waits in
/// the session's queue.
pub const HTTP2_DOWN_BATCH: usize = 64 << 10;

/// Shortest time between two measurements of an HTTP/2 session's bandwidth-delay product; a
/// measurement is a PING.
pub const HTTP2_PROBE_PAUSE: Duration = Duration::from_millis(100);

/// Longest such time, where the last measurements changed nothing.
pub const HTTP2_PROBE_PAUSE_MAX: Duration = Duration::from_secs(10);

/// Round trips below this count as long as this: what is measured there is how soon programs run,
/// and not the way.
pub const HTTP2_ROUND_TRIP_MIN: Duration = Duration::from_millis(10);

/// How long the shortest round trip of an HTTP/2 session counts. Clients change their network.
pub const HTTP2_ROUND_TRIP_KEPT: Duration = Duration::from_secs(60);

/// How long nothing comes from a client until its windows are those of the start: nothing was sent,
/// or the server does not read.
pub const HTTP2_WINDOW_REST: Duration = Duration::from_secs(5);

/// Most bytes of a decoded header block that are kept, in the count of RFC 9113, section 6.5.2:
/// [`super::REQUEST_HEADERS_MAX`] fields from the table of 4 KiB that HPACK has at first, and one
/// block of text. What is over [`REQUEST_HEADER_MAX`] is refused with a reason; this is where
/// decoding itself ends.
pub const HTTP2_HEADER_LIST_MAX: u32 = 320 << 10;

/// Share of the idle timeout, in percent, for which an HTTP/2 session may hold bytes back by its
/// flow control while nothing at all moves. A client that has opened tunnels and reads none of them
/// for so long is gone or means harm; a slow one reads something. One that does not acknowledge
/// SETTINGS has as long, the handshake timeout at least. Below 100, so that it is told before its
/// tunnels are idle.
pub const HTTP2_STALL_PERCENT: u32 = 75;

/// Longest header block, in bytes, that is refused as too large with its stream: what one frame
/// holds. Clients with cookies or tickets of tens of kilobytes exist; a longer one ends the
/// session.
pub const HTTP2_BLOCK_MAX: usize = HTTP2_FRAME_MAX as usize;

/// Most fields of such a block. In HPACK a byte stands for a field: 16 000 of them cost a
/// millisecond to decode.
pub const HTTP2_FIELDS_MAX: usize = 1024;

/// CONTINUATION frames of one header block. [`REQUEST_HEADER_MAX`] bytes fit into one frame: real
/// clients send none.
pub const HTTP2_CONTINUATIONS_MAX: u32 = 4;

/// Number of frames of each kind without payload that an HTTP/2 client may send: so many at once,
/// and so many a second. Each [`HTTP2_CREDIT_BYTES`] of payload allow one more.
///
/// nghttp2 takes 1000 and 33 for streams that are reset; browsers reset a page's worth at once.
pub const HTTP2_RESETS: (u32, u32) = (1000, 33);
/// See [`HTTP2_RESETS`]. Clients change their settings once or twice in a session's life.
pub const HTTP2_SETTINGS: (u32, u32) = (32, 1);
/// See [`HTTP2_RESETS`]. Clients ping to keep a session alive, or to measure it, many times a
/// second while bytes move: each DATA frame that the client was sent allows one more, too.
pub const HTTP2_PINGS: (u32, u32) = (128, 10);
/// See [`HTTP2_RESETS`]. Requests that are refused for what the client asked or may not have: each
/// is an audit line, on disk. A page's worth may be refused at once, and again when it is loaded
/// anew. A destination that is down is not the client's doing, and counts for nothing.
pub const HTTP2_REFUSALS: (u32, u32) = (1000, 33);
/// See [`HTTP2_RESETS`]. Header blocks that are larger than a request may be: each is refused with
/// 431, after it was decoded.
pub const HTTP2_LARGE_BLOCKS: (u32, u32) = (16, 1);
/// See [`HTTP2_RESETS`].
pub const HTTP2_EMPTY_DATA: (u32, u32) = (128, 10);
/// See [`HTTP2_RESETS`]. Priorities, and frames of unknown types, which are read over.
pub const HTTP2_IGNORED: (u32, u32) = (512, 33);

/// See [`HTTP2_RESETS`].
pub const HTTP2_CREDIT_BYTES: u32 = 16 << 10;

const _: () =
    assert!(HTTP2_TUNNELS_MAX as u64 * HTTP2_WINDOW_MIN as u64 <= HTTP2_SESSION_WINDOW as u64);
const _: () =
    assert!(HTTP2_WINDOW_START <= HTTP2_WINDOW_MAX && HTTP2_WINDOW_MAX <= HTTP2_SESSION_WINDOW);
const _: () =
    assert!(HTTP2_FRAME_MAX <= HTTP2_WINDOW_MIN && HTTP2_FRAME_MAX as usize >= REQUEST_HEADER_MAX);
