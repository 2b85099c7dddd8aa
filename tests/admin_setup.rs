//! A node is set up in a browser, from nothing to tunnels: certificates are uploaded, a profile is written, corrected,
//! activated, changed and taken back.

use crate::common;
use crate::common::browser;
use crate::common::profiles as node;

use std::net::TcpStream;

use browser::Browser;
use common::{TOKEN, ask, echo, free_port, request, server, session, until};
use node::{Node, Running};
use serde_json::{Value, json};

fn read(node: &Running, path: &str) -> Value {
    serde_json::from_str(&node.get(path).1).unwrap()
}

/// Light, dark and narrow: no control without a name, nothing that axe-core minds, nothing too wide or too faint.
fn can_be_read(browser: &mut Browser, view: &str) {
    for (colours, width) in [
        ("dark", 1280),
        ("dark", 360),
        ("light", 360),
        ("light", 1280),
    ] {
        browser.screen(colours, width, 1500);
        browser.until(&format!("innerWidth === {width}"));
        assert_eq!(browser.eval("eyes.faint()")["faint"], json!([]), "{view}");
        assert!(
            browser.eval("eyes.overflow()").as_i64().unwrap() <= 0,
            "{view}"
        );
        browser.screenshot(&format!("admin-{view}-{colours}-{width}.png"));
    }
    assert_eq!(browser.nameless(), [""; 0], "{view}");
    assert_eq!(browser.violations(), json!([]), "{view}");
}

fn unlock(browser: &mut Browser) {
    browser.click("Unlock changes");
    browser.fill("Token", TOKEN);
    browser.fill("Your name", "ann");
    browser.click("Unlock");
    browser.sees("Changes are unlocked.");
}

#[test]
fn slow_a_bare_node_is_set_up_in_a_browser() {
    let node = Node::new();
    let device = node.pki.client("device", |_| ());
    node.pki.pkcs12("tunnel.p12", "server", "sesame", &[]);
    std::fs::write(node.path("notes.txt"), "no certificate at all").unwrap();
    let running = node.run();
    let mut browser = Browser::start(node.pki.folder.path(), "");
    browser.screen("light", 1280, 1500);
    browser.open(&format!("http://localhost:{}/", running.admin.port()));
    browser.sees("not ready");
    browser.sees("unconfigured: no profile is assigned");
    unlock(&mut browser);

    upload(&mut browser, &node, &running);
    let address = free_port();
    let text = write_profile(&mut browser, &running, address, server(echo));

    until("ready", || running.ready());
    let socket = TcpStream::connect(address).unwrap();
    let mut tunnel = session(&node.pki, socket, &device);
    let head = ask(&mut tunnel, &request("a.test:1")).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");

    // What the profile uses stays.
    browser.click("Certificates");
    browser.click("Delete: tunnel");
    browser.click("Delete");
    browser.until("document.querySelector('#notice .bad')?.innerText.includes('corp')");
    assert_eq!(running.get("/certificates/server/tunnel").0, 200);
    change_and_take_back(&mut browser, &running, &text);

    browser.click("Overview");
    browser.click("Reload the configuration");
    browser.sees("The configuration was read again");
    let complaints = browser.complaints(&["status of 4", "status of 503"]);
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// What is wrong is told and not taken; what is right is taken after a look.
fn upload(browser: &mut Browser, node: &Node, running: &Running) {
    browser.click("Certificates");
    browser.sees("The store is empty.");
    browser.choose("File", &node.path("notes.txt"));
    browser.click("Look at the file");
    browser.sees("It cannot be imported");
    // The end certificate alone leads to no authority.
    browser.choose("File", &node.path("server.pem"));
    browser.choose("Key file", &node.path("server.key"));
    browser.click("Look at the file");
    browser.until("document.querySelector('.findings .bad')");
    assert_eq!(
        browser.eval("eyes.find('Name in the store').value"),
        "server"
    );
    can_be_read(browser, "findings");
    assert_eq!(read(running, "/certificates")["certificates"], json!([]));

    browser.click("Certificates");
    browser.eval("location.reload()");
    browser.sees("The store is empty.");
    unlock(browser);
    browser.choose("File", &node.path("tunnel.p12"));
    browser.fill("Password", "wrong");
    browser.click("Look at the file");
    browser.sees("It cannot be imported");
    browser.fill("Password", "sesame");
    browser.click("Look at the file");
    browser.sees("It can be imported");
    assert_eq!(read(running, "/certificates")["certificates"], json!([]));
    browser.click("Import");
    browser.sees("tunnel is imported.");
    // Not in place of another without a question.
    browser.choose("File", &node.path("tunnel.p12"));
    browser.fill("Password", "sesame");
    browser.click("Look at the file");
    browser.sees("It can be imported");
    browser.click("Import");
    browser.sees("Replace the certificate?");
    browser.click("Replace");
    browser.sees("tunnel is imported.");

    browser.next_option("Kind");
    browser.choose("File", &node.path("ca.pem"));
    browser.click("Look at the file");
    browser.sees("It can be imported");
    browser.click("Import");
    browser.sees("ca is imported.");
    let stored = read(running, "/certificates");
    let mut names: Vec<String> = stored["certificates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            format!(
                "{}/{}",
                one["kind"].as_str().unwrap(),
                one["name"].as_str().unwrap()
            )
        })
        .collect();
    names.sort();
    assert_eq!(names, ["group/ca", "server/tunnel"]);
    browser.click("tunnel");
    browser.sees("CN=localhost");
    browser.sees("mobileconfig");
    can_be_read(browser, "certificate");
}

