//! Whose folder it is: one that others may write to, one that another process has, and none that a check leaves behind.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::common::{Gateway, Pki, free_port, until};

fn adit(pki: &Pki, arguments: &[&str]) -> Output {
    Command::new("timeout")
        .args(["20", env!("CARGO_BIN_EXE_adit")])
        .args(arguments)
        .current_dir(pki.folder.path())
        .output()
        .unwrap()
}

fn set_mode(folder: &Path, mode: u32) {
    std::fs::set_permissions(folder, PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
fn a_state_folder_that_others_may_write_to_is_refused_with_the_remedy() {
    let pki = Pki::new();
    Gateway::builder(&pki).servers(&[free_port()]).write();
    let state = pki.path("state");
    std::fs::create_dir(&state).unwrap();
    for mode in [0o777, 0o1777, 0o770, 0o2775] {
        set_mode(&state, mode);
        for arguments in [&["run"][..], &["check"]] {
            let output = adit(&pki, arguments);
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success(), "{mode:o} {arguments:?}");
            let shown = format!("its mode is {mode:04o}");
            assert!(error.contains(&shown), "{error}");
            // One like /tmp has its mode for a reason.
            assert_eq!(error.contains("chmod go-w"), mode != 0o1777, "{error}");
        }
        assert_eq!(
            std::fs::read_dir(&state).unwrap().count(),
            0,
            "nothing is written"
        );
    }
    // The store's own folders.
    set_mode(&state, 0o700);
    std::fs::create_dir_all(state.join("certificates/group")).unwrap();
    set_mode(&state.join("certificates/group"), 0o777);
    let import = [
        "certs",
        "import",
        "ca.pem",
        "--as",
        "group",
        "--name",
        "fleet",
        "--state-dir",
        "state",
    ];
    let output = adit(&pki, &import);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && error.contains("others may write"),
        "{error}"
    );
    // A folder in a shared one, which is made.
    set_mode(&state, 0o1777);
    let text = std::fs::read_to_string(pki.path("adit.toml")).unwrap();
    let text = text.replace("state_dir = 'state'", "state_dir = 'state/adit'");
    std::fs::write(pki.path("adit.toml"), text).unwrap();
    assert!(adit(&pki, &["check"]).status.success());
}

/// Ended when it is dropped.
struct Quickstart(Child);

impl Drop for Quickstart {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_second_quickstart_is_refused_before_it_writes() {
    let pki = Pki::new();
    let quickstart = |listen: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
        command
            .args(["quickstart", "--seconds", "1", "--listen", listen])
            .current_dir(pki.folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    };
    let (first, second) = (free_port().to_string(), free_port().to_string());
    let mut running = Quickstart(quickstart(&first).stderr(Stdio::null()).spawn().unwrap());
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
    assert!(
        lines.any(|line| line.unwrap().contains("gateway ")),
        "it starts"
    );
    std::thread::spawn(move || lines.for_each(drop));
    let files = ["adit.toml", "ca.crl", "ca.pem", "gateway.pem", "device.key"];
    let read = || files.map(|file| std::fs::read(pki.path("adit-quickstart").join(file)).unwrap());
    let before = read();
    let output = quickstart(&second).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    let holder = format!("in use by process {}", running.0.id());
    assert!(error.contains(&holder), "{error}");
    assert_eq!(read(), before);
    // The first one reads its config, and is where it was.
    let status = Command::new("kill")
        .args(["-s", "HUP", &running.0.id().to_string()])
        .status();
    assert!(status.unwrap().success());
    until("it listens", || {
        std::net::TcpStream::connect(&first).is_ok()
    });
    assert!(std::net::TcpStream::connect(&second).is_err());
    drop(running);
}
