//! Services: where their servers are, which one is next, and how a connection to it is made.
//!
//! Names are resolved on the control core ([`ResolverTask`]); a data core asks, and keeps the answer for its time to
//! live ([`Dialer`]). Destinations that an app chooses itself are checked after resolution ([`guard`]).

mod balance;
mod datagram;
mod dial;
pub mod guard;
mod names;
mod resolver;

pub use balance::RoundRobin;
pub use dial::{Dialer, Dialled};
pub use guard::OwnAddresses;
pub use resolver::{Answer, ResolveError, ResolverHandle, ResolverTask, resolver};
