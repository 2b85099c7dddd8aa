//! Changes through the admin listener: devices, and tunnels that it closes. Who may do so is
//! decided before (`permission`).
//!
//! The answer to a change of devices comes when it is on the disk and active.

use std::sync::Arc;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::http::request::Parts;
use hyper::{StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::earlier::Earlier;
use super::pages::{Page, Pages, failure, gather, json_page, name_silent, tunnel_of};
use super::permission::Caller;
use super::profiles::Profiles;
use super::query::Query;
use super::reload::Reloader;
use super::routes::Change;
use super::{Device, Refusal};
use crate::engine::ChangeError;
use crate::files::in_background;
use crate::limits::{ADMIN_BODY_MAX, ADMIN_IMPORT_MAX, CHANGE_ANSWER, MAX_IDENTITY_NAME_BYTES};
use crate::observe::TunnelFilter;
use crate::table::{DeviceChanges, DeviceEntry, DeviceFormat, DeviceReader, DeviceState};

pub(super) const JSON: &str = "application/json";

impl Pages {
    /// Makes a change that is permitted.
    pub(super) async fn change(
        &self,
        change: Change,
        [name, second]: [String; 2],
        query: Query,
        (parts, caller): (&Parts, Caller),
        body: &mut Incoming,
    ) -> Result<Page, Page> {
        match change {
            Change::CloseTunnels => self.close_all(query.tunnels).await,
            Change::CloseTunnel => Ok(self.close(tunnel_of(&name)?).await),
            Change::ImportDevices => self.import(parts, body).await,
            Change::SetDevice => self.put(&name, parts, body).await,
            Change::RemoveDevice => self.remove(&name).await,
            Change::SetServer => self.set_server(name, second, parts, body).await,
            Change::ForgetCrl => self.forget_crl(name).await,
            Change::Reload => self.reload().await,
            Change::PutProfile => self.put_profile(name, &query, parts, body).await,
            Change::DeleteProfile => self.delete_profile(name, &query, parts).await,
            Change::AssignProfile => self.done(name, Profiles::assign).await,
            Change::UnassignProfile => self.done(name, Profiles::unassign).await,
            Change::RollBackProfile => self.roll_back_profile(name, &query, parts, body).await,
            Change::ImportCertificate => {
                let named = [name, second];
                self.import_certificate(named, &query, parts, body).await
            }
            Change::DeleteCertificate => self.delete_certificate([name, second]).await,
            Change::TryPermission => Ok(self.permission(caller)),
        }
    }

    async fn close_all(&self, filter: TunnelFilter) -> Result<Page, Page> {
        if filter.is_empty() {
            let error = "name the tunnels: device, user, app, serial or service";
            return Err(failure(StatusCode::BAD_REQUEST, error));
        }
        Ok(self.close(filter).await)
    }

    async fn close(&self, filter: TunnelFilter) -> Page {
        let own = gather(self.node.cores(), CHANGE_ANSWER, |core, reply| {
            self.node.close_tunnels(core, filter.clone(), reply);
        });
        let (answers, earlier) = tokio::join!(own, self.close_earlier(&filter, CHANGE_ANSWER));
        let silent = self.silent(&answers);
        let mut closed: usize = answers.0.into_iter().flatten().sum();
        if let Earlier::Says(count, _) = &earlier {
            closed += count;
        }
        tracing::info!(
            id = filter.id,
            device = filter.device.as_deref(),
            user = filter.user.as_deref(),
            app = filter.app.as_deref(),
            serial = filter.serial.as_deref(),
            service = filter.service.as_deref(),
            closed,
            "tunnels closed through the admin listener"
        );
        let mut page = json_page(StatusCode::OK, &json!({"closed": closed}));
        name_silent(page.headers_mut(), &silent);
        earlier.name_silent(page.headers_mut());
        page
    }

    async fn put(&self, name: &str, parts: &Parts, body: &mut Incoming) -> Result<Page, Page> {
        let body = body_of(JSON, parts, body, ADMIN_BODY_MAX).await?;
        let said = DeviceEntry::from_json(name, &body, |entry| {
            (DeviceChanges::one(name, entry), Device::new(name, entry))
        });
        let (changes, device) =
            said.map_err(|fault| failure(StatusCode::BAD_REQUEST, &fault.to_string()))?;
        self.apply(changes, false).await?;
        tracing::info!(
            device = device.device,
            state = device.state,
            "device set through the admin listener"
        );
        Ok(json_page(StatusCode::OK, &device))
    }

    async fn remove(&self, name: &str) -> Result<Page, Page> {
        if name.len() > MAX_IDENTITY_NAME_BYTES {
            return Err(change_failure(&ChangeError::Unknown));
        }
        let entry = DeviceEntry {
            state: DeviceState::Unmanaged,
            user: None,
        };
        self.apply(DeviceChanges::one(name, entry), true).await?;
        tracing::info!(device = name, "device removed through the admin listener");
        let state = DeviceState::Unmanaged.word();
        Ok(json_page(
            StatusCode::OK,
            &json!({"device": name, "state": state}),
        ))
    }

    /// Many devices: all of them or none.
    async fn import(&self, parts: &Parts, body: &mut Incoming) -> Result<Page, Page> {
        let types = ["application/x-ndjson", "text/csv"];
        let format = match type_of(parts, &types) {
            Some(0) => DeviceFormat::Ndjson,
            Some(_) => DeviceFormat::Csv,
            None => return Err(wrong_type(&types)),
        };
        if self.importing.replace(true) {
            let error = "another import runs; try again";
            return Err(failure(StatusCode::SERVICE_UNAVAILABLE, error));
        }
        let _importing = Importing(self);
        let (mut reader, mut is_right) = (DeviceReader::new(format), true);
        let mut body = std::pin::pin!(Limited::new(body, ADMIN_IMPORT_MAX));
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| body_failure(ADMIN_IMPORT_MAX))?;
            // What comes behind too many wrong lines is read away: a client that still sends would not read the answer.
            if let Some(bytes) = frame.data_ref()
                && is_right
            {
                is_right = reader.push(bytes);
            }
        }
        // Sorts millions of records: not on this thread, which answers probes.
        let finished = tokio::task::spawn_blocking(move || reader.finish()).await;
        let changes = match finished {
            Ok(Ok(changes)) => changes,
            Ok(Err(problems)) => {
                let problems: Vec<_> = problems
                    .iter()
                    .map(
                        |problem| json!({"line": problem.line, "error": problem.fault.to_string()}),
                    )
                    .collect();
                let error = format!("{} wrong lines, so nothing was changed", problems.len());
                return Err(json_page(
                    StatusCode::BAD_REQUEST,
                    &json!({"error": error, "lines": problems}),
                ));
            }
            Err(_) => {
                let error = "the import failed";
                return Err(failure(StatusCode::INTERNAL_SERVER_ERROR, error));
            }
        };
        let devices = changes.len();
        if devices > 0 {
            self.apply(changes, false).await?;
        }
        tracing::info!(devices, "devices set through the admin listener");
        Ok(json_page(StatusCode::OK, &json!({"devices": devices})))
    }

    /// Reads everything again.
    async fn reload(&self) -> Result<Page, Page> {
        let (sender, receiver) = oneshot::channel();
        let reply = Box::new(move |answer| drop(sender.send(answer)));
        self.node.reload(reply);
        match timeout(CHANGE_ANSWER, receiver).await {
            Ok(Ok(Ok(generation))) => {
                let body = json!({"generation": generation});
                Ok(json_page(StatusCode::OK, &body))
            }
            Ok(Ok(Err(refusal))) => Err(refusal.into()),
            Ok(Err(_)) => Err(change_failure(&ChangeError::Ended)),
            Err(_) => Err(failure(
                StatusCode::GATEWAY_TIMEOUT,
                "the files are not read yet, and may still become active",
            )),
        }
    }

    /// Does something with what the node stores, on a thread that may wait, behind everything else,
    /// and to its end, even if the request is given up.
    pub(super) async fn on_stored<T: Send + 'static, E: Into<Page> + Send + 'static>(
        &self,
        job: impl FnOnce(Arc<Reloader>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Page> {
        let Some(reloader) = self.node.reloader() else {
            let error = "this node stores nothing";
            return Err(failure(StatusCode::NOT_FOUND, error));
        };
        let done = in_background(move || job(reloader)).await;
        let done = done.map_err(|_| {
            let error = "it did not finish; the node's log has the reason";
            failure(StatusCode::INTERNAL_SERVER_ERROR, error)
        });
        done?.map_err(Into::into)
    }

    async fn apply(&self, changes: DeviceChanges, must_exist: bool) -> Result<(), Page> {
        let (sender, receiver) = oneshot::channel();
        let reply = Box::new(move |answer| drop(sender.send(answer)));
        self.node.change_devices(changes, must_exist, reply);
        match timeout(CHANGE_ANSWER, receiver).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(change_failure(&error)),
            Ok(Err(_)) => Err(change_failure(&ChangeError::Ended)),
            Err(_) => Err(failure(
                StatusCode::GATEWAY_TIMEOUT,
                "the change is not on the disk yet, and may still become active",
            )),
        }
    }
}

