//! Restart policies: who comes back, when, and what is said of it; over ends of the daemon and of
//! the machine.

use hoy_e2e::{daemon, field, pid};
use hoy_testkit::{Daemon, Run, wait_until};

fn run(daemon: &Daemon, line: &str) -> String {
    daemon.hoy(&line.split(' ').collect::<Vec<_>>()).run().ok().trim().to_owned()
}

fn start(daemon: &Daemon, name: &str, flags: &str, line: &str) {
    let mut args = vec!["run", "-d", "--name", name];
    args.extend(flags.split_whitespace());
    args.extend(["busybox", "sh", "-c", line]);
    daemon.hoy(&args).run().ok();
}

fn state(daemon: &Daemon, name: &str) -> String {
    field(daemon, name, "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}")
}

fn count(daemon: &Daemon, name: &str) -> u32 {
    field(daemon, name, "{{.RestartCount}}").parse().unwrap()
}

fn refused(daemon: &Daemon, args: &[&str]) -> String {
    let output = daemon.docker(args).run();
    assert_ne!(output.code, Some(0), "{args:?}");
    output.stderr
}

/// Now, to the nanosecond: Docker's client rounds its own.
fn until() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    format!("{}.{:09}", now.as_secs(), now.subsec_nanos())
}

/// What happened to a container, in order; of a signal its number.
fn happened(daemon: &Daemon, name: &str) -> Vec<String> {
    let filter = format!("container={name}");
    let format = "{{.Action}} {{.Actor.Attributes.exitCode}} {{.Actor.Attributes.signal}}";
    let until = until();
    let args = ["events", "--since", "1", "--until", &until, "-f", &filter, "--format", format];
    let output = daemon.docker(&args).run();
    let lines = output.ok().replace("<no value>", "");
    lines.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn kill(pid: u32) {
    Run::new("kill").args(["-KILL", &pid.to_string()]).run().ok();
}

/// What is said of `loop` while it waits, and what is refused; false if it did not wait all the
/// time.
fn between_two_runs(daemon: &Daemon) -> bool {
    wait_until("it waits", || state(daemon, "loop").starts_with("restarting 1"));
    let before = count(daemon, "loop");
    let template = "{{.State.Running}} {{.State.Restarting}} {{.State.Pid}} {{.HostConfig.RestartPolicy.Name}}";
    let shown = field(daemon, "loop", template);
    let listed = daemon.docker(&["ps", "--format", "{{.Names}} {{.Status}}"]).run();
    let [removed, paused, entered] =
        [&["rm", "loop"][..], &["pause", "loop"], &["exec", "loop", "true"]]
            .map(|args| daemon.docker(args).run());
    let started = daemon.hoy(&["start", "loop"]).run();
    if (count(daemon, "loop"), state(daemon, "loop")) != (before, format!("restarting 1 {before}"))
    {
        return false;
    }
    assert_eq!(shown, "true true 0 always");
    let line = listed.ok().lines().find(|line| line.starts_with("loop")).expect("listed");
    assert!(line.starts_with("loop Restarting (1) ") && line.ends_with(" ago"), "{line}");
    let says = "container is restarting: stop the container before removing or force remove";
    assert!(removed.fails_with(1).stderr.contains(says), "{removed:?}");
    for refused in [paused, entered] {
        let says = "is restarting, wait until the container is running";
        assert!(refused.fails_with(1).stderr.contains(says), "{refused:?}");
    }
    assert_eq!(started.ok(), "loop\n");
    true
}

#[test]
fn policies() {
    let daemon = daemon();
    start(&daemon, "loop", "--restart always", "exit 1");
    start(&daemon, "twice", "--restart on-failure:2", "exit 7");
    start(&daemon, "fine", "--restart on-failure", "exit 0");
    start(&daemon, "updated", "", "sleep 1000");
    start(&daemon, "stopped", "--restart always --stop-timeout 0", "sleep 1000");
    start(&daemon, "signalled", "--restart unless-stopped", "sleep 1000");
    start(&daemon, "kept", "--rm --stop-timeout 0", "sleep 1000");

    // Only on a failure, and so often.
    wait_until("no third time", || state(&daemon, "twice") == "exited 7 2");
    wait_until("it is over", || state(&daemon, "fine") == "exited 0 0");
    let each = ["start", "die 7"];
    let mut expected = vec!["create"];
    expected.extend([each, each, each].concat());
    assert_eq!(happened(&daemon, "twice"), expected);
    // Somebody's start counts anew.
    run(&daemon, "start twice");
    wait_until("and again", || happened(&daemon, "twice").len() == 13);
    wait_until("until it is over", || state(&daemon, "twice") == "exited 7 2");

    // Between two runs: it waits twice as long each time, until it waits for longer than what is
    // asked here takes.
    wait_until("it has come back", || count(&daemon, "loop") >= 5);
    wait_until("all is asked between two runs", || between_two_runs(&daemon));
    // Who waits hears of the end, also of one that is between two runs; one that runs just then is
    // killed.
    wait_until("it is stopped between two runs", || {
        let waiting = daemon.hoy(&["wait", "loop"]).spawn();
        run(&daemon, "stop loop");
        let said = waiting.wait_with_output().unwrap().stdout;
        let told = happened(&daemon, "loop");
        let of = |what: &str| told.iter().filter(|line| line.starts_with(what)).count();
        assert_eq!(told.last().map(String::as_str), Some("stop"));
        assert_eq!(of("start"), of("die "));
        if of("kill") > 0 {
            run(&daemon, "rm loop");
            start(&daemon, "loop", "--restart always", "exit 1");
            wait_until("it has come back", || count(&daemon, "loop") >= 5);
            return false;
        }
        assert_eq!(said, b"1\n");
        assert!(state(&daemon, "loop").starts_with("exited 1 "), "{}", state(&daemon, "loop"));
        true
    });
    run(&daemon, "start loop");
    wait_until("it comes back again", || count(&daemon, "loop") >= 2);
    run(&daemon, "rm -f loop");

    // From now on.
    run(&daemon, "update --restart always updated");
    let first = pid(&daemon, "updated");
    kill(first);
    wait_until("another runs", || ![0, first].contains(&pid(&daemon, "updated")));
    assert_eq!(state(&daemon, "updated"), "running 0 1");
    run(&daemon, "update --restart no updated");
    kill(pid(&daemon, "updated"));
    wait_until("not again", || state(&daemon, "updated") == "exited 137 1");

    // Stopped is stopped.
    run(&daemon, "stop stopped");
    run(&daemon, "kill signalled");
    assert_eq!(
        [state(&daemon, "stopped"), state(&daemon, "signalled")],
        ["exited 137 0", "exited 137 0"]
    );
    assert_eq!(
        happened(&daemon, "stopped"),
        ["create", "start", "kill 15", "kill 9", "die 137", "stop"]
    );
    assert_eq!(happened(&daemon, "signalled"), ["create", "start", "kill 9", "die 137"]);

    // A restart by hand is no end.
    let first = pid(&daemon, "kept");
    run(&daemon, "restart kept");
    assert_ne!(pid(&daemon, "kept"), first);
    assert_eq!(
        happened(&daemon, "kept"),
        ["create", "start", "kill 15", "kill 9", "die 137", "stop", "start", "restart"]
    );
    run(&daemon, "stop kept");
    wait_until("it is removed", || {
        daemon.hoy(&["ps", "-aq", "-f", "name=kept"]).run().ok().is_empty()
    });

    for (flags, text) in [
        (&["--restart", "sometimes"][..], "unknown policy 'sometimes'"),
        (&["--restart", "always:3"], "maximum retry count can only be used with 'on-failure'"),
        (&["--restart", "on-failure:-1"], "maximum retry count cannot be negative"),
        (&["--restart", "on-failure:x"], "maximum retry count must be an integer"),
        (&["--rm", "--restart", "always"], "cannot specify both --restart and --rm"),
    ] {
        for client in [daemon.docker(&["run"]), daemon.hoy(&["run"])] {
            let output = client.args(flags).args(["busybox", "true"]).run();
            assert!(output.fails_with(125).stderr.contains(text), "{flags:?}: {}", output.stderr);
        }
    }
    start(&daemon, "brief", "--rm", "sleep 1000");
    let text = refused(&daemon, &["update", "--restart", "always", "brief"]);
    assert!(text.contains("AutoRemove is enabled"), "{text}");
}

/// A signal that the first process is sure to lose is not waited for, unless somebody names a time
/// or the daemon is set otherwise; who can hear it is asked.
#[test]
fn stops_in_vain() {
    let mut daemon = daemon();
    // One that forks blocks all signals for moments.
    let loops = "echo ready; while :; do sleep 0.05; done";
    let waits = "mkfifo /f; exec 3<>/f; echo ready; read x <&3";
    start(&daemon, "deaf", "", "exec sleep 1000");
    start(&daemon, "hears", "", &format!("trap 'exit 5' TERM; {loops}"));
    start(&daemon, "init", "--init", "exec sleep 1000");
    start(&daemon, "hangup", "--stop-signal HUP", &format!("trap 'exit 6' TERM; {waits}"));
    start(&daemon, "patient", "", "exec sleep 1000");
    start(&daemon, "given", "--stop-timeout 1", "exec sleep 1000");
    start(&daemon, "other", "", "exec sleep 1000");
    for name in ["hears", "hangup"] {
        wait_until("it is ready", || daemon.hoy(&["logs", name]).run().ok() == "ready\n");
    }
    let clients: Vec<_> = [
        daemon.hoy(&["stop", "deaf", "hears", "init", "hangup"]),
        daemon.hoy(&["stop", "-t", "1", "patient"]),
        daemon.hoy(&["stop", "given"]),
        daemon.docker(&["stop", "-t", "1", "other"]),
    ]
    .into_iter()
    .map(Run::spawn)
    .collect();
    for client in clients {
        assert!(client.wait_with_output().unwrap().status.success());
    }
    let code = |name: &str| field(&daemon, name, "{{.State.ExitCode}}");
    let names = ["deaf", "hears", "init", "hangup", "patient", "given", "other"];
    assert_eq!(names.map(code), ["137", "5", "143", "137", "137", "137", "137"]);
    let in_vain = |name: &str| {
        let (filter, until) = (format!("container={name}"), until());
        let format = "{{.Actor.Attributes.signalInVain}}";
        let args = ["events", "--since", "1", "--until", &until, "-f", &filter, "-f", "event=stop"];
        let told = daemon.docker(&args).args(["--format", format]).run();
        told.ok().trim().replace("<no value>", "")
    };
    assert_eq!(names.map(in_vain), ["15", "", "", "1", "", "", ""]);

    let stop = |daemon: &Daemon, agent: &str| {
        run(daemon, "start deaf");
        let url = "http://hoy/containers/deaf/stop";
        daemon
            .curl(&["-i", "-A", agent, "-X", "POST", url])
            .ok()
            .contains("Hoy-Stopped: killed at once")
    };
    assert!(stop(&daemon, "Hoy-Client/1"));
    assert_eq!(daemon.terminate(), Some(0));
    daemon.set_arguments(&["--instant-stop", "all"]);
    daemon.launch();
    assert!(stop(&daemon, "anybody"));
}

/// Those of a list that run.
fn running(daemon: &Daemon) -> Vec<String> {
    let output = daemon.docker(&["ps", "--format", "{{.Names}}", "-f", "status=running"]).run();
    let mut names: Vec<String> = output.ok().lines().map(str::to_owned).collect();
    names.sort();
    names
}

#[test]
fn the_daemon_and_the_machine_end() {
    let mut daemon = daemon();
    let sleep = "sleep 1000";
    start(&daemon, "always", "--restart always -p 8080:80", "httpd -f -h /etc");
    start(&daemon, "stopped-always", "--restart always --stop-timeout 0", sleep);
    start(&daemon, "unless", "--restart unless-stopped", sleep);
    start(&daemon, "stopped-unless", "--restart unless-stopped --stop-timeout 0", sleep);
    start(&daemon, "failing", "--restart on-failure", sleep);
    start(&daemon, "stopped-failing", "--restart on-failure --stop-timeout 0", sleep);
    start(&daemon, "never", "", sleep);
    start(&daemon, "removed", "--rm", sleep);
    start(&daemon, "beside", "--restart always --network container:always", sleep);
    start(&daemon, "linked", "--restart always --link always:web", sleep);
    run(&daemon, "create --name created --restart always busybox sleep 1000");
    for name in ["stopped-always", "stopped-unless", "stopped-failing"] {
        run(&daemon, &format!("stop {name}"));
    }
    let kept = ["always", "unless", "never", "beside", "linked"];
    let before = kept.map(|name| pid(&daemon, name));
    let failing = pid(&daemon, "failing");

    // One dies while nobody looks.
    daemon.kill();
    kill(failing);
    daemon.launch();
    let all =
        ["always", "beside", "failing", "linked", "never", "removed", "stopped-always", "unless"];
    wait_until("all are back", || running(&daemon) == all);
    assert_eq!(kept.map(|name| pid(&daemon, name)), before);
    assert_ne!(pid(&daemon, "failing"), failing);
    assert_eq!(happened(&daemon, "failing"), ["create", "start", "die 137", "start"]);
    assert_eq!(happened(&daemon, "always"), ["create", "start"]);
    run(&daemon, "stop stopped-always");

    daemon.lose_machine();
    daemon.launch();
    let all = ["always", "beside", "failing", "linked", "stopped-always", "unless"];
    wait_until("those with a policy are back", || running(&daemon) == all);
    assert_eq!(state(&daemon, "never"), "exited 255 0");
    assert_eq!(field(&daemon, "created", "{{.State.Status}}"), "created");
    for name in ["stopped-unless", "stopped-failing"] {
        assert_eq!(state(&daemon, name), "exited 137 0", "{name}");
    }
    assert_eq!(happened(&daemon, "unless"), ["create", "start", "die 255", "start"]);
    wait_until("what was to be removed is", || {
        daemon.hoy(&["ps", "-aq", "-f", "name=removed"]).run().ok().is_empty()
    });
    // In its network, by its name, and from outside.
    for line in
        ["exec beside wget -qO- http://127.0.0.1/passwd", "exec linked wget -qO- http://web/passwd"]
    {
        wait_until("it serves", || {
            daemon.hoy(&line.split(' ').collect::<Vec<_>>()).run().stdout.contains("root:")
        });
    }
    assert!(daemon.netns().sh("curl -s http://127.0.0.1:8080/passwd").contains("root:"));
    let ids = daemon.docker(&["ps", "-aq"]).run();
    daemon.docker(&["rm", "-f"]).args(ids.ok().split_whitespace()).run().ok();
    hoy_e2e::counts(&daemon);
}
