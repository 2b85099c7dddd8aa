//! The order of a chain: the end certificate, the one that issued it, and so on up.

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::ber::{Reader, SEQUENCE};
use super::describe::escaped;
use super::{CertError, key_matches};

/// The certificates with the one that `key` belongs to first, then those that issued each other by name, then the others as
/// they were. As they were altogether where the key belongs to none.
pub(super) fn in_order(
    certificates: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'_>,
) -> Vec<CertificateDer<'static>> {
    let first = certificates
        .iter()
        .position(|certificate| key_matches(certificate, key));
    let Some(first) = first else {
        return certificates;
    };
    let linked = linked(&parsed(&certificates), first);
    let mut places: Vec<usize> = linked.clone();
    places.extend((0..certificates.len()).filter(|place| !linked.contains(place)));
    let ordered = places.into_iter().map(|place| certificates[place].clone());
    ordered.collect()
}

/// The places of a chain that begins at `first` and goes up by names; a self-issued certificate ends it.
pub(super) fn linked(certificates: &[X509Certificate<'_>], first: usize) -> Vec<usize> {
    let mut chain = Vec::new();
    let mut next = certificates.get(first).map(|_| first);
    while let Some(place) = next {
        chain.push(place);
        let issuer = certificates[place].issuer().as_raw();
        next = (0..certificates.len()).find(|above| {
            !chain.contains(above) && certificates[*above].subject().as_raw() == issuer
        });
        if certificates[place].subject().as_raw() == issuer {
            next = None;
        }
    }
    chain
}

/// All of them parsed. What [`read`](super::read) gave can be; if one could not, none is, and no order is found.
pub(super) fn parsed<'a>(certificates: &'a [CertificateDer<'_>]) -> Vec<X509Certificate<'a>> {
    let parsed = certificates
        .iter()
        .map(|der| X509Certificate::from_der(der));
    let parsed = parsed.map(|result| result.map(|(_, certificate)| certificate));
    parsed.collect::<Result<_, _>>().unwrap_or_default()
}

/// Whether it names itself as its issuer.
pub(super) fn is_self_issued(certificate: &X509Certificate<'_>) -> bool {
    certificate.subject().as_raw() == certificate.issuer().as_raw()
}

/// The root of the chain that begins with the first certificate; a self-signed one is its own. The error says where the chain
/// ends, and what to do.
///
/// # Errors
/// [`CertError::Request`] where the root is not among them.
pub fn root(
    certificates: &[CertificateDer<'static>],
) -> Result<CertificateDer<'static>, CertError> {
    let parsed = parsed(certificates);
    let chain = linked(&parsed, 0);
    let Some(top) = chain.last() else {
        return Err(CertError::request(
            "there is no certificate that could be read",
            "export it again from where it came",
        ));
    };
    if is_self_issued(&parsed[*top]) && issued(&parsed[*top], &parsed[*top]) != Issued::No {
        return Ok(certificates[*top].clone());
    }
    let issuer = escaped(&parsed[*top].issuer().to_string());
    Err(CertError::request(
        format!("the chain ends below its root, {issuer}"),
        "add the root's certificate to the file, or import it again with its root",
    ))
}

/// Whether one certificate issued another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Issued {
    Yes,
    No,
    /// The signature is of a kind that TLS does not use any more.
    Unknown,
}

/// Whether the signature of the certificate `below` is by the key of `above`. Names and dates are not looked at.
pub(super) fn issued(below: &X509Certificate<'_>, above: &X509Certificate<'_>) -> Issued {
    verified(below, above).unwrap_or(Issued::Unknown)
}

fn verified(below: &X509Certificate<'_>, above: &X509Certificate<'_>) -> Option<Issued> {
    // SEQUENCE { to be signed, algorithm, signature } (RFC 5280, section 4.1).
    let mut signed = Reader(below.as_raw()).take(SEQUENCE)?.inside();
    let message = signed.take(SEQUENCE)?.whole;
    let algorithm = signed.take(SEQUENCE)?.content;
    let key = Reader(above.public_key().raw).take(SEQUENCE)?;
    let key_algorithm = key.inside().take(SEQUENCE)?.content;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut known = provider.signature_verification_algorithms.all.iter();
    let verifier = known.find(|verifier| {
        verifier.signature_alg_id().as_ref() == algorithm
            && verifier.public_key_alg_id().as_ref() == key_algorithm
    })?;
    let key = &above.public_key().subject_public_key.data;
    let result = verifier.verify_signature(key, message, &below.signature_value.data);
    Some(result.map_or(Issued::No, |()| Issued::Yes))
}
