//! A power cut and a full disk, on a file system of the test's own.

use std::os::fd::AsFd as _;
use std::path::PathBuf;

use hoy_e2e::{field, give_busybox};
use hoy_testkit::{Daemon, Run, alpine_rootfs, wait_until};

/// An ext4 in a file, mounted where the daemon keeps its data.
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    fn mount(daemon: &Daemon, megabytes: u64) -> Self {
        let (image, at) = (daemon.path("disk"), daemon.path("data"));
        std::fs::create_dir(&at).unwrap();
        std::fs::File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
        Run::new("mkfs.ext4").args(["-q", "-F"]).args([&image]).run().ok();
        let disk = Self { image, at };
        disk.attach();
        disk
    }

    fn attach(&self) {
        Run::new("mount").args(["-o", "loop"]).args([&self.image, &self.at]).run().ok();
    }

    fn detach(&self) {
        // What still uses it has been killed; that may take a moment.
        wait_until("the disk is free", || {
            Run::new("umount").args([&self.at]).run().code == Some(0)
        });
    }

    /// Everything that was not written through is gone; and so is every process.
    fn cut(&self, daemon: &mut Daemon) {
        daemon.kill();
        for supervisor in supervisors(daemon) {
            Run::new("kill").args(["-9", &supervisor]).run();
        }
        wait_until("no supervisor is left", || supervisors(daemon).is_empty());
        let root = std::fs::File::open(&self.at).unwrap();
        hoy_sys::mount::shutdown_file_system(root.as_fd()).unwrap();
        drop(root);
        self.detach();
        self.attach();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let flags = rustix::mount::UnmountFlags::DETACH;
        let _ = rustix::mount::unmount(self.at.as_path(), flags);
    }
}

/// They hold the disk by the mount namespaces in which they live.
fn supervisors(daemon: &Daemon) -> Vec<String> {
    let root = daemon.path("run").display().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let is_one = |entry: &std::fs::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        line.starts_with("hoy-shim") && line.contains(&root)
    };
    let found = processes.filter(is_one);
    found.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn what_was_acknowledged_survives_a_power_cut() {
    let mut daemon = Daemon::prepare(&[]);
    let disk = Disk::mount(&daemon, 512);
    daemon.launch();
    give_busybox(&daemon);
    let rootfs = alpine_rootfs().display().to_string();
    daemon
        .docker(&[
            "create",
            "--name",
            "before",
            "-e",
            "KEPT=yes",
            "busybox",
            "sh",
            "-c",
            "echo $KEPT",
        ])
        .run()
        .ok();
    let import = daemon.docker(&["import", &rootfs, "alpine"]).run();
    import.ok();
    // In the moment after the answer.
    disk.cut(&mut daemon);
    daemon.launch();
    let images = daemon.docker(&["images", "--format", "{{.Repository}}"]).run();
    assert!(images.ok().contains("alpine") && images.ok().contains("busybox"), "{}", images.stdout);
    let text = daemon.docker(&["run", "--rm", "alpine", "cat", "/etc/os-release"]).run();
    assert!(text.ok().contains("Alpine Linux"));
    assert_eq!(daemon.docker(&["start", "-a", "before"]).run().ok(), "yes\n");
    // A removal that was acknowledged stays one.
    daemon.docker(&["rm", "before"]).run().ok();
    daemon.docker(&["rmi", "alpine"]).run().ok();
    disk.cut(&mut daemon);
    daemon.launch();
    daemon.docker(&["inspect", "before"]).run().fails_with(1);
    daemon.docker(&["image", "inspect", "alpine"]).run().fails_with(1);
    daemon.docker(&["run", "--rm", "busybox", "true"]).run().ok();
    assert_eq!(daemon.terminate(), Some(0));
    disk.detach();
}

#[test]
fn a_full_disk_loses_nothing() {
    let mut daemon = Daemon::prepare(&[]);
    let disk = Disk::mount(&daemon, 64);
    daemon.launch();
    give_busybox(&daemon);
    daemon
        .hoy(&[
            "run",
            "-d",
            "--name",
            "on",
            "busybox",
            "sh",
            "-c",
            "while :; do echo tick; sleep 0.05; done",
        ])
        .run()
        .ok();
    // One that fills it from inside, and an archive that does not fit.
    let fill = daemon
        .hoy(&["run", "--name", "filler", "busybox", "dd", "if=/dev/zero", "of=/big", "bs=1M"])
        .run();
    assert!(fill.stderr.contains("No space left"), "{fill:?}");
    let load = daemon.docker(&["import", &alpine_rootfs().display().to_string(), "alpine"]).run();
    assert_ne!(load.code, Some(0));
    assert!(load.stderr.to_lowercase().contains("no space left"), "{load:?}");
    // What runs runs on, and can be looked at and removed.
    assert_eq!(field(&daemon, "on", "{{.State.Running}}"), "true");
    daemon.hoy(&["ps"]).run().ok();
    daemon.hoy(&["exec", "on", "true"]).run().ok();
    daemon.hoy(&["logs", "--tail", "1", "on"]).run().ok();
    daemon.hoy(&["rm", "filler"]).run().ok();
    // There is room again.
    wait_until("the space is back", || {
        daemon
            .hoy(&["run", "--rm", "busybox", "dd", "if=/dev/zero", "of=/x", "bs=1M", "count=8"])
            .run()
            .code
            == Some(0)
    });
    let images = daemon.docker(&["images", "-q", "alpine"]).run();
    assert_eq!(images.ok(), "");
    daemon.hoy(&["rm", "-f", "on"]).run().ok();
    assert_eq!(daemon.terminate(), Some(0));
    disk.detach();
}
