//! How soon a gateway answers, beside what the machine itself takes at the same time: a core that stands still is told from
//! a machine that is busy.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::common::{Session, echo, echoes, server};

/// What an answer may take in the median: some, and as often what the machine's own echo takes.
const SOME: Duration = Duration::from_millis(100);
const AS_OFTEN: u32 = 20;

/// The turns of [`answers_at_once`].
const TURNS: usize = 30;

pub struct Pace {
    machine: TcpStream,
    took: Vec<Duration>,
    meanwhile: Vec<Duration>,
}

impl Pace {
    pub fn new() -> Self {
        static ECHO: OnceLock<SocketAddr> = OnceLock::new();
        Self {
            machine: TcpStream::connect(ECHO.get_or_init(|| server(echo))).unwrap(),
            took: Vec::new(),
            meanwhile: Vec::new(),
        }
    }

    /// Times one answer, and an echo without a gateway.
    pub fn turn(&mut self, answer: impl FnOnce()) {
        let begun = Instant::now();
        answer();
        self.took.push(begun.elapsed());
        let begun = Instant::now();
        self.machine.write_all(b"here").unwrap();
        self.machine.read_exact(&mut [0; 4]).unwrap();
        self.meanwhile.push(begun.elapsed());
    }

    pub fn turns(&self) -> usize {
        self.took.len()
    }

    /// The median of the turns, so that one late turn is not taken for a frozen core.
    #[track_caller]
    pub fn check(mut self) {
        for times in [&mut self.took, &mut self.meanwhile] {
            times.sort();
        }
        let [took, machine] = [&self.took, &self.meanwhile].map(|times| times[times.len() / 2]);
        assert!(
            took < SOME + AS_OFTEN * machine,
            "{took:?}, and the machine's own {machine:?}"
        );
    }
}

/// That an open tunnel's bytes come back at once.
#[track_caller]
pub fn answers_at_once(session: &mut Session) {
    let mut pace = Pace::new();
    for _ in 0..TURNS {
        pace.turn(|| echoes(session, b"here"));
    }
    pace.check();
}
