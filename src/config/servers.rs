//! From what was written about the servers of a service to what is valid.

use std::net::IpAddr;
use std::time::Duration;

use super::address::{Host, HostPort};
use super::certificate_files::optional_certificate;
use super::error::{Fault, Location, Report, quoted};
use super::named::FileName;
use super::raw_reach::{RawHealth, RawKeepalive, RawOutboundTls, RawReach, RawServer, RawTcp};
use super::reach::{
    Balance, Check, CheckKind, Health, Keepalive, OutboundTls, ProxyVersion, Reach, Server, Tcp,
    UpstreamProxy,
};
use super::slot::{List, Slot, Value};
use super::types::ServiceKind;
use super::values::{Folder, count, duration, host_port, without_repetition, word};
use crate::limits::{
    HEALTH_COUNT_MAX, KEEPALIVE_COUNT_MAX, KEEPALIVE_MAX, PROXY_USER_MAX, SERVER_WEIGHT_MAX,
    SERVICE_SERVERS_MAX, USER_TIMEOUT_MAX,
};

/// A special service dials what the app asks for: a server list would never be used.
pub(super) fn any_kind(servers: Slot<Vec<RawServer>>, report: &mut Report) -> ServiceKind {
    servers.parse(report, |_| -> Result<(), Fault> {
        let message = "a service with a special name dials what the app asks for and has no servers of its own";
        Err(Fault::new(message, "remove the servers, or give the service another name"))
    });
    ServiceKind::Any
}

pub(super) fn servers_kind(servers: Slot<Vec<RawServer>>, report: &mut Report) -> ServiceKind {
    const REMEDY: &str = "list at least one server, as in servers = [\"10.0.0.5:443\"]";
    let list = servers
        .required(report, REMEDY)
        .parse(report, |list| match list.len() {
            0 => Err(Fault::new("the list is empty", REMEDY)),
            1..=SERVICE_SERVERS_MAX => Ok(list),
            many => Err(Fault::new(
                format!("{many} servers are too many"),
                format!("list at most {SERVICE_SERVERS_MAX}"),
            )),
        })
        .or(Vec::new());
    let mut weights = Vec::with_capacity(list.len());
    let addresses = list.into_iter().map(|raw| {
        let weight = raw
            .weight
            .parse(report, |number| count(number, SERVER_WEIGHT_MAX as usize));
        weights.push(weight.or(1) as u32);
        raw.address
            .required(report, "write address = \"host:port\"")
            .parse(report, |text| host_port(&text))
    });
    let addresses = without_repetition(addresses.collect(), report);
    // Where an address was refused the two lists differ, and the result is never used.
    let servers = addresses.into_iter().zip(weights);
    ServiceKind::Servers(
        servers
            .map(|(address, weight)| Server { address, weight })
            .collect(),
    )
}

/// How a service's servers are reached; `engine` has what the service leaves out.
pub(super) fn reach(
    raw: RawReach,
    special: bool,
    engine: Tcp,
    folder: &Folder,
    report: &mut Report,
) -> Reach {
    if special {
        refuse_for_special(&raw, report);
    }
    let balance = raw.balance.parse(report, |text| {
        let known = [Balance::RoundRobin, Balance::LeastTunnels];
        word(&text, &known.map(|balance| (balance.word(), balance)))
    });
    let proxy_protocol = raw.proxy_protocol.parse(report, |text| {
        let known = [
            ("off", None),
            ("v1", Some(ProxyVersion::V1)),
            ("v2", Some(ProxyVersion::V2)),
        ];
        word(&text, &known)
    });
    let tls = tls(raw.tls, folder, report);
    let upstream_proxy = upstream_proxy(
        raw.upstream_proxy,
        raw.upstream_proxy_password_file,
        folder,
        report,
    );
    let own = tcp(raw.tcp, report);
    Reach {
        balance: balance.or(Balance::RoundRobin),
        proxy_protocol: proxy_protocol.or(None),
        upstream_proxy,
        bind: bind(raw.bind, report),
        tcp: Tcp {
            keepalive: own.keepalive.or(engine.keepalive),
            user_timeout: own.user_timeout.or(engine.user_timeout),
        },
        health: health(raw.health, tls.is_some(), report),
        tls,
    }
}

