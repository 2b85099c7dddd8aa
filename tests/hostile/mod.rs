//! Clients that mean harm: nothing that one of them does reaches another, and all of it is given back.

mod audit;
mod datagrams;
mod drain;
mod files;
mod http2;
mod names;
mod sweeps;
mod tables;
mod upstream;
mod windows;

mod admission;
mod buffers;
mod memory;
