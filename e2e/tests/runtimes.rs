//! Other OCI runtimes than the built-in one: crun and runc from Debian's packages, and scripts
//! that behave badly. What the built-in runtime does for a user, these do too.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use hoy_e2e::{field, give_busybox, pid};
use hoy_testkit::{Daemon, KernelCounts, Output, Run, wait_until};

/// As the settings call them: Docker keeps `runc` for its own.
const RUNTIMES: [&str; 2] = ["crun", "debian-runc"];

/// crun; where it refuses the machine's cgroups, as versions of Debian 12 refuse a v2 hierarchy
/// with controllers beside v1 ones, a script that hides that one from it.
fn crun() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| {
        let unified = "/sys/fs/cgroup/unified";
        if !PathBuf::from(unified).join("cgroup.controllers").exists() {
            return "/usr/bin/crun".to_owned();
        }
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let path = directory.join("crun");
        let fresh = directory.join(format!(".crun-{}", std::process::id()));
        let line = format!("umount {unified}; exec /usr/bin/crun \"$@\"");
        let text = format!("exec unshare -m --propagation slave sh -c '{line}' crun \"$@\"");
        executable(&fresh, &text);
        std::fs::rename(fresh, &path).unwrap();
        path.display().to_string()
    })
}

fn daemon_with(more: &[&str]) -> Daemon {
    let crun = format!("crun={}", crun());
    let mut arguments = vec!["--add-runtime", &crun, "--add-runtime", "debian-runc=/usr/sbin/runc"];
    arguments.extend(more);
    let daemon = Daemon::start_with(&arguments);
    give_busybox(&daemon);
    daemon
}

fn daemon() -> Daemon {
    daemon_with(&[])
}

/// `docker run --rm --runtime NAME ARGS`.
fn run(daemon: &Daemon, runtime: &str, args: &[&str]) -> Output {
    let mut all = vec!["run", "--rm", "--runtime", runtime];
    all.extend(args);
    daemon.docker(&all).run()
}

#[track_caller]
fn output(daemon: &Daemon, runtime: &str, args: &[&str]) -> String {
    run(daemon, runtime, args).ok().trim().to_owned()
}

/// `docker run -d --runtime NAME --name NAME ARGS`.
#[track_caller]
fn detached(daemon: &Daemon, runtime: &str, name: &str, args: &[&str]) {
    let mut all = vec!["run", "-d", "--runtime", runtime, "--name", name];
    all.extend(args);
    daemon.docker(&all).run().ok();
}

fn parent(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    line.trim().parse().unwrap()
}

fn exists(pid: u32) -> bool {
    std::fs::metadata(format!("/proc/{pid}")).is_ok()
}

fn kill(pid: u32) {
    Run::new("kill").args(["-KILL", &pid.to_string()]).run().ok();
}

/// What runtimes leave in the exec root.
fn remains(daemon: &Daemon) -> usize {
    std::fs::read_dir(daemon.path("run").join("runtimes")).map_or(0, Iterator::count)
}

/// The counts of a machine on which each of the runtimes has run once.
fn counts(daemon: &Daemon) -> KernelCounts {
    for runtime in RUNTIMES {
        run(daemon, runtime, &["busybox", "true"]).ok();
    }
    hoy_e2e::counts(daemon)
}

/// A script of the tests' own in a runtime's place.
fn script(directory: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = directory.path().join(name);
    executable(&path, text);
    path
}

