//! What can go wrong between a client and an engine.

use std::io;

/// The engine's own answer to a request it did not fulfil.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Error response from daemon: {message}")]
pub struct ApiError {
    pub status: u16,
    pub message: String,
}

/// Why a request has no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("unable to parse docker host `{0}`")]
    Host(String),
    #[error("{0}")]
    Unsupported(String),
    /// Nobody listens there. The text is Docker's: scripts look for it.
    #[error("Cannot connect to the Docker daemon at {endpoint}. Is the docker daemon running?")]
    Connect { endpoint: String, source: io::Error },
    /// Somebody may listen there, but not for us.
    #[error(
        "permission denied while trying to connect to the Docker daemon socket at {endpoint}: {source}"
    )]
    Denied { endpoint: String, source: io::Error },
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("error during connect: {operation}: {source}")]
    Io { operation: &'static str, source: io::Error },
    #[error("the daemon's answer is not HTTP: {0}")]
    Protocol(String),
    #[error("the daemon's answer is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("unable to upgrade to tcp, received {0}")]
    NotUpgraded(u16),
}

impl ClientError {
    pub(crate) fn io(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, source }
    }

    /// The status the engine answered with, where it answered.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Api(error) => Some(error.status),
            _ => None,
        }
    }

    /// Whether there was nobody to talk to, so that starting a daemon may help.
    pub fn nobody_there(&self) -> bool {
        matches!(self, Self::Connect { source, .. }
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused))
    }

    pub fn kind(&self) -> hoy_types::ErrorKind {
        use hoy_types::ErrorKind;
        match self {
            Self::Host(_) | Self::Unsupported(_) => ErrorKind::InvalidParameter,
            Self::Connect { .. } => ErrorKind::Unavailable,
            Self::Denied { .. } => ErrorKind::Forbidden,
            Self::Api(error) if error.status == 404 => ErrorKind::NotFound,
            Self::Api(error) if error.status == 409 => ErrorKind::Conflict,
            Self::Api(error) if error.status == 400 => ErrorKind::InvalidParameter,
            _ => ErrorKind::System,
        }
    }
}
