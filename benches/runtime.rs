//! What one message costs: echo servers on the runtime of the data cores, on tokio-uring and on hand-written epoll.
//! Beside them two without a runtime, straight on io_uring, which differ in the receive alone: single-shot or multishot.
//!
//! The server's thread has CPU 0, the client's has CPU 1. The client keeps a number of connections busy, each with one
//! message on its way, and reads the CPU clock of the server's thread before and after a fixed time. That figure, over
//! the messages of that time, is what the table shows: the kernel's share of the server's work is in it, the client's
//! is not. On the loopback interface the receiving half of TCP runs in the context of the sender, on both sides alike.
//!
//! The servers take turns forwards and backwards (ABBA), so that a slow drift of the machine meets all of them, and each
//! round begins with another one: who comes first and last was seen to pay some percent for it.
//! Nothing here fails when one is slower: a shared machine is no place for a verdict, so the ratio is only printed.
//!
//! ```text
//! cargo bench --bench runtime                                  the table of all servers and loads
//! cargo bench --bench runtime -- --quick                       the same in seconds, as a check that it works
//! cargo bench --bench runtime -- --posted 64,128,256 --servers ring
//! cargo bench --bench runtime -- --servers single-shot,multishot
//! cargo bench --bench runtime -- --servers ring --loads 1000x64 --seconds 10 --rounds 1        for a profiler
//! ```

#[path = "runtime/client.rs"]
mod client;
#[path = "runtime/epoll.rs"]
mod epoll;
#[path = "runtime/raw.rs"]
mod raw;
#[path = "runtime/servers.rs"]
mod servers;

use std::fmt;
use std::io;
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::time::Duration;

use adit::ring;

use client::Client;
use raw::Receive;

const USAGE: &str = "options: --quick, --servers ring,epoll,tokio-uring,single-shot,multishot, \
                     --loads CONNECTIONSxBYTES,..., --posted COUNT,... (buffers posted by the ring), --rounds N, \
                     --seconds S";

