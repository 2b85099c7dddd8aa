//! The admin page in a browser: what an operator does on it, by mouse and by keyboard, and what other pages cannot do.

use crate::common;
use crate::common::browser;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use adit::certs::Issued;
use browser::Browser;
use common::{Gateway, Pki, Session, TOKEN, client_of, echo, tunnel, until};
use serde_json::{Value, json};

/// A device whose name would be an element, and would run a script, if a page wrote it as HTML.
const HOSTILE: &str = "<img src=x onerror=document.title='owned'>";

/// A gateway with two servers, a token for changes and a device registry.
struct Node {
    pki: Pki,
    gateway: Gateway,
    servers: [SocketAddr; 2],
}

impl Node {
    fn start() -> Self {
        let pki = Pki::new();
        std::fs::write(
            pki.path("devices.csv"),
            "phone-1,managed,ann\nphone-2,managed,bob\ntablet,blocked\n",
        )
        .unwrap();
        let servers = [common::server(echo), common::server(echo)];
        let service = format!(
            "[[profile.service]]\nname = 'wiki'\nservers = ['{}', '{}']\n\
             [[profile.rule]]\nhost = '*.test'\nport = '*'\nservice = 'wiki'",
            servers[0], servers[1]
        );
        let auth = "unmanaged = 'allow'\ndevice_registry = 'devices.csv'";
        let gateway = Gateway::builder(&pki)
            .token()
            .auth(auth)
            .rest(&service)
            .start();
        Self {
            pki,
            gateway,
            servers,
        }
    }

    fn url(&self) -> String {
        format!("http://localhost:{}", self.gateway.admin.port())
    }

    fn browser(&self) -> Browser {
        let port = self.gateway.admin.port();
        let hosts = format!("MAP attacker.test:{port} 127.0.0.1:{port}");
        Browser::start(self.pki.folder.path(), &hosts)
    }

    fn tunnel(&self, device: &Issued) -> Session {
        tunnel(&self.pki, &self.gateway, device, "a.test:1")
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.gateway.get(path).1).unwrap()
    }

    fn state(&self, server: SocketAddr) -> String {
        let server = self.json(&format!("/servers/wiki/{server}"));
        server["state"].as_str().unwrap().to_owned()
    }

    /// Tunnels that come and go until the handle is dropped.
    fn load(self: &Arc<Self>) -> Load {
        let (node, stop) = (self.clone(), Arc::<AtomicBool>::default());
        let stopped = stop.clone();
        let device = client_of(&node.pki.ca, "phone-2", |_| ());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Relaxed) {
                let mut session = node.tunnel(&device);
                session.write_all(b"ping").unwrap();
                session.read_exact(&mut [0; 4]).unwrap();
                std::thread::sleep(Duration::from_millis(30));
            }
        });
        Load(stop, Some(thread))
    }
}

struct Load(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
        let ended = self.1.take().unwrap().join();
        assert!(std::thread::panicking() || ended.is_ok(), "the load failed");
    }
}

/// Gives the token to the page.
fn unlock(browser: &mut Browser) {
    browser.click("Unlock changes");
    browser.fill("Token", TOKEN);
    browser.click("Unlock");
    browser.sees("Changes are unlocked.");
}

/// Nothing was asked of anybody else, and nothing went wrong, but for answers of these statuses.
fn is_clean(browser: &mut Browser, node: &Node, expected: &[&str]) {
    let complaints = browser.complaints(expected);
    assert!(complaints.is_empty(), "{complaints:#?}");
    let requests = browser.requests();
    let own = format!("{}/", node.url());
    let others = requests.iter().filter(|url| !url.starts_with(&own));
    let others: Vec<_> = others.filter(|url| *url != "about:blank").collect();
    assert!(others.is_empty() && requests.len() > 10, "{others:?}");
}

