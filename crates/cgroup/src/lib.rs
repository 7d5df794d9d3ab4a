//! Ground: cgroup v1 and v2 behind one typed API.

use serde::{Deserialize, Serialize};

/// Where a container's cgroup lies and what it may use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CgroupPlan {
    /// Below the root of every hierarchy: `hoy` or what `--cgroup-parent` says. Relative, no `..`.
    pub parent: String,
    /// The container's own directory below it.
    pub name: String,
    pub limits: Limits,
    /// The devices that the container may use; `None` allows all (privileged).
    pub devices: Option<Vec<DeviceRule>>,
}

/// Limits in their natural units; `None` means unlimited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<u64>,
    /// Thousandths of a CPU per period of 100 ms: `--cpus 0.5` is quota 50,000 µs of 100,000 µs.
    pub cpu_quota_us: Option<u64>,
    pub cpu_period_us: Option<u64>,
    pub pids: Option<u64>,
}

/// One line of the device allow list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// `a`, `b` or `c`.
    pub kind: char,
    /// `None` is `*`.
    pub major: Option<u32>,
    pub minor: Option<u32>,
    /// Of `rwm`.
    pub access: String,
}
