//! What `hoyd` and a shim say to each other.
//!
//! One SOCK_SEQPACKET message is one postcard document, with descriptors by SCM_RIGHTS in the
//! order that the variant's comment names. Old shims outlive new daemons: variants and fields are
//! only appended, and the first four requests are frozen for ever.

use std::path::PathBuf;
use std::time::Duration;

use hoy_runtime::{ContainerPlan, ExecPlan, FailureReason};
use serde::{Deserialize, Serialize};

/// Raised with every change that an older peer could not read.
pub const VERSION: u32 = 7;
/// The first version that knows `Keep` and `Kept`; an older shim hangs up on what it cannot read.
pub const KEEPS_SINCE: u32 = 5;
/// The first version that knows `Health`.
pub const PROBES_SINCE: u32 = 7;

/// A request with the number that its answer repeats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    pub sequence: u32,
    pub request: Request,
}

/// From the daemon to the shim.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Frozen. Answered by `Reply::Hello`.
    Hello {
        version: u32,
    },
    /// Frozen. Answered by `Reply::Status`.
    Status,
    /// Frozen. A signal to the container's first process, or SIGKILL to the whole cgroup.
    Kill {
        signal: i32,
        all: bool,
    },
    /// Frozen. Descriptor: the new program. Answered by an error until shims can be replaced.
    Upgrade,
    /// Descriptors: the network namespace if the plan says `NetMode::Given`, then the user
    /// namespace if it has the ids of one, then processes (pidfd) of the containers whose process
    /// numbers and IPC are `NamespaceMode::Given`.
    /// Answered once the program runs (`Reply::Started`) or will not (`Reply::Failed`).
    Start(Box<StartRequest>),
    /// Descriptor: the client's socket. Allowed before Start, so that no output is missed.
    Attach(AttachRequest),
    /// Descriptor: the client's socket if `attach` is set. Answered by `Started` or `Failed`.
    Exec(Box<ExecRequest>),
    /// The terminal of the container (`exec: None`) or of an exec session.
    Resize {
        exec: Option<String>,
        rows: u16,
        columns: u16,
    },
    Pause,
    Resume,
    /// The exit is on record with the daemon: clean up and go.
    Release,
    /// New limits for the running container: all of them.
    Update(Box<hoy_cgroup::Limits>),
    /// Descriptors: up to eight, to be held open for the daemon to come, as long as the container
    /// runs. They replace what was kept under that name; none: forgets it.
    Keep {
        name: String,
    },
    /// Answered by `Reply::Kept`.
    Kept {
        name: String,
    },
    /// Answered by `Reply::Health`.
    Health,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StartRequest {
    pub plan: ContainerPlan,
    /// Where the exit record goes: a directory that the daemon made, 0700.
    pub state_dir: PathBuf,
    pub log: LogPlan,
    /// Keep a pipe or terminal open for stdin.
    pub open_stdin: bool,
    /// Close stdin when the first attached client that has it leaves.
    pub stdin_once: bool,
    pub health: Option<HealthPlan>,
}

/// How it is found out whether a container is well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthPlan {
    pub exec: ExecPlan,
    pub interval: Duration,
    pub timeout: Duration,
    /// After the start, failures do not count for so long.
    pub start_period: Duration,
    /// The interval in that time.
    pub start_interval: Duration,
    pub retries: u32,
}

/// Where output goes besides to attached clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum LogPlan {
    None,
    /// Docker's json-file, rotated by size.
    JsonFile {
        path: PathBuf,
        max_size: Option<u64>,
        max_files: u32,
        compress: bool,
        /// Said with every record.
        attributes: Vec<(String, String)>,
        /// Output that the log does not take is left out of it beyond so many bytes, and the
        /// container never waits for it.
        nonblocking: Option<u64>,
    },
    /// Docker's local: shorter, and compressed where it is older.
    Local {
        path: PathBuf,
        max_size: u64,
        max_files: u32,
        compress: bool,
        nonblocking: Option<u64>,
    },
}

/// A client that was upgraded to a raw stream; the head is already written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttachRequest {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Bytes that arrived behind the request's head: they come first on stdin.
    pub early: Vec<u8>,
    /// Frame the output by stream, as Docker does where there is no terminal.
    pub framed: bool,
    /// Key codes that end the attachment, only looked for on a terminal; empty: none.
    pub detach_keys: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExecRequest {
    pub id: String,
    pub plan: ExecPlan,
    pub attach: Option<AttachRequest>,
    /// It is killed when its client vanishes; otherwise it goes on.
    pub ends_with_client: bool,
}

/// From the shim to the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromShim {
    Reply { sequence: u32, reply: Reply },
    Event(Event),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Frozen. `build` names the program, for upgrades.
    Hello {
        version: u32,
        pid: i32,
        build: String,
    },
    /// Frozen.
    Status(Status),
    Done,
    Started {
        pid: i32,
        started_at: i64,
    },
    Failed(Failure),
    /// Descriptors: others of the same files, none if nothing is kept under that name.
    Kept,
    /// `None` for a container that is not probed, or does not run.
    Health(Option<HealthState>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HealthStatus {
    Starting,
    Healthy,
    Unhealthy,
}

/// All that is known of a container's health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthState {
    pub status: HealthStatus,
    /// Failures one after the other.
    pub streak: u32,
    /// The last ones, oldest first.
    pub log: Vec<ProbeResult>,
}

/// What came of one probe. Times are nanoseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    pub started_at: i64,
    pub ended_at: i64,
    /// -1 for one that could not be started or took too long.
    pub code: i32,
    pub output: String,
}

/// What a request failed at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub reason: FailureReason,
    /// A sentence in the words of Docker's runtime where it has one.
    pub message: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Nothing was started yet.
    New,
    Running {
        pid: i32,
        started_at: i64,
        paused: bool,
        execs: Vec<ExecStatus>,
    },
    Exited(ExitRecord),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecStatus {
    pub id: String,
    pub pid: i32,
    /// `None` while it runs.
    pub code: Option<i32>,
}

/// How a container ended. Times are nanoseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// 128 + signal for a killed process.
    pub code: i32,
    pub oom_killed: bool,
    pub pid: i32,
    pub started_at: i64,
    pub finished_at: i64,
}

/// Unasked for; losing one is harmless, since `Status` and the exit record say the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Exited(ExitRecord),
    ExecExited {
        id: String,
        code: i32,
    },
    /// A client left by its detach keys.
    Detached {
        exec: Option<String>,
    },
    /// Log records that did not fit while the disk was blocked.
    LogDropped {
        records: u64,
    },
    /// The kernel has ended processes of the container for want of memory; how many by now.
    OutOfMemory {
        kills: u64,
    },
    /// A probe of the container's health is started.
    ProbeBegins {
        id: String,
    },
    /// It is over. `died`: how its process ended, where there was one.
    Probed {
        id: String,
        died: Option<i32>,
        status: HealthStatus,
        streak: u32,
        result: Box<ProbeResult>,
    },
}
