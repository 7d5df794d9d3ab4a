//! Which of the kernel's settings belong to a namespace that a container can have of its own: those
//! alone `--sysctl` may change.

/// The namespace that a setting belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SysctlScope {
    Network,
    Ipc,
}

/// What the kernel has for each namespace of IPC, beside `fs.mqueue`.
const IPC: &[&str] = &[
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

impl SysctlScope {
    /// None: it is the whole machine's.
    pub fn of(name: &str) -> Option<Self> {
        if name.starts_with("net.") {
            return Some(Self::Network);
        }
        let ipc = IPC.contains(&name) || name.starts_with("fs.mqueue.");
        ipc.then_some(Self::Ipc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes() {
        for (name, scope) in [
            ("net.ipv4.ip_forward", Some(SysctlScope::Network)),
            ("kernel.sem", Some(SysctlScope::Ipc)),
            ("fs.mqueue.msg_max", Some(SysctlScope::Ipc)),
            ("kernel.core_pattern", None),
            ("kernel.semaphore", None),
            ("fs.file-max", None),
            ("netfoo", None),
            ("", None),
        ] {
            assert_eq!(SysctlScope::of(name), scope, "{name}");
        }
    }
}
