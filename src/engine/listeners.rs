//! The sockets on which tunnels are opened: opened here, or taken over from systemd or from the
//! process before.
//!
//! A socket that is taken over keeps its queue, so that no connection is lost which the system has
//! completed already. One that a reload closes is emptied first. Addresses that a reload leaves as
//! they are keep their sockets, and one that is opened again while it is emptied gets its sockets
//! back.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Weak};

use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};

use super::inherited::{Inherited, NamedSocket, overlap};
use super::node::EngineError;
use crate::config::ListenerKind;
use crate::limits::ACCEPT_BACKLOG;

/// Copies of sockets.
fn copies(sockets: &[TcpListener]) -> io::Result<Vec<TcpListener>> {
    sockets.iter().map(TcpListener::try_clone).collect()
}

/// The listening addresses of a node.
#[derive(Default)]
pub(super) struct Listeners {
    open: Vec<(ListenerKind, Arc<Open>)>,
    /// Sockets whose queues some core still empties.
    closing: Vec<Weak<Open>>,
}

/// One address. Who accepts from it holds it; with the last of them it closes.
pub(super) struct Open {
    configured: SocketAddr,
    /// With the port that the system chose for port 0.
    bound: SocketAddr,
    /// A copy of each socket, for a process that takes them over, and for cores that have emptied
    /// theirs.
    copies: Vec<TcpListener>,
    /// The process was started with them: somebody else holds them, too, and nobody else can open
    /// the address.
    inherited: bool,
}

/// Sockets from which a core accepts, at one address.
pub(super) struct ListenSource {
    pub by: ListenerKind,
    pub at: Arc<Open>,
    /// None where the core has them already.
    pub sockets: Vec<TcpListener>,
}

/// Addresses that can be activated: each socket that it takes is open.
pub(super) struct OpenListeners {
    open: Vec<(ListenerKind, Arc<Open>)>,
    of_cores: Vec<Vec<ListenSource>>,
}

impl Listeners {
    /// Opens what `wanted` has and this has not; `inherited` sockets are taken for it where they
    /// fit. Nothing changes yet.
    ///
    /// # Errors
    /// [`EngineError::Listen`], of the first address that cannot be opened.
    pub fn open(
        &self,
        wanted: impl Iterator<Item = (ListenerKind, SocketAddr)>,
        cores: usize,
        inherited: &mut Inherited,
    ) -> Result<OpenListeners, EngineError> {
        let wanted: Vec<_> = wanted.collect();
        let kept = self.keep(&wanted);
        let mut opened = OpenListeners {
            open: Vec::new(),
            of_cores: (0..cores).map(|_| Vec::new()).collect(),
        };
        for (index, &(by, address)) in wanted.iter().enumerate() {
            let failed = |source| EngineError::Listen {
                by,
                address,
                source,
            };
            let (entry, sockets) = match kept[index].clone() {
                Some(entry) if self.has(&entry) => (entry, Vec::new()),
                Some(entry) => {
                    // The same sockets, where the process was started with them.
                    drop(inherited.take_tcp(&by.to_string(), entry.bound));
                    let sockets = copies(&entry.copies).map_err(failed)?;
                    (entry, sockets)
                }
                None => {
                    if let Some(socket) = inherited.in_the_way(&by.to_string(), address) {
                        return Err(EngineError::Unfit { address, socket });
                    }
                    let ours = self.leaves(address, &kept);
                    new((by, address), cores, inherited, ours).map_err(failed)?
                }
            };
            let shares = share(sockets, cores).map_err(failed)?;
            for (of_core, sockets) in opened.of_cores.iter_mut().zip(shares) {
                let at = entry.clone();
                of_core.push(ListenSource { by, at, sockets });
            }
            opened.open.push((by, entry));
        }
        Ok(opened)
    }

    /// For each of `wanted` the address that it stays, or gets back, if any: rather one of its
    /// kind, but that may change.
    fn keep(&self, wanted: &[(ListenerKind, SocketAddr)]) -> Vec<Option<Arc<Open>>> {
        let open = self
            .open
            .iter()
            .map(|(by, entry)| (Some(*by), entry.clone()));
        let closing = self.closing.iter().filter_map(Weak::upgrade);
        let mut ours: Vec<_> = open.chain(closing.map(|entry| (None, entry))).collect();
        let mut kept: Vec<Option<Arc<Open>>> = vec![None; wanted.len()];
        for any_kind in [false, true] {
            for (kept, (kind, address)) in kept.iter_mut().zip(wanted) {
                let fits = |(by, entry): &(Option<ListenerKind>, Arc<Open>)| {
                    [entry.configured, entry.bound].contains(address)
                        && (any_kind || *by == Some(*kind))
                };
                if kept.is_none()
                    && let Some(at) = ours.iter().position(fits)
                {
                    *kept = Some(ours.remove(at).1);
                }
            }
        }
        kept
    }

