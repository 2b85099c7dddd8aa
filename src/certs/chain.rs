//! The chain of an end certificate among the certificates of a file: each issued by the next, up to a root.
//!
//! A file may hold several certificates of one authority: from before a renewal, of another key, cross-signed, expired.
//! The chain is looked for as clients look: every certificate with the issuer's name is a candidate, and the signature
//! decides. Key identifiers and dates only say which is tried first. No certificate is visited twice in a search and
//! signatures are checked within a bound, so that the work does not grow with what a file is made to hold.

use std::collections::{HashMap, VecDeque};

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use super::describe::escaped;
use super::policy::{is_self_signed, may_issue};
use super::{CertError, key_matches};
use crate::asn1::Reader;
use crate::asn1::tag::SEQUENCE;
use crate::limits::CHAIN_SIGNATURES_MAX;

/// The certificates with the one that `key` belongs to first, then its chain, then the others as they were. As they were
/// altogether where the key belongs to none.
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

/// Returns what a peer is sent of a chain whose end certificate is first: the chain in order,
/// without a root that has signed itself, which a peer has or does not trust (RFC 8446, section
/// 4.4.2), and without what is no part of it. Where the file has another certificate of that root,
/// issued by an older one, it goes on with that: there are peers that know the older one only.
#[must_use]
pub fn sent(certificates: &[CertificateDer<'static>]) -> Vec<CertificateDer<'static>> {
    let parsed = parsed(certificates);
    if parsed.is_empty() {
        return certificates.to_vec();
    }
    let places = sent_places(&parsed, &linked(&parsed, 0));
    let sent = places.into_iter().map(|place| certificates[place].clone());
    sent.collect()
}

/// The places of what is sent of the chain `linked`.
pub(super) fn sent_places(certificates: &[X509Certificate<'_>], linked: &[usize]) -> Vec<usize> {
    let mut places = linked.to_vec();
    let mut search = Search::new(certificates);
    let Some(root) = places.pop_if(|top| search.is_root(*top)) else {
        return places;
    };
    if places.is_empty() {
        return vec![root];
    }
    let same = |place: &usize| {
        let (one, other) = (&certificates[*place], &certificates[root]);
        one.subject().as_raw() == other.subject().as_raw()
            && one.public_key().raw == other.public_key().raw
    };
    let mut others = (0..certificates.len()).filter(|place| *place != root && same(place));
    let cross = others.find(|place| search.is_current(*place) && !search.is_root(*place));
    if let Some(cross) = cross {
        let mut above = search.chain(cross);
        above.pop_if(|top| search.is_root(*top));
        let is_current = above.iter().all(|place| search.is_current(*place));
        places.extend(above.into_iter().filter(|_| is_current));
    }
    places
}

/// The places of the chain that begins at `first`, up to a root that has signed itself or as far as the file goes.
///
/// The best that there is: valid now and up to a root; valid now as far as the file has names; up to a root by signatures, whatever
/// the dates and usages say; as far as it goes; by names alone. What is wrong with one that is not the first is for
/// others to say.
pub(super) fn linked(certificates: &[X509Certificate<'_>], first: usize) -> Vec<usize> {
    Search::new(certificates).chain(first)
}

/// How much is asked of a link of a chain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LinkKind {
    /// The issuer's name.
    Name,
    /// And its signature.
    Signature,
    /// And that it may issue, and is valid now.
    All,
}

/// Certificates that are reached from one, nearest first, each with the place before it.
struct Reached(Vec<(usize, Option<usize>)>);

impl Reached {
    /// The chain to the `at`-th of them.
    fn chain_to(&self, at: usize) -> Vec<usize> {
        let mut chain = Vec::new();
        let mut next = Some(at);
        while let Some(at) = next {
            let (place, before) = self.0[at];
            chain.push(place);
            next = before;
        }
        chain.reverse();
        chain
    }
}

/// A search among the certificates of a file.
pub(super) struct Search<'a, 'c> {
    certificates: &'a [X509Certificate<'c>],
    /// Seconds since 1970.
    now: i64,
    /// Places by subject.
    named: HashMap<&'a [u8], Vec<usize>>,
    /// Known signatures: (below, above).
    known: HashMap<(usize, usize), Issued>,
    /// Signatures that may still be checked for this chain.
    left: usize,
}

impl<'a, 'c> Search<'a, 'c> {
    pub(super) fn new(certificates: &'a [X509Certificate<'c>]) -> Self {
        let mut named: HashMap<&[u8], Vec<usize>> = HashMap::new();
        for (place, certificate) in certificates.iter().enumerate() {
            let places = named.entry(certificate.subject().as_raw()).or_default();
            places.push(place);
        }
        Self {
            certificates,
            now: OffsetDateTime::now_utc().unix_timestamp(),
            named,
            known: HashMap::new(),
            left: CHAIN_SIGNATURES_MAX,
        }
    }

    /// As [`linked`]. What was found out for one is not asked again for the next.
    pub(super) fn chain(&mut self, first: usize) -> Vec<usize> {
        if first >= self.certificates.len() {
            return Vec::new();
        }
        self.left = CHAIN_SIGNATURES_MAX;
        let best = self.reach(first, LinkKind::All);
        if let Some(at) = self.root_in(&best).or_else(|| self.whole_in(&best)) {
            return best.chain_to(at);
        }
        let signed = self.reach(first, LinkKind::Signature);
        if let Some(at) = self.root_in(&signed) {
            return signed.chain_to(at);
        }
        let longest = [&best, &signed].into_iter().find(|found| found.0.len() > 1);
        if let Some(found) = longest {
            let mut chain = found.chain_to(found.0.len() - 1);
            chain.extend(self.namesake(&chain));
            return chain;
        }
        let by_name = self.reach(first, LinkKind::Name);
        by_name.chain_to(by_name.0.len() - 1)
    }

    /// Returns what has the name of the issuer of the last of a chain, where none that has it did
    /// issue it.
    fn namesake(&mut self, chain: &[usize]) -> Option<usize> {
        let top = *chain.last()?;
        let mut candidates = self.candidates(top);
        candidates.retain(|above| !chain.contains(above));
        let issued = |above: &usize| self.issued(top, *above) != Issued::No;
        match candidates.iter().any(issued) {
            true => None,
            false => candidates.first().copied(),
        }
    }

    /// Returns what is reached from `first` by links of this kind. A root ends a chain.
    fn reach(&mut self, first: usize, asked: LinkKind) -> Reached {
        let mut reached = vec![(first, None)];
        let mut seen = vec![false; self.certificates.len()];
        seen[first] = true;
        let mut queue = VecDeque::from([0]);
        while let Some(at) = queue.pop_front() {
            let (place, _) = reached[at];
            if self.is_root(place) {
                continue;
            }
            for above in self.candidates(place) {
                if !seen[above] && self.is_linked(place, above, asked) {
                    seen[above] = true;
                    queue.push_back(reached.len());
                    reached.push((above, Some(at)));
                }
            }
        }
        Reached(reached)
    }

    /// The nearest root.
    fn root_in(&mut self, reached: &Reached) -> Option<usize> {
        (0..reached.0.len()).find(|at| self.is_root(reached.0[*at].0))
    }

    /// The nearest authority above the first whose issuer has no certificate here.
    fn whole_in(&self, reached: &Reached) -> Option<usize> {
        let mut above = (1..reached.0.len()).map(|at| (at, reached.0[at].0));
        let found = above.find(|(_, place)| {
            let issuer = self.certificates[*place].issuer().as_raw();
            !self.named.contains_key(issuer)
        });
        found.map(|(at, _)| at)
    }

    /// The certificates that have the name of the issuer of `place`, the likeliest first.
    fn candidates(&self, place: usize) -> Vec<usize> {
        let below = &self.certificates[place];
        let places = self.named.get(below.issuer().as_raw());
        let mut places: Vec<usize> = places.into_iter().flatten().copied().collect();
        places.retain(|above| *above != place);
        let wanted = authority_key(below);
        places.sort_by_cached_key(|above| {
            let certificate = &self.certificates[*above];
            let is_other = wanted.is_some() && wanted != subject_key(certificate);
            let end = certificate.validity().not_after.timestamp();
            (is_other, !self.is_current(*above), std::cmp::Reverse(end))
        });
        places
    }

    fn is_linked(&mut self, below: usize, above: usize, asked: LinkKind) -> bool {
        let certificate = &self.certificates[above];
        let may = certificate.is_ca() && may_issue(certificate.as_raw()).is_ok();
        if asked == LinkKind::All && !(may && self.is_current(above)) {
            return false;
        }
        asked == LinkKind::Name || self.issued(below, above) != Issued::No
    }

    fn is_current(&self, place: usize) -> bool {
        let validity = self.certificates[place].validity();
        (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&self.now)
    }

    fn is_root(&mut self, place: usize) -> bool {
        is_self_issued(&self.certificates[place]) && self.issued(place, place) != Issued::No
    }

    fn issued(&mut self, below: usize, above: usize) -> Issued {
        if let Some(known) = self.known.get(&(below, above)) {
            return *known;
        }
        let Some(left) = self.left.checked_sub(1) else {
            return Issued::No;
        };
        self.left = left;
        let issued = issued(&self.certificates[below], &self.certificates[above]);
        self.known.insert((below, above), issued);
        issued
    }
}

fn authority_key<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    let mut extensions = certificate.extensions().iter();
    extensions.find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0),
        _ => None,
    })
}

