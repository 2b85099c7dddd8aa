//! Documents that make a device use this gateway: a configuration profile for Apple's network relay (`.mobileconfig`, with
//! the certificates that it needs), the same as a declaration for declarative device management, and a PAC file for
//! browsers.
//!
//! Key names and types are those that Apple publishes (github.com/apple/device-management: `mdm/profiles` and
//! `declarative/declarations`). Every identifier is made from the gateway's address, the profile's name and the part that
//! it is for (UUIDs of version 5, RFC 9562, section 5.5), so that a new document replaces the old one on a device.
//!
//! Nothing here reads a config: who calls says where the gateway is and what is reached through it.

use ipnet::IpNet;
use plist::{Dictionary, Value};
use rustls_pki_types::CertificateDer;
use serde_json::json;
use uuid::Uuid;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::chain::is_self_issued;
use super::describe::escaped;
use crate::asn1::Reader;
use crate::asn1::tag::SEQUENCE;

/// Who the documents are about.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// Host and port, as a URL has them: IPv6 in brackets.
    pub authority: String,
    /// Name of the gateway's profile.
    pub name: String,
    /// Name shown on devices.
    pub display_name: String,
    /// Which app the documents are for; `None` for all.
    pub app: Option<String>,
}

/// Destinations that are reached through the gateway.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// These domains and all below them; empty for everything.
    pub domains: Vec<String>,
    /// These domains and all below them do not.
    pub excluded: Vec<String>,
}

/// Settings of the relay.
#[derive(Debug, Clone)]
pub struct Relay {
    /// Destinations that are reached through it.
    pub reach: Reach,
    /// Header fields of each request.
    pub headers: Vec<(String, String)>,
    /// The user may switch it off.
    pub toggle: bool,
    /// Names that the relay cannot resolve are asked of the system's resolver.
    pub dns_failover: bool,
}

/// How a device gets its identity certificate.
pub enum Identity {
    /// It is in the profile.
    Pkcs12 {
        /// The file's content.
        content: Vec<u8>,
        /// Its password, for a device that must not ask for it.
        password: Option<String>,
    },
    /// The device asks a certification authority (SCEP, RFC 8894).
    Scep(Scep),
}

/// An enrolment with SCEP.
pub struct Scep {
    /// Of the authority.
    pub url: String,
    /// Of the authority's certificate, where it has several.
    pub name: Option<String>,
    /// Attribute and value, in order, such as `O` and `Example`.
    pub subject: Vec<(String, String)>,
    /// Challenge by which the authority recognizes the device.
    pub challenge: Option<String>,
}

/// Types of payloads with one certificate in DER: one that is to be trusted, and one that is only to be known.
const ROOT: &str = "com.apple.security.root";
const INTERMEDIATE: &str = "com.apple.security.pkcs1";

/// Bits of the RSA key that a device makes for SCEP.
const SCEP_KEY_BITS: i64 = 2048;
/// Signing and encryption.
const SCEP_KEY_USAGE: i64 = 5;

impl Gateway {
    /// The gateway at this host (an IPv6 address without brackets) and port, of the profile of this name. Documents are for
    /// all apps.
    #[must_use]
    pub fn new(host: &str, port: u16, name: &str, description: &str) -> Self {
        let authority = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        let display_name = match description {
            "" => format!("{name} tunnel"),
            description => description.to_owned(),
        };
        Self {
            authority,
            name: name.to_owned(),
            display_name,
            app: None,
        }
    }

    /// The URL of the relay.
    fn url(&self) -> String {
        format!("https://{}/", self.authority)
    }

    /// The identifier of one part of the documents.
    #[must_use]
    pub fn uuid(&self, part: &str) -> String {
        let gateway = Uuid::new_v5(&Uuid::NAMESPACE_URL, self.url().as_bytes());
        // No name has a zero byte: two triples never give one text.
        let app = self.app.as_deref().unwrap_or_default();
        let name = format!("{}\0{app}\0{part}", self.name);
        let uuid = Uuid::new_v5(&gateway, name.as_bytes());
        uuid.hyphenated().to_string().to_ascii_uppercase()
    }