    /// Returns whether this is among what is listened on.
    fn has(&self, entry: &Arc<Open>) -> bool {
        self.open.iter().any(|(_, open)| Arc::ptr_eq(open, entry))
    }

    /// Returns whether `address` is taken by this node, which leaves it.
    fn leaves(&self, address: SocketAddr, kept: &[Option<Arc<Open>>]) -> bool {
        let stays = |entry: &Arc<Open>| kept.iter().flatten().any(|kept| Arc::ptr_eq(kept, entry));
        let open = self.open.iter().map(|(_, entry)| entry.clone());
        let mut all = open.chain(self.closing.iter().filter_map(Weak::upgrade));
        all.any(|entry| overlap(entry.bound, address) && !stays(&entry))
    }

    /// From now on these are the node's. Addresses that are not among them are closed: nothing new
    /// comes in, and what the system has completed is for the cores to take. Gives back for each
    /// core all that it is to accept from.
    pub fn replace(&mut self, opened: OpenListeners) -> Vec<Vec<ListenSource>> {
        let before = std::mem::replace(&mut self.open, opened.open);
        for (by, entry) in &self.open {
            if !before.iter().any(|(_, old)| Arc::ptr_eq(old, entry)) {
                tracing::info!(at = %entry.bound, %by, "listening");
                entry.copies.iter().for_each(let_in);
            }
        }
        let mut closing = std::mem::take(&mut self.closing);
        closing.retain(|entry| entry.upgrade().is_some_and(|entry| !self.has(&entry)));
        for (by, entry) in before.into_iter().filter(|(_, entry)| !self.has(entry)) {
            tracing::info!(at = %entry.bound, %by, "not listening any more");
            entry.copies.iter().for_each(refuse_new);
            closing.push(Arc::downgrade(&entry));
        }
        self.closing = closing;
        opened.of_cores
    }

    /// Lets the sockets go, without a word to the cores.
    pub fn clear(&mut self) {
        self.open.clear();
    }

    /// The address of the first listener that `kind` says yes to.
    pub fn address(&self, kind: impl Fn(ListenerKind) -> bool) -> Option<SocketAddr> {
        let mut open = self.open.iter();
        open.find_map(|(by, entry)| kind(*by).then_some(entry.bound))
    }

    /// Copies of the sockets.
    ///
    /// # Errors
    /// The system's, at its limit of open files.
    pub fn sockets(&self) -> io::Result<Vec<NamedSocket>> {
        self.named(|_| true)
    }

    /// Copies of the sockets that this process was started with.
    ///
    /// # Errors
    /// The system's, at its limit of open files.
    pub fn inherited(&self) -> io::Result<Vec<NamedSocket>> {
        self.named(|entry| entry.inherited)
    }

    fn named(&self, which: impl Fn(&Open) -> bool) -> io::Result<Vec<NamedSocket>> {
        let mut sockets = Vec::new();
        for (by, entry) in self.open.iter().filter(|(_, entry)| which(entry)) {
            for socket in copies(&entry.copies)? {
                let name = by.to_string();
                sockets.push(NamedSocket { name, socket });
            }
        }
        Ok(sockets)
    }
}

/// An address that is not open yet, with its sockets. `ours`: the node has it, and leaves it.
fn new(
    (by, address): (ListenerKind, SocketAddr),
    cores: usize,
    inherited: &mut Inherited,
    ours: bool,
) -> io::Result<(Arc<Open>, Vec<TcpListener>)> {
    let before = inherited.tcp.len();
    let sockets = open((by, address), cores, inherited, ours)?;
    let bound = sockets
        .first()
        .map_or(Ok(address), TcpListener::local_addr)?;
    let entry = Open {
        configured: address,
        bound,
        copies: copies(&sockets)?,
        inherited: inherited.tcp.len() < before,
    };
    Ok((Arc::new(entry), sockets))
}

