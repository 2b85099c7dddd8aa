//! Counters and histograms of one core.
//!
//! A core owns its [`CoreMetrics`] and writes plain integers: no atomics, no shared cache lines. A
//! reader asks the core for a clone and merges the clones. Recording never allocates and never
//! fails; a value out of range is kept at the range's end.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::limits::{HISTOGRAM_DIGITS, HISTOGRAM_MAX, HISTOGRAM_MIN};
use crate::reason::CloseReason;
use crate::ring;

/// A measured part of a session's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// From the accepted connection to the established TLS session.
    Handshake,
    /// From the complete tunnel request to the chosen service: authorization and routing.
    Authorize,
    /// From the start of the dial to the connection with the server, name resolution included.
    Connect,
    /// From the tunnel's opening to the first byte from the server.
    FirstByte,
    /// From the tunnel's opening to its end.
    Lifetime,
}

impl Stage {
    /// Every stage, in the order of a session's way: `ALL[stage.index()] == stage`.
    pub const ALL: [Self; 5] = [
        Self::Handshake,
        Self::Authorize,
        Self::Connect,
        Self::FirstByte,
        Self::Lifetime,
    ];

    /// The word in metrics, in JSON and in the query `?stage=`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Authorize => "authorize",
            Self::Connect => "connect",
            Self::FirstByte => "first-byte",
            Self::Lifetime => "lifetime",
        }
    }

    /// The stage with this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.word() == word)
    }

    /// The stage's place in [`ALL`](Self::ALL).
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// TLS version of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

impl TlsVersion {
    /// Its number, as text.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }
}

/// Kind of a handshake: it verified a certificate or resumed an earlier session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeKind {
    /// The certificate chain and its signature were verified.
    Full,
    /// An earlier session was resumed.
    Resumed,
}

/// Completed handshakes by version and kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandshakeCounters([[u64; 2]; 2]);

impl HandshakeCounters {
    /// Every combination, as the words of its metric labels and its count.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let versions = [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];
        let kinds = [
            ("full", HandshakeKind::Full),
            ("resumed", HandshakeKind::Resumed),
        ];
        versions
            .into_iter()
            .flat_map(move |(version_word, version)| {
                kinds.map(|(kind_word, kind)| (version_word, kind_word, self.get(version, kind)))
            })
    }

    /// The count of one combination.
    #[must_use]
    pub const fn get(&self, version: TlsVersion, kind: HandshakeKind) -> u64 {
        self.0[version as usize][kind as usize]
    }
}

/// Behaviour of a client in an HTTP/2 session that costs the gateway more than the client; the
/// session is ended for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abuse {
    /// Streams opened and reset at once, or reset too often.
    Resets,
    /// A header block in too many CONTINUATION frames.
    Continuations,
    /// SETTINGS frames.
    Settings,
    /// PING frames.
    Pings,
    /// DATA frames without payload, or with next to none.
    EmptyData,
    /// PRIORITY frames, and frames of unknown types.
    Ignored,
    /// A header block that is too long or stands for too many fields.
    HeaderBomb,
    /// Requests that are refused.
    Refusals,
    /// Bytes held back by flow control while nothing moves.
    ZeroWindow,
}

impl Abuse {
    /// Every kind: `ALL[kind.index()] == kind`.
    pub const ALL: [Self; 9] = [
        Self::Resets,
        Self::Continuations,
        Self::Settings,
        Self::Pings,
        Self::EmptyData,
        Self::Ignored,
        Self::HeaderBomb,
        Self::Refusals,
        Self::ZeroWindow,
    ];

    /// The word in metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Resets => "rapid-reset",
            Self::Continuations => "continuation-flood",
            Self::Settings => "settings-flood",
            Self::Pings => "ping-flood",
            Self::EmptyData => "empty-data-flood",
            Self::Ignored => "ignored-frames-flood",
            Self::HeaderBomb => "header-bomb",
            Self::Refusals => "refused-requests-flood",
            Self::ZeroWindow => "zero-window-stall",
        }
    }

    /// The kind's place in [`ALL`](Self::ALL).
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// The counters and histograms of one core, or of several merged.
#[derive(Clone, Debug)]
pub struct CoreMetrics {
    /// Connections accepted, before their first byte.
    pub sessions_accepted: u64,
    /// Accepted connections that were given to a core with fewer sessions; that core counts them as
    /// accepted.
    pub sessions_handed_over: u64,
    /// Sessions that have ended, whatever the reason.
    pub sessions_closed: u64,
    /// Tunnels that were answered with 200.
    pub tunnels_opened: u64,
    /// Opened tunnels that have ended.
    pub tunnels_closed: u64,
    /// Payload bytes from clients to servers.
    pub bytes_client_to_server: u64,
    /// Payload bytes from servers to clients.
    pub bytes_server_to_client: u64,
    /// Completed handshakes.
    pub handshakes: HandshakeCounters,
    /// Dials that were tried again with the next server.
    pub dial_retries: u64,
    /// HTTP/2 sessions begun.
    pub http2_sessions: u64,
    /// HTTP/2 sessions ended for what the client did, by [`Abuse`].
    pub http2_abuse: [u64; Abuse::ALL.len()],
    /// UDP tunnels opened.
    pub udp_tunnels: u64,
    /// Datagrams that were not passed on, but for those that found the queue full.
    pub udp_dropped: u64,
    /// Datagrams of servers that found the queue full.
    pub udp_queue_full: u64,
    /// Receives that were put off by a limit of bytes a second.
    pub rate_waits: u64,
    /// For how long, in nanoseconds.
    pub rate_wait_nanos: u64,
    /// Sweeps over the open tunnels.
    pub sweeps: u64,
    /// Open tunnels that were looked at because their certificates had expired.
    pub expiry_checks: u64,
    /// Times that accepting was paused, at a limit or for want of file descriptors.
    pub accept_backoff: u64,
    /// Connections whose clients are not authenticated yet; this and the next two are filled when a
    /// copy is taken.
    pub unauthenticated: u64,
    /// How many there may be.
    pub unauthenticated_max: u64,
    /// Source addresses that are known for such connections or for handshakes that have failed.
    pub sources: u64,
    /// The runtime's own numbers; filled when a copy is taken.
    pub runtime: ring::Counters,
    ends: [u64; CloseReason::COUNT],
    stages: [Histogram<u64>; Stage::ALL.len()],
}

