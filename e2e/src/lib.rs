//! What the end-to-end tests share: a daemon with the usual images.

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
