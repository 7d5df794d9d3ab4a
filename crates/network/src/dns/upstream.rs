//! Which resolvers are asked, and sockets to ask them from.

use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hoy_sys::process;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::sockets::{ADDRESS, PORT};

/// As resolvers do: more than this many servers are not looked at.
pub(crate) const MAX_SERVERS: usize = 3;
/// resolv.conf is looked at again after this long.
const FRESH: Duration = Duration::from_millis(500);
/// No honest resolv.conf is longer.
const LONGEST: u64 = 64 << 10;
/// Sockets that one visit to a container's namespace opens.
const VISIT: usize = 8;

/// Where a container's questions go.
pub(crate) enum Upstreams {
    Never,
    Host(Arc<HostResolvers>),
    Inside(Inside),
}

impl Upstreams {
    pub fn inside(servers: &[IpAddr], netns: Arc<OwnedFd>) -> Self {
        let servers = servers
            .iter()
            // That is us: we would ask ourselves, without end.
            .filter(|server| **server != IpAddr::V4(ADDRESS))
            .map(|server| SocketAddr::new(*server, PORT))
            .take(MAX_SERVERS)
            .collect();
        Self::Inside(Inside { servers, netns, v4: Mutex::default(), v6: Mutex::default() })
    }

    pub fn servers(&self) -> Vec<SocketAddr> {
        match self {
            Self::Never => Vec::new(),
            Self::Host(host) => host.servers(),
            Self::Inside(inside) => inside.servers.clone(),
        }
    }

    /// A socket that nobody has used, from which `server` can be reached.
    pub async fn udp(&self, server: SocketAddr) -> io::Result<tokio::net::UdpSocket> {
        let socket = match self {
            Self::Never => return Err(io::ErrorKind::Unsupported.into()),
            Self::Host(_) => open(server, SocketType::DGRAM)?,
            Self::Inside(inside) => inside.udp(server).await?,
        };
        let socket = tokio::net::UdpSocket::from_std(socket.into())?;
        // The kernel picks a port at random.
        socket.connect(server).await?;
        Ok(socket)
    }

    pub async fn tcp(&self, server: SocketAddr) -> io::Result<tokio::net::TcpStream> {
        let socket = match self {
            Self::Never => return Err(io::ErrorKind::Unsupported.into()),
            Self::Host(_) => open(server, SocketType::STREAM)?,
            Self::Inside(inside) => {
                let mut opened = inside.open(server, SocketType::STREAM, 1).await?;
                opened.pop().ok_or(io::ErrorKind::NotFound)?
            }
        };
        tokio::net::TcpSocket::from_std_stream(socket.into()).connect(server).await
    }
}

fn open(server: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, kind, flags, None)?)
}

/// Resolvers that are asked from a container's own namespace.
pub(crate) struct Inside {
    servers: Vec<SocketAddr>,
    netns: Arc<OwnedFd>,
    /// Opened and not used yet.
    v4: Mutex<Vec<OwnedFd>>,
    v6: Mutex<Vec<OwnedFd>>,
}

impl Inside {
    async fn udp(&self, server: SocketAddr) -> io::Result<OwnedFd> {
        let spare = if server.is_ipv4() { &self.v4 } else { &self.v6 };
        let one = spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(one) = one {
            return Ok(one);
        }
        let mut opened = self.open(server, SocketType::DGRAM, VISIT).await?;
        let one = opened.pop().ok_or(io::ErrorKind::NotFound)?;
        let mut spare = spare.lock().unwrap_or_else(PoisonError::into_inner);
        opened.truncate(VISIT.saturating_sub(spare.len()));
        spare.extend(opened);
        Ok(one)
    }

