//! The rules on the words of documents and comments.

use std::path::Path;

use super::{Finding, ROOMS, Source};

/// Words that a doc comment does not begin with.
const QUESTIONS: &[&str] = &["What", "Whether", "Where"];

/// Words that are not used any more, each with the usual one.
const OLD_WORDS: &[(&str, &str)] = &[
    ("in force", "active, or valid"),
    ("into force", "activate, or become active"),
    ("came to no end", "did not finish"),
    ("has not shown who", "is not authenticated yet"),
    ("have not shown who", "are not authenticated yet"),
];

/// Every block of doc comments whose first word asks a question.
pub fn doc_findings(file: &Source) -> Vec<Finding> {
    let (mut before, mut findings) = (None, Vec::new());
    for (index, line) in file.text.lines().map(str::trim_start).enumerate() {
        let mark = ["///", "//!"]
            .into_iter()
            .find(|mark| line.starts_with(mark));
        if let Some(mark) = mark.filter(|mark| before != Some(*mark)) {
            let first = line[mark.len()..].split_whitespace().next();
            if let Some(word) = first.filter(|word| QUESTIONS.contains(word)) {
                let what = format!("begins with `{word}`; begin with a noun or a verb");
                findings.push(file.finding(index + 1, what));
            }
        }
        before = mark;
    }
    findings
}

/// Old words in a document or a source. Decisions are history, and stay as they were written.
pub fn word_findings(file: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    if file.path.starts_with("docs/decisions/") || file.path == "CHANGELOG.md" {
        return findings;
    }
    for (index, line) in file.text.lines().enumerate() {
        let line = line.to_lowercase();
        for (old, usual) in OLD_WORDS.iter().filter(|(old, _)| line.contains(old)) {
            findings.push(file.finding(index + 1, format!("`{old}`; write {usual}")));
        }
    }
    findings
}

/// The headings of the plan against [`ROOMS`], in their order, and against the tree.
pub fn plan_findings(plan: &Source, exists: impl Fn(&Path) -> bool) -> Vec<Finding> {
    let mut rooms = ROOMS.iter().map(|row| row[0]);
    let mut findings = Vec::new();
    let headings = plan.text.lines().enumerate();
    for (index, line) in headings.filter(|(_, line)| line.starts_with("### `src/")) {
        let named = line.split('`').skip(1).step_by(2);
        for path in named.clone().filter(|path| !exists(Path::new(path))) {
            findings.push(plan.finding(index + 1, format!("`{path}` does not exist")));
        }
        let first = named.clone().next().unwrap_or_default();
        let room = first["src/".len()..].trim_end_matches('/');
        let room = room.trim_end_matches(".rs");
        if rooms.next() != Some(room) {
            let what = format!("`{room}` is at another place in ROOMS of tests/tidy.rs");
            findings.push(plan.finding(index + 1, what));
        }
    }
    if let Some(room) = rooms.next() {
        findings.push(plan.finding(1, format!("has no heading for `src/{room}`")));
    }
    findings
}

/// Sources that a document names in code marks, from the root, and that do not exist.
pub fn path_findings(file: &Source, exists: impl Fn(&Path) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        for path in line.split('`').skip(1).step_by(2) {
            let is_source = path.starts_with("src/") || path.starts_with("tests/");
            let is_path = is_source && path.ends_with(".rs") && !path.contains(['*', ' ', '{']);
            if is_path && !exists(Path::new(path)) {
                findings.push(file.finding(index + 1, format!("`{path}` does not exist")));
            }
        }
    }
    findings
}
