//! Names of a test's own, in a network of its own: name servers, and an `/etc` in which the system's settings stand.

#![allow(dead_code, reason = "each program uses a part of it")]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

/// What a name server says of a name.
#[derive(Clone, Copy)]
pub enum Says {
    Address(Ipv4Addr),
    /// The question for IPv6 gets lost.
    HalfLost(Ipv4Addr),
    /// What comes by UDP is cut short: the answer is to be had by TCP.
    Truncated(Ipv4Addr),
    Fails,
    Nothing,
}

#[derive(Clone, Default)]
pub struct NameServer {
    zone: Arc<Mutex<HashMap<String, Says>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl NameServer {
    /// At port 53 of this address. Names that it does not know do not exist, for an hour.
    pub fn start(address: &str) -> Self {
        let server = Self::default();
        let socket = UdpSocket::bind((address, 53)).unwrap();
        let by_udp = server.clone();
        std::thread::spawn(move || {
            let mut query = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut query) {
                if let Some(answer) = by_udp.answer(&query[..length], false) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        let listener = TcpListener::bind((address, 53)).unwrap();
        let by_tcp = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, server) = (stream.unwrap(), by_tcp.clone());
                std::thread::spawn(move || {
                    let mut length = [0; 2];
                    while stream.read_exact(&mut length).is_ok() {
                        let mut query = vec![0; u16::from_be_bytes(length).into()];
                        stream.read_exact(&mut query).unwrap();
                        if let Some(answer) = server.answer(&query, true) {
                            let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                            stream.write_all(&[&length[..], &answer].concat()).unwrap();
                        }
                    }
                });
            }
        });
        server
    }

    /// `name` may begin with `*.` for all below it.
    pub fn set(&self, name: &str, says: Says) {
        self.zone.lock().unwrap().insert(name.to_owned(), says);
    }

    /// Whether a name was ever asked for.
    pub fn was_asked(&self, name: &str) -> bool {
        self.asked.lock().unwrap().iter().any(|asked| asked == name)
    }

    fn says(&self, name: &str) -> Option<Says> {
        let zone = self.zone.lock().unwrap();
        let above = name.split_once('.').map(|(_, above)| format!("*.{above}"));
        zone.get(name).or_else(|| zone.get(&above?)).copied()
    }

    /// RFC 1035, section 4.
    fn answer(&self, query: &[u8], by_tcp: bool) -> Option<Vec<u8>> {
        let (mut at, mut labels) = (12, Vec::new());
        while query[at] != 0 {
            let end = at + 1 + usize::from(query[at]);
            labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
            at = end;
        }
        let (name, is_four) = (labels.join("."), query[at + 2] == 1);
        self.asked.lock().unwrap().push(name.clone());
        let (flags, address) = match self.says(&name) {
            Some(Says::Nothing) => return None,
            Some(Says::HalfLost(_)) if !is_four => return None,
            Some(Says::Fails) => (0x8182, None),
            Some(Says::Truncated(_)) if !by_tcp => (0x8380, None),
            Some(Says::Address(to) | Says::HalfLost(to) | Says::Truncated(to)) => {
                (0x8180_u16, Some(to).filter(|_| is_four))
            }
            None => (0x8183, None),
        };
        let mut answer = query[..2].to_vec();
        answer.extend(flags.to_be_bytes());
        let is_negative = address.is_none() && flags != 0x8380 && flags != 0x8182;
        answer.extend([
            0,
            1,
            0,
            u8::from(address.is_some()),
            0,
            u8::from(is_negative),
            0,
            0,
        ]);
        answer.extend(&query[12..at + 5]);
        if let Some(address) = address {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            answer.extend(address.octets());
        }
        if is_negative {
            // A SOA record of the root: the name does not exist for an hour.
            let mut soa = b"\x02ns\0\x01h\0".to_vec();
            for number in [1, 1, 3600, 3600, 3600_u32] {
                soa.extend(number.to_be_bytes());
            }
            answer.extend([0, 0, 6, 0, 1, 0, 0, 0x0e, 0x10, 0]);
            answer.push(u8::try_from(soa.len()).unwrap());
            answer.extend(soa);
        }
        Some(answer)
    }
}

/// `/etc` of the test's namespace, with little in it.
pub struct Etc(tempfile::TempDir);

impl Etc {
    /// With these settings.
    pub fn mount(servers: &str, hosts: &str) -> Self {
        let etc = Self(tempfile::tempdir().unwrap());
        for file in ["passwd", "group", "nsswitch.conf"] {
            let _ = std::fs::copy(Path::new("/etc").join(file), etc.0.path().join(file));
        }
        etc.put("resolv.conf", servers);
        etc.put("hosts", hosts);
        let mut mount = Command::new("mount");
        mount.arg("--bind").arg(etc.0.path()).arg("/etc");
        assert!(mount.status().unwrap().success());
        crate::common::network::ip("link set lo up");
        etc
    }

    /// Replaces a file by another with this text, as most programs do.
    pub fn put(&self, file: &str, text: &str) {
        let new = self.0.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.0.path().join(file)).unwrap();
    }
}
