//! A device that asks for many names which nobody answers: the lookups of others do not wait for it, and it is given back
//! when its clients go.

use std::io::Write;
use std::net::Ipv4Addr;

use crate::common::names::{Etc, NameServer, Says};
use crate::common::network::outside;
use crate::common::pace::Pace;
use crate::common::{Gateway, Pki, ask, connect, echo, echoes, request, server, until};

/// Beyond what a device may wait for (64) and what is looked up for it at once (16).
const HOSTILE: usize = 120;
const SHARE: f64 = 64.0;
const RUNNING: f64 = 16.0;

#[test]
fn a_flood_of_cold_names_delays_no_other_device() {
    if outside(concat!(
        module_path!(),
        "::a_flood_of_cold_names_delays_no_other_device"
    )) {
        return;
    }
    let _etc = Etc::mount("nameserver 127.0.0.53\n", "127.0.0.1 localhost\n");
    let names = NameServer::start("127.0.0.53");
    names.set("*.slow.test", Says::Nothing);
    names.set("*.fast.test", Says::Address(Ipv4Addr::LOCALHOST));
    let (pki, echo) = (Pki::new(), server(echo));
    let (hostile, other) = (pki.client("hostile", |_| {}), pki.client("other", |_| {}));
    let rules = "[[profile.service]]\nname = '<TCP_ANY>'\nallow = ['127.0.0.0/8']\n\
                 [[profile.rule]]\nhost = '*'\nport = '*'\nservice = '<TCP_ANY>'\n";
    // Nothing ends by a timeout.
    let gateway = Gateway::builder(&pki)
        .engine("connect_timeout = '60s'")
        .rest(rules)
        .start();

    let mut asking: Vec<_> = (0..HOSTILE)
        .map(|number| {
            let mut session = connect(&pki, &gateway, Some(&hostile));
            session
                .write_all(&request(&format!("n{number}.slow.test:1")))
                .unwrap();
            session
        })
        .collect();
    let is = |name: &str, count: f64| gateway.metric(name, "") == count;
    until("the device's whole share", || {
        is("adit_name_lookups_waiting", SHARE) && is("adit_name_lookups_running", RUNNING)
    });
    let refused = HOSTILE as f64 - SHARE - RUNNING;
    until("what is beyond it", || {
        gateway.ended("name-limit") == refused
    });

    // Each name is a new one, and is not even behind one of the others.
    let mut sessions: Vec<_> = (0..20)
        .map(|number| {
            let mut session = connect(&pki, &gateway, Some(&other));
            let host = format!("n{number}.fast.test:{}", echo.port());
            let head = ask(&mut session, &request(&host)).unwrap();
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            session
        })
        .collect();
    let mut pace = Pace::new();
    for number in 0..60 {
        pace.turn(|| echoes(&mut sessions[number % 20], b"still here"));
    }
    pace.check();
    assert!(is("adit_name_lookups_waiting", SHARE) && is("adit_name_lookups_running", RUNNING));

    // Its clients go: nothing is looked up for nobody.
    asking.clear();
    until("an end of the lookups", || {
        is("adit_name_lookups_waiting", 0.0) && is("adit_name_lookups_running", 0.0)
    });
    let cancelled = gateway.metric("adit_name_lookups_total", "{result=\"cancelled\"}");
    assert!(cancelled >= SHARE, "{cancelled}");
    assert!(is("adit_tunnels_opened_total", 20.0));
}
