//! What the admin listener answers, one function a page.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Version};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::host::names_this_machine;
use super::{Node, Reply};
use crate::limits::{CORE_ANSWER, TUNNELS_LISTED, TUNNELS_LISTED_MAX};
use crate::observe::{
    CoreMetrics, CrlInfo, OPENMETRICS, Stage, TunnelInfo, percentile_text, render, summarize,
};

type Page = Response<Full<Bytes>>;

const ENDPOINTS: [&str; 5] = ["/healthz", "/readyz", "/metrics", "/histograms", "/tunnels"];

/// How many tunnels are open, where `/tunnels` lists fewer.
const TUNNELS_TOTAL: HeaderName = HeaderName::from_static("adit-tunnels-total");

/// The cores whose part is missing in the answer.
const SILENT_CORES: HeaderName = HeaderName::from_static("adit-silent-cores");

/// The admin listener's pages.
pub(super) struct Pages {
    node: Arc<dyn Node>,
    /// The listener's address; `None` for a Unix socket, where any host may be named.
    host: Option<IpAddr>,
}

impl Pages {
    pub(super) fn new(node: Arc<dyn Node>, host: Option<IpAddr>) -> Self {
        Self { node, host }
    }

    /// Answers a request; its body is not read.
    pub(super) async fn answer<B>(&self, request: &Request<B>) -> Page {
        if !self.is_meant_for_us(request) {
            let error = "this host is not served here; ask for localhost or a loopback address";
            return failure(StatusCode::MISDIRECTED_REQUEST, error);
        }
        let path = request.uri().path();
        if !ENDPOINTS.contains(&path) {
            return json_page(
                StatusCode::NOT_FOUND,
                &json!({"error": "no such page", "pages": ENDPOINTS}),
            );
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut page = failure(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
            page.headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return page;
        }
        let answer = match (
            path,
            Query::parse(request.uri().query().unwrap_or_default()),
        ) {
            (_, Err(error)) => Err(error),
            ("/healthz", _) => Ok(self.health().await),
            ("/readyz", _) => Ok(self.readiness()),
            ("/metrics", _) => Ok(self.metrics().await),
            ("/histograms", Ok(query)) => Ok(self.histograms(&query).await),
            (_, Ok(query)) => Ok(self.tunnels(&query).await),
        };
        answer.unwrap_or_else(|error| failure(StatusCode::BAD_REQUEST, &error))
    }

    /// See [`host`](super::host). HTTP/1.0 may come without a host; no browser sends that.
    fn is_meant_for_us<B>(&self, request: &Request<B>) -> bool {
        let Some(listener) = self.host else {
            return true;
        };
        let target = request
            .uri()
            .authority()
            .is_none_or(|named| names_this_machine(named.as_str(), listener));
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let field = match (hosts.next(), hosts.next()) {
            (Some(host), None) => host
                .to_str()
                .is_ok_and(|host| names_this_machine(host, listener)),
            (None, _) => request.version() == Version::HTTP_10,
            (Some(_), Some(_)) => false,
        };
        target && field
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
        let body = json!({
            "ready": ready,
            "reasons": reasons,
            "draining": gauges.draining,
            "config_generation": gauges.config_generation,
            "audit_lost": gauges.audit_lost,
            "crls": crls(&gauges.crls),
        });
        json_page(status, &body)
    }

    async fn metrics(&self) -> Page {
        let answers = self.snapshots().await;
        let core_up: Vec<bool> = answers.0.iter().map(Option::is_some).collect();
        let mut gauges = self.node.gauges();
        // One answer to "is it ready" on every page.
        gauges.ready = self.node.ready().ready && !gauges.draining;
        page(
            StatusCode::OK,
            OPENMETRICS,
            render(answers.merged(), &core_up, gauges),
        )
    }

    async fn histograms(&self, query: &Query) -> Page {
        let answers = self.snapshots().await;
        let silent = answers.silent();
        let metrics = answers.merged();
        let stages = Stage::ALL
            .into_iter()
            .filter(|stage| query.stage.is_none_or(|wanted| wanted == *stage));
        let mut page = match query.format {
            Format::Hgrm => {
                let text = stages.map(|stage| {
                    // A line that starts with # is a comment to the tools that read the format.
                    let title = if query.stage.is_none() {
                        format!("#[Stage   = {}]\n", stage.word())
                    } else {
                        String::new()
                    };
                    title + &percentile_text(metrics.histogram(stage))
                });
                page(
                    StatusCode::OK,
                    "text/plain; charset=utf-8",
                    text.collect::<String>(),
                )
            }
            Format::Json => {
                let stages: Map<String, Value> = stages
                    .map(|stage| {
                        (
                            stage.word().to_owned(),
                            json!(summarize(metrics.histogram(stage))),
                        )
                    })
                    .collect();
                json_page(
                    StatusCode::OK,
                    &json!({"unit": "us", "silent_cores": silent, "stages": stages}),
                )
            }
        };
        name_silent(page.headers_mut(), &silent);
        page
    }

    /// The open tunnels, the oldest first.
    async fn tunnels(&self, query: &Query) -> Page {
        let answers = gather(self.node.cores(), CORE_ANSWER, |core, reply| {
            self.node.tunnels(core, reply);
        })
        .await;
        let silent = answers.silent();
        let mut tunnels: Vec<TunnelInfo> = answers.0.into_iter().flatten().flatten().collect();
        let total = tunnels.len();
        tunnels.sort_unstable_by_key(|tunnel| (std::cmp::Reverse(tunnel.age_ms), tunnel.id));
        tunnels.truncate(query.limit);
        let mut page = json_page(StatusCode::OK, &tunnels);
        page.headers_mut()
            .insert(TUNNELS_TOTAL, HeaderValue::from(total));
        name_silent(page.headers_mut(), &silent);
        page
    }

    async fn snapshots(&self) -> Answers<CoreMetrics> {
        gather(self.node.cores(), CORE_ANSWER, |core, reply| {
            self.node.snapshot(core, reply);
        })
        .await
    }
}

/// What each core answered, in the cores' order; `None` where it did not in time.
struct Answers<T>(Vec<Option<T>>);

impl<T> Answers<T> {
    fn silent(&self) -> Vec<usize> {
        self.0
            .iter()
            .enumerate()
            .filter(|(_, answer)| answer.is_none())
            .map(|(core, _)| core)
            .collect()
    }
}

impl Answers<CoreMetrics> {
    fn merged(self) -> CoreMetrics {
        let mut answers = self.0.into_iter().flatten();
        let mut sum = answers.next().unwrap_or_default();
        answers.for_each(|metrics| sum.merge(&metrics));
        sum
    }
}

/// Asks every core at once and waits for all of them, no longer than `patience` in all.
async fn gather<T: Send + 'static>(
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
    let mut answers = Vec::with_capacity(cores);
    for receiver in waiting {
        answers.push(
            timeout_at(deadline, receiver)
                .await
                .ok()
                .and_then(Result::ok),
        );
    }
    Answers(answers)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Hgrm,
}

