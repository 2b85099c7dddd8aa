//! A network in user space between two programs: a relay that cuts the streams of its connections at chosen bytes, joins what
//! was cut with what follows, delays, limits the rate and resets. It reorders nothing, and each direction has its own [`Direction`].
//!
//! ```ignore
//! let chaos = Chaos::to(gateway.address);
//! // The rest of the client's second flight comes with at least one byte of what follows it.
//! let direction = Direction { cuts: vec![Cut { turn: 1, at: 7, join: 900 }], ..Direction::default() };
//! let socket = chaos.connect(Plan { up: direction, ..Plan::default() });
//! // Connections of somebody else (a gateway that dials a server) go where `always` says.
//! let chaos = Chaos::always(server, |number| Plan { down: Direction::cut(0, number, 1), ..Plan::default() });
//! ```
//!
//! What is random comes from [`Random`], whose seed is printed; `ADIT_CHAOS_SEED` sets it.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a test's helper: each file uses its part, and fails by panic"
)]

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream as Plain};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// How long nothing goes behind a cut: the reader has had the time to take what came before it.
const PAUSE: Duration = Duration::from_millis(12);

/// How long a cut waits for what it is to be joined with.
const JOIN: Duration = Duration::from_secs(2);

/// What is read at a time, and held at most while it waits to be joined.
const HELD: usize = 64 * 1024;

/// A small generator: the same numbers for the same seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From `ADIT_CHAOS_SEED`, or another one each time; printed, so that a failure can be repeated.
    pub fn seeded() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seed = match std::env::var("ADIT_CHAOS_SEED") {
            Ok(seed) => seed.parse().expect("ADIT_CHAOS_SEED is a number"),
            Err(_) => now.unwrap().as_nanos() as u64,
        };
        eprintln!("ADIT_CHAOS_SEED={seed}");
        Self(seed)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// Another generator, for somebody who uses it at a time of its own.
    pub fn split(&mut self) -> Self {
        Self(self.below(u64::MAX))
    }
}

/// A place at which a stream is cut.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Which turn of this direction, from 0: a turn ends when the other side has said something.
    pub turn: usize,
    /// Before which of the turn's bytes; at or behind its end is no cut.
    pub at: usize,
    /// So many bytes must have come behind the cut before any of them goes on, all at once; those of later turns count.
    pub join: usize,
}

/// What one direction of a connection goes through.
#[derive(Clone, Debug, Default)]
pub struct Direction {
    pub cuts: Vec<Cut>,
    /// Cuts at random places, as far apart as it comes: some of one byte, some of thousands.
    pub random: Option<Random>,
    /// For how long each piece is under way.
    pub delay: Duration,
    /// Bytes in a second; 0 is as many as there are.
    pub rate: u32,
    /// Both ends are reset when so many bytes have gone this way.
    pub reset_at: Option<u64>,
}

impl Direction {
    /// One cut.
    pub fn cut(turn: usize, at: usize, join: usize) -> Self {
        Self {
            cuts: vec![Cut { turn, at, join }],
            ..Self::default()
        }
    }

    /// Cut at random.
    pub fn random(random: &mut Random) -> Self {
        Self {
            random: Some(random.split()),
            ..Self::default()
        }
    }
}

/// Both directions of a connection: `up` is from who has connected.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub up: Direction,
    pub down: Direction,
}

impl Plan {
    pub fn up(up: Direction) -> Self {
        Self {
            up,
            ..Self::default()
        }
    }

    pub fn down(down: Direction) -> Self {
        Self {
            down,
            ..Self::default()
        }
    }

    /// Both directions cut at random.
    pub fn random(random: &mut Random) -> Self {
        Self {
            up: Direction::random(random),
            down: Direction::random(random),
        }
    }
}

type Plans = Arc<Mutex<HashMap<SocketAddr, Plan>>>;

/// The longest turns that were seen, of `up` and of the other direction.
type Lengths = Arc<Mutex<[Vec<usize>; 2]>>;

