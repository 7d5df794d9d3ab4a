//! The daemon's side: finds the keeper or starts one, and notices when it is gone.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, connect, shutdown,
    socket_with, socketpair, sockopt,
};

use super::message::{self, MAX_ITEMS, Reply, Request};
use super::{Hold, KeeperPlace, Key, take};
use crate::ports::{State, lock};

/// A keeper that ends sooner is not started again at once.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// Who has the sockets.
#[derive(Debug)]
pub(crate) enum Holder {
    /// This process, and they end with it.
    Here(HashMap<Key, Option<OwnedFd>>),
    Keeper(Client),
}

/// The way to the keeper.
#[derive(Debug)]
pub(crate) struct Client {
    place: KeeperPlace,
    version: u16,
    connection: Option<Connection>,
    state: Weak<Mutex<State>>,
    /// Another keeper than before: it holds nothing yet.
    renewed: bool,
    limit: usize,
}

#[derive(Clone, Debug)]
struct Connection {
    socket: Arc<OwnedFd>,
    process: u32,
}

impl Holder {
    pub fn here() -> Self {
        Self::Here(HashMap::new())
    }

    pub fn with_keeper(place: KeeperPlace, version: u16) -> Self {
        let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        Self::Keeper(Client {
            place,
            version,
            connection: None,
            state: Weak::new(),
            renewed: false,
            limit: super::sockets_of(hard),
        })
    }

    /// Who is to be told that the keeper is gone.
    pub fn watched_by(&mut self, state: &Arc<Mutex<State>>) {
        if let Self::Keeper(client) = self {
            client.state = Arc::downgrade(state);
        }
    }

    /// How many sockets may be held.
    pub fn limit(&self) -> usize {
        match self {
            Self::Here(_) => super::sockets_of(Some(1024)),
            Self::Keeper(client) => client.limit,
        }
    }

    /// The result of each, in the same order. What is held already is no error.
    pub fn hold(&mut self, holds: &[Hold]) -> Result<Vec<Result<(), Errno>>, String> {
        match self {
            Self::Here(held) => {
                let one = |hold: &Hold| {
                    if let std::collections::hash_map::Entry::Vacant(free) = held.entry(hold.key) {
                        free.insert(take(hold)?);
                    }
                    Ok(())
                };
                Ok(holds.iter().map(one).collect())
            }
            Self::Keeper(client) => client.hold(holds),
        }
    }

    pub fn release(&mut self, keys: &[Key]) {
        match self {
            Self::Here(held) => {
                for key in keys {
                    held.remove(key);
                }
            }
            // Without a keeper nothing is held.
            Self::Keeper(client) if client.connection.is_some() => {
                for part in keys.chunks(MAX_ITEMS) {
                    let _ = client.request(&Request::Release(part.to_vec()));
                }
            }
            Self::Keeper(_) => {}
        }
    }

    /// What a keeper holds; none is started for that.
    pub fn list(&mut self) -> Vec<Key> {
        match self {
            Self::Here(held) => held.keys().copied().collect(),
            Self::Keeper(client) => {
                client.find();
                let mut out: Vec<Key> = Vec::new();
                while client.connection.is_some() {
                    match client.request(&Request::List(out.last().copied())) {
                        Ok(Reply::Keys(keys)) if !keys.is_empty() => out.extend(keys),
                        _ => break,
                    }
                }
                out
            }
        }
    }

    /// Whether the keeper is not the one of before; asked once.
    pub fn take_renewed(&mut self) -> bool {
        match self {
            Self::Here(_) => false,
            Self::Keeper(client) => std::mem::take(&mut client.renewed),
        }
    }

    pub fn end(&mut self) {
        match self {
            Self::Here(held) => held.clear(),
            Self::Keeper(client) => {
                client.find();
                if client.connection.is_some() {
                    let _ = client.request(&Request::End);
                }
                client.drop_connection();
            }
        }
    }

    /// This daemon ends; the keeper does not.
    pub fn leave(&mut self) {
        if let Self::Keeper(client) = self {
            client.state = Weak::new();
            client.drop_connection();
        }
    }

    pub fn process(&self) -> Option<u32> {
        match self {
            Self::Here(_) => None,
            Self::Keeper(client) => client.connection.as_ref().map(|c| c.process),
        }
    }

    /// Forgets a connection that is broken; whether it was the one in use.
    fn broken(&mut self, socket: &Arc<OwnedFd>) -> bool {
        let Self::Keeper(client) = self else { return false };
        let same = client.connection.as_ref().is_some_and(|c| Arc::ptr_eq(&c.socket, socket));
        if same {
            client.connection = None;
        }
        same
    }
}

impl Client {
    fn hold(&mut self, holds: &[Hold]) -> Result<Vec<Result<(), Errno>>, String> {
        let mut out = Vec::with_capacity(holds.len());
        for part in holds.chunks(MAX_ITEMS) {
            let request = Request::Hold(part.to_vec());
            let mut attempts = 0;
            let reply = loop {
                self.ensure()?;
                match self.request(&request) {
                    Ok(reply) => break reply,
                    // It was ended between two requests: a new one does the same.
                    Err(_) if attempts == 0 => attempts += 1,
                    Err(error) => return Err(self.failed("ask", &error)),
                }
            };
            match reply {
                Reply::Results(results) if results.len() == part.len() => {
                    let one = |code: Option<i32>| {
                        code.map_or(Ok(()), |code| Err(Errno::from_raw_os_error(code)))
                    };
                    out.extend(results.into_iter().map(one));
                }
                _ => return Err(self.failed("ask", &io::ErrorKind::InvalidData.into())),
            }
        }
        Ok(out)
    }

