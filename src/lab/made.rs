//! Certificates of any shape, for tests: what authorities should not make, too.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};

/// A name and a key.
pub(crate) struct Party {
    pub(crate) name: &'static str,
    pub(crate) key: KeyPair,
}

pub(crate) fn party(name: &'static str) -> Party {
    Party {
        name,
        key: KeyPair::generate().unwrap(),
    }
}

impl Party {
    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }

    /// Its certificate by `issuer`, valid for ten days, of an authority unless changed.
    pub(crate) fn by(
        &self,
        issuer: &Party,
        change: impl FnOnce(&mut CertificateParams),
    ) -> CertificateDer<'static> {
        let mut params = named(self.name);
        let now = OffsetDateTime::now_utc();
        (params.not_before, params.not_after) =
            (now - Duration::days(1), now + Duration::days(100));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let above = named(issuer.name);
        let above = Issuer::from_params(&above, &issuer.key);
        params.signed_by(&self.key, &above).unwrap().into()
    }

    /// The same, by itself.
    pub(crate) fn root(&self) -> CertificateDer<'static> {
        self.by(self, |_| ())
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// Makes it that of a device or a server.
pub(crate) fn end(params: &mut CertificateParams) {
    params.is_ca = IsCa::NoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
}

/// Lets it have ended five days ago.
pub(crate) fn past(params: &mut CertificateParams) {
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - Duration::days(99), now - Duration::days(5));
}