#[test]
fn slow_an_operator_drains_closes_and_blocks_by_mouse() {
    let node = Arc::new(Node::start());
    let phone = client_of(&node.pki.ca, "phone-1", |request| {
        request.app = Some("mail".into());
    });
    let mut held: Vec<Session> = (0..4).map(|_| node.tunnel(&phone)).collect();
    let hostile = client_of(&node.pki.ca, HOSTILE, |_| ());
    let _strange = node.tunnel(&hostile);
    let _load = node.load();
    let mut browser = node.browser();
    browser.screen("light", 1280, 900);
    browser.open(&format!("{}/", node.url()));
    browser.sees("takes new tunnels");
    browser.sees("ca.crl");

    // A wrong token opens nothing.
    browser.click("Unlock changes");
    browser.fill("Token", "wrong");
    browser.click("Unlock");
    browser.sees("That is not the token.");
    unlock(&mut browser);

    let [server, _] = node.servers;
    browser.click("Services");
    browser.click(&format!("Drain: {server} of wiki"));
    browser.sees("gets no new tunnels");
    browser.click("Cancel");
    assert_eq!(node.state(server), "up");
    browser.click(&format!("Drain: {server} of wiki"));
    browser.click("Drain");
    browser.sees(&format!("{server} of wiki is drained."));
    assert_eq!(node.state(server), "drained");
    browser.click(&format!("Bring back: {server} of wiki"));
    browser.sees("takes tunnels again");
    until("it is up", || node.state(server) == "up");

    // One tunnel of four, then the others at once. The strange name is text wherever it stands.
    browser.click("Tunnels");
    browser.sees(HOSTILE);
    browser.fill("Device", "phone-1");
    browser.sees("4 open tunnels.");
    let first = node.json("/tunnels?device=phone-1")[0]["id"].clone();
    browser.click(&format!("Close: tunnel {first} of phone-1"));
    browser.click("Close");
    browser.sees(&format!("Tunnel {first} is closed."));
    browser.sees("3 open tunnels.");
    browser.click("Close all of these");
    browser.sees("Every open tunnel of device phone-1 ends at once.");
    browser.click("Close all");
    browser.sees("3 tunnels closed.");
    until("they are gone", || {
        node.json("/tunnels?device=phone-1") == json!([])
    });
    for session in &mut held {
        assert!(!matches!(session.read(&mut [0; 1]), Ok(1..)));
    }

    browser.click("Devices");
    browser.fill("Name begins with", "tab");
    browser.sees("3 devices in the registry, 1 shown.");
    browser.click("Unblock: tablet");
    browser.sees("tablet is managed.");
    assert_eq!(node.json("/devices/tablet")["state"], "managed");
    browser.fill("Device", HOSTILE);
    browser.fill("User", "<b>eve</b>");
    browser.click("Set");
    browser.fill("Name begins with", "<img");
    browser.sees("<b>eve</b>");
    browser.click(&format!("Block: {HOSTILE}"));
    browser.sees("is blocked.");
    until("its tunnel is cut", || {
        let tunnels = node.json("/tunnels");
        let mut all = tunnels.as_array().unwrap().iter();
        all.all(|tunnel| tunnel["device"] != HOSTILE)
    });
    browser.click(&format!("Remove: {HOSTILE}"));
    browser.click("Remove");
    browser.sees("is taken out.");
    assert_eq!(browser.eval("document.title"), "Devices · adit");
    assert_eq!(
        browser.eval("document.querySelectorAll('main img').length"),
        0
    );

    // What is locked asks for the token again.
    browser.click("Lock changes");
    browser.fill("Name begins with", "phone-2");
    browser.click("Block: phone-2");
    browser.until("eyes.find('Token')");
    browser.press("Escape");
    assert_eq!(node.json("/devices/phone-2")["state"], "managed");
    is_clean(&mut browser, &node, &["status of 401"]);
}

