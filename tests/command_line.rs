//! The command line: what it prints, to whoever reads it.

use crate::common;

use std::process::Command;

use common::{Gateway, Pki, echo, server, service};

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let pki = Pki::new();
    let rest = service(&[server(echo)]);
    let _gateway = Gateway::builder(&pki).token().rest(&rest).start();
    for arguments in [
        "check",
        "check --probe",
        "check --probe --json",
        "tunnels",
        "servers list",
        "devices list",
        "devices export --format pac",
        "histogram",
        "reload",
        "profile list",
        "profile list --json",
        "certs list",
        "certs show ca.pem",
        "ticket-keys make keys",
        "ticket-keys rotate keys",
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_adit"))
            .args(arguments.split(' '))
            .current_dir(pki.folder.path())
            .stdout(writer)
            .output()
            .unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{arguments}: {told}");
        assert_eq!(told, "", "{arguments}");
    }
}
