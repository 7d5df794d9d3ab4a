//! Loading a seccomp filter.

use std::io;

use crate::check;

/// `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// Filters the system calls of this thread from now on. Needs CAP_SYS_ADMIN or no_new_privs.
/// `flags` are SECCOMP_FILTER_FLAG_*.
pub fn load(program: &[Instruction], flags: u32) -> io::Result<()> {
    let length = u16::try_from(program.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the filter is too long"))?;
    let program = libc::sock_fprog {
        len: length,
        filter: program.as_ptr().cast_mut().cast::<libc::sock_filter>(),
    };
    const SET_MODE_FILTER: libc::c_long = 1;
    // SAFETY: `Instruction` has the layout of sock_filter; the kernel copies and checks `len` of
    // them and writes nothing.
    match check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SET_MODE_FILTER,
            libc::c_ulong::from(flags),
            &raw const program,
        )
    })? {
        0 => Ok(()),
        // With SECCOMP_FILTER_FLAG_TSYNC, a thread that has another filter.
        thread => Err(io::Error::other(format!("thread {thread} has another filter"))),
    }
}
