//! From written services and rules to valid ones.

use std::collections::HashMap;

use super::address::HostPattern;
use super::error::{Fault, Location, Report, nearest, quoted};
use super::raw::{RawRule, RawService};
use super::reach::{Reach, Tcp};
use super::servers::{any_kind, reach, servers_kind};
use super::slot::{List, Numbers, Slot, Value};
use super::sni::SniNames;
use super::traffic::service_limits;
use super::types::{Rule, Service, ServiceKind, TrafficLimits};
use super::values::{Folder, address_fault, networks, port};
use crate::limits::SERVICE_NAME_MAX;

/// The names that stand for the destination that the app asks for. They may be used without being
/// declared.
const SPECIAL_NAMES: [&str; 2] = ["<ANY>", "<TCP_ANY>"];

/// Characters that no service name may have, beside white space and control characters: what rule
/// syntaxes and metric labels of existing deployments use for themselves.
const FORBIDDEN_IN_NAMES: &str = "\\;*?<>\"|";

/// Services and rules of a profile.
pub(super) fn routing(
    raw_services: Vec<RawService>,
    raw_rules: Vec<RawRule>,
    profile: &Location,
    (tcp, folder): (Tcp, &Folder),
    mut names: SniNames<'_>,
    report: &mut Report,
) -> (Vec<Service>, Vec<Rule>) {
    if raw_services.is_empty() && raw_rules.is_empty() {
        let remedy = "add at least one [[profile.service]] and a [[profile.rule]] that leads to it";
        report.add(
            profile,
            Fault::new(
                "has no service and no rule, so that nothing could be reached",
                remedy,
            ),
        );
    }
    let mut services = Services {
        tcp,
        folder,
        list: Vec::new(),
        by_name: HashMap::new(),
        lines: Vec::new(),
    };
    for raw in raw_services {
        services.declare(raw, &mut names, report);
    }
    let rules = rules(raw_rules, &mut services, report);
    (services.list, rules)
}

/// The services so far, with their index by name.
struct Services<'f> {
    /// Defaults for connections of a service.
    tcp: Tcp,
    folder: &'f Folder,
    list: Vec<Service>,
    by_name: HashMap<String, usize>,
    /// Line of each service of the file.
    lines: Vec<Option<usize>>,
}

impl Services<'_> {
    /// Adds a written service. One with faults is added all the same, so that rules that name it
    /// are not reported too.
    fn declare(&mut self, raw: RawService, names: &mut SniNames<'_>, report: &mut Report) {
        let line = raw.name.place.line;
        let name = raw.name.clone().given();
        raw.name
            .required(
                report,
                "give the service a unique name, as in name = \"wiki\"",
            )
            .parse(report, |name| service_name(&name).map(|()| name))
            .parse(report, |name| self.is_new(&name));
        let special = name
            .as_deref()
            .is_some_and(|name| SPECIAL_NAMES.contains(&name));
        let kind = if special {
            any_kind(raw.servers, report)
        } else {
            servers_kind(raw.servers, report)
        };
        let allow = allow(raw.allow, special, report);
        let reach = reach(raw.reach, special, self.tcp, self.folder, report);
        let sni = names.of(raw.sni, special, report);
        let (limits, max_lifetime) = raw
            .limits
            .map(|raw| service_limits(raw, report))
            .unwrap_or_default();
        if let Some(name) = name.filter(|name| !self.by_name.contains_key(name)) {
            self.lines.push(line);
            self.add(Service {
                name,
                kind,
                allow,
                udp: udp(raw.udp, &reach, report),
                reach,
                sni,
                limits,
                max_lifetime,
            });
        }
    }

    fn is_new(&self, name: &str) -> Result<(), Fault> {
        let Some(first) = self.by_name.get(name) else {
            return Ok(());
        };
        let line = self.lines[*first].map_or(String::new(), |line| format!(" in line {line}"));
        let message = format!("there is a service named {} already{line}", quoted(name));
        Err(Fault::new(
            message,
            "rename one of the two, or put all servers in one service",
        ))
    }

    fn add(&mut self, service: Service) -> usize {
        let index = self.list.len();
        self.by_name.insert(service.name.clone(), index);
        self.list.push(service);
        index
    }

    /// The index of a service that a rule names.
    fn find(&mut self, name: &str) -> Result<usize, Fault> {
        if let Some(index) = self.by_name.get(name) {
            return Ok(*index);
        }
        if SPECIAL_NAMES.contains(&name) {
            return Ok(self.add(Service {
                name: name.to_owned(),
                kind: ServiceKind::Any,
                allow: Vec::new(),
                udp: false,
                reach: Reach {
                    tcp: self.tcp,
                    ..Reach::default()
                },
                sni: None,
                limits: TrafficLimits::default(),
                max_lifetime: None,
            }));
        }
        let known = self
            .list
            .iter()
            .map(|service| service.name.as_str())
            .chain(SPECIAL_NAMES);
        let remedy = match nearest(name, known) {
            Some(similar) => format!("did you mean {}?", quoted(similar)),
            None => "add a [[profile.service]] of this name, or name an existing one".to_owned(),
        };
        Err(Fault::new(
            format!("no service named {}", quoted(name)),
            remedy,
        ))
    }
}

/// Datagrams go to a server as they are: what a service does to the bytes of a connection it cannot
/// do to them.
fn udp(slot: Slot<bool>, reach: &Reach, report: &mut Report) -> bool {
    let in_the_way = [
        (reach.tls.is_some(), "tls"),
        (reach.upstream_proxy.is_some(), "upstream_proxy"),
        (reach.proxy_protocol.is_some(), "proxy_protocol"),
    ];
    let in_the_way = in_the_way.into_iter().find(|(given, _)| *given);
    let checked = slot.parse(report, |udp| match in_the_way {
        Some((_, key)) if udp => Err(Fault::new(
            format!("{key} of this service does not work with datagrams"),
            format!("give datagrams a service of their own, without {key}"),
        )),
        _ => Ok(udp),
    });
    checked.or(false)
}

