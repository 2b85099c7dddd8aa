//! Lists made octet by octet and signed by the test's own authority: what is taken, and what is refused with which words.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::CertificateDer;

use super::super::fields::issuer_and_serial;
use super::*;
use crate::table::{Status, Subject};

mod crl_set;

/// SEQUENCE of the object identifier ecdsa-with-SHA256 (RFC 5758, section 3.2).
const ECDSA_SHA256: [u8; 12] = [0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const NOW: u64 = 1_700_000_000;
const THIS_UPDATE: &str = "231114000000Z";
const NEXT_UPDATE: &str = "20231121000000Z";

const CRL_NUMBER: u8 = 20;
const REASON: u8 = 21;
const DELTA: u8 = 27;
const POINT: u8 = 28;
const ISSUER: u8 = 29;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let octets = (content.len() as u32).to_be_bytes();
    let zeros = octets.iter().take_while(|octet| **octet == 0).count();
    let mut bytes = vec![tag];
    if content.len() >= 0x80 {
        bytes.push(0x80 + 4 - zeros as u8);
    }
    bytes.extend_from_slice(&octets[zeros.min(3)..]);
    bytes.extend_from_slice(content);
    bytes
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    der(0x30, &parts.concat())
}

fn extension(oid: u8, critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[1, 1, 0xff] } else { &[] };
    sequence(&[&[6, 3, 0x55, 0x1d, oid], critical, &der(4, value)])
}

fn entry(serial: &[u8], extensions: &[u8]) -> Vec<u8> {
    let extensions = match extensions {
        [] => Vec::new(),
        some => der(0x30, some),
    };
    let date = der(0x17, THIS_UPDATE.as_bytes());
    sequence(&[&der(2, serial), &date, &extensions])
}

fn removed(serial: &[u8]) -> Vec<u8> {
    entry(serial, &extension(REASON, false, &[10, 1, 8]))
}

struct Authority {
    certificate: CertificateDer<'static>,
    key: EcdsaKeyPair,
    name: Vec<u8>,
}

impl Authority {
    fn new(name: &str, usages: &[KeyUsagePurpose]) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = usages.to_vec();
        let key = KeyPair::generate().unwrap();
        let certificate: CertificateDer<'_> = params.self_signed(&key).unwrap().into();
        Authority {
            name: issuer_and_serial(&certificate).unwrap().0.to_vec(),
            key: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &key.serialize_der())
                .unwrap(),
            certificate,
        }
    }

    fn key(&self) -> &[u8] {
        public_key(&self.certificate).unwrap()
    }

    fn ordinary() -> Self {
        Self::new("group", &[KeyUsagePurpose::CrlSign])
    }

    fn sign(&self, tbs: &[u8]) -> Vec<u8> {
        let signature = self.key.sign(&SystemRandom::new(), tbs).unwrap();
        let bits = [&[0], signature.as_ref()].concat();
        sequence(&[tbs, &ECDSA_SHA256, &der(3, &bits)])
    }
}

#[derive(Clone, Default)]
struct List {
    entries: Vec<u8>,
    extensions: Vec<u8>,
    /// Instead of the usual ones: thisUpdate, and nextUpdate or none.
    dates: Option<(&'static str, Option<&'static str>)>,
}

impl List {
    fn dated(mut self, from: &'static str, to: Option<&'static str>) -> Self {
        self.dates = Some((from, to));
        self
    }

    fn number(mut self, number: u8) -> Self {
        self.extensions
            .extend(extension(CRL_NUMBER, false, &[2, 1, number]));
        self
    }

    fn delta(mut self, base: u8) -> Self {
        self.extensions
            .extend(extension(DELTA, true, &[2, 1, base]));
        self
    }

    fn extension(mut self, oid: u8, critical: bool, value: &[u8]) -> Self {
        self.extensions.extend(extension(oid, critical, value));
        self
    }

    fn entries(mut self, serials: &[&[u8]]) -> Self {
        for serial in serials {
            self.entries.extend(entry(serial, &[]));
        }
        self
    }

    fn entry(mut self, entry: &[u8]) -> Self {
        self.entries.extend_from_slice(entry);
        self
    }

