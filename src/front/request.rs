//! Requests of clients, and their form over HTTP/1.1: `CONNECT host:port` (RFC 9110, section 9.3.6;
//! RFC 9112, section 3.2.3).
//!
//! Bytes go in as they come, at any split; the result does not depend on it. The parser is strict,
//! since two readers that disagree about a request are how access rules are walked around: one
//! spelling of line ends, no body, no user information, an authority in one canonical form. Empty
//! lines before the request are read over (RFC 9112, section 2.2).

use httparse::Status;

use super::pvd::PATH;
use crate::config::HostPort;
use crate::limits::{REQUEST_EMPTY_LINES, REQUEST_HEADER_MAX, REQUEST_HEADERS_MAX};
use crate::reason::CloseReason;

const METHOD: &[u8] = b"CONNECT ";
const CONFIGURATION: &[u8] = b"GET /.well-known/pvd HTTP/1.";
const END: &[u8] = b"\r\n\r\n";
const EMPTY_LINE: &[u8] = b"\r\n";

/// Longest method that is taken for one, in bytes: registered ones have 17 at most.
const METHOD_MAX: usize = 32;

/// The header field by which a client proposes an idle timeout and is answered the active one.
pub(super) const IDLE_TIMEOUT: &str = "adit-idle-timeout";

/// The seconds in the value of [`IDLE_TIMEOUT`]: an integer of RFC 8941, section 3.3.1, without a
/// sign.
pub(super) fn idle_seconds(value: &[u8]) -> Option<u32> {
    // Nine digits are thirty years, and fit.
    let digits = (1..=9).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value)
        .ok()
        .filter(|_| digits)?
        .parse()
        .ok()
}

/// Request of a client, in any protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestKind {
    /// A tunnel (RFC 9110, section 9.3.6; RFC 9113, section 8.5).
    Tunnel(HostPort),
    /// A tunnel for datagrams (RFC 9298).
    Datagrams(HostPort),
    /// The gateway's configuration (RFC 8801).
    Configuration,
}

impl RequestKind {
    /// The target of a tunnel.
    #[must_use]
    pub fn target(&self) -> Option<&HostPort> {
        match self {
            Self::Tunnel(target) | Self::Datagrams(target) => Some(target),
            Self::Configuration => None,
        }
    }
}

/// A request, as every front end hands it on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its kind.
    pub asked: RequestKind,
    /// The idle timeout that it proposes, in seconds.
    pub idle: Option<u32>,
}

/// A complete request over HTTP/1.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The request.
    pub request: Request,
    /// Bytes that followed it: the first of the tunnel.
    pub early: Vec<u8>,
}

/// Why a request opens no tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not a request that this gateway takes; what is wrong with it.
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    /// A request with another method.
    #[error("the method is not CONNECT")]
    NotConnect,
    /// The header does not end within the limit.
    #[error("the request header is longer than {REQUEST_HEADER_MAX} bytes")]
    TooLarge,
}

impl RequestError {
    /// The reason of the refusal.
    #[must_use]
    pub fn reason(self) -> CloseReason {
        match self {
            Malformed(_) => CloseReason::Malformed,
            NotConnect => CloseReason::NotConnect,
            TooLarge => CloseReason::HeaderTooLarge,
        }
    }
}

use RequestError::{Malformed, NotConnect, TooLarge};

/// Collects a request.
#[derive(Debug, Default)]
pub struct RequestParser {
    head: Vec<u8>,
    /// Empty lines that were read over.
    empty_lines: usize,
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
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<Parsed>, RequestError> {
        // Only the new bytes, and the three before them, can complete the end: one byte at a time stays linear.
        let mut seen = self.head.len();
        self.head.extend_from_slice(bytes);
        if seen < EMPTY_LINE.len() {
            self.skip_empty_lines()?;
            seen = 0;
            if EMPTY_LINE.starts_with(&self.head) {
                return Ok(None);
            }
        }
        let from = seen.saturating_sub(END.len() - 1);
        let end = self.head[from..]
            .windows(END.len())
            .position(|window| window == END)
            .map(|at| from + at + END.len());
        let head_end = end.unwrap_or(self.head.len()).min(REQUEST_HEADER_MAX + 1);
        check_new_bytes(&self.head[..head_end], seen.min(head_end))?;
        match end {
            Some(end) if end <= REQUEST_HEADER_MAX => {
                let request = parse(&self.head[..end])?;
                Ok(Some(Parsed {
                    request,
                    early: self.head.split_off(end),
                }))
            }
            None if self.head.len() <= REQUEST_HEADER_MAX => Ok(None),
            _ => Err(TooLarge),
        }
    }
}

