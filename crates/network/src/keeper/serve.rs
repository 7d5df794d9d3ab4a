//! The keeper's loop: requests of daemons, and traffic.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::ops::Bound;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use hoy_types::Protocol;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags, sockopt};

use super::message::{self, MAX_MESSAGE, Reply, Request};
use super::tcp::{self, End, Pairs};
use super::udp::{LARGEST, Sessions};
use super::{Door, Hold, Key, take};

/// How long it stays when it holds nothing and nobody is connected.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it looks, without a daemon, whether it can still be found.
const LOOK: Duration = Duration::from_secs(1);
/// Where something has run out, it is tried again after this.
const AGAIN: Duration = Duration::from_millis(200);
/// Daemons at a time.
const MAX_PEERS: usize = 8;
/// Keys in one answer.
const KEYS: usize = 512;
/// Connections accepted before it is somebody else's turn.
const ACCEPTS: usize = 64;
/// Descriptors that are neither ports nor traffic.
const OTHERS: usize = 128;
/// UDP sessions, if there are as many descriptors.
const MAX_SESSIONS: usize = 4096;

/// What an event is of: the lower bits of its token.
const KIND_BITS: u32 = 3;
const DOOR: u64 = 0;
const PEER: u64 = 1;
const LISTENER: u64 = 2;
const DATAGRAMS: u64 = 3;
const CLIENT: u64 = 4;
const SERVER: u64 = 5;
const SESSION: u64 = 6;

#[derive(Debug)]
struct Peer {
    socket: OwnedFd,
    greeted: bool,
}

#[derive(Debug)]
struct Held {
    /// `None` where this kernel has no such sockets.
    socket: Option<OwnedFd>,
    proxy: Option<SocketAddr>,
    /// Its number, if it is proxied.
    number: u64,
}

/// Everything that the keeper has.
#[derive(Debug)]
pub(super) struct Keeper {
    version: u16,
    descriptors: usize,
    epoll: OwnedFd,
    door: Option<Door>,
    peers: HashMap<u64, Peer>,
    held: BTreeMap<Key, Held>,
    /// A predecessor's, until they are asked for.
    inherited: BTreeMap<Key, (bool, OwnedFd)>,
    by_number: HashMap<u64, Key>,
    pairs: Pairs,
    sessions: Sessions,
    last_number: u64,
    /// No more connections are accepted until this moment.
    full: Option<Instant>,
    buffer: Vec<u8>,
    end: bool,
}

