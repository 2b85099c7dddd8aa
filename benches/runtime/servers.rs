//! The servers. Each announces itself, accepts its connections, and ends when all of them have ended.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::mpsc::Sender;

use adit::ring;
use socket2::{Domain, Socket, Type};

use super::epoll::Epoll;
use super::{Outcome, RECEIVE, ThreadClock};

pub type Announce = Sender<(SocketAddr, ThreadClock)>;

pub fn announce(to: &Announce, address: SocketAddr) -> Outcome<()> {
    to.send((address, ThreadClock::own()?))?;
    Ok(())
}

pub fn ring(connections: usize, posted: u16, to: Announce) -> Outcome<()> {
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

pub fn tokio_uring(connections: usize, to: Announce) -> Outcome<()> {
    ::tokio_uring::builder().entries(4096).start(async move {
        let (listener, address) = listen()?;
        let listener = ::tokio_uring::net::TcpListener::from_std(listener);
        announce(&to, address)?;
        let mut tasks = Vec::with_capacity(connections);
        for _ in 0..connections {
            let (stream, _) = listener.accept().await?;
            tasks.push(::tokio_uring::spawn(async move {
                use ::tokio_uring::buf::BoundedBuf;
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

pub fn epoll(connections: usize, to: &Announce) -> Outcome<()> {
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
pub fn listen() -> Outcome<(TcpListener, SocketAddr)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    let address = listener.local_addr()?;
    Ok((listener, address))
}