    fn tbs(&self, ca: &Authority) -> Vec<u8> {
        let entries = match &self.entries[..] {
            [] => Vec::new(),
            some => der(0x30, some),
        };
        let extensions = match &self.extensions[..] {
            [] => Vec::new(),
            some => der(0xa0, &der(0x30, some)),
        };
        let (from, to) = self.dates.unwrap_or((THIS_UPDATE, Some(NEXT_UPDATE)));
        sequence(&[
            &[2, 1, 1],
            &ECDSA_SHA256,
            &ca.name,
            &der(0x17, from.as_bytes()),
            &to.map(|to| der(0x18, to.as_bytes())).unwrap_or_default(),
            &entries,
            &extensions,
        ])
    }

    fn signed(&self, ca: &Authority) -> Vec<u8> {
        ca.sign(&self.tbs(ca))
    }
}

fn source(name: &str) -> CrlSource {
    CrlSource::File(PathBuf::from(name))
}

fn check_one(ca: &Authority, der: &[u8]) -> Result<Vec<CheckedCrl>, CrlErrors> {
    let group = [ca.certificate.clone()];
    check_crls(&source("group.crl"), &[der], &group, now())
}

fn crl_set(ca: &Authority, lists: &[&List]) -> CrlSet {
    let mut crl_set = CrlSet::default();
    for (at, list) in lists.iter().enumerate() {
        let checked = check_one(ca, &list.signed(ca)).unwrap();
        assert_eq!(
            crl_set.admit(source(&at.to_string()), checked, NOW),
            Admission::Taken
        );
    }
    crl_set
}

fn index_of(ca: &Authority, crl_set: &CrlSet) -> RevocationIndex {
    crl_set
        .index(&Standing::of(std::slice::from_ref(&ca.certificate)))
        .index
}

fn status(ca: &Authority, lists: &[&List], serial: &[u8]) -> Status {
    index_of(ca, &crl_set(ca, lists)).status(&ca.name, ca.key(), serial, NOW)
}

fn refused(ca: &Authority, der: &[u8]) -> String {
    let text = check_one(ca, der).unwrap_err().to_string();
    assert!(
        text.contains("group.crl") && text.contains("remedy: "),
        "{text}"
    );
    text
}

#[test]
fn a_full_list_answers_for_short_long_negative_and_repeated_serials() {
    let ca = Authority::ordinary();
    let long = [0x7f; 20];
    let list = List::default()
        .number(1)
        .entries(&[&[5], &long, &[0x80], &[5], &[0, 0xff], &[0]]);
    for revoked in [&[5][..], &long, &[0x80], &[0, 0xff], &[0]] {
        assert_eq!(
            status(&ca, &[&list], revoked),
            Status::Revoked,
            "{revoked:?}"
        );
    }
    // 128 and -1 are not -128 and 255.
    for good in [&[6][..], &[0x7f; 19], &[0, 0x80], &[0xff]] {
        assert_eq!(status(&ca, &[&list], good), Status::Good, "{good:?}");
    }
    let reports = crl_set(&ca, &[&list]).reports();
    assert_eq!(reports[0].entries, 6);
    assert_eq!(reports[0].next_update, Some(1_700_524_800));
    assert_eq!(reports[0].this_update, 1_699_920_000);
    assert_eq!(reports[0].number.as_ref().unwrap().to_string(), "1");
}

#[test]
fn no_entries_in_either_spelling_is_a_list() {
    let ca = Authority::ordinary();
    let absent = List::default();
    assert_eq!(status(&ca, &[&absent], &[5]), Status::Good);
    let present = absent.tbs(&ca);
    let date = der(0x18, NEXT_UPDATE.as_bytes());
    let content = &present[2 + usize::from(present[1] > 0x80)..];
    let empty = sequence(&[content, &[0x30, 0]]);
    assert!(content.ends_with(&date));
    assert_eq!(
        check_one(&ca, &ca.sign(&empty)).unwrap()[0].report.entries,
        0
    );
}

