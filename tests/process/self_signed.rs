//! The certificate that devices pin, when the clock is wrong, a start fails or a reload is refused.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use adit::certs::self_signed::self_signed_for;
use adit::certs::{Issued, Validity};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::{Duration, OffsetDateTime};

use crate::common::gateway::Builder;
use crate::common::{Gateway, Pki, echo, server, until};

/// The config of a node that makes its own certificate.
fn own(pki: &Pki) -> Builder<'_> {
    let node = Gateway::builder(pki).servers(&[server(echo)]);
    node.certificate(None)
}

/// Every file below a folder but the lock, whose text is a process's number.
fn files_of(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if !["adit.lock", "admin.sock"]
                .map(Into::into)
                .contains(&entry.file_name())
            {
                all.insert(path.display().to_string(), std::fs::read(path).unwrap());
            }
        }
    }
    all
}

/// One that is valid between these days from now, in the state folder.
fn put(pki: &Pki, from: i64, to: i64) -> Issued {
    let now = OffsetDateTime::now_utc();
    let validity = Validity::between(now + Duration::days(from), now + Duration::days(to));
    let made = self_signed_for(&["localhost".into()], validity.unwrap()).unwrap();
    let state = pki.path("state");
    let _ = std::fs::remove_dir_all(&state);
    adit::files::own_folder(&state).unwrap();
    let file = |name: &str| state.join(name);
    made.write(
        &file("server-self-signed.pem"),
        &file("server-self-signed.key"),
    )
    .unwrap();
    made
}

fn served(gateway: &Gateway) -> Vec<u8> {
    let address = gateway.address.to_string();
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &address])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    CertificateDer::from_pem_slice(text.as_bytes())
        .unwrap()
        .to_vec()
}

#[test]
fn a_certificate_that_is_not_valid_yet_is_served_and_stays() {
    let pki = Pki::new();
    let made = put(&pki, 1, 700);
    let before = files_of(&pki.path("state"));
    let gateway = own(&pki).start();
    assert_eq!(served(&gateway), made.chain[0].as_ref());
    gateway.signal("HUP");
    until("the reload", || {
        gateway.metric("adit_config_generation", "") == 2.0
    });
    assert_eq!(files_of(&pki.path("state")), before);
}

#[test]
fn an_expired_one_gets_a_successor_with_its_key_and_is_kept() {
    let pki = Pki::new();
    put(&pki, -900, -80);
    let before = files_of(&pki.path("state"));
    let gateway = own(&pki).start();
    let after = files_of(&pki.path("state"));
    for (name, content) in &before {
        assert!(
            after.values().any(|other| other == content),
            "{name} of {:?}",
            after.keys()
        );
    }
    let key = pki
        .path("state/server-self-signed.key")
        .display()
        .to_string();
    assert_eq!(before[&key], after[&key]);
    let new = adit::certs::read_certificates(&pki.path("state/server-self-signed.pem")).unwrap();
    assert_eq!(served(&gateway), new[0].as_ref());
}

