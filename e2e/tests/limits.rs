//! Each limit, observed by a process that runs into it; the same list on cgroup v1 and v2.

use std::time::{Duration, Instant};

use hoy_e2e::{both, counts, cpu_time, daemon, field, idle, import, unified, written};
use hoy_testkit::{Daemon, wait_until};

fn exec(daemon: &Daemon, name: &str, script: &str) -> hoy_testkit::Output {
    daemon.docker(&["exec", name, "sh", "-c", script]).run()
}

/// Holds 60 MB and more at once, written by the process itself: a system call that runs out of
/// memory halfway may also just do less.
const EAT: &str = "awk 'BEGIN { text = sprintf(\"%60000000d\", 1); print length(text) }'";

/// Share of one CPU over a while.
fn share(daemon: &Daemon, name: &str) -> f64 {
    let (before, started) = (cpu_time(daemon, name), Instant::now());
    std::thread::sleep(Duration::from_millis(1500));
    let used = cpu_time(daemon, name) - before;
    used as f64 / started.elapsed().as_micros() as f64
}

#[test]
fn who_wants_more_memory_than_there_is_is_killed_and_told_of() {
    let daemon = daemon();
    // 512 MB, as in the seeds.
    let eater = ["run", "--name", "eater", "-m", "512m", "busybox", "tail", "/dev/zero"];
    daemon.docker(&eater).run().fails_with(137);
    assert_eq!(field(&daemon, "eater", "{{.State.OOMKilled}}"), "true");
    let fits = ["run", "--rm", "-m", "512m", "busybox", "sh", "-c", EAT];
    daemon.docker(&fits).run().ok();
}

#[test]
fn a_child_that_is_killed_is_told_of_while_the_container_runs_on() {
    let daemon = daemon();
    let script = "tail /dev/zero; echo child $?; sleep 1000";
    let run = ["run", "-d", "--name", "parent", "-m", "24m", "busybox", "sh", "-c", script];
    daemon.docker(&run).run().ok();
    wait_until("the child's end is logged", || {
        daemon.docker(&["logs", "parent"]).run().stdout.contains("child 137")
    });
    wait_until("it is known", || field(&daemon, "parent", "{{.State.OOMKilled}}") == "true");
    assert_eq!(field(&daemon, "parent", "{{.State.Running}}"), "true");
    // `--until` is cut to seconds.
    let events = ["events", "--since", "1h", "--until", "0s", "--filter", "event=oom"];
    wait_until("it was an event", || daemon.docker(&events).run().ok().lines().count() == 1);
    // The next life begins without it.
    daemon.docker(&["kill", "parent"]).run().ok();
    assert_eq!(field(&daemon, "parent", "{{.State.OOMKilled}}"), "true");
}

