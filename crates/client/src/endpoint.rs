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
    /// A program whose standard input and output lead to the engine: ssh, or one that speaks TLS.
    Program(Program),
}

/// See [`Endpoint::Program`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// The address that people know.
    pub shown: String,
    /// `Host:` of requests.
    pub host: String,
}

/// What `ssh://[user@]host[:port][/path]` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ssh {
    pub user: Option<String>,
    pub host: String,
    pub port: Option<u16>,
    /// The remote engine's socket, when it is another one than the remote client's own.
    pub path: Option<String>,
}

impl Ssh {
    /// Parses the text of an endpoint that begins with `ssh://`.
    pub fn parse(text: &str) -> Result<Self, ClientError> {
        let bad = |why: &str| ClientError::Unsupported(format!("invalid SSH URL: {why}"));
        let rest = text.strip_prefix("ssh://").ok_or_else(|| bad("incorrect scheme"))?;
        let (address, path) = match rest.split_once('/') {
            Some((address, path)) => (address, Some(format!("/{path}"))),
            None => (rest, None),
        };
        if rest.contains('?') {
            return Err(bad("query parameters are not allowed"));
        }
        if rest.contains('#') {
            return Err(bad("fragments are not allowed"));
        }
        let (user, address) = match address.rsplit_once('@') {
            Some((user, _)) if user.contains(':') => {
                return Err(bad("plain-text password is not supported"));
            }
            Some((user, address)) => (Some(user.to_owned()), address),
            None => (None, address),
        };
        let (host, port) = match address.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(|| bad("missing ']'"))?;
                (host, rest.strip_prefix(':'))
            }
            None => match address.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (address, None),
            },
        };
        if host.is_empty() {
            return Err(bad("hostname is empty"));
        }
        let port = match port {
            None | Some("") => None,
            Some(port) => Some(port.parse().map_err(|_| bad("invalid port"))?),
        };
        // What begins with a dash would be an option of ssh.
        if host.starts_with('-') || user.as_deref().is_some_and(|user| user.starts_with('-')) {
            return Err(bad("a name cannot begin with a dash"));
        }
        Ok(Self { user, host: host.to_owned(), port, path: path.filter(|path| path != "/") })
    }

    /// The words of the command that leads there. hoy's own client is asked where there is one.
    pub fn words(&self) -> Vec<String> {
        let mut words: Vec<String> =
            ["ssh", "-o", "ConnectTimeout=30", "-T"].map(str::to_owned).to_vec();
        if let Some(user) = &self.user {
            words.extend(["-l".to_owned(), user.clone()]);
        }
        if let Some(port) = self.port {
            words.extend(["-p".to_owned(), port.to_string()]);
        }
        let host = match &self.path {
            None => String::new(),
            // For the remote shell: one word, whatever is in it.
            Some(path) => format!("--host '{}' ", format!("unix://{path}").replace('\'', "'\\''")),
        };
        let remote = format!(
            "if command -v hoy >/dev/null 2>&1; then exec hoy {host}system dial-stdio; \
             else exec docker {host}system dial-stdio; fi"
        );
        words.extend(["--".to_owned(), self.host.clone(), remote]);
        words
    }
}

impl Endpoint {
    /// Parses `unix:///path`, `tcp://host:port` and the short forms docker takes.
    pub fn parse(text: &str) -> Result<Self, ClientError> {
        Self::parse_for(text, 2375)
    }

    /// As [`Self::parse`], with a port for TCP where none is named.
    pub fn parse_for(text: &str, default_port: u16) -> Result<Self, ClientError> {
        let bad = || ClientError::Host(text.to_owned());
        let trimmed = text.trim();
        if let Some(path) = trimmed.strip_prefix("unix://") {
            return if path.is_empty() { Err(bad()) } else { Ok(Self::Unix(path.into())) };
        }
        if trimmed.starts_with("ssh://") {
            let words = Ssh::parse(trimmed)?.words();
            // As Docker's client names what it reaches through a program.
            let host = "docker.example.com".to_owned();
            return Ok(Self::Program(Program { words, shown: text.to_owned(), host }));
        }
        if let Some((scheme @ ("npipe" | "fd" | "https"), _)) = trimmed.split_once("://") {
            return Err(ClientError::Unsupported(format!(
                "a connection by {scheme} is not available: {text}"
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
            None => default_port,
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
            Self::Program(program) => f.write_str(&program.shown),
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
        for bad in ["", "unix://", "tcp://a:b", "ssh://", "tcp://a/b"] {
            assert_eq!(shown(bad), None, "{bad}");
        }
    }

    #[test]
    fn by_ssh() {
        let words = |text: &str| Ssh::parse(text).map(|ssh| ssh.words().join(" "));
        let plain = words("ssh://me@far:2222").unwrap();
        assert!(
            plain.starts_with("ssh -o ConnectTimeout=30 -T -l me -p 2222 -- far if "),
            "{plain}"
        );
        let path = words("ssh://far/run/it's.sock").unwrap();
        assert!(path.contains("--host 'unix:///run/it'\\''s.sock' system dial-stdio"), "{path}");
        for bad in ["ssh://", "ssh://a:b@c", "ssh://h:x", "ssh://-oProxyCommand=x", "ssh://-l@h"] {
            assert!(words(bad).is_err(), "{bad}");
        }
    }
}
