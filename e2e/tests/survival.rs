//! What outlives whom: the daemon killed, a shim killed, processes that do not move.

use std::time::{Duration, Instant};

use hoy_e2e::{daemon, field, is_soon, pid};
use hoy_testkit::{Daemon, KernelCounts, Run, wait_until};

/// The supervisor of a container: the parent of its first process.
fn shim(daemon: &Daemon, name: &str) -> u32 {
    let first = pid(daemon, name);
    let status = std::fs::read_to_string(format!("/proc/{first}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    line.trim().parse().unwrap()
}

fn signal(pid: u32, name: &str) {
    Run::new("kill").args([format!("-{name}"), pid.to_string()]).run().ok();
}

fn exists(pid: u32) -> bool {
    std::fs::metadata(format!("/proc/{pid}")).is_ok()
}

#[test]
fn containers_outlive_the_daemon() {
    let mut daemon = daemon();
    let run = |daemon: &Daemon, args: &[&str]| daemon.hoy(args).run().ok().trim().to_owned();
    run(
        &daemon,
        &[
            "run",
            "-d",
            "--name",
            "web",
            "-p",
            "8080:80",
            "busybox",
            "sh",
            "-c",
            "echo ok >/tmp/index.html; exec httpd -f -h /tmp",
        ],
    );
    run(
        &daemon,
        &[
            "run",
            "-d",
            "--name",
            "count",
            "busybox",
            "sh",
            "-c",
            "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done",
        ],
    );
    run(&daemon, &["run", "-d", "--name", "brief", "busybox", "sh", "-c", "sleep 0.5; exit 23"]);
    run(&daemon, &["run", "-d", "--rm", "--name", "removed", "busybox", "sleep", "0.5"]);
    let first = pid(&daemon, "web");
    // Requests go on all the time, by a client that knows nothing of daemons.
    let line = "while [ ! -e \"$1\" ]; do \
        [ \"$(curl -s --max-time 60 http://127.0.0.1:8080/)\" = ok ] || echo failed; \
        echo >>\"$1-asked\"; done; echo done";
    let (stop, asked) = (daemon.path("stop"), daemon.path("stop-asked"));
    let requests = || std::fs::read(&asked).map_or(0, |lines| lines.len());
    wait_until("it serves", || {
        daemon.netns().run("curl").args(["-s", "http://127.0.0.1:8080/"]).run().stdout == "ok\n"
    });
    let clients =
        daemon.netns().run("sh").args(["-c", line, "sh", &stop.display().to_string()]).spawn();
    wait_until("a client is served", || requests() > 0);
    for _ in 0..3 {
        daemon.kill();
        // However slow this machine is: some are asked while there is no daemon.
        let before = requests();
        std::thread::sleep(Duration::from_millis(300));
        wait_until("a client is served", || requests() > before + 1);
        daemon.launch();
    }
    std::fs::write(&stop, "").unwrap();
    let output = clients.wait_with_output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output, "done\n");
    assert_eq!(pid(&daemon, "web"), first);
    wait_until("one has ended", || {
        field(&daemon, "brief", "{{.State.Status}} {{.State.ExitCode}}") == "exited 23"
    });
    wait_until("one is removed", || daemon.docker(&["inspect", "removed"]).run().code == Some(1));
    assert_eq!(run(&daemon, &["exec", "web", "echo", "here"]), "here");
    let counted = || daemon.hoy(&["logs", "count"]).run().ok().lines().count();
    wait_until("it has counted on", || counted() > 50);
    run(&daemon, &["stop", "-t", "0", "count"]);
    let log = daemon.hoy(&["logs", "count"]).run();
    let numbers: Vec<u32> = log.ok().lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.len() > 50);
    assert!(numbers.iter().copied().eq(0..numbers.len() as u32), "a gap in {numbers:?}");
    run(&daemon, &["stop", "-t", "0", "web"]);
    assert_eq!(field(&daemon, "web", "{{.State.Status}}"), "exited");
}

#[test]
fn killed_at_any_moment_nothing_is_half() {
    let mut daemon = daemon();
    let before = hoy_e2e::counts(&daemon);
    for round in 0..12_u64 {
        let client = daemon.hoy(&["run", "--rm", "-p", "8080:80", "busybox", "true"]).spawn();
        std::thread::sleep(Duration::from_millis(round));
        daemon.kill();
        let _ = client.wait_with_output();
        daemon.launch();
    }
    // What was acknowledged is whole, what was not is gone or can be removed.
    let ids = daemon.docker(&["ps", "-aq"]).run();
    for id in ids.ok().split_whitespace() {
        daemon.docker(&["rm", "-f", id]).run().ok();
    }
    // Its port is free again.
    daemon.hoy(&["run", "--rm", "-p", "8080:80", "busybox", "true"]).run().ok();
    let now = KernelCounts::of(&daemon).daemon_descriptors;
    KernelCounts { daemon_descriptors: now, ..before }.wait_for(&daemon);
}

#[test]
fn a_killed_shim_ends_its_container() {
    let daemon = daemon();
    let before = hoy_e2e::counts(&daemon);
    daemon
        .hoy(&["run", "-d", "--name", "orphan", "-p", "8080:80", "busybox", "sleep", "1000"])
        .run()
        .ok();
    let first = pid(&daemon, "orphan");
    signal(shim(&daemon, "orphan"), "KILL");
    wait_until("the container is ended", || !exists(first));
    wait_until("and shown as such", || field(&daemon, "orphan", "{{.State.Status}}") == "exited");
    assert_eq!(field(&daemon, "orphan", "{{.State.ExitCode}}"), "137");
    daemon.hoy(&["start", "orphan"]).run().ok();
    assert_eq!(field(&daemon, "orphan", "{{.State.Running}}"), "true");
    daemon.hoy(&["rm", "-f", "orphan"]).run().ok();
    before.wait_for(&daemon);
}

#[test]
fn what_does_not_move_delays_nobody() {
    let daemon = daemon();
    for name in ["frozen", "halted"] {
        daemon.hoy(&["run", "-d", "--name", name, "busybox", "sleep", "1000"]).run().ok();
    }
    let quick = |args: &[&str]| {
        let started = Instant::now();
        let output = daemon.hoy(args).deadline(60).run();
        (output, started.elapsed())
    };
    // A stopped process is one that no signal but KILL reaches.
    signal(pid(&daemon, "frozen"), "STOP");
    let supervisor = shim(&daemon, "halted");
    let halted = pid(&daemon, "halted");
    signal(supervisor, "STOP");
    for args in [
        &["ps"][..],
        &["inspect", "halted"],
        &["inspect", "frozen"],
        &["run", "--rm", "busybox", "true"],
    ] {
        is_soon(&format!("{args:?}"), || {
            quick(args).0.ok();
        });
    }
    quick(&["rm", "-f", "frozen"]).0.ok();
    // A supervisor that does not answer: said by name, and the container still goes.
    let (output, took) = quick(&["rm", "-f", "halted"]);
    assert!(took < Duration::from_secs(40), "{took:?}");
    if output.code != Some(0) {
        assert!(output.stderr.contains("shim"), "{output:?}");
        signal(supervisor, "CONT");
        wait_until("it can be removed", || {
            daemon.hoy(&["rm", "-f", "halted"]).run().code == Some(0)
        });
    }
    wait_until("its process is gone", || !exists(halted));
}
