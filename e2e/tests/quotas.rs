//! Room: what a container and a volume may hold is limited on any file system.
//!
//! The kernel lets an ext4 grow in use for CAP_SYS_RESOURCE alone; without it that is refused by
//! its name, and it grows as soon as nobody uses it.

use hoy_e2e::{daemon, field};
use hoy_testkit::{Daemon, Output, wait_until};

fn sh(daemon: &Daemon, container: &str, script: &str) -> Output {
    daemon.docker(&["exec", container, "sh", "-c", script]).run()
}

/// The size that `df` shows inside, in MiB, as it is rounded.
fn df(daemon: &Daemon, container: &str, place: &str) -> String {
    let output = sh(daemon, container, &format!("df -m {place} | tail -1 | awk '{{print $2}}'"));
    output.ok().trim().to_owned()
}

fn full(daemon: &Daemon, container: &str, file: &str) {
    let output = sh(daemon, container, &format!("dd if=/dev/zero of={file} bs=1M count=400"));
    assert_ne!(output.code, Some(0));
    let said = output.stderr.contains("No space left") || output.stderr.contains("quota exceeded");
    assert!(said, "{output:?}");
}

/// Loop devices over files of this daemon, and mounts below its data.
fn left(daemon: &Daemon) -> Vec<String> {
    let root = daemon.path("data").display().to_string();
    let mut out: Vec<String> = Vec::new();
    for entry in std::fs::read_dir("/sys/block").unwrap().flatten() {
        let file = std::fs::read_to_string(entry.path().join("loop/backing_file"));
        out.extend(file.ok().filter(|file| file.starts_with(&root)));
    }
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    out.extend(table.lines().filter(|line| line.contains(&root)).map(str::to_owned));
    out
}

fn may_grow_in_use() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap() & (1 << 24) != 0
}

/// By our own command line, which Docker's does not have.
fn grow(daemon: &Daemon, what: &str, size: &str) -> String {
    let args = match what.split_once('/') {
        Some(("volumes", name)) => ["volume", "update", "--disk", size, name].to_vec(),
        Some((_, name)) => ["update", "--disk", size, name].to_vec(),
        None => unreachable!("a kind and a name"),
    };
    let output = daemon.hoy(&args).run();
    if output.code == Some(0) { "grown".to_owned() } else { output.stderr }
}

