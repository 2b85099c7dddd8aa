//! Certificates and lists as authorities really make them: what is good is taken, what is not is refused in plain words.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

#[path = "../common/mod.rs"]
mod common;
mod group;
mod lists;
#[path = "../../src/certs/made.rs"]
mod made;
#[path = "../common/outbound.rs"]
mod outbound;
mod paths;
mod revocation;
