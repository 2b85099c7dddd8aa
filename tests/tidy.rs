//! Style held by a test, not by reviewers.
//!
//! Each rule reads the sources as text and reports `file:line: what is wrong; what to do`. The rules are heuristics on
//! code that `cargo fmt` has laid out: [`blank`] takes comments and literals out first, so that prose is never taken
//! for code. Every heuristic has a test of its own at the end, on a sample that it must accept and one that it must
//! refuse. What they do not see: a path that climbs out of its room with `super::super`, and code made by macros.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The rooms from the ground up, as in docs/architecture.md. A room may use those before it, and those in its own row.
const ROOMS: &[&[&str]] = &[
    &["ring"],
    &["limits"],
    &["table"],
    &["observe"],
    &["certs"],
    &["config"],
    &["tls"],
    &["backend"],
    &["tunnel"],
    &["engine"],
    &["control"],
    &["load"],
    &["cli", "quickstart"],
];

/// The rooms in which `unsafe` may be written.
const UNSAFE_ROOMS: &[&str] = &["ring", "table"];

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
fn files_and_functions_are_short() {
    let files = sources("src");
    let mut findings: Vec<Finding> = files.iter().flat_map(length_findings).collect();
    findings.extend(stale_allowances(&files));
    report(findings);
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
        below.then(|| {
            let what = format!("`{room}` uses `crate::{used}`, a room below it; move the code up or turn the call round");
            file.finding(file.line_of(offset), what)
        })
    };
    crate_paths(&file.code)
        .into_iter()
        .filter_map(upwards)
        .collect()
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

fn length_findings(file: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines = file.text.lines().count();
    if lines > MAX_FILE_LINES && !LONG_FILES.contains(&file.path.as_str()) {
        findings.push(file.finding(
            lines,
            format!("{lines} lines, {MAX_FILE_LINES} are allowed; make it two files"),
        ));
    }
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
    if file.room() == Some("ring") {
        return Vec::new();
    }
    let what = "names io_uring outside of src/ring; wrap what is needed there and use that";
    words(&file.code, "io_uring")
        .iter()
        .map(|(at, _)| file.finding(file.line_of(*at), what))
        .collect()
}

fn metric_findings(used: &[Source], document: Option<&Source>) -> Vec<Finding> {
    let mut names = BTreeMap::new();
    for file in used {
        // Comments may speak of metrics that are gone; names live in string literals.
        for (line, name) in metric_names(&blank(&file.text, false)) {
            names.entry(name).or_insert((file, line));
        }
    }
    let documented: BTreeMap<String, usize> = document
        .into_iter()
        .flat_map(|file| metric_names(&file.text))
        .map(|(line, name)| (name, line))
        .collect();
    let mut findings = Vec::new();
    for (name, (file, line)) in &names {
        if !documented.contains_key(name) {
            findings.push(file.finding(
                *line,
                format!("`{name}` is not in docs/metrics.md; say there what it counts"),
            ));
        }
    }
    for (name, line) in &documented {
        if let Some(document) = document.filter(|_| !names.contains_key(name)) {
            findings.push(document.finding(
                *line,
                format!("`{name}` is not in src/observe; take it out or bring it back"),
            ));
        }
    }
    findings
}

/// Names that begin with `adit_`, without the suffixes that the exposition format adds.
fn metric_names(text: &str) -> Vec<(usize, String)> {
    let mut names = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for (at, _) in line.match_indices("adit_") {
            let name = identifier(&line[at..]);
            let starts_word = !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            if starts_word && name.len() > "adit_".len() {
                let base = ["_total", "_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|suffix| name.strip_suffix(suffix));
                names.push((index + 1, base.unwrap_or(&name).to_owned()));
            }
        }
    }
    names
}

fn machine_path_findings(file: &Source) -> Vec<Finding> {
    // Put together here, so that this file does not find itself.
    let places = [
        concat!("/wo", "rk"),
        concat!("/ro", "ot"),
        concat!(".libr", "ary"),
    ];
    let mut findings = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        let named = places.iter().find(|place| {
            line.match_indices(**place).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                let after = line[at + place.len()..].chars().next();
                let in_path = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '}');
                !before.is_some_and(in_path) && !after.is_some_and(|c| in_path(c) && c != '.')
            })
        });
        if let Some(place) = named {
            let what =
                format!("`{place}` is a path of one machine; use a relative path or a variable");
            findings.push(file.finding(index + 1, what));
        }
    }
    findings
}

