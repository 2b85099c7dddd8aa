//! The TOML document as typed slots with their place in the file.
//!
//! Why not a derived deserializer: it stops at the first unknown key or wrong type, and an operator with three typos
//! should not need four runs. A [`Section`] hands out its keys one by one and, when it is finished, reports each key
//! that nobody asked for.

use std::cell::RefCell;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Fault, Place, Report, alternatives, nearest, quoted};

/// A key of the contract, as it was found in the file.
#[derive(Debug, Clone)]
pub(super) struct Slot<T> {
    pub(super) place: Place,
    pub(super) value: Value<T>,
}

/// What a [`Slot`] holds.
#[derive(Debug, Clone)]
pub(super) enum Value<T> {
    /// The key is not there.
    Absent,
    /// The key is there and wrong, and has been reported.
    Refused,
    /// The key is there and right so far.
    Given(T),
}

impl<T> Slot<T> {
    /// Of a key that could not be written where it would be.
    pub(super) fn absent() -> Self {
        Self {
            place: Place::default(),
            value: Value::Absent,
        }
    }

    /// Takes the value one step further; a fault is reported at the key's place.
    pub(super) fn parse<U>(
        self,
        report: &mut Report,
        step: impl FnOnce(T) -> Result<U, Fault>,
    ) -> Slot<U> {
        let value = match self.value {
            Value::Absent => Value::Absent,
            Value::Refused => Value::Refused,
            Value::Given(value) => match step(value) {
                Ok(value) => Value::Given(value),
                Err(fault) => {
                    report.add(&self.place, fault);
                    Value::Refused
                }
            },
        };
        Slot {
            place: self.place,
            value,
        }
    }

    /// Something else made of the value, at the same place.
    pub(super) fn map<U>(self, make: impl FnOnce(T) -> U) -> Slot<U> {
        let value = match self.value {
            Value::Absent => Value::Absent,
            Value::Refused => Value::Refused,
            Value::Given(value) => Value::Given(make(value)),
        };
        Slot {
            place: self.place,
            value,
        }
    }

    /// The value; `None` where it is absent or has been refused.
    pub(super) fn given(self) -> Option<T> {
        match self.value {
            Value::Given(value) => Some(value),
            Value::Absent | Value::Refused => None,
        }
    }

    /// The value, or `default` where the key is absent (or refused: then the result is never used).
    pub(super) fn or(self, default: T) -> T {
        self.given().unwrap_or(default)
    }

    /// Reports the key if it is absent.
    pub(super) fn required(self, report: &mut Report, remedy: &str) -> Self {
        if matches!(self.value, Value::Absent) {
            report.add(&self.place, Fault::new("is missing", remedy));
        }
        self
    }
}

/// A list whose elements know their own lines.
pub(super) type List = Vec<Slot<String>>;

/// A word, a number or a list of numbers: what `cores` and `port` take.
#[derive(Debug, Clone)]
pub(super) enum Numbers {
    Word(String),
    One(i64),
    Many(Vec<Slot<i64>>),
}

/// An element of a list that takes texts and tables.
pub(super) enum Entry<'d> {
    Text(Slot<String>),
    Table(Section<'d>),
}

/// What all sections of one file share.
pub(super) struct Reader {
    /// Offset of the first byte of each line.
    line_starts: Vec<usize>,
    report: RefCell<Report>,
}

impl Reader {
    pub(super) fn new(text: &str) -> Self {
        let after_breaks = text
            .bytes()
            .enumerate()
            .filter(|(_, b)| *b == b'\n')
            .map(|(at, _)| at + 1);
        Self {
            line_starts: std::iter::once(0).chain(after_breaks).collect(),
            report: RefCell::default(),
        }
    }

