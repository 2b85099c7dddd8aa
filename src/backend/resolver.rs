//! Name resolution on the control core, with the system's configuration (`/etc/resolv.conf`, `/etc/hosts`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::net::{DnsError, NetError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::race::in_order;
use crate::limits::{NAME_ADDRESSES_MAX, NAME_QUERIES_MAX, NAME_TTL_MAX, NAME_TTL_MIN};

/// The addresses of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Addresses, at least one, in the order to try them.
    pub addresses: Vec<IpAddr>,
    /// For how long they may be used.
    pub valid_for: Duration,
}

/// Why a name has no addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// It does not exist, or has no address.
    #[error("the name does not exist or has no address")]
    NotFound,
    /// No name server answered, or too many queries wait already.
    #[error("no answer in time")]
    Timeout,
}

type Reply = Box<dyn FnOnce(Result<Answer, ResolveError>) + Send>;

/// Where the data cores ask. Cheap to clone.
#[derive(Clone)]
pub struct ResolverHandle {
    queries: mpsc::Sender<(Box<str>, Reply)>,
}

/// The resolver itself, to be run on the control core.
pub struct ResolverTask {
    queries: mpsc::Receiver<(Box<str>, Reply)>,
}

/// A resolver and the handle to it.
#[must_use]
pub fn resolver() -> (ResolverHandle, ResolverTask) {
    let (sender, receiver) = mpsc::channel(NAME_QUERIES_MAX);
    (
        ResolverHandle { queries: sender },
        ResolverTask { queries: receiver },
    )
}

impl ResolverHandle {
    /// Asks for a name. `reply` is called on the control core, or here when the resolver is overloaded or gone.
    pub fn lookup(
        &self,
        name: &str,
        reply: impl FnOnce(Result<Answer, ResolveError>) + Send + 'static,
    ) {
        use mpsc::error::TrySendError::{Closed, Full};
        if let Err(Full((_, reply)) | Closed((_, reply))) =
            self.queries.try_send((name.into(), Box::new(reply)))
        {
            reply(Err(ResolveError::Timeout));
        }
    }
}

impl ResolverTask {
    /// Answers queries for ever. Equal names that are asked for at the same time are one query.
    pub async fn run(mut self) {
        let resolver = match TokioResolver::builder_tokio()
            .and_then(hickory_resolver::ResolverBuilder::build)
        {
            Ok(resolver) => Rc::new(resolver),
            Err(error) => {
                tracing::error!(%error, "name resolution is not available: check /etc/resolv.conf; only addresses work");
                while let Some((_, reply)) = self.queries.recv().await {
                    reply(Err(ResolveError::NotFound));
                }
                return;
            }
        };
        let mut waiting: HashMap<Box<str>, Vec<Reply>> = HashMap::new();
        let mut running = JoinSet::new();
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                loop {
                    tokio::select! {
                        query = self.queries.recv(), if running.len() < NAME_QUERIES_MAX => {
                            let Some((name, reply)) = query else { return };
                            let replies = waiting.entry(name.clone()).or_default();
                            replies.push(reply);
                            if replies.len() == 1 {
                                let resolver = resolver.clone();
                                running.spawn_local(async move {
                                    let answer = resolve(&resolver, &name).await;
                                    (name, answer)
                                });
                            }
                        }
                        Some(done) = running.join_next(), if !running.is_empty() => {
                            if let Ok((name, answer)) = done {
                                for reply in waiting.remove(&name).unwrap_or_default() {
                                    reply(answer.clone());
                                }
                            }
                        }
                    }
                }
            })
            .await;
    }
}

async fn resolve(resolver: &TokioResolver, name: &str) -> Result<Answer, ResolveError> {
    // The dot makes it absolute: what an app asks for is not completed with the node's search domains.
    match resolver.lookup_ip(format!("{name}.")).await {
        Ok(found) => {
            let left = found
                .valid_until()
                .saturating_duration_since(Instant::now());
            let found: Vec<IpAddr> = found.iter().collect();
            // Both families have a share of what is kept.
            let mut addresses = in_order(&found, 0);
            addresses.truncate(NAME_ADDRESSES_MAX);
            if addresses.is_empty() {
                return Err(ResolveError::NotFound);
            }
            Ok(Answer {
                addresses,
                valid_for: left.clamp(NAME_TTL_MIN, NAME_TTL_MAX),
            })
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(_))) => Err(ResolveError::NotFound),
        Err(error) => {
            tracing::debug!(%error, name, "name query failed");
            Err(ResolveError::Timeout)
        }
    }
}
