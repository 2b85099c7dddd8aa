//! The files of a certificate of the gateway, and how they are read from its keys.

use std::path::PathBuf;

use super::error::{Fault, Report};
use super::named::{CertificateName, FileName};
use super::slot::{Slot, Value};
use super::values::Folder;

/// Files of a certificate. They existed and could be opened when the config was read; what is in
/// them is not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// File with the chain, and with the key too unless `key` names another file.
    pub file: PathBuf,
    /// File with the key.
    pub key: Option<PathBuf>,
    /// File with the password of both.
    pub password_file: Option<PathBuf>,
}

/// The files of a certificate that a service may have, and its key, which needs the certificate:
/// `what` is that one's key.
pub(super) fn optional_certificate(
    what: &str,
    file: Slot<CertificateName>,
    key: Slot<FileName>,
    folder: &Folder,
    report: &mut Report,
) -> Option<CertificateFiles> {
    let absent = file.written().is_none();
    if let (true, Some(place)) = (absent, key.written()) {
        let message = "is the key of a certificate that is not named";
        report.add(place, Fault::new(message, format!("name {what} too")));
    }
    let none = Slot {
        place: file.place.clone(),
        value: Value::Absent,
    };
    let seen = &mut Vec::new();
    let files = certificate_files(file, [key, none], (folder, seen), report);
    (!absent).then_some(files)
}

/// The files of one certificate of the gateway, which is none of those `seen` before: of the chain,
/// the key and the password. What comes from the store has its key with it, and no password.
pub(super) fn certificate_files(
    file: Slot<CertificateName>,
    [key, password_file]: [Slot<FileName>; 2],
    (folder, seen): (&Folder, &mut Vec<PathBuf>),
    report: &mut Report,
) -> CertificateFiles {
    let stored = matches!(&file.value, Value::Given(named) if named.stored().is_some());
    let file = file.parse(report, |named| {
        let file = folder.certificate(&named)?;
        if seen.contains(&file) {
            let message = "the file is already named as another server certificate";
            return Err(Fault::new(message, "name each certificate once"));
        }
        seen.push(file.clone());
        Ok(file)
    });
    let mut beside = |slot: Slot<FileName>| {
        let file = slot.parse(report, |file| {
            if stored {
                let message = "a certificate of the store has its key with it, and no password";
                return Err(Fault::new(message, "leave the key out"));
            }
            folder.readable(&file)
        });
        file.given()
    };
    CertificateFiles {
        file: file.or(PathBuf::new()),
        key: beside(key),
        password_file: beside(password_file),
    }
}
