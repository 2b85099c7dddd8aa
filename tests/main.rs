//! All stories in one program: each test runs the real binary, and nothing is linked twice.
//!
//! `tests/run NAME` runs one story, `tests/run` all.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod common;

mod acknowledgement;
mod admin_page;
mod admin_setup;
mod audit;
mod balance;
mod bites;
mod certificates;
mod chromium;
// Early in the alphabet, by which tests begin: it takes longest.
mod churn;
mod clients;
mod command_line;
mod crl;
mod envoy;
mod export;
mod h2spec;
mod health;
mod hostile;
mod http2;
mod http2_abuse;
mod http2_clients;
mod http2_flow;
mod interop;
mod lifecycle;
mod limits;
mod load;
mod namespaces;
mod network;
mod outbound;
mod outbound_tls;
mod pki;
mod plain;
mod plain_identity;
mod probe;
mod process;
mod profile_api;
mod profiles;
mod protocols;
mod proxy_protocol;
mod pvd;
mod refusals;
mod registry;
mod relay;
mod reload;
mod resumption;
mod server_certificate;
mod servers;
mod sni;
mod state;
mod store;
mod store_admin;
mod store_import;
mod traffic;
mod udp;
mod unconfigured;
mod vectors;