fn executable(path: &Path, text: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn output_codes_and_failures() {
    let daemon = daemon();
    for runtime in RUNTIMES {
        let both =
            run(&daemon, runtime, &["busybox", "sh", "-c", "echo out; echo err >&2; exit 7"]);
        both.fails_with(7);
        assert_eq!((both.stdout.as_str(), both.stderr.as_str()), ("out\n", "err\n"), "{runtime}");
        let echoed = daemon
            .docker(&["run", "--rm", "-i", "--runtime", runtime, "busybox", "cat"])
            .input("through the pipe\n")
            .run();
        assert_eq!(echoed.ok(), "through the pipe\n");
        for (command, code) in
            [(&["no-such-program"][..], 127), (&["/no/such/program"], 127), (&["/etc/passwd"], 126)]
        {
            let mut args = vec!["busybox"];
            args.extend(command);
            let failed = run(&daemon, runtime, &args);
            failed.fails_with(code);
            let text = "failed to create task for container: failed to create shim task: OCI \
                        runtime create failed: ";
            assert!(failed.stderr.contains(text), "{runtime} {command:?}: {}", failed.stderr);
        }
        // The supervisor and its children are gone, the container was removed.
        wait_until("nothing is left", || {
            daemon.docker(&["ps", "-aq"]).run().ok().is_empty() && remains(&daemon) == 0
        });
    }
}

#[test]
fn what_the_process_is_given() {
    let daemon = daemon();
    let volume = daemon.path("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "from the host\n").unwrap();
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"],
        "action": "SCMP_ACT_ERRNO", "errnoRet": 5}]}"#;
    std::fs::write(volume.join("profile"), profile).unwrap();
    let profile = format!("--security-opt=seccomp={}", volume.join("profile").display());
    let bind = format!("{}:/data", volume.display());
    let readonly = format!("{}:/ro:ro", volume.display());
    for runtime in RUNTIMES {
        let o = |args: &[&str]| output(&daemon, runtime, args);
        let line = "grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status";
        // The same as with the built-in one, but for the number of filters.
        for options in [
            &[][..],
            &["--cap-add", "NET_ADMIN", "--cap-drop", "CHOWN"],
            &["--privileged"],
            &["--security-opt", "no-new-privileges"],
            &["--security-opt", "seccomp=unconfined"],
            &["--user", "www-data"],
            &["--user", "1000:1000"],
        ] {
            let mut args = options.to_vec();
            args.extend(["busybox", "sh", "-c", line]);
            let built_in = output(&daemon, "runc", &args);
            assert_eq!(o(&args), built_in, "{runtime} {options:?}");
        }
        assert!(o(&["busybox", "sh", "-c", line]).contains("Seccomp:\t2"));
        let own = run(&daemon, runtime, &[&profile, "busybox", "mkdir", "/tmp/x"]);
        assert!(own.code == Some(1) && own.stderr.contains("put/output error"), "{own:?}");
        let refused = run(&daemon, runtime, &["busybox", "unshare", "-U", "true"]);
        assert!(refused.code != Some(0), "{runtime}");
        run(&daemon, runtime, &["--security-opt=seccomp=unconfined", "busybox", "true"]).ok();
        for line in [
            "id",
            "id; pwd; echo $HOME $PATH",
            "cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
            "ls /dev | grep -v core",
            "ulimit -n; umask",
            "mount | cut -d' ' -f3 | grep -v ^/sys/fs/cgroup/ | sort",
            "cat /proc/1/comm; ls /proc/self/fd | wc -l",
            "ls /proc/acpi /sys/firmware; head -c1 /proc/kcore | wc -c",
        ] {
            let args = ["-w", "/made/here", "--ulimit", "nofile=77", "busybox", "sh", "-c", line];
            let built_in = run(&daemon, "runc", &args);
            assert_eq!(run(&daemon, runtime, &args).stdout, built_in.stdout, "{runtime} {line}");
        }
        assert_eq!(o(&["-h", "called", "busybox", "hostname"]), "called");
        assert_eq!(
            o(&[
                "--sysctl",
                "net.ipv4.ip_forward=1",
                "busybox",
                "cat",
                "/proc/sys/net/ipv4/ip_forward"
            ]),
            "1"
        );
        assert_eq!(
            o(&["-v", &bind, "busybox", "sh", "-c", "cat /data/file; echo back >/data/back"]),
            "from the host"
        );
        assert_eq!(std::fs::read_to_string(volume.join("back")).unwrap(), "back\n");
        run(&daemon, runtime, &["-v", &readonly, "busybox", "touch", "/ro/x"]).fails_with(1);
        let line = "touch /x 2>/dev/null || echo refused; touch /dev/shm/x /run/x && echo written";
        assert_eq!(
            o(&["--read-only", "--tmpfs", "/run", "busybox", "sh", "-c", line]),
            "refused\nwritten"
        );
        assert_eq!(
            o(&["--init", "busybox", "sh", "-c", "tr '\\0' ' ' </proc/1/cmdline | cut -c1-20"]),
            "/sbin/docker-init --"
        );
        assert_eq!(
            o(&[
                "--shm-size",
                "1m",
                "busybox",
                "sh",
                "-c",
                "df -k /dev/shm | tail -n1 | awk '{print $2}'"
            ]),
            "1024"
        );
        assert_eq!(o(&["--network", "none", "busybox", "ls", "/sys/class/net"]), "lo");
        let host = o(&[
            "--pid",
            "host",
            "--uts",
            "host",
            "--ipc",
            "host",
            "busybox",
            "sh",
            "-c",
            "readlink /proc/1/exe >/dev/null; hostname; [ -d /proc/$PPID ] && echo seen",
        ]);
        assert!(host.ends_with("seen"), "{host}");
    }
}

