//! The keeper: the one helper of the host. It holds the sockets of published ports, beyond the
//! daemon's death, and carries what the kernel cannot.
//!
//! It is the daemon's program, executed with the argument `ports`; a child of init in a session of
//! its own, without any capability but that to bind low ports. It ends by itself when it holds
//! nothing and no daemon is connected, or when none can come any more since its socket's file is
//! gone. One thread, one epoll, no waiting call.
//!
//! An upgrade: the greeting tells versions. A daemon that finds a keeper of another version starts
//! its own, and that one takes all sockets over from the old one (SCM_RIGHTS), so that no port is
//! free in between and no connection is refused. The old one only serves the connections that it
//! has, and ends with the last of them; its UDP sessions begin anew at the new one.
//!
//! Its bounds: half of the descriptors may be held ports, the other half is for connections (six
//! each) and UDP sessions; where those are used up, connections wait in the kernel's queue, and the
//! oldest UDP session makes room.

mod client;
mod hold;
mod message;
mod serve;
mod tcp;
mod udp;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use hoy_sys::process::{self, CloneArgs};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

pub(crate) use client::Holder;
pub(crate) use hold::{Hold, Key, take};
pub use message::VERSION;

/// Where the keeper's program is and where it listens.
#[derive(Clone, Debug)]
pub struct KeeperPlace {
    /// The daemon's own program: it is executed with the argument `ports`.
    pub program: PathBuf,
    /// `<exec root>/ports.sock`.
    pub socket: PathBuf,
}

/// How many of a process's descriptors may be ports.
pub(crate) fn sockets_of(descriptors: Option<u64>) -> usize {
    usize::try_from(descriptors.unwrap_or(20_000)).unwrap_or(20_000).min(200_000) / 2
}

/// What `hoyd ports SOCKET [succeed]` does; `args` are those after `ports`.
pub fn main(args: &[String]) -> ExitCode {
    main_as(args, VERSION)
}

/// As a keeper of another version: for tests of what an upgrade does.
#[doc(hidden)]
pub fn main_as(args: &[String], version: u16) -> ExitCode {
    let (path, succeed) = match args {
        [path] => (PathBuf::from(path), false),
        [path, word] if word == "succeed" => (PathBuf::from(path), true),
        _ => return ExitCode::FAILURE,
    };
    // A new process, so that it is nobody's child; with nothing open but the standard streams.
    let spawned = process::spawn(CloneArgs { keep: Some(&[]), ..CloneArgs::default() }, || {
        i32::from(run(&path, succeed, version).is_err())
    });
    if spawned.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(path: &Path, succeed: bool, version: u16) -> io::Result<()> {
    rustix::process::setsid()?;
    let _ = rustix::thread::set_name(c"hoy-ports");
    // The daemon's end of a socket pair came as standard input; nobody else is to see it open.
    let daemon = rustix::stdio::stdin().try_clone_to_owned()?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    drop(null);
    let limit = rustix::process::getrlimit(Resource::Nofile).maximum;
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit })?;
    let inherited = if succeed { predecessor(path) } else { Vec::new() };
    let (directory, name) = place(path)?;
    let door = open_door(directory, name)?;
    rustix::process::chdir("/")?;
    restrict()?;
    serve::Keeper::new(version, limit, door, inherited)?.serve(daemon)?;
    Ok(())
}

/// The sockets of the keeper that listens there. What cannot be had is bound anew.
fn predecessor(path: &Path) -> Vec<(Key, bool, OwnedFd)> {
    match client::existing(path) {
        Ok(Some(socket)) => message::take_over(socket.as_fd()).unwrap_or_default(),
        _ => Vec::new(),
    }
}

fn place(path: &Path) -> io::Result<(OwnedFd, OsString)> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let name = path.file_name().ok_or_else(invalid)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = path.parent().ok_or_else(invalid)?;
    Ok((rustix::fs::openat(CWD, parent, flags, Mode::empty())?, name.to_owned()))
}

/// Where daemons knock. It knows whether the file is still its own.
#[derive(Debug)]
pub(crate) struct Door {
    socket: OwnedFd,
    directory: OwnedFd,
    name: OsString,
    inode: u64,
}

impl Door {
    /// Whether anybody can still knock.
    fn is_there(&self) -> bool {
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        let now = rustix::fs::statat(&self.directory, &self.name, flags);
        now.is_ok_and(|now| now.st_ino == self.inode)
    }

    /// Takes the file away, unless it is a successor's.
    fn remove(&self) {
        if self.is_there() {
            let none = rustix::fs::AtFlags::empty();
            let _ = rustix::fs::unlinkat(&self.directory, &self.name, none);
        }
    }
}

fn open_door(directory: OwnedFd, name: OsString) -> io::Result<Door> {
    let none = rustix::fs::AtFlags::empty();
    let _ = rustix::fs::unlinkat(&directory, &name, none);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::process::umask(Mode::from_raw_mode(0o177));
    bind(&socket, &client::address(&directory, &name)?)?;
    listen(&socket, 8)?;
    let inode =
        rustix::fs::statat(&directory, &name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?.st_ino;
    Ok(Door { socket, directory, name, inode })
}

/// From here on it can do nothing that anybody could not do, but bind low ports.
fn restrict() -> io::Result<()> {
    // No core: there is nothing in it but other people's traffic.
    process::set_rlimit(4, 0, 0)?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    rustix::thread::set_no_new_privs(true)?;
    let kept = CapabilitySet::NET_BIND_SERVICE;
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if capability != kept
            && rustix::thread::remove_capability_from_bounding_set(capability).is_err()
        {
            break;
        }
    }
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)?;
    Ok(())
}
