//! The keys of the contract as they are written: present or not, of the right TOML type, each with
//! its place. Nothing here has a meaning yet; `validate` gives it one.

use super::document::Section;
use super::named::{CertificateName, FileName};
use super::raw_reach::{RawReach, RawServer, RawTcp};
use super::slot::{List, Numbers, Slot};
use crate::certs::Role;

/// The table of the profile.
pub(super) const PROFILE: &str = "profile";

pub(super) struct RawConfig {
    pub(super) state_dir: Slot<String>,
    pub(super) engine: RawEngine,
    pub(super) admin_listen: Slot<String>,
    pub(super) admin_token_file: Slot<FileName>,
    pub(super) admin_socket_users: Slot<Numbers>,
    pub(super) log_format: Slot<String>,
    pub(super) log_audit: Slot<String>,
    /// `None` where the table is absent, or is not to be read.
    pub(super) profile: Option<RawProfile>,
}

/// The part of a config file that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    All,
    /// All but the profile.
    Node,
}

pub(super) struct RawEngine {
    pub(super) cores: Slot<Numbers>,
    pub(super) max_tunnels: Slot<i64>,
    pub(super) max_tunnels_per_device: Slot<i64>,
    pub(super) max_unauthenticated: Slot<i64>,
    pub(super) max_unauthenticated_per_source: Slot<i64>,
    pub(super) failed_handshakes_per_second: Slot<i64>,
    pub(super) handshake_timeout: Slot<String>,
    pub(super) connect_timeout: Slot<String>,
    pub(super) idle_timeout: Slot<String>,
    pub(super) idle_timeout_min: Slot<String>,
    pub(super) idle_timeout_max: Slot<String>,
    pub(super) max_lifetime: Slot<String>,
    pub(super) drain_delay: Slot<String>,
    pub(super) drain_timeout: Slot<String>,
    pub(super) watch_files: Slot<bool>,
    pub(super) tcp: RawTcp,
}

pub(super) struct RawProfile {
    pub(super) name: Slot<String>,
    pub(super) description: Slot<String>,
    pub(super) external: Slot<String>,
    pub(super) no_rule: Slot<String>,
    pub(super) listener: RawListener,
    /// `None` where the table is absent.
    pub(super) server_certificate: Option<RawServerCertificate>,
    pub(super) tls: RawTls,
    pub(super) device_auth: RawDeviceAuth,
    pub(super) services: Vec<RawService>,
    pub(super) app_limits: Vec<RawAppLimits>,
    pub(super) rules: Vec<RawRule>,
    /// The profile itself, for problems of the whole of it.
    pub(super) place: super::error::Location,
}

pub(super) struct RawListener {
    pub(super) protocol: Slot<String>,
    pub(super) https: Slot<String>,
    pub(super) http: Slot<String>,
    pub(super) proxy_protocol: Slot<String>,
    pub(super) trusted_proxies: Slot<List>,
    pub(super) client_identity: Slot<String>,
    pub(super) health_path: Slot<String>,
    pub(super) health_from: Slot<List>,
}

pub(super) struct RawServerCertificate {
    pub(super) primary: Slot<CertificateName>,
    pub(super) key: Slot<FileName>,
    pub(super) password_file: Slot<FileName>,
    pub(super) secondary: Slot<CertificateName>,
    pub(super) secondary_key: Slot<FileName>,
    pub(super) secondary_password_file: Slot<FileName>,
    pub(super) additional: Vec<RawCertificate>,
}

/// One of `additional`: a file, or a table of it and what belongs to it.
pub(super) struct RawCertificate {
    pub(super) file: Slot<CertificateName>,
    pub(super) key: Slot<FileName>,
    pub(super) password_file: Slot<FileName>,
}

pub(super) struct RawTls {
    pub(super) inbound: RawTlsSide,
    pub(super) outbound: RawTlsSide,
    pub(super) resumption: RawResumption,
}

pub(super) struct RawResumption {
    pub(super) by: Slot<String>,
    pub(super) session_cache: Slot<String>,
    pub(super) session_lifetime: Slot<String>,
    pub(super) ticket_keys: Slot<FileName>,
}

pub(super) struct RawTlsSide {
    pub(super) protocols: Slot<List>,
    pub(super) cipher_suites: Slot<List>,
    pub(super) key_exchange: Slot<List>,
}

