//! Questions to the admin listener of a running node, and changes through it.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use serde::de::IgnoredAny;

use super::export::{ExportCommand, ExportError};
use crate::certs::{self, CertError};
use crate::config::{self, AdminListen};
use crate::control::{
    client,
    client::{ClientError, Patience, Reply, RequestBody, Upload},
    TokenError, read_token,
};
use crate::files;
use crate::limits::{ADMIN_BODY_MAX, ADMIN_IMPORT_MAX, TUNNELS_LISTED};
use crate::table::DeviceFormat;

/// Fields of an answer that name who has not answered for its part, and what those are.
const SILENT: [(&str, &str); 2] = [
    ("adit-silent-cores", "core"),
    ("adit-silent-process", "process"),
];

/// Where the node is.
#[derive(Debug, clap::Args)]
pub struct AdminCommand {
    /// The admin listener, as in admin.listen: an address with a port, or unix:PATH. Else the config file's.
    #[arg(long, global = true)]
    admin: Option<String>,
    /// The config file that names the admin listener and its token.
    #[arg(long, global = true, default_value = "adit.toml")]
    config: PathBuf,
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
    /// Write what makes a device use this gateway: a profile or a declaration with a network relay, or a PAC file.
    ///
    /// It is made from the config's rules, asks no running node, and replaces on a device what was exported before.
    Export(Box<ExportCommand>),
    /// Set many devices, all or none: CSV (`device,state[,user]`), or NDJSON where the name ends in .ndjson or .jsonl.
    Import {
        /// The file.
        file: PathBuf,
    },
}

/// Shows the servers of a running node, or takes new tunnels away from one.
#[derive(Debug, clap::Args)]
pub struct ServersCommand {
    #[command(flatten)]
    admin: AdminCommand,
    #[command(subcommand)]
    what: Servers,
}

#[derive(Debug, clap::Subcommand)]
enum Servers {
    /// List servers with their state.
    List {
        /// Only those of this service.
        #[arg(long)]
        service: Option<String>,
    },
    /// Let a server get no new tunnels. Those that are open go on.
    Drain(OneServer),
    /// Let a drained server get tunnels again, and take a dead one for alive.
    Restore(OneServer),
}

#[derive(Debug, clap::Args)]
struct OneServer {
    /// Its service.
    service: String,
    /// The server, as host:port.
    server: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address.
    #[error("--admin {0} is neither an address with a port nor unix:PATH")]
    Address(String),
    /// The config.
    #[error("{0}")]
    Config(#[from] config::ConfigError),
    /// What makes devices use the gateway.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The token.
    #[error("{0}")]
    Token(#[from] TokenError),
    /// The file.
    #[error("cannot read {0}: {1}")]
    File(String, io::Error),
    /// There is no answer, or none that counts.
    #[error("no answer from the admin listener at {0}: {1}")]
    Client(String, ClientError),
    /// There is no answer, and nothing that could be done without one.
    #[error(
        "{0}; nor is a list kept in state_dir that was fetched from {1}: name it as `adit crl list` has it in `source`"
    )]
    NothingKept(Box<AdminError>, String),
    /// A part of the answer is missing.
    #[error("the answer of the admin listener at {0} is not complete: {1} did not answer it")]
    Incomplete(String, String),
    /// The config does not say where.
    #[error(
        "admin.listen leaves the port to the system; name it with --admin HOST:PORT, as the node's log has it"
    )]
    AnyPort,
    /// The answer.
    #[error("the admin listener at {0} answered: {1}")]
    Refused(String, String, StatusCode),
    /// Standard output.
    #[error(transparent)]
    Output(#[from] CertError),
    /// A change.
    #[error("the node refuses the change; the state before it stays active:\n{0}")]
    Change(String),
    /// The command line.
    #[error(
        "--close wants to know which tunnels: --id, --device, --user, --app, --serial or --service"
    )]
    CloseAll,
}

