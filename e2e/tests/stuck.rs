//! A process that the kernel holds: on a file system whose server has stopped to answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hoy_e2e::fuse::{Files, Found, Fuse};
use hoy_e2e::{daemon, is_soon, pid};
use hoy_testkit::wait_until;

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

#[test]
fn held_by_the_kernel() {
    let daemon = daemon();
    let (path, asked) = (daemon.path("fuse"), Arc::new(AtomicBool::new(false)));
    std::fs::create_dir(&path).unwrap();
    let mut fuse = Fuse::mount(&path, Stuck(Arc::clone(&asked)));
    let volume = format!("{}:/f", path.display());
    daemon
        .hoy(&["run", "-d", "--name", "held", "-v", &volume, "busybox", "cat", "/f/stuck"])
        .run()
        .ok();
    wait_until("it is held", || asked.load(Ordering::SeqCst));
    let first = pid(&daemon, "held");
    let quick = |args: &[&str]| {
        is_soon(&format!("{args:?}"), || {
            daemon.hoy(args).run().ok();
        });
    };
    let everything_else = || {
        quick(&["ps"]);
        quick(&["inspect", "held"]);
        quick(&["logs", "held"]);
        quick(&["run", "--rm", "busybox", "true"]);
    };
    everything_else();
    std::thread::scope(|scope| {
        let removal = scope.spawn(|| daemon.hoy(&["rm", "-f", "held"]).deadline(120).run());
        std::thread::sleep(Duration::from_millis(500));
        everything_else();
        let removal = removal.join().unwrap();
        removal.fails_with(1);
        assert!(
            removal.stderr.contains(&format!("process {first} waits in the kernel")),
            "{removal:?}"
        );
    });
    everything_else();
    fuse.end();
    wait_until("it can be removed", || daemon.hoy(&["rm", "-f", "held"]).run().code == Some(0));
}
