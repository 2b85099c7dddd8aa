//! The TOML document as typed [`Slot`]s with their place in the file.
//!
//! Why not a derived deserializer: it stops at the first unknown key or wrong type, and an operator
//! with three typos should not need four runs. A [`Section`] hands out its keys one by one, notes
//! the files and certificates among them, and reports each key that nobody asked for.

use std::cell::RefCell;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Fault, Location, Report, alternatives, nearest, quoted};
use super::named::{CertificateName, FileName, NamedFiles};
use super::slot::{List, Numbers, Slot, Value};
use crate::certs::Role;
use crate::limits::CONFIG_SYNTAX_ERRORS_MAX;

/// A text that has been parsed as TOML.
pub(super) struct Document<'t> {
    tables: Spanned<DeTable<'t>>,
    reader: Reader,
}

/// A value read from a [`Document`].
pub(super) struct Read<T> {
    /// The value.
    pub(super) value: T,
    /// Files and certificates that it names.
    pub(super) named: NamedFiles,
    /// Faults so far.
    pub(super) report: Report,
}

impl<'t> Document<'t> {
    /// Parses a text, which errors call `shown`.
    ///
    /// # Errors
    /// It is not TOML. Nothing more is reported then: what is left of a broken document would
    /// mostly give errors that are not there.
    pub(super) fn parse(text: &'t str, shown: &Path) -> Result<Self, ConfigError> {
        const REMEDY: &str = "correct the line; texts are in quotes, tables in [brackets]";
        let (tables, errors) = DeTable::parse_recoverable(text);
        let reader = Reader::new(text);
        for error in errors.iter().take(CONFIG_SYNTAX_ERRORS_MAX) {
            let place = Location {
                line: error.span().map(|span| reader.line_of(span.start)),
                key: String::new(),
            };
            let message = format!("is not valid TOML: {}", error.message());
            reader.add(&place, Fault::new(message, REMEDY));
        }
        if errors.is_empty() {
            return Ok(Self { tables, reader });
        }
        Err(reader.report.into_inner().into_error(shown))
    }

    /// Returns what can be read of a text that may not be TOML.
    pub(super) fn of_broken(text: &'t str) -> Self {
        let (tables, _) = DeTable::parse_recoverable(text);
        let reader = Reader::new(text);
        Self { tables, reader }
    }

    /// Returns whether it has this key, right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.tables.get_ref().contains_key(key)
    }

    /// Reads it by its root table.
    pub(super) fn read<T>(self, read: impl FnOnce(&mut Section<'_>) -> T) -> Read<T> {
        let content = Content::Table(self.tables.get_ref());
        let value = Section::read_whole(&self.reader, content, Location::default(), read);
        Read {
            value,
            named: self.reader.named.into_inner(),
            report: self.reader.report.into_inner(),
        }
    }
}

/// State shared by all sections of one file.
struct Reader {
    /// Offset of the first byte of each line.
    line_starts: Vec<usize>,
    report: RefCell<Report>,
    named: RefCell<NamedFiles>,
}

impl Reader {
    fn new(text: &str) -> Self {
        let after_breaks = text
            .bytes()
            .enumerate()
            .filter(|(_, b)| *b == b'\n')
            .map(|(at, _)| at + 1);
        Self {
            line_starts: std::iter::once(0).chain(after_breaks).collect(),
            report: RefCell::default(),
            named: RefCell::default(),
        }
    }

