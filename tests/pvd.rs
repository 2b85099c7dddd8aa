//! What relay clients and browsers ask beside tunnels: what the gateway is for, whether to go elsewhere, and how soon an
//! address without a route is refused.

use crate::common;
use crate::common::http2;

use std::io::Read;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Gateway, Pki, ask, connect, echo, request, server, until};
use http::{Method, Request};
use http2::{client, connect_request, run};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const GET: &[u8] = b"GET /.well-known/pvd HTTP/1.1\r\nHost: localhost:8443\r\nAccept: application/pvd+json\r\n\r\n";

fn rules() -> String {
    format!(
        "[[profile.service]]\nname = 'wiki'\nservers = ['{}']\n[[profile.service]]\nname = 'dns'\nservers = ['127.0.0.1:53']\nudp = true\n\
         [[profile.rule]]\nhost = '*.corp.test'\nport = [443, 80]\nservice = 'wiki'\n\
         [[profile.rule]]\napp = 'chat'\nhost = '*.chat.test'\nport = '*'\nservice = 'dns'\n\
         [[profile.rule]]\nhost = '10.0.0.0/8'\nport = '*'\nservice = 'wiki'\n",
        server(echo)
    )
}

fn is_right(document: &Value, app: &str) {
    let mut rules = vec![
        json!({ "domains": ["*.corp.test"], "ports": ["80", "443"], "proxies": ["adit"] }),
        json!({ "subnets": ["10.0.0.0/8"], "proxies": ["adit"] }),
    ];
    let mut proxies = vec![
        json!({ "protocol": "https-connect", "proxy": "localhost:8443", "identifier": "adit" }),
    ];
    if app == "chat" {
        rules.insert(
            1,
            json!({ "domains": ["*.chat.test"], "proxies": ["adit", "adit-udp"] }),
        );
        let proxy = "https://localhost:8443/.well-known/masque/udp/{target_host}/{target_port}/";
        proxies
            .push(json!({ "protocol": "connect-udp", "proxy": proxy, "identifier": "adit-udp" }));
    }
    assert_eq!(document["identifier"], "localhost.");
    assert_eq!(document["prefixes"], json!([]));
    assert_eq!(document["proxies"], Value::Array(proxies));
    assert_eq!(document["proxy-match"], Value::Array(rules));
    let expires = OffsetDateTime::parse(document["expires"].as_str().unwrap(), &Rfc3339).unwrap();
    assert!(expires > OffsetDateTime::now_utc());
}

#[test]
fn the_gateways_configuration_is_that_of_the_clients_app() {
    let pki = Pki::new();
    let mail = pki.client("phone", |_| ());
    let chat = pki.client("tablet", |request| request.app = Some("chat".into()));
    let foreign = pki.client("foreign", |_| ());
    std::fs::write(
        pki.path("devices.csv"),
        "device,state\nphone,managed\ntablet,managed\n",
    )
    .unwrap();
    let auth = "device_registry = 'devices.csv'\nunmanaged = 'block'";
    let gateway = Gateway::builder(&pki).auth(auth).rest(&rules()).start();

    for (device, app) in [(&mail, "mail"), (&chat, "chat")] {
        let mut session = connect(&pki, &gateway, Some(device));
        let head = ask(&mut session, GET).unwrap();
        assert!(
            head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/pvd+json\r\n"),
            "{head}"
        );
        let mut body = String::new();
        session.read_to_string(&mut body).unwrap();
        assert!(
            head.contains(&format!("Content-Length: {}\r\n", body.len())),
            "{head}"
        );
        is_right(&serde_json::from_str(&body).unwrap(), app);
    }
    until("counted", || gateway.ended("configuration-read") == 2.0);
    let head = ask(&mut connect(&pki, &gateway, Some(&foreign)), GET).unwrap();
    assert!(
        head.starts_with("HTTP/1.1 403 ") && head.contains("device is not managed"),
        "{head}"
    );
    // A session without a certificate gets no answer at all.
    assert!(ask(&mut connect(&pki, &gateway, None), GET).is_err());

    run(async {
        let client = client(&pki, &gateway, &chat).await;
        let get = |path: &str| {
            let uri = format!("https://localhost:8443{path}");
            Request::builder()
                .method(Method::GET)
                .uri(uri)
                .body(())
                .unwrap()
        };
        let (response, _up) = client.ask(get("/.well-known/pvd")).await.unwrap();
        assert_eq!(
            (
                response.status().as_u16(),
                &response.headers()["content-type"]
            ),
            (200, &"application/pvd+json".parse().unwrap())
        );
        let mut content = response.into_body();
        let mut body = Vec::new();
        while let Some(bytes) = http2::next(&mut content).await {
            body.extend_from_slice(&bytes.unwrap());
        }
        is_right(&serde_json::from_slice(&body).unwrap(), "chat");
        let (response, _up) = client.ask(get("/.well-known/pvd?x")).await.unwrap();
        assert_eq!(response.status(), 405);
        // The idle timeout is proposed and answered as over HTTP/1.1.
        let mut patient = connect_request("wiki.corp.test:443");
        patient
            .headers_mut()
            .insert("adit-idle-timeout", "600".parse().unwrap());
        let (response, _up) = client.ask(patient).await.unwrap();
        assert_eq!(
            (
                response.status().as_u16(),
                &response.headers()["adit-idle-timeout"]
            ),
            (200, &"60".parse().unwrap())
        );
        let mut wrong = connect_request("wiki.corp.test:443");
        wrong
            .headers_mut()
            .insert("adit-idle-timeout", "soon".parse().unwrap());
        assert_eq!(client.ask(wrong).await.unwrap().0.status(), 400);
    });
}