#[test]
fn slow_everything_can_be_done_by_keyboard() {
    let node = Arc::new(Node::start());
    let _load = node.load();
    let mut browser = node.browser();
    browser.screen("light", 1280, 900);
    browser.open(&format!("{}/", node.url()));
    browser.sees("takes new tunnels");
    browser.tab_to("Skip to the content");
    browser.press("Enter");
    assert_eq!(browser.eval("eyes.focused().name"), "Overview");
    browser.tab_to("Unlock changes");
    browser.press("Enter");
    browser.until("eyes.focused().name === 'Token'");
    browser.type_text(TOKEN);
    browser.press("Enter");
    browser.sees("Changes are unlocked.");

    let [server, _] = node.servers;
    browser.tab_to("Services");
    browser.press("Enter");
    browser.until("eyes.focused().name === 'Services' && document.activeElement.matches('h1')");
    browser.tab_to(&format!("Drain: {server} of wiki"));
    browser.press("Enter");
    // The harmless button has the focus first, and Tab does not leave the dialog for the page.
    browser.until("eyes.focused().name === 'Cancel'");
    browser.tab_to("Drain");
    browser.press("Enter");
    until("it is drained", || node.state(server) == "drained");
    browser.tab_to(&format!("Bring back: {server} of wiki"));
    browser.press(" ");
    until("it is up", || node.state(server) == "up");

    // A refresh takes the focus from nobody.
    browser.tab_to(&format!("Drain: {server} of wiki"));
    let reads = "performance.getEntriesByType('resource').filter(({ name }) => name.endsWith('/servers')).length";
    let before = browser.eval(reads);
    browser.until(&format!("{reads} > {before} + 1"));
    let focused = browser.eval("eyes.focused().name");
    assert_eq!(focused, format!("Drain: {server} of wiki"));

    // A dialog ends with Escape, and what opened it has the focus again.
    browser.press("Enter");
    browser.until("eyes.focused().name === 'Cancel'");
    browser.press("Escape");
    browser.until(&format!(
        "eyes.focused().name === 'Drain: {server} of wiki'"
    ));
    assert_eq!(node.state(server), "up");

    // The heat map is read out field by field.
    browser.tab_to("Latency");
    browser.press("Enter");
    browser.until(
        "document.querySelector('.picture[role=group]')?.ariaLabel?.includes('values from')",
    );
    browser.until(
        "(document.querySelector('.picture[role=group]').focus(), eyes.focused().shown || true)",
    );
    browser.press("ArrowUp");
    browser.press("ArrowDown");
    browser.press("ArrowLeft");
    browser.until("/µs|ms/.test(document.querySelector('.ramp + [role=status]').textContent)");
    is_clean(&mut browser, &node, &[]);
}

#[test]
fn slow_it_can_be_read_in_light_in_dark_and_on_a_narrow_screen() {
    let node = Arc::new(Node::start());
    let phone = client_of(&node.pki.ca, "phone-1", |_| ());
    let _held: Vec<Session> = (0..3).map(|_| node.tunnel(&phone)).collect();
    let hostile = client_of(&node.pki.ca, HOSTILE, |_| ());
    let _strange = node.tunnel(&hostile);
    let _load = node.load();
    let mut browser = node.browser();
    browser.open(&format!("{}/", node.url()));
    browser.sees("takes new tunnels");
    for (view, ready) in [
        ("overview", "Revocation lists"),
        ("services", "127.0.0.1"),
        ("tunnels", HOSTILE),
        ("devices", "phone-1"),
        ("latency", "Percentiles"),
    ] {
        browser.eval(&format!("location.hash = '#/{view}'"));
        browser.sees(ready);
        if view == "latency" {
            browser.until("document.querySelectorAll('path.curve').length === 5");
            browser.until(
                "document.querySelector('.picture[role=group]').ariaLabel?.includes('values from')",
            );
        }
        for (colours, width) in [
            ("light", 1280),
            ("dark", 1280),
            ("light", 800),
            ("light", 360),
            ("dark", 360),
        ] {
            browser.screen(colours, width, 1500);
            browser.until(&format!("innerWidth === {width}"));
            let found = browser.eval("eyes.faint()");
            assert_eq!(found["faint"], json!([]), "{view} {colours}");
            assert!(found["looked"].as_u64().unwrap() > 20, "{found}");
            let overflow = browser.eval("eyes.overflow()").as_i64().unwrap();
            assert!(overflow <= 0, "{view} is {overflow} px too wide at {width}");
            browser.screenshot(&format!("admin-{view}-{colours}-{width}.png"));
        }
        assert_eq!(browser.nameless(), [""; 0], "{view}");
        assert_eq!(browser.violations(), json!([]), "{view}");
    }
    is_clean(&mut browser, &node, &[]);
}

