//! hoy-init: process 1 inside a container started with --init: reaps and forwards signals.
//!
//! `docker-init -- COMMAND ARGS`: starts the command, hands every signal on to it, collects
//! whatever ends, and ends with the command's own code.

use std::ffi::{OsStr, OsString};
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use hoy_sys::process;
use rustix::process::{Pid, WaitOptions};

/// HUP to SYS without CHLD and those that nobody can catch; the real-time ones follow.
fn forwarded() -> Vec<i32> {
    // KILL and STOP cannot be caught; CHLD is ours; faults are of whoever caused them.
    (1..=31).chain(34..=64).filter(|s| !matches!(s, 4 | 5 | 6 | 7 | 8 | 9 | 11 | 19 | 31)).collect()
}

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    if args.peek().is_some_and(|first| first == "--") {
        args.next();
    }
    let Some(program) = args.next() else {
        let _ = writeln!(std::io::stderr(), "docker-init: no command");
        return ExitCode::from(2);
    };
    // Blocked before the child is there: none is lost.
    let Ok(mut signals) = process::signal_fd(&forwarded()) else {
        return ExitCode::from(1);
    };
    let Ok(child) = process::fork(|| become_command(&program, args)) else {
        return ExitCode::from(1);
    };
    supervise(child, &mut signals)
}

/// In the new process, with all signals still blocked: nothing can stop it half way.
fn become_command(program: &OsStr, args: impl Iterator<Item = OsString>) -> i32 {
    // A group of its own, so that the terminal's signals reach it once, through the terminal, whose
    // foreground it has before it can read from it.
    let _ = rustix::process::setpgid(None, None);
    let _ = rustix::termios::tcsetpgrp(std::io::stdin(), rustix::process::getpid());
    process::reset_signals();
    let error = Command::new(program).args(args).exec();
    let text = program.to_string_lossy();
    let _ = writeln!(std::io::stderr(), "[FATAL tini (1)] exec {text} failed: {error}");
    if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 }
}

fn supervise(child: Pid, signals: &mut std::fs::File) -> ExitCode {
    loop {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid != child {
                continue;
            }
            if let Some(code) = status.exit_status() {
                return ExitCode::from(u8::try_from(code).unwrap_or(255));
            }
            if let Some(signal) = status.terminating_signal() {
                return ExitCode::from(u8::try_from(128 + signal).unwrap_or(255));
            }
        }
        // `struct signalfd_siginfo`; the signal's number comes first.
        let mut info = [0; 128];
        match signals.read(&mut info) {
            Ok(128) => {
                let number = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
                if number != 17 {
                    let _ = process::kill(child, number);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let mut fds = [rustix::event::PollFd::new(signals, rustix::event::PollFlags::IN)];
                let _ = rustix::event::poll(&mut fds, None);
            }
            _ => {}
        }
    }
}
