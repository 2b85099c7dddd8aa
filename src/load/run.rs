//! Runs a scenario.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;

use super::client::{Tunnel, for_slot};
use super::http2::Sessions;
use super::session::LoadFailure;
use super::{Direction, LoadError, Report, Scenario, Work};
use crate::limits::LOAD_REASONS_MAX;
use crate::observe::{latency_histogram, record_latency};
use crate::ring::{self, Elapsed, Runtime, RuntimeConfig, Signal};

/// Bytes of one piece of an upward stream.
const STREAM_PIECE: usize = 32 * 1024;

/// How long a slot rests after a handshake that failed.
const FAILED_PAUSE: Duration = Duration::from_millis(10);

/// Progress of a run, for the caller.
#[derive(Clone, Copy, Debug)]
pub enum Progress {
    /// The tunnels are open and the warm-up is over: the measured time begins.
    Measuring,
    /// About once a second: operations and bytes since the measured time began.
    Working {
        /// Operations.
        operations: u64,
        /// Payload bytes.
        bytes: u64,
    },
    /// The measured time is over.
    Measured,
}

/// State shared by the tasks of a run.
struct Shared {
    measuring: Cell<bool>,
    stop: Cell<bool>,
    open: Cell<usize>,
    ended: Cell<usize>,
    /// Tunnels that stood and have ended.
    lost: Cell<usize>,
    operations: Cell<u64>,
    resumed: Cell<u64>,
    bytes: Cell<u64>,
    latency: RefCell<Histogram<u64>>,
    errors: RefCell<BTreeMap<&'static str, u64>>,
    reasons: RefCell<BTreeMap<String, u64>>,
    /// Raised when every tunnel stands or has failed; schedules begin at `start`.
    go: Signal,
    start: Cell<Instant>,
}

impl Shared {
    fn new() -> Self {
        Self {
            measuring: Cell::new(false),
            stop: Cell::new(false),
            open: Cell::new(0),
            ended: Cell::new(0),
            lost: Cell::new(0),
            operations: Cell::new(0),
            resumed: Cell::new(0),
            bytes: Cell::new(0),
            latency: RefCell::new(latency_histogram()),
            errors: RefCell::default(),
            reasons: RefCell::default(),
            go: Signal::default(),
            start: Cell::new(Instant::now()),
        }
    }

    fn done(&self, since: Instant, bytes: usize) {
        if self.measuring.get() {
            self.operations.set(self.operations.get() + 1);
            self.bytes.set(self.bytes.get() + bytes as u64);
            record_latency(&mut self.latency.borrow_mut(), since.elapsed());
        }
    }

    fn failed(&self, failure: &LoadFailure) {
        *self.errors.borrow_mut().entry(failure.word()).or_default() += 1;
        if let Some(reason) = failure.reason() {
            let mut reasons = self.reasons.borrow_mut();
            let told = reasons.len() < LOAD_REASONS_MAX || reasons.contains_key(&reason);
            let reason = if told { reason } else { "others".to_owned() };
            *reasons.entry(reason).or_default() += 1;
        }
    }

    fn failures(&self) -> u64 {
        self.errors.borrow().values().sum()
    }

    /// The failures by kind, and their reasons, in one line.
    fn what_failed(&self) -> String {
        let errors = self.errors.borrow();
        let mut parts: Vec<String> = errors
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        parts.extend(self.reasons.borrow().keys().cloned());
        parts.join(", ")
    }

    /// Waits until all tunnels stand; a schedule that began earlier would count the set-up as
    /// latency.
    async fn all_stand(&self) {
        self.open.set(self.open.get() + 1);
        self.go.wait().await;
    }
}

/// Runs `scenario` on this thread.
///
/// # Errors
/// If there is no runtime, or no tunnel can be opened.
pub fn execute(
    scenario: &Scenario,
    progress: impl FnMut(Progress) + 'static,
) -> Result<Report, LoadError> {
    let runtime = Runtime::new(RuntimeConfig::default())?;
    let scenario = scenario.clone();
    runtime.block_on(async move { drive(scenario, progress).await })
}