    fn failed(&self, what: &str, error: &io::Error) -> String {
        format!("{what} the keeper of ports ({}): {error}", self.place.socket.display())
    }

    fn request(&mut self, request: &Request) -> io::Result<Reply> {
        let Some(connection) = &self.connection else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let result = ask(connection, request);
        if result.is_err() {
            // Whatever it was: the next answer could be that to this question.
            self.drop_connection();
        }
        result
    }

    fn drop_connection(&mut self) {
        if let Some(connection) = self.connection.take() {
            // Wakes the thread that watches it.
            let _ = shutdown(&connection.socket, Shutdown::Both);
        }
    }

    /// The keeper that is there, if there is one and it understands us.
    fn find(&mut self) {
        if self.connection.is_none()
            && let Ok(Some(socket)) = existing(&self.place.socket)
            && let Ok((version, process)) = greet(&socket, self.version)
            && version == self.version
        {
            self.adopt(socket, process);
        }
    }

    /// A connection to a keeper, which is started if need be.
    fn ensure(&mut self) -> Result<(), String> {
        self.find();
        if self.connection.is_some() {
            return Ok(());
        }
        // Somebody answers there whom we do not understand: an older or a newer one. The new one
        // takes its sockets over.
        let other = matches!(existing(&self.place.socket), Ok(Some(_)));
        let socket = self.start(other).map_err(|error| self.failed("start", &error))?;
        let (version, process) =
            greet(&socket, self.version).map_err(|error| self.failed("start", &error))?;
        if version != self.version {
            return Err(self.failed(
                "start",
                &io::Error::other("it is of another version than this daemon: restart the daemon"),
            ));
        }
        self.adopt(socket, process);
        self.renewed = true;
        Ok(())
    }

    fn start(&self, succeed: bool) -> io::Result<OwnedFd> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let mut command = Command::new(&self.place.program);
        command.arg0("hoyd").arg("ports").arg(&self.place.socket);
        if succeed {
            command.arg("succeed");
        }
        // It goes on as a child of init; what is waited for here is only its beginning.
        let status = command
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        if status.success() { Ok(ours) } else { Err(io::Error::other(status.to_string())) }
    }

    fn adopt(&mut self, socket: OwnedFd, process: u32) {
        let socket = Arc::new(socket);
        let watched = socket.clone();
        let state = self.state.clone();
        // A thread that cannot be had: the loss is noticed at the next request.
        let _ = std::thread::Builder::new()
            .name("ports".into())
            .stack_size(256 * 1024)
            .spawn(move || watch(&watched, &state));
        self.connection = Some(Connection { socket, process });
    }
}

fn ask(connection: &Connection, request: &Request) -> io::Result<Reply> {
    message::send(connection.socket.as_fd(), &message::encode(request)?)?;
    let (bytes, _) = message::receive(connection.socket.as_fd())?;
    postcard::from_bytes(&bytes).map_err(io::Error::other)
}

fn greet(socket: &OwnedFd, version: u16) -> io::Result<(u16, u32)> {
    message::send(socket.as_fd(), &message::hello(version))?;
    let (bytes, _) = message::receive(socket.as_fd())?;
    message::parse_hello(&bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Connects to the keeper that listens there.
pub(super) fn existing(path: &Path) -> io::Result<Option<OwnedFd>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(None);
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = match rustix::fs::openat(CWD, directory, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        other => other?,
    };
    let address = address(&directory, name)?;
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    match connect(&socket, &address) {
        Err(Errno::NOENT | Errno::CONNREFUSED) => return Ok(None),
        other => other?,
    }
    let peer = sockopt::socket_peercred(&socket)?;
    if peer.uid != rustix::process::geteuid() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(Some(socket))
}

/// The address of a socket in a directory: a path of any length fits into the 108 bytes.
pub(super) fn address(directory: &OwnedFd, name: &std::ffi::OsStr) -> io::Result<SocketAddrUnix> {
    let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    Ok(SocketAddrUnix::new(path)?)
}

/// Waits for the end of a connection. If it was not this daemon that left, a new keeper holds the
/// same ports again.
fn watch(socket: &Arc<OwnedFd>, state: &Weak<Mutex<State>>) {
    let started = Instant::now();
    loop {
        let mut fds = [PollFd::new(&**socket, PollFlags::empty())];
        match poll(&mut fds, None) {
            Ok(_) if fds[0].revents().is_empty() => {}
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
    if started.elapsed() < SHORT_LIFE {
        std::thread::sleep(SHORT_LIFE);
    }
    if let Some(state) = state.upgrade() {
        let mut state = lock(&state);
        if state.holder.broken(socket) {
            state.hold_again();
        }
    }
}
