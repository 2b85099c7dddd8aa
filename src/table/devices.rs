//! Which devices are managed: the registry that authorization asks.
//!
//! Guarantees: a registry is whole or there is none (one bad line refuses the text, and every bad line is named); a
//! look-up allocates nothing. What an unmanaged device may do is the profile's decision, not this table's.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::limits::MAX_IDENTITY_NAME_BYTES;

/// What the registry says about a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceState {
    /// Registered, and allowed.
    Managed,
    /// Not in the registry.
    Unmanaged,
    /// Registered, and refused whatever its certificate says.
    Blocked,
}

/// The devices that are known, each managed or blocked.
#[derive(Debug, Default)]
pub struct DeviceRegistry {
    devices: HashMap<Box<str>, Device>,
}

#[derive(Debug, PartialEq, Eq)]
struct Device {
    blocked: bool,
    user: Option<Box<str>>,
}

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
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, RegistryProblem { line, message }) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{}:{line}: {message}", self.path.display())?;
        }
        Ok(())
    }
}

impl DeviceRegistry {
    /// Reads the CSV form: `device,state[,user]` a line, where state is `managed` or `blocked`. The first line may
    /// name the columns; blank lines and lines that begin with `#` are skipped; a field that holds a comma is put
    /// in double quotes (RFC 4180 section 2, but no field may span lines). `path` is only for messages.
    ///
    /// # Errors
    /// Names every line that is malformed or says something else about a device than an earlier line did.
    pub fn parse(text: &str, path: &Path) -> Result<Self, RegistryError> {
        let mut devices = HashMap::new();
        let mut first_lines = HashMap::new();
        let mut problems = Vec::new();
        let mut seen_content = false;
        for (number, line) in text
            .trim_start_matches('\u{feff}')
            .lines()
            .enumerate()
            .map(|(at, line)| (at + 1, line))
        {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let is_first = !std::mem::replace(&mut seen_content, true);
            let parsed = fields(line).and_then(|fields| {
                if is_first && is_header(&fields) {
                    Ok(None)
                } else {
                    device(&fields).map(Some)
                }
            });
            let message = match parsed {
                Ok(None) => continue,
                Ok(Some((name, device))) => match devices.entry(name) {
                    Entry::Vacant(entry) => {
                        first_lines.insert(entry.key().clone(), number);
                        entry.insert(device);
                        continue;
                    }
                    Entry::Occupied(entry) if *entry.get() == device => continue,
                    Entry::Occupied(entry) => format!(
                        "device `{}` is given differently on line {}; keep one of the two lines",
                        entry.key(),
                        first_lines[entry.key()]
                    ),
                },
                Err(message) => message,
            };
            problems.push(RegistryProblem {
                line: number,
                message,
            });
        }
        if problems.is_empty() {
            Ok(DeviceRegistry { devices })
        } else {
            Err(RegistryError {
                path: path.to_owned(),
                problems,
            })
        }
    }

    /// The state of a device, by its exact name.
    pub fn state(&self, device: &str) -> DeviceState {
        match self.devices.get(device) {
            None => DeviceState::Unmanaged,
            Some(Device { blocked: true, .. }) => DeviceState::Blocked,
            Some(Device { blocked: false, .. }) => DeviceState::Managed,
        }
    }

    /// The user that the registry gives for a device.
    pub fn user(&self, device: &str) -> Option<&str> {
        self.devices.get(device)?.user.as_deref()
    }

    /// The number of devices that are managed or blocked.
    pub fn len(&self) -> usize {
        self.devices.len()
    }

    /// Whether no device is registered.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }
}

fn is_header(fields: &[Cow<'_, str>]) -> bool {
    matches!(fields, [device, state, ..] if device.eq_ignore_ascii_case("device") && state.eq_ignore_ascii_case("state"))
}

fn device(fields: &[Cow<'_, str>]) -> Result<(Box<str>, Device), String> {
    let (name, state, user) = match fields {
        [name, state] => (name, state, None),
        [name, state, user] => (name, state, (!user.is_empty()).then_some(user)),
        _ => {
            return Err(format!(
                "found {} fields; write `device,state` or `device,state,user`",
                fields.len()
            ));
        }
    };
    if name.is_empty() {
        return Err("the device has no name; write `device,state`".to_owned());
    }
    for value in [Some(name), user].into_iter().flatten() {
        if value.len() > MAX_IDENTITY_NAME_BYTES {
            return Err(format!(
                "a name has {} bytes; at most {MAX_IDENTITY_NAME_BYTES} are allowed",
                value.len()
            ));
        }
        if value.contains(char::is_control) {
            return Err("a name has a control character; remove it".to_owned());
        }
    }
    let blocked = match state.as_ref() {
        "managed" => false,
        "blocked" => true,
        other => {
            return Err(format!(
                "unknown state `{}`; write `managed` or `blocked`",
                excerpt(other)
            ));
        }
    };
    Ok((
        name.as_ref().into(),
        Device {
            blocked,
            user: user.map(|user| user.as_ref().into()),
        },
    ))
}

/// What of a bad field goes into a message: not a megabyte, and nothing that a terminal would obey.
fn excerpt(field: &str) -> String {
    field
        .chars()
        .take(40)
        .collect::<String>()
        .escape_debug()
        .to_string()
}

/// Splits one line; fields are trimmed unless quoted.
fn fields(line: &str) -> Result<Vec<Cow<'_, str>>, String> {
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
            None => {
                return Err(
                    "there is text after a closing quote; put a comma or nothing there".to_owned(),
                );
            }
        }
    }
}

