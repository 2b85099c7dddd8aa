//! Faults of a config: problems with their line, key and remedy, collected until everything has
//! been looked at.

use std::fmt;
use std::path::Path;

use crate::findings::{Problem, in_lines};

/// Everything that is wrong with a config file, in the order of its lines. Never empty. The display
/// form is one problem a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The problems.
    pub problems: Vec<Problem>,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&in_lines(&self.problems))
    }
}

/// Position of something in the file, or of its absence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) line: Option<usize>,
    pub(super) key: String,
}

/// A problem that does not know its place yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    message: String,
    remedy: String,
}

impl Fault {
    pub(super) fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    /// The problem, in its place.
    pub(super) fn at(self, place: &Location) -> Problem {
        Problem {
            line: place.line,
            key: place.key.clone(),
            message: self.message,
            remedy: self.remedy.into(),
            ..Problem::default()
        }
    }
}

/// Collects problems.
#[derive(Debug, Default)]
pub(super) struct Report {
    problems: Vec<Problem>,
}

impl Report {
    pub(super) fn add(&mut self, place: &Location, fault: Fault) {
        self.problems.push(fault.at(place));
    }

    /// `value` if nothing was wrong, else all that was.
    pub(super) fn conclude<T>(self, file: &Path, value: T) -> Result<T, ConfigError> {
        if self.problems.is_empty() {
            Ok(value)
        } else {
            Err(self.into_error(file))
        }
    }

    /// All that was wrong, in the order of the file.
    pub(super) fn into_error(mut self, file: &Path) -> ConfigError {
        self.problems.sort_by_key(|problem| problem.line);
        for problem in &mut self.problems {
            problem.file = Some(file.display().to_string());
        }
        let problems = self.problems;
        ConfigError { problems }
    }

    /// The error of a file that could not be read at all.
    pub(super) fn single(file: &Path, place: &Location, fault: Fault) -> ConfigError {
        let mut report = Self::default();
        report.add(place, fault);
        report.into_error(file)
    }
}

/// Longest piece of a file that is repeated in a message, in characters.
const QUOTED_MAX: usize = 80;

/// `text` for a message: quoted, control characters escaped (a terminal must not obey a config
/// file), long text cut.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_MAX) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}...", &text[..end]),
    }
}

/// Longest word for which a similar one is looked for: the distance takes the product of both
/// lengths.
const SIMILAR_MAX: usize = 64;

/// The one of `known` that `word` was most likely meant to be, if any is close enough.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > SIMILAR_MAX {
        return None;
    }
    let lower = word.to_lowercase();
    known
        .into_iter()
        .filter(|candidate| candidate.len() <= SIMILAR_MAX)
        .map(|candidate| {
            (
                strsim::osa_distance(&lower, &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `"a", "b" or "c"`.
pub(super) fn alternatives<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.into_iter().map(quoted).collect();
    match words.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_problem_a_line_in_the_order_of_the_file() {
        let mut report = Report::default();
        let at = |line, key: &str| Location {
            line,
            key: key.to_owned(),
        };
        report.add(
            &at(Some(12), "profile.rule[0].service"),
            Fault::new("no service named \"wik\"", "write \"wiki\""),
        );
        report.add(&at(Some(3), "engine.cores"), Fault::new("bad", "good"));
        report.add(&at(None, ""), Fault::new("empty", "fill it"));
        let error = report.conclude(Path::new("adit.toml"), ()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "adit.toml: empty; remedy: fill it\n\
             adit.toml:3: engine.cores: bad; remedy: good\n\
             adit.toml:12: profile.rule[0].service: no service named \"wik\"; remedy: write \"wiki\""
        );
    }

    #[test]
    fn an_empty_report_gives_the_value() {
        assert_eq!(Report::default().conclude(Path::new("x"), 7), Ok(7));
    }

    #[test]
    fn nearest_finds_typos_and_leaves_strangers() {
        let known = ["listen", "listener", "services"];
        assert_eq!(nearest("lisetn", known), Some("listen"));
        assert_eq!(nearest("Services", known), Some("services"));
        assert_eq!(nearest("service", known), Some("services"));
        assert_eq!(nearest("audit", known), None);
        assert_eq!(nearest(&"listen".repeat(100), known), None);
    }

    #[test]
    fn quoted_text_is_escaped_and_bounded() {
        assert_eq!(quoted("a\u{1b}[31m"), r#""a\u{1b}[31m""#);
        let long = quoted(&"é".repeat(1000));
        assert!(
            long.ends_with("\"...") && long.chars().count() == QUOTED_MAX + 5,
            "{long}"
        );
    }

    #[test]
    fn alternatives_read_as_a_sentence() {
        assert_eq!(alternatives(["a", "b", "c"]), r#""a", "b" or "c""#);
        assert_eq!(alternatives(["a"]), r#""a""#);
    }
}
