//! Style held by a test, not by reviewers.
//!
//! Each rule reads the sources as text and reports `file:line: what is wrong; what to do`. The rules are heuristics on
//! code that `cargo fmt` has laid out: [`blank`] takes comments and literals out first, so that prose is never taken
//! for code. Each heuristic is itself tested in `tidy/samples.rs`, on what it must accept and on what it must refuse.
//! What they do not see: code made by macros.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use circles::{circle_findings, is_test_file};
use documents::{
    config_findings, limit_findings, link_findings, machine_path_findings, metric_findings,
    readme_findings,
};
use text::{blank, identifier, words};
use words::{doc_findings, path_findings, plan_findings, word_findings};

#[path = "tidy/circles.rs"]
mod circles;
#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/samples.rs"]
mod samples;
#[path = "tidy/text.rs"]
mod text;
#[path = "tidy/words.rs"]
mod words;

/// The rooms from the ground up, as in docs/architecture.md. A room may use those before it, and those in its own row.
const ROOMS: &[&[&str]] = &[
    &["ring"],
    &["limits"],
    &["asn1"],
    &["reason"],
    &["files"],
    &["proxy_protocol"],
    &["table"],
    &["observe"],
    &["findings"],
    &["certs"],
    &["profiles"],
    &["config"],
    &["tls"],
    &["backend"],
    &["access"],
    &["tunnel"],
    &["front"],
    &["engine"],
    &["control"],
    &["lab"],
    &["load"],
    &["cli"],
];

/// The room whose certificates the unit tests of every room use.
const TEST_PKI: &str = "lab";

/// Circles of files that are not broken up yet. None is added.
const CIRCLES: &[&str] = &[
    "access/admission access/core access/outcome access/peer access/refusals access/sweep \
     access/tunnels",
    "certs/apple certs/blocks certs/chain certs/describe certs/findings certs/group certs/lists \
     certs/policy certs/read certs/spelling",
    "control/crl_pages control/earlier control/ledger control/page control/pages control/routes",
    "engine/certificates engine/group engine/listeners engine/loaded engine/node \
     engine/registry engine/reload engine/revocation engine/sweeper engine/worker",
    "front/http2/app front/http2/driver front/http2/session",
    "ring/buffers ring/driver ring/executor ring/own ring/permit ring/pieces ring/pool",
];

/// The rooms in which `unsafe` may be written.
const UNSAFE_ROOMS: &[&str] = &["ring", "table"];

/// The one place outside of src/ring that names io_uring: a benchmark that compares two of its operations without what
/// src/ring adds to them.
const BARE_IO_URING: &str = "benches/runtime/raw.rs";

/// A longer file is two files.
const MAX_FILE_LINES: usize = 600;
/// Files that may be longer, each with its reason beside it.
const LONG_FILES: &[&str] = &[];

/// A longer function is two functions.
const MAX_FUNCTION_LINES: usize = 70;
/// Functions that may be longer, as `path::name`, each with its reason beside it.
const LONG_FUNCTIONS: &[&str] = &[];

/// The only commands that a fresh machine needs: the README's first section has no others.
const START_COMMANDS: &[&str] = &["cargo run --release -- quickstart", "tests/run"];

// The rules, one test each.

#[test]
fn rooms_depend_upwards_only() {
    check(sources("src"), dependency_findings);
}

#[test]
fn files_of_a_room_use_each_other_in_no_circle() {
    report(circle_findings(&sources("src"), CIRCLES));
}

#[test]
fn files_and_functions_are_short() {
    let files = sources("src");
    let mut findings: Vec<Finding> = files.iter().flat_map(length_findings).collect();
    // Of tests and benchmarks the files alone: a test tells its story from top to bottom.
    let others = tracked(".rs").into_iter();
    let others = others.filter(|file| !file.path.starts_with("src/"));
    findings.extend(others.filter_map(|file| long_file_finding(&file)));
    findings.extend(stale_allowances(&files));
    report(findings);
}

#[test]
fn unit_tests_stand_in_one_of_two_places() {
    check(sources("src"), layout_findings);
}

#[test]
fn unsafe_stays_in_its_rooms_and_is_argued() {
    check(sources("src"), unsafe_findings);
}

#[test]
fn io_uring_is_named_in_the_ring_only() {
    let mut files = sources("src");
    files.extend(sources("tests"));
    files.extend(sources("benches"));
    check(files, io_uring_findings);
}

#[test]
fn metrics_and_their_document_agree() {
    let used = sources("src/observe");
    let document = read("docs/metrics.md").map(|text| Source::new("docs/metrics.md", text));
    report(metric_findings(&used, document.as_ref()));
}

