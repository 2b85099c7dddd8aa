//! From what was written about certificates and device authentication to what is valid.

use std::path::PathBuf;
use std::time::Duration;

use super::certificate_files::certificate_files;
use super::error::{Fault, Report, quoted};
use super::raw::{RawCrl, RawDeviceAuth, RawIdentity, RawServerCertificate};
use super::slot::{List, Slot, Value};
use super::types::{CrlFetch, DeviceAuth, Field, IdentityMapping, ServerCertificate, Stale};
use super::values::{Folder, duration, networks, without_repetition, word};
use crate::limits::{ADDITIONAL_CERTIFICATES_MAX, CRL_SOURCES_MAX};

pub(super) fn server_certificate(
    raw: RawServerCertificate,
    folder: &Folder,
    report: &mut Report,
) -> ServerCertificate {
    let secondary_is_absent = raw.secondary.written().is_none();
    if secondary_is_absent {
        let others = [&raw.secondary_key, &raw.secondary_password_file];
        for place in others.into_iter().filter_map(Slot::written) {
            let message = "belongs to a secondary certificate, and there is none";
            let remedy = "add secondary = \"next.pem\", or leave the key out";
            report.add(place, Fault::new(message, remedy));
        }
    }
    const REMEDY: &str = "name the file with the chain and the key, or leave the whole table out";
    let primary = raw.primary.required(report, REMEDY);
    let mut seen = Vec::new();
    let mut files = |file, others, report: &mut Report| {
        certificate_files(file, others, (folder, &mut seen), report)
    };
    let primary = files(primary, [raw.key, raw.password_file], report);
    let others = [raw.secondary_key, raw.secondary_password_file];
    let secondary = files(raw.secondary, others, report);
    if let Some(beyond) = raw.additional.get(ADDITIONAL_CERTIFICATES_MAX) {
        let message = format!("more than {ADDITIONAL_CERTIFICATES_MAX} additional certificates");
        let remedy =
            "have one issued for several names, or give services certificates of their own (sni)";
        report.add(&beyond.file.place, Fault::new(message, remedy));
    }
    let additional = raw.additional.into_iter().map(|raw| {
        let file = raw.file.required(report, "name the file with the chain");
        files(file, [raw.key, raw.password_file], report)
    });
    ServerCertificate {
        additional: additional.collect(),
        primary,
        secondary: (!secondary_is_absent).then_some(secondary),
    }
}

pub(super) fn device_auth(raw: RawDeviceAuth, folder: &Folder, report: &mut Report) -> DeviceAuth {
    const REMEDY: &str =
        "name the CA certificates that identity certificates chain to, as in [\"group-ca.pem\"]";
    let mut group_certificates = Vec::new();
    let list = raw
        .group_certificates
        .required(report, REMEDY)
        .parse(report, |list| {
            if list.is_empty() {
                Err(Fault::new(
                    "the list is empty: no device could prove who it is",
                    REMEDY,
                ))
            } else {
                Ok(list)
            }
        });
    for file in list.or(Vec::new()) {
        let file = file.parse(report, |named| folder.certificate(&named));
        group_certificates.push(file);
    }
    let (crl_enabled, crl_files, crl_fetch, stale) = crl(raw.crl, folder, report);
    DeviceAuth {
        group_certificates: without_repetition(group_certificates, report),
        group_password_file: raw
            .group_password_file
            .parse(report, |file| folder.readable(&file))
            .given(),
        unmanaged_allowed: raw
            .unmanaged
            .parse(report, |text| {
                word(&text, &[("block", false), ("allow", true)])
            })
            .or(false),
        device_registry: raw
            .device_registry
            .parse(report, |file| folder.path(file.as_str()))
            .given(),
        crl_enabled,
        crl_files,
        crl_fetch,
        stale,
        identity: identity(raw.identity, report),
    }
}

fn crl(raw: RawCrl, folder: &Folder, report: &mut Report) -> (bool, Vec<PathBuf>, CrlFetch, Stale) {
    let fetched = match &raw.urls.value {
        Value::Absent => false,
        Value::Refused => true,
        Value::Given(urls) => !urls.is_empty(),
    };
    let enabled_place = raw.enabled.place.clone();
    let enabled = raw.enabled.or(true);
    let none_named = match &raw.files.value {
        Value::Absent => true,
        Value::Refused => false,
        Value::Given(files) => files.is_empty(),
    };
    if enabled && none_named && !fetched {
        let message = "revocation is checked by default, but no CRL is named";
        let remedy = "name CRLs in files = [...] or urls = [...], or write enabled = false under [profile.device_auth.crl]";
        report.add(&enabled_place, Fault::new(message, remedy));
    }
    let files = folder.readable_all(raw.files.or(Vec::new()), report);
    let fetch = crl_fetch(raw.urls, raw.allowed_hosts, raw.allow, report);
    let grace = raw
        .grace
        .parse(report, |text| duration(&text))
        .or(Duration::from_secs(24 * 60 * 60));
    let known = [
        ("hard", Stale::Hard),
        ("grace", Stale::Grace(grace)),
        ("soft", Stale::Soft),
    ];
    let stale = raw
        .stale
        .parse(report, |text| word(&text, &known))
        .or(Stale::Hard);
    (enabled, files, fetch, stale)
}

