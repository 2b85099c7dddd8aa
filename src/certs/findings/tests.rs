//! Findings, each from a file with the fault.

use time::macros::datetime;
use time::{Duration, OffsetDateTime};

use super::*;
use crate::certs::make::Usage;
use crate::certs::read_certificates_with;
use crate::certs::{IssueRequest, Issued, KeyType, Validity};
use crate::lab::{CertificateAuthority, MakeCa, issue, make_ca};

fn authority(name: &str, days: u32) -> CertificateAuthority {
    make_ca(&MakeCa {
        common_name: name.into(),
        days,
        key_type: KeyType::P256,
    })
    .unwrap()
}

fn server(ca: &CertificateAuthority, change: impl FnOnce(&mut IssueRequest)) -> Issued {
    let mut request = IssueRequest::new(Usage::Server, "gw.test", Validity::days(300).unwrap());
    request.dns = vec!["gw.test".into(), "*.wild.test".into()];
    change(&mut request);
    issue(ca, &request).unwrap()
}

fn openssl(folder: &Path, arguments: &str) {
    let output = std::process::Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .output()
        .expect("openssl is installed");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "openssl {arguments}: {told}");
}

/// The codes that are found on the certificate with its authority, errors with a mark.
fn codes(
    chain: &[CertificateDer<'_>],
    key: Option<&PrivateKeyDer<'_>>,
    host: Option<&str>,
    now: OffsetDateTime,
) -> Vec<String> {
    let findings = own_findings(Role::Server, chain, key, host, now);
    marked(&findings)
}

fn marked(findings: &[Problem]) -> Vec<String> {
    let codes = findings.iter().map(|finding| match finding.severity {
        Severity::Error => format!("!{}", finding.code),
        Severity::Warning => finding.code.to_string(),
    });
    codes.collect()
}

#[test]
fn a_right_one_has_no_findings_and_its_name_is_looked_at() {
    let now = OffsetDateTime::now_utc();
    let ca = authority("root", 900);
    let issued = server(&ca, |_| ());
    let chain = [issued.chain[0].clone(), ca.certificate().clone()];
    for (host, wanted) in [
        (None, &[][..]),
        (Some("gw.test"), &[]),
        (Some("GW.test"), &[]),
        (Some("a.wild.test"), &[]),
        (Some("a.b.wild.test"), &["name"]),
        (Some("192.0.2.1"), &["name"]),
        (Some("other.test"), &["name"]),
    ] {
        assert_eq!(
            codes(&chain, Some(&issued.key), host, now),
            wanted,
            "{host:?}"
        );
    }
    assert_eq!(codes(&chain, None, None, now), ["no-key"]);
    let other = server(&ca, |_| ());
    assert_eq!(
        codes(&chain, Some(&other.key), None, now),
        ["!key-mismatch"]
    );
}

#[test]
fn one_for_servers_is_for_clients_and_needs_no_name_and_no_chain() {
    let now = OffsetDateTime::now_utc();
    let ca = authority("root", 900);
    let request = IssueRequest::new(Usage::Client, "gateway", Validity::days(850).unwrap());
    let issued = issue(&ca, &request).unwrap();
    let codes = |role, chain: &[CertificateDer<'_>], key| {
        marked(&own_findings(role, chain, Some(key), Some("gw.test"), now))
    };
    let alone = &issued.chain[..1];
    assert_eq!(codes(Role::Client, alone, &issued.key), ["no-chain"]);
    let whole = [issued.chain[0].clone(), ca.certificate().clone()];
    let found = codes(Role::Client, &whole, &issued.key);
    assert!(found.is_empty(), "{found:?}");
    let found = codes(Role::Server, &whole, &issued.key);
    assert!(found.contains(&"!not-server".to_owned()), "{found:?}");
    let server = server(&ca, |_| ());
    let chain = [server.chain[0].clone(), ca.certificate().clone()];
    assert_eq!(codes(Role::Client, &chain, &server.key), ["!not-client"]);
}

#[test]
fn chains_that_lack_have_more_or_are_out_of_order() {
    let now = OffsetDateTime::now_utc();
    let (ca, stranger) = (authority("root", 900), authority("stranger", 900));
    let issued = server(&ca, |_| ());
    let (end, root) = (issued.chain[0].clone(), ca.certificate().clone());
    let key = Some(&issued.key);
    assert_eq!(
        codes(std::slice::from_ref(&end), key, None, now),
        ["!no-chain"]
    );
    assert_eq!(
        codes(&[root.clone(), end.clone()], key, None, now),
        ["order"]
    );
    let extra = [end.clone(), stranger.certificate().clone(), root];
    assert_eq!(codes(&extra, key, None, now), ["extra", "order"]);
    // Another authority of the same name has not signed it.
    let namesake = authority("root", 900).certificate().clone();
    assert_eq!(codes(&[end, namesake], key, None, now), ["!broken-chain"]);
}

#[test]
fn intermediates_are_followed_to_the_root_or_to_where_it_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let openssl = |arguments: &str| openssl(folder.path(), arguments);
    std::fs::write(
        folder.path().join("ca.ext"),
        "basicConstraints=critical,CA:TRUE",
    )
    .unwrap();
    let leaf = "extendedKeyUsage=serverAuth\nsubjectAltName=DNS:gw.test";
    std::fs::write(folder.path().join("leaf.ext"), leaf).unwrap();
    let request = "req -newkey ec -pkeyopt ec_paramgen_curve:P-521 -nodes";
    for root in ["root", "namesake"] {
        openssl(&format!(
            "{request} -x509 -sha512 -keyout {root}.key -out {root}.pem -subj /CN=root -days 300"
        ));
    }
    openssl(&format!(
        "{request} -keyout sub.key -out sub.csr -subj /CN=sub"
    ));
    openssl(
        "x509 -req -in sub.csr -CA root.pem -CAkey root.key -extfile ca.ext -days 300 -out sub.pem",
    );
    openssl(&format!(
        "{request} -keyout leaf.key -out leaf.csr -subj /CN=gw.test"
    ));
    openssl(
        "x509 -req -in leaf.csr -CA sub.pem -CAkey sub.key -extfile leaf.ext -days 300 -out leaf.pem",
    );
    let read = |name: &str| {
        read_certificates_with(&folder.path().join(name), None)
            .unwrap()
            .remove(0)
    };
    let key = crate::certs::read_private_key(&folder.path().join("leaf.key")).unwrap();
    // The certificates begin when OpenSSL makes them.
    let now = OffsetDateTime::now_utc();
    let found = |names: &[&str]| {
        let chain: Vec<_> = names.iter().map(|name| read(name)).collect();
        codes(&chain, Some(&key), Some("gw.test"), now)
    };
    assert!(found(&["leaf.pem", "sub.pem", "root.pem"]).is_empty());
    assert_eq!(found(&["leaf.pem", "sub.pem"]), ["no-root"]);
    assert_eq!(
        found(&["leaf.pem", "sub.pem", "namesake.pem"]),
        ["issuer-mismatch"]
    );
    assert_eq!(found(&["leaf.pem", "root.pem"]), ["extra", "!no-chain"]);
    let group = |names: &[&str]| {
        let all: Vec<_> = names.iter().map(|name| read(name)).collect();
        marked(&group_findings(&all, now))
    };
    assert!(group(&["root.pem", "sub.pem"]).is_empty());
    assert_eq!(group(&["sub.pem"]), ["no-root"]);
    assert_eq!(group(&["sub.pem", "namesake.pem"]), ["issuer-mismatch"]);
    assert_eq!(group(&["root.pem", "sub.pem", "leaf.pem"]), ["!not-ca"]);
}

