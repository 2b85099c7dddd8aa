//! The changes of the store, each in a transaction that is kept or not as a whole.

use std::io;

use redb::{ReadableTable, WriteTransaction};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::tables::{
    ASSIGNED, ENTRIES, NODE, NUMBERS, StoreFailure, TEXTS, VersionRecord, history, store,
};
use super::{Changed, NewVersion, StoreError, too_many};
use crate::limits::{PROFILE_VERSIONS_KEPT, PROFILES_MAX};

/// Returns what a change begins with: the newest version, if there is one, and what the node is
/// assigned.
fn before(transaction: &WriteTransaction, name: &str) -> Result<Changed, StoreFailure> {
    let newest = history(&transaction.open_table(ENTRIES)?, name)?;
    let newest = newest.first().map(|entry| entry.version);
    let node = transaction.open_table(NODE)?;
    let assigned = node.get(ASSIGNED)?.map(|name| name.value().to_owned());
    // Made here, so that a look never misses one.
    transaction.open_table(TEXTS)?;
    Ok(Changed {
        version: newest.unwrap_or(0),
        replaced: newest,
        assigned: assigned.as_deref() == Some(name),
        assigned_before: assigned,
        stored: true,
    })
}

fn expected(name: &str, newest: Option<u64>, expect: Option<u64>) -> Result<(), StoreFailure> {
    match expect {
        Some(expect) if expect != newest.unwrap_or(0) => {
            let found = match newest {
                Some(newest) => format!("the newest version of profile {name} is {newest}"),
                None => format!("profile {name} does not exist"),
            };
            Err(store(StoreError::Conflict(found, expect)))
        }
        _ => Ok(()),
    }
}

pub(super) fn put(
    transaction: &WriteTransaction,
    new: &NewVersion<'_>,
) -> Result<Changed, StoreFailure> {
    let name = new.name;
    let mut changed = before(transaction, name)?;
    expected(name, changed.replaced, new.expect)?;
    let (mut texts, mut entries) = (
        transaction.open_table(TEXTS)?,
        transaction.open_table(ENTRIES)?,
    );
    match changed.replaced {
        Some(newest) => {
            let text = texts.get((name, newest))?;
            if text.is_some_and(|text| text.value().1 == new.text) {
                changed.stored = false;
                return Ok(changed);
            }
        }
        None if profiles(&entries)? >= PROFILES_MAX => return Err(store(too_many())),
        None => {}
    }
    let mut numbers = transaction.open_table(NUMBERS)?;
    let last = numbers.get(name)?.map_or(0, |last| last.value());
    changed.version = last + 1;
    numbers.insert(name, changed.version)?;
    let kept = VersionRecord {
        who: new.who.to_owned(),
        when: now(),
        note: new.note.to_owned(),
    };
    let kept = serde_json::to_vec(&kept).map_err(io::Error::from)?;
    entries.insert((name, changed.version), &*kept)?;
    let digest = Sha256::digest(new.text);
    texts.insert((name, changed.version), (digest.as_slice(), new.text))?;
    for entry in history(&entries, name)?.iter().skip(PROFILE_VERSIONS_KEPT) {
        entries.remove((name, entry.version))?;
        texts.remove((name, entry.version))?;
    }
    Ok(changed)
}

fn profiles(
    entries: &impl ReadableTable<(&'static str, u64), &'static [u8]>,
) -> Result<usize, StoreFailure> {
    let (mut count, mut last) = (0, String::new());
    for item in entries.iter()? {
        let (key, _) = item?;
        if count == 0 || key.value().0 != last {
            (count, last) = (count + 1, key.value().0.to_owned());
        }
    }
    Ok(count)
}

pub(super) fn assign(
    transaction: &WriteTransaction,
    name: Option<&str>,
) -> Result<Changed, StoreFailure> {
    let mut changed = before(transaction, name.unwrap_or_default())?;
    changed.stored = changed.assigned_before.as_deref() != name;
    changed.assigned = true;
    let mut node = transaction.open_table(NODE)?;
    match name {
        Some(name) if changed.replaced.is_none() => {
            return Err(store(StoreError::NoProfile(name.to_owned())));
        }
        Some(name) => drop(node.insert(ASSIGNED, name)?),
        None => drop(node.remove(ASSIGNED)?),
    }
    Ok(changed)
}

pub(super) fn delete(
    transaction: &WriteTransaction,
    name: &str,
    expect: Option<u64>,
) -> Result<Changed, StoreFailure> {
    let mut changed = before(transaction, name)?;
    expected(name, changed.replaced, expect)?;
    if changed.replaced.is_none() {
        return Err(store(StoreError::NoProfile(name.to_owned())));
    }
    if changed.assigned {
        return Err(store(StoreError::Assigned(name.to_owned())));
    }
    let history = history(&transaction.open_table(ENTRIES)?, name)?;
    let versions: Vec<u64> = history.iter().map(|entry| entry.version).collect();
    remove(transaction, name, &versions)?;
    changed.version = 0;
    Ok(changed)
}

fn remove(
    transaction: &WriteTransaction,
    name: &str,
    versions: &[u64],
) -> Result<(), StoreFailure> {
    let (mut texts, mut entries) = (
        transaction.open_table(TEXTS)?,
        transaction.open_table(ENTRIES)?,
    );
    for version in versions {
        entries.remove((name, *version))?;
        texts.remove((name, *version))?;
    }
    Ok(())
}

/// The time in UTC, to the second (RFC 3339).
fn now() -> String {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0);
    let now = now.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    now.format(&Rfc3339).unwrap_or_default()
}
