//! Requests over HTTP/2.
//!
//! As strict as HTTP/1.1's parser ([`crate::front::request`]): one reading of the authority, no
//! body. `h2` has refused what is no HTTP/2 request at all, among it a CONNECT with a path, and
//! header fields of HTTP/1.1's framing.

use h2::ext::Protocol;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, header};
use percent_encoding::percent_decode_str;

use crate::config::{Host, HostPort};
use crate::front::pvd::PATH;
use crate::front::request::{IDLE_TIMEOUT, Request, RequestKind, idle_seconds};
use crate::limits::{REQUEST_HEADER_MAX, REQUEST_HEADERS_MAX};
use crate::reason::CloseReason;

/// The protocol of an extended CONNECT for datagrams (RFC 9298, section 8.1).
const CONNECT_UDP: &str = "connect-udp";

/// Begin of the path of a UDP request.
const UDP_PATH: &str = "/.well-known/masque/udp/";

/// Bytes that a field counts beyond its name and value (RFC 9113, section 6.5.2).
const FIELD_EXTRA: usize = 32;

/// Reads a request.
///
/// # Errors
/// The refusal.
pub fn request(parts: &Parts) -> Result<Request, CloseReason> {
    Ok(Request {
        asked: asked(parts)?,
        idle: idle_timeout(&parts.headers)?,
    })
}

fn asked(parts: &Parts) -> Result<RequestKind, CloseReason> {
    if size_of(&parts.headers) > REQUEST_HEADER_MAX || parts.headers.len() > REQUEST_HEADERS_MAX {
        return Err(CloseReason::HeaderTooLarge);
    }
    if parts.headers.values().any(has_blank_end) {
        return Err(CloseReason::Malformed);
    }
    if parts.method == Method::GET && parts.uri.path_and_query().is_some_and(|path| path == PATH) {
        return match parts.headers.contains_key(header::CONTENT_LENGTH) {
            true => Err(CloseReason::Malformed),
            false => Ok(RequestKind::Configuration),
        };
    }
    if parts.method != Method::CONNECT {
        return Err(CloseReason::NotConnect);
    }
    match parts.extensions.get::<Protocol>() {
        None => tunnel(parts).map(RequestKind::Tunnel),
        // Extended CONNECT (RFC 8441).
        Some(protocol) if protocol.as_str() == CONNECT_UDP => {
            udp(parts).map(RequestKind::Datagrams)
        }
        Some(_) => Err(CloseReason::ProtocolUnsupported),
    }
}

/// The idle timeout that is proposed, in seconds.
fn idle_timeout(headers: &HeaderMap) -> Result<Option<u32>, CloseReason> {
    let mut fields = headers.get_all(IDLE_TIMEOUT).iter();
    match (fields.next(), fields.next()) {
        (None, _) => Ok(None),
        (Some(field), None) => match idle_seconds(field.as_bytes()) {
            Some(seconds) => Ok(Some(seconds)),
            None => Err(CloseReason::Malformed),
        },
        (Some(_), Some(_)) => Err(CloseReason::Malformed),
    }
}

/// The target of `/.well-known/masque/udp/{target_host}/{target_port}/` (RFC 9298, section 2),
/// whose host is percent-encoded (section 3.1): an IPv6 address has no brackets there.
fn udp(parts: &Parts) -> Result<HostPort, CloseReason> {
    let target = || {
        let path = parts.uri.path_and_query()?.as_str();
        let rest = path.strip_prefix(UDP_PATH)?.strip_suffix('/')?;
        let (host, port) = rest.split_once('/')?;
        let host: Host = percent_decode_str(host).decode_utf8().ok()?.parse().ok()?;
        let port = Some(port).filter(|port| port.bytes().all(|b| b.is_ascii_digit()))?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        Some(HostPort { host, port })
    };
    let has_authority = parts.uri.authority().is_some();
    let plain = has_authority && !parts.headers.contains_key(header::CONTENT_LENGTH);
    target().filter(|_| plain).ok_or(CloseReason::Malformed)
}

fn tunnel(parts: &Parts) -> Result<HostPort, CloseReason> {
    let authority = parts
        .uri
        .authority()
        .ok_or(CloseReason::Malformed)?
        .as_str();
    // A CONNECT request has no content (RFC 9110, section 9.3.6), and names its target once.
    if parts.headers.contains_key(header::CONTENT_LENGTH) {
        return Err(CloseReason::Malformed);
    }
    for host in parts.headers.get_all(header::HOST) {
        if !host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) {
            return Err(CloseReason::Malformed);
        }
    }
    // Host and port, without a default for either (RFC 9110, section 9.3.6).
    authority.parse().map_err(|_| CloseReason::Malformed)
}

/// Returns whether a value begins or ends with a space or a tab, which makes a request malformed
/// (RFC 9113, section 8.2.1).
fn has_blank_end(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    [bytes.first(), bytes.last()]
        .into_iter()
        .flatten()
        .any(|byte| matches!(byte, b' ' | b'\t'))
}

