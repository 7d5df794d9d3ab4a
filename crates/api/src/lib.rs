//! Door: HTTP/1.1 routes, streams, hijacking and versions; no decisions.
//!
//! The connection loop is our own, on `httparse`: attach and exec need the head of an answer to
//! leave alone, and connections that become raw after a 200, which a general server does not do.
//! A request is parsed once and strictly; what is ambiguous is refused and the connection closed.

mod archive;
mod conn;
mod containers;
pub mod dial;
mod disk;
mod events;
mod http;
mod images;
mod listen;
mod network_filters;
mod networks;
mod query;
mod route;
mod sha1;
mod shape;
mod stats;
mod system;
mod tls;
mod volumes;
mod websocket;

pub use listen::{Place, serve};
pub use tls::{Tls, TlsFiles};

use hoy_types::ErrorKind;

/// A refused request.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    pub status: u16,
    pub message: String,
}

impl ApiError {
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }
}

impl From<hoy_engine::Error> for ApiError {
    fn from(error: hoy_engine::Error) -> Self {
        if error.kind() == ErrorKind::System {
            tracing::error!(%error, "request failed");
        }
        Self::new(error.kind().http_status(), error.to_string())
    }
}

/// How a request ended for its connection.
pub(crate) enum Fate {
    /// The answer is complete; the next request may come.
    Done,
    /// The client is gone, or the connection was handed over.
    Over,
}

pub(crate) type Outcome = Result<Fate, ApiError>;
