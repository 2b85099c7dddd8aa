//! Devices whose certificates, or what they present beside them, expire: only what ends a session in truth costs a look.

use std::time::Duration;

use adit::certs::Issued;
use adit::certs::pem::to_pem;
use rcgen::{BasicConstraints, CertificateParams, IsCa};
use time::OffsetDateTime;

use crate::common::pace::{Pace, answers_at_once};
use crate::common::{
    Gateway, Pki, ask, connect, echo, echoed, echoes, server, tunnel, until, valid,
};
use crate::pki::made::{end, party};

#[test]
fn a_certificate_that_is_no_part_of_the_path_causes_no_look() {
    let pki = Pki::new();
    let gateway = Gateway::builder(&pki).servers(&[server(echo)]).start();
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

/// An authority that ends is looked at for each tunnel of its devices, with a search for another path.
#[test]
fn slow_an_authority_that_ends_cuts_its_tunnels_in_steps() {
    const MANY: usize = 200;
    let pki = Pki::new();
    let (ends, device) = (party("ends"), party("phone"));
    let soon = |request: &mut CertificateParams| {
        request.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        request.not_after = OffsetDateTime::now_utc() + Duration::from_secs(20);
    };
    std::fs::write(pki.path("ends.pem"), to_pem(&[ends.by(&ends, soon)])).unwrap();
    let engine = "cores = 1\nmax_tunnels_per_device = 1000";
    let gateway = Gateway::builder(&pki)
        .engine(engine)
        .servers(&[server(echo)])
        .replace("['ca.pem']", "['ca.pem', 'ends.pem']")
        .without_crls()
        .start();
    let of_ending = Issued {
        chain: vec![device.by(&ends, end)],
        key: device.private_key(),
    };
    let other = pki.client("other", |_| {});
    let mut other = tunnel(&pki, &gateway, &other, "a.test:1");
    let many: Vec<_> = (0..MANY)
        .map(|_| tunnel(&pki, &gateway, &of_ending, "a.test:1"))
        .collect();
    let cut = || gateway.ended("cut-certificate-expired");
    let mut pace = Pace::new();
    until("all are cut", || {
        pace.turn(|| echoes(&mut other, b"open"));
        cut() == MANY as f64
    });
    pace.check();
    assert_eq!(gateway.metric("adit_expiry_checks_total", ""), MANY as f64);
    answers_at_once(&mut other);
    drop(many);
}