/// Reads a field up to its closing quote, a doubled quote standing for one; gives what follows, too.
fn quoted_field(text: &str) -> Result<(Cow<'_, str>, &str), String> {
    let mut from = 0;
    loop {
        let Some(quote) = text[from..].find('"') else {
            return Err("a quoted field does not end on its line; close it with `\"`".to_owned());
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<DeviceRegistry, RegistryError> {
        DeviceRegistry::parse(text, Path::new("devices.csv"))
    }

    fn problems(text: &str) -> Vec<(usize, String)> {
        let error = parse(text).expect_err("accepted");
        error
            .problems
            .into_iter()
            .map(|problem| (problem.line, problem.message))
            .collect()
    }

    #[test]
    fn reads_states_users_comments_and_blank_lines() {
        let registry = parse(
            "\u{feff}Device,State,User\n# fleet\n\nlaptop-1,managed\r\n  phone-1 , blocked , ada \n\
             \"Smith, \"\"J\"\"\",managed,\"j, s\"\nlaptop-1,managed,\n",
        )
        .expect("a right registry");
        assert_eq!(registry.len(), 3);
        assert_eq!(registry.state("laptop-1"), DeviceState::Managed);
        assert_eq!(registry.state("phone-1"), DeviceState::Blocked);
        assert_eq!(registry.state("Smith, \"J\""), DeviceState::Managed);
        assert_eq!(registry.state("laptop-2"), DeviceState::Unmanaged);
        assert_eq!(
            registry.state("LAPTOP-1"),
            DeviceState::Unmanaged,
            "names are exact"
        );
        assert_eq!(registry.user("phone-1"), Some("ada"));
        assert_eq!(registry.user("Smith, \"J\""), Some("j, s"));
        assert_eq!(registry.user("laptop-1"), None);
    }

    #[test]
    fn nothing_is_a_registry_without_devices() {
        assert!(parse("").expect("empty").is_empty());
        assert!(parse("device,state\n").expect("header only").is_empty());
    }

    #[test]
    fn names_every_bad_line() {
        let found = problems(
            "laptop-1,managed\nlaptop-2\nlaptop-3,Managed\n,blocked\nlaptop-1,blocked\na,managed,b,c\n\"x,managed\n\
             \"x\"y,managed\ndevice,state\n",
        );
        assert_eq!(
            found.iter().map(|(line, _)| *line).collect::<Vec<_>>(),
            [2, 3, 4, 5, 6, 7, 8, 9]
        );
        assert!(
            found[1].1.contains("`Managed`") && found[1].1.contains("write `managed` or `blocked`")
        );
        assert!(found[3].1.contains("laptop-1") && found[3].1.contains("line 1"));
    }

    #[test]
    fn two_users_for_one_device_are_refused() {
        assert_eq!(problems("a,managed,x\na,managed,y\n").len(), 1);
    }

    #[test]
    fn names_are_bounded_and_printable() {
        let long = "x".repeat(MAX_IDENTITY_NAME_BYTES + 1);
        assert_eq!(
            problems(&format!(
                "{long},managed\na\u{1b}[2J,managed\na,\u{1b}[2J\n"
            ))
            .len(),
            3
        );
        assert!(
            !problems("a,\u{1b}[2J\n")[0].1.contains('\u{1b}'),
            "an escape reached the message"
        );
        assert_eq!(
            parse(&format!("{},managed\n", &long[1..]))
                .expect("at the bound")
                .len(),
            1
        );
    }

    #[test]
    fn a_message_names_file_and_line() {
        let error = parse("a\nb\n").expect_err("accepted");
        let text = error.to_string();
        assert!(
            text.starts_with("devices.csv:1: ") && text.contains("\ndevices.csv:2: "),
            "{text}"
        );
    }
}