/// Each kind of refusal, at a start and at a reload, with a certificate that the change would have replaced.
#[test]
fn what_is_refused_leaves_the_state_folder_as_it_was() {
    let pki = Pki::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    std::fs::write(pki.path("bad.csv"), "device,state\nphone,mangled\n").unwrap();
    std::fs::write(pki.path("bad.crl"), "no list").unwrap();
    std::fs::write(pki.path("bad.keys"), "no keys").unwrap();
    let node = own(&pki);
    let good = node.text();
    let registry = "unmanaged = 'allow'\ndevice_registry = 'bad.csv'";
    let https = "https = '127.0.0.1:0'";
    assert!(good.contains(https) && good.contains("unmanaged = 'allow'"));
    let other = |text: &str| text.replace("localhost:8443", "other.example.com:443");
    let bad = [
        good.replace("unmanaged = 'allow'", registry),
        good.replace("'ca.crl'", "'bad.crl'"),
        good.replace(https, &format!("https = '{taken}'")),
        good.clone() + "[profile.tls]\nticket_keys = 'bad.keys'\n",
        good.replace("'ca.pem'", "'bad.crl'"),
        good.clone() + "[profile.nonsense]\n",
    ];
    // At a start: expired and for another name, so that both would be replaced.
    for (index, text) in bad.iter().enumerate() {
        put(&pki, -900, -80);
        let before = files_of(&pki.path("state"));
        for text in [text.clone(), other(text)] {
            std::fs::write(pki.path("adit.toml"), text).unwrap();
            let output = Gateway::command(&pki).output().unwrap();
            assert!(!output.status.success(), "{index}");
            assert_eq!(files_of(&pki.path("state")), before, "{index}");
        }
    }
    // At a reload: for another name.
    let made = put(&pki, -1, 700);
    let gateway = node.start();
    let before = files_of(&pki.path("state"));
    for (index, text) in bad.iter().enumerate() {
        std::fs::write(pki.path("adit.toml"), other(text)).unwrap();
        gateway.signal("HUP");
        until("the refusal", || {
            gateway.metric("adit_config_reload_failures_total", "") >= (index + 1) as f64
        });
        assert_eq!(files_of(&pki.path("state")), before, "{index}");
        assert_eq!(served(&gateway), made.chain[0].as_ref());
    }
    // And what is taken loses nothing.
    std::fs::write(pki.path("adit.toml"), other(&good)).unwrap();
    gateway.signal("HUP");
    until("the other name", || {
        served(&gateway) != made.chain[0].as_ref()
    });
    let after = files_of(&pki.path("state"));
    for (name, content) in &before {
        assert!(after.values().any(|other| other == content), "{name}");
    }
}

/// The system refuses the last step of a reload, in which certificates change places: devices stay as they were too.
#[test]
fn a_reload_that_fails_in_its_last_step_changes_no_device() {
    use sha2::{Digest, Sha256};

    let pki = Pki::new();
    let made = put(&pki, -1, 700);
    let node = own(&pki);
    let with = |file: &str| {
        let registry = format!("unmanaged = 'allow'\ndevice_registry = '{file}'");
        node.clone().auth(&registry)
    };
    std::fs::write(pki.path("old.csv"), "phone,managed\n").unwrap();
    std::fs::write(pki.path("new.csv"), "phone,blocked\n").unwrap();
    let gateway = with("old.csv").start();
    // Where the certificate that makes room is to be kept, there is a folder.
    let hash = Sha256::digest(made.chain[0].as_ref());
    let name: String = hash[..8]
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect();
    let in_the_way = pki.path(&format!("state/server-self-signed-kept-{name}.pem"));
    std::fs::create_dir(&in_the_way).unwrap();
    let before = files_of(&pki.path("state"));
    let other = with("new.csv").replace("localhost:8443", "other.example.com:443");
    other.write();
    gateway.signal("HUP");
    until("the refusal", || {
        gateway.metric("adit_config_refused", "") == 1.0
    });
    let phone = || gateway.get("/devices/phone").1;
    assert!(phone().contains("managed"), "{}", phone());
    assert_eq!(served(&gateway), made.chain[0].as_ref());
    assert_eq!(files_of(&pki.path("state")), before);
    std::fs::remove_dir(&in_the_way).unwrap();
    gateway.signal("HUP");
    until("all of it", || phone().contains("blocked"));
    assert_ne!(served(&gateway), made.chain[0].as_ref());
}

#[test]
fn a_check_leaves_no_trace() {
    let pki = Pki::new();
    own(&pki).write();
    let temporary = pki.path("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let before = files_of(pki.folder.path());
    let check = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
        command
            .args(["check", "--config"])
            .arg(pki.path("adit.toml"));
        command.env("TMPDIR", &temporary).output().unwrap()
    };
    let output = check();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(files_of(pki.folder.path()), before);
    assert!(!pki.path("state").exists());
    // Nor where one has expired, or is for another name.
    put(&pki, -900, -80);
    let before = files_of(pki.folder.path());
    let output = check();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(files_of(pki.folder.path()), before);
}