fn readme_findings(readme: &Source) -> Vec<Finding> {
    let headings = readme
        .text
        .lines()
        .enumerate()
        .filter(|(_, line)| line.starts_with("## "));
    let mut headings = headings.map(|(index, line)| (index, line[3..].trim()));
    let Some((start, "Start")) = headings.next() else {
        return vec![readme.finding(
            1,
            "the first section is not `## Start`; show there how to run adit",
        )];
    };
    let end = headings.next().map_or(usize::MAX, |(index, _)| index);
    let (mut fenced, mut findings, mut commands) = (false, Vec::new(), 0);
    for (index, line) in readme.text.lines().enumerate().take(end).skip(start) {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced && !line.trim().is_empty() {
            commands += 1;
            let command = line
                .split('#')
                .next()
                .unwrap_or_default()
                .trim()
                .trim_start_matches("$ ");
            if !START_COMMANDS.contains(&command) {
                let what = format!(
                    "`{command}` in the first section; a fresh machine needs {START_COMMANDS:?}, no more"
                );
                findings.push(readme.finding(index + 1, what));
            }
        }
    }
    if commands == 0 {
        findings.push(readme.finding(
            start + 1,
            format!("no command in the first section; show {START_COMMANDS:?}"),
        ));
    }
    findings
}

fn link_findings(file: &Source, exists: impl Fn(&Path) -> bool) -> Vec<Finding> {
    let folder = Path::new(&file.path).parent().unwrap_or(Path::new(""));
    let (mut fenced, mut findings) = (false, Vec::new());
    for (index, line) in file.text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        let inline = line
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split_once(')'))
            .map(|(target, _)| target);
        let reference = line
            .strip_prefix('[')
            .and_then(|rest| rest.split_once("]: "))
            .map(|(_, target)| target);
        for target in inline.chain(reference).filter(|_| !fenced) {
            let path = target.split(['#', ' ']).next().unwrap_or_default();
            let elsewhere = path.contains("://") || path.starts_with("mailto:");
            if !path.is_empty() && !elsewhere && !exists(&folder.join(path)) {
                findings.push(
                    file.finding(index + 1, format!("`{path}` does not exist; mend the link")),
                );
            }
        }
    }
    findings
}

fn limit_findings(file: &Source) -> Vec<Finding> {
    let text: Vec<&str> = file.text.lines().map(str::trim).collect();
    let mut findings = Vec::new();
    for (index, line) in file.code.lines().map(str::trim).enumerate() {
        let item = line.strip_prefix("pub ").unwrap_or(line);
        let Some(name) = item
            .strip_prefix("const ")
            .map(identifier)
            .filter(|name| name != "_" && name != "fn")
        else {
            continue;
        };
        let above = text[..index]
            .iter()
            .rev()
            .find(|line| !line.starts_with("#["));
        if !above.is_some_and(|line| line.starts_with("///")) {
            findings.push(file.finding(
                index + 1,
                format!("`{name}` has no doc comment; give its unit and its reason"),
            ));
        }
    }
    findings
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

// Reading Rust as text.

fn identifier(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// Where `word` stands as a whole word, with the text that follows it.
fn words<'a>(code: &'a str, word: &str) -> Vec<(usize, &'a str)> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let found = code
        .match_indices(word)
        .map(|(at, _)| (at, &code[at + word.len()..]));
    found
        .filter(|(at, rest)| !code[..*at].ends_with(part) && !rest.starts_with(part))
        .collect()
}

/// The text with comments, and literals if asked, replaced by spaces; offsets and line breaks stay.
fn blank(text: &str, literals: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let comment = comment_length(rest);
        let literal = if comment == 0 {
            literal_length(rest, out.chars().next_back())
        } else {
            0
        };
        let length = comment.max(literal).max(first.len_utf8()).min(rest.len());
        let (token, after) = rest.split_at(length);
        if comment > 0 || (literal > 0 && literals) {
            out.extend(
                token
                    .bytes()
                    .map(|byte| if byte == b'\n' { '\n' } else { ' ' }),
            );
        } else {
            out.push_str(token);
        }
        rest = after;
    }
    out
}