#[test]
fn a_device_is_sent_elsewhere_only_where_the_profile_says_so() {
    let pki = Pki::new();
    let device = pki.client("phone", |_| ());
    let gateway = Gateway::builder(&pki).rest(&rules()).start();
    let answer = |gateway: &Gateway| {
        ask(
            &mut connect(&pki, gateway, Some(&device)),
            &request("example.org:443"),
        )
        .unwrap()
    };
    let head = answer(&gateway);
    assert!(
        head.starts_with("HTTP/1.1 403 ") && head.contains("error=http_request_denied"),
        "{head}"
    );
    drop(gateway);
    let gateway = Gateway::builder(&pki)
        .rest(&rules())
        .replace("[profile]\n", "[profile]\nno_rule = 'direct'\n")
        .start();
    let head = answer(&gateway);
    let status = "Proxy-Status: adit; error=destination_unavailable; details=\"destination is not served here\"\r\n";
    assert!(
        head.starts_with("HTTP/1.1 503 ") && head.contains(status),
        "{head}"
    );
    until("counted", || gateway.ended("no-rule-direct") == 1.0);
}

/// In a network of its own with nothing but a loopback interface: no address has a route.
#[test]
fn an_address_without_a_route_is_refused_at_once() {
    let pki = Pki::new();
    pki.client("phone", |_| ());
    let admin = common::free_port();
    let rules = "[[profile.service]]\nname = '<ANY>'\n[[profile.rule]]\nhost = '*'\nport = '*'\nservice = '<ANY>'\n";
    Gateway::builder(&pki)
        .admin(admin)
        .engine("connect_timeout = '1m'")
        .rest(rules)
        .listener("https = '127.0.0.1:8443'")
        .write();
    // The gateway and its client are in the same namespace, so that a shell starts both.
    let script = "ip link set lo up; \"$0\" run --config adit.toml 2>log & gateway=$!; \
        for try in $(seq 100); do grep -q address= log && break; sleep 0.1; done; \
        for target in '[2001:db8::1]:443' 192.0.2.1:443; do \
        curl -s -m 20 -o /dev/null -w '%{http_connect} %{time_total}\\n' -p --proxy https://localhost:8443 \
        --proxy-cacert ca.pem --proxy-cert phone.pem --proxy-key phone.key \"http://$target/\"; done; kill $gateway; wait";
    let begin = Instant::now();
    let output = Command::new("unshare")
        .args([
            "--net",
            "--fork",
            "--kill-child",
            "timeout",
            "-k",
            "5",
            "60",
            "bash",
            "-c",
            script,
        ])
        .arg(env!("CARGO_BIN_EXE_adit"))
        .current_dir(pki.folder.path())
        .env("RUST_LOG", "info")
        .output()
        .unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<&str> = told.lines().collect();
    assert_eq!(
        answers.len(),
        2,
        "{told} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    for answer in answers {
        let (status, seconds) = answer.split_once(' ').unwrap();
        assert_eq!(status, "502", "{told}");
        assert!(seconds.parse::<f64>().unwrap() < 10.0, "{told}");
    }
    assert!(begin.elapsed() < Duration::from_secs(55));
    let log = std::fs::read_to_string(pki.path("audit.log")).unwrap();
    assert_eq!(
        log.matches("\"event.reason\":\"server-unreachable\"")
            .count(),
        2,
        "{log}"
    );
}
