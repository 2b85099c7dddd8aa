//! Meaning of a config, in lines for people: the answer of `adit check`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::authentication::FIELDS;
use super::certificate_files::CertificateFiles;
use super::listener;
use super::reach::{Balance, OutboundTls, ProxyVersion, Reach, Server};
use super::types::{
    AdminListen, AuditSink, Config, Field, Log, LogFormat, Origin, Profile, Rate, Resumption,
    ResumptionKind, Rule, ServiceKind, Stale, TrafficLimits,
};

/// Displays what a [`Config`] means; made by [`Config::summary`].
pub struct Summary<'c>(&'c Config);

impl Config {
    /// Returns what the config means, in lines for people: listener, device authentication,
    /// services, and the rules in order.
    pub fn summary(&self) -> Summary<'_> {
        Summary(self)
    }
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config {
            state_dir,
            engine,
            admin,
            admin_token,
            admin_users,
            log,
            profile,
            files: _,
        } = self.0;
        general(f, profile)?;
        let device_limit = engine.max_tunnels_per_device;
        writeln!(f, "cores           {}", join(&engine.cores))?;
        writeln!(
            f,
            "limits          {} tunnels, {device_limit} for one device",
            engine.max_tunnels
        )?;
        writeln!(
            f,
            "timeouts        handshake {}, connect {}, idle {}, drain {}",
            span(engine.handshake_timeout),
            span(engine.connect_timeout),
            span(engine.idle_timeout),
            span(engine.drain_timeout)
        )?;
        if (engine.idle_timeout_min, engine.idle_timeout_max)
            != (engine.idle_timeout, engine.idle_timeout)
        {
            writeln!(
                f,
                "idle            from {} to {}, as a client proposes",
                span(engine.idle_timeout_min),
                span(engine.idle_timeout_max)
            )?;
        }
        if let Some(lifetime) = engine.max_lifetime {
            writeln!(f, "lifetime        {} at most", span(lifetime))?;
        }
        match admin {
            AdminListen::Tcp(address) => writeln!(f, "admin           {address}")?,
            AdminListen::Unix(path) => {
                let more: String = admin_users.iter().map(|user| format!(", {user}")).collect();
                let path = path.display();
                writeln!(
                    f,
                    "admin           unix:{path}, for root and the node's user{more}"
                )?;
            }
        }
        match (admin_token, admin) {
            (Some(file), _) => writeln!(f, "admin changes   with the token in {}", file.display())?,
            (None, AdminListen::Unix(_)) => {
                writeln!(f, "admin changes   by users that the socket serves")?;
            }
            (None, AdminListen::Tcp(_)) => writeln!(f, "admin changes   refused: no token_file")?,
        }
        writeln!(f, "log             {}", logging(log))?;
        writeln!(f, "state           {}", state_dir.display())?;
        if profile.is_none() {
            return Ok(());
        }
        device_auth(f, profile)?;
        services(f, profile)?;
        app_limits(f, profile)?;
        rules(f, profile)
    }
}

fn general(f: &mut fmt::Formatter<'_>, profile: &Profile) -> fmt::Result {
    let name = &profile.name;
    let external = external(profile);
    match profile.origin {
        Origin::Nowhere => {
            return writeln!(
                f,
                "profile         none: the node is unconfigured and takes no tunnels (see adit profile assign)"
            );
        }
        Origin::File => writeln!(f, "profile         {name}, for devices at {external}")?,
        Origin::Store { version } => writeln!(
            f,
            "profile         {name} version {version} of the store, for devices at {external}"
        )?,
    }
    writeln!(
        f,
        "listen          {}, {}",
        listener::summary(&profile.listener),
        versions(profile)
    )?;
    let sides = [
        ("inbound", &profile.inbound),
        ("outbound", &profile.outbound),
    ];
    for (side, choice) in sides {
        for (what, names) in [("suites", &choice.suites), ("groups", &choice.groups)] {
            if !names.is_empty() {
                writeln!(f, "{side:<15} {what} {}", names.join(", "))?;
            }
        }
    }
    writeln!(f, "resumption      {}", resumption(&profile.resumption))?;
    writeln!(f, "certificate     {}", certificate(profile))
}

fn external(profile: &Profile) -> String {
    if profile.external_host.contains(':') {
        format!("[{}]:{}", profile.external_host, profile.external_port)
    } else {
        format!("{}:{}", profile.external_host, profile.external_port)
    }
}