#[test]
fn what_is_not_understood_is_refused_with_its_name() {
    let ca = Authority::ordinary();
    let list = List::default().number(1);
    let refused_list = |list: List| refused(&ca, &list.signed(&ca));
    assert!(refused_list(list.clone().extension(99, true, &[5, 0])).contains("2.5.29.99"));
    assert!(
        check_one(&ca, &list.clone().extension(99, false, &[5, 0]).signed(&ca)).is_ok(),
        "not critical"
    );
    assert!(refused_list(list.clone().number(2)).contains("2.5.29.20 twice"));
    let critical = entry(&[5], &extension(99, true, &[5, 0]));
    assert!(refused_list(list.clone().entry(&critical)).contains("entry with the critical"));
    let foreign = entry(&[5], &extension(ISSUER, true, &[0x30, 0]));
    assert!(refused_list(list.clone().entry(&foreign)).contains("indirect"));
    for (flags, words) in [
        (&[0x84, 1, 0xff][..], "indirect"),
        (&[0x85, 1, 0xff], "attribute"),
        (&[0x81, 1, 0xff, 0x82, 1, 0xff], "so no certificate"),
        (&[0xa0, 2, 0xa1, 0], "relative"),
        (&[0xa0, 2, 0xa0, 0], "broken"),
        (&[0x86, 1, 0xff], "broken"),
    ] {
        let point = list.clone().extension(POINT, true, &der(0x30, flags));
        assert!(refused_list(point).contains(words), "{words}");
    }
}

#[test]
fn version_1_is_refused_with_what_to_do() {
    let ca = Authority::ordinary();
    let tbs = List::default().tbs(&ca);
    let header = if tbs[1] > 0x80 { 3 } else { 2 };
    let without_version = der(0x30, &tbs[header + 3..]);
    let text = refused(&ca, &ca.sign(&without_version));
    assert!(
        text.contains("version 1") && text.contains("crl_extensions"),
        "{text}"
    );
}

#[test]
fn only_an_authority_that_may_sign_lists_is_heard() {
    let (ca, other) = (Authority::ordinary(), Authority::ordinary());
    let list = List::default().number(1);
    assert!(refused(&ca, &list.signed(&other)).contains("is not signed by"));
    let mute = Authority::new("group", &[KeyUsagePurpose::KeyCertSign]);
    assert!(refused(&mute, &list.signed(&mute)).contains("cRLSign"));
    let any = Authority::new("group", &[]);
    assert!(check_one(&any, &list.signed(&any)).is_ok(), "no key usage");
    let stranger = Authority::new("stranger", &[]);
    assert!(refused(&ca, &list.signed(&stranger)).contains("not a group certificate"));
    // Of two with one name, the one that signed counts.
    let group = [other.certificate.clone(), ca.certificate.clone()];
    assert!(check_crls(&source("group.crl"), &[list.signed(&ca)], &group, now()).is_ok());
}

#[test]
fn a_list_cut_or_changed_anywhere_is_refused() {
    let ca = Authority::ordinary();
    let good = List::default().number(1).entries(&[&[5], &[6]]).signed(&ca);
    for length in 0..good.len() {
        refused(&ca, &good[..length]);
    }
    refused(&ca, &[&good[..], b"x"].concat());
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(check_one(&ca, &bad).is_err(), "octet {at}");
    }
}