#[test]
fn config_keys_are_documented() {
    let document = read("docs/config.md").map(|text| Source::new("docs/config.md", text));
    report(config_findings(&sources("src/config"), document.as_ref()));
}

#[test]
fn no_path_of_one_machine_is_tracked() {
    check(tracked(""), machine_path_findings);
}

#[test]
fn readme_starts_with_the_two_commands() {
    let readme = read("README.md").expect("README.md is part of the tree");
    report(readme_findings(&Source::new("README.md", readme)));
}

#[test]
fn links_between_documents_lead_somewhere() {
    check(tracked(".md"), |file| {
        link_findings(file, |path| root().join(path).exists())
    });
}

#[test]
fn every_limit_has_its_reason() {
    let limits = read("src/limits.rs").expect("src/limits.rs is part of the tree");
    report(limit_findings(&Source::new("src/limits.rs", limits)));
}

#[test]
fn doc_comments_begin_with_a_noun_or_a_verb() {
    check(sources("src"), doc_findings);
}

#[test]
fn documents_and_comments_use_the_words_of_the_field() {
    let mut files = sources("src");
    files.extend(tracked(".md"));
    check(files, word_findings);
}

#[test]
fn sources_named_in_documents_exist() {
    check(tracked(".md"), |file| {
        path_findings(file, |path| root().join(path).exists())
    });
}

#[test]
fn the_plan_has_the_rooms_that_exist() {
    let document = read("docs/architecture.md").expect("docs/architecture.md is part of the tree");
    let document = Source::new("docs/architecture.md", document);
    report(plan_findings(&document, |path| root().join(path).exists()));
}

// The heuristics.

/// A file of the tree: its path from the root, its text, and its text with comments and literals blanked out.
struct Source {
    path: String,
    text: String,
    code: String,
}

impl Source {
    fn new(path: &str, text: String) -> Self {
        let code = if path.ends_with(".rs") {
            blank(&text, true)
        } else {
            text.clone()
        };
        Self {
            path: path.to_owned(),
            text,
            code,
        }
    }

    /// `ring` for `src/ring/driver.rs`, `cli` for `src/cli.rs`, nothing outside `src`.
    fn room(&self) -> Option<&str> {
        let rest = self.path.strip_prefix("src/")?;
        Some(
            rest.split_once('/')
                .map_or_else(|| rest.trim_end_matches(".rs"), |(room, _)| room),
        )
    }

    fn finding(&self, line: usize, what: impl Into<String>) -> Finding {
        Finding {
            path: self.path.clone(),
            line,
            what: what.into(),
        }
    }

    /// The line number of a byte offset, from 1.
    fn line_of(&self, offset: usize) -> usize {
        self.text[..offset].matches('\n').count() + 1
    }
}

struct Finding {
    path: String,
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

fn rank(room: &str) -> Option<usize> {
    ROOMS.iter().position(|row| row.contains(&room))
}

fn dependency_findings(file: &Source) -> Vec<Finding> {
    let room = file.room().unwrap_or_default();
    if matches!(room, "lib" | "main") {
        return Vec::new();
    }
    let Some(own) = rank(room) else {
        let what = format!(
            "`{room}` is not a room; add it to ROOMS here and to docs/architecture.md, or move the file"
        );
        return vec![file.finding(1, what)];
    };
    let upwards = |(offset, used): (usize, String)| {
        let below = rank(&used).is_some_and(|rank| rank > own);
        let below = below && !(used == TEST_PKI && is_test(file, offset));
        below.then(|| {
            let what = format!("`{room}` uses `crate::{used}`, a room below it; move the code up or turn the call round");
            file.finding(file.line_of(offset), what)
        })
    };
    let mut paths = crate_paths(&file.code);
    paths.extend(climbing_paths(file));
    paths.into_iter().filter_map(upwards).collect()
}

/// What stands in a file of tests, or in the module of tests at the end of a file.
fn is_test(file: &Source, offset: usize) -> bool {
    let tests = file.code.find("#[cfg(test)]\nmod tests {");
    is_test_file(&file.path) || tests.is_some_and(|tests| tests < offset)
}

/// The name behind as many `super::` as lead out of the file's room.
fn climbing_paths(file: &Source) -> Vec<(usize, String)> {
    let path = file.path.trim_end_matches("/mod.rs");
    let depth = path.matches('/').count();
    let climbs = |(at, _): (usize, &str)| {
        let all = &file.code[at..];
        let rest = all.trim_start_matches("super::");
        let count = (all.len() - rest.len()) / "super::".len();
        let is_first = !file.code[..at].ends_with("::");
        (is_first && count == depth).then(|| (at, identifier(rest)))
    };
    let supers = words(&file.code, "super").into_iter();
    supers.filter_map(climbs).collect()
}

/// The first name of every path from the crate's root: `a` of `crate::a::b`, `a` and `c` of `crate::{a::b, c}`.
fn crate_paths(code: &str) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    for (at, _) in words(code, "crate") {
        let Some(rest) = code[at + "crate".len()..].strip_prefix("::") else {
            continue;
        };
        let start = code.len() - rest.len();
        let Some(group) = rest.strip_prefix('{') else {
            paths.push((start, identifier(rest)));
            continue;
        };
        let (mut depth, mut expect_name) = (0usize, true);
        for (i, c) in group.char_indices() {
            match c {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => expect_name = true,
                _ if expect_name && depth == 0 && !c.is_whitespace() => {
                    paths.push((start + 1 + i, identifier(&group[i..])));
                    expect_name = false;
                }
                _ => {}
            }
        }
    }
    paths
}