const SERVER_CPU: usize = 0;
const CLIENT_CPU: usize = 1;
/// Bytes that each server may receive at a time, the payload of a ring buffer.
const RECEIVE: usize = 32 * 1024;
/// Part of a measurement's time that goes by before its figures are taken.
const WARM_UP: f64 = 0.3;
/// No answer for so long means that a server has stopped.
const STUCK: Duration = Duration::from_secs(10);

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    match Plan::from_arguments(std::env::args().skip(1)).and_then(|plan| run(&plan)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("runtime benchmark: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is compared, and for how long.
struct Plan {
    servers: Vec<Server>,
    loads: Vec<Load>,
    rounds: usize,
    time: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Server {
    Ring { posted: u16 },
    Epoll,
    TokioUring,
    Raw(Receive),
}

#[derive(Clone, Copy)]
struct Load {
    connections: usize,
    bytes: usize,
}

/// What one server did in one measurement.
#[derive(Clone, Copy)]
struct Sample {
    micros_per_message: f64,
    messages_per_second: f64,
    busy: f64,
}

impl Plan {
    fn from_arguments(arguments: impl Iterator<Item = String>) -> Outcome<Self> {
        let (mut names, mut posted) = (
            String::from("ring,tokio-uring,epoll,single-shot,multishot"),
            String::new(),
        );
        let mut loads = String::from("100x64,1000x64,100x16384");
        let (mut rounds, mut seconds) = (12, 0.3);
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(USAGE);
            match argument.as_str() {
                "--bench" => {}
                "--quick" => (rounds, seconds) = (1, 0.1),
                "--servers" => names = value()?,
                "--loads" => loads = value()?,
                "--posted" => posted = value()?,
                "--rounds" => rounds = value()?.parse()?,
                "--seconds" => seconds = value()?.parse()?,
                _ => return Err(USAGE.into()),
            }
        }
        let default = ring::RuntimeConfig::default().buffers_posted;
        let posted: Vec<u16> = match posted.as_str() {
            "" => vec![default],
            list => list.split(',').map(str::parse).collect::<Result<_, _>>()?,
        };
        let mut servers = Vec::new();
        for name in names.split(',') {
            match name {
                "ring" => servers.extend(posted.iter().map(|&posted| Server::Ring { posted })),
                "epoll" => servers.push(Server::Epoll),
                "tokio-uring" => servers.push(Server::TokioUring),
                "single-shot" => servers.push(Server::Raw(Receive::SingleShot)),
                "multishot" => servers.push(Server::Raw(Receive::Multishot)),
                _ => return Err(USAGE.into()),
            }
        }
        if rounds == 0 {
            return Err(USAGE.into());
        }
        Ok(Self {
            servers,
            loads: loads.split(',').map(Load::parse).collect::<Outcome<_>>()?,
            rounds,
            time: Duration::try_from_secs_f64(seconds)?,
        })
    }
}

impl Load {
    fn parse(text: &str) -> Outcome<Self> {
        let (connections, bytes) = text.split_once('x').ok_or(USAGE)?;
        Ok(Self {
            connections: connections.parse()?,
            bytes: bytes.parse()?,
        })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring { posted } => f.pad(&format!("ring, {posted} posted")),
            Self::Epoll => f.pad("epoll"),
            Self::TokioUring => f.pad("tokio-uring"),
            Self::Raw(Receive::SingleShot) => f.pad("single-shot"),
            Self::Raw(Receive::Multishot) => f.pad("multishot"),
        }
    }
}

fn run(plan: &Plan) -> Outcome<()> {
    ring::raise_descriptor_limit()?;
    ring::pin_to_cpu(CLIENT_CPU)?;
    println!(
        "CPU microseconds of the server's thread per message: median, least to most. Ratio of the costs within one round: \
         median and middle half of the rounds."
    );
    for &load in &plan.loads {
        let mut samples = vec![Vec::new(); plan.servers.len()];
        let servers = plan.servers.len();
        for round in 0..plan.rounds {
            let forth = (0..servers).map(|place| (round + place) % servers);
            for index in forth.clone().chain(forth.rev()) {
                samples[index].push(measure(plan.servers[index], load, plan.time)?);
            }
        }
        print_table(load, &plan.servers, &samples);
    }
    Ok(())
}

fn print_table(load: Load, servers: &[Server], samples: &[Vec<Sample>]) {
    println!("\n{} connections, {} bytes", load.connections, load.bytes);
    println!(
        "{:<18} {:>6} {:>15} {:>10} {:>5}   {:<19}",
        "server", "us", "spread", "messages/s", "busy", "first : this"
    );
    for (server, own) in servers.iter().zip(samples) {
        let costs = figures(own, |sample| sample.micros_per_message);
        let ratios = ratios_by_round(&samples[0], own);
        println!(
            "{server:<18} {:>6.2} {:>15} {:>10.0} {:>4.0}%   {:.3} ({:.3}..{:.3})",
            median(&costs),
            format!("{:.2}..{:.2}", costs[0], costs[costs.len() - 1]),
            median(&figures(own, |sample| sample.messages_per_second)),
            100.0 * median(&figures(own, |sample| sample.busy)),
            median(&ratios),
            quantile(&ratios, 0.25),
            quantile(&ratios, 0.75),
        );
    }
}

/// The ratio of the two servers' costs in each round, sorted. Within a round the machine's speed changes little, and the
/// order forth and back takes out what changes steadily; from round to round a shared machine may differ by half.
fn ratios_by_round(first: &[Sample], this: &[Sample]) -> Vec<f64> {
    let sum =
        |pair: &[Sample]| -> f64 { pair.iter().map(|sample| sample.micros_per_message).sum() };
    let mut ratios: Vec<f64> = first
        .chunks(2)
        .zip(this.chunks(2))
        .map(|(first, this)| sum(first) / sum(this))
        .collect();
    ratios.sort_by(f64::total_cmp);
    ratios
}

/// One figure of all samples, sorted.
fn figures(samples: &[Sample], figure: impl Fn(&Sample) -> f64) -> Vec<f64> {
    let mut values: Vec<f64> = samples.iter().map(figure).collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> f64 {
    quantile(sorted, 0.5)
}

/// A quantile of sorted values, between two of them by their distance.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let place = part * (sorted.len() - 1) as f64;
    let (low, high) = (
        sorted[place.floor() as usize],
        sorted[place.ceil() as usize],
    );
    low + (high - low) * place.fract()
}

/// Starts the server, loads it, and takes its figures. Both ends of every connection are gone afterwards.
fn measure(server: Server, load: Load, time: Duration) -> Outcome<Sample> {
    let (announce, announced) = channel();
    let thread = std::thread::spawn(move || -> Outcome<()> {
        ring::pin_to_cpu(SERVER_CPU)?;
        match server {
            Server::Ring { posted } => servers::ring(load.connections, posted, announce),
            Server::Epoll => servers::epoll(load.connections, &announce),
            Server::TokioUring => servers::tokio_uring(load.connections, announce),
            Server::Raw(receive) => raw::serve(load.connections, receive, &announce),
        }
    });
    let sample = match announced.recv() {
        Ok((address, clock)) => Client::connect(address, load)
            .and_then(|client| client.sample(clock, time))
            .map_err(|error| format!("{server}: {error}").into()),
        Err(_) => Err(format!("{server} did not start").into()),
    };
    // A server that failed says more than a client that lost it.
    if sample.is_ok() || thread.is_finished() {
        thread.join().map_err(|_| "the server panicked")??;
    }
    sample
}

/// The CPU clock of a thread, readable by others while the thread lives.
#[derive(Clone, Copy)]
struct ThreadClock(libc::clockid_t);

impl ThreadClock {
    fn own() -> io::Result<Self> {
        let mut clock = 0;
        // SAFETY: pthread_self is always a live thread; the result is written to a local that lives through the call.
        let code = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
        match code {
            0 => Ok(Self(clock)),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }

    fn read(self) -> io::Result<Duration> {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the result is written to a local that lives through the call; a clock that is gone is an error.
        check(unsafe { libc::clock_gettime(self.0, &raw mut time) })?;
        Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
