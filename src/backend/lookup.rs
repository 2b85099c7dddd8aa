//! One name, from what the system's settings lead to.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hickory_resolver::config::ResolverConfig;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use super::race::{Race, Step, in_order};
use super::resolved::{ResolveError, Resolved};
use super::system::Settings;
use crate::limits::{
    NAME_ADDRESSES_MAX, NAME_FAMILY_PATIENCE, NAME_LOOKUP_MAX, NAME_SEARCH_MAX, NAME_SERVERS_MAX,
    NAME_STALE_TTL, NAME_TTL_MAX, NAME_TTL_MIN,
};

/// Asks with one state of the settings.
pub(super) struct Client {
    generation: u64,
    servers: Option<Servers>,
    hosts: Arc<Hosts>,
}

struct Servers {
    /// One for each server. The library's own way with several waits for those that are dead before
    /// it asks again by TCP where an answer was truncated.
    each: Vec<TokioResolver>,
    /// The one that answered last: the next question begins with it.
    first: AtomicUsize,
    /// Completes short names, in order.
    search: Vec<Name>,
    /// Dots that make a name be asked for as it is first.
    ndots: usize,
}

/// Addresses of one family, and until when they may be used.
type Family = Result<(Vec<IpAddr>, Instant), ResolveError>;

impl Client {
    /// With these settings.
    pub fn new(settings: Settings) -> Self {
        Self {
            generation: settings.generation,
            servers: settings.servers.and_then(|servers| {
                let (config, options) = &*servers;
                let search = match config.search() {
                    [] => config.domain().cloned().into_iter().collect(),
                    search => search.iter().take(NAME_SEARCH_MAX).cloned().collect(),
                };
                let servers = config.name_servers().iter().take(NAME_SERVERS_MAX);
                let each = servers.filter_map(|server| {
                    let alone =
                        ResolverConfig::from_parts(None, Vec::new(), vec![server.clone()]);
                    let provider = TokioRuntimeProvider::default();
                    let mut builder = TokioResolver::builder_with_config(alone, provider);
                    *builder.options_mut() = options.clone();
                    let built = builder.build();
                    built
                        .inspect_err(|error| {
                            tracing::error!(%error, "the name server {} cannot be asked", server.ip);
                        })
                        .ok()
                });
                let each: Vec<TokioResolver> = each.collect();
                (!each.is_empty()).then(|| Servers {
                    each,
                    first: AtomicUsize::new(0),
                    search,
                    ndots: options.ndots,
                })
            }),
            hosts: settings.hosts,
        }
    }

    /// Of which settings it is.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The addresses of a name, within [`NAME_LOOKUP_MAX`]. One that may be short is completed.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn resolve(&self, name: &str, may_be_short: bool) -> Result<Resolved, ResolveError> {
        let Ok(whole) = Name::from_utf8(format!("{name}.")) else {
            return Err(ResolveError::NotFound);
        };
        if let Some(answer) = self.in_hosts(&whole) {
            return Ok(answer);
        }
        // Without name servers there are no other names.
        let servers = self.servers.as_ref().ok_or(ResolveError::Timeout)?;
        let names = match may_be_short {
            true => servers.candidates(&whole),
            false => vec![whole],
        };
        let trying = async {
            let mut failure = ResolveError::NotFound;
            for name in names {
                match servers.addresses(&name).await {
                    Ok(answer) => return Ok(answer),
                    Err(ResolveError::NotFound) => {}
                    Err(other) => failure = other,
                }
            }
            Err(failure)
        };
        let answer = timeout(NAME_LOOKUP_MAX, trying).await;
        answer.unwrap_or(Err(ResolveError::Timeout))
    }

    /// Returns what the hosts file says counts for both families, as it does for the C library: the
    /// name servers are not asked.
    fn in_hosts(&self, name: &Name) -> Option<Resolved> {
        let of = |kind| {
            let query = Query::query(name.to_lowercase(), kind);
            let found = self.hosts.lookup_static_host(&query);
            let found = found.map(|found| found.answers().to_vec());
            found.unwrap_or_default()
        };
        let records = of(RecordType::AAAA).into_iter().chain(of(RecordType::A));
        let addresses = records.filter_map(|record| record.data.ip_addr()).collect();
        answer(addresses, NAME_TTL_MAX)
    }
}

impl Servers {
    /// Returns what a short name may stand for, in the order in which the C library tries it
    /// (`resolv.conf(5)`, `ndots`).
    fn candidates(&self, whole: &Name) -> Vec<Name> {
        let mut names: Vec<Name> = self
            .search
            .iter()
            .filter_map(|domain| {
                let mut short = whole.clone();
                short.set_fqdn(false);
                let mut name = short.append_domain(domain).ok()?;
                name.set_fqdn(true);
                Some(name)
            })
            .collect();
        let dots = usize::from(whole.num_labels()).saturating_sub(1);
        let at = if dots >= self.ndots { 0 } else { names.len() };
        names.insert(at, whole.clone());
        names
    }