async fn drive(
    scenario: Scenario,
    mut progress: impl FnMut(Progress),
) -> Result<Report, LoadError> {
    let shared = Rc::new(Shared::new());
    spawn_slots(&scenario, &shared);
    let all_ended = || shared.ended.get() == scenario.tunnels;
    while shared.open.get() + shared.ended.get() < scenario.tunnels {
        ring::sleep(Duration::from_millis(2)).await;
    }
    if shared.open.get() == 0 {
        return Err(LoadError::NothingOpens(shared.what_failed()));
    }
    shared.start.set(Instant::now());
    shared.go.raise();
    ring::sleep(scenario.warmup).await;
    progress(Progress::Measuring);
    let (cpu, start) = (cpu_time(), Instant::now());
    let errors_before = shared.failures();
    shared.measuring.set(true);
    while start.elapsed() < scenario.duration && !all_ended() {
        ring::sleep(Duration::from_secs(1).min(scenario.duration.saturating_sub(start.elapsed())))
            .await;
        progress(Progress::Working {
            operations: shared.operations.get(),
            bytes: shared.bytes.get(),
        });
    }
    shared.measuring.set(false);
    let (seconds, cpu) = (
        start.elapsed().as_secs_f64(),
        cpu_time().saturating_sub(cpu),
    );
    shared.stop.set(true);
    progress(Progress::Measured);
    let operations = if scenario.work == Work::Idle {
        (shared.open.get() - shared.lost.get()) as u64
    } else {
        shared.operations.get()
    };
    Ok(Report {
        operations,
        resumed: shared.resumed.get(),
        seconds,
        bytes: shared.bytes.get(),
        latency: shared.latency.borrow().clone(),
        errors: shared.errors.borrow().clone(),
        errors_before,
        reasons: shared.reasons.borrow().clone(),
        offered: scenario.rate,
        cpu_share: cpu.as_secs_f64() / seconds.max(1e-9),
    })
}

/// Starts a task for each tunnel.
fn spawn_slots(scenario: &Scenario, shared: &Rc<Shared>) {
    let message = match &scenario.exchange {
        Some((message, _)) => message.clone(),
        None => vec![0x61; scenario.size],
    };
    let message: Bytes = message.into();
    let sessions = Rc::new(Sessions::new(scenario));
    for slot in 0..scenario.tunnels {
        let (shared, scenario, message) = (shared.clone(), for_slot(scenario), message.clone());
        let mode = OpenMode {
            sessions: sessions.clone(),
            slot,
        };
        ring::spawn(async move {
            let result = match open(&scenario, &mode, &message).await {
                Ok(tunnel) => {
                    shared.all_stand().await;
                    let result = work(&scenario, &mode, tunnel, &message, &shared).await;
                    shared.lost.set(shared.lost.get() + 1);
                    result
                }
                Err(failure) => Err(failure),
            };
            if let Err(failure) = result
                && !shared.stop.get()
            {
                shared.failed(&failure);
            }
            shared.ended.set(shared.ended.get() + 1);
        });
    }
}

/// How the tunnels of one slot are opened.
struct OpenMode {
    sessions: Rc<Sessions>,
    slot: usize,
}

/// Opens a tunnel, with a first answer where the scenario has one, in the time allowed.
///
/// With TLS 1.3 a client is done before the server has looked at its certificate: only an answer
/// shows that the tunnel is open.
async fn open(
    scenario: &Scenario,
    mode: &OpenMode,
    message: &Bytes,
) -> Result<Tunnel, LoadFailure> {
    let opened = async {
        let mut tunnel = Tunnel::open(scenario, &mode.sessions, mode.slot).await?;
        match scenario.work {
            Work::Echo => tunnel.exchange(message, answer_length(scenario)).await?,
            Work::Idle | Work::Handshake => tunnel.exchange(&Bytes::from_static(b"a"), 1).await?,
            Work::Stream => {}
        }
        Ok(tunnel)
    };
    match ring::timeout(scenario.open_timeout, opened).await {
        Ok(result) => result,
        Err(Elapsed) => Err(LoadFailure::Timeout),
    }
}

/// Bytes that come back for a message.
fn answer_length(scenario: &Scenario) -> usize {
    scenario
        .exchange
        .as_ref()
        .map_or(scenario.size, |(_, answer)| *answer)
}

