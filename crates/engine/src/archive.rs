//! Use cases of a container's files: cp, diff and export. The daemon looks at none of them itself:
//! a jailed worker does (`hoy_archive`).
//!
//! Where a container runs, its worker sees what it sees. Where it does not, the worker shows the
//! files to itself; the container is not started meanwhile, since nothing may be written through
//! two overlays at once.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hoy_archive::{ArchiveError, ChangeKind, Fault, Job, PathStat, Place, Running, Task};
use hoy_runtime::{Propagation, RootPlan};
use hoy_types::{ErrorKind, Timestamp, UserSpec};
use hoy_wire as wire;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, mpsc};

use crate::driver::Command;
use crate::engine::{Engine, Inner};
use crate::error::{Error, Result, failed, lost};
use crate::images::BodyReader;
use crate::life::Phase;
use crate::plan;
use crate::record::{MountKind, Record};

/// How long somebody else may have the files of a container that does not run.
const TURN: Duration = Duration::from_secs(60);
/// Pieces of an archive that may wait for a slow client.
const AHEAD: usize = 8;

/// How an archive is laid out in a container.
#[derive(Clone, Copy, Debug, Default)]
pub struct PutOptions {
    /// A directory stays a directory, and what is none stays none.
    pub keep_kinds: bool,
    /// Everything belongs to the container's user.
    pub as_user: bool,
}

/// Kept while somebody works on a container's files.
#[expect(dead_code, reason = "kept, not looked at")]
enum Turn {
    /// It runs: others may work on them, too, but it is not started again.
    Shared(OwnedRwLockReadGuard<()>),
    Alone(OwnedRwLockWriteGuard<()>),
}

/// What is given back when the worker's process is no more.
struct Lease {
    inner: Arc<Inner>,
    record: Arc<Record>,
    attached: bool,
    _layers: hoy_images::RootfsTicket,
    _turn: Turn,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.attached {
            self.inner.detach_volumes(&self.record);
        }
    }
}

/// A container's files, held still for one worker.
pub(crate) struct Held {
    pub record: Arc<Record>,
    pub running: bool,
    turn: Turn,
}

fn archive_error(error: ArchiveError) -> Error {
    let kind = match &error {
        ArchiveError::Failed(Fault::Missing, _) => ErrorKind::NotFound,
        ArchiveError::Client(_) => ErrorKind::InvalidParameter,
        ArchiveError::Late => ErrorKind::Timeout,
        // As Docker has it, also for what is the client's fault.
        ArchiveError::Failed(Fault::Other, _) | ArchiveError::Io { .. } => ErrorKind::System,
    };
    Error::new(kind, error.to_string()).with_source(error)
}

/// Docker names what is missing as it was asked for.
fn path_error(error: ArchiveError, id: &str, path: &str) -> Error {
    match error {
        ArchiveError::Failed(Fault::Missing, _) => {
            Error::not_found(format!("Could not find the file {path} in container {id}"))
        }
        other => archive_error(other),
    }
}

fn shown(stat: PathStat) -> wire::PathStat {
    wire::PathStat {
        name: stat.name,
        size: stat.size,
        mode: stat.mode,
        mtime: Timestamp::from_parts(stat.seconds, stat.nanos),
        link_target: stat.target,
    }
}

impl Engine {
    /// Waits for a turn with a container's files.
    pub(crate) async fn hold_files(&self, id: &str) -> Result<Held> {
        let handle = self.find(id)?;
        let busy = |_| {
            Error::conflict(format!(
                "the files of container {} are in use by another copy, commit or start",
                handle.id
            ))
        };
        loop {
            let alive = handle.record().state.phase.is_alive();
            let tree = Arc::clone(&handle.tree);
            let turn = if alive {
                Turn::Shared(tokio::time::timeout(TURN, tree.read_owned()).await.map_err(busy)?)
            } else {
                Turn::Alone(tokio::time::timeout(TURN, tree.write_owned()).await.map_err(busy)?)
            };
            // What its supervisor has said is known by then, and one that has ended has let go.
            handle.ask(Command::Rest).await?;
            let record = handle.record();
            match record.state.phase {
                Phase::Removing => {
                    let text = format!("container {} is marked for removal", handle.id);
                    return Err(Error::conflict(text));
                }
                phase if phase.is_alive() == alive => {
                    return Ok(Held { record, running: alive, turn });
                }
                // It has ended or begun meanwhile.
                _ => {}
            }
        }
    }

