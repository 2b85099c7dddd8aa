//! Lists as authorities, servers and operators really make them: taken, or refused in words that say what to do.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};

use adit::certs;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::common::{
    Gateway, Pki, TOKEN, World, echo, free_port, is_let_in, server, service, until,
};

/// A list that OpenSSL makes with the key of NAME.pem and NAME.key.
pub struct List {
    by: &'static str,
    number: u32,
    begins: i64,
    ends: i64,
    digest: String,
    more: String,
}

/// Makes NAME.pem and NAME.key, an authority called NAME.
pub fn openssl_authority(pki: &Pki, name: &str, key: &str, more: &[&str]) {
    let (pem, private) = (format!("{name}.pem"), format!("{name}.key"));
    let subject = match name {
        "other" => "/CN=signing".to_owned(),
        name => format!("/CN={name}"),
    };
    let mut arguments = vec![
        "req", "-x509", "-nodes", "-days", "9", "-subj", &subject, "-newkey",
    ];
    arguments.extend(key.split(' '));
    arguments.extend(["-out", &pem, "-keyout", &private]);
    if more.is_empty() {
        pki.openssl(&arguments);
        return;
    }
    // Signed by another one: OpenSSL 3.0 has that for requests only.
    arguments.retain(|argument| *argument != "-x509" && *argument != "-days" && *argument != "9");
    pki.openssl(&[&["req", "-new"], &arguments[1..]].concat());
    std::fs::write(pki.path("ca.ext"), "basicConstraints=critical,CA:TRUE\n").unwrap();
    let sign = [
        "x509",
        "-req",
        "-days",
        "9",
        "-in",
        &pem,
        "-out",
        &pem,
        "-extfile",
        "ca.ext",
        "-set_serial",
        "77",
    ];
    pki.openssl(&[&sign, more].concat());
}

impl List {
    pub fn by(by: &'static str) -> Self {
        Self {
            by,
            number: 1,
            begins: -60,
            ends: 3600,
            digest: "sha256".into(),
            more: String::new(),
        }
    }

    pub fn number(mut self, number: u32) -> Self {
        self.number = number;
        self
    }

    /// From and until so many seconds from now.
    pub fn valid(mut self, begins: i64, ends: i64) -> Self {
        (self.begins, self.ends) = (begins, ends);
        self
    }

    pub fn with(mut self, digest: &str, more: &str) -> Self {
        (self.digest, self.more) = (digest.into(), more.into());
        self
    }

    /// Writes it in PEM, into place in one step.
    pub fn write(&self, pki: &Pki, name: &str) -> PathBuf {
        let settings =
            "[ca]\ndefault_ca = own\n[own]\ndatabase = index.txt\ncrlnumber = number.txt\n";
        std::fs::write(pki.path("lists.cnf"), settings).unwrap();
        if !pki.path("index.txt").exists() {
            std::fs::write(pki.path("index.txt"), "").unwrap();
        }
        let number = format!("{:X}", self.number);
        let number = "0".repeat(number.len() % 2) + &number;
        std::fs::write(pki.path("number.txt"), number + "\n").unwrap();
        let format = format_description!("[year][month][day][hour][minute][second]Z");
        let moment = |seconds: i64| {
            let moment = OffsetDateTime::now_utc() + time::Duration::seconds(seconds);
            moment.format(format).unwrap()
        };
        let (begins, ends) = (moment(self.begins), moment(self.ends));
        let (pem, key) = (format!("{}.pem", self.by), format!("{}.key", self.by));
        let mut arguments = vec![
            "ca",
            "-gencrl",
            "-config",
            "lists.cnf",
            "-cert",
            &pem,
            "-keyfile",
            &key,
            "-md",
            &self.digest,
            "-crl_lastupdate",
            &begins,
            "-crl_nextupdate",
            &ends,
            "-out",
            "list.new",
        ];
        arguments.extend(self.more.split(' ').filter(|word| !word.is_empty()));
        pki.openssl(&arguments);
        let file = pki.path(name);
        std::fs::rename(pki.path("list.new"), &file).unwrap();
        file
    }
}

