//! Which certificates of the store a profile names.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use crate::certs::{Reference, Role, store};
use crate::profiles::{StoreError, store_of};

/// A profile and the certificates of the store that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileUse {
    /// The profile's name.
    pub profile: String,
    /// The certificates.
    pub stored: Vec<Reference>,
}

/// The profiles in the store of this state folder, by their newest versions. It waits for the disk.
///
/// # Errors
/// [`StoreError`].
pub fn profiles_in_store(state_dir: &Path) -> Result<Vec<ProfileUse>, StoreError> {
    let newest = store_of(state_dir).newest()?.into_iter();
    let uses = newest.map(|profile| ProfileUse {
        stored: stored_certificates(&profile.text),
        profile: profile.name,
    });
    Ok(uses.collect())
}

/// The names of the profiles that name this certificate, each once.
#[must_use]
pub fn users_of(wanted: &Reference, profiles: &[ProfileUse]) -> Vec<String> {
    let users = profiles.iter().filter(|user| user.stored.contains(wanted));
    let mut names: Vec<String> = users.map(|user| user.profile.clone()).collect();
    names.sort();
    names.dedup();
    names
}

/// Every key that may name a certificate of the store, with what the certificate is for there.
const KEYS: [(&str, Role); 8] = [
    ("primary", Role::Server),
    ("secondary", Role::Server),
    ("additional", Role::Server),
    // Of a table in that list.
    ("file", Role::Server),
    ("sni_certificate", Role::Server),
    ("group_certificates", Role::Group),
    ("tls_roots", Role::Group),
    ("tls_certificate", Role::Client),
];

/// The certificates of the store that the text of a config or a profile names, each once; also where the text is wrong
/// elsewhere. Where it is not TOML, those of the part that can be read.
#[must_use]
pub fn stored_certificates(text: &str) -> Vec<Reference> {
    let (document, _) = DeTable::parse_recoverable(text);
    references(document.get_ref())
}

/// The same of a document.
pub(super) fn references(document: &DeTable<'_>) -> Vec<Reference> {
    let mut found = Vec::new();
    in_table(document, &mut found);
    found.sort();
    found.dedup();
    found
}

fn in_table(table: &DeTable<'_>, found: &mut Vec<Reference>) {
    for (key, value) in table {
        let role = KEYS
            .iter()
            .find(|(known, _)| *known == key.get_ref().as_ref());
        in_value(value.get_ref(), role.map(|(_, role)| *role), found);
    }
}

fn in_value(value: &DeValue<'_>, role: Option<Role>, found: &mut Vec<Reference>) {
    match (value, role) {
        (DeValue::String(text), Some(role)) => {
            let name = text.strip_prefix(store::PREFIX).map(str::parse);
            if let Some(Ok(name)) = name {
                found.push(Reference { role, name });
            }
        }
        (DeValue::Array(list), _) => {
            for entry in list.iter() {
                in_value(entry.get_ref(), role, found);
            }
        }
        (DeValue::Table(table), _) => in_table(table, found),
        _ => {}
    }
}
