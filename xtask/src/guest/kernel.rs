//! Debian's cloud kernel: downloaded and unpacked below target/, never installed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::cpio::Archive;
use crate::programs::run;
use crate::tasks::say;

/// The package that names the current kernel.
const META: &str = "linux-image-cloud-amd64";
const PREFIX: &str = "linux-image-";

/// What the guest may load, as starts of paths: a directory or one module. What these need comes
/// with them.
const MODULES: &[&str] = &[
    "block/",
    "drivers/block/brd.ko",
    "drivers/block/loop.ko",
    "drivers/block/null_blk/",
    "drivers/block/virtio_blk.ko",
    "drivers/block/zram/",
    "drivers/char/hw_random/virtio-rng.ko",
    "drivers/net/dummy.ko",
    "drivers/net/ifb.ko",
    "drivers/net/macvlan.ko",
    "drivers/net/tun.ko",
    "drivers/net/veth.ko",
    "drivers/virtio/",
    "fs/fuse/fuse.ko",
    "fs/nls/",
    "fs/overlayfs/",
    "fs/quota/",
    "fs/xfs/",
    "net/bridge/",
    "net/ipv4/",
    "net/ipv6/",
    "net/netfilter/nf",
    "net/netfilter/x",
    "net/sched/",
];

/// What modprobe reads, as `modules.NAME`.
const INDEXES: &[&str] = &[
    "alias",
    "alias.bin",
    "builtin",
    "builtin.alias.bin",
    "builtin.bin",
    "builtin.modinfo",
    "dep",
    "dep.bin",
    "order",
    "softdep",
    "symbols",
    "symbols.bin",
];

/// An unpacked kernel.
pub struct Kernel {
    pub version: String,
    root: PathBuf,
}

impl Kernel {
    /// The one that Debian offers now; where that cannot be asked, the newest that is cached.
    pub fn fetch(cache: &Path) -> Result<Self> {
        std::fs::create_dir_all(cache).with_context(|| format!("create {}", cache.display()))?;
        let mut offered = offered();
        if offered.is_none() && cached(cache).is_none() {
            run(Command::new("apt-get").args(["update", "-qq"]))?;
            offered = self::offered();
        }
        let Some(version) = offered.or_else(|| cached(cache)) else {
            bail!("no package offers a kernel: {META} is not known here");
        };
        let root = cache.join(&version);
        if !root.exists() {
            unpack(cache, &version, &root)?;
        }
        Ok(Self { version, root })
    }

    pub fn image(&self) -> PathBuf {
        self.root.join(format!("boot/vmlinuz-{}", self.version))
    }

    /// Puts modules and their indexes where the kernel looks for them.
    pub fn modules_into(&self, archive: &mut Archive) -> Result<()> {
        let inside = format!("/lib/modules/{}", self.version);
        let directory = self.root.join(inside.trim_start_matches('/'));
        for index in INDEXES {
            let name = format!("modules.{index}");
            archive.copy(&directory.join(&name), &format!("{inside}/{name}"), 0o644)?;
        }
        let path = directory.join("modules.dep");
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        for module in needed(&text, MODULES) {
            archive.copy(&directory.join(&module), &format!("{inside}/{module}"), 0o644)?;
        }
        Ok(())
    }
}

fn offered() -> Option<String> {
    let output = Command::new("apt-cache").args(["depends", META]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.lines().find_map(|line| {
        line.trim().strip_prefix("Depends: ").and_then(|name| name.strip_prefix(PREFIX))
    });
    version.map(str::to_owned)
}

fn cached(cache: &Path) -> Option<String> {
    let entries = std::fs::read_dir(cache).ok()?.flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(|c: char| c.is_ascii_digit())).max()
}

/// Under a name of its own first, so that an interrupted download is never taken for a kernel.
fn unpack(cache: &Path, version: &str, root: &Path) -> Result<()> {
    say(&format!("downloading Linux {version}"));
    let fresh = cache.join(format!(".{version}.{}", std::process::id()));
    std::fs::create_dir_all(&fresh).with_context(|| format!("create {}", fresh.display()))?;
    let made = unpack_into(&fresh, version).and_then(|()| {
        std::fs::rename(&fresh, root).with_context(|| format!("rename to {}", root.display()))
    });
    // Somebody else's is as good.
    if made.is_err() {
        let _ = std::fs::remove_dir_all(&fresh);
        if root.exists() {
            return Ok(());
        }
    }
    made
}

fn unpack_into(fresh: &Path, version: &str) -> Result<()> {
    download(&format!("{PREFIX}{version}"), fresh)?;
    run(Command::new("rm").args(["-rf", "usr"]).current_dir(fresh))?;
    run(Command::new("/sbin/depmod").arg("-b").arg(fresh).arg(version))
}

/// Fetches a package and unpacks it into a directory; it is not installed.
pub fn download(package: &str, into: &Path) -> Result<()> {
    let get = || {
        let mut get = Command::new("apt-get");
        get.current_dir(into)
            // The user that apt would become may not write here.
            .args(["download", "-qq", "-o", "APT::Sandbox::User=root", package]);
        run(&mut get)
    };
    if get().is_err() {
        run(Command::new("apt-get").args(["update", "-qq"]))?;
        get()?;
    }
    let line = "dpkg -x *.deb . && rm *.deb";
    run(Command::new("sh").args(["-ec", line]).current_dir(into))
}

/// The wanted modules with all that they need, by paths below the version's directory.
fn needed(dependencies: &str, wanted: &[&str]) -> BTreeSet<String> {
    let lines: BTreeMap<&str, &str> =
        dependencies.lines().filter_map(|line| line.split_once(':')).collect();
    let is_wanted = |path: &&str| {
        let path = path.trim_start_matches("kernel/");
        wanted.iter().any(|start| path.starts_with(start))
    };
    let mut open: Vec<&str> = lines.keys().copied().filter(is_wanted).collect();
    let mut found = BTreeSet::new();
    while let Some(path) = open.pop() {
        if found.insert(path.to_owned()) {
            open.extend(lines.get(path).into_iter().flat_map(|line| line.split_whitespace()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_with_what_they_need() {
        let text = "kernel/net/a.ko: kernel/lib/b.ko\nkernel/lib/b.ko: kernel/lib/c.ko\n\
                    kernel/lib/c.ko:\nkernel/lib/d.ko:\n";
        let found: Vec<String> = needed(text, &["net/"]).into_iter().collect();
        assert_eq!(found, ["kernel/lib/b.ko", "kernel/lib/c.ko", "kernel/net/a.ko"]);
    }
}