#[test]
fn a_terminal() {
    let daemon = daemon();
    for runtime in RUNTIMES {
        let name = format!("tty-{runtime}");
        let line = "stty size; tty; while [ \"$(stty size)\" != '33 101' ]; do sleep 0.05; done; \
                    echo resized; read x; echo \"got $x\"; exit 5";
        detached(&daemon, runtime, &name, &["-it", "busybox", "sh", "-c", line]);
        let logs = || daemon.docker(&["logs", &name]).run().stdout;
        wait_until("it has a terminal", || logs().contains("/dev/pts/0"));
        let resize = format!("http://x/containers/{name}/resize?h=33&w=101");
        assert_eq!(daemon.curl(&["-XPOST", &resize, "-w", "%{http_code}"]).ok(), "200");
        wait_until("it sees its size", || logs().contains("resized"));
        let inside = daemon.docker(&["exec", "-t", &name, "sh", "-c", "tty; exit 3"]).run();
        inside.fails_with(3);
        assert!(inside.stdout.starts_with("/dev/pts/"), "{inside:?}");
        // Its input, from a terminal of the client's own.
        let line = format!(
            "export DOCKER_HOST={}; docker={}; (sleep 0.5; echo word; \
             until $docker inspect -f '{{{{.State.Status}}}}' {name} | grep -q exited; do sleep 0.1; done) \
             | script -qec \"$docker attach {name}\" /dev/null",
            daemon.host(),
            hoy_testkit::docker_cli().display()
        );
        Run::new("sh").args(["-c", &line]).run();
        wait_until("it has ended", || field(&daemon, &name, "{{.State.Status}}") == "exited");
        assert_eq!(field(&daemon, &name, "{{.State.ExitCode}}"), "5");
        assert!(logs().contains("got word"), "{}", logs());
        daemon.docker(&["rm", &name]).run().ok();
    }
}