fn subject_key<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    let mut extensions = certificate.extensions().iter();
    extensions.find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    })
}

/// All of them parsed. What [`read`](super::read) gave can be; if one could not, none is, and no order is found.
pub(super) fn parsed<'a>(certificates: &'a [CertificateDer<'_>]) -> Vec<X509Certificate<'a>> {
    let parsed = certificates
        .iter()
        .map(|der| X509Certificate::from_der(der));
    let parsed = parsed.map(|result| result.map(|(_, certificate)| certificate));
    parsed.collect::<Result<_, _>>().unwrap_or_default()
}

/// Returns whether it names itself as its issuer.
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
            "no certificate can be read",
            "export it again from its source",
        ));
    };
    if is_self_signed(&parsed[*top]) {
        return Ok(certificates[*top].clone());
    }
    let issuer = escaped(&parsed[*top].issuer().to_string());
    Err(CertError::request(
        format!("the chain ends below its root, {issuer}"),
        "add the root's certificate to the file, or import it again with its root",
    ))
}

/// Relation of two certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Issued {
    Yes,
    No,
    /// The signature is of a kind that TLS does not use any more.
    Unknown,
}

/// Returns whether the signature of the certificate `below` is by the key of `above`. Names and
/// dates are not looked at.
pub(super) fn issued(below: &X509Certificate<'_>, above: &X509Certificate<'_>) -> Issued {
    verified(below, above).unwrap_or(Issued::Unknown)
}

fn verified(below: &X509Certificate<'_>, above: &X509Certificate<'_>) -> Option<Issued> {
    // SEQUENCE { to be signed, algorithm, signature } (RFC 5280, section 4.1).
    let mut signed = Reader::der(below.as_raw()).take(SEQUENCE)?.inside();
    let message = signed.take(SEQUENCE)?.whole;
    let algorithm = signed.take(SEQUENCE)?.content;
    let key = Reader::der(above.public_key().raw).take(SEQUENCE)?;
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

#[cfg(test)]
mod tests;
