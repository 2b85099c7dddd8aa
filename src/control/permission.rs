//! Permission of a request to change the node.
//!
//! Denied unless there is a reason to allow it: the token of `admin.token_file`, or, where none is
//! configured, a connection over the Unix socket by a user that is served there at all (see
//! [`Users`]). Who can log in to the machine can reach a loopback address, so there is no change
//! over TCP without a token. The file is read for each change: a new token needs no reload.
//!
//! What comes from a page in a browser is refused whatever it carries, but for the node's own page,
//! which always needs the token. The browser says which page it is (`Sec-Fetch-Site`, `Origin`),
//! and no script can say otherwise. Nothing that a browser adds by itself, such as a cookie, is
//! ever looked at.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, AsHeaderName, HOST, HeaderMap, HeaderValue, ORIGIN};

use crate::files::{FileError, read_secret};
use crate::limits::{ADMIN_TOKEN_MAX, ADMIN_TOKEN_MIN};

/// Who is at the other end of a connection to the admin listener, as the system says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// A program that has come over TCP.
    Tcp(SocketAddr),
    /// One that has come over the Unix socket of `admin.listen`.
    Unix(Process),
    /// One that has come over the socket in the state folder.
    State(Process),
    /// The process that has taken this one's place, which has asked who asks it.
    Successor,
}

/// Who has connected to a Unix socket (`SO_PEERCRED`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    /// Its user.
    pub uid: u32,
    /// Its number, where that means something here.
    pub pid: Option<i32>,
}

/// Who is served on a listener, and how changes are allowed there.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub users: Users,
    pub permission: Permission,
    /// The address that a request's host may name beside loopback. `None` for a Unix socket, which
    /// no browser reaches.
    pub host: Option<IpAddr>,
}

impl Policy {
    /// That of the socket in the state folder: root and the node's own user alone, who may write to
    /// the folder anyway.
    pub fn of_state_socket() -> Self {
        Self {
            users: Users::new(&[]),
            permission: Permission::Socket,
            host: None,
        }
    }
}

/// The users whose programs are served on the Unix socket: root, the node's own, and those of
/// `admin.socket_users`. The socket's file alone decides nothing: another program may have made it,
/// with any mode.
#[derive(Clone, Debug)]
pub(super) struct Users(Vec<u32>);

impl Users {
    /// These beside root and the node's own.
    pub fn new(more: &[u32]) -> Self {
        let own = rustix::process::geteuid().as_raw();
        Self([0, own].into_iter().chain(more.iter().copied()).collect())
    }

    /// Returns whether `caller` is served.
    pub fn serve(&self, caller: Caller) -> Result<(), Denied> {
        let (uid, remedy) = match caller {
            Caller::Tcp(_) | Caller::Successor => return Ok(()),
            Caller::Unix(process) => (process.uid, "see admin.socket_users"),
            Caller::State(process) => (process.uid, "run the command as one of them"),
        };
        if self.0.contains(&uid) {
            return Ok(());
        }
        Err(Denied {
            status: StatusCode::FORBIDDEN,
            why: format!(
                "this socket serves root and the node's own user, and not the user with the number {uid}; {remedy}"
            ),
        })
    }
}

/// How changes are allowed.
#[derive(Clone, Debug)]
pub(super) enum Permission {
    /// With the token in this file.
    Token(PathBuf),
    /// To whoever may connect.
    Socket,
    /// Not at all.
    Never,
}

/// Why a change is refused.
pub(super) struct Denied {
    pub status: StatusCode,
    pub why: String,
}

impl Permission {
    /// Returns what a change needs, in a word.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::Socket => "socket",
            Self::Never => "never",
        }
    }

    /// Returns whether a request with these headers may change something.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Denied> {
        let forbidden = |why: &str| Denied {
            status: StatusCode::FORBIDDEN,
            why: why.to_owned(),
        };
        let sender = Sender::of(headers);
        if sender == Sender::OtherPage {
            return Err(forbidden("changes from other pages are refused"));
        }
        match self {
            Self::Socket if sender == Sender::OwnPage => {
                let why = "changes from the page need admin.token_file in the config";
                Err(forbidden(why))
            }
            Self::Socket => Ok(()),
            Self::Never => {
                let why =
                    "changes need admin.token_file in the config, or admin.listen on a Unix socket";
                Err(forbidden(why))
            }
            Self::Token(file) => {
                let token = read_token(file)
                    .map_err(|why| forbidden(&format!("admin.token_file: {why}")))?;
                let bearer = only(headers, AUTHORIZATION)
                    .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
                if bearer
                    .is_some_and(|bearer| verify_slices_are_equal(bearer, token.as_bytes()).is_ok())
                {
                    Ok(())
                } else {
                    Err(Denied {
                        status: StatusCode::UNAUTHORIZED,
                        why: "send the token of admin.token_file as `Authorization: Bearer …`"
                            .to_owned(),
                    })
                }
            }
        }
    }
}

