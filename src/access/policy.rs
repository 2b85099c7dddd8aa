//! Who may go where. Denied is the default at each step.
//!
//! The steps are types: only [`authorize`] and, for a tunnel that is open, [`still_granted`] make a
//! [`Grant`], and [`route`] asks for one.

use crate::config::{HostPort, Rule};
use crate::observe::Subject;
use crate::reason::CloseReason;
use crate::table::DeviceState;
use crate::tls::PeerIdentity;

/// The device may use the gateway.
pub(crate) struct Grant<'a> {
    app: Option<&'a str>,
}

/// The rule's service for a destination.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// Index of the service.
    pub service: usize,
    /// Index of the rule.
    pub rule: usize,
}

/// Looks at the device's state.
pub(crate) fn authorize(
    identity: &PeerIdentity,
    state: DeviceState,
    unmanaged_allowed: bool,
) -> Result<Grant<'_>, CloseReason> {
    granted(identity.app(), state, unmanaged_allowed)
}

/// Looks at the device's state again, for an open tunnel: its subject was made from the identity of
/// its session.
pub(crate) fn still_granted(
    subject: &Subject,
    state: DeviceState,
    unmanaged_allowed: bool,
) -> Result<Grant<'_>, CloseReason> {
    granted(subject.app.as_deref(), state, unmanaged_allowed)
}

fn granted(
    app: Option<&str>,
    state: DeviceState,
    unmanaged_allowed: bool,
) -> Result<Grant<'_>, CloseReason> {
    match state {
        DeviceState::Managed => Ok(Grant { app }),
        DeviceState::Unmanaged if unmanaged_allowed => Ok(Grant { app }),
        DeviceState::Unmanaged => Err(CloseReason::DeviceUnmanaged),
        DeviceState::Blocked => Err(CloseReason::DeviceBlocked),
    }
}

/// The service of the first rule that matches; `no_rule` where none does.
pub(crate) fn route(
    grant: &Grant<'_>,
    rules: &[Rule],
    target: &HostPort,
    no_rule: CloseReason,
) -> Result<Route, CloseReason> {
    rules
        .iter()
        .enumerate()
        .find(|(_, rule)| rule.matches(grant.app, &target.host, target.port))
        .map(|(at, rule)| Route {
            service: rule.service,
            rule: at,
        })
        .ok_or(no_rule)
}
