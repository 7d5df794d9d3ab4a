//! What the house answers when it cannot do as asked.
//!
//! The message is Docker's where Docker has one: clients compare it. The cause stays in
//! `source()` for the daemon's log.

use std::error::Error as StdError;

use hoy_types::ErrorKind;

/// A failed request: its kind for the status, its message for the client.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    #[source]
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The result of a use case.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidParameter, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    pub fn system(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::System, message)
    }

    /// A part of Docker that hoy does not have yet: named, never ignored.
    pub fn unavailable(what: impl std::fmt::Display) -> Self {
        Self::new(ErrorKind::NotImplemented, format!("{what} is not available yet"))
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: &str) -> Self {
        self.message = format!("{} ({hint})", self.message);
        self
    }

    /// Keeps the cause for the log.
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

/// The error of a room, said with what was being done.
pub(crate) fn failed<E>(doing: &str) -> impl FnOnce(E) -> Error + '_
where
    E: StdError + Send + Sync + 'static,
{
    move |error| Error::system(format!("{doing}: {error}")).with_source(error)
}

/// A task of ours that panicked or was cancelled: never the client's fault.
pub(crate) fn lost(error: tokio::task::JoinError) -> Error {
    Error::system(format!("an internal task was lost: {error}")).with_source(error)
}