#[test]
fn nobody_writes_more_than_is_said() {
    let mut daemon = daemon();
    for (flags, says) in [
        ("--storage-opt=inodes=4", "unknown option inodes"),
        ("--storage-opt=size=x", "invalid size: 'x'"),
        ("--storage-opt=size=1k", "the least is"),
    ] {
        let output = daemon.docker(&["create", flags, "busybox"]).run();
        assert_ne!(output.code, Some(0));
        assert!(output.stderr.contains(says), "{output:?}");
    }
    daemon.docker(&["volume", "create", "-o", "size=12m", "small"]).run().ok();
    let options = daemon.docker(&["volume", "inspect", "-f", "{{.Options.size}}", "small"]).run();
    assert_eq!(options.ok(), "12m\n");
    assert_eq!(left(&daemon), [""; 0], "nothing is mounted for what nobody uses");

    let run = ["run", "-d", "--init", "--storage-opt", "size=24m", "--name", "one"];
    let run = [&run[..], &["-v", "small:/v", "busybox", "sleep", "1000"]].concat();
    daemon.docker(&run).run().ok();
    daemon
        .docker(&["run", "-d", "--init", "--name", "free", "busybox", "sleep", "1000"])
        .run()
        .ok();
    assert_eq!((df(&daemon, "one", "/").as_str(), df(&daemon, "one", "/v").as_str()), ("24", "12"));
    full(&daemon, "one", "/file");
    sh(&daemon, "one", "echo kept > /v/kept && ls /v").ok();
    full(&daemon, "one", "/v/file");
    // A container without a limit does not notice, and neither do the daemon's own files.
    sh(&daemon, "free", "dd if=/dev/zero of=/file bs=1M count=40").ok();
    sh(&daemon, "one", "rm /file && dd if=/dev/zero of=/again bs=1M count=16").ok();
    sh(
        &daemon,
        "one",
        "cp /bin/busybox /busybox && chmod u+s /busybox && /busybox true && mknod /null c 1 3",
    )
    .ok();

    // It outlives the daemon, with its limits.
    daemon.kill();
    daemon.launch();
    assert_eq!((df(&daemon, "one", "/").as_str(), df(&daemon, "one", "/v").as_str()), ("24", "12"));

    let size = |daemon: &Daemon| field(daemon, "one", "{{.HostConfig.StorageOpt.size}}");
    if may_grow_in_use() {
        assert_eq!(grow(&daemon, "containers/one", "48m"), "grown");
        assert_eq!(grow(&daemon, "volumes/small", "30m"), "grown");
    } else {
        assert!(grow(&daemon, "containers/one", "48m").contains("CAP_SYS_RESOURCE"));
        assert_eq!((size(&daemon).as_str(), df(&daemon, "one", "/").as_str()), ("24m", "24"));
        daemon.docker(&["kill", "one"]).run().ok();
        wait_until("it grows", || grow(&daemon, "containers/one", "48m") == "grown");
        wait_until("it grows", || grow(&daemon, "volumes/small", "30m") == "grown");
        daemon.docker(&["start", "one"]).run().ok();
    }
    assert_eq!((df(&daemon, "one", "/").as_str(), df(&daemon, "one", "/v").as_str()), ("48", "30"));
    assert_eq!(size(&daemon), "48m");
    sh(&daemon, "one", "dd if=/dev/zero of=/more bs=1M count=20 && test -f /again").ok();
    assert_eq!(sh(&daemon, "one", "cat /v/kept").ok(), "kept\n");
    for (what, size, says) in [
        ("containers/one", "30m", "not shrink"),
        ("volumes/small", "20m", "not shrink"),
        ("containers/free", "30m", "no limit that could grow"),
        ("volumes/nosuch", "30m", "no such volume"),
    ] {
        let said = grow(&daemon, what, size);
        assert!(said.contains(says), "{said}");
    }

    // What ends while no daemon runs is tidied by the next one.
    let pid: i32 = field(&daemon, "one", "{{.State.Pid}}").parse().unwrap();
    daemon.kill();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    daemon.launch();
    wait_until("nothing is mounted or on a loop device", || left(&daemon).is_empty());
    // What lies in files of file systems counts, also while nobody sees into them.
    let sizes = daemon.docker(&["system", "df", "-v", "--format", "{{json .}}"]).run();
    let sizes: serde_json::Value = serde_json::from_str(sizes.ok()).unwrap();
    let of = |list: &str, field: &str| {
        let mut all = sizes[list].as_array().unwrap().iter();
        let one = |one: &&serde_json::Value| one[field] == "one" || one[field] == "small";
        all.find(one).unwrap()["Size"].as_str().unwrap().to_owned()
    };
    for size in [of("Containers", "Names"), of("Volumes", "Name")] {
        assert!(size.contains("MB"), "{size}");
    }
    // And it is as it was at the next start, also filled from the image.
    daemon.docker(&["start", "one"]).run().ok();
    sh(&daemon, "one", "test -f /again && test -u /busybox && cat /v/kept").ok();
    let bin = ["run", "--rm", "-v", "filled:/bin", "busybox", "test", "-x", "/bin/true"];
    daemon.docker(&["volume", "create", "-o", "size=20m", "filled"]).run().ok();
    daemon.docker(&bin).run().ok();
    daemon.docker(&["rm", "-f", "one", "free"]).run().ok();
    daemon.docker(&["volume", "rm", "small", "filled"]).run().ok();
    wait_until("nothing is left", || left(&daemon).is_empty());
    for place in ["containers", "volumes", "ingest"] {
        let entries = std::fs::read_dir(daemon.path("data").join(place)).unwrap();
        assert_eq!(entries.count(), 0, "{place}");
    }
}
