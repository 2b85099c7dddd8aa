//! What the client is answered.

use crate::observe::CloseReason;

/// The tunnel is open (RFC 9110, section 9.3.6: no body, no Content-Length, no Transfer-Encoding).
pub(super) const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// The whole response to a refused request, or `None` for a reason that is not told over HTTP.
pub(super) fn refusal(reason: CloseReason) -> Option<Vec<u8>> {
    let (status, proxy_status) = (reason.status()?, reason.proxy_status()?);
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
    Some(
        format!(
            "HTTP/1.1 {status} {phrase}\r\nProxy-Status: {proxy_status}\r\nContent-Type: text/plain\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
        .into_bytes(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

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
