//! The pages of the certificate store: requests in, answers out. What is done stands in
//! `node_store`.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::http::request::Parts;
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::changes::json_body;
use super::node_store::{NodeStore, Trouble};
use super::pages::{Page, Pages, failure, json_page, page};
use super::query::Query;
use super::reload::ReloadGuard;
use crate::certs::{Candidate, CertError, CertFile, Name, Reference, Role};
use crate::files::FileError;
use crate::findings::Problem;
use crate::limits::{ADMIN_CERTIFICATE_MAX, CERTIFICATE_PASSWORD_MAX, MAX_CERTIFICATE_FILE};

/// The imported certificate: files in base64.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Upload {
    file: Zeroizing<String>,
    key: Option<Zeroizing<String>>,
    password: Option<Zeroizing<String>>,
}

impl Pages {
    /// All certificates of the store.
    pub(super) async fn certificates(&self) -> Result<Page, Page> {
        let certificates = self.keep(|node_store| Ok(node_store.list()?)).await?;
        let body = json!({"certificates": certificates});
        Ok(json_page(StatusCode::OK, &body))
    }

    /// One certificate.
    pub(super) async fn certificate(&self, named: [String; 2]) -> Result<Page, Page> {
        let wanted = reference(&named)?;
        let entry = self
            .keep(move |node_store| Ok(node_store.get(&wanted)?))
            .await?;
        Ok(json_page(StatusCode::OK, &entry))
    }

    /// The public part of a certificate, for others.
    pub(super) async fn export_certificate(
        &self,
        named: [String; 2],
        query: &Query,
    ) -> Result<Page, Page> {
        let wanted = reference(&named)?;
        let (format, root) = (query.export.unwrap_or_default(), query.root);
        let file = format!("{}.{}", wanted.name, format.word());
        let content = self.keep(move |node_store| Ok(node_store.export(&wanted, format, root)?));
        let mut page = page(StatusCode::OK, format.media_type(), content.await?);
        let saved = HeaderValue::try_from(format!("attachment; filename=\"{file}\""));
        let saved = saved.expect("a certificate's name has no control characters");
        page.headers_mut()
            .insert(header::CONTENT_DISPOSITION, saved);
        Ok(page)
    }

    /// Deletes a certificate.
    pub(super) async fn delete_certificate(&self, named: [String; 2]) -> Result<Page, Page> {
        let wanted = reference(&named)?;
        let deleted = wanted.clone();
        self.keep_in_turn(move |node_store, turn| Ok(node_store.delete(turn, &deleted)?))
            .await?;
        let Reference { role, name } = &wanted;
        let kind = role.word();
        tracing::info!(kind, %name, "certificate deleted through the admin listener");
        let gone = json!({"name": name, "kind": role});
        Ok(json_page(StatusCode::OK, &gone))
    }

    /// Imports a certificate, or looks what an import would come to.
    pub(super) async fn import_certificate(
        &self,
        named: [String; 2],
        query: &Query,
        parts: &Parts,
        body: &mut Incoming,
    ) -> Result<Page, Page> {
        let wanted = reference(&named)?;
        let shape = "{\"file\": BASE64, \"key\": BASE64 or absent, \"password\": text or absent}";
        let upload: Upload = json_body(parts, body, ADMIN_CERTIFICATE_MAX, shape).await?;
        let replace = query.replace;
        if query.dry_run {
            let look = move |node_store: &NodeStore| {
                let candidate = upload.candidate(&wanted, node_store.host())?;
                Ok(node_store.look(&wanted, &candidate)?)
            };
            return Ok(json_page(StatusCode::OK, &self.keep(look).await?));
        }
        let import = move |node_store: &NodeStore, turn: &mut ReloadGuard<'_>| {
            let candidate = upload.candidate(&wanted, node_store.host())?;
            Ok(node_store.import(turn, &wanted, &candidate, replace)?)
        };
        let entry = self.keep_in_turn(import).await?;
        let (kind, name) = (entry.role.word(), &entry.name);
        tracing::info!(kind, %name, "certificate imported through the admin listener");
        Ok(json_page(StatusCode::OK, &entry))
    }

    async fn keep<T: Send + 'static>(
        &self,
        job: impl FnOnce(&NodeStore) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Page> {
        self.on_stored(move |reloader| job(&NodeStore::new(&reloader.config())))
            .await
    }

    /// Uses the store while nothing else changes, also not the active config.
    async fn keep_in_turn<T: Send + 'static>(
        &self,
        job: impl FnOnce(&NodeStore, &mut ReloadGuard<'_>) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Page> {
        self.on_stored(move |reloader| {
            let mut turn = reloader.turn();
            job(&NodeStore::new(&reloader.config()), &mut turn)
        })
        .await
    }
}

impl Upload {
    /// Returns what was sent, read. One with errors is refused.
    fn candidate(&self, wanted: &Reference, host: Option<&str>) -> Result<Candidate, Refused> {
        let source = |what: &str, text: &str| {
            let bytes = STANDARD.decode(text).map(Zeroizing::new);
            let bytes = bytes.map_err(|_| {
                Refused::Request(format!("the {what} is not base64 (RFC 4648, section 4)"))
            })?;
            if bytes.len() as u64 > MAX_CERTIFICATE_FILE {
                let path = PathBuf::from(what);
                let limit = MAX_CERTIFICATE_FILE;
                let error = CertError::from(FileError::TooLarge { path, limit });
                return Err(Refused::Trouble(error.into()));
            }
            let path = PathBuf::from(format!("the {what}"));
            Ok(CertFile { path, bytes })
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
    /// Faults of the certificate.
    Findings(Vec<Problem>),
    /// The store.
    Trouble(Trouble),
}

impl From<Trouble> for Refused {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<Refused> for Page {
    fn from(refused: Refused) -> Self {
        let trouble = match refused {
            Refused::Request(error) => return failure(StatusCode::BAD_REQUEST, &error),
            Refused::Findings(findings) => {
                return unusable("the certificate has errors", &findings);
            }
            Refused::Trouble(trouble) => trouble,
        };
        let error = trouble.to_string();
        let status = match trouble {
            Trouble::Refused(refusal) => return refusal.into(),
            Trouble::InUse(_) => StatusCode::CONFLICT,
            Trouble::Certificate(CertError::InStore { .. }) => StatusCode::CONFLICT,
            Trouble::Certificate(CertError::NotInStore { .. }) => StatusCode::NOT_FOUND,
            Trouble::Certificate(CertError::File(FileError::TooLarge { .. })) => {
                StatusCode::PAYLOAD_TOO_LARGE
            }
            Trouble::Certificate(CertError::File(_) | CertError::Crypto { .. })
            | Trouble::Profiles(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Trouble::Certificate(_) => return unusable(&error, &[]),
        };
        failure(status, &error)
    }
}

/// A file that was read, and is not what it should be.
fn unusable(error: &str, findings: &[Problem]) -> Page {
    let body = json!({"error": error, "findings": findings});
    json_page(StatusCode::UNPROCESSABLE_ENTITY, &body)
}

/// The certificate of a kind and a name.
fn reference([kind, name]: &[String; 2]) -> Result<Reference, Page> {
    let role = Role::ALL.into_iter().find(|role| role.word() == kind);
    let role = role.ok_or_else(|| {
        let error = "a certificate is named as /certificates/KIND/NAME, with the kind server, group or client";
        failure(StatusCode::NOT_FOUND, error)
    })?;
    let name = name.parse::<Name>();
    let name = name.map_err(|error| failure(StatusCode::BAD_REQUEST, &error.to_string()))?;
    Ok(Reference { role, name })
}