#[test]
fn dates_and_purposes() {
    let now = OffsetDateTime::now_utc();
    let ca = authority("root", 900);
    let from = |ca: &CertificateAuthority, change: fn(&mut IssueRequest), days: i64| {
        let issued = server(ca, change);
        let chain = [issued.chain[0].clone(), ca.certificate().clone()];
        codes(
            &chain,
            Some(&issued.key),
            Some("gw.test"),
            now + Duration::days(days),
        )
    };
    let same: fn(&mut IssueRequest) = |_| ();
    assert_eq!(from(&ca, same, 300 - 61), [""; 0]);
    assert_eq!(from(&ca, same, 300 - 59), ["expires-soon"]);
    assert_eq!(from(&ca, same, 300 - 29), ["expires-urgent"]);
    assert_eq!(from(&ca, same, 301), ["!expired"]);
    assert_eq!(from(&ca, same, -2), ["not-yet-valid", "not-yet-valid"]);
    // An authority that expires takes the chain with it.
    let short = authority("root", 310);
    assert_eq!(from(&short, same, 311), ["!expired", "!expired"]);
    let client: fn(&mut IssueRequest) = |request| request.usages = vec![Usage::Client];
    assert_eq!(from(&ca, client, 0), ["!not-server", "apple-usage"]);
    let any: fn(&mut IssueRequest) = |request| request.usages = Vec::new();
    assert_eq!(from(&ca, any, 0), ["apple-usage"]);
}

