//! Becoming another program.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::RawFd;

/// A list of C strings with the terminating null, as execve wants it.
pub struct CStringArray {
    // Owns what `pointers` points at.
    _strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl CStringArray {
    pub fn new(strings: Vec<CString>) -> Self {
        let mut pointers: Vec<_> = strings.iter().map(|text| text.as_ptr()).collect();
        pointers.push(std::ptr::null());
        Self { _strings: strings, pointers }
    }

    /// Replaces this program by the one in a file that is open, with these arguments. Returns only
    /// with what went wrong. Allocates nothing.
    pub(crate) fn execute(&self, image: RawFd, env: &Self) -> io::Error {
        // SAFETY: an empty path and arrays that are NUL-terminated and alive; on success nothing
        // of ours remains.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                image,
                c"".as_ptr(),
                self.pointers.as_ptr(),
                env.pointers.as_ptr(),
                libc::AT_EMPTY_PATH,
            )
        };
        io::Error::last_os_error()
    }
}

/// Replaces this program. Returns only with what went wrong.
pub fn execve(path: &CStr, args: &CStringArray, env: &CStringArray) -> io::Error {
    // SAFETY: path and arrays are NUL-terminated and alive; on success nothing of ours remains.
    unsafe { libc::execve(path.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr()) };
    io::Error::last_os_error()
}