#[test]
fn further_processes() {
    let daemon = daemon();
    for runtime in RUNTIMES {
        let name = format!("host-{runtime}");
        detached(&daemon, runtime, &name, &["-e", "A=container", "busybox", "sleep", "1000"]);
        let exec = |args: &[&str]| {
            let mut all = vec!["exec"];
            all.extend(args);
            daemon.docker(&all).run()
        };
        let both = exec(&["-e", "B=exec", &name, "sh", "-c", "echo $A $B; echo e >&2; exit 9"]);
        both.fails_with(9);
        assert_eq!((both.stdout.as_str(), both.stderr.as_str()), ("container exec\n", "e\n"));
        let input = daemon.docker(&["exec", "-i", &name, "cat"]).input("words").run();
        assert_eq!(input.ok(), "words");
        assert_eq!(
            exec(&["-u", "www-data", "-w", "/tmp", &name, "sh", "-c", "id -u; pwd"]).ok(),
            "33\n/tmp\n"
        );
        let missing = exec(&[&name, "no-such-program"]);
        missing.fails_with(127);
        let said = format!("{}{}", missing.stdout, missing.stderr);
        assert!(said.contains("OCI runtime exec failed: "), "{said}");
        exec(&[&name, "/etc/passwd"]).fails_with(126);
        let status = exec(&[&name, "grep", "Seccomp:", "/proc/self/status"]);
        assert!(status.ok().contains('2'));
        exec(&["-d", &name, "sh", "-c", "echo x >/tmp/done; sleep 1000"]).ok();
        wait_until("it has run", || exec(&[&name, "cat", "/tmp/done"]).code == Some(0));
        // Orphans have a parent that waits for them.
        exec(&[&name, "sh", "-c", "for i in 1 2 3; do (sleep 0.1 &) ; done"]).ok();
        let supervisor = parent(pid(&daemon, &name));
        wait_until("no zombie is left", || {
            let line = format!("ps --no-headers -o stat --ppid {supervisor} | grep -c Z");
            Run::new("sh").args(["-c", &line]).run().stdout.trim() == "0"
        });
        assert!(daemon.docker(&["top", &name]).run().ok().contains("sleep 1000"));
        daemon.docker(&["rm", "-f", &name]).run().ok();
    }
    wait_until("nothing is left", || remains(&daemon) == 0);
}

#[test]
fn signals_pauses_and_ends() {
    let daemon = daemon();
    for runtime in RUNTIMES {
        let name = format!("c-{runtime}");
        let line = "trap 'echo term; exit 4' TERM; trap 'echo usr' USR1; \
                    echo ready; while :; do sleep 0.05; done";
        detached(&daemon, runtime, &name, &["busybox", "sh", "-c", line]);
        let logs = || daemon.docker(&["logs", &name]).run().stdout;
        wait_until("it is ready", || logs().contains("ready"));
        daemon.docker(&["kill", "-s", "USR1", &name]).run().ok();
        wait_until("it has heard", || logs().contains("usr"));
        daemon.docker(&["pause", &name]).run().ok();
        assert_eq!(field(&daemon, &name, "{{.State.Status}}"), "paused");
        let first = pid(&daemon, &name);
        let ticks = || std::fs::read_to_string(format!("/proc/{first}/sched")).unwrap();
        let switches = |text: &str| {
            text.lines().find(|line| line.starts_with("nr_switches")).map(str::to_owned)
        };
        let before = switches(&ticks());
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(switches(&ticks()), before, "a paused process does not run");
        daemon.docker(&["exec", &name, "true"]).run().fails_with(1);
        daemon.docker(&["unpause", &name]).run().ok();
        daemon.docker(&["stop", &name]).run().ok();
        assert_eq!(field(&daemon, &name, "{{.State.ExitCode}}"), "4");
        assert!(logs().contains("term"));
        // Again from the beginning, and an end without mercy, paused.
        daemon.docker(&["start", &name]).run().ok();
        daemon.docker(&["pause", &name]).run().ok();
        daemon.docker(&["kill", &name]).run();
        daemon.docker(&["rm", "-f", &name]).run().ok();
        wait_until("nothing is left", || remains(&daemon) == 0);
    }
}

