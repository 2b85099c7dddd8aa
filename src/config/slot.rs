//! A key's value with its place in the file.

use super::error::{Fault, Location, Report};

/// A key of the contract, as it was found in the file.
#[derive(Debug, Clone)]
pub(super) struct Slot<T> {
    pub(super) place: Location,
    pub(super) value: Value<T>,
}

/// Content of a [`Slot`].
#[derive(Debug, Clone)]
pub(super) enum Value<T> {
    /// The key does not exist.
    Absent,
    /// The key is there and wrong, and has been reported.
    Refused,
    /// The key is there and right so far.
    Given(T),
}

impl<T> Slot<T> {
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

    /// Returns where the key is written; `None` where it is absent.
    pub(super) fn written(&self) -> Option<&Location> {
        (!matches!(self.value, Value::Absent)).then_some(&self.place)
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
        if self.written().is_none() {
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
