//! Docker's own engine from Debian's package, private: the oracle for defaults and networks.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hoy_testkit::{NetNs, Run, busybox_rootfs};

/// A running dockerd; ended, with its containerd, when dropped.
pub struct Dockerd {
    child: Child,
    root: tempfile::TempDir,
    parent: String,
    _netns: NetNs,
}

impl Dockerd {
    /// One without a network. `None` where the package is not installed.
    pub fn start() -> Option<Self> {
        Self::start_with(&[
            "--iptables=false",
            "--ip6tables=false",
            "--ip-masq=false",
            "--bridge=none",
        ])
    }

    /// One with networks, in a network namespace of its own.
    pub fn start_with_networks() -> Option<Self> {
        Self::start_with(&[])
    }

    fn start_with(flags: &[&str]) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let there = |name: &str| std::env::split_paths(&path).any(|d| d.join(name).exists());
        if !["dockerd", "containerd", "runc"].into_iter().all(there) {
            return None;
        }
        let root = tempfile::Builder::new().prefix("hoy-peer-").tempdir().expect("directory");
        let netns = NetNs::new();
        let parent = format!("hoytest-peer-{}", std::process::id());
        let at = |name: &str| root.path().join(name).display().to_string();
        std::fs::write(root.path().join("daemon.json"), "{}").expect("write");
        let log = std::fs::File::create(root.path().join("log")).expect("log");
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", netns.path())).args(["--", "dockerd"]);
        command.args(["--config-file", &at("daemon.json"), "--data-root", &at("data")]);
        command.args(["--exec-root", &at("exec"), "--pidfile", &at("pid")]);
        command.args(["--host", &format!("unix://{}", at("sock"))]);
        command.arg("--storage-driver=overlay2").args(flags);
        command.args(["--cgroup-parent", &format!("/{parent}")]);
        command.args(["--exec-opt", "native.cgroupdriver=cgroupfs"]);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("clone")).stderr(log);
        let child = command.spawn().expect("spawn dockerd");
        let dockerd = Self { child, root, parent, _netns: netns };
        let started = Instant::now();
        while dockerd.docker(&["ps", "-q"]).run().code != Some(0) {
            let log = || std::fs::read_to_string(dockerd.root.path().join("log"));
            assert!(started.elapsed() < Duration::from_secs(120), "dockerd is late: {:?}", log());
            std::thread::sleep(Duration::from_millis(100));
        }
        let tar = busybox_rootfs().display().to_string();
        dockerd.docker(&["import", "-c", "CMD [\"sh\"]", &tar, "bb"]).run().ok();
        Some(dockerd)
    }

    pub fn host(&self) -> String {
        format!("unix://{}", self.root.path().join("sock").display())
    }

    /// `docker ARGS` against it.
    pub fn docker(&self, args: &[&str]) -> Run {
        let host = self.host();
        Run::new("docker")
            .args(args)
            .env("DOCKER_HOST", host)
            .env("DOCKER_CONFIG", self.root.path().join("client"))
            .env("DOCKER_CONTEXT", "")
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let ids = self.docker(&["ps", "-aq"]).run().stdout;
        let ids: Vec<&str> = ids.split_whitespace().collect();
        if !ids.is_empty() {
            let _ = self.docker(&["rm", "-f"]).args(ids).run();
        }
        let _ = Run::new("kill").args(["-TERM", &self.child.id().to_string()]).run();
        let started = Instant::now();
        while self.child.try_wait().ok().flatten().is_none() {
            if started.elapsed() > Duration::from_secs(60) {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // What it leaves mounted would keep its directory.
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let root = self.root.path().display().to_string();
        for point in mounts.lines().rev().filter_map(|line| line.split(' ').nth(4)) {
            if point.starts_with(&root) {
                let _ = Run::new("umount").args(["-l", point]).run();
            }
        }
        hoy_testkit::remove_cgroups(&self.parent);
    }
}