    /// The line, from 1, of a byte offset.
    fn line_of(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    fn add(&self, place: &Location, fault: Fault) {
        self.report.borrow_mut().add(place, fault);
    }

    /// One element of a list as a slot of its own.
    fn element<T>(
        &self,
        list: &Location,
        index: usize,
        value: &Spanned<DeValue<'_>>,
        convert: impl FnOnce(&DeValue<'_>) -> Result<T, Fault>,
    ) -> Slot<T> {
        self.convert(self.place_in(list, index, value), value.get_ref(), convert)
    }

    fn place_in(&self, list: &Location, index: usize, element: &Spanned<DeValue<'_>>) -> Location {
        Location {
            line: Some(self.line_of(element.span().start)),
            key: format!("{}[{index}]", list.key),
        }
    }

    fn convert<'v, 'd, T>(
        &self,
        place: Location,
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

/// Content at the place of a table.
#[derive(Clone, Copy)]
enum Content<'d> {
    Absent,
    Table(&'d DeTable<'d>),
    /// The value of this one key, in place of a table.
    Short(&'static str, &'d DeValue<'d>),
}

/// One table of the file; empty where the file does not have it. It is only lent, to what reads its
/// keys, and reports the others then.
pub(super) struct Section<'d> {
    reader: &'d Reader,
    content: Content<'d>,
    place: Location,
    known: Vec<&'static str>,
}

impl<'d> Section<'d> {
    /// Lends a table to what reads it, and reports the keys that it did not ask for.
    fn read_whole<T>(
        reader: &'d Reader,
        content: Content<'d>,
        place: Location,
        read: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let mut section = Self {
            reader,
            content,
            place,
            known: Vec::new(),
        };
        let value = read(&mut section);
        section.finish();
        value
    }

    /// Returns whether the file has this table.
    pub(super) fn is_present(&self) -> bool {
        !matches!(self.content, Content::Absent)
    }

    /// Returns where the table stands.
    pub(super) fn place(&self) -> &Location {
        &self.place
    }

    pub(super) fn string(&mut self, key: &'static str) -> Slot<String> {
        self.read(key, text_of)
    }

    /// A file whose contents take effect by a reload.
    pub(super) fn file(&mut self, key: &'static str) -> Slot<FileName> {
        let named = &self.reader.named;
        self.string(key).map(|text| named.borrow_mut().file(text))
    }

    /// A file that is looked at by itself whenever it changes.
    pub(super) fn live_file(&mut self, key: &'static str) -> Slot<FileName> {
        self.string(key).map(NamedFiles::live_file)
    }

    /// Files that are looked at by themselves whenever they change.
    pub(super) fn live_files(&mut self, key: &'static str) -> Slot<Vec<Slot<FileName>>> {
        let each = |slot: Slot<String>| slot.map(NamedFiles::live_file);
        let list = self.strings(key);
        list.map(|list| list.into_iter().map(each).collect())
    }

    /// A file of a certificate, or the name of one in the store.
    pub(super) fn certificate(&mut self, key: &'static str, role: Role) -> Slot<CertificateName> {
        let named = &self.reader.named;
        self.string(key)
            .map(|text| named.borrow_mut().certificate(text, role))
    }

    /// Files of certificates, or the names of some in the store.
    pub(super) fn certificates(
        &mut self,
        key: &'static str,
        role: Role,
    ) -> Slot<Vec<Slot<CertificateName>>> {
        let mut named = self.reader.named.borrow_mut();
        let each = |slot: Slot<String>| slot.map(|text| named.certificate(text, role));
        let list = self.strings(key);
        list.map(|list| list.into_iter().map(each).collect())
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

    /// A list whose elements are tables, or the value of the key `short` alone.
    pub(super) fn entries<T>(
        &mut self,
        key: &'static str,
        short: &'static str,
        mut read: impl FnMut(&mut Section<'d>) -> T,
    ) -> Slot<Vec<T>> {
        let (place, value) = self.take(key);
        let Some(value) = value else {
            let value = Value::Absent;
            return Slot { place, value };
        };
        let reader = self.reader;
        reader.convert(place.clone(), value, |value| {
            let entry = |(index, element): (usize, &'d Spanned<DeValue<'d>>)| {
                let content = match element.get_ref() {
                    DeValue::Table(table) => Content::Table(table),
                    other => Content::Short(short, other),
                };
                let place = reader.place_in(&place, index, element);
                Section::read_whole(reader, content, place, &mut read)
            };
            Ok(list_of(value)?.iter().enumerate().map(entry).collect())
        })
    }

    /// Reads a table below this one; an empty one where there is none.
    pub(super) fn table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Section<'d>) -> T,
    ) -> T {
        let (place, content) = self.below(key);
        Self::read_whole(self.reader, content, place, read)
    }

    /// Reads a table below this one, if it is there.
    pub(super) fn optional_table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Section<'d>) -> T,
    ) -> Option<T> {
        match self.below(key) {
            (_, Content::Absent) => None,
            (place, content) => Some(Self::read_whole(self.reader, content, place, read)),
        }
    }

    /// Passes over a table below this one, whatever is in it.
    pub(super) fn pass_over(&mut self, key: &'static str) {
        self.below(key);
    }

    fn below(&mut self, key: &'static str) -> (Location, Content<'d>) {
        let (place, value) = self.take(key);
        let content = match value {
            None => Content::Absent,
            Some(DeValue::Table(table)) => Content::Table(table),
            Some(other) => {
                let remedy = format!("write a table: [{}]", place.key);
                let fault = wrong_type(other, "a table", &remedy);
                self.reader.add(&place, fault);
                Content::Absent
            }
        };
        (place, content)
    }

    /// Reads each table of an array of tables below this one.
    pub(super) fn tables<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Section<'d>) -> T,
    ) -> Vec<T> {
        let (place, value) = self.take(key);
        let remedy = format!("write each as a table of its own: [[{}]]", place.key);
        let wrong = |place: &Location, value: &DeValue<'_>, wanted: &str| {
            self.reader.add(place, wrong_type(value, wanted, &remedy));
        };
        let list = match value {
            None => return Vec::new(),
            Some(DeValue::Array(list)) => list,
            Some(other) => {
                wrong(&place, other, "a list of tables");
                return Vec::new();
            }
        };
        let mut tables = Vec::new();
        for (index, element) in list.iter().enumerate() {
            let place = self.reader.place_in(&place, index, element);
            match element.get_ref() {
                DeValue::Table(table) => {
                    let content = Content::Table(table);
                    tables.push(Self::read_whole(self.reader, content, place, &mut read));
                }
                other => wrong(&place, other, "a table"),
            }
        }
        tables
    }

    /// Reports the keys that nobody asked for.
    fn finish(self) {
        let Content::Table(table) = self.content else {
            return;
        };
        for (key, _) in table.iter() {
            let name = key.get_ref().as_ref();
            if self.known.contains(&name) {
                continue;
            }
            let place = Location {
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
        convert: impl FnOnce(&Location, &DeValue<'_>) -> Result<T, Fault>,
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
    fn take(&mut self, key: &'static str) -> (Location, Option<&'d DeValue<'d>>) {
        self.known.push(key);
        let (line, value) = match self.content {
            Content::Short(only, value) if only == key => return (self.place.clone(), Some(value)),
            Content::Table(table) => match table.get_key_value(key) {
                Some((name, value)) => {
                    let line = self.reader.line_of(name.span().start);
                    (Some(line), Some(value.get_ref()))
                }
                None => (self.place.line, None),
            },
            Content::Absent | Content::Short(..) => (self.place.line, None),
        };
        let key = self.path(key);
        (Location { line, key }, value)
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
