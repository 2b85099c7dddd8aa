//! What the command line makes of an admin listener that does not answer as it should.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::{Gateway, free_port, server};

fn adit(admin: SocketAddr, arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_adit"))
        .args(arguments.split(' '))
        .args(["--admin", &admin.to_string()])
        .output()
        .unwrap()
}

/// Whether it was a success, and what it has said.
fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// Reads a request's head, and its body where one is announced.
fn read_request(stream: &mut TcpStream) {
    let mut all = Vec::new();
    let mut byte = [0];
    while !all.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count > 0) {
        all.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&all).to_lowercase();
    let length = head.split("content-length: ").nth(1);
    let length = length.and_then(|rest| rest.split("\r\n").next()?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    let _ = stream.read_exact(&mut body);
}

/// An admin listener that gives this answer, and closes.
fn answering(answer: impl Into<Vec<u8>>) -> SocketAddr {
    let answer = Arc::new(answer.into());
    server(move |mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(&answer);
    })
}

fn ok(media_type: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {media_type}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

const LISTS: [&str; 4] = ["devices list", "tunnels", "servers list", "devices get a"];
const CHANGES: [&str; 5] = [
    "tunnels --close --device a",
    "devices put a --state managed",
    "devices delete a",
    "servers drain wiki 10.0.0.5:443",
    "reload",
];

#[test]
fn an_answer_that_is_cut_at_any_byte_is_none() {
    let whole = ok(
        "application/json",
        "[{\"device\":\"a\",\"state\":\"managed\"}]",
    );
    let output = adit(answering(whole.clone()), "devices list");
    assert_eq!(said(&output).0, Some(0), "{output:?}");
    for cut in 0..whole.len() {
        let output = adit(answering(&whole[..cut]), "devices list");
        let (code, printed, told) = said(&output);
        assert_eq!((code, &*printed), (Some(1), ""), "cut at {cut}: {told}");
        assert!(
            told.contains("no answer from the admin listener"),
            "cut at {cut}: {told}"
        );
    }
}

#[test]
fn every_command_refuses_what_is_no_whole_answer() {
    let body = "{\"generation\":7}";
    let whole = ok("application/json", body);
    let chunked = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n\
                   10\r\n{\"generation\":7}\r\n";
    let endless = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{body}");
    let old = format!("HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{body}");
    let page = ok("text/html", "<h1>It works!</h1>");
    let wrong = ok("application/json", "{\"generation\":");
    let short = whole.replace("content-length: 16", "content-length: 17");
    let cases = [
        ("a byte too few", short.as_str()),
        ("a chunk too few", chunked),
        ("no length", &endless),
        ("an old server", &old),
        ("another server", &page),
        ("not JSON", &wrong),
        ("no HTTP", "220 mail.example ESMTP\r\n"),
        ("nothing", ""),
        (
            "no content",
            "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            "a redirect",
            "HTTP/1.1 301 Moved\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n",
        ),
    ];
    for (what, answer) in cases {
        let admin = answering(answer);
        for command in LISTS.iter().chain(&CHANGES) {
            let (code, printed, told) = said(&adit(admin, command));
            assert_eq!(
                (code, &*printed),
                (Some(1), ""),
                "{command}, {what}: {told}"
            );
            assert!(told.contains("admin listener"), "{command}, {what}: {told}");
            assert!(
                !told.contains("panicked") && !told.contains("Error("),
                "{told}"
            );
        }
    }
    let (code, _, told) = said(&adit(answering(ok("text/html", "x")), "histogram"));
    assert_eq!(code, Some(1), "{told}");
    let text = ok("text/plain; charset=utf-8", "1 2 3");
    assert_eq!(said(&adit(answering(text), "histogram")).1, "1 2 3\n");
    assert_eq!(
        said(&adit(answering(whole), "reload")).1,
        "generation 7 is active\n"
    );
}

#[test]
fn a_part_that_is_missing_is_said() {
    let lists = [
        ("adit-silent-cores: 1", "core 1", Some(1)),
        ("adit-silent-process: 77", "process 77", Some(1)),
        ("adit-tunnels-total: 5000", "1 of 5000", Some(0)),
    ];
    for (field, told, code) in lists {
        let answer = ok("application/json", "[{\"id\":1}]")
            .replace("\r\n\r\n", &format!("\r\n{field}\r\n\r\n"));
        let output = said(&adit(answering(answer), "tunnels"));
        assert_eq!(output.0, code, "{output:?}");
        assert!(output.2.contains(told), "{output:?}");
        assert!(
            output.1.contains("\"id\":1"),
            "what there is, is printed: {output:?}"
        );
    }
}

#[test]
fn slow_a_listener_that_hangs_is_given_up() {
    // It takes the request, and says nothing; or a half, and nothing more.
    let whole = ok("application/json", "[]");
    let half = whole[..whole.len() - 1].to_owned();
    let hanging = |text: String| {
        server(move |mut stream| {
            read_request(&mut stream);
            let _ = stream.write_all(text.as_bytes());
            std::thread::sleep(Duration::from_secs(60));
        })
    };
    let begun = Instant::now();
    let commands = [hanging(String::new()), hanging(half)]
        .map(|admin| std::thread::spawn(move || said(&adit(admin, "devices list"))));
    for command in commands {
        let (code, printed, told) = command.join().unwrap();
        assert_eq!((code, &*printed), (Some(1), ""), "{told}");
        assert!(told.contains("10 s"), "{told}");
    }
    assert!(begun.elapsed() < Duration::from_secs(40), "bounded");
}

#[test]
fn nobody_there_is_said() {
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (code, _, told) = said(&adit(nobody, "tunnels"));
    assert_eq!(code, Some(1));
    assert!(told.contains("is the node running?"), "{told}");
}

/// Each exit code means one thing, whichever command it is of.
#[test]
fn what_is_wrong_on_the_command_line_or_in_the_config_is_2_for_every_command() {
    let pki = crate::common::Pki::new();
    std::fs::write(pki.path("state"), "a file").unwrap();
    let node = Gateway::builder(&pki).engine("cores = 1");
    node.servers(&[free_port()]).write();
    std::fs::write(pki.path("bad.toml"), "nonsense").unwrap();
    for arguments in [
        "run",
        "check",
        "run --config bad.toml",
        "check --config bad.toml",
        "tunnels --config bad.toml",
        "tunnels --admin foo",
        "reload --admin foo",
        "tunnels --close",
        "devices import none.csv",
        "nonsense",
    ] {
        let output = Command::new("timeout")
            .args(["20", env!("CARGO_BIN_EXE_adit")])
            .args(arguments.split(' '))
            .current_dir(pki.folder.path())
            .output()
            .unwrap();
        let (code, _, told) = said(&output);
        assert_eq!(code, Some(2), "{arguments}: {told}");
    }
}
