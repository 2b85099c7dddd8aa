//! The files and the certificates of the store that a text names, noted where a key is read.
//!
//! Only [`NamedFiles`] makes the names that can be opened, so no key whose file is opened can be
//! left out of what is watched, and no certificate that is used can be deleted from the store.

use std::collections::BTreeSet;

use super::error::Fault;
use crate::certs::store::{self, NameError};
use crate::certs::{Reference, Role};

/// A file, as the text names it.
#[derive(Debug, Clone)]
pub(super) struct FileName(String);

impl FileName {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A certificate, as the text names it: a path, or `store:` and the name of one in the store.
#[derive(Debug, Clone)]
pub(super) struct CertificateName {
    file: FileName,
    role: Role,
}

impl CertificateName {
    pub(super) fn as_str(&self) -> &str {
        self.file.as_str()
    }

    /// The certificate of the store that is meant; `None` for a path.
    pub(super) fn stored(&self) -> Option<Result<Reference, Fault>> {
        let name = self.as_str().strip_prefix(store::PREFIX)?.parse();
        let role = self.role;
        let reference = name.map(|name| Reference { role, name });
        Some(reference.map_err(|error: NameError| Fault::new(error.message(), error.remedy())))
    }
}

/// Files and certificates that a text names.
#[derive(Debug, Default)]
pub(super) struct NamedFiles {
    files: Vec<FileName>,
    certificates: Vec<CertificateName>,
}

impl NamedFiles {
    /// A file whose contents take effect by a reload.
    pub(super) fn file(&mut self, text: String) -> FileName {
        let file = FileName(text);
        self.files.push(file.clone());
        file
    }

    /// A file that is looked at by itself whenever it changes.
    pub(super) fn live_file(text: String) -> FileName {
        FileName(text)
    }

    /// A certificate of that role.
    pub(super) fn certificate(&mut self, text: String, role: Role) -> CertificateName {
        let file = FileName(text);
        let certificate = CertificateName { file, role };
        self.certificates.push(certificate.clone());
        certificate
    }

    pub(super) fn files(&self) -> &[FileName] {
        &self.files
    }

    pub(super) fn certificates(&self) -> &[CertificateName] {
        &self.certificates
    }

    /// The certificates of the store, each once and in order.
    pub(super) fn stored(&self) -> Vec<Reference> {
        let named = self.certificates.iter().filter_map(CertificateName::stored);
        let stored: BTreeSet<Reference> = named.flatten().collect();
        stored.into_iter().collect()
    }
}
