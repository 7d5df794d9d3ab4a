//! What is known of a container that somebody asks about: plain data, from which is concluded.

use hoy_look::Findings;
use hoy_shim::{EndRecord, Room};
use hoy_wire::Health;

use super::waiting::Waiting;

/// See the module. Times are nanoseconds since 1970.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub name: String,
    /// As `inspect` has it.
    pub status: String,
    pub restarting: bool,
    pub exit_code: i32,
    /// What the last start failed at, or how its supervisor was lost.
    pub error: String,
    pub oom_killed: bool,
    pub started: i64,
    pub finished: i64,
    /// When the machine was started.
    pub booted: i64,
    pub command: Vec<String>,
    pub open_stdin: bool,
    pub user: String,
    pub cwd: String,
    pub readonly: bool,
    /// Bytes; none for no limit.
    pub memory: Option<u64>,
    pub pids: Option<u64>,
    /// As it was asked for.
    pub size: Option<String>,
    /// Where something is mounted in it.
    pub targets: Vec<String>,
    /// Sources of bind mounts that are not there now.
    pub gone: Vec<String>,
    /// One that does not answer who looks for it.
    pub silent: Option<String>,
    /// Processes of it that wait for a file system's server.
    pub waits: Vec<Waiting>,
    /// Where it has file systems with servers, and of which kind.
    pub served: Vec<(String, String)>,
    pub policy: String,
    pub restarts: i64,
    pub health: Option<Health>,
    /// What the supervisor has seen of the last end.
    pub end: Option<EndRecord>,
    /// What is free now where the container writes.
    pub room: Option<Room>,
    /// What its files say; none where nobody has looked.
    pub files: Option<Findings>,
    /// Other containers that have a port which this one wants.
    pub holders: Vec<String>,
    /// The last lines that it wrote.
    pub log: Vec<String>,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    NeverStarted,
    /// The last start has failed.
    Refused,
    Alive,
    Ended,
}

/// What the driver says of a container whose supervisor is gone without a word.
pub(crate) const LOST: &str = "supervisor lost";

impl Facts {
    pub fn stage(&self) -> Stage {
        match self.status.as_str() {
            "running" | "paused" => Stage::Alive,
            _ if !self.error.is_empty() && self.error != LOST => Stage::Refused,
            "created" => Stage::NeverStarted,
            _ => Stage::Ended,
        }
    }

    /// Whether a path lies in something that is mounted, where nobody has looked.
    pub fn is_mounted(&self, path: &str) -> bool {
        self.targets.iter().any(|target| {
            let target = target.trim_end_matches('/');
            path.strip_prefix(target).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// The name of what was to be executed.
    pub fn program(&self) -> &str {
        self.command.first().map_or("", String::as_str)
    }
}

/// ELF's number for the machine that this runs on.
pub(crate) fn own_machine() -> u16 {
    let of = |name: &str| MACHINES.iter().find(|(_, known)| *known == name);
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    };
    of(arch).map_or(0, |(number, _)| *number)
}

const MACHINES: [(u16, &str); 10] = [
    (62, "amd64"),
    (183, "arm64"),
    (3, "386"),
    (40, "arm"),
    (243, "riscv64"),
    (21, "ppc64le"),
    (22, "s390x"),
    (8, "mips"),
    (258, "loong64"),
    (2, "sparc"),
];

/// What images call a machine.
pub(crate) fn machine_name(number: u16) -> String {
    let known = MACHINES.iter().find(|(known, _)| *known == number);
    known.map_or_else(|| format!("machine {number} of ELF"), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages() {
        let stage = |status: &str, error: &str| {
            Facts { status: status.into(), error: error.into(), ..Facts::default() }.stage()
        };
        assert_eq!(stage("created", ""), Stage::NeverStarted);
        assert_eq!(stage("created", "exec"), Stage::Refused);
        assert_eq!(stage("exited", "exec"), Stage::Refused);
        assert_eq!(stage("exited", LOST), Stage::Ended);
        assert_eq!(stage("paused", ""), Stage::Alive);
    }

    #[test]
    fn mounts_cover_what_lies_below_them() {
        let facts = Facts { targets: vec!["/app".into(), "/x/".into()], ..Facts::default() };
        assert!(facts.is_mounted("/app/run") && facts.is_mounted("/x") && facts.is_mounted("/app"));
        assert!(!facts.is_mounted("/application") && !facts.is_mounted("/"));
        assert_ne!(machine_name(own_machine()), machine_name(0));
    }
}
