//! Chromium without a screen, led over the DevTools protocol through a pair of pipes, as a person would use it: by the
//! mouse, by the keyboard, by looking.

#![allow(dead_code, reason = "a test's helper: each file uses its part")]

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use command_fds::{CommandFdExt, FdMapping};
use serde_json::{Value, json};

/// How long the browser may take for one thing, and the page until it shows something.
const PATIENCE: Duration = Duration::from_secs(40);

/// What pages are asked: an element by what a person would call it, what has the focus, how well text can be read.
const EYES: &str = include_str!("eyes.js");

pub struct Browser {
    child: Child,
    to: std::io::PipeWriter,
    from: Receiver<Value>,
    session: Option<String>,
    number: u64,
    /// What the browser has told without being asked.
    events: Vec<Value>,
}

impl Browser {
    /// At home in `folder`. Names that `hosts` maps (`MAP a.test 127.0.0.1`) are found, and `localhost`, and no others.
    pub fn start(folder: &Path, hosts: &str) -> Self {
        std::fs::create_dir_all(folder.join("etc")).unwrap();
        std::fs::create_dir_all(folder.join("home")).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/chromium.sh");
        // A child of the browser that outlived it would keep a pipe open.
        let log = std::fs::File::create(folder.join("chromium.log")).unwrap();
        let (their_from, to) = std::io::pipe().unwrap();
        let (mut from, their_to) = std::io::pipe().unwrap();
        let rules = format!("{hosts}, MAP * ~NOTFOUND, EXCLUDE localhost");
        let mut command = Command::new(script);
        command
            .arg(folder)
            .arg(format!(
                "--user-data-dir={}",
                folder.join("home/profile").display()
            ))
            .arg(format!(
                "--host-resolver-rules={}",
                rules.trim_start_matches(", ")
            ))
            .args(["--remote-debugging-pipe", "about:blank"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .fd_mappings(vec![
                FdMapping {
                    parent_fd: their_from.into(),
                    child_fd: 3,
                },
                FdMapping {
                    parent_fd: their_to.into(),
                    child_fd: 4,
                },
            ])
            .unwrap();
        let child = command.spawn().unwrap();
        drop(command);
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let (mut waiting, mut piece) = (Vec::new(), vec![0; 1 << 16]);
            while let Ok(read @ 1..) = from.read(&mut piece) {
                waiting.extend_from_slice(&piece[..read]);
                while let Some(end) = waiting.iter().position(|byte| *byte == 0) {
                    let message = serde_json::from_slice(&waiting[..end]).unwrap();
                    waiting.drain(..=end);
                    if sender.send(message).is_err() {
                        return;
                    }
                }
            }
        });
        let mut browser = Self {
            child,
            to,
            from: receiver,
            session: None,
            number: 0,
            events: Vec::new(),
        };
        browser.attach();
        browser
    }