/// Tests that are neither at the end of their file nor where Rust looks for its module `tests`.
fn layout_findings(file: &Source) -> Vec<Finding> {
    let named = file.path.ends_with("_tests.rs").then(|| {
        let what = "move it to x/tests.rs, which x.rs names by `mod tests;`";
        file.finding(1, what)
    });
    let paths = file.code.match_indices("#[path").map(|(at, _)| {
        let what = "`#[path]`; let the module stand where Rust looks for it";
        file.finding(file.line_of(at), what)
    });
    named.into_iter().chain(paths).collect()
}

fn long_file_finding(file: &Source) -> Option<Finding> {
    let lines = file.text.lines().count();
    let is_long = lines > MAX_FILE_LINES && !LONG_FILES.contains(&file.path.as_str());
    let what = || format!("{lines} lines, {MAX_FILE_LINES} are allowed; make it two files");
    is_long.then(|| file.finding(lines, what()))
}

fn length_findings(file: &Source) -> Vec<Finding> {
    let mut findings: Vec<Finding> = long_file_finding(file).into_iter().collect();
    for (line, name, length) in functions(&file.code) {
        if length > MAX_FUNCTION_LINES
            && !LONG_FUNCTIONS.contains(&format!("{}::{name}", file.path).as_str())
        {
            let what = format!(
                "`{name}` has {length} lines, {MAX_FUNCTION_LINES} are allowed; make it two functions"
            );
            findings.push(file.finding(line, what));
        }
    }
    findings
}

/// Every function with a body: the line it starts on, its name, its length in lines from `fn` to the closing brace.
fn functions(code: &str) -> Vec<(usize, String, usize)> {
    let mut found = Vec::new();
    let mut offset = 0;
    for (index, line) in code.split_inclusive('\n').enumerate() {
        if let Some(name) = function_name(line)
            && let Some(length) = body_lines(&code[offset..])
        {
            found.push((index + 1, name, length));
        }
        offset += line.len();
    }
    found
}

/// The name, if the line begins a function: visibility, then any of `const async unsafe extern`, then `fn`.
fn function_name(line: &str) -> Option<String> {
    let mut rest = line.trim_start();
    if let Some(after) = rest.strip_prefix("pub(") {
        rest = after.split_once(") ")?.1;
    }
    loop {
        if let Some(name) = rest.strip_prefix("fn ") {
            return Some(identifier(name));
        }
        let (word, after) = rest.split_once(' ')?;
        if !matches!(
            word,
            "pub" | "default" | "const" | "async" | "unsafe" | "extern"
        ) {
            return None;
        }
        // The ABI of `extern "C"` is a literal, blanked to spaces.
        rest = after.trim_start();
    }
}

/// Lines up to the brace that closes the first body; nothing when a `;` ends the signature (a trait's declaration).
fn body_lines(code: &str) -> Option<usize> {
    let (mut braces, mut nested, mut lines) = (0usize, 0usize, 1usize);
    for c in code.chars() {
        match c {
            '\n' => lines += 1,
            '(' | '[' if braces == 0 => nested += 1,
            ')' | ']' if braces == 0 => nested = nested.saturating_sub(1),
            ';' if braces == 0 && nested == 0 => return None,
            '{' => braces += 1,
            '}' if braces <= 1 => return Some(lines),
            '}' => braces -= 1,
            _ => {}
        }
    }
    None
}

