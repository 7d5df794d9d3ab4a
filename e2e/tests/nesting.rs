//! Engines and init systems in containers, and systemd as the one who makes cgroups.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hoy_e2e::dockerd::Dockerd;
use hoy_e2e::{counts, daemon, field, unified};
use hoy_testkit::{
    Daemon, Output, busybox_rootfs, debian_systemd_rootfs, programs, remove_cgroups, usr_rootfs,
    wait_until,
};

/// One after the other: what Docker's engine mounts is counted by those who count mounts.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a container needs to be a machine for an engine: programs, images, a place for its data
/// that is no overlay.
fn machine() -> Vec<String> {
    let bind = |from: &std::path::Path, to: &str| format!("{}:{to}:ro", from.display());
    let images = busybox_rootfs();
    usr_rootfs();
    let images = images.parent().expect("a directory").to_owned();
    let mut out = Vec::new();
    for mount in [
        "/usr:/usr:ro".to_owned(),
        "/etc/alternatives:/etc/alternatives:ro".to_owned(),
        bind(&programs(), "/hoy"),
        bind(&images, "/images"),
    ] {
        out.extend(["-v".to_owned(), mount]);
    }
    out
}

const DATA: &[&str] = &["--tmpfs", "/run", "--tmpfs", "/var/lib:exec,suid,dev"];

/// A container that runs as a machine would.
fn start(daemon: &Daemon, name: &str, flags: &[&str], image: &str, command: &[&str]) {
    let machine = machine();
    let mut args = vec!["run", "-d", "--name", name];
    args.extend(machine.iter().map(String::as_str));
    args.extend(flags);
    args.push(image);
    args.extend(command);
    daemon.hoy(&args).run().ok();
}

fn import(daemon: &Daemon, tar: &std::path::Path, name: &str) {
    daemon.hoy(&["import", &tar.display().to_string(), name]).deadline(300).run().ok();
}

fn sh(daemon: &Daemon, name: &str, line: &str) -> Output {
    daemon.docker(&["exec", name, "sh", "-c", line]).deadline(120).run()
}

