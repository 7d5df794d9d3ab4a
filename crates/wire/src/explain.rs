//! Our own `/hoy/containers/NAME/explain`: why a container is as it is.

use serde::{Deserialize, Serialize};

use crate::go::nullable;

/// The answer: what is the matter, the surest cause first, and what it was concluded from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Explanation {
    #[serde(deserialize_with = "nullable")]
    pub id: String,
    /// Without a slash.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// As `inspect` has it.
    #[serde(deserialize_with = "nullable")]
    pub status: String,
    /// One sentence.
    #[serde(deserialize_with = "nullable")]
    pub summary: String,
    #[serde(deserialize_with = "nullable")]
    pub exit_code: i64,
    /// `SIGKILL`; empty for a process that ended by itself, or where it is not known.
    #[serde(deserialize_with = "nullable")]
    pub signal: String,
    #[serde(deserialize_with = "nullable")]
    pub started_at: String,
    #[serde(deserialize_with = "nullable")]
    pub finished_at: String,
    /// What the last start failed at.
    #[serde(deserialize_with = "nullable")]
    pub error: String,
    #[serde(deserialize_with = "nullable")]
    pub causes: Vec<Cause>,
    /// The last lines that it wrote.
    #[serde(deserialize_with = "nullable")]
    pub log: Vec<String>,
    /// The last probes of its health, oldest first.
    #[serde(deserialize_with = "nullable")]
    pub probes: Vec<Probe>,
    /// What ran in it when the kernel was short of memory for it, the largest first.
    #[serde(deserialize_with = "nullable")]
    pub tasks: Vec<OomTask>,
}

/// One thing that may be why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Cause {
    /// A word for programs: `out-of-memory`.
    #[serde(deserialize_with = "nullable")]
    pub kind: String,
    /// `certain`, `likely` or `possible`.
    #[serde(deserialize_with = "nullable")]
    pub confidence: String,
    #[serde(deserialize_with = "nullable")]
    pub what: String,
    /// What it was concluded from.
    #[serde(deserialize_with = "nullable")]
    pub evidence: Vec<String>,
    /// What to do next.
    #[serde(deserialize_with = "nullable")]
    pub hint: String,
}

/// One probe of a container's health.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Probe {
    #[serde(deserialize_with = "nullable")]
    pub start: String,
    #[serde(deserialize_with = "nullable")]
    pub exit_code: i64,
    #[serde(deserialize_with = "nullable")]
    pub output: String,
}

/// A process of a container that was short of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct OomTask {
    /// As the machine counts.
    #[serde(deserialize_with = "nullable")]
    pub pid: i64,
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Bytes in memory.
    #[serde(deserialize_with = "nullable")]
    pub rss: u64,
    /// The kernel has ended it.
    #[serde(deserialize_with = "nullable")]
    pub killed: bool,
}
