//! What the worker is told, and what it says. Plain data in postcard's encoding; both ends are the
//! same program.

use hoy_runtime::{MountPlan, RootPlan};
use hoy_types::UserSpec;
use serde::{Deserialize, Serialize};

/// No message is larger.
pub(crate) const MAX_MESSAGE: usize = 128 << 10;

/// One piece of work.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    pub place: Place,
    pub task: Task,
}

/// Where the files are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Place {
    /// What a process sees, whose pidfd comes with the job.
    Running { userns: bool },
    /// A container that does not run.
    Resting { root: RootPlan, label: String, mounts: Vec<MountPlan> },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Task {
    /// What lies at a path.
    Stat { path: String },
    /// That, and an archive of it.
    Get { path: String },
    /// Unpacks an archive in a directory.
    Put { path: String, keep_kinds: bool, owner: Option<UserSpec> },
    /// The root file system as an archive, without what is mounted in it.
    Export,
    /// What a container has changed of its image. `place` is not entered.
    Changes { root: RootPlan },
    /// The same as a layer.
    Layer { root: RootPlan },
}

/// `container.PathStat`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStat {
    pub name: String,
    pub size: i64,
    /// In Go's bits.
    pub mode: u32,
    pub seconds: i64,
    pub nanos: u32,
    /// Where a link leads at last, as a path of the container.
    pub target: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeKind {
    Modified,
    Added,
    Deleted,
}

/// One path that is not as in the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub path: String,
    pub kind: ChangeKind,
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// There is no such path.
    Missing,
    Other,
}

/// What the worker says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Stat(PathStat),
    Changes(Vec<Change>),
    /// The layer has something in it, or nothing.
    Done {
        entries: u64,
    },
    Failed(Fault, String),
}
