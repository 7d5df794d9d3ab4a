//! Limits on block devices, measured with direct I/O on loop devices of the test's own.

use std::path::PathBuf;
use std::time::Instant;

use hoy_e2e::{daemon, idle, written};
use hoy_testkit::{Daemon, Run, wait_until};

/// A loop device over a sparse file.
struct Loop {
    path: PathBuf,
}

impl Loop {
    fn new(daemon: &Daemon, name: &str) -> Self {
        Self::of(daemon, name, 64)
    }

    fn of(daemon: &Daemon, name: &str, megabytes: u32) -> Self {
        let file = daemon.path(name).display().to_string();
        // Data, not holes: what comes from the disk is slower than a process.
        let data = format!("head -c {megabytes}M /dev/urandom >{file}; sync {file}");
        Run::new("sh").args(["-ec", &data]).run().ok();
        Self::over(&file)
    }

    /// One on which readers wait for the disk and not for the processor: the guest has a slow disk
    /// for that.
    fn waited_for(daemon: &Daemon, name: &str) -> Self {
        if hoy_testkit::in_guest() { Self::over("/dev/vdb") } else { Self::of(daemon, name, 256) }
    }

    fn over(file: &str) -> Self {
        let shown = Run::new("losetup").args(["--find", "--show", "--direct-io=on", file]).run();
        Self { path: shown.ok().trim().into() }
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

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Run::new("losetup").args(["--detach", &self.name()]).run();
    }
}

/// Bytes per second of a `dd` in a container.
fn rate(daemon: &Daemon, name: &str, arguments: &str, bytes: u64) -> f64 {
    let started = Instant::now();
    let script = format!("dd {arguments} 2>/dev/null");
    daemon.docker(&["exec", name, "sh", "-c", &script]).run().ok();
    bytes as f64 / started.elapsed().as_secs_f64()
}

#[test]
fn bytes_per_second() {
    let daemon = daemon();
    let disk = Loop::new(&daemon, "disk");
    let (path, device) = (disk.name(), format!("{}:/dev/disk", disk.name()));
    let (write, read) = (format!("{path}:2mb"), format!("{path}:4mb"));
    let flags = ["--device", &device, "--device-write-bps", &write, "--device-read-bps", &read];
    idle(&daemon, "slow", &flags);
    let write = "if=/dev/zero of=/dev/disk bs=1M count=4 oflag=direct";
    let written_rate = rate(&daemon, "slow", write, 4 << 20);
    assert!(written_rate < 1.4 * f64::from(2 << 20), "{written_rate}");
    let read = "if=/dev/disk of=/dev/null bs=1M count=8 iflag=direct";
    let read_rate = rate(&daemon, "slow", read, 8 << 20);
    assert!(read_rate < 1.4 * f64::from(4 << 20), "{read_rate}");
    let text = written(&daemon, "slow", "blkio", "blkio.throttle.write_bps_device", "io.max");
    let numbers = disk.numbers();
    assert!(text.starts_with(&numbers) && text.contains("2097152"), "{text}");
    // Without a limit the same is much faster.
    idle(&daemon, "free", &["--device", &device]);
    let free = rate(&daemon, "free", write, 4 << 20);
    assert!(free > 1.5 * written_rate, "{free} {written_rate}");
}

#[test]
fn twice_the_operations_in_half_the_time() {
    let daemon = daemon();
    let disk = Loop::new(&daemon, "disk");
    let (path, device) = (disk.name(), format!("{}:/dev/disk", disk.name()));
    let operations = |name: &str, iops: u32| {
        let limit = format!("{path}:{iops}");
        idle(&daemon, name, &["--device", &device, "--device-write-iops", &limit]);
        rate(&daemon, name, "if=/dev/zero of=/dev/disk bs=4k count=60 oflag=direct", 60)
    };
    let (slow, fast) = (operations("slow", 20), operations("fast", 40));
    assert!(slow < 28.0 && fast < 56.0, "{slow} {fast}");
    let ratio = fast / slow;
    assert!((1.5..2.5).contains(&ratio), "{ratio}: {slow} and {fast} operations per second");
    // The seeds' ten against a hundred.
    let (ten, hundred) = (operations("ten", 10), operations("hundred", 100));
    assert!(ten < 14.0 && hundred < 140.0 && hundred > 3.0 * ten, "{ten} {hundred}");
    let read = format!("{path}:30");
    idle(&daemon, "reads", &["--device", &device, "--device-read-iops", &read]);
    let read = rate(&daemon, "reads", "if=/dev/disk of=/dev/null bs=4k count=60 iflag=direct", 60);
    assert!(read < 42.0, "{read}");
}

#[test]
fn weight_counts_where_two_want_one_disk() {
    let daemon = daemon();
    let disk = Loop::waited_for(&daemon, "disk");
    disk.scheduler("bfq");
    // Who has just begun is given more than its weight otherwise.
    disk.queue("iosched/low_latency", "0");
    // And who takes its time between two requests, as all do on an emulated processor, loses its
    // turn otherwise.
    disk.queue("iosched/slice_idle", "100");
    // Also on a disk that is as fast as memory.
    disk.queue("iosched/strict_guarantees", "1");
    let device = format!("{}:/dev/disk", disk.name());
    let script = "while :; do dd if=/dev/disk of=/dev/null bs=64k iflag=direct 2>/dev/null; done";
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
    wait_until("both read", || read("heavy") > 0 && read("light") > 0);
    let before = (read("heavy"), read("light"));
    std::thread::sleep(std::time::Duration::from_secs(4));
    let (heavy, light) = (read("heavy") - before.0, read("light") - before.1);
    assert!(heavy as f64 > 1.3 * light as f64, "{heavy} against {light}");
    for (name, weight) in [("heavy", "1000"), ("light", "100")] {
        let text = written(&daemon, name, "blkio", "blkio.bfq.weight", "io.bfq.weight");
        assert_eq!(text.trim_start_matches("default "), weight);
    }
    daemon.docker(&["update", "--blkio-weight", "300", "light"]).run().ok();
    let text = written(&daemon, "light", "blkio", "blkio.bfq.weight", "io.bfq.weight");
    assert_eq!(text.trim_start_matches("default "), "300");
}
