//! Datagrams that are carried: a session for each client, with a socket of its own towards the
//! container, so that answers find their way.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use hoy_sys::datagram::{self, Local};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, connect, send, socket_with};

use super::Key;
use super::hold::errno;

/// As Docker's proxy.
const IDLE: Duration = Duration::from_secs(90);
/// Datagrams taken from one socket before it is somebody else's turn.
const AT_ONCE: usize = 64;
/// The largest datagram.
pub(super) const LARGEST: usize = 64 * 1024;

#[derive(Debug)]
struct Session {
    key: Key,
    client: SocketAddr,
    /// Where the client sent to: what answers have to come from.
    local: Option<Local>,
    socket: OwnedFd,
    last: Instant,
}

/// All clients.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    all: HashMap<u64, Session>,
    by_client: HashMap<(Key, SocketAddr), u64>,
    /// When each is looked at next, the oldest first.
    order: VecDeque<(Instant, u64)>,
}

impl Sessions {
    pub fn count(&self) -> usize {
        self.all.len()
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.order.front().map(|(at, _)| *at)
    }

    /// Takes what clients sent. `room` is how many sessions there may be, `next` makes the number
    /// and the token of another one.
    pub fn clients_sent(
        &mut self,
        epoll: &OwnedFd,
        (key, door): (Key, BorrowedFd<'_>),
        target: SocketAddr,
        buffer: &mut [u8],
        room: usize,
        mut next: impl FnMut() -> (u64, u64),
    ) {
        for _ in 0..AT_ONCE {
            let (length, client, local) = match datagram::receive(door, buffer) {
                Ok(received) => received,
                Err(error) if errno(&error) == Errno::INTR => continue,
                Err(_) => return,
            };
            let id = match self.by_client.get(&(key, client)) {
                Some(id) => *id,
                None => {
                    while self.all.len() >= room.max(1) {
                        self.evict();
                    }
                    let (id, token) = next();
                    let Ok(socket) = open(epoll, target, token) else { continue };
                    let now = Instant::now();
                    let session = Session { key, client, local, socket, last: now };
                    self.all.insert(id, session);
                    self.by_client.insert((key, client), id);
                    self.order.push_back((now + IDLE, id));
                    id
                }
            };
            let Some(session) = self.all.get_mut(&id) else { continue };
            session.local = local;
            session.last = Instant::now();
            let bytes = buffer.get(..length).unwrap_or_default();
            // What does not fit is lost, as datagrams are; a container where nobody listens says
            // so here, for the datagram before.
            if send(&session.socket, bytes, SendFlags::DONTWAIT) == Err(Errno::CONNREFUSED) {
                let _ = send(&session.socket, bytes, SendFlags::DONTWAIT);
            }
        }
    }

    /// Which port a session belongs to.
    pub fn key(&self, id: u64) -> Option<Key> {
        self.all.get(&id).map(|session| session.key)
    }

    /// Takes what a container answered.
    pub fn container_answered(&mut self, id: u64, door: BorrowedFd<'_>, buffer: &mut [u8]) {
        let Some(session) = self.all.get_mut(&id) else { return };
        for _ in 0..AT_ONCE {
            let flags = rustix::net::RecvFlags::DONTWAIT;
            match rustix::net::recv(&session.socket, &mut *buffer, flags) {
                Ok((_, length)) => {
                    session.last = Instant::now();
                    let bytes = buffer.get(..length).unwrap_or_default();
                    let _ = datagram::send(door, bytes, session.client, session.local);
                }
                // Taken off the socket by having been told.
                Err(Errno::INTR | Errno::CONNREFUSED) => {}
                Err(_) => return,
            }
        }
    }

    /// Ends those of a port.
    pub fn end(&mut self, key: &Key) {
        let theirs = self.all.iter().filter(|(_, session)| session.key == *key).map(|(id, _)| *id);
        for id in theirs.collect::<Vec<u64>>() {
            self.remove(id);
        }
    }

    /// Ends those that were silent for long.
    pub fn expire(&mut self, now: Instant) {
        while let Some((at, id)) = self.order.front().copied() {
            if at > now {
                return;
            }
            self.order.pop_front();
            match self.all.get(&id).map(|session| session.last + IDLE) {
                Some(until) if until > now => self.order.push_back((until, id)),
                _ => self.remove(id),
            }
        }
    }

    /// The one that is looked at next makes room.
    fn evict(&mut self) {
        if let Some((_, id)) = self.order.pop_front() {
            self.remove(id);
        } else if let Some(id) = self.all.keys().next().copied() {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: u64) {
        if let Some(session) = self.all.remove(&id) {
            self.by_client.remove(&(session.key, session.client));
        }
    }
}

fn open(epoll: &OwnedFd, target: SocketAddr, token: u64) -> Result<OwnedFd, Errno> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
    connect(socket.as_fd(), &target)?;
    epoll::add(epoll, &socket, EventData::new_u64(token), EventFlags::IN)?;
    Ok(socket)
}
