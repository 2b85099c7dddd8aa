//! The listeners: which there are, and what stands in front of them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;

use super::error::{Fault, Location, Report, quoted};
use super::raw::RawListener;
use super::values::{listen_address, networks, word};
use crate::limits::HEALTH_PATH_MAX;

/// Listeners for sessions, and the trusted proxies before them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Address of the TLS listener. At least one of `https` and `http` is there; port 0 lets the
    /// kernel choose.
    pub https: Option<SocketAddr>,
    /// Address of the plain listener, for trusted proxies that end TLS. Not the address of `https`.
    pub http: Option<SocketAddr>,
    /// Use of the PROXY protocol on accepted connections.
    pub proxy_protocol: ProxyProtocol,
    /// Who may send PROXY protocol headers and use the plain listener; not empty where either is
    /// asked for.
    pub trusted_proxies: Vec<IpNet>,
    /// Source of the client's certificate on the plain listener.
    pub client_identity: ClientIdentity,
    /// Path of a health check on the plain listener; an absolute path.
    pub health_path: Option<String>,
    /// Who may ask for it beside the trusted proxies.
    pub health_from: Vec<IpNet>,
}

/// The two listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerKind {
    /// TLS ends here.
    Https,
    /// TLS has ended at a trusted proxy.
    Http,
}

impl fmt::Display for ListenerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Https => "https",
            Self::Http => "http",
        })
    }
}

/// Use of the PROXY protocol on accepted connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// None does.
    Off,
    /// Those of trusted proxies may.
    Optional,
    /// All do, and come from trusted proxies.
    Required,
}

/// Source of the client's certificate on the plain listener. Exactly one place counts: what stands
/// in another may be of the client's own making.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientIdentity {
    /// The header fields `Client-Cert` and `Client-Cert-Chain` (RFC 9440).
    ClientCert,
    /// The last element of `X-Forwarded-Client-Cert`, as Envoy writes it.
    Xfcc,
    /// The certificate in the values of a PROXY protocol header, version 2.
    ProxyV2,
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            https: Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8443))),
            http: None,
            proxy_protocol: ProxyProtocol::Off,
            trusted_proxies: Vec::new(),
            client_identity: ClientIdentity::ClientCert,
            health_path: None,
            health_from: Vec::new(),
        }
    }
}

impl Listener {
    /// The addresses to listen on.
    pub fn addresses(&self) -> impl Iterator<Item = (ListenerKind, SocketAddr)> {
        let https = self.https.map(|address| (ListenerKind::Https, address));
        let http = self.http.map(|address| (ListenerKind::Http, address));
        https.into_iter().chain(http)
    }

    /// Returns whether `address` is a trusted proxy's.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        is_in(&self.trusted_proxies, address)
    }

    /// These settings, without the trust in those whom `other` does not trust.
    #[must_use]
    pub fn trusting_as(&self, other: &Self) -> Self {
        let both = |own: &[IpNet], others: &[IpNet]| -> Vec<IpNet> {
            // Of two networks one is in the other, or they have nothing in common.
            let common = |one: &IpNet, other: &IpNet| match one.contains(other) {
                true => Some(*other),
                false => other.contains(one).then_some(*one),
            };
            let pairs = own
                .iter()
                .flat_map(|one| others.iter().map(move |other| (one, other)));
            pairs
                .filter_map(|(one, other)| common(one, other))
                .collect()
        };
        Self {
            trusted_proxies: both(&self.trusted_proxies, &other.trusted_proxies),
            ..self.clone()
        }
    }

    /// Returns whether `address` may ask for the health page.
    #[must_use]
    pub fn may_check(&self, address: IpAddr) -> bool {
        self.health_path.is_some() && (self.trusts(address) || is_in(&self.health_from, address))
    }
}

/// An IPv4 address that a socket of IPv6 gives is the IPv4 address.
fn is_in(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// The listeners of a profile.
pub(super) fn listener(raw: RawListener, report: &mut Report) -> Listener {
    use ListenerKind::{Http, Https};
    let places = Places {
        protocol: raw.protocol.place.clone(),
        http: raw.http.place.clone(),
        proxy_protocol: raw.proxy_protocol.place.clone(),
        client_identity: raw.client_identity.place.clone(),
        health_path: raw.health_path.place.clone(),
        health_from: raw.health_from.place.clone(),
    };
    let kinds: &[ListenerKind] = raw
        .protocol
        .parse(report, |text| {
            let known: [(&str, &[ListenerKind]); 3] = [
                ("https", &[Https]),
                ("http", &[Http]),
                ("both", &[Https, Http]),
            ];
            word(&text, &known)
        })
        .or(&[Https]);
    let https = raw
        .https
        .parse(report, |text| listen_address(&text, "0.0.0.0:8443"))
        .or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8443)));
    let http = raw
        .http
        .parse(report, |text| listen_address(&text, "0.0.0.0:8080"))
        .or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080)));
    let proxy_protocol = raw
        .proxy_protocol
        .parse(report, |text| word(&text, &PROXY_PROTOCOL))
        .or(ProxyProtocol::Off);
    let listener = Listener {
        https: kinds.contains(&Https).then_some(https),
        http: kinds.contains(&Http).then_some(http),
        proxy_protocol,
        trusted_proxies: networks(raw.trusted_proxies, report),
        client_identity: raw
            .client_identity
            .parse(report, |text| word(&text, &CLIENT_IDENTITY))
            .or(ClientIdentity::ClientCert),
        health_path: raw.health_path.parse(report, health_path).given(),
        health_from: networks(raw.health_from, report),
    };
    check(&listener, &places, report);
    listener
}

