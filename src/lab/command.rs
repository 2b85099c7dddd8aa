//! `adit certs`: enough to run a test fleet without openssl. Each command says on standard output what it wrote.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::{
    CA_CERTIFICATE_FILE, CRL_FILE, CertificateAuthority, CrlRequest, MakeCa, Reason, issue,
    make_ca, revoke, serial_of_issued,
};
use crate::certs::make::Usage;
use crate::certs::pem::pem_block;
use crate::certs::{
    CertError, IssueRequest, KeyType, Serial, Validity, print, read_certificates, read_crls,
};
use crate::files::{self, Mode};
use crate::limits::MAX_VALIDITY_DAYS;

/// How long a certificate is valid when nothing is said, in days; less where its authority ends sooner.
const DEFAULT_DAYS: u32 = 365;

/// Make certificates, keys and revocation lists.
#[derive(Debug, Clone, Subcommand)]
pub enum LabCommand {
    /// Make a certification authority: ca.pem and ca.key.
    ///
    /// Name ca.pem as a group certificate in adit.toml. An existing authority is never overwritten.
    MakeCa(MakeCaArgs),
    /// Issue a client or server certificate: NAME.pem (the chain, leaf first) and NAME.key.
    #[command(after_help = "Examples:
  adit certs issue client --name phone-17 --uri urn:device:phone-17 --app mail
  adit certs issue server --name gateway.example.com --dns gateway.example.com --ip 192.0.2.1")]
    Issue(Box<IssueArgs>),
    /// Revoke certificates, or refresh the revocation list: ca.crl.
    ///
    /// The new list keeps the entries of the old one and raises its number. Without a certificate it only
    /// moves the dates, or makes an empty list where there is none.
    Revoke(RevokeArgs),
}

/// Arguments of `adit certs make-ca`.
#[derive(Debug, Clone, Args)]
pub struct MakeCaArgs {
    /// Folder to write ca.pem and ca.key to; made where it is missing.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Common name of the authority.
    #[arg(long, value_name = "CN", default_value = "adit test CA")]
    name: String,
    /// Days that it is valid.
    #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_VALIDITY_DAYS)))]
    days: u32,
    /// Kind of its key.
    #[arg(long, value_enum, default_value_t)]
    key_type: KeyType,
}

/// Arguments of `adit certs issue`.
#[derive(Debug, Clone, Args)]
pub struct IssueArgs {
    /// Purpose of the certificate.
    #[arg(value_enum)]
    kind: Usage,
    /// Folder of the authority (ca.pem and ca.key), where the new files go too.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Common name; of a server certificate without --dns and --ip also its DNS name or address.
    #[arg(long, value_name = "CN")]
    name: String,
    /// Subject alternative name: DNS name, *.example.com allowed. May be repeated, as all of these.
    #[arg(long, value_name = "NAME")]
    dns: Vec<String>,
    /// Subject alternative name: IP address.
    #[arg(long, value_name = "ADDRESS")]
    ip: Vec<IpAddr>,
    /// Subject alternative name: URI.
    #[arg(long, value_name = "URI")]
    uri: Vec<String>,
    /// Subject alternative name: email address.
    #[arg(long, value_name = "ADDRESS")]
    email: Vec<String>,
    /// Subject alternative name: user principal name.
    #[arg(long, value_name = "NAME")]
    upn: Vec<String>,
    /// URL at which the authority's revocation list is to be had.
    #[arg(long, value_name = "URL")]
    crl_url: Vec<String>,
    /// Organizational unit of the subject: the app.
    #[arg(long, value_name = "OU")]
    app: Option<String>,
    /// User id (UID) in the subject.
    #[arg(long, value_name = "UID")]
    uid: Option<String>,
    /// Serial number in hexadecimal [default: 16 random octets].
    #[arg(long, value_name = "HEX")]
    serial: Option<Serial>,
    /// Days that it is valid from now [default: 365, or as long as the authority].
    #[arg(long, conflicts_with_all = ["not_before", "not_after"],
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_VALIDITY_DAYS)))]
    days: Option<u32>,
    /// First moment of validity, like 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "RFC3339", requires = "not_after", value_parser = parse_moment)]
    not_before: Option<OffsetDateTime>,
    /// Last moment of validity, like 2026-12-31T23:59:59Z.
    #[arg(long, value_name = "RFC3339", requires = "not_before", value_parser = parse_moment)]
    not_after: Option<OffsetDateTime>,
    /// Kind of its key.
    #[arg(long, value_enum, default_value_t)]
    key_type: KeyType,
    /// Extended key usage, where it is to differ from what the certificate is for: to try what a gateway refuses.
    #[arg(long, value_enum, value_name = "USAGE")]
    eku: Vec<ExtendedKeyUsage>,
    /// Name of the new files without ending, in DIR or as a whole path [default: from the common name].
    #[arg(long, value_name = "BASENAME")]
    out: Option<PathBuf>,
}

