//! A power cut and a full disk, on a file system of the test's own.

use hoy_e2e::disk::Disk;
use hoy_e2e::{field, give_busybox, import};
use hoy_testkit::{Daemon, Run, alpine_rootfs, wait_until};

#[test]
fn what_was_acknowledged_survives_a_power_cut() {
    let mut daemon = Daemon::prepare(&[]);
    let disk = Disk::mount(&daemon, 512);
    daemon.launch();
    give_busybox(&daemon);
    let rootfs = alpine_rootfs().display().to_string();
    daemon
        .docker(&[
            "create",
            "--name",
            "before",
            "-e",
            "KEPT=yes",
            "busybox",
            "sh",
            "-c",
            "echo $KEPT",
        ])
        .run()
        .ok();
    let import = daemon.docker(&["import", &rootfs, "alpine"]).run();
    import.ok();
    // In the moment after the answer.
    disk.cut(&mut daemon);
    daemon.launch();
    let images = daemon.docker(&["images", "--format", "{{.Repository}}"]).run();
    assert!(images.ok().contains("alpine") && images.ok().contains("busybox"), "{}", images.stdout);
    let text = daemon.docker(&["run", "--rm", "alpine", "cat", "/etc/os-release"]).run();
    assert!(text.ok().contains("Alpine Linux"));
    assert_eq!(daemon.docker(&["start", "-a", "before"]).run().ok(), "yes\n");
    // A removal that was acknowledged stays one.
    daemon.docker(&["rm", "before"]).run().ok();
    daemon.docker(&["rmi", "alpine"]).run().ok();
    disk.cut(&mut daemon);
    daemon.launch();
    daemon.docker(&["inspect", "before"]).run().fails_with(1);
    daemon.docker(&["image", "inspect", "alpine"]).run().fails_with(1);
    daemon.docker(&["run", "--rm", "busybox", "true"]).run().ok();
    assert_eq!(daemon.terminate(), Some(0));
    disk.detach();
}

#[test]
fn a_full_disk_loses_nothing() {
    let mut daemon = Daemon::prepare(&[]);
    let disk = Disk::mount(&daemon, 64);
    daemon.launch();
    give_busybox(&daemon);
    daemon
        .hoy(&[
            "run",
            "-d",
            "--name",
            "on",
            "busybox",
            "sh",
            "-c",
            "while :; do echo tick; sleep 0.05; done",
        ])
        .run()
        .ok();
    // One that fills it from inside, and an archive that does not fit.
    let fill = daemon
        .hoy(&["run", "--name", "filler", "busybox", "dd", "if=/dev/zero", "of=/big", "bs=1M"])
        .run();
    assert!(fill.stderr.contains("No space left"), "{fill:?}");
    let load = daemon.docker(&["import", &alpine_rootfs().display().to_string(), "alpine"]).run();
    assert_ne!(load.code, Some(0));
    assert!(load.stderr.to_lowercase().contains("no space left"), "{load:?}");
    // What runs runs on, and can be looked at and removed.
    assert_eq!(field(&daemon, "on", "{{.State.Running}}"), "true");
    daemon.hoy(&["ps"]).run().ok();
    daemon.hoy(&["exec", "on", "true"]).run().ok();
    daemon.hoy(&["logs", "--tail", "1", "on"]).run().ok();
    daemon.hoy(&["rm", "filler"]).run().ok();
    // There is room again.
    wait_until("the space is back", || {
        daemon
            .hoy(&["run", "--rm", "busybox", "dd", "if=/dev/zero", "of=/x", "bs=1M", "count=8"])
            .run()
            .code
            == Some(0)
    });
    let images = daemon.docker(&["images", "-q", "alpine"]).run();
    assert_eq!(images.ok(), "");
    daemon.hoy(&["rm", "-f", "on"]).run().ok();
    assert_eq!(daemon.terminate(), Some(0));
    disk.detach();
}

/// What a container was given is the volume's, and complete; what was removed is gone.
#[test]
fn volumes_survive_a_power_cut() {
    let mut daemon = Daemon::prepare(&[]);
    let disk = Disk::mount(&daemon, 256);
    daemon.launch();
    let fill = "mkdir srv; for i in $(seq 200); do echo file $i > srv/$i; done";
    import(&daemon, "full", fill, &[]);
    let data = daemon.path("data/volumes/x1/_data");
    let whole = |at: &std::path::Path| {
        let files = std::fs::read_dir(at).into_iter().flatten().flatten();
        files.filter(|file| std::fs::read(file.path()).is_ok_and(|text| text.len() > 5)).count()
    };
    for round in 0..4 {
        daemon.docker(&["create", "--name", "c1", "-v", "x1:/srv", "full", "true"]).run().ok();
        disk.cut(&mut daemon);
        daemon.launch();
        assert_eq!(whole(&data), 200, "round {round}");
        daemon.docker(&["rm", "c1"]).run().ok();
        daemon.docker(&["volume", "rm", "x1"]).run().ok();
        disk.cut(&mut daemon);
        daemon.launch();
        assert_eq!(daemon.docker(&["volume", "ls", "-q"]).run().ok(), "");
        assert!(!data.exists());
        // In the middle: before it is acknowledged it is there with all or with nothing.
        let child = daemon.docker(&["create", "-v", "x1:/srv", "full", "true"]).spawn();
        std::thread::sleep(std::time::Duration::from_millis(20 + 15 * round));
        disk.cut(&mut daemon);
        drop(child);
        daemon.launch();
        let found = whole(&data);
        assert!(found == 0 || found == 200, "round {round}: {found} files");
        for id in daemon.docker(&["ps", "-aq"]).run().ok().lines() {
            daemon.docker(&["rm", id]).run().ok();
        }
        daemon.docker(&["volume", "rm", "-f", "x1"]).run().ok();
    }
    daemon.terminate();
    disk.detach();
}

