//! The meaning of single values: durations, words, counts, paths, addresses.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use super::address::{AddressError, HostPort, has_zone, network};
use super::error::{Fault, Report, alternatives, nearest, quoted};
use super::named::{CertificateName, FileName, NamedFiles};
use super::slot::{List, Slot};
use crate::certs::{Reference, Store};
use crate::files;
use crate::limits::CONFIG_DURATION_MAX;

/// Remedy for an address with a zone.
const ZONE_REMEDY: &str =
    "write an address without a zone (no fe80:: one), or a name that leads to one";

/// Reads a duration such as `500ms`, `10s`, `5m` or `24h`; not zero.
pub(super) fn duration(text: &str) -> Result<Duration, Fault> {
    const REMEDY: &str =
        "write a whole number and ms, s, m or h, as in \"500ms\", \"10s\", \"5m\" or \"24h\"";
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit_at);
    let milliseconds_each: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        _ => {
            return Err(Fault::new(
                format!("{} is not a duration", quoted(text)),
                REMEDY,
            ));
        }
    };
    if digits.is_empty() {
        return Err(Fault::new(
            format!("{} is not a duration", quoted(text)),
            REMEDY,
        ));
    }
    let too_long = || {
        let hours = CONFIG_DURATION_MAX.as_secs() / 3600;
        Fault::new(
            format!("{} is too long", quoted(text)),
            format!("write at most \"{hours}h\""),
        )
    };
    let number: u64 = digits.parse().map_err(|_| too_long())?;
    match number
        .checked_mul(milliseconds_each)
        .map(Duration::from_millis)
    {
        Some(Duration::ZERO) => Err(Fault::new(
            "a duration of zero would end everything at once",
            REMEDY,
        )),
        Some(duration) if duration <= CONFIG_DURATION_MAX => Ok(duration),
        _ => Err(too_long()),
    }
}

/// Reads one of a few words.
pub(super) fn word<T: Copy>(text: &str, known: &[(&str, T)]) -> Result<T, Fault> {
    if let Some((_, meaning)) = known.iter().find(|(word, _)| *word == text) {
        return Ok(*meaning);
    }
    let words = || known.iter().map(|(word, _)| *word);
    let remedy = match nearest(text, words()) {
        Some(similar) => format!(
            "did you mean {similar:?}? (known: {})",
            alternatives(words())
        ),
        None => format!("write {}", alternatives(words())),
    };
    Err(Fault::new(
        format!("{} is not known here", quoted(text)),
        remedy,
    ))
}

/// Reads a size such as `64 MiB`, in bytes; one that is too large to be counted is `u64::MAX`.
pub(super) fn size(text: &str) -> Result<u64, Fault> {
    const REMEDY: &str = "write a whole number and KiB, MiB or GiB, as in \"64 MiB\"";
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit_at);
    let shift = match unit.strip_prefix(' ').unwrap_or(unit) {
        "KiB" if !digits.is_empty() => 10,
        "MiB" if !digits.is_empty() => 20,
        "GiB" if !digits.is_empty() => 30,
        _ => {
            let message = format!("{} is not a size", quoted(text));
            return Err(Fault::new(message, REMEDY));
        }
    };
    let number: u64 = digits.parse().unwrap_or(u64::MAX);
    Ok(number.saturating_mul(1 << shift))
}

/// Reads a count from 1 to `max`.
pub(super) fn count(number: i64, max: usize) -> Result<usize, Fault> {
    usize::try_from(number)
        .ok()
        .filter(|number| (1..=max).contains(number))
        .ok_or_else(|| {
            Fault::new(
                format!("{number} is out of range"),
                format!("write a number from 1 to {max}"),
            )
        })
}

/// Reads a count from 1 to `max`, or 0 for no bound.
pub(super) fn count_or_none(number: i64, max: usize) -> Result<usize, Fault> {
    match number {
        0 => Ok(0),
        _ => count(number, max).map_err(|_| {
            Fault::new(
                format!("{number} is out of range"),
                format!("write a number from 1 to {max}, or 0 for no bound"),
            )
        }),
    }
}