impl Default for CoreMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl CoreMetrics {
    /// All zero. Allocates the histograms, about 25 KiB each; nothing later does.
    #[must_use]
    pub fn new() -> Self {
        Self {
            sessions_accepted: 0,
            sessions_handed_over: 0,
            sessions_closed: 0,
            tunnels_opened: 0,
            tunnels_closed: 0,
            bytes_client_to_server: 0,
            bytes_server_to_client: 0,
            handshakes: HandshakeCounters::default(),
            dial_retries: 0,
            http2_sessions: 0,
            http2_abuse: [0; Abuse::ALL.len()],
            udp_tunnels: 0,
            udp_dropped: 0,
            udp_queue_full: 0,
            rate_waits: 0,
            rate_wait_nanos: 0,
            sweeps: 0,
            expiry_checks: 0,
            accept_backoff: 0,
            unauthenticated: 0,
            unauthenticated_max: 0,
            sources: 0,
            runtime: ring::Counters::default(),
            ends: [0; CloseReason::COUNT],
            stages: std::array::from_fn(|_| latency_histogram()),
        }
    }

    /// Records how long a stage took, kept within [`HISTOGRAM_MIN`] and [`HISTOGRAM_MAX`].
    pub fn record(&mut self, stage: Stage, took: Duration) {
        record_latency(&mut self.stages[stage.index()], took);
    }

    /// Counts a completed handshake.
    pub fn count_handshake(&mut self, version: TlsVersion, kind: HandshakeKind) {
        self.handshakes.0[version as usize][kind as usize] += 1;
    }

    /// Counts an outcome: once for each tunnel, and once for each session that ended without having
    /// had one.
    pub fn count_end(&mut self, reason: CloseReason) {
        self.ends[reason.index()] += 1;
    }

    /// How many outcomes had this reason.
    #[must_use]
    pub fn ends(&self, reason: CloseReason) -> u64 {
        self.ends[reason.index()]
    }

    /// The distribution of a stage's durations, in microseconds.
    #[must_use]
    pub fn histogram(&self, stage: Stage) -> &Histogram<u64> {
        &self.stages[stage.index()]
    }

    /// Sessions that have not ended.
    #[must_use]
    pub const fn sessions_live(&self) -> u64 {
        self.sessions_accepted.saturating_sub(self.sessions_closed)
    }

    /// Tunnels that have not ended.
    #[must_use]
    pub const fn tunnels_live(&self) -> u64 {
        self.tunnels_opened.saturating_sub(self.tunnels_closed)
    }

    /// Adds what another core counted.
    pub fn merge(&mut self, other: &Self) {
        // Taken apart, so that a new field cannot be forgotten here.
        let Self {
            sessions_accepted,
            sessions_handed_over,
            sessions_closed,
            tunnels_opened,
            tunnels_closed,
            bytes_client_to_server,
            bytes_server_to_client,
            handshakes,
            dial_retries,
            http2_sessions,
            http2_abuse,
            udp_tunnels,
            udp_dropped,
            udp_queue_full,
            rate_waits,
            rate_wait_nanos,
            sweeps,
            expiry_checks,
            accept_backoff,
            unauthenticated,
            unauthenticated_max,
            sources,
            runtime,
            ends,
            stages,
        } = self;
        *sessions_accepted += other.sessions_accepted;
        *sessions_handed_over += other.sessions_handed_over;
        *sessions_closed += other.sessions_closed;
        *tunnels_opened += other.tunnels_opened;
        *tunnels_closed += other.tunnels_closed;
        *bytes_client_to_server += other.bytes_client_to_server;
        *bytes_server_to_client += other.bytes_server_to_client;
        *dial_retries += other.dial_retries;
        *http2_sessions += other.http2_sessions;
        *udp_tunnels += other.udp_tunnels;
        *udp_dropped += other.udp_dropped;
        *udp_queue_full += other.udp_queue_full;
        *rate_waits += other.rate_waits;
        *rate_wait_nanos += other.rate_wait_nanos;
        *sweeps += other.sweeps;
        *expiry_checks += other.expiry_checks;
        *unauthenticated += other.unauthenticated;
        *unauthenticated_max += other.unauthenticated_max;
        *sources += other.sources;
        *accept_backoff += other.accept_backoff;
        runtime.merge(&other.runtime);
        let counts = handshakes
            .0
            .as_flattened_mut()
            .iter_mut()
            .zip(other.handshakes.0.as_flattened());
        counts
            .chain(ends.iter_mut().zip(&other.ends))
            .chain(http2_abuse.iter_mut().zip(&other.http2_abuse))
            .for_each(|(sum, count)| *sum += count);
        for (sum, stage) in stages.iter_mut().zip(&other.stages) {
            sum.add(stage)
                .expect("every histogram is made with the same bounds");
        }
    }
}

