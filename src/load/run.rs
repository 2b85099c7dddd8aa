//! Runs a scenario.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::client::{Failure, Tunnel, for_slot};
use super::{Direction, LoadError, Report, Scenario, Work};
use crate::observe::{latency_histogram, record_latency};
use crate::ring::{self, Runtime, RuntimeConfig};

/// Bytes of one piece of an upward stream.
const STREAM_PIECE: usize = 32 * 1024;

/// What the caller is told while a run goes on.
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

/// What the tasks of a run share.
struct Shared {
    measuring: Cell<bool>,
    stop: Cell<bool>,
    open: Cell<usize>,
    ended: Cell<usize>,
    operations: Cell<u64>,
    resumed: Cell<u64>,
    bytes: Cell<u64>,
    latency: RefCell<Histogram<u64>>,
    errors: RefCell<BTreeMap<&'static str, u64>>,
}

impl Shared {
    fn new() -> Self {
        Self {
            measuring: Cell::new(false),
            stop: Cell::new(false),
            open: Cell::new(0),
            ended: Cell::new(0),
            operations: Cell::new(0),
            resumed: Cell::new(0),
            bytes: Cell::new(0),
            latency: RefCell::new(latency_histogram()),
            errors: RefCell::default(),
        }
    }

    fn done(&self, since: Instant, bytes: usize) {
        if self.measuring.get() {
            self.operations.set(self.operations.get() + 1);
            self.bytes.set(self.bytes.get() + bytes as u64);
            record_latency(&mut self.latency.borrow_mut(), since.elapsed());
        }
    }

    fn failed(&self, failure: Failure) {
        *self.errors.borrow_mut().entry(failure.word()).or_default() += 1;
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
    for slot in 0..scenario.tunnels {
        let (shared, scenario) = (shared.clone(), for_slot(&scenario));
        ring::spawn(async move {
            if let Err(failure) = work(&scenario, slot, &shared).await
                && !shared.stop.get()
            {
                shared.failed(failure);
            }
            shared.ended.set(shared.ended.get() + 1);
        });
    }
    let all_ended = || shared.ended.get() == scenario.tunnels;
    while shared.open.get() + shared.ended.get() < scenario.tunnels {
        ring::sleep(Duration::from_millis(2)).await;
    }
    if shared.open.get() == 0 {
        return Err(LoadError::NothingOpens(
            shared
                .errors
                .borrow()
                .keys()
                .copied()
                .collect::<Vec<_>>()
                .join(", "),
        ));
    }
    ring::sleep(scenario.warmup).await;
    progress(Progress::Measuring);
    let (cpu, start) = (cpu_time(), Instant::now());
    shared.errors.borrow_mut().clear();
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
        shared.open.get() as u64
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
        cpu_share: cpu.as_secs_f64() / seconds.max(1e-9),
    })
}

/// One slot: what one tunnel does after the other, or for its life.
async fn work(scenario: &Scenario, slot: usize, shared: &Shared) -> Result<(), Failure> {
    let (message, answer) = match &scenario.exchange {
        Some((message, answer)) => (message.clone(), *answer),
        None => (vec![0x61; scenario.size.max(1)], scenario.size.max(1)),
    };
    let payload: Rc<[u8]> = message.into();
    let mut schedule = Schedule::new(scenario, slot);
    if scenario.work == Work::Handshake {
        return handshakes(scenario, shared, &mut schedule).await;
    }
    let mut tunnel = Tunnel::open(scenario).await?;
    // With TLS 1.3 a client is done before the server has looked at its certificate: only an answer shows that the tunnel
    // is open.
    match scenario.work {
        Work::Echo => tunnel.exchange(&payload, answer).await?,
        Work::Idle => tunnel.exchange(&[0x61].into(), 1).await?,
        Work::Stream | Work::Handshake => {}
    }
    shared.open.set(shared.open.get() + 1);
    match (scenario.work, scenario.direction) {
        (Work::Echo, _) => loop {
            let since = schedule.next().await;
            tunnel.exchange(&payload, answer).await?;
            shared.done(since, payload.len() + answer);
        },
        (Work::Stream, Direction::Up) => {
            let piece: Rc<[u8]> = vec![0x61; STREAM_PIECE].into();
            loop {
                let since = Instant::now();
                tunnel.send(&piece).await?;
                shared.done(since, piece.len());
            }
        }
        (Work::Stream, Direction::Down) => loop {
            let since = Instant::now();
            match tunnel.recv(|_| ()).await? {
                0 => return Err(Failure::Cut),
                count => shared.done(since, count),
            }
        },
        (Work::Idle | Work::Handshake, _) => match tunnel.recv(|_| ()).await? {
            0 => Err(Failure::Cut),
            _ => std::future::pending().await,
        },
    }
}

async fn handshakes(
    scenario: &Scenario,
    shared: &Shared,
    schedule: &mut Schedule,
) -> Result<(), Failure> {
    let byte: Rc<[u8]> = [0x61].into();
    let mut first = true;
    loop {
        let since = schedule.next().await;
        let opened = async {
            let mut tunnel = Tunnel::open(scenario).await?;
            tunnel.exchange(&byte, 1).await?;
            Ok(tunnel)
        };
        match opened.await {
            Ok(tunnel) => {
                shared.done(since, 0);
                if tunnel.resumed && shared.measuring.get() {
                    shared.resumed.set(shared.resumed.get() + 1);
                }
                tunnel.drop_hard();
            }
            Err(failure) if first => return Err(failure),
            Err(failure) => {
                shared.failed(failure);
                // A peer that is down must not be asked in a tight loop.
                ring::sleep(Duration::from_millis(10)).await;
            }
        }
        if std::mem::take(&mut first) {
            shared.open.set(shared.open.get() + 1);
        }
    }
}

/// When the operations of one slot are due.
struct Schedule {
    interval: Option<Duration>,
    next: Instant,
}

impl Schedule {
    fn new(scenario: &Scenario, slot: usize) -> Self {
        let interval = scenario
            .rate
            .map(|rate| Duration::from_secs_f64(scenario.tunnels as f64 / rate));
        let offset = interval
            .unwrap_or_default()
            .mul_f64(slot as f64 / scenario.tunnels as f64);
        Self {
            interval,
            next: Instant::now() + offset,
        }
    }

    /// Waits for the next operation's time and returns it: the intended one, not the one at which it really starts.
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
