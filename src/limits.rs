//! Bounds and pool sizes that others can reach: clients, servers, load balancers, the
//! configuration, the system. Each is a named constant with its reason. A number that only one
//! algorithm knows stands beside that algorithm.

mod admin;
mod admission;
mod audit;
mod certs;
mod http2;
mod load;
mod names;
mod profiles;
mod reload;
mod state;
mod succession;
mod sweeps;

use std::time::Duration;

pub use admin::*;
pub use admission::*;
pub use audit::*;
pub use certs::*;
pub use http2::*;
pub use load::*;
pub use names::*;
pub use profiles::*;
pub use reload::*;
pub use state::*;
pub use succession::*;
pub use sweeps::*;

// ---- proxy_protocol ----

/// Most bytes of a PROXY protocol header of version 1, its line end included: what the
/// specification has a receiver take (section 2.1). Version 2 says its own length, at most 65 551
/// bytes.
pub const PROXY_V1_MAX: usize = 107;

// ---- observe ----

/// The shortest latency that a histogram tells apart from zero.
pub const HISTOGRAM_MIN: Duration = Duration::from_micros(1);

/// The longest latency that a histogram keeps; longer ones count as this. Only a tunnel's lifetime
/// gets near it.
pub const HISTOGRAM_MAX: Duration = Duration::from_secs(3600);

/// Significant decimal digits of a histogram: 1 % is finer than a latency's own noise, and keeps
/// one at 25 KiB.
pub const HISTOGRAM_DIGITS: u8 = 2;

/// Buckets for each doubling of a latency, where a histogram is to be drawn: some 120 in all, which
/// is as many as a picture has room for, and 5 KB of JSON for all stages.
pub const BUCKETS_PER_DOUBLING: u32 = 4;

// ---- control ----

/// Connections that the admin listener serves at once: a scraper, a probe, an operator and room for
/// their retries.
pub const ADMIN_CONNECTIONS: usize = 64;

/// How long an admin connection may take to send a request's header, idle time between requests
/// included.
pub const ADMIN_HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an admin connection may last before it is closed after its current response; a client
/// that still reads that response is cut off after as long again. Longer than a scrape interval
/// gains nothing.
pub const ADMIN_CONNECTION_LIFE: Duration = Duration::from_secs(60);

/// The largest request header on the admin listener, in bytes: no real one comes near, and hyper
/// takes no less.
pub const ADMIN_REQUEST_BYTES: usize = 8192;

/// The largest body of a request about one device, in bytes: two names at their bound and the words
/// around them.
pub const ADMIN_BODY_MAX: usize = 4096;

/// The largest body of a request that imports a certificate, in bytes: two files at their bound in
/// base64, the password, and the words around them.
pub const ADMIN_CERTIFICATE_MAX: usize =
    2 * (MAX_CERTIFICATE_FILE as usize).div_ceil(3) * 4 + 16_384;

/// The largest body of a request about many devices, in bytes: 10 million of 50 bytes. It is read
/// piece by piece.
pub const ADMIN_IMPORT_MAX: usize = 512 << 20;

/// How long a change of the device registry may take to be on the disk: 5 million devices take half
/// of it.
pub const CHANGE_ANSWER: Duration = Duration::from_secs(100);

/// Devices that `/devices` lists without `?limit=`.
pub const DEVICES_LISTED: usize = 1_000;

/// The most devices that `/devices` lists at a time: 1 MB of JSON or so. `?after=` gives the next
/// ones.
pub const DEVICES_LISTED_MAX: usize = 10_000;

/// Shortest token that allows changes, in characters: 128 bits in hexadecimal are 32, in base64 22.
pub const ADMIN_TOKEN_MIN: usize = 20;

/// Longest token that allows changes, in characters: it has to fit into a request's header.
pub const ADMIN_TOKEN_MAX: usize = 1024;

/// How long the admin listener stops accepting when it runs out of file descriptors.
pub const ADMIN_ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long admin connections may finish their responses at shutdown.
pub const ADMIN_STOP: Duration = Duration::from_secs(1);

/// How long a core may take to answer a question of the control core. A turn of its loop takes far
/// less than a millisecond, so a core that misses this is stuck.
pub const CORE_ANSWER: Duration = Duration::from_secs(1);

/// Tunnels that `/tunnels` lists without `?limit=`.
pub const TUNNELS_LISTED: usize = 1_000;

/// The most tunnels that `/tunnels` lists: about 30 MiB of JSON.
pub const TUNNELS_LISTED_MAX: usize = 100_000;

