//! Answers of the admin listener, one function for each page. Those that change something are in
//! `changes`.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode, Version};
use serde::Serialize;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinError;
use tokio::time::{Instant, timeout_at};

use super::crl_pages::described;
use super::earlier::Earlier;
use super::host::{names_no_site, names_this_machine};
use super::ledger::Ledger;
use super::permission::{Caller, Denied, Policy};
use super::query::{Query, QueryError, decoded};
use super::routes::{self, Action, ROUTES, Show};
use super::{Node, Reply};
use crate::engine::{ChangeError, DrainError};
use crate::findings::HealthLevel;
use crate::limits::{
    ADMIN_BODY_MAX, CORE_ANSWER, DEVICES_LISTED, DEVICES_LISTED_MAX, LIST_ANSWER, TUNNELS_LISTED,
};
use crate::observe::{
    CoreMetrics, OPENMETRICS, TunnelFilter, TunnelInfo, render, render_cores, with_process,
};

pub(super) type Page = Response<Full<Bytes>>;

/// How many tunnels are open, where `/tunnels` lists fewer.
const TUNNELS_TOTAL: HeaderName = HeaderName::from_static("adit-tunnels-total");

/// How many devices are registered, where `/devices` lists fewer.
const DEVICES_TOTAL: HeaderName = HeaderName::from_static("adit-devices-total");

/// The cores whose part is missing in the answer.
const SILENT_CORES: HeaderName = HeaderName::from_static("adit-silent-cores");

/// Who may embed an answer (Fetch standard, section 3.7).
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// The admin listener's pages.
pub(super) struct Pages {
    pub(super) node: Arc<dyn Node>,
    /// That of the admin listener.
    admin: Policy,
    /// That of the socket in the state folder.
    state: Policy,
    ledger: Rc<Ledger>,
    /// Many devices are being changed: one such request at a time.
    pub(super) importing: Cell<bool>,
}

impl Pages {
    pub(super) fn new(node: Arc<dyn Node>, admin: Policy) -> Self {
        Self {
            ledger: Rc::new(Ledger::new(node.clone())),
            node,
            admin,
            state: Policy::of_state_socket(),
            importing: Cell::new(false),
        }
    }

    fn policy(&self, caller: Caller) -> &Policy {
        match caller {
            Caller::State(_) => &self.state,
            Caller::Tcp(_) | Caller::Unix(_) | Caller::Successor => &self.admin,
        }
    }

    /// Answers a request; a body is read where one is expected. One that would change something is
    /// written down.
    pub(super) async fn answer(&self, request: Request<Incoming>, caller: Caller) -> Page {
        let (parts, mut body) = request.into_parts();
        let entry = self.ledger.entry(caller, &parts);
        let decided = match self.policy(caller).users.serve(caller) {
            Ok(()) => self.decide(&parts, &mut body, caller).await,
            Err(denied) => Err(denied_page(&denied)),
        };
        let page = match decided {
            Ok(page) => page,
            Err(page) => {
                skip(&mut body).await;
                page
            }
        };
        let (head, body) = page.into_parts();
        // It is all there already.
        let content = body.collect().await.unwrap_or_default().to_bytes();
        let page = Page::from_parts(head, Full::new(content.clone()));
        entry.end(&page, &content);
        page
    }

    /// The page; as an error where it is refused, and the body may not have been read.
    async fn decide(
        &self,
        parts: &Parts,
        body: &mut Incoming,
        caller: Caller,
    ) -> Result<Page, Page> {
        let bad = |error: QueryError| failure(StatusCode::BAD_REQUEST, &error.to_string());
        let policy = self.policy(caller);
        if !is_meant_for_us(parts, policy.host) {
            let error = "this host name is not served; use localhost or a loopback address";
            return Err(failure(StatusCode::MISDIRECTED_REQUEST, error));
        }
        let (route, names) = routes::find(parts.uri.path()).ok_or_else(no_such_page)?;
        let action = route.action(&parts.method);
        let action = action.ok_or_else(|| other_methods(&route.allow()))?;
        let query = Query::parse(parts.uri.query().unwrap_or_default()).map_err(bad)?;
        if let Action::Change(change) = action {
            if caller != Caller::Successor {
                let allowed = policy.permission.check(&parts.headers);
                allowed.map_err(|denied| denied_page(&denied))?;
            }
            // It would be made, and be kept out of the audit log as a question.
            if query.dry_run && !change.takes_dry_run() {
                let error = "dry_run goes with PUT of a profile or a certificate; leave it out";
                return Err(failure(StatusCode::BAD_REQUEST, error));
            }
        }
        let [first, second] = names.map(decoded);
        let names = [first.map_err(bad)?, second.map_err(bad)?];
        match action {
            Action::Show(show) => self.show(show, names, query, caller).await,
            Action::Change(change) => {
                let from = (parts, caller);
                self.change(change, names, query, from, body).await
            }
        }
    }

