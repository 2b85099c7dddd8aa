//! Clients that mean harm: nothing that one of them does reaches another, and all of it is given back.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/frames.rs"]
mod frames;
#[path = "../common/names.rs"]
mod names_of_own;
#[path = "../common/network.rs"]
mod network;

mod http2;
mod names;
mod sweeps;
mod tables;
mod upstream;

mod admission;
mod buffers;
mod memory;
