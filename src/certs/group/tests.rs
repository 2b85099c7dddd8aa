//! Findings of group certificates: of each kind one that authorities have made.

use rcgen::{CustomExtension, GeneralSubtree, NameConstraints};

use super::*;
use crate::lab::made::{party, past};

/// The codes that are found, errors with a mark.
fn codes(group: &[CertificateDer<'_>]) -> Vec<String> {
    let findings = group_findings(group, OffsetDateTime::now_utc());
    let code = |finding: &Problem| match finding.severity {
        Severity::Error => format!("!{}", finding.code),
        Severity::Warning => finding.code.to_string(),
    };
    findings.iter().map(code).collect()
}

fn extension(oid: &[u64], critical: bool, content: &[u8]) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
    extension.set_criticality(critical);
    extension
}

#[test]
fn what_is_not_honoured_is_said() {
    let ca = party("ca");
    let with = |oid: &[u64], critical: bool, content: &[u8]| {
        codes(&[ca.by(&ca, |params| {
            params.custom_extensions = vec![extension(oid, critical, content)];
        })])
    };
    // PolicyConstraints { requireExplicitPolicy [0] 0 }
    assert_eq!(
        with(&[2, 5, 29, 36], true, &[0x30, 3, 0x80, 1, 0]),
        ["policies"]
    );
    assert_eq!(with(&[2, 5, 29, 54], true, &[2, 1, 0]), ["policies"]);
    assert_eq!(with(&[1, 2, 3, 4], true, &[5, 0]), ["!critical-extension"]);
    assert!(with(&[1, 2, 3, 4], false, &[5, 0]).is_empty());
    // SEQUENCE OF { anyPolicy }
    let any = [0x30, 8, 0x30, 6, 6, 4, 0x55, 0x1d, 0x20, 0];
    assert_eq!(with(&[2, 5, 29, 32], true, &any), ["policies"]);
    assert!(with(&[2, 5, 29, 32], false, &any).is_empty());
}

#[test]
fn name_constraints_of_kinds_that_are_not_compared_are_said() {
    let ca = party("ca");
    let found = |tree: GeneralSubtree, excluded: bool| {
        codes(&[ca.by(&ca, |params| {
            let (mut permitted_subtrees, mut excluded_subtrees) = (Vec::new(), Vec::new());
            match excluded {
                true => excluded_subtrees.push(tree),
                false => permitted_subtrees.push(tree),
            }
            params.name_constraints = Some(NameConstraints {
                permitted_subtrees,
                excluded_subtrees,
            });
        })])
    };
    for excluded in [false, true] {
        let directory = rcgen::DistinguishedName::new();
        let directory = GeneralSubtree::DirectoryName(directory);
        assert_eq!(found(directory, excluded), ["!name-constraints"]);
        let mail = GeneralSubtree::Rfc822Name("corp.test".into());
        assert_eq!(found(mail, excluded), ["name-constraints"]);
        let name = GeneralSubtree::DnsName("corp.test".into());
        assert!(found(name, excluded).is_empty());
    }
}

#[test]
fn one_that_has_expired_is_an_error_by_itself() {
    let (ca, old) = (party("ca"), party("old"));
    assert_eq!(codes(&[ca.root(), old.by(&old, past)]), ["!expired"]);
}

#[test]
fn names_are_sent_up_to_the_bound_and_each_once() {
    let root = party("root").root();
    let group = vec![root.clone(); 3];
    assert_eq!(acceptable_names(&group).unwrap().len(), 1);
    let (_, parsed) = X509Certificate::from_der(&root).unwrap();
    let each = parsed.subject().as_raw().len() + 2;
    let most = AUTHORITY_NAMES_BYTES_MAX / each;
    let many: Vec<CertificateDer<'static>> = (0..=most)
        .map(|number| {
            // The same certificate with another subject: no signature is checked here.
            let mut der = root.to_vec();
            let at = der.windows(4).rposition(|name| name == b"root").unwrap();
            der[at..at + 4].copy_from_slice(format!("{number:04}").as_bytes());
            der.into()
        })
        .collect();
    assert_eq!(acceptable_names(&many[..most]).unwrap().len(), most);
    assert_eq!(acceptable_names(&many), Err((most + 1) * each));
    assert!(together(&many[..most]).is_none());
    let finding = together(&many).unwrap();
    assert!(!crate::certs::refuses(&finding), "{finding}");
    assert!(
        finding.to_string().contains("a client with several"),
        "{finding}"
    );
}