#[test]
fn a_delta_adds_and_takes_out_on_top_of_its_base_only() {
    let ca = Authority::ordinary();
    let base = List::default().number(5).entries(&[&[1], &[2]]);
    let delta = List::default()
        .number(7)
        .delta(5)
        .entries(&[&[3]])
        .entry(&removed(&[1]));
    let both = [&base, &delta];
    assert_eq!(status(&ca, &both, &[1]), Status::Good);
    assert_eq!(status(&ca, &both, &[2]), Status::Revoked);
    assert_eq!(status(&ca, &both, &[3]), Status::Revoked);
    assert_eq!(
        status(&ca, &[&delta, &base], &[1]),
        Status::Good,
        "any order"
    );

    // Without its base it revokes, and proves nothing.
    assert_eq!(status(&ca, &[&delta], &[3]), Status::Revoked);
    assert_eq!(status(&ca, &[&delta], &[9]), Status::Unknown);
    let too_old = List::default().number(4).entries(&[&[1]]);
    assert_eq!(status(&ca, &[&too_old, &delta], &[1]), Status::Revoked);
    assert_eq!(status(&ca, &[&too_old, &delta], &[3]), Status::Revoked);

    // A full list that is newer than the delta has it all.
    let newer = List::default().number(8).entries(&[&[1]]);
    assert_eq!(status(&ca, &[&newer, &delta], &[1]), Status::Revoked);
    assert_eq!(status(&ca, &[&newer, &delta], &[3]), Status::Good);

    // Without a number of its own it cannot be put on top of a list, but what it names is revoked.
    let unnumbered = List::default()
        .delta(5)
        .entries(&[&[3]])
        .entry(&removed(&[1]));
    assert_eq!(status(&ca, &[&base, &unnumbered], &[3]), Status::Revoked);
    assert_eq!(status(&ca, &[&base, &unnumbered], &[1]), Status::Revoked);

    // In a full list the reason means nothing.
    let odd = List::default().number(1).entry(&removed(&[1]));
    assert_eq!(status(&ca, &[&odd], &[1]), Status::Revoked);
}

struct Leaf(Vec<u8>);

impl Subject for Leaf {
    fn is_authority(&self) -> bool {
        false
    }
    fn names_point(&self, point: &[u8]) -> bool {
        point == self.0
    }
}

fn uri(text: &str) -> Vec<u8> {
    der(0x86, text.as_bytes())
}

fn partition(text: &str, serial: u8) -> List {
    let point = der(0xa0, &der(0xa0, &uri(text)));
    List::default()
        .number(1)
        .extension(POINT, true, &der(0x30, &point))
        .entries(&[&[serial]])
}

#[test]
fn partitions_add_up_and_each_speaks_for_its_own() {
    let ca = Authority::ordinary();
    let (one, two) = (partition("http://a/1", 1), partition("http://a/2", 2));
    let index = index_of(&ca, &crl_set(&ca, &[&one, &two]));
    let ask =
        |serial: u8, point| index.status_of(&ca.name, ca.key(), &[serial], NOW, &Leaf(uri(point)));
    assert_eq!(ask(1, "http://a/1"), Status::Revoked);
    assert_eq!(ask(2, "http://a/1"), Status::Revoked);
    assert_eq!(ask(3, "http://a/2"), Status::Good);
    assert_eq!(ask(3, "http://a/3"), Status::Unknown);
    let some_reasons = List::default().extension(POINT, true, &der(0x30, &[0x83, 2, 6, 0x40]));
    assert_eq!(status(&ca, &[&some_reasons], &[3]), Status::Unknown);
}

#[test]
fn a_certificate_tells_its_kind_and_its_points() {
    let ca = Authority::ordinary();
    assert!(CertificateSubject(&ca.certificate).is_authority());
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.crl_distribution_points = vec![rcgen::CrlDistributionPoint {
        uris: vec!["http://a/1".into(), "ldap://a/2".into()],
    }];
    let leaf: CertificateDer<'_> = params
        .self_signed(&KeyPair::generate().unwrap())
        .unwrap()
        .into();
    let subject = CertificateSubject(&leaf);
    assert!(!subject.is_authority());
    assert!(subject.names_point(&uri("http://a/1")) && !subject.names_point(&uri("http://a/")));
    assert_eq!(crl_urls(&leaf).collect::<Vec<_>>(), ["http://a/1"]);
    assert_eq!(crl_urls(&ca.certificate).count(), 0);
}