    fn attach(&mut self) {
        let target = self.call("Target.createTarget", json!({"url": "about:blank"}));
        let attached = self.call(
            "Target.attachToTarget",
            json!({"targetId": target["targetId"], "flatten": true}),
        );
        self.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log", "Network", "DOM", "Accessibility"] {
            self.call(&format!("{domain}.enable"), json!({}));
        }
        self.call(
            "Page.addScriptToEvaluateOnNewDocument",
            json!({"source": EYES}),
        );
    }

    /// Asks the browser, and returns its answer.
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.number += 1;
        let mut message = json!({"id": self.number, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = serde_json::to_vec(&message).unwrap();
        bytes.push(0);
        self.to.write_all(&bytes).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut message = match self.from.recv_timeout(left) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => panic!("no answer to {message}"),
                Err(RecvTimeoutError::Disconnected) => panic!("the browser has ended: {message}"),
            };
            if message["id"] != self.number {
                self.events.push(message);
                continue;
            }
            assert!(message["error"].is_null(), "{method}: {}", message["error"]);
            return message["result"].take();
        }
    }

    /// The value of an expression in the page, awaited where it is a promise.
    pub fn eval(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true});
        let mut answer = self.call("Runtime.evaluate", asked);
        let thrown = &answer["exceptionDetails"];
        assert!(thrown.is_null(), "{expression}: {thrown}");
        answer["result"]["value"].take()
    }

    /// Goes to another document.
    pub fn open(&mut self, url: &str) {
        let gone = self.call("Page.navigate", json!({"url": url}));
        assert!(gone["errorText"].is_null(), "{url}: {gone}");
        self.until("document.readyState === 'complete'");
    }

    /// Waits until an expression is true.
    pub fn until(&mut self, expression: &str) {
        let start = Instant::now();
        while self.eval(&format!("Boolean({expression})")) != true {
            if start.elapsed() > PATIENCE {
                let seen = self.eval("document.body?.innerText");
                self.screenshot("admin-failed.png");
                panic!(
                    "not in time: {expression}\n{}",
                    seen.as_str().unwrap_or_default()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the page says this.
    pub fn sees(&mut self, text: &str) {
        self.until(&format!(
            "document.body?.innerText.includes({})",
            json!(text)
        ));
    }

    /// Clicks with the mouse on what a person would call `name`, once it is there.
    pub fn click(&mut self, name: &str) {
        let name = json!(name);
        self.until(&format!("eyes.find({name})"));
        let start = Instant::now();
        let place = loop {
            let place = self.eval(&format!("eyes.place({name})"));
            if !place.is_null() {
                break place;
            }
            assert!(start.elapsed() < PATIENCE, "{name} cannot be clicked");
        };
        for kind in ["mousePressed", "mouseReleased"] {
            self.call(
                "Input.dispatchMouseEvent",
                json!({"type": kind, "x": place["x"], "y": place["y"], "button": "left", "clickCount": 1}),
            );
        }
    }

    /// Writes into the field that a person would call `name`, in place of what was there.
    pub fn fill(&mut self, name: &str, text: &str) {
        self.click(name);
        self.eval("document.activeElement.select?.()");
        self.type_text(text);
    }

    /// Chooses the next of the options of a list, by the keyboard.
    pub fn next_option(&mut self, name: &str) {
        let name = json!(name);
        self.until(&format!("eyes.find({name})"));
        self.eval(&format!("eyes.find({name}).focus()"));
        self.press("ArrowDown");
    }

    /// Chooses files in a file picker.
    pub fn choose(&mut self, name: &str, file: &Path) {
        let name = json!(name);
        self.until(&format!("eyes.find({name})"));
        let found = self.call(
            "Runtime.evaluate",
            json!({"expression": format!("eyes.find({name})")}),
        );
        self.call(
            "DOM.setFileInputFiles",
            json!({"files": [file.to_str().unwrap()], "objectId": found["result"]["objectId"]}),
        );
    }

    pub fn type_text(&mut self, text: &str) {
        self.call("Input.insertText", json!({"text": text}));
    }

    /// Presses a key and lets it go.
    pub fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Enter" => (13, "\r"),
            "Tab" => (9, ""),
            "Escape" => (27, ""),
            " " => (32, " "),
            "ArrowLeft" => (37, ""),
            "ArrowUp" => (38, ""),
            "ArrowDown" => (40, ""),
            other => panic!("no code for {other}"),
        };
        let name = if key == " " { "Space" } else { key };
        let down = json!({"type": if text.is_empty() { "rawKeyDown" } else { "keyDown" }, "key": key, "code": name,
            "windowsVirtualKeyCode": code, "text": text});
        self.call("Input.dispatchKeyEvent", down);
        let up = json!({"type": "keyUp", "key": key, "code": name, "windowsVirtualKeyCode": code});
        self.call("Input.dispatchKeyEvent", up);
    }

    /// Goes on with Tab until what a person would call `name` has the focus. Each stop on the way must show it.
    pub fn tab_to(&mut self, name: &str) {
        self.until(&format!("eyes.find({})", json!(name)));
        let mut stops = Vec::new();
        for _ in 0..120 {
            self.press("Tab");
            let stop = self.eval("eyes.focused()");
            if stop["name"] == *name {
                assert_eq!(stop["shown"], true, "no focus is seen on {stop}");
                return;
            }
            // Between the last and the first stop is the browser's own frame.
            let in_page = stop["name"] != "";
            assert!(
                !in_page || stop["shown"] == true,
                "no focus is seen on {stop}"
            );
            stops.push(stop["name"].clone());
        }
        panic!("Tab does not lead to {name}, only to {stops:?}");
    }

    /// Light or dark, and how wide.
    pub fn screen(&mut self, colours: &str, width: u32, height: u32) {
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": colours}]});
        self.call("Emulation.setEmulatedMedia", media);
        self.call(
            "Emulation.setDeviceMetricsOverride",
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}),
        );
    }

    /// A picture of what is in the window, kept for whoever wants to see it.
    pub fn screenshot(&mut self, name: &str) -> PathBuf {
        let picture = self.call("Page.captureScreenshot", json!({"format": "png"}));
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/artifacts");
        std::fs::create_dir_all(&folder).unwrap();
        let bytes = BASE64_STANDARD.decode(picture["data"].as_str().unwrap());
        std::fs::write(folder.join(name), bytes.unwrap()).unwrap();
        folder.join(name)
    }

    /// Controls that a screen reader would have no name for, as their roles.
    pub fn nameless(&mut self) -> Vec<String> {
        let tree = self.call("Accessibility.getFullAXTree", json!({}));
        let roles = [
            "button",
            "link",
            "textbox",
            "searchbox",
            "combobox",
            "checkbox",
            "image",
            "table",
            "dialog",
        ];
        let nodes = tree["nodes"].as_array().unwrap().iter();
        let nameless = nodes.filter(|node| {
            let role = node["role"]["value"].as_str().unwrap_or_default();
            let name = node["name"]["value"].as_str().unwrap_or_default();
            node["ignored"] == false && roles.contains(&role) && name.trim().is_empty()
        });
        nameless
            .map(|node| node["role"]["value"].to_string())
            .collect()
    }

    /// What axe-core finds wrong with the page as it is now: rule and place.
    pub fn violations(&mut self) -> Value {
        let axe = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/axe/package/axe.min.js");
        let axe = std::fs::read_to_string(&axe)
            .unwrap_or_else(|error| panic!("{}: {error}; tests/run puts it there", axe.display()));
        self.call("Runtime.evaluate", json!({"expression": axe}));
        self.eval(
            "axe.run().then(({ passes, violations }) => {
                if (passes.length < 10) throw new Error('it did not look');
                return violations.map(({ id, nodes }) => [id, nodes[0].html, nodes[0].failureSummary]);
            })",
        )
    }

    fn told(&mut self, method: &str) -> Vec<Value> {
        self.eval("0");
        let events = self.events.iter();
        let of = events.filter(|event| event["method"] == *method);
        of.map(|event| event["params"].clone()).collect()
    }

    /// The URLs that were asked for.
    pub fn requests(&mut self) -> Vec<String> {
        let requests = self.told("Network.requestWillBeSent");
        let urls = requests.iter().map(|sent| &sent["request"]["url"]);
        urls.map(|url| url.as_str().unwrap().to_owned()).collect()
    }

    /// The status of each answer, as it came over the wire.
    pub fn statuses(&mut self) -> Vec<u64> {
        let answers = self.told("Network.responseReceivedExtraInfo");
        let statuses = answers.iter().map(|answer| answer["statusCode"].as_u64());
        statuses.map(Option::unwrap).collect()
    }

    /// Scripts' errors, breaches of the page's policy, and whatever else the console shows as an error. Answers with a
    /// status that is no success are there too; those in `expected` are left out.
    pub fn complaints(&mut self, expected: &[&str]) -> Vec<String> {
        let mut found: Vec<String> = self
            .told("Runtime.exceptionThrown")
            .iter()
            .map(|event| event["exceptionDetails"].to_string())
            .collect();
        let calls = self.told("Runtime.consoleAPICalled");
        let loud = calls
            .iter()
            .filter(|call| call["type"] == "error" || call["type"] == "warning");
        found.extend(loud.map(Value::to_string));
        let entries = self.told("Log.entryAdded");
        let entries = entries.iter().map(|event| &event["entry"]);
        let loud = entries.filter(|entry| entry["level"] == "error" || entry["level"] == "warning");
        found.extend(loud.map(Value::to_string));
        found.retain(|said| !expected.iter().any(|known| said.contains(known)));
        found
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The namespace ends with its first process, and all that is in it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
