//! Sockets that another process holds: systemd's, for tunnels and for the admin listener.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use command_fds::{CommandFdExt, FdMapping};
use socket2::{Domain, Socket, Type};

use super::upgrade::end;
use crate::common::{
    Gateway, PATIENCE, Pki, ask, connect, echo, free_port, request, server, tunnel,
};

/// Starts a gateway as systemd does, with the sockets that it holds.
fn activate(pki: &Pki, sockets: &[&TcpListener], notify: &std::path::Path) -> Command {
    let sockets = sockets
        .iter()
        .map(|socket| socket.try_clone().unwrap().into());
    let mut command = activate_on(pki, sockets.collect());
    command.env("NOTIFY_SOCKET", notify);
    command
}

pub fn activate_on(pki: &Pki, sockets: Vec<OwnedFd>) -> Command {
    let mut command = Gateway::command(pki);
    let count = sockets.len();
    let mappings = sockets
        .into_iter()
        .zip(3..)
        .map(|(parent_fd, child_fd)| FdMapping {
            parent_fd,
            child_fd,
        });
    command.fd_mappings(mappings.collect()).unwrap();
    command.env("LISTEN_FDS", count.to_string());
    command
}

#[test]
fn systemd_holds_the_socket_and_is_told() {
    let pki = Pki::new();
    let device = pki.client("device", |_| ());
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    // As systemd makes it.
    socket.set_nonblocking(true).unwrap();
    let admin = Gateway::builder(&pki)
        .servers(&[server(echo)])
        .listener(&format!("https = '{address}'"))
        .write();
    let told = UnixDatagram::bind(pki.path("notify")).unwrap();
    told.set_read_timeout(Some(PATIENCE)).unwrap();
    let hear = || {
        let mut message = [0; 512];
        let length = told.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    for _ in 0..2 {
        // A client that comes while nobody serves waits in the socket's queue.
        let early = TcpStream::connect(address).unwrap();
        let mut gateway = Gateway::spawn(activate(&pki, &[&socket], &pki.path("notify")), admin);
        assert_eq!(gateway.address, address);
        let ready = hear();
        assert!(ready.contains("READY=1"), "{ready}");
        assert!(
            ready.contains(&format!("MAINPID={}", gateway.child.id())),
            "{ready}"
        );
        let mut session = connect(&pki, &gateway, Some(&device));
        session.sock = early;
        assert!(
            ask(&mut session, &request("a.test:1"))
                .unwrap()
                .contains(" 200 ")
        );
        end(&mut session);
        gateway.signal("TERM");
        assert!(hear().contains("STOPPING=1"));
        assert_eq!(gateway.child.wait().unwrap().code(), Some(0));
    }
    // A socket that the config has no use for is a mistake of the unit or of the config.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let output = activate(&pki, &[&socket, &other], &pki.path("notify"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(
        log.contains(&other.local_addr().unwrap().to_string()),
        "{log}"
    );
    assert!(log.contains("socket unit"), "{log}");
}

/// A socket on all addresses, as systemd's `ListenStream=PORT` makes it.
fn on_all_addresses(only_v6: bool) -> (OwnedFd, u16) {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    socket.set_only_v6(only_v6).unwrap();
    let port = free_port().port();
    socket
        .bind(&SocketAddr::from(([0; 8], port)).into())
        .unwrap();
    socket.listen(16).unwrap();
    (socket.into(), port)
}

#[test]
fn a_socket_of_both_families_serves_a_listener_of_ipv4() {
    let pki = Pki::new();
    let device = pki.client("device", |_| ());
    let (socket, port) = on_all_addresses(false);
    let admin = Gateway::builder(&pki)
        .servers(&[server(echo)])
        .replace("127.0.0.1:0", &format!("0.0.0.0:{port}"))
        .write();
    let mut gateway = Gateway::spawn(activate_on(&pki, vec![socket]), admin);
    gateway.address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut session = tunnel(&pki, &gateway, &device, "a.test:1");
    // The client's address is what it is, not the way in which IPv6 writes it.
    let peer = session.sock.local_addr().unwrap();
    gateway.lists_peer(&peer.to_string());
    gateway.reload();
    end(&mut session);
}

#[test]
fn a_socket_that_a_listener_cannot_use_is_named() {
    let pki = Pki::new();
    let any = |port| format!("0.0.0.0:{port}");
    let one = |port| format!("127.0.0.1:{port}");
    for (only_v6, listen) in [(true, &any as &dyn Fn(u16) -> String), (false, &one)] {
        let (socket, port) = on_all_addresses(only_v6);
        Gateway::builder(&pki)
            .auth("")
            .servers(&[server(echo)])
            .replace("127.0.0.1:0", &listen(port))
            .write();
        let output = activate_on(&pki, vec![socket]).output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{log}");
        for word in [&format!("[::]:{port}"), &listen(port), "ListenStream="] {
            assert!(log.contains(word), "{word}: {log}");
        }
    }
}
