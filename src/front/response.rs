//! Answers to the client.

use std::borrow::Cow;
use std::time::Duration;

use super::pvd::MEDIA_TYPE;
use crate::reason::{CloseReason, Who};

/// The tunnel is open (RFC 9110, section 9.3.6: no body, no Content-Length, no Transfer-Encoding).
///
/// `idle`: the active idle timeout, where the client has proposed one.
pub(super) fn established(idle: Option<Duration>) -> Cow<'static, [u8]> {
    match idle {
        None => b"HTTP/1.1 200 Connection established\r\n\r\n".into(),
        Some(idle) => format!(
            "HTTP/1.1 200 Connection established\r\nAdit-Idle-Timeout: {}\r\n\r\n",
            seconds(idle)
        )
        .into_bytes()
        .into(),
    }
}

/// A duration in seconds, as an integer or a decimal of RFC 8941, sections 3.3.1 and 3.3.2.
pub(super) fn seconds(duration: Duration) -> String {
    let (whole, milliseconds) = (duration.as_secs(), duration.subsec_millis());
    match milliseconds {
        0 => whole.to_string(),
        _ => format!("{whole}.{milliseconds:03}")
            .trim_end_matches('0')
            .to_owned(),
    }
}

/// The answer to the question what the gateway is for.
pub(super) fn configuration(document: &str) -> Vec<u8> {
    let length = document.len();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {MEDIA_TYPE}\r\nCache-Control: private\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{document}"
    )
    .into_bytes()
}

/// The answer to a health check.
pub(super) fn health(ready: bool) -> Vec<u8> {
    let (line, body) = match ready {
        true => ("200 OK", "ready\n"),
        false => ("503 Service Unavailable", "draining\n"),
    };
    let length = body.len();
    format!(
        "HTTP/1.1 {line}\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

/// The whole response to a refused request, or `None` for a reason that is not told over HTTP.
pub(super) fn refusal(reason: CloseReason) -> Option<Vec<u8>> {
    let (status, proxy_status) = (reason.status()?, reason.proxy_status()?);
    Some(response(status, proxy_status, reason))
}

/// The same on the plain listener, where nothing can be told by an alert.
pub(super) fn plain_refusal(reason: CloseReason) -> Option<Vec<u8>> {
    let (status, proxy_status) = told_by_status(reason)?;
    Some(response(status, &proxy_status, reason))
}

/// Status and `Proxy-Status` of a refusal, also of one that is told by an alert where there is TLS.
pub(super) fn told_by_status(reason: CloseReason) -> Option<(u16, Cow<'static, str>)> {
    if let (Some(status), Some(proxy_status)) = (reason.status(), reason.proxy_status()) {
        return Some((status, proxy_status.into()));
    }
    reason.alert()?;
    let (status, error) = match reason.who() {
        Who::Client => (400, "http_request_error"),
        Who::Policy | Who::Server | Who::Gateway => (403, "http_request_denied"),
    };
    let proxy_status = format!("adit; error={error}; details=\"{}\"", reason.word());
    Some((status, proxy_status.into()))
}

fn response(status: u16, proxy_status: &str, reason: CloseReason) -> Vec<u8> {
    let phrase = match status {
        400 => "Bad Request",
        403 => "Forbidden",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Refused",
    };
    let body = format!("{}\n", reason.word());
    let length = body.len();
    // RFC 9110, section 15.5.6.
    let allow = match reason {
        CloseReason::NotConnect => "Allow: CONNECT\r\n",
        _ => "",
    };
    format!(
        "HTTP/1.1 {status} {phrase}\r\nProxy-Status: {proxy_status}\r\n{allow}Content-Type: text/plain\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_is_told_on_the_plain_listener() {
        for &reason in CloseReason::ALL {
            let response = plain_refusal(reason).map(|bytes| String::from_utf8(bytes).unwrap());
            let told = reason.status().is_some() || reason.alert().is_some();
            assert_eq!(response.is_some(), told, "{reason:?}");
            let Some(text) = response else { continue };
            assert!(text.contains("\r\nProxy-Status: adit; error="), "{text}");
            assert!(
                text.ends_with(&format!("\r\n\r\n{}\n", reason.word())),
                "{text}"
            );
        }
        let revoked = String::from_utf8(plain_refusal(CloseReason::CertificateRevoked).unwrap());
        let expected = "HTTP/1.1 403 Forbidden\r\nProxy-Status: adit; error=http_request_denied; \
                        details=\"certificate-revoked\"\r\n";
        assert!(revoked.unwrap().starts_with(expected));
    }

    #[test]
    fn the_idle_timeout_in_force_is_answered() {
        assert_eq!(
            &*established(Some(Duration::from_millis(90_500))),
            b"HTTP/1.1 200 Connection established\r\nAdit-Idle-Timeout: 90.5\r\n\r\n"
        );
        assert_eq!(seconds(Duration::from_secs(120)), "120");
        assert_eq!(seconds(Duration::from_millis(7)), "0.007");
    }

    #[test]
    fn every_http_reason_has_a_whole_response() {
        for &reason in CloseReason::ALL {
            let response = refusal(reason).map(|bytes| String::from_utf8(bytes).unwrap());
            assert_eq!(response.is_some(), reason.status().is_some(), "{reason:?}");
            let Some(text) = response else { continue };
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(
                head.contains(&format!("Content-Length: {}", body.len())),
                "{text}"
            );
            assert!(
                head.contains("Proxy-Status: adit; error=") && !head.contains("Refused"),
                "{text}"
            );
        }
    }
}
