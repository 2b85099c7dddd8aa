//! A client that signs its handshake under a scheme that its key does not go with.

use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs::{default_provider, sign};
use rustls::pki_types::ServerName;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, Error, RootCertStore, ServerConnection,
    SignatureAlgorithm, SignatureScheme,
};

use super::{client, gateway};

/// A P-256 key that claims `scheme`, whatever is offered.
#[derive(Debug)]
struct Claiming {
    key: Arc<dyn SigningKey>,
    scheme: SignatureScheme,
}

impl SigningKey for Claiming {
    fn choose_scheme(&self, _offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let own = SignatureScheme::ECDSA_NISTP256_SHA256;
        let signer = self.key.choose_scheme(&[own])?;
        Some(Box::new(ClaimingSigner {
            signer,
            scheme: self.scheme,
        }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }
}

#[derive(Debug)]
struct ClaimingSigner {
    signer: Box<dyn Signer>,
    scheme: SignatureScheme,
}

impl Signer for ClaimingSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        self.signer.sign(message)
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Returns what the client is told, if it is not let in.
fn told(scheme: SignatureScheme) -> Option<Error> {
    let gateway = gateway(false);
    let device = client(&gateway.ca, |_| ());
    let key = sign::any_supported_type(&device.key).unwrap();
    let key = CertifiedKey::new(device.chain, Arc::new(Claiming { key, scheme }));
    let mut roots = RootCertStore::empty();
    roots.add(gateway.ca.certificate().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(Always(key.into())));
    let name = ServerName::try_from("gateway.test").unwrap();
    let mut client = ClientConnection::new(config.into(), name).unwrap();
    let mut server = ServerConnection::new(gateway.config.clone()).unwrap();
    for _ in 0..4 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() && server.read_tls(&mut rest).is_ok() {
            let _ = server.process_new_packets();
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            if let Err(error) = client.process_new_packets() {
                return Some(error);
            }
        }
    }
    assert!(!server.is_handshaking());
    None
}

/// RFC 8446, section 4.2.3: "ecdsa_secp384r1_sha384" is of a key on that curve.
#[test]
fn a_key_of_another_curve_than_the_scheme_s_is_an_illegal_parameter() {
    let illegal = Error::AlertReceived(AlertDescription::IllegalParameter);
    for scheme in [
        SignatureScheme::ECDSA_NISTP384_SHA384,
        SignatureScheme::ECDSA_NISTP521_SHA512,
        SignatureScheme::ED25519,
        SignatureScheme::RSA_PSS_SHA256,
    ] {
        assert_eq!(told(scheme), Some(illegal.clone()), "{scheme:?}");
    }
    assert_eq!(told(SignatureScheme::ECDSA_NISTP256_SHA256), None);
}
