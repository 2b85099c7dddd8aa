//! Handshakes in memory: which client certificates are accepted, and how the others are told apart.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::time_provider::DefaultTimeProvider;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
};
use time::OffsetDateTime;

use super::*;
use crate::certs::make::Usage;
use crate::certs::{IssueRequest, Issued, KeyType, Validity};
use crate::config::{self, Field, IdentityMapping};
use crate::lab::{self, CertificateAuthority, CrlRequest, MakeCa, Reason, serial_of_issued};
use crate::table::{Published, RevocationIndex};

mod chain;
mod duplex;
mod handshake;
mod path;
mod resumption;
mod scheme;

fn authority(name: &str) -> CertificateAuthority {
    lab::make_ca(&MakeCa {
        common_name: name.into(),
        days: 10,
        key_type: KeyType::P256,
    })
    .unwrap()
}

fn client(ca: &CertificateAuthority, change: impl FnOnce(&mut IssueRequest)) -> Issued {
    let mut request = IssueRequest::new(Usage::Client, "device-1", Validity::days(1).unwrap());
    request.app = Some("mail".into());
    change(&mut request);
    lab::issue(ca, &request).unwrap()
}

struct Gateway {
    ca: CertificateAuthority,
    revocation: Arc<Published<RevocationIndex>>,
    verifier: Arc<DeviceVerifier>,
    config: Arc<ServerConfig>,
}

fn gateway(tls12: bool) -> Gateway {
    gateway_with(tls12, &config::Resumption::default())
}

fn gateway_with(tls12: bool, resumption: &config::Resumption) -> Gateway {
    let ca = authority("group");
    let group = [ca.certificate().clone()];
    let revocation = Arc::new(Published::new(index_of(&ca, &[])));
    let policy = RevocationPolicy {
        enabled: true,
        stale: StalePolicy::Hard,
    };
    let verifier = Arc::new(DeviceVerifier::new(&group, revocation.clone(), policy).unwrap());
    let mut request = IssueRequest::new(Usage::Server, "gateway", Validity::days(1).unwrap());
    request.dns = vec!["gateway.test".into()];
    let server = lab::issue(&ca, &request).unwrap();
    let resumption = Resumption::new(resumption, Scope::new("test", &group)).unwrap();
    let config = server_config(ServerTls {
        certificates: Arc::new((server.chain, server.key).into()),
        clock: Arc::new(DefaultTimeProvider),
        verifier: verifier.clone(),
        choice: config::TlsChoice {
            tls12,
            tls13: !tls12,
            suites: Vec::new(),
            groups: Vec::new(),
        },
        resumption: Arc::new(resumption),
    });
    Gateway {
        ca,
        revocation,
        verifier,
        config: Arc::new(config.unwrap()),
    }
}

fn index_of(ca: &CertificateAuthority, revoked: &[&Issued]) -> RevocationIndex {
    let folder = tempfile::tempdir().unwrap();
    let now = OffsetDateTime::now_utc();
    let serials = revoked
        .iter()
        .map(|issued| serial_of_issued(ca, &issued.chain[0]).unwrap())
        .collect();
    let request = CrlRequest {
        serials,
        reason: Reason::default(),
        this_update: now - Duration::from_secs(60),
        next_update: now + Duration::from_secs(3600),
    };
    let file = folder.path().join("ca.crl");
    std::fs::write(&file, lab::revoke(ca, None, &request).unwrap().der).unwrap();
    load_crls(&[file], &[ca.certificate().clone()], SystemTime::now())
        .unwrap()
        .0
}

fn client_config(ca: &CertificateAuthority, identity: Option<&Issued>) -> Arc<ClientConfig> {
    client_config_with(ca, identity, aws_lc_rs::default_provider())
}

fn client_config_with(
    ca: &CertificateAuthority,
    identity: Option<&Issued>,
    provider: CryptoProvider,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.certificate().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match identity {
        Some(issued) => builder
            .with_client_auth_cert(issued.chain.clone(), issued.key.clone_key())
            .unwrap(),
        None => builder.with_no_client_auth(),
    })
}

/// Runs both ends until neither has anything to say; the server's side of it.
fn shake(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
) -> Result<ServerConnection, rustls::Error> {
    let mut server = ServerConnection::new(server.clone()).unwrap();
    let name = ServerName::try_from("gateway.test").unwrap();
    let mut client = ClientConnection::new(client.clone(), name).unwrap();
    for _ in 0..10 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    assert!(!server.is_handshaking());
    Ok(server)
}

