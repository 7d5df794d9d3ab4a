//! The closed list of ways in which a request can fail.
//!
//! Every error of every room says which kind it is; the API door turns the kind into Docker's
//! HTTP status, the CLI into an exit code. A new kind needs a new meaning for a client.

/// What an error means to whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request itself is wrong (400).
    InvalidParameter,
    /// Credentials are missing or wrong (401).
    Unauthorized,
    /// The request is understood and refused (403).
    Forbidden,
    /// The named object does not exist (404).
    NotFound,
    /// The object exists already or is in a state that excludes the request (409).
    Conflict,
    /// Nothing to do: the object is already so (304).
    NotModified,
    /// The body is larger than allowed (413).
    TooLarge,
    /// hoy does not offer this (501).
    NotImplemented,
    /// Not possible now, perhaps later (503).
    Unavailable,
    /// A deadline passed (504).
    Timeout,
    /// The kernel, the disk or hoy itself failed (500).
    System,
}

impl ErrorKind {
    /// The HTTP status that Docker's API uses for this kind.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::InvalidParameter => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::NotModified => 304,
            Self::TooLarge => 413,
            Self::NotImplemented => 501,
            Self::Unavailable => 503,
            Self::Timeout => 504,
            Self::System => 500,
        }
    }
}
