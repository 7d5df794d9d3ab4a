//! A process that the kernel holds: on a file system whose server has stopped to answer.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hoy_e2e::{daemon, pid};
use hoy_testkit::wait_until;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const INIT: u32 = 26;
const BATCH_FORGET: u32 = 42;

/// A file system of one empty directory, in which looking for `stuck` never ends.
struct Fuse {
    path: PathBuf,
    device: Option<Arc<File>>,
    asked: Arc<AtomicBool>,
}

impl Fuse {
    fn mount(path: &Path) -> Self {
        std::fs::create_dir(path).unwrap();
        let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let data =
            format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other\0", device.as_raw_fd());
        let data = CStr::from_bytes_with_nul(data.as_bytes()).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("hoytest", path, "fuse", flags, data).unwrap();
        let device = Arc::new(device);
        let asked = Arc::new(AtomicBool::new(false));
        let (weak, told) = (Arc::downgrade(&device), Arc::clone(&asked));
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 17];
            loop {
                let Some(device) = weak.upgrade() else { return };
                // Not blocking, so that closing the device is not kept from happening.
                let mut fds = [rustix::event::PollFd::new(&*device, rustix::event::PollFlags::IN)];
                let moment = rustix::event::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
                if rustix::event::poll(&mut fds, Some(&moment)) != Ok(1) {
                    continue;
                }
                let Ok(length) = rustix::io::read(&*device, &mut buffer) else { continue };
                answer(&device, &buffer[..length], &told);
            }
        });
        Self { path: path.to_owned(), device: Some(device), asked }
    }

    /// Ends the server: the kernel answers in its stead that it is gone.
    fn end(&mut self) {
        // First out of the tree, while the server still answers for its root.
        if self.device.is_some() {
            rustix::mount::unmount(&self.path, rustix::mount::UnmountFlags::DETACH).unwrap();
        }
        self.device = None;
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        self.end();
    }
}

fn answer(device: &File, request: &[u8], asked: &AtomicBool) {
    let word = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().unwrap());
    let unique = &request[8..16];
    let body: Result<Vec<u8>, i32> = match word(4) {
        INIT => {
            let mut out = vec![0; 64];
            out[0..4].copy_from_slice(&7_u32.to_le_bytes());
            out[4..8].copy_from_slice(&31_u32.to_le_bytes());
            out[20..24].copy_from_slice(&4096_u32.to_le_bytes());
            Ok(out)
        }
        GETATTR => {
            let mut out = vec![0; 104];
            out[0..8].copy_from_slice(&3600_u64.to_le_bytes());
            out[16..24].copy_from_slice(&1_u64.to_le_bytes());
            out[76..80].copy_from_slice(&0o040_755_u32.to_le_bytes());
            out[80..84].copy_from_slice(&2_u32.to_le_bytes());
            Ok(out)
        }
        LOOKUP if request[40..].starts_with(b"stuck\0") => {
            asked.store(true, Ordering::SeqCst);
            return;
        }
        LOOKUP => Err(-2),
        FORGET | BATCH_FORGET => return,
        _ => Err(-38),
    };
    let (error, body) = match body {
        Ok(body) => (0, body),
        Err(error) => (error, Vec::new()),
    };
    let length = u32::try_from(16 + body.len()).unwrap();
    let out = [&length.to_le_bytes()[..], &error.to_le_bytes(), unique, &body].concat();
    let _ = rustix::io::write(device, &out);
}

#[test]
fn held_by_the_kernel() {
    let daemon = daemon();
    let mut fuse = Fuse::mount(&daemon.path("fuse"));
    let volume = format!("{}:/f", fuse.path.display());
    daemon
        .hoy(&["run", "-d", "--name", "held", "-v", &volume, "busybox", "cat", "/f/stuck"])
        .run()
        .ok();
    wait_until("it is held", || fuse.asked.load(Ordering::SeqCst));
    let first = pid(&daemon, "held");
    let quick = |args: &[&str]| {
        let started = Instant::now();
        daemon.hoy(args).run().ok();
        assert!(started.elapsed() < Duration::from_secs(3), "{args:?} was delayed");
    };
    let everything_else = || {
        quick(&["ps"]);
        quick(&["inspect", "held"]);
        quick(&["logs", "held"]);
        quick(&["run", "--rm", "busybox", "true"]);
    };
    everything_else();
    std::thread::scope(|scope| {
        let removal = scope.spawn(|| daemon.hoy(&["rm", "-f", "held"]).deadline(60).run());
        std::thread::sleep(Duration::from_millis(500));
        everything_else();
        let removal = removal.join().unwrap();
        removal.fails_with(1);
        assert!(
            removal.stderr.contains(&format!("process {first} waits in the kernel")),
            "{removal:?}"
        );
    });
    everything_else();
    fuse.end();
    wait_until("it can be removed", || daemon.hoy(&["rm", "-f", "held"]).run().code == Some(0));
}
