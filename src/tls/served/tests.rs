//! Which certificate is shown, with a clock of one's own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use time::OffsetDateTime;

use super::*;
use crate::certs::make::Usage;
use crate::certs::{IssueRequest, KeyType, Validity};
use crate::lab::{self, CertificateAuthority, MakeCa};

#[derive(Debug)]
struct Clock(AtomicU64);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = self.0.load(Ordering::Relaxed);
        Some(UnixTime::since_unix_epoch(Duration::from_secs(now)))
    }
}

fn ca() -> CertificateAuthority {
    let request = MakeCa {
        common_name: "root".into(),
        days: 10,
        key_type: KeyType::P256,
    };
    lab::make_ca(&request).unwrap()
}

fn now() -> u64 {
    u64::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap()
}

/// A certificate for `names` from an hour before `from` to `to`.
fn identity(ca: &CertificateAuthority, names: &[&str], key: KeyType, to: u64) -> Identity {
    between(ca, names, key, (now() - 3600, to))
}

fn between(
    ca: &CertificateAuthority,
    names: &[&str],
    key: KeyType,
    (from, to): (u64, u64),
) -> Identity {
    let moment =
        |seconds| OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).unwrap()).unwrap();
    let validity = Validity::between(moment(from), moment(to)).unwrap();
    let mut request = IssueRequest::new(Usage::Server, "gateway", validity);
    request.dns = names.iter().map(|name| (*name).to_owned()).collect();
    request.key_type = key;
    let issued = lab::issue(ca, &request).unwrap();
    (issued.chain, issued.key)
}

fn served(line: Vec<Identity>, additional: Vec<Identity>) -> (ServerCertificates, Served) {
    let provider = aws_lc_rs::default_provider();
    let entries = |list: &[Identity]| -> Vec<Candidate> {
        let list = list.iter();
        list.map(|one| Candidate::new(one, &provider).unwrap())
            .collect()
    };
    let served = Served {
        line: entries(&line),
        additional: entries(&additional),
        clock: Arc::new(Clock(AtomicU64::new(0))),
    };
    (ServerCertificates { line, additional }, served)
}

const ECDSA: &[SignatureScheme] = &[
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::RSA_PSS_SHA256,
];
const RSA_ONLY: &[SignatureScheme] = &[
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PKCS1_SHA256,
];
const ED25519_ONLY: &[SignatureScheme] = &[SignatureScheme::ED25519];

/// The place among all that were given, the line first.
fn place(served: &Served, now: u64, name: Option<&str>, schemes: &[SignatureScheme]) -> usize {
    let chosen = served.choose(now, name, schemes);
    let mut all = served.line.iter().chain(&served.additional);
    all.position(|entry| std::ptr::eq(entry, chosen)).unwrap()
}

#[test]
fn the_key_type_is_one_that_the_client_can_verify() {
    let (ca, end) = (ca(), now() + 1000);
    let name = &["tunnel.test"][..];
    let ecdsa = || identity(&ca, name, KeyType::P256, end);
    let rsa = || identity(&ca, name, KeyType::Rsa2048, end);
    let choose = |served: &Served, schemes| place(served, now(), Some("tunnel.test"), schemes);
    let (_, first) = served(vec![ecdsa()], vec![rsa()]);
    assert_eq!((choose(&first, ECDSA), choose(&first, RSA_ONLY)), (0, 1));
    let (_, last) = served(vec![rsa()], vec![ecdsa()]);
    assert_eq!((choose(&last, ECDSA), choose(&last, RSA_ONLY)), (1, 0));
    assert_eq!(
        choose(&last, ED25519_ONLY),
        1,
        "none fits: the handshake says so"
    );
    // The secondary has no say before its time, whatever its key.
    let (_, line) = served(vec![rsa(), ecdsa()], vec![]);
    assert_eq!(choose(&line, ECDSA), 0);
}

