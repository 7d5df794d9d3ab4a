//! What the kernel holds, counted before and after: the oracle for "nothing is left behind".

use std::path::Path;

/// Kernel objects that a container engine makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelCounts {
    pub mounts: usize,
    pub links: usize,
    pub cgroups: usize,
    pub network_namespaces: usize,
    pub shims: usize,
    pub nft: String,
    pub daemon_descriptors: usize,
}

impl KernelCounts {
    /// As the daemon's namespace and the machine show them now.
    pub fn of(daemon: &crate::Daemon) -> Self {
        let pid = daemon.pid();
        let nft = daemon.netns().run("nft").args(["list", "table", "inet", "hoy"]).run();
        Self {
            mounts: mounts(daemon),
            links: daemon.netns().sh("ip -o link").lines().count(),
            cgroups: cgroup_roots()
                .iter()
                .map(|root| directories(&root.join(daemon.cgroup())))
                .sum::<usize>(),
            network_namespaces: namespaces(daemon.cgroup()),
            shims: processes_named("hoy-shim", &daemon.path("run").display().to_string()),
            nft: without_counters(&nft.stdout),
            daemon_descriptors: std::fs::read_dir(format!("/proc/{pid}/fd"))
                .map_or(0, Iterator::count),
        }
    }
}

impl KernelCounts {
    /// Waits until the machine is as it was; fails with what differs.
    #[track_caller]
    pub fn wait_for(&self, daemon: &crate::Daemon) {
        let started = std::time::Instant::now();
        loop {
            let now = Self::of(daemon);
            // What the daemon was about to close when it was counted first is no loss.
            let fewer = now.daemon_descriptors.min(self.daemon_descriptors);
            if now == (Self { daemon_descriptors: fewer, ..self.clone() }) {
                return;
            }
            let late = started.elapsed() > crate::patience(60);
            assert!(!late, "something is left\n{}", self.differences(&now));
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

impl KernelCounts {
    /// The lines that one of two has alone.
    fn differences(&self, now: &Self) -> String {
        let lines = |counts: &Self| -> Vec<String> {
            let plain = Self { nft: String::new(), ..counts.clone() };
            let numbers = format!("{plain:#?}");
            numbers.lines().chain(counts.nft.lines()).map(str::to_owned).collect()
        };
        let (before, now) = (lines(self), lines(now));
        let only = |these: &[String], those: &[String], mark: &str| -> String {
            let alone = these.iter().filter(|line| !those.contains(line));
            alone.map(|line| format!("{mark} {line}\n")).collect()
        };
        only(&before, &now, "before:") + &only(&now, &before, "now:")
    }
}

fn without_counters(ruleset: &str) -> String {
    let mut out = String::new();
    let mut words = ruleset.split_inclusive(' ').peekable();
    while let Some(word) = words.next() {
        if matches!(word.trim(), "packets" | "bytes") {
            words.next();
        } else {
            out.push_str(word);
        }
    }
    out
}

/// Mounts below the daemon's root, in the machine's mount namespace and in the daemon's: others
/// come and go with what else runs there.
fn mounts(daemon: &crate::Daemon) -> usize {
    let root = daemon.path("").display().to_string();
    let of = |pid: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        text.lines().filter(|line| line.contains(&root)).count()
    };
    of("self") + of(&daemon.pid().to_string())
}

fn cgroup_roots() -> Vec<std::path::PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .filter_map(|line| line.split(' ').nth(4))
        .map(std::path::PathBuf::from)
        .collect()
}

fn directories(root: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(root) else { return 0 };
    let below = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    1 + below.map(|entry| directories(&entry.path())).sum::<usize>()
}

/// Takes back an emptied cgroup tree of a test.
pub fn remove_cgroups(parent: &str) {
    fn remove(path: &Path) {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                remove(&entry.path());
            }
        }
        let _ = std::fs::remove_dir(path);
    }
    for root in cgroup_roots() {
        remove(&root.join(parent));
    }
}

/// SIGKILL to every process below a cgroup, and to every one that is called with an argument.
pub fn end_all(cgroup: &str, argument: &str) {
    let ours = |pid: &String| {
        let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let has = |text: Vec<u8>, what: &str| String::from_utf8_lossy(&text).contains(what);
        !read("maps").is_empty()
            && *pid != std::process::id().to_string()
            && (has(read("cgroup"), &format!("/{cgroup}/")) || has(read("cmdline"), argument))
    };
    let started = std::time::Instant::now();
    loop {
        let all: Vec<String> = pids().filter(ours).collect();
        if all.is_empty() {
            return;
        }
        assert!(started.elapsed() < crate::patience(60), "processes do not end: {all:?}");
        let _ = crate::Run::new("kill").args(["-KILL"]).args(&all).run();
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn pids() -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir("/proc").expect("read /proc").flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.bytes().all(|c| c.is_ascii_digit()))
}

/// The network namespaces of processes below a cgroup: other tests have their own.
fn namespaces(cgroup: &str) -> usize {
    let ours = |pid: &String| {
        let path = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        path.contains(&format!("/{cgroup}"))
    };
    let mut seen: Vec<_> = pids()
        .filter(ours)
        .filter_map(|pid| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok())
        .collect();
    seen.sort();
    seen.dedup();
    seen.len()
}

fn processes_named(program: &str, argument: &str) -> usize {
    let matches = |pid: &String| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains(program) && line.contains(argument)
    };
    pids().filter(matches).count()
}
