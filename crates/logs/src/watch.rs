//! Waiting for more of a log: a descriptor that becomes readable when the log may have grown.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::LogError;

/// How often a log is looked at where the kernel has no watch left for us.
const LOOK: Duration = Duration::from_millis(100);

/// Watches the directory of a log. Made before the log is read to its end, it misses nothing.
#[derive(Debug)]
pub struct Watch {
    fd: OwnedFd,
}

impl Watch {
    pub fn new(log: &Path) -> Result<Self, LogError> {
        let fd = match by_inotify(log) {
            // The user's instances or watches are used up: 128 and 8192 by default.
            Err(Errno::MFILE | Errno::NOSPC) => by_timer(),
            other => other,
        };
        let fd = fd.map_err(|errno| LogError::new("watch", log, errno))?;
        Ok(Self { fd })
    }

    /// To be called when the descriptor is readable, before the log is read again.
    pub fn clear(&self) -> Result<(), LogError> {
        let mut buffer = [0_u8; 4096];
        loop {
            match rustix::io::read(&self.fd, &mut buffer) {
                // A timer has one number to say, however often it is asked.
                Ok(8) | Err(Errno::AGAIN) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(LogError::new("watch", Path::new("file"), errno)),
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn by_inotify(log: &Path) -> Result<OwnedFd, Errno> {
    let directory = log.parent().unwrap_or(Path::new("/"));
    let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    // The file's growth, and the new file after a rotation.
    let events = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
    inotify::add_watch(&fd, directory, events | WatchFlags::ONLYDIR)?;
    Ok(fd)
}

fn by_timer() -> Result<OwnedFd, Errno> {
    let fd =
        timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    let period = Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
    let times = Itimerspec { it_interval: period, it_value: period };
    timerfd_settime(&fd, TimerfdTimerFlags::empty(), &times)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::OwnedFd;
    use std::time::Instant;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn ready(watch: &Watch) -> bool {
        let mut fds = [PollFd::new(watch, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
    }

    #[test]
    fn growth_wakes() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let watch = Watch::new(&log).unwrap();
        assert!(!ready(&watch));
        let mut file = std::fs::File::create(&log).unwrap();
        assert!(ready(&watch));
        watch.clear().unwrap();
        assert!(!ready(&watch));
        file.write_all(b"x").unwrap();
        assert!(ready(&watch));
    }

    #[test]
    fn without_inotify_a_timer_wakes() {
        let started = Instant::now();
        let fd: OwnedFd = by_timer().unwrap();
        let watch = Watch { fd };
        while !ready(&watch) {
            assert!(started.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(1));
        }
        watch.clear().unwrap();
        assert!(started.elapsed() >= LOOK);
    }
}
