//! Which certificates of the store a profile names.

use toml::de::{DeTable, DeValue};

use crate::certs::{Reference, Role, store};

/// Every key that may name a certificate of the store, with what the certificate is for there.
const KEYS: [(&str, Role); 6] = [
    ("primary", Role::Server),
    ("secondary", Role::Server),
    // Of an additional one.
    ("file", Role::Server),
    ("sni_certificate", Role::Server),
    ("group_certificates", Role::Group),
    ("tls_roots", Role::Group),
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