/// Values of `--eku`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExtendedKeyUsage {
    /// clientAuth.
    Client,
    /// serverAuth.
    Server,
    /// No such extension, which means any usage.
    None,
}

/// Arguments of `adit certs revoke`.
#[derive(Debug, Clone, Args)]
pub struct RevokeArgs {
    /// Certificate files (the first certificate of each) or serial numbers in hexadecimal.
    #[arg(value_name = "FILE_OR_SERIAL")]
    certificates: Vec<String>,
    /// Folder of the authority (ca.pem and ca.key) and of its ca.crl.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Why they are revoked.
    #[arg(long, value_enum, default_value_t)]
    reason: Reason,
    /// Days from now until the next list is due; negative makes a list that is stale already.
    #[arg(long, value_name = "N", default_value_t = 30, allow_negative_numbers = true, conflicts_with = "next_update",
          value_parser = clap::value_parser!(i64).range(-i64::from(MAX_VALIDITY_DAYS)..=i64::from(MAX_VALIDITY_DAYS)))]
    next_update_days: i64,
    /// When the list is made, like 2026-01-31T12:00:00Z [default: now, or a day before a next update that is past].
    #[arg(long, value_name = "RFC3339", value_parser = parse_moment)]
    this_update: Option<OffsetDateTime>,
    /// When the next list is due, like 2026-02-28T12:00:00Z.
    #[arg(long, value_name = "RFC3339", value_parser = parse_moment)]
    next_update: Option<OffsetDateTime>,
    /// Write DER instead of PEM.
    #[arg(long)]
    der: bool,
}

impl LabCommand {
    /// Carries it out.
    ///
    /// # Errors
    /// What kept it from being done; nothing that existed has then been changed.
    pub fn run(self) -> Result<(), CertError> {
        let report = match self {
            Self::MakeCa(arguments) => run_make_ca(&arguments)?,
            Self::Issue(arguments) => run_issue(&arguments)?,
            Self::Revoke(arguments) => run_revoke(&arguments)?,
        };
        print(report.as_bytes())
    }
}

fn run_make_ca(arguments: &MakeCaArgs) -> Result<String, CertError> {
    // Asked before the key is made, so that nobody waits for an RSA key in vain; writing asks again.
    files::refuse_existing(&arguments.dir.join(CA_CERTIFICATE_FILE))?;
    let ca = make_ca(&MakeCa {
        common_name: arguments.name.clone(),
        days: arguments.days,
        key_type: arguments.key_type,
    })?;
    let (certificate, key) = ca.write(&arguments.dir)?;
    Ok(wrote(&certificate, &key))
}

fn run_issue(arguments: &IssueArgs) -> Result<String, CertError> {
    let ca = CertificateAuthority::load(&arguments.dir)?;
    let request = issue_request(arguments, ca.not_after())?;
    let base = match &arguments.out {
        Some(out) => arguments.dir.join(out),
        None => arguments.dir.join(file_name_for(&arguments.name)),
    };
    let (certificate, key) = (with_ending(&base, ".pem"), with_ending(&base, ".key"));
    files::refuse_existing(&certificate)?;
    issue(&ca, &request)?.write(&certificate, &key)?;
    Ok(wrote(&certificate, &key))
}

fn issue_request(arguments: &IssueArgs, ca_end: OffsetDateTime) -> Result<IssueRequest, CertError> {
    let validity = match (arguments.not_before, arguments.not_after, arguments.days) {
        (Some(not_before), Some(not_after), _) => Validity::between(not_before, not_after)?,
        (_, _, Some(days)) => Validity::days(days)?,
        _ => {
            let default = Validity::days(DEFAULT_DAYS)?;
            Validity::between(default.not_before(), default.not_after().min(ca_end))?
        }
    };
    let mut request = IssueRequest::new(arguments.kind, arguments.name.clone(), validity);
    request.app.clone_from(&arguments.app);
    request.uid.clone_from(&arguments.uid);
    request.dns.clone_from(&arguments.dns);
    request.ip.clone_from(&arguments.ip);
    request.uri.clone_from(&arguments.uri);
    request.email.clone_from(&arguments.email);
    request.upn.clone_from(&arguments.upn);
    request.crl_urls.clone_from(&arguments.crl_url);
    request.serial.clone_from(&arguments.serial);
    request.key_type = arguments.key_type;
    if arguments.kind == Usage::Server && request.dns.is_empty() && request.ip.is_empty() {
        // Clients have not looked at the common name for years (RFC 9525 section 2).
        match arguments.name.parse() {
            Ok(address) => request.ip.push(address),
            Err(_) => request.dns.push(arguments.name.clone()),
        }
    }
    if !arguments.eku.is_empty() {
        request.usages = usages(&arguments.eku)?;
    }
    Ok(request)
}

