//! What one message costs: echo servers on the runtime of the data cores, on tokio-uring and on hand-written epoll.
//!
//! The server's thread has CPU 0, the client's has CPU 1. The client keeps a number of connections busy, each with one
//! message on its way, and reads the CPU clock of the server's thread before and after a fixed time. That figure, over
//! the messages of that time, is what the table shows: the kernel's share of the server's work is in it, the client's
//! is not. On the loopback interface the receiving half of TCP runs in the context of the sender, on both sides alike.
//!
//! The servers take turns forwards and backwards (ABBA), so that a slow drift of the machine meets all of them.
//! Nothing here fails when one is slower: a shared machine is no place for a verdict, so the ratio is only printed.
//!
//! ```text
//! cargo bench --bench runtime                                  the table of all servers and loads
//! cargo bench --bench runtime -- --quick                       the same in seconds, as a check that it works
//! cargo bench --bench runtime -- --posted 64,128,256 --servers ring
//! cargo bench --bench runtime -- --servers ring --loads 1000x64 --seconds 10 --rounds 1        for a profiler
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use adit::ring;
use socket2::{Domain, SockRef, Socket, Type};

const USAGE: &str = "options: --quick, --servers ring,epoll,tokio-uring, --loads CONNECTIONSxBYTES,..., \
                     --posted COUNT,... (buffers posted by the ring), --rounds N, --seconds S";

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
        let (mut names, mut posted) = (String::from("ring,tokio-uring,epoll"), String::new());
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
        for _ in 0..plan.rounds {
            let forth = 0..plan.servers.len();
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

// The client.

/// Starts the server, loads it, and takes its figures. Both ends of every connection are gone afterwards.
fn measure(server: Server, load: Load, time: Duration) -> Outcome<Sample> {
    let (announce, announced) = channel();
    let thread = std::thread::spawn(move || -> Outcome<()> {
        ring::pin_to_cpu(SERVER_CPU)?;
        match server {
            Server::Ring { posted } => serve_ring(load.connections, posted, announce),
            Server::Epoll => serve_epoll(load.connections, &announce),
            Server::TokioUring => serve_tokio_uring(load.connections, announce),
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

/// One connection of the client: what is still to be sent and to come of the message on its way.
struct Peer {
    stream: TcpStream,
    to_send: usize,
    to_come: usize,
    /// Whether the last send left bytes behind, and epoll is asked about room.
    blocked: bool,
}

struct Client {
    peers: Vec<Peer>,
    epoll: Epoll,
    message: Vec<u8>,
    scratch: Vec<u8>,
    messages: u64,
}

impl Client {
    fn connect(address: SocketAddr, load: Load) -> Outcome<Self> {
        let mut client = Self {
            peers: Vec::with_capacity(load.connections),
            epoll: Epoll::new()?,
            message: vec![0x5a; load.bytes],
            scratch: vec![0; 64 * 1024],
            messages: 0,
        };
        for token in 0..load.connections {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            // A reset at the end: thousands of ports in TIME_WAIT would meet the next measurement.
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            client.epoll.add(&stream, token)?;
            client.peers.push(Peer {
                stream,
                to_send: load.bytes,
                to_come: load.bytes,
                blocked: false,
            });
        }
        Ok(client)
    }

    fn sample(mut self, clock: ThreadClock, time: Duration) -> Outcome<Sample> {
        for token in 0..self.peers.len() {
            self.send(token)?;
        }
        self.drive(time.mul_f64(WARM_UP))?;
        let (messages, start, used) = (self.messages, Instant::now(), clock.read()?);
        self.drive(time)?;
        let (used, wall) = (clock.read()? - used, start.elapsed());
        let messages = (self.messages - messages) as f64;
        Ok(Sample {
            micros_per_message: used.as_secs_f64() * 1e6 / messages,
            messages_per_second: messages / wall.as_secs_f64(),
            busy: used.as_secs_f64() / wall.as_secs_f64(),
        })
    }

    /// Keeps every connection busy for `time`.
    fn drive(&mut self, time: Duration) -> Outcome<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let ready = self.epoll.wait(Some(STUCK))?;
            if ready == 0 {
                return Err("no answer from the server".into());
            }
            for index in 0..ready {
                let (token, readable, writable) = self.epoll.event(index);
                if readable {
                    self.receive(token)?;
                }
                if writable {
                    self.send(token)?;
                }
            }
        }
        Ok(())
    }

    fn receive(&mut self, token: usize) -> Outcome<()> {
        let peer = &mut self.peers[token];
        match (&peer.stream).read(&mut self.scratch) {
            Ok(0) => return Err("the server closed a connection".into()),
            Ok(count) if count > peer.to_come => return Err("more bytes than were sent".into()),
            Ok(count) => peer.to_come -= count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        if peer.to_come == 0 {
            self.messages += 1;
            (peer.to_send, peer.to_come) = (self.message.len(), self.message.len());
            self.send(token)?;
        }
        Ok(())
    }

    fn send(&mut self, token: usize) -> Outcome<()> {
        let peer = &mut self.peers[token];
        if peer.to_send == 0 {
            return Ok(());
        }
        let rest = &self.message[self.message.len() - peer.to_send..];
        match (&peer.stream).write(rest) {
            Ok(count) => peer.to_send -= count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        let blocked = peer.to_send > 0;
        if peer.blocked != blocked {
            peer.blocked = blocked;
            let room = if blocked { libc::EPOLLOUT } else { 0 };
            self.epoll
                .change(&peer.stream, token, libc::EPOLLIN | room)?;
        }
        Ok(())
    }
}

// The servers. Each accepts its connections, announces itself before that, and ends when all of them have ended.

type Announce = Sender<(SocketAddr, ThreadClock)>;

fn announce(to: &Announce, address: SocketAddr) -> Outcome<()> {
    to.send((address, ThreadClock::own()?))?;
    Ok(())
}

fn serve_ring(connections: usize, posted: u16, to: Announce) -> Outcome<()> {
    let config = ring::RuntimeConfig {
        buffer_payload: RECEIVE,
        buffers_posted: posted,
        ..ring::RuntimeConfig::default()
    };
    ring::Runtime::new(config)?.block_on(async move {
        let listener = ring::TcpListener::bind((Ipv4Addr::LOCALHOST, 0).into(), BACKLOG)?;
        announce(&to, listener.local_address())?;
        let (sender, all_ended) = ring::oneshot::<()>();
        let sender = Rc::new(sender);
        for _ in 0..connections {
            let stream = listener.accept().await?;
            let alive = sender.clone();
            ring::spawn(async move {
                while let Ok(Some(buffer)) = stream.recv().await {
                    if stream.send(buffer).await.0.is_err() {
                        break;
                    }
                }
                drop(alive);
            });
        }
        drop(sender);
        all_ended.await;
        Ok(())
    })
}

fn serve_tokio_uring(connections: usize, to: Announce) -> Outcome<()> {
    tokio_uring::builder().entries(4096).start(async move {
        let (listener, address) = listen()?;
        let listener = tokio_uring::net::TcpListener::from_std(listener);
        announce(&to, address)?;
        let mut tasks = Vec::with_capacity(connections);
        for _ in 0..connections {
            let (stream, _) = listener.accept().await?;
            tasks.push(tokio_uring::spawn(async move {
                use tokio_uring::buf::BoundedBuf;
                let mut buffer = Vec::with_capacity(RECEIVE);
                loop {
                    let (count, received) = stream.read(buffer).await;
                    let Ok(count @ 1..) = count else { break };
                    let (sent, slice) = stream.write_all(received.slice(..count)).await;
                    if sent.is_err() {
                        break;
                    }
                    buffer = slice.into_inner();
                }
            }));
        }
        for task in tasks {
            task.await?;
        }
        Ok(())
    })
}

/// One connection of the epoll server, and what its socket had no room for.
struct Echo {
    stream: TcpStream,
    unsent: VecDeque<u8>,
}

impl Echo {
    /// Receives once (level-triggered: what is left is reported again) and answers. `false` at the end.
    fn turn(&mut self, scratch: &mut [u8]) -> bool {
        if !self.unsent.is_empty() {
            return self.send_rest();
        }
        match self.stream.read(scratch) {
            Ok(0) => false,
            Ok(count) => match self.stream.write(&scratch[..count]) {
                Ok(sent) => {
                    self.unsent.extend(&scratch[sent..count]);
                    true
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.unsent.extend(&scratch[..count]);
                    true
                }
                Err(_) => false,
            },
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    fn send_rest(&mut self) -> bool {
        match self.stream.write(self.unsent.make_contiguous()) {
            Ok(sent) => {
                self.unsent.drain(..sent);
                true
            }
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }
}

fn serve_epoll(connections: usize, to: &Announce) -> Outcome<()> {
    let (listener, address) = listen()?;
    announce(to, address)?;
    let mut epoll = Epoll::new()?;
    let mut echoes = Vec::with_capacity(connections);
    let mut scratch = vec![0; RECEIVE];
    let (mut accepted, mut ended) = (0, 0);
    epoll.add(&listener, connections)?;
    while ended < connections {
        for index in 0..epoll.wait(None)? {
            let (token, _, _) = epoll.event(index);
            if token == connections {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                epoll.add(&stream, accepted)?;
                echoes.push(Some(Echo {
                    stream,
                    unsent: VecDeque::new(),
                }));
                accepted += 1;
                continue;
            }
            let Some(echo) = &mut echoes[token] else {
                continue;
            };
            let had_rest = !echo.unsent.is_empty();
            if echo.turn(&mut scratch) {
                let has_rest = !echo.unsent.is_empty();
                if has_rest != had_rest {
                    let wanted = if has_rest {
                        libc::EPOLLOUT
                    } else {
                        libc::EPOLLIN
                    };
                    epoll.change(&echo.stream, token, wanted)?;
                }
            } else {
                echoes[token] = None;
                ended += 1;
            }
        }
    }
    Ok(())
}

const BACKLOG: i32 = 4096;

/// A listener whose connections inherit `TCP_NODELAY`, like that of the ring.
fn listen() -> Outcome<(TcpListener, SocketAddr)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    let address = listener.local_addr()?;
    Ok((listener, address))
}

// System calls that the standard library does not have.

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

/// Level-triggered epoll.
struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    fn new() -> io::Result<Self> {
        // SAFETY: takes no pointer; a non-negative result is a new descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        let events = vec![libc::epoll_event { events: 0, u64: 0 }; 1024];
        Ok(Self { fd, events })
    }

    fn add(&self, socket: &impl AsRawFd, token: usize) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, socket, token, libc::EPOLLIN)
    }

    fn change(&self, socket: &impl AsRawFd, token: usize, events: i32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, socket, token, events)
    }

    fn control(
        &self,
        operation: i32,
        socket: &impl AsRawFd,
        token: usize,
        events: i32,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: token as u64,
        };
        // SAFETY: the kernel reads one event that lives through the call.
        check(unsafe {
            libc::epoll_ctl(
                self.fd.as_raw_fd(),
                operation,
                socket.as_raw_fd(),
                &raw mut event,
            )
        })?;
        Ok(())
    }

    /// Waits; the number of events that [`Epoll::event`] then has.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let millis = timeout.map_or(-1, |time| time.as_millis() as i32);
        let room = self.events.len() as i32;
        loop {
            // SAFETY: the kernel writes at most `room` events, which the vector holds.
            let ready = check(unsafe {
                libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), room, millis)
            });
            match ready {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                ready => return ready.map(|count| count as usize),
            }
        }
    }

    /// The token of an event, and whether it is to be read and to be written.
    fn event(&self, index: usize) -> (usize, bool, bool) {
        let event = self.events[index];
        let bits = event.events as i32;
        let writable = bits & libc::EPOLLOUT != 0;
        (event.u64 as usize, bits & !libc::EPOLLOUT != 0, writable)
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
