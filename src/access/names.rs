//! The names (SNI) that make a session a tunnel to a service.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::ServerConfig;

use crate::config::HostPattern;

/// The names that lead to a service.
#[derive(Default)]
pub struct Names {
    exact: HashMap<String, usize>,
    /// By the name below which they all are.
    below: HashMap<String, usize>,
    entries: Vec<NamedService>,
}

/// Destination of a name.
#[derive(Clone)]
pub(crate) struct NamedService {
    /// Index of the service.
    pub service: usize,
    /// TLS of its sessions.
    pub tls: Arc<ServerConfig>,
}

impl Names {
    /// Lets `names` lead to `service`.
    pub fn add(&mut self, names: &[HostPattern], service: usize, tls: Arc<ServerConfig>) {
        let entry = self.entries.len();
        self.entries.push(NamedService { service, tls });
        for name in names {
            match name {
                HostPattern::Exact(name) => self.exact.insert(name.clone(), entry),
                HostPattern::Suffix(name) => self.below.insert(name.clone(), entry),
                HostPattern::Any | HostPattern::Net(_) => None,
            };
        }
    }

    /// Returns whether no name leads anywhere.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns what `name` leads to: itself, or else the longest name that it is below of.
    pub(crate) fn find(&self, name: &str) -> Option<&NamedService> {
        let mut above = name;
        let mut found = self.exact.get(name);
        while found.is_none() {
            above = above.split_once('.')?.1;
            found = self.below.get(above);
        }
        found.map(|entry| &self.entries[*entry])
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs;
    use rustls::server::ResolvesServerCertUsingSni;

    use super::*;

    #[test]
    fn the_name_itself_comes_first_then_the_longest_above_it() {
        let config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
        let config = Arc::new(config);
        let mut names = Names::default();
        assert!(names.is_empty());
        for (service, patterns) in [
            vec!["*.example.com", "git.example.com"],
            vec!["*.eu.example.com"],
            vec!["a.eu.example.com"],
        ]
        .into_iter()
        .enumerate()
        {
            let patterns: Vec<HostPattern> = patterns
                .into_iter()
                .map(|pattern| pattern.parse().unwrap())
                .collect();
            names.add(&patterns, service, config.clone());
        }
        let found = |name: &str| names.find(name).map(|named| named.service);
        for (name, service) in [
            ("git.example.com", Some(0)),
            ("x.example.com", Some(0)),
            ("x.y.example.com", Some(0)),
            ("x.eu.example.com", Some(1)),
            ("a.eu.example.com", Some(2)),
            ("b.a.eu.example.com", Some(1)),
            ("example.com", None),
            ("badexample.com", None),
            ("com", None),
        ] {
            assert_eq!(found(name), service, "{name}");
        }
    }
}