    /// In the style of reverse DNS, as Apple asks for.
    fn identifier(&self, part: &str) -> String {
        let host = self.authority.rsplit_once(':').map_or("", |(host, _)| host);
        let is_name = host.contains(|c: char| c.is_ascii_alphabetic()) && !host.starts_with('[');
        let mut labels: Vec<&str> = if is_name {
            host.rsplit('.').collect()
        } else {
            vec!["adit", host]
        };
        labels.push(&self.name);
        labels.extend(self.app.as_deref());
        labels.extend((!part.is_empty()).then_some(part));
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || ".-".contains(c) {
                c
            } else {
                '-'
            }
        };
        labels.join(".").chars().map(plain).collect()
    }

    /// Returns what every payload has.
    fn payload(&self, kind: &str, part: &str, display_name: &str) -> Dictionary {
        let mut payload = Dictionary::new();
        payload.insert("PayloadType".into(), kind.into());
        payload.insert("PayloadVersion".into(), 1.into());
        payload.insert("PayloadIdentifier".into(), self.identifier(part).into());
        payload.insert("PayloadUUID".into(), self.uuid(part).into());
        payload.insert("PayloadDisplayName".into(), display_name.into());
        payload
    }

    /// The configuration profile, as an XML property list.
    ///
    /// # Errors
    /// [`plist::Error`], if memory ends.
    pub fn mobileconfig(
        &self,
        relay: &Relay,
        roots: &[CertificateDer<'_>],
        identity: Option<&Identity>,
    ) -> Result<Vec<u8>, plist::Error> {
        let mut payloads = vec![Value::Dictionary(self.relay(relay, identity.is_some()))];
        payloads.extend(identity.map(|identity| self.identity(identity).into()));
        for (at, root) in roots.iter().enumerate() {
            let mut payload = self.payload(ROOT, &format!("root-{at}"), "Gateway's authority");
            payload.insert("PayloadContent".into(), Value::Data(root.to_vec()));
            payloads.push(payload.into());
        }
        self.configuration("", &self.display_name, payloads)
    }

    /// A configuration profile with certificates alone, to be given to devices by whatever manages them. `part` tells apart
    /// what is exported from one gateway; self-issued certificates become roots, others are only made known.
    ///
    /// # Errors
    /// [`plist::Error`], if memory ends.
    pub fn trust(
        &self,
        part: &str,
        certificates: &[CertificateDer<'_>],
    ) -> Result<Vec<u8>, plist::Error> {
        let all = certificates.iter().enumerate();
        let payloads = all.map(|(at, der)| {
            let (kind, subject) = match X509Certificate::from_der(der) {
                Ok((_, parsed)) if is_self_issued(&parsed) => (ROOT, parsed.subject().to_string()),
                Ok((_, parsed)) => (INTERMEDIATE, parsed.subject().to_string()),
                Err(_) => (INTERMEDIATE, part.to_owned()),
            };
            let mut payload = self.payload(kind, &format!("{part}.{at}"), &escaped(&subject));
            payload.insert("PayloadContent".into(), Value::Data(der.to_vec()));
            Value::Dictionary(payload)
        });
        let title = format!("{}: certificates", self.display_name);
        self.configuration(part, &title, payloads.collect())
    }

    fn configuration(
        &self,
        part: &str,
        title: &str,
        payloads: Vec<Value>,
    ) -> Result<Vec<u8>, plist::Error> {
        let mut profile = self.payload("Configuration", part, title);
        profile.insert("PayloadContent".into(), Value::Array(payloads));
        let mut text = Vec::new();
        plist::to_writer_xml(&mut text, &profile)?;
        text.push(b'\n');
        Ok(text)
    }

    fn relay(&self, relay: &Relay, has_identity: bool) -> Dictionary {
        let mut server = Dictionary::new();
        server.insert("HTTP2RelayURL".into(), self.url().into());
        if has_identity {
            server.insert(
                "PayloadCertificateUUID".into(),
                self.uuid("identity").into(),
            );
        }
        if !relay.headers.is_empty() {
            let fields = relay.headers.iter().cloned();
            let fields: Dictionary = fields
                .map(|(name, value)| (name, Value::from(value)))
                .collect();
            server.insert("AdditionalHTTPHeaderFields".into(), fields.into());
        }
        let mut payload = self.payload("com.apple.relay.managed", "relay", &self.display_name);
        payload.insert("Relays".into(), Value::Array(vec![server.into()]));
        for (key, domains) in [
            ("MatchDomains", &relay.reach.domains),
            ("ExcludedDomains", &relay.reach.excluded),
        ] {
            if !domains.is_empty() {
                let domains = domains.iter().map(|domain| domain.as_str().into());
                payload.insert(key.into(), Value::Array(domains.collect()));
            }
        }
        payload.insert("RelayUUID".into(), self.uuid("relay-group").into());
        payload.insert("UIToggleEnabled".into(), relay.toggle.into());
        payload.insert("AllowDNSFailover".into(), relay.dns_failover.into());
        payload
    }

    fn identity(&self, identity: &Identity) -> Dictionary {
        match identity {
            Identity::Pkcs12 { content, password } => {
                let kind = "com.apple.security.pkcs12";
                let mut payload = self.payload(kind, "identity", "Identity");
                payload.insert("PayloadContent".into(), Value::Data(content.clone()));
                if let Some(password) = password {
                    payload.insert("Password".into(), password.as_str().into());
                }
                payload
            }
            Identity::Scep(scep) => {
                let mut content = Dictionary::new();
                content.insert("URL".into(), scep.url.as_str().into());
                for (key, value) in [("Name", &scep.name), ("Challenge", &scep.challenge)] {
                    if let Some(value) = value {
                        content.insert(key.into(), value.as_str().into());
                    }
                }
                let one = |(attribute, value): &(String, String)| {
                    let pair = vec![attribute.as_str().into(), value.as_str().into()];
                    Value::Array(vec![Value::Array(pair)])
                };
                if !scep.subject.is_empty() {
                    let subject = scep.subject.iter().map(one).collect();
                    content.insert("Subject".into(), Value::Array(subject));
                }
                content.insert("Key Type".into(), "RSA".into());
                content.insert("Keysize".into(), SCEP_KEY_BITS.into());
                content.insert("Key Usage".into(), SCEP_KEY_USAGE.into());
                let mut payload = self.payload("com.apple.security.scep", "identity", "Identity");
                payload.insert("PayloadContent".into(), content.into());
                payload
            }
        }
    }

    /// The declaration `com.apple.configuration.network.relay`, as JSON. `credential`: the identifier of the asset
    /// declaration with the device's identity. The server's token changes with the payload, and with nothing else.
    #[must_use]
    pub fn declaration(&self, relay: &Relay, credential: Option<&str>) -> String {
        let mut server = json!({ "HTTP2RelayURL": self.url() });
        if let Some(credential) = credential {
            server["CredentialAssetReference"] = credential.into();
        }
        if !relay.headers.is_empty() {
            let fields = relay.headers.iter().cloned();
            let fields = fields.map(|(name, value)| (name, value.into()));
            server["AdditionalHTTPHeaderFields"] = serde_json::Value::Object(fields.collect());
        }
        let mut payload = json!({
            "VisibleName": self.display_name,
            "Relays": [server],
            "RelayUUID": self.uuid("relay-group"),
            "UIToggleEnabled": relay.toggle,
            "AllowDNSFailover": relay.dns_failover,
        });
        for (key, domains) in [
            ("MatchDomains", &relay.reach.domains),
            ("ExcludedDomains", &relay.reach.excluded),
        ] {
            if !domains.is_empty() {
                payload[key] = domains.as_slice().into();
            }
        }
        let declaration = json!({
            "Type": "com.apple.configuration.network.relay",
            "Identifier": self.uuid("declaration"),
            "ServerToken": self.uuid(&payload.to_string()),
            "Payload": payload,
        });
        format!("{declaration:#}\n")
    }
}

/// Which hosts a line of a PAC file is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PacHosts {
    /// All.
    Any,
    /// One name.
    Name(String),
    /// Every name below this one, by whole labels.
    Below(String),
    /// The literal addresses of a network.
    Network(IpNet),
}