/// What a page of another site tries, with the token as if it had come by it.
fn attempts(admin: &str) -> String {
    format!(
        "(async () => {{
            const told = {{}};
            const attempt = async (name, what) => {{
                try {{ told[name] = await what(); }} catch (error) {{ told[name] = 'refused'; }}
            }};
            const authorization = 'Bearer {TOKEN}';
            await attempt('read', async () => (await fetch('{admin}/tunnels')).text());
            await attempt('put', () => fetch('{admin}/devices/victim', {{
                method: 'PUT', headers: {{ authorization, 'content-type': 'application/json' }},
                body: '{{\"state\":\"blocked\"}}' }}));
            await attempt('delete', () => fetch('{admin}/devices/phone-1', {{
                method: 'DELETE', headers: {{ authorization }} }}));
            await attempt('simple', async () => (await fetch('{admin}/devices', {{
                method: 'POST', mode: 'no-cors', headers: {{ 'content-type': 'text/plain' }},
                body: 'victim,blocked' }})).type);
            await attempt('script', () => new Promise((resolve, reject) => {{
                const script = document.createElement('script');
                script.onload = () => resolve('loaded'); script.onerror = reject;
                script.src = '{admin}/page/format.js'; script.type = 'text/javascript';
                document.body.append(script);
            }}));
            const form = document.createElement('form');
            Object.assign(form, {{ method: 'post', action: '{admin}/devices', target: 'sink', enctype: 'text/plain' }});
            const sink = document.createElement('iframe'); sink.name = 'sink';
            document.body.append(sink, form);
            await new Promise((resolve) => {{ sink.onload = resolve; form.submit(); setTimeout(resolve, 3000); }});
            const frame = document.createElement('iframe'); frame.src = '{admin}/';
            document.body.append(frame);
            await new Promise((resolve) => {{ frame.onload = resolve; setTimeout(resolve, 3000); }});
            try {{ told.frame = frame.contentDocument ? 'read' : 'refused'; }} catch {{ told.frame = 'refused'; }}
            return told;
        }})()"
    )
}

#[test]
fn slow_other_pages_read_and_change_nothing() {
    let node = Node::start();
    let site = common::server(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let body = "<!doctype html><title>Elsewhere</title><body>";
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
    });
    let mut browser = node.browser();
    browser.open(&format!("http://localhost:{}/", site.port()));
    let told = browser.eval(&attempts(&node.url()));
    for (attempt, told) in told.as_object().unwrap() {
        assert_eq!(told, "refused", "{attempt}");
    }
    // Those that are sent without a question before: by fetch, and by the form.
    let refused = browser
        .statuses()
        .into_iter()
        .filter(|status| *status == 403);
    assert_eq!(refused.count(), 2);
    let framed = browser.complaints(&[]);
    let framed = framed
        .iter()
        .filter(|said| said.contains("frame-ancestors"));
    assert!(framed.count() > 0);

    let devices = node.json("/devices");
    let names: Vec<&str> = devices
        .as_array()
        .unwrap()
        .iter()
        .map(|device| device["device"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["phone-1", "phone-2", "tablet"]);

    // A name of the attacker's that leads to loopback (DNS rebinding) is told nothing.
    let rebound = format!("http://attacker.test:{}/", node.gateway.admin.port());
    browser.open(&rebound);
    browser.sees("this host name is not served");
    assert_eq!(
        browser.eval("fetch('/tunnels').then(({ status }) => status)"),
        421
    );

    // Its own page does it with the same words and the token, and without the token does not.
    browser.open(&node.url());
    let change = |token: &str| {
        format!(
            "fetch('/devices/victim', {{ method: 'PUT', body: '{{\"state\":\"blocked\"}}',
                headers: {{ authorization: 'Bearer {token}', 'content-type': 'application/json' }} }})
                .then(({{ status }}) => status)"
        )
    };
    assert_eq!(browser.eval(&change("")), 401);
    assert_eq!(browser.eval(&change(TOKEN)), 200);
    // The policy holds against what a script in the page might be made to do.
    let written = "try { document.body.innerHTML = '<b>x</b>'; 'written' } catch { 'refused' }";
    assert_eq!(browser.eval(written), "refused");
    let outside = format!(
        "fetch('http://localhost:{}/').then(() => 'sent', () => 'refused')",
        site.port()
    );
    assert_eq!(browser.eval(&outside), "refused");
}
