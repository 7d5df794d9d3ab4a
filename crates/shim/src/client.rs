//! The daemon's side: starting shims, finding them again, talking to them. Nothing here waits for
//! a container.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use hoy_sys::exec::CStringArray;
use hoy_sys::launch::Launcher;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, socketpair,
};
use rustix::process::WaitOptions;

use crate::Error;
use crate::codec::{self, Received};
use crate::message::{Call, FromShim, Reply, Request};

/// How long a shim may take to say what it keeps, where nobody else can do anything meanwhile.
const KEPT_ANSWER: std::time::Duration = std::time::Duration::from_millis(500);

/// The shim's program, in memory: no file that a container could reach or an upgrade replace.
#[derive(Debug)]
pub struct ShimProgram {
    image: OwnedFd,
    launcher: Launcher,
}

impl ShimProgram {
    pub fn load(path: &Path) -> Result<Self, Error> {
        if hoy_weak::without(hoy_weak::Protection::SealedProgram) {
            let file = File::open(path).map_err(Error::io("read the program hoy-shim"))?;
            return Self::with(file.into());
        }
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .map_err(Error::io("read the program hoy-shim"))?;
        Self::of(&bytes)
    }

    fn of(bytes: &[u8]) -> Result<Self, Error> {
        Self::with(codec::sealed(bytes).map_err(Error::io("copy the program hoy-shim"))?)
    }

    fn with(image: OwnedFd) -> Result<Self, Error> {
        let launcher = Launcher::new().map_err(Error::io("prepare to start shims"))?;
        Ok(Self { image, launcher })
    }

    /// Another file with the same content.
    fn copy(&self) -> Result<Self, Error> {
        use std::os::unix::fs::FileExt as _;
        let failed = || Error::io("copy the program hoy-shim");
        let file = File::from(self.image.try_clone().map_err(failed())?);
        let length = file.metadata().map_err(failed())?.len();
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        // The descriptor can be read whatever the mode has become.
        file.read_exact_at(&mut bytes, 0).map_err(failed())?;
        Self::of(&bytes)
    }
}

/// The directory of the sockets.
fn sockets(exec_root: &Path) -> PathBuf {
    exec_root.join("shims")
}

/// Where the shim of a container listens.
pub(crate) fn socket_of(exec_root: &Path, id: &str) -> PathBuf {
    sockets(exec_root).join(format!("{id}.sock"))
}

/// Makes the directory of the sockets.
pub fn prepare(exec_root: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(sockets(exec_root))
        .map_err(Error::io("make the directory of the shims' sockets"))
}

/// A connection to one shim.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
}

/// Starts a shim for a container. It is a child of init when this returns.
pub fn spawn(program: &ShimProgram, exec_root: &Path, id: &str) -> Result<Connection, Error> {
    match spawn_image(program, exec_root, id) {
        // A container has made the file one that cannot be executed, where the kernel has no
        // seal against that: a copy that no container has seen yet.
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
            spawn_image(&program.copy()?, exec_root, id)
        }
        result => result,
    }
}

fn spawn_image(program: &ShimProgram, exec_root: &Path, id: &str) -> Result<Connection, Error> {
    let failed = || Error::io("start hoy-shim");
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|error| failed()(error.into()));
    let words = [b"hoy-shim", exec_root.as_os_str().as_bytes(), id.as_bytes()];
    let args = CStringArray::new(words.into_iter().map(text).collect::<Result<_, _>>()?);
    let env = hoy_weak::inherited().into_iter().map(|(name, value)| format!("{name}={value}"));
    let env = env.map(|variable| text(variable.as_bytes())).collect::<Result<_, _>>()?;
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|errno| Error::io("make a control socket")(errno.into()))?;
    let first = program
        .launcher
        .start(program.image.as_fd(), &args, &CStringArray::new(env), theirs.as_fd())
        .map_err(failed())?;
    drop(theirs);
    // It leaves the shim to init at once.
    match rustix::process::waitpid(Some(first), WaitOptions::empty()) {
        Ok(Some((_, status))) if status.exit_status() == Some(0) => Connection::new(ours),
        Ok(Some((_, status))) => Err(Error::Spawn(ExitStatus::from_raw(status.as_raw()))),
        Ok(None) => Err(failed()(io::ErrorKind::Other.into())),
        Err(errno) => Err(failed()(errno.into())),
    }
}