/// The sockets of `address`: one for each core, or those of `inherited`. They share its connections
/// by `SO_REUSEPORT`, so each must be accepted from.
fn open(
    (by, address): (ListenerKind, SocketAddr),
    cores: usize,
    inherited: &mut Inherited,
    ours: bool,
) -> io::Result<Vec<TcpListener>> {
    let mut sockets = inherited.take_tcp(&by.to_string(), address);
    if sockets.is_empty() {
        if !ours {
            refuse_taken(address)?;
        }
        let mut address = address;
        for _ in 0..cores {
            let socket = bind(address)?;
            // Port 0: the others get the port of the first.
            address = socket.local_addr()?;
            sockets.push(socket);
        }
    }
    sockets.iter().try_for_each(prepare)?;
    Ok(sockets)
}

/// Sockets for each core: a core may have several, and cores share one where there are fewer.
fn share(sockets: Vec<TcpListener>, cores: usize) -> io::Result<Vec<Vec<TcpListener>>> {
    let count = sockets.len();
    let mut of_cores: Vec<Vec<TcpListener>> = (0..cores).map(|_| Vec::new()).collect();
    if count > 0 {
        for core in count..cores {
            of_cores[core].push(sockets[core % count].try_clone()?);
        }
    }
    for (index, socket) in sockets.into_iter().enumerate() {
        of_cores[index % cores].push(socket);
    }
    Ok(of_cores)
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = tcp_socket(address)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(ACCEPT_BACKLOG)?;
    Ok(socket.into())
}

/// Accepted sockets inherit `TCP_NODELAY`. An accept that the ring is to wait for must not be
/// non-blocking.
fn prepare(socket: &TcpListener) -> io::Result<()> {
    SockRef::from(socket).set_tcp_nodelay(true)?;
    socket.set_nonblocking(false)
}

/// Lets no handshake begin on a listening socket; those under way end as they would. A socket that
/// is closed resets what is in its queue, so it must be empty before, and stay so. Sockets accepted
/// from here on have the filter too, which lets all pass that an open connection can get.
fn refuse_new(socket: &TcpListener) {
    /// Offset of the flags in a TCP header (RFC 9293, section 3.1), and the flags of an opening
    /// segment.
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const SYN_OR_ACK: u32 = 0x12;
    let step = |code: u32, yes, no, value| SockFilter::new(code as u16, yes, no, value);
    let filter = [
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, FLAGS),
        step(
            libc::BPF_ALU | libc::BPF_AND | libc::BPF_K,
            0,
            0,
            SYN_OR_ACK,
        ),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, SYN),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    if let Err(error) = SockRef::from(socket).attach_filter(&filter) {
        tracing::warn!(%error, "a connection that comes now may be lost");
    }
}

/// Undoes [`refuse_new`]. Most sockets have no filter, which is an error here.
fn let_in(socket: &TcpListener) {
    let _ = SockRef::from(socket).detach_filter();
}