/// Refuses keys without an effect: a destination of the app is neither balanced nor told who asks,
/// and its TLS is the app's own.
fn refuse_for_special(raw: &RawReach, report: &mut Report) {
    fn other_than<T>(slot: &Slot<T>, harmless: impl Fn(&T) -> bool) -> Option<&Location> {
        let harms = matches!(&slot.value, Value::Given(value) if !harmless(value));
        harms.then_some(&slot.place)
    }
    let text = |slot, harmless: &str| other_than(slot, |text: &String| text == harmless);
    let tls = &raw.tls;
    let places = [
        other_than(&tls.on, |on| !on),
        other_than(&tls.roots, |roots| roots.as_str().is_empty()),
        text(&tls.name, ""),
        other_than(&tls.certificate, |file| file.as_str().is_empty()),
        other_than(&tls.key, |file| file.as_str().is_empty()),
        text(&raw.upstream_proxy, ""),
        text(&raw.balance, "round-robin"),
        text(&raw.proxy_protocol, "off"),
    ];
    for place in places.into_iter().flatten() {
        let message = "a service with a special name dials what the app asks for";
        let remedy = "remove the key, or list the servers under another name";
        report.add(place, Fault::new(message, remedy));
    }
    if raw.health.is_present {
        let message = "there are no health checks for destinations of the app";
        report.add(
            &raw.health.place,
            Fault::new(message, "remove the table from this service"),
        );
    }
}

fn tls(raw: RawOutboundTls, folder: &Folder, report: &mut Report) -> Option<OutboundTls> {
    let on = raw.on.or(false);
    fn only<T>(on: bool, slot: Slot<T>, report: &mut Report) -> Slot<T> {
        slot.parse(report, |value| {
            if on {
                return Ok(value);
            }
            let message = "has no effect while the service has no TLS to its servers";
            Err(Fault::new(message, "write tls = true, or remove the key"))
        })
    }
    let roots = only(on, raw.roots, report).parse(report, |named| folder.certificate(&named));
    let certificate = only(on, raw.certificate, report);
    let key = only(on, raw.key, report);
    let certificate = optional_certificate("tls_certificate", certificate, key, folder, report);
    let name = only(on, raw.name, report);
    let name = name.parse(report, |text| {
        let host: Host = text.parse().map_err(|error| {
            let message = format!("{}: {error}", quoted(&text));
            Fault::new(message, "write the name in the servers' certificates")
        })?;
        Ok(match host {
            Host::Ip(address) => address.to_string(),
            Host::Name(name) => name,
        })
    });
    on.then(|| OutboundTls {
        roots: roots.given(),
        name: name.given(),
        certificate,
    })
}

fn upstream_proxy(
    url: Slot<String>,
    password_file: Slot<FileName>,
    folder: &Folder,
    report: &mut Report,
) -> Option<UpstreamProxy> {
    let proxy = url.parse(report, |text| proxy_url(&text)).given();
    let user = proxy.as_ref().and_then(|(_, user)| user.clone());
    let password_file = password_file
        .parse(report, |file| match &user {
            Some(_) => folder.readable(&file),
            None => Err(Fault::new(
                "is a password without a user",
                "name the user in upstream_proxy, as in \"http://user@proxy:3128\"",
            )),
        })
        .given();
    proxy.map(|(address, user)| UpstreamProxy {
        address,
        user,
        password_file,
    })
}

/// Reads `http://[user@]host:port`. What is wrong with it never repeats it: there may be a password
/// in it.
fn proxy_url(text: &str) -> Result<(HostPort, Option<String>), Fault> {
    const REMEDY: &str = "write it as in \"http://user@proxy.corp.example.com:3128\"";
    let rest = text
        .strip_prefix("http://")
        .ok_or_else(|| Fault::new("the proxy's URL does not begin with http://", REMEDY))?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (user, address) = match rest.rsplit_once('@') {
        Some((user, address)) => (Some(user), address),
        None => (None, rest),
    };
    if let Some(user) = user {
        if user.contains(':') {
            return Err(Fault::new(
                "the proxy's URL has a password in it",
                "put the password into a file that only adit may read, and name it in upstream_proxy_password_file",
            ));
        }
        let is_right = (1..=PROXY_USER_MAX).contains(&user.len())
            && user.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_right {
            return Err(Fault::new(
                "the user in the proxy's URL is empty, too long or not printable",
                REMEDY,
            ));
        }
    }
    let address = host_port(address)
        .map_err(|_| Fault::new("the proxy's URL has no host and port at its end", REMEDY))?;
    Ok((address, user.map(str::to_owned)))
}

fn bind(list: Slot<List>, report: &mut Report) -> Vec<IpAddr> {
    let mut kept: Vec<IpAddr> = Vec::new();
    for slot in list.or(Vec::new()) {
        let address = slot.parse(report, |text| {
            let address: IpAddr = text.parse().map_err(|_| {
                let message = format!("{} is not an address", quoted(&text));
                Fault::new(message, "write an address of this machine, without a port")
            })?;
            let usable = !address.is_unspecified() && !address.is_multicast();
            if !usable {
                let message = format!("{address} is not a usable source address");
                return Err(Fault::new(
                    message,
                    "write an address of this machine, or leave the key out",
                ));
            }
            if kept
                .iter()
                .any(|other| other.is_ipv4() == address.is_ipv4())
            {
                let message = "there is another address of this family";
                return Err(Fault::new(
                    message,
                    "write one IPv4 and one IPv6 address at most",
                ));
            }
            Ok(address)
        });
        kept.extend(address.given());
    }
    kept
}

