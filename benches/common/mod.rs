//! What several benchmarks are made of: the same inputs on each run and on each machine.

#![allow(dead_code, reason = "each benchmark takes what it needs")]

pub mod tls;
#[path = "../../src/ring/wheel.rs"]
#[allow(unused_imports, reason = "its tests are compiled, not run, here")]
mod wheel;

use std::fmt::Write;
use std::path::Path;
use std::task::Waker;

use adit::config::{HostPort, Rule};
use adit::table::{DeviceRegistry, RevocationIndex};

/// A request as curl sends it.
pub const REQUEST: &[u8] =
    b"CONNECT wiki.corp.example.com:443 HTTP/1.1\r\nHost: wiki.corp.example.com:443\r\n\
    User-Agent: curl/7.88.1\r\nProxy-Connection: Keep-Alive\r\n\r\n";

pub const ISSUER: &[u8] = b"0\x121\x100\x0e\x06\x03U\x04\x03\x0c\x07example";
/// As long as the key of an authority with P-256.
pub const KEY: &[u8] = &[0x30; 89];
/// Bytes of a serial number, as most authorities make them.
pub const SERIAL: usize = 16;
/// A moment before the lists of [`revocation`] go stale.
pub const NOW: u64 = 1_700_000_000;

/// A small generator of test data: the same for the same seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        // splitmix64: each seed gives a sequence of its own.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A positive serial number without redundant leading octets.
    pub fn serial(&mut self) -> [u8; SERIAL] {
        let mut serial = [0; SERIAL];
        serial[..8].copy_from_slice(&self.next().to_be_bytes());
        serial[8..].copy_from_slice(&self.next().to_be_bytes());
        serial[0] = serial[0] & 0x3f | 0x40;
        serial
    }
}

/// `count` serials of one issuer.
pub fn serials(count: usize) -> Vec<[u8; SERIAL]> {
    let mut random = Random(1);
    (0..count).map(|_| random.serial()).collect()
}

/// An index that revokes them.
pub fn revocation(serials: &[[u8; SERIAL]]) -> RevocationIndex {
    let mut builder = RevocationIndex::builder();
    builder.add(
        ISSUER,
        KEY,
        serials.iter().map(|serial| &serial[..]),
        NOW + 1,
    );
    builder.build()
}

/// The name of a device: every second one of twice as many is registered.
pub fn device(number: u64) -> String {
    format!("urn:device:{number:08}")
}

/// A registry of `count` managed devices.
pub fn registry(count: u64) -> DeviceRegistry {
    let mut text = String::new();
    for number in 0..count {
        writeln!(text, "{},managed", device(2 * number)).expect("a String takes everything");
    }
    DeviceRegistry::parse(&text, Path::new("devices.csv")).expect("the text is right")
}

/// `count` rules, of which the last one alone matches [`target`].
pub fn rules(count: usize) -> Vec<Rule> {
    (1..=count)
        .map(|number| {
            let last = number == count;
            let host = match number % 3 {
                _ if last => "*.corp.example.com".to_owned(),
                0 => format!("10.{number}.0.0/16"),
                1 => format!("service-{number}.corp.example.com"),
                _ => format!("*.zone-{number}.example.com"),
            };
            Rule {
                app: None,
                host: host.parse().expect("a host pattern"),
                ports: Some(vec![443, 8443]),
                service: number,
            }
        })
        .collect()
}

pub fn target() -> HostPort {
    "wiki.corp.example.com:443".parse().expect("host and port")
}

/// The runtime's timers. The wheel is private to its room, so its file is compiled in here.
pub struct Timers {
    wheel: wheel::Wheel,
    fired: Vec<Waker>,
    now: u64,
}

impl Timers {
    /// With `count` timers of idle tunnels set, up to a minute (in ticks of a millisecond) from now.
    pub fn new(count: u64) -> Self {
        let mut wheel = wheel::Wheel::new();
        for number in 0..count {
            wheel.insert(60_000 + number % 60_000, Waker::noop().clone());
        }
        Self {
            wheel,
            fired: Vec::new(),
            now: 0,
        }
    }

    /// A millisecond in which two deadlines are set, one is met and removed, and the other comes.
    pub fn turn(&mut self) -> usize {
        let met = self.wheel.insert(self.now + 10_000, Waker::noop().clone());
        let missed = self.wheel.insert(self.now + 1, Waker::noop().clone());
        self.wheel.remove(met);
        self.now += 1;
        self.wheel.advance(self.now, &mut self.fired);
        self.wheel.remove(missed);
        let fired = self.fired.len();
        self.fired.clear();
        fired
    }
}
