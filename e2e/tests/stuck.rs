//! A process that the kernel holds: on a file system whose server has stopped to answer. Of one
//! container the program waits there, of the other execs and a probe that are about to begin.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hoy_e2e::fuse::{Files, Found, Fuse};
use hoy_e2e::{counts, daemon, field, is_soon, pid};
use hoy_testkit::{Daemon, wait_until};

/// A directory in which looking for `stuck` never ends, and whether somebody has looked.
struct Stuck(Arc<AtomicBool>);

impl Files for Stuck {
    fn find(&mut self, name: &[u8]) -> Found {
        if name != b"stuck" {
            return Found::Nothing;
        }
        self.0.store(true, Ordering::SeqCst);
        Found::Never
    }
}

impl Stuck {
    /// One of its own for each that is to be held: the kernel looks for one name at a time.
    fn mount(daemon: &Daemon, name: &str) -> (Fuse, Arc<AtomicBool>) {
        let (path, asked) = (daemon.path(name), Arc::new(AtomicBool::new(false)));
        std::fs::create_dir(&path).unwrap();
        (Fuse::mount(&path, Self(Arc::clone(&asked))), asked)
    }
}

fn create_worker(daemon: &Daemon, binds: &[String]) {
    let body = format!(
        r#"{{"Image":"busybox","Cmd":["sh","-c","echo up; exec sleep 1000"],
            "HostConfig":{{"Binds":{binds:?}}},
            "Healthcheck":{{"Test":["CMD","/probe/stuck"],"Interval":200000000,
                           "Timeout":300000000,"Retries":3}}}}"#
    );
    let url = "http://hoy/v1.45/containers/create?name=worker";
    daemon.curl(&["-H", "Content-Type: application/json", "-d", &body, url]).ok();
    daemon.hoy(&["start", "worker"]).run().ok();
}

#[test]
fn held_by_the_kernel() {
    let daemon = daemon();
    let before = counts(&daemon);
    let names = ["first", "program", "directory", "probe"];
    let mut servers = names.map(|name| Stuck::mount(&daemon, name));
    let asked = |servers: &[(Fuse, Arc<AtomicBool>)], index: usize| {
        wait_until("it is held", || servers[index].1.load(Ordering::SeqCst));
    };
    let binds = names.map(|name| format!("{}:/{name}", daemon.path(name).display()));
    daemon
        .hoy(&["run", "-d", "--name", "held", "-v", &binds[0], "busybox", "cat", "/first/stuck"])
        .run()
        .ok();
    create_worker(&daemon, &binds[1..]);
    let program = daemon.docker(&["exec", "worker", "/program/stuck"]).spawn();
    let directory = daemon.docker(&["exec", "-w", "/directory/stuck", "worker", "true"]).spawn();
    (0..names.len()).for_each(|index| asked(&servers, index));
    wait_until("it is up", || daemon.hoy(&["logs", "worker"]).run().ok() == "up\n");
    let first = pid(&daemon, "held");
    let quick = |args: &[&str]| {
        let mut said = String::new();
        is_soon(&format!("{args:?}"), || said = daemon.hoy(args).run().ok().to_owned());
        said
    };
    let everything_else = || {
        quick(&["ps"]);
        quick(&["inspect", "held", "worker"]);
        quick(&["logs", "held"]);
        assert_eq!(quick(&["logs", "worker"]), "up\n");
        quick(&["run", "--rm", "busybox", "true"]);
    };
    everything_else();
    let why = quick(&["explain", "held"]);
    assert!(why.contains("cat (") && why.contains("waits for /first (fuse)"), "{why}");
    assert_eq!(quick(&["exec", "worker", "echo", "yes"]), "yes\n");
    quick(&["kill", "-s", "CONT", "worker"]);
    wait_until("a probe that hangs has failed", || {
        field(&daemon, "worker", "{{.State.Health.Status}}") == "unhealthy"
    });
    let told = field(&daemon, "worker", "{{(index .State.Health.Log 0).Output}}");
    let words = "Health check exceeded timeout (300ms): unable to start container process: exec: \"/probe/stuck\"";
    assert!(told.starts_with(words), "{told}");
    std::thread::scope(|scope| {
        let removal = |name: &'static str| {
            let daemon = &daemon;
            scope.spawn(move || daemon.hoy(&["rm", "-f", name]).deadline(120).run())
        };
        let (removal, other) = (removal("held"), removal("worker"));
        std::thread::sleep(Duration::from_millis(500));
        everything_else();
        let other = other.join().unwrap();
        other.fails_with(1);
        assert!(other.stderr.contains("waits in the kernel"), "{other:?}");
        let removal = removal.join().unwrap();
        removal.fails_with(1);
        assert!(
            removal.stderr.contains(&format!("process {first} waits in the kernel")),
            "{removal:?}"
        );
    });
    everything_else();
    servers.iter_mut().for_each(|(fuse, _)| fuse.end());
    for client in [program, directory] {
        let ended = client.wait_with_output().unwrap();
        assert!(!ended.status.success(), "{ended:?}");
    }
    for name in ["held", "worker"] {
        wait_until("it can be removed", || {
            daemon.hoy(&["rm", "-f", name]).run().code == Some(0)
                || daemon.hoy(&["inspect", name]).run().code == Some(1)
        });
    }
    before.wait_for(&daemon);
}
