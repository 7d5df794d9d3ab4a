//! Why a process could not be started, in the words of Docker's runtime.

use std::io;

use serde::{Deserialize, Serialize};

/// What a failure means for the exit code and the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureReason {
    /// The command is not there: exit code 127.
    NotFound,
    /// The command cannot be executed: exit code 126.
    NotExecutable,
    /// The plan names something impossible: a user, a directory, a mount.
    Invalid,
    /// The container does not run, or does already.
    State,
    /// The kernel refused.
    System,
}

/// A failed start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StartError {
    pub reason: FailureReason,
    pub message: String,
}

impl StartError {
    pub fn new(reason: FailureReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(FailureReason::Invalid, message)
    }

    pub fn system(doing: &str, error: impl Into<io::Error>) -> Self {
        Self::new(FailureReason::System, format!("{doing}: {}", text(&error.into())))
    }
}

/// The kernel's words for an error, without Rust's "(os error N)".
pub fn text(error: &io::Error) -> String {
    let full = error.to_string();
    let bare = full.split(" (os error").next().unwrap_or(&full);
    let mut letters = bare.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => full,
    }
}
