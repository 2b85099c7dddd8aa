//! The file of ticket keys that the nodes of a deployment share.
//!
//! ```text
//! # adit ticket keys. Secret: ...
//! 2026-11-25T08:00:00Z 8d4f... (64 hexadecimal digits)
//! 2026-11-25T20:05:00Z 03b1...
//! ```
//!
//! One key a line: the moment from which it seals (UTC), and its 32 bytes. Lines that begin with
//! `#` and empty lines say nothing. All keys of the file open tickets, also one that does not seal
//! yet: so a node that is late to read the file is late by `--in`, and not by nothing. `rotate`
//! removes a key when its last ticket has ended.

use std::fmt::Write as _;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::rand;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use crate::certs::CertError;
use crate::files::{self, Mode};
use crate::limits::{TICKET_KEYS_FILE_MAX, TICKET_KEYS_MAX};

const HEADER: &str = "# adit ticket keys. Secret: who has them can read the sessions that their tickets resume.\n\
    # A line is the moment from which a key seals, and the key. See `adit ticket-keys --help`.\n";

/// Why there are no ticket keys.
#[derive(Debug, thiserror::Error)]
pub enum TicketKeysError {
    /// The fault of the file.
    #[error("{}{}: {message}; remedy: {remedy}", .file.display(), .line.map_or(String::new(), |line| format!(":{line}")))]
    File {
        /// The file.
        file: PathBuf,
        /// Its line, from 1.
        line: Option<usize>,
        /// The fault.
        message: String,
        /// The remedy.
        remedy: &'static str,
    },
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] CertError),
    /// The system.
    #[error("the system gives no random bytes for ticket keys")]
    Random,
}

/// One key.
#[derive(Clone)]
pub struct TicketKey {
    /// When it begins to seal, in seconds since 1970.
    pub from: u64,
    /// The key itself, from which working keys are derived.
    pub secret: Zeroizing<[u8; 32]>,
}

/// Keys in the order of their times. Never empty.
#[derive(Clone)]
pub struct TicketKeys(Vec<TicketKey>);

impl TicketKeys {
    /// One new key, which seals from now on.
    ///
    /// # Errors
    /// If the system gives no random bytes.
    pub fn generate(now: u64) -> Result<Self, TicketKeysError> {
        Ok(Self(vec![new_key(now)?]))
    }

    /// The same and a new key, which seals from `from` on; without those whose successor has sealed
    /// for longer than `keep` seconds, of which no ticket lives any more.
    ///
    /// # Errors
    /// If the system gives no random bytes.
    pub fn rotated(&self, now: u64, from: u64, keep: u64) -> Result<Self, TicketKeysError> {
        let mut keys = self.0.clone();
        keys.push(new_key(from)?);
        keys.sort_by_key(|key| key.from);
        let ended = keys
            .windows(2)
            .take_while(|pair| pair[1].from.saturating_add(keep) <= now)
            .count();
        keys.drain(..ended);
        // Rotated more often than tickets end: the oldest make room, never the newest.
        let beyond = keys.len().saturating_sub(TICKET_KEYS_MAX);
        keys.drain(..beyond);
        Ok(Self(keys))
    }

