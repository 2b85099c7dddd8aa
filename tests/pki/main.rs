//! Certificates and lists as authorities really make them: what is good is taken, what is not is refused in plain words.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

#[path = "../common/mod.rs"]
mod common;
mod lists;
mod revocation;