#[test]
fn the_name_decides_where_one_has_it_and_the_primary_else() {
    let (ca, end) = (ca(), now() + 1000);
    let certificate = |names: &[&str], key| identity(&ca, names, key, end);
    let (_, all) = served(
        vec![certificate(&["tunnel.test"], KeyType::Rsa2048)],
        vec![
            certificate(&["*.apps.test", "apps.test"], KeyType::P256),
            certificate(&["apps.test", "*.apps.test"], KeyType::Rsa2048),
            certificate(&["one.apps.test"], KeyType::Rsa2048),
        ],
    );
    for (name, schemes, expected) in [
        (Some("tunnel.test"), ECDSA, 0),
        (Some("a.apps.test"), ECDSA, 1),
        (Some("A.Apps.Test"), RSA_ONLY, 2),
        (Some("apps.test"), ECDSA, 1),
        (Some("one.apps.test"), RSA_ONLY, 2),
        (Some("a.b.apps.test"), ECDSA, 0),
        (Some("other.test"), ECDSA, 0),
        (None, ECDSA, 0),
        (None, RSA_ONLY, 0),
    ] {
        assert_eq!(place(&all, now(), name, schemes), expected, "{name:?}");
    }
}

#[test]
fn one_that_can_be_used_comes_before_one_that_has_ended() {
    let (ca, now) = (ca(), now());
    let certificate = |key, from, to| between(&ca, &["tunnel.test"], key, (from, to));
    let (_, all) = served(
        vec![certificate(KeyType::P256, now - 10, now + 100)],
        vec![
            certificate(KeyType::Rsa2048, now - 10, now + 50),
            certificate(KeyType::Rsa2048, now - 10, now + 200),
        ],
    );
    let rsa = |at| place(&all, at, None, RSA_ONLY);
    assert_eq!((rsa(now + 49), rsa(now + 50)), (1, 2));
    let any = |at| place(&all, at, None, ECDSA);
    assert_eq!((any(now + 99), any(now + 100)), (0, 2));
    assert_eq!(any(now + 200), 0, "all have ended");
}

/// Returns what a client is shown, and accepts, at `clock`'s time.
fn handshake(config: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> CertificateDer<'static> {
    let name = ServerName::try_from("tunnel.test").unwrap();
    let mut client = ClientConnection::new(client.clone(), name).unwrap();
    let mut server = ServerConnection::new(config.clone()).unwrap();
    let mut bytes = Vec::new();
    while client.is_handshaking() || server.is_handshaking() {
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut &*bytes).unwrap();
        server.process_new_packets().unwrap();
        bytes.clear();
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut &*bytes).unwrap();
        client.process_new_packets().unwrap();
        bytes.clear();
    }
    client.peer_certificates().unwrap()[0].clone()
}

#[test]
fn the_secondary_takes_over_at_the_second_in_which_the_primary_ends() {
    let (ca, start) = (ca(), now());
    let end = start + 100;
    let line = vec![
        identity(&ca, &["tunnel.test"], KeyType::P256, end),
        between(
            &ca,
            &["tunnel.test"],
            KeyType::Rsa2048,
            (end - 50, end + 100),
        ),
    ];
    let (certificates, _) = served(line, vec![]);
    let clock = Arc::new(Clock(AtomicU64::new(start)));
    let provider = Arc::new(aws_lc_rs::default_provider());
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let resolver = certificates.resolver(&provider, clock.clone()).unwrap();
        let server = ServerConfig::builder_with_details(provider.clone(), clock.clone())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        let mut roots = RootCertStore::empty();
        roots.add(ca.certificate().clone()).unwrap();
        let client = ClientConfig::builder_with_details(provider.clone(), clock.clone())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (server, mut client) = (Arc::new(server), client);
        client.resumption = rustls::client::Resumption::disabled();
        let client = Arc::new(client);
        for (at, expected) in [
            (start, 0),
            (end - 50, 0),
            (end - 1, 0),
            (end, 1),
            (end + 1, 1),
            (end + 99, 1),
            // A clock that is put back.
            (end - 1, 0),
        ] {
            clock.0.store(at, Ordering::Relaxed);
            let shown = handshake(&server, &client);
            assert_eq!(shown, certificates.line[expected].0[0], "{at}");
        }
    }
}
