//! Which requests to the admin listener become audit records: each that would change something,
//! whatever comes of it.
//!
//! Who may connect can have refusals written as fast as it asks, so those have a rate; what is
//! beyond it is counted, and the next record that is written says how many there were. Changes have
//! none: they need permission.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use hyper::http::request::Parts;
use hyper::{Method, StatusCode, Uri};

use super::Node;
use super::pages::Page;
use super::permission::Caller;
use super::query::Query;
use super::routes::{self, Action};
use crate::limits::{
    ADMIN_REFUSALS_AUDITED, ADMIN_USER_MAX, AUDIT_ADMIN_ANSWER, AUDIT_ADMIN_REQUEST,
};
use crate::observe::{AdminEnd, AdminRecord};

/// Record of all requests.
pub(super) struct Ledger {
    node: Arc<dyn Node>,
    /// Refused requests since the start.
    refused: Cell<u64>,
    /// Refused requests since the last record.
    suppressed: Cell<u64>,
    /// Until when the rate is used up: each refusal that is written moves it on by one share of a
    /// second.
    full: Cell<Instant>,
}

impl Ledger {
    pub fn new(node: Arc<dyn Node>) -> Self {
        Self {
            node,
            refused: Cell::new(0),
            suppressed: Cell::new(0),
            full: Cell::new(Instant::now()),
        }
    }

    /// Requests that were refused or abandoned since the start.
    pub fn refused(&self) -> u64 {
        self.refused.get()
    }

    /// A request that has begun.
    pub fn entry(
        self: &Rc<Self>,
        caller: Caller,
        Parts {
            method,
            uri,
            headers,
            ..
        }: &Parts,
    ) -> PendingRecord {
        // The process after this one keeps its own ledger.
        let is_change =
            ![Method::GET, Method::HEAD].contains(method) && caller != Caller::Successor;
        let path = uri.path_and_query().map_or("", |path| path.as_str());
        let mut request = format!("{method} {path}");
        if let Some((end, _)) = request.char_indices().nth(AUDIT_ADMIN_REQUEST) {
            request.truncate(end);
        }
        let operator = headers.get("adit-user").and_then(|name| name.to_str().ok());
        PendingRecord {
            ledger: self.clone(),
            is_change,
            is_question: is_question(method, uri),
            caller,
            operator: operator.map(|name| name.chars().take(ADMIN_USER_MAX).collect()),
            request,
            is_over: false,
        }
    }

    /// Returns whether one more refusal may be written now.
    fn may_write(&self, now: Instant) -> bool {
        let (burst, each) = ADMIN_REFUSALS_AUDITED;
        let full = self.full.get().max(now);
        let allowed = full.saturating_duration_since(now) < each * burst;
        if allowed {
            self.full.set(full + each);
        }
        allowed
    }
}

/// Returns whether a request would change nothing, although its method is one of a change.
fn is_question(method: &Method, uri: &Uri) -> bool {
    let action = routes::find(uri.path()).and_then(|(route, _)| route.action(method));
    let query = Query::parse(uri.query().unwrap_or_default());
    match action {
        Some(Action::Change(change)) => change.is_question(query.is_ok_and(|query| query.dry_run)),
        Some(Action::Show(_)) | None => false,
    }
}

/// A request whose end is to be written down, also where its client goes before.
pub(super) struct PendingRecord {
    ledger: Rc<Ledger>,
    is_change: bool,
    is_question: bool,
    caller: Caller,
    operator: Option<String>,
    request: String,
    is_over: bool,
}

impl PendingRecord {
    /// It was answered so; `content` is what the answer says.
    pub fn end(mut self, page: &Page, content: &[u8]) {
        self.is_over = true;
        let status = page.status();
        let end = if status.is_success() {
            AdminEnd::Changed
        } else if status.is_client_error() {
            AdminEnd::Refused
        } else {
            AdminEnd::Failed
        };
        let is_denied = [StatusCode::FORBIDDEN, StatusCode::UNAUTHORIZED].contains(&status);
        let is_worth_it = self.is_change && !(self.is_question && status.is_success());
        if is_worth_it || is_denied {
            let short = content.len() <= AUDIT_ADMIN_ANSWER;
            let answer = short
                .then(|| serde_json::from_slice(content).ok())
                .flatten();
            self.write(end, Some(status), answer);
        }
    }

    fn write(&self, end: AdminEnd, status: Option<StatusCode>, answer: Option<serde_json::Value>) {
        let ledger = &self.ledger;
        if matches!(end, AdminEnd::Refused | AdminEnd::Abandoned) {
            ledger.refused.set(ledger.refused.get() + 1);
            if !ledger.may_write(Instant::now()) {
                ledger.suppressed.set(ledger.suppressed.get() + 1);
                return;
            }
        }
        let (peer, process) = match self.caller {
            Caller::Tcp(address) => (Some(address), None),
            Caller::Unix(process) | Caller::State(process) => {
                (None, Some((process.uid, process.pid)))
            }
            Caller::Successor => (None, None),
        };
        ledger.node.audit(AdminRecord {
            time: SystemTime::now(),
            peer,
            process,
            operator: self.operator.clone(),
            request: self.request.clone(),
            end,
            status: status.map(|status| status.as_u16()),
            answer,
            suppressed: ledger.suppressed.take(),
        });
    }
}

impl Drop for PendingRecord {
    fn drop(&mut self) {
        if self.is_change && !self.is_over {
            self.write(AdminEnd::Abandoned, None, None);
        }
    }
}
