//! The texts that name devices: CSV, and JSON with one object a line.
//!
//! Bytes go in as they come, in pieces of any size; what comes out at the end is whole or every bad
//! line is named.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Collected, DeviceChanges, DeviceEntry, DeviceRegistry, DeviceState, RegistryFull};
use crate::limits::{DEVICE_LINE_MAX, DEVICE_PROBLEMS_MAX, MAX_IDENTITY_NAME_BYTES};

/// Why a registry was refused: every line that is wrong, in order.
#[derive(Debug, thiserror::Error)]
pub struct RegistryError {
    /// The file that the text came from.
    pub path: PathBuf,
    /// The lines that are wrong; never empty.
    pub problems: Vec<RegistryProblem>,
}

/// One line that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryProblem {
    /// Counted from 1.
    pub line: usize,
    /// The fault and its remedy.
    pub fault: DeviceFault,
}

/// A fault in what is said about a device, with its remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceFault {
    /// A line without an end.
    #[error("the line is longer than {DEVICE_LINE_MAX} bytes; write one device on each line")]
    LongLine,
    /// Another encoding.
    #[error("the line is not UTF-8 text; save the file as UTF-8")]
    NotUtf8,
    /// The other format.
    #[error(
        "this looks like NDJSON, and is read as CSV; let the file's name end in .ndjson or .jsonl (over the admin listener: \
         Content-Type: application/x-ndjson)"
    )]
    LooksLikeNdjson,
    /// JSON that is wrong, and what would be right.
    #[error("{0}; write {1}")]
    Json(String, &'static str),
    /// Too many fields, or too few.
    #[error("found {0} fields; write `device,state` or `device,state,user`")]
    Fields(usize),
    /// Nothing where the name is to be.
    #[error("the device has no name; write `device,state`")]
    NoName,
    /// A name that is too long.
    #[error("a name has {0} bytes; at most {MAX_IDENTITY_NAME_BYTES} are allowed")]
    LongName(usize),
    /// A name that a terminal would obey.
    #[error("a name has a control character; remove it")]
    ControlCharacter,
    /// An excerpt of what is no state.
    #[error("unknown state `{0}`; write `managed` or `blocked`")]
    State(String),
    /// A quote in the middle of a field.
    #[error("there is text after a closing quote; put a comma or nothing there")]
    AfterQuote,
    /// A quote without an end.
    #[error("a quoted field does not end on its line; close it with `\"`")]
    OpenQuote,
    /// Two lines about a device that do not agree.
    #[error("device `{name}` is given differently on line {first}; keep one of the two lines")]
    Conflict {
        /// The device.
        name: String,
        /// The earlier line.
        first: usize,
    },
    /// So many wrong lines that no more were read.
    #[error("{0} lines are wrong, and nothing behind them was read; is this a device registry?")]
    TooMany(usize),
    /// More devices than there is room for.
    #[error(transparent)]
    Full(#[from] RegistryFull),
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, RegistryProblem { line, fault }) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{}:{line}: {fault}", self.path.display())?;
        }
        Ok(())
    }
}

/// How devices are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceFormat {
    /// `device,state[,user]` a line, where state is `managed` or `blocked`. The first line may name
    /// the columns; blank lines and lines that begin with `#` are skipped; a field that holds a
    /// comma is put in double quotes (RFC 4180 section 2, but no field may span lines).
    Csv,
    /// An object a line: `{"device": …, "state": …, "user": …}`, where state may also be
    /// `unmanaged`, which takes the device out.
    Ndjson,
}

impl DeviceFormat {
    /// That of a file, by the ending of its name in whatever case.
    #[must_use]
    pub fn of(file: &Path) -> Self {
        const NDJSON: [&str; 2] = ["ndjson", "jsonl"];
        let ending = file.extension().and_then(|ending| ending.to_str());
        let is = |ending: &str| NDJSON.iter().any(|one| one.eq_ignore_ascii_case(ending));
        match ending.is_some_and(is) {
            true => Self::Ndjson,
            false => Self::Csv,
        }
    }
}

/// Reads devices from text that comes in pieces.
pub struct DeviceReader {
    format: DeviceFormat,
    collected: Collected,
    problems: Vec<RegistryProblem>,
    /// Lines that are complete.
    lines: usize,
    /// The start of a line whose end has not come yet; at most one byte more than the bound.
    partial: Vec<u8>,
    seen_content: bool,
}

impl DeviceReader {
    /// Before the first byte.
    #[must_use]
    pub fn new(format: DeviceFormat) -> Self {
        DeviceReader {
            format,
            collected: Collected::default(),
            problems: Vec::new(),
            lines: 0,
            partial: Vec::new(),
            seen_content: false,
        }
    }

    /// Takes the next bytes. `false` when there is no use in more: so many lines are wrong that
    /// this is another kind of file.
    pub fn push(&mut self, mut bytes: &[u8]) -> bool {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            if self.partial.is_empty() {
                self.line(&bytes[..end]);
            } else {
                self.keep(&bytes[..end]);
                let line = std::mem::take(&mut self.partial);
                self.line(&line);
                self.partial = line;
                self.partial.clear();
            }
            if self.problems.len() >= DEVICE_PROBLEMS_MAX {
                return false;
            }
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
        true
    }