/// The parameters of a request's query. Their values are plain words and numbers, so nothing is decoded.
#[derive(Debug, PartialEq, Eq)]
struct Query {
    format: Format,
    stage: Option<Stage>,
    limit: usize,
}

impl Query {
    fn parse(query: &str) -> Result<Self, String> {
        let mut parsed = Self {
            format: Format::Json,
            stage: None,
            limit: TUNNELS_LISTED,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("format", "json") => parsed.format = Format::Json,
                ("format", "hgrm") => parsed.format = Format::Hgrm,
                ("format", _) => return Err("format is json or hgrm".to_owned()),
                ("stage", word) => {
                    let stages = Stage::ALL.map(Stage::word).join(", ");
                    parsed.stage = Some(
                        Stage::from_word(word)
                            .ok_or_else(|| format!("stage is one of {stages}"))?,
                    );
                }
                ("limit", number) => {
                    let limit = number
                        .parse()
                        .ok()
                        .filter(|limit| *limit <= TUNNELS_LISTED_MAX);
                    parsed.limit = limit
                        .ok_or_else(|| format!("limit is a number up to {TUNNELS_LISTED_MAX}"))?;
                }
                _ => return Err("the parameters are format, stage and limit".to_owned()),
            }
        }
        Ok(parsed)
    }
}

/// Each CRL with its state.
fn crls(crls: &[CrlInfo]) -> Value {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    crls.iter()
        .map(|crl| {
            let mut line = json!(crl);
            line["state"] = crl.state(now).into();
            line["age_seconds"] = crl.this_update.map(|made| now.saturating_sub(made)).into();
            line
        })
        .collect()
}

fn name_silent(headers: &mut HeaderMap, silent: &[usize]) {
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

fn failure(status: StatusCode, error: &str) -> Page {
    json_page(status, &json!({"error": error}))
}

fn json_page(status: StatusCode, body: &impl Serialize) -> Page {
    let mut bytes = serde_json::to_vec(body).expect("plain values into memory");
    bytes.push(b'\n');
    page(status, "application/json", bytes)
}

fn page(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Page {
    let mut page = Response::new(Full::new(body.into()));
    *page.status_mut() = status;
    let headers = page.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
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

    #[test]
    fn query_takes_what_is_documented() {
        assert_eq!(
            Query::parse(""),
            Ok(Query {
                format: Format::Json,
                stage: None,
                limit: TUNNELS_LISTED
            })
        );
        assert_eq!(
            Query::parse("format=hgrm&stage=first-byte&limit=0"),
            Ok(Query {
                format: Format::Hgrm,
                stage: Some(Stage::FirstByte),
                limit: 0
            })
        );
        for wrong in [
            "format=xml",
            "format",
            "stage=",
            "stage=Handshake",
            "limit=-1",
            "limit=100001",
            "limit=x",
            "colour=red",
        ] {
            assert!(Query::parse(wrong).is_err(), "{wrong}");
        }
    }
}