    /// The keys.
    #[must_use]
    pub fn keys(&self) -> &[TicketKey] {
        &self.0
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`TicketKeysError::File`]: it cannot be read, others may read it, or it is not what it must be.
    pub fn read(file: &Path) -> Result<Self, TicketKeysError> {
        let fail = |message: String, remedy| TicketKeysError::File {
            file: file.to_path_buf(),
            line: None,
            message,
            remedy,
        };
        const NAME: &str = "name a file that adit may read; `adit ticket-keys make FILE` makes one";
        let opened = files::open(file).map_err(|e| fail(format!("cannot be read: {e}"), NAME))?;
        // Of the open file, so that it cannot be replaced between the look and the reading.
        let found = opened
            .metadata()
            .map_err(|e| fail(format!("cannot be read: {e}"), NAME))?;
        if found.mode() & 0o027 != 0 {
            let mode = found.mode() & 0o777;
            return Err(fail(
                format!(
                    "its mode is {mode:04o}: others than its owner and readers of its group have access to the keys"
                ),
                "chmod 0600 it, and make new keys if others may have read it",
            ));
        }
        let mut text = Zeroizing::new(String::with_capacity(TICKET_KEYS_FILE_MAX as usize + 1));
        opened
            .take(TICKET_KEYS_FILE_MAX + 1)
            .read_to_string(&mut text)
            .map_err(|e| fail(format!("cannot be read: {e}"), NAME))?;
        if text.len() as u64 > TICKET_KEYS_FILE_MAX {
            let message = format!("is larger than {TICKET_KEYS_FILE_MAX} bytes");
            return Err(fail(message, NAME));
        }
        Self::parse(&text, file)
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// [`TicketKeysError::File`] with the line.
    pub fn parse(text: &str, file: &Path) -> Result<Self, TicketKeysError> {
        let mut keys: Vec<TicketKey> = Vec::new();
        let fail = |line, message: String, remedy| TicketKeysError::File {
            file: file.to_path_buf(),
            line,
            message,
            remedy,
        };
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = parse_line(line)
                .map_err(|(message, remedy)| fail(Some(number + 1), message, remedy))?;
            if keys.iter().any(|other| other.secret == key.secret) {
                let message = "the key is in the file twice".to_owned();
                return Err(fail(Some(number + 1), message, "remove one of the two"));
            }
            keys.push(key);
        }
        const ROTATE: &str = "make a new file with `adit ticket-keys make FILE`";
        if keys.is_empty() {
            return Err(fail(None, "has no key".to_owned(), ROTATE));
        }
        if keys.len() > TICKET_KEYS_MAX {
            let message = format!("has {} keys; the limit is {TICKET_KEYS_MAX}", keys.len());
            return Err(fail(None, message, "remove the oldest"));
        }
        keys.sort_by_key(|key| key.from);
        Ok(Self(keys))
    }

    /// Writes a new file, readable by its owner alone.
    ///
    /// # Errors
    /// [`TicketKeysError::Write`], also if the file exists.
    pub fn write_new(&self, file: &Path) -> Result<(), TicketKeysError> {
        let written = files::write_new(file, self.text().as_bytes(), Mode::Secret);
        Ok(written.map_err(CertError::from)?)
    }

    /// Writes the file in place of the one that is there: a reader sees the old or the new one,
    /// whole.
    ///
    /// # Errors
    /// [`TicketKeysError::Write`].
    pub fn replace(&self, file: &Path) -> Result<(), TicketKeysError> {
        let written = files::replace(file, self.text().as_bytes(), Mode::Secret);
        Ok(written.map_err(CertError::from)?)
    }

    fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(HEADER.len() + 100 * self.0.len()));
        text.push_str(HEADER);
        for key in &self.0 {
            let from = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(key.from);
            let from = from.format(&Rfc3339).unwrap_or_default();
            let _ = write!(text, "{from} ");
            for byte in &key.secret[..] {
                let _ = write!(text, "{byte:02x}");
            }
            text.push('\n');
        }
        text
    }
}

impl std::fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let times: Vec<u64> = self.0.iter().map(|key| key.from).collect();
        f.debug_tuple("TicketKeys").field(&times).finish()
    }
}

fn new_key(from: u64) -> Result<TicketKey, TicketKeysError> {
    let mut secret = Zeroizing::new([0; 32]);
    rand::fill(&mut secret[..]).map_err(|_| TicketKeysError::Random)?;
    Ok(TicketKey { from, secret })
}

fn parse_line(line: &str) -> Result<TicketKey, (String, &'static str)> {
    const LINE: &str =
        "write a time such as 2026-01-31T08:00:00Z, a space and 64 hexadecimal digits";
    let mut words = line.split_whitespace();
    let (Some(time), Some(hex), None) = (words.next(), words.next(), words.next()) else {
        return Err(("is not a time and a key".to_owned(), LINE));
    };
    let from = OffsetDateTime::parse(time, &Rfc3339)
        .ok()
        .and_then(|from| u64::try_from(from.unix_timestamp()).ok())
        .ok_or_else(|| (format!("{time:?} is not a time"), LINE))?;
    if hex.len() != 64 {
        // The key itself is in no message.
        let message = format!("the key has {} digits instead of 64", hex.len());
        return Err((message, LINE));
    }
    let mut secret = Zeroizing::new([0; 32]);
    for (byte, digits) in secret.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| char::from(digits[at]).to_digit(16);
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err(("the key is not hexadecimal".to_owned(), LINE));
        };
        *byte = (high << 4 | low) as u8;
    }
    Ok(TicketKey { from, secret })
}