/// An allowance that nothing needs any more is removed, or it hides the next long function.
fn stale_allowances(files: &[Source]) -> Vec<Finding> {
    let long_file = |file: &Source| file.text.lines().count() > MAX_FILE_LINES;
    let long_files = files
        .iter()
        .filter(|file| long_file(file))
        .map(|file| file.path.clone());
    let long_functions = files.iter().flat_map(|file| {
        let long = functions(&file.code)
            .into_iter()
            .filter(|(_, _, length)| *length > MAX_FUNCTION_LINES);
        long.map(|(_, name, _)| format!("{}::{name}", file.path))
            .collect::<Vec<_>>()
    });
    let needed: BTreeSet<String> = long_files.chain(long_functions).collect();
    let allowed = LONG_FILES.iter().chain(LONG_FUNCTIONS);
    allowed
        .filter(|allowed| !needed.contains(**allowed))
        .map(|allowed| Finding {
            path: "tests/tidy.rs".to_owned(),
            line: 1,
            what: format!("`{allowed}` is short enough now; take it off its allow list"),
        })
        .collect()
}

fn unsafe_findings(file: &Source) -> Vec<Finding> {
    let may = file.room().is_some_and(|room| UNSAFE_ROOMS.contains(&room));
    let text: Vec<&str> = file.text.lines().collect();
    let code: Vec<&str> = file.code.lines().collect();
    let mut findings = Vec::new();
    for (at, rest) in words(&file.code, "unsafe") {
        let line = file.line_of(at);
        let opens = rest.trim_start().starts_with('{') || rest.trim_start().starts_with("impl");
        if !may {
            let what = format!(
                "`unsafe` outside of {}; put a safe interface there",
                UNSAFE_ROOMS.join(", ")
            );
            findings.push(file.finding(line, what));
        } else if opens && !has_safety_comment(&text, &code, line - 1) {
            let what = "no `// SAFETY:` comment above; name the invariant that makes this sound";
            findings.push(file.finding(line, what));
        }
    }
    findings
}

/// Whether the comment directly above the statement that holds line `at` (from 0) says `SAFETY:`.
fn has_safety_comment(text: &[&str], code: &[&str], at: usize) -> bool {
    for above in (0..at).rev() {
        let line = text[above].trim();
        if line.starts_with("//") {
            if line.contains("SAFETY:") {
                return true;
            }
            continue;
        }
        // Attributes, and the earlier lines of a statement that is still open, stand between comment and block.
        let open = !line.is_empty() && !code[above].trim_end().ends_with([';', '{', '}', ',']);
        if !line.starts_with("#[") && !open {
            return false;
        }
    }
    false
}

fn io_uring_findings(file: &Source) -> Vec<Finding> {
    if file.path == BARE_IO_URING {
        return Vec::new();
    }
    if file.room() == Some("ring") {
        return Vec::new();
    }
    let what = "names io_uring outside of src/ring; wrap what is needed there and use that";
    words(&file.code, "io_uring")
        .iter()
        .map(|(at, _)| file.finding(file.line_of(*at), what))
        .collect()
}

// Reading the tree.

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(root().join(path)).ok()
}

/// All Rust files under a folder of the tree, in the order of their paths; none when the folder does not exist.
fn sources(folder: &str) -> Vec<Source> {
    let mut pending = vec![PathBuf::from(folder)];
    let mut found = BTreeSet::new();
    while let Some(folder) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(root().join(&folder)) else {
            continue;
        };
        for entry in entries {
            let entry = entry.expect("a folder of the tree can be read");
            let path = folder.join(entry.file_name());
            if entry.path().is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.insert(path.to_str().expect("file names are UTF-8").to_owned());
            }
        }
    }
    let load = |path: &String| Source::new(path, read(path).expect("a source file is UTF-8 text"));
    found.iter().map(load).collect()
}

/// The text files that git tracks and whose name ends in `suffix`. Binary files, and files just deleted, are left out.
fn tracked(suffix: &str) -> Vec<Source> {
    // The one who runs the tests need not own the clone.
    let git = Command::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "-z"])
        .current_dir(root())
        .output();
    let git = git.expect("git is installed; it lists the files of the tree");
    assert!(
        git.status.success(),
        "git ls-files failed: {}",
        String::from_utf8_lossy(&git.stderr)
    );
    let names = String::from_utf8(git.stdout).expect("file names are UTF-8");
    let names = names
        .split('\0')
        .filter(|name| !name.is_empty() && name.ends_with(suffix));
    names
        .filter_map(|name| read(name).map(|text| Source::new(name, text)))
        .collect()
}

fn check(files: Vec<Source>, rule: impl Fn(&Source) -> Vec<Finding>) {
    assert!(
        !files.is_empty(),
        "no file to check: the rule looks in the wrong place"
    );
    report(files.iter().flat_map(rule).collect());
}

fn report(findings: Vec<Finding>) {
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(
        lines.is_empty(),
        "{} to mend:\n{}\n",
        lines.len(),
        lines.join("\n")
    );
}