const _: () = assert!(TUNNELS_LISTED <= TUNNELS_LISTED_MAX);
const _: () = assert!(DEVICES_LISTED <= DEVICES_LISTED_MAX);
const _: () = assert!(2 * ADMIN_TOKEN_MAX < ADMIN_REQUEST_BYTES);

/// Servers that have time series in the metrics: a dashboard that shows more shows none.
pub const SERVERS_SHOWN: usize = 1024;

/// Servers that `adit check --probe` meets at once: enough for thousands in minutes, few enough for
/// any network.
pub const PROBES_AT_ONCE: usize = 32;

/// For how long `adit check --probe` waits behind a handshake for the server's refusal of the
/// client's certificate: a way there and back, and the server's look at it.
pub const PROBE_AFTERMATH: Duration = Duration::from_millis(500);

/// Checks of servers that run at once. One that waits for its turn is late by the timeout of
/// another at most.
pub const CHECKS_AT_ONCE: usize = 64;

/// How often the servers to be checked are looked at: a reload counts from then on.
pub const CHECK_POLL: Duration = Duration::from_millis(250);

/// How often CRL files are looked at for a change, and what is due is looked for: a revocation in a
/// file bites within this and the time that the list takes to read.
pub const CRL_POLL: Duration = Duration::from_secs(1);

/// CRLs that are fetched at once: each may hold a list of [`MAX_CRL_FILE`] bytes in memory.
pub const CRL_FETCHES: usize = 2;

/// URLs of CRLs, those found in certificates included. A large CA has 128 partitions.
pub const CRL_SOURCES_MAX: usize = 512;

/// Shortest and longest time between two requests for a CRL that could be fetched. A conditional
/// request is cheap, and an authority may publish before it said it would.
pub const CRL_UPDATE_MIN: Duration = Duration::from_secs(60);
/// See [`CRL_UPDATE_MIN`].
pub const CRL_UPDATE_MAX: Duration = Duration::from_secs(3600);

/// How long after a first failure a CRL is asked for again; doubled with each further one.
pub const CRL_RETRY: Duration = Duration::from_secs(10);

/// The longest such wait.
pub const CRL_RETRY_MAX: Duration = Duration::from_secs(600);

/// How long a CRL's server may take to be resolved, to be connected to, and to agree on TLS, each.
pub const CRL_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a CRL's server may pause, before its header or between two pieces of the list.
pub const CRL_PIECE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long fetching a CRL may take in all: 500 MB at 14 Mbit/s. Who drips bytes keeps no more than
/// one of [`CRL_FETCHES`] busy for so long, and waits twice as long for each next attempt.
pub const CRL_FETCH_TIMEOUT: Duration = Duration::from_secs(300);

/// Redirections that are followed for one CRL.
pub const CRL_REDIRECTS_MAX: usize = 5;

const _: () = assert!(CRL_RETRY.as_secs() < CRL_RETRY_MAX.as_secs());
const _: () = assert!(CRL_UPDATE_MIN.as_secs() < CRL_UPDATE_MAX.as_secs());

// ---- tls ----

/// Distribution points of client certificates that wait to be looked at.
pub const CRL_POINTS_QUEUE: usize = 64;

/// Bytes of a TLS record's header (RFC 8446, section 5.1).
pub const TLS_RECORD_HEADER: usize = 5;

/// Most bytes of content in one record (RFC 8446, section 5.1; RFC 5246, section 6.2.1).
pub const TLS_PLAINTEXT_MAX: usize = 1 << 14;

/// Most bytes that a TLS 1.3 record seals: content, its type and padding (RFC 8446, section 5.4).
pub const TLS13_PADDED_MAX: usize = TLS_PLAINTEXT_MAX + 1;

/// Records that one AES-GCM key protects: RFC 8446, section 5.5 puts the limit at 2^24.5 full
/// records.
pub const AES_GCM_RECORDS_MAX: u64 = 1 << 24;

/// Shortest record, in bytes, whose length is taken for that of the next ones too: a bulk sender
/// fills its records, and a receive that ends where a record ends leaves nothing to be moved.
pub const TLS_PREDICTED_RECORD: usize = 8 * 1024;

/// Longest session ticket from a server, in bytes. The largest that a real one sends has a client's
/// certificate chain inside.
pub const TLS_TICKET_MAX: usize = 64 * 1024;

/// Longest ClientHello that asks for a renegotiation, in bytes: those of real clients have less
/// than two thousand. It is refused, but only when all of it is there.
pub const TLS_LATE_HELLO_MAX: usize = TLS_PLAINTEXT_MAX;

/// Records without content in a row. Some senders put one before each message against attacks on
/// CBC; more is a flood.
pub const TLS_EMPTY_RECORDS_MAX: u8 = 32;

