//! Hosts, servers and host patterns: how they are written and what they match.
//!
//! A host name is kept lower-case and without a trailing dot, an address in its canonical form (an
//! IPv4 address that was written as `::ffff:10.0.0.5` is `10.0.0.5`), so that two spellings of one
//! host cannot fall under different rules.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

use crate::limits::{HOST_LABEL_MAX, HOST_NAME_MAX};

/// A host as a rule, a server list or a tunnel request names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A literal address in its canonical form.
    Ip(IpAddr),
    /// A host name: lower-case, no trailing dot.
    Name(String),
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// The host.
    pub host: Host,
    /// The port, not 0.
    pub port: u16,
}

/// Which hosts a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// Each host, by name or by address.
    Any,
    /// This name; lower-case.
    Exact(String),
    /// Each name below this one, by whole labels; lower-case, without `*.`. Not the name itself.
    Suffix(String),
    /// Each literal address in this network. A name never matches, whatever it resolves to.
    Net(IpNet),
}

/// Why a text is not a host, a server or a host pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing there.
    #[error("the host is empty")]
    Empty,
    /// More than a host name may have.
    #[error("the host name is longer than {HOST_NAME_MAX} bytes")]
    NameTooLong,
    /// A label is empty, too long, or begins or ends with a hyphen.
    #[error(
        "a label of the host name is empty, longer than {HOST_LABEL_MAX} bytes, or begins or ends with a hyphen"
    )]
    Label,
    /// Something that no host name has.
    #[error(
        "the host name has a character other than a-z, 0-9, hyphen, underscore and dot (write other scripts as xn--...)"
    )]
    Character,
    /// Ends like a number, but is no address. Resolvers read such names as old spellings of IPv4
    /// addresses (`127.1`, `0x7f.1`), which would lead around rules that are about addresses.
    #[error("it looks like an address, but is not valid")]
    AlmostAddress,
    /// No port.
    #[error("the port is missing")]
    PortMissing,
    /// A port that is no number from 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// An IPv6 address with a port, and no brackets.
    #[error("an IPv6 address with a port needs brackets, as in [2001:db8::1]:443")]
    Brackets,
    /// An IPv6 address with a zone, as in `fe80::1%eth0`.
    #[error(
        "an address with a zone (%INTERFACE) leads to one link of one machine, and cannot be used here"
    )]
    Zone,
    /// A `*` that is not the whole first label.
    #[error("a wildcard stands for whole labels, and only at the start")]
    Wildcard,
    /// Not a network.
    #[error("it is not a network in CIDR notation")]
    Cidr,
    /// A network with bits set beyond its prefix.
    #[error("the network has bits set beyond its prefix; the network is {0}")]
    HostBits(IpNet),
}

impl FromStr for Host {
    type Err = AddressError;

    /// Reads a name or a literal address, IPv6 without brackets.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Ip(address.to_canonical()));
        }
        if has_zone(text) {
            return Err(AddressError::Zone);
        }
        host_name(text).map(Self::Name)
    }
}

/// Returns whether this is an IPv6 address with a zone (RFC 4007, section 11.2), also in brackets
/// and with a prefix length.
pub(super) fn has_zone(text: &str) -> bool {
    let address = text.trim_start_matches('[').split('%').next();
    text.contains('%') && address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
}

/// Checks and normalises a host name: the letters, digits and hyphens of RFC 1123 section 2.1, and
/// the underscore that some deployments have.
fn host_name(text: &str) -> Result<String, AddressError> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() {
        return Err(AddressError::Empty);
    }
    if text.len() > HOST_NAME_MAX {
        return Err(AddressError::NameTooLong);
    }
    if !text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    {
        return Err(AddressError::Character);
    }
    let label_is_right = |label: &str| {
        (1..=HOST_LABEL_MAX).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if !text.split('.').all(label_is_right) {
        return Err(AddressError::Label);
    }
    let name = text.to_ascii_lowercase();
    let last = name.rsplit('.').next().unwrap_or(&name);
    let hexadecimal = last
        .strip_prefix("0x")
        .is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    if hexadecimal || last.bytes().all(|b| b.is_ascii_digit()) {
        return Err(AddressError::AlmostAddress);
    }
    Ok(name)
}

impl FromStr for HostPort {
    type Err = AddressError;