    async fn show(
        &self,
        show: Show,
        [name, second]: [String; 2],
        query: Query,
        caller: Caller,
    ) -> Result<Page, Page> {
        match show {
            Show::Asset(asset) => Ok(asset.page()),
            Show::Permission => Ok(self.permission(caller)),
            Show::Health => Ok(self.health().await),
            Show::Readiness => Ok(self.readiness()),
            Show::Metrics => Ok(self.metrics(caller).await),
            Show::Histograms => Ok(self.histograms(&query).await),
            Show::Tunnels => Ok(self.tunnels(query.tunnels, query.limit).await),
            Show::Tunnel => Ok(self.tunnels(tunnel_of(&name)?, query.limit).await),
            Show::Servers => Ok(self.servers(&query)),
            Show::Server => self.server(&name, &second),
            Show::Crls => Ok(self.crls()),
            Show::CrlsOfSource => self.crls_of(&name),
            Show::Profiles => self.list_profiles().await,
            Show::Profile => self.show_profile(name, query.version).await,
            Show::Certificates => self.certificates().await,
            Show::Certificate => self.certificate([name, second]).await,
            Show::CertificateExport => self.export_certificate([name, second], &query).await,
            Show::Devices => Ok(self.devices(query).await),
            Show::Device => Ok(self.device(&name)),
        }
    }

    /// Returns what a change needs.
    pub(super) fn permission(&self, caller: Caller) -> Page {
        let needed = self.policy(caller).permission.word();
        json_page(StatusCode::OK, &json!({"changes": needed}))
    }

