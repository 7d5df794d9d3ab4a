//! Namespaces that containers share, as the kernel shows them.

use hoy_e2e::{both, daemon, field, give_busybox, pid};
use hoy_testkit::{Daemon, Output};

fn docker(daemon: &Daemon, line: &str) -> Output {
    daemon.docker(&line.split_whitespace().collect::<Vec<_>>()).run()
}

#[track_caller]
fn refused(daemon: &Daemon, line: &str, says: &str) {
    let output = docker(daemon, line);
    assert_eq!(output.code, Some(125), "{line}");
    assert!(output.stderr.contains(says), "{line}: {}", output.stderr);
}

fn namespace(daemon: &Daemon, name: &str, kind: &str) -> String {
    let link = format!("/proc/{}/ns/{kind}", pid(daemon, name));
    std::fs::read_link(link).unwrap().display().to_string()
}

#[test]
fn processes_and_memory_of_another_container() {
    let daemon = daemon();
    let run = |line: &str| docker(&daemon, &format!("run --network none {line}")).ok().to_owned();
    run("-d --name donor --ipc shareable busybox sleep 1000");
    run("-d --name alone --ipc private busybox sleep 1000");
    docker(&daemon, "create --name never busybox true").ok();
    let shares = "--pid container:donor --ipc container:donor";
    run(&format!("-d --name guest {shares} --uts host --cgroupns host busybox sleep 1001"));
    for kind in ["pid", "ipc"] {
        assert_eq!(namespace(&daemon, "donor", kind), namespace(&daemon, "guest", kind), "{kind}");
        assert_ne!(namespace(&daemon, "donor", kind), namespace(&daemon, "alone", kind), "{kind}");
    }
    for kind in ["uts", "cgroup"] {
        let own = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_eq!(namespace(&daemon, "guest", kind), own.display().to_string(), "{kind}");
    }
    assert_ne!(namespace(&daemon, "donor", "mnt"), namespace(&daemon, "guest", "mnt"));
    // By id: another may get the name.
    let donor = field(&daemon, "donor", "{{.Id}}");
    assert_eq!(
        field(&daemon, "guest", "{{.HostConfig.PidMode}} {{.HostConfig.IpcMode}}"),
        format!("container:{donor} container:{donor}")
    );

    // Both see both; what one says in the shared memory, the other hears.
    for name in ["donor", "guest"] {
        let seen = docker(&daemon, &format!("exec {name} ps -o args")).ok().to_owned();
        assert!(seen.contains("sleep 1000") && seen.contains("sleep 1001"), "{name}: {seen}");
    }
    docker(&daemon, "exec donor touch /dev/shm/from-donor").ok();
    let seen = docker(&daemon, "exec guest ls /dev/shm").ok().to_owned();
    assert_eq!(seen.trim(), "from-donor");
    docker(&daemon, "exec guest touch /dev/shm/from-guest").ok();
    assert!(docker(&daemon, "exec donor ls /dev/shm").ok().contains("from-guest"));
    assert!(docker(&daemon, "exec alone ls /dev/shm").ok().is_empty());
    // The mount's rights came with it.
    let mounts = docker(&daemon, "exec guest grep /dev/shm /proc/mounts").ok().to_owned();
    assert!(mounts.contains("nosuid,nodev,noexec"), "{mounts}");

    // The guest is no process 1 there: its end is its own, and takes what it began with it.
    docker(&daemon, "exec -d guest sleep 1002").ok();
    docker(&daemon, "stop -t 0 guest").ok();
    let seen = docker(&daemon, "exec donor ps -o args").ok().to_owned();
    assert!(seen.contains("sleep 1000"), "{seen}");
    assert!(!seen.contains("sleep 1001") && !seen.contains("sleep 1002"), "{seen}");
    // The donor's end is everybody's.
    docker(&daemon, "start guest").ok();
    docker(&daemon, "kill donor").ok();
    assert_eq!(docker(&daemon, "wait guest").ok().trim(), "137");

    let again = docker(&daemon, "start guest");
    let says = format!("failed to join PID namespace: container {donor} is not running");
    assert!(again.stderr.contains(&says), "{}", again.stderr);
    for (line, says) in [
        ("run --pid container:never busybox true", "failed to join PID namespace: container "),
        ("run --ipc container:never busybox true", "failed to join IPC namespace: container "),
        ("run --ipc container:alone busybox true", "non-shareable IPC (hint: use IpcMode:"),
        ("run --ipc container:gone busybox true", "No such container: gone"),
        ("run --ipc nonsense busybox true", "invalid IPC mode: nonsense"),
        ("run --uts host -h name busybox true", "conflicting options: hostname and the UTS mode"),
        ("run --isolation hyperv busybox true", "only supports 'default'"),
        (
            "run --gpus all busybox true",
            "could not select device driver \"\" with capabilities: [[gpu]]",
        ),
    ] {
        refused(&daemon, line, says);
    }
    // Before anything is asked of the engine, by both command lines in the same words.
    for flag in ["--cpu-count=2", "--pid=nonsense", "--uts=container:x", "--cgroupns=x"] {
        let [docker, hoy] = both(&daemon, &["run", flag, "busybox", "true"]);
        let (docker, hoy) = (docker.run(), hoy.run());
        let said = |output: &Output| output.stderr.replace("hoy", "docker");
        assert_eq!((docker.code, said(&docker)), (hoy.code, said(&hoy)), "{flag}");
        assert_ne!(hoy.code, Some(0), "{flag}");
    }
}

