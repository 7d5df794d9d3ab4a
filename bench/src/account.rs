//! What a peer costs in processor time: a cgroup of its own holds all its processes.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::place::Place;

/// One peer's cgroup and network namespace; whatever is started from inside is counted.
#[derive(Debug)]
pub struct Account {
    /// In the hierarchy that counts.
    directory: PathBuf,
    /// In the one that shares out time, where that is another.
    share: Option<PathBuf>,
    net: File,
    /// The cgroup's path below a hierarchy's root, for containers.
    pub cgroup: String,
}

fn hierarchy(names: &[&str]) -> Option<PathBuf> {
    let mut paths = names.iter().map(|name| Path::new("/sys/fs/cgroup").join(name));
    paths.find(|path| path.join("cgroup.procs").exists())
}

impl Account {
    pub fn open(place: &Place, name: &str) -> Result<Self> {
        let cgroup = format!("/{}/{name}", place.cgroup);
        let counting = hierarchy(&["cpuacct", "cpu,cpuacct", ""]).context("no cgroups")?;
        let directory = counting.join(&cgroup[1..]);
        make(&directory)?;
        let mut share = None;
        if let Some(root) = hierarchy(&["cpu"]).filter(|root| *root != counting) {
            let path = root.join(&cgroup[1..]);
            make(&path)?;
            share = Some(path);
        }
        // What else runs on the machine shall not decide the figures.
        for root in [hierarchy(&["cpu", "cpu,cpuacct"])].into_iter().flatten() {
            let _ = std::fs::write(root.join(&place.cgroup).join("cpu.shares"), "262144");
        }
        let net = network(name)?;
        Ok(Self { directory, share, net, cgroup })
    }

    /// Moves this process in: its children are counted from now on.
    pub fn enter(&self) -> Result<()> {
        for directory in [Some(&self.directory), self.share.as_ref()].into_iter().flatten() {
            std::fs::write(directory.join("cli/cgroup.procs"), "0").context("enter a cgroup")?;
        }
        move_into_link_name_space(self.net.as_fd(), Some(LinkNameSpaceType::Network))
            .context("enter a network namespace")
    }

    /// Milliseconds so far, without those of this process itself.
    pub fn usage(&self) -> f64 {
        self.total() - own()
    }

    fn total(&self) -> f64 {
        let read = |name: &str| std::fs::read_to_string(self.directory.join(name)).ok();
        if let Some(text) = read("cpuacct.usage") {
            return text.trim().parse::<f64>().unwrap_or(f64::NAN) / 1e6;
        }
        read("cpu.stat").and_then(|text| usage_usec(&text)).unwrap_or(f64::NAN) / 1e3
    }

    /// Every process inside.
    pub fn processes(&self) -> Vec<u32> {
        let mut found = Vec::new();
        let mut stack = vec![self.directory.clone()];
        while let Some(directory) = stack.pop() {
            let list = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            found.extend(list.lines().filter_map(|line| line.parse::<u32>().ok()));
            let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
            let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            stack.extend(below.map(|entry| entry.path()));
        }
        found.retain(|pid| *pid != 0 && *pid != std::process::id());
        found
    }
}

fn make(directory: &Path) -> Result<()> {
    let path = directory.join("cli");
    std::fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))
}

/// A namespace for each: two engines in one share bridges and wipe each other's rules.
fn network(name: &str) -> Result<File> {
    let path = Path::new("/run/netns").join(format!("bench-{name}"));
    File::create(&path)?;
    let mut option = std::ffi::OsString::from("--net=");
    option.push(&path);
    // Loopback is there for the look of a machine; nothing that is measured needs it.
    let up = "ip link set lo up 2>/dev/null || true";
    crate::output(Command::new("unshare").arg(option).args(["sh", "-c", up]))?;
    File::open(&path).context("open a network namespace")
}

fn usage_usec(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix("usage_usec "))?.parse().ok()
}

/// Milliseconds that this program's only thread has run.
fn own() -> f64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|word| word.parse::<f64>().ok());
    nanoseconds.unwrap_or(0.0) / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_version_tells_microseconds() {
        assert_eq!(usage_usec("usage_usec 1500\nuser_usec 1\n"), Some(1500.0));
        assert_eq!(usage_usec("nr_periods 0\n"), None);
    }
}
