//! Addresses that a destination chosen by the app may never have.
//!
//! Checked against addresses, after resolution, so that no name can stand for a forbidden place
//! (DNS rebinding). What is private by RFC 1918 or RFC 4193 is allowed: internal services are what
//! the gateway is for.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The gateway's own addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnAddresses(HashSet<IpAddr>);

impl OwnAddresses {
    /// Reads the addresses of all interfaces.
    ///
    /// # Errors
    /// The system's.
    pub fn read() -> std::io::Result<Self> {
        Ok(Self(
            if_addrs::get_if_addrs()?
                .into_iter()
                .map(|interface| interface.ip())
                .collect(),
        ))
    }

    /// Returns whether `address` is one of them.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }
}

/// Returns whether an app may choose `address`: it is in `allow`, or it is not forbidden.
#[must_use]
pub fn is_allowed(address: IpAddr, allow: &[IpNet], own: &OwnAddresses) -> bool {
    let address = address.to_canonical();
    if allow.iter().any(|net| net.contains(&address)) {
        return true;
    }
    if own.contains(address) {
        return false;
    }
    match address {
        IpAddr::V4(address) => !is_forbidden_v4(address),
        IpAddr::V6(address) => {
            // An IPv4 address inside an IPv6 one leads to the same place where a translator or tunnel is at hand.
            !is_forbidden_v6(address)
                && embedded_v4(address)
                    .is_none_or(|inner| !is_forbidden_v4(inner) && !own.contains(IpAddr::V4(inner)))
        }
    }
}

fn is_forbidden_v4(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    address.is_loopback()
        || a == 0 // this network, RFC 1122 section 3.2.1.3
        || (a == 169 && b == 254) // link-local, RFC 3927; metadata of AWS, Azure, GCP and others at .169.254
        || a >= 224 // multicast and reserved, RFC 5771 and RFC 1112; broadcast
        || address == Ipv4Addr::new(100, 100, 100, 200) // metadata of Alibaba Cloud
        || address == Ipv4Addr::new(168, 63, 129, 16) // Azure's host agent
        || address == Ipv4Addr::new(192, 0, 0, 192) // metadata of Oracle Cloud
}

fn is_forbidden_v6(address: Ipv6Addr) -> bool {
    let first = address.segments()[0];
    address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || first & 0xffc0 == 0xfe80 // link-local, RFC 4291
        || first & 0xffc0 == 0xfec0 // site-local, deprecated by RFC 3879
        || address == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254) // metadata of AWS
        || address == Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254) // metadata of Google Cloud
}

/// The IPv4 address inside a translated or tunnelled one.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match s {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] // NAT64, RFC 6052
        | [0x64, 0xff9b, 1, _, _, _, high, low] // local NAT64, RFC 8215
        | [0, 0, 0, 0, 0, 0, high, low] // IPv4-compatible, RFC 4291 section 2.5.5.1
        | [0, 0, 0, 0, 0xffff, 0, high, low] => Some(v4(high, low)), // IPv4-translated, RFC 2765
        [0x2002, high, low, ..] => Some(v4(high, low)), // 6to4, RFC 3056
        [0x2001, 0, _, _, _, _, high, low] => Some(v4(!high, !low)), // Teredo, RFC 4380
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(address: &str, allow: &[&str]) -> bool {
        let own = OwnAddresses(HashSet::from(["10.9.9.9".parse().unwrap()]));
        let allow: Vec<IpNet> = allow.iter().map(|net| net.parse().unwrap()).collect();
        is_allowed(address.parse().unwrap(), &allow, &own)
    }

    #[test]
    fn forbidden_places_in_every_spelling() {
        for address in [
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.0.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "10.9.9.9",
            "::1",
            "::",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "::ffff:10.9.9.9",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::a9fe:a9fe",
            "2002:7f00:1::",
            "2001:0:1::80ff:fffe",
            "64:ff9b::a09:909",
        ] {
            assert!(!allowed(address, &[]), "{address}");
        }
    }

    #[test]
    fn other_places_and_what_the_service_lists() {
        for address in [
            "10.0.0.5",
            "192.168.1.1",
            "8.8.8.8",
            "2001:db8::1",
            "fd12::1",
            "64:ff9b::a00:5",
        ] {
            assert!(allowed(address, &[]), "{address}");
        }
        assert!(allowed("127.0.0.1", &["127.0.0.0/8"]));
        assert!(allowed("::ffff:127.0.0.1", &["127.0.0.1/32"]));
        assert!(allowed("::1", &["::1/128"]));
        assert!(!allowed("127.0.0.1", &["10.0.0.0/8"]));
    }
}
