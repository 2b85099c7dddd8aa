//! Problems of a file, a configuration or a certificate, in one type for people and for programs.
//!
//! Who finds a problem makes it; this room knows neither files nor certificates.

mod health;

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

pub use health::{FindingCode, HealthBoard, HealthChanges, HealthFinding, HealthLevel};

/// How bad a problem is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// It may work.
    Warning,
    /// It does not do what it is for.
    #[default]
    Error,
}

impl Severity {
    /// `error` or `warning`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing that is wrong.
///
/// The display form is one line:
/// `adit.toml:12: profile.rule[0].service: no service named "wik"; remedy: ...`. As JSON it has
/// what is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// How bad.
    pub severity: Severity,
    /// The problem as one word for programs. Empty where there is no word for it.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub code: Cow<'static, str>,
    /// The file or profile that it is in, as the caller named it, where that is known apart from
    /// the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line of the file, from 1. `None` where the problem is of the whole file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Path of the key, such as `profile.rule[0].service` (lists count from 0). Empty where there
    /// is none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// The object of the problem, such as the subject of a certificate; `None` for the whole file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The fault.
    pub message: String,
    /// The remedy. Empty where the message says it.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub remedy: Cow<'static, str>,
}

impl std::error::Error for Problem {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}:")?;
            if let Some(line) = self.line {
                write!(f, "{line}:")?;
            }
            f.write_str(" ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        if let Some(subject) = &self.subject {
            write!(f, "{}: ", escaped(subject))?;
        }
        f.write_str(&escaped(&self.message))?;
        if !self.remedy.is_empty() {
            write!(f, "; remedy: {}", self.remedy)?;
        }
        Ok(())
    }
}

impl Problem {
    /// An error whose text says what is wrong and what would be right.
    #[must_use]
    pub fn of(error: &impl fmt::Display) -> Self {
        Self {
            message: error.to_string(),
            ..Self::default()
        }
    }
}

/// Problems, one a line.
#[must_use]
pub fn in_lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    lines.join("\n")
}

/// `text` with its control characters, and those that turn the direction of writing, escaped.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        let turns = matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if character.is_control() || turns {
            // Writing to a String does not fail.
            let _ = write!(safe, "{}", character.escape_default());
        } else {
            safe.push(character);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line_whatever_is_in_it_and_json_has_what_is_known() {
        let problem = Problem {
            severity: Severity::Warning,
            code: "name".into(),
            subject: Some("CN=a\nb".to_owned()),
            message: "is not\u{1b}[31m".to_owned(),
            remedy: "take another".into(),
            ..Problem::default()
        };
        assert_eq!(
            problem.to_string(),
            r"CN=a\nb: is not\u{1b}[31m; remedy: take another"
        );
        let json = serde_json::to_value(&problem).unwrap();
        let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["code", "message", "remedy", "severity", "subject"]);
        assert_eq!(serde_json::from_value::<Problem>(json).unwrap(), problem);
    }
}