/// Waits for what takes longer than a test's usual patience.
#[track_caller]
fn patiently(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(180), "not in three minutes: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What a working engine does, through a shell in its machine.
fn works(run: impl Fn(&str) -> Output) {
    let hoy = "/hoy/hoy";
    patiently("the inner daemon answers", || run(&format!("{hoy} version")).code == Some(0));
    run(&format!("{hoy} import /images/busybox.tar busybox")).ok();
    assert_eq!(run(&format!("{hoy} run --rm busybox echo inner")).ok(), "inner\n");
    run(&format!("{hoy} run --rm busybox sh -c 'exit 7'")).fails_with(7);
    let eat = "awk 'BEGIN { x = sprintf(\"%60000000d\", 1); print length(x) }'";
    let eater =
        format!("{hoy} run --name eater -m 32m busybox sh -c '{}'", eat.replace('\'', "'\\''"));
    run(&eater).fails_with(137);
    let killed = run(&format!("{hoy} inspect -f '{{{{.State.OOMKilled}}}}' eater"));
    assert_eq!(killed.ok(), "true\n");
    run(&format!("{hoy} rm eater")).ok();
    // Its own tasks and one more: the next is refused.
    let forks = "for i in 1 2 3 4 5; do sleep 60 & done; wait";
    let refused = run(&format!("{hoy} run --rm --pids-limit 4 busybox sh -c '{forks}'"));
    assert!(refused.stderr.contains("fork"), "{refused:?}");
    let page = "echo hello >/tmp/index.html; exec busybox httpd -f -p 80 -h /tmp";
    run(&format!("{hoy} run -d --name web -p 8080:80 busybox sh -c '{page}'")).ok();
    wait_until("the inner server answers", || {
        run("curl -s --max-time 30 http://127.0.0.1:8080/").stdout == "hello\n"
    });
    assert_eq!(run(&format!("{hoy} exec web echo further")).ok(), "further\n");
}

#[test]
fn hoy_in_hoy_in_hoy() {
    let _turn = turn();
    let daemon = daemon();
    import(&daemon, &usr_rootfs(), "machine");
    let before = counts(&daemon);
    let flags = [&["--privileged"], DATA].concat();
    start(&daemon, "outer", &flags, "machine", &["/hoy/hoyd"]);
    works(|line| sh(&daemon, "outer", line));
    // From outside of the outer container, too.
    let address = field(&daemon, "outer", "{{.NetworkSettings.IPAddress}}");
    let get = format!("curl -s --max-time 30 http://{address}:8080/");
    assert_eq!(daemon.netns().sh(&get), "hello\n");
    // Limits of the outer one hold for all that is in it.
    sh(&daemon, "outer", "/hoy/hoy import /images/usr.tar machine").ok();
    let flags =
        ["-v /usr:/usr:ro -v /hoy:/hoy:ro -v /images:/images:ro", &DATA.join(" ")].join(" ");
    let second = format!("/hoy/hoy run -d --privileged --name second {flags} machine /hoy/hoyd");
    sh(&daemon, "outer", &second).ok();
    works(|line| {
        let line = line.replace('\'', "'\\''");
        sh(&daemon, "outer", &format!("/hoy/hoy exec second sh -c '{line}'"))
    });
    daemon.hoy(&["rm", "-f", "outer"]).run().ok();
    before.wait_for(&daemon);
}

#[test]
fn an_overlay_is_no_place_for_a_data_root() {
    let _turn = turn();
    let daemon = daemon();
    import(&daemon, &usr_rootfs(), "machine");
    let before = counts(&daemon);
    let flags = ["--privileged", "--tmpfs", "/run"];
    start(&daemon, "outer", &flags, "machine", &["/hoy/hoyd"]);
    let version = || sh(&daemon, "outer", "/hoy/hoy version");
    patiently("the inner daemon answers", || version().code == Some(0));
    sh(&daemon, "outer", "/hoy/hoy import /images/busybox.tar busybox").ok();
    let refused = sh(&daemon, "outer", "/hoy/hoy run --rm busybox true");
    assert_ne!(refused.code, Some(0));
    assert!(refused.stderr.contains("the data root lies on overlayfs"), "{refused:?}");
    assert!(refused.stderr.contains("-v SOMEWHERE:/var/lib/hoy"), "{refused:?}");
    assert!(daemon.docker(&["logs", "outer"]).run().stderr.contains("lies on overlayfs"));
    daemon.hoy(&["rm", "-f", "outer"]).run().ok();
    before.wait_for(&daemon);
}

#[test]
fn hoy_in_a_container_of_dockers() {
    let _turn = turn();
    let Some(dockerd) = Dockerd::start() else {
        eprintln!("not shown: Debian's package docker.io is not installed");
        return;
    };
    let tar = usr_rootfs().display().to_string();
    dockerd.docker(&["import", &tar, "machine"]).run().ok();
    let machine = machine();
    let parent = format!("hoytest-inner-{}", std::process::id());
    let line = format!("exec /hoy/hoyd --cgroup-parent {parent}");
    let run = |flags: &[&str]| {
        let mut args = vec!["run", "-d", "--network", "none"];
        args.extend(machine.iter().map(String::as_str));
        args.extend(DATA);
        args.extend(flags);
        args.extend(["machine", "sh", "-c", &line]);
        dockerd.docker(&args).run()
    };
    let mut started = run(&["--privileged"]);
    if started.stderr.contains("unable to apply caps") {
        // A machine whose root does not have all capabilities: as near as Docker comes to it.
        started = run(&[
            "--cap-add=ALL",
            "--cap-drop=SYS_RESOURCE",
            "--security-opt=seccomp=unconfined",
            "--security-opt=systempaths=unconfined",
            "--device-cgroup-rule=a *:* rwm",
            "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw",
        ]);
    }
    let id = started.ok().trim().to_owned();
    works(|line| dockerd.docker(&["exec", &id, "sh", "-c", line]).deadline(120).run());
    dockerd.docker(&["exec", &id, "/hoy/hoy", "rm", "-f", "web"]).run().ok();
    drop(dockerd);
    remove_cgroups(&parent);
}

#[test]
fn dockerd_in_hoy() {
    let _turn = turn();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |name: &str| std::env::split_paths(&path).any(|d| d.join(name).exists());
    if !["dockerd", "containerd", "runc"].into_iter().all(there) {
        eprintln!("not shown: Debian's package docker.io is not installed");
        return;
    }
    let daemon = daemon();
    import(&daemon, &usr_rootfs(), "machine");
    let before = counts(&daemon);
    let flags = [&["--privileged"], DATA].concat();
    start(&daemon, "outer", &flags, "machine", &["dockerd"]);
    let run = |line: &str| sh(&daemon, "outer", line);
    patiently("dockerd answers", || run("docker version").code == Some(0));
    run("docker import /images/busybox.tar busybox").ok();
    assert_eq!(run("docker run --rm busybox echo inner").ok(), "inner\n");
    run("docker run --rm busybox sh -c 'exit 7'").fails_with(7);
    run("docker run --rm -m 32m busybox tail /dev/zero").fails_with(137);
    run("docker run -d -p 8080:80 busybox sh -c 'echo hello >/tmp/index.html; exec busybox httpd -f -h /tmp'")
        .ok();
    let address = field(&daemon, "outer", "{{.NetworkSettings.IPAddress}}");
    let get = ["-s", "--max-time", "30", &format!("http://{address}:8080/")];
    wait_until("the inner server answers", || {
        daemon.netns().run("curl").args(get).run().stdout == "hello\n"
    });
    daemon.hoy(&["rm", "-f", "outer"]).run().ok();
    before.wait_for(&daemon);
}

/// Debian's init system, running.
fn start_systemd(daemon: &Daemon, name: &str, flags: &[&str]) {
    let stop = ["--stop-signal", "SIGRTMIN+3", "-e", "container=docker"];
    start(daemon, name, &[&stop, flags].concat(), "debian", &["/sbin/init"]);
    patiently("systemd has begun", || {
        let state = sh(daemon, name, "systemctl is-system-running").stdout;
        matches!(state.trim(), "running" | "degraded")
    });
}

#[test]
fn systemd_in_hoy() {
    let _turn = turn();
    let daemon = daemon();
    import(&daemon, &debian_systemd_rootfs(), "debian");
    let before = counts(&daemon);
    // With all there is, and as Docker's users do it without.
    let plain = [
        "--tmpfs",
        "/run",
        "--tmpfs",
        "/run/lock",
        "--cgroupns=host",
        "-v",
        "/sys/fs/cgroup:/sys/fs/cgroup:rw",
    ];
    for flags in [&["--privileged"][..], &plain] {
        start_systemd(&daemon, "machine", flags);
        let failed = sh(&daemon, "machine", "systemctl --failed --no-legend --plain");
        assert_eq!(failed.ok(), "", "{flags:?}");
        sh(&daemon, "machine", "systemd-run --wait --quiet touch /run/effect").ok();
        sh(&daemon, "machine", "test -e /run/effect").ok();
        // All of it is below the container's own cgroup, in every hierarchy that it may change.
        let first = hoy_e2e::pid(&daemon, "machine");
        let text = std::fs::read_to_string(format!("/proc/{first}/cgroup")).unwrap();
        let own = format!("/{}/{}", daemon.cgroup(), field(&daemon, "machine", "{{.Id}}"));
        for line in text.lines().filter(|line| line.contains("init.scope")) {
            assert!(line.contains(&own), "{flags:?}: {text}");
        }
        assert!(text.contains("init.scope"), "{text}");
        let top = daemon.docker(&["top", "machine"]).run();
        assert!(top.ok().contains("systemd-journald"), "{}", top.stdout);
        // It ends by itself when it is asked to.
        daemon.docker(&["stop", "-t", "120", "machine"]).deadline(150).run().ok();
        assert_ne!(field(&daemon, "machine", "{{.State.ExitCode}}"), "137");
        daemon.docker(&["rm", "machine"]).run().ok();
        before.wait_for(&daemon);
    }
}

#[test]
fn containers_as_scopes_of_systemd() {
    let _turn = turn();
    let daemon = daemon();
    import(&daemon, &debian_systemd_rootfs(), "debian");
    let before = counts(&daemon);
    let data = daemon.path("inner").display().to_string();
    start_systemd(&daemon, "machine", &["--privileged", "-v", &format!("{data}:/var/lib/hoy")]);
    let run = |line: &str| sh(&daemon, "machine", line);
    run("systemd-run --unit hoyd --quiet /hoy/hoyd --exec-opt native.cgroupdriver=systemd").ok();
    patiently("the inner daemon answers", || run("/hoy/hoy version").code == Some(0));
    run("/hoy/hoy import /images/busybox.tar busybox").ok();
    let info = run("/hoy/hoy info -f '{{.CgroupDriver}}'");
    assert_eq!(info.ok(), "systemd\n");
    run("/hoy/hoy run -d --name box -m 64m --pids-limit 33 --cpus .5 busybox sleep 1000").ok();
    let id = run("/hoy/hoy inspect -f '{{.Id}}' box").ok().trim().to_owned();
    let scope = format!("hoy-{id}.scope");
    let show = |property: &str| {
        run(&format!("systemctl show --value -p {property} {scope}")).ok().trim().to_owned()
    };
    let memory = if unified() { "MemoryMax" } else { "MemoryLimit" };
    assert_eq!(show("ControlGroup"), format!("/system.slice/{scope}"));
    assert_eq!(show("Delegate"), "yes");
    assert_eq!(show(memory), (64 << 20).to_string());
    assert_eq!(show("TasksMax"), "33");
    assert_eq!(show("CPUQuotaPerSecUSec"), "500ms");
    assert_eq!(show("DevicePolicy"), "strict");
    let file = |controller: &str, v1: &str, v2: &str| {
        let (directory, file) = match unified() {
            true => ("/sys/fs/cgroup".to_owned(), v2),
            false => (format!("/sys/fs/cgroup/{controller}"), v1),
        };
        let text = run(&format!("cat {directory}/system.slice/{scope}/{file}"));
        text.ok().trim().to_owned()
    };
    let limits = || {
        (
            file("memory", "memory.limit_in_bytes", "memory.max"),
            file("pids", "pids.max", "pids.max"),
        )
    };
    assert_eq!(limits(), ((64 << 20).to_string(), "33".to_owned()));
    // The container alone is in it: who kept it until then has gone.
    wait_until("it is alone", || file("pids", "pids.current", "pids.current") == "1");
    let denied = run("/hoy/hoy run --rm busybox sh -c 'mknod /x c 1 1 && cat /x'");
    assert!(denied.stderr.contains("not permitted"), "{denied:?}");
    // systemd knows of changes, and takes none back.
    run("/hoy/hoy update --memory 128m --memory-swap -1 --pids-limit 44 box").ok();
    assert_eq!((show(memory), show("TasksMax")), ((128 << 20).to_string(), "44".to_owned()));
    run("systemctl daemon-reload").ok();
    assert_eq!(limits(), ((128 << 20).to_string(), "44".to_owned()));
    assert_eq!(run("/hoy/hoy exec box echo further").ok(), "further\n");
    run("/hoy/hoy rm -f box").ok();
    wait_until("its scope is gone", || show("LoadState") == "not-found");
    // Who runs out of memory is told of, although systemd removes the cgroup at once.
    run("/hoy/hoy run --name eater -m 32m busybox tail /dev/zero").fails_with(137);
    assert_eq!(run("/hoy/hoy inspect -f '{{.State.OOMKilled}}' eater").ok(), "true\n");
    // Slices lie in slices; nothing else is a parent.
    run("/hoy/hoy run -d --name deep --cgroup-parent a-b.slice busybox sleep 1000").ok();
    let id = run("/hoy/hoy inspect -f '{{.Id}}' deep").ok().trim().to_owned();
    let place = run(&format!("systemctl show --value -p ControlGroup hoy-{id}.scope"));
    assert_eq!(place.ok().trim(), format!("/a.slice/a-b.slice/hoy-{id}.scope"));
    run("/hoy/hoy rm -f deep").ok();
    let refused = run("/hoy/hoy run --rm --cgroup-parent elsewhere busybox true");
    let words = "cgroup-parent for systemd cgroup should be a valid slice named as \"xxx.slice\"";
    assert!(refused.stderr.contains(words), "{refused:?}");
    let left = "find /sys/fs/cgroup -name 'hoy-*.scope'; systemctl --failed --no-legend --plain";
    wait_until("no scope is left", || run(left).ok().is_empty());
    daemon.docker(&["stop", "-t", "120", "machine"]).deadline(150).run().ok();
    daemon.docker(&["rm", "machine"]).run().ok();
    before.wait_for(&daemon);
}