/// KeyUpdates without data between them: each costs two key derivations.
pub const TLS_KEY_UPDATES_MAX: u8 = 32;

/// Warning alerts without data between them.
pub const TLS_WARNINGS_MAX: u8 = 4;

/// Requests to renegotiate without data between them: each is answered with a refusal.
pub const TLS_RENEGOTIATIONS_MAX: u8 = 2;

/// Signatures on certificates that a core remembers to have checked: at 40 bytes each below 1 MiB a
/// core. Beyond it the memory starts anew, which costs one check for each certificate that comes
/// again.
pub const SIGNATURES_REMEMBERED: usize = 16 * 1024;

/// Smallest `profile.tls.session_cache`, in bytes: 64 pages, so that two cores seldom meet in one.
pub const SESSION_CACHE_MIN: usize = 1 << 20;

/// Largest `profile.tls.session_cache`, in bytes: room for more than fifty million sessions.
pub const SESSION_CACHE_MAX: usize = 64 << 30;

/// Longest `profile.tls.session_lifetime` (RFC 8446, section 4.6.1: seven days).
pub const SESSION_LIFETIME_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How often the file of ticket keys is looked at, and keys in memory for their age. A new key does
/// not seal before `adit ticket-keys rotate --in` has passed, which is longer.
pub const TICKET_KEYS_POLL: Duration = Duration::from_secs(5);

/// Largest session ticket, in bytes. It holds the client's chain and comes back in the client's
/// first message, which has to stay below 64 KiB with everything else. A chain of five RSA
/// certificates takes half.
pub const TICKET_BYTES_MAX: usize = 16 * 1024;

/// Largest file of ticket keys, in bytes: ten times what [`TICKET_KEYS_MAX`] keys need.
pub const TICKET_KEYS_FILE_MAX: u64 = 64 * 1024;

/// Most ticket keys. Two or three are in use where keys change at half a lifetime.
pub const TICKET_KEYS_MAX: usize = 64;

/// How far in the future, in seconds, a ticket may have been sealed: the clocks of two nodes
/// differ.
pub const TICKET_CLOCK_SKEW: u64 = 300;

const _: () = assert!(TLS_RECORD_HEADER + TLS_PLAINTEXT_MAX + 256 <= crate::ring::SMALL_PAYLOAD);

// ---- config: bounds on what a config file may ask for ----

/// Largest config file that is read, in bytes. A rule takes about 100 bytes, so this is room for
/// more than 100 000 rules; beyond it the path is far more likely to name the wrong file (an image,
/// a log) than a config.
pub const CONFIG_FILE_MAX: u64 = 16 << 20;

/// Most syntax errors that are reported for one config file. One missing quote can make every later
/// line an error, and nobody reads past the first screen of those.
pub const CONFIG_SYNTAX_ERRORS_MAX: usize = 20;

/// Longest duration that a config may name. Far beyond any sensible timeout, and short enough that
/// adding it to an `Instant` or counting it in milliseconds cannot overflow.
pub const CONFIG_DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Largest `engine.max_tunnels`. A tunnel takes two file descriptors, and the kernel's largest
/// settable limit of open files for a process (`fs.nr_open`) is below 2^31.
pub const CONFIG_TUNNELS_MAX: usize = 1 << 30;

/// Most new tunnels a second that a limit may name: more than a machine does, so that a larger
/// number is a mistake.
pub const TUNNEL_RATE_MAX: usize = 1_000_000;

/// Lowest byte rate that a limit may name, a second: one full TLS record. Below it a single receive
/// would hold a tunnel up for many seconds.
pub const BYTE_RATE_MIN: u64 = 16 * 1024;

/// Highest byte rate that a limit may name, a second: eight times the fastest port of a NIC.
pub const BYTE_RATE_MAX: u64 = 1 << 40;

/// Largest burst of bytes. The time that it stands for, in nanoseconds, fits 64 bits at any rate.
pub const BYTE_BURST_MAX: u64 = 1 << 40;

/// The usual burst of bytes: what flows in this part of a second. Long enough that a short answer
/// is not slowed down, short enough that a second looks like its rate.
pub const BYTE_BURST_PART: u64 = 10;

/// The least that is usual for it: an answer of some records.
pub const BYTE_BURST_MIN: u64 = 4 * 16_704;

const _: () = assert!(
    BYTE_BURST_MAX as u128 * 1_000_000_000 / (BYTE_RATE_MIN as u128) < u64::MAX as u128 / 4
);

/// Longest service name, in bytes: it is repeated in metric labels and in each audit line.
pub const SERVICE_NAME_MAX: usize = 128;

