//! The image that everyone runs: busybox alone.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::peer::Peer;

/// As a directory, and as an archive to import.
pub struct Image {
    pub rootfs: PathBuf,
    tar: PathBuf,
}

impl Image {
    pub fn make(work: &Path) -> Result<Self> {
        let rootfs = work.join("rootfs");
        for name in ["bin", "dev", "proc", "sys", "etc", "tmp", "first"] {
            std::fs::create_dir_all(rootfs.join(name))?;
        }
        std::fs::copy("/bin/busybox", rootfs.join("bin/busybox"))
            .context("the package busybox-static is missing")?;
        for name in ["sh", "true", "sleep"] {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name))?;
        }
        let tar = work.join("busybox.tar");
        crate::output(Command::new("tar").arg("-C").arg(&rootfs).arg("-cf").arg(&tar).arg("."))?;
        Ok(Self { rootfs, tar })
    }

    /// Gives it to an engine.
    pub fn import(&self, peer: Peer) -> Result<Peer> {
        peer.account.enter()?;
        peer.engine().context("a runtime has no images")?.import(&self.tar)?;
        Ok(peer)
    }
}