#[test]
fn swap_counts_as_docker_counts_it() {
    let daemon = daemon();
    const M: u64 = 1 << 20;
    for (name, flags, shown, both, alone) in [
        ("twice", &["-m", "300m"][..], 600 * M as i64, Some(600 * M), Some(300 * M)),
        ("some", &["-m", "300m", "--memory-swap", "1g"], 1 << 30, Some(1 << 30), Some(724 * M)),
        ("none", &["-m", "300m", "--memory-swap", "300m"], 300 * M as i64, Some(300 * M), Some(0)),
        ("any", &["-m", "300m", "--memory-swap", "-1"], -1, None, None),
    ] {
        idle(&daemon, name, flags);
        assert_eq!(field(&daemon, name, "{{.HostConfig.MemorySwap}}"), shown.to_string());
        let memory = written(&daemon, name, "memory", "memory.limit_in_bytes", "memory.max");
        assert_eq!(memory, (300 * M).to_string());
        let swap =
            written(&daemon, name, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max");
        let expected = if unified() { alone } else { both };
        match expected {
            Some(bytes) => assert_eq!(swap, bytes.to_string(), "{name}"),
            None => assert!(swap == "max" || swap.parse::<u64>().unwrap() > 1 << 60, "{swap}"),
        }
    }
}

#[test]
fn memory_grows_and_shrinks_while_it_runs() {
    let daemon = daemon();
    idle(&daemon, "grows", &["-m", "24m"]);
    assert_ne!(exec(&daemon, "grows", EAT).code, Some(0));
    let refused = daemon.docker(&["update", "-m", "100m", "grows"]).run();
    assert!(refused.stderr.contains("update the memoryswap at the same time"), "{refused:?}");
    daemon.docker(&["update", "-m", "200m", "--memory-swap", "300m", "grows"]).run().ok();
    exec(&daemon, "grows", EAT).ok();
    assert_eq!(field(&daemon, "grows", "{{.HostConfig.Memory}}"), "209715200");
    daemon.hoy(&["update", "-m", "24m", "--memory-swap", "48m", "grows"]).run().ok();
    assert_ne!(exec(&daemon, "grows", EAT).code, Some(0));
    daemon.hoy(&["update", "--memory-reservation", "10m", "grows"]).run().ok();
    let low = written(&daemon, "grows", "memory", "memory.soft_limit_in_bytes", "memory.low");
    assert_eq!(low, "10485760");
    // What is true now is true after the next start.
    daemon.docker(&["restart", "-t", "0", "grows"]).run().ok();
    let max = written(&daemon, "grows", "memory", "memory.limit_in_bytes", "memory.max");
    assert_eq!(max, "25165824");
}

#[test]
fn a_refused_update_changes_nothing() {
    let daemon = daemon();
    let before = |name: &str| {
        (
            field(&daemon, name, "{{json .HostConfig}}"),
            written(&daemon, name, "memory", "memory.limit_in_bytes", "memory.max"),
            written(&daemon, name, "cpu", "cpu.cfs_quota_us", "cpu.max"),
        )
    };
    idle(&daemon, "still", &["-m", "50m", "--cpus", "0.5"]);
    let was = before("still");
    for (flags, text) in [
        (&["--memory", "5m"][..], "Minimum memory limit allowed is 6MB"),
        (&["--cpu-quota", "5000"], "CPU Quota cannot be updated as NanoCPUs has already been set"),
        (&["--cpus", "900"], "CPUs available"),
        (&["--cpuset-cpus", "900"], "Requested CPUs are not available"),
        (&["--memory-reservation", "60m"], "can not be less than memory reservation"),
        (&["--cpus", "0.3", "--cpu-shares", "1"], "minimum allowed cpu-shares is 2"),
        (&["--restart", "always:3"], "can only be used with 'on-failure'"),
        (&["--blkio-weight", "3"], "Range of blkio weight"),
    ] {
        let mut args = vec!["update"];
        args.extend(flags);
        args.push("still");
        for run in both(&daemon, &args) {
            let output = run.run();
            assert_eq!(output.code, Some(1), "{output:?}");
            assert!(output.stderr.contains(text), "{flags:?}: {output:?}");
        }
        assert_eq!(before("still"), was, "{flags:?}");
    }
    let none = daemon.hoy(&["update", "still"]).run();
    assert_eq!(none.stderr.trim(), "you must provide one or more flags when using this command");
    daemon.docker(&["update", "-m", "50m", "nobody"]).run().fails_with(1);
}

#[test]
fn of_two_updates_at_once_neither_undoes_the_other() {
    let daemon = daemon();
    idle(&daemon, "both", &[]);
    for round in 100..115 {
        let value = round.to_string();
        let update = |flag| daemon.hoy(&["update", flag, &value, "both"]).spawn();
        for child in [update("--cpu-shares"), update("--pids-limit")] {
            let output = child.wait_with_output().expect("wait");
            assert!(output.status.success(), "{output:?}");
        }
        let shown = field(&daemon, "both", "{{.HostConfig.CpuShares}} {{.HostConfig.PidsLimit}}");
        assert_eq!(shown, format!("{value} {value}"));
    }
}

#[test]
fn a_share_of_the_cpus() {
    let daemon = daemon();
    let spin = |name: &str, flags: &[&str]| {
        let mut args = vec!["run", "-d", "--name", name];
        args.extend(flags);
        args.extend(["busybox", "sh", "-c", "while :; do :; done"]);
        daemon.hoy(&args).run().ok();
    };
    spin("half", &["--cpus=.5"]);
    let half = share(&daemon, "half");
    assert!(half < 0.6, "{half}");
    wait_until("it is held back", || {
        let stat = written(&daemon, "half", "cpu", "cpu.stat", "cpu.stat");
        let number = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        number.is_some_and(|number| number != "0")
    });
    daemon.docker(&["update", "--cpus", "0.2", "half"]).run().ok();
    let fifth = share(&daemon, "half");
    assert!(fifth < 0.3, "{fifth}");
    daemon.docker(&["rm", "-f", "half"]).run().ok();
    spin("quota", &["--cpu-period=50000", "--cpu-quota=15000"]);
    let third = share(&daemon, "quota");
    assert!(third < 0.4, "{third}");
    let quota = written(&daemon, "quota", "cpu", "cpu.cfs_quota_us", "cpu.max");
    assert_eq!(quota, if unified() { "15000 50000" } else { "15000" });
    daemon.docker(&["update", "--cpu-quota", "-1", "quota"]).run().ok();
    let quota = written(&daemon, "quota", "cpu", "cpu.cfs_quota_us", "cpu.max");
    assert_eq!(quota, if unified() { "max 50000" } else { "-1" });
}

#[test]
fn two_shares_against_one() {
    let daemon = daemon();
    for (name, shares) in [("two", "1024"), ("one", "512")] {
        let shares = format!("--cpu-shares={shares}");
        let args = ["run", "-d", "--name", name, &shares, "--cpuset-cpus", "0", "busybox"];
        daemon.hoy(&args).args(["sh", "-c", "while :; do :; done"]).run().ok();
    }
    let ratio = || {
        let before = (cpu_time(&daemon, "two"), cpu_time(&daemon, "one"));
        std::thread::sleep(Duration::from_secs(3));
        let two = cpu_time(&daemon, "two") - before.0;
        two as f64 / (cpu_time(&daemon, "one") - before.1) as f64
    };
    let before = ratio();
    // v2's scale, and runc's way to it, makes 100 against 59 of it.
    assert!((1.4..2.6).contains(&before), "{before}");
    daemon.docker(&["update", "--cpu-shares", "1024", "one"]).run().ok();
    let after = ratio();
    assert!((0.7..1.4).contains(&after), "{after}");
}

#[test]
fn four_two_and_one() {
    let daemon = daemon();
    let all = ["2048", "1024", "512"];
    for shares in all {
        let args = ["run", "-d", "--name", &format!("s{shares}"), "--cpu-shares", shares];
        let run = daemon.docker(&args).args(["--cpuset-cpus", "0", "busybox"]);
        run.args(["sh", "-c", "while :; do :; done"]).run().ok();
    }
    let times = || all.map(|shares| cpu_time(&daemon, &format!("s{shares}")) as f64);
    let before = times();
    std::thread::sleep(Duration::from_secs(4));
    let after = times();
    let [most, middle, least] = [0, 1, 2].map(|index| after[index] - before[index]);
    // On v2 by the weights 174, 100 and 59.
    for ratio in [most / middle, middle / least] {
        assert!((1.3..2.8).contains(&ratio), "{most} {middle} {least}");
    }
}

#[test]
fn the_seeds_word_by_word() {
    let daemon = daemon();
    const M: u64 = 1 << 20;
    idle(&daemon, "swap", &["-m", "200m", "--memory-swap", "300m"]);
    let swap = written(&daemon, "swap", "memory", "memory.memsw.limit_in_bytes", "memory.swap.max");
    assert_eq!(swap, (if unified() { 100 * M } else { 300 * M }).to_string());
    idle(&daemon, "low", &["-m", "1g", "--memory-reservation", "500m"]);
    let low = written(&daemon, "low", "memory", "memory.soft_limit_in_bytes", "memory.low");
    assert_eq!(low, (500 * M).to_string());
    idle(&daemon, "most", &["--cpus", "1.5"]);
    let quota = written(&daemon, "most", "cpu", "cpu.cfs_quota_us", "cpu.max");
    assert_eq!(quota, if unified() { "150000 100000" } else { "150000" });
    idle(&daemon, "quarter", &["--cpu-period", "100000", "--cpu-quota", "25000"]);
    let quota = written(&daemon, "quarter", "cpu", "cpu.cfs_quota_us", "cpu.max");
    assert_eq!(quota, if unified() { "25000 100000" } else { "25000" });
    // As the list has it for four CPUs: those there are.
    let last = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) - 1;
    idle(&daemon, "set", &["--cpuset-cpus", &format!("0-{last}")]);
    for (name, template, value) in [
        ("swap", "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}}", "209715200 314572800"),
        ("low", "{{.HostConfig.MemoryReservation}}", "524288000"),
        ("most", "{{.HostConfig.NanoCpus}}", "1500000000"),
        ("quarter", "{{.HostConfig.CpuPeriod}} {{.HostConfig.CpuQuota}}", "100000 25000"),
    ] {
        assert_eq!(field(&daemon, name, template), value);
    }
    let smallest = ["run", "--rm", "-m", "6m", "busybox", "echo", "small"];
    assert_eq!(daemon.docker(&smallest).run().ok(), "small\n");
}

