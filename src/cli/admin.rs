//! Questions to the admin listener of a running node.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{self, AdminListen};

/// Where the node is.
#[derive(Debug, clap::Args)]
pub struct AdminCommand {
    /// The admin listener, as in admin.listen: an address with a port, or unix:PATH. Else the config file's.
    #[arg(long)]
    admin: Option<String>,
    /// The config file that names the admin listener.
    #[arg(long, default_value = "adit.toml")]
    config: PathBuf,
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
    /// The connection.
    #[error("no answer from the admin listener at {0}: {1}; is the node running?")]
    Io(String, std::io::Error),
    /// The answer.
    #[error("the admin listener at {0} answered: {1}")]
    Refused(String, String),
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl AdminCommand {
    /// Prints the body of what the node answers to a GET of `path`.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn print(&self, path: &str) -> Result<(), AdminError> {
        let listen = match &self.admin {
            Some(text) => match text.strip_prefix("unix:") {
                Some(path) => AdminListen::Unix(path.into()),
                None => AdminListen::Tcp(
                    text.parse()
                        .map_err(|_| AdminError::Address(text.clone()))?,
                ),
            },
            None => config::load(&self.config)?.admin,
        };
        let name = match &listen {
            AdminListen::Tcp(address) => address.to_string(),
            AdminListen::Unix(path) => path.display().to_string(),
        };
        let answer = ask(&listen, path).map_err(|error| AdminError::Io(name.clone(), error))?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.lines().next().unwrap_or_default();
        if status.split(' ').nth(1) != Some("200") {
            return Err(AdminError::Refused(name, format!("{status} {body}")));
        }
        println!("{}", body.trim_end());
        Ok(())
    }
}

fn ask(listen: &AdminListen, path: &str) -> std::io::Result<String> {
    let timeout = Some(Duration::from_secs(10));
    let (mut stream, host): (Box<dyn Stream>, String) = match listen {
        AdminListen::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, Duration::from_secs(3))?;
            stream.set_read_timeout(timeout)?;
            (Box::new(stream), address.to_string())
        }
        AdminListen::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(timeout)?;
            (Box::new(stream), "localhost".to_owned())
        }
    };
    // HTTP/1.0: the answer ends with the connection and is not chunked.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
