//! h2spec (<https://github.com/summerwind/h2spec>) against the gateway's HTTP/2.
//!
//! No package registry has it, so that `tests/run` cannot install it, and the test is only run when it is asked for. It
//! builds from its source with Debian's golang, golang-github-spf13-cobra-dev, golang-github-fatih-color-dev and
//! golang-golang-x-net-dev (in `$GOPATH/src/github.com/summerwind/h2spec`, with `GO111MODULE=off`):
//!
//! ```sh
//! H2SPEC=$PWD/h2spec cargo test --test h2spec -- --ignored
//! ```

use crate::common;

use std::process::{Command, Stdio};

use common::{Gateway, Pki, Program, echo, free_port, server};

/// What h2spec asks for where a stream alone is at fault.
const OF_A_STREAM: [&str; 2] = [
    "The endpoint MUST treat this as a stream error",
    "The endpoint MUST sends a RST_STREAM frame",
];

/// h2spec asks with GET and POST, which the gateway refuses at their header section, and resets. What is wrong on a stream
/// that is over is then ignored (RFC 9113, section 5.1), where h2spec, if it is the faster one, would have seen an error.
/// So a few tests of streams may fail, another few each time; what is wrong about a session must always be told.
#[test]
#[ignore = "no registry has h2spec: build it from its source, and name it in H2SPEC"]
fn slow_h2spec_finds_fault_with_nothing_but_streams_that_are_over() {
    let h2spec = std::env::var_os("H2SPEC").expect("H2SPEC names the program");
    let pki = Pki::new();
    pki.client("device", |_| ());
    let both = ["device.pem", "device.key"].map(|name| std::fs::read(pki.path(name)).unwrap());
    std::fs::write(pki.path("both.pem"), both.concat()).unwrap();
    let gateway = Gateway::builder(&pki).servers(&[server(echo)]).start();
    // h2spec has no client certificate; HAProxy puts its connections into TLS with one.
    let (front, to) = (free_port(), gateway.address);
    let config = format!(
        "listen l\n  mode tcp\n  bind {front}\n  \
         server s {to} ssl crt both.pem ca-file ca.pem sni str(localhost) alpn h2\n"
    );
    let _haproxy = Program::haproxy(&pki, &config, &[front]);
    let output = Command::new("timeout")
        .args(["-s", "KILL", "300"])
        .arg(h2spec)
        .args(["-p", &front.port().to_string(), "--strict"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let sum = told.lines().rev().find(|line| line.contains(" tests, "));
    let sum = sum.unwrap_or_else(|| panic!("no sum: {told}"));
    eprintln!("{sum}");
    let words: Vec<&str> = sum
        .split([' ', ','])
        .filter(|word| !word.is_empty())
        .collect();
    let passed: u32 = words[2].parse().unwrap();
    assert!(words[3] == "passed" && passed >= 140, "{told}");
    if let Some((_, failures)) = told.split_once("Failures:") {
        let demands = failures
            .lines()
            .filter_map(|line| line.trim().strip_prefix("-> "));
        for demand in demands {
            let of_a_stream = OF_A_STREAM.iter().any(|start| demand.starts_with(start));
            assert!(of_a_stream, "{demand}: {failures}");
        }
    }
}
