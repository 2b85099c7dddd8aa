//! The pages of profiles: requests in, answers out. What is done stands in `profiles`.

use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::changes::{JSON, body_of};
use super::pages::{Page, Pages, failure, json_page};
use super::profiles::{Done, Failure, Profiles, With};
use super::query::{Query, decoded};
use crate::limits::{ADMIN_BODY_MAX, ADMIN_USER_MAX, PROFILE_TEXT_MAX};
use crate::profiles::StoreError;

/// The field with which whoever holds the token says whose change it is.
const USER: HeaderName = HeaderName::from_static("adit-user");

/// What a request about one profile asks for.
enum Action {
    /// The profile itself.
    Itself,
    Assign,
    Unassign,
    Rollback,
}

/// The body of a rollback.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Back {
    version: Option<u64>,
    #[serde(default)]
    note: String,
}

impl Pages {
    /// `/profiles`
    pub(super) async fn list_profiles(&self) -> Page {
        let listed = self.ask(|profiles| Ok(profiles.overview()?)).await;
        listed.map_or_else(|page| page, |overview| json_page(StatusCode::OK, &overview))
    }

    /// `/profiles/NAME`
    pub(super) async fn show_profile(&self, path: &str, query: Query) -> Page {
        let name = match place(path) {
            Ok((name, Action::Itself)) => name,
            Ok(_) => return failure(StatusCode::METHOD_NOT_ALLOWED, "only POST"),
            Err(wrong) => return wrong.page(),
        };
        let read = self.ask(move |profiles| Ok(profiles.read(&name, query.version)?));
        match read.await {
            Ok(profile) => tagged(json_page(StatusCode::OK, &profile), profile.version),
            Err(page) => page,
        }
    }

    /// A change of a profile, or of what the node is assigned.
    pub(super) async fn change_profile(
        &self,
        path: &str,
        query: Query,
        parts: &Parts,
        body: &mut Incoming,
    ) -> Result<Page, Page> {
        let (name, action) = place(path).map_err(Wrong::page)?;
        let method = &parts.method;
        let with = With {
            who: author(&parts.headers).map_err(Wrong::page)?,
            note: query.note.clone().unwrap_or_default(),
            expect: expected(&parts.headers, &query).map_err(Wrong::page)?,
        };
        match action {
            Action::Itself if method == Method::PUT => {
                let text = text(parts, body).await?;
                match query.dry_run {
                    true => self.check_profile(name, text).await,
                    false => {
                        self.done(name, move |on, name| on.put(name, &text, &with))
                            .await
                    }
                }
            }
            Action::Itself if method == Method::DELETE => {
                let gone = json!({"name": name, "deleted": true});
                self.ask(move |profiles| profiles.delete(&name, with.expect))
                    .await?;
                Ok(json_page(StatusCode::OK, &gone))
            }
            Action::Assign if method == Method::POST => self.done(name, Profiles::assign).await,
            Action::Unassign if method == Method::POST => self.done(name, Profiles::unassign).await,
            Action::Rollback if method == Method::POST => {
                let back = back(parts, body).await?;
                let with = With {
                    note: back.note,
                    ..with
                };
                self.done(name, move |on, name| on.roll_back(name, back.version, with))
                    .await
            }
            _ => {
                let error = "PUT and DELETE are for a profile, POST for what is done with it";
                Err(failure(StatusCode::METHOD_NOT_ALLOWED, error))
            }
        }
    }

    async fn check_profile(&self, name: String, text: String) -> Result<Page, Page> {
        let said = name.clone();
        let findings = self
            .ask(move |profiles| profiles.check(&name, &text))
            .await?;
        let body = json!({"name": said, "valid": true, "findings": findings});
        Ok(json_page(StatusCode::OK, &body))
    }

    async fn done(
        &self,
        name: String,
        change: impl FnOnce(&Profiles, &str) -> Result<Done, Failure> + Send + 'static,
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
        job: impl FnOnce(&Profiles) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Page> {
        self.on_stored(move |reloader| job(&Profiles::new(reloader)))
            .await
    }
}

/// What is wrong with a request.
struct Wrong(StatusCode, String);

impl Wrong {
    fn page(self) -> Page {
        failure(self.0, &self.1)
    }
}

/// The profile, and what is asked of it.
fn place(path: &str) -> Result<(String, Action), Wrong> {
    let (name, action) = match path.split_once('/') {
        None => (path, Action::Itself),
        Some((name, "assign")) => (name, Action::Assign),
        Some((name, "unassign")) => (name, Action::Unassign),
        Some((name, "rollback")) => (name, Action::Rollback),
        Some(_) => {
            let error = "a profile has assign, unassign and rollback below it";
            return Err(Wrong(StatusCode::NOT_FOUND, error.to_owned()));
        }
    };
    let name = decoded(name).map_err(|error| Wrong(StatusCode::BAD_REQUEST, error))?;
    Ok((name, action))
}

/// Who makes a change: whoever holds the token, and says who that is.
fn author(headers: &HeaderMap) -> Result<String, Wrong> {
    let Some(user) = headers.get(USER) else {
        return Ok("admin listener".to_owned());
    };
    let user = user.to_str().ok().map(str::trim);
    match user.filter(|user| (1..=ADMIN_USER_MAX).contains(&user.len())) {
        Some(user) => Ok(format!("{user} (admin listener)")),
        None => {
            let error = format!("adit-user is a name of 1 to {ADMIN_USER_MAX} characters of ASCII");
            Err(Wrong(StatusCode::BAD_REQUEST, error))
        }
    }
}

/// The version that the client has seen: `?expect=4`, or `If-Match: "4"` (RFC 9110, section 13.1.1); 0 for none, or
/// `If-None-Match: *` (section 13.1.2).
fn expected(headers: &HeaderMap, query: &Query) -> Result<Option<u64>, Wrong> {
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
            let error = "write If-Match: \"4\" for version 4, If-None-Match: * for a profile that is not there, \
                         or ?expect=4";
            Err(Wrong(StatusCode::BAD_REQUEST, error.to_owned()))
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

/// What a rollback asks for; nothing but a rollback where there is no body.
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

impl From<Failure> for Page {
    fn from(error: Failure) -> Self {
        let error = match error {
            Failure::Wrong(refusal) => return refusal.into(),
            Failure::Store(error) => error,
        };
        let status = match error {
            StoreError::NoProfile(_) | StoreError::NoVersion(..) => StatusCode::NOT_FOUND,
            StoreError::Conflict(..) => StatusCode::PRECONDITION_FAILED,
            StoreError::Assigned(_) | StoreError::Refused => StatusCode::CONFLICT,
            StoreError::Bad(_) => StatusCode::BAD_REQUEST,
            StoreError::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
            StoreError::Io { .. } | StoreError::Damaged { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        failure(status, &error.to_string())
    }
}
