//! Which ports other programs have, and which programs those are.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use hoy_netlink::diag::{BoundSocket, bound_sockets};
use hoy_types::Protocol;

use crate::keeper::{Hold, Key, take};

/// How far the search for a socket's program goes.
const MAX_DESCRIPTORS: usize = 100_000;
const SEARCH: Duration = Duration::from_millis(300);

/// What the kernel said when it was asked, once.
#[derive(Debug, Default)]
pub(super) struct Busy {
    by_port: HashMap<(Protocol, u16), Vec<BoundSocket>>,
    /// Protocols that the kernel does not list: they are tried instead.
    unlisted: HashSet<Protocol>,
}

impl Busy {
    pub fn ask(protocols: &[Protocol]) -> Self {
        let mut out = Self::default();
        for protocol in protocols {
            match number(*protocol).map(bound_sockets) {
                Some(Ok(sockets)) => {
                    for socket in sockets {
                        out.by_port.entry((*protocol, socket.port)).or_default().push(socket);
                    }
                }
                _ => {
                    out.unlisted.insert(*protocol);
                }
            }
        }
        out
    }

    pub fn conflicts(&self, key: &Key) -> bool {
        if self.unlisted.contains(&key.protocol) {
            return take(&Hold { key: *key, proxy: None }).is_err();
        }
        let all = self.by_port.get(&(key.protocol, key.port));
        all.is_some_and(|all| all.iter().any(|socket| overlaps(socket, key.ip)))
    }
}

fn number(protocol: Protocol) -> Option<u8> {
    match protocol {
        Protocol::Tcp => Some(6),
        Protocol::Udp => Some(17),
        Protocol::Sctp => None,
    }
}

fn overlaps(socket: &BoundSocket, ip: IpAddr) -> bool {
    let family = socket.ip.is_ipv4() == ip.is_ipv4();
    let any = socket.ip.is_unspecified() || ip.is_unspecified();
    (family && (any || socket.ip == ip)) || (socket.both && ip.is_ipv4())
}

/// Names the program that has a port, if it can be found soon.
pub(super) fn whose(key: &Key) -> Option<String> {
    let sockets = bound_sockets(number(key.protocol)?).ok()?;
    let socket = sockets.iter().find(|s| s.port == key.port && overlaps(s, key.ip))?;
    let (pid, name) = owner(socket.inode)?;
    Some(format!("It is used by {name} (process {pid})"))
}

/// The first process that has a socket open.
fn owner(inode: u32) -> Option<(u32, String)> {
    let wanted = format!("socket:[{inode}]");
    let started = Instant::now();
    let mut looked = 0;
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            looked += 1;
            if looked > MAX_DESCRIPTORS || started.elapsed() > SEARCH {
                return None;
            }
            let target = std::fs::read_link(descriptor.path()).unwrap_or_default();
            if target.as_os_str() == wanted.as_str() {
                let name = std::fs::read(process.path().join("comm")).unwrap_or_default();
                let name = String::from_utf8_lossy(&name);
                let clean = name.trim().chars().filter(|c| !c.is_control()).collect();
                return Some((pid, clean));
            }
        }
    }
    None
}
