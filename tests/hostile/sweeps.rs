//! Devices whose certificates, or what they present beside them, expire: only what ends a session in truth costs a look.

use std::time::Duration;

use adit::certs::Issued;

use crate::common::{
    Gateway, Pki, ask, connect, echo, echoed, server, service, tunnel, until, valid,
};

#[test]
fn a_certificate_that_is_no_part_of_the_path_causes_no_look() {
    let pki = Pki::new();
    let gateway = Gateway::start(&pki, "", "unmanaged = 'allow'", &service(&[server(echo)]));
    let mut hostile = pki.client("hostile", |_| {});
    // One that has expired, and one that does so while the tunnels are open.
    let presented = |name: &str, begins, ends| -> Issued {
        pki.client(name, |request| request.validity = valid(begins, ends))
    };
    for other in [
        presented("old", -7200, -3600),
        presented("ending", -3600, 3),
    ] {
        hostile.chain.push(other.chain[0].clone());
    }
    let mut tunnels: Vec<_> = (0..30)
        .map(|_| tunnel(&pki, &gateway, &hostile, "a.test:1"))
        .collect();
    let mut ends = tunnel(&pki, &gateway, &presented("ends", -3600, 4), "a.test:1");
    assert_eq!(echoed(&mut ends, b"open"), b"open");
    until("its end", || {
        gateway.ended("cut-certificate-expired") == 1.0
    });
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(
        gateway.metric("adit_expiry_checks_total", ""),
        1.0,
        "the one that has expired"
    );
    assert_eq!(gateway.metric("adit_sweeps_total", ""), 0.0);
    for tunnel in &mut tunnels {
        assert_eq!(echoed(tunnel, b"open"), b"open");
    }
    // What has expired lets nobody in, whatever stands beside it.
    let mut expired = presented("expired", -7200, -3600);
    expired.chain.push(hostile.chain[0].clone());
    let mut session = connect(&pki, &gateway, Some(&expired));
    assert!(ask(&mut session, b"CONNECT a.test:1 HTTP/1.1\r\n\r\n").is_err());
}