/// Longest path of a Unix socket, in bytes: `sun_path` of `unix(7)` holds 108 with the terminating
/// zero.
pub const UNIX_SOCKET_PATH_MAX: usize = 107;

/// Longest host name, in bytes without a trailing dot (RFC 1035 section 2.3.4: 255 octets on the
/// wire, of which two are the first length and the root).
pub const HOST_NAME_MAX: usize = 253;

/// Longest name of a protocol in ALPN, in bytes (RFC 7301, section 3.1).
pub const ALPN_NAME_MAX: usize = 255;

/// Longest path of the health page, in bytes: no check's is longer.
pub const HEALTH_PATH_MAX: usize = 255;

/// Longest label of a host name, in bytes (RFC 1035 section 2.3.4).
pub const HOST_LABEL_MAX: usize = 63;

/// Most servers of one service. Each dial looks at all of them, in some nanoseconds each, and each
/// has a row in the metrics.
pub const SERVICE_SERVERS_MAX: usize = 256;

/// Largest weight of a server, as HAProxy has it: two servers differ by no more in what they can
/// bear.
pub const SERVER_WEIGHT_MAX: u32 = 256;

/// Most failures, or checks in a row, that a config may ask for: each failure is remembered with
/// its time.
pub const HEALTH_COUNT_MAX: usize = 100;

/// Longest time that the kernel takes for a keepalive (`MAX_TCP_KEEPIDLE` and `MAX_TCP_KEEPINTVL`
/// in tcp(7)'s kernel).
pub const KEEPALIVE_MAX: Duration = Duration::from_secs(32_767);

/// Longest time that the kernel takes for unacknowledged data (`TCP_USER_TIMEOUT`): milliseconds in
/// an `int`, some 24 days.
pub const USER_TIMEOUT_MAX: Duration = Duration::from_millis(i32::MAX as u64);

/// Most keepalive probes (`MAX_TCP_KEEPCNT`).
pub const KEEPALIVE_COUNT_MAX: usize = 127;

/// Longest user and longest password for an upstream proxy, in bytes.
pub const PROXY_USER_MAX: usize = 256;

// ---- tunnel and backend ----

/// Largest header of a tunnel request, in bytes. Real ones are below 1 KiB; proxies take 8 to 16
/// KiB.
pub const REQUEST_HEADER_MAX: usize = 16 * 1024;

/// Empty lines before a tunnel request that are read over (RFC 9112, section 2.2: one at least).
/// Clients that end a body with one too many send one.
pub const REQUEST_EMPTY_LINES: usize = 4;

/// Most header fields of a tunnel request. Real ones have three or four.
pub const REQUEST_HEADERS_MAX: usize = 64;

/// How long a refused client may take to read why, before the connection is closed.
pub const LINGER: Duration = Duration::from_secs(1);

/// Longest UDP payload that is passed on, in bytes: what a small buffer holds, less one, so that a
/// datagram that fills the buffer is known to be cut. Datagrams of QUIC, DNS and WebRTC are below
/// 1500.
pub const UDP_DATAGRAM_MAX: usize = crate::ring::SMALL_PAYLOAD - 1;

/// Bytes of datagrams from a server that wait for their app in the system (which counts about as
/// much again for itself): 100 of 1200 bytes, or some 10 ms at 100 Mbit/s. Beyond it the newest are
/// dropped, as on a line.
pub const UDP_QUEUE: usize = 128 * 1024;

/// How long a client may take what it was told of the gateway's rules for true. A change is refused
/// or allowed request by request before that.
pub const PVD_LIFETIME: Duration = Duration::from_secs(3600);

/// Most rules that a client is told of: about 100 KB.
pub const PVD_RULES_MAX: usize = 1000;

/// How long nothing moves through a tunnel until its keys keep only their bytes: the schedules and
/// tables of both directions are 1.2 KiB, and take 140 ns each to make again. So a tunnel that
/// speaks twice a second pays a millionth of a core.
pub const SESSION_REST: Duration = Duration::from_millis(500);

/// How long the client of a tunnel that is closed by policy may take to read why: the tunnel is to
/// be gone within a second of the change.
pub const CUT_LINGER: Duration = Duration::from_millis(250);

/// Certificates of issuers that a core keeps once for all tunnels whose clients have sent them.
pub const ISSUERS_KEPT: usize = 64;

/// Texts that a core keeps once for all sessions that have them: names of issuers, and of hosts
/// (SNI) that clients ask for. A gateway has a few of each; hostile clients can make up any number.
pub const SHARED_WORDS: usize = 256;