/// One slot: what one tunnel does after the other, or for its life.
async fn work(
    scenario: &Scenario,
    mode: &OpenMode,
    mut tunnel: Tunnel,
    message: &Bytes,
    shared: &Shared,
) -> Result<(), LoadFailure> {
    let mut schedule = Schedule::new(
        scenario.rate,
        scenario.tunnels,
        mode.slot,
        shared.start.get(),
    );
    match (scenario.work, scenario.direction) {
        (Work::Handshake, _) => {
            tunnel.end().await;
            handshakes(scenario, mode, message, shared, &mut schedule).await
        }
        (Work::Echo, _) => {
            let answer = answer_length(scenario);
            loop {
                let since = schedule.next().await;
                tunnel.exchange(message, answer).await?;
                shared.done(since, message.len() + answer);
            }
        }
        (Work::Stream, Direction::Up) => {
            let piece: Bytes = vec![0x61; STREAM_PIECE].into();
            loop {
                let since = Instant::now();
                tunnel.send(&piece).await?;
                shared.done(since, piece.len());
            }
        }
        (Work::Stream, Direction::Down) => loop {
            let since = Instant::now();
            match tunnel.recv(|_| ()).await? {
                0 => return Err(LoadFailure::Cut),
                count => shared.done(since, count),
            }
        },
        (Work::Idle, _) => match tunnel.recv(|_| ()).await? {
            0 => Err(LoadFailure::Cut),
            _ => std::future::pending().await,
        },
    }
}

async fn handshakes(
    scenario: &Scenario,
    mode: &OpenMode,
    message: &Bytes,
    shared: &Shared,
    schedule: &mut Schedule,
) -> Result<(), LoadFailure> {
    loop {
        let since = schedule.next().await;
        match open(scenario, mode, message).await {
            Ok(tunnel) => {
                shared.done(since, 0);
                if tunnel.resumed && shared.measuring.get() {
                    shared.resumed.set(shared.resumed.get() + 1);
                }
                tunnel.end().await;
            }
            Err(failure) => {
                // What the end of the run cuts off has not failed.
                if !shared.stop.get() {
                    shared.failed(&failure);
                }
                // A peer that is down must not be asked in a tight loop.
                ring::sleep(FAILED_PAUSE).await;
            }
        }
    }
}

/// When the operations of one slot are due.
struct Schedule {
    interval: Option<Duration>,
    next: Instant,
}

impl Schedule {
    /// The schedule of one of `tunnels` slots that share `rate` operations a second; their turns
    /// are spread evenly.
    fn new(rate: Option<f64>, tunnels: usize, slot: usize, start: Instant) -> Self {
        let interval = rate.map(|rate| Duration::from_secs_f64(tunnels as f64 / rate));
        let offset = interval
            .unwrap_or_default()
            .mul_f64(slot as f64 / tunnels as f64);
        Self {
            interval,
            next: start + offset,
        }
    }

    /// Waits for the next operation's time and returns it: the intended one, not the one at which
    /// it really starts.
    async fn next(&mut self) -> Instant {
        let Some(interval) = self.interval else {
            return Instant::now();
        };
        let due = self.next;
        self.next += interval;
        let wait = due.saturating_duration_since(ring::now());
        if !wait.is_zero() {
            ring::sleep(wait).await;
        }
        due
    }
}

/// CPU time of this thread so far (`/proc/thread-self/schedstat`, first field, nanoseconds).
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text
        .split_whitespace()
        .next()
        .and_then(|field| field.parse().ok())
        .unwrap_or(0);
    Duration::from_nanos(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_operation_counts_from_its_intended_time() {
        let runtime = Runtime::new(RuntimeConfig::default()).unwrap();
        runtime.block_on(async {
            // The set-up, or a stall, took a second: all that was due since then is due at once, each from its own time.
            let start = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
            let mut late = Schedule::new(Some(40.0), 4, 2, start);
            for n in 0..9 {
                let intended = start + Duration::from_millis(50 + 100 * n);
                assert_eq!(late.next().await, intended);
            }
            let early = Instant::now();
            let due = Schedule::new(Some(1000.0), 1, 0, early + Duration::from_millis(5))
                .next()
                .await;
            assert!(due > early && Instant::now() >= due, "waited for");
        });
    }
}