/// A running relay; its connections end with it.
pub struct Chaos {
    pub address: SocketAddr,
    plans: Plans,
    lengths: Lengths,
    _stop: oneshot::Sender<()>,
}

impl Chaos {
    /// A relay for those who [`connect`](Self::connect) with a plan; it changes nothing for others.
    pub fn to(target: SocketAddr) -> Self {
        Self::always(target, |_| Plan::default())
    }

    /// A relay in which `plan` says what connection number so and so, from 0, goes through.
    pub fn always(
        target: SocketAddr,
        mut plan: impl FnMut(usize) -> Plan + Send + 'static,
    ) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        // As many as come at once, where the library's own number is 128.
        SockRef::from(&listener).listen(4096).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let plans = Plans::default();
        let known = plans.clone();
        let lengths = Lengths::default();
        let seen = lengths.clone();
        let (stop, stopped) = oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let accept = async {
                let listener = TcpListener::from_std(listener).unwrap();
                for number in 0.. {
                    let (near, peer) = listener.accept().await.unwrap();
                    let chosen = known.lock().unwrap().remove(&peer);
                    let plan = chosen.unwrap_or_else(|| plan(number));
                    tokio::spawn(relay(near, target, plan, seen.clone()));
                }
            };
            runtime.block_on(async {
                tokio::select! {
                    () = accept => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            address,
            plans,
            lengths,
            _stop: stop,
        }
    }

    /// How many bytes each turn of this direction had at most.
    pub fn lengths(&self, up: bool) -> Vec<usize> {
        self.lengths.lock().unwrap()[usize::from(!up)].clone()
    }

    /// A connection through the relay that goes through this.
    pub fn connect(&self, plan: Plan) -> Plain {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any.into()).unwrap();
        let own = socket.local_addr().unwrap().as_socket().unwrap();
        self.plans.lock().unwrap().insert(own, plan);
        socket.connect(&self.address.into()).unwrap();
        socket.set_tcp_nodelay(true).unwrap();
        socket.into()
    }
}

/// How often who speaks has changed on a connection.
struct Turns {
    changes: AtomicUsize,
    lengths: Lengths,
}

impl Turns {
    /// Something was said by the side whose turns are the even changes (up) or the odd ones; which of its turns it is.
    fn said(&self, up: bool) -> usize {
        let mut changes = self.changes.load(Relaxed);
        if changes.is_multiple_of(2) != up {
            changes += 1;
            self.changes.store(changes, Relaxed);
        }
        changes / 2
    }
}

async fn relay(near: TcpStream, target: SocketAddr, plan: Plan, lengths: Lengths) {
    let reset = |stream: &TcpStream| {
        let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    };
    let Ok(far) = TcpStream::connect(target).await else {
        return reset(&near);
    };
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    let turns = Turns {
        changes: AtomicUsize::new(0),
        lengths,
    };
    // Where the server speaks first, that is its turn 0, and what the client says then is its turn 1.
    let up = Pump::new(&near, &far, plan.up, true);
    let down = Pump::new(&far, &near, plan.down, false);
    let ended = tokio::try_join!(up.run(&turns), down.run(&turns));
    if ended.is_err() {
        reset(&near);
        reset(&far);
    }
}

struct Pump<'s> {
    from: &'s TcpStream,
    to: &'s TcpStream,
    plan: Direction,
    up: bool,
    /// Read and not passed on.
    held: Vec<u8>,
    passed: u64,
    /// Cuts whose turn has begun: before which byte of the stream, and what they wait for.
    known: Vec<(u64, usize)>,
    turn: Option<usize>,
    /// Bytes of the turn so far.
    length: usize,
    ended: bool,
}

impl<'s> Pump<'s> {
    fn new(from: &'s TcpStream, to: &'s TcpStream, plan: Direction, up: bool) -> Self {
        Self {
            from,
            to,
            plan,
            up,
            held: Vec::new(),
            passed: 0,
            known: Vec::new(),
            turn: None,
            length: 0,
            ended: false,
        }
    }