/// Servers that one dial tries at most. Each may take the whole connect timeout, and no app waits
/// for more of them.
pub const DIAL_SERVERS_MAX: usize = 8;

/// Least share of its weight, in thousandths, that a server has which has just come back: it must
/// get tunnels to show what it can bear.
pub const SLOW_START_LEAST: u64 = 50;

/// How long the next attempt to connect to an address of a name waits for the one before (RFC 8305,
/// section 5).
pub const CONNECT_ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// How long the one tunnel that tries a dead server keeps others from trying it too, if nothing is
/// heard of it.
pub const TRIAL_TIME: Duration = Duration::from_secs(5);

/// How long a tunnel waits before it looks again for a free buffer.
pub const BUFFER_WAIT: Duration = Duration::from_millis(1);

/// Longest header of an upstream proxy's answer to CONNECT, in bytes.
pub const PROXY_ANSWER_MAX: usize = 8 * 1024;

/// Bytes of it that are looked at in one go: most answers are shorter.
pub const PROXY_ANSWER_PEEK: usize = 512;

/// Most header fields of such an answer.
pub const PROXY_ANSWER_HEADERS: usize = 64;

/// Most interim answers (RFC 9110, section 15.2) before an upstream proxy's answer to CONNECT. Real
/// ones send none, or one.
pub const PROXY_INTERIM_MAX: usize = 8;

/// Sessions with servers that a core keeps for resumption, for each service that has TLS to its
/// servers.
pub const OUTBOUND_SESSIONS: usize = 256;

// ---- engine ----

/// Connections that the kernel keeps for a core until it accepts them; the kernel caps it at
/// net.core.somaxconn.
pub const ACCEPT_BACKLOG: i32 = 4096;

/// How long a core that is at its session limit rests before it looks again.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Sessions beyond `max_tunnels` that a core still accepts, to tell them that the limit is reached.
pub const SESSIONS_BEYOND_TUNNELS: usize = 1024;

/// Difference of open sessions, in favour of another core, beyond which an accepted connection is
/// handed over. Handing over costs a lock and a wake-up (about 2 µs); a handshake costs a hundred
/// times that, so a few sessions suffice.
pub const HANDOVER_MIN: usize = 4;

/// The same as a share: one in so many of the other core's sessions. Where thousands are open, most
/// of them idle, a few more or less say nothing about the CPU time.
pub const HANDOVER_SHARE: usize = 16;

/// Connections on their way to one core at most; beyond it the core that accepted serves them. A
/// core that has not looked for so long is not the one to give more to.
pub const HANDOVER_QUEUE: usize = 256;

/// Handshake steps (each one flight of the client's: up to 300 µs of CPU) that a core takes in one
/// turn of its loop, after the open tunnels' work. Fewer leave a turn, with its system call, to
/// each step: 7 % of a resumed handshake's CPU.
pub const HANDSHAKES_PER_TURN: usize = 4;

/// How often a draining core looks whether its last session has ended.
pub const DRAIN_POLL: Duration = Duration::from_millis(10);

/// How often a core gives memory of buffers that it did not need since the last time back to the
/// system. Long enough that a tunnel that pauses between two bursts finds its buffers warm.
pub const BUFFER_TRIM_INTERVAL: Duration = Duration::from_secs(1);

/// Buffers of each size that a core gives back at a time: below 100 µs of system calls, and a full
/// pool is back within a minute.
pub const BUFFERS_TRIMMED: usize = 256;

/// Largest file of the device registry that is read, in bytes: 20 million devices of 50 bytes.
/// Beyond it the path is far more likely to name the wrong file.
pub const REGISTRY_FILE_MAX: u64 = 1 << 30;

/// Bytes of the device registry's file that are read at a time.
pub const REGISTRY_READ: usize = 256 * 1024;

/// Bytes that the store of the device registry keeps in memory: the upper pages of a tree of
/// millions.
pub const REGISTRY_STORE_CACHE: usize = 64 << 20;

/// Changes of the device registry that wait for the writer. Each comes from a connection of the
/// admin listener, of which there are 64 at most.
pub const REGISTRY_QUEUE: usize = 128;

/// Changes of the device registry that go to the disk in one write.
pub const REGISTRY_BATCH: usize = 64;

const _: () = assert!(ADMIN_CONNECTIONS <= REGISTRY_QUEUE && REGISTRY_BATCH <= REGISTRY_QUEUE);

// ---- the process ----

/// How often the machine's own addresses are read again.
pub const OWN_ADDRESSES_REFRESH: Duration = Duration::from_secs(30);

/// How long sessions that were cut at the end of a drain may take to end.
pub const SESSIONS_END: Duration = Duration::from_secs(3);
