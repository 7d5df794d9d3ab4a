//! What the end-to-end tests share: a daemon with the usual images.

pub mod disk;
pub mod dockerd;
pub mod fuse;
pub mod hosts;
pub mod sdks;

use hoy_testkit::{Daemon, KernelCounts, Run, busybox_oci_tar, busybox_rootfs, wait_until};

/// A daemon that has `busybox`.
pub fn daemon() -> Daemon {
    let daemon = Daemon::start();
    give_busybox(&daemon);
    daemon
}

/// Loads the shared image and gives it its usual name.
pub fn give_busybox(daemon: &Daemon) {
    let tar = busybox_oci_tar();
    let loaded = daemon.docker(&["load", "-i", &tar.display().to_string()]).run();
    let line = loaded.ok().lines().find(|line| line.starts_with("Loaded image"));
    let name = line.and_then(|line| line.split(": ").nth(1)).map(str::to_owned);
    let name = name.unwrap_or_else(|| panic!("no image in {loaded:?}"));
    daemon.docker(&["tag", &name, "busybox"]).run().ok();
}

/// What the kernel holds once the first container has come and gone: what is made once, with it,
/// is no leak.
pub fn counts(daemon: &Daemon) -> KernelCounts {
    daemon.hoy(&["run", "--rm", "-p", "80", "busybox", "true"]).run().ok();
    wait_until("the first is gone", || daemon.hoy(&["ps", "-aq"]).run().ok().is_empty());
    wait_until("its supervisor is gone", || KernelCounts::of(daemon).shims == 0);
    let links = || daemon.netns().sh("ip -o link");
    wait_until("its interface is gone", || !links().contains(": hv"));
    KernelCounts::of(daemon)
}

/// Both command lines against one daemon: what one must do, the other must do the same.
pub fn both(daemon: &Daemon, args: &[&str]) -> [Run; 2] {
    [daemon.docker(args), daemon.hoy(args)]
}

/// One field of a container, by the independent client's template.
pub fn field(daemon: &Daemon, name: &str, template: &str) -> String {
    daemon.docker(&["inspect", "-f", template, name]).run().ok().trim().to_owned()
}

/// The process of a container as the machine sees it.
pub fn pid(daemon: &Daemon, name: &str) -> u32 {
    let text = field(daemon, name, "{{.State.Pid}}");
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no pid"))
}

/// An image of busybox's root file system after a shell script has changed it.
pub fn import(daemon: &Daemon, name: &str, script: &str, changes: &[&str]) {
    let directory = daemon.path(&format!("rootfs-{name}"));
    let tar = daemon.path(&format!("{name}.tar"));
    let line = format!(
        "mkdir {0}; tar -C {0} -xf {1}; cd {0}; {script}\n tar --numeric-owner --xattrs -C {0} -cf {2} .",
        directory.display(),
        busybox_rootfs().display(),
        tar.display()
    );
    Run::new("sh").args(["-ec", &line]).run().ok();
    let mut args = vec!["import"];
    for change in changes {
        args.extend(["-c", change]);
    }
    let tar = tar.display().to_string();
    args.extend([tar.as_str(), name]);
    daemon.docker(&args).run().ok();
}

/// Whether cgroup v2 serves the memory limits of this machine.
pub fn unified() -> bool {
    controller("memory").1
}

/// Where a controller is mounted, and whether by cgroup v2.
fn controller(name: &str) -> (std::path::PathBuf, bool) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
    let mut unified = None;
    for line in mounts.lines() {
        let (before, after) = line.split_once(" - ").expect("mountinfo");
        let path = std::path::PathBuf::from(before.split(' ').nth(4).expect("mount point"));
        let options = after.rsplit(' ').next().unwrap_or("");
        match after.split(' ').next() {
            Some("cgroup") if options.split(',').any(|option| option == name) => {
                return (path, false);
            }
            Some("cgroup2") => unified = Some(path),
            _ => {}
        }
    }
    (unified.unwrap_or_else(|| panic!("no hierarchy has {name}")), true)
}

/// A container's cgroup, as the machine sees it.
pub fn cgroup(daemon: &Daemon, name: &str, of: &str) -> std::path::PathBuf {
    let id = field(daemon, name, "{{.Id}}");
    controller(of).0.join(daemon.cgroup()).join(id)
}

/// What is written in a container's cgroup, by each version's name for it.
#[track_caller]
pub fn written(daemon: &Daemon, name: &str, of: &str, v1: &str, v2: &str) -> String {
    let path = cgroup(daemon, name, of).join(if controller(of).1 { v2 } else { v1 });
    let text = std::fs::read_to_string(&path);
    text.unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
}

/// Microseconds of CPU time that a container has had.
pub fn cpu_time(daemon: &Daemon, name: &str) -> u64 {
    if controller("cpuacct").1 {
        let text = written(daemon, name, "cpu", "", "cpu.stat");
        let line = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
        return line.expect("usage").parse().expect("number");
    }
    written(daemon, name, "cpuacct", "cpuacct.usage", "").parse::<u64>().expect("number") / 1000
}

/// Asserts that something is done in less than three seconds. A machine that stands still for a
/// moment may do so in the midst of it, but not three times.
#[track_caller]
pub fn is_soon(what: &str, mut deed: impl FnMut()) {
    let mut took = Vec::new();
    while took.len() < 3 {
        let started = std::time::Instant::now();
        deed();
        took.push(started.elapsed());
        if took.last() < Some(&std::time::Duration::from_secs(3)) {
            return;
        }
    }
    panic!("{what} took {took:?}");
}

/// A container that does nothing, to be looked into.
pub fn idle(daemon: &Daemon, name: &str, flags: &[&str]) {
    let mut args = vec!["run", "-d", "--name", name];
    args.extend(flags);
    args.extend(["busybox", "sleep", "1000"]);
    daemon.hoy(&args).run().ok();
}

/// Numbers that look like chance, the same for the same seed.
pub struct Chance(pub u64);

impl Chance {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % bound
    }
}
