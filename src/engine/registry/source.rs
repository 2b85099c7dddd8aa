//! The registry's file, and its last good copy in the state folder.
//!
//! A file is read piece by piece and never as a whole. The copy is written while the file is read, so that it holds what
//! was checked, and takes the old copy's place only when the registry has taken it over.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::engine::material::LoadError;
use crate::limits::{REGISTRY_FILE_MAX, REGISTRY_READ};
use crate::table::{DeviceFormat, DeviceReader, DeviceRegistry, RegistryError, RegistryProblem};

/// The copy of the last file that was right.
const COPY: &str = "devices-last.csv";

/// A file that was read and is right, with its copy that waits to take the old one's place.
pub(crate) struct Source {
    pub registry: DeviceRegistry,
    waiting: Option<Waiting>,
}

struct Waiting {
    from: PathBuf,
    to: PathBuf,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Gone already where it has taken its place.
        let _ = fs::remove_file(&self.from);
    }
}

/// Reads the file and checks it, without a copy.
pub(super) fn check(file: &Path) -> Result<DeviceRegistry, LoadError> {
    read(file, &mut io::sink())
}

/// Reads the last good copy; `None` where there is none.
pub(super) fn last(state_dir: &Path) -> Result<Option<DeviceRegistry>, LoadError> {
    let copy = state_dir.join(COPY);
    if copy.exists() {
        check(&copy).map(Some)
    } else {
        Ok(None)
    }
}

/// Whether the file is what was copied last.
pub(super) fn is_unchanged(file: &Path, state_dir: &Path) -> bool {
    let same = || -> io::Result<bool> {
        let (file, copy) = (open(file)?, open(&state_dir.join(COPY))?);
        if file.metadata()?.len() != copy.metadata()?.len() {
            return Ok(false);
        }
        let mut file = BufReader::with_capacity(REGISTRY_READ, file);
        let mut copy = BufReader::with_capacity(REGISTRY_READ, copy);
        let (mut here, mut there) = (vec![0; REGISTRY_READ], vec![0; REGISTRY_READ]);
        loop {
            let count = file.read(&mut here)?;
            if count == 0 {
                return Ok(copy.read(&mut there)? == 0);
            }
            copy.read_exact(&mut there[..count])?;
            if here[..count] != there[..count] {
                return Ok(false);
            }
        }
    };
    same().unwrap_or(false)
}

/// Reads the file, checks it and writes a copy beside the old one.
pub(super) fn load(file: &Path, state_dir: &Path) -> Result<Source, LoadError> {
    let to = state_dir.join(COPY);
    let waiting = Waiting {
        from: state_dir.join(format!("{COPY}.new")),
        to,
    };
    let failed = |error| LoadError::Write(waiting.from.display().to_string(), error);
    let mut copy = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&waiting.from)
        .map_err(failed)?;
    let registry = read(file, &mut copy)?;
    copy.sync_all().map_err(failed)?;
    Ok(Source {
        registry,
        waiting: Some(waiting),
    })
}

impl Source {
    /// Lets the copy take the old one's place.
    pub fn keep(&mut self) -> io::Result<()> {
        if let Some(waiting) = self.waiting.take() {
            fs::rename(&waiting.from, &waiting.to)?;
            let folder = waiting.to.parent().unwrap_or(Path::new("."));
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }
}

/// Opens a regular file: opening a pipe would wait for its writer.
fn open(file: &Path) -> io::Result<File> {
    if !fs::metadata(file)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    File::open(file)
}

fn read(file: &Path, copy: &mut impl Write) -> Result<DeviceRegistry, LoadError> {
    let shown = || format!("the device registry {}", file.display());
    let unread = |error| LoadError::Read(shown(), error);
    let mut text = open(file).map_err(unread)?;
    let too_large = |bytes: u64| {
        let message = format!("{bytes} bytes, and at most {REGISTRY_FILE_MAX} are read");
        LoadError::Read(
            shown(),
            io::Error::new(io::ErrorKind::FileTooLarge, message),
        )
    };
    let length = text.metadata().map_err(unread)?.len();
    if length > REGISTRY_FILE_MAX {
        return Err(too_large(length));
    }
    let mut reader = DeviceReader::new(DeviceFormat::Csv);
    let (mut piece, mut total) = (vec![0; REGISTRY_READ], 0);
    loop {
        let count = text.read(&mut piece).map_err(unread)?;
        // It may grow while it is read.
        total += count as u64;
        if total > REGISTRY_FILE_MAX {
            return Err(too_large(total));
        }
        if count == 0 || !reader.push(&piece[..count]) {
            break;
        }
        copy.write_all(&piece[..count])
            .map_err(|error| LoadError::Write(format!("the copy of {}", shown()), error))?;
    }
    let refused = |problems| RegistryError {
        path: file.to_owned(),
        problems,
    };
    let changes = reader.finish().map_err(refused)?;
    let registry = DeviceRegistry::default().with(&changes).map_err(|full| {
        let message = full.to_string();
        refused(vec![RegistryProblem { line: 1, message }])
    })?;
    Ok(registry)
}
