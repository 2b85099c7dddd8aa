//! The parameters of a request's query.

use percent_encoding::percent_decode_str;

use crate::certs;
use crate::limits::{DEVICES_LISTED_MAX, TUNNELS_LISTED_MAX};
use crate::observe::{Stage, TunnelFilter};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HistogramFormat {
    Json,
    Hgrm,
    Buckets,
    Percentiles,
}

/// Fault of a parameter, or of a part of a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueryError {
    #[error("a name is not UTF-8 text in percent-encoding")]
    Encoding,
    #[error(
        "format is json, hgrm, buckets or percentiles, and pem, der or mobileconfig of a certificate"
    )]
    Format,
    #[error("{0:?} is neither true nor false")]
    Flag(String),
    #[error("a version is a whole number")]
    Version,
    #[error("stage is one of {}", Stage::ALL.map(Stage::word).join(", "))]
    Stage,
    #[error(
        "limit is a number, up to {TUNNELS_LISTED_MAX} for tunnels and {DEVICES_LISTED_MAX} for devices"
    )]
    Limit,
    #[error("{0} is given twice")]
    Twice(String),
    #[error(
        "the parameters are format, stage, limit, device, user, app, serial, service, prefix, after, version, expect, note, \
         dry_run, replace and root"
    )]
    Unknown,
}

/// The parameters; `None` and empty where they are not given. Each is given once at most.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    pub format: Option<HistogramFormat>,
    pub stage: Option<Stage>,
    pub limit: Option<usize>,
    /// Which tunnels.
    pub tunnels: TunnelFilter,
    /// How the names of devices begin.
    pub prefix: Option<String>,
    /// The name behind which devices are listed.
    pub after: Option<String>,
    /// Which version of a profile.
    pub version: Option<u64>,
    /// The version of a profile that is to be replaced.
    pub expect: Option<u64>,
    /// Note of a new version.
    pub note: Option<String>,
    /// True if to look only, and change nothing.
    pub dry_run: bool,
    /// True if a certificate may take the place of the one that has its name.
    pub replace: bool,
    /// True if only the root of a chain is wanted.
    pub root: bool,
    /// How a certificate is exported.
    pub export: Option<certs::ExportFormat>,
}

impl Query {
    pub fn parse(query: &str) -> Result<Self, QueryError> {
        let mut parsed = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value)?;
            let filter = &mut parsed.tunnels;
            let is_new = match name {
                "format" => match certs::ExportFormat::from_word(&value) {
                    Some(format) => put(&mut parsed.export, format),
                    None => put(&mut parsed.format, format(&value)?),
                },
                "stage" => put(&mut parsed.stage, stage(&value)?),
                "limit" => put(&mut parsed.limit, limit(&value)?),
                "device" => put(&mut filter.device, value),
                "user" => put(&mut filter.user, value),
                "app" => put(&mut filter.app, value),
                "serial" => put(&mut filter.serial, value.to_ascii_lowercase()),
                "service" => put(&mut filter.service, value),
                "prefix" => put(&mut parsed.prefix, value),
                "after" => put(&mut parsed.after, value),
                "version" => put(&mut parsed.version, version(&value)?),
                "expect" => put(&mut parsed.expect, version(&value)?),
                "note" => put(&mut parsed.note, value),
                "dry_run" => !std::mem::replace(&mut parsed.dry_run, yes(&value)?),
                "replace" => !std::mem::replace(&mut parsed.replace, yes(&value)?),
                "root" => !std::mem::replace(&mut parsed.root, yes(&value)?),
                _ => return Err(QueryError::Unknown),
            };
            if !is_new {
                return Err(QueryError::Twice(name.to_owned()));
            }
        }
        Ok(parsed)
    }
}

/// Returns whether there was nothing yet.
fn put<T>(place: &mut Option<T>, value: T) -> bool {
    place.replace(value).is_none()
}

/// A value or a part of a path, with its percent-encoding (RFC 3986, section 2.1) taken off.
pub(super) fn decoded(text: &str) -> Result<String, QueryError> {
    let decoded = percent_decode_str(text).decode_utf8();
    let decoded = decoded.map_err(|_| QueryError::Encoding)?;
    Ok(decoded.into_owned())
}

fn format(word: &str) -> Result<HistogramFormat, QueryError> {
    match word {
        "json" => Ok(HistogramFormat::Json),
        "hgrm" => Ok(HistogramFormat::Hgrm),
        "buckets" => Ok(HistogramFormat::Buckets),
        "percentiles" => Ok(HistogramFormat::Percentiles),
        _ => Err(QueryError::Format),
    }
}

fn yes(word: &str) -> Result<bool, QueryError> {
    word.parse().map_err(|_| QueryError::Flag(word.to_owned()))
}

fn version(number: &str) -> Result<u64, QueryError> {
    number.parse().map_err(|_| QueryError::Version)
}

fn stage(word: &str) -> Result<Stage, QueryError> {
    Stage::from_word(word).ok_or(QueryError::Stage)
}

fn limit(number: &str) -> Result<usize, QueryError> {
    let limit = number.parse().ok();
    let limit = limit.filter(|limit| *limit <= TUNNELS_LISTED_MAX);
    limit.ok_or(QueryError::Limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_takes_what_is_documented() {
        assert_eq!(Query::parse(""), Ok(Query::default()));
        assert_eq!(
            Query::parse("format=hgrm&stage=first-byte&limit=0"),
            Ok(Query {
                format: Some(HistogramFormat::Hgrm),
                stage: Some(Stage::FirstByte),
                limit: Some(0),
                ..Query::default()
            })
        );
        let named = Query::parse("device=urn%3Adevice%2f1&serial=0A&user=a%40b&app=m&service=w");
        assert_eq!(
            named.unwrap().tunnels,
            TunnelFilter {
                id: None,
                device: Some("urn:device/1".to_owned()),
                user: Some("a@b".to_owned()),
                app: Some("m".to_owned()),
                serial: Some("0a".to_owned()),
                service: Some("w".to_owned()),
            }
        );
        for wrong in [
            "format=xml",
            "format",
            "stage=",
            "stage=Handshake",
            "limit=-1",
            "limit=100001",
            "limit=x",
            "colour=red",
            "device=a&device=b",
            "device=%ff",
        ] {
            assert!(Query::parse(wrong).is_err(), "{wrong}");
        }
    }
}
