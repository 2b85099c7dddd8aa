//! Placeholder.
mod records;
mod stream;
pub use stream::{Received, StreamError, TlsStream};
