//! Services that TLS sessions reach by their name (SNI) alone.

use std::collections::HashMap;

use super::address::HostPattern;
use super::certificate_files::{CertificateFiles, optional_certificate};
use super::error::{Fault, Location, Report, quoted};
use super::raw::RawSni;
use super::slot::{List, Slot};
use super::values::{Folder, address_fault, without_repetition};
use crate::limits::ALPN_NAME_MAX;

/// Names under which a session is a tunnel to a service, without a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sni {
    /// Names, and wildcards for all names below one; at least one, none of another service, and
    /// none that covers the name that devices open tunnels to.
    pub names: Vec<HostPattern>,
    /// The certificate that the gateway shows under these names, if it is not the profile's.
    pub certificate: Option<CertificateFiles>,
    /// ALPN protocols, in order of preference. The gateway ends TLS, so it has to know.
    pub protocols: Vec<String>,
}

/// The names of the services so far, with the line of each, and what no service may have.
pub(super) struct SniNames<'a> {
    pub(super) folder: &'a Folder,
    /// The name that devices open tunnels to.
    pub(super) external: &'a str,
    pub(super) seen: HashMap<HostPattern, Location>,
}

impl SniNames<'_> {
    /// The names of a service; `None` where it has none.
    pub(super) fn of(&mut self, raw: RawSni, special: bool, report: &mut Report) -> Option<Sni> {
        if raw.names.written().is_none() {
            let protocols = raw.protocols.written();
            let others = [raw.certificate.written(), raw.key.written(), protocols];
            for place in others.into_iter().flatten() {
                let message = "is for sessions by name, but the service has no sni";
                let remedy = "add sni = [\"git.corp.example.com\"], or leave the key out";
                report.add(place, Fault::new(message, remedy));
            }
            return None;
        }
        if special {
            let message = "a service with a special name dials what the app asks for, and these sessions ask for nothing";
            report.add(
                &raw.names.place,
                Fault::new(message, "give the service a name and servers of its own"),
            );
        }
        let names = self.names(raw.names, report);
        let key = "sni_certificate";
        let certificate = optional_certificate(key, raw.certificate, raw.key, self.folder, report);
        let protocols = protocols(raw.protocols, report);
        Some(Sni {
            names,
            certificate,
            protocols,
        })
    }

    fn names(&mut self, list: Slot<List>, report: &mut Report) -> Vec<HostPattern> {
        const REMEDY: &str = "write a name, as in \"git.corp.example.com\", or \"*.\" and a name";
        let place = list.place.clone();
        let Some(list) = list.given() else {
            return Vec::new();
        };
        if list.is_empty() {
            report.add(&place, Fault::new("the list is empty", REMEDY));
        }
        let mut names = Vec::with_capacity(list.len());
        for slot in list {
            let place = slot.place.clone();
            let name = slot.parse(report, |text| {
                let pattern: HostPattern = text
                    .parse()
                    .map_err(|error| address_fault(&text, error, REMEDY))?;
                match pattern {
                    HostPattern::Exact(_) | HostPattern::Suffix(_) => self.is_free(pattern, &text),
                    HostPattern::Any | HostPattern::Net(_) => Err(Fault::new(
                        format!("{} is not a name", quoted(&text)),
                        REMEDY,
                    )),
                }
            });
            if let Some(name) = name.given() {
                self.seen.insert(name.clone(), place);
                names.push(name);
            }
        }
        names
    }

    fn is_free(&self, pattern: HostPattern, text: &str) -> Result<HostPattern, Fault> {
        if let Some(first) = self.seen.get(&pattern) {
            let line = first
                .line
                .map_or(String::new(), |line| format!(", line {line}"));
            let message = format!(
                "{} already belongs to a service ({}{line})",
                quoted(text),
                first.key
            );
            return Err(Fault::new(message, "remove one of the two"));
        }
        let external = self.external.parse();
        if external.is_ok_and(|host| pattern.matches(&host)) {
            let message = format!(
                "{} is the name that devices open tunnels to, as profile.external says",
                quoted(self.external)
            );
            return Err(Fault::new(message, "give the service a name of its own"));
        }
        Ok(pattern)
    }
}

fn protocols(list: Slot<List>, report: &mut Report) -> Vec<String> {
    let check = |name: String| {
        if (1..=ALPN_NAME_MAX).contains(&name.len()) {
            return Ok(name);
        }
        let message = format!(
            "a protocol's name has 1 to {ALPN_NAME_MAX} bytes, and this one {}",
            name.len()
        );
        Err(Fault::new(
            message,
            "write it as the app sends it, as in \"h2\"",
        ))
    };
    let list = list.or(Vec::new());
    let list = list
        .into_iter()
        .map(|slot| slot.parse(report, check))
        .collect();
    without_repetition(list, report)
}