#[test]
fn only_some_cpus_and_nodes() {
    let daemon = daemon();
    idle(&daemon, "set", &["--cpuset-cpus", "1", "--cpuset-mems", "0"]);
    let allowed = || exec(&daemon, "set", "grep Cpus_allowed_list /proc/self/status; nproc").stdout;
    assert_eq!(allowed(), "Cpus_allowed_list:\t1\n1\n");
    daemon.docker(&["update", "--cpuset-cpus", "0,1", "set"]).run().ok();
    assert_eq!(allowed(), "Cpus_allowed_list:\t0-1\n2\n");
}

#[test]
fn no_more_processes_than_allowed() {
    let daemon = daemon();
    idle(&daemon, "few", &["--init", "--pids-limit", "9"]);
    let many = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 5 & done; wait";
    let output = exec(&daemon, "few", many);
    assert!(output.stderr.contains("can't fork"), "{output:?}");
    wait_until("they are gone", || exec(&daemon, "few", "true").code == Some(0));
    daemon.hoy(&["update", "--pids-limit", "60", "few"]).run().ok();
    let output = exec(&daemon, "few", "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.1 & done; wait");
    assert_eq!(output.stderr, "", "{output:?}");
    daemon.hoy(&["update", "--pids-limit", "-1", "few"]).run().ok();
    assert_eq!(written(&daemon, "few", "pids", "pids.max", "pids.max"), "max");
}

