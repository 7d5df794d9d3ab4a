//! Limits on block devices, measured with direct I/O on loop devices of the test's own.

use std::path::PathBuf;
use std::time::Instant;

use hoy_e2e::{daemon, written};
use hoy_testkit::{Daemon, Run};

/// A loop device over a sparse file.
struct Loop {
    path: PathBuf,
}

impl Loop {
    fn new(daemon: &Daemon, name: &str) -> Self {
        let file = daemon.path(name).display().to_string();
        Run::new("truncate").args(["-s", "64M", &file]).run().ok();
        let shown = Run::new("losetup").args(["--find", "--show", "--direct-io=on", &file]).run();
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
        let own = self.path.file_name().expect("name").to_string_lossy().into_owned();
        std::fs::write(format!("/sys/block/{own}/queue/scheduler"), name).expect("scheduler");
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Run::new("losetup").args(["--detach", &self.name()]).run();
    }
}

fn idle(daemon: &Daemon, name: &str, flags: &[&str]) {
    let mut args = vec!["run", "-d", "--name", name];
    args.extend(flags);
    args.extend(["busybox", "sleep", "1000"]);
    daemon.hoy(&args).run().ok();
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
    let read = format!("{path}:30");
    idle(&daemon, "reads", &["--device", &device, "--device-read-iops", &read]);
    let read = rate(&daemon, "reads", "if=/dev/disk of=/dev/null bs=4k count=60 iflag=direct", 60);
    assert!(read < 42.0, "{read}");
}

#[test]
fn weight_counts_where_two_want_one_disk() {
    let daemon = daemon();
    let disk = Loop::new(&daemon, "disk");
    disk.scheduler("bfq");
    let device = format!("{}:/dev/disk", disk.name());
    let script = "n=0; end=$(($(date +%s) + 6)); while [ $(date +%s) -lt $end ]; do \
                  dd if=/dev/disk of=/dev/null bs=64k count=64 iflag=direct 2>/dev/null; \
                  n=$((n+1)); done; echo $n";
    let begin = |name: &str, weight: &str| {
        let args = ["run", "--name", name, "--blkio-weight", weight, "--device", &device];
        daemon.docker(&args).args(["busybox", "sh", "-c", script]).spawn()
    };
    let (heavy, light) = (begin("heavy", "1000"), begin("light", "100"));
    let count = |child: std::process::Child| {
        let output = child.wait_with_output().expect("wait");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).trim().parse::<f64>().expect("count")
    };
    let (heavy, light) = (count(heavy), count(light));
    assert!(heavy > 1.3 * light, "{heavy} against {light}");
    for (name, weight) in [("heavy", "1000"), ("light", "100")] {
        daemon.docker(&["start", name]).run().ok();
        let text = written(&daemon, name, "blkio", "blkio.bfq.weight", "io.bfq.weight");
        assert_eq!(text.trim_start_matches("default "), weight);
    }
    daemon.docker(&["update", "--blkio-weight", "300", "light"]).run().ok();
    let text = written(&daemon, "light", "blkio", "blkio.bfq.weight", "io.bfq.weight");
    assert_eq!(text.trim_start_matches("default "), "300");
}