    /// Keeps the start of a line, as much as shows that it is too long.
    fn keep(&mut self, bytes: &[u8]) {
        let room = (DEVICE_LINE_MAX + 1).saturating_sub(self.partial.len());
        self.partial
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn line(&mut self, bytes: &[u8]) {
        self.lines += 1;
        let parsed = if bytes.len() > DEVICE_LINE_MAX {
            Err(DeviceFault::LongLine)
        } else {
            std::str::from_utf8(bytes)
                .map_err(|_| DeviceFault::NotUtf8)
                .and_then(|line| self.device(line))
        };
        if let Err(fault) = parsed {
            let line = self.lines;
            self.problems.push(RegistryProblem { line, fault });
        }
    }

    fn device(&mut self, line: &str) -> Result<(), DeviceFault> {
        let line = if self.lines == 1 {
            line.trim_start_matches('\u{feff}').trim()
        } else {
            line.trim()
        };
        if line.is_empty() || self.format == DeviceFormat::Csv && line.starts_with('#') {
            return Ok(());
        }
        let is_first = !std::mem::replace(&mut self.seen_content, true);
        let number = u32::try_from(self.lines).unwrap_or(u32::MAX);
        match self.format {
            DeviceFormat::Csv if is_first && is_object(line) => {
                return Err(DeviceFault::LooksLikeNdjson);
            }
            DeviceFormat::Csv => {
                let fields = fields(line)?;
                if !(is_first && is_header(&fields)) {
                    let (name, entry) = from_fields(&fields)?;
                    self.collected.add(name, entry, number);
                }
            }
            DeviceFormat::Ndjson => {
                let object: Object<'_> =
                    serde_json::from_str(line).map_err(|_| json_problem(line.as_bytes(), true))?;
                let entry = entry(&object.device, &object.state, object.user.as_deref(), true)?;
                self.collected.add(&object.device, entry, number);
            }
        }
        Ok(())
    }

    /// Returns what was said.
    ///
    /// # Errors
    /// Every line that is malformed or says something else about a device than an earlier line did,
    /// in order.
    pub fn finish(mut self) -> Result<DeviceChanges, Vec<RegistryProblem>> {
        if !self.partial.is_empty() {
            let line = std::mem::take(&mut self.partial);
            self.line(&line);
        }
        let (mut problems, lines) = (self.problems, self.lines);
        if problems.len() >= DEVICE_PROBLEMS_MAX {
            problems.push(RegistryProblem {
                line: lines + 1,
                fault: DeviceFault::TooMany(problems.len()),
            });
            return Err(problems);
        }
        let settled = self.collected.settle(|conflict| {
            problems.push(RegistryProblem {
                line: conflict.line as usize,
                fault: DeviceFault::Conflict {
                    name: conflict.name.to_string(),
                    first: conflict.first as usize,
                },
            });
        });
        problems.sort_by_key(|problem| problem.line);
        match settled {
            Ok(changes) if problems.is_empty() => Ok(changes),
            Ok(_) => Err(problems),
            Err(full) => {
                problems.push(RegistryProblem {
                    line: lines,
                    fault: full.into(),
                });
                Err(problems)
            }
        }
    }
}

/// Returns whether a line begins as an object of JSON does, and no name in braces.
fn is_object(line: &str) -> bool {
    let inside = line.trim_start_matches('[').trim_start().strip_prefix('{');
    inside.is_some_and(|inside| inside.is_empty() || inside.trim_start().starts_with('"'))
}

impl DeviceRegistry {
    /// The registry of a text in the CSV form ([`DeviceFormat::Csv`]). `path` is only for messages.
    ///
    /// # Errors
    /// Names every line that is malformed or says something else about a device than an earlier
    /// line did.
    pub fn parse(text: &str, path: &Path) -> Result<Self, RegistryError> {
        let mut reader = DeviceReader::new(DeviceFormat::Csv);
        reader.push(text.as_bytes());
        let refused = |problems| RegistryError {
            path: path.to_owned(),
            problems,
        };
        let changes = reader.finish().map_err(refused)?;
        DeviceRegistry::default().with(&changes).map_err(|full| {
            let fault = full.into();
            refused(vec![RegistryProblem { line: 1, fault }])
        })
    }
}

impl DeviceEntry<'_> {
    /// Reads what is said about one device, as [`DeviceFormat::Ndjson`] says it without the name:
    /// state and user.
    ///
    /// # Errors
    /// [`DeviceFault`].
    pub fn from_json<T>(
        device: &str,
        json: &[u8],
        with: impl FnOnce(DeviceEntry<'_>) -> T,
    ) -> Result<T, DeviceFault> {
        let said: JsonDevice<'_> =
            serde_json::from_slice(json).map_err(|_| json_problem(json, false))?;
        entry(device, &said.state, said.user.as_deref(), false).map(with)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Object<'a> {
    #[serde(borrow)]
    device: Cow<'a, str>,
    #[serde(borrow)]
    state: Cow<'a, str>,
    #[serde(borrow)]
    user: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonDevice<'a> {
    #[serde(borrow)]
    state: Cow<'a, str>,
    #[serde(borrow)]
    user: Option<Cow<'a, str>>,
}

/// Returns what is wrong with an object that was refused, and what would be right. `named`: it
/// names its device.
fn json_problem(json: &[u8], named: bool) -> DeviceFault {
    let (known, form) = match named {
        true => (
            &["device", "state", "user"][..],
            "{\"device\": \"…\", \"state\": \"managed\"}",
        ),
        false => (&["state", "user"][..], "{\"state\": \"managed\"}"),
    };
    let problem = match serde_json::from_slice(json) {
        Err(error) => format!("it is not JSON, from column {} on", error.column()),
        Ok(Value::Object(fields)) => object_problem(&fields, known),
        Ok(_) => "it is not an object".to_owned(),
    };
    DeviceFault::Json(problem, form)
}

fn object_problem(fields: &Map<String, Value>, known: &[&str]) -> String {
    if let Some(other) = fields.keys().find(|name| !known.contains(&name.as_str())) {
        return format!("there is no field `{}`", excerpt(other));
    }
    let is_needed = |name: &&&str| **name != "user";
    if let Some(missing) = known
        .iter()
        .filter(is_needed)
        .find(|name| !fields.contains_key(**name))
    {
        return format!("the field `{missing}` is missing");
    }
    let is_right =
        |name: &str, value: &Value| value.is_string() || name == "user" && value.is_null();
    match fields.iter().find(|(name, value)| !is_right(name, value)) {
        Some((name, _)) => format!("the value of `{name}` is not a text in quotes"),
        // Of two, the last is left here.
        None => "a field is given twice".to_owned(),
    }
}

fn is_header(fields: &[Cow<'_, str>]) -> bool {
    matches!(fields, [device, state, ..] if device.eq_ignore_ascii_case("device") && state.eq_ignore_ascii_case("state"))
}

fn from_fields<'f>(fields: &'f [Cow<'_, str>]) -> Result<(&'f str, DeviceEntry<'f>), DeviceFault> {
    let (name, state, user) = match fields {
        [name, state] => (name, state, None),
        [name, state, user] => (name, state, Some(&**user)),
        _ => return Err(DeviceFault::Fields(fields.len())),
    };
    Ok((name, entry(name, state, user, false)?))
}

/// Checks what is said about a device. An empty user is none.
fn entry<'a>(
    name: &str,
    state: &str,
    user: Option<&'a str>,
    may_take_out: bool,
) -> Result<DeviceEntry<'a>, DeviceFault> {
    if name.is_empty() {
        return Err(DeviceFault::NoName);
    }
    let user = user.filter(|user| !user.is_empty());
    for value in [Some(name), user].into_iter().flatten() {
        if value.len() > MAX_IDENTITY_NAME_BYTES {
            return Err(DeviceFault::LongName(value.len()));
        }
        if value.contains(char::is_control) {
            return Err(DeviceFault::ControlCharacter);
        }
    }
    let state = match state {
        "managed" => DeviceState::Managed,
        "blocked" => DeviceState::Blocked,
        "unmanaged" if may_take_out => DeviceState::Unmanaged,
        other => return Err(DeviceFault::State(excerpt(other))),
    };
    Ok(DeviceEntry { state, user })
}

/// Returns what of a bad field goes into a message: not a megabyte, and nothing that a terminal
/// would obey.
fn excerpt(field: &str) -> String {
    field
        .chars()
        .take(40)
        .collect::<String>()
        .escape_debug()
        .to_string()
}

/// Splits one line; fields are trimmed unless quoted.
fn fields(line: &str) -> Result<Vec<Cow<'_, str>>, DeviceFault> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_start();
        let after = if let Some(quoted) = rest.strip_prefix('"') {
            let (field, after) = quoted_field(quoted)?;
            fields.push(field);
            after.trim_start()
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            fields.push(Cow::Borrowed(rest[..end].trim_end()));
            &rest[end..]
        };
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(fields),
            None => return Err(DeviceFault::AfterQuote),
        }
    }
}

/// Reads a field up to its closing quote, a doubled quote standing for one; gives what follows,
/// too.
fn quoted_field(text: &str) -> Result<(Cow<'_, str>, &str), DeviceFault> {
    let mut from = 0;
    loop {
        let Some(quote) = text[from..].find('"') else {
            return Err(DeviceFault::OpenQuote);
        };
        let at = from + quote;
        if text[at + 1..].starts_with('"') {
            from = at + 2;
            continue;
        }
        let field = &text[..at];
        let field = if field.contains('"') {
            Cow::Owned(field.replace("\"\"", "\""))
        } else {
            Cow::Borrowed(field)
        };
        return Ok((field, &text[at + 1..]));
    }
}
