//! What is kept of a container: one JSON document in the store, one value in memory.

use hoy_network::Endpoint;
use hoy_types::{ContainerId, Digest, Timestamp};
use hoy_wire::{ContainerConfig, HostConfig};
use serde::{Deserialize, Serialize};

use crate::attachments::Attachment;
use crate::health::HealthRecord;
use crate::life::Phase;
use crate::restart::RestartRecord;

/// Everything about a container that outlives the daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub id: ContainerId,
    pub name: String,
    pub created: Timestamp,
    pub image: Digest,
    /// The store's keys of the image's layers, bottom first.
    pub layers: Vec<String>,
    /// The image's configuration merged with what was asked for.
    pub config: ContainerConfig,
    /// As asked for, with the daemon's defaults filled in.
    pub host: HostConfig,
    /// The command: entrypoint and arguments.
    pub command: Vec<String>,
    pub mounts: Vec<MountRecord>,
    pub network: NetworkRecord,
    pub state: State,
    #[serde(default)]
    pub labels: LabelRecord,
    #[serde(default)]
    pub restart: RestartRecord,
    #[serde(default)]
    pub health: Option<HealthRecord>,
}

/// What the host's security modules call it; empty for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelRecord {
    /// AppArmor's profile since its last start.
    pub apparmor: String,
    /// SELinux's context of its processes.
    pub process: String,
    /// SELinux's context of its files.
    pub mount: String,
}

/// What is mounted in the container, as `-v`, `--mount`, `--tmpfs` and others ask for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MountRecord {
    pub target: String,
    pub kind: MountKind,
    pub readonly: bool,
    /// The options as written, for inspect.
    pub mode: String,
    pub propagation: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MountKind {
    Bind {
        source: String,
        recursive: bool,
        /// A directory is made where the source is missing.
        create: bool,
        /// What is mounted below it stays writable.
        #[serde(default)]
        readonly_top_only: bool,
    },
    Tmpfs {
        size: Option<u64>,
        mode: Option<u32>,
        exec: bool,
        suid: bool,
        dev: bool,
    },
    Volume {
        name: String,
        driver: String,
        /// It was made for this container, and goes with it if that is asked for.
        anonymous: bool,
        /// An empty one gets what the image has at the target.
        copy: bool,
        subpath: String,
    },
    Image {
        /// As asked for.
        source: String,
        /// The store's keys, bottom first.
        layers: Vec<String>,
        subpath: String,
    },
}

/// Where the container's network comes from, and what it got while it runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NetworkRecord {
    pub mode: NetworkMode,
    /// The networks that it is to be in; the first is the one that its mode names.
    #[serde(default)]
    pub attachments: Vec<Attachment>,
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
}

impl NetworkRecord {
    /// The network that an endpoint belongs to, as it was asked for.
    pub fn attachment(&self, network: &str) -> Option<&Attachment> {
        self.attachments.iter().find(|one| one.network == network)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkMode {
    Networks,
    Host,
    None,
    Container(ContainerId),
}

/// The last known state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    pub phase: Phase,
    pub pid: i32,
    pub exit_code: i32,
    pub error: String,
    pub oom_killed: bool,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
}

impl State {
    /// What people see: one that starts again is, until it runs, what it was.
    pub fn shown(&self) -> Phase {
        match self.phase {
            Phase::Starting if !self.finished_at.is_zero() => Phase::Exited,
            phase => phase,
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            phase: Phase::Created,
            pid: 0,
            exit_code: 0,
            error: String::new(),
            oom_killed: false,
            started_at: Timestamp::ZERO,
            finished_at: Timestamp::ZERO,
        }
    }
}

impl Record {
    /// The names of the directories and cgroups of this container.
    pub fn key(&self) -> &str {
        self.id.as_str()
    }

    pub fn labels(&self) -> impl Iterator<Item = (&String, &String)> {
        self.config.labels.iter().flatten()
    }
}