fn versions(profile: &Profile) -> &'static str {
    match (profile.inbound.tls12, profile.inbound.tls13) {
        (true, true) => "TLS 1.2 and 1.3",
        (true, false) => "TLS 1.2 only",
        (false, true) => "TLS 1.3 only",
        (false, false) => "no TLS version",
    }
}

fn resumption(resumption: &Resumption) -> String {
    let cache = match resumption.cache_bytes {
        0 => "no cache".to_owned(),
        bytes => format!("a cache of {} MiB", bytes >> 20),
    };
    let lifetime = span(resumption.lifetime);
    match (resumption.by, &resumption.ticket_keys) {
        (ResumptionKind::Off, _) => "off".to_owned(),
        (ResumptionKind::Cache, _) => format!("by {cache}, for {lifetime}"),
        (ResumptionKind::Tickets, Some(keys)) => {
            format!(
                "by tickets with the keys of {} and {cache}, for {lifetime}",
                keys.display()
            )
        }
        (ResumptionKind::Tickets, None) => {
            format!("by tickets of this node and {cache}, for {lifetime}")
        }
    }
}

fn certificate(profile: &Profile) -> String {
    match &profile.server_certificate {
        None => "self-signed, kept in the state folder".to_owned(),
        Some(certificate) => {
            let mut text = files(&certificate.primary);
            if let Some(secondary) = &certificate.secondary {
                text.push_str(&format!("; when it expires {}", files(secondary)));
            }
            for additional in &certificate.additional {
                text.push_str(&format!("; additional {}", files(additional)));
            }
            text
        }
    }
}

fn files(files: &CertificateFiles) -> String {
    match &files.key {
        None => format!("{} (with its key)", files.file.display()),
        Some(key) => format!("{}, key {}", files.file.display(), key.display()),
    }
}

fn logging(log: &Log) -> String {
    let format = match log.format {
        LogFormat::Json => "json",
        LogFormat::Text => "text",
    };
    match &log.audit {
        AuditSink::Stdout => format!("{format}; audit to standard output"),
        AuditSink::Off => format!("{format}; no audit"),
        AuditSink::File(path) => format!("{format}; audit to {}", path.display()),
    }
}

fn device_auth(f: &mut fmt::Formatter<'_>, profile: &Profile) -> fmt::Result {
    let auth = &profile.device_auth;
    writeln!(f, "group certs     {}", paths(&auth.group_certificates))?;
    let unmanaged = if auth.unmanaged_allowed {
        "allowed"
    } else {
        "blocked"
    };
    match &auth.device_registry {
        Some(registry) => writeln!(
            f,
            "devices         {}; others are {unmanaged}",
            registry.display()
        )?,
        None => writeln!(
            f,
            "devices         no registry, so all are unmanaged: {unmanaged}"
        )?,
    }
    let stale = match auth.stale {
        Stale::Hard => "a stale or missing CRL refuses".to_owned(),
        Stale::Grace(grace) => format!("a stale CRL is used for {} more", span(grace)),
        Stale::Soft => "a stale CRL is still used, a missing one is ignored".to_owned(),
    };
    if auth.crl_enabled {
        let mut lists: Vec<String> = Vec::new();
        if !auth.crl_files.is_empty() {
            lists.push(paths(&auth.crl_files));
        }
        lists.extend(auth.crl_fetch.urls.iter().cloned());
        if auth.crl_fetch.from_certificates {
            lists.push("what certificates name".into());
        }
        writeln!(f, "revocation      {}; {stale}", lists.join(", "))?;
    } else {
        writeln!(f, "revocation      not checked")?;
    }
    let identity = &auth.identity;
    writeln!(
        f,
        "identity        device from {}; user from {}; app from {}",
        fields(&identity.device),
        fields(&identity.user),
        fields(&identity.app)
    )
}

fn services(f: &mut fmt::Formatter<'_>, profile: &Profile) -> fmt::Result {
    writeln!(f, "services")?;
    for (index, service) in profile.services.iter().enumerate() {
        write!(f, "  {}: ", service.name)?;
        match &service.kind {
            ServiceKind::Servers(servers) => write!(f, "{}", join(&servers_of(servers)))?,
            ServiceKind::Any => f.write_str("the destination that the app asks for")?,
        }
        if let Some(sni) = &service.sni {
            write!(f, ", by the name {}", join(&sni.names))?;
        }
        if !service.allow.is_empty() {
            write!(f, ", also in {}", join(&service.allow))?;
        }
        if service.udp {
            f.write_str(", also by UDP")?;
        }
        reach(f, &service.reach)?;
        write!(f, "{}", traffic(&service.limits, service.max_lifetime))?;
        if !profile.rules.iter().any(|rule| rule.service == index) {
            f.write_str(" (no rule leads here)")?;
        }
        writeln!(f)?;
    }
    Ok(())
}

