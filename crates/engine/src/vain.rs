//! Whether a signal can have any effect on a process: where it cannot, nobody need wait for one.
//!
//! The kernel drops what the first process of a pid namespace has no handler for. Three facts tell:
//! no handler, the signal blocked in no thread (a blocked one may be taken by sigwait or signalfd
//! later), and no thread waiting for signals, since while it waits the kernel shows what it waits
//! for as not blocked. What cannot be found out counts as an effect.

use std::path::Path;

const SIGKILL: i32 = 9;
const SIGSTOP: i32 = 19;

/// The calls that wait for signals: `rt_sigtimedwait`.
#[cfg(target_arch = "x86_64")]
const WAITS: &str = "128";
#[cfg(not(target_arch = "x86_64"))]
const WAITS: &str = "137";

/// Threads that are looked at; more of them count as an effect.
const MOST: usize = 512;

/// What /proc/PID/status says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Status {
    /// It is the first process of a namespace that is not the machine's.
    first: bool,
    traced: bool,
    blocked: u64,
    ignored: u64,
    caught: u64,
}

/// Whether the signal, sent now, does nothing to the process for sure.
pub(crate) fn in_vain(pid: i32, signal: i32) -> bool {
    pid > 0 && look(&Path::new("/proc").join(pid.to_string()), signal).unwrap_or(false)
}

fn look(process: &Path, signal: i32) -> Option<bool> {
    if !(1..=64).contains(&signal) || matches!(signal, SIGKILL | SIGSTOP) {
        return Some(false);
    }
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    if !is_lost(parse(&read(&process.join("status"))?)?, signal) {
        return Some(false);
    }
    let threads = std::fs::read_dir(process.join("task")).ok()?;
    for (number, thread) in threads.enumerate() {
        let thread = thread.ok()?.path();
        // Before and after: between the two it may have begun or ended to wait.
        let waits = || Some(is_waiting(&read(&thread.join("syscall"))?));
        if number >= MOST || waits()? {
            return Some(false);
        }
        if !is_lost(parse(&read(&thread.join("status"))?)?, signal) || waits()? {
            return Some(false);
        }
    }
    Some(true)
}

/// `128 0x7ff… …` inside a call, `running` outside of any.
fn is_waiting(syscall: &str) -> bool {
    syscall.split_whitespace().next() == Some(WAITS)
}

fn is_lost(status: Status, signal: i32) -> bool {
    let has = |set: u64| set & (1 << (signal - 1)) != 0;
    !status.traced
        && !has(status.blocked)
        && !has(status.caught)
        // Others die of what they do not handle.
        && (status.first || has(status.ignored))
}

fn parse(text: &str) -> Option<Status> {
    let value = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    };
    let set = |name: &str| u64::from_str_radix(value(name)?, 16).ok();
    let numbers: Vec<&str> = value("NStgid")?.split_whitespace().collect();
    Some(Status {
        first: numbers.len() > 1 && numbers.last() == Some(&"1"),
        traced: value("TracerPid")? != "0",
        blocked: set("SigBlk")? | set("ShdPnd")? | set("SigPnd")?,
        ignored: set("SigIgn")?,
        caught: set("SigCgt")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: i32 = 15;

    fn status(numbers: &str, blocked: &str, ignored: &str, caught: &str) -> Status {
        let text = format!(
            "Name:\tx\nTracerPid:\t0\nNStgid:\t{numbers}\nSigPnd:\t0\nShdPnd:\t0\nSigBlk:\t{blocked}\n\
             SigIgn:\t{ignored}\nSigCgt:\t{caught}\n"
        );
        parse(&text).unwrap()
    }

    #[test]
    fn who_loses_a_signal() {
        let (none, term) = ("0000000000000000", "0000000000004000");
        for (numbers, blocked, ignored, caught, lost) in [
            ("77 1", none, none, none, true),
            ("77 1", none, term, none, true),
            ("77 1", none, none, term, false),
            ("77 1", term, none, none, false),
            // It dies of it.
            ("77 9", none, none, none, false),
            ("77 9", none, term, none, true),
            ("1", none, none, none, false),
        ] {
            let status = status(numbers, blocked, ignored, caught);
            assert_eq!(is_lost(status, TERM), lost, "{status:?}");
        }
        let traced = Status { traced: true, ..status("7 1", none, none, none) };
        assert!(!is_lost(traced, TERM));
        assert!(is_waiting(&format!("{WAITS} 0x7 0x0\n")) && !is_waiting("running\n"));
        assert_eq!(parse("Name: x"), None);
    }

    #[test]
    fn what_is_not_known_is_an_effect() {
        assert!(!in_vain(0, TERM));
        assert!(!in_vain(i32::MAX, TERM));
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(!in_vain(own, SIGKILL) && !in_vain(own, 0) && !in_vain(own, 65));
    }
}
