//! Whether a request may change the node.
//!
//! Denied unless there is a reason to allow it: the token of `admin.token_file`, or, where none is configured, a
//! connection over the Unix socket, which its permissions leave to its owner. Who can log in to the machine can reach a
//! loopback address, so there is no change over TCP without a token. The file is read for each change: a new token needs
//! no reload. What comes from a browser is refused whatever it carries.

use std::path::{Path, PathBuf};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderMap, ORIGIN};

use crate::certs::files::read_secret;
use crate::limits::{ADMIN_TOKEN_MAX, ADMIN_TOKEN_MIN};

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
    /// Whether a request with these headers may change something.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Denied> {
        let denied = |status, why: &str| Denied {
            status,
            why: why.to_owned(),
        };
        // A browser says where a request comes from, and no page has business here.
        let site = headers.get("sec-fetch-site");
        if headers.contains_key(ORIGIN) || site.is_some_and(|site| site != "none") {
            let why = "changes are not taken from browsers";
            return Err(denied(StatusCode::FORBIDDEN, why));
        }
        match self {
            Self::Socket => Ok(()),
            Self::Never => {
                let why =
                    "changes need admin.token_file in the config, or admin.listen on a Unix socket";
                Err(denied(StatusCode::FORBIDDEN, why))
            }
            Self::Token(file) => {
                let token = read_token(file).map_err(|why| Denied {
                    status: StatusCode::FORBIDDEN,
                    why: format!("admin.token_file: {why}"),
                })?;
                let mut given = headers.get_all(AUTHORIZATION).iter();
                let bearer = given
                    .next()
                    .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
                match (bearer, given.next()) {
                    (Some(bearer), None)
                        if verify_slices_are_equal(bearer, token.as_bytes()).is_ok() =>
                    {
                        Ok(())
                    }
                    _ => Err(denied(
                        StatusCode::UNAUTHORIZED,
                        "send the token of admin.token_file as `Authorization: Bearer …`",
                    )),
                }
            }
        }
    }
}

/// Reads the token of a file that its owner only may read.
///
/// # Errors
/// What is wrong with the file and what would be right.
pub fn read_token(file: &Path) -> Result<String, String> {
    let text = read_secret(file, ADMIN_TOKEN_MAX as u64)?;
    let token = text.trim();
    let is_right = (ADMIN_TOKEN_MIN..=ADMIN_TOKEN_MAX).contains(&token.len())
        && token.bytes().all(|byte| byte.is_ascii_graphic());
    if is_right {
        Ok(token.to_owned())
    } else {
        let shown = file.display();
        Err(format!(
            "{shown} does not hold a token of {ADMIN_TOKEN_MIN} to {ADMIN_TOKEN_MAX} printable characters; \
             make one with `openssl rand -hex 32`"
        ))
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

    #[test]
    fn a_page_in_a_browser_changes_nothing() {
        let (_folder, file) = with(TOKEN, 0o600);
        let bearer = format!("Bearer {TOKEN}");
        for permission in [Permission::Token(file), Permission::Socket] {
            for sign in [
                ("origin", "null"),
                ("origin", "http://localhost:9901"),
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-site", "same-origin"),
            ] {
                let result = permission.check(&headers(&[("authorization", &bearer), sign]));
                assert!(result.is_err_and(|denied| denied.status == 403), "{sign:?}");
            }
        }
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
            let error = read_token(&file).unwrap_err();
            assert!(error.contains("token"), "{error}");
        }
    }
}
