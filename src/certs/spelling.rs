//! Issuers that are there under another spelling of their name.
//!
//! RFC 5280, section 7.1, has names compared without regard to string type, case and spaces. The check of identity
//! certificates here, and that of many programs, compares octets: such a chain is not found, and nothing says why.

use x509_parser::certificate::X509Certificate;

use super::findings::Findings;
use crate::findings::Severity;
use crate::table::same_name;

/// Notes each certificate whose issuer is among these in another spelling only.
pub(super) fn check(certificates: &[X509Certificate<'_>], findings: &mut Findings) {
    for below in certificates {
        let issuer = below.issuer().as_raw();
        let is_there = |above: &&X509Certificate<'_>| above.subject().as_raw() == issuer;
        let is_spelled = |above: &&X509Certificate<'_>| same_name(above.subject().as_raw(), issuer);
        if certificates.iter().any(|above| is_there(&above)) {
            continue;
        }
        if let Some(above) = certificates.iter().find(is_spelled) {
            let problem = format!(
                "it spells its issuer's name in another way (string type, case or spaces) than the certificate of {}",
                above.subject()
            );
            let remedy = "have it issued with the name as the authority's certificate has it: names in a chain are \
                          compared octet by octet";
            findings.add(Severity::Warning, "issuer-spelling", below, problem, remedy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, DnValue, Issuer, KeyPair};
    use x509_parser::prelude::FromDer;

    fn params(name: DnValue) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    #[test]
    fn another_spelling_of_the_issuer_is_told_and_the_same_is_not() {
        let printable = || DnValue::PrintableString("Fleet CA".try_into().unwrap());
        let key = KeyPair::generate().unwrap();
        let ca = params(printable()).self_signed(&key).unwrap();
        for (name, codes) in [
            (printable(), &[][..]),
            (DnValue::Utf8String("Fleet CA".into()), &["issuer-spelling"]),
            (
                DnValue::Utf8String("fleet  ca".into()),
                &["issuer-spelling"],
            ),
            (DnValue::Utf8String("Other CA".into()), &[]),
        ] {
            let issuer = Issuer::new(params(name), &key);
            let leaf = params(DnValue::Utf8String("device".into()));
            let leaf = leaf
                .signed_by(&KeyPair::generate().unwrap(), &issuer)
                .unwrap();
            let ders = [leaf.der().to_vec(), ca.der().to_vec()];
            let parsed = ders
                .iter()
                .map(|der| X509Certificate::from_der(der).unwrap().1);
            let mut findings = Findings::default();
            check(&parsed.collect::<Vec<_>>(), &mut findings);
            let found: Vec<_> = findings.0.iter().map(|finding| &*finding.code).collect();
            assert_eq!(found, codes);
        }
    }
}
