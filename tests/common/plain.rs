//! A gateway whose listener is plain, and what front ends say to it.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a test's helper: each file uses its part, and fails by panic"
)]

use std::io::{Read, Write};
use std::net::TcpStream;

use adit::certs::Issued;
use adit::proxy_protocol::{CLIENT_CERT_CONNECTION, CLIENT_TLS, Header, TlsDetails};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::common::{Gateway, PATIENCE, Pki, echo, server};

pub const PLAIN: &str = "protocol = 'http'\nhttp = '127.0.0.1:0'\ntrusted_proxies = ['127.0.0.1']";

pub fn gateway(pki: &Pki, more: &str) -> Gateway {
    let listener = format!("{PLAIN}\n{more}");
    Gateway::builder(pki)
        .listener(&listener)
        .servers(&[server(echo)])
        .start()
}

pub fn sequence(der: &[u8]) -> String {
    format!(":{}:", STANDARD.encode(der))
}

pub fn client_cert(identity: &Issued) -> String {
    format!("Client-Cert: {}\r\n", sequence(&identity.chain[0]))
}

pub fn xfcc(identity: &Issued) -> String {
    let body = STANDARD.encode(&identity.chain[0]);
    let pem = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
    let encoded: String = pem.bytes().map(|byte| format!("%{byte:02X}")).collect();
    format!("X-Forwarded-Client-Cert: By=gw;Cert=\"{encoded}\"\r\n")
}

/// A CONNECT request with these fields.
pub fn asking(fields: &str) -> String {
    format!("CONNECT a.test:1 HTTP/1.1\r\nHost: a.test:1\r\n{fields}\r\n")
}

/// The head of the answer to `bytes`.
pub fn answer(stream: &mut TcpStream, bytes: &[u8]) -> String {
    stream.write_all(bytes).unwrap();
    let wait = Some(PATIENCE);
    stream.set_read_timeout(wait).unwrap();
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// The head of the answer to a request with these fields, on a connection of its own.
pub fn asked(gateway: &Gateway, fields: &str) -> String {
    answer(&mut proxy(gateway), asking(fields).as_bytes())
}

/// What a proxy says of a client that has presented a certificate.
pub fn presented(device: &Issued) -> Option<TlsDetails> {
    Some(TlsDetails {
        client: CLIENT_TLS | CLIENT_CERT_CONNECTION,
        certificate: Some(device.chain[0].to_vec()),
        ..TlsDetails::default()
    })
}

/// A PROXY protocol header for the client 192.0.2.7:9.
pub fn header_of(tls: Option<TlsDetails>) -> Vec<u8> {
    let (client, gateway) = ("192.0.2.7:9", "192.0.2.1:443");
    let mut header = Header::of(client.parse().unwrap(), gateway.parse().unwrap());
    header.details.tls = tls;
    header.write_v2(true).unwrap()
}

pub fn proxy(gateway: &Gateway) -> TcpStream {
    TcpStream::connect(gateway.address).unwrap()
}
