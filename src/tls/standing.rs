//! Which of the group certificates are revoked.
//!
//! Trust in a group certificate comes from the configuration and not from a list, so no list is
//! demanded for one; but a list that holds one counts, and so does one that holds what is above it.
//! Else a device could dodge the revocation of its authority, which is a group certificate itself,
//! by a chain that ends there, and a revoked authority could go on proving what is good.
//!
//! What is above is found by name and key. An authority that others certified too is revoked when
//! all of them are.

use rustls_pki_types::CertificateDer;

use super::fields::{Signed, issuer_and_serial, public_key, subject};
use super::signatures::{Unverified, verify};
use crate::table::{RevocationIndex, same_name};

/// The group certificates with what can revoke them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Standing(Vec<Authority>);

#[derive(Debug, PartialEq, Eq)]
struct Authority {
    issuer: Vec<u8>,
    serial: Vec<u8>,
    subject: Vec<u8>,
    key: Vec<u8>,
    /// The group certificates that have signed this one. `None` where it stands for itself: nothing
    /// can revoke it.
    above: Option<Vec<usize>>,
    /// Itself and all above: while no list holds one of these, it is not revoked.
    lineage: Vec<usize>,
}

impl Standing {
    /// Looks at group certificates, once for a configuration. What is no certificate is not
    /// revoked.
    pub fn of(group: &[CertificateDer<'_>]) -> Self {
        let read = |der: &CertificateDer<'_>| {
            let (issuer, serial) = issuer_and_serial(der).unwrap_or_default();
            Authority {
                issuer: issuer.to_vec(),
                serial: serial.to_vec(),
                subject: subject(der).unwrap_or_default().to_vec(),
                key: public_key(der).unwrap_or_default().to_vec(),
                above: None,
                lineage: Vec::new(),
            }
        };
        let mut all: Vec<Authority> = group.iter().map(read).collect();
        for at in 0..all.len() {
            all[at].above = signers(at, &group[at], &all);
        }
        for at in 0..all.len() {
            all[at].lineage = lineage(at, &all);
        }
        Self(all)
    }

    /// Names of the group certificates: `Name`s in DER.
    pub(super) fn subjects(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|authority| &*authority.subject)
    }

    /// The name in DER of which `contents` is the inside, as webpki has that of an anchor.
    pub(super) fn subject_of(&self, contents: &[u8]) -> &[u8] {
        let mut subjects = self.subjects();
        let found = subjects.find(|subject| subject.ends_with(contents));
        found.unwrap_or_default()
    }

    /// Returns whether all of these group certificates are revoked, given by their places.
    /// Allocates nothing while none is.
    pub(super) fn are_revoked(
        &self,
        index: &RevocationIndex,
        places: impl Iterator<Item = usize> + Clone,
    ) -> bool {
        let listed = |at: &usize| self.is_listed(*at, index);
        if !places
            .clone()
            .any(|at| self.0[at].lineage.iter().any(listed))
        {
            return false;
        }
        let revoked = self.revoked(index);
        let mut places = places;
        places.all(|at| revoked[at])
    }

    /// Returns whether a list holds any of the group certificates.
    pub(super) fn is_any_listed(&self, index: &RevocationIndex) -> bool {
        (0..self.0.len()).any(|at| self.is_listed(at, index))
    }

    /// The group certificates of a name and key.
    pub(super) fn of_key(&self, name: &[u8], key: &[u8]) -> impl Iterator<Item = usize> + Clone {
        let all = self.0.iter().enumerate();
        all.filter(move |(_, known)| known.key == key && same_name(&known.subject, name))
            .map(|(at, _)| at)
    }

    fn is_listed(&self, at: usize, index: &RevocationIndex) -> bool {
        let known = &self.0[at];
        known.above.is_some() && index.is_revoked(&known.issuer, &known.serial)
    }

    /// By place: held by a list, or signed by revoked ones alone.
    fn revoked(&self, index: &RevocationIndex) -> Vec<bool> {
        let places = 0..self.0.len();
        let mut revoked: Vec<bool> = places.clone().map(|at| self.is_listed(at, index)).collect();
        loop {
            let falls = |at: &usize| {
                let above = self.0[*at].above.as_deref().unwrap_or_default();
                !revoked[*at] && !above.is_empty() && above.iter().all(|above| revoked[*above])
            };
            let Some(at) = places.clone().find(falls) else {
                return revoked;
            };
            revoked[at] = true;
        }
    }
}

/// The group certificates that have signed the one at a place; `None` where it stands for itself. A
/// signature that cannot be checked counts for every certificate of the name.
fn signers(at: usize, der: &[u8], all: &[Authority]) -> Option<Vec<usize>> {
    let signed = Signed::certificate(der)?;
    let has_signed = |other: &usize| {
        let above = &all[*other];
        same_name(&above.subject, &all[at].issuer)
            && matches!(
                verify(&signed, &above.key),
                Ok(()) | Err(Unverified::Algorithm)
            )
    };
    if has_signed(&at) {
        return None;
    }
    Some((0..all.len()).filter(has_signed).collect())
}

/// The certificate at a place and all above it, but for those that stand for themselves.
fn lineage(at: usize, all: &[Authority]) -> Vec<usize> {
    let mut found = vec![at];
    let mut next = 0;
    while let Some(&at) = found.get(next) {
        for above in all[at].above.iter().flatten() {
            if !found.contains(above) {
                found.push(*above);
            }
        }
        next += 1;
    }
    found.retain(|at| all[*at].above.is_some());
    found
}