#[test]
fn limits_ports_and_volumes() {
    let daemon = daemon();
    for runtime in RUNTIMES {
        let o = |args: &[&str]| output(&daemon, runtime, args);
        let name = format!("big-{runtime}");
        // Takes more than it may, and is killed for it.
        detached(
            &daemon,
            runtime,
            &name,
            &["-m", "32m", "busybox", "sh", "-c", "x=x; while :; do x=$x$x; done"],
        );
        daemon.docker(&["wait", &name]).run().ok();
        assert_eq!(
            field(&daemon, &name, "{{.State.ExitCode}} {{.State.OOMKilled}}"),
            "137 true",
            "{runtime}"
        );
        daemon.docker(&["rm", &name]).run().ok();
        let line = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes \
                    /sys/fs/cgroup/memory.max 2>/dev/null; \
                    cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; \
                    cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null; \
                    cut -d' ' -f1 /sys/fs/cgroup/cpu.max 2>/dev/null; true";
        let read =
            o(&["-m", "64m", "--pids-limit", "55", "--cpus", ".5", "busybox", "sh", "-c", line]);
        assert_eq!(read, "67108864\n55\n50000", "{runtime}");
        // Limits that change while it runs.
        let name = format!("changed-{runtime}");
        detached(&daemon, runtime, &name, &["-m", "64m", "busybox", "sleep", "1000"]);
        let update = ["update", "-m", "96m", "--memory-swap", "96m", "--pids-limit", "66", &name];
        daemon.docker(&update).run().ok();
        let line = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes \
                    /sys/fs/cgroup/memory.max 2>/dev/null; \
                    cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; true";
        let read = daemon.docker(&["exec", &name, "sh", "-c", line]).run();
        assert_eq!(read.ok(), "100663296\n66\n", "{runtime}");
        daemon.docker(&["rm", "-f", &name]).run().ok();
        let line = "i=0; while [ $i -lt 30 ]; do sleep 60 & i=$((i+1)); done; wait";
        let forked = run(&daemon, runtime, &["--pids-limit", "10", "busybox", "sh", "-c", line]);
        assert!(forked.stderr.contains("fork"), "{forked:?}");
        let line = "mknod /tmp/k c 1 11 && head -c1 /tmp/k";
        let denied = run(&daemon, runtime, &["busybox", "sh", "-c", line]);
        assert!(denied.stderr.contains("not permitted"), "{denied:?}");
        let null =
            ["--device", "/dev/null:/dev/mine:rw", "busybox", "sh", "-c", "echo x >/dev/mine"];
        run(&daemon, runtime, &null).ok();
        let name = format!("web-{runtime}");
        detached(
            &daemon,
            runtime,
            &name,
            &[
                "-p",
                "8080:80",
                "busybox",
                "sh",
                "-c",
                "echo served >/tmp/index.html; exec httpd -f -h /tmp",
            ],
        );
        wait_until("it serves", || {
            let fetched = daemon.netns().run("curl").args(["-s", "http://127.0.0.1:8080/"]).run();
            fetched.stdout == "served\n"
        });
        daemon.docker(&["rm", "-f", &name]).run().ok();
    }
}

#[test]
fn who_outlives_whom() {
    let mut daemon = daemon();
    let before = counts(&daemon);
    for runtime in RUNTIMES {
        let name = format!("kept-{runtime}");
        let line = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done";
        detached(&daemon, runtime, &name, &["-p", "8080:80", "busybox", "sh", "-c", line]);
        let first = pid(&daemon, &name);
        for _ in 0..2 {
            daemon.kill();
            std::thread::sleep(Duration::from_millis(300));
            daemon.launch();
        }
        assert_eq!(pid(&daemon, &name), first);
        assert_eq!(field(&daemon, &name, "{{.State.Status}}"), "running");
        assert_eq!(daemon.docker(&["exec", &name, "echo", "here"]).run().ok(), "here\n");
        let counted = || daemon.docker(&["logs", &name]).run().ok().lines().count();
        wait_until("it has counted on", || counted() > 20);
        daemon.docker(&["stop", "-t", "0", &name]).run().ok();
        let logs = daemon.docker(&["logs", &name]).run();
        let numbers: Vec<u32> = logs.ok().lines().map(|line| line.parse().unwrap()).collect();
        assert!(numbers.len() > 20 && numbers.iter().copied().eq(0..numbers.len() as u32));
        // Its supervisor killed.
        daemon.docker(&["start", &name]).run().ok();
        let first = pid(&daemon, &name);
        let supervisor = parent(first);
        kill(supervisor);
        wait_until("the container is ended", || !exists(first));
        wait_until("and shown as such", || {
            field(&daemon, &name, "{{.State.Status}} {{.State.ExitCode}}") == "exited 137"
        });
        wait_until("nothing is left", || remains(&daemon) == 0);
        // Both killed, and the container with nobody to watch it.
        daemon.docker(&["start", &name]).run().ok();
        let first = pid(&daemon, &name);
        let supervisor = parent(first);
        daemon.kill();
        kill(supervisor);
        daemon.launch();
        wait_until("the container is ended", || !exists(first));
        wait_until("nothing is left", || remains(&daemon) == 0);
        daemon.docker(&["start", &name]).run().ok();
        assert_eq!(field(&daemon, &name, "{{.State.Status}}"), "running");
        daemon.docker(&["rm", "-f", &name]).run().ok();
    }
    let now = KernelCounts::of(&daemon).daemon_descriptors;
    KernelCounts { daemon_descriptors: now, ..before }.wait_for(&daemon);
}

