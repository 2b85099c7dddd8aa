//! The pages of profiles: requests in, answers out. What is done stands in `profiles`.

use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use serde::Deserialize;
use serde_json::json;

use super::changes::{JSON, body_of};
use super::pages::{Page, Pages, failure, json_page};
use super::profiles::{Done, ProfileFailure, Profiles, With};
use super::query::Query;
use crate::limits::{ADMIN_BODY_MAX, ADMIN_USER_MAX, PROFILE_TEXT_MAX};
use crate::profiles::StoreError;

/// The field with which whoever holds the token says whose change it is.
const USER: HeaderName = HeaderName::from_static("adit-user");

/// The body of a rollback.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Back {
    version: Option<u64>,
    #[serde(default)]
    note: String,
}

impl Pages {
    /// The stored profiles.
    pub(super) async fn list_profiles(&self) -> Result<Page, Page> {
        let overview = self.ask(|profiles| Ok(profiles.overview()?)).await?;
        Ok(json_page(StatusCode::OK, &overview))
    }

    /// One version of a profile, else the newest.
    pub(super) async fn show_profile(
        &self,
        name: String,
        version: Option<u64>,
    ) -> Result<Page, Page> {
        let read = self.ask(move |profiles| Ok(profiles.read(&name, version)?));
        let profile = read.await?;
        let page = json_page(StatusCode::OK, &profile);
        Ok(tagged(page, profile.version))
    }

    /// A new version of a profile.
    pub(super) async fn put_profile(
        &self,
        name: String,
        query: &Query,
        parts: &Parts,
        body: &mut Incoming,
    ) -> Result<Page, Page> {
        let with = With::of(query, parts)?;
        let text = text(parts, body).await?;
        if query.dry_run {
            return self.check_profile(name, text).await;
        }
        self.done(name, move |on, name| on.put(name, &text, &with))
            .await
    }

    /// Deletes a profile with all its versions.
    pub(super) async fn delete_profile(
        &self,
        name: String,
        query: &Query,
        parts: &Parts,
    ) -> Result<Page, Page> {
        let expect = With::of(query, parts)?.expect;
        let gone = json!({"name": name, "deleted": true});
        self.ask(move |profiles| profiles.delete(&name, expect))
            .await?;
        Ok(json_page(StatusCode::OK, &gone))
    }

    /// Makes an old text the newest version.
    pub(super) async fn roll_back_profile(
        &self,
        name: String,
        query: &Query,
        parts: &Parts,
        body: &mut Incoming,
    ) -> Result<Page, Page> {
        let with = With::of(query, parts)?;
        let Back { version, note } = back(parts, body).await?;
        let with = With { note, ..with };
        self.done(name, move |on, name| on.roll_back(name, version, with))
            .await
    }

    async fn check_profile(&self, name: String, text: String) -> Result<Page, Page> {
        let said = name.clone();
        let findings = self
            .ask(move |profiles| profiles.check(&name, &text))
            .await?;
        let body = json!({"name": said, "valid": true, "findings": findings});
        Ok(json_page(StatusCode::OK, &body))
    }

    /// Makes a change of a profile, and says what it has come to.
    pub(super) async fn done(
        &self,
        name: String,
        change: impl FnOnce(&Profiles, &str) -> Result<Done, ProfileFailure> + Send + 'static,
    ) -> Result<Page, Page> {
        let said = name.clone();
        let done = self.ask(move |profiles| change(profiles, &name)).await?;
        let Done { changed, .. } = &done;
        tracing::info!(
            profile = said,
            version = changed.version,
            stored = changed.stored,
            generation = done.generation,
            "profile changed through the admin listener"
        );
        let page = json_page(StatusCode::OK, &done.json(&said));
        Ok(tagged(page, done.changed.version))
    }

    async fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Profiles) -> Result<T, ProfileFailure> + Send + 'static,
    ) -> Result<T, Page> {
        self.on_stored(move |reloader| job(&Profiles::new(reloader)))
            .await
    }
}

