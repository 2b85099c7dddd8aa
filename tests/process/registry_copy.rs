//! The device registry's last good copy stands in for its own file only, whatever the format.

use std::net::SocketAddr;
use std::process::Command;

use crate::common::{Gateway, Pki, config, free_port, service, until};

fn write_config(pki: &Pki, admin: SocketAddr, registry: &str) {
    let auth = format!("device_registry = '{registry}'");
    let text = config(admin, "cores = 1", &auth, &service(&[free_port()]));
    std::fs::write(pki.path("adit.toml"), text).unwrap();
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
    let (pki, admin) = (Pki::new(), free_port());
    std::fs::write(pki.path("old.csv"), "lost-phone,managed\n").unwrap();
    std::fs::write(pki.path("new.csv"), "lost-phone,mangled\n").unwrap();
    write_config(&pki, admin, "old.csv");
    drop(Gateway::run(&pki, admin));
    // It stands in for its own file.
    std::fs::write(pki.path("old.csv"), "lost-phone,mangled\n").unwrap();
    let gateway = Gateway::run(&pki, admin);
    assert_eq!(state_of(&gateway, "lost-phone"), "managed");
    assert_eq!(gateway.metric("adit_registry_stale", ""), 1.0);
    drop(gateway);
    // And for no other.
    write_config(&pki, admin, "new.csv");
    let error = refused_start(&pki);
    assert!(
        error.contains("new.csv:1") && error.contains("old.csv"),
        "{error}"
    );
    // The copy is there still.
    write_config(&pki, admin, "old.csv");
    let gateway = Gateway::run(&pki, admin);
    assert_eq!(state_of(&gateway, "lost-phone"), "managed");
}

#[test]
fn ndjson_is_read_copied_and_reloaded() {
    let (pki, admin) = (Pki::new(), free_port());
    let write = |text: &str| std::fs::write(pki.path("devices.ndjson"), text).unwrap();
    write(
        "{\"device\": \"one\", \"state\": \"managed\", \"user\": \"ann\"}\n\n{\"device\": \"two\", \"state\": \"blocked\"}\n",
    );
    write_config(&pki, admin, "devices.ndjson");
    let gateway = Gateway::run(&pki, admin);
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
    assert!(gateway.get("/readyz").1.contains("devices.ndjson:1"));
    drop(gateway);
    let gateway = Gateway::run(&pki, admin);
    assert_eq!(gateway.metric("adit_registry_stale", ""), 1.0);
    assert_eq!(states(&gateway), ["unmanaged", "unmanaged", "managed"]);
}
