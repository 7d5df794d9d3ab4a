//! Whether a signal can have any effect on a process: where it cannot, nobody need wait for one.
//!
//! The kernel drops what the first process of a pid namespace has no handler for. Three facts tell:
//! no handler, the signal blocked in no thread (a blocked one may be taken by sigwait or signalfd
//! later), and no thread waiting for signals, since while it waits the kernel shows what it waits
//! for as not blocked. What cannot be found out counts as an effect. A look may meet a process in
//! the midst of something, such as a fork, for which libraries block all signals: another one may
//! tell.

use std::path::Path;
use std::time::Duration;

const SIGKILL: i32 = 9;
const SIGSTOP: i32 = 19;

/// The calls that wait for signals: `rt_sigtimedwait`.
#[cfg(target_arch = "x86_64")]
const WAITS: &str = "128";
#[cfg(not(target_arch = "x86_64"))]
const WAITS: &str = "137";

/// Threads that are looked at; more of them count as an effect.
const MOST: usize = 512;

/// How often it is looked at before that is the answer, and how long is waited in between.
const LOOKS: u32 = 4;
const BETWEEN: Duration = Duration::from_millis(5);

/// What a look has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The signal, sent now, does nothing to the process for sure.
    Lost,
    /// It may have an effect, later or if somebody waits for it; at another moment it may not.
    Unclear,
    /// It has an effect.
    Heard,
}

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

/// Whether the signal, sent now, does nothing to the process. Takes a moment where that is unclear.
pub(crate) fn look(pid: i32, signal: i32) -> Seen {
    if pid <= 0 {
        return Seen::Heard;
    }
    let process = Path::new("/proc").join(pid.to_string());
    let mut seen = Seen::Unclear;
    for number in 0..LOOKS {
        if number > 0 {
            std::thread::sleep(BETWEEN);
        }
        seen = look_once(&process, signal).unwrap_or(Seen::Heard);
        if seen != Seen::Unclear {
            break;
        }
    }
    seen
}

fn look_once(process: &Path, signal: i32) -> Option<Seen> {
    if !(1..=64).contains(&signal) || matches!(signal, SIGKILL | SIGSTOP) {
        return Some(Seen::Heard);
    }
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let seen = judge(parse(&read(&process.join("status"))?)?, signal);
    if seen != Seen::Lost {
        return Some(seen);
    }
    let threads = std::fs::read_dir(process.join("task")).ok()?;
    for (number, thread) in threads.enumerate() {
        let thread = thread.ok()?.path();
        // Before and after: between the two it may have begun or ended to wait.
        let waits = || Some(is_waiting(&read(&thread.join("syscall"))?));
        if number >= MOST {
            return Some(Seen::Heard);
        }
        if waits()? {
            return Some(Seen::Unclear);
        }
        match judge(parse(&read(&thread.join("status"))?)?, signal) {
            Seen::Lost if waits()? => return Some(Seen::Unclear),
            Seen::Lost => {}
            other => return Some(other),
        }
    }
    Some(Seen::Lost)
}

/// `128 0x7ff… …` inside a call, `running` outside of any.
fn is_waiting(syscall: &str) -> bool {
    syscall.split_whitespace().next() == Some(WAITS)
}

fn judge(status: Status, signal: i32) -> Seen {
    let has = |set: u64| set & (1 << (signal - 1)) != 0;
    // Others than the first die of what they do not handle.
    if status.traced || has(status.caught) || !(status.first || has(status.ignored)) {
        Seen::Heard
    } else if has(status.blocked) {
        Seen::Unclear
    } else {
        Seen::Lost
    }
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
        for (numbers, blocked, ignored, caught, seen) in [
            ("77 1", none, none, none, Seen::Lost),
            ("77 1", none, term, none, Seen::Lost),
            ("77 1", none, none, term, Seen::Heard),
            ("77 1", term, none, term, Seen::Heard),
            ("77 1", term, none, none, Seen::Unclear),
            // It dies of it.
            ("77 9", none, none, none, Seen::Heard),
            ("77 9", none, term, none, Seen::Lost),
            ("1", none, none, none, Seen::Heard),
        ] {
            let status = status(numbers, blocked, ignored, caught);
            assert_eq!(judge(status, TERM), seen, "{status:?}");
        }
        let traced = Status { traced: true, ..status("7 1", none, none, none) };
        assert_eq!(judge(traced, TERM), Seen::Heard);
        assert!(is_waiting(&format!("{WAITS} 0x7 0x0\n")) && !is_waiting("running\n"));
        assert_eq!(parse("Name: x"), None);
    }

    #[test]
    fn what_is_not_known_is_an_effect() {
        assert_eq!(look(0, TERM), Seen::Heard);
        assert_eq!(look(i32::MAX, TERM), Seen::Heard);
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!([SIGKILL, 0, 65].map(|signal| look(own, signal)), [Seen::Heard; 3]);
    }
}
