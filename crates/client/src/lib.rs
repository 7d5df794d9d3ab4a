//! Door: a small blocking client of the engine API.
//!
//! One connection per request, HTTP/1.1 over a Unix or TCP socket or a program that leads to one (ssh, TLS), no runtime and no pool: a
//! command line sends one to four requests and ends. It must not know any command's meaning.

mod body;
mod endpoint;
mod error;
mod head;
mod request;
mod stream;

pub use body::Response;
pub use endpoint::{Endpoint, Program, Ssh};
pub use error::{ApiError, ClientError};
pub use request::{Client, Hijacked, Request};
pub use stream::Stream;