    /// Asks for both families at once. Where one has answered, the other is waited for a moment
    /// only.
    async fn addresses(&self, name: &Name) -> Result<Resolved, ResolveError> {
        let mut six = pin!(self.family(name, RecordType::AAAA));
        let mut four = pin!(self.family(name, RecordType::A));
        let (first, rest) = tokio::select! {
            found = &mut six => (found, four),
            found = &mut four => (found, six),
        };
        let second = match &first {
            Ok(_) => {
                let second = timeout(NAME_FAMILY_PATIENCE, rest).await;
                second.unwrap_or(Err(ResolveError::Timeout))
            }
            Err(_) => rest.await,
        };
        let now = Instant::now();
        let left = |until: Instant| until.saturating_duration_since(now);
        let (addresses, valid_for) = match (first, second) {
            (Ok((mut one, until)), Ok((other, other_until))) => {
                one.extend(other);
                (one, left(until.min(other_until)))
            }
            (Ok((one, until)), Err(ResolveError::NotFound))
            | (Err(ResolveError::NotFound), Ok((one, until))) => (one, left(until)),
            // The other family may answer soon.
            (Ok((one, until)), Err(_)) | (Err(_), Ok((one, until))) => {
                (one, left(until).min(NAME_STALE_TTL))
            }
            (Err(ResolveError::NotFound), Err(ResolveError::NotFound)) => {
                return Err(ResolveError::NotFound);
            }
            (Err(_), Err(_)) => return Err(ResolveError::Timeout),
        };
        answer(addresses, valid_for).ok_or(ResolveError::NotFound)
    }

    /// Asks the servers, each a little after the one before or when that has failed, until one says
    /// something.
    async fn family(&self, name: &Name, kind: RecordType) -> Family {
        let first = self.first.load(Ordering::Relaxed);
        let mut race = Race::new(self.each.len());
        // Those that have not answered end with it.
        let mut running = JoinSet::new();
        loop {
            let until = match race.step(Instant::now()) {
                Step::Start(place) => {
                    let place = (first + place) % self.each.len();
                    let (resolver, name) = (self.each[place].clone(), name.clone());
                    running.spawn(async move { (place, ask(&resolver, name, kind).await) });
                    continue;
                }
                Step::Wait(until) => until,
                Step::Lost => return Err(ResolveError::Timeout),
            };
            let next = async {
                match until {
                    Some(until) => sleep_until(until.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(done) = running.join_next() => match done {
                    Ok((place, said @ (Ok(_) | Err(ResolveError::NotFound)))) => {
                        self.first.store(place, Ordering::Relaxed);
                        return said;
                    }
                    Ok((_, Err(_))) | Err(_) => race.failed(),
                },
                () = next => {}
            }
        }
    }
}

/// Returns what one server says.
async fn ask(resolver: &TokioResolver, name: Name, kind: RecordType) -> Family {
    match resolver.lookup(name.clone(), kind).await {
        Ok(found) => {
            let answers = found.answers().iter();
            let addresses: Vec<IpAddr> =
                answers.filter_map(|record| record.data.ip_addr()).collect();
            match addresses[..] {
                [] => Err(ResolveError::NotFound),
                _ => Ok((addresses, found.valid_until())),
            }
        }
        // Only these say that there is no such name or address; a server that fails or refuses says nothing of it.
        Err(NetError::Dns(DnsError::NoRecordsFound(none)))
            if matches!(
                none.response_code,
                ResponseCode::NXDomain | ResponseCode::NoError
            ) =>
        {
            Err(ResolveError::NotFound)
        }
        Err(error) => {
            tracing::debug!(%error, %name, %kind, "name query failed");
            Err(ResolveError::Timeout)
        }
    }
}

/// Both families have a share of what is kept.
fn answer(found: Vec<IpAddr>, valid_for: Duration) -> Option<Resolved> {
    let mut addresses = in_order(&found, 0);
    addresses.truncate(NAME_ADDRESSES_MAX);
    (!addresses.is_empty()).then(|| Resolved {
        addresses,
        valid_for: valid_for.clamp(NAME_TTL_MIN, NAME_TTL_MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(name: &str, settings: &str) -> Vec<String> {
        let parsed = hickory_resolver::system_conf::parse_resolv_conf(settings).unwrap();
        let settings = Settings {
            generation: 1,
            servers: Some(Arc::new(parsed)),
            hosts: Arc::default(),
        };
        let client = Client::new(settings);
        let whole = Name::from_utf8(format!("{name}.")).unwrap();
        let names = client.servers.unwrap().candidates(&whole);
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_short_name_is_completed_in_the_order_of_the_c_library() {
        let settings = "nameserver 127.0.0.1\nsearch a.test b.test\n";
        assert_eq!(
            candidates("wiki", settings),
            ["wiki.a.test.", "wiki.b.test.", "wiki."]
        );
        assert_eq!(
            candidates("wiki.eu", settings),
            ["wiki.eu.", "wiki.eu.a.test.", "wiki.eu.b.test."]
        );
        let more = format!("{settings}options ndots:2\n");
        assert_eq!(
            candidates("wiki.eu", &more),
            ["wiki.eu.a.test.", "wiki.eu.b.test.", "wiki.eu."]
        );
    }
}
