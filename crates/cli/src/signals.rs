//! Signals to this command as a descriptor, so that one loop can wait for them and for streams.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};

pub const INT: i32 = 2;
pub const QUIT: i32 = 3;
pub const HUP: i32 = 1;
pub const TERM: i32 = 15;
pub const WINCH: i32 = 28;

/// The signals caught from now on.
#[derive(Debug)]
pub struct Signals {
    file: File,
}

impl Signals {
    /// Everything that docker hands on to a container's process.
    pub fn proxied() -> io::Result<Self> {
        // Not: ILL, TRAP, ABRT, BUS, FPE, KILL, SEGV, PIPE, CHLD, STOP, URG, SYS.
        let all: Vec<i32> = (1..=31)
            .filter(|n| !matches!(n, 4..=9 | 11 | 13 | 17 | 19 | 23 | 31))
            .chain([10, 12])
            .collect();
        Self::of(&all)
    }

    /// What ends an interactive session, and the window's change of size.
    pub fn of_terminal() -> io::Result<Self> {
        Self::of(&[HUP, INT, QUIT, TERM, WINCH])
    }

    pub fn of(numbers: &[i32]) -> io::Result<Self> {
        Ok(Self { file: hoy_sys::process::signal_fd(numbers)? })
    }

    /// The next signal that has come in, if one has.
    pub fn next(&mut self) -> Option<i32> {
        // `struct signalfd_siginfo`: its first field is the number.
        let mut info = [0; 128];
        match self.file.read(&mut info) {
            Ok(128) => Some(i32::from_ne_bytes([info[0], info[1], info[2], info[3]])),
            _ => None,
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
