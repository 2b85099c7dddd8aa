//! `adit certs`, and configs whose certificates are in the store.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a test's helper: each file uses its part, and fails by panic"
)]

use std::path::PathBuf;
use std::process::{Command, Output};

use crate::common::Pki;
use crate::common::gateway::{Builder, Gateway};

pub const ADIT: &str = env!("CARGO_BIN_EXE_adit");

pub fn run(pki: &Pki, program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    let command = command.args(arguments).current_dir(pki.folder.path());
    command.output().unwrap()
}

/// `adit certs …`: the exit code and all that it says.
pub fn certs(pki: &Pki, arguments: &str) -> (i32, String) {
    let mut words = vec!["certs"];
    words.extend(arguments.split(' '));
    let output = run(pki, ADIT, &words);
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8(text).unwrap(),
    )
}

#[track_caller]
pub fn done(pki: &Pki, arguments: &str) -> String {
    let (code, said) = certs(pki, arguments);
    assert_eq!(code, 0, "{arguments}: {said}");
    said
}

#[track_caller]
pub fn refused(pki: &Pki, arguments: &str, code: i32, why: &str) {
    let (was, said) = certs(pki, arguments);
    assert_eq!(was, code, "{arguments}: {said}");
    assert!(said.contains(why), "{arguments}: {said}");
}

/// Its state folder's file of a certificate.
pub fn stored(pki: &Pki, kind: &str, name: &str) -> PathBuf {
    pki.path(&format!("state/certificates/{kind}/{name}.pem"))
}

/// A config in which the server and group certificates come from the store.
pub fn stored_config<'p>(pki: &'p Pki, group: &str) -> Builder<'p> {
    let node = Gateway::builder(pki).certificate(Some("primary = 'store:front'"));
    node.replace("['ca.pem']", group)
}

/// A server certificate in PKCS#12 with its authority, and the password in a file.
pub fn pkcs12(pki: &Pki, name: &str, pem: &str) {
    pki.secret("pass", "hunter2\n");
    pki.pkcs12(name, pem, "hunter2", &[]);
}