/// An empty latency histogram, in microseconds. It never grows: the load generator and the report
/// use the same.
#[must_use]
pub fn latency_histogram() -> Histogram<u64> {
    let mut histogram = Histogram::new_with_bounds(
        micros(HISTOGRAM_MIN),
        micros(HISTOGRAM_MAX),
        HISTOGRAM_DIGITS,
    )
    .expect("the bounds are constants that a test tries");
    histogram.auto(false);
    histogram
}

/// Records a duration in a [`latency_histogram`], kept within its bounds. Never fails, never
/// allocates.
pub fn record_latency(histogram: &mut Histogram<u64>, took: Duration) {
    histogram.saturating_record(micros(took).clamp(micros(HISTOGRAM_MIN), micros(HISTOGRAM_MAX)));
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Of these latencies, in microseconds.
#[cfg(test)]
pub(super) fn latencies_of(micros: impl IntoIterator<Item = u64>) -> Histogram<u64> {
    let mut histogram = latency_histogram();
    for value in micros {
        record_latency(&mut histogram, Duration::from_micros(value));
    }
    histogram
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_within_two_digits_and_saturates() {
        let mut metrics = CoreMetrics::new();
        metrics.record(Stage::Connect, Duration::from_micros(12_345));
        let connect = metrics.histogram(Stage::Connect);
        assert!(connect.value_at_quantile(0.5).abs_diff(12_345) <= 124);

        let memory = metrics.histogram(Stage::Lifetime).distinct_values();
        metrics.record(Stage::Lifetime, Duration::ZERO);
        metrics.record(Stage::Lifetime, Duration::MAX);
        let lifetime = metrics.histogram(Stage::Lifetime);
        assert_eq!(lifetime.len(), 2);
        assert_eq!(lifetime.min(), 1);
        assert!(lifetime.max() >= 3_600_000_000 && lifetime.max() < 3_700_000_000);
        assert_eq!(lifetime.distinct_values(), memory);
        assert!(memory * 8 < 32 * 1024, "{memory} counters");
    }

    #[test]
    fn merge_adds_everything() {
        let mut one = CoreMetrics::new();
        one.sessions_accepted = 3;
        one.tunnels_opened = 2;
        one.tunnels_closed = 1;
        one.bytes_client_to_server = 10;
        one.runtime.turns = 7;
        one.http2_abuse[Abuse::Pings.index()] = 1;
        one.count_end(CloseReason::NoRule);
        one.count_handshake(TlsVersion::Tls13, HandshakeKind::Resumed);
        one.record(Stage::Handshake, Duration::from_millis(1));
        let mut sum = one.clone();
        one.record(Stage::Handshake, Duration::from_millis(4));
        one.runtime.timers_live = 5;
        sum.merge(&one);
        assert_eq!((sum.sessions_accepted, sum.sessions_live()), (6, 6));
        assert_eq!((sum.tunnels_opened, sum.tunnels_live()), (4, 2));
        assert_eq!(sum.bytes_client_to_server, 20);
        assert_eq!(sum.http2_abuse[Abuse::Pings.index()], 2);
        assert_eq!((sum.runtime.turns, sum.runtime.timers_live), (14, 5));
        assert_eq!(
            (sum.ends(CloseReason::NoRule), sum.ends(CloseReason::Closed)),
            (2, 0)
        );
        assert_eq!(
            sum.handshakes
                .get(TlsVersion::Tls13, HandshakeKind::Resumed),
            2
        );
        assert_eq!(
            sum.handshakes
                .iter()
                .map(|(_, _, count)| count)
                .sum::<u64>(),
            2
        );
        assert_eq!(sum.histogram(Stage::Handshake).len(), 3);
    }

    #[test]
    fn stage_words_lead_back_to_the_stage() {
        for (place, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(Stage::from_word(stage.word()), Some(stage));
            assert_eq!(stage.index(), place);
        }
        assert_eq!(Stage::from_word("Handshake"), None);
        for (place, kind) in Abuse::ALL.into_iter().enumerate() {
            assert_eq!(kind.index(), place);
        }
    }
}
