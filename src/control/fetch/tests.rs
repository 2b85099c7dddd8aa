//! Fetching from a server on loopback that does not mean well.

use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::backend::resolver;

/// Answers each request with what `answer` makes of its header; `None` drips one byte every 50 ms,
/// for ever.
async fn serve(answer: impl Fn(&str) -> Option<String> + 'static + Send) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut header = Vec::new();
            while !header.ends_with(b"\r\n\r\n") {
                header.push(stream.read_u8().await.unwrap());
            }
            match answer(std::str::from_utf8(&header).unwrap()) {
                Some(text) => stream.write_all(text.as_bytes()).await.unwrap(),
                None => {
                    let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
                    stream.write_all(head.as_bytes()).await.unwrap();
                    while stream.write_all(b"x").await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        }
    });
    address
}

fn fetcher() -> Fetcher {
    Fetcher {
        resolver: resolver().0,
        bounds: Bounds {
            whole: Duration::from_secs(2),
            piece: Duration::from_secs(1),
            bytes: 1000,
        },
    }
}

fn rules(hosts: &[&str]) -> CrlFetch {
    CrlFetch {
        hosts: hosts.iter().map(ToString::to_string).collect(),
        allow: vec!["127.0.0.0/8".parse().unwrap()],
        ..CrlFetch::default()
    }
}

async fn fetch(address: SocketAddr, rules: &CrlFetch) -> Result<Fetched, FetchError> {
    let url = format!("http://{address}/a.crl?b");
    fetcher().fetch(&url, rules, &Validators::default()).await
}

fn ok(headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\n{headers}content-length: {length}\r\n\r\n{body}")
}

#[tokio::test]
async fn a_list_is_fetched_once_and_then_asked_for_by_what_it_was() {
    let address = serve(|request| {
        assert!(
            request.starts_with("GET /a.crl?b HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(request.contains("host: 127.0.0.1:"), "{request}");
        Some(if request.contains("if-none-match: \"one\"") {
            assert!(request.contains("if-modified-since: Tue"), "{request}");
            "HTTP/1.1 304 Not Modified\r\n\r\n".into()
        } else {
            let headers = "etag: \"one\"\r\nlast-modified: Tue, 14 Nov 2023 00:00:00 GMT\r\n";
            ok(headers, "a list")
        })
    })
    .await;
    let Ok(Fetched::List(bytes, known)) = fetch(address, &rules(&["127.0.0.1"])).await else {
        panic!("no list");
    };
    assert_eq!(bytes, b"a list");
    let url = format!("http://{address}/a.crl?b");
    let again = fetcher().fetch(&url, &rules(&["127.0.0.1"]), &known).await;
    assert!(matches!(again, Ok(Fetched::NotModified)), "{again:?}");
}

#[tokio::test]
async fn only_hosts_and_addresses_that_are_listed_are_asked() {
    let address = serve(|_| panic!("asked")).await;
    let error = fetch(address, &rules(&["pki.example.com"]))
        .await
        .unwrap_err();
    assert!(matches!(error, FetchError::Host(_)), "{error}");
    let mut closed = rules(&["127.0.0.1"]);
    closed.allow.clear();
    let error = fetch(address, &closed).await.unwrap_err();
    assert!(matches!(error, FetchError::Address(..)), "{error}");
    assert!(error.to_string().contains("crl.allow"), "{error}");
    for url in [
        "http://169.254.169.254/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
    ] {
        let mut rules = rules(&[&url_host(url).unwrap()]);
        rules.allow.clear();
        let result = fetcher().fetch(url, &rules, &Validators::default()).await;
        assert!(matches!(result, Err(FetchError::Address(..))), "{url}");
    }
}

#[tokio::test]
async fn a_redirection_leads_to_listed_hosts_only_and_not_for_ever() {
    let address = serve(|request| {
        let to = match request.split(' ').nth(1).unwrap() {
            "/a.crl?b" => "/b",
            "/b" => return Some(ok("", "moved")),
            _ => "/round",
        };
        Some(format!(
            "HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n"
        ))
    })
    .await;
    let rules = rules(&["127.0.0.1"]);
    assert!(matches!(
        fetch(address, &rules).await,
        Ok(Fetched::List(..))
    ));
    let url = format!("http://{address}/round");
    let error = fetcher().fetch(&url, &rules, &Validators::default()).await;
    assert!(matches!(error, Err(FetchError::Redirects)), "{error:?}");

    let away = serve(|_| {
        let to = "http://elsewhere.example.com/";
        Some(format!(
            "HTTP/1.1 301 Moved\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n"
        ))
    })
    .await;
    let error = fetch(away, &rules).await.unwrap_err();
    assert!(matches!(error, FetchError::Host(_)), "{error}");
    let mut headers = HeaderMap::new();
    headers.insert(header::LOCATION, HeaderValue::from_static("http://a/"));
    assert_eq!(redirected("https://a/", &headers), None);
    assert_eq!(
        redirected("http://a/", &headers).as_deref(),
        Some("http://a/")
    );
}

#[tokio::test]
async fn who_drips_stalls_or_sends_too_much_is_left() {
    let rules = rules(&["127.0.0.1"]);
    let started = Instant::now();
    let dripping = serve(|_| None).await;
    let error = fetch(dripping, &rules).await.unwrap_err();
    assert!(matches!(error, FetchError::Slow(_)), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5));

    let silent = serve(|_| Some(String::new())).await;
    let error = fetch(silent, &rules).await.unwrap_err();
    assert!(
        matches!(error, FetchError::Slow(_) | FetchError::Http(_)),
        "{error}"
    );

    let large = serve(|_| Some(ok("", &"x".repeat(1001)))).await;
    let error = fetch(large, &rules).await.unwrap_err();
    assert!(matches!(error, FetchError::TooLarge(1000)), "{error}");

    let short = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc";
    let truncated = serve(move |_| Some(short.into())).await;
    let error = fetch(truncated, &rules).await.unwrap_err();
    assert!(matches!(error, FetchError::Http(_)), "{error}");

    let missing =
        serve(|_| Some("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".into())).await;
    let error = fetch(missing, &rules).await.unwrap_err();
    assert!(
        matches!(error, FetchError::Status(StatusCode::NOT_FOUND)),
        "{error}"
    );
}
