//! The keys of a service that say how its servers are reached, as they are written.

use super::document::Section;
use super::named::{CertificateName, FileName};
use super::slot::{List, Slot};
use crate::certs::Role;

/// A server of the list: `"host:port"` or `{ address = "host:port", weight = 3 }`.
pub(super) struct RawServer {
    pub(super) address: Slot<String>,
    pub(super) weight: Slot<i64>,
}

pub(super) struct RawReach {
    pub(super) balance: Slot<String>,
    pub(super) tls: RawOutboundTls,
    pub(super) proxy_protocol: Slot<String>,
    pub(super) upstream_proxy: Slot<String>,
    pub(super) upstream_proxy_password_file: Slot<FileName>,
    pub(super) bind: Slot<List>,
    pub(super) tcp: RawTcp,
    pub(super) health: RawHealth,
}

pub(super) struct RawOutboundTls {
    pub(super) on: Slot<bool>,
    pub(super) roots: Slot<CertificateName>,
    pub(super) name: Slot<String>,
    pub(super) certificate: Slot<CertificateName>,
    pub(super) key: Slot<FileName>,
}

pub(super) struct RawTcp {
    /// `None` where the table is absent.
    pub(super) keepalive: Option<RawKeepalive>,
    pub(super) user_timeout: Slot<String>,
}

pub(super) struct RawKeepalive {
    pub(super) idle: Slot<String>,
    pub(super) interval: Slot<String>,
    pub(super) count: Slot<i64>,
}

pub(super) struct RawHealth {
    /// True if the table is there.
    pub(super) is_present: bool,
    pub(super) place: super::error::Location,
    pub(super) failures: Slot<i64>,
    pub(super) window: Slot<String>,
    pub(super) dead_time: Slot<String>,
    pub(super) dead_time_max: Slot<String>,
    pub(super) check: Slot<String>,
    pub(super) interval: Slot<String>,
    pub(super) timeout: Slot<String>,
    pub(super) rise: Slot<i64>,
    pub(super) fall: Slot<i64>,
    pub(super) slow_start: Slot<String>,
    pub(super) when_none_alive: Slot<String>,
}

impl RawServer {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        Self {
            address: section.string("address"),
            weight: section.integer("weight"),
        }
    }
}

impl RawReach {
    /// Reads these keys of a service.
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        Self {
            balance: section.string("balance"),
            tls: RawOutboundTls {
                on: section.boolean("tls"),
                roots: section.certificate("tls_roots", Role::Group),
                name: section.string("tls_name"),
                certificate: section.certificate("tls_certificate", Role::Client),
                key: section.file("tls_key"),
            },
            proxy_protocol: section.string("proxy_protocol"),
            upstream_proxy: section.string("upstream_proxy"),
            upstream_proxy_password_file: section.file("upstream_proxy_password_file"),
            bind: section.strings("bind"),
            tcp: RawTcp::read(section),
            health: section.table("health", RawHealth::read),
        }
    }
}

impl RawTcp {
    /// Reads these keys of a service or of the engine.
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        Self {
            keepalive: section.optional_table("keepalive", |keepalive| RawKeepalive {
                idle: keepalive.string("idle"),
                interval: keepalive.string("interval"),
                count: keepalive.integer("count"),
            }),
            user_timeout: section.string("user_timeout"),
        }
    }
}

impl RawHealth {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            is_present: section.is_present(),
            place: section.place().clone(),
            failures: section.integer("failures"),
            window: section.string("window"),
            dead_time: section.string("dead_time"),
            dead_time_max: section.string("dead_time_max"),
            check: section.string("check"),
            interval: section.string("interval"),
            timeout: section.string("timeout"),
            rise: section.integer("rise"),
            fall: section.integer("fall"),
            slow_start: section.string("slow_start"),
            when_none_alive: section.string("when_none_alive"),
        }
    }
}
