//! The keys of the contract as they are written: present or not, of the right TOML type, each with its place. Nothing
//! here has a meaning yet; `validate` gives it one.

use super::document::{Entry, List, Numbers, Section, Slot, Value};
use super::raw_reach::{RawReach, RawServer, RawTcp, raw_servers};

pub(super) struct RawConfig {
    pub(super) state_dir: Slot<String>,
    pub(super) engine: RawEngine,
    pub(super) admin_listen: Slot<String>,
    pub(super) admin_token_file: Slot<String>,
    pub(super) admin_socket_users: Slot<Numbers>,
    pub(super) log_format: Slot<String>,
    pub(super) log_audit: Slot<String>,
    /// `None` where the table is absent, or is not to be read.
    pub(super) profile: Option<RawProfile>,
}

/// What of a config file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    All,
    /// What is not the profile.
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
    pub(super) place: super::error::Place,
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
    pub(super) primary: Slot<String>,
    pub(super) key: Slot<String>,
    pub(super) password_file: Slot<String>,
    pub(super) secondary: Slot<String>,
    pub(super) secondary_key: Slot<String>,
    pub(super) secondary_password_file: Slot<String>,
    pub(super) additional: Vec<RawCertificate>,
}

/// One of `additional`: a file, or a table of it and what belongs to it.
pub(super) struct RawCertificate {
    pub(super) file: Slot<String>,
    pub(super) key: Slot<String>,
    pub(super) password_file: Slot<String>,
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
    pub(super) ticket_keys: Slot<String>,
}

pub(super) struct RawTlsSide {
    pub(super) protocols: Slot<List>,
    pub(super) cipher_suites: Slot<List>,
    pub(super) key_exchange: Slot<List>,
}

pub(super) struct RawDeviceAuth {
    pub(super) group_certificates: Slot<List>,
    pub(super) group_password_file: Slot<String>,
    pub(super) unmanaged: Slot<String>,
    pub(super) device_registry: Slot<String>,
    pub(super) crl: RawCrl,
    pub(super) identity: RawIdentity,
}

pub(super) struct RawCrl {
    pub(super) enabled: Slot<bool>,
    pub(super) files: Slot<List>,
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
    pub(super) certificate: Slot<String>,
    pub(super) key: Slot<String>,
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
    pub(super) place: super::error::Place,
}

pub(super) struct RawAppLimits {
    pub(super) app: Slot<String>,
    pub(super) limits: RawLimits,
    /// The table itself, for problems of the whole of it.
    pub(super) place: super::error::Place,
}

pub(super) struct RawRule {
    pub(super) app: Slot<String>,
    pub(super) host: Slot<String>,
    pub(super) port: Slot<Numbers>,
    pub(super) service: Slot<String>,
    /// The rule itself, for problems of the whole of it.
    pub(super) place: super::error::Place,
}

impl RawSni {
    /// Where the names are, if there are any.
    pub(super) fn place(&self) -> Option<&super::error::Place> {
        (!matches!(self.names.value, Value::Absent)).then_some(&self.names.place)
    }
}

impl RawConfig {
    /// Reads the whole document; unknown keys and wrong types are reported on the way. With `part`, the profile is passed
    /// over.
    pub(super) fn read(mut root: Section<'_>, part: Part) -> Self {
        let profile = root.section("profile");
        let mut admin = root.section("admin");
        let mut log = root.section("log");
        let config = Self {
            state_dir: root.string("state_dir"),
            engine: RawEngine::read(root.section("engine")),
            admin_listen: admin.string("listen"),
            admin_token_file: admin.string("token_file"),
            admin_socket_users: admin.numbers("socket_users"),
            log_format: log.string("format"),
            log_audit: log.string("audit"),
            profile: (profile.is_present() && part == Part::All).then(|| RawProfile::read(profile)),
        };
        admin.finish();
        log.finish();
        root.finish();
        config
    }
}

impl RawEngine {
    fn read(mut section: Section<'_>) -> Self {
        let engine = Self {
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
            tcp: RawTcp::read(&mut section),
        };
        section.finish();
        engine
    }
}

impl RawProfile {
    /// Reads a document that has the profile and nothing else.
    pub(super) fn alone(mut root: Section<'_>) -> Self {
        let profile = Self::read(root.section("profile"));
        root.finish();
        profile
    }

    fn read(mut section: Section<'_>) -> Self {
        let certificate = section.section("server_certificate");
        let profile = Self {
            name: section.string("name"),
            description: section.string("description"),
            external: section.string("external"),
            no_rule: section.string("no_rule"),
            listener: RawListener::read(section.section("listener")),
            server_certificate: certificate
                .is_present()
                .then(|| RawServerCertificate::read(certificate)),
            tls: RawTls::read(section.section("tls")),
            device_auth: RawDeviceAuth::read(section.section("device_auth")),
            services: section
                .sections("service")
                .into_iter()
                .map(RawService::read)
                .collect(),
            app_limits: section
                .sections("app_limits")
                .into_iter()
                .map(RawAppLimits::read)
                .collect(),
            rules: section
                .sections("rule")
                .into_iter()
                .map(RawRule::read)
                .collect(),
            place: section.place().clone(),
        };
        section.finish();
        profile
    }
}