/// Bytes of the comment that the text begins with, or 0. Block comments nest.
fn comment_length(text: &str) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if !text.starts_with("/*") {
        return 0;
    }
    let (mut depth, mut at) = (0usize, 0);
    while at < text.len() {
        match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// Bytes of the string or character literal that the text begins with, or 0. A lifetime is not a literal.
fn literal_length(text: &str, before: Option<char>) -> usize {
    let in_word =
        before.is_some_and(|c| c.is_alphanumeric() && !matches!(c, 'b' | 'c') || c == '_');
    if let Some(hashed) = text.strip_prefix('r').filter(|_| !in_word) {
        let body = hashed.trim_start_matches('#');
        if body.starts_with('"') {
            let hashes = hashed.len() - body.len();
            let close = format!("\"{}", "#".repeat(hashes));
            let open = 1 + hashes + 1;
            return text[open..]
                .find(&close)
                .map_or(text.len(), |at| open + at + close.len());
        }
    }
    let mut chars = text.chars();
    match chars.next() {
        Some('"') => quoted_length(text, '"'),
        // `'a'` and `'\n'` are literals, `'a` and `'static` are lifetimes.
        Some('\'')
            if matches!(
                (chars.next(), chars.next()),
                (Some('\\'), _) | (_, Some('\''))
            ) =>
        {
            quoted_length(text, '\'')
        }
        _ => 0,
    }
}

/// Bytes up to the quote that closes the one at the start, past escaped quotes.
fn quoted_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    text.len()
}

// The heuristics, each on what it must accept and on what it must refuse.

fn sample(path: &str, text: &str) -> Source {
    Source::new(path, text.to_owned())
}

/// The lines, from 1, on which the rule finds something.
fn lines(findings: &[Finding]) -> Vec<usize> {
    findings.iter().map(|finding| finding.line).collect()
}

#[test]
fn blanking_keeps_code_and_line_breaks() {
    let text = "a(\"x // \\\" y\", r#\"z\" /* \"#, '\"', '\\'', 'b); // c\n/* d /* e */\nf */ fn g<'h>() {}";
    let code = blank(text, true);
    assert_eq!(code.len(), text.len());
    assert_eq!(code.matches('\n').count(), 2);
    let left: Vec<&str> = code.split_whitespace().collect();
    assert_eq!(
        left,
        ["a(", ",", ",", ",", ",", "'b);", "fn", "g<'h>()", "{}"]
    );
    assert!(
        blank(text, false).contains("x // "),
        "literals stay when only comments go"
    );
    assert!(!blank(text, false).contains("d /* e"));
}

#[test]
fn dependencies_are_seen_in_paths_and_groups() {
    let upwards =
        "use crate::limits::A;\nuse crate::{limits, observe::{B, tunnel}};\n// crate::tunnel\n";
    assert!(dependency_findings(&sample("src/tls/mod.rs", upwards)).is_empty());
    let downwards = "use crate::tunnel::A;\nuse crate::{\n    limits,\n    engine::B,\n};\nfn f() { crate::load::g() }\n";
    assert_eq!(
        lines(&dependency_findings(&sample("src/tls/mod.rs", downwards))),
        [1, 4, 6]
    );
    assert!(dependency_findings(&sample("src/main.rs", downwards)).is_empty());
    assert!(dependency_findings(&sample("src/cli.rs", "use crate::quickstart::run;")).is_empty());
    assert_eq!(
        lines(&dependency_findings(&sample("src/shed/mod.rs", ""))),
        [1],
        "an unknown room"
    );
}

#[test]
fn lengths_are_counted_from_fn_to_its_brace() {
    let code = "pub(in crate::a) const unsafe fn one(x: [u8; 2]) {\n    if x { y }\n}\ntrait T {\n    fn two(&self);\n}\n\
                extern \"C\" fn three() {}\nlet fn_ = 1;\n";
    let found = functions(&blank(code, true));
    assert_eq!(
        found,
        [(1, "one".to_owned(), 3), (7, "three".to_owned(), 1)]
    );

    let body = |lines: usize| format!("fn f() {{\n{}}}\n", "    g();\n".repeat(lines - 2));
    assert!(length_findings(&sample("src/tls/a.rs", &body(MAX_FUNCTION_LINES))).is_empty());
    assert_eq!(
        lines(&length_findings(&sample(
            "src/tls/a.rs",
            &body(MAX_FUNCTION_LINES + 1)
        ))),
        [1]
    );
    assert!(length_findings(&sample("src/tls/a.rs", &"\n".repeat(MAX_FILE_LINES))).is_empty());
    let long = length_findings(&sample("src/tls/a.rs", &"\n".repeat(MAX_FILE_LINES + 1)));
    assert_eq!(lines(&long), [MAX_FILE_LINES + 1]);
}

