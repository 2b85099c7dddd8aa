//! The keys and self-signed certificates of a state folder: which belong together, and what must be written so that
//! others are shown. Reads only.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use super::describe::{AlternativeName, alternative_names};
use super::pem::{key_to_pem, to_pem};
use super::read::{certificates_in, private_key_in};
use super::{CertError, Identity, key_matches};
use crate::files::{self, Mode};
use crate::limits::MAX_CERTIFICATE_FILE;

/// The certificate's file in the state folder.
pub const CERTIFICATE_FILE: &str = "server-self-signed.pem";

/// Its key's file in the state folder.
pub const KEY_FILE: &str = "server-self-signed.key";

/// The file of the certificate that will take its place.
pub const NEXT_CERTIFICATE_FILE: &str = "server-self-signed-next.pem";

/// The file of that one's key.
pub const NEXT_KEY_FILE: &str = "server-self-signed-next.key";

/// The beginning of the names of certificates and keys that made room for others; nothing removes
/// them.
pub const KEPT: &str = "server-self-signed-kept-";

/// The self-signed certificates of a state folder.
#[derive(Debug)]
pub struct SelfSigned {
    /// The one that is shown until it expires.
    pub current: Identity,
    /// The one that is shown then, in the last
    /// [`SELF_SIGNED_NEXT_DAYS`](crate::limits::SELF_SIGNED_NEXT_DAYS) days of the first.
    pub next: Option<Identity>,
}

/// Files to write, in this order: a crash between two of them loses nothing.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub write: Vec<(PathBuf, Zeroizing<Vec<u8>>, Mode)>,
    pub remove: Vec<PathBuf>,
    /// The names for which a certificate is new.
    pub made: Option<Vec<String>>,
    /// The keys that are missing of certificates that were shown.
    pub lost: Vec<PathBuf>,
}

impl Changes {
    pub fn add(&mut self, place: PathBuf, content: Zeroizing<Vec<u8>>, mode: Mode) {
        self.write.push((place, content, mode));
    }
}

/// A file, as it is and what it holds.
#[derive(Debug)]
struct StateFile<T> {
    path: PathBuf,
    bytes: Zeroizing<Vec<u8>>,
    holds: T,
}

/// Content of a file in the state folder.
trait Content: PartialEq {
    const MODE: Mode;
    const ENDING: &'static str;

    fn to_pem(&self) -> String;

    /// Returns what tells it from others and gives nothing of a key away; `None` where it is of a
    /// kind that is not known.
    fn name(&self) -> Option<String>;
}

impl Content for PrivateKeyDer<'static> {
    const MODE: Mode = Mode::Secret;
    const ENDING: &'static str = "key";

    fn to_pem(&self) -> String {
        key_to_pem(self)
    }

    fn name(&self) -> Option<String> {
        let key = any_supported_type(self).ok()?;
        let public = key.public_key()?;
        Some(short(public.as_ref()))
    }
}

impl Content for Vec<CertificateDer<'static>> {
    const MODE: Mode = Mode::Public;
    const ENDING: &'static str = "pem";

    fn to_pem(&self) -> String {
        to_pem(self)
    }

    fn name(&self) -> Option<String> {
        self.first().map(|first| short(first))
    }
}

/// Changes in the making.
struct Laying<'f> {
    state_dir: &'f Path,
    /// Files that are in the way, renamed.
    keep: Changes,
    put: Changes,
}

impl Laying<'_> {
    /// Lays `one` into the place `file`, or nothing; what is there is kept, unless it is `shown` in one place or another.
    fn lay<C: Content>(
        &mut self,
        held: &[StateFile<C>],
        file: &str,
        one: Option<&C>,
        shown: &[&C],
    ) {
        let place = self.state_dir.join(file);
        let there = held.iter().find(|held| held.path == place);
        if there.map(|held| &held.holds) == one {
            return;
        }
        if let Some(held) = there
            && !shown.contains(&&held.holds)
        {
            let name = held.holds.name();
            let name = name.unwrap_or_else(|| short(&held.bytes));
            let kept = self.state_dir.join(format!("{KEPT}{name}.{}", C::ENDING));
            self.keep.add(kept, held.bytes.clone(), C::MODE);
        }
        match one {
            Some(one) => {
                let content = Zeroizing::new(one.to_pem().into_bytes());
                self.put.add(place, content, C::MODE);
            }
            None if there.is_some() => self.put.remove.push(place),
            None => {}
        }
    }
}

/// The pairs in the state folder: in the place of the current one, of the next, and what is kept,
/// in this order.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    keys: Vec<StateFile<PrivateKeyDer<'static>>>,
    chains: Vec<StateFile<Vec<CertificateDer<'static>>>>,
}

impl Pairs {
    /// # Errors
    /// What cannot be read, or is broken. What is kept and broken is left out: nothing depends on it.
    pub fn read(state_dir: &Path) -> Result<Self, CertError> {
        let mut pairs = Self::default();
        for file in [CERTIFICATE_FILE, NEXT_CERTIFICATE_FILE] {
            pairs.add_chain(state_dir.join(file))?;
        }
        for file in [KEY_FILE, NEXT_KEY_FILE] {
            pairs.add_key(state_dir.join(file))?;
        }
        for path in kept(state_dir)? {
            let read = match path.extension().and_then(|ending| ending.to_str()) {
                Some("key") => pairs.add_key(path),
                Some("pem") => pairs.add_chain(path),
                _ => Ok(()),
            };
            if let Err(error) = read {
                tracing::warn!("a kept self-signed certificate is ignored: {error}");
            }
        }
        Ok(pairs)
    }

