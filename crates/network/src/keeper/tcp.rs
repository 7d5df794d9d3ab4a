//! Connections that are carried: bytes go from socket to socket through a pipe, by splice(2), and
//! are never seen here.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, connect, shutdown, socket_with, sockopt,
};
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};

use super::Key;

/// How long a container may take to answer.
const CONNECT: Duration = Duration::from_secs(10);
/// Peers that vanished are noticed, as Docker's proxy does it.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// At most this much at once, and this often before it is somebody else's turn.
const CHUNK: usize = 1 << 20;
const ROUNDS: usize = 16;
/// Idle pipes that are kept, and what is asked to fit into one.
const SPARE_PIPES: usize = 32;
const PIPE_SIZE: usize = 256 * 1024;
/// Both sockets, and a pipe for each direction.
pub(super) const DESCRIPTORS: usize = 6;

/// Which end of a pair an event is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Client,
    Server,
}

/// How the events of a pair's ends are told apart.
pub(super) type Tokens = (u64, u64);

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

#[derive(Debug, Default)]
struct Flow {
    /// Only while something is in it.
    pipe: Option<Pipe>,
    inside: usize,
    /// The sender has no more to say.
    ended: bool,
    /// The receiver was told so.
    told: bool,
}

#[derive(Debug)]
struct Pair {
    key: Key,
    client: OwnedFd,
    server: OwnedFd,
    connected: bool,
    up: Flow,
    down: Flow,
    /// It waits for its turn.
    queued: bool,
}

/// All connections that are carried.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    all: HashMap<u64, Pair>,
    ready: VecDeque<u64>,
    connecting: VecDeque<(Instant, u64)>,
    spare: Vec<Pipe>,
}

impl Pairs {
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Some have more to do at once.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// When somebody's patience ends.
    pub fn deadline(&self) -> Option<Instant> {
        self.connecting.front().map(|(at, _)| *at)
    }

    /// Begins to carry an accepted connection. Whoever cannot be reached is not answered for: the
    /// client's connection is reset.
    pub fn begin(
        &mut self,
        epoll: &OwnedFd,
        id: u64,
        tokens: Tokens,
        key: Key,
        client: OwnedFd,
        target: SocketAddr,
    ) {
        match reach(&target) {
            Ok(server) => {
                let mut pair = Pair {
                    key,
                    client,
                    server,
                    connected: false,
                    up: Flow::default(),
                    down: Flow::default(),
                    queued: false,
                };
                tune(&pair.client);
                tune(&pair.server);
                // By edges: what is ready and not wanted yet does not wake.
                let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
                let client = EventData::new_u64(tokens.0);
                let server = EventData::new_u64(tokens.1);
                let added = epoll::add(epoll, &pair.client, client, flags)
                    .and_then(|()| epoll::add(epoll, &pair.server, server, flags));
                if added.is_err() {
                    reset(&mut pair);
                    return;
                }
                self.connecting.push_back((Instant::now() + CONNECT, id));
                self.all.insert(id, pair);
            }
            Err(_) => {
                let _ = sockopt::set_socket_linger(&client, Some(Duration::ZERO));
            }
        }
    }

    /// Something happened at an end.
    pub fn event(&mut self, id: u64, end: End, flags: EventFlags) {
        let Some(pair) = self.all.get_mut(&id) else { return };
        if !pair.connected {
            if end == End::Client {
                // Nothing to do before there is somebody to tell.
                return;
            }
            let failed = !matches!(sockopt::socket_error(&pair.server), Ok(Ok(())));
            if failed || flags.contains(EventFlags::ERR) {
                self.abort(id);
                return;
            }
            if !flags.contains(EventFlags::OUT) {
                return;
            }
            pair.connected = true;
        }
        self.carry(id);
    }

    /// Those whose turn it is again.
    pub fn carry_ready(&mut self) {
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop_front() else { return };
            if let Some(pair) = self.all.get_mut(&id) {
                pair.queued = false;
                self.carry(id);
            }
        }
    }

    fn carry(&mut self, id: u64) {
        let Some(pair) = self.all.get_mut(&id) else { return };
        let up = pump(&mut pair.up, &pair.client, &pair.server, &mut self.spare);
        let down = pump(&mut pair.down, &pair.server, &pair.client, &mut self.spare);
        match (up, down) {
            (Ok(_), Ok(_)) if pair.up.told && pair.down.told => {
                self.all.remove(&id);
            }
            (Ok(more_up), Ok(more_down)) => {
                if (more_up || more_down) && !pair.queued {
                    pair.queued = true;
                    self.ready.push_back(id);
                }
            }
            _ => self.abort(id),
        }
    }

    fn abort(&mut self, id: u64) {
        if let Some(mut pair) = self.all.remove(&id) {
            reset(&mut pair);
        }
    }

    /// Ends those of a port: its container's address may be another's soon.
    pub fn end(&mut self, key: &Key) {
        let theirs = self.all.iter().filter(|(_, pair)| pair.key == *key).map(|(id, _)| *id);
        for id in theirs.collect::<Vec<u64>>() {
            self.abort(id);
        }
    }

    /// Those whose container does not answer.
    pub fn expire(&mut self, now: Instant) {
        while let Some((at, id)) = self.connecting.front().copied() {
            // Those that are connected, or gone, need not wait for their time.
            let waits = self.all.get(&id).is_some_and(|pair| !pair.connected);
            if waits && at > now {
                return;
            }
            self.connecting.pop_front();
            if waits {
                self.abort(id);
            }
        }
    }
}