fn servers_of(servers: &[Server]) -> Vec<String> {
    let shown = |server: &Server| match server.weight {
        1 => server.address.to_string(),
        weight => format!("{} (weight {weight})", server.address),
    };
    servers.iter().map(shown).collect()
}

/// Returns what is not usual about the way to a service's servers.
fn reach(f: &mut fmt::Formatter<'_>, reach: &Reach) -> fmt::Result {
    if reach.balance == Balance::LeastTunnels {
        f.write_str("; least tunnels first")?;
    }
    match &reach.tls {
        None => {}
        Some(OutboundTls {
            roots: Some(file), ..
        }) => write!(f, "; TLS with the roots of {}", file.display())?,
        Some(_) => f.write_str("; TLS with the system's roots")?,
    }
    match reach.proxy_protocol {
        None => {}
        Some(ProxyVersion::V1) => f.write_str("; PROXY protocol 1")?,
        Some(ProxyVersion::V2) => f.write_str("; PROXY protocol 2")?,
    }
    if let Some(proxy) = &reach.upstream_proxy {
        write!(f, "; through the proxy {}", proxy.address)?;
    }
    if !reach.bind.is_empty() {
        write!(f, "; from {}", join(&reach.bind))?;
    }
    if let Some(check) = &reach.health.check {
        write!(f, "; checked each {}", span(check.interval))?;
    }
    Ok(())
}

fn app_limits(f: &mut fmt::Formatter<'_>, profile: &Profile) -> fmt::Result {
    if !profile.app_limits.is_empty() {
        writeln!(f, "apps")?;
    }
    for app in &profile.app_limits {
        writeln!(f, "  {}{}", app.app, traffic(&app.limits, None))?;
    }
    Ok(())
}

/// Returns what a service or an app may take; empty where nothing is limited.
fn traffic(limits: &TrafficLimits, max_lifetime: Option<Duration>) -> String {
    let mut text = String::new();
    if let Some(tunnels) = limits.tunnels {
        text.push_str(&format!("; {tunnels} tunnels"));
    }
    if let Some(Rate { per_second, burst }) = limits.new_tunnels {
        text.push_str(&format!(
            "; {per_second} new tunnels a second, {burst} at once"
        ));
    }
    if let Some(Rate { per_second, burst }) = limits.bytes {
        let (rate, burst) = (per_second >> 10, burst >> 10);
        text.push_str(&format!(
            "; {rate} KiB/s in each direction, {burst} KiB at once"
        ));
    }
    if let Some(lifetime) = max_lifetime {
        text.push_str(&format!("; for {} at most", span(lifetime)));
    }
    text
}

fn rules(f: &mut fmt::Formatter<'_>, profile: &Profile) -> fmt::Result {
    let otherwise = if profile.no_rule_direct {
        "the device may reach itself"
    } else {
        "is refused"
    };
    writeln!(f, "rules, first match wins; what none matches {otherwise}")?;
    for (index, rule) in profile.rules.iter().enumerate() {
        let Rule {
            app,
            host,
            ports,
            service,
        } = rule;
        let app = app.as_deref().unwrap_or("any app");
        let ports = ports.as_ref().map_or("any port".to_owned(), |ports| {
            format!("port {}", join(ports))
        });
        let service = profile
            .services
            .get(*service)
            .map_or("?", |service| &service.name);
        writeln!(f, "  {}. {app}, {host}, {ports} -> {service}", index + 1)?;
    }
    if profile.rules.is_empty() {
        writeln!(f, "  none: each tunnel is refused")?;
    }
    Ok(())
}

fn join<T: fmt::Display>(list: &[T]) -> String {
    list.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

fn paths(list: &[PathBuf]) -> String {
    join(&list.iter().map(|path| path.display()).collect::<Vec<_>>())
}

fn fields(list: &[Field]) -> String {
    let name = |field: &Field| {
        FIELDS
            .iter()
            .find(|(_, known)| known == field)
            .map_or("?", |(name, _)| name)
    };
    if list.is_empty() {
        return "nowhere".to_owned();
    }
    join(&list.iter().map(name).collect::<Vec<_>>())
}

/// A duration as it would be written in the file, in the largest unit that has no remainder.
fn span(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    for (unit, each) in [("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if milliseconds.is_multiple_of(each) {
            return format!("{}{unit}", milliseconds / each);
        }
    }
    format!("{milliseconds}ms")
}
