//! The device registry's last good copy stands in for its own file only, whatever the format.

use std::process::Command;

use crate::common::gateway::Builder;
use crate::common::{Gateway, Pki, free_port, until};

fn config<'p>(pki: &'p Pki, registry: &str) -> Builder<'p> {
    let auth = format!("device_registry = '{registry}'");
    let node = Gateway::builder(pki).engine("cores = 1").auth(&auth);
    node.servers(&[free_port()])
}

fn state_of(gateway: &Gateway, device: &str) -> String {
    let (status, body) = gateway.get(&format!("/devices/{device}"));
    let body: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
    match status {
        200 => body["state"].as_str().unwrap_or_default().to_owned(),
        _ => "unmanaged".to_owned(),
    }
}

fn refused_start(pki: &Pki) -> String {
    let mut command = Command::new("timeout");
    command.args(["20", env!("CARGO_BIN_EXE_adit"), "run", "--config"]);
    let output = command.arg(pki.path("adit.toml")).output().unwrap();
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn another_file_that_is_broken_does_not_get_the_devices_of_the_first() {
    let pki = Pki::new();
    std::fs::write(pki.path("old.csv"), "lost-phone,managed\n").unwrap();
    std::fs::write(pki.path("new.csv"), "lost-phone,mangled\n").unwrap();
    drop(config(&pki, "old.csv").start());
    // It stands in for its own file.
    std::fs::write(pki.path("old.csv"), "lost-phone,mangled\n").unwrap();
    let gateway = config(&pki, "old.csv").start();
    assert_eq!(state_of(&gateway, "lost-phone"), "managed");
    assert_eq!(gateway.metric("adit_registry_stale", ""), 1.0);
    drop(gateway);
    // And for no other.
    config(&pki, "new.csv").write();
    let error = refused_start(&pki);
    assert!(
        error.contains("new.csv:1") && error.contains("old.csv"),
        "{error}"
    );
    // The copy is there still.
    let gateway = config(&pki, "old.csv").start();
    assert_eq!(state_of(&gateway, "lost-phone"), "managed");
}

#[test]
fn ndjson_is_read_copied_and_reloaded() {
    let pki = Pki::new();
    let write = |text: &str| std::fs::write(pki.path("devices.ndjson"), text).unwrap();
    write(
        "{\"device\": \"one\", \"state\": \"managed\", \"user\": \"ann\"}\n\n{\"device\": \"two\", \"state\": \"blocked\"}\n",
    );
    let node = config(&pki, "devices.ndjson");
    let gateway = node.start();
    let states = |gateway: &Gateway| ["one", "two", "three"].map(|name| state_of(gateway, name));
    assert_eq!(states(&gateway), ["managed", "blocked", "unmanaged"]);
    write("{\"device\": \"three\", \"state\": \"managed\"}\n");
    gateway.reload();
    assert_eq!(states(&gateway), ["unmanaged", "unmanaged", "managed"]);
    // A line of the other format is named, and nothing changes.
    write("four,managed\n");
    gateway.signal("HUP");
    until("the refusal", || {
        gateway.metric("adit_config_refused", "") == 1.0
    });
    let refused = "devices.ndjson\",\"line\":1,";
    assert!(gateway.get("/readyz").1.contains(refused));
    drop(gateway);
    let gateway = node.start();
    assert_eq!(gateway.metric("adit_registry_stale", ""), 1.0);
    assert_eq!(states(&gateway), ["unmanaged", "unmanaged", "managed"]);
}
