//! Where an engine listens: the text of `-H` and `DOCKER_HOST`.

use std::fmt;
use std::path::PathBuf;

use crate::ClientError;

/// One engine's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Unix(PathBuf),
    /// Host and port.
    Tcp(String, u16),
}

impl Endpoint {
    /// Parses `unix:///path`, `tcp://host:port` and the short forms docker takes.
    pub fn parse(text: &str) -> Result<Self, ClientError> {
        let bad = || ClientError::Host(text.to_owned());
        let trimmed = text.trim();
        if let Some(path) = trimmed.strip_prefix("unix://") {
            return if path.is_empty() { Err(bad()) } else { Ok(Self::Unix(path.into())) };
        }
        if let Some((scheme @ ("ssh" | "npipe" | "fd" | "https"), _)) = trimmed.split_once("://") {
            return Err(ClientError::Unsupported(format!(
                "a connection by {scheme} is not available yet: {text}"
            )));
        }
        let address = trimmed
            .strip_prefix("tcp://")
            .or_else(|| trimmed.strip_prefix("http://"))
            .unwrap_or(trimmed)
            .trim_end_matches('/');
        if address.is_empty() || address.contains('/') {
            return Err(bad());
        }
        let (host, port) = match address.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(bad)?;
                (host, rest.strip_prefix(':'))
            }
            None => match address.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (address, None),
            },
        };
        let port = match port {
            None => 2375,
            Some(port) => port.parse().map_err(|_| bad())?,
        };
        let host = if host.is_empty() { "127.0.0.1" } else { host };
        Ok(Self::Tcp(host.to_owned(), port))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(host, port) if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "tcp://{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let shown = |text: &str| Endpoint::parse(text).map(|e| e.to_string()).ok();
        assert_eq!(shown("unix:///run/hoy.sock").as_deref(), Some("unix:///run/hoy.sock"));
        assert_eq!(shown("tcp://127.0.0.1:99").as_deref(), Some("tcp://127.0.0.1:99"));
        assert_eq!(shown("tcp://[::1]:99/").as_deref(), Some("tcp://[::1]:99"));
        assert_eq!(shown("example:7").as_deref(), Some("tcp://example:7"));
        assert_eq!(shown(":7").as_deref(), Some("tcp://127.0.0.1:7"));
        for bad in ["", "unix://", "tcp://a:b", "ssh://x", "tcp://a/b"] {
            assert_eq!(shown(bad), None, "{bad}");
        }
    }
}