/// Nothing is half made at any write, what there is can be looked at and removed, and a daemon
/// begins; whether bytes or files are all taken.
#[test]
fn nothing_is_half_made_on_a_full_disk() {
    for files in [false, true] {
        let mut daemon = Daemon::prepare(&[]);
        let how: &[&str] = if files { &["-N", "700"] } else { &[] };
        let disk = Disk::mount_made(&daemon, 48, how);
        daemon.launch();
        give_busybox(&daemon);
        let ticks = "while :; do echo tick; sleep 0.05; done";
        daemon.hoy(&["run", "-d", "--name", "on", "busybox", "sh", "-c", ticks]).run().ok();
        for number in 0..4 {
            let name = format!("c{number}");
            daemon.docker(&["create", "--name", &name, "-v", "/v", "busybox"]).run().ok();
        }
        daemon.docker(&["volume", "create", "unused"]).run().ok();
        let filler = daemon.path("data/filler");
        let fill = if files {
            "mkdir $0; i=0; while : 2>/dev/null > $0/$i; do i=$((i+1)); done"
        } else {
            "dd if=/dev/zero of=$0 bs=64k; dd if=/dev/zero of=$0.rest bs=1k"
        };
        Run::new("bash").args(["-c", fill]).args([&filler]).run();
        let image = hoy_testkit::busybox_rootfs().display().to_string();
        let mut failed = 0;
        for round in 0..40 {
            let name = format!("new{round}");
            let volume = format!("{name}:/bin");
            for line in [
                &["create", "--name", &name, "-v", &volume, "busybox"][..],
                &["volume", "create", &name],
                &["import", &image, &name],
            ] {
                let output = daemon.docker(line).run();
                if output.code != Some(0) {
                    assert!(
                        output.stderr.contains("full") || output.stderr.contains("No space"),
                        "{output:?}"
                    );
                    failed += 1;
                }
            }
            // Until the last bytes are gone.
            if failed > 2 {
                break;
            }
        }
        assert!(failed > 2);
        let check = |daemon: &Daemon| daemon.curl(&["-X", "POST", "http://d/hoy/check?repair=0"]);
        assert!(check(&daemon).ok().contains("\"Findings\":[]"), "{:?}", check(&daemon));
        let left: Vec<_> = daemon.path("data/ingest").read_dir().unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        wait_until("it is told", || {
            daemon.docker(&["info"]).run().stderr.contains("disk of the data root is nearly full")
        });
        daemon.docker(&["ps", "-as"]).run().ok();
        daemon.docker(&["logs", "--tail", "1", "on"]).run().ok();
        daemon.docker(&["system", "df", "-v"]).run().ok();
        daemon.docker(&["rm", "-v", "c0"]).run().ok();
        assert_eq!(field(&daemon, "on", "{{.State.Running}}"), "true");
        // Also a daemon that begins on it.
        daemon.kill();
        Run::new("bash").args(["-c", fill]).args([&filler]).run();
        daemon.launch();
        daemon.docker(&["rm", "-v", "c1"]).run().ok();
        daemon.docker(&["rm", "-f", "on"]).run().ok();
        daemon.docker(&["volume", "rm", "unused"]).run().ok();
        let pruned = daemon.docker(&["system", "prune", "-f", "-a", "--volumes"]).run();
        assert!(pruned.ok().contains("Deleted Containers"), "{pruned:?}");
        daemon.docker(&["volume", "prune", "-fa"]).run().ok();
        assert_eq!(daemon.docker(&["ps", "-aq"]).run().ok(), "");
        assert_eq!(daemon.docker(&["volume", "ls", "-q"]).run().ok(), "");
        assert_eq!(daemon.docker(&["images", "-q"]).run().ok(), "");
        assert!(check(&daemon).ok().contains("\"Findings\":[]"), "{:?}", check(&daemon));
        assert_eq!(daemon.terminate(), Some(0));
        disk.detach();
    }
}