fn usages(wanted: &[ExtendedKeyUsage]) -> Result<Vec<Usage>, CertError> {
    if wanted.contains(&ExtendedKeyUsage::None) && wanted.len() > 1 {
        return Err(CertError::request(
            "--eku none stands with another --eku",
            "give either none or usages",
        ));
    }
    let usages = wanted.iter().filter_map(|usage| match usage {
        ExtendedKeyUsage::Client => Some(Usage::Client),
        ExtendedKeyUsage::Server => Some(Usage::Server),
        ExtendedKeyUsage::None => None,
    });
    Ok(usages.collect())
}

fn run_revoke(arguments: &RevokeArgs) -> Result<String, CertError> {
    let ca = CertificateAuthority::load(&arguments.dir)?;
    let path = arguments.dir.join(CRL_FILE);
    let mut serials = BTreeSet::new();
    for certificate in &arguments.certificates {
        serials.insert(serial_of(&ca, certificate)?);
    }
    let previous = if path.exists() {
        read_crls(&path)?
    } else {
        Vec::new()
    };
    if previous.len() > 1 {
        return Err(CertError::content(
            &path,
            "holds more than one CRL",
            "leave only the list of this authority in it",
        ));
    }
    let (this_update, next_update) = update_moments(arguments, OffsetDateTime::now_utc());
    let asked = serials.len();
    let request = CrlRequest {
        serials: serials.into_iter().collect(),
        reason: arguments.reason,
        this_update,
        next_update,
    };
    let crl = revoke(&ca, previous.first(), &request)?;
    if arguments.der {
        files::replace(&path, &crl.der, Mode::Public)?;
    } else {
        files::replace(
            &path,
            pem_block("X509 CRL", &crl.der).as_bytes(),
            Mode::Public,
        )?;
    }
    let mut report: String = crl
        .added
        .iter()
        .map(|serial| format!("revoked {serial}\n"))
        .collect();
    let already = asked - crl.added.len();
    if already > 0 {
        report.push_str(&format!("{already} revoked before, left as they were\n"));
    }
    report.push_str(&format!(
        "wrote {} ({} entries)\n",
        path.display(),
        crl.entries
    ));
    Ok(report)
}

/// A name that is a file is that file; anything else must be a serial number.
fn serial_of(ca: &CertificateAuthority, file_or_serial: &str) -> Result<Serial, CertError> {
    let path = Path::new(file_or_serial);
    if !path.exists() {
        return file_or_serial.parse().map_err(|_| {
            CertError::request(
                format!("{file_or_serial:?} is neither a file nor a serial number"),
                "name a certificate file, or write the serial number in hexadecimal",
            )
        });
    }
    let certificates = read_certificates(path)?;
    serial_of_issued(ca, &certificates[0]).map_err(|error| match error {
        CertError::Request { problem, remedy } => CertError::content(path, problem, remedy),
        other => other,
    })
}

fn update_moments(arguments: &RevokeArgs, now: OffsetDateTime) -> (OffsetDateTime, OffsetDateTime) {
    let next = arguments
        .next_update
        .unwrap_or(now + Duration::days(arguments.next_update_days));
    let this = arguments.this_update.unwrap_or(if next > now {
        now
    } else {
        next - Duration::DAY
    });
    (this, next)
}

fn parse_moment(text: &str) -> Result<OffsetDateTime, CertError> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|cause| {
        CertError::request(cause.to_string(), "write it like 2026-01-31T12:00:00Z")
    })
}

/// A file name for a common name, which may hold slashes and blanks. Never empty, never hidden, never a path.
fn file_name_for(common_name: &str) -> String {
    let name: String = common_name
        .chars()
        .map(|character| {
            if character.is_ascii_alphanumeric() || "._-@".contains(character) {
                character
            } else {
                '_'
            }
        })
        .collect();
    let visible = name.trim_start_matches(['.', '-']);
    if visible.is_empty() {
        "certificate".to_owned()
    } else {
        visible.to_owned()
    }
}

