//! The certificate store on the admin listener: what is in it, and how it changes.
//!
//! What is imported for the profile in force is put into force at once; where the node refuses it, the store is put back.

use std::path::PathBuf;
use std::sync::{PoisonError, mpsc};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::changes::{json_body, refused};
use super::keeper::{Keeper, Trouble};
use super::pages::{Page, Pages, failure, json_page, page};
use super::query::Query;
use super::{Node, Refusal};
use crate::certs::{Candidate, CertError, Finding, Name, Reference, Role, Source};
use crate::limits::{
    ADMIN_CERTIFICATE_MAX, CERTIFICATE_PASSWORD_MAX, CHANGE_ANSWER, MAX_CERTIFICATE_FILE,
};

/// What is imported: files in base64.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Upload {
    file: Zeroizing<String>,
    key: Option<Zeroizing<String>>,
    password: Option<Zeroizing<String>>,
}

impl Pages {
    /// All certificates of the store.
    pub(super) async fn certificates(&self) -> Page {
        match self.keep(|keeper| Ok(keeper.list()?)).await {
            Ok(certificates) => json_page(StatusCode::OK, &json!({"certificates": certificates})),
            Err(page) => page,
        }
    }

    /// One certificate, or its public part for others.
    pub(super) async fn certificate(&self, path: &str, query: &Query) -> Page {
        let (wanted, export) = match asked(path) {
            Ok(asked) => asked,
            Err(refused) => return refused.page(),
        };
        if !export {
            let shown = self.keep(move |keeper| Ok(keeper.get(&wanted)?)).await;
            return shown.map_or_else(|page| page, |entry| json_page(StatusCode::OK, &entry));
        }
        let (format, root) = (query.export.unwrap_or_default(), query.root);
        let file = format!("{}.{}", wanted.name, format.word());
        let content = self.keep(move |keeper| Ok(keeper.export(&wanted, format, root)?));
        match content.await {
            Ok(content) => {
                let mut page = page(StatusCode::OK, format.media_type(), content);
                let saved = HeaderValue::try_from(format!("attachment; filename=\"{file}\""));
                let saved = saved.expect("a certificate's name has no control characters");
                page.headers_mut()
                    .insert(header::CONTENT_DISPOSITION, saved);
                page
            }
            Err(page) => page,
        }
    }

    /// Imports a certificate, or deletes it.
    pub(super) async fn change_certificate(
        &self,
        path: &str,
        query: &Query,
        parts: &Parts,
        body: &mut Incoming,
    ) -> Result<Page, Page> {
        let (wanted, export) = asked(path).map_err(Refused::page)?;
        if export {
            return Err(failure(StatusCode::METHOD_NOT_ALLOWED, "only GET"));
        }
        if parts.method == Method::DELETE {
            let deleted = wanted.clone();
            self.keep_in_turn(move |keeper| Ok(keeper.delete(&deleted)?))
                .await?;
            let Reference { role, name } = &wanted;
            let kind = role.word();
            tracing::info!(kind, %name, "certificate deleted through the admin listener");
            let gone = json!({"name": name, "kind": role});
            return Ok(json_page(StatusCode::OK, &gone));
        }
        let shape = "{\"file\": BASE64, \"key\": BASE64 or absent, \"password\": text or absent}";
        let upload: Upload = json_body(parts, body, ADMIN_CERTIFICATE_MAX, shape).await?;
        let (dry_run, replace) = (query.dry_run, query.replace);
        if !dry_run {
            return self.import_certificate(upload, wanted, replace).await;
        }
        let look = move |keeper: &Keeper| {
            let candidate = upload.candidate(&wanted, keeper.host())?;
            Ok(keeper.look(&wanted, &candidate)?)
        };
        let entry = self.keep(look).await?;
        Ok(json_page(StatusCode::OK, &entry))
    }

    async fn import_certificate(
        &self,
        upload: Upload,
        wanted: Reference,
        replace: bool,
    ) -> Result<Page, Page> {
        let node = self.node.clone();
        let import = move |keeper: &Keeper| {
            let candidate = upload.candidate(&wanted, keeper.host())?;
            let imported = keeper.import(&wanted, &candidate, replace)?;
            if imported.runs
                && let Err(why) = put_into_force(&*node)
            {
                if matches!(why, Refused::Reload(_)) {
                    keeper.restore(&wanted, &imported.before)?;
                }
                return Err(why);
            }
            Ok(imported.entry)
        };
        let entry = self.keep_in_turn(import).await?;
        let (kind, name) = (entry.role.word(), &entry.name);
        tracing::info!(kind, %name, "certificate imported through the admin listener");
        Ok(json_page(StatusCode::OK, &entry))
    }

    /// Changes the store: one change at a time, and to its end, even if the request is given up.
    async fn keep_in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Keeper) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Page> {
        let storing = self.storing.clone();
        self.keep(move |keeper| {
            let _turn = storing.lock().unwrap_or_else(PoisonError::into_inner);
            work(keeper)
        })
        .await
    }

    /// Uses the store: not on this thread, which answers probes.
    async fn keep<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Keeper) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Page> {
        let node = self.node.clone();
        let done = tokio::task::spawn_blocking(move || work(&node.keeper())).await;
        let done = done.map_err(|_| {
            let error = "the store failed";
            failure(StatusCode::INTERNAL_SERVER_ERROR, error)
        });
        done?.map_err(Refused::page)
    }
}

