//! The tunnel request: HTTP/1.1 `CONNECT host:port` (RFC 9110, section 9.3.6; RFC 9112, section 3.2.3).
//!
//! Bytes go in as they come, at any split; the result does not depend on it. The parser is strict, since two readers
//! that disagree about a request are how access rules are walked around: one spelling of line ends, no body, no user
//! information, an authority in one canonical form.

use httparse::Status;

use super::pvd::PATH;
use crate::config::HostPort;
use crate::limits::{REQUEST_HEADER_MAX, REQUEST_HEADERS_MAX};

const METHOD: &[u8] = b"CONNECT ";
const CONFIGURATION: &[u8] = b"GET /.well-known/pvd HTTP/1.";
const END: &[u8] = b"\r\n\r\n";

/// The header field by which a client proposes an idle timeout and is answered the one in force.
pub(super) const IDLE_TIMEOUT: &str = "adit-idle-timeout";

/// The seconds in the value of [`IDLE_TIMEOUT`]: an integer of RFC 8941, section 3.3.1, without a sign.
pub(super) fn idle_seconds(value: &[u8]) -> Option<u32> {
    // Nine digits are thirty years, and fit.
    let digits = (1..=9).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value)
        .ok()
        .filter(|_| digits)?
        .parse()
        .ok()
}

/// A complete request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectRequest {
    /// Where the app wants to go.
    pub target: HostPort,
    /// The idle timeout that it proposes, in seconds.
    pub idle: Option<u32>,
    /// Bytes that followed the request: the first of the tunnel.
    pub early: Vec<u8>,
}

/// Why a request opens no tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not a request that this gateway takes; what is wrong with it.
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    /// It asks what the gateway is for (RFC 8801).
    #[error("a request for the gateway's configuration")]
    Configuration,
    /// The header does not end within the limit.
    #[error("the request header is longer than {REQUEST_HEADER_MAX} bytes")]
    TooLarge,
}

use RequestError::{Configuration, Malformed, TooLarge};

/// Collects a request.
#[derive(Debug, Default)]
pub struct RequestParser {
    head: Vec<u8>,
}

impl RequestParser {
    /// A parser that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes. `None`: more are needed.
    ///
    /// # Errors
    /// [`RequestError`], as soon as it is certain.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<ConnectRequest>, RequestError> {
        // Only the new bytes, and the three before them, can complete the end: one byte at a time stays linear.
        let seen = self.head.len();
        self.head.extend_from_slice(bytes);
        let from = seen.saturating_sub(END.len() - 1);
        let end = self.head[from..]
            .windows(END.len())
            .position(|window| window == END)
            .map(|at| from + at + END.len());
        let head_end = end.unwrap_or(self.head.len()).min(REQUEST_HEADER_MAX + 1);
        check_new_bytes(&self.head[..head_end], seen.min(head_end))?;
        match end {
            Some(end) if end <= REQUEST_HEADER_MAX => {
                let (target, idle) = parse(&self.head[..end])?;
                Ok(Some(ConnectRequest {
                    target,
                    idle,
                    early: self.head.split_off(end),
                }))
            }
            None if self.head.len() <= REQUEST_HEADER_MAX => Ok(None),
            _ => Err(TooLarge),
        }
    }
}

/// What can be refused before the header is complete: another method, and line ends other than CR LF.
fn check_new_bytes(head: &[u8], new: usize) -> Result<(), RequestError> {
    let begins = |start: &[u8]| {
        let common = head.len().min(start.len());
        head[..common] == start[..common]
    };
    if !begins(METHOD) && !begins(CONFIGURATION) {
        return Err(Malformed("the method is not CONNECT"));
    }
    for index in new..head.len() {
        let before = index.checked_sub(1).map(|before| head[before]);
        match (before, head[index]) {
            (Some(b'\r'), b'\n') => {}
            (_, b'\n') => return Err(Malformed("a line ends in LF without CR")),
            (Some(b'\r'), _) => return Err(Malformed("CR without LF")),
            (_, 0) => return Err(Malformed("a NUL byte")),
            _ => {}
        }
    }
    Ok(())
}