/// Who sends a request, as far as browsers tell (Fetch Metadata, section 2.3; RFC 6454, section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    /// No page: a program, or a person who typed the address.
    Program,
    /// The page that this listener serves.
    OwnPage,
    /// Another page, or one that does not say enough.
    OtherPage,
}

impl Sender {
    fn of(headers: &HeaderMap) -> Self {
        const SITE: &str = "sec-fetch-site";
        let site = only(headers, SITE).map(HeaderValue::as_bytes);
        let said_site = headers.contains_key(SITE);
        if !headers.contains_key(ORIGIN) && (!said_site || site == Some(b"none")) {
            return Self::Program;
        }
        // The host is one that is served here, or the request would not have come so far (see `host`).
        let own = match (only(headers, ORIGIN), only(headers, HOST)) {
            (Some(origin), Some(host)) => origin
                .as_bytes()
                .strip_prefix(b"http://")
                .is_some_and(|origin| origin.eq_ignore_ascii_case(host.as_bytes())),
            _ => false,
        };
        if own && site == Some(b"same-origin") {
            Self::OwnPage
        } else {
            Self::OtherPage
        }
    }
}

/// The value of a field that is given once.
fn only(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Why a file with a token is not used: what is wrong with it and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It cannot be read, or others may read it.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file.
    #[error(
        "{0} does not hold a token of {ADMIN_TOKEN_MIN} to {ADMIN_TOKEN_MAX} printable characters; make one with \
         `openssl rand -hex 32`"
    )]
    NoToken(PathBuf),
}

