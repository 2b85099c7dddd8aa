//! The client's certificate as a front end that has ended TLS hands it on: in header fields of the
//! tunnel request (RFC 9440, or Envoy's `X-Forwarded-Client-Cert`), or in a PROXY protocol header.
//!
//! Guaranteed: exactly one place counts, the configured one. A request that names a certificate in
//! another place too is refused, since a front end that writes the one need not keep clients from
//! writing the other. Nothing is verified here: what comes out is what the front end says, and must
//! be checked like a certificate of a handshake.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::config::ClientIdentity;
use crate::limits::REQUEST_HEADERS_MAX;

/// Why a request names no client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ForwardedError {
    /// Nothing where the certificate should be.
    #[error("the request names no client certificate")]
    Missing,
    /// Something in a place that does not count.
    #[error("the request names a client certificate in a place that does not count")]
    Conflict,
    /// Not what its place should hold.
    #[error("malformed: {0}")]
    Malformed(&'static str),
}

use ForwardedError::{Conflict, Malformed, Missing};

const CLIENT_CERT: &str = "client-cert";
const CLIENT_CERT_CHAIN: &str = "client-cert-chain";
const XFCC: &str = "x-forwarded-client-cert";

/// The client's certificate and its issuers, DER, from the one `place` that counts. `head` is the
/// whole header of a request that was parsed before; `by_proxy` the certificate in the connection's
/// PROXY protocol header.
///
/// # Errors
/// [`ForwardedError`].
pub fn certificates(
    head: &[u8],
    by_proxy: Option<&[u8]>,
    place: ClientIdentity,
) -> Result<Vec<CertificateDer<'static>>, ForwardedError> {
    let mut headers = [httparse::EMPTY_HEADER; REQUEST_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    if request.parse(head).is_err() {
        return Err(Malformed("not an HTTP request"));
    }
    let values = |name: &str| -> Vec<&[u8]> {
        let named = |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case(name);
        let fields = request.headers.iter().filter(named);
        fields.map(|header| header.value).collect()
    };
    certificates_in(values, by_proxy, place)
}

/// The same of header fields that are read already. `values` gives those of a name, which is in
/// lower case.
///
/// # Errors
/// [`ForwardedError`].
pub fn certificates_in<'a>(
    values: impl Fn(&str) -> Vec<&'a [u8]>,
    by_proxy: Option<&[u8]>,
    place: ClientIdentity,
) -> Result<Vec<CertificateDer<'static>>, ForwardedError> {
    let (leaf, chain, xfcc) = (values(CLIENT_CERT), values(CLIENT_CERT_CHAIN), values(XFCC));
    let by_fields = !leaf.is_empty() || !chain.is_empty();
    let others = match place {
        ClientIdentity::ClientCert => !xfcc.is_empty() || by_proxy.is_some(),
        ClientIdentity::Xfcc => by_fields || by_proxy.is_some(),
        ClientIdentity::ProxyV2 => by_fields || !xfcc.is_empty(),
    };
    if others {
        return Err(Conflict);
    }
    match place {
        ClientIdentity::ClientCert => by_rfc_9440(&leaf, &chain),
        ClientIdentity::Xfcc => by_xfcc(&xfcc),
        ClientIdentity::ProxyV2 => match by_proxy {
            Some(certificate) => Ok(vec![certificate.to_vec().into()]),
            None => Err(Missing),
        },
    }
}

/// `Client-Cert` is one byte sequence, `Client-Cert-Chain` a list of them, which may be spread over
/// several fields (RFC 9440, section 2; RFC 8941, sections 3.1 and 3.3.5). No parameters are
/// defined, and none are taken.
fn by_rfc_9440(
    leaf: &[&[u8]],
    chain: &[&[u8]],
) -> Result<Vec<CertificateDer<'static>>, ForwardedError> {
    let leaf = match leaf {
        [leaf] => byte_sequence(leaf)?,
        [] if chain.is_empty() => return Err(Missing),
        [] => return Err(Malformed("Client-Cert-Chain without Client-Cert")),
        _ => return Err(Malformed("Client-Cert is there twice")),
    };
    let items = chain
        .iter()
        .flat_map(|field| field.split(|byte| *byte == b','));
    let mut certificates = vec![leaf];
    for item in items {
        certificates.push(byte_sequence(item)?);
    }
    Ok(certificates)
}

/// `:BASE64:`, with white space around it.
fn byte_sequence(text: &[u8]) -> Result<CertificateDer<'static>, ForwardedError> {
    const WRONG: ForwardedError = Malformed("not base64 between colons");
    let inner = text
        .trim_ascii()
        .strip_prefix(b":")
        .and_then(|rest| rest.strip_suffix(b":"))
        .ok_or(WRONG)?;
    match STANDARD.decode(inner) {
        Ok(der) if !der.is_empty() => Ok(der.into()),
        _ => Err(WRONG),
    }
}

