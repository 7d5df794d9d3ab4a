//! Processes of ours that nobody waits for any more, and that have not ended: most will in a
//! moment, and what the kernel holds ends when it is let go.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use hoy_cgroup::Cgroup;
use hoy_runtime::{Remains, reap_now};

#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    processes: Vec<OwnedFd>,
    /// Where they are, for a container that was never started: goes after them.
    cgroup: Option<Cgroup>,
}

impl Leftovers {
    pub fn add(&mut self, processes: Vec<OwnedFd>) {
        self.processes.extend(processes);
    }

    pub fn add_remains(&mut self, remains: Remains) {
        self.processes.extend(remains.processes);
        self.cgroup = Some(remains.cgroup);
    }

    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// Readable when one has ended.
    pub fn interests(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.processes.iter().map(|pidfd| pidfd.as_fd())
    }

    /// Takes the ends of those that have ended.
    pub fn reap(&mut self) {
        if self.is_empty() {
            return;
        }
        self.processes.retain(|pidfd| !reap_now(pidfd));
        if self.is_empty()
            && let Some(cgroup) = self.cgroup.take()
        {
            cgroup.remove();
        }
    }
}