    /// Starts a worker on a container's files. Blocks.
    fn work(&self, held: Held, task: Task) -> Result<Running> {
        let inner = Arc::clone(&self.inner);
        let record = Arc::clone(&held.record);
        let doing = "open the container's files";
        let layers = inner.images.layers(record.layers.clone()).map_err(failed(doing))?;
        let alone = matches!(task, Task::Export | Task::Changes { .. } | Task::Layer { .. });
        let compares = matches!(task, Task::Changes { .. } | Task::Layer { .. });
        let mut lease = Lease {
            inner: Arc::clone(&inner),
            record: Arc::clone(&record),
            attached: false,
            _layers: layers,
            _turn: held.turn,
        };
        let (place, pidfd) = if held.running {
            let userns = inner.userns(&record.host).is_some();
            let pidfd = if compares { None } else { Some(first_process(&record)?) };
            (Place::Running { userns }, pidfd)
        } else {
            lease.attached = true;
            let volumes = inner.attach_volumes(&record)?;
            let mounts = match alone {
                true => Vec::new(),
                false => inner.resting_mounts(&record, &volumes)?,
            };
            let root = inner.root_plan(&record, &lease._layers);
            (Place::Resting { root, label: record.labels.mount.clone(), mounts }, None)
        };
        let task = match task {
            Task::Changes { .. } => {
                Task::Changes { root: inner.root_plan(&record, &lease._layers) }
            }
            Task::Layer { .. } => Task::Layer { root: inner.root_plan(&record, &lease._layers) },
            task => task,
        };
        let started = inner.archives.start(&Job { place, task }, pidfd, Box::new(lease));
        started.map_err(archive_error)
    }

    /// Starts a worker and does something with it, on a thread that may wait.
    pub(crate) async fn with_worker<T: Send + 'static>(
        &self,
        held: Held,
        task: Task,
        work: impl FnOnce(&mut Running) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let engine = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let mut worker = engine.work(held, task)?;
            work(&mut worker)
        });
        done.await.map_err(lost)?
    }

    /// What lies at a path of a container.
    pub async fn archive_stat(&self, id: &str, path: &str) -> Result<wire::PathStat> {
        let held = self.hold_files(id).await?;
        let task = Task::Stat { path: path.to_owned() };
        let (id, path) = (id.to_owned(), path.to_owned());
        let stat = self.with_worker(held, task, move |worker| {
            let stat = worker.stat().map_err(|error| path_error(error, &id, &path))?;
            worker.done().map_err(archive_error)?;
            Ok(stat)
        });
        Ok(shown(stat.await?))
    }

    /// An archive of what lies at a path, piece by piece.
    pub async fn archive_get(
        &self,
        id: &str,
        path: &str,
    ) -> Result<(wire::PathStat, mpsc::Receiver<io::Result<Bytes>>)> {
        let held = self.hold_files(id).await?;
        let record = Arc::clone(&held.record);
        let task = Task::Get { path: path.to_owned() };
        let (engine, id, path) = (self.clone(), id.to_owned(), path.to_owned());
        let begun = tokio::task::spawn_blocking(move || {
            let mut worker = engine.work(held, task)?;
            let stat = worker.stat().map_err(|error| path_error(error, &id, &path))?;
            Ok((stat, worker))
        });
        let (stat, worker) = begun.await.map_err(lost)??;
        self.inner.container_event(&record, "archive-path", &[]);
        Ok((shown(stat), stream(worker)))
    }

    /// Unpacks an archive in a directory of a container.
    pub async fn archive_put(
        &self,
        id: &str,
        path: &str,
        options: PutOptions,
        body: BodyReader,
    ) -> Result<()> {
        let held = self.hold_files(id).await?;
        let record = Arc::clone(&held.record);
        let owner = match options.as_user && !record.config.user.is_empty() {
            true => Some(
                record
                    .config
                    .user
                    .parse::<UserSpec>()
                    .map_err(|error: hoy_types::UserError| Error::invalid(error.to_string()))?,
            ),
            false => None,
        };
        let task = Task::Put { path: path.to_owned(), keep_kinds: options.keep_kinds, owner };
        let (id, path) = (id.to_owned(), path.to_owned());
        self.with_worker(held, task, move |worker| {
            worker.feed(body).map_err(|error| path_error(error, &id, &path)).map(drop)
        })
        .await?;
        self.inner.container_event(&record, "extract-to-dir", &[]);
        Ok(())
    }

    /// The root file system of a container as an archive, piece by piece.
    pub async fn export(&self, id: &str) -> Result<mpsc::Receiver<io::Result<Bytes>>> {
        let held = self.hold_files(id).await?;
        let record = Arc::clone(&held.record);
        let engine = self.clone();
        let begun = tokio::task::spawn_blocking(move || engine.work(held, Task::Export));
        let worker = begun.await.map_err(lost)??;
        self.inner.container_event(&record, "export", &[]);
        Ok(stream(worker))
    }

    /// What a container has changed of its image; nothing is `None`, as Docker has it.
    pub async fn changes(&self, id: &str) -> Result<Option<Vec<wire::FilesystemChange>>> {
        let held = self.hold_files(id).await?;
        let found = self.with_worker(held, nothing_yet(false), |worker| {
            worker.changes().map_err(archive_error)
        });
        let kind = |kind| match kind {
            ChangeKind::Modified => 0,
            ChangeKind::Added => 1,
            ChangeKind::Deleted => 2,
        };
        let found = found.await?.into_iter();
        let found: Vec<_> = found
            .map(|change| wire::FilesystemChange { path: change.path, kind: kind(change.kind) })
            .collect();
        Ok((!found.is_empty()).then_some(found))
    }
}