fn service_name(name: &str) -> Result<(), Fault> {
    if SPECIAL_NAMES.contains(&name) {
        return Ok(());
    }
    if name.is_empty() || name.len() > SERVICE_NAME_MAX {
        let message = format!(
            "a service name has 1 to {SERVICE_NAME_MAX} bytes, and this one {}",
            name.len()
        );
        return Err(Fault::new(message, "choose another name"));
    }
    let Some(bad) = name
        .chars()
        .find(|c| c.is_whitespace() || c.is_control() || FORBIDDEN_IN_NAMES.contains(*c))
    else {
        return Ok(());
    };
    let remedy = match SPECIAL_NAMES
        .iter()
        .find(|special| special.eq_ignore_ascii_case(name))
    {
        Some(special) => format!("did you mean {special:?}?"),
        None => format!("leave out spaces and each of {FORBIDDEN_IN_NAMES}"),
    };
    Err(Fault::new(
        format!("the service name {} has {bad:?} in it", quoted(name)),
        remedy,
    ))
}

/// `allow` opens guarded addresses to a service that dials what the app asks for; a server list
/// needs no permission.
fn allow(list: Slot<List>, special: bool, report: &mut Report) -> Vec<ipnet::IpNet> {
    let list = list.parse(report, |list| {
        if special || list.is_empty() {
            return Ok(list);
        }
        let message = "only the services \"<ANY>\" and \"<TCP_ANY>\" have an allow list";
        Err(Fault::new(
            message,
            "remove it: servers that are listed may have any address",
        ))
    });
    networks(list, report)
}

/// Conditions of a rule; two rules that look at the same are one too many.
type Condition = (Option<String>, HostPattern, Option<Vec<u16>>);

fn rules(raw_rules: Vec<RawRule>, services: &mut Services<'_>, report: &mut Report) -> Vec<Rule> {
    let mut rules = Vec::with_capacity(raw_rules.len());
    let mut seen: HashMap<Condition, Location> = HashMap::new();
    for raw in raw_rules {
        let app = app(raw.app, report);
        let host = host(raw.host, report);
        let ports = ports(raw.port, report);
        let service = raw
            .service
            .required(
                report,
                "name the service that the rule leads to, as in service = \"wiki\"",
            )
            .parse(report, |name| services.find(&name))
            .given();
        let (Some(app), Some(host), Some(ports)) = (app, host, ports) else {
            continue;
        };
        let condition = (app.clone(), host.clone(), ports.clone());
        if let Some(first) = seen.get(&condition) {
            let line = first
                .line
                .map_or(String::new(), |line| format!(" in line {line}"));
            let message = format!(
                "can never match: {}{line} has the same app, host and port",
                first.key
            );
            report.add(
                &raw.place,
                Fault::new(message, "remove one of the two rules"),
            );
        } else {
            seen.insert(condition, raw.place);
        }
        rules.extend(service.map(|service| Rule {
            app,
            host,
            ports,
            service,
        }));
    }
    rules
}

/// The outer `None`: refused. The inner one: any app.
fn app(slot: Slot<String>, report: &mut Report) -> Option<Option<String>> {
    const REMEDY: &str = "write the app's name exactly, or \"*\" for any app";
    if slot.written().is_none() {
        return Some(None);
    }
    let app = slot.parse(report, |app| match app.as_str() {
        "*" => Ok(None),
        "" => Err(Fault::new("the app's name is empty", REMEDY)),
        name if name.contains('*') => Err(Fault::new(
            format!("{} has a wildcard inside", quoted(name)),
            REMEDY,
        )),
        _ => Ok(Some(app)),
    });
    app.given()
}

fn host(slot: Slot<String>, report: &mut Report) -> Option<HostPattern> {
    slot.required(report, "write which hosts, as in host = \"*.corp.example.com\", or \"*\" for any host")
        .parse(report, |text| {
            text.parse().map_err(|error| {
                let remedy = "write a name, \"*.\" and a name, a network such as \"10.0.0.0/8\", or \"*\" for any host";
                address_fault(&text, error, remedy)
            })
        })
        .given()
}

/// The outer `None`: refused. The inner one: any port.
fn ports(slot: Slot<Numbers>, report: &mut Report) -> Option<Option<Vec<u16>>> {
    const REMEDY: &str = "write a port, a list of ports, or \"*\" for any port";
    let slot = slot.required(
        report,
        "write which ports, as in port = 443, a list, or \"*\" for any port",
    );
    let place = slot.place.clone();
    match slot.given()? {
        Numbers::Word(text) if text == "*" => Some(None),
        Numbers::Word(text) => {
            let message = format!("{} is not a port", quoted(&text));
            report.add(
                &place,
                Fault::new(message, format!("{REMEDY}; numbers go without quotes")),
            );
            None
        }
        Numbers::One(number) => {
            let slot = Slot {
                place,
                value: Value::Given(number),
            };
            slot.parse(report, port)
                .given()
                .map(|port| Some(vec![port]))
        }
        Numbers::Many(list) if list.is_empty() => {
            report.add(
                &place,
                Fault::new(
                    "the list is empty, so that the rule would never match",
                    REMEDY,
                ),
            );
            None
        }
        Numbers::Many(list) => {
            let length = list.len();
            let mut ports: Vec<u16> = list
                .into_iter()
                .filter_map(|slot| slot.parse(report, port).given())
                .collect();
            let complete = ports.len() == length;
            ports.sort_unstable();
            ports.dedup();
            complete.then_some(Some(ports))
        }
    }
}