    fn add_chain(&mut self, path: PathBuf) -> Result<(), CertError> {
        if let Some(bytes) = read(&path)? {
            let holds = certificates_in(&path, &bytes, None)?;
            self.chains.push(StateFile { path, bytes, holds });
        }
        Ok(())
    }

    fn add_key(&mut self, path: PathBuf) -> Result<(), CertError> {
        if let Some(bytes) = read(&path)? {
            let holds = private_key_in(&path, &bytes, None)?;
            self.keys.push(StateFile { path, bytes, holds });
        }
        Ok(())
    }

    /// The certificates for exactly these names, each with its key and once.
    pub fn fitting(&self, names: &[String]) -> Vec<Identity> {
        let mut line: Vec<Identity> = Vec::new();
        for chain in self.chains.iter().map(|held| &held.holds) {
            let is_new = line.iter().all(|(known, _)| known != chain);
            let mut keys = self.keys.iter().map(|held| &held.holds);
            if is_new
                && covers_exactly(&chain[0], names)
                && let Some(key) = keys.find(|key| key_matches(&chain[0], key))
            {
                line.push((chain.clone(), key.clone_key()));
            }
        }
        line
    }

    /// The key that new certificates are made for, with its file: the first.
    pub fn key(&self) -> Option<(&Path, &PrivateKeyDer<'static>)> {
        let held = self.keys.first()?;
        Some((&held.path, &held.holds))
    }

    /// The keys that should be there and are not: those of the certificates in their places that no key fits.
    pub fn lost_keys(&self, state_dir: &Path) -> Vec<PathBuf> {
        let places = [
            (CERTIFICATE_FILE, KEY_FILE),
            (NEXT_CERTIFICATE_FILE, NEXT_KEY_FILE),
        ];
        let has_no_key = |file: &str| {
            let place = state_dir.join(file);
            let chain = self.chains.iter().find(|held| held.path == place);
            let fits = |chain: &StateFile<Vec<CertificateDer<'static>>>| {
                let mut keys = self.keys.iter();
                keys.any(|key| key_matches(&chain.holds[0], &key.holds))
            };
            chain.is_some_and(|chain| !fits(chain))
        };
        let lost = places.into_iter().filter(|(file, _)| has_no_key(file));
        lost.map(|(_, key)| state_dir.join(key)).collect()
    }

    /// Returns what must be written so that these are in their places. What is in the way is
    /// written first, as it is, under a name of its own.
    pub fn changes(&self, state_dir: &Path, shown: &SelfSigned) -> Changes {
        let mut laying = Laying {
            state_dir,
            keep: Changes::default(),
            put: Changes::default(),
        };
        let places = [
            (CERTIFICATE_FILE, KEY_FILE, Some(&shown.current)),
            (NEXT_CERTIFICATE_FILE, NEXT_KEY_FILE, shown.next.as_ref()),
        ];
        let wanted = || places.iter().filter_map(|(.., one)| *one);
        let keys: Vec<_> = wanted().map(|(_, key)| key).collect();
        let chains: Vec<_> = wanted().map(|(chain, _)| chain).collect();
        for (certificate, key, one) in places {
            // The key first: without its certificate it is used again, and the other way round it is not.
            laying.lay(&self.keys, key, one.map(|(_, key)| key), &keys);
            laying.lay(
                &self.chains,
                certificate,
                one.map(|(chain, _)| chain),
                &chains,
            );
        }
        let Laying { mut keep, put, .. } = laying;
        keep.write.retain(|(place, ..)| !self.has(place));
        keep.write.extend(put.write);
        keep.remove = put.remove;
        keep
    }

    fn has(&self, path: &Path) -> bool {
        let keys = self.keys.iter().map(|held| &held.path);
        let mut all = keys.chain(self.chains.iter().map(|held| &held.path));
        all.any(|known| known == path)
    }
}

/// The files that made room for others, in the order of their names.
fn kept(state_dir: &Path) -> Result<Vec<PathBuf>, CertError> {
    let failed = |cause| CertError::io("read the folder", state_dir, cause);
    let entries = match std::fs::read_dir(state_dir) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(failed(cause)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(KEPT.as_bytes())
        {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// The content of a file; `None` where there is none.
fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, CertError> {
    match files::read(path, MAX_CERTIFICATE_FILE).map_err(CertError::from) {
        Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
        Err(error) if error.refusal() == Some(io::ErrorKind::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The first half of a hash's first half, in hexadecimal: enough to tell a handful of files apart.
fn short(bytes: &[u8]) -> String {
    let hash = digest(&SHA256, bytes);
    let first = hash.as_ref()[..8].iter();
    first.map(|octet| format!("{octet:02x}")).collect()
}

/// Returns whether a certificate is for these names and no other. One that cannot be read is for
/// none.
fn covers_exactly(certificate: &CertificateDer<'_>, names: &[String]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return false;
    };
    let mut wanted: Vec<AlternativeName> = names
        .iter()
        .map(|name| match name.parse::<IpAddr>() {
            Ok(address) => AlternativeName::Ip(address),
            Err(_) => AlternativeName::Dns(name.to_ascii_lowercase()),
        })
        .collect();
    let mut present = alternative_names(&certificate);
    wanted.sort();
    wanted.dedup();
    present.sort();
    present.dedup();
    wanted == present
}
