//! Why a container does not run, is not well, or cannot start.
//!
//! Facts are gathered at two moments: at the end by the supervisor, which has seen it
//! (`hoy_shim::EndRecord`), and at the question here. What the container's files say a jailed
//! worker finds out (`hoy_look`); the daemon resolves none of their names. From facts to causes all
//! is pure.

mod causes;
mod facts;
mod refused;
mod waiting;
mod words;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hoy_logs::{Follower, Query, Tail};
use hoy_look::{Findings, Question};
use hoy_shim::{EndRecord, Room};
use hoy_types::Signal;
use hoy_wire::{Explanation, OomTask, Probe};

use crate::engine::{Engine, Inner};
use crate::error::{Result, lost};
use crate::record::{MountKind, Record};
use crate::show;
use crate::spec::ports;
use facts::{Facts, Stage};

/// Lines of its log that are looked at, and of these shown.
const LINES: usize = 50;
const LINES_SHOWN: usize = 10;
/// Who asks does not wait longer for disks and workers: what is known by then is told.
const PATIENCE: Duration = Duration::from_secs(8);
/// Workers at once.
const WORKERS: usize = 4;
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Characters of one text of the question.
const LONGEST: usize = 4096;

/// How many look at once.
#[derive(Debug)]
pub(crate) struct Looks {
    worker: hoy_look::Worker,
    turns: tokio::sync::Semaphore,
    /// Of those who look for sources of mounts: one that does not answer keeps its turn.
    sources: Arc<tokio::sync::Semaphore>,
}

impl Looks {
    pub fn new(program: PathBuf) -> Self {
        let turns = tokio::sync::Semaphore::new(WORKERS);
        let sources = Arc::new(tokio::sync::Semaphore::new(WORKERS));
        Self { worker: hoy_look::Worker { program }, turns, sources }
    }
}

impl Engine {
    /// Why a container is as it is.
    pub async fn explain(&self, id: &str) -> Result<Explanation> {
        let handle = self.find(id)?;
        let record = handle.record();
        let inner = Arc::clone(&self.inner);
        let mut known = inner.known(&record);
        if asks_for_files(&known) {
            let turn = tokio::time::timeout(PATIENCE, self.inner.looks.turns.acquire()).await;
            if let Ok(Ok(_turn)) = turn {
                let (inner, record) = (Arc::clone(&inner), record.clone());
                let look = tokio::task::spawn_blocking(move || inner.look(&record));
                // A worker that is late is ended; what it would have said is not known.
                known.files = tokio::time::timeout(PATIENCE, look)
                    .await
                    .ok()
                    .and_then(std::result::Result::ok)
                    .flatten();
            }
        }
        let seen = {
            let (inner, record) = (Arc::clone(&inner), record.clone());
            tokio::task::spawn_blocking(move || inner.seen(&record))
        };
        if let Ok(seen) = tokio::time::timeout(PATIENCE, seen).await {
            let Seen { end, room, log, booted, waits, served } = seen.map_err(lost)?;
            let alive = known.stage() == Stage::Alive;
            let of_this_run = if alive { 0 } else { known.finished };
            let end = end.filter(|end| end.finished_at == of_this_run);
            known = Facts { end, room, log, booted, waits, served, ..known };
        }
        if let Ok(turn) = Arc::clone(&self.inner.looks.sources).try_acquire_owned() {
            let binds = record.mounts.iter().filter_map(|mount| match &mount.kind {
                MountKind::Bind { source, .. } => Some(source.clone()),
                _ => None,
            });
            let found = waiting::sources(binds.collect(), turn).await;
            (known.gone, known.silent) = (found.gone, found.silent);
        }
        Ok(told(handle.id.as_str(), &record, &known))
    }
}

/// Whether a program that could not begin, or could not find its parts, is in it.
fn asks_for_files(facts: &Facts) -> bool {
    match facts.stage() {
        Stage::Refused => true,
        Stage::Ended => matches!(facts.exit_code, 126 | 127),
        Stage::NeverStarted | Stage::Alive => false,
    }
}