fn crl_fetch(
    urls: Slot<List>,
    allowed_hosts: Slot<List>,
    allow: Slot<List>,
    report: &mut Report,
) -> CrlFetch {
    const FROM_CERTIFICATES: &str = "cdp";
    let urls_place = urls.place.clone();
    let urls = urls
        .or(Vec::new())
        .into_iter()
        .map(|url| {
            url.parse(report, |url| match url_host(&url) {
                Some(_) => Ok(url),
                None if url == FROM_CERTIFICATES => Ok(url),
                None => Err(Fault::new(
                    format!("{} is not a URL of a CRL", quoted(&url)),
                    "write one as in \"http://pki.example.com/group-ca.crl\", or \"cdp\" for those in the certificates",
                )),
            })
        })
        .collect();
    let mut urls = without_repetition(urls, report);
    let given = urls.len();
    urls.retain(|url| url != FROM_CERTIFICATES);
    let from_certificates = urls.len() < given;
    if urls.len() > CRL_SOURCES_MAX {
        let message = format!("{} URLs; the limit is {CRL_SOURCES_MAX}", urls.len());
        let remedy = "name those of the authorities that issue identity certificates";
        report.add(&urls_place, Fault::new(message, remedy));
    }
    let allowed = allowed_hosts.or(Vec::new()).into_iter().map(|host| {
        host.parse(report, |host| match url_host(&format!("http://{host}/")) {
            Some(name) if name.eq_ignore_ascii_case(&host) => Ok(name),
            _ => Err(Fault::new(
                format!("{} is not a host", quoted(&host)),
                "write a name or an address without port, as in \"pki.example.com\"",
            )),
        })
    });
    let allowed = allowed.collect();
    let mut hosts = without_repetition(allowed, report);
    hosts.extend(urls.iter().filter_map(|url| url_host(url)));
    if from_certificates && hosts.is_empty() {
        report.add(
            &urls_place,
            Fault::new(
                "\"cdp\" without a host that may be asked",
                "name the hosts of the distribution points in allowed_hosts = [...]",
            ),
        );
    }
    CrlFetch {
        urls,
        from_certificates,
        hosts,
        allow: networks(allow, report),
    }
}

/// The host of an http or https URL, in lower case and with the brackets of an IPv6 address.
/// `None`: it is no such URL, or has a user or a fragment.
pub fn url_host(url: &str) -> Option<String> {
    let uri: hyper::Uri = url.parse().ok()?;
    let authority = uri.authority()?;
    let plain = matches!(uri.scheme_str(), Some("http" | "https"))
        && !authority.as_str().contains('@')
        && !authority.host().is_empty()
        && !url.contains('#');
    plain.then(|| authority.host().to_ascii_lowercase())
}

fn identity(raw: RawIdentity, report: &mut Report) -> IdentityMapping {
    let device_place = raw.device.place.clone();
    if matches!(&raw.device.value, Value::Given(list) if list.is_empty()) {
        let message = "the list is empty: no device would have a name";
        report.add(
            &device_place,
            Fault::new(
                message,
                "write where the name is read, as in [\"san-uri\", \"cn\"]",
            ),
        );
    }
    let mut fields = |slot: Slot<List>, default: &[Field]| match slot.given() {
        None => default.to_vec(),
        Some(list) => {
            let list = list
                .into_iter()
                .map(|slot| slot.parse(report, |text| word(&text, &FIELDS)))
                .collect();
            without_repetition(list, report)
        }
    };
    IdentityMapping {
        device: fields(raw.device, &[Field::SanUri, Field::Cn]),
        user: fields(raw.user, &[Field::SanUpn, Field::SanEmail]),
        app: fields(raw.app, &[Field::Ou]),
    }
}

/// How the fields of an identity certificate are written.
pub(super) const FIELDS: [(&str, Field); 8] = [
    ("san-uri", Field::SanUri),
    ("san-dns", Field::SanDns),
    ("san-email", Field::SanEmail),
    ("san-upn", Field::SanUpn),
    ("cn", Field::Cn),
    ("ou", Field::Ou),
    ("uid", Field::Uid),
    ("serial", Field::Serial),
];