#[test]
fn unsafe_needs_its_room_and_its_comment() {
    let argued = "// SAFETY: the buffer outlives the operation,\n// see `Slot`.\n#[cold]\nlet x =\n    unsafe { a() };\n\
                  // SAFETY: b is Send\nunsafe impl Send for B {}\nunsafe fn c() {}\n";
    assert!(unsafe_findings(&sample("src/ring/a.rs", argued)).is_empty());
    let bare = "// SAFETY: for d only\nd();\nunsafe { e() };\n\nunsafe impl Send for F {}\nlet g = \"unsafe {\";\n";
    assert_eq!(
        lines(&unsafe_findings(&sample("src/ring/a.rs", bare))),
        [3, 5]
    );
    assert_eq!(
        lines(&unsafe_findings(&sample("src/tls/a.rs", argued))),
        [5, 7, 8]
    );
}

#[test]
fn io_uring_is_told_from_tokio_uring() {
    let code = "use tokio_uring::net;\nuse io_uring::opcode;\n";
    assert_eq!(
        lines(&io_uring_findings(&sample("src/control/mod.rs", code))),
        [2]
    );
    assert!(io_uring_findings(&sample("src/ring/driver.rs", code)).is_empty());
}

#[test]
fn metrics_are_compared_both_ways() {
    let used = [sample(
        "src/observe/a.rs",
        "// adit_old\nf(\"adit_tunnels\");\ng(\"adit_bytes_total\");\n",
    )];
    let document = sample(
        "docs/metrics.md",
        "`adit_bytes_total`\n`adit_gone_seconds_bucket`\n",
    );
    let findings = metric_findings(&used, Some(&document));
    let told: Vec<String> = findings
        .iter()
        .map(|finding| format!("{}:{}", finding.path, finding.line))
        .collect();
    assert_eq!(told, ["src/observe/a.rs:2", "docs/metrics.md:2"]);
    assert_eq!(
        metric_findings(&used, None).len(),
        2,
        "metrics without a document"
    );
    assert!(
        metric_findings(&[], None).is_empty(),
        "neither metrics nor document"
    );
}

#[test]
fn machine_paths_are_told_from_others() {
    let own = format!(
        "cd {}/x\n`{}`\n${{A}}/{}/y\n",
        concat!("/wo", "rk"),
        concat!("/ro", "ot"),
        concat!(".libr", "ary")
    );
    assert_eq!(
        lines(&machine_path_findings(&sample("a.md", &own))),
        [1, 2, 3]
    );
    let others = "target/work/x\n/workers\nhttps://a.example/root\nroots\n$dir/root\n";
    assert!(machine_path_findings(&sample("a.md", others)).is_empty());
}

#[test]
fn readme_commands_are_counted() {
    let good = "# adit\n\n## Start\n\n```sh\ncargo run --release -- quickstart\ntests/run  # all tests\n```\n\n## More\n\n```\nls\n```\n";
    assert!(readme_findings(&sample("README.md", good)).is_empty());
    let more = good.replace("```sh\n", "```sh\napt install x\n");
    assert_eq!(lines(&readme_findings(&sample("README.md", &more))), [6]);
    assert_eq!(
        lines(&readme_findings(&sample(
            "README.md",
            &good.replace("## Start", "## First")
        ))),
        [1]
    );
    assert_eq!(
        lines(&readme_findings(&sample(
            "README.md",
            "# adit\n\n## Start\n"
        ))),
        [3]
    );
}

#[test]
fn links_are_followed_from_their_own_folder() {
    let text = "[a](b.md#c) [d](https://e.example/) [f](#g)\n[h](i.md \"title\")\n[j]: ../k.md\n```\n[l](m.md)\n```\n";
    let file = sample("docs/n.md", text);
    assert!(link_findings(&file, |_| true).is_empty());
    assert_eq!(
        lines(&link_findings(&file, |path| path == Path::new("docs/b.md"))),
        [2, 3]
    );
}

#[test]
fn limits_without_a_reason_are_found() {
    let text = "/// Why.\n#[rustfmt::skip]\npub const A: usize = 1;\n\n// No doc comment.\nconst B: usize = 2;\nconst _: () = assert!(A < B);\n";
    assert_eq!(lines(&limit_findings(&sample("src/limits.rs", text))), [6]);
}
