//! A test fleet's certificates, without openssl: authorities, the certificates of devices and servers, revocation lists.
//!
//! `adit certs make-ca`, `issue` and `revoke`, `adit quickstart` and the tests use it; the rooms of the gateway do not. It is
//! not a certification authority with a database of what it issued. The feature `lab` includes it in the build.

mod authority;
mod command;
mod revoke;

#[cfg(test)]
pub(crate) mod made;
#[cfg(test)]
mod tests;

pub use authority::{
    CA_CERTIFICATE_FILE, CA_KEY_FILE, CertificateAuthority, MakeCa, issue, make_ca,
};
pub use command::LabCommand;
pub use revoke::{CRL_FILE, Crl, CrlRequest, Reason, revoke, serial_of_issued};
