//! Audit records of the admin listener: who has asked for a change, from where, and what came of
//! it.

use std::net::SocketAddr;
use std::time::SystemTime;

use serde_json::Value;

use super::audit::{Line, NodeName};

/// Result of a requested change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminEnd {
    /// It was made.
    Changed,
    /// It was refused: who asks may not, or the request is wrong.
    Refused,
    /// It was permitted and could not be made.
    Failed,
    /// Who asked has gone before the answer; whether it was made is not known.
    Abandoned,
}

impl AdminEnd {
    const fn word(self) -> &'static str {
        match self {
            Self::Changed => "admin-change",
            Self::Refused => "admin-refused",
            Self::Failed => "admin-failed",
            Self::Abandoned => "admin-abandoned",
        }
    }
}

/// One request to the admin listener that was to change something. Its texts are bounded by whoever
/// makes it, and no token is in them.
#[derive(Clone, Debug)]
pub struct AdminRecord {
    /// When it was answered.
    pub time: SystemTime,
    /// The address that it came from, over TCP.
    pub peer: Option<SocketAddr>,
    /// The user and the process that it came from, over a Unix socket.
    pub process: Option<(u32, Option<i32>)>,
    /// Who the request says is behind it; nobody has checked that.
    pub operator: Option<String>,
    /// The method and the path, as they were sent.
    pub request: String,
    /// Its result.
    pub end: AdminEnd,
    /// The status of the answer; `None` where there was none.
    pub status: Option<u16>,
    /// Content of the answer, if it is short.
    pub answer: Option<Value>,
    /// Refused requests before this one that have no record of their own.
    pub suppressed: u64,
}

impl AdminRecord {
    /// Appends the record as one line.
    pub(super) fn append_to(&self, node: &NodeName, buffer: &mut Vec<u8>) {
        let action = (self.end.word(), self.end == AdminEnd::Changed);
        Line::append(buffer, node, self.time, action, |line| {
            line.put_some("source.ip", self.peer.map(|peer| peer.ip()));
            line.put_some("source.port", self.peer.map(|peer| peer.port()));
            line.put_some("user.id", self.process.map(|(uid, _)| uid.to_string()));
            line.put_some("process.pid", self.process.and_then(|(_, pid)| pid));
            line.put_some("adit.operator", self.operator.as_deref());
            let (method, path) = self.request.split_once(' ').unzip();
            line.put_some("http.request.method", method);
            line.put("url.original", path.unwrap_or(&self.request));
            line.put_some("http.response.status_code", self.status);
            line.put_some("adit.answer", self.answer.as_ref());
            let suppressed = (self.suppressed > 0).then_some(self.suppressed);
            line.put_some("adit.suppressed", suppressed);
        });
    }
}

/// Records with all that one can have.
#[cfg(test)]
pub(super) fn one_of_each() -> [AdminRecord; 2] {
    use std::time::{Duration, UNIX_EPOCH};

    let over_tcp = AdminRecord {
        time: UNIX_EPOCH + Duration::from_millis(1_700_000_000_042),
        peer: Some(([127, 0, 0, 1], 4711).into()),
        process: None,
        operator: Some("ann\n".to_owned()),
        request: "PUT /devices/a".to_owned(),
        end: AdminEnd::Changed,
        status: Some(200),
        answer: Some(serde_json::json!({"state": "blocked"})),
        suppressed: 0,
    };
    let over_a_socket = AdminRecord {
        peer: None,
        process: Some((1000, Some(7))),
        end: AdminEnd::Refused,
        suppressed: 3,
        ..over_tcp.clone()
    };
    [over_tcp, over_a_socket]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(record: &AdminRecord) -> String {
        let mut buffer = Vec::new();
        let node = NodeName {
            name: "gate-1".into(),
        };
        record.append_to(&node, &mut buffer);
        String::from_utf8(buffer).unwrap()
    }

    #[test]
    fn a_change_is_one_line_without_empty_keys() {
        let [over_tcp, over_a_socket] = one_of_each();
        assert_eq!(
            line(&over_tcp),
            "{\"@timestamp\":\"2023-11-14T22:13:20.042Z\",\"event.action\":\"admin-change\",\
             \"event.outcome\":\"success\",\"adit.schema\":1,\"observer.name\":\"gate-1\",\
             \"source.ip\":\"127.0.0.1\",\"source.port\":4711,\"adit.operator\":\"ann\\n\",\
             \"http.request.method\":\"PUT\",\"url.original\":\"/devices/a\",\
             \"http.response.status_code\":200,\"adit.answer\":{\"state\":\"blocked\"}}\n"
        );
        let refused = line(&over_a_socket);
        assert!(
            refused.contains("\"user.id\":\"1000\",\"process.pid\":7,"),
            "{refused}"
        );
        assert!(refused.ends_with("\"adit.suppressed\":3}\n"), "{refused}");
    }
}
