//! The process before this one, asked for its part of an answer: tunnels that it relays still, and
//! what it counts.

use std::collections::HashMap;
use std::time::Duration;

use http_body_util::Full;
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::client::{Patience, Reply, RequestBody, exchange};
use super::pages::Pages;
use crate::limits::SUCCESSION_ANSWER;
use crate::observe::{TunnelFilter, TunnelInfo};

/// That the process before this one has not answered for its part.
const SILENT_PROCESS: HeaderName = HeaderName::from_static("adit-silent-process");

/// Answer of the process before this one.
pub(super) enum Earlier<T> {
    /// There is none.
    None,
    /// It does not answer, or not what is understood. Its number.
    Silent(u32),
    /// This.
    Says(T, u32),
}

impl<T> Earlier<T> {
    /// Names it in an answer in which its part is missing.
    pub fn name_silent(&self, headers: &mut HeaderMap) {
        if let Self::Silent(pid) = self {
            headers.insert(SILENT_PROCESS, HeaderValue::from(*pid));
        }
    }

    fn and_then<U>(self, read: impl FnOnce(T) -> Option<U>) -> Earlier<U> {
        match self {
            Self::None => Earlier::None,
            Self::Silent(pid) => Earlier::Silent(pid),
            Self::Says(said, pid) => {
                read(said).map_or(Earlier::Silent(pid), |read| Earlier::Says(read, pid))
            }
        }
    }
}

impl Pages {
    /// Its open tunnels that the filter means, as many as are wanted, and how many there are.
    pub(super) async fn earlier_tunnels(
        &self,
        filter: &TunnelFilter,
        limit: usize,
    ) -> Earlier<(Vec<TunnelInfo>, usize)> {
        let path = path_of(filter, Some(limit));
        let asked = self
            .ask_earlier(Method::GET, &path, SUCCESSION_ANSWER)
            .await;
        asked.and_then(|reply| {
            let total = reply.headers.get("adit-tunnels-total")?.to_str().ok()?;
            Some((json(&reply)?, total.parse().ok()?))
        })
    }

    /// Closes its tunnels that the filter means. How many those were.
    pub(super) async fn close_earlier(
        &self,
        filter: &TunnelFilter,
        patience: Duration,
    ) -> Earlier<usize> {
        let path = path_of(filter, None);
        let asked = self.ask_earlier(Method::DELETE, &path, patience).await;
        asked.and_then(|reply| {
            let said: HashMap<String, usize> = json(&reply)?;
            said.get("closed").copied()
        })
    }

    /// Returns what it counts, as text for Prometheus.
    pub(super) async fn earlier_metrics(&self) -> Earlier<String> {
        let asked = self
            .ask_earlier(Method::GET, "/metrics", SUCCESSION_ANSWER)
            .await;
        asked.and_then(|reply| String::from_utf8(reply.body.into()).ok())
    }

    async fn ask_earlier(&self, method: Method, path: &str, patience: Duration) -> Earlier<Reply> {
        let Some(earlier) = self.node.predecessor() else {
            return Earlier::None;
        };
        let Some(info) = earlier.info() else {
            return Earlier::None;
        };
        let ask = async {
            let connection = earlier.connect()?;
            connection.set_nonblocking(true).ok()?;
            let connection = UnixStream::from_std(connection).ok()?;
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header(HOST, "localhost");
            let request = request.body(RequestBody::Left(Full::default())).ok()?;
            let patience = Patience {
                first: patience,
                next: patience,
                all: patience,
            };
            let reply = exchange(connection, request, patience).await.ok()?;
            (reply.status == StatusCode::OK).then_some(reply)
        };
        match ask.await {
            Some(reply) => Earlier::Says(reply, info.pid),
            // It may have ended meanwhile, with all that it had.
            None if earlier.info().is_none() => Earlier::None,
            None => Earlier::Silent(info.pid),
        }
    }
}

fn json<T: DeserializeOwned>(reply: &Reply) -> Option<T> {
    serde_json::from_slice(&reply.body).ok()
}

/// The request for these tunnels.
fn path_of(filter: &TunnelFilter, limit: Option<usize>) -> String {
    let TunnelFilter {
        id,
        device,
        user,
        app,
        serial,
        service,
    } = filter;
    let named = [
        ("device", device),
        ("user", user),
        ("app", app),
        ("serial", serial),
        ("service", service),
    ];
    let named = named.into_iter().filter_map(|(name, value)| {
        let value = utf8_percent_encode(value.as_deref()?, NON_ALPHANUMERIC);
        Some(format!("{name}={value}"))
    });
    let limit = limit.map(|limit| format!("limit={limit}"));
    let query: Vec<String> = named.chain(limit).collect();
    let id = id.map_or(String::new(), |id| format!("/{id}"));
    format!("/tunnels{id}?{}", query.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::query::Query;

    #[test]
    fn a_filter_is_asked_for_as_it_was() {
        let filter = TunnelFilter {
            id: None,
            device: Some("urn:device/1&2".to_owned()),
            user: Some("änn@b".to_owned()),
            app: None,
            serial: Some("0a".to_owned()),
            service: Some("w".to_owned()),
        };
        let path = path_of(&filter, Some(7));
        let query = Query::parse(path.split_once('?').unwrap().1).unwrap();
        assert_eq!((query.tunnels, query.limit), (filter, Some(7)));
        let one = TunnelFilter {
            id: Some(9),
            ..TunnelFilter::default()
        };
        assert_eq!(path_of(&one, None), "/tunnels/9?");
    }
}
