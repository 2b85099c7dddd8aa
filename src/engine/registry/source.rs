//! The registry's file, and its last good copy in the state folder.
//!
//! A file is read piece by piece and never as a whole. The copy is written while the file is read,
//! so that it holds what was checked, and takes the old copy's place only when the registry has
//! taken it over. Its first line says of which file it is a copy: it stands in for that file and
//! for no other.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::certs::CertError;
use crate::engine::loaded::LoadError;
use crate::files::{self, Mode, PendingFile};
use crate::limits::{REGISTRY_COPY_HEAD_MAX, REGISTRY_FILE_MAX, REGISTRY_READ};
use crate::table::{DeviceFormat, DeviceReader, DeviceRegistry, RegistryError, RegistryProblem};

/// The copy of the last file that was right.
const COPY: &str = "devices-last";

/// A file that was read and is right, with its copy that waits to take the old one's place.
pub(crate) struct RegistryFile {
    pub registry: DeviceRegistry,
    waiting: Option<PendingFile>,
}

/// The last good copy.
pub(super) struct Last {
    pub registry: DeviceRegistry,
    /// Of which file.
    of: PathBuf,
}

impl Last {
    /// Returns whether it is a copy of this file, as it was.
    pub fn is_of(&self, file: &Path) -> bool {
        self.of == named(file)
    }

    /// The file that it is a copy of.
    pub fn file(&self) -> &Path {
        &self.of
    }
}

/// The first line of a copy.
#[derive(Serialize, Deserialize)]
struct Head {
    adit_copy_of: PathBuf,
    ndjson: bool,
}

impl Head {
    fn of(file: &Path) -> Self {
        Self {
            adit_copy_of: named(file),
            ndjson: DeviceFormat::of(file) == DeviceFormat::Ndjson,
        }
    }

    fn format(&self) -> DeviceFormat {
        match self.ndjson {
            true => DeviceFormat::Ndjson,
            false => DeviceFormat::Csv,
        }
    }

    /// Reads it off a copy, which stands behind it then.
    fn read(copy: &mut impl BufRead) -> io::Result<Self> {
        let mut line = Vec::new();
        let mut first = copy.take(REGISTRY_COPY_HEAD_MAX);
        first.read_until(b'\n', &mut line)?;
        Ok(serde_json::from_slice(&line)?)
    }
}

/// The name of a file wherever it is asked for, links not followed: a link that leads elsewhere is
/// a new content.
fn named(file: &Path) -> PathBuf {
    let path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    // As it can be written down.
    PathBuf::from(path.to_string_lossy().into_owned())
}

/// Reads the file and checks it, without a copy.
pub(super) fn check(file: &Path) -> Result<DeviceRegistry, LoadError> {
    let text = open(file)?;
    parse(file, text, DeviceFormat::of(file), &mut io::sink())
}

/// Reads the last good copy; `None` where there is none.
pub(super) fn last(state_dir: &Path) -> Result<Option<Last>, LoadError> {
    let copy = state_dir.join(COPY);
    let unread = |error| LoadError::Read(copy.display().to_string(), error);
    let text = match files::open(&copy) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(unread)?,
    };
    let mut text = BufReader::with_capacity(REGISTRY_READ, text);
    let head = Head::read(&mut text).map_err(unread)?;
    Ok(Some(Last {
        registry: parse(&copy, text, head.format(), &mut io::sink())?,
        of: head.adit_copy_of,
    }))
}

/// Returns whether the file is what was copied last.
pub(super) fn is_unchanged(file: &Path, state_dir: &Path) -> bool {
    let same = || -> io::Result<bool> {
        let copy = files::open(&state_dir.join(COPY))?;
        let mut copy = BufReader::with_capacity(REGISTRY_READ, copy);
        let head = Head::read(&mut copy)?;
        if head.adit_copy_of != named(file) || head.format() != DeviceFormat::of(file) {
            return Ok(false);
        }
        let mut file = BufReader::with_capacity(REGISTRY_READ, files::open(file)?);
        loop {
            let (here, there) = (file.fill_buf()?, copy.fill_buf()?);
            let count = here.len().min(there.len());
            if count == 0 || here[..count] != there[..count] {
                return Ok(here.is_empty() && there.is_empty());
            }
            file.consume(count);
            copy.consume(count);
        }
    };
    same().unwrap_or(false)
}

/// Reads the file, checks it and writes a copy beside the old one.
pub(super) fn load(file: &Path, state_dir: &Path) -> Result<RegistryFile, LoadError> {
    let text = open(file)?;
    let failed = |error| LoadError::from(CertError::from(error));
    let mut waiting = PendingFile::new(&state_dir.join(COPY), Mode::Secret).map_err(failed)?;
    // A path and a word: there is nothing that could fail.
    let mut head = serde_json::to_vec(&Head::of(file)).unwrap_or_default();
    head.push(b'\n');
    waiting.write_all(&head).map_err(unwritten)?;
    let registry = parse(file, text, DeviceFormat::of(file), &mut waiting)?;
    waiting.sync().map_err(failed)?;
    Ok(RegistryFile {
        registry,
        waiting: Some(waiting.in_state()),
    })
}