/// Each proxy that a request passes may add an element at the end; the last is the trusted proxy's
/// own. Values with `,`, `;` or `=` are quoted, and `"` in them is `\"`.
fn by_xfcc(fields: &[&[u8]]) -> Result<Vec<CertificateDer<'static>>, ForwardedError> {
    let field = match fields {
        [field] => *field,
        [] => return Err(Missing),
        _ => return Err(Malformed("X-Forwarded-Client-Cert is there twice")),
    };
    let elements = split_unquoted(field, b',')?;
    let last = elements.last().map(|element| element.trim_ascii());
    let (mut leaf, mut chain) = (None, None);
    for pair in split_unquoted(last.unwrap_or_default(), b';')? {
        let Some(equals) = pair.iter().position(|byte| *byte == b'=') else {
            return Err(Malformed("a pair without ="));
        };
        let (key, value) = (pair[..equals].trim_ascii(), &pair[equals + 1..]);
        let place = match key {
            key if key.eq_ignore_ascii_case(b"cert") => &mut leaf,
            key if key.eq_ignore_ascii_case(b"chain") => &mut chain,
            _ => continue,
        };
        if place.replace(pem(value.trim_ascii())?).is_some() {
            return Err(Malformed("a key is there twice"));
        }
    }
    match (leaf, chain) {
        (None, None) => Err(Missing),
        (None, Some(chain)) => Ok(chain),
        (Some(leaf), _) if leaf.len() != 1 => Err(Malformed("Cert is not one certificate")),
        (Some(leaf), None) => Ok(leaf),
        (Some(leaf), Some(chain)) if chain.first() == leaf.first() => Ok(chain),
        (Some(_), Some(_)) => Err(Malformed("Chain does not begin with Cert")),
    }
}

/// The parts between separators that are not in quotes.
fn split_unquoted(text: &[u8], separator: u8) -> Result<Vec<&[u8]>, ForwardedError> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut quoted, mut escaped) = (false, false);
    for (at, &byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if byte == separator && !quoted => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if quoted {
        return Err(Malformed("a quote is not closed"));
    }
    parts.push(&text[start..]);
    Ok(parts)
}