/// What takes a look at disks.
struct Seen {
    end: Option<EndRecord>,
    room: Option<Room>,
    log: Vec<String>,
    booted: i64,
    waits: Vec<waiting::Waiting>,
    served: Vec<(String, String)>,
}

impl Inner {
    /// What this daemon knows by itself.
    fn known(&self, record: &Record) -> Facts {
        let shown = show::inspect(self, record);
        let state = shown.state.unwrap_or_default();
        let (config, host) = (&record.config, &record.host);
        let positive = |number: i64| u64::try_from(number).ok().filter(|number| *number > 0);
        Facts {
            name: record.name.clone(),
            status: state.status,
            restarting: state.restarting,
            exit_code: record.state.exit_code,
            error: record.state.error.clone(),
            oom_killed: record.state.oom_killed,
            started: record.state.started_at.nanos(),
            finished: record.state.finished_at.nanos(),
            command: record.command.clone(),
            open_stdin: config.open_stdin,
            user: config.user.clone(),
            cwd: match config.working_dir.as_str() {
                "" => "/".to_owned(),
                cwd => cwd.to_owned(),
            },
            readonly: host.readonly_rootfs,
            memory: positive(host.memory),
            pids: host.pids_limit.and_then(positive),
            size: host.storage_opt.get("size").cloned(),
            targets: record.mounts.iter().map(|mount| mount.target.clone()).collect(),
            policy: host.restart_policy.name.clone(),
            restarts: shown.restart_count,
            health: state.health,
            holders: self.holders(record),
            ..Facts::default()
        }
    }

    /// Containers that run and have a port that this one wants for itself.
    fn holders(&self, record: &Record) -> Vec<String> {
        let wanted = ports(record).unwrap_or_default();
        if wanted.is_empty() || record.state.phase.is_alive() {
            return Vec::new();
        }
        let mut out = Vec::new();
        for other in self.registry.all() {
            let other = other.record();
            if other.id == record.id || !other.state.phase.is_alive() {
                continue;
            }
            let theirs = ports(&other).unwrap_or_default();
            let meets = wanted.iter().filter(|one| one.host_ports.is_some()).any(|one| {
                theirs.iter().any(|their| {
                    their.host_ports == one.host_ports
                        && their.container.protocol == one.container.protocol
                })
            });
            if meets {
                out.push(other.name.clone());
            }
        }
        out
    }

    fn seen(&self, record: &Record) -> Seen {
        let directory = self.store.container_directory(record.key());
        let (waits, served) = self.held(record);
        Seen {
            end: EndRecord::read(&directory),
            room: Room::at(&directory),
            log: self.last_lines(record),
            booted: booted(),
            waits,
            served,
        }
    }

    /// Its processes that wait for a file system's server, and what it has of such.
    fn held(&self, record: &Record) -> (Vec<waiting::Waiting>, Vec<(String, String)>) {
        if !record.state.phase.is_alive() {
            return Default::default();
        }
        let plan = crate::plan::cgroup(record, &self.settings);
        let cgroup = hoy_cgroup::Cgroup::open(&plan).ok().flatten();
        let processes = cgroup.map(|cgroup| cgroup.processes()).unwrap_or_default();
        let waits = waiting::of_processes(&processes);
        let mounts = format!("/proc/{}/mountinfo", record.state.pid);
        let served = waiting::served(&std::fs::read_to_string(mounts).unwrap_or_default());
        (waits, served)
    }

    fn last_lines(&self, record: &Record) -> Vec<String> {
        let query = Query { stdout: true, stderr: true, since: None, until: None };
        let (path, format) = (self.log_path(record), crate::logging::format(&record.host));
        let Ok(mut follower) = Follower::open(&path, format, query, Tail::Last(LINES)) else {
            return Vec::new();
        };
        let mut out = Vec::new();
        // Who writes on does not keep us.
        while let (Ok(Some(record)), true) = (follower.next_record(), out.len() < 2 * LINES) {
            let text: String = String::from_utf8_lossy(&record.text).chars().take(1000).collect();
            out.push(text.trim_end_matches(['\n', '\r']).to_owned());
        }
        out
    }