    /// A thread of a moment goes there: none of the daemon's own ever leaves its namespace.
    async fn open(
        &self,
        server: SocketAddr,
        kind: SocketType,
        count: usize,
    ) -> io::Result<Vec<OwnedFd>> {
        let netns = self.netns.clone();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let visit = move || -> io::Result<Vec<OwnedFd>> {
            process::setns(netns.as_fd(), process::NEWNET)?;
            (0..count).map(|_| open(server, kind)).collect()
        };
        std::thread::Builder::new().name("dns-visit".into()).stack_size(64 << 10).spawn(
            move || {
                // Whoever asked may have gone: the sockets are then closed.
                let _ = sender.send(visit());
            },
        )?;
        receiver.await.map_err(|_| io::ErrorKind::Interrupted)?
    }
}

/// The resolvers in the host's resolv.conf, as it is now.
pub(crate) struct HostResolvers {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    looked: Option<Instant>,
    /// Device, inode, size and time of change: a file that is the same in these is the same.
    version: Option<(u64, u64, u64, i64, i64)>,
    servers: Vec<SocketAddr>,
}

impl HostResolvers {
    pub fn new(path: PathBuf) -> Self {
        Self { path, known: Mutex::default() }
    }

    fn servers(&self) -> Vec<SocketAddr> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.looked.is_none_or(|looked| looked.elapsed() > FRESH) {
            self.look(&mut known);
            known.looked = Some(Instant::now());
        }
        known.servers.clone()
    }

    /// A file that is away for a moment, while it is replaced, changes nothing.
    fn look(&self, known: &mut Known) {
        let Ok(file) = std::fs::File::open(&self.path) else { return };
        let Ok(metadata) = file.metadata() else { return };
        let version = (
            metadata.dev(),
            metadata.ino(),
            metadata.size(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        );
        if known.version == Some(version) || !metadata.is_file() {
            return;
        }
        let mut bytes = Vec::new();
        if file.take(LONGEST).read_to_end(&mut bytes).is_ok() {
            known.servers = resolvers(&String::from_utf8_lossy(&bytes));
            known.version = Some(version);
        }
    }
}

/// What a resolv.conf names; the host itself where it names nothing, as libc does.
fn resolvers(text: &str) -> Vec<SocketAddr> {
    let servers: Vec<_> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()).flatten()
        })
        .filter_map(address)
        .take(MAX_SERVERS)
        .collect();
    if servers.is_empty() {
        return vec![SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), PORT)];
    }
    servers
}

fn address(text: &str) -> Option<SocketAddr> {
    if let Some((address, scope)) = text.split_once('%') {
        let address: Ipv6Addr = address.parse().ok()?;
        let scope = scope.parse().ok().or_else(|| index(scope))?;
        return Some(SocketAddrV6::new(address, PORT, 0, scope).into());
    }
    Some(SocketAddr::new(text.parse().ok()?, PORT))
}

fn index(interface: &str) -> Option<u32> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET6, SocketType::DGRAM, flags, None).ok()?;
    rustix::net::netdevice::name_to_index(&socket, interface).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_resolv_conf_names() {
        let text = "# comment\nnameserver 10.0.0.1\nsearch a\n nameserver ::1 \nnameserver x\n\
                    nameserver fe80::1%1\nnameserver 10.0.0.4\n";
        let expected = ["10.0.0.1:53", "[::1]:53", "[fe80::1%1]:53"];
        let expected: Vec<SocketAddr> = expected.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(resolvers(text), expected);
        assert_eq!(resolvers("search a\n"), ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let host = HostResolvers::new(path.clone());
        let mut known = Known::default();
        host.look(&mut known);
        assert!(known.servers.is_empty());
        std::fs::write(&path, "nameserver 10.0.0.1\n").unwrap();
        host.look(&mut known);
        assert_eq!(known.servers, ["10.0.0.1:53".parse().unwrap()]);
        std::fs::write(directory.path().join("new"), "nameserver 10.0.0.2\n").unwrap();
        std::fs::rename(directory.path().join("new"), &path).unwrap();
        host.look(&mut known);
        assert_eq!(known.servers, ["10.0.0.2:53".parse().unwrap()]);
        std::fs::remove_file(&path).unwrap();
        host.look(&mut known);
        assert_eq!(known.servers, ["10.0.0.2:53".parse().unwrap()]);
    }
}
