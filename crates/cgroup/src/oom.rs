//! Hearing of processes that the kernel ends for want of memory.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags, inotify};

use crate::write_file;

/// Readable after the kernel was short of memory in a cgroup.
#[derive(Debug)]
pub struct OomWatch(OwnedFd);

impl OomWatch {
    pub(crate) fn new(directory: BorrowedFd<'_>, unified: bool) -> io::Result<Self> {
        if unified {
            let watch =
                inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
            let path = format!("/proc/self/fd/{}/memory.events", directory.as_raw_fd());
            inotify::add_watch(&watch, path, inotify::WatchFlags::MODIFY)?;
            return Ok(Self(watch));
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let control = rustix::fs::openat(directory, "memory.oom_control", flags, Mode::empty())?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
        write_file(directory, "cgroup.event_control", &line)?;
        Ok(Self(event))
    }

    /// Takes what was signalled, so that the next time is seen as new.
    pub fn clear(&self) {
        let mut buffer = [0_u8; 4096];
        while rustix::io::read(&self.0, &mut buffer).is_ok_and(|length| length > 8) {}
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