/// Positions of keys that can contradict each other.
struct Places {
    protocol: Location,
    http: Location,
    proxy_protocol: Location,
    client_identity: Location,
    health_path: Location,
    health_from: Location,
}

/// Refuses what would be open to the wrong ones, or do nothing.
fn check(listener: &Listener, places: &Places, report: &mut Report) {
    let mut problem = |place: &Location, message: &str, remedy: &str| {
        report.add(place, Fault::new(message, remedy));
    };
    const TRUST: &str = "list their networks, as in trusted_proxies = [\"10.0.0.0/24\"]";
    if listener.http.is_some() && listener.trusted_proxies.is_empty() {
        let message =
            "the plain listener is for trusted proxies alone, and trusted_proxies is empty";
        problem(&places.protocol, message, TRUST);
    } else if listener.proxy_protocol != ProxyProtocol::Off && listener.trusted_proxies.is_empty() {
        let message =
            "PROXY protocol is taken from trusted proxies alone, and trusted_proxies is empty";
        problem(&places.proxy_protocol, message, TRUST);
    }
    if listener.https.is_some()
        && listener.http == listener.https
        && listener.https.is_some_and(|address| address.port() != 0)
    {
        let message = "both listeners have the same address";
        problem(&places.http, message, "give http another port");
    }
    if listener.client_identity == ClientIdentity::ProxyV2
        && listener.proxy_protocol != ProxyProtocol::Required
    {
        let message =
            "the certificate is expected in a PROXY protocol header, which is not required";
        problem(
            &places.client_identity,
            message,
            "write proxy_protocol = \"required\"",
        );
    }
    if listener.health_path.is_some() && listener.http.is_none() {
        let message = "the plain listener answers health checks, but it is not open";
        problem(
            &places.health_path,
            message,
            "write protocol = \"both\", or let the check open a TCP connection to the https listener",
        );
    }
    if !listener.health_from.is_empty() && listener.health_path.is_none() {
        let message = "it has no effect without health_path";
        problem(
            &places.health_from,
            message,
            "write health_path = \"/health\", or leave the key out",
        );
    }
}

const PROXY_PROTOCOL: [(&str, ProxyProtocol); 3] = [
    ("off", ProxyProtocol::Off),
    ("optional", ProxyProtocol::Optional),
    ("required", ProxyProtocol::Required),
];

const CLIENT_IDENTITY: [(&str, ClientIdentity); 3] = [
    ("client-cert", ClientIdentity::ClientCert),
    ("xfcc", ClientIdentity::Xfcc),
    ("proxy-v2", ClientIdentity::ProxyV2),
];

/// An absolute path of visible ASCII characters, without a query.
fn health_path(text: String) -> Result<String, Fault> {
    let visible = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
    if text.starts_with('/') && text.len() <= HEALTH_PATH_MAX && text.bytes().all(visible) {
        return Ok(text);
    }
    Err(Fault::new(
        format!("{} is not an absolute path without a query", quoted(&text)),
        "write one, as in \"/health\"",
    ))
}

/// The words of `adit check`.
pub(super) fn summary(listener: &Listener) -> String {
    let mut text: Vec<String> = listener
        .addresses()
        .map(|(kind, address)| match kind {
            ListenerKind::Https => format!("https {address}"),
            ListenerKind::Http => format!(
                "http {address} (certificate by {})",
                named(&CLIENT_IDENTITY, listener.client_identity)
            ),
        })
        .collect();
    if listener.proxy_protocol != ProxyProtocol::Off {
        text.push(format!(
            "PROXY protocol {}",
            named(&PROXY_PROTOCOL, listener.proxy_protocol)
        ));
    }
    if !listener.trusted_proxies.is_empty() {
        let networks: Vec<String> = listener
            .trusted_proxies
            .iter()
            .map(IpNet::to_string)
            .collect();
        text.push(format!("proxies {}", networks.join(" ")));
    }
    text.join(", ")
}

fn named<T: PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    words
        .iter()
        .find(|(_, known)| *known == value)
        .map_or("", |(word, _)| word)
}
