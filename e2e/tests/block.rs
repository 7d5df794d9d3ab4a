//! Limits on block devices, measured with direct I/O on loop devices of the test's own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hoy_e2e::fuse::{Files, Found, Fuse};
use hoy_e2e::{daemon, idle, written};
use hoy_testkit::{Daemon, Run, wait_until};

/// A loop device. The kernel takes it back with its last user, however this process ends.
struct Loop {
    path: PathBuf,
    _open: File,
    /// What serves the file below it, which ends after it.
    _fuse: Option<Fuse>,
}

impl Loop {
    /// One that is as fast as memory, so that there is nothing to wait for but a limit.
    fn fast() -> Self {
        let file = tempfile::NamedTempFile::new_in("/dev/shm").expect("file in memory");
        file.as_file().set_len(64 << 20).expect("set its size");
        Self::over(file.path(), None)
    }

    /// A disk for which every reader waits, and no reader for the processor: it takes its time for
    /// each read, and does one after the other.
    fn slow(time: Duration) -> Self {
        let directory = tempfile::Builder::new().prefix("hoy-fuse-").tempdir().expect("directory");
        let fuse = Fuse::mount(directory.path(), Slow(time));
        Self::over(&directory.path().join("disk"), Some(fuse))
    }

    fn over(file: &Path, fuse: Option<Fuse>) -> Self {
        // A file in memory knows no direct I/O everywhere; without it, some kernels ask a file
        // system for each page by itself.
        let direct = if fuse.is_some() { "--direct-io=on" } else { "--direct-io=off" };
        let losetup = Run::new("losetup").args(["--find", "--show", direct]);
        let losetup = losetup.args([file]);
        let path = PathBuf::from(losetup.run().ok().trim());
        let open = File::open(&path);
        // While it is open, this only says that it goes when it is open no more.
        Run::new("losetup").args(["--detach", &path.display().to_string()]).run().ok();
        let mut made = Self { path, _open: open.expect("open"), _fuse: fuse };
        if let Some(fuse) = &mut made._fuse {
            fuse.detach();
        }
        made
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Major and minor number, as cgroup files write them.
    fn numbers(&self) -> String {
        let name = self.path.file_name().expect("name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(format!("/sys/block/{name}/dev"));
        text.expect("device numbers").trim().to_owned()
    }

    fn scheduler(&self, name: &str) {
        self.queue("scheduler", name);
    }

    fn queue(&self, file: &str, value: &str) {
        let own = self.path.file_name().expect("name").to_string_lossy().into_owned();
        std::fs::write(format!("/sys/block/{own}/queue/{file}"), value).expect(file);
    }
}

/// One file, `disk`.
struct Slow(Duration);

impl Files for Slow {
    fn find(&mut self, name: &[u8]) -> Found {
        if name == b"disk" { Found::File(1 << 30) } else { Found::Nothing }
    }

    fn read(&mut self, _offset: u64, length: usize) -> Vec<u8> {
        std::thread::sleep(self.0);
        vec![0; length]
    }
}

/// How many of something per second four `dd` in a container do, a quarter each: while the limit
/// counts there is always one that waits, and so nobody's late waking is lost time. By a clock
/// inside, which does not tell how long the first start of a program waits for the machine's disk.
fn rate(daemon: &Daemon, name: &str, arguments: &str, of: u64) -> f64 {
    let script = format!(
        "dd if=/dev/zero of=/dev/null count=1 2>/dev/null
         read from rest </proc/uptime
         for each in 1 2 3 4; do dd {arguments} 2>/dev/null & done
         wait
         read to rest </proc/uptime
         echo $from $to"
    );
    let run = daemon.docker(&["exec", name, "sh", "-c", &script]).run();
    let times: Vec<f64> = run.ok().split_whitespace().flat_map(str::parse).collect();
    let [from, to] = times[..] else { panic!("no times in {run:?}") };
    of as f64 / (to - from)
}

/// The highest of some rates: whatever else the machine does only makes it less, and so who comes
/// to `enough` need not be asked again.
fn best(enough: f64, rate: impl Fn() -> f64) -> f64 {
    let mut best = 0.0_f64;
    for _ in 0..8 {
        best = best.max(rate());
        if best > enough {
            break;
        }
    }
    best
}

/// The highest of some rates where there is a limit, which none of them is above.
fn limited(daemon: &Daemon, name: &str, arguments: &str, of: u64, limit: u32) -> f64 {
    let limit = f64::from(limit);
    best(0.95 * limit, || {
        let rate = rate(daemon, name, arguments, of);
        assert!(rate < 1.4 * limit, "{rate} where {limit} are allowed");
        rate
    })
}

/// Who measures is alone: the others would be measured with it.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn bytes_per_second() {
    let _alone = alone();
    let daemon = daemon();
    let disk = Loop::fast();
    let (path, device) = (disk.name(), format!("{}:/dev/disk", disk.name()));
    let (write, read) = (format!("{path}:2mb"), format!("{path}:4mb"));
    let flags = ["--device", &device, "--device-write-bps", &write, "--device-read-bps", &read];
    idle(&daemon, "slow", &flags);
    let write = "if=/dev/zero of=/dev/disk bs=256k count=4 oflag=direct";
    let written_rate = limited(&daemon, "slow", write, 4 << 20, 2 << 20);
    let read = "if=/dev/disk of=/dev/null bs=256k count=8 iflag=direct";
    limited(&daemon, "slow", read, 8 << 20, 4 << 20);
    let text = written(&daemon, "slow", "blkio", "blkio.throttle.write_bps_device", "io.max");
    let numbers = disk.numbers();
    assert!(text.starts_with(&numbers) && text.contains("2097152"), "{text}");
    // Without a limit the same is much faster.
    idle(&daemon, "free", &["--device", &device]);
    let free = best(1.5 * written_rate, || rate(&daemon, "free", write, 4 << 20));
    assert!(free > 1.5 * written_rate, "{free} {written_rate}");
}

#[test]
fn twice_the_operations_in_half_the_time() {
    let _alone = alone();
    let daemon = daemon();
    let disk = Loop::fast();
    let (path, device) = (disk.name(), format!("{}:/dev/disk", disk.name()));
    let operations = |name: &str, iops: u32| {
        let limit = format!("{path}:{iops}");
        idle(&daemon, name, &["--device", &device, "--device-write-iops", &limit]);
        // Some seconds of each: at the start the kernel lets a fifth of a second's pass at once.
        let each = iops * 3 / 4;
        let write = format!("if=/dev/zero of=/dev/disk bs=4k count={each} oflag=direct");
        limited(&daemon, name, &write, u64::from(4 * each), iops)
    };
    let (slow, fast) = (operations("slow", 20), operations("fast", 40));
    let ratio = fast / slow;
    assert!((1.5..2.5).contains(&ratio), "{ratio}: {slow} and {fast} operations per second");
    // The seeds' ten against a hundred.
    let (ten, hundred) = (operations("ten", 10), operations("hundred", 100));
    assert!(hundred > 3.0 * ten, "{ten} {hundred}");
    let read = format!("{path}:30");
    idle(&daemon, "reads", &["--device", &device, "--device-read-iops", &read]);
    let read = "if=/dev/disk of=/dev/null bs=4k count=15 iflag=direct";
    limited(&daemon, "reads", read, 60, 30);
}

#[test]
fn weight_counts_where_two_want_one_disk() {
    let _alone = alone();
    // Ended after the daemon, and so after its readers.
    let disk = Loop::slow(Duration::from_millis(2));
    let daemon = daemon();
    disk.scheduler("bfq");
    // Who has just begun is given more than its weight otherwise.
    disk.queue("iosched/low_latency", "0");
    // One request at a time is the disk's: the others wait where weights count.
    disk.queue("iosched/strict_guarantees", "1");
    // Short turns, so that few reads show the share.
    disk.queue("iosched/max_budget", "512");
    // Each read is many requests that wait at once, and so there is always one of each container
    // to choose, however long their processes wait for a processor.
    disk.queue("max_sectors_kb", "64");
    let device = format!("{}:/dev/disk", disk.name());
    let script = "while :; do dd if=/dev/disk of=/dev/null bs=512k iflag=direct 2>/dev/null; done";
    for (name, weight) in [("heavy", "1000"), ("light", "100")] {
        idle(&daemon, name, &["--blkio-weight", weight, "--device", &device]);
        for _ in 0..3 {
            daemon.docker(&["exec", "-d", name, "sh", "-c", script]).run().ok();
        }
    }
    // `7:0 Read 4096` or `7:0 rbytes=4096`, once there is anything to tell.
    let read = |name: &str| {
        let text = written(&daemon, name, "blkio", "blkio.bfq.io_service_bytes", "io.stat");
        let lines = text.lines().filter_map(|line| line.strip_prefix(&disk.numbers()));
        let number = |line: &str| {
            let line = line.trim();
            let rest = line.strip_prefix("Read ").or_else(|| line.strip_prefix("rbytes="))?;
            rest.split(' ').next()?.parse::<u64>().ok()
        };
        lines.filter_map(number).sum::<u64>()
    };
    // How much more the heavy one gets of the next while.
    let ratio = || {
        let before = (read("heavy"), read("light"));
        let since = || (read("heavy") - before.0, read("light") - before.1);
        for megabytes in (2_u64..=64).step_by(2) {
            wait_until("more is read", || since().0 + since().1 > megabytes << 20);
        }
        let (heavy, light) = since();
        heavy as f64 / light as f64
    };
    wait_until("both read", || read("heavy").min(read("light")) > 1 << 20);
    let tenfold = ratio();
    assert!((6.0..16.0).contains(&tenfold), "{tenfold}");
    for (name, weight) in [("heavy", "1000"), ("light", "100")] {
        let text = written(&daemon, name, "blkio", "blkio.bfq.weight", "io.bfq.weight");
        assert_eq!(text.trim_start_matches("default "), weight);
    }
    daemon.docker(&["update", "--blkio-weight", "300", "light"]).run().ok();
    let text = written(&daemon, "light", "blkio", "blkio.bfq.weight", "io.bfq.weight");
    assert_eq!(text.trim_start_matches("default "), "300");
    let threefold = ratio();
    assert!((2.2..4.8).contains(&threefold), "{threefold}");
}
