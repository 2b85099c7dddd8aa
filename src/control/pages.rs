//! What the admin listener answers, one function a page. Those that change something are in `changes`.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Version};
use serde::Serialize;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::crl_pages::described;
use super::earlier::Earlier;
use super::host::{names_no_site, names_this_machine};
use super::ledger::Ledger;
use super::page::{Asset, asset};
use super::permission::{Caller, Denied, Permission, Users};
use super::query::{Query, decoded};
use super::{Node, Reply};
use crate::engine::ChangeError;
use crate::limits::{
    ADMIN_BODY_MAX, CORE_ANSWER, DEVICES_LISTED, DEVICES_LISTED_MAX, LIST_ANSWER, TUNNELS_LISTED,
};
use crate::observe::{
    CoreMetrics, OPENMETRICS, TunnelFilter, TunnelInfo, render, render_cores, with_process,
};

pub(super) type Page = Response<Full<Bytes>>;

const ENDPOINTS: [&str; 13] = [
    "/",
    "/healthz",
    "/readyz",
    "/metrics",
    "/histograms",
    "/tunnels",
    "/devices",
    "/servers",
    "/certificates",
    "/crls",
    "/permission",
    "/reload",
    "/profiles",
];

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place<'p> {
    /// The page for a browser, or a part of it.
    Asset(&'static Asset),
    Health,
    Readiness,
    Metrics,
    Histograms,
    Tunnels,
    /// With its number, which need not be one.
    Tunnel(&'p str),
    Devices,
    /// With its name, percent-encoded.
    Device(&'p str),
    Servers,
    Reload,
    Certificates,
    /// With its kind and name, and what of it is wanted.
    Certificate(&'p str),
    /// With its service and address, each percent-encoded.
    Server(&'p str),
    Crls,
    /// With its file or URL, percent-encoded.
    Crl(&'p str),
    Profiles,
    /// With its name, percent-encoded, and what is done with it.
    Profile(&'p str),
    /// Who may change something, and whether the one who asks may.
    Permission,
}

impl<'p> Place<'p> {
    /// Whether a change of it may be asked for without being made.
    fn can_be_tried(&self, method: &Method) -> bool {
        method == Method::PUT && matches!(self, Self::Profile(_) | Self::Certificate(_))
    }

    fn of(path: &'p str) -> Option<Self> {
        if let Some(asset) = asset(path) {
            return Some(Self::Asset(asset));
        }
        Some(match path {
            "/healthz" => Self::Health,
            "/readyz" => Self::Readiness,
            "/metrics" => Self::Metrics,
            "/histograms" => Self::Histograms,
            "/tunnels" => Self::Tunnels,
            "/devices" => Self::Devices,
            "/servers" => Self::Servers,
            "/certificates" => Self::Certificates,
            "/crls" => Self::Crls,
            "/permission" => Self::Permission,
            "/reload" => Self::Reload,
            "/profiles" => Self::Profiles,
            _ => match path.split_once('/')?.1.split_once('/')? {
                ("tunnels", id) => Self::Tunnel(id),
                ("devices", name) if !name.is_empty() => Self::Device(name),
                ("servers", path) => Self::Server(path),
                ("profiles", path) if !path.is_empty() => Self::Profile(path),
                ("certificates", path) => Self::Certificate(path),
                ("crls", source) if !source.is_empty() => Self::Crl(source),
                _ => return None,
            },
        })
    }

    const fn methods(self) -> &'static str {
        match self {
            Self::Tunnels | Self::Tunnel(_) => "GET, HEAD, DELETE",
            Self::Devices | Self::Permission => "GET, HEAD, POST",
            Self::Device(_) | Self::Certificate(_) => "GET, HEAD, PUT, DELETE",
            Self::Server(_) => "GET, HEAD, PUT",
            Self::Crl(_) => "GET, HEAD, DELETE",
            Self::Reload => "POST",
            Self::Profile(_) => "GET, HEAD, PUT, POST, DELETE",
            _ => "GET, HEAD",
        }
    }
}

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
    pub(super) permission: Permission,
    users: Users,
    ledger: Rc<Ledger>,
    /// Many devices are being changed: one such request at a time.
    pub(super) importing: Cell<bool>,
    /// The listener's address; `None` for a Unix socket.
    host: Option<IpAddr>,
}

impl Pages {
    pub(super) fn new(
        node: Arc<dyn Node>,
        host: Option<IpAddr>,
        (permission, users): (Permission, Users),
    ) -> Self {
        Self {
            ledger: Rc::new(Ledger::new(node.clone())),
            node,
            permission,
            users,
            importing: Cell::new(false),
            host,
        }
    }

    /// Answers a request; a body is read where one is expected. One that would change something is written down.
    pub(super) async fn answer(&self, mut request: Request<Incoming>, caller: Caller) -> Page {
        let parts = (request.method(), request.uri(), request.headers());
        let entry = self.ledger.entry(caller, parts);
        let page = match self.users.serve(caller) {
            Ok(()) => self.decide(request, caller).await,
            Err(denied) => {
                skip(request.body_mut()).await;
                denied_page(&denied)
            }
        };
        let (head, body) = page.into_parts();
        // It is all there already.
        let content = body.collect().await.unwrap_or_default().to_bytes();
        let page = Page::from_parts(head, Full::new(content.clone()));
        entry.end(&page, &content);
        page
    }

    async fn decide(&self, mut request: Request<Incoming>, caller: Caller) -> Page {
        if !self.is_meant_for_us(&request) {
            let error = "this host is not served here; ask for localhost or a loopback address";
            return failure(StatusCode::MISDIRECTED_REQUEST, error);
        }
        let path = request.uri().path();
        let Some(place) = Place::of(path) else {
            return json_page(
                StatusCode::NOT_FOUND,
                &json!({"error": "no such page", "pages": ENDPOINTS}),
            );
        };
        let method = request.method();
        if !place.methods().split(", ").any(|known| known == method) {
            let error = format!("only {}", place.methods());
            let mut page = failure(StatusCode::METHOD_NOT_ALLOWED, &error);
            page.headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static(place.methods()));
            return page;
        }
        let query = match Query::parse(request.uri().query().unwrap_or_default()) {
            Ok(query) => query,
            Err(error) => return failure(StatusCode::BAD_REQUEST, &error),
        };
        // It would be made, and be kept out of the audit log as a question.
        let cannot_be_tried = query.dry_run && !place.can_be_tried(method);
        if method != Method::GET && method != Method::HEAD {
            let allowed = match caller {
                Caller::Successor => Ok(()),
                Caller::Tcp(_) | Caller::Unix { .. } => self.permission.check(request.headers()),
            };
            if allowed.is_err() {
                skip(request.body_mut()).await;
            }
            return match allowed {
                Ok(()) if cannot_be_tried => {
                    skip(request.body_mut()).await;
                    failure(
                        StatusCode::BAD_REQUEST,
                        "dry_run goes with PUT of a profile or a certificate; leave it out",
                    )
                }
                Ok(()) => {
                    let (parts, body) = request.into_parts();
                    match Place::of(parts.uri.path()) {
                        Some(place) => self.change(place, query, &parts, body).await,
                        None => failure(StatusCode::NOT_FOUND, "no such page"),
                    }
                }
                Err(denied) => denied_page(&denied),
            };
        }
        self.show(place, query, caller).await
    }

    async fn show(&self, place: Place<'_>, query: Query, caller: Caller) -> Page {
        match place {
            Place::Asset(asset) => asset.page(),
            Place::Permission => self.permission(),
            Place::Health => self.health().await,
            Place::Readiness => self.readiness(),
            Place::Metrics => self.metrics(caller).await,
            Place::Histograms => self.histograms(&query).await,
            Place::Tunnels => self.tunnels(&query).await,
            Place::Tunnel(id) => match tunnel_of(id) {
                Ok(tunnels) => self.tunnels(&Query { tunnels, ..query }).await,
                Err(error) => failure(StatusCode::BAD_REQUEST, &error),
            },
            Place::Servers => self.servers(&query),
            Place::Reload => failure(StatusCode::METHOD_NOT_ALLOWED, "only POST"),
            Place::Server(path) => self.server(path),
            Place::Crls => self.crls(),
            Place::Crl(source) => self.crls_of(source),
            Place::Profiles => self.list_profiles().await,
            Place::Profile(path) => self.show_profile(path, query).await,
            Place::Certificates => self.certificates().await,
            Place::Certificate(path) => self.certificate(path, &query).await,
            Place::Devices => self.devices(query).await,
            Place::Device(name) => match decoded(name) {
                Ok(name) => self.device(&name),
                Err(error) => failure(StatusCode::BAD_REQUEST, &error),
            },
        }
    }

    /// See [`host`](super::host). HTTP/1.0 may come without a host; no browser sends that.
    fn is_meant_for_us<B>(&self, request: &Request<B>) -> bool {
        let is_ours = |host: &str| match self.host {
            Some(listener) => names_this_machine(host, listener),
            None => names_no_site(host),
        };
        let target = request
            .uri()
            .authority()
            .is_none_or(|named| is_ours(named.as_str()));
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let field = match (hosts.next(), hosts.next()) {
            (Some(host), None) => host.to_str().is_ok_and(is_ours),
            (None, _) => request.version() == Version::HTTP_10,
            (Some(_), Some(_)) => false,
        };
        target && field
    }

    /// What a change needs.
    pub(super) fn permission(&self) -> Page {
        json_page(StatusCode::OK, &json!({"changes": self.permission.word()}))
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
        let mut reasons = readiness.reasons;
        if gauges.draining && reasons.is_empty() {
            reasons.push("draining".to_owned());
        }
        let ready = readiness.ready && !gauges.draining;
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
            "reasons": reasons,
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

    /// What this process counts, and the one before it.
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
    async fn tunnels(&self, query: &Query) -> Page {
        let limit = query.limit.unwrap_or(TUNNELS_LISTED);
        let own = gather(self.node.cores(), LIST_ANSWER, |core, reply| {
            let filter = query.tunnels.clone();
            self.node.tunnels(core, filter, limit, reply);
        });
        let (answers, earlier) = tokio::join!(own, self.earlier_tunnels(&query.tunnels, limit));
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

    /// The cores that owe an answer. Those of a node that drains end with their last session, and owe none then.
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

/// What each core answered, in the cores' order; `None` where it did not in time. Then those that will not, because they
/// have ended.
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

/// Each CRL with its state.
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
pub(super) fn tunnel_of(id: &str) -> Result<TunnelFilter, String> {
    let id = id
        .parse()
        .map_err(|_| "a tunnel's number is its id in /tunnels".to_owned())?;
    Ok(TunnelFilter {
        id: Some(id),
        ..TunnelFilter::default()
    })
}

/// Reads a small body away: to close on one that is not read is a reset, which can overtake the answer.
pub(super) async fn skip(body: &mut Incoming) {
    let _ = Limited::new(body, ADMIN_BODY_MAX).collect().await;
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