    /// The line, from 1, of a byte offset.
    pub(super) fn line_of(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    pub(super) fn into_report(self) -> Report {
        self.report.into_inner()
    }

    pub(super) fn add(&self, place: &Place, fault: Fault) {
        self.report.borrow_mut().add(place, fault);
    }

    /// One element of a list as a slot of its own.
    fn element<T>(
        &self,
        list: &Place,
        index: usize,
        value: &Spanned<DeValue<'_>>,
        convert: impl FnOnce(&DeValue<'_>) -> Result<T, Fault>,
    ) -> Slot<T> {
        let place = Place {
            line: Some(self.line_of(value.span().start)),
            key: format!("{}[{index}]", list.key),
        };
        self.convert(place, value.get_ref(), convert)
    }

    fn convert<'v, 'd, T>(
        &self,
        place: Place,
        value: &'v DeValue<'d>,
        convert: impl FnOnce(&'v DeValue<'d>) -> Result<T, Fault>,
    ) -> Slot<T> {
        let value = match convert(value) {
            Ok(value) => Value::Given(value),
            Err(fault) => {
                self.add(&place, fault);
                Value::Refused
            }
        };
        Slot { place, value }
    }
}

/// One table of the file; empty where the file does not have it.
pub(super) struct Section<'d> {
    reader: &'d Reader,
    table: Option<&'d DeTable<'d>>,
    place: Place,
    known: Vec<&'static str>,
}

impl<'d> Section<'d> {
    pub(super) fn root(reader: &'d Reader, table: &'d DeTable<'d>) -> Self {
        Self::new(reader, Some(table), Place::default())
    }

    fn new(reader: &'d Reader, table: Option<&'d DeTable<'d>>, place: Place) -> Self {
        Self {
            reader,
            table,
            place,
            known: Vec::new(),
        }
    }

    /// Whether the file has this table.
    pub(super) fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// Where the table stands.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn string(&mut self, key: &'static str) -> Slot<String> {
        self.read(key, text_of)
    }

    pub(super) fn boolean(&mut self, key: &'static str) -> Slot<bool> {
        self.read(key, |value| {
            value.as_bool().ok_or_else(|| {
                wrong_type(
                    value,
                    "true or false",
                    "write true or false, without quotes",
                )
            })
        })
    }

    pub(super) fn integer(&mut self, key: &'static str) -> Slot<i64> {
        self.read(key, number_of)
    }

    pub(super) fn strings(&mut self, key: &'static str) -> Slot<List> {
        let reader = self.reader;
        self.read_at(key, |place, value| {
            let list = list_of(value)?;
            Ok(list
                .iter()
                .enumerate()
                .map(|(index, element)| reader.element(place, index, element, text_of))
                .collect())
        })
    }

    pub(super) fn numbers(&mut self, key: &'static str) -> Slot<Numbers> {
        let reader = self.reader;
        self.read_at(key, |place, value| match value {
            DeValue::String(word) => Ok(Numbers::Word(word.to_string())),
            DeValue::Array(list) => Ok(Numbers::Many(
                list.iter()
                    .enumerate()
                    .map(|(index, element)| reader.element(place, index, element, number_of))
                    .collect(),
            )),
            other => number_of(other).map(Numbers::One),
        })
    }

    /// A list whose elements are texts or tables.
    pub(super) fn entries(&mut self, key: &'static str) -> Slot<Vec<Entry<'d>>> {
        let reader = self.reader;
        let (place, value) = self.take(key);
        let Some(value) = value else {
            return Slot {
                place,
                value: Value::Absent,
            };
        };
        reader.convert(place.clone(), value, |value| {
            let entry = |(index, element): (usize, &'d Spanned<DeValue<'d>>)| {
                if let DeValue::Table(table) = element.get_ref() {
                    let place = Place {
                        line: Some(reader.line_of(element.span().start)),
                        key: format!("{}[{index}]", place.key),
                    };
                    return Entry::Table(Section::new(reader, Some(table), place));
                }
                Entry::Text(reader.element(&place, index, element, text_of))
            };
            Ok(list_of(value)?.iter().enumerate().map(entry).collect())
        })
    }

    /// A table below this one.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'d> {
        let (place, value) = self.take(key);
        let table = value.and_then(|value| match value {
            DeValue::Table(table) => Some(table),
            other => {
                let remedy = format!("write a table: [{}]", place.key);
                self.reader
                    .add(&place, wrong_type(other, "a table", &remedy));
                None
            }
        });
        Self::new(self.reader, table, place)
    }

