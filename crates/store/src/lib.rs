//! Shelves: metadata, blobs, layers, leases, garbage collection, durable replace, trash.
//!
//! One directory, one lock, one database with one writer thread. The order of durability is in
//! `commit` and nowhere else: data, sync, rename, directory sync, metadata, acknowledge. What a
//! killed daemon left half made lies in `ingest/` and goes to the trash at the next start.

mod blob;
mod database;
mod delete;
mod layer;
mod lease;
mod measure;
mod reserve;
mod trash;

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::FlockOperation;

pub use blob::BlobWriter;
pub use database::{Durability, Op};
pub use layer::NewLayer;
pub use lease::Lease;
pub use measure::{Measure, blocks, blocks_at};

/// What went wrong with what.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{operation} {path}: {source}")]
    Io { operation: &'static str, path: String, source: io::Error },
    #[error("another daemon uses the data root {0}")]
    Locked(String),
    #[error("the database: {0}")]
    Database(#[from] rusqlite::Error),
    #[error("the database's writer has ended")]
    WriterGone,
    #[error("digest mismatch: expected {expected}, got {found}")]
    Digest { expected: hoy_types::Digest, found: hoy_types::Digest },
    #[error("size mismatch: expected {expected} bytes, got {found}")]
    Size { expected: u64, found: u64 },
}

/// The result of a store operation.
pub type Result<T> = std::result::Result<T, StoreError>;

pub(crate) fn io_error(
    operation: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> StoreError + use<> {
    let path = path.display().to_string();
    move |source| StoreError::Io { operation, path, source }
}

/// The data root. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    database: database::Database,
    leases: lease::Leases,
    trash: trash::Trash,
    next: AtomicU64,
    // Held for as long as the daemon lives.
    _lock: File,
}

const DIRECTORIES: &[&str] =
    &["", "db", "blobs", "blobs/sha256", "layers", "ingest", "trash", "containers"];

/// How long the lock of a daemon that was killed may outlive it.
const LINGER: Duration = Duration::from_secs(3);

/// A child that a killed daemon was about to start holds its lock until it has begun: that is a
/// moment, and no second daemon.
fn take(lock: &File) -> rustix::io::Result<()> {
    let started = Instant::now();
    loop {
        match rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) if started.elapsed() < LINGER => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

impl Store {
    /// Opens or makes the data root. A second daemon is refused.
    pub fn open(root: &Path) -> Result<Self> {
        for name in DIRECTORIES {
            let path = root.join(name);
            // Traversable by nobody else: images hold set-user-id programs.
            let open = hoy_weak::without(hoy_weak::Protection::PrivateState);
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(if open { 0o755 } else { 0o700 })
                .create(&path)
                .map_err(io_error("create", &path))?;
        }
        let path = root.join("lock");
        let lock = File::create(&path).map_err(io_error("open", &path))?;
        take(&lock).map_err(|_| StoreError::Locked(root.display().to_string()))?;
        // No name that a daemon before this one may have left: pids come again.
        let born = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let mut next = born.map_or(1, |born| u64::try_from(born.as_nanos()).unwrap_or(1));
        let trash = root.join("trash");
        // What a killed daemon left half made.
        for entry in std::fs::read_dir(root.join("ingest")).into_iter().flatten().flatten() {
            let _ = std::fs::rename(entry.path(), trash.join(fresh_name(next)));
            next += 1;
        }
        Ok(Self {
            inner: Arc::new(Inner {
                root: root.to_owned(),
                database: database::Database::open(&root.join("db/hoy.db"))?,
                leases: lease::Leases::default(),
                trash: trash::Trash::open(trash)?,
                next: AtomicU64::new(next),
                _lock: lock,
            }),
        })
    }

    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Where one container's files lie.
    pub fn container_directory(&self, id: &str) -> PathBuf {
        self.inner.root.join("containers").join(id)
    }

    /// A name that nobody has, in `ingest` or `trash`.
    pub fn fresh(&self, directory: &str) -> PathBuf {
        let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
        self.inner.root.join(directory).join(fresh_name(number))
    }

    /// Every document of a kind.
    pub fn documents(&self, kind: &str) -> Result<Vec<(String, Vec<u8>)>> {
        self.inner.database.list(kind)
    }

    /// All of these or none. Returns when they are as durable as asked.
    pub fn write(&self, ops: Vec<Op>, durability: Durability) -> Result<()> {
        self.inner.database.write(ops, durability)
    }

    /// The same without waiting: in order with all other writes.
    pub fn write_later(&self, ops: Vec<Op>) {
        self.inner.database.write_later(ops);
    }

    /// Keeps things from garbage collection while an operation uses them.
    pub fn lease(&self, keys: impl IntoIterator<Item = String>) -> Lease {
        self.inner.leases.take(keys)
    }

    /// Removes a directory or file: out of sight at once, deleted behind the answer.
    pub fn discard(&self, path: &Path) -> Result<()> {
        let target = self.fresh("trash");
        match std::fs::rename(path, &target) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io_error("remove", path)(error)),
        }
        self.inner.trash.ring();
        Ok(())
    }

    /// The disk is short: the trash is deleted at once.
    pub fn hurry(&self, hurry: bool) {
        self.inner.trash.hurry(hurry);
    }

    /// Removes layers and blobs that neither `keep` names nor a lease holds.
    pub fn collect(&self, keep: &HashSet<String>) -> Result<u64> {
        let mut removed = 0;
        for (name, path) in self.shelved()? {
            // Asked and acted upon under the lock of the leases: nobody can take one between.
            let gone = self
                .inner
                .leases
                .unless_held(&name, || !keep.contains(&name) && self.discard(&path).is_ok());
            removed += u64::from(gone);
        }
        Ok(removed)
    }

    /// What [`Self::collect`] would remove.
    pub fn garbage(&self, keep: &HashSet<String>) -> Result<Vec<PathBuf>> {
        let mut out = Vec::new();
        for (name, path) in self.shelved()? {
            if !keep.contains(&name) && self.inner.leases.unless_held(&name, || true) {
                out.push(path);
            }
        }
        Ok(out)
    }

    /// Everything that belongs to images, by name.
    fn shelved(&self) -> Result<Vec<(String, PathBuf)>> {
        let mut out = Vec::new();
        for directory in ["layers", "blobs/sha256"] {
            let directory = self.inner.root.join(directory);
            let entries = std::fs::read_dir(&directory).map_err(io_error("list", &directory))?;
            for entry in entries.flatten() {
                out.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
            }
        }
        Ok(out)
    }
}

fn fresh_name(number: u64) -> String {
    format!("{}-{number}", std::process::id())
}

/// Makes a rename last.
pub(crate) fn sync_directory(path: &Path) -> Result<()> {
    let directory = File::open(path).map_err(io_error("open", path))?;
    directory.sync_all().map_err(io_error("sync", path))
}
