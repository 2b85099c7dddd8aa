//! The page for people: a few files that are part of the program, and what a browser may do with
//! them.
//!
//! The page asks for nothing that is not here, and its policy lets it ask nowhere else. Names in it
//! come from certificates and so from strangers: it writes them as text, and the policy takes from
//! it every way to write them as anything else.

use hyper::StatusCode;
use hyper::header::{self, HeaderName, HeaderValue};

use super::pages::{Page, page};

/// A file of the page.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asset {
    path: &'static str,
    media_type: &'static str,
    text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";

/// A module in this folder.
macro_rules! script {
    ($name:literal) => {
        Asset::new(
            concat!("/page/", $name),
            "text/javascript; charset=utf-8",
            include_str!($name),
        )
    };
}

const ASSETS: &[Asset] = &[
    Asset::new("/", HTML, include_str!("index.html")),
    Asset::new("/page/icon.svg", "image/svg+xml", include_str!("icon.svg")),
    Asset::new(
        "/page/style.css",
        "text/css; charset=utf-8",
        include_str!("style.css"),
    ),
    script!("api.js"),
    script!("certificates.js"),
    script!("change.js"),
    script!("devices.js"),
    script!("dom.js"),
    script!("editor.js"),
    script!("format.js"),
    script!("heat.js"),
    script!("latency.js"),
    script!("main.js"),
    script!("metrics.js"),
    script!("overview.js"),
    script!("percentiles.js"),
    script!("problems.js"),
    script!("profiles.js"),
    script!("scale.js"),
    script!("services.js"),
    script!("table.js"),
    script!("tunnels.js"),
];

/// Policy for the page in the browser (Content Security Policy level 3, and Trusted Types for
/// `require-trusted-types-for`): run, show and ask what comes from this listener, and nothing else.
/// No text becomes elements or a script.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     form-action 'none'; frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// Headers of every part of the page, beside those of all answers. With `no-referrer` a browser
/// would send `Origin: null` in places; the page's own requests are to name it.
const HEADERS: [(HeaderName, &str); 4] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::REFERRER_POLICY, "same-origin"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-embedder-policy"),
        "require-corp",
    ),
];

/// The file of the page at this path.
pub(super) fn asset(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

impl Asset {
    const fn new(path: &'static str, media_type: &'static str, text: &'static str) -> Self {
        Self {
            path,
            media_type,
            text,
        }
    }

    pub fn path(&self) -> &'static str {
        self.path
    }

    pub fn page(&self) -> Page {
        let mut page = page(StatusCode::OK, self.media_type, self.text);
        for (name, value) in HEADERS {
            let value = HeaderValue::from_static(value);
            page.headers_mut().insert(name, value);
        }
        page
    }
}