/// `SO_REUSEPORT` lets cores share an address, and would let a second node share it in silence: ask
/// without it first.
fn refuse_taken(address: SocketAddr) -> io::Result<()> {
    let socket = tcp_socket(address)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;
    use crate::engine::inherited::passed_on;

    fn addresses(sockets: &[Vec<TcpListener>]) -> Vec<SocketAddr> {
        let all = sockets.iter().flatten();
        all.map(|socket| socket.local_addr().unwrap()).collect()
    }

    #[test]
    fn each_core_listens_and_each_socket_is_accepted_from() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let open = |address, cores, inherited: &mut Inherited| {
            let listener = (ListenerKind::Https, address);
            share(super::open(listener, cores, inherited, false)?, cores)
        };
        let first = open(any, 2, &mut Inherited::default()).unwrap();
        assert_eq!(first.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
        let address = addresses(&first)[0];
        assert_eq!(addresses(&first), [address; 2]);
        assert!(open(address, 1, &mut Inherited::default()).is_err());

        let mut inherited = passed_on("", first.into_iter().flatten());
        let second = open(any, 3, &mut inherited).unwrap();
        assert_eq!(second.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
        assert_eq!(addresses(&second), [address; 3]);
        assert_eq!(inherited.left(), None);
        inherited = passed_on("", second.into_iter().flatten());
        let third = open(address, 1, &mut inherited).unwrap();
        assert_eq!(third[0].len(), 3);
    }

    #[test]
    fn a_closed_listener_lets_no_handshake_begin_and_loses_none() {
        use std::io::{Read, Write};
        use std::time::Duration;

        let socket = bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = socket.local_addr().unwrap();
        let mut early = TcpStream::connect(address).unwrap();
        refuse_new(&socket);
        let patience = Duration::from_millis(200);
        let late = TcpStream::connect_timeout(&address, patience).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        socket.set_nonblocking(true).unwrap();
        let (mut accepted, _) = socket.accept().unwrap();
        assert!(socket.accept().is_err(), "one alone");
        drop(socket);
        accepted.write_all(b"to").unwrap();
        early.write_all(b"fro").unwrap();
        accepted.shutdown(std::net::Shutdown::Write).unwrap();
        let mut text = String::new();
        early.read_to_string(&mut text).unwrap();
        early.shutdown(std::net::Shutdown::Write).unwrap();
        accepted.read_to_string(&mut text).unwrap();
        assert_eq!(text, "tofro");
        assert!(TcpStream::connect(address).is_err(), "closed");
    }

    #[test]
    fn an_address_is_kept_moved_or_left() {
        use ListenerKind::{Http, Https};
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let any = address("127.0.0.1:0");
        let mut listeners = Listeners::default();
        let open = |listeners: &Listeners, wanted: &[(ListenerKind, SocketAddr)]| {
            let wanted = wanted.iter().copied();
            listeners.open(wanted, 2, &mut Inherited::default())
        };
        let fresh = |sources: &[Vec<ListenSource>]| -> Vec<usize> {
            sources[0]
                .iter()
                .map(|source| source.sockets.len())
                .collect()
        };
        let sources = listeners.replace(open(&listeners, &[(Https, any), (Http, any)]).unwrap());
        assert_eq!(fresh(&sources), [1, 1]);
        let of = |listeners: &Listeners, kind| listeners.address(|by| by == kind).unwrap();
        let (tls, plain) = (of(&listeners, Https), of(&listeners, Http));
        assert_ne!(tls, plain);

        // The same: nothing is opened, and each keeps its own.
        let mut kept = listeners.replace(open(&listeners, &[(Http, any), (Https, any)]).unwrap());
        assert_eq!(fresh(&kept), [0, 0]);
        assert_eq!((of(&listeners, Https), of(&listeners, Http)), (tls, plain));

        // One is left; its kind may change with the other's leave.
        kept = listeners.replace(open(&listeners, &[(Http, any)]).unwrap());
        assert_eq!(fresh(&kept), [0]);
        assert_eq!(of(&listeners, Http), plain);
        kept = listeners.replace(open(&listeners, &[(Https, any)]).unwrap());
        assert_eq!(fresh(&kept), [0]);
        assert_eq!(of(&listeners, Https), plain);

        // The port that it has got may be named.
        kept = listeners.replace(open(&listeners, &[(Https, plain)]).unwrap());
        assert_eq!(fresh(&kept), [0]);

        // A core still empties it, and has its sockets no more: they are opened again, with what is in their queues.
        let emptied: Vec<Arc<Open>> = kept[0].iter().map(|source| source.at.clone()).collect();
        drop((sources, kept));
        let _early: Vec<_> = (0..8).map(|_| TcpStream::connect(plain).unwrap()).collect();
        assert!(listeners.replace(open(&listeners, &[]).unwrap())[0].is_empty());
        assert!(listeners.address(|_| true).is_none() && listeners.sockets().unwrap().is_empty());
        let again = listeners.replace(open(&listeners, &[(Https, plain)]).unwrap());
        assert_eq!(fresh(&again), [1]);
        let _late: Vec<_> = (0..8).map(|_| TcpStream::connect(plain).unwrap()).collect();
        let mut accepted = 0;
        for socket in again.iter().flatten().flat_map(|source| &source.sockets) {
            socket.set_nonblocking(true).unwrap();
            accepted += socket.incoming().take_while(Result::is_ok).count();
        }
        assert_eq!(accepted, 16);

        // And so can one that is there on every address.
        let wide = SocketAddr::new([0, 0, 0, 0].into(), plain.port());
        let wide = (Https, wide);
        drop(listeners.replace(open(&listeners, &[wide]).unwrap()));
        drop((again, emptied));

        // Not so where both are to stay, or another process has it.
        assert!(open(&listeners, &[wide, (Http, plain)]).is_err());
        let other = std::net::TcpListener::bind(any).unwrap();
        assert!(open(&listeners, &[(Http, other.local_addr().unwrap())]).is_err());
        assert_eq!(listeners.sockets().unwrap().len(), 2);
    }
}
