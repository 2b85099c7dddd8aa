//! The command line: what it prints, to whoever reads it.

use crate::common;

use std::process::Command;

use common::{Gateway, Pki, config_with_token, echo, free_port, server, service};

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let (pki, admin) = (Pki::new(), free_port());
    let rest = service(&[server(echo)]);
    let text = config_with_token(&pki, admin, "", "unmanaged = 'allow'", &rest);
    std::fs::write(pki.path("adit.toml"), text).unwrap();
    let _gateway = Gateway::run(&pki, admin);
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