fn start(pki: &Pki, crl: &str) -> Gateway {
    let rest = format!("{crl}\n{}", service(&[server(echo)]));
    Gateway::builder(pki).token().rest(&rest).start()
}

/// What `adit crl` with these arguments says.
fn adit_crl(pki: &Pki, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_adit"))
        .arg("crl")
        .args(arguments)
        .args(["--config", "adit.toml"])
        .current_dir(pki.folder.path())
        .output()
        .unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn says(gateway: &Gateway, words: &str) {
    until(words, || gateway.get("/readyz").1.contains(words));
}

fn number_is(gateway: &Gateway, number: u32) {
    until(&format!("number {number}"), || {
        gateway.metric("adit_crl_list_number", "") == f64::from(number)
    });
}

#[test]
fn an_authority_that_counts_anew_is_heard_when_its_old_list_has_run_out() {
    let pki = Pki::new();
    List::by("ca")
        .number(500)
        .valid(-60, 6)
        .write(&pki, "ca.crl");
    let world = World::around(pki, |pki| start(pki, ""));
    assert!(world.lets_in());
    List::by("ca")
        .number(1)
        .valid(-30, 3600)
        .write(&world.pki, "ca.crl");
    says(&world.gateway, "adit crl forget");
    assert_eq!(
        world.gateway.metric("adit_crl_list_number", ""),
        500.0,
        "it stays until then"
    );
    number_is(&world.gateway, 1);
    assert!(world.lets_in());
    until("no problem", || {
        !world.gateway.get("/readyz").1.contains("adit crl forget")
    });
}

#[test]
fn the_operator_has_the_next_list_taken() {
    let pki = Pki::new();
    let file = List::by("ca").number(500).write(&pki, "ca.crl");
    let world = World::around(pki, |pki| start(pki, ""));
    // Older in both: refused, until the operator says otherwise.
    List::by("ca")
        .number(1)
        .valid(-600, 3600)
        .write(&world.pki, "ca.crl");
    says(&world.gateway, "older than the one in use");
    let source = file.display().to_string();
    let said = adit_crl(&world.pki, &["list"]);
    assert!(said.contains(&source) && said.contains("older"), "{said}");
    let said = adit_crl(&world.pki, &["forget", "nowhere.crl"]);
    assert!(said.contains("/crls lists"), "{said}");
    assert_eq!(world.gateway.metric("adit_crl_list_number", ""), 500.0);
    let said = adit_crl(&world.pki, &["forget", &source]);
    assert!(said.contains("forgotten"), "{said}");
    number_is(&world.gateway, 1);
    assert!(world.lets_in());
    // That was for one list.
    List::by("ca").number(9).write(&world.pki, "ca.crl");
    number_is(&world.gateway, 9);
    List::by("ca")
        .number(1)
        .valid(-600, 3600)
        .write(&world.pki, "ca.crl");
    says(&world.gateway, "older than the one in use");
}

#[test]
fn a_list_that_has_run_out_takes_the_place_of_none_that_has_not() {
    let pki = Pki::new();
    let device = pki.client("device", |_| ());
    List::by("ca")
        .number(5)
        .valid(-60, 3600)
        .write(&pki, "ca.crl");
    let gateway = start(&pki, "");
    List::by("ca")
        .number(6)
        .valid(-30, -10)
        .write(&pki, "ca.crl");
    says(&gateway, "has expired already");
    assert!(is_let_in(&pki, &gateway, &device));
    assert_eq!(gateway.metric("adit_crl_list_number", ""), 5.0);
    // Nor does the expired list of another place, whose number is larger, take its authority out of force.
    drop(gateway);
    List::by("ca")
        .number(900)
        .valid(-600, -10)
        .write(&pki, "ca.crl");
    List::by("ca")
        .number(5)
        .valid(-60, 3600)
        .write(&pki, "new.crl");
    let both = "files = ['ca.crl', 'new.crl']";
    let node = Gateway::builder(&pki).servers(&[server(echo)]);
    let gateway = node.replace("files = ['ca.crl']", both).start();
    assert!(is_let_in(&pki, &gateway, &device));
}

#[test]
fn a_list_that_has_run_out_is_told_and_replaces_none_that_is_in_force_though_forgotten() {
    let pki = Pki::new();
    let file = List::by("ca").number(5).valid(-60, 4).write(&pki, "ca.crl");
    let world = World::around(pki, |pki| start(pki, ""));
    assert!(!world.gateway.get("/readyz").1.contains("has expired"));
    says(&world.gateway, "has expired on ");
    assert!(!world.lets_in());
    assert_eq!(world.gateway.metric("adit_crl_list_refused", ""), 0.0);
    assert!(adit_crl(&world.pki, &["list"]).contains("publish a newer one"));
    let check = world.pki.adit(["check", "--config", "adit.toml"]);
    let said = String::from_utf8_lossy(&check.stdout);
    assert!(check.status.success(), "{said}");
    assert!(said.contains("has expired on "), "{said}");

    List::by("ca")
        .number(6)
        .valid(-30, 3600)
        .write(&world.pki, "ca.crl");
    number_is(&world.gateway, 6);
    assert!(world.lets_in());
    assert!(!world.gateway.get("/readyz").1.contains("has expired"));
    let said = adit_crl(&world.pki, &["forget", &file.display().to_string()]);
    assert!(said.contains("forgotten"), "{said}");
    List::by("ca")
        .number(1)
        .valid(-900, -600)
        .write(&world.pki, "ca.crl");
    says(&world.gateway, "has expired already");
    assert!(!world.gateway.get("/readyz").1.contains("adit crl forget"));
    assert!(world.lets_in());
}

/// A clock that is behind, or an authority's that is ahead: the node starts, says so, and refuses as without a list, until the
/// list begins.
#[test]
fn a_list_that_is_not_valid_yet_refuses_no_start() {
    let pki = Pki::new();
    let skew = adit::limits::CRL_CLOCK_SKEW_SECONDS as i64;
    List::by("ca").valid(skew + 8, 3600).write(&pki, "ca.crl");
    let world = World::around(pki, |pki| start(pki, ""));
    assert!(!world.lets_in());
    until("told why", || {
        world.gateway.ended("revocation-unknown") == 1.0
    });
    says(&world.gateway, "is not valid before ");
    assert_eq!(world.gateway.metric("adit_crl_list_refused", ""), 0.0);
    let check = world.pki.adit(["check", "--config", "adit.toml"]);
    let said = String::from_utf8_lossy(&check.stdout);
    assert!(check.status.success(), "{said}");
    assert!(said.contains("is not valid before"), "{said}");
    until("it begins", || world.lets_in());
    assert!(!world.gateway.get("/readyz").1.contains("not valid before"));
}

/// The server of a list is gone: a reload does not make that untold, and the end of the wish for the list does.
#[test]
fn what_is_wrong_with_a_source_stays_told_over_a_reload() {
    let pki = Pki::new();
    List::by("ca").write(&pki, "ca.crl");
    let url = format!("http://{}/ca.crl", free_port());
    let gateway = start(&pki, &format!("urls = ['{url}']\nallow = ['127.0.0.0/8']"));
    let problem = || {
        let lists: serde_json::Value = serde_json::from_str(&gateway.get("/crls").1).unwrap();
        let lists = lists.as_array().unwrap().iter();
        let mut of_url = lists.filter(|list| list["source"] == url);
        of_url.next().map(|list| list["problem"].to_string())
    };
    until("told", || {
        problem().is_some_and(|why| why.contains("cannot connect"))
    });
    gateway.reload();
    let told = problem();
    assert!(
        told.as_ref()
            .is_some_and(|why| why.contains("cannot connect")),
        "{told:?}"
    );
    let text = std::fs::read_to_string(pki.path("adit.toml")).unwrap();
    let text = text.replace(
        &format!("urls = ['{url}']"),
        "urls = ['cdp']\nallowed_hosts = ['127.0.0.1']",
    );
    std::fs::write(pki.path("adit.toml"), text).unwrap();
    gateway.reload();
    assert_eq!(problem(), None);
}

#[test]
fn a_url_is_asked_right_after_the_end_of_its_list() {
    let pki = Pki::new();
    let content = Arc::new(Mutex::new((String::new(), Vec::new())));
    let offer = |pki: &Pki, list: &List| {
        let file = list.write(pki, "offered.crl");
        content.lock().unwrap().1 = std::fs::read(file).unwrap();
    };
    let held = content.clone();
    let address = server(move |stream| give(stream, &held));
    let url = format!("http://{address}/ca.crl");
    List::by("ca")
        .number(1)
        .valid(-7200, -3600)
        .write(&pki, "ca.crl");
    offer(&pki, &List::by("ca").number(500).valid(-60, 6));
    let world = World::around(pki, |pki| {
        start(pki, &format!("urls = ['{url}']\nallow = ['127.0.0.0/8']"))
    });
    until("fetched", || world.lets_in());
    // The authority is made anew: nobody has offered this list before the end of the other.
    offer(&world.pki, &List::by("ca").number(1).valid(-30, 3600));
    until("the new list", || {
        world.gateway.metric("adit_crl_list_number", &url) == 1.0
    });
    assert!(world.lets_in());
}

/// A server that gives what it holds.
fn give(mut stream: TcpStream, content: &Mutex<(String, Vec<u8>)>) {
    let mut header = Vec::new();
    let mut byte = [0];
    while !header.ends_with(b"\r\n\r\n") {
        if stream.read_exact(&mut byte).is_err() {
            return;
        }
        header.push(byte[0]);
    }
    let (fields, list) = content.lock().unwrap().clone();
    let head = format!(
        "HTTP/1.1 200 OK\r\n{fields}content-length: {}\r\n\r\n",
        list.len()
    );
    let _ = stream.write_all(&[head.as_bytes(), &list].concat());
}

#[test]
fn a_fetched_list_is_forgotten_also_while_no_node_runs() {
    let pki = Pki::new();
    let device = pki.client("device", |_| ());
    let content = Arc::new(Mutex::new((String::new(), Vec::new())));
    let offer = |pki: &Pki, list: &List| {
        let file = list.write(pki, "offered.crl");
        content.lock().unwrap().1 = std::fs::read(file).unwrap();
    };
    let held = content.clone();
    let address = server(move |stream| give(stream, &held));
    let url = format!("http://{address}/ca.crl");
    // The list of the file has run out: what is fetched decides.
    List::by("ca")
        .number(1)
        .valid(-7200, -3600)
        .write(&pki, "ca.crl");
    offer(&pki, &List::by("ca").number(500));
    let crl = format!("urls = ['{url}']\nallow = ['127.0.0.0/8']");
    let gateway = start(&pki, &crl);
    until("fetched", || is_let_in(&pki, &gateway, &device));
    let number = |gateway: &Gateway| gateway.metric("adit_crl_list_number", &url);
    assert_eq!(number(&gateway), 500.0);
    until("kept", || {
        let kept = std::fs::read_dir(pki.path("state/crls"));
        kept.is_ok_and(|files| {
            let mut files = files.flatten();
            files.any(|file| file.path().extension().is_some_and(|kind| kind == "crl"))
        })
    });
    drop(gateway);

    offer(&pki, &List::by("ca").number(1).valid(-600, 3600));
    let gateway = start(&pki, &crl);
    says(&gateway, "older than the one in use");
    assert_eq!(number(&gateway), 500.0);
    drop(gateway);
    let said = adit_crl(&pki, &["forget", &url]);
    assert!(said.contains("no node runs"), "{said}");
    let said = adit_crl(&pki, &["forget", "http://pki.test/"]);
    for words in ["no node runs", "http://pki.test/", "adit crl list"] {
        assert!(said.contains(words), "{said}");
    }
    let gateway = start(&pki, &crl);
    until("taken", || number(&gateway) == 1.0);
    assert!(is_let_in(&pki, &gateway, &device));

    // A server that compresses is told off in plain words.
    let encoded = "content-encoding: gzip\r\n".to_owned();
    *content.lock().unwrap() = (encoded, vec![0x1f, 0x8b, 8, 0]);
    let said = adit_crl(&pki, &["forget", &url]);
    assert!(said.contains("forgotten"), "{said}");
    says(&gateway, "Content-Encoding: gzip");
    assert!(is_let_in(&pki, &gateway, &device), "the list in use stays");
    assert!(!adit_crl(&pki, &["list"]).contains(TOKEN));
}

#[test]
fn a_list_is_read_in_any_wrapping_and_under_any_spelling_of_its_issuer() {
    let pki = Pki::new();
    let file = List::by("ca").number(2).write(&pki, "ca.crl");
    let group = [pki.ca.certificate().clone()];
    let pem = std::fs::read_to_string(&file).unwrap();
    let load = || {
        adit::tls::load_crls(
            std::slice::from_ref(&file),
            &group,
            std::time::SystemTime::now(),
        )
    };
    for text in [
        pem.replace("X509 CRL", "CERTIFICATE"),
        pem.replace('\n', "\r\n"),
        format!("Certificate Revocation List (CRL):\n    Version 2 (0x1)\n{pem}"),
    ] {
        std::fs::write(&file, text).unwrap();
        assert_eq!(load().unwrap().1.len(), 1);
    }
    let der = certs::read_crls(&file).unwrap().remove(0);
    std::fs::write(&file, &der).unwrap();
    assert_eq!(load().unwrap().1.len(), 1);

    // The authority's tool wrote its name as PrintableString and now writes UTF8String, or the other way round.
    let subject = "/O=Fleet  Devices/CN=Issuing CA";
    for (mask, certificate) in [("utf8only", "utf8.pem"), ("nombstr", "plain.pem")] {
        let settings = format!("[req]\nstring_mask = {mask}\ndistinguished_name = dn\n[dn]\n");
        std::fs::write(pki.path("req.cnf"), settings).unwrap();
        let spelled = match mask {
            "utf8only" => subject.to_owned(),
            _ => subject.to_uppercase().replace("  ", " "),
        };
        let arguments = [
            "req", "-x509", "-config", "req.cnf", "-days", "9", "-subj", &spelled,
        ];
        let more = [
            "-key",
            "server.key",
            "-out",
            certificate,
            "-addext",
            "basicConstraints=CA:TRUE",
        ];
        pki.openssl(&[&arguments[..], &more].concat());
        std::fs::copy(
            pki.path("server.key"),
            pki.path(certificate).with_extension("key"),
        )
        .unwrap();
    }
    let read = |name| certs::read_certificates(&pki.path(name)).unwrap();
    for (by, trusted) in [("utf8", "plain.pem"), ("plain", "utf8.pem")] {
        let file = List::by(by).write(&pki, "spelled.crl");
        let loaded = adit::tls::load_crls(&[file], &read(trusted), std::time::SystemTime::now());
        assert_eq!(loaded.unwrap().0.issuers(), 1);
    }
}

#[test]
fn what_cannot_prove_anything_says_why() {
    let pki = Pki::new();
    let file = List::by("ca").number(2).write(&pki, "ca.crl");
    let world = World::around(pki, |pki| start(pki, ""));
    assert!(world.lets_in());
    for (bytes, words) in [
        (vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0], "compressed"),
        (b"<html><body>404</body></html>".to_vec(), "HTML"),
        (Vec::new(), "it is empty"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        says(&world.gateway, words);
        assert!(world.lets_in(), "{words}");
        assert_eq!(
            world.gateway.metric("adit_crl_list_refused", ""),
            1.0,
            "{words}"
        );
    }
}
