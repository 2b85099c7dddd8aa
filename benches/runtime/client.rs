//! The client: it keeps a number of connections busy, each with one message on its way.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::epoll::Epoll;
use super::{Load, Outcome, STUCK, Sample, ThreadClock, WARM_UP};

/// One connection of the client: what is still to be sent and to come of the message on its way.
struct Peer {
    stream: TcpStream,
    to_send: usize,
    to_come: usize,
    /// Whether the last send left bytes behind, and epoll is asked about room.
    blocked: bool,
}

pub struct Client {
    peers: Vec<Peer>,
    epoll: Epoll,
    message: Vec<u8>,
    scratch: Vec<u8>,
    messages: u64,
}

impl Client {
    pub fn connect(address: SocketAddr, load: Load) -> Outcome<Self> {
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

    pub fn sample(mut self, clock: ThreadClock, time: Duration) -> Outcome<Sample> {
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
