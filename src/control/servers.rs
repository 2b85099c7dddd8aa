//! Servers on the admin listener: what is known of them, and which of them take new tunnels.

use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::http::request::Parts;
use serde::Deserialize;
use tokio::task::spawn_blocking;

use super::changes::json_body;
use super::pages::{Page, Pages, failure, json_page, written};
use super::query::Query;
use crate::limits::ADMIN_BODY_MAX;
use crate::observe::ServerInfo;

/// Requested state of a server.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    state: WantedState,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum WantedState {
    Up,
    Drained,
}

impl Pages {
    /// All servers, or those of one service.
    pub(super) fn servers(&self, query: &Query) -> Page {
        let wanted = query.tunnels.service.as_deref();
        let is_wanted = |info: &ServerInfo| wanted.is_none_or(|service| info.service == service);
        let mut servers = self.node.servers();
        servers.retain(is_wanted);
        json_page(StatusCode::OK, &servers)
    }

    /// One server.
    pub(super) fn server(&self, service: &str, server: &str) -> Result<Page, Page> {
        let mut servers = self.node.servers().into_iter();
        let is_meant = |info: &ServerInfo| info.service == service && info.server == server;
        let info = servers.find(is_meant).ok_or_else(unknown)?;
        Ok(json_page(StatusCode::OK, &info))
    }

    /// Drains a server, or brings it back.
    pub(super) async fn set_server(
        &self,
        service: String,
        server: String,
        parts: &Parts,
        body: &mut Incoming,
    ) -> Result<Page, Page> {
        let shape = "{\"state\": \"drained\"} or {\"state\": \"up\"}";
        let Wanted { state } = json_body(parts, body, ADMIN_BODY_MAX, shape).await?;
        let drained = matches!(state, WantedState::Drained);
        let (node, named) = (self.node.clone(), (service.clone(), server.clone()));
        // Waits for the disk: not on this thread, which answers probes.
        let set = spawn_blocking(move || node.drain_server(&named.0, &named.1, drained)).await;
        let info = written(set)?.ok_or_else(unknown)?;
        tracing::info!(
            service,
            server,
            drained,
            "server set through the admin listener"
        );
        Ok(json_page(StatusCode::OK, &info))
    }
}

fn unknown() -> Page {
    let error = "the server does not exist; /servers lists all";
    failure(StatusCode::NOT_FOUND, error)
}