#[test]
fn only_the_devices_that_were_given() {
    let daemon = daemon();
    let flags = ["--device", "/dev/zero:/dev/nothing:r", "--device", "/dev/full:/srv/full"];
    idle(&daemon, "devices", &flags);
    let eperm = |script: &str| {
        let output = exec(&daemon, "devices", script);
        assert!(output.stderr.contains("Operation not permitted"), "{script}: {output:?}");
    };
    assert_eq!(exec(&daemon, "devices", "head -c 3 /dev/nothing | wc -c").ok(), "3\n");
    // The same device as /dev/zero, which may be written to: rules add up, as everywhere.
    assert_eq!(exec(&daemon, "devices", "echo x > /srv/full").code, Some(1));
    eperm("mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg");
    eperm("mknod /tmp/loop b 7 0 && cat /tmp/loop");
    eperm("mknod /tmp/tun c 10 200 && cat /tmp/tun");
    let rule = ["--device-cgroup-rule", "c 10:237 r", "--device", "/dev/null:/dev/n:rw"];
    idle(&daemon, "rules", &rule);
    exec(&daemon, "rules", "mknod /tmp/control c 10 237 && exec 3</tmp/control").ok();
    let output = exec(&daemon, "rules", "exec 3>/tmp/control");
    assert!(output.stderr.contains("Operation not permitted"), "{output:?}");
    idle(&daemon, "all", &["--privileged"]);
    assert_eq!(exec(&daemon, "all", "test -c /dev/kmsg && echo x > /dev/kmsg").code, Some(0));
    for (flags, text) in [
        (
            &["--device", "/dev/nope"][..],
            "error gathering device information while adding custom device \"/dev/nope\": no such file or directory",
        ),
        (
            &["--device", "/etc/passwd"],
            "error gathering device information while adding custom device \"/etc/passwd\": not a device node",
        ),
        (&["--device", "/dev/null:/dev/x:q"], "bad mode specified: q"),
        (&["--device-cgroup-rule", "c 1:3 rwx"], "invalid device cgroup format 'c 1:3 rwx'"),
    ] {
        let mut args = vec!["run", "--rm"];
        args.extend(flags);
        args.extend(["busybox", "true"]);
        for run in both(&daemon, &args) {
            let output = run.run();
            let code = if text.contains("no such file") { 127 } else { 125 };
            assert_eq!(output.code, Some(code), "{output:?}");
            assert!(output.stderr.contains(text), "{output:?}");
        }
    }
}