/// Appends an ending; `Path::with_extension` would cut `gateway.example.com` short.
fn with_ending(base: &Path, ending: &str) -> PathBuf {
    let mut path = base.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

fn wrote(certificate: &Path, key: &Path) -> String {
    format!("wrote {}\nwrote {}\n", certificate.display(), key.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certs::Description;
    use crate::certs::describe::{AlternativeName, CrlDescription, Status};
    use crate::lab::tests::described_certificate;
    use clap::Parser;

    #[derive(Parser)]
    struct CommandLine {
        #[command(subcommand)]
        command: LabCommand,
    }

    /// Runs one command line, in which DIR stands for the folder.
    fn certs(dir: &Path, line: &str) -> Result<(), String> {
        let dir = dir.to_str().unwrap();
        let words = line.split_whitespace().map(|word| word.replace("DIR", dir));
        let parsed = CommandLine::try_parse_from(std::iter::once("certs".to_owned()).chain(words));
        let command = parsed.map_err(|error| error.to_string())?.command;
        command.run().map_err(|error| error.to_string())
    }

    fn described_crl(path: &Path) -> CrlDescription {
        match crate::certs::describe(path).unwrap().remove(0) {
            Description::Crl(crl) => crl,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn make_ca_and_issue_write_what_was_asked_and_overwrite_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let error = certs(dir, "issue client --dir DIR --name early").unwrap_err();
        assert!(error.contains("make-ca"), "{error}");
        certs(dir, "make-ca --dir DIR --name Fleet --days 20").unwrap();
        assert!(
            certs(dir, "make-ca --dir DIR")
                .unwrap_err()
                .contains("ca.pem exists already")
        );
        certs(
            dir,
            "issue server --dir DIR --name gw.example.com --key-type ed25519",
        )
        .unwrap();
        certs(
            dir,
            "issue client --dir DIR --name odd --eku none --out sub --serial 0a:0b",
        )
        .unwrap();
        certs(
            dir,
            "issue client --dir DIR --name old --not-before 2020-01-01T00:00:00Z --not-after 2020-02-01T00:00:00Z",
        )
        .unwrap();

        let server = described_certificate(&dir.join("gw.example.com.pem"));
        assert_eq!(
            server.subject_alternative_names,
            [AlternativeName::Dns("gw.example.com".into())]
        );
        assert_eq!((server.key.as_str(), server.days_left), ("Ed25519", 19));
        let odd = described_certificate(&dir.join("sub.pem"));
        assert_eq!(
            (odd.serial.as_str(), odd.extended_key_usage.len()),
            ("0a:0b", 0)
        );
        assert_eq!(
            described_certificate(&dir.join("old.pem")).status,
            Status::Expired
        );

        for (line, why) in [
            ("issue client --dir DIR --name ca", "ca.pem exists already"),
            ("issue client --dir DIR --name x --days 30", "outlive"),
            ("issue client --dir DIR --name x --days 0", "--days"),
            (
                "issue client --dir DIR --name x --not-before 2020-01-01T00:00:00Z",
                "--not-after",
            ),
            (
                "issue client --dir DIR --name x --eku none --eku client",
                "--eku",
            ),
            ("issue server --dir DIR --name a_b!", "not a DNS name"),
        ] {
            let error = certs(dir, line).unwrap_err();
            assert!(error.contains(why), "{line}: {error}");
        }
    }

    #[test]
    fn revoke_continues_the_list_and_can_make_stale_ones() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        certs(dir, "make-ca --dir DIR").unwrap();
        certs(dir, "issue client --dir DIR --name phone/1").unwrap();
        certs(dir, "revoke --dir DIR").unwrap();
        assert_eq!(described_crl(&dir.join("ca.crl")).revoked, 0);
        certs(
            dir,
            "revoke --dir DIR DIR/phone_1.pem 0a0b --reason key-compromise",
        )
        .unwrap();
        certs(
            dir,
            "revoke --dir DIR DIR/phone_1.pem --next-update-days -1 --der",
        )
        .unwrap();
        let crl = described_crl(&dir.join("ca.crl"));
        assert_eq!(
            (crl.revoked, crl.number.as_deref(), crl.status),
            (2, Some("3"), Status::Expired)
        );
        certs(dir, "revoke --dir DIR --this-update 2020-01-01T00:00:00Z --next-update 2030-01-01T00:00:00+01:00")
            .unwrap();
        let crl = described_crl(&dir.join("ca.crl"));
        assert_eq!(crl.next_update.as_deref(), Some("2029-12-31T23:00:00Z"));

        let before = std::fs::read(dir.join("ca.crl")).unwrap();
        for (line, why) in [
            ("revoke --dir DIR nonsense", "neither a file nor a serial"),
            ("revoke --dir DIR DIR/phone_1.key", "no certificate"),
            (
                "revoke --dir DIR --next-update 0000-01-01T00:00:00Z",
                "1950",
            ),
        ] {
            let error = certs(dir, line).unwrap_err();
            assert!(error.contains(why), "{line}: {error}");
        }
        assert_eq!(std::fs::read(dir.join("ca.crl")).unwrap(), before);
    }

    #[test]
    fn a_common_name_never_becomes_a_path() {
        for (name, file) in [
            ("a/b", "a_b"),
            ("../x", "_x"),
            ("-rf", "rf"),
            ("..", "certificate"),
            ("gw.example.com", "gw.example.com"),
        ] {
            assert_eq!(file_name_for(name), file);
        }
    }
}