/// Hosts and ports that a browser reaches through the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacRule {
    /// Which hosts.
    pub hosts: PacHosts,
    /// Which ports; `None` for any.
    pub ports: Option<Vec<u16>>,
}

/// A PAC file that sends what a rule is about to the gateway, and everything else on its usual way. IPv6 networks cannot be
/// told in one: they are left out.
#[must_use]
pub fn pac(authority: &str, rules: &[PacRule]) -> String {
    let mut lines = String::new();
    for PacRule { hosts, ports } in rules {
        let host = match hosts {
            PacHosts::Any => "true".to_owned(),
            PacHosts::Name(name) => format!("host === {}", json!(name)),
            PacHosts::Below(name) => format!("below({})", json!(name)),
            PacHosts::Network(IpNet::V4(net)) => format!(
                "literal && isInNet(host, {}, {})",
                json!(net.network()),
                json!(net.netmask())
            ),
            PacHosts::Network(IpNet::V6(_)) => continue,
        };
        let port = ports.as_ref().map_or(String::new(), |ports| {
            format!(" && {}.indexOf(port) >= 0", json!(ports))
        });
        lines.push_str(&format!("  if ({host}{port}) return gateway;\n"));
    }
    format!(
        r#"function FindProxyForURL(url, host) {{
  var gateway = {};
  host = host.toLowerCase().replace(/\.$/, "");
  var literal = /^\d+\.\d+\.\d+\.\d+$/.test(host);
  var parts = /^([a-z]+):\/\/[^\/?#]*?(?::(\d+))?(?:[\/?#]|$)/i.exec(url) || [];
  var usual = {{ http: 80, ws: 80, https: 443, wss: 443, ftp: 21 }};
  var port = parts[2] ? +parts[2] : usual[(parts[1] || "").toLowerCase()];
  function below(name) {{
    return host.length > name.length + 1 && host.slice(-name.length - 1) === "." + name;
  }}
{lines}  return "DIRECT";
}}
"#,
        json!(format!("HTTPS {authority}; DIRECT"))
    )
}

/// Returns whether this looks like a PKCS#12 file: PFX, version 3 (RFC 7292, section 4), whole.
/// What is in it is not looked at.
#[must_use]
pub fn is_pkcs12(content: &[u8]) -> bool {
    const VERSION: [u8; 3] = [2, 1, 3];
    // BER is common here: the outer length may be indefinite.
    let file = Reader::ber(content);
    let is_whole = file
        .length()
        .is_none_or(|length| length == content.len() as u64);
    let inside = file.open(SEQUENCE);
    is_whole && inside.is_some_and(|inside| inside.rest().starts_with(&VERSION))
}