fn size_of(headers: &HeaderMap) -> usize {
    let fields = headers.iter();
    fields
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD_EXTRA)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(authority: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().method("CONNECT").uri(authority);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn to(authority: &str) -> Result<String, CloseReason> {
        asked(&parts(authority, &[])).map(|asked| match asked {
            RequestKind::Tunnel(target) => target.to_string(),
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn an_authority_has_one_reading_and_a_port() {
        for (authority, target) in [
            ("Wiki.corp.example.com:8443", "wiki.corp.example.com:8443"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
            ("[::ffff:10.0.0.5]:443", "10.0.0.5:443"),
        ] {
            assert_eq!(to(authority).as_deref(), Ok(target));
        }
        for authority in [
            "wiki.corp.example.com",
            "10.0.0.5",
            "[2001:db8::1]",
            "user@wiki.test:443",
            "wiki.test:",
            "wiki.test:0",
            "wiki.test:0443000",
            "0x7f.1:443",
            "127.1",
            "2130706433",
            "[::1%25lo]:443",
        ] {
            let request = http::Request::builder()
                .method("CONNECT")
                .uri(authority)
                .body(());
            // What `http` itself refuses never gets so far.
            if let Ok(request) = request {
                let read = asked(&request.into_parts().0);
                assert_eq!(read, Err(CloseReason::Malformed), "{authority}");
            }
        }
    }

    fn udp_to(path: &str, fields: &[(&str, &str)]) -> Result<RequestKind, CloseReason> {
        let mut request = http::Request::builder()
            .method("CONNECT")
            .uri(format!("https://gateway.test{path}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut parts = request.body(()).unwrap().into_parts().0;
        parts
            .extensions
            .insert(Protocol::from_static("connect-udp"));
        asked(&parts)
    }

    #[test]
    fn a_udp_target_is_read_from_the_path() {
        for (path, target) in [
            ("Dns.corp.test/53", "dns.corp.test:53"),
            ("10.0.0.5/65535", "10.0.0.5:65535"),
            ("2001%3Adb8%3A%3A42/443", "[2001:db8::42]:443"),
            ("%3a%3affff%3a10.0.0.5/1", "10.0.0.5:1"),
        ] {
            let read = udp_to(&format!("/.well-known/masque/udp/{path}/"), &[]);
            assert_eq!(read, Ok(RequestKind::Datagrams(target.parse().unwrap())));
        }
        for path in [
            "a.test/53/x",
            "a.test//53",
            "a%2e.test%2f/53",
            "%5B::1%5D/53",
            "::1%25lo/53",
        ] {
            let path = format!("/.well-known/masque/udp/{path}/");
            assert_eq!(udp_to(&path, &[]), Err(CloseReason::Malformed), "{path}");
        }
        let body = [("content-length", "3")];
        let path = "/.well-known/masque/udp/a.test/53/";
        assert_eq!(udp_to(path, &body), Err(CloseReason::Malformed));
    }

    #[test]
    fn an_idle_timeout_is_one_whole_number() {
        let read = |fields: &[(&str, &str)]| idle_timeout(&parts("a.test:1", fields).headers);
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[("Adit-Idle-Timeout", "90")]), Ok(Some(90)));
        let twice = [("adit-idle-timeout", "90"), ("adit-idle-timeout", "90")];
        for wrong in [&twice[..], &[("adit-idle-timeout", "1.5")]] {
            assert_eq!(read(wrong), Err(CloseReason::Malformed));
        }
    }

    #[test]
    fn what_is_no_plain_tunnel_request_is_refused() {
        let read = |fields: &[(&str, &str)]| asked(&parts("a.test:1", fields)).err();
        assert_eq!(read(&[("user-agent", "x"), ("host", "A.test:1")]), None);
        assert_eq!(
            read(&[("content-length", "0")]),
            Some(CloseReason::Malformed)
        );
        assert_eq!(read(&[("host", "b.test:1")]), Some(CloseReason::Malformed));
        assert_eq!(
            read(&[("x", &"a".repeat(REQUEST_HEADER_MAX))]),
            Some(CloseReason::HeaderTooLarge)
        );
        for blank in [" x", "x ", "\tx", "x\t", " "] {
            assert_eq!(
                read(&[("x", blank)]),
                Some(CloseReason::Malformed),
                "{blank:?}"
            );
        }
        assert_eq!(read(&[("x", "a \t b"), ("y", "")]), None);
        let field = [("x", "")];
        assert_eq!(read(&field.repeat(REQUEST_HEADERS_MAX)), None);
        let many = field.repeat(REQUEST_HEADERS_MAX + 1);
        assert_eq!(read(&many), Some(CloseReason::HeaderTooLarge));
        let get = http::Request::get("https://a.test/").body(()).unwrap();
        assert_eq!(asked(&get.into_parts().0), Err(CloseReason::NotConnect));
        let get = http::Request::get("https://a.test/.well-known/pvd")
            .body(())
            .unwrap();
        let mut get = get.into_parts().0;
        assert_eq!(asked(&get), Ok(RequestKind::Configuration));
        get.headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from_static("1"));
        assert_eq!(asked(&get), Err(CloseReason::Malformed));
        let mut extended = parts("a.test:1", &[]);
        extended
            .extensions
            .insert(Protocol::from_static("websocket"));
        assert_eq!(asked(&extended), Err(CloseReason::ProtocolUnsupported));
    }
}
