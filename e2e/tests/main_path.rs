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
    assert_eq!(
        hoy(&["ps", "--format", "{{json .}}"]).ok(),
        docker(&["ps", "--format", "{{json .}}"]).ok()
    );
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
        (&["run", "--restart", "always", "busybox"], "not available yet"),
    ] {
        let output = daemon.docker(args).run();
        output.fails_with(125);
        assert!(output.stderr.contains(says), "{args:?}: {}", output.stderr);
    }
    assert_eq!(daemon.docker(&["ps", "-aq"]).run().ok().lines().count(), 1);
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
        netns.run("curl").args(["-s", "--max-time", "5", url]).run().stdout
    };
    let inside = daemon.netns();
    wait_until("the server answers", || get(inside, &format!("http://{address}/")) == "served\n");
    assert_eq!(get(inside, "http://127.0.0.1:8080/"), "served\n");
    assert_eq!(get(inside, "http://10.77.0.1:8080/"), "served\n");
    assert_eq!(get(&outside, "http://10.77.0.1:8080/"), "served\n");
    assert_eq!(get(inside, "http://127.0.0.1:8081/"), "served\n");
    assert_eq!(get(&outside, "http://10.77.0.1:8081/"), "", "bound to loopback only");
    assert_eq!(run(&["port", "web", "80"]), "0.0.0.0:8080\n127.0.0.1:8081");
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
    assert_eq!(get(inside, &format!("http://{any}/hostname")).trim().len(), 12);
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

#[test]
fn limits_are_the_kernels() {
    let daemon = daemon();
    daemon
        .hoy(&[
            "run",
            "-d",
            "--name",
            "lim",
            "-m",
            "64m",
            "--cpus",
            "0.5",
            "--pids-limit",
            "20",
            "busybox",
            "sleep",
            "1000",
        ])
        .run()
        .ok();
    let pid = hoy_e2e::pid(&daemon, "lim");
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let read = |controller: &str, files: &[&str]| -> String {
        let line = cgroups.lines().find(|line| {
            line.split(':').nth(1).is_some_and(|all| all.split(',').any(|c| c == controller))
        });
        let (root, path) = match line {
            Some(line) => {
                (format!("/sys/fs/cgroup/{controller}"), line.rsplit(':').next().unwrap())
            }
            None => (
                "/sys/fs/cgroup".to_owned(),
                cgroups.lines().find_map(|l| l.strip_prefix("0::")).unwrap(),
            ),
        };
        files
            .iter()
            .find_map(|file| std::fs::read_to_string(format!("{root}{path}/{file}")).ok())
            .unwrap()
            .trim()
            .to_owned()
    };
    assert_eq!(read("memory", &["memory.limit_in_bytes", "memory.max"]), "67108864");
    assert_eq!(read("pids", &["pids.max"]), "20");
    let cpu = read("cpu", &["cpu.cfs_quota_us", "cpu.max"]);
    assert!(cpu.starts_with("50000"), "{cpu}");
    // One that eats more than it may is killed, and that is known.
    let eat = "x=a; while :; do x=$x$x; done";
    let output =
        daemon.hoy(&["run", "--name", "eater", "-m", "16m", "busybox", "sh", "-c", eat]).run();
    output.fails_with(137);
    assert_eq!(field(&daemon, "eater", "{{.State.OOMKilled}}"), "true");
}