    /// Carries everything to the end; an error is a reset of both ends.
    async fn run(mut self, turns: &Turns) -> io::Result<()> {
        loop {
            if self.held.is_empty() {
                self.read(turns).await?;
            }
            if self.held.is_empty() && self.ended {
                return SockRef::from(self.to).shutdown(Shutdown::Write);
            }
            let (piece, join) = self.next_piece();
            self.pass(piece).await?;
            if self.plan.reset_at == Some(self.passed) {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            if let Some(join) = join {
                self.hold(join, turns).await?;
            }
        }
    }

    /// Reads what is there, or waits for it.
    async fn read(&mut self, turns: &Turns) -> io::Result<()> {
        let mut bytes = vec![0; HELD];
        let count = loop {
            self.from.readable().await?;
            match self.from.try_read(&mut bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                count => break count?,
            }
        };
        if count == 0 {
            self.ended = true;
            return Ok(());
        }
        let turn = turns.said(self.up);
        if self.turn != Some(turn) {
            self.turn = Some(turn);
            self.length = 0;
            let start = self.passed + self.held.len() as u64;
            let own = self.plan.cuts.iter().filter(|cut| cut.turn == turn);
            self.known
                .extend(own.map(|cut| (start + cut.at as u64, cut.join)));
        }
        self.held.extend_from_slice(&bytes[..count]);
        self.length += count;
        let lengths = &mut turns.lengths.lock().unwrap()[usize::from(!self.up)];
        lengths.resize(lengths.len().max(turn + 1), 0);
        lengths[turn] = lengths[turn].max(self.length);
        Ok(())
    }

    /// How many of the held bytes go at once, and what those behind them wait for.
    fn next_piece(&mut self) -> (usize, Option<usize>) {
        let all = self.held.len();
        let ends = self.known.iter().filter(|(at, _)| *at > self.passed);
        let mut next = ends
            .min_by_key(|(at, _)| *at)
            .map(|(at, join)| ((at - self.passed) as usize, Some(*join)));
        if let Some(random) = &mut self.plan.random {
            let bound = [1, 7, 400, 20_000][random.below(4) as usize];
            let length = 1 + random.below(bound) as usize;
            if next.is_none_or(|(at, _)| length < at) {
                // One in eight is waited for; the others are only written apart.
                next = Some((length, (random.below(8) == 0).then_some(0)));
            }
        }
        let (mut piece, mut join) = match next {
            Some((at, join)) if at <= all => (at, join),
            _ => (all, None),
        };
        if let Some(reset) = self.plan.reset_at {
            let left = (reset - self.passed) as usize;
            if left <= piece {
                (piece, join) = (left, None);
            }
        }
        (piece, join)
    }

    async fn pass(&mut self, count: usize) -> io::Result<()> {
        if !self.plan.delay.is_zero() {
            tokio::time::sleep(self.plan.delay).await;
        }
        let mut sent = 0;
        while sent < count {
            self.to.writable().await?;
            match self.to.try_write(&self.held[sent..count]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                more => sent += more?,
            }
        }
        self.held.drain(..count);
        self.passed += count as u64;
        if self.plan.rate > 0 {
            let takes = count as f64 / f64::from(self.plan.rate);
            tokio::time::sleep(Duration::from_secs_f64(takes)).await;
        }
        Ok(())
    }

    /// Waits, and reads meanwhile.
    async fn hold(&mut self, join: usize, turns: &Turns) -> io::Result<()> {
        let cut = Instant::now();
        loop {
            let waited = cut.elapsed();
            let enough = self.held.len() >= join || self.ended || self.held.len() >= HELD;
            let left = match enough {
                true => PAUSE.checked_sub(waited),
                false => JOIN.checked_sub(waited),
            };
            let Some(left) = left else { return Ok(()) };
            if self.ended {
                tokio::time::sleep(left).await;
            } else if let Ok(read) = tokio::time::timeout(left, self.read(turns)).await {
                read?;
            }
        }
    }
}
