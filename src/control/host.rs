//! Check that a request was meant for the admin listener.
//!
//! A page in a browser on this machine can be made to send requests to loopback under the page's
//! own name (DNS rebinding), and could then read the answers. Such a request names the page's host,
//! so only requests that name `localhost`, a loopback address or the address of the listener itself
//! are answered.
//!
//! No browser reaches a Unix socket by itself, but one does through `ssh -L`, which gives the
//! socket a port. There a name without a dot is taken too: programs write what they like, and a
//! page's host has a dot.

use std::net::{IpAddr, Ipv4Addr};

/// Returns whether a `Host` field value or the authority of a request target (RFC 9110, section
/// 7.2) names this machine.
pub(super) fn names_this_machine(host: &str, listener: IpAddr) -> bool {
    let Some(name) = without_port(host) else {
        return false;
    };
    match name.parse::<IpAddr>() {
        Ok(address) => address.is_loopback() || address == listener,
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    }
}

/// The same for a listener on a Unix socket.
pub(super) fn names_no_site(host: &str) -> bool {
    let is_label = without_port(host).is_some_and(|name| !name.contains(['.', ':']));
    is_label || names_this_machine(host, IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// The host without its port; an IPv6 address without its brackets.
fn without_port(host: &str) -> Option<&str> {
    let (name, rest) = match host.strip_prefix('[') {
        Some(bracketed) => bracketed
            .split_once(']')
            .filter(|(name, _)| name.contains(':'))?,
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let port_is_right = match rest.strip_prefix(':') {
        Some(port) => port.bytes().all(|byte| byte.is_ascii_digit()),
        None => rest.is_empty(),
    };
    port_is_right.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_named() {
        let listener: IpAddr = "::1".parse().unwrap();
        for host in [
            "localhost",
            "LocalHost:9901",
            "127.0.0.1",
            "127.0.0.1:9901",
            "127.9.9.9:1",
            "[::1]",
            "[::1]:9901",
        ] {
            assert!(names_this_machine(host, listener), "{host}");
        }
        for host in [
            "",
            "attacker.example",
            "attacker.example:9901",
            "localhost.attacker.example",
            "127.0.0.1.attacker.example",
            "127.0.0.1:9901:1",
            "127.0.0.1:x",
            "localhost@attacker.example",
            "user:1@localhost",
            "::1",
            "[::1",
            "[::1]x",
            "[localhost]",
            "[127.0.0.1]",
            "10.0.0.1",
            "[2001:db8::1]",
            " localhost",
        ] {
            assert!(!names_this_machine(host, listener), "{host}");
        }
        assert!(names_this_machine(
            "10.0.0.1:80",
            "10.0.0.1".parse().unwrap()
        ));
    }

    #[test]
    fn over_a_socket_no_site_is_named() {
        for host in ["", "adit", "localhost:8000", "127.0.0.1:8000", "[::1]:8000"] {
            assert!(names_no_site(host), "{host}");
        }
        for host in [
            "attacker.example",
            "attacker.example:8000",
            "localhost.",
            "10.0.0.1",
        ] {
            assert!(!names_no_site(host), "{host}");
        }
    }
}