    /// What its files say, below what it has written and its image.
    fn look(&self, record: &Record) -> Option<Findings> {
        let said = |error: &dyn std::fmt::Display| {
            tracing::warn!(container = record.id.short(), %error, "look at a container's files");
        };
        let ticket =
            self.images.layers(record.layers.clone()).map_err(|error| said(&error)).ok()?;
        let upper = self.layer_directory(record).join("upper");
        let mut directories = vec![upper].into_iter().filter(|upper| upper.exists()).collect();
        // One with a limit of its own is not there while it rests: then the image is all there is.
        let directories: &mut Vec<PathBuf> = &mut directories;
        directories.extend(ticket.layers.iter().cloned());
        let root = hoy_runtime::image_root(directories).map_err(|error| said(&error)).ok()?;
        if directories.len() > 1 {
            // A mount of ours alone. No node in it is a device.
            let flags = hoy_sys::mount::RDONLY | hoy_sys::mount::NODEV;
            let set =
                hoy_sys::mount::set_attributes(std::os::fd::AsFd::as_fd(&root), flags, 0, false);
            set.map_err(|error| said(&error)).ok()?;
        }
        let asked = self.looks.worker.ask(&root, &question(record));
        asked.map_err(|error| said(&error)).ok()
    }
}

fn question(record: &Record) -> Question {
    let cut = |text: &str| text.chars().take(LONGEST).collect::<String>();
    let variable = |name: &str| {
        let all = record.config.env.iter().flatten();
        let found = all.rev().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='));
        found.map(cut)
    };
    let list = |text: String| text.split(':').map(str::to_owned).collect::<Vec<_>>();
    let user = record.config.user.split(':').next().unwrap_or_default();
    let named = user.parse::<u32>().is_err();
    Question {
        command: cut(record.command.first().map_or("", String::as_str)),
        path: list(variable("PATH").unwrap_or_else(|| DEFAULT_PATH.to_owned())),
        libraries: variable("LD_LIBRARY_PATH").map(list).unwrap_or_default(),
        cwd: match record.config.working_dir.as_str() {
            "" => "/".to_owned(),
            cwd => cut(cwd),
        },
        user: if named { cut(user) } else { String::new() },
    }
}

/// When the machine was started, in nanoseconds since 1970.
fn booted() -> i64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("btime "));
    let seconds = line.and_then(|text| text.trim().parse::<i64>().ok()).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000)
}

fn told(id: &str, record: &Record, facts: &Facts) -> Explanation {
    let causes = causes::causes(facts);
    let end = facts.end.clone().unwrap_or_default();
    let probes = facts.health.iter().flat_map(|health| health.log.iter().flatten());
    let first = causes.first().map(|cause| cause.what.clone()).unwrap_or_default();
    let skipped = facts.log.len().saturating_sub(LINES_SHOWN);
    let stage = facts.stage();
    let has_ended = stage == Stage::Ended;
    Explanation {
        id: id.to_owned(),
        name: record.name.clone(),
        status: facts.status.clone(),
        summary: first,
        exit_code: i64::from(facts.exit_code),
        signal: end
            .signal
            .filter(|_| has_ended)
            .and_then(Signal::from_number)
            .map(|signal| signal.to_string())
            .unwrap_or_default(),
        started_at: record.state.started_at.to_string(),
        finished_at: record.state.finished_at.to_string(),
        error: facts.error.clone(),
        causes,
        log: facts.log.iter().skip(skipped).cloned().collect(),
        probes: probes
            .map(|probe| Probe {
                start: probe.start.to_string(),
                exit_code: probe.exit_code,
                output: words::cut(&probe.output),
            })
            .collect(),
        tasks: end
            .tasks
            .into_iter()
            .filter(|_| facts.oom_killed)
            .map(|task| OomTask {
                pid: i64::from(task.pid),
                name: task.name,
                rss: task.rss,
                killed: task.killed,
            })
            .collect(),
    }
}