    /// Reads `name:port`, `10.0.0.5:443` or `[2001:db8::1]:443`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (inner, after) = rest.split_once(']').ok_or(AddressError::Brackets)?;
            if has_zone(inner) {
                return Err(AddressError::Zone);
            }
            let address: Ipv6Addr = inner.parse().map_err(|_| AddressError::Brackets)?;
            let port = after.strip_prefix(':').ok_or(AddressError::PortMissing)?;
            (Host::Ip(IpAddr::V6(address).to_canonical()), port)
        } else {
            let (host, port) = text.rsplit_once(':').ok_or(AddressError::PortMissing)?;
            if has_zone(host) {
                return Err(AddressError::Zone);
            }
            if host.contains(':') {
                return Err(AddressError::Brackets);
            }
            (host.parse()?, port)
        };
        // Digits only: the standard parser would also take "+443".
        if !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(AddressError::Port);
        }
        match port.parse() {
            Ok(0) | Err(_) => Err(AddressError::Port),
            Ok(port) => Ok(Self { host, port }),
        }
    }
}

impl FromStr for HostPattern {
    type Err = AddressError;

    /// Reads `*`, `*.corp.example.com`, `wiki.corp.example.com`, `10.0.0.0/8` or a literal address.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if text.contains('/') {
            return network(text).map(Self::Net);
        }
        if let Some(suffix) = text.strip_prefix("*.") {
            return if suffix.contains('*') {
                Err(AddressError::Wildcard)
            } else {
                host_name(suffix).map(Self::Suffix)
            };
        }
        if text.contains('*') {
            return Err(AddressError::Wildcard);
        }
        Ok(match text.parse()? {
            Host::Ip(address) => Self::Net(IpNet::from(address)),
            Host::Name(name) => Self::Exact(name),
        })
    }
}

/// Reads a network in CIDR notation, or a single address. A network inside `::ffff:0:0/96` is given
/// as the IPv4 network that it is.
pub(super) fn network(text: &str) -> Result<IpNet, AddressError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address.to_canonical()));
    }
    if has_zone(text) {
        return Err(AddressError::Zone);
    }
    let net: IpNet = text.parse().map_err(|_| AddressError::Cidr)?;
    if net.addr() != net.network() {
        return Err(AddressError::HostBits(net.trunc()));
    }
    match (
        net.network().to_canonical(),
        net.prefix_len().checked_sub(96),
    ) {
        (address @ IpAddr::V4(_), Some(prefix)) if net.network().is_ipv6() => {
            IpNet::new(address, prefix).map_err(|_| AddressError::Cidr)
        }
        _ => Ok(net),
    }
}