#[test]
fn apples_requirements_depend_on_when_it_was_issued() {
    let ca = authority("root", 36500);
    let valid = |begin: OffsetDateTime, days: i64| {
        let issued = server(&ca, |request| {
            request.validity = Validity::between(begin, begin + Duration::days(days)).unwrap();
        });
        let certificates = parsed(&issued.chain);
        let mut findings = Findings::default();
        apple::check(&certificates[0], &mut findings);
        marked(&findings.0)
    };
    let new = datetime!(2025-01-01 0:00 UTC);
    assert_eq!(valid(new, 398), [""; 0]);
    assert_eq!(valid(new, 399), ["apple-public-validity"]);
    assert_eq!(valid(new, 826), ["apple-validity"]);
    let between = datetime!(2020-01-01 0:00 UTC);
    assert_eq!(valid(between, 399), [""; 0]);
    assert_eq!(valid(between, 826), ["apple-validity"]);
    assert_eq!(valid(datetime!(2019-06-01 0:00 UTC), 2000), [""; 0]);
    let nameless = server(&ca, |request| {
        request.dns = Vec::new();
        request.ip = vec!["192.0.2.1".parse().unwrap()];
    });
    let mut findings = Findings::default();
    apple::check(&parsed(&nameless.chain)[0], &mut findings);
    assert_eq!(marked(&findings.0), ["apple-name"]);
}

#[test]
fn a_self_signed_one_and_what_is_too_weak_are_warned_about() {
    let folder = tempfile::tempdir().unwrap();
    let found = |digest: &str, bits: u32| {
        openssl(
            folder.path(),
            &format!(
                "req -x509 -{digest} -newkey rsa:{bits} -nodes -keyout a.key -out a.pem -subj /CN=gw.test -days 300 \
                 -addext subjectAltName=DNS:gw.test -addext extendedKeyUsage=serverAuth"
            ),
        );
        let chain = read_certificates_with(&folder.path().join("a.pem"), None).unwrap();
        codes(&chain, None, Some("gw.test"), OffsetDateTime::now_utc())
    };
    assert_eq!(found("sha256", 2048), ["no-key", "self-signed"]);
    let weak = found("sha1", 2048);
    assert_eq!(weak, ["no-key", "self-signed", "apple-signature"]);
    assert!(found("sha256", 1024).contains(&"apple-key".to_owned()));
}

#[test]
fn a_signature_that_is_not_checked_is_said_to_be_that() {
    let folder = tempfile::tempdir().unwrap();
    let request = "req -newkey rsa:2048 -nodes";
    openssl(
        folder.path(),
        &format!("{request} -x509 -keyout ca.key -out ca.pem -subj /CN=old -days 300"),
    );
    openssl(
        folder.path(),
        &format!("{request} -keyout a.key -out a.csr -subj /CN=gw.test"),
    );
    openssl(
        folder.path(),
        "x509 -req -sha1 -in a.csr -CA ca.pem -CAkey ca.key -days 300 -out a.pem",
    );
    let read = |name: &str| read_certificates_with(&folder.path().join(name), None).unwrap();
    let chain = [read("a.pem"), read("ca.pem")].concat();
    let found = codes(&chain, None, None, OffsetDateTime::now_utc());
    assert!(found.contains(&"unverified".to_owned()), "{found:?}");
    assert!(!found.iter().any(|code| code.starts_with('!')), "{found:?}");
}