fn failure(gateway: &Gateway, identity: Option<&Issued>) -> Option<HandshakeFailure> {
    shake(&gateway.config, &client_config(&gateway.ca, identity))
        .err()
        .map(|error| failure_of(&error))
}

#[test]
fn each_bad_certificate_has_its_own_failure_in_both_versions() {
    let now = OffsetDateTime::now_utc();
    let day = Duration::from_secs(24 * 3600);
    for tls12 in [true, false] {
        let gateway = gateway(tls12);
        let good = client(&gateway.ca, |_| ());
        let expired = client(&gateway.ca, |r| {
            r.validity = Validity::between(now - day, now - day / 2).unwrap();
        });
        let early = client(&gateway.ca, |r| {
            r.validity = Validity::between(now + day, now + 2 * day).unwrap();
        });
        let foreign = client(&authority("other"), |_| ());
        let server_only = client(&gateway.ca, |r| r.usages = vec![Usage::Server]);
        let revoked = client(&gateway.ca, |_| ());
        gateway
            .revocation
            .publish(index_of(&gateway.ca, &[&revoked]));
        assert_eq!(failure(&gateway, Some(&good)), None);
        assert_eq!(
            failure(&gateway, None),
            Some(HandshakeFailure::NoCertificate)
        );
        assert_eq!(
            failure(&gateway, Some(&expired)),
            Some(HandshakeFailure::Expired)
        );
        assert_eq!(
            failure(&gateway, Some(&early)),
            Some(HandshakeFailure::NotYetValid)
        );
        assert_eq!(
            failure(&gateway, Some(&foreign)),
            Some(HandshakeFailure::UnknownCa)
        );
        assert_eq!(
            failure(&gateway, Some(&server_only)),
            Some(HandshakeFailure::WrongUsage)
        );
        assert_eq!(
            failure(&gateway, Some(&revoked)),
            Some(HandshakeFailure::Revoked)
        );
        gateway
            .revocation
            .publish(RevocationIndex::builder().build());
        assert_eq!(
            failure(&gateway, Some(&good)),
            Some(HandshakeFailure::RevocationUnknown)
        );
    }
}

/// By tickets, out of the table, and the table alone.
fn resumptions() -> [config::Resumption; 2] {
    let tickets = config::Resumption::default();
    let cache = config::Resumption {
        by: config::ResumptionKind::Cache,
        ..tickets.clone()
    };
    [tickets, cache]
}

#[test]
fn a_resumed_session_is_known_in_full_and_checked_again() {
    for (tls12, resumption) in [true, false]
        .into_iter()
        .flat_map(|tls12| resumptions().map(|resumption| (tls12, resumption)))
    {
        let gateway = gateway_with(tls12, &resumption);
        let device = client(&gateway.ca, |_| ());
        let config = client_config(&gateway.ca, Some(&device));
        let first = shake(&gateway.config, &config).unwrap();
        let resumed = shake(&gateway.config, &config).unwrap();
        assert_eq!(resumed.handshake_kind(), Some(HandshakeKind::Resumed));
        let chain = resumed.peer_certificates().unwrap();
        assert_eq!(first.peer_certificates().unwrap(), chain);
        let mapping = IdentityMapping {
            device: vec![Field::Cn],
            user: Vec::new(),
            app: vec![Field::Ou],
        };
        let checked = gateway.verifier.recheck(chain, SystemTime::now()).unwrap();
        let identity = PeerIdentity::from_chain(&checked, &mapping).unwrap();
        assert_eq!(identity.device(), "device-1");
        let proof = |session: &ServerConnection| {
            VerifiedChain::of_handshake(session, &gateway.verifier, SystemTime::now())
        };
        assert_eq!(proof(&first), Ok(checked.clone()));
        assert_eq!(proof(&resumed), Ok(checked));
        let begun = ServerConnection::new(gateway.config.clone()).unwrap();
        assert_eq!(
            proof(&begun),
            Err(rustls::Error::HandshakeNotComplete.into())
        );
        gateway
            .revocation
            .publish(index_of(&gateway.ca, &[&device]));
        let error = gateway
            .verifier
            .recheck(chain, SystemTime::now())
            .unwrap_err();
        assert_eq!(failure_of(&error.error), HandshakeFailure::Revoked);
        assert_eq!(proof(&resumed), Err(error));
        let later = SystemTime::now() + Duration::from_secs(2 * 24 * 3600);
        let error = gateway.verifier.recheck(chain, later).unwrap_err();
        assert_eq!(failure_of(&error.error), HandshakeFailure::Expired);
    }
}