fn parse(head: &[u8]) -> Result<(HostPort, Option<u32>), RequestError> {
    let mut headers = [httparse::EMPTY_HEADER; REQUEST_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(Malformed("the header ends early")),
        Err(httparse::Error::TooManyHeaders) => return Err(TooLarge),
        Err(_) => return Err(Malformed("not an HTTP request")),
    }
    let asks = request.method == Some("GET");
    let target = match request.path.unwrap_or_default() {
        PATH if asks => None,
        _ if asks => return Err(Malformed("the method is not CONNECT")),
        target => Some(
            target
                .parse()
                .map_err(|_| Malformed("the target is not host:port in its plain form"))?,
        ),
    };
    let mut hosts = 0;
    let mut idle = None;
    for header in request.headers.iter() {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("content-length") || is("transfer-encoding") {
            return Err(Malformed("a request has no body"));
        }
        hosts += usize::from(is("host"));
        if is(IDLE_TIMEOUT) {
            let seconds = idle_seconds(header.value);
            if seconds.is_none() || idle.is_some() {
                return Err(Malformed(
                    "the idle timeout is not one whole number of seconds",
                ));
            }
            idle = seconds;
        }
    }
    match (request.version, hosts) {
        (Some(1), 1) | (Some(0), 0 | 1) => Ok((target.ok_or(Configuration)?, idle)),
        (Some(1), _) => Err(Malformed("not exactly one Host header")),
        _ => Err(Malformed("more than one Host header")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &[u8] =
        b"CONNECT Wiki.Corp.example.com:443 HTTP/1.1\r\nHost: wiki.corp.example.com:443\r\n\r\n";

    fn parse_whole(bytes: &[u8]) -> Result<Option<ConnectRequest>, RequestError> {
        RequestParser::new().push(bytes)
    }

    #[test]
    fn a_request_and_what_follows_it() {
        let request = parse_whole(&[GOOD, b"\x16\x03\x01early"].concat())
            .unwrap()
            .unwrap();
        assert_eq!(request.target.to_string(), "wiki.corp.example.com:443");
        assert_eq!(request.early, b"\x16\x03\x01early");
        assert_eq!(request.idle, None);
        let patient =
            b"CONNECT a.example:1 HTTP/1.1\r\nHost: x\r\nadit-Idle-timeout: 000000120 \r\n\r\n";
        assert_eq!(parse_whole(patient).unwrap().unwrap().idle, Some(120));
        assert_eq!(parse_whole(&GOOD[..GOOD.len() - 1]), Ok(None));
        let literal = parse_whole(b"CONNECT [2001:db8::1]:8443 HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap()
            .unwrap();
        assert_eq!(literal.target.to_string(), "[2001:db8::1]:8443");
        let mapped = parse_whole(b"CONNECT [::ffff:10.0.0.5]:1 HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap()
            .unwrap();
        assert_eq!(mapped.target.to_string(), "10.0.0.5:1");
        assert!(
            parse_whole(b"CONNECT a.example:1 HTTP/1.0\r\n\r\n")
                .unwrap()
                .is_some()
        );
    }

    #[test]
    fn what_is_not_a_plain_tunnel_request_is_malformed() {
        for line in [
            "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "connect a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
            "CONNECT a HTTP/1.1\r\nHost: x\r\n\r\n",
            "CONNECT a: HTTP/1.1\r\nHost: x\r\n\r\n",
            "CONNECT a:0 HTTP/1.1\r\nHost: x\r\n\r\n",
            "CONNECT a:65536 HTTP/1.1\r\nHost: x\r\n\r\n",
            "CONNECT a:+1 HTTP/1.1\r\nHost: x\r\n\r\n",
            "CONNECT user@a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
            "CONNECT user:pw@a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
            "CONNECT http://a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
            "CONNECT a:1/ HTTP/1.1\r\nHost: x\r\n\r\n",
            "CONNECT 2001:db8::1:1 HTTP/1.1\r\nHost: x\r\n\r\n",
            "CONNECT [fe80::1%25eth0]:1 HTTP/1.1\r\nHost: x\r\n\r\n",
            "CONNECT [10.0.0.1]:1 HTTP/1.1\r\nHost: x\r\n\r\n",
            "CONNECT 0x7f000001:1 HTTP/1.1\r\nHost: x\r\n\r\n",
            "CONNECT 2130706433:1 HTTP/1.1\r\nHost: x\r\n\r\n",
            "CONNECT 127.1:1 HTTP/1.1\r\nHost: x\r\n\r\n",
            "CONNECT 0177.0.0.1:1 HTTP/1.1\r\nHost: x\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\nHost: x\n\n",
            "CONNECT a:1 HTTP/1.1\r\nHost: x\rY: z\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nHost: x\r\ntransfer-encoding: chunked\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
            "CONNECT  a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nHost: x\r\nAdit-Idle-Timeout: 1s\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nHost: x\r\nAdit-Idle-Timeout: -1\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nHost: x\r\nAdit-Idle-Timeout: \r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nHost: x\r\nAdit-Idle-Timeout: 1234567890\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nHost: x\r\nAdit-Idle-Timeout: 1\r\nAdit-Idle-Timeout: 1\r\n\r\n",
            "CONNECT a:1 HTTP/2\r\nHost: x\r\n\r\n",
            "\x16\x03\x01\x02\x00",
        ] {
            assert!(
                matches!(parse_whole(line.as_bytes()), Err(Malformed(_))),
                "{line:?}"
            );
        }
    }

    #[test]
    fn the_gateways_configuration_may_be_asked_for() {
        let asked = |text: &str| parse_whole(text.as_bytes()).unwrap_err();
        let right =
            "GET /.well-known/pvd HTTP/1.1\r\nHost: x\r\nAccept: application/pvd+json\r\n\r\n";
        assert_eq!(asked(right), Configuration);
        assert_eq!(parse_whole(&right.as_bytes()[..30]), Ok(None));
        for wrong in [
            "GET /.well-known/pvdx HTTP/1.1\r\n",
            "GET /.well-known/pvd?x HTTP/1.1\r\n",
            "GET /.well-known/pvd HTTP/1.1\r\n\r\n",
            "GET /.well-known/pvd HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n",
            "CONNECT /.well-known/pvd HTTP/1.1\r\nHost: x\r\n\r\n",
        ] {
            assert!(matches!(asked(wrong), Malformed(_)), "{wrong}");
        }
    }

    #[test]
    fn the_header_has_a_limit() {
        let filler = format!(
            "CONNECT a:1 HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
            "y".repeat(100 * 1024)
        );
        assert_eq!(parse_whole(filler.as_bytes()), Err(TooLarge));
        let mut parser = RequestParser::new();
        let end = filler
            .as_bytes()
            .chunks(1000)
            .map(|chunk| parser.push(chunk))
            .find(|result| *result != Ok(None));
        assert_eq!(end, Some(Err(TooLarge)));
        let many = format!(
            "CONNECT a:1 HTTP/1.1\r\nHost: x\r\n{}\r\n",
            "X: y\r\n".repeat(REQUEST_HEADERS_MAX)
        );
        assert_eq!(parse_whole(many.as_bytes()), Err(TooLarge));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(
            cuts in proptest::collection::vec(0usize..120, 0..8),
            bytes in prop_oneof![Just([GOOD, b"tail"].concat()), proptest::collection::vec(any::<u8>(), 0..120)],
        ) {
            let whole = parse_whole(&bytes);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut parser = RequestParser::new();
            let mut result = Ok(None);
            let mut used = 0;
            for pair in cuts.windows(2) {
                result = parser.push(&bytes[pair[0]..pair[1]]);
                used = pair[1];
                if result != Ok(None) {
                    break;
                }
            }
            if let Ok(Some(request)) = &mut result {
                request.early.extend_from_slice(&bytes[used..]);
            }
            prop_assert_eq!(result, whole);
        }

        #[test]
        fn a_target_is_written_as_it_was_read(name in "[a-z][a-z0-9]{0,20}(\\.[a-z][a-z0-9]{0,8}){0,3}", port in 1u16..) {
            let text = format!("CONNECT {name}:{port} HTTP/1.1\r\nHost: x\r\n\r\n");
            let request = parse_whole(text.as_bytes()).unwrap().unwrap();
            prop_assert_eq!(request.target.to_string(), format!("{name}:{port}"));
        }
    }
}