impl RegistryFile {
    /// Lets the copy take the old one's place.
    ///
    /// # Errors
    /// The system's; the old one stays.
    pub fn keep(&mut self) -> Result<(), LoadError> {
        match self.waiting.take().map(PendingFile::put) {
            Some(Err(error)) => Err(CertError::from(error).into()),
            Some(Ok(())) | None => Ok(()),
        }
    }
}

fn shown(file: &Path) -> String {
    format!("the device registry {}", file.display())
}

fn unwritten(error: io::Error) -> LoadError {
    LoadError::Write("the device registry's copy".to_owned(), error)
}

fn open(file: &Path) -> Result<File, LoadError> {
    let unread = |error| LoadError::Read(shown(file), error);
    let text = files::open(file).map_err(unread)?;
    let length = text.metadata().map_err(unread)?.len();
    match length > REGISTRY_FILE_MAX {
        true => Err(too_large(file, length)),
        false => Ok(text),
    }
}

fn too_large(file: &Path, bytes: u64) -> LoadError {
    let message = format!("{bytes} bytes, and at most {REGISTRY_FILE_MAX} are read");
    let error = io::Error::new(io::ErrorKind::FileTooLarge, message);
    LoadError::Read(shown(file), error)
}

/// Reads what `file` holds, and copies it.
fn parse(
    file: &Path,
    mut text: impl Read,
    format: DeviceFormat,
    copy: &mut impl Write,
) -> Result<DeviceRegistry, LoadError> {
    let mut reader = DeviceReader::new(format);
    let (mut piece, mut total) = (vec![0; REGISTRY_READ], 0);
    loop {
        let unread = |error| LoadError::Read(shown(file), error);
        let count = text.read(&mut piece).map_err(unread)?;
        // It may grow while it is read.
        total += count as u64;
        if total > REGISTRY_FILE_MAX {
            return Err(too_large(file, total));
        }
        if count == 0 || !reader.push(&piece[..count]) {
            break;
        }
        copy.write_all(&piece[..count]).map_err(unwritten)?;
    }
    let refused = |problems| RegistryError {
        path: file.to_owned(),
        problems,
    };
    let changes = reader.finish().map_err(refused)?;
    let registry = DeviceRegistry::default().with(&changes).map_err(|full| {
        let fault = full.into();
        refused(vec![RegistryProblem { line: 1, fault }])
    })?;
    Ok(registry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_goes_by_the_ending_in_any_case_and_what_looks_otherwise_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let text = "{\"device\": \"{two}\", \"state\": \"blocked\"}\n";
        for name in ["d.ndjson", "d.NDJSON", "d.JsonL"] {
            let file = folder.path().join(name);
            std::fs::write(&file, text).unwrap();
            assert!(check(&file).unwrap().get("{two}").is_some(), "{name}");
        }
        for name in ["d.json", "d", "d.csv"] {
            let file = folder.path().join(name);
            std::fs::write(&file, text).unwrap();
            let error = check(&file).err().unwrap().to_string();
            assert!(
                error.contains("NDJSON") && error.contains(".jsonl"),
                "{error}"
            );
        }
        // A name in braces is a name.
        let file = folder.path().join("d.CSV");
        std::fs::write(&file, "{two},blocked\n").unwrap();
        assert!(check(&file).unwrap().get("{two}").is_some());
    }

    #[test]
    fn a_copy_stands_in_for_its_file_and_is_compared_with_all_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("a.csv"), folder.path().join("a.ndjson"));
        let text = "one,managed\n".to_owned() + &"# filler\n".repeat(REGISTRY_READ / 4);
        std::fs::write(&file, &text).unwrap();
        std::fs::write(&other, "{\"device\": \"two\", \"state\": \"blocked\"}\n").unwrap();
        assert!(last(folder.path()).unwrap().is_none());
        assert!(!is_unchanged(&file, folder.path()));
        load(&file, folder.path()).unwrap().keep().unwrap();
        let kept = last(folder.path()).unwrap().unwrap();
        assert!(kept.is_of(&file) && !kept.is_of(&other));
        assert!(kept.registry.get("one").is_some());
        assert!(is_unchanged(&file, folder.path()));
        for change in [&text[1..], &text[..text.len() - 1], &(text.clone() + "\n")] {
            std::fs::write(&file, change).unwrap();
            assert!(!is_unchanged(&file, folder.path()));
        }

        // What is read and not taken over leaves the old copy.
        drop(load(&other, folder.path()).unwrap());
        assert!(last(folder.path()).unwrap().unwrap().is_of(&file));
        load(&other, folder.path()).unwrap().keep().unwrap();
        let kept = last(folder.path()).unwrap().unwrap();
        assert!(kept.is_of(&other) && kept.registry.get("two").is_some());
        let names = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 3, "no temporary file is left");

        std::fs::write(folder.path().join(COPY), "one,managed\n").unwrap();
        assert!(last(folder.path()).is_err());
        assert!(!is_unchanged(&file, folder.path()));
    }
}
