//! The process and its surroundings: clocks, files, a second process, restarts, signals.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

#[path = "../common/mod.rs"]
mod common;
