//! What tests share: daemons in private roots and network namespaces, images made from packages.
//!
//! Everything made here is taken back when its owner is dropped, also when a test panics.

mod command;
mod daemon;
mod images;
mod kernel;
mod netns;

pub use command::{Output, Run, wait_until};
pub use daemon::{Daemon, docker_cli, programs};
pub use images::{
    alpine_rootfs, busybox_oci_tar, busybox_rootfs, debian_nginx_rootfs, debian_systemd_rootfs,
    mariadb_rootfs, usr_rootfs, workspace,
};
pub use kernel::{KernelCounts, remove_cgroups};
pub use netns::NetNs;

/// Whether this is the guest of `./x guest`: an emulated processor, cgroup v2, an older kernel.
pub fn in_guest() -> bool {
    std::env::var_os("HOY_GUEST").is_some()
}

/// A deadline for a machine as slow as this one may be.
pub(crate) fn patience(seconds: u64) -> std::time::Duration {
    std::time::Duration::from_secs(if in_guest() { seconds * 4 } else { seconds })
}

/// Whether tests that need root can run: they fail, not skip, where they cannot.
pub fn require_root() {
    let status = std::fs::read_to_string("/proc/self/status").expect("read /proc/self/status");
    let uid = status.lines().find(|line| line.starts_with("Uid:")).expect("Uid in status");
    assert_eq!(uid.split_whitespace().nth(1), Some("0"), "these tests need root");
}