impl AdminError {
    /// As [`CliError::exit_code`](super::CliError::exit_code).
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Address(_) | Self::Config(_) | Self::Token(_) | Self::File(..) => 2,
            Self::AnyPort | Self::Change(_) | Self::CloseAll => 2,
            Self::Export(ExportError::Usage(_) | ExportError::Config(_)) => 2,
            Self::Refused(_, _, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY) => 2,
            Self::Refused(..)
            | Self::Export(_)
            | Self::Client(..)
            | Self::NothingKept(..)
            | Self::Incomplete(..)
            | Self::Output(_) => 1,
        }
    }
}

/// What goes with a request.
pub(super) struct Body {
    media_type: &'static str,
    length: u64,
    bytes: Box<dyn Read>,
}

/// What a node has answered.
pub(super) struct AdminResponse {
    /// The admin listener.
    from: String,
    reply: Reply,
    /// The content, as text.
    pub body: String,
}

impl AdminResponse {
    /// As an error: it is a refusal, or not what a node answers at all.
    pub fn wrong(self) -> AdminError {
        match self.reply.status {
            StatusCode::OK => self.foreign(),
            _ => self.refused(),
        }
    }

    /// As an error.
    fn refused(self) -> AdminError {
        let said = format!("{} {}", self.reply.line(), self.body);
        AdminError::Refused(self.from, said, self.reply.status)
    }

    /// As an error: it is not what a node answers.
    fn foreign(self) -> AdminError {
        let why = "what answers is not an admin listener, or of another version";
        AdminError::Client(self.from, ClientError::Foreign(why.to_owned()))
    }

    /// Whether it is what a node answers where nothing is amiss.
    fn is_whole(&self, media_type: &str) -> bool {
        let is_json = || serde_json::from_str::<IgnoredAny>(&self.body).is_ok();
        self.reply.is_of(media_type) && (media_type != JSON || is_json())
    }

    /// The field of this name.
    fn field(&self, name: &str) -> Option<&str> {
        self.reply.headers.get(name)?.to_str().ok()
    }

    /// Says how many there are, where fewer are listed.
    fn tell_total(&self) {
        let of = |kind| self.field(&format!("adit-{kind}-total"));
        let Some((kind, total)) = ["tunnels", "devices"]
            .into_iter()
            .find_map(|kind| Some((kind, of(kind)?)))
        else {
            return;
        };
        let listed =
            serde_json::from_str::<Vec<IgnoredAny>>(&self.body).map_or(0, |list| list.len());
        if total.parse().is_ok_and(|total: usize| total > listed) {
            eprintln!("{listed} of {total} {kind} are listed; --limit says how many");
        }
    }
}