impl With {
    /// Returns what a request says.
    fn of(query: &Query, parts: &Parts) -> Result<Self, Page> {
        Ok(Self {
            who: author(&parts.headers)?,
            note: query.note.clone().unwrap_or_default(),
            expect: expected(&parts.headers, query)?,
        })
    }
}

/// Who makes a change: whoever holds the token, and says who that is.
fn author(headers: &HeaderMap) -> Result<String, Page> {
    let Some(user) = headers.get(USER) else {
        return Ok("admin listener".to_owned());
    };
    let user = user.to_str().ok().map(str::trim);
    match user.filter(|user| (1..=ADMIN_USER_MAX).contains(&user.len())) {
        Some(user) => Ok(format!("{user} (admin listener)")),
        None => {
            let error = format!("adit-user is a name of 1 to {ADMIN_USER_MAX} characters of ASCII");
            Err(failure(StatusCode::BAD_REQUEST, &error))
        }
    }
}

/// The version that the client has seen: `?expect=4`, or `If-Match: "4"` (RFC 9110, section
/// 13.1.1); 0 for none, or `If-None-Match: *` (section 13.1.2).
fn expected(headers: &HeaderMap, query: &Query) -> Result<Option<u64>, Page> {
    let field = |name| {
        let value: Option<&HeaderValue> = headers.get(name);
        value.map(|value| value.to_str().unwrap_or_default().trim())
    };
    let given = match (field(header::IF_MATCH), field(header::IF_NONE_MATCH)) {
        (None, None) => return Ok(query.expect),
        (Some(tag), None) => tag.trim_matches('"').parse().ok(),
        (None, Some("*")) => Some(0),
        _ => None,
    };
    match given {
        Some(version) if query.expect.is_none_or(|expect| expect == version) => Ok(Some(version)),
        _ => {
            let error = "write If-Match: \"4\" for version 4, If-None-Match: * for a profile that does not \
                exist, or ?expect=4";
            Err(failure(StatusCode::BAD_REQUEST, error))
        }
    }
}

async fn text(parts: &Parts, body: &mut Incoming) -> Result<String, Page> {
    let bytes = body_of("application/toml", parts, body, PROFILE_TEXT_MAX).await?;
    String::from_utf8(bytes.into()).map_err(|_| {
        let error = "the profile is not UTF-8 text; save it as UTF-8";
        let problem = json!({"message": "is not UTF-8 text", "remedy": "save it as UTF-8"});
        let body = json!({"error": error, "problems": [problem]});
        json_page(StatusCode::UNPROCESSABLE_ENTITY, &body)
    })
}

/// Returns what a rollback asks for; nothing but a rollback where there is no body.
async fn back(parts: &Parts, body: &mut Incoming) -> Result<Back, Page> {
    let bytes = body_of(JSON, parts, body, ADMIN_BODY_MAX).await?;
    if bytes.is_empty() {
        return Ok(Back::default());
    }
    serde_json::from_slice(&bytes).map_err(|error| {
        let error = format!("the body is {{\"version\": 3}}, with a note if you like: {error}");
        failure(StatusCode::BAD_REQUEST, &error)
    })
}

/// With the version as entity tag (RFC 9110, section 8.8.3).
fn tagged(mut page: Page, version: u64) -> Page {
    if let Ok(tag) = HeaderValue::try_from(format!("\"{version}\"")) {
        page.headers_mut().insert(header::ETAG, tag);
    }
    page
}

impl From<ProfileFailure> for Page {
    fn from(error: ProfileFailure) -> Self {
        let error = match error {
            ProfileFailure::Wrong(refusal) => return refusal.into(),
            ProfileFailure::Store(error) => error,
        };
        let status = match error {
            StoreError::NoProfile(_) | StoreError::NoVersion(..) => StatusCode::NOT_FOUND,
            StoreError::Conflict(..) => StatusCode::PRECONDITION_FAILED,
            StoreError::Assigned(_) | StoreError::Refused => StatusCode::CONFLICT,
            StoreError::Name(_) | StoreError::Bad(_) => StatusCode::BAD_REQUEST,
            StoreError::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
            StoreError::Io { .. } | StoreError::Damaged { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        failure(status, &error.to_string())
    }
}
