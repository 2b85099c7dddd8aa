//! Access to a running node: at the socket in its state folder, or else at its admin listener.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use serde::de::IgnoredAny;

use super::admin_error::AdminError;
use crate::certs;
use crate::config::AdminListen;
use crate::control::client::{
    ClientError, Connection, Patience, Reply, RequestBody, Upload, connect, connect_owned,
};
use crate::control::{read_token, state_socket_path};
use crate::files::Identity;
use crate::limits::{ADMIN_BODY_MAX, ADMIN_USER_MAX};
use crate::profiles::this_user;

pub(super) const JSON: &str = "application/json";

/// Fields of an answer that name who has not answered for its part, and what those are.
const SILENT: [(&str, &str); 2] = [
    ("adit-silent-cores", "core"),
    ("adit-silent-process", "process"),
];

/// How a node is asked.
#[derive(Debug)]
pub(super) enum Target {
    /// By the socket in its state folder.
    StateDir(PathBuf),
    /// By its admin listener.
    Listener(AdminListener),
    /// By the socket in its state folder where that can be used, else by its admin listener.
    Either(PathBuf, AdminListener),
}

/// Address of an admin listener.
#[derive(Debug)]
pub(super) struct AdminListener {
    pub listen: AdminListen,
    /// The file of its token.
    pub token_file: Option<PathBuf>,
}

/// A connection to a node, for one request.
struct Endpoint {
    connection: Connection,
    /// The path or the address.
    from: String,
    host: String,
    token: Option<String>,
    /// The socket in the state folder, which this user may not use.
    denied: Option<String>,
}

impl Target {
    /// The node's state folder, where it is known.
    pub fn state_dir(&self) -> Option<&Path> {
        match self {
            Self::StateDir(state_dir) | Self::Either(state_dir, _) => Some(state_dir),
            Self::Listener(_) => None,
        }
    }

    /// # Errors
    /// [`AdminError`], where there is no answer, or not a whole one.
    pub fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<Body>,
    ) -> Result<AdminResponse, AdminError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(AdminError::Runtime)?;
        runtime.block_on(async {
            // A listener that refuses who asks may not read a large body before it says so.
            if body
                .as_ref()
                .is_some_and(|body| body.length > ADMIN_BODY_MAX as u64)
            {
                let endpoint = self.connect("POST").await?;
                let answer = endpoint.ask("POST", "/permission", None).await?;
                if !answer.is_done() {
                    return Err(answer.refused());
                }
            }
            self.connect(method).await?.ask(method, path, body).await
        })
    }

    async fn connect(&self, method: &str) -> Result<Endpoint, AdminError> {
        let (state_dir, listener) = match self {
            Self::StateDir(state_dir) => return Endpoint::in_folder(state_dir).await,
            Self::Listener(listener) => return listener.connect(method).await,
            Self::Either(state_dir, listener) => (state_dir, listener),
        };
        if listener.is_in(state_dir) {
            return listener.connect(method).await;
        }
        let denied = match Endpoint::in_folder(state_dir).await {
            Err(AdminError::Client(socket, ClientError::Connect(error))) => {
                (error.kind() == io::ErrorKind::PermissionDenied).then_some(socket)
            }
            other => return other,
        };
        match (listener.connect(method).await, denied) {
            (Ok(endpoint), denied) => Ok(Endpoint { denied, ..endpoint }),
            (Err(error), Some(socket)) => Err(AdminError::NotOwner(Box::new(error), socket)),
            (Err(error), None) => Err(error),
        }
    }
}

impl AdminListener {
    /// Returns whether the node's socket in its state folder is the admin listener itself, which
    /// may want its token.
    fn is_in(&self, state_dir: &Path) -> bool {
        let AdminListen::Unix(path) = &self.listen else {
            return false;
        };
        let wanted = Identity::of_name(&state_socket_path(state_dir));
        wanted.is_ok_and(|wanted| Identity::of_name(path).is_ok_and(|found| found == wanted))
    }

    async fn connect(&self, method: &str) -> Result<Endpoint, AdminError> {
        let (from, host) = match &self.listen {
            AdminListen::Tcp(address) if address.port() == 0 => return Err(AdminError::AnyPort),
            AdminListen::Tcp(address) => (address.to_string(), address.to_string()),
            AdminListen::Unix(path) => (path.display().to_string(), "localhost".to_owned()),
        };
        let connected = connect(&self.listen).await;
        let connection = connected.map_err(|error| AdminError::Client(from.clone(), error))?;
        let token = match (method, &self.token_file) {
            ("GET", _) | (_, None) => None,
            (_, Some(file)) => Some(read_token(file)?),
        };
        Ok(Endpoint {
            connection,
            from,
            host,
            token,
            denied: None,
        })
    }
}

