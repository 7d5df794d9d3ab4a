//! Where a plugin listens, and connections to it.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::tls;

/// What a json file says about TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// Whoever answers is believed. So is, as with Docker, without a CA.
    pub insecure: bool,
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// Where a plugin listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Unix(PathBuf),
    Tcp { host: String, port: u16, tls: Option<TlsFiles> },
}

impl Address {
    /// `unix://`, `tcp://`, `http://` and `https://`. A tcp address for which files of TLS are named
    /// has TLS; Docker does without it there, silently.
    pub fn parse(text: &str, tls: &TlsFiles) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| "Unknown protocol".to_owned())?;
        if scheme == "unix" {
            if !rest.starts_with('/') {
                return Err(format!("{text}: the path of a socket must be absolute"));
            }
            return Ok(Self::Unix(rest.into()));
        }
        let named = tls.ca.is_some() || tls.cert.is_some() || tls.key.is_some();
        let (usual, secure) = match scheme {
            "tcp" => (None, named),
            "http" => (Some(80), named),
            "https" => (Some(443), true),
            other => return Err(format!("{text}: unknown protocol {other}")),
        };
        let place = rest.split('/').next().unwrap_or_default();
        let bad = || format!("{text}: not an address");
        let (host, port) = match place.strip_prefix('[') {
            Some(inner) => {
                let (host, after) = inner.split_once(']').ok_or_else(bad)?;
                (host, after.strip_prefix(':'))
            }
            None => match place.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (place, None),
            },
        };
        let port = match port {
            Some(port) => port.parse().map_err(|_| bad())?,
            None => usual.ok_or_else(|| format!("{text}: missing port in address"))?,
        };
        if host.is_empty() || host.contains(['@', ' ']) {
            return Err(bad());
        }
        Ok(Self::Tcp { host: host.to_owned(), port, tls: secure.then(|| tls.clone()) })
    }

    /// What the request's Host header says.
    pub fn host(&self) -> String {
        match self {
            Self::Unix(_) => "plugin.moby.localhost".to_owned(),
            Self::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port, .. } => format!("{host}:{port}"),
        }
    }

    /// The address in the way Go's client names it in what it reports.
    pub fn url(&self, method: &str) -> String {
        match self {
            Self::Unix(path) => {
                let path = path.display().to_string().replace('/', "%2F");
                format!("http://{path}/{method}")
            }
            Self::Tcp { tls, .. } => {
                let scheme = if tls.is_some() { "https" } else { "http" };
                format!("{scheme}://{}/{method}", self.host())
            }
        }
    }

    /// Takes up a connection, or says why not; the text is Go's.
    pub fn connect(&self, until: Instant) -> io::Result<Connection> {
        match self {
            Self::Unix(path) => {
                use rustix::net;
                let flags = net::SocketFlags::CLOEXEC;
                let (family, kind) = (net::AddressFamily::UNIX, net::SocketType::STREAM);
                let socket = net::socket_with(family, kind, flags, None)?;
                // Of a plugin that takes no connections the queue gets full.
                set_socket_timeout(&socket, Timeout::Send, Some(left(until)?))?;
                net::connect(&socket, &net::SocketAddrUnix::new(path)?)?;
                Ok(Connection::Unix(UnixStream::from(socket)))
            }
            Self::Tcp { host, port, tls } => {
                let stream = connect_tcp(host, *port, until)?;
                match tls {
                    None => Ok(Connection::Tcp(stream)),
                    Some(files) => tls::connect(stream, host, files, until),
                }
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix {}", path.display()),
            Self::Tcp { .. } => write!(f, "tcp {}", self.host()),
        }
    }
}

/// What is left of a time; an error when nothing is.
pub(super) fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    // The kernel takes zero for no limit at all.
    if left < Duration::from_millis(1) { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn connect_tcp(host: &str, port: u16, until: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no such host");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left(until)?) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A connection to a plugin.
pub(crate) enum Connection {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
}

impl Connection {
    fn socket(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
            Self::Tls(stream) => stream.sock.as_fd(),
        }
    }

    /// Reads something, before a moment.
    pub fn read_until(&mut self, buffer: &mut [u8], until: Instant) -> io::Result<usize> {
        set_socket_timeout(self.socket(), Timeout::Recv, Some(left(until)?))?;
        let read = match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
            // Many close without a word; what is cut off does not make sense in the end.
            Self::Tls(stream) => match stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                read => read,
            },
        };
        read.map_err(late)
    }

    /// Writes all of it, before a moment.
    pub fn write_until(&mut self, mut text: &[u8], until: Instant) -> io::Result<()> {
        while !text.is_empty() {
            set_socket_timeout(self.socket(), Timeout::Send, Some(left(until)?))?;
            let written = match self {
                Self::Unix(stream) => stream.write(text),
                Self::Tcp(stream) => stream.write(text),
                Self::Tls(stream) => stream.write(text),
            };
            match written.map_err(late)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => text = &text[written..],
            }
        }
        match self {
            Self::Tls(stream) => stream.flush().map_err(late),
            _ => Ok(()),
        }
    }
}

/// A socket with a limit says that it would block.
pub(super) fn late(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}