/// Has the node read everything again, and waits until that is in force.
fn put_into_force(node: &dyn Node) -> Result<(), Refused> {
    let (sender, receiver) = mpsc::channel();
    node.reload(Box::new(move |answer| drop(sender.send(answer))));
    match receiver.recv_timeout(CHANGE_ANSWER) {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(refusal)) => Err(Refused::Reload(refusal)),
        Err(_) => Err(Refused::Late),
    }
}

impl Upload {
    /// What was sent, read. One with errors is refused.
    fn candidate(&self, wanted: &Reference, host: Option<&str>) -> Result<Candidate, Refused> {
        let source = |what: &str, text: &str| {
            let bytes = STANDARD.decode(text).map(Zeroizing::new);
            let bytes = bytes.map_err(|_| {
                Refused::Request(format!("the {what} is not base64 (RFC 4648, section 4)"))
            })?;
            if bytes.len() as u64 > MAX_CERTIFICATE_FILE {
                let path = PathBuf::from(what);
                let limit = MAX_CERTIFICATE_FILE;
                return Err(Refused::Trouble(CertError::TooLarge { path, limit }.into()));
            }
            let path = PathBuf::from(format!("the {what}"));
            Ok(Source { path, bytes })
        };
        let file = source("file", &self.file)?;
        let key = self
            .key
            .as_ref()
            .map(|key| source("key", key))
            .transpose()?;
        let password = self.password.as_ref().map(|password| password.as_str());
        if password.is_some_and(|password| password.len() > CERTIFICATE_PASSWORD_MAX) {
            let error = format!("a password has at most {CERTIFICATE_PASSWORD_MAX} bytes");
            return Err(Refused::Request(error));
        }
        let candidate = Candidate::read(wanted.role, &file, key.as_ref(), password, host);
        let candidate = candidate.map_err(Trouble::from)?;
        if candidate.errors() > 0 {
            return Err(Refused::Findings(candidate.findings().to_vec()));
        }
        Ok(candidate)
    }
}

/// Why a request about certificates is refused.
enum Refused {
    /// The request.
    Request(String),
    /// The path.
    NotFound(&'static str),
    /// What is wrong with the certificate.
    Findings(Vec<Finding>),
    /// The store.
    Trouble(Trouble),
    /// The node does not run with it.
    Reload(Refusal),
    /// The node has not said yet whether it runs with it.
    Late,
}

impl From<Trouble> for Refused {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl Refused {
    fn page(self) -> Page {
        let trouble = match self {
            Self::Request(error) => return failure(StatusCode::BAD_REQUEST, &error),
            Self::NotFound(error) => return failure(StatusCode::NOT_FOUND, error),
            Self::Findings(findings) => return unusable("the certificate has errors", &findings),
            Self::Reload(refusal) => return refused(&refusal),
            Self::Late => {
                let error = "it is imported, and not in force yet";
                return failure(StatusCode::GATEWAY_TIMEOUT, error);
            }
            Self::Trouble(trouble) => trouble,
        };
        let error = trouble.to_string();
        let status = match trouble {
            Trouble::InUse(_) => StatusCode::CONFLICT,
            Trouble::Certificate(CertError::InStore { .. }) => StatusCode::CONFLICT,
            Trouble::Certificate(CertError::NotInStore { .. }) => StatusCode::NOT_FOUND,
            Trouble::Certificate(CertError::TooLarge { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            Trouble::Certificate(CertError::Io { .. } | CertError::Crypto { .. })
            | Trouble::Profiles(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Trouble::Certificate(_) => return unusable(&error, &[]),
        };
        failure(status, &error)
    }
}

/// A file that was read, and is not what it should be.
fn unusable(error: &str, findings: &[Finding]) -> Page {
    let body = json!({"error": error, "findings": findings});
    json_page(StatusCode::UNPROCESSABLE_ENTITY, &body)
}

/// Reads `KIND/NAME` or `KIND/NAME/export`. Neither part has anything that would be percent-encoded.
fn asked(path: &str) -> Result<(Reference, bool), Refused> {
    let (kind, rest) = path.split_once('/').unwrap_or((path, ""));
    let (name, export) = match rest.split_once('/') {
        None => (rest, false),
        Some((name, "export")) => (name, true),
        Some(_) => {
            return Err(Refused::NotFound(
                "what can be asked of a certificate is /export",
            ));
        }
    };
    let role = Role::ALL.into_iter().find(|role| role.word() == kind);
    let role = role.ok_or(Refused::NotFound(
        "a certificate is named as /certificates/server/NAME or /certificates/group/NAME",
    ))?;
    let name = name.parse::<Name>().map_err(Refused::Request)?;
    Ok((Reference { role, name }, export))
}
