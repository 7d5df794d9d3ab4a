//! The supervisor as a witness of its container's end: what it has seen, while it could be seen.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hoy_runtime::ContainerPlan;

use crate::end::{EndRecord, Room};
use crate::held::Held;
use crate::memory;
use crate::session::Exit;

/// Processes are looked at no more often, whatever the kernel says how often.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub(crate) struct Witness {
    /// Where the record goes.
    directory: PathBuf,
    id: String,
    /// The writable directory, which is the store's.
    upper: PathBuf,
    end: EndRecord,
    looked: Option<Instant>,
    /// When the kernel's log was read.
    read: Option<Instant>,
}

impl Witness {
    pub fn new(directory: &Path, plan: &ContainerPlan) -> Self {
        EndRecord::clear(directory);
        Self {
            directory: directory.to_owned(),
            id: plan.id.clone(),
            upper: plan.root.upper.clone(),
            ..Self::default()
        }
    }

    /// The daemon asks for a signal.
    pub fn asked(&mut self, signal: i32, all: bool, at: i64) {
        self.end.ask(signal, all, at);
    }

    /// The kernel is about to end something, or has just done so.
    pub fn short_of_memory(&mut self, running: &Held) {
        if self.looked.is_some_and(|looked| looked.elapsed() < BETWEEN_LOOKS) {
            return;
        }
        self.looked = Some(Instant::now());
        let seen = memory::of_processes(&running.processes());
        if !seen.is_empty() {
            self.end.tasks = seen;
        }
    }

    /// The kernel has ended something, and the container goes on: what is seen now is told as long
    /// as it does.
    pub fn oom_killed(&mut self, running: &Held) {
        if self.read.is_some_and(|read| read.elapsed() < BETWEEN_LOOKS) {
            return;
        }
        self.read = Some(Instant::now());
        self.memory(running);
        let _ = self.end.write(&self.directory);
    }

    fn memory(&mut self, running: &Held) {
        let peak = ["memory.peak", "memory.max_usage_in_bytes"].into_iter();
        let peak = peak.filter_map(|file| running.cgroup_text("memory", file)).next();
        self.end.memory_peak = peak.and_then(|text| text.trim().parse().ok());
        // The kernel's own table says more, and is of the moment itself.
        let table = memory::of_the_kernel(&self.id);
        if !table.is_empty() {
            self.end.tasks = table;
        }
    }

    /// The first process has ended; its cgroup is there still.
    pub fn ended(&mut self, running: &Held, exit: &Exit, oom_kills: u64) {
        if exit.code == 0 && oom_kills == 0 && self.end.asked.is_empty() {
            // Nobody asks why.
            return;
        }
        if oom_kills > 0 {
            self.memory(running);
        }
        let end = &mut self.end;
        end.finished_at = exit.at;
        end.signal = exit.signal;
        let events = running.cgroup_text("pids", "pids.events").unwrap_or_default();
        let refused = events.lines().find_map(|line| line.strip_prefix("max "));
        end.pids_refused = refused.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        end.room = Room::at(&self.upper);
        // Without it, less is known.
        let _ = end.write(&self.directory);
    }
}