#[test]
fn many_starts_leave_nothing() {
    let daemon = daemon();
    let before = counts(&daemon);
    for number in 0..20 {
        let runtime = RUNTIMES[number % 2];
        let text = number.to_string();
        assert_eq!(output(&daemon, runtime, &["-p", "80", "busybox", "echo", &text]), text);
    }
    for runtime in RUNTIMES {
        run(&daemon, runtime, &["busybox", "no-such-program"]).fails_with(127);
        run(&daemon, runtime, &["-u", "nobody-knows", "busybox", "true"]).fails_with(125);
    }
    before.wait_for(&daemon);
    assert_eq!(remains(&daemon), 0);
}

#[test]
fn names_and_settings() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("daemon.json");
    let recorded = directory.path().join("calls");
    let wrapper = script(
        &directory,
        "wrapper",
        &format!("echo \"$@\" >>{}; shift; exec {} \"$@\"", recorded.display(), crun()),
    );
    let silent = script(&directory, "silent", "echo what is this >&2; exit 1");
    let plain = directory.path().join("plain");
    std::fs::write(&plain, "").unwrap();
    let json = format!(
        r#"{{"default-runtime": "wrapper", "runtimes": {{
            "wrapper": {{"path": "{}", "runtimeArgs": ["first"]}},
            "silent": {{"path": "{}"}},
            "by-name": {{"path": "runc"}},
            "missing": {{"path": "/no/such/runtime"}},
            "plain": {{"path": "{}"}}}}}}"#,
        wrapper.display(),
        silent.display(),
        plain.display()
    );
    std::fs::write(&file, json).unwrap();
    let config = format!("--config-file={}", file.display());
    let daemon = daemon_with(&[&config]);
    let info = daemon
        .docker(&["info", "-f", "{{.DefaultRuntime}} {{range $k, $v := .Runtimes}}{{$k}} {{end}}"])
        .run();
    assert_eq!(
        info.ok().trim(),
        "wrapper by-name crun debian-runc io.containerd.runc.v2 missing plain runc silent wrapper"
    );
    // Nothing is said: the default one.
    daemon.docker(&["run", "--name", "dd", "busybox", "true"]).run().ok();
    assert_eq!(field(&daemon, "dd", "{{.HostConfig.Runtime}}"), "wrapper");
    let calls = || std::fs::read_to_string(&recorded).unwrap();
    wait_until("its runtime has deleted it", || calls().contains(" delete "));
    let calls = calls();
    assert!(calls.lines().next().is_some_and(|line| line.starts_with("first --root ")), "{calls}");
    for name in ["runc", "hoy", "io.containerd.runc.v2", "by-name"] {
        daemon.hoy(&["run", "--runtime", name, "--name", "nn", "busybox", "true"]).run().ok();
        assert_eq!(field(&daemon, "nn", "{{.HostConfig.Runtime}}"), name);
        daemon.docker(&["rm", "nn"]).run().ok();
    }
    assert_eq!(std::fs::read_to_string(&recorded).unwrap(), calls, "only the default one recorded");
    for name in ["nobody", "io.containerd.kata.v2"] {
        let unknown = daemon.docker(&["create", "--runtime", name, "busybox"]).run();
        unknown.fails_with(1);
        let text = format!("Error response from daemon: unknown or invalid runtime name: {name}");
        assert!(unknown.stderr.contains(&text), "{unknown:?}");
    }
    for (name, code, text) in [
        ("missing", 127, "runtime missing: exec: \"/no/such/runtime\": no such file or directory"),
        ("plain", 126, "permission denied"),
        ("silent", 125, "OCI runtime create failed: "),
    ] {
        let failed = run(&daemon, name, &["busybox", "true"]);
        failed.fails_with(code);
        assert!(failed.stderr.contains(text), "{failed:?}");
    }
    assert_eq!(remains(&daemon), 0);
    // What Docker keeps for itself, and what is not there.
    for (json, text) in [
        (r#"{"runtimes": {"runc": {"path": "/x"}}}"#, "runtime name 'runc' is reserved"),
        (r#"{"runtimes": {"k": {"runtimeType": "io.containerd.kata.v2"}}}"#, "runtimeType"),
        (r#"{"default-runtime": "k"}"#, "specified default runtime 'k' does not exist"),
    ] {
        std::fs::write(&file, json).unwrap();
        let hoyd = hoy_testkit::programs().join("hoyd");
        let refused = Run::new(&hoyd).args([config.as_str(), "--validate"]).run();
        assert!(refused.code != Some(0) && refused.stderr.contains(text), "{refused:?}");
    }
}

#[test]
fn a_runtime_that_hangs_or_lies() {
    let directory = tempfile::tempdir().unwrap();
    let exec = format!("exec {} \"$@\"", crun());
    let on =
        |word: &str, what: &str| format!("case \" $* \" in *\" {word} \"*) {what};; esac; {exec}");
    let hangs = script(&directory, "hangs", &on("pause", "exec sleep 100"));
    let lies = script(&directory, "lies", &on("create", "exit 0"));
    let deaf = script(&directory, "deaf", &on("kill", "exit 1"));
    let stays = script(&directory, "stays", &on("delete", "exit 1"));
    let arguments: Vec<String> =
        [("hangs", hangs), ("lies", lies), ("deaf", deaf), ("stays", stays)]
            .iter()
            .map(|(name, path)| format!("--add-runtime={name}={}", path.display()))
            .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let daemon = daemon_with(&arguments);
    let before = counts(&daemon);
    detached(&daemon, "hangs", "hangs", &["busybox", "sleep", "1000"]);
    let begun = Instant::now();
    let paused = daemon.docker(&["pause", "hangs"]).run();
    paused.fails_with(1);
    assert!(paused.stderr.contains("has not ended within"), "{paused:?}");
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert_eq!(daemon.docker(&["exec", "hangs", "echo", "still"]).run().ok(), "still\n");
    daemon.docker(&["rm", "-f", "hangs"]).run().ok();
    let lied = run(&daemon, "lies", &["busybox", "true"]);
    assert!(lied.code != Some(0), "{lied:?}");
    // What it does not kill is killed all the same, and what it does not delete does not stay.
    detached(&daemon, "deaf", "deaf", &["busybox", "sleep", "1000"]);
    daemon.docker(&["stop", "-t", "1", "deaf"]).run().ok();
    assert_eq!(field(&daemon, "deaf", "{{.State.ExitCode}}"), "137");
    daemon.docker(&["rm", "deaf"]).run().ok();
    run(&daemon, "stays", &["busybox", "true"]).ok();
    before.wait_for(&daemon);
    assert_eq!(remains(&daemon), 0);
}