pub(super) struct RawDeviceAuth {
    pub(super) group_certificates: Slot<Vec<Slot<CertificateName>>>,
    pub(super) group_password_file: Slot<FileName>,
    pub(super) unmanaged: Slot<String>,
    pub(super) device_registry: Slot<FileName>,
    pub(super) crl: RawCrl,
    pub(super) identity: RawIdentity,
}

pub(super) struct RawCrl {
    pub(super) enabled: Slot<bool>,
    pub(super) files: Slot<Vec<Slot<FileName>>>,
    pub(super) urls: Slot<List>,
    pub(super) allowed_hosts: Slot<List>,
    pub(super) allow: Slot<List>,
    pub(super) stale: Slot<String>,
    pub(super) grace: Slot<String>,
}

pub(super) struct RawIdentity {
    pub(super) device: Slot<List>,
    pub(super) user: Slot<List>,
    pub(super) app: Slot<List>,
}

pub(super) struct RawService {
    pub(super) name: Slot<String>,
    pub(super) servers: Slot<Vec<RawServer>>,
    pub(super) reach: RawReach,
    pub(super) allow: Slot<List>,
    pub(super) udp: Slot<bool>,
    pub(super) sni: RawSni,
    /// `None` where the table is absent.
    pub(super) limits: Option<RawServiceLimits>,
}

pub(super) struct RawSni {
    pub(super) names: Slot<List>,
    pub(super) certificate: Slot<CertificateName>,
    pub(super) key: Slot<FileName>,
    pub(super) protocols: Slot<List>,
}

pub(super) struct RawLimits {
    pub(super) tunnels: Slot<i64>,
    pub(super) new_tunnels_per_second: Slot<i64>,
    pub(super) new_tunnels_burst: Slot<i64>,
    pub(super) bytes_per_second: Slot<String>,
    pub(super) bytes_burst: Slot<String>,
}

pub(super) struct RawServiceLimits {
    pub(super) limits: RawLimits,
    pub(super) max_lifetime: Slot<String>,
    /// The table itself, for problems of the whole of it.
    pub(super) place: super::error::Location,
}

pub(super) struct RawAppLimits {
    pub(super) app: Slot<String>,
    pub(super) limits: RawLimits,
    /// The table itself, for problems of the whole of it.
    pub(super) place: super::error::Location,
}

pub(super) struct RawRule {
    pub(super) app: Slot<String>,
    pub(super) host: Slot<String>,
    pub(super) port: Slot<Numbers>,
    pub(super) service: Slot<String>,
    /// The rule itself, for problems of the whole of it.
    pub(super) place: super::error::Location,
}

impl RawConfig {
    /// Reads the whole document; unknown keys and wrong types are reported on the way. With `part`,
    /// the profile is passed over.
    pub(super) fn read(root: &mut Section<'_>, part: Part) -> Self {
        let profile = match part {
            Part::All => root.optional_table(PROFILE, RawProfile::read),
            Part::Node => {
                root.pass_over(PROFILE);
                None
            }
        };
        let (admin_listen, admin_token_file, admin_socket_users) = root.table("admin", |admin| {
            let listen = admin.string("listen");
            let token_file = admin.live_file("token_file");
            (listen, token_file, admin.numbers("socket_users"))
        });
        let (log_format, log_audit) =
            root.table("log", |log| (log.string("format"), log.string("audit")));
        Self {
            state_dir: root.string("state_dir"),
            engine: root.table("engine", RawEngine::read),
            admin_listen,
            admin_token_file,
            admin_socket_users,
            log_format,
            log_audit,
            profile,
        }
    }
}

impl RawEngine {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            cores: section.numbers("cores"),
            max_tunnels: section.integer("max_tunnels"),
            max_tunnels_per_device: section.integer("max_tunnels_per_device"),
            max_unauthenticated: section.integer("max_unauthenticated"),
            max_unauthenticated_per_source: section.integer("max_unauthenticated_per_source"),
            failed_handshakes_per_second: section.integer("failed_handshakes_per_second"),
            handshake_timeout: section.string("handshake_timeout"),
            connect_timeout: section.string("connect_timeout"),
            idle_timeout: section.string("idle_timeout"),
            idle_timeout_min: section.string("idle_timeout_min"),
            idle_timeout_max: section.string("idle_timeout_max"),
            max_lifetime: section.string("max_lifetime"),
            drain_delay: section.string("drain_delay"),
            drain_timeout: section.string("drain_timeout"),
            watch_files: section.boolean("watch_files"),
            tcp: RawTcp::read(section),
        }
    }
}