    /// Alive: every core answers.
    async fn health(&self) -> Page {
        let answers = self.snapshots().await;
        let silent = answers.silent();
        let status = if silent.is_empty() {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        let body =
            json!({"healthy": silent.is_empty(), "cores": answers.0.len(), "silent_cores": silent});
        json_page(status, &body)
    }

    fn readiness(&self) -> Page {
        let readiness = self.node.ready();
        let gauges = self.node.gauges();
        let messages = readiness.findings.iter();
        let messages = messages.filter(|one| !readiness.ready || one.level > HealthLevel::Notice);
        let mut reasons: Vec<&str> = messages.map(|one| &*one.message).collect();
        if gauges.draining && reasons.is_empty() {
            reasons.push("draining");
        }
        let ready = readiness.ready && !gauges.draining;
        let worst = readiness.findings.iter().map(|one| one.level).max();
        let state = match worst {
            _ if !ready => "unavailable",
            Some(HealthLevel::Warning | HealthLevel::Critical) => "degraded",
            Some(HealthLevel::Notice) | None => "ok",
        };
        let status = if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        let uptime = gauges
            .started
            .and_then(|started| started.elapsed().ok())
            .map(|uptime| uptime.as_secs());
        let body = json!({
            "ready": ready,
            "status": state,
            "reasons": reasons,
            "findings": readiness.findings,
            "draining": gauges.draining,
            "profile": gauges.profile.as_ref().map(|(name, version)| json!({"name": name, "version": version})),
            "version": gauges.version,
            "pid": std::process::id(),
            "uptime_seconds": uptime,
            "config_generation": gauges.config_generation,
            "refused": self.node.refused().map(|refusal| refusal.json()),
            "audit_lost": gauges.audit_lost,
            "predecessor": self.node.predecessor().and_then(|earlier| earlier.info()).map(
                |earlier| json!({"pid": earlier.pid, "follows": earlier.lost.is_none()}),
            ),
            "certificates": gauges.certificates,
            "crls": described(&gauges.crls),
        });
        json_page(status, &body)
    }

    /// Returns what this process counts, and the one before it.
    async fn metrics(&self, caller: Caller) -> Page {
        let (answers, earlier) = tokio::join!(self.snapshots(), self.earlier_metrics());
        let core_up: Vec<bool> = answers.0.iter().map(Option::is_some).collect();
        let metrics = answers.merged();
        // What the node as a whole is like is for the process that has taken its place to say.
        let text = if caller == Caller::Successor {
            render_cores(metrics)
        } else {
            let mut gauges = self.node.gauges();
            // One answer to "is it ready" on every page.
            gauges.ready = self.node.ready().ready && !gauges.draining;
            gauges.admin_refused = self.ledger.refused();
            render(metrics, &core_up, gauges)
        };
        let text = match &earlier {
            Earlier::Says(other, pid) => with_process(&text, other, *pid),
            Earlier::None | Earlier::Silent(_) => text,
        };
        let mut page = page(StatusCode::OK, OPENMETRICS, text);
        earlier.name_silent(page.headers_mut());
        page
    }

    /// The open tunnels, the oldest first.
    async fn tunnels(&self, filter: TunnelFilter, limit: Option<usize>) -> Page {
        let limit = limit.unwrap_or(TUNNELS_LISTED);
        let own = gather(self.node.cores(), LIST_ANSWER, |core, reply| {
            self.node.tunnels(core, filter.clone(), limit, reply);
        });
        let (answers, earlier) = tokio::join!(own, self.earlier_tunnels(&filter, limit));
        let silent = self.silent(&answers);
        let answers = answers.0.into_iter().flatten();
        let (totals, tunnels): (Vec<usize>, Vec<Vec<TunnelInfo>>) = answers.unzip();
        let mut total: usize = totals.iter().sum();
        let mut tunnels: Vec<TunnelInfo> = tunnels.into_iter().flatten().collect();
        if let Earlier::Says((others, count), _) = &earlier {
            tunnels.extend(others.iter().cloned());
            total += count;
        }
        tunnels.sort_unstable_by_key(|tunnel| (std::cmp::Reverse(tunnel.age_ms), tunnel.id));
        tunnels.truncate(limit);
        let mut page = json_page(StatusCode::OK, &tunnels);
        page.headers_mut()
            .insert(TUNNELS_TOTAL, HeaderValue::from(total));
        name_silent(page.headers_mut(), &silent);
        earlier.name_silent(page.headers_mut());
        page
    }

    /// The cores that owe an answer. Those of a node that drains end with their last session, and
    /// owe none then.
    pub(super) fn silent<T>(&self, answers: &Answers<T>) -> Vec<usize> {
        let ended = match self.node.gauges().draining {
            true => &*answers.1,
            false => &[],
        };
        let mut silent = answers.silent();
        silent.retain(|core| !ended.contains(core));
        silent
    }

    fn device(&self, name: &str) -> Page {
        match self.node.device(name) {
            Some(device) => json_page(StatusCode::OK, &device),
            None => failure(StatusCode::NOT_FOUND, &ChangeError::Unknown.to_string()),
        }
    }

    /// Devices in the order of their names.
    async fn devices(&self, query: Query) -> Page {
        let limit = query
            .limit
            .unwrap_or(DEVICES_LISTED)
            .min(DEVICES_LISTED_MAX);
        let (sender, receiver) = oneshot::channel();
        self.node.devices(
            query.prefix.unwrap_or_default(),
            query.after.unwrap_or_default(),
            limit,
            Box::new(move |answer| drop(sender.send(answer))),
        );
        let Ok((total, devices)) = receiver.await else {
            return failure(StatusCode::SERVICE_UNAVAILABLE, "the node ends");
        };
        let mut page = json_page(StatusCode::OK, &devices);
        page.headers_mut()
            .insert(DEVICES_TOTAL, HeaderValue::from(total));
        page
    }

    pub(super) async fn snapshots(&self) -> Answers<CoreMetrics> {
        gather(self.node.cores(), CORE_ANSWER, |core, reply| {
            self.node.snapshot(core, reply);
        })
        .await
    }
}

/// Answers of the cores, in their order; `None` where it did not in time. Then those that will not,
/// because they have ended.
pub(super) struct Answers<T>(pub Vec<Option<T>>, Vec<usize>);

impl<T> Answers<T> {
    pub fn silent(&self) -> Vec<usize> {
        self.0
            .iter()
            .enumerate()
            .filter(|(_, answer)| answer.is_none())
            .map(|(core, _)| core)
            .collect()
    }
}

impl Answers<CoreMetrics> {
    pub(super) fn merged(self) -> CoreMetrics {
        let mut answers = self.0.into_iter().flatten();
        let mut sum = answers.next().unwrap_or_default();
        answers.for_each(|metrics| sum.merge(&metrics));
        sum
    }
}

/// Asks every core at once and waits for all of them, no longer than `patience` in all.
pub(super) async fn gather<T: Send + 'static>(
    cores: usize,
    patience: Duration,
    ask: impl Fn(usize, Reply<T>),
) -> Answers<T> {
    let waiting: Vec<oneshot::Receiver<T>> = (0..cores)
        .map(|core| {
            let (sender, receiver) = oneshot::channel();
            // Nobody waits any more for an answer that comes too late.
            ask(core, Box::new(move |answer| drop(sender.send(answer))));
            receiver
        })
        .collect();
    let deadline = Instant::now() + patience;
    let mut answers = Answers(Vec::with_capacity(cores), Vec::new());
    for (core, receiver) in waiting.into_iter().enumerate() {
        let answer = timeout_at(deadline, receiver).await;
        if matches!(answer, Ok(Err(_))) {
            answers.1.push(core);
        }
        answers.0.push(answer.ok().and_then(Result::ok));
    }
    answers
}