/// Reads a port from 1 to 65535.
pub(super) fn port(number: i64) -> Result<u16, Fault> {
    u16::try_from(number)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| {
            Fault::new(
                format!("{number} is not a port"),
                "write a number from 1 to 65535",
            )
        })
}

/// Reads the address of a listener: a literal address and a port.
pub(super) fn listen_address(text: &str, example: &str) -> Result<SocketAddr, Fault> {
    text.parse().map_err(|_| {
        if has_zone(text) {
            let message = format!("{}: {}", quoted(text), AddressError::Zone);
            return Fault::new(message, ZONE_REMEDY);
        }
        let message = format!("{} is not an address and a port", quoted(text));
        Fault::new(
            message,
            format!("write a literal address and a port, as in {example:?}"),
        )
    })
}

/// Reads `host:port`.
pub(super) fn host_port(text: &str) -> Result<HostPort, Fault> {
    text.parse().map_err(|error| {
        address_fault(
            text,
            error,
            "write host:port, as in \"wiki.corp.example.com:443\"",
        )
    })
}

/// Turns an [`AddressError`] into a fault with the remedy that fits it best.
pub(super) fn address_fault(text: &str, error: AddressError, remedy: &str) -> Fault {
    let message = format!("{}: {error}", quoted(text));
    match error {
        AddressError::Zone => Fault::new(message, ZONE_REMEDY),
        AddressError::HostBits(network) => Fault::new(
            message,
            format!("write \"{network}\", or the single address alone"),
        ),
        AddressError::PortMissing => Fault::new(
            message,
            format!(
                "write {} with the port, as in {}",
                quoted(text),
                quoted(&format!("{text}:443"))
            ),
        ),
        _ => Fault::new(message, remedy),
    }
}

/// The state folder where the config names none.
pub(super) const STATE_DIR: &str = "/var/lib/adit";

/// Resolves paths against the folder of the config file, and names of certificates against the
/// store.
pub(super) struct Folder {
    path: PathBuf,
    store: Store,
}

impl Folder {
    /// The folder that `file` is in, and the store of the usual state folder.
    pub(super) fn of(file: &Path) -> Self {
        let path = file.parent().unwrap_or(Path::new("")).to_path_buf();
        let store = Store::new(Path::new(STATE_DIR));
        Self { path, store }
    }

    /// The same folder, and the store of this state folder.
    pub(super) fn storing(&self, state_dir: &Path) -> Self {
        let (path, store) = (self.path.clone(), Store::new(state_dir));
        Self { path, store }
    }

    /// The file of a certificate, which is there and can be opened.
    pub(super) fn certificate(&self, named: &CertificateName) -> Result<PathBuf, Fault> {
        let path = self.certificate_path(named)?;
        let Some(Reference { role, name }) = named.stored().transpose()? else {
            return self.opened(path);
        };
        let opened = path.metadata().and_then(|_| files::open(&path));
        opened.map(|_| path).map_err(|error| {
            let role = role.word();
            Fault::new(
                format!("there is no {role} certificate {name} in the store: {error}"),
                format!("import it with `adit certs import FILE --as {role} --name {name}`"),
            )
        })
    }

    /// The path that a certificate has.
    pub(super) fn certificate_path(&self, named: &CertificateName) -> Result<PathBuf, Fault> {
        match named.stored().transpose()? {
            Some(stored) => Ok(self.store.path(stored.role, &stored.name)),
            None => self.path(named.as_str()),
        }
    }

    /// The paths of all files whose contents take effect by a reload, those of the store too.
    pub(super) fn paths(&self, named: &NamedFiles) -> BTreeSet<PathBuf> {
        let files = named.files().iter().map(|file| self.path(file.as_str()));
        let certificates = named.certificates().iter();
        let certificates = certificates.map(|named| self.certificate_path(named));
        files.chain(certificates).flatten().collect()
    }

    /// The path that `text` stands for.
    pub(super) fn path(&self, text: &str) -> Result<PathBuf, Fault> {
        if text.is_empty() {
            return Err(Fault::new(
                "the path is empty",
                "write a path, or leave the key out",
            ));
        }
        if text.contains('\0') {
            return Err(Fault::new(
                "the path has a zero byte",
                "write a path without it",
            ));
        }
        Ok(self.path.join(text))
    }

