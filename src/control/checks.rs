//! Active checks of servers, on the control core, so that they cost the data cores nothing.
//!
//! A check does what a tunnel would do to reach the server as it is named: it resolves the name,
//! tries its addresses one after the other from the service's source address, goes through its
//! upstream proxy, and with `check = "tls"` makes a whole handshake under the service's roots. One
//! address that answers is enough. Not a byte of a tunnel is sent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::reach::reach;
use crate::backend::{ResolverHandle, ServerState, Watch, of_tls, reason_of};
use crate::engine::Node;
use crate::limits::{CHECK_POLL, CHECKS_AT_ONCE};
use crate::reason::CloseReason;

/// Checks the servers whose services ask for it, for ever. A reload counts from the next look on.
pub async fn check_servers(node: Arc<Node>, resolver: ResolverHandle) {
    let mut schedule = Schedule::default();
    let mut running = JoinSet::new();
    loop {
        let watches = node.watches();
        let now = Instant::now();
        schedule.keep(&watches);
        while running.len() < CHECKS_AT_ONCE
            && let Some((service, server)) = schedule.next_due(&watches, now)
        {
            let (watches, resolver) = (watches.clone(), resolver.clone());
            running.spawn(async move {
                let watch = &watches[service];
                let began = Instant::now();
                let outcome = timeout(watch.check.timeout, check(watch, &server, &resolver)).await;
                let failure = outcome.unwrap_or(Err(CloseReason::ConnectTimeout)).err();
                let ended = Instant::now();
                server.checked(failure, watch.group.health(), (began, ended));
                (server, ended + watch.check.interval)
            });
        }
        let next = schedule.next().map_or(CHECK_POLL, |due| {
            due.saturating_duration_since(now).min(CHECK_POLL)
        });
        tokio::select! {
            () = sleep(next), if running.len() < CHECKS_AT_ONCE => {}
            Some(done) = running.join_next(), if !running.is_empty() => {
                if let Ok((server, due)) = done {
                    schedule.done(&server, due);
                }
            }
        }
    }
}

/// When each server is checked next; `None` while a check runs. No I/O and no clock.
#[derive(Default)]
struct Schedule {
    due: HashMap<Key, Option<Instant>>,
}

/// A server's state is where it is for as long as the schedule knows of it: watches hold it.
type Key = usize;

fn key(server: &Arc<ServerState>) -> Key {
    Arc::as_ptr(server) as usize
}

impl Schedule {
    /// Forgets servers that are not watched any more. New ones are due at once.
    fn keep(&mut self, watches: &[Watch]) {
        let servers = watches.iter().flat_map(|watch| watch.group.servers());
        let old = std::mem::take(&mut self.due);
        let now = Instant::now();
        for server in servers {
            let due = old.get(&key(server)).copied();
            self.due.insert(key(server), due.unwrap_or(Some(now)));
        }
    }

    /// A server that is due, by the place of its service. Its check is taken to run from now on.
    fn next_due(&mut self, watches: &[Watch], now: Instant) -> Option<(usize, Arc<ServerState>)> {
        for (place, watch) in watches.iter().enumerate() {
            for server in watch.group.servers() {
                let due = self.due.get_mut(&key(server))?;
                if due.is_some_and(|at| at <= now) {
                    *due = None;
                    return Some((place, server.clone()));
                }
            }
        }
        None
    }

    /// When the next server is due.
    fn next(&self) -> Option<Instant> {
        self.due.values().flatten().min().copied()
    }

    /// A check has ended.
    fn done(&mut self, server: &Arc<ServerState>, due: Instant) {
        if let Some(entry) = self.due.get_mut(&key(server)) {
            *entry = Some(due);
        }
    }
}

/// Checks a server once.
async fn check(
    watch: &Watch,
    server: &ServerState,
    resolver: &ResolverHandle,
) -> Result<(), CloseReason> {
    let (upstream, bind) = (watch.upstream.as_ref(), &watch.bind);
    let mut stream = reach(server.address(), upstream, bind, resolver).await?;
    let Some((config, name)) = watch.tls(server) else {
        return Ok(());
    };
    let gone = |error| reason_of(&error);
    stream.write_all(&watch.proxy_header).await.map_err(gone)?;
    let mut session = TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|error| {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
            inner.map_or(CloseReason::ServerTls, of_tls)
        })?;
    let _ = session.shutdown().await;
    Ok(())
}
