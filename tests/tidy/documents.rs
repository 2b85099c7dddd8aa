//! The rules on what is written beside the code: metrics, limits, documents.

use std::collections::BTreeMap;
use std::path::Path;

use super::text::{blank, identifier, words};
use super::{Finding, START_COMMANDS, Source};

pub fn metric_findings(used: &[Source], document: Option<&Source>) -> Vec<Finding> {
    let mut names = BTreeMap::new();
    for file in used {
        for (line, name) in registered_metrics(file) {
            names.entry(name).or_insert((file, line));
        }
    }
    let mut findings = Vec::new();
    let mut rows: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, row) in document
        .into_iter()
        .flat_map(|document| document.text.lines().enumerate())
    {
        let name = row
            .strip_prefix("| `adit_")
            .and_then(|rest| rest.split('`').next());
        let first = name.and_then(|name| rows.insert(name, at + 1));
        if let (Some(document), Some(first)) = (document, first) {
            let what = format!("has a row on line {first} already; keep the true one");
            findings.push(document.finding(at + 1, what));
        }
    }
    let documented: BTreeMap<String, usize> = document
        .into_iter()
        .flat_map(documented_metrics)
        .map(|(line, name)| (name, line))
        .collect();
    for (name, (file, line)) in &names {
        if !documented.contains_key(name) {
            let what = format!("`adit_{name}` is not in docs/metrics.md; say there what it tells");
            findings.push(file.finding(*line, what));
        }
    }
    for (name, line) in &documented {
        if let Some(document) = document.filter(|_| !names.contains_key(name)) {
            let what = format!("no `adit_{name}` in src/observe; take it out or bring it back");
            findings.push(document.finding(*line, what));
        }
    }
    findings
}

/// Every key that the config reads stands in its document, as `` `key` `` or in the name of a table.
pub fn config_findings(raw: &[Source], document: Option<&Source>) -> Vec<Finding> {
    const CALLS: &[&str] = &[
        "string",
        "strings",
        "boolean",
        "integer",
        "numbers",
        "file",
        "live_file",
        "live_files",
        "certificate",
        "certificates",
        "entries",
        "table",
        "optional_table",
        "tables",
    ];
    let document = document.map_or("", |document| &document.text);
    let is_documented = |key: &str| {
        [format!("`{key}`"), format!("{key}]"), format!("{key}.")]
            .iter()
            .any(|written| document.contains(written.as_str()))
    };
    let mut findings = Vec::new();
    for file in raw {
        let text = blank(&file.text, false);
        for (at, rest) in CALLS.iter().flat_map(|call| words(&text, call)) {
            let key = rest.strip_prefix("(\"").map(identifier);
            if let Some(key) = key.filter(|key| !is_documented(key)) {
                let what = format!("`{key}` is not in docs/config.md; say there what it does");
                findings.push(file.finding(file.line_of(at), what));
            }
        }
    }
    findings
}

/// The metrics that a file registers: the literal that is the first argument of a call which makes a metric. Such names
/// have no `adit_`, which is the registry's prefix; tests, which are at the end of a file, register none.
fn registered_metrics(file: &Source) -> Vec<(usize, String)> {
    const CALLS: &[&str] = &[
        "counter",
        "gauge",
        "family",
        "histogram",
        "register",
        "encode_descriptor",
    ];
    let text = blank(&file.text, false);
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let mut names = Vec::new();
    for call in CALLS {
        for (at, rest) in words(text, call) {
            let argument = rest.strip_prefix('(').map(str::trim_start);
            if let Some(literal) = argument.and_then(|argument| argument.strip_prefix('"')) {
                names.push((file.line_of(at), metric_base(&identifier(literal))));
            }
        }
    }
    names
}

/// The metrics that a document names: every whole word that begins with `adit_`, without that prefix.
fn documented_metrics(file: &Source) -> Vec<(usize, String)> {
    let mut names = Vec::new();
    for (at, _) in file.text.match_indices("adit_") {
        let in_word = file.text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let name = identifier(&file.text[at + "adit_".len()..]);
        if !in_word && !name.is_empty() {
            names.push((file.line_of(at), metric_base(&name)));
        }
    }
    names
}

/// A name without the suffix that the exposition format adds to it.
fn metric_base(name: &str) -> String {
    let suffixes = ["_total", "_bucket", "_sum", "_count", "_info"];
    let base = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix));
    base.unwrap_or(name).to_owned()
}

pub fn machine_path_findings(file: &Source) -> Vec<Finding> {
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

pub fn readme_findings(readme: &Source) -> Vec<Finding> {
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
    let (mut block, mut findings, mut commands) = (None, Vec::new(), 0);
    for (index, line) in readme.text.lines().enumerate().take(end).skip(start) {
        if let Some(kind) = line.strip_prefix("```") {
            // What a command prints stands in a block of text.
            block = block.is_none().then_some(kind != "text");
        } else if block == Some(true) && !line.trim().is_empty() {
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

pub fn link_findings(file: &Source, exists: impl Fn(&Path) -> bool) -> Vec<Finding> {
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

pub fn limit_findings(file: &Source) -> Vec<Finding> {
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