#[test]
fn an_older_list_never_replaces_a_newer_one() {
    let ca = Authority::ordinary();
    let check = |list: &List| check_one(&ca, &list.signed(&ca)).unwrap();
    let (old, new) = (
        List::default().number(1),
        List::default().number(2).entries(&[&[5]]),
    );
    let mut crl_set = CrlSet::default();
    let same = check(&new);
    assert_eq!(
        crl_set.admit(source("a"), same.clone(), NOW),
        Admission::Taken
    );
    assert_eq!(crl_set.admit(source("a"), same, NOW), Admission::Unchanged);
    // Two lists of one number: the later word counts.
    assert_eq!(
        crl_set.admit(source("a"), check(&new), NOW),
        Admission::Taken
    );
    for worse in [&old, &List::default()] {
        let Admission::Refused { problem: text, .. } =
            crl_set.admit(source("a"), check(worse), NOW)
        else {
            panic!("an older list was taken");
        };
        assert!(text.contains("number 2"), "{text}");
        assert_eq!(
            index_of(&ca, &crl_set).status(&ca.name, ca.key(), &[5], NOW),
            Status::Revoked
        );
    }
    // Nor does it when another source has it.
    assert_eq!(
        crl_set.admit(source("b"), check(&old), NOW),
        Admission::Taken
    );
    assert_eq!(
        index_of(&ca, &crl_set).status(&ca.name, ca.key(), &[5], NOW),
        Status::Revoked
    );
    let newest = List::default().number(3);
    assert_eq!(
        crl_set.admit(source("b"), check(&newest), NOW),
        Admission::Taken
    );
    assert_eq!(
        index_of(&ca, &crl_set).status(&ca.name, ca.key(), &[5], NOW),
        Status::Good
    );
}

#[test]
fn several_lists_in_one_pem_file_are_all_read() {
    let (ca, other) = (Authority::ordinary(), Authority::new("other", &[]));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("both.crl");
    let block = |list: &[u8]| crate::certs::pem::pem_block("X509 CRL", list);
    let lists = [
        List::default().entries(&[&[1]]).signed(&ca),
        List::default().entries(&[&[2]]).signed(&other),
    ];
    std::fs::write(&file, block(&lists[0]) + &block(&lists[1])).unwrap();
    let group = [ca.certificate.clone(), other.certificate.clone()];
    let (index, reports) = load_crls(std::slice::from_ref(&file), &group, now()).unwrap();
    assert_eq!((reports.len(), index.issuers()), (2, 2));
    assert_eq!(index.status(&ca.name, ca.key(), &[1], NOW), Status::Revoked);
    assert_eq!(index.status(&ca.name, ca.key(), &[2], NOW), Status::Good);
    // One that is bad makes the file bad.
    let text = load_crls(&[file], &group[..1], now())
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("both.crl") && text.contains("not a group certificate"),
        "{text}"
    );
}

/// 200 MB: `cargo test --release slow_ -- --ignored`.
#[test]
#[ignore = "takes a gigabyte of memory"]
fn slow_a_list_of_five_million_entries_is_read_in_seconds() {
    large(5_000_000);
}

#[test]
fn a_list_of_a_hundred_thousand_entries_is_read() {
    large(100_000);
}

fn large(count: u32) {
    let ca = Authority::ordinary();
    let mut list = List::default().number(1);
    for number in 0..count {
        let mut serial = [0x11; 16];
        serial[8..12].copy_from_slice(&number.wrapping_mul(0x9e37_79b1).to_be_bytes());
        list.entries.extend(entry(&serial, &[]));
    }
    let der = list.signed(&ca);
    let started = std::time::Instant::now();
    let checked = check_one(&ca, &der).unwrap();
    println!("{} bytes: {:?}", der.len(), started.elapsed());
    assert_eq!(checked[0].list.serials.len(), count as usize);
}

#[test]
fn points_of_certificates_are_noted_once_and_up_to_a_bound() {
    let leaf = |urls: Vec<String>| -> CertificateDer<'static> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.crl_distribution_points = vec![rcgen::CrlDistributionPoint { uris: urls }];
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().into()
    };
    let seen = PointsSeen::default();
    assert!(seen.all().is_empty());
    let one = leaf(vec!["http://a/1".into()]);
    seen.note(&one);
    seen.note(&one);
    assert_eq!(seen.all(), ["http://a/1"]);
    seen.note(&one);
    assert_eq!(seen.all(), ["http://a/1"]);
    for turn in 0..20 {
        let many = leaf((0..60).map(|at| format!("http://a/{turn}-{at}")).collect());
        seen.note(&many);
        seen.all();
    }
    assert_eq!(seen.all().len(), crate::limits::CRL_SOURCES_MAX);
}