#[test]
fn no_session_is_resumed_where_that_is_off() {
    let off = config::Resumption {
        by: config::ResumptionKind::Off,
        ..config::Resumption::default()
    };
    for tls12 in [true, false] {
        let gateway = gateway_with(tls12, &off);
        let device = client(&gateway.ca, |_| ());
        let config = client_config(&gateway.ca, Some(&device));
        for _ in 0..2 {
            let kind = shake(&gateway.config, &config).unwrap().handshake_kind();
            assert_ne!(kind, Some(HandshakeKind::Resumed));
        }
    }
}

#[test]
fn the_identity_is_read_where_the_mapping_says() {
    let ca = authority("group");
    let issued = client(&ca, |request| {
        request.uri = vec!["urn:device:7".into()];
        request.email = vec!["ann@example.com".into()];
    });
    let mapping = |device: Vec<Field>| IdentityMapping {
        device,
        user: vec![Field::SanUpn, Field::SanEmail],
        app: vec![Field::Ou],
    };
    let identity =
        PeerIdentity::from_unverified(&issued.chain[0], &mapping(vec![Field::SanUri, Field::Cn]))
            .unwrap();
    assert_eq!(identity.device(), "urn:device:7");
    assert_eq!(
        (identity.user(), identity.app()),
        (Some("ann@example.com"), Some("mail"))
    );
    let identity =
        PeerIdentity::from_unverified(&issued.chain[0], &mapping(vec![Field::SanDns, Field::Cn]))
            .unwrap();
    assert_eq!(identity.device(), "device-1");
    let missing = PeerIdentity::from_unverified(&issued.chain[0], &mapping(vec![Field::Uid]));
    assert_eq!(missing, Err(IdentityError::NoDevice));
}

#[test]
fn a_crl_that_cannot_be_trusted_is_refused_by_name() {
    let (ca, other) = (authority("group"), authority("other"));
    let folder = tempfile::tempdir().unwrap();
    let now = OffsetDateTime::now_utc();
    let write = |name: &str, der: &[u8]| {
        let file = folder.path().join(name);
        std::fs::write(&file, der).unwrap();
        file
    };
    let crl = |ca: &CertificateAuthority, from: OffsetDateTime| {
        let request = CrlRequest {
            serials: Vec::new(),
            reason: Reason::default(),
            this_update: from,
            next_update: from + Duration::from_secs(3600),
        };
        lab::revoke(ca, None, &request).unwrap().der.to_vec()
    };
    let load = |file| load_crls(&[file], &[ca.certificate().clone()], SystemTime::now());
    let good = crl(&ca, now - Duration::from_secs(60));
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    for (name, der, problem) in [
        ("foreign.crl", crl(&other, now), "not a group certificate"),
        ("forged.crl", forged, "not signed"),
        (
            "truncated.crl",
            good[..good.len() - 7].to_vec(),
            "truncated.crl",
        ),
    ] {
        let text = load(write(name, &der)).unwrap_err().to_string();
        assert!(text.contains(name) && text.contains(problem), "{text}");
    }
    let (_, reports) = load(write(
        "expired.crl",
        &crl(&ca, now - Duration::from_secs(7200)),
    ))
    .unwrap();
    assert!(
        reports[0]
            .next_update
            .is_some_and(|at| at < now.unix_timestamp() as u64)
    );
}

#[test]
fn the_key_exchange_is_post_quantum_where_the_client_offers_it_and_x25519_works() {
    use rustls::NamedGroup::{self, X25519, X25519MLKEM768};
    let gateway = gateway(false);
    let device = client(&gateway.ca, |_| ());
    let negotiated = |offered: &[NamedGroup]| {
        let mut provider = aws_lc_rs::default_provider();
        provider
            .kx_groups
            .retain(|group| offered.contains(&group.name()));
        let config = client_config_with(&gateway.ca, Some(&device), provider);
        let connection = shake(&gateway.config, &config).unwrap();
        connection.negotiated_key_exchange_group().unwrap().name()
    };
    assert_eq!(negotiated(&[X25519, X25519MLKEM768]), X25519MLKEM768);
    assert_eq!(negotiated(&[X25519]), X25519);
}