fn reach(target: &SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    match connect(&socket, target) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

fn tune(socket: &OwnedFd) {
    let _ = sockopt::set_tcp_nodelay(socket, true);
    let _ = sockopt::set_socket_keepalive(socket, true);
    let _ = sockopt::set_tcp_keepidle(socket, KEEPALIVE);
    let _ = sockopt::set_tcp_keepintvl(socket, KEEPALIVE);
}

/// Both ends are told that this did not end well.
fn reset(pair: &mut Pair) {
    let _ = sockopt::set_socket_linger(&pair.client, Some(Duration::ZERO));
    let _ = sockopt::set_socket_linger(&pair.server, Some(Duration::ZERO));
}

/// Moves what can be moved one way; whether there may be more at once.
fn pump(
    flow: &mut Flow,
    from: &OwnedFd,
    to: &OwnedFd,
    spare: &mut Vec<Pipe>,
) -> Result<bool, Errno> {
    for _ in 0..ROUNDS {
        if flow.told {
            return Ok(false);
        }
        if flow.inside == 0 && flow.ended {
            // Half of the connection is closed, as it was on the other side.
            match shutdown(to, Shutdown::Write) {
                Ok(()) | Err(Errno::NOTCONN) => flow.told = true,
                Err(errno) => return Err(errno),
            }
            return Ok(false);
        }
        // Only an empty pipe is filled, so that EAGAIN can only mean the socket.
        if flow.inside == 0 && !fill(flow, from, spare)? {
            return Ok(false);
        }
        if flow.inside > 0 && !empty(flow, to, spare)? {
            return Ok(false);
        }
    }
    Ok(true)
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

fn fill(flow: &mut Flow, from: &OwnedFd, spare: &mut Vec<Pipe>) -> Result<bool, Errno> {
    let pipe = match flow.pipe.take().or_else(|| spare.pop()) {
        Some(pipe) => pipe,
        None => new_pipe()?,
    };
    let result = retry(|| splice(from, None, &pipe.write, None, CHUNK, FLAGS));
    match result {
        Ok(0) => flow.ended = true,
        Ok(length) => {
            flow.inside = length;
            flow.pipe = Some(pipe);
            return Ok(true);
        }
        Err(Errno::AGAIN) => {
            keep(spare, pipe);
            return Ok(false);
        }
        Err(errno) => return Err(errno),
    }
    keep(spare, pipe);
    Ok(true)
}

/// Whether all of it went out.
fn empty(flow: &mut Flow, to: &OwnedFd, spare: &mut Vec<Pipe>) -> Result<bool, Errno> {
    let Some(pipe) = &flow.pipe else { return Ok(true) };
    while flow.inside > 0 {
        match retry(|| splice(&pipe.read, None, to, None, flow.inside, FLAGS)) {
            Ok(0) => return Err(Errno::PIPE),
            Ok(length) => flow.inside -= length.min(flow.inside),
            Err(Errno::AGAIN) => return Ok(false),
            Err(errno) => return Err(errno),
        }
    }
    if let Some(pipe) = flow.pipe.take() {
        keep(spare, pipe);
    }
    Ok(true)
}

fn new_pipe() -> Result<Pipe, Errno> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // Beyond what one user may have, it stays as it is.
    let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE_SIZE);
    Ok(Pipe { read, write })
}

fn keep(spare: &mut Vec<Pipe>, pipe: Pipe) {
    if spare.len() < SPARE_PIPES {
        spare.push(pipe);
    }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Accepts one connection; `None` if none waits.
pub(super) fn accept(listener: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Errno> {
    loop {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match rustix::net::accept_with(listener, flags) {
            Ok(socket) => return Ok(Some(socket)),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR | Errno::CONNABORTED | Errno::PROTO) => {}
            Err(errno) => return Err(errno),
        }
    }
}