#[test]
fn limits_of_processes() {
    let daemon =
        Daemon::start_with(&["--default-ulimit", "core=0:77", "--default-ulimit=nproc=500"]);
    hoy_e2e::give_busybox(&daemon);
    let flags = ["run", "--rm", "--ulimit", "nofile=64:128", "--ulimit", "nproc=300", "busybox"];
    let shown = daemon.docker(&flags).args(["cat", "/proc/self/limits"]).run();
    let line = |name: &str| {
        let line = shown.ok().lines().find(|line| line.starts_with(name)).unwrap_or_default();
        let words: Vec<&str> = line[name.len()..].split_whitespace().take(2).collect();
        words.join(" ")
    };
    assert_eq!(line("Max open files"), "64 128");
    assert_eq!(line("Max processes"), "300 300");
    assert_eq!(line("Max core file size"), "0 77");
    let many =
        "i=0; while [ $i -lt 90 ]; do i=$((i+1)); eval \"exec $((i+9))</dev/null\" || exit 9; done";
    let output = daemon.docker(&flags).args(["sh", "-c", many]).run();
    assert_ne!(output.code, Some(0), "{output:?}");
    let adjusted = daemon.hoy(&["run", "--rm", "--oom-score-adj", "345", "busybox"]);
    assert_eq!(adjusted.args(["cat", "/proc/self/oom_score_adj"]).run().ok(), "345\n");
}

#[test]
fn the_cgroup_lies_where_it_was_asked_for() {
    let daemon = daemon();
    let parent = format!("/{}/below/here", daemon.cgroup());
    idle(&daemon, "placed", &["--cgroup-parent", &parent, "--cgroupns", "host"]);
    let own = exec(&daemon, "placed", "cat /proc/self/cgroup");
    let id = field(&daemon, "placed", "{{.Id}}");
    assert!(own.ok().lines().any(|line| line.ends_with(&format!("{parent}/{id}"))), "{own:?}");
    idle(&daemon, "hidden", &["--cgroup-parent", &parent]);
    let own = exec(&daemon, "hidden", "cat /proc/self/cgroup");
    assert!(!own.ok().contains("below"), "{own:?}");
    // `..` leads nowhere from the root of the hierarchies.
    let up = format!("../../{}/up", daemon.cgroup());
    idle(&daemon, "up", &["--cgroup-parent", &up, "--cgroupns", "host"]);
    let own = exec(&daemon, "up", "cat /proc/self/cgroup");
    assert!(own.ok().contains(&format!("/{}/up/", daemon.cgroup())), "{own:?}");
}

#[test]
fn what_only_one_version_has() {
    let daemon = daemon();
    let run = daemon.docker(&["create", "--name", "odd", "-m", "40m", "--memory-swappiness", "7"]);
    let created = run.args(["--oom-kill-disable", "busybox", "sleep", "1000"]).run();
    daemon.docker(&["start", "odd"]).run().ok();
    if unified() {
        // No such thing: a warning, never silence.
        assert!(created.stderr.contains("memory swappiness capabilities"), "{created:?}");
        assert!(created.stderr.contains("OomKillDisable discarded"), "{created:?}");
        let realtime = ["run", "--rm", "--cpu-rt-runtime", "1000", "busybox", "true"];
        let refused = daemon.docker(&realtime).run();
        assert!(refused.stderr.contains("real-time scheduler"), "{refused:?}");
        return;
    }
    assert_eq!(created.stderr, "");
    assert_eq!(written(&daemon, "odd", "memory", "memory.swappiness", ""), "7");
    // Whoever wants more now waits, until there is more.
    let mut eater = daemon.docker(&["exec", "odd", "sh", "-c", EAT]).spawn();
    wait_until("it waits", || {
        assert!(eater.try_wait().unwrap().is_none(), "it ended");
        written(&daemon, "odd", "memory", "memory.oom_control", "").contains("under_oom 1")
    });
    daemon.docker(&["update", "-m", "300m", "--memory-swap", "300m", "odd"]).run().ok();
    assert!(eater.wait().unwrap().success());
}