impl RequestParser {
    /// Takes empty lines away from the front (RFC 9112, section 2.2). They are few: who sends more
    /// sends no request.
    fn skip_empty_lines(&mut self) -> Result<(), RequestError> {
        let lines = self.head.chunks_exact(EMPTY_LINE.len());
        let lines = lines.take_while(|line| *line == EMPTY_LINE).count();
        self.empty_lines += lines;
        if self.empty_lines > REQUEST_EMPTY_LINES {
            return Err(Malformed("empty lines and no request"));
        }
        self.head.drain(..EMPTY_LINE.len() * lines);
        Ok(())
    }
}

/// Returns what can be refused before the header is complete: another method, and line ends other
/// than CR LF.
fn check_new_bytes(head: &[u8], new: usize) -> Result<(), RequestError> {
    let begins = |start: &[u8]| {
        let common = head.len().min(start.len());
        head[..common] == start[..common]
    };
    if !begins(METHOD) && !begins(CONFIGURATION) {
        return other_method(head);
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

/// Returns what begins as a request with another method. It is one when its first line says so;
/// nothing behind that matters.
fn other_method(head: &[u8]) -> Result<(), RequestError> {
    let end = head.iter().position(|byte| *byte == b'\n');
    let line = &head[..end.unwrap_or(head.len())];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words = line.split(|byte| *byte == b' ');
    // RFC 9110, section 5.6.2.
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let method = words.next().unwrap_or_default();
    let is_method = !method.is_empty() && method.len() <= METHOD_MAX;
    if !is_method || !method.iter().all(is_token) || line.iter().any(u8::is_ascii_control) {
        return Err(Malformed("not an HTTP request"));
    }
    let Some(end) = end else { return Ok(()) };
    let ends_well = head[..end].ends_with(b"\r");
    match (words.next(), words.next(), words.next()) {
        (Some([_, ..]), Some(b"HTTP/1.0" | b"HTTP/1.1"), None) if ends_well => Err(NotConnect),
        _ => Err(Malformed("not an HTTP request")),
    }
}

fn parse(head: &[u8]) -> Result<Request, RequestError> {
    let mut headers = [httparse::EMPTY_HEADER; REQUEST_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(Malformed("the header ends early")),
        Err(httparse::Error::TooManyHeaders) => return Err(TooLarge),
        Err(_) => return Err(Malformed("not an HTTP request")),
    }
    let is_get = request.method == Some("GET");
    let asked = match request.path.unwrap_or_default() {
        PATH if is_get => RequestKind::Configuration,
        _ if is_get => return Err(NotConnect),
        target => RequestKind::Tunnel(
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
        (Some(1), 1) | (Some(0), 0 | 1) => Ok(Request { asked, idle }),
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

    fn parse_whole(bytes: &[u8]) -> Result<Option<Parsed>, RequestError> {
        RequestParser::new().push(bytes)
    }

    fn target(parsed: &Parsed) -> String {
        let target = parsed.request.asked.target();
        target.map_or_else(String::new, ToString::to_string)
    }

    #[test]
    fn a_request_and_what_follows_it() {
        let request = parse_whole(&[GOOD, b"\x16\x03\x01early"].concat())
            .unwrap()
            .unwrap();
        assert_eq!(target(&request), "wiki.corp.example.com:443");
        assert_eq!(request.early, b"\x16\x03\x01early");
        assert_eq!(request.request.idle, None);
        let patient =
            b"CONNECT a.example:1 HTTP/1.1\r\nHost: x\r\nadit-Idle-timeout: 000000120 \r\n\r\n";
        assert_eq!(
            parse_whole(patient).unwrap().unwrap().request.idle,
            Some(120)
        );
        assert_eq!(parse_whole(&GOOD[..GOOD.len() - 1]), Ok(None));
        let literal = parse_whole(b"CONNECT [2001:db8::1]:8443 HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap()
            .unwrap();
        assert_eq!(target(&literal), "[2001:db8::1]:8443");
        let mapped = parse_whole(b"CONNECT [::ffff:10.0.0.5]:1 HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap()
            .unwrap();
        assert_eq!(target(&mapped), "10.0.0.5:1");
        assert!(
            parse_whole(b"CONNECT a.example:1 HTTP/1.0\r\n\r\n")
                .unwrap()
                .is_some()
        );
    }

    #[test]
    fn what_is_not_a_plain_tunnel_request_is_malformed() {
        for line in [
            "GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET / HTTP/1.1\nHost: x\n\n",
            "GET / HTTP/3.0\r\n",
            "GET /\r\n",
            "GE(T / HTTP/1.1\r\n",
            " / HTTP/1.1\r\n",
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
        let asked = |text: &str| parse_whole(text.as_bytes()).map(Option::unwrap);
        let refused = |text: &str| asked(text).unwrap_err();
        let right =
            "GET /.well-known/pvd HTTP/1.1\r\nHost: x\r\nAccept: application/pvd+json\r\n\r\n";
        assert_eq!(
            asked(right).unwrap().request.asked,
            RequestKind::Configuration
        );
        assert_eq!(parse_whole(&right.as_bytes()[..30]), Ok(None));
        for other in [
            "GET /.well-known/pvdx HTTP/1.1\r\n",
            "GET /.well-known/pvd?x HTTP/1.1\r\n",
        ] {
            assert_eq!(refused(other), NotConnect);
        }
        for wrong in [
            "GET /.well-known/pvd HTTP/1.1\r\n\r\n",
            "GET /.well-known/pvd HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n",
            "CONNECT /.well-known/pvd HTTP/1.1\r\nHost: x\r\n\r\n",
        ] {
            assert!(matches!(refused(wrong), Malformed(_)), "{wrong}");
        }
    }

    /// RFC 9110, section 15.5.6: known, and not allowed here.
    #[test]
    fn another_method_is_no_malformed_request() {
        for method in [
            "GET",
            "OPTIONS",
            "POST",
            "connect",
            "BASELINE-CONTROL",
            "CONNECTS",
            "M-x!",
        ] {
            let line = format!("{method} /x HTTP/1.1\r\n");
            for length in 0..line.len() {
                assert_eq!(parse_whole(&line.as_bytes()[..length]), Ok(None), "{line}");
            }
            for rest in ["", "Host: x\r\nContent-Length: 3\r\n\r\nabc", "\n\0"] {
                let whole = format!("{line}{rest}");
                assert_eq!(parse_whole(whole.as_bytes()), Err(NotConnect), "{whole}");
            }
        }
    }

    /// RFC 9112, section 2.2: one at least.
    #[test]
    fn a_few_empty_lines_before_the_request_are_read_over() {
        for lines in 0..=REQUEST_EMPTY_LINES + 2 {
            let bytes = [&EMPTY_LINE.repeat(lines), GOOD].concat();
            let few = lines <= REQUEST_EMPTY_LINES;
            assert_eq!(parse_whole(&bytes).is_ok(), few, "{lines}");
            let mut parser = RequestParser::new();
            let mut pieces = bytes.iter().map(|byte| parser.push(&[*byte]));
            let result = pieces.find(|result| *result != Ok(None)).unwrap();
            assert_eq!(result, parse_whole(&bytes));
        }
        assert!(matches!(
            parse_whole(b"\rCONNECT a:1 HTTP/1.1\r\n"),
            Err(Malformed(_))
        ));
        assert!(matches!(parse_whole(b"\n\n"), Err(Malformed(_))));
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
            bytes in prop_oneof![
                Just([GOOD, b"tail"].concat()), Just([b"\r\n\r\n", GOOD].concat()),
                Just(b"\r\nGET /x HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()), proptest::collection::vec(any::<u8>(), 0..120),
            ],
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
            prop_assert_eq!(target(&request), format!("{name}:{port}"));
        }
    }
}