/// One import at a time, also where its request is given up.
struct Importing<'p>(&'p Pages);

impl Drop for Importing<'_> {
    fn drop(&mut self) {
        self.0.importing.set(false);
    }
}

/// Which of the media types the request has. That it must have one keeps forms of web pages out.
fn type_of(parts: &Parts, types: &[&str]) -> Option<usize> {
    let given = parts.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let given = given.split(';').next().unwrap_or_default().trim();
    types
        .iter()
        .position(|known| known.eq_ignore_ascii_case(given))
}

/// Reads a body of this media type, of `most` bytes at most.
pub(super) async fn body_of(
    media_type: &str,
    parts: &Parts,
    body: &mut Incoming,
    most: usize,
) -> Result<Bytes, Page> {
    let types = [media_type];
    type_of(parts, &types).ok_or_else(|| wrong_type(&types))?;
    let body = Limited::new(body, most).collect().await;
    let body = body.map_err(|_| body_failure(most))?;
    Ok(body.to_bytes())
}

/// Reads a body of JSON; `shape` says what is expected.
pub(super) async fn json_body<T: DeserializeOwned>(
    parts: &Parts,
    body: &mut Incoming,
    most: usize,
    shape: &str,
) -> Result<T, Page> {
    let bytes = body_of(JSON, parts, body, most).await?;
    // The parser's own words may repeat what is in the body.
    serde_json::from_slice(&bytes).map_err(|_| {
        let error = format!("the body is {shape}");
        failure(StatusCode::BAD_REQUEST, &error)
    })
}

fn wrong_type(types: &[&str]) -> Page {
    let error = format!("the Content-Type is {}", types.join(" or "));
    failure(StatusCode::UNSUPPORTED_MEDIA_TYPE, &error)
}

fn body_failure(limit: usize) -> Page {
    let error = format!("the body is incomplete, or is larger than {limit} bytes");
    failure(StatusCode::PAYLOAD_TOO_LARGE, &error)
}

impl From<Refusal> for Page {
    fn from(refusal: Refusal) -> Self {
        let error = "it is refused, and nothing has changed";
        let body = json!({"error": error, "problems": &*refusal.problems});
        json_page(StatusCode::UNPROCESSABLE_ENTITY, &body)
    }
}

fn change_failure(error: &ChangeError) -> Page {
    let status = match error {
        ChangeError::Unknown => StatusCode::NOT_FOUND,
        ChangeError::Full(_) => StatusCode::CONFLICT,
        ChangeError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
        ChangeError::Busy | ChangeError::Succeeded | ChangeError::Ended => {
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    failure(status, &error.to_string())
}