impl RawProfile {
    /// Reads a document that has the profile and nothing else.
    pub(super) fn alone(root: &mut Section<'_>) -> Self {
        root.table(PROFILE, Self::read)
    }

    fn read(section: &mut Section<'_>) -> Self {
        Self {
            name: section.string("name"),
            description: section.string("description"),
            external: section.string("external"),
            no_rule: section.string("no_rule"),
            listener: section.table("listener", RawListener::read),
            server_certificate: section
                .optional_table("server_certificate", RawServerCertificate::read),
            tls: section.table("tls", RawTls::read),
            device_auth: section.table("device_auth", RawDeviceAuth::read),
            services: section.tables("service", RawService::read),
            app_limits: section.tables("app_limits", RawAppLimits::read),
            rules: section.tables("rule", RawRule::read),
            place: section.place().clone(),
        }
    }
}

impl RawListener {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            protocol: section.string("protocol"),
            https: section.string("https"),
            http: section.string("http"),
            proxy_protocol: section.string("proxy_protocol"),
            trusted_proxies: section.strings("trusted_proxies"),
            client_identity: section.string("client_identity"),
            health_path: section.string("health_path"),
            health_from: section.strings("health_from"),
        }
    }
}

impl RawServerCertificate {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            primary: section.certificate("primary", Role::Server),
            key: section.file("key"),
            password_file: section.file("password_file"),
            secondary: section.certificate("secondary", Role::Server),
            secondary_key: section.file("secondary_key"),
            secondary_password_file: section.file("secondary_password_file"),
            additional: section
                .entries("additional", "file", RawCertificate::read)
                .or(Vec::new()),
        }
    }
}

impl RawCertificate {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            file: section.certificate("file", Role::Server),
            key: section.file("key"),
            password_file: section.file("password_file"),
        }
    }
}

impl RawTls {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            inbound: section.table("inbound", RawTlsSide::read),
            outbound: section.table("outbound", RawTlsSide::read),
            resumption: RawResumption {
                by: section.string("resumption"),
                session_cache: section.string("session_cache"),
                session_lifetime: section.string("session_lifetime"),
                ticket_keys: section.live_file("ticket_keys"),
            },
        }
    }
}

impl RawTlsSide {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            protocols: section.strings("protocols"),
            cipher_suites: section.strings("cipher_suites"),
            key_exchange: section.strings("key_exchange"),
        }
    }
}

impl RawDeviceAuth {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            group_certificates: section.certificates("group_certificates", Role::Group),
            group_password_file: section.file("group_password_file"),
            unmanaged: section.string("unmanaged"),
            device_registry: section.file("device_registry"),
            crl: section.table("crl", RawCrl::read),
            identity: section.table("identity", RawIdentity::read),
        }
    }
}

impl RawCrl {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            enabled: section.boolean("enabled"),
            files: section.live_files("files"),
            urls: section.strings("urls"),
            allowed_hosts: section.strings("allowed_hosts"),
            allow: section.strings("allow"),
            stale: section.string("stale"),
            grace: section.string("grace"),
        }
    }
}

impl RawIdentity {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            device: section.strings("device"),
            user: section.strings("user"),
            app: section.strings("app"),
        }
    }
}

impl RawService {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            name: section.string("name"),
            servers: section.entries("servers", "address", RawServer::read),
            reach: RawReach::read(section),
            allow: section.strings("allow"),
            udp: section.boolean("udp"),
            sni: RawSni {
                names: section.strings("sni"),
                certificate: section.certificate("sni_certificate", Role::Server),
                key: section.file("sni_key"),
                protocols: section.strings("sni_alpn"),
            },
            limits: section.optional_table("limits", RawServiceLimits::read),
        }
    }
}

impl RawLimits {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            tunnels: section.integer("tunnels"),
            new_tunnels_per_second: section.integer("new_tunnels_per_second"),
            new_tunnels_burst: section.integer("new_tunnels_burst"),
            bytes_per_second: section.string("bytes_per_second"),
            bytes_burst: section.string("bytes_burst"),
        }
    }
}

impl RawServiceLimits {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            limits: RawLimits::read(section),
            max_lifetime: section.string("max_lifetime"),
            place: section.place().clone(),
        }
    }
}

impl RawAppLimits {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            app: section.string("app"),
            limits: RawLimits::read(section),
            place: section.place().clone(),
        }
    }
}

impl RawRule {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            app: section.string("app"),
            host: section.string("host"),
            port: section.numbers("port"),
            service: section.string("service"),
            place: section.place().clone(),
        }
    }
}
