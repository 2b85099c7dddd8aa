//! Networks of a test's own.

use std::process::{Command, Stdio};

/// `ip` with these arguments, in the namespace of the test.
pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.expect("tests/run installs iproute2");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {told}");
}

/// Runs this test once more where it may make networks: in namespaces of its own, as their root. False in there.
pub fn outside(test: &str) -> bool {
    if std::env::var_os("ADIT_IN_NAMESPACES").is_some() {
        return false;
    }
    let output = Command::new("timeout")
        .args([
            "-s",
            "KILL",
            "90",
            "unshare",
            "--user",
            "--map-root-user",
            "--net",
        ])
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("ADIT_IN_NAMESPACES", "yes")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (out, told) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success() && out.contains("1 passed"),
        "{out}{told}"
    );
    true
}
