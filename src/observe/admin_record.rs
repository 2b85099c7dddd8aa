//! Audit records of the admin listener: who has asked for a change, from where, and what came of
//! it.

use std::net::SocketAddr;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::Value;

use super::moment::rfc3339;

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

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operator: Option<&'a str>,
    request: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<&'a Value>,
    #[serde(skip_serializing_if = "is_none")]
    suppressed: u64,
}

fn is_none(count: &u64) -> bool {
    *count == 0
}

impl AdminRecord {
    /// Appends the record as one line of JSON, which escapes what could break a line.
    pub(super) fn append_to(&self, buffer: &mut Vec<u8>) {
        let line = Line {
            time: rfc3339(self.time),
            event: self.end.word(),
            peer: self.peer,
            uid: self.process.map(|(uid, _)| uid),
            pid: self.process.and_then(|(_, pid)| pid),
            operator: self.operator.as_deref(),
            request: &self.request,
            status: self.status,
            answer: self.answer.as_ref(),
            suppressed: self.suppressed,
        };
        serde_json::to_writer(&mut *buffer, &line).expect("strings and numbers into memory");
        buffer.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_change_is_one_line_without_empty_keys() {
        let mut record = AdminRecord {
            time: UNIX_EPOCH + Duration::from_millis(1_700_000_000_042),
            peer: Some("127.0.0.1:4711".parse().unwrap()),
            process: None,
            operator: Some("ann\n".to_owned()),
            request: "PUT /devices/a".to_owned(),
            end: AdminEnd::Changed,
            status: Some(200),
            answer: Some(serde_json::json!({"state": "blocked"})),
            suppressed: 0,
        };
        let line = |record: &AdminRecord| {
            let mut buffer = Vec::new();
            record.append_to(&mut buffer);
            String::from_utf8(buffer).unwrap()
        };
        assert_eq!(
            line(&record),
            "{\"time\":\"2023-11-14T22:13:20.042Z\",\"event\":\"admin-change\",\"peer\":\"127.0.0.1:4711\",\
             \"operator\":\"ann\\n\",\"request\":\"PUT /devices/a\",\"status\":200,\
             \"answer\":{\"state\":\"blocked\"}}\n"
        );
        record.peer = None;
        record.process = Some((1000, Some(7)));
        record.answer = None;
        record.operator = None;
        record.end = AdminEnd::Refused;
        record.suppressed = 3;
        let refused = line(&record);
        assert!(
            refused.contains("\"uid\":1000,\"pid\":7,\"request\""),
            "{refused}"
        );
        assert!(refused.ends_with("\"suppressed\":3}\n"), "{refused}");
    }
}