    /// The tables of an array of tables below this one.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Section<'d>> {
        let (place, value) = self.take(key);
        let remedy = format!("write each as a table of its own: [[{}]]", place.key);
        let list = match value {
            None => return Vec::new(),
            Some(DeValue::Array(list)) => list,
            Some(other) => {
                self.reader
                    .add(&place, wrong_type(other, "a list of tables", &remedy));
                return Vec::new();
            }
        };
        let mut sections = Vec::new();
        for (index, element) in list.iter().enumerate() {
            let place = Place {
                line: Some(self.reader.line_of(element.span().start)),
                key: format!("{}[{index}]", place.key),
            };
            match element.get_ref() {
                DeValue::Table(table) => sections.push(Self::new(self.reader, Some(table), place)),
                other => self
                    .reader
                    .add(&place, wrong_type(other, "a table", &remedy)),
            }
        }
        sections
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self) {
        for (key, _) in self.table.into_iter().flat_map(|table| table.iter()) {
            let name = key.get_ref().as_ref();
            if self.known.contains(&name) {
                continue;
            }
            let place = Place {
                line: Some(self.reader.line_of(key.span().start)),
                key: self.path(&printable_key(name)),
            };
            let remedy = match nearest(name, self.known.iter().copied()) {
                Some(similar) => format!("did you mean {similar:?}?"),
                None => format!(
                    "remove it; known here: {}",
                    alternatives(self.known.iter().copied())
                ),
            };
            self.reader.add(&place, Fault::new("unknown key", remedy));
        }
    }

    fn read<T>(
        &mut self,
        key: &'static str,
        convert: impl FnOnce(&DeValue<'_>) -> Result<T, Fault>,
    ) -> Slot<T> {
        self.read_at(key, |_, value| convert(value))
    }

    fn read_at<T>(
        &mut self,
        key: &'static str,
        convert: impl FnOnce(&Place, &DeValue<'_>) -> Result<T, Fault>,
    ) -> Slot<T> {
        let (place, value) = self.take(key);
        match value {
            None => Slot {
                place,
                value: Value::Absent,
            },
            Some(value) => self
                .reader
                .convert(place.clone(), value, |value| convert(&place, value)),
        }
    }

    /// Looks a key up and marks it as known. The place of an absent key is its table's line.
    fn take(&mut self, key: &'static str) -> (Place, Option<&'d DeValue<'d>>) {
        self.known.push(key);
        let entry = self.table.and_then(|table| table.get_key_value(key));
        let line = match entry {
            Some((name, _)) => Some(self.reader.line_of(name.span().start)),
            None => self.place.line,
        };
        let place = Place {
            line,
            key: self.path(key),
        };
        (place, entry.map(|(_, value)| value.get_ref()))
    }

    fn path(&self, key: &str) -> String {
        if self.place.key.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.place.key)
        }
    }
}

/// A key as TOML would have it: bare where it can be, else quoted.
fn printable_key(name: &str) -> String {
    let bare = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if bare && name.len() <= 64 {
        name.to_owned()
    } else {
        quoted(name)
    }
}

fn text_of(value: &DeValue<'_>) -> Result<String, Fault> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        other => Err(wrong_type(other, "a text", "write it in quotes")),
    }
}

fn number_of(value: &DeValue<'_>) -> Result<i64, Fault> {
    let DeValue::Integer(number) = value else {
        return Err(wrong_type(
            value,
            "a whole number",
            "write a whole number, without quotes",
        ));
    };
    i64::from_str_radix(number.as_str(), number.radix())
        .map_err(|_| Fault::new("the number is too large", "write a smaller number"))
}

fn list_of<'v, 'd>(value: &'v DeValue<'d>) -> Result<&'v [Spanned<DeValue<'d>>], Fault> {
    match value {
        DeValue::Array(list) => Ok(list),
        other => Err(wrong_type(other, "a list", "write a list, as in [\"...\"]")),
    }
}

fn wrong_type(found: &DeValue<'_>, wanted: &str, remedy: &str) -> Fault {
    let found = match found {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    Fault::new(format!("must be {wanted}, and is {found}"), remedy)
}
