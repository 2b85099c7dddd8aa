//! The way through an HTTP proxy: a CONNECT request and the header of its answer (RFC 9110, section
//! 9.3.6). No I/O.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use zeroize::Zeroizing;

use crate::config::{HostPort, UpstreamProxy};
use crate::files::{FileError, read_secret};
use crate::limits::{PROXY_ANSWER_HEADERS, PROXY_ANSWER_MAX, PROXY_INTERIM_MAX, PROXY_USER_MAX};
use crate::reason::CloseReason;

/// An HTTP proxy with its credentials. They are not in its debug form.
#[derive(Clone)]
pub struct Upstream {
    /// Its address.
    pub address: HostPort,
    /// The value of `Proxy-Authorization` (RFC 7617).
    authorization: Option<Zeroizing<String>>,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Why a proxy's password cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// Its file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file.
    #[error("{0} does not hold one line with a password")]
    NoPassword(PathBuf),
}

impl Upstream {
    /// Reads the password.
    ///
    /// # Errors
    /// Where the file cannot be used: the error names it.
    pub fn load(config: &UpstreamProxy) -> Result<Self, UpstreamError> {
        let authorization = match &config.user {
            None => None,
            Some(user) => {
                let password = match &config.password_file {
                    Some(file) => password(file)?,
                    None => Zeroizing::default(),
                };
                let pair = Zeroizing::new(format!("{user}:{}", *password));
                let coded = Zeroizing::new(BASE64_STANDARD.encode(pair.as_bytes()));
                Some(Zeroizing::new(format!("Basic {}", *coded)))
            }
        };
        Ok(Self {
            address: config.address.clone(),
            authorization,
        })
    }

    /// The request for a connection to `server`.
    #[must_use]
    pub fn request(&self, server: &HostPort) -> Vec<u8> {
        let mut request = format!("CONNECT {server} HTTP/1.1\r\nHost: {server}\r\n");
        if let Some(authorization) = &self.authorization {
            request.push_str("Proxy-Authorization: ");
            request.push_str(authorization);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        request.into_bytes()
    }
}

fn password(file: &Path) -> Result<Zeroizing<String>, UpstreamError> {
    let text = read_secret(file, PROXY_USER_MAX as u64)?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() || password.chars().any(char::is_control) {
        return Err(UpstreamError::NoPassword(file.to_owned()));
    }
    Ok(Zeroizing::new(password.to_owned()))
}

/// The answer to a request, so far.
#[derive(Default)]
pub struct ProxyResponse {
    head: Vec<u8>,
    /// Interim answers before it.
    interim: usize,
}

/// Its result.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// All bytes belong to the header, and more are needed.
    More,
    /// The connection stands; so many of the bytes given last belong to the header, and what is
    /// behind them is the server's.
    Open(usize),
}

impl ProxyResponse {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// Why there is no connection.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Progress, CloseReason> {
        let before = self.head.len();
        self.head.extend_from_slice(bytes);
        // A loop: how many interim answers there are is up to the proxy.
        let mut read = 0;
        loop {
            let Some((code, length)) = status_of(&self.head[read..])? else {
                self.head.drain(..read);
                return Ok(Progress::More);
            };
            read += length;
            match code {
                // Something else comes behind it (RFC 9110, section 15.2); no upgrade was asked for.
                100 | 102..200 if self.interim < PROXY_INTERIM_MAX => self.interim += 1,
                200..300 => return Ok(Progress::Open(read - before)),
                407 => return Err(CloseReason::UpstreamAuthentication),
                300..500 => return Err(CloseReason::UpstreamRefused),
                500.. => return Err(CloseReason::UpstreamFailed),
                _ => return Err(CloseReason::UpstreamProtocol),
            }
        }
    }
}

