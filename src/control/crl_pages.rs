//! CRLs on the admin listener: what is known of each, and the operator's way out where an authority
//! was made anew.

use std::time::SystemTime;

use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::pages::{Page, Pages, failure, json_page, written};
use crate::observe::CrlInfo;

impl Pages {
    /// All CRLs and places that should have one.
    pub(super) fn crls(&self) -> Page {
        json_page(StatusCode::OK, &described(&self.node.gauges().crls))
    }

    /// Those of one file or URL.
    pub(super) fn crls_of(&self, source: &str) -> Result<Page, Page> {
        let all = self.node.gauges().crls;
        let of: Vec<CrlInfo> = all
            .iter()
            .filter(|crl| crl.source == source)
            .cloned()
            .collect();
        match of.is_empty() {
            true => Err(unknown()),
            false => Ok(json_page(StatusCode::OK, &described(&of))),
        }
    }

    /// Lets whatever the source offers next take the place of what is in use.
    pub(super) async fn forget_crl(&self, source: String) -> Result<Page, Page> {
        let (node, named) = (self.node.clone(), source.clone());
        // Waits while an index is made, and for the disk: not on this thread, which answers probes.
        let forgotten = spawn_blocking(move || node.forget_crl(&named)).await;
        if !written(forgotten)? {
            return Err(unknown());
        }
        tracing::info!(
            source,
            "the CRL in use was forgotten through the admin listener"
        );
        Ok(json_page(StatusCode::OK, &json!({"forgotten": source})))
    }
}

fn unknown() -> Page {
    let error = "no CRL is configured there; /crls lists the files and URLs with their names";
    failure(StatusCode::NOT_FOUND, error)
}

/// As pages show them.
pub(super) fn described(crls: &[CrlInfo]) -> Value {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    crls.iter()
        .map(|crl| {
            let mut line = json!(crl);
            line["state"] = crl.state(now).into();
            line["age_seconds"] = crl.this_update.map(|made| now.saturating_sub(made)).into();
            line
        })
        .collect()
}