/// Finds a shim that was started before. `None` if there is none.
pub fn find(exec_root: &Path, id: &str) -> Result<Option<Connection>, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = match rustix::fs::openat(CWD, sockets(exec_root), flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(Error::io("open the shims' sockets")(errno.into())),
    };
    // By descriptor: a path of any length fits into the 108 bytes of a socket's address.
    let path = format!("/proc/self/fd/{}/{id}.sock", directory.as_raw_fd());
    let failed = |errno: rustix::io::Errno| Error::io("connect to a shim")(errno.into());
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(failed)?;
    match connect(&socket, &address) {
        Ok(()) => {}
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED) => return Ok(None),
        Err(errno) => return Err(failed(errno)),
    }
    let peer = rustix::net::sockopt::socket_peercred(&socket).map_err(failed)?;
    if !peer.uid.is_root() {
        return Err(Error::Peer);
    }
    Connection::new(socket).map(Some)
}

/// What a shim keeps under a name, for a daemon that has no tasks yet. Nothing if it is not there,
/// stopped, or of a version that keeps nothing.
pub fn kept(exec_root: &Path, id: &str, name: &str) -> Result<Vec<OwnedFd>, Error> {
    let Some(connection) = find(exec_root, id)? else { return Ok(Vec::new()) };
    let call = Call { sequence: 1, request: Request::Kept { name: name.to_owned() } };
    connection.send(&call, &[])?;
    let started = std::time::Instant::now();
    while let Some(left) = KEPT_ANSWER.checked_sub(started.elapsed()) {
        let mut fds = [PollFd::from_borrowed_fd(connection.as_fd(), PollFlags::IN)];
        let deadline = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
        poll(&mut fds, Some(&deadline))
            .map_err(|errno| Error::io("wait for a shim")(errno.into()))?;
        if let Some((FromShim::Reply { reply: Reply::Kept, .. }, descriptors)) =
            connection.recv()?
        {
            return Ok(descriptors);
        }
    }
    Ok(Vec::new())
}

/// The ids of all shims that have a socket.
pub fn list(exec_root: &Path) -> Result<Vec<String>, Error> {
    let entries = match std::fs::read_dir(sockets(exec_root)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list the shims' sockets")(error)),
    };
    let name = |entry: std::fs::DirEntry| {
        entry.file_name().to_str()?.strip_suffix(".sock").map(str::to_owned)
    };
    Ok(entries.flatten().filter_map(name).collect())
}

/// Forgets the socket of a shim that is gone.
pub fn forget(exec_root: &Path, id: &str) {
    let _ = std::fs::remove_file(socket_of(exec_root, id));
}

impl Connection {
    fn new(socket: OwnedFd) -> Result<Self, Error> {
        rustix::io::ioctl_fionbio(&socket, true)
            .map_err(|errno| Error::io("prepare a control socket")(errno.into()))?;
        Ok(Self { socket })
    }

    /// Sends a call; false if it must be tried again when the socket is writable.
    pub fn send(&self, call: &Call, descriptors: &[BorrowedFd<'_>]) -> Result<bool, Error> {
        codec::send(self.socket.as_fd(), call, descriptors)
    }

    /// The next message, or `None` if there is none for now. The end is an error.
    pub fn recv(&self) -> Result<Option<(FromShim, Vec<OwnedFd>)>, Error> {
        match codec::receive(self.socket.as_fd())? {
            Received::Message(message, descriptors) => Ok(Some((message, descriptors))),
            Received::Nothing => Ok(None),
            Received::Closed => {
                Err(Error::io("receive from a shim")(io::ErrorKind::ConnectionReset.into()))
            }
        }
    }

    /// For waiting until there is something to receive.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_program_that_cannot_be_executed_any_more_is_copied() {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::memfd_create("unsealed", flags).unwrap());
        file.write_all(&std::fs::read("/bin/true").unwrap()).unwrap();
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o0)).unwrap();
        let root = Path::new("/nowhere");
        let program = ShimProgram::with(file.into()).unwrap();
        let refused = spawn_image(&program, root, "id").unwrap_err();
        assert!(matches!(refused, Error::Io { .. }), "{refused}");
        spawn(&program, root, "id").unwrap();
    }
}
