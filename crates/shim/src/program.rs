//! The program `hoy-shim` from its start to its loop: leaving the daemon, becoming a supervisor.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use hoy_sys::process;
use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use rustix::process::DumpableBehavior;

use crate::client::socket_of;
use crate::supervise::Shim;

/// HUP, INT, QUIT, PIPE, TERM: a supervisor ends with its container.
const IGNORED: [i32; 5] = [1, 2, 3, 13, 15];

/// The whole program: `hoy-shim EXEC-ROOT ID`, with the daemon's socket as its standard input.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let [_, exec_root, id] = args.as_slice() else { return ExitCode::from(2) };
    let (exec_root, Some(id)) = (PathBuf::from(exec_root), id.to_str().map(str::to_owned)) else {
        return ExitCode::from(2);
    };
    // The parent goes at once, so that init becomes the shim's parent, whatever the daemon does.
    match process::spawn(process::CloneArgs::default(), || run(&exec_root, &id)) {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(exec_root: &Path, id: &str) -> i32 {
    // There is nobody to tell but the daemon, and it sees its socket closed.
    match become_supervisor(exec_root, id) {
        Ok(mut shim) => shim.work(),
        Err(_) => 1,
    }
}

fn become_supervisor(exec_root: &Path, id: &str) -> io::Result<Shim> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::thread::set_name(c"hoy-shim")?;
    rustix::process::setsid()?;
    rustix::process::chdir("/")?;
    for signal in IGNORED {
        process::ignore_signal(signal);
    }
    let control = rustix::stdio::stdin().try_clone_to_owned()?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::io::ioctl_fionbio(&control, true)?;
    // For the socket: 0600.
    rustix::process::umask(Mode::from_raw_mode(0o177));
    let (listener, socket) = listener(exec_root, id)?;
    rustix::process::umask(Mode::from_raw_mode(0o077));
    Ok(Shim::new(control, listener, socket))
}

/// A listening socket by which later daemons find us; by descriptor, since paths may be long.
fn listener(exec_root: &Path, id: &str) -> io::Result<(OwnedFd, PathBuf)> {
    let path = socket_of(exec_root, id);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let directory = path.parent().unwrap_or(exec_root);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let handle = rustix::fs::open(directory, flags, Mode::empty())?;
    let short = format!("/proc/self/fd/{}/{id}.sock", handle.as_raw_fd());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    if hoy_weak::without(hoy_weak::Protection::PathSockets) {
        let other = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        bind(&other, &SocketAddrUnix::new_abstract_name(format!("hoy/{id}").as_bytes())?)?;
        std::mem::forget(other);
    }
    bind(&socket, &SocketAddrUnix::new(short)?)?;
    listen(&socket, 8)?;
    Ok((socket, path))
}