#[test]
fn devices_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display().to_string();
    let document = |edits: &str| {
        format!(
            r#"{{"cdiVersion": "0.6.0", "kind": "hoy.test/thing",
                "containerEdits": {{"env": ["THING=all"]}},
                "devices": [{{"name": "one", "containerEdits": {edits}}}]}}"#
        )
    };
    let edits = format!(
        r#"{{"env": ["ONE=1"], "additionalGids": [4242],
            "deviceNodes": [{{"path": "/dev/thing", "hostPath": "/dev/zero", "permissions": "r"}}],
            "mounts": [{{"hostPath": "{path}", "containerPath": "/documents",
                         "options": ["ro", "nosuid", "bind"]}}]}}"#
    );
    std::fs::write(directory.path().join("thing.json"), document(&edits)).unwrap();
    let daemon = Daemon::start_with(&["--cdi-spec-dir", &path]);
    give_busybox(&daemon);
    let script = "env | grep -E 'ONE|THING'; id -G; ls /documents; head -c 3 /dev/thing | wc -c; \
                  touch /documents/x 2>&1";
    for client in ["docker", "hoy"] {
        let words = ["run", "--rm", "--network", "none", "--device", "hoy.test/thing=one"];
        let words = [&words[..], &["busybox", "sh", "-c", script]].concat();
        let output = if client == "hoy" { daemon.hoy(&words) } else { daemon.docker(&words) }.run();
        let seen = &output.stdout;
        for says in ["ONE=1", "THING=all", "4242", "thing.json", "\n3\n"] {
            assert!(seen.contains(says), "{client} {says}: {output:?}");
        }
        assert!(seen.contains("Read-only file system"), "{output:?}");
    }
    refused(
        &daemon,
        "run --rm --device hoy.test/thing=two busybox true",
        "CDI device injection failed: unresolvable CDI devices hoy.test/thing=two",
    );
    let hooks = r#"{"hooks": [{"hookName": "createContainer", "path": "/bin/evil"}]}"#;
    std::fs::write(directory.path().join("thing.json"), document(hooks)).unwrap();
    refused(
        &daemon,
        "run --rm --device hoy.test/thing=one busybox true",
        "the createContainer hook /bin/evil is not available yet",
    );
}