impl RawListener {
    fn read(mut section: Section<'_>) -> Self {
        let listener = Self {
            protocol: section.string("protocol"),
            https: section.string("https"),
            http: section.string("http"),
            proxy_protocol: section.string("proxy_protocol"),
            trusted_proxies: section.strings("trusted_proxies"),
            client_identity: section.string("client_identity"),
            health_path: section.string("health_path"),
            health_from: section.strings("health_from"),
        };
        section.finish();
        listener
    }
}

impl RawServerCertificate {
    fn read(mut section: Section<'_>) -> Self {
        let certificate = Self {
            primary: section.string("primary"),
            key: section.string("key"),
            password_file: section.string("password_file"),
            secondary: section.string("secondary"),
            secondary_key: section.string("secondary_key"),
            secondary_password_file: section.string("secondary_password_file"),
            additional: section
                .entries("additional")
                .or(Vec::new())
                .into_iter()
                .map(RawCertificate::read)
                .collect(),
        };
        section.finish();
        certificate
    }
}

impl RawCertificate {
    fn read(entry: Entry<'_>) -> Self {
        match entry {
            Entry::Text(file) => Self {
                file,
                key: Slot::absent(),
                password_file: Slot::absent(),
            },
            Entry::Table(mut section) => {
                let certificate = Self {
                    file: section.string("file"),
                    key: section.string("key"),
                    password_file: section.string("password_file"),
                };
                section.finish();
                certificate
            }
        }
    }
}

impl RawTls {
    fn read(mut section: Section<'_>) -> Self {
        let tls = Self {
            inbound: RawTlsSide::read(section.section("inbound")),
            outbound: RawTlsSide::read(section.section("outbound")),
            resumption: RawResumption {
                by: section.string("resumption"),
                session_cache: section.string("session_cache"),
                session_lifetime: section.string("session_lifetime"),
                ticket_keys: section.string("ticket_keys"),
            },
        };
        section.finish();
        tls
    }
}

impl RawTlsSide {
    fn read(mut section: Section<'_>) -> Self {
        let side = Self {
            protocols: section.strings("protocols"),
            cipher_suites: section.strings("cipher_suites"),
            key_exchange: section.strings("key_exchange"),
        };
        section.finish();
        side
    }
}

impl RawDeviceAuth {
    fn read(mut section: Section<'_>) -> Self {
        let device_auth = Self {
            group_certificates: section.strings("group_certificates"),
            group_password_file: section.string("group_password_file"),
            unmanaged: section.string("unmanaged"),
            device_registry: section.string("device_registry"),
            crl: RawCrl::read(section.section("crl")),
            identity: RawIdentity::read(section.section("identity")),
        };
        section.finish();
        device_auth
    }
}

impl RawCrl {
    fn read(mut section: Section<'_>) -> Self {
        let crl = Self {
            enabled: section.boolean("enabled"),
            files: section.strings("files"),
            urls: section.strings("urls"),
            allowed_hosts: section.strings("allowed_hosts"),
            allow: section.strings("allow"),
            stale: section.string("stale"),
            grace: section.string("grace"),
        };
        section.finish();
        crl
    }
}

impl RawIdentity {
    fn read(mut section: Section<'_>) -> Self {
        let identity = Self {
            device: section.strings("device"),
            user: section.strings("user"),
            app: section.strings("app"),
        };
        section.finish();
        identity
    }
}

impl RawService {
    fn read(mut section: Section<'_>) -> Self {
        let limits = section.section("limits");
        let service = Self {
            name: section.string("name"),
            servers: raw_servers(&mut section),
            reach: RawReach::read(&mut section),
            allow: section.strings("allow"),
            udp: section.boolean("udp"),
            sni: RawSni {
                names: section.strings("sni"),
                certificate: section.string("sni_certificate"),
                key: section.string("sni_key"),
                protocols: section.strings("sni_alpn"),
            },
            limits: limits.is_present().then(|| RawServiceLimits::read(limits)),
        };
        section.finish();
        service
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
    fn read(mut section: Section<'_>) -> Self {
        let limits = Self {
            limits: RawLimits::read(&mut section),
            max_lifetime: section.string("max_lifetime"),
            place: section.place().clone(),
        };
        section.finish();
        limits
    }
}

impl RawAppLimits {
    fn read(mut section: Section<'_>) -> Self {
        let limits = Self {
            app: section.string("app"),
            limits: RawLimits::read(&mut section),
            place: section.place().clone(),
        };
        section.finish();
        limits
    }
}

impl RawRule {
    fn read(mut section: Section<'_>) -> Self {
        let rule = Self {
            app: section.string("app"),
            host: section.string("host"),
            port: section.numbers("port"),
            service: section.string("service"),
            place: section.place().clone(),
        };
        section.finish();
        rule
    }
}
