//! Ground: the system calls that rustix lacks; the only `unsafe` code of the workspace.
//!
//! Every function here is safe to call: what a call needs to be sound is either in its types or
//! checked before the kernel is asked.

pub mod apart;
pub mod batches;
pub mod bpf;
pub mod datagram;
pub mod exec;
pub mod inherited;
pub mod launch;
pub mod mount;
pub mod process;
pub mod quota;
pub mod seccomp;
pub mod socket;
pub mod userns;

use std::io;

/// The result of a raw call: -1 with `errno`, or a number.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
