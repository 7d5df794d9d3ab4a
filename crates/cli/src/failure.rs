//! Why a command ends otherwise than well, and the code it leaves.

use std::fmt;
use std::io;

use hoy_client::ClientError;

/// An end with a message and an exit code.
#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    /// Shown on standard error; nothing when empty.
    pub message: String,
    /// A line that says what to do next.
    pub hint: Option<String>,
}

pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub fn new(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into(), hint: None }
    }

    /// Wrong use of flags.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: 125, message: message.into(), hint: None }
    }

    /// An end that says nothing: a container's own exit code, or errors already shown.
    pub fn silent(code: u8) -> Self {
        Self { code, message: String::new(), hint: None }
    }

    pub fn with_message(mut self, message: String) -> Self {
        self.message = message;
        self
    }

    pub fn with_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }

    pub fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let hint = match &error {
            ClientError::Connect { .. } => {
                Some("start it with `hoyd &`, or say where it is: -H or DOCKER_HOST")
            }
            ClientError::Denied { .. } => Some("run as root, or join the group of the socket"),
            ClientError::Api(api) if api.message.contains("from a registry is not available") => {
                Some("`hoy load -i FILE` and `hoy import FILE NAME` bring images in")
            }
            _ => None,
        };
        let hint = hint.map(str::to_owned);
        Self { code: 1, message: error.to_string(), hint }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(error.to_string())
    }
}
