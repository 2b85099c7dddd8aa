//! Certificates, private keys and revocation lists: reading them from files, making them, and saying what is in them.
//!
//! What a file is, is decided by its content and never by its name: PEM with any order and mix of blocks,
//! DER, PKCS#7 or PKCS#12. Every
//! error names the file and what would put it right; no error ever carries the content of a key file. Files are written
//! whole or not at all (see [`files`](crate::files)), keys with mode 0600 from the moment they exist, and an existing key or authority is
//! never replaced.
//!
//! This room does not decide whom to trust: chains are verified in the `tls` room. It makes one certificate: the gateway's
//! own, self-signed. Authorities and what they sign are made in `lab`.
//!
//! - [`read`]: files to DER
//! - [`make`], [`mod@self_signed`]: keys, requests, the gateway's own certificate
//! - [`pem`]: DER to PEM
//! - [`mod@describe`]: what a file holds, as text or JSON
//! - [`term`]: when a chain can be used, and which of several
//! - [`chain`]: the chain of an end certificate in a file
//! - [`group`]: what is wrong with group certificates
//! - [`findings`]: what is wrong with a file, before it is used
//! - [`policy`]: what may stand where in a path
//! - [`store`]: certificates by name, in the state folder
//! - [`export`]: certificates for others
//! - [`profile`]: what makes a device use this gateway
//! - [`check`]: `adit certs check`

mod apple;
mod blocks;
pub mod chain;
pub mod check;
pub mod describe;
pub mod export;
pub mod findings;
mod frame;
pub mod group;
mod kdf;
mod lists;
pub mod make;
mod pairs;
mod pbe;
pub mod pem;
mod pkcs12;
mod pkcs7;
pub mod policy;
pub mod profile;
pub mod read;
pub mod self_signed;
pub mod serial;
mod spelling;
pub mod store;
pub mod term;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use crate::files::FileError;

pub use check::print;
pub use describe::{Description, describe, describe_with};
pub use export::{Export, ExportFormat};
pub use findings::{Role, inspect, refuses};
pub use lists::{crls_in, read_crls};
pub use make::{IssueRequest, Issued, KeyType, Validity};
pub use policy::PathFault;
pub use read::{
    CertFile, Identity, key_matches, read_certificates, read_certificates_with, read_identity,
    read_password, read_private_key,
};
pub use self_signed::self_signed;
pub use serial::Serial;
pub use store::{Candidate, Facts, Name, Reference, Store, StoredCertificate};
pub use term::Term;

/// Why a certificate, key or CRL could not be read, made or written. The text of each says where and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertError {
    /// A file or folder that cannot be read or written, or is not used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file was read, and is not what it should be.
    #[error("{path}: {problem}; {remedy}")]
    Content {
        /// The file.
        path: PathBuf,
        /// The fault. Never part of a key.
        problem: String,
        /// The remedy.
        remedy: &'static str,
    },
    /// The private key is protected by a password.
    #[error(
        "{path}: the private key is encrypted; name the file of its password with --password-file, or in the config with password_file, or decrypt it with `openssl pkey -in {path} -out plain.key` and keep that file at mode 0600"
    )]
    EncryptedKey {
        /// The file.
        path: PathBuf,
    },
    /// The file is protected by a password, and none was given.
    #[error(
        "{path}: protected by a password, and none is given; name its file with --password-file, or in the config with password_file or group_password_file (an empty file is the empty password)"
    )]
    PasswordMissing {
        /// The file.
        path: PathBuf,
    },
    /// The file is protected by another password.
    #[error("{path}: the password is wrong, or the file was changed; check the password's file")]
    PasswordWrong {
        /// The file.
        path: PathBuf,
    },
    /// A certificate file was looked at, and has errors. They were printed.
    #[error("the certificate file has errors ({errors})")]
    Findings {
        /// How many.
        errors: usize,
    },
    /// The store has a certificate of that name.
    #[error(
        "a {role} certificate {name} is in the store already; choose another name, or ask for it to be replaced (--replace, ?replace=true)"
    )]
    InStore {
        /// Its purpose.
        role: &'static str,
        /// The name.
        name: Name,
    },
    /// The store has no certificate of that name.
    #[error(
        "there is no {role} certificate {name} in the store; `adit certs list` shows what there is"
    )]
    NotInStore {
        /// Its purpose.
        role: &'static str,
        /// The name.
        name: Name,
    },
    /// The requested object cannot be made.
    #[error("{problem}; {remedy}")]
    Request {
        /// The fault.
        problem: String,
        /// The remedy.
        remedy: &'static str,
    },
    /// Generating a key or signing failed inside the cryptographic library.
    #[error("cannot {action}: {cause}")]
    Crypto {
        /// The action, as a verb with its object.
        action: &'static str,
        /// The library's message. Never part of a key.
        cause: String,
    },
}

impl CertError {
    pub(crate) fn io(action: &'static str, path: &Path, cause: io::Error) -> Self {
        FileError::io(action, path, cause).into()
    }

    /// Returns what the operating system says, where it refuses.
    pub(crate) fn refusal(&self) -> Option<io::ErrorKind> {
        match self {
            Self::File(FileError::Io { cause, .. }) => Some(cause.kind()),
            _ => None,
        }
    }

    pub(crate) fn content(path: &Path, problem: impl Into<String>, remedy: &'static str) -> Self {
        Self::Content {
            path: path.to_path_buf(),
            problem: problem.into(),
            remedy,
        }
    }

    pub(crate) fn request(problem: impl Into<String>, remedy: &'static str) -> Self {
        Self::Request {
            problem: problem.into(),
            remedy,
        }
    }

    pub(crate) fn crypto(action: &'static str, cause: impl ToString) -> Self {
        Self::Crypto {
            action,
            cause: cause.to_string(),
        }
    }
}
