//! Questions to the admin listener of a running node, and changes through it.

use std::io;
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::admin_error::AdminError;
use super::export::ExportCommand;
use super::target::{AdminListener, AdminResponse, Body, JSON, Target};
use crate::config::{self, AdminListen};
use crate::files;
use crate::limits::{ADMIN_IMPORT_MAX, TUNNELS_LISTED};
use crate::table::DeviceFormat;

/// Address of the node.
#[derive(Debug, clap::Args)]
pub struct AdminCommand {
    /// The admin listener, as in admin.listen: an address with a port, or unix:PATH. Else the
    /// config file's.
    #[arg(long, global = true)]
    admin: Option<String>,
    /// The config file that names the admin listener and its token.
    #[arg(long, global = true, default_value = "adit.toml")]
    pub(super) config: PathBuf,
    /// The file with the token for changes, as in admin.token_file. Else the config file's.
    #[arg(long, global = true)]
    token_file: Option<PathBuf>,
}

/// Lists or closes open tunnels.
#[derive(Debug, clap::Args)]
pub struct TunnelsCommand {
    #[command(flatten)]
    admin: AdminCommand,
    /// Only the tunnel of this number.
    #[arg(long)]
    id: Option<u64>,
    /// Only this device's tunnels.
    #[arg(long)]
    device: Option<String>,
    /// Only this user's tunnels.
    #[arg(long)]
    user: Option<String>,
    /// Only this app's tunnels.
    #[arg(long)]
    app: Option<String>,
    /// Only tunnels of the certificate with this serial number, in hexadecimal.
    #[arg(long)]
    serial: Option<String>,
    /// Only tunnels to this service.
    #[arg(long)]
    service: Option<String>,
    /// List so many at most, the oldest first.
    #[arg(long, default_value_t = TUNNELS_LISTED)]
    limit: usize,
    /// Close the tunnels, instead of listing them.
    #[arg(long)]
    close: bool,
}

/// Reads or changes the device registry of a running node.
#[derive(Debug, clap::Args)]
pub struct DevicesCommand {
    #[command(flatten)]
    admin: AdminCommand,
    #[command(subcommand)]
    what: Devices,
}

#[derive(Debug, clap::Subcommand)]
enum Devices {
    /// List devices in the order of their names.
    List {
        /// Only names that begin so.
        #[arg(long, default_value = "")]
        prefix: String,
        /// Only names behind this one.
        #[arg(long, default_value = "")]
        after: String,
        /// At most so many.
        #[arg(long, default_value_t = crate::limits::DEVICES_LISTED)]
        limit: usize,
    },
    /// Show one device.
    Get {
        /// Its name.
        device: String,
    },
    /// Set one device.
    Put {
        /// Its name.
        device: String,
        /// managed or blocked.
        #[arg(long, value_parser = ["managed", "blocked"])]
        state: String,
        /// Who has it.
        #[arg(long)]
        user: Option<String>,
    },
    /// Take one device out.
    Delete {
        /// Its name.
        device: String,
    },
    /// Write what makes a device use this gateway: a profile or a declaration with a network relay,
    /// or a PAC file.
    ///
    /// It is made from the config's rules, asks no running node, and replaces on a device what was
    /// exported before.
    Export(Box<ExportCommand>),
    /// Set many devices, all or none: CSV (`device,state[,user]`), or NDJSON where the name ends in
    /// .ndjson or .jsonl.
    Import {
        /// The file.
        file: PathBuf,
    },
}

const TEXT: &str = "text/plain";

impl AdminCommand {
    /// The node of this config file.
    pub(super) fn of(config: &Path) -> Self {
        Self {
            admin: None,
            config: config.to_owned(),
            token_file: None,
        }
    }