/// The status of the answer that `head` begins with, and the length of its header; `None` while
/// that is not whole.
fn status_of(head: &[u8]) -> Result<Option<(u16, usize)>, CloseReason> {
    let mut headers = [httparse::EMPTY_HEADER; PROXY_ANSWER_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(head);
    match parsed.map_err(|_| CloseReason::UpstreamProtocol)? {
        httparse::Status::Complete(length) if length <= PROXY_ANSWER_MAX => {
            Ok(Some((response.code.unwrap_or_default(), length)))
        }
        httparse::Status::Partial if head.len() <= PROXY_ANSWER_MAX => Ok(None),
        _ => Err(CloseReason::UpstreamProtocol),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn push_all(answer: &[u8]) -> Result<Progress, CloseReason> {
        ProxyResponse::default().push(answer)
    }

    #[test]
    fn what_the_proxy_says_is_told_apart() {
        let yes = b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n";
        let open = Ok(Progress::Open(yes.len()));
        assert_eq!(push_all(&[&yes[..], b"SSH-2.0"].concat()), open);
        let said = |status: &str| push_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes());
        assert_eq!(said("407 no"), Err(CloseReason::UpstreamAuthentication));
        assert_eq!(said("403 no"), Err(CloseReason::UpstreamRefused));
        assert_eq!(said("302 there"), Err(CloseReason::UpstreamRefused));
        assert_eq!(said("502 no"), Err(CloseReason::UpstreamFailed));
        assert_eq!(said("504 no"), Err(CloseReason::UpstreamFailed));
        assert_eq!(said("101 other"), Err(CloseReason::UpstreamProtocol));
        assert_eq!(
            push_all(b"SSH-2.0-x\r\n"),
            Err(CloseReason::UpstreamProtocol)
        );
        let long = format!("HTTP/1.1 200 a\r\nX: {}", "a".repeat(PROXY_ANSWER_MAX));
        assert_eq!(
            push_all(long.as_bytes()),
            Err(CloseReason::UpstreamProtocol)
        );
        let interim = [&b"HTTP/1.1 100 Continue\r\n\r\n"[..], yes].concat();
        assert_eq!(push_all(&interim), Ok(Progress::Open(interim.len())));
    }

    #[test]
    fn interim_answers_are_few_and_cost_no_stack() {
        let yes = b"HTTP/1.1 200 ok\r\n\r\n";
        let one = b"HTTP/1.1 102 \r\n\r\n";
        let few = [&one.repeat(PROXY_INTERIM_MAX)[..], yes].concat();
        assert_eq!(push_all(&few), Ok(Progress::Open(few.len())));
        for count in [PROXY_INTERIM_MAX + 1, 1190, 1_000_000] {
            let many = [&one.repeat(count)[..], yes].concat();
            assert_eq!(push_all(&many), Err(CloseReason::UpstreamProtocol));
            // However they come.
            let mut answer = ProxyResponse::default();
            let mut pieces = many.chunks(7).map(|piece| answer.push(piece));
            assert!(pieces.any(|progress| progress == Err(CloseReason::UpstreamProtocol)));
        }
    }

    #[test]
    fn the_request_names_the_server_and_carries_the_credentials_and_nothing_shows_them() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "open sesame\n").unwrap();
        let config = |user: Option<&str>, password_file| UpstreamProxy {
            address: "proxy:3128".parse().unwrap(),
            user: user.map(str::to_owned),
            password_file,
        };
        let error = Upstream::load(&config(Some("Aladdin"), Some(file.clone()))).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("chmod 600"), "others may read it: {error}");
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let upstream = Upstream::load(&config(Some("Aladdin"), Some(file))).unwrap();
        let request = upstream.request(&"[2001:db8::1]:443".parse().unwrap());
        // The example of RFC 7617, section 2.
        assert_eq!(
            String::from_utf8(request).unwrap(),
            "CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\
             Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n"
        );
        assert!(!format!("{upstream:?}").contains("QWxh"));
        let bare = Upstream::load(&config(None, None)).unwrap();
        let request = bare.request(&"wiki:443".parse().unwrap());
        assert_eq!(
            request,
            b"CONNECT wiki:443 HTTP/1.1\r\nHost: wiki:443\r\n\r\n"
        );
    }

    proptest! {
        /// However an answer is cut into pieces, the same bytes belong to its header.
        #[test]
        fn pieces_do_not_matter(cuts in prop::collection::vec(0usize..140, 0..8), interims in 0..4) {
            let mut header = Vec::new();
            for _ in 0..interims {
                header.extend_from_slice(b"HTTP/1.1 102 Processing\r\n\r\n");
            }
            header.extend_from_slice(b"HTTP/1.1 200 ok\r\nA: b\r\n\r\n");
            let whole = [&header[..], b"of the server"].concat();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < whole.len()).collect();
            cuts.push(whole.len());
            cuts.sort_unstable();
            let mut answer = ProxyResponse::default();
            let mut at = 0;
            for cut in cuts {
                match answer.push(&whole[at..cut]).unwrap() {
                    Progress::More => at = cut,
                    Progress::Open(used) => {
                        prop_assert_eq!(at + used, header.len());
                        return Ok(());
                    }
                }
            }
            prop_assert!(false, "no end of the header");
        }

        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Progress::Open(used)) = push_all(&bytes) {
                prop_assert!(used <= bytes.len());
            }
        }
    }
}
