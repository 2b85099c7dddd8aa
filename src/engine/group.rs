//! The group certificates: read and looked at at start and reload, as the server's own are.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;

use super::certificates::read_password;
use super::loaded::{LoadError, Problems};
use crate::certs::group::together;
use crate::certs::{self, CertError, Term};
use crate::config::DeviceAuth;
use crate::findings::Problem;

/// The files as read.
#[derive(Default)]
pub(super) struct GroupCertificates {
    /// All of them.
    pub all: Vec<CertificateDer<'static>>,
    /// The file of each of them.
    pub origins: Vec<PathBuf>,
    /// Each file, and when all that is in it can be used.
    pub files: Vec<(PathBuf, Term)>,
    /// Warnings, each with its file.
    pub findings: Vec<(PathBuf, Problem)>,
}

impl GroupCertificates {
    /// Reads the files. One that has expired lets nobody in, and is no reason to refuse the others.
    ///
    /// # Errors
    /// [`LoadError`], which names each file with what is wrong.
    pub(super) fn load(auth: &DeviceAuth) -> Result<Self, LoadError> {
        let password = read_password(auth.group_password_file.as_deref())?;
        let password = password.as_ref().map(|password| password.as_str());
        let mut problems = Problems::default();
        let mut group = Self::default();
        for file in &auth.group_certificates {
            if group.files.iter().all(|(known, _)| known != file) {
                problems.note(group.read(file, password));
            }
        }
        let is_end = |finding: &&(PathBuf, Problem)| finding.1.code == EXPIRED;
        let ended = group.findings.iter().filter(is_end).count();
        let all_ended = ended >= group.all.len();
        for (file, finding) in &group.findings {
            if certs::refuses(finding) && (finding.code != EXPIRED || all_ended) {
                let finding = LoadError::Finding(file.clone(), Box::new(finding.clone()));
                problems.0.push(finding);
            }
        }
        if let (Some(finding), Some(file)) = (together(&group.all), auth.group_certificates.first())
        {
            // That of a single file was found with the file.
            group
                .findings
                .retain(|(_, known)| known.code != finding.code);
            group.findings.push((file.clone(), finding));
        }
        problems.conclude(Some(group))
    }

    fn read(&mut self, file: &Path, password: Option<&str>) -> Result<(), CertError> {
        let inspected = certs::inspect(certs::Role::Group, file, None, password, None)?;
        let term = Term::of_all(&inspected.certificates);
        self.files.push((file.to_path_buf(), term));
        let findings = inspected.findings.into_iter();
        self.findings
            .extend(findings.map(|finding| (file.to_path_buf(), finding)));
        let origins = std::iter::repeat_n(file.to_path_buf(), inspected.certificates.len());
        self.origins.extend(origins);
        self.all.extend(inspected.certificates);
        Ok(())
    }
}

/// The code of the finding that a certificate has ended.
const EXPIRED: &str = "expired";
