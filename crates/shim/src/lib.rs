//! Room: the supervisor of one container, and its messages.
//!
//! The program `hoy-shim` is `program` and what it leads to; the daemon uses `client` and `message`. Neither side
//! shares memory or descriptors with the other beyond what a message hands over.

mod attached;
mod beginning;
pub mod client;
mod codec;
mod descent;
mod end;
mod execs;
pub mod external;
mod health;
mod held;
mod kept;
mod leftovers;
mod log;
mod memory;
pub mod message;
mod program;
mod record;
mod requests;
mod session;
mod supervise;
mod witness;

pub use client::{Connection, ShimProgram};
pub use end::{Asked, EndRecord, Room, Task};
pub use program::main;

use hoy_types::ErrorKind;

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
    /// A container without its supervisor is the machine's trouble, unless there will be one.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::TimedOut => {
                ErrorKind::Timeout
            }
            Self::Io { .. } | Self::Encoding(_) | Self::Spawn(_) => ErrorKind::System,
            Self::Peer => ErrorKind::Forbidden,
        }
    }

    pub(crate) fn io(operation: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { operation, source }
    }
}
