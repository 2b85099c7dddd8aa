//! The files that a config names.

use std::collections::BTreeSet;
use std::path::Path;

use super::types::{CertificateFiles, Config};

impl Config {
    /// The files whose contents come into force by a reload. Not those that are looked at by themselves whenever they
    /// change: CRLs, ticket keys, and the token of changes.
    #[must_use]
    pub fn files(&self) -> BTreeSet<&Path> {
        let profile = &self.profile;
        let auth = &profile.device_auth;
        let services = || profile.services.iter();
        let server = profile.server_certificate.iter().flat_map(|server| {
            let others = server.secondary.iter().chain(&server.additional);
            std::iter::once(&server.primary).chain(others)
        });
        let named = services().filter_map(|service| service.sni.as_ref()?.certificate.as_ref());
        let outbound = || services().filter_map(|service| service.reach.tls.as_ref());
        let shown = outbound().filter_map(|tls| tls.certificate.as_ref());
        let certificates = server.chain(named).chain(shown);
        let certificates = certificates.flat_map(CertificateFiles::all);
        let roots = outbound().map(|tls| &tls.roots);
        let proxies = services().filter_map(|service| service.reach.upstream_proxy.as_ref());
        let proxies = proxies.map(|proxy| &proxy.password_file);
        let optional = [&auth.group_password_file, &auth.device_registry];
        let optional = optional.into_iter().chain(roots).chain(proxies);
        let optional = optional.filter_map(Option::as_deref);
        let group = auth.group_certificates.iter().map(AsRef::as_ref);
        certificates.chain(optional).chain(group).collect()
    }
}

impl CertificateFiles {
    fn all(&self) -> impl Iterator<Item = &Path> {
        let others = [&self.key, &self.password_file];
        let others = others.into_iter().filter_map(Option::as_deref);
        std::iter::once(self.file.as_path()).chain(others)
    }
}