    /// The path of a file that is there and can be opened.
    pub(super) fn readable(&self, file: &FileName) -> Result<PathBuf, Fault> {
        self.opened(self.path(file.as_str())?)
    }

    fn opened(&self, path: PathBuf) -> Result<PathBuf, Fault> {
        let shown = quoted(&path.display().to_string());
        let metadata = path.metadata().map_err(|error| {
            let remedy = "name an existing file; relative paths start at the config file's folder";
            Fault::new(format!("the file {shown} cannot be found: {error}"), remedy)
        })?;
        if !metadata.is_file() {
            return Err(Fault::new(
                format!("{shown} is not a file"),
                "name a regular file",
            ));
        }
        files::open(&path).map_err(|error| {
            let remedy = "let the user that runs adit read the file";
            Fault::new(format!("the file {shown} cannot be read: {error}"), remedy)
        })?;
        Ok(path)
    }

    /// All files of a list; each one that is wrong is reported.
    pub(super) fn readable_all(
        &self,
        list: Vec<Slot<FileName>>,
        report: &mut Report,
    ) -> Vec<PathBuf> {
        list.into_iter()
            .filter_map(|file| file.parse(report, |file| self.readable(&file)).given())
            .collect()
    }
}

/// Networks, none twice.
pub(super) fn networks(list: Slot<List>, report: &mut Report) -> Vec<IpNet> {
    let networks = list.or(Vec::new()).into_iter().map(|text| {
        text.parse(report, |text| {
            network(&text).map_err(|error| {
                address_fault(&text, error, "write a network, as in \"10.0.0.0/8\"")
            })
        })
    });
    let networks = networks.collect();
    without_repetition(networks, report)
}

/// Keeps each value of a list once; each repetition is reported.
pub(super) fn without_repetition<T: PartialEq>(list: Vec<Slot<T>>, report: &mut Report) -> Vec<T> {
    let mut kept: Vec<T> = Vec::with_capacity(list.len());
    for slot in list {
        let slot = slot.parse(report, |value| {
            if kept.contains(&value) {
                Err(Fault::new("is in the list twice", "remove one of the two"))
            } else {
                Ok(value)
            }
        });
        kept.extend(slot.given());
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let cases = [
            ("1ms", Duration::from_millis(1)),
            ("500ms", Duration::from_millis(500)),
            ("10s", Duration::from_secs(10)),
            ("5m", Duration::from_secs(300)),
            ("24h", Duration::from_secs(86_400)),
            ("8760h", CONFIG_DURATION_MAX),
        ];
        for (text, expected) in cases {
            assert_eq!(duration(text), Ok(expected), "{text:?}");
        }
        let wrong = [
            "",
            "10",
            "s",
            "10 s",
            "-1s",
            "+1s",
            "1.5s",
            "1d",
            "10S",
            "0s",
            "0ms",
            "8761h",
            "99999999999999999999s",
            "18446744073709551615h",
            "１0s",
        ];
        for text in wrong {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn counts_and_ports_have_ends() {
        assert_eq!(count(1, 5), Ok(1));
        assert_eq!(count(5, 5), Ok(5));
        assert!(count(0, 5).is_err() && count(6, 5).is_err() && count(-1, 5).is_err());
        assert_eq!(port(65535), Ok(65535));
        assert!(port(0).is_err() && port(65536).is_err() && port(-443).is_err());
    }

    #[test]
    fn a_folder_is_not_a_readable_file() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::of(&dir.path().join("adit.toml"));
        let named = |name: &str| NamedFiles::live_file(name.to_owned());
        std::fs::write(dir.path().join("a.pem"), "x").unwrap();
        assert_eq!(
            folder.readable(&named("a.pem")),
            Ok(dir.path().join("a.pem"))
        );
        for bad in [".", "b.pem", "", "a\0b", "/dev/null"] {
            assert!(folder.readable(&named(bad)).is_err(), "{bad:?}");
        }
        assert_eq!(
            Folder::of(Path::new("adit.toml")).path("x"),
            Ok(PathBuf::from("x"))
        );
        assert_eq!(folder.path("/x/y"), Ok(PathBuf::from("/x/y")));
    }
}