impl HostPattern {
    /// Returns whether `host` falls under the pattern. Allocates nothing.
    pub fn matches(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Any, _) => true,
            (Self::Exact(wanted), Host::Name(name)) => wanted == name,
            (Self::Suffix(suffix), Host::Name(name)) => name
                .strip_suffix(suffix.as_str())
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|rest| !rest.is_empty()),
            (Self::Net(net), Host::Ip(address)) => net.contains(&address.to_canonical()),
            (Self::Exact(_) | Self::Suffix(_), Host::Ip(_)) | (Self::Net(_), Host::Name(_)) => {
                false
            }
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(name) => name.fmt(f),
            Self::Suffix(suffix) => write!(f, "*.{suffix}"),
            Self::Net(net) => net.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        text.parse().unwrap()
    }

    fn pattern(text: &str) -> HostPattern {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_normalised() {
        assert_eq!(
            host("Wiki.Corp.Example.COM."),
            Host::Name("wiki.corp.example.com".into())
        );
        assert_eq!(host("_srv.x-1.local"), Host::Name("_srv.x-1.local".into()));
        assert_eq!(host("::ffff:10.0.0.5"), host("10.0.0.5"));
    }

    #[test]
    fn what_is_no_host() {
        let cases = [
            ("", AddressError::Empty),
            (".", AddressError::Empty),
            ("a..b", AddressError::Label),
            (".a", AddressError::Label),
            ("a..", AddressError::Label),
            ("-a.b", AddressError::Label),
            ("a-.b", AddressError::Label),
            ("a b", AddressError::Character),
            ("user@host", AddressError::Character),
            ("bücher.example", AddressError::Character),
            ("a\0b", AddressError::Character),
            ("127.1", AddressError::AlmostAddress),
            ("0x7f.0x1", AddressError::AlmostAddress),
            ("0X7F000001", AddressError::AlmostAddress),
            ("0x", AddressError::AlmostAddress),
            ("2130706433", AddressError::AlmostAddress),
            ("10.0.0.300", AddressError::AlmostAddress),
            ("010.0.0.1", AddressError::AlmostAddress),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Host>(), Err(error), "{text:?}");
        }
        assert_eq!("a".repeat(64).parse::<Host>(), Err(AddressError::Label));
        assert!("a".repeat(63).parse::<Host>().is_ok());
        let long = vec!["a".repeat(63); 4].join(".");
        assert_eq!(long.parse::<Host>(), Err(AddressError::NameTooLong));
        assert!(long[2..].parse::<Host>().is_ok());
    }

    #[test]
    fn servers_read_and_print_alike() {
        for text in ["wiki.corp:443", "10.0.0.5:1", "[2001:db8::1]:65535"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        assert_eq!(
            "[::ffff:10.0.0.5]:443"
                .parse::<HostPort>()
                .unwrap()
                .to_string(),
            "10.0.0.5:443"
        );
    }

    #[test]
    fn what_is_no_server() {
        let cases = [
            ("wiki", AddressError::PortMissing),
            ("[::1]", AddressError::PortMissing),
            ("[::1]443", AddressError::PortMissing),
            ("::1:443", AddressError::Brackets),
            ("[::1:443", AddressError::Brackets),
            ("[fe80::1%eth0]:443", AddressError::Zone),
            ("[fe80::1%2]:443", AddressError::Zone),
            ("fe80::1%eth0:443", AddressError::Zone),
            ("[wiki]:443", AddressError::Brackets),
            ("wiki:", AddressError::Port),
            ("wiki:0", AddressError::Port),
            ("wiki:65536", AddressError::Port),
            ("wiki:+443", AddressError::Port),
            ("wiki:https", AddressError::Port),
            (":443", AddressError::Empty),
            ("https://wiki:443", AddressError::Brackets),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<HostPort>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_suffix_matches_whole_labels_below_it_only() {
        let suffix = pattern("*.Corp.example.com");
        assert!(suffix.matches(&host("wiki.corp.example.com")));
        assert!(suffix.matches(&host("a.b.CORP.example.com.")));
        for other in [
            "corp.example.com",
            "xcorp.example.com",
            "corp.example.com.evil.org",
            "com",
            "10.0.0.1",
        ] {
            assert!(!suffix.matches(&host(other)), "{other}");
        }
        // Not reachable through `Host`'s parser, but the field is public.
        assert!(!suffix.matches(&Host::Name(".corp.example.com".into())));
    }

    #[test]
    fn a_network_matches_literal_addresses_only() {
        let net = pattern("10.0.0.0/8");
        assert!(net.matches(&host("10.255.0.1")));
        assert!(net.matches(&Host::Ip("::ffff:10.0.0.5".parse().unwrap())));
        assert!(!net.matches(&host("11.0.0.1")));
        assert!(!net.matches(&host("ten.example")));
        assert_eq!(pattern("10.0.0.5"), pattern("10.0.0.5/32"));
        assert_eq!(pattern("::ffff:10.0.0.0/104"), net);
        assert!(pattern("2001:db8::/32").matches(&host("2001:db8::7")));
        assert!(pattern("0.0.0.0/0").matches(&host("1.2.3.4")));
        assert!(!pattern("::/0").matches(&host("1.2.3.4")));
    }

    #[test]
    fn any_and_exact() {
        assert!(pattern("*").matches(&host("x")) && pattern("*").matches(&host("::1")));
        assert!(pattern("X.y").matches(&host("x.Y")));
        assert!(!pattern("x.y").matches(&host("a.x.y")));
    }

    #[test]
    fn what_is_no_pattern() {
        let cases = [
            ("a*.b", AddressError::Wildcard),
            ("*a.b", AddressError::Wildcard),
            ("a.*.b", AddressError::Wildcard),
            ("*.*.b", AddressError::Wildcard),
            ("**", AddressError::Wildcard),
            ("*.", AddressError::Empty),
            ("*.10.0.0.1", AddressError::AlmostAddress),
            ("fe80::1%eth0", AddressError::Zone),
            ("fe80::%eth0/64", AddressError::Zone),
            ("10.0.0.0/33", AddressError::Cidr),
            ("wiki/8", AddressError::Cidr),
            (
                "10.0.0.5/8",
                AddressError::HostBits("10.0.0.0/8".parse().unwrap()),
            ),
            ("", AddressError::Empty),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<HostPattern>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn patterns_print_as_they_are_written() {
        for text in ["*", "*.a.b", "a.b", "10.0.0.0/8"] {
            assert_eq!(pattern(text).to_string(), text);
        }
    }
}
