//! The main path by the unmodified Docker CLI and by ours: the same words, the same outcome.

use hoy_e2e::{both, daemon, field};
use hoy_testkit::{NetNs, alpine_rootfs, wait_until};
use serde_json::Value;

#[test]
fn runs_and_exit_codes() {
    let daemon = daemon();
    for (args, code, out) in [
        (&["run", "--rm", "busybox", "echo", "hi"][..], 0, "hi\n"),
        (&["run", "--rm", "busybox", "sh", "-c", "exit 3"], 3, ""),
        (&["run", "--rm", "busybox", "sh", "-c", "kill -TERM $$; sleep 1; exit 9"], 9, ""),
        (&["run", "--rm", "busybox", "sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137, ""),
        (&["run", "--rm", "busybox", "nosuch"], 127, ""),
        (&["run", "--rm", "busybox", "/etc"], 126, ""),
        (&["run", "--rm", "--nosuch", "busybox"], 125, ""),
        (&["run", "--rm", "nosuchimage"], 125, ""),
        (&["run", "--rm", "-u", "nobodyhere", "busybox", "id"], 125, ""),
        (&["run", "--rm", "-w", "/w/x", "busybox", "pwd"], 0, "/w/x\n"),
        (&["run", "--rm", "-e", "A=b c", "busybox", "sh", "-c", "echo $A"], 0, "b c\n"),
        (&["run", "--rm", "-h", "boat", "busybox", "hostname"], 0, "boat\n"),
        (&["run", "--rm", "--entrypoint", "echo", "busybox", "x"], 0, "x\n"),
        (&["run", "--rm", "-u", "33:44", "busybox", "sh", "-c", "id -u; id -g"], 0, "33\n44\n"),
        (&["run", "--rm", "--init", "busybox", "sh", "-c", "exit 5"], 5, ""),
        (&["run", "--rm", "--init", "busybox", "sh", "-c", "kill -TERM $$"], 143, ""),
        (&["run", "--rm", "--init", "busybox", "nosuch"], 127, ""),
        (&["run", "--rm", "--network", "none", "busybox", "ls", "/sys/class/net"], 0, "lo\n"),
        (&["run", "--rm", "--read-only", "busybox", "touch", "/x"], 1, ""),
    ] {
        for run in both(&daemon, args) {
            let output = run.run();
            assert_eq!(output.code, Some(code), "{args:?}: {output:?}");
            assert_eq!(output.stdout, out, "{args:?}");
            // A failure says something, unless it is the process's own.
            assert!(!(125..=127).contains(&code) || !output.stderr.is_empty(), "{args:?}");
        }
    }
    assert_eq!(daemon.docker(&["ps", "-aq"]).run().ok(), "", "--rm left something");
}

#[test]
fn streams_are_kept_apart_and_whole() {
    let daemon = daemon();
    let megabytes = vec![b'x'; 8 << 20];
    for run in both(&daemon, &["run", "--rm", "-i", "busybox", "cat"]) {
        let output = run.input(megabytes.clone()).run();
        assert_eq!(output.stdout.len(), megabytes.len());
    }
    for run in both(&daemon, &["run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2"]) {
        let output = run.run();
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    }
}

/// A client may start the container as soon as it hears that it is attached.
#[test]
fn what_is_said_at_once_is_heard() {
    let daemon = daemon();
    let one = || {
        for _ in 0..60 {
            for run in both(&daemon, &["run", "--rm", "busybox", "echo", "text"]) {
                assert_eq!(run.run().ok(), "text\n");
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(one);
        }
    });
}

#[test]
fn a_life_in_commands() {
    let daemon = daemon();
    let hoy = |args: &[&str]| daemon.hoy(args).run();
    let docker = |args: &[&str]| daemon.docker(args).run();
    let id = hoy(&[
        "run",
        "-d",
        "--name",
        "life",
        "-l",
        "a=b",
        "busybox",
        "sh",
        "-c",
        "trap 'echo bye; exit 7' TERM; echo one; echo two; while :; do sleep 0.1; done",
    ]);
    let id = id.ok().trim().to_owned();
    assert_eq!(id.len(), 64);
    wait_until("both lines are logged", || docker(&["logs", "life"]).stdout == "one\ntwo\n");
    assert_eq!(hoy(&["logs", "--tail", "1", "life"]).ok(), "two\n");
    assert!(
        hoy(&["logs", "-t", "life"])
            .ok()
            .lines()
            .all(|line| line.contains("Z o") || line.contains("Z t"))
    );
    let row: Value = serde_json::from_str(docker(&["ps", "--format", "{{json .}}"]).ok()).unwrap();
    assert_eq!(row["Names"], "life");
    assert_eq!(row["State"], "running");
    assert_eq!(row["Labels"], "a=b");
    // A second may pass between two looks, and on a slow machine between the next two.
    let list = ["ps", "--format", "{{json .}}"];
    wait_until("both list the same", || docker(&list).ok() == hoy(&list).ok());
    assert_eq!(hoy(&["inspect", "life"]).ok(), docker(&["inspect", "life"]).ok());
    assert_eq!(hoy(&["exec", "-e", "X=1", "life", "sh", "-c", "echo $X"]).ok(), "1\n");
    docker(&["exec", "life", "sh", "-c", "exit 4"]).fails_with(4);
    hoy(&["exec", "life", "nosuch"]).fails_with(127);
    hoy(&["exec", "-w", "/tmp", "-u", "1:1", "life", "sh", "-c", "pwd; id -u || true"]).ok();
    assert!(hoy(&["top", "life"]).ok().contains("sleep"));
    hoy(&["pause", "life"]).ok();
    assert_eq!(field(&daemon, "life", "{{.State.Status}}"), "paused");
    hoy(&["unpause", "life"]).ok();
    hoy(&["rename", "life", "lively"]).ok();
    hoy(&["stop", "lively"]).ok();
    assert_eq!(field(&daemon, "lively", "{{.State.ExitCode}}"), "7");
    assert!(docker(&["logs", "lively"]).ok().ends_with("bye\n"));
    hoy(&["start", "lively"]).ok();
    hoy(&["kill", "lively"]).ok();
    assert_eq!(hoy(&["wait", "lively"]).ok(), "137\n");
    hoy(&["rm", "lively"]).ok();
    hoy(&["inspect", "lively"]).fails_with(1);
}

#[test]
fn names_in_use_and_missing_things() {
    let daemon = daemon();
    daemon.hoy(&["create", "--name", "taken", "busybox"]).run().ok();
    for run in both(&daemon, &["create", "--name", "taken", "busybox"]) {
        let output = run.run();
        output.fails_with(1);
        assert!(
            output.stderr.contains("Conflict. The container name \"/taken\" is already in use")
        );
    }
    for args in [&["rm", "gone"][..], &["start", "gone"], &["logs", "gone"], &["stop", "gone"]] {
        for run in both(&daemon, args) {
            let output = run.run();
            output.fails_with(1);
            assert!(output.stderr.contains("No such container: gone"), "{output:?}");
        }
    }
    for (args, says) in [
        (&["run", "-p", "99999:80", "busybox"][..], "hostPort"),
        (&["run", "-v", "/tmp:/x:nonsense", "busybox"], "mode"),
        (
            &[
                "run",
                "-v",
                "/nonexistent-source:/x",
                "--mount",
                "type=bind,src=/nonexistent-source,dst=/y",
                "busybox",
            ],
            "does not exist",
        ),
        (&["run", "--restart", "sometimes", "busybox"], "unknown policy 'sometimes'"),
    ] {
        let output = daemon.docker(args).run();
        output.fails_with(125);
        assert!(output.stderr.contains(says), "{args:?}: {}", output.stderr);
    }
    assert_eq!(daemon.docker(&["ps", "-aq"]).run().ok().lines().count(), 1);
}

/// Process 1 of `--init` hands signals on to a command that takes them as any fresh one would.
#[test]
fn init_hands_signals_on() {
    let daemon = daemon();
    let run = |args: &[&str]| daemon.docker(args).run().ok().trim().to_owned();
    run(&["run", "-d", "--init", "--name", "plain", "busybox", "sleep", "1000"]);
    // It has begun with all of them blocked: one that came before it could wait for them is kept.
    // SIGSEGV is none that it blocks itself.
    let blocked = run(&["exec", "plain", "sed", "-n", "s/^SigBlk:.//p", "/proc/1/status"]);
    assert_ne!(u64::from_str_radix(&blocked, 16).unwrap() & 1 << (11 - 1), 0, "{blocked}");
    run(&["kill", "-s", "TERM", "plain"]);
    assert_eq!(run(&["wait", "plain"]), "143");
    let trap = "trap 'exit 44' USR1; echo ready; while :; do sleep 0.1; done";
    run(&["run", "-d", "--init", "--name", "trap", "busybox", "sh", "-c", trap]);
    wait_until("the trap is set", || run(&["logs", "trap"]) == "ready");
    run(&["kill", "-s", "USR1", "trap"]);
    assert_eq!(run(&["wait", "trap"]), "44");
    // What nobody waits for is collected: no process remains without life.
    let orphans = "sh -c 'sleep 0.05 & sleep 0.06 &'; sleep 0.3; \
                   while ps -o stat,comm | grep -qE '^Z| sleep'; do sleep 1; done";
    daemon.docker(&["run", "--rm", "--init", "busybox", "sh", "-c", orphans]).run().ok();
}

#[test]
fn other_networks_names() {
    let daemon = daemon();
    let run = |args: &[&str]| daemon.docker(args).run().ok().trim().to_owned();
    run(&["run", "-d", "--name", "owner", "-h", "ship", "busybox", "sleep", "1000"]);
    run(&[
        "run",
        "-d",
        "--name",
        "guest",
        "--network",
        "container:owner",
        "busybox",
        "sleep",
        "1000",
    ]);
    // Who shares a network has its names and addresses, also over a second step.
    let look = "hostname; echo $HOSTNAME; cat /etc/hosts /etc/resolv.conf; ip -o addr";
    let inside = |name: &str| run(&["exec", name, "sh", "-c", look]);
    assert!(inside("owner").starts_with("ship\nship\n"));
    assert_eq!(inside("guest"), inside("owner"));
    assert_eq!(
        run(&["run", "--rm", "--network", "container:guest", "busybox", "sh", "-c", look]),
        inside("owner")
    );
    for (option, value) in
        [("-h", "own"), ("-p", "80:80"), ("--dns", "1.1.1.1"), ("--add-host", "a:1.1.1.1")]
    {
        let args = ["run", "--network", "container:owner", option, value, "busybox", "true"];
        let output = daemon.docker(&args).run();
        output.fails_with(125);
        assert!(output.stderr.contains("conflicting options"), "{}", output.stderr);
    }
    run(&["stop", "-t", "0", "owner"]);
    let output = daemon.docker(&["run", "--network", "container:owner", "busybox", "true"]).run();
    output.fails_with(125);
    assert!(output.stderr.contains("non running container"), "{}", output.stderr);
    // The machine's network is the daemon's: here a namespace of its own, seen from both sides.
    daemon.netns().sh("ip link add marker type veth peer name other");
    let links = ["run", "--rm", "--network", "host", "busybox", "ls", "/sys/class/net"];
    assert!(run(&links).contains("marker"));
    assert!(!run(&["run", "--rm", "busybox", "ls", "/sys/class/net"]).contains("marker"));
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let hostname = ["run", "--rm", "--network", "host", "busybox", "sh", "-c", "echo $HOSTNAME"];
    assert_eq!(run(&hostname), name.trim());
}

#[test]
fn a_further_process() {
    let daemon = daemon();
    daemon
        .docker(&[
            "run", "-d", "--name", "box", "-e", "A=1", "-w", "/w", "busybox", "sleep", "1000",
        ])
        .run()
        .ok();
    for (args, code, out) in [
        (&["exec", "box", "sh", "-c", "pwd; echo $A"][..], 0, "/w\n1\n"),
        (&["exec", "-w", "/etc", "-e", "A=2", "box", "sh", "-c", "pwd; echo $A"], 0, "/etc\n2\n"),
        (&["exec", "-u", "12:34", "box", "sh", "-c", "id -u; id -g"], 0, "12\n34\n"),
        (&["exec", "box", "sh", "-c", "kill -9 $$"], 137, ""),
        (&["exec", "box", "cat"], 0, ""),
    ] {
        for run in both(&daemon, args) {
            let output = run.run();
            assert_eq!((output.code, output.stdout.as_str()), (Some(code), out), "{args:?}");
        }
    }
    for (args, code, says) in [
        (
            &["exec", "box", "nosuch"][..],
            127,
            "exec: \"nosuch\": executable file not found in $PATH",
        ),
        (&["exec", "box", "/etc/passwd"], 126, "permission denied"),
        (&["exec", "-w", "/nosuch", "box", "pwd"], 127, "no such file or directory"),
        (&["exec", "-w", "/etc/passwd", "box", "pwd"], 126, "not a directory"),
        (&["exec", "-u", "nosuch", "box", "id"], 126, "unable to find user nosuch"),
        (&["exec", "gone", "id"], 1, "No such container: gone"),
    ] {
        for run in both(&daemon, args) {
            let output = run.run();
            assert_eq!(output.code, Some(code), "{args:?}: {output:?}");
            let text = output.stdout + &output.stderr;
            assert!(text.contains(says), "{args:?}: {text}");
        }
    }
    // A directory that was asked for is not made, and what failed is no child of anybody.
    daemon.docker(&["exec", "box", "ls", "-d", "/nosuch"]).run().fails_with(1);
    let fed = daemon.docker(&["exec", "-i", "box", "cat"]).input("through").run();
    assert_eq!(fed.ok(), "through");
    daemon.hoy(&["exec", "-d", "box", "sh", "-c", "echo done >/detached"]).run().ok();
    wait_until("it ran on its own", || {
        daemon.docker(&["exec", "box", "cat", "/detached"]).run().stdout == "done\n"
    });
    daemon.docker(&["stop", "-t", "0", "box"]).run().ok();
    let output = daemon.docker(&["exec", "box", "true"]).run();
    output.fails_with(1);
    assert!(output.stderr.contains("is not running"), "{}", output.stderr);
}

#[test]
fn what_the_daemon_says_of_itself() {
    let daemon = daemon();
    let docker = |args: &[&str]| daemon.docker(args).run().ok().trim().to_owned();
    assert_eq!(
        docker(&["version", "-f", "{{.Server.Version}} {{.Server.APIVersion}}"]),
        "29.8.0 1.56"
    );
    let parts = docker(&["version", "-f", "{{range .Server.Components}}{{.Name}} {{end}}"]);
    assert!(parts.split(' ').any(|part| part == "hoy"), "{parts}");
    docker(&["create", "busybox"]);
    let counted = "{{.Containers}} {{.ContainersRunning}} {{.Images}} {{.Driver}}";
    assert_eq!(docker(&["info", "-f", counted]), "1 0 1 overlay2");
    assert_eq!(
        docker(&["info", "-f", "{{.DockerRootDir}}"]),
        daemon.path("data").display().to_string()
    );
    for args in [
        &["version", "-f", "{{json .Server}}"][..],
        &["info", "-f", "{{.Name}} {{.NCPU}} {{.MemTotal}} {{.KernelVersion}}"],
        &["images", "--format", "{{json .}}"],
        &["image", "inspect", "busybox"],
        &["ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Image}} {{.Command}} {{.Names}}"],
    ] {
        assert_eq!(daemon.hoy(args).run().ok().trim(), docker(args), "{args:?}");
    }
}

/// What is not there yet is refused by its name, and leaves nothing.
#[test]
fn not_available_yet() {
    let daemon = daemon();
    daemon.docker(&["create", "--name", "box", "busybox", "true"]).run().ok();
    let images = daemon.docker(&["images"]).run().ok().to_owned();
    for args in [
        &["run", "--rm", "--log-driver", "syslog", "busybox", "true"][..],
        &["run", "--rm", "--network", "mine", "busybox", "true"],
        &["pull", "busybox"],
    ] {
        let output = daemon.docker(args).run();
        assert!(output.code > Some(0), "{args:?}: {output:?}");
        let text = output.stderr.to_lowercase();
        assert!(
            text.contains("not available yet") || text.contains("not found"),
            "{args:?}: {text}"
        );
    }
    assert_eq!(daemon.docker(&["ps", "-aq"]).run().ok().lines().count(), 1);
    assert_eq!(daemon.docker(&["images"]).run().ok(), images);
}

#[test]
fn bind_mounts() {
    let daemon = daemon();
    let directory = daemon.path("shared");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("in"), "from the host").unwrap();
    let spec = format!("{}:/data", directory.display());
    let line = "cat /data/in; echo from inside >/data/out";
    assert_eq!(
        daemon.hoy(&["run", "--rm", "-v", &spec, "busybox", "sh", "-c", line]).run().ok(),
        "from the host"
    );
    assert_eq!(std::fs::read_to_string(directory.join("out")).unwrap(), "from inside\n");
    let read_only = format!("{spec}:ro");
    let touch = ["run", "--rm", "-v", &read_only, "busybox", "touch", "/data/x"];
    daemon.docker(&touch).run().fails_with(1);
}

#[test]
fn ports_from_everywhere() {
    let daemon = daemon();
    let outside = NetNs::new();
    daemon.netns().link(&outside, "out0", "10.77.0.1/24", "10.77.0.2/24");
    let run = |args: &[&str]| daemon.hoy(args).run().ok().trim().to_owned();
    run(&[
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        "8080:80",
        "-p",
        "127.0.0.1:8081:80",
        "busybox",
        "sh",
        "-c",
        "mkdir /w; echo served >/w/index.html; exec httpd -f -h /w",
    ]);
    let address = field(&daemon, "web", "{{.NetworkSettings.IPAddress}}");
    let get = |netns: &NetNs, url: &str| {
        netns.run("curl").args(["-s", "--max-time", "30", url]).run().stdout
    };
    let inside = daemon.netns();
    wait_until("the server answers", || get(inside, &format!("http://{address}/")) == "served\n");
    assert_eq!(get(inside, "http://127.0.0.1:8080/"), "served\n");
    assert_eq!(get(inside, "http://10.77.0.1:8080/"), "served\n");
    assert_eq!(get(&outside, "http://10.77.0.1:8080/"), "served\n");
    assert_eq!(get(inside, "http://127.0.0.1:8081/"), "served\n");
    let refused = ["-s", "--max-time", "3", "http://10.77.0.1:8081/"];
    assert_eq!(outside.run("curl").args(refused).run().stdout, "", "bound to loopback only");
    assert_eq!(get(inside, "http://[::1]:8080/"), "served\n", "the kernel cannot, the keeper does");
    assert_eq!(run(&["port", "web", "80"]), "0.0.0.0:8080\n[::]:8080\n127.0.0.1:8081");
    // From another container, by its address and by the published port of the host.
    for url in [format!("http://{address}/"), "http://10.77.0.1:8080/".to_owned()] {
        assert_eq!(run(&["run", "--rm", "busybox", "wget", "-qO-", &url]), "served");
    }
    // Sharing the namespace of another container.
    assert_eq!(
        run(&[
            "run",
            "--rm",
            "--network",
            "container:web",
            "busybox",
            "wget",
            "-qO-",
            "http://127.0.0.1/"
        ]),
        "served"
    );
    // To the outside by translation: out there nobody knows a way back to the bridge's addresses.
    let pages = daemon.path("pages");
    std::fs::create_dir(&pages).unwrap();
    std::fs::write(pages.join("page"), "from outside\n").unwrap();
    let mut server = outside
        .run("busybox")
        .args(["httpd", "-f", "-p", "9000", "-h", &pages.display().to_string()])
        .spawn();
    wait_until("the outside serves", || {
        get(inside, "http://10.77.0.2:9000/page") == "from outside\n"
    });
    assert_eq!(
        run(&["run", "--rm", "busybox", "wget", "-qO-", "http://10.77.0.2:9000/page"]),
        "from outside"
    );
    server.kill().unwrap();
    server.wait().unwrap();
    // A port in use is refused, and the container is not left behind half started.
    let second = daemon.docker(&["run", "--rm", "-p", "8080:80", "busybox", "true"]).run();
    second.fails_with(125);
    assert!(
        second.stderr.contains("address already in use")
            || second.stderr.contains("port is already allocated"),
        "{}",
        second.stderr
    );
    // Any free port.
    run(&["run", "-d", "--name", "any", "-p", "80", "busybox", "httpd", "-f", "-h", "/etc"]);
    let any = run(&["port", "any", "80"]);
    assert_eq!(any.lines().count(), 2, "one for each family: {any}");
    for place in any.lines().map(|place| place.replace("0.0.0.0", "127.0.0.1")) {
        wait_until(&place, || get(inside, &format!("http://{place}/hostname")).trim().len() == 12);
    }
    run(&["rm", "-f", "web", "any"]);
    assert_eq!(get(inside, "http://127.0.0.1:8080/"), "");
}

#[test]
fn alpine_by_import() {
    let daemon = daemon();
    let rootfs = alpine_rootfs().display().to_string();
    daemon
        .docker(&[
            "import",
            "-c",
            "ENV SHIP=hoy",
            "-c",
            "CMD [\"sh\",\"-c\",\"echo $SHIP\"]",
            &rootfs,
            "alpine",
        ])
        .run()
        .ok();
    for run in both(&daemon, &["run", "--rm", "alpine", "cat", "/etc/os-release"]) {
        assert!(run.run().ok().contains("Alpine Linux"));
    }
    assert_eq!(daemon.hoy(&["run", "--rm", "alpine"]).run().ok(), "hoy\n");
    assert_eq!(daemon.hoy(&["images", "-q", "alpine"]).run().ok().lines().count(), 1);
    // Out and in again, by both, under another name.
    let archive = daemon.path("saved.tar").display().to_string();
    daemon.hoy(&["save", "-o", &archive, "alpine"]).run().ok();
    daemon.hoy(&["rmi", "alpine"]).run().ok();
    daemon.hoy(&["run", "--rm", "alpine"]).run().fails_with(125);
    daemon.docker(&["load", "-i", &archive]).run().ok();
    assert_eq!(daemon.docker(&["run", "--rm", "alpine"]).run().ok(), "hoy\n");
}

#[test]
fn the_greeting() {
    let daemon = hoy_testkit::Daemon::start();
    let output = daemon.hoy(&["run", "--rm", "hello"]).run();
    assert!(output.ok().contains("Hello from inside a container!"));
}