/// Where the layers lie is filled in when they are leased.
pub(crate) fn nothing_yet(layer: bool) -> Task {
    let root = RootPlan {
        lower: Vec::new(),
        upper: std::path::PathBuf::new(),
        work: std::path::PathBuf::new(),
        volatile: false,
        readonly: false,
    };
    if layer { Task::Layer { root } } else { Task::Changes { root } }
}

/// Passes a worker's archive on; one that is not whole ends with an error.
fn stream(mut worker: Running) -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        let passed = worker
            .pass_on(|piece| sender.blocking_send(Ok(Bytes::copy_from_slice(piece))).map_err(gone));
        if let Err(error) = passed {
            tracing::debug!(%error, "an archive was not sent to its end");
            let _ = sender.blocking_send(Err(io::Error::other(error.to_string())));
        }
    });
    receiver
}

/// A hold on the first process of a container that runs: by its number, which is looked at again
/// once it cannot become another's.
fn first_process(record: &Record) -> Result<OwnedFd> {
    let gone = || Error::conflict(format!("container {} is not running", record.id));
    let pid = rustix::process::Pid::from_raw(record.state.pid).ok_or_else(gone)?;
    let flags = rustix::process::PidfdFlags::empty();
    let pidfd = rustix::process::pidfd_open(pid, flags).map_err(|_| gone())?;
    let cgroups = format!("/proc/{}/cgroup", record.state.pid);
    let cgroups = std::fs::read_to_string(cgroups).map_err(|_| gone())?;
    if !cgroups.contains(record.key()) {
        return Err(gone());
    }
    hoy_sys::process::pidfd_signal(std::os::fd::AsFd::as_fd(&pidfd), 0).map_err(|_| gone())?;
    Ok(pidfd)
}

impl Inner {
    fn root_plan(&self, record: &Record, layers: &hoy_images::RootfsTicket) -> RootPlan {
        let directory = self.layer_directory(record);
        RootPlan {
            lower: layers.layers.clone(),
            upper: directory.join("upper"),
            work: directory.join("work"),
            volatile: false,
            readonly: record.host.readonly_rootfs,
        }
    }

    /// What is mounted in a container while it does not run: what its start mounts, but for file
    /// systems that live only as long as it does. Nothing is relabelled.
    fn resting_mounts(
        &self,
        record: &Record,
        volumes: &std::collections::BTreeMap<String, std::path::PathBuf>,
    ) -> Result<Vec<hoy_runtime::MountPlan>> {
        let mut out = plan::network_files(record, &self.files_of_the_network(record));
        for mount in &record.mounts {
            if matches!(mount.kind, MountKind::Tmpfs { .. }) {
                continue;
            }
            let layer = |key: &str| self.store.layer_path(key);
            let socket = |source: &str| self.socket_for(source);
            out.push(plan::resting_mount(mount, volumes, &layer, &socket)?);
        }
        for mount in &mut out {
            mount.propagation = Propagation::Private;
        }
        Ok(out)
    }
}