/// Options of connections, of the engine or of a service.
pub(super) fn tcp(raw: RawTcp, report: &mut Report) -> Tcp {
    let user_timeout = raw.user_timeout.parse(report, |text| {
        let time = duration(&text)?;
        if time > USER_TIMEOUT_MAX {
            let message = format!("{} cannot be given to the kernel", quoted(&text));
            let most = USER_TIMEOUT_MAX.as_millis();
            return Err(Fault::new(message, format!("write \"{most}ms\" or less")));
        }
        Ok(time)
    });
    Tcp {
        keepalive: raw.keepalive.map(|raw| keepalive(raw, report)),
        user_timeout: user_timeout.given(),
    }
}

fn keepalive(raw: RawKeepalive, report: &mut Report) -> Keepalive {
    let seconds = |text: String| {
        let time = duration(&text)?;
        if time.subsec_millis() != 0 || time > KEEPALIVE_MAX {
            let message = format!("{} cannot be given to the kernel", quoted(&text));
            let most = KEEPALIVE_MAX.as_secs();
            return Err(Fault::new(
                message,
                format!("write whole seconds, from \"1s\" to \"{most}s\""),
            ));
        }
        Ok(time)
    };
    let probes = raw
        .count
        .parse(report, |number| count(number, KEEPALIVE_COUNT_MAX));
    Keepalive {
        idle: raw.idle.parse(report, seconds).or(Duration::from_secs(60)),
        interval: raw
            .interval
            .parse(report, seconds)
            .or(Duration::from_secs(10)),
        count: probes.or(6) as u32,
    }
}

fn health(raw: RawHealth, has_tls: bool, report: &mut Report) -> Health {
    let usual = Health::default();
    let check = raw.check.parse(report, |text| {
        let known = [
            ("off", None),
            ("tcp", Some(CheckKind::Tcp)),
            ("tls", Some(CheckKind::Tls)),
        ];
        match word(&text, &known)? {
            Some(CheckKind::Tls) if !has_tls => Err(Fault::new(
                "a TLS check needs a service with TLS to its servers",
                "write tls = true in the service, or check = \"tcp\"",
            )),
            kind => Ok(kind),
        }
    });
    let kind = check.or(None);
    let mut of_check = |slot: Slot<String>, seconds| {
        useful(slot, kind, report)
            .parse(report, |text| duration(&text))
            .or(Duration::from_secs(seconds))
    };
    let (interval, timeout) = (of_check(raw.interval, 5), of_check(raw.timeout, 2));
    let mut times = |slot: Slot<i64>, usual| {
        useful(slot, kind, report)
            .parse(report, |number| count(number, HEALTH_COUNT_MAX))
            .or(usual)
    };
    let (rise, fall) = (times(raw.rise, 2), times(raw.fall, 3));
    let mut time = |slot: Slot<String>| slot.parse(report, |text| duration(&text)).given();
    let (window, dead_time) = (
        time(raw.window),
        time(raw.dead_time).unwrap_or(usual.dead_time),
    );
    let slow_start = time(raw.slow_start);
    let dead_time_max = raw.dead_time_max.parse(report, |text| {
        let most = duration(&text)?;
        if most < dead_time {
            let message = "is shorter than dead_time";
            return Err(Fault::new(message, "write at least dead_time"));
        }
        Ok(most)
    });
    let try_dead = raw.when_none_alive.parse(report, |text| {
        word(&text, &[("try", true), ("refuse", false)])
    });
    let failures = raw
        .failures
        .parse(report, |number| count(number, HEALTH_COUNT_MAX));
    Health {
        failures: failures.or(usual.failures),
        window: window.unwrap_or(usual.window),
        dead_time,
        dead_time_max: dead_time_max.or(usual.dead_time_max.max(dead_time)),
        check: kind.map(|kind| Check {
            kind,
            interval,
            timeout,
            rise,
            fall,
        }),
        slow_start,
        try_dead: try_dead.or(true),
    }
}

/// Refuses what only a check would use where there is none.
fn useful<T>(slot: Slot<T>, check: Option<CheckKind>, report: &mut Report) -> Slot<T> {
    slot.parse(report, |value| match check {
        Some(_) => Ok(value),
        None => Err(Fault::new(
            "has no effect without checks",
            "write check = \"tcp\" or \"tls\", or remove the key",
        )),
    })
}