    /// Prints a histogram of the node.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn histogram(&self) -> Result<(), AdminError> {
        self.ask("GET", "/histograms?format=hgrm", None)?
            .print(TEXT)
    }

    /// Prints what the node answers to a GET of `path`.
    pub(super) fn print(&self, path: &str) -> Result<(), AdminError> {
        self.request("GET", path, None)
    }

    pub(super) fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<Body>,
    ) -> Result<(), AdminError> {
        self.ask(method, path, body)?.print(JSON)
    }

    /// # Errors
    /// [`AdminError`], where there is no answer, or not a whole one.
    pub(super) fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<Body>,
    ) -> Result<AdminResponse, AdminError> {
        self.target()?.ask(method, path, body)
    }

    /// How the node is asked. What the profile says is not looked at.
    pub(super) fn target(&self) -> Result<Target, AdminError> {
        let Some(text) = &self.admin else {
            let config = config::load_node(&self.config)?;
            let token_file = self.token_file.clone().or(config.admin_token);
            let listener = AdminListener {
                listen: config.admin,
                token_file,
            };
            return Ok(Target::Either(config.state_dir, listener));
        };
        let listen = match text.strip_prefix("unix:") {
            Some(path) => AdminListen::Unix(path.into()),
            None => AdminListen::Tcp(
                text.parse()
                    .map_err(|_| AdminError::Address(text.clone()))?,
            ),
        };
        Ok(Target::Listener(AdminListener {
            listen,
            token_file: self.token_file.clone(),
        }))
    }
}

impl TunnelsCommand {
    /// Does it.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn run(&self) -> Result<(), AdminError> {
        let filters = [
            ("device", &self.device),
            ("user", &self.user),
            ("app", &self.app),
            ("serial", &self.serial),
            ("service", &self.service),
        ];
        let named: Vec<String> = filters
            .iter()
            .filter_map(|(name, value)| Some(format!("{name}={}", encoded(value.as_deref()?))))
            .collect();
        let mut path = match self.id {
            Some(id) => format!("/tunnels/{id}"),
            None => "/tunnels".to_owned(),
        };
        let limit = (!self.close).then(|| format!("limit={}", self.limit));
        let query: Vec<String> = named.iter().cloned().chain(limit).collect();
        if !query.is_empty() {
            path = format!("{path}?{}", query.join("&"));
        }
        if !self.close {
            return self.admin.print(&path);
        }
        if self.id.is_none() && named.is_empty() {
            return Err(AdminError::CloseAll);
        }
        self.admin.request("DELETE", &path, None)
    }
}

impl DevicesCommand {
    /// Does it.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn run(&self) -> Result<(), AdminError> {
        let admin = &self.admin;
        let place = |device: &str| format!("/devices/{}", encoded(device));
        match &self.what {
            Devices::List {
                prefix,
                after,
                limit,
            } => {
                let (prefix, after) = (encoded(prefix), encoded(after));
                admin.print(&format!(
                    "/devices?prefix={prefix}&after={after}&limit={limit}"
                ))
            }
            Devices::Get { device } => admin.print(&place(device)),
            Devices::Put {
                device,
                state,
                user,
            } => {
                let mut said = serde_json::json!({ "state": state });
                if let Some(user) = user {
                    said["user"] = user.as_str().into();
                }
                admin.request("PUT", &place(device), Some(Body::json(&said)))
            }
            Devices::Delete { device } => admin.request("DELETE", &place(device), None),
            Devices::Export(export) => Ok(export.run(&admin.config)?),
            Devices::Import { file } => admin.request("POST", "/devices", Some(open(file)?)),
        }
    }
}

fn open(file: &Path) -> Result<Body, AdminError> {
    let failed = |error| AdminError::File(file.display().to_string(), error);
    let opened = files::open(file).map_err(failed)?;
    let length = opened.metadata().map_err(failed)?.len();
    if length > ADMIN_IMPORT_MAX as u64 {
        let message = format!("{length} bytes; the limit is {ADMIN_IMPORT_MAX}");
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, message)));
    }
    let media_type = match DeviceFormat::of(file) {
        DeviceFormat::Ndjson => "application/x-ndjson",
        DeviceFormat::Csv => "text/csv",
    };
    Ok(Body::from_file(media_type, opened, length))
}

/// A name as a part of a path or a query (RFC 3986, section 2.3).
pub(super) fn encoded(name: &str) -> String {
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~');
    utf8_percent_encode(name, KEPT).to_string()
}
