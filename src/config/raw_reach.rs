//! The keys of a service that say how its servers are reached, as they are written.

use super::document::{Entry, List, Section, Slot, Value};

/// A server of the list: `"host:port"` or `{ address = "host:port", weight = 3 }`.
pub(super) struct RawServer {
    pub(super) address: Slot<String>,
    pub(super) weight: Slot<i64>,
}

pub(super) struct RawReach {
    pub(super) balance: Slot<String>,
    pub(super) tls: Slot<bool>,
    pub(super) tls_roots: Slot<String>,
    pub(super) tls_name: Slot<String>,
    pub(super) tls_certificate: Slot<String>,
    pub(super) tls_key: Slot<String>,
    pub(super) proxy_protocol: Slot<String>,
    pub(super) upstream_proxy: Slot<String>,
    pub(super) upstream_proxy_password_file: Slot<String>,
    pub(super) bind: Slot<List>,
    pub(super) tcp: RawTcp,
    pub(super) health: RawHealth,
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
    /// Whether the table is there.
    pub(super) is_present: bool,
    pub(super) place: super::error::Place,
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

/// The servers of a service.
pub(super) fn raw_servers(section: &mut Section<'_>) -> Slot<Vec<RawServer>> {
    let read = |entries: Vec<Entry<'_>>| entries.into_iter().map(RawServer::read).collect();
    section.entries("servers").map(read)
}

impl RawServer {
    fn read(entry: Entry<'_>) -> Self {
        match entry {
            Entry::Text(address) => Self {
                weight: Slot {
                    place: address.place.clone(),
                    value: Value::Absent,
                },
                address,
            },
            Entry::Table(mut section) => {
                let server = Self {
                    address: section.string("address"),
                    weight: section.integer("weight"),
                };
                section.finish();
                server
            }
        }
    }
}

impl RawReach {
    /// Reads these keys of a service; its section is finished by the caller.
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        Self {
            balance: section.string("balance"),
            tls: section.boolean("tls"),
            tls_roots: section.string("tls_roots"),
            tls_name: section.string("tls_name"),
            tls_certificate: section.string("tls_certificate"),
            tls_key: section.string("tls_key"),
            proxy_protocol: section.string("proxy_protocol"),
            upstream_proxy: section.string("upstream_proxy"),
            upstream_proxy_password_file: section.string("upstream_proxy_password_file"),
            bind: section.strings("bind"),
            tcp: RawTcp::read(section),
            health: RawHealth::read(section.section("health")),
        }
    }
}

impl RawTcp {
    /// Reads these keys of a service or of the engine.
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let mut keepalive = section.section("keepalive");
        let tcp = Self {
            keepalive: keepalive.is_present().then(|| RawKeepalive {
                idle: keepalive.string("idle"),
                interval: keepalive.string("interval"),
                count: keepalive.integer("count"),
            }),
            user_timeout: section.string("user_timeout"),
        };
        if tcp.keepalive.is_some() {
            keepalive.finish();
        }
        tcp
    }
}

impl RawHealth {
    fn read(mut section: Section<'_>) -> Self {
        let health = Self {
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
        };
        section.finish();
        health
    }
}
