//! Room: the supervisor of one container, and its messages.
//!
//! The program `hoy-shim` is `supervise`; the daemon uses `client` and `message`. Neither side
//! shares memory or descriptors with the other beyond what a message hands over.

pub mod client;
mod codec;
pub mod message;
mod record;
mod session;
mod supervise;

pub use client::{Connection, ShimProgram};
pub use supervise::main;

/// What went wrong between daemon and shim.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{operation}: {source}")]
    Io { operation: &'static str, source: std::io::Error },
    #[error("a message that is none: {0}")]
    Encoding(#[from] postcard::Error),
    #[error("the peer of a shim's socket is not root")]
    Peer,
    #[error("the shim's first process ended with {0}")]
    Spawn(std::process::ExitStatus),
}

impl Error {
    pub(crate) fn io(operation: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { operation, source }
    }
}