impl Keeper {
    pub fn new(
        version: u16,
        limit: Option<u64>,
        door: Door,
        inherited: Vec<(Key, bool, OwnedFd)>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &door.socket, EventData::new_u64(DOOR), EventFlags::IN)?;
        let inherited =
            inherited.into_iter().map(|(key, proxied, fd)| (key, (proxied, fd))).collect();
        Ok(Self {
            version,
            descriptors: super::sockets_of(limit) * 2,
            epoll,
            door: Some(door),
            peers: HashMap::new(),
            held: BTreeMap::new(),
            inherited,
            by_number: HashMap::new(),
            pairs: Pairs::default(),
            sessions: Sessions::default(),
            last_number: 0,
            full: None,
            buffer: vec![0; LARGEST.max(MAX_MESSAGE)],
            end: false,
        })
    }

    /// Until there is nothing left to do.
    pub fn serve(mut self, daemon: OwnedFd) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&daemon, true)?;
        self.add_peer(daemon);
        let mut idle_since = Instant::now();
        let mut events: Vec<Event> = Vec::with_capacity(256);
        while !self.end {
            let now = Instant::now();
            self.sessions.expire(now);
            self.pairs.expire(now);
            if self.full.is_some_and(|until| until <= now) {
                self.open_listeners(true);
            }
            if self.peers.is_empty() && self.door.as_ref().is_some_and(|door| !door.is_there()) {
                // What it holds would be in the next daemon's way.
                break;
            }
            let idle = self.peers.is_empty() && self.held.is_empty() && self.pairs.count() == 0;
            if !idle {
                idle_since = now;
            } else if now.duration_since(idle_since) >= PATIENCE || self.door.is_none() {
                break;
            }
            let timeout = self.timeout(now, idle.then_some(idle_since + PATIENCE));
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                timeout.as_ref(),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            for event in &events {
                let (data, flags) = (event.data, event.flags);
                self.event(data.u64(), flags);
            }
            self.pairs.carry_ready();
        }
        if let Some(door) = &self.door {
            door.remove();
        }
        Ok(())
    }

    fn timeout(&self, now: Instant, idle: Option<Instant>) -> Option<Timespec> {
        if self.pairs.has_ready() {
            return Some(Timespec { tv_sec: 0, tv_nsec: 0 });
        }
        let look = (self.peers.is_empty() && self.door.is_some()).then(|| now + LOOK);
        let all = [self.pairs.deadline(), self.sessions.deadline(), self.full, idle, look];
        let first = all.into_iter().flatten().min()?;
        // Rounded up: woken too early, it would be asked again and again.
        let left = first.saturating_duration_since(now) + Duration::from_millis(1);
        Some(Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() })
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn event(&mut self, token: u64, flags: EventFlags) {
        let number = token >> KIND_BITS;
        match token & ((1 << KIND_BITS) - 1) {
            DOOR => self.knock(),
            PEER => self.peer_event(number),
            LISTENER => self.accept(number),
            DATAGRAMS => self.datagrams(number),
            CLIENT => self.pairs.event(number, End::Client, flags),
            SERVER => self.pairs.event(number, End::Server, flags),
            SESSION => self.answers(number),
            _ => {}
        }
    }

    // Daemons.

    fn knock(&mut self) {
        let Some(door) = &self.door else { return };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(socket) = rustix::net::accept_with(&door.socket, flags) else { return };
        let own = rustix::process::geteuid();
        let known = sockopt::socket_peercred(&socket).is_ok_and(|peer| peer.uid == own);
        if known && self.peers.len() < MAX_PEERS {
            self.add_peer(socket);
        }
    }

    fn add_peer(&mut self, socket: OwnedFd) {
        let number = self.next_number();
        let data = EventData::new_u64(number << KIND_BITS | PEER);
        if epoll::add(&self.epoll, &socket, data, EventFlags::IN | EventFlags::RDHUP).is_ok() {
            self.peers.insert(number, Peer { socket, greeted: false });
        }
    }

    fn peer_event(&mut self, number: u64) {
        let Some(peer) = self.peers.remove(&number) else { return };
        let flags = RecvFlags::DONTWAIT;
        let received =
            hoy_sys::socket::receive(peer.socket.as_fd(), &mut self.buffer[..MAX_MESSAGE], flags);
        let length = match received {
            Ok((length, _)) if length > 0 => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.peers.insert(number, peer);
                return;
            }
            _ => return,
        };
        let message = self.buffer[..length].to_vec();
        // Whoever says something else than what was agreed on is not listened to any more.
        if let Some(peer) = self.answer(peer, &message) {
            self.peers.insert(number, peer);
        }
    }

    fn answer(&mut self, mut peer: Peer, message: &[u8]) -> Option<Peer> {
        if message == message::HAND_OVER {
            self.hand_over(&peer.socket);
            return None;
        }
        if let Some((version, _)) = message::parse_hello(message) {
            message::send(peer.socket.as_fd(), &message::hello(self.version)).ok()?;
            peer.greeted = version == self.version;
            return Some(peer);
        }
        if !peer.greeted {
            return None;
        }
        let reply = self.fulfil(message::decode_request(message)?);
        let bytes = message::encode(&reply).ok()?;
        message::send(peer.socket.as_fd(), &bytes).ok()?;
        Some(peer)
    }

    fn fulfil(&mut self, request: Request) -> Reply {
        match request {
            Request::Hold(holds) => {
                let one = |hold: &Hold| self.hold(hold).err().map(Errno::raw_os_error);
                Reply::Results(holds.iter().map(one).collect())
            }
            Request::Release(keys) => {
                for key in &keys {
                    self.release(key);
                }
                Reply::Done
            }
            Request::List(after) => {
                let from = after.map_or(Bound::Unbounded, Bound::Excluded);
                let range = (from, Bound::Unbounded);
                let own = self.held.range(range).map(|(key, _)| *key).take(KEYS);
                let others = self.inherited.range(range).map(|(key, _)| *key).take(KEYS);
                let mut keys: Vec<Key> = own.chain(others).collect();
                keys.sort_unstable();
                keys.truncate(KEYS);
                Reply::Keys(keys)
            }
            Request::End => {
                self.end = true;
                Reply::Done
            }
        }
    }

    // Ports.

    fn hold(&mut self, hold: &Hold) -> Result<(), Errno> {
        match self.held.get(&hold.key) {
            Some(held) if held.proxy == hold.proxy => return Ok(()),
            // For another container than before.
            Some(_) => self.release(&hold.key),
            None => {}
        }
        if self.held.len() >= self.descriptors / 2 {
            return Err(Errno::MFILE);
        }
        let socket = match self.inherited.remove(&hold.key) {
            Some((proxied, socket)) if proxied == hold.proxy.is_some() => Some(socket),
            other => {
                drop(other);
                take(hold)?
            }
        };
        let number = self.next_number();
        if let (Some(socket), Some(_)) = (&socket, hold.proxy) {
            let kind = match hold.key.protocol {
                Protocol::Udp => DATAGRAMS,
                Protocol::Tcp | Protocol::Sctp => LISTENER,
            };
            let data = EventData::new_u64(number << KIND_BITS | kind);
            let wanted = if self.full.is_some() && kind == LISTENER {
                EventFlags::empty()
            } else {
                EventFlags::IN
            };
            epoll::add(&self.epoll, socket, data, wanted)?;
            self.by_number.insert(number, hold.key);
        }
        self.held.insert(hold.key, Held { socket, proxy: hold.proxy, number });
        Ok(())
    }

    fn release(&mut self, key: &Key) {
        self.inherited.remove(key);
        if let Some(held) = self.held.remove(key) {
            self.by_number.remove(&held.number);
            self.pairs.end(key);
            self.sessions.end(key);
        }
    }

    /// A keeper of another version takes everything; what is carried goes on here to its end.
    fn hand_over(&mut self, socket: &OwnedFd) {
        if rustix::io::ioctl_fionbio(socket, false).is_err() {
            return;
        }
        // Somebody who does not read must not hold this up for long.
        let patience = Some(Duration::from_secs(5));
        let _ = sockopt::set_socket_timeout(socket, sockopt::Timeout::Send, patience);
        let sockets: Vec<_> = self
            .held
            .values()
            .filter_map(|held| Some((held.socket.as_ref()?.as_fd(), held.proxy.is_some())))
            .collect();
        if message::hand_over(socket.as_fd(), &sockets).is_err() {
            return;
        }
        // Otherwise the sockets' other owner keeps them alive in here.
        for held in self.held.values() {
            if let (Some(socket), Some(_)) = (&held.socket, held.proxy) {
                let _ = epoll::delete(&self.epoll, socket);
            }
        }
        let keys: Vec<Key> = self.held.keys().copied().collect();
        for key in &keys {
            self.sessions.end(key);
        }
        self.held.clear();
        self.by_number.clear();
        self.inherited.clear();
        self.peers.clear();
        // The file is the successor's now.
        self.door = None;
    }

    // Traffic.

    fn has_room(&self) -> bool {
        let used = self.held.len() + self.sessions.count() + OTHERS;
        used + (self.pairs.count() + 1) * tcp::DESCRIPTORS <= self.descriptors
    }

    /// Listens again, or not for the time being.
    fn open_listeners(&mut self, open: bool) {
        self.full = (!open).then(|| Instant::now() + AGAIN);
        let wanted = if open { EventFlags::IN } else { EventFlags::empty() };
        for (key, held) in &self.held {
            if let (Protocol::Tcp, Some(socket), Some(_)) = (key.protocol, &held.socket, held.proxy)
            {
                let data = EventData::new_u64(held.number << KIND_BITS | LISTENER);
                let _ = epoll::modify(&self.epoll, socket, data, wanted);
            }
        }
    }

    fn accept(&mut self, number: u64) {
        let Some(key) = self.by_number.get(&number).copied() else { return };
        for _ in 0..ACCEPTS {
            if !self.has_room() {
                self.open_listeners(false);
                return;
            }
            let Some(Held { socket: Some(listener), proxy: Some(target), .. }) =
                self.held.get(&key)
            else {
                return;
            };
            let target = *target;
            match tcp::accept(listener.as_fd()) {
                Ok(Some(client)) => {
                    let id = self.next_number();
                    let tokens = (id << KIND_BITS | CLIENT, id << KIND_BITS | SERVER);
                    self.pairs.begin(&self.epoll, id, tokens, key, client, target);
                }
                Ok(None) => return,
                // Out of descriptors or memory.
                Err(_) => {
                    self.open_listeners(false);
                    return;
                }
            }
        }
    }

    fn datagrams(&mut self, number: u64) {
        let Some(key) = self.by_number.get(&number).copied() else { return };
        let traffic = self.descriptors.saturating_sub(self.held.len() + OTHERS);
        let left = traffic.saturating_sub(self.pairs.count() * tcp::DESCRIPTORS);
        // Sessions stay long after their last datagram: half of the room is never theirs, or
        // there would be none left for connections.
        let room = left.min(traffic / 2).min(MAX_SESSIONS);
        let Some(Held { socket: Some(door), proxy: Some(target), .. }) = self.held.get(&key) else {
            return;
        };
        let last = &mut self.last_number;
        let next = || {
            *last += 1;
            (*last, *last << KIND_BITS | SESSION)
        };
        let (epoll, buffer) = (&self.epoll, &mut self.buffer);
        self.sessions.clients_sent(epoll, (key, door.as_fd()), *target, buffer, room, next);
    }

    fn answers(&mut self, number: u64) {
        let key = self.sessions.key(number);
        let held = key.and_then(|key| self.held.get(&key));
        if let Some(Held { socket: Some(door), .. }) = held {
            self.sessions.container_answered(number, door.as_fd(), &mut self.buffer);
        }
    }
}
