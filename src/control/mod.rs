//! The control core: the admin listener and the jobs that must not run on a data core.
//!
//! It has its own thread with a tokio-uring runtime (a tokio current-thread runtime, so hyper works
//! on it). It asks the data cores questions through [`Node`] and never waits longer than
//! [`CORE_ANSWER`](crate::limits::CORE_ANSWER) for one, so a stuck core shows in the answer instead
//! of taking the admin listener down with it.
//!
//! The admin listener listens on loopback or a Unix socket, and answers only requests that were
//! meant for it (see `host`). Reading has no authentication beyond that: who can log in to the
//! machine, or for a Unix socket who is the same user, can read. Changes (devices, tunnels to be
//! closed) are refused unless they carry the token of `admin.token_file` or, where none is
//! configured, come over the Unix socket (see `permission`). Beside it there is a socket in the
//! state folder, by which commands find the node (see `state_socket`).

#![allow(
    clippy::result_large_err,
    reason = "a refusal is a page as any other answer, made once for a request of an administrator"
)]

mod certificates;
mod changes;
mod checks;
pub mod client;
mod crl_pages;
mod crls;
mod deadline;
mod devices;
mod earlier;
mod fetch;
mod health;
mod host;
mod latencies;
mod ledger;
mod listen;
mod node;
mod node_store;
mod page;
mod pages;
mod permission;
mod probe;
mod profile_pages;
mod profiles;
mod query;
mod reach;
mod reload;
mod routes;
mod server;
mod servers;
mod signals;
mod socket;
mod state_socket;
mod store;
mod watch;

pub use certificates::watch_certificates;
pub use checks::check_servers;
pub use crls::{fetch_crls, watch_crl_files};
pub use deadline::Deadline;
pub use devices::Device;
pub use health::{Health, watch_health};
pub use listen::Control;
pub use node::RunningNode;
pub use permission::{TokenError, read_token};
pub use probe::{ServerProbe, TlsProbe, probe_servers};
pub use reload::{ConfigFile, Refusal, ReloadTrigger, Reloader, watch_files};
pub use signals::{EarlySignals, Signal, Signals};
pub use state_socket::{StateSocket, check_state_socket, state_socket_path};

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::engine::{ChangeError, DrainError, Predecessor};
use crate::findings::HealthFinding;
use crate::observe::{AdminRecord, CoreMetrics, NodeGauges, ServerInfo, TunnelFilter, TunnelInfo};
use crate::table::DeviceChanges;

/// Takes a core's answer. It may be called on any thread, and may be dropped without a call where
/// the core cannot answer.
pub type Reply<T> = Box<dyn FnOnce(T) + Send>;

/// Interface of the running node for the admin listener.
///
/// No method may block: those with a reply send a message to the core and return.
pub trait Node: Send + Sync + 'static {
    /// How many data cores there are, numbered from 0.
    fn cores(&self) -> usize;

    /// Asks a core for a copy of its metrics.
    fn snapshot(&self, core: usize, reply: Reply<CoreMetrics>);

    /// Asks a core how many of its open tunnels `filter` means, and for the `limit` oldest of them,
    /// in any order.
    fn tunnels(
        &self,
        core: usize,
        filter: TunnelFilter,
        limit: usize,
        reply: Reply<(usize, Vec<TunnelInfo>)>,
    );

    /// Asks a core to close its open tunnels that `filter` means, and how many those were.
    fn close_tunnels(&self, core: usize, filter: TunnelFilter, reply: Reply<usize>);

    /// Returns what the registry says about a device; `None` where it is unmanaged.
    fn device(&self, name: &str) -> Option<Device>;

    /// Asks for up to `limit` devices whose names begin with `prefix` and come behind `after`, in
    /// the order of their names, and for the number of all devices.
    fn devices(
        &self,
        prefix: String,
        after: String,
        limit: usize,
        reply: Reply<(usize, Vec<Device>)>,
    );

    /// Changes devices; with `must_exist`, only if those that are taken out are there.
    fn change_devices(
        &self,
        changes: DeviceChanges,
        must_exist: bool,
        reply: Reply<Result<(), ChangeError>>,
    );

    /// Each server of each service.
    fn servers(&self) -> Vec<ServerInfo>;

    /// Takes new tunnels away from a server, or gives them back. What is known of it then; `None`
    /// if there is no such one. It is written to the disk first: waits.
    ///
    /// # Errors
    /// It cannot be written; nothing has changed then.
    fn drain_server(
        &self,
        service: &str,
        server: &str,
        drained: bool,
    ) -> Result<Option<ServerInfo>, DrainError>;

    /// Lets the next list of a file or URL take the place of the one in use, whatever its number;
    /// whether a list is wanted from there. Waits.
    ///
    /// # Errors
    /// The disk refuses it; nothing has changed then.
    fn forget_crl(&self, source: &str) -> Result<bool, DrainError>;

    /// Reads everything again. Answers with the new generation when it is active.
    fn reload(&self, reply: Reply<Result<u64, Refusal>>);

    /// Why the last change was not taken, while none is active that came after it.
    fn refused(&self) -> Option<Refusal>;

    /// Takes changes of what it stores, profiles and certificates; `None` where it stores nothing.
    fn reloader(&self) -> Option<Arc<Reloader>>;

    /// Returns whether the node takes new tunnels, and why not.
    fn ready(&self) -> Readiness;

    /// Returns what the node as a whole tells.
    fn gauges(&self) -> NodeGauges;

    /// The process before this one, where there was one.
    fn predecessor(&self) -> Option<Arc<Predecessor>>;

    /// Writes a record to the audit log.
    fn audit(&self, record: AdminRecord);
}

/// Readiness of the node for new tunnels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// True if a load balancer should send sessions here.
    pub ready: bool,
    /// Why not, and what is amiss although it does; the worst first.
    pub findings: Vec<HealthFinding>,
}

/// The control core could not be started, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another process listens there.
    #[error(
        "admin.listen: {address} is already in use; stop the process that listens there or choose another address"
    )]
    AddressInUse {
        /// The address or path.
        address: String,
    },
    /// The admin listener would be reachable from other machines.
    #[error(
        "admin.listen: {address} is not a loopback address; use 127.0.0.1, [::1] or a Unix socket"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// A file that is not a socket has the name of the Unix socket.
    #[error("admin.listen: {path} exists and is not a socket; remove it or choose another path")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The system refuses to listen there.
    #[error(
        "admin.listen: cannot listen on {address}: {source}; choose an address or path that this user may use"
    )]
    Bind {
        /// The address or path.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The token of changes.
    #[error("admin.token_file: {0}")]
    Token(TokenError),
    /// The thread's runtime could not be started.
    #[error(
        "cannot start the control core: {0}; it needs io_uring (see kernel.io_uring_disabled) and free file descriptors"
    )]
    Runtime(io::Error),
}