const JSON: &str = "application/json";
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
        self.show(TEXT, self.ask("GET", "/histograms?format=hgrm", None)?)
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
        self.show(JSON, self.ask(method, path, body)?)
    }

    fn show(&self, media_type: &str, answer: AdminResponse) -> Result<(), AdminError> {
        if answer.reply.status != StatusCode::OK || !answer.is_whole(media_type) {
            return Err(answer.wrong());
        }
        certs::print(format!("{}\n", answer.body.trim_end()).as_bytes())?;
        answer.tell_total();
        for (field, who) in SILENT {
            if let Some(silent) = answer.field(field) {
                return Err(AdminError::Incomplete(
                    answer.from.clone(),
                    format!("{who} {silent}"),
                ));
            }
        }
        Ok(())
    }

    /// # Errors
    /// [`AdminError`], where there is no answer, or not a whole one.
    pub(super) fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<Body>,
    ) -> Result<AdminResponse, AdminError> {
        let (listen, token_file) = self.find()?;
        if matches!(listen, AdminListen::Tcp(address) if address.port() == 0) {
            return Err(AdminError::AnyPort);
        }
        let token = match (method, token_file) {
            ("GET", _) | (_, None) => None,
            (_, Some(file)) => Some(read_token(&file).map_err(AdminError::Token)?),
        };
        let place = Endpoint {
            listen,
            token,
            patience: match method {
                "GET" => Patience::READING,
                _ => Patience::CHANGING,
            },
        };
        // A listener that refuses who asks may not read a large body before it says so.
        if body
            .as_ref()
            .is_some_and(|body| body.length > ADMIN_BODY_MAX as u64)
        {
            let answer = place.ask("POST", "/permission", None)?;
            if answer.reply.status != StatusCode::OK {
                return Err(answer.refused());
            }
        }
        place.ask(method, path, body)
    }

    /// The state folder of the config file; `None` where `--admin` names the node.
    pub(super) fn state_dir(&self) -> Result<Option<PathBuf>, AdminError> {
        match self.admin {
            Some(_) => Ok(None),
            None => Ok(Some(config::load_node(&self.config)?.state_dir)),
        }
    }

    /// Where the admin listener is, and the file of its token. What the profile says is not looked at.
    fn find(&self) -> Result<(AdminListen, Option<PathBuf>), AdminError> {
        let Some(text) = &self.admin else {
            let config = config::load_node(&self.config)?;
            let token = self.token_file.clone().or(config.admin_token);
            return Ok((config.admin, token));
        };
        let listen = match text.strip_prefix("unix:") {
            Some(path) => AdminListen::Unix(path.into()),
            None => AdminListen::Tcp(
                text.parse()
                    .map_err(|_| AdminError::Address(text.clone()))?,
            ),
        };
        Ok((listen, self.token_file.clone()))
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

impl ServersCommand {
    /// Does it.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn run(&self) -> Result<(), AdminError> {
        let set = |one: &OneServer, state: &str| {
            let path = format!(
                "/servers/{}/{}",
                encoded(&one.service),
                encoded(&one.server)
            );
            let said = serde_json::json!({ "state": state });
            self.admin.request("PUT", &path, Some(Body::json(&said)))
        };
        match &self.what {
            Servers::List { service: None } => self.admin.print("/servers"),
            Servers::List {
                service: Some(service),
            } => self
                .admin
                .print(&format!("/servers?service={}", encoded(service))),
            Servers::Drain(one) => set(one, "drained"),
            Servers::Restore(one) => set(one, "up"),
        }
    }
}

impl Body {
    fn json(said: &serde_json::Value) -> Self {
        let bytes = said.to_string().into_bytes();
        Self {
            media_type: JSON,
            length: bytes.len() as u64,
            bytes: Box::new(io::Cursor::new(bytes)),
        }
    }
}

fn open(file: &Path) -> Result<Body, AdminError> {
    let failed = |error| AdminError::File(file.display().to_string(), error);
    let opened = files::open(file).map_err(failed)?;
    let length = opened.metadata().map_err(failed)?.len();
    if length > ADMIN_IMPORT_MAX as u64 {
        let message = format!("{length} bytes, and at most {ADMIN_IMPORT_MAX} are taken at a time");
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, message)));
    }
    Ok(Body {
        media_type: match DeviceFormat::of(file) {
            DeviceFormat::Ndjson => "application/x-ndjson",
            DeviceFormat::Csv => "text/csv",
        },
        length,
        bytes: Box::new(opened.take(length)),
    })
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

/// An admin listener, and how it is asked.
struct Endpoint {
    listen: AdminListen,
    token: Option<String>,
    patience: Patience,
}

impl Endpoint {
    fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<Body>,
    ) -> Result<AdminResponse, AdminError> {
        let (from, host) = match &self.listen {
            AdminListen::Tcp(address) => (address.to_string(), address.to_string()),
            AdminListen::Unix(path) => (path.display().to_string(), "localhost".to_owned()),
        };
        let failed = |error| AdminError::Client(from.clone(), error);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, host);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = match body {
            Some(body) => request
                .header(CONTENT_TYPE, body.media_type)
                .body(RequestBody::Right(Upload::new(body.bytes, body.length))),
            None => request.body(RequestBody::Left(Full::default())),
        };
        let request =
            request.map_err(|error| failed(ClientError::Source(std::io::Error::other(error))))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| failed(ClientError::Connect(error)))?;
        let reply = runtime.block_on(client::ask(&self.listen, request, self.patience));
        let reply = reply.map_err(failed)?;
        Ok(AdminResponse {
            body: String::from_utf8_lossy(&reply.body).into_owned(),
            from,
            reply,
        })
    }
}