/// Certificates in PEM with percent-encoding, perhaps quoted. At least one.
fn pem(value: &[u8]) -> Result<Vec<CertificateDer<'static>>, ForwardedError> {
    const WRONG: ForwardedError = Malformed("not certificates in PEM");
    let inner = match value.strip_prefix(b"\"") {
        Some(rest) => rest.strip_suffix(b"\"").ok_or(WRONG)?,
        None => value,
    };
    let text: Vec<u8> = percent_decode(inner).collect();
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match list {
        Ok(list) if !list.is_empty() => Ok(list),
        _ => Err(WRONG),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOTH: [&[u8]; 2] = [b"\x30\x03leaf", b"\x30\x06issuer"];

    fn head(fields: &[String]) -> Vec<u8> {
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        format!("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n{fields}\r\n").into_bytes()
    }

    fn sequence(der: &[u8]) -> String {
        format!(":{}:", STANDARD.encode(der))
    }

    fn encoded(ders: &[&[u8]]) -> String {
        let pem = |der: &&[u8]| {
            let body = STANDARD.encode(der);
            format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
        };
        let text: String = ders.iter().map(pem).collect();
        percent_encoding::utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC).to_string()
    }

    fn read(place: ClientIdentity, fields: &[String]) -> Result<Vec<Vec<u8>>, ForwardedError> {
        let certificates = certificates(&head(fields), None, place)?;
        Ok(certificates.iter().map(|der| der.to_vec()).collect())
    }

    #[test]
    fn rfc_9440() {
        let [leaf, issuer] = BOTH.map(sequence);
        let one = |fields: &[String]| read(ClientIdentity::ClientCert, fields);
        assert_eq!(
            one(&[format!("client-cert: {leaf}")]),
            Ok(vec![BOTH[0].to_vec()])
        );
        // A list may be spread over fields.
        let spread = [
            format!("Client-Cert:{leaf} "),
            format!("Client-Cert-Chain: {issuer} , {leaf}"),
            format!("Client-Cert-Chain: {issuer}"),
        ];
        let expected = [0, 1, 0, 1].map(|at: usize| BOTH[at].to_vec());
        assert_eq!(one(&spread), Ok(expected.to_vec()));
        assert_eq!(one(&[]), Err(Missing));
        for fields in [
            vec![format!("Client-Cert-Chain: {issuer}")],
            vec![
                format!("Client-Cert: {leaf}"),
                format!("Client-Cert: {leaf}"),
            ],
            vec![format!("Client-Cert: {leaf}, {leaf}")],
            vec![format!("Client-Cert: {leaf};a=1")],
            vec![
                format!("Client-Cert: {leaf}"),
                "Client-Cert-Chain: ".to_owned(),
            ],
            vec!["Client-Cert: ".to_owned()],
            vec!["Client-Cert: ::".to_owned()],
            vec!["Client-Cert: :".to_owned()],
            vec!["Client-Cert: :MAN=sZWFm:".to_owned()],
            vec!["Client-Cert: MANsZWFm".to_owned()],
        ] {
            assert!(matches!(one(&fields), Err(Malformed(_))), "{fields:?}");
        }
    }

    #[test]
    fn of_xfcc_the_last_element_counts() {
        let [leaf, issuer] = BOTH;
        let (other, all) = (encoded(&[issuer]), encoded(&[leaf, issuer]));
        let leaf_text = encoded(&[leaf]);
        let read = |value: String| {
            read(
                ClientIdentity::Xfcc,
                &[format!("x-forwarded-client-cert: {value}")],
            )
        };
        let both = vec![leaf.to_vec(), issuer.to_vec()];
        let subject = "Subject=\"CN=a\\\",b;c\";URI=spiffe://x/y;DNS=a;DNS=b";
        assert_eq!(
            read(format!(
                "By=a;Hash=1;Cert=\"{leaf_text}\";Chain=\"{all}\";{subject}"
            )),
            Ok(both.clone())
        );
        assert_eq!(read(format!("cert={leaf_text}")), Ok(vec![leaf.to_vec()]));
        assert_eq!(read(format!("Chain=\"{all}\"")), Ok(both));
        assert_eq!(
            read(format!(
                "Hash=1;Cert=\"{other}\",{subject};Cert=\"{leaf_text}\""
            )),
            Ok(vec![leaf.to_vec()])
        );
        // What the proxy's own element does not have, no other says in its place.
        assert_eq!(read(format!("Cert=\"{other}\",Hash=1")), Err(Missing));
        assert_eq!(
            read(format!("Cert=\"{other}\",")),
            Err(Malformed("a pair without ="))
        );
        for wrong in [
            format!("Cert=\"{leaf_text}\";Cert=\"{leaf_text}\""),
            format!("Cert=\"{all}\""),
            format!("Cert=\"{other}\";Chain=\"{all}\""),
            format!("Cert=\"{leaf_text}"),
            "Cert=\"\"".to_owned(),
            "Cert=x".to_owned(),
            "Hash".to_owned(),
        ] {
            assert!(matches!(read(wrong.clone()), Err(Malformed(_))), "{wrong}");
        }
    }

    #[test]
    fn only_the_configured_place_counts_and_another_is_a_conflict() {
        let leaf = format!("Client-Cert: {}", sequence(BOTH[0]));
        let chain = format!("Client-Cert-Chain: {}", sequence(BOTH[1]));
        let xfcc = format!("X-Forwarded-Client-Cert: Cert=\"{}\"", encoded(&BOTH[..1]));
        use ClientIdentity::{ClientCert, ProxyV2, Xfcc};
        for (place, fields, by_proxy) in [
            (ClientCert, vec![&leaf, &xfcc], false),
            (ClientCert, vec![&xfcc], false),
            (ClientCert, vec![&leaf], true),
            (Xfcc, vec![&xfcc, &leaf], false),
            (Xfcc, vec![&xfcc, &chain], false),
            (Xfcc, vec![&leaf], false),
            (Xfcc, vec![&xfcc], true),
            (ProxyV2, vec![&leaf], true),
            (ProxyV2, vec![&xfcc], true),
            (ProxyV2, vec![&xfcc], false),
        ] {
            let fields: Vec<String> = fields.into_iter().cloned().collect();
            let by_proxy = by_proxy.then_some(BOTH[0]);
            let result = certificates(&head(&fields), by_proxy, place);
            assert_eq!(result, Err(Conflict), "{place:?} {fields:?}");
        }
        let only = certificates(&head(&[]), Some(BOTH[0]), ProxyV2).unwrap();
        assert_eq!(only, [CertificateDer::from(BOTH[0])]);
        assert_eq!(certificates(&head(&[]), None, ProxyV2), Err(Missing));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(ders in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..60), 1..4)) {
            let parts: Vec<&[u8]> = ders.iter().map(Vec::as_slice).collect();
            let xfcc = format!("X-Forwarded-Client-Cert: Chain=\"{}\"", encoded(&parts));
            prop_assert_eq!(read(ClientIdentity::Xfcc, &[xfcc]), Ok(ders.clone()));
            let mut fields = vec![format!("Client-Cert: {}", sequence(&ders[0]))];
            if ders.len() > 1 {
                let chain: Vec<String> = ders[1..].iter().map(|der| sequence(der)).collect();
                fields.push(format!("Client-Cert-Chain: {}", chain.join(",")));
            }
            prop_assert_eq!(read(ClientIdentity::ClientCert, &fields), Ok(ders));
        }

        #[test]
        fn any_value_is_read_or_refused(value in "[ -~]{0,80}") {
            for (place, name) in [(ClientIdentity::Xfcc, XFCC), (ClientIdentity::ClientCert, CLIENT_CERT)] {
                let _ = read(place, &[format!("{name}: {value}")]);
            }
        }
    }
}
