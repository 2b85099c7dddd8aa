//! What real networks do to a session: bytes cut anywhere and joined with what follows, links that are slow or lose.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

#[path = "../common/chaos.rs"]
mod chaos;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/names.rs"]
mod names;
#[path = "../common/network.rs"]
mod network;
#[path = "../common/outbound.rs"]
mod outbound;
#[path = "../common/plain.rs"]
mod plain;

mod corners;
mod cuts;
mod resolver;
mod slow;
mod stories;
