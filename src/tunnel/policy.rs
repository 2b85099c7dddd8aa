//! Who may go where. Denied is the default at each step.
//!
//! The steps are types: only [`authorize`] makes a [`Grant`], and [`route`] asks for one.

use crate::config::{HostPort, Rule};
use crate::observe::CloseReason;
use crate::table::DeviceState;
use crate::tls::PeerIdentity;

/// The device may use the gateway.
pub(super) struct Grant<'a> {
    identity: &'a PeerIdentity,
}

/// The rule's service for a destination.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// Index of the service.
    pub service: usize,
}

/// Looks at the device's state.
pub(super) fn authorize(
    identity: &PeerIdentity,
    state: DeviceState,
    unmanaged_allowed: bool,
) -> Result<Grant<'_>, CloseReason> {
    match state {
        DeviceState::Managed => Ok(Grant { identity }),
        DeviceState::Unmanaged if unmanaged_allowed => Ok(Grant { identity }),
        DeviceState::Unmanaged => Err(CloseReason::DeviceUnmanaged),
        DeviceState::Blocked => Err(CloseReason::DeviceBlocked),
    }
}

/// The service of the first rule that matches.
pub(super) fn route(
    grant: &Grant<'_>,
    rules: &[Rule],
    target: &HostPort,
) -> Result<Route, CloseReason> {
    rules
        .iter()
        .find(|rule| rule.matches(grant.identity.app(), &target.host, target.port))
        .map(|rule| Route {
            service: rule.service,
        })
        .ok_or(CloseReason::NoRule)
}