impl Endpoint {
    async fn in_folder(state_dir: &Path) -> Result<Self, AdminError> {
        let path = state_socket_path(state_dir);
        let from = path.display().to_string();
        match connect_owned(&path).await {
            Ok(connection) => Ok(Self {
                connection,
                from,
                host: "localhost".to_owned(),
                token: None,
                denied: None,
            }),
            Err(error) => Err(AdminError::Client(from, error)),
        }
    }

    async fn ask(
        self,
        method: &str,
        path: &str,
        body: Option<Body>,
    ) -> Result<AdminResponse, AdminError> {
        let from = self.from;
        let failed = |error| AdminError::Client(from.clone(), error);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.host);
        if method != "GET" {
            request = request.header("adit-user", operator());
        }
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
            request.map_err(|error| failed(ClientError::Source(io::Error::other(error))))?;
        let patience = match method {
            "GET" => Patience::READING,
            _ => Patience::CHANGING,
        };
        let reply = self.connection.ask(request, patience).await;
        let reply = reply.map_err(failed)?;
        Ok(AdminResponse {
            body: String::from_utf8_lossy(&reply.body).into_owned(),
            from,
            reply,
            denied: self.denied,
        })
    }
}

/// Who makes a change, as a header has it.
fn operator() -> String {
    let user = this_user();
    let shown = user.chars().filter(|letter| (' '..='~').contains(letter));
    shown.take(ADMIN_USER_MAX).collect()
}

/// Body of a request.
pub(super) struct Body {
    media_type: &'static str,
    length: u64,
    bytes: Box<dyn Read>,
}

impl Body {
    /// JSON.
    pub fn json(said: &serde_json::Value) -> Self {
        Self::new(JSON, said.to_string().into_bytes())
    }

    /// These bytes.
    pub fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        Self {
            media_type,
            length: bytes.len() as u64,
            bytes: Box::new(io::Cursor::new(bytes)),
        }
    }

    /// The next `length` bytes of a file.
    pub fn from_file(media_type: &'static str, file: File, length: u64) -> Self {
        Self {
            media_type,
            length,
            bytes: Box::new(file.take(length)),
        }
    }
}

/// Answer of a node.
pub(super) struct AdminResponse {
    /// The admin listener.
    from: String,
    reply: Reply,
    /// The content, as text.
    pub body: String,
    /// The socket in the state folder, which this user may not use.
    denied: Option<String>,
}

impl AdminResponse {
    /// Returns whether the node has done what it was asked for.
    pub fn is_done(&self) -> bool {
        self.reply.status == StatusCode::OK
    }

    /// As an error: it is a refusal, or not what a node answers at all.
    pub fn wrong(self) -> AdminError {
        match self.reply.status {
            StatusCode::OK => self.foreign(),
            _ => self.refused(),
        }
    }

    /// As an error.
    fn refused(self) -> AdminError {
        let status = self.reply.status;
        let said = format!("{} {}", self.reply.line(), self.body);
        let refused = AdminError::Refused(self.from, said, status);
        let is_denied = [StatusCode::FORBIDDEN, StatusCode::UNAUTHORIZED].contains(&status);
        match self.denied.filter(|_| is_denied) {
            Some(socket) => AdminError::NotOwner(Box::new(refused), socket),
            None => refused,
        }
    }

    /// Prints it, where it is what a node answers with this media type when all is well.
    ///
    /// # Errors
    /// [`AdminError`], also where a part is missing; what there is has been printed then.
    pub fn print(self, media_type: &str) -> Result<(), AdminError> {
        if !self.is_done() || !self.is_whole(media_type) {
            return Err(self.wrong());
        }
        certs::print(format!("{}\n", self.body.trim_end()).as_bytes())?;
        self.tell_total();
        for (field, who) in SILENT {
            if let Some(silent) = self.field(field) {
                let missing = format!("{who} {silent}");
                return Err(AdminError::Incomplete(self.from, missing));
            }
        }
        Ok(())
    }

    /// As an error: it is not what a node answers.
    fn foreign(self) -> AdminError {
        let why = "the answer is not from an admin listener, or is from another version";
        AdminError::Client(self.from, ClientError::Foreign(why.to_owned()))
    }

    /// Returns whether it is what a node answers where nothing is amiss.
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