/// Reads the token of a file that its owner only may read.
///
/// # Errors
/// [`TokenError`].
pub fn read_token(file: &Path) -> Result<String, TokenError> {
    let text = read_secret(file, ADMIN_TOKEN_MAX as u64)?;
    let token = text.trim();
    let is_right = (ADMIN_TOKEN_MIN..=ADMIN_TOKEN_MAX).contains(&token.len())
        && token.bytes().all(|byte| byte.is_ascii_graphic());
    match is_right {
        true => Ok(token.to_owned()),
        false => Err(TokenError::NoToken(file.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use hyper::header::HeaderValue;

    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn with(token: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        fs::write(&file, token).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        (folder, file)
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                let name = hyper::header::HeaderName::from_static(name);
                (name, HeaderValue::from_str(value).unwrap())
            })
            .collect()
    }

    #[test]
    fn only_the_token_opens() {
        let (_folder, file) = with(&format!("{TOKEN}\n"), 0o600);
        let permission = Permission::Token(file.clone());
        let status = |value: &str| {
            permission
                .check(&headers(&[("authorization", value)]))
                .map_err(|denied| denied.status.as_u16())
        };
        assert_eq!(status(&format!("Bearer {TOKEN}")), Ok(()));
        for wrong in ["", "Bearer ", "Bearer 0", TOKEN, "Basic 0123"] {
            assert_eq!(status(wrong), Err(401), "{wrong}");
        }
        assert_eq!(status(&format!("Bearer {TOKEN}0")), Err(401));
        assert!(permission.check(&HeaderMap::new()).is_err());
        let mut twice = headers(&[("authorization", &format!("Bearer {TOKEN}"))]);
        twice.append(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        assert!(permission.check(&twice).is_err());
        // A new token needs no reload.
        fs::write(&file, "another token of enough letters".replace(' ', "-")).unwrap();
        assert_eq!(status(&format!("Bearer {TOKEN}")), Err(401));
        assert_eq!(status("Bearer another-token-of-enough-letters"), Ok(()));
    }

    const OWN: [(&str, &str); 3] = [
        ("host", "localhost:9901"),
        ("origin", "http://localhost:9901"),
        ("sec-fetch-site", "same-origin"),
    ];

    #[test]
    fn another_page_in_a_browser_changes_nothing() {
        let (_folder, file) = with(TOKEN, 0o600);
        let bearer = format!("Bearer {TOKEN}");
        let host = ("host", "localhost:9901");
        for permission in [
            Permission::Token(file),
            Permission::Socket,
            Permission::Never,
        ] {
            for signs in [
                &[host, ("origin", "null")] as &[_],
                &[host, ("sec-fetch-site", "cross-site")],
                // Not both signs.
                &[host, OWN[1]],
                &[host, OWN[2]],
                &[OWN[1], OWN[2]],
                // They contradict each other.
                &[host, ("origin", "null"), OWN[2]],
                &[host, ("origin", "http://localhost:9902"), OWN[2]],
                &[host, ("origin", "http://localhost"), OWN[2]],
                &[host, ("origin", "https://localhost:9901"), OWN[2]],
                &[host, ("origin", "http://localhost:9901/"), OWN[2]],
                &[host, ("origin", "http://attacker.example"), OWN[2]],
                &[host, OWN[1], ("sec-fetch-site", "same-site")],
                &[host, OWN[1], ("sec-fetch-site", "none")],
                &[host, OWN[1], ("sec-fetch-site", "")],
                // More than one of a kind.
                &[host, ("sec-fetch-site", "none"), ("sec-fetch-site", "none")],
                &[host, OWN[1], OWN[2], OWN[2]],
                &[host, OWN[1], OWN[1], OWN[2]],
                &[host, host, OWN[1], OWN[2]],
            ] {
                let mut all = signs.to_vec();
                all.push(("authorization", &bearer));
                let result = permission.check(&headers(&all));
                assert!(
                    result.is_err_and(|denied| denied.status == 403),
                    "{signs:?}"
                );
            }
        }
    }

    #[test]
    fn the_own_page_needs_the_token() {
        let (_folder, file) = with(TOKEN, 0o600);
        let permission = Permission::Token(file);
        let status = |more: &[(&'static str, &str)]| {
            let all = [&OWN as &[_], more].concat();
            let result = permission.check(&headers(&all));
            result.map_err(|denied| denied.status.as_u16())
        };
        let bearer = format!("Bearer {TOKEN}");
        assert_eq!(status(&[("authorization", &bearer)]), Ok(()));
        assert_eq!(status(&[]), Err(401));
        assert_eq!(status(&[("authorization", "Bearer wrong")]), Err(401));
        // What a browser sends by itself is no permission.
        assert_eq!(status(&[("cookie", &format!("token={TOKEN}"))]), Err(401));
        for permission in [Permission::Socket, Permission::Never] {
            let all = [&OWN as &[_], &[("authorization", bearer.as_str())]].concat();
            let denied = permission.check(&headers(&all)).err().unwrap();
            assert_eq!(denied.status, 403);
            assert!(denied.why.contains("admin.token_file"));
        }
    }

    #[test]
    fn the_socket_serves_root_the_node_and_whom_the_config_names() {
        let own = rustix::process::geteuid().as_raw();
        let (named, other) = (own.wrapping_add(1), own.wrapping_add(2));
        let users = Users::new(&[named]);
        let serves = |uid| users.serve(Caller::Unix(Process { uid, pid: None }));
        for uid in [0, own, named] {
            assert!(serves(uid).is_ok(), "{uid}");
        }
        let denied = serves(other).err().unwrap();
        assert_eq!(denied.status, StatusCode::FORBIDDEN);
        assert!(denied.why.contains("admin.socket_users"), "{}", denied.why);
    }

    #[test]
    fn nothing_is_allowed_by_default() {
        let denied = Permission::Never.check(&HeaderMap::new()).err().unwrap();
        assert_eq!(denied.status, StatusCode::FORBIDDEN);
        assert!(denied.why.contains("admin.token_file"));
        assert!(Permission::Socket.check(&HeaderMap::new()).is_ok());
    }

    #[test]
    fn a_file_that_others_may_read_is_no_secret() {
        for (token, mode) in [
            (TOKEN, 0o644),
            (TOKEN, 0o640),
            ("short", 0o600),
            ("", 0o600),
            ("a token with spaces in it, long enough", 0o600),
            (&TOKEN.repeat(100), 0o600),
        ] {
            let (_folder, file) = with(token, mode);
            let error = read_token(&file).unwrap_err().to_string();
            assert!(error.contains("token"), "{error}");
        }
    }
}