/// Writes a profile with a mistake in it, is led to the line, corrects it and activates it.
fn write_profile(
    browser: &mut Browser,
    running: &Running,
    listen: std::net::SocketAddr,
    server: std::net::SocketAddr,
) -> String {
    browser.click("Profiles");
    browser.sees("The store holds no profile.");
    browser.fill("Name", "corp");
    browser.press("Enter");
    browser.sees("A new profile.");
    let right = format!(
        "[profile]\nname = 'corp'\nexternal = 'localhost:8443'\n[profile.listener]\nhttps = '{listen}'\n\
         [profile.server_certificate]\nprimary = 'store:tunnel'\n\
         [profile.device_auth]\ngroup_certificates = ['store:ca']\nunmanaged = 'allow'\n\
         [profile.device_auth.crl]\nenabled = false\n\
         [[profile.service]]\nname = 'wiki'\nservers = ['{server}']\n\
         [[profile.rule]]\nhost = '*.test'\nport = '*'\nservice = 'wiki'\n"
    );
    let wrong = right.replace("unmanaged = 'allow'", "unmanaged = 'perhaps'");
    browser.fill("Text of the profile", &wrong);
    browser.click("Validate");
    browser.click("Line 10");
    let selected =
        "const { value, selectionStart, selectionEnd } = document.querySelector('textarea');
        value.slice(selectionStart, selectionEnd)";
    let selected = format!(
        "(() => {{ {} }})()",
        selected.replace("value.slice", "return value.slice")
    );
    assert_eq!(browser.eval(&selected), "unmanaged = 'perhaps'");
    assert_eq!(
        browser.eval("document.querySelector('.gutter .marked').textContent"),
        "10"
    );
    can_be_read(browser, "profile");
    assert_eq!(read(running, "/profiles")["profiles"], json!([]));

    browser.fill("Text of the profile", &right);
    browser.click("Validate");
    browser.sees("The text is right; nothing is stored yet.");
    browser.fill("Note", "the first one");
    browser.click("Apply");
    browser.sees("corp is stored as version 1.");
    browser.click("Assign");
    browser.sees("Activate this profile?");
    browser.press("Tab");
    browser.press("Enter");
    browser.sees("corp is active.");
    right
}

/// A second version becomes active at once; the first one's text comes back as the third.
fn change_and_take_back(browser: &mut Browser, running: &Running, text: &str) {
    browser.click("Profiles");
    browser.click("corp");
    browser.sees("the first one");
    let second = text.replace("'*.test'", "'*.example'");
    browser.fill("Text of the profile", &second);
    browser.fill("Note", "<b>another host</b>");
    browser.click("Apply");
    browser.sees("corp is stored as version 2, and active.");
    browser.click("Roll back: version 1 of corp");
    browser.click("Roll back");
    browser.sees("corp is back at the text of version 1.");
    let stored = read(running, "/profiles/corp");
    assert_eq!(
        (&stored["version"], &stored["text"]),
        (&json!(3), &json!(text))
    );
    let who: Vec<&Value> = stored["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|version| &version["who"])
        .collect();
    assert_eq!(who, ["ann (admin listener)"; 3]);
    browser.sees("<b>another host</b>");
    until("the third is active", || {
        read(running, "/readyz")["profile"]["version"] == 3
    });
}
