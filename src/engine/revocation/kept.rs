//! The last good list of each URL, in a folder of the state folder: what a node begins with.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::certs::{self, CertError};
use crate::files::{self, FileError};
use crate::tls::CrlSource;

/// The folder in the state folder for lists that were fetched.
pub const CRLS_FOLDER: &str = "crls";

/// Returns where the last good list of a URL is kept.
pub(super) fn kept_file(folder: &Path, source: &CrlSource) -> PathBuf {
    use aws_lc_rs::digest::{SHA256, digest};
    let name: String = digest(&SHA256, source.to_string().as_bytes()).as_ref()[..16]
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect();
    folder.join(name + ".crl")
}

/// Returns what is kept of a list that the next one replaces whatever its number: still in use,
/// also after a start.
pub(super) fn forgotten_file(kept: &Path) -> PathBuf {
    kept.with_extension("forgotten")
}

/// Has the list that is kept of a source replaced by whatever the source offers next, where no node runs. Whether there
/// is one.
///
/// # Errors
/// [`CertError`], which names the file.
pub fn forget_kept_crl(state_dir: &Path, source: &str) -> Result<bool, CertError> {
    let source = CrlSource::Url(source.to_owned());
    forget_kept(&kept_file(&state_dir.join(CRLS_FOLDER), &source))
}

/// Renames it. Whether there is one.
///
/// # Errors
/// [`CertError`], which names the file.
pub(super) fn forget_kept(kept: &Path) -> Result<bool, CertError> {
    let forgotten = forgotten_file(kept);
    match files::rename(kept, &forgotten) {
        Ok(()) => Ok(true),
        Err(FileError::Io { cause, .. }) if cause.kind() == ErrorKind::NotFound => {
            Ok(forgotten.exists())
        }
        Err(error) => Err(error.into()),
    }
}

/// Keeps the lists of a source, in place of those that were kept of it.
///
/// # Errors
/// [`CertError`], which names the file.
pub(super) fn keep(file: &Path, ders: &[impl AsRef<[u8]>]) -> Result<(), CertError> {
    let state_dir = file.parent().and_then(Path::parent);
    files::own_folder_in(state_dir.unwrap_or(Path::new("")), Path::new(CRLS_FOLDER))?;
    write_lists(file, ders)?;
    let _ = files::remove(&forgotten_file(file));
    Ok(())
}

fn write_lists(file: &Path, ders: &[impl AsRef<[u8]>]) -> Result<(), CertError> {
    match ders {
        [only] => files::keep(file, only.as_ref(), files::Mode::Public)?,
        several => {
            let blocks = several
                .iter()
                .map(|der| certs::pem::pem_block("X509 CRL", der.as_ref()));
            files::keep(
                file,
                blocks.collect::<String>().as_bytes(),
                files::Mode::Public,
            )?;
        }
    }
    Ok(())
}
