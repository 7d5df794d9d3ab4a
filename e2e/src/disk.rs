//! A file system of a test's own below the daemon's data, to be filled and to lose its power.

use std::os::fd::AsFd as _;
use std::path::PathBuf;

use hoy_testkit::{Daemon, Run, wait_until};

/// An ext4 in a file, mounted where the daemon keeps its data.
pub struct Disk {
    pub image: PathBuf,
    pub at: PathBuf,
}

impl Disk {
    pub fn mount(daemon: &Daemon, megabytes: u64) -> Self {
        Self::mount_made(daemon, megabytes, &[])
    }

    /// With more arguments for `mkfs.ext4`.
    pub fn mount_made(daemon: &Daemon, megabytes: u64, how: &[&str]) -> Self {
        let (image, at) = (daemon.path("disk"), daemon.path("data"));
        std::fs::create_dir(&at).unwrap();
        std::fs::File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
        Run::new("mkfs.ext4").args(["-q", "-F"]).args(how).args([&image]).run().ok();
        let disk = Self { image, at };
        disk.attach();
        disk
    }

    pub fn attach(&self) {
        Run::new("mount").args(["-o", "loop"]).args([&self.image, &self.at]).run().ok();
    }

    pub fn detach(&self) {
        // What still uses it has been killed; that may take a moment.
        wait_until("the disk is free", || {
            Run::new("umount").args([&self.at]).run().code == Some(0)
        });
    }

    /// Everything that was not written through is gone; and so is every process.
    pub fn cut(&self, daemon: &mut Daemon) {
        daemon.kill();
        for supervisor in supervisors(daemon) {
            Run::new("kill").args(["-9", &supervisor]).run();
        }
        wait_until("no supervisor is left", || supervisors(daemon).is_empty());
        let root = std::fs::File::open(&self.at).unwrap();
        hoy_sys::mount::shutdown_file_system(root.as_fd()).unwrap();
        drop(root);
        self.detach();
        // What just ends, and what others begin at this moment, may hold it still: it would not be
        // mounted anew.
        wait_until("nobody has the disk", || {
            Run::new("losetup")
                .args([std::path::Path::new("-j"), &self.image])
                .run()
                .ok()
                .is_empty()
        });
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
pub fn supervisors(daemon: &Daemon) -> Vec<String> {
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