/// Names the cores whose part is missing in an answer.
pub(super) fn name_silent(headers: &mut HeaderMap, silent: &[usize]) {
    if silent.is_empty() {
        return;
    }
    let list = silent
        .iter()
        .map(usize::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    headers.insert(
        SILENT_CORES,
        HeaderValue::try_from(list).expect("digits and commas"),
    );
}

/// The one tunnel of this number.
pub(super) fn tunnel_of(id: &str) -> Result<TunnelFilter, Page> {
    let id = id.parse().map_err(|_| {
        let error = "a tunnel's number is its id in /tunnels";
        failure(StatusCode::BAD_REQUEST, error)
    })?;
    Ok(TunnelFilter {
        id: Some(id),
        ..TunnelFilter::default()
    })
}

/// See [`host`](super::host). HTTP/1.0 may come without a host; no browser sends that.
fn is_meant_for_us(request: &Parts, listener: Option<IpAddr>) -> bool {
    let is_ours = |host: &str| match listener {
        Some(listener) => names_this_machine(host, listener),
        None => names_no_site(host),
    };
    let target = request
        .uri
        .authority()
        .is_none_or(|named| is_ours(named.as_str()));
    let mut hosts = request.headers.get_all(header::HOST).iter();
    let field = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().is_ok_and(is_ours),
        (None, _) => request.version == Version::HTTP_10,
        (Some(_), Some(_)) => false,
    };
    target && field
}

/// Reads a small body away: to close on one that is not read is a reset, which can overtake the
/// answer.
pub(super) async fn skip(body: &mut Incoming) {
    let _ = Limited::new(body, ADMIN_BODY_MAX).collect().await;
}

fn no_such_page() -> Page {
    let paths = ROUTES.iter().map(|route| route.path);
    let paths: Vec<&str> = ["/"].into_iter().chain(paths).collect();
    let body = json!({"error": "no such page", "pages": paths});
    json_page(StatusCode::NOT_FOUND, &body)
}

fn other_methods(allow: &str) -> Page {
    let mut page = failure(StatusCode::METHOD_NOT_ALLOWED, &format!("only {allow}"));
    let allow = HeaderValue::from_str(allow).expect("names of methods");
    page.headers_mut().insert(header::ALLOW, allow);
    page
}

fn denied_page(denied: &Denied) -> Page {
    let mut page = failure(denied.status, &denied.why);
    if denied.status == StatusCode::UNAUTHORIZED {
        page.headers_mut().insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"adit\""),
        );
    }
    page
}

pub(super) fn failure(status: StatusCode, error: &str) -> Page {
    json_page(status, &json!({"error": error}))
}

/// Returns what a change of a file in the state folder has come to, on a thread of its own.
pub(super) fn written<T>(done: Result<Result<T, DrainError>, JoinError>) -> Result<T, Page> {
    let Ok(done) = done else {
        let error = "the change failed; the node's log says more";
        return Err(failure(StatusCode::INTERNAL_SERVER_ERROR, error));
    };
    done.map_err(|error| {
        let status = match &error {
            DrainError::File(_) => StatusCode::INTERNAL_SERVER_ERROR,
            DrainError::Succeeded(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        failure(status, &error.to_string())
    })
}

pub(super) fn json_page(status: StatusCode, body: &impl Serialize) -> Page {
    let mut bytes = serde_json::to_vec(body).expect("plain values into memory");
    bytes.push(b'\n');
    page(status, "application/json", bytes)
}

pub(super) fn page(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Page {
    let mut page = Response::new(Full::new(body.into()));
    *page.status_mut() = status;
    let headers = page.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    // No page of another origin embeds what is here, not even as a picture or a script.
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    page
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn a_core_that_keeps_the_question_is_not_waited_for() {
        let kept = Mutex::new(Vec::new());
        let answers = gather(3, Duration::ZERO, |core, reply: Reply<usize>| match core {
            // Kept unanswered, dropped, answered.
            0 => kept.lock().unwrap().push(reply),
            1 => drop(reply),
            _ => reply(core),
        })
        .await;
        assert_eq!(answers.0, [None, None, Some(2)]);
        assert_eq!(answers.silent(), [0, 1]);
        // The answer that comes too late goes nowhere.
        kept.into_inner()
            .unwrap()
            .into_iter()
            .for_each(|reply| reply(0));
    }
}