#[test]
fn real_time_where_the_daemon_hands_it_down() {
    if unified() {
        // No such thing there: what is asked for is refused, see above.
        return;
    }
    let daemon = Daemon::start_with(&["--cpu-rt-runtime=200000", "--cpu-rt-period=1000000"]);
    hoy_e2e::give_busybox(&daemon);
    let run = |flags: &[&str]| {
        let run = daemon.docker(&["run", "--rm", "--cap-add", "sys_nice"]).args(flags);
        run.args(["busybox", "chrt", "-f", "1", "echo", "in time"]).run()
    };
    assert!(run(&[]).stderr.contains("Operation not permitted"));
    assert_eq!(run(&["--cpu-rt-runtime=100000"]).ok(), "in time\n");
    let more = run(&["--cpu-rt-runtime=300000"]);
    assert!(more.stderr.contains("CPU real-time runtime"), "{more:?}");
    assert!(more.stderr.contains("invalid argument"), "{more:?}");
    let kept = daemon.docker(&["ps", "-aq"]).run();
    assert_eq!(kept.ok(), "");
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    let daemon = daemon();
    let before = counts(&daemon);
    for (flags, text) in [
        (&["-m", "5m"][..], "Minimum memory limit allowed is 6MB"),
        (&["-m", "10m", "--memory-swap", "9m"], "Minimum memoryswap limit should be larger"),
        (&["--memory-swap", "100m"], "You should always set the Memory limit"),
        (&["--memory-swap", "-2"], "invalid size: '-2'"),
        (
            &["--memory-swappiness", "101"],
            "invalid value: 101. Valid memory swappiness range is 0-100",
        ),
        (&["-m", "20m", "--memory-reservation", "30m"], "less than memory reservation limit"),
        (&["--memory-reservation", "1m"], "Minimum memory reservation allowed is 6MB"),
        (&["--cpus", "900"], "CPUs available"),
        (&["--cpus=-1"], "ange of CPUs is from 0.01 to"),
        (&["--cpus", "x"], "failed to parse x as a rational number"),
        (&["--cpus", "1", "--cpu-period", "1000"], "Nano CPUs and CPU Period cannot both be set"),
        (&["--cpus", "1", "--cpu-quota", "1000"], "Nano CPUs and CPU Quota cannot both be set"),
        (&["--cpu-period", "10"], "CPU cfs period can not be less than 1ms"),
        (&["--cpu-quota", "10"], "CPU cfs quota can not be less than 1ms"),
        (&["--cpuset-cpus", "900"], "Requested CPUs are not available - requested 900"),
        (&["--cpuset-cpus", "1-0"], "Invalid value 1-0 for cpuset cpus: invalid format: 1-0"),
        (&["--cpuset-mems", "9"], "Requested memory nodes are not available - requested 9"),
        (&["--cpu-shares", "1"], "the minimum allowed cpu-shares is 2"),
        (&["--cpu-shares=-5"], "invalid CPU shares (-5)"),
        (&["--blkio-weight", "5"], "Range of blkio weight is from 10 to 1000"),
        (&["--blkio-weight-device", "/dev/vda:5"], "invalid weight for device: /dev/vda:5"),
        (&["--device-read-bps", "nope:1mb"], "bad format for device path: nope:1mb"),
        (&["--device-read-bps", "/dev/nope:1mb"], "stat /dev/nope: no such file or directory"),
        (&["--device-write-bps", "/dev/null:1mb"], "/dev/null is not a block device"),
        (&["--device-write-iops", "/dev/vda:-1"], "Number must be a positive integer"),
        (&["--oom-score-adj", "2000"], "range for oom score adj is [-1000, 1000]"),
        (&["--ulimit", "nofile=5:3"], "less than or equal to hard limit: 5 > 3"),
        (&["--ulimit", "x=1"], "invalid ulimit type: x"),
        (&["--ulimit", "nofile"], "invalid ulimit argument: nofile"),
        (&["-m", "x"], "invalid size: 'x'"),
        (&["--shm-size", "-1"], "invalid size: '-1'"),
    ] {
        let mut args = vec!["run", "--rm"];
        args.extend(flags);
        args.extend(["busybox", "true"]);
        for run in both(&daemon, &args) {
            let output = run.run();
            // Docker's client takes a file that is not there for a command that is not.
            let code = if text.contains("no such file") { 127 } else { 125 };
            assert_eq!(output.code, Some(code), "{flags:?}: {output:?}");
            assert!(output.stderr.contains(text), "{flags:?}: {output:?}");
        }
    }
    assert_eq!(daemon.docker(&["ps", "-aq"]).run().ok(), "");
    before.wait_for(&daemon);
}

#[test]
fn an_image_cannot_choose_its_limits() {
    let daemon = daemon();
    import(&daemon, "greedy", "true", &["LABEL com.docker.cgroup-parent=/"]);
    let own = daemon.docker(&["run", "--rm", "--cgroupns", "host", "greedy", "cat"]);
    let own = own.args(["/proc/self/cgroup"]).run();
    assert!(own.ok().contains(daemon.cgroup()), "{own:?}");
}
