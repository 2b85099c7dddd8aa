//! Services: where their servers are, which one is next, and how a connection to it is made.
//!
//! Servers are chosen by `balance` among those that are alive (`health`); their state is shared by
//! all cores ([`Backends`]). Names are resolved on the control core ([`ResolverTask`]); a data core
//! asks, and keeps the answer for its time to live ([`Dialer`]). Destinations that an app chooses
//! itself are checked after resolution ([`guard`]).

mod balance;
mod connector;
mod datagram;
mod dial;
pub mod guard;
mod health;
mod lookup;
mod names;
mod queue;
mod race;
mod resolved;
mod resolver;
mod servers;
mod system;
mod upstream;
mod watch;

pub use balance::Balancer;
pub use connector::{Connector, ConnectorError, ConnectorSource, name_of, options};
pub use datagram::Socket;
pub use dial::{Dialer, Dialled, Reached, ServerEnd, of_name, of_tls, of_upstream, reason_of};
pub use guard::OwnAddresses;
pub use health::Event;
pub use queue::QueryOwner;
pub use race::in_order;
pub use resolved::{ResolveError, Resolved};
pub use resolver::{ResolverHandle, ResolverTask, Ticket, resolver, resolver_of};
pub use servers::{Backends, Claim, Group, ServerState};
pub use upstream::{Progress, ProxyResponse, Upstream};
pub use watch::{Watch, own_proxy_header};
