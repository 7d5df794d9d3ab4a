//! A power cut and a full disk, on a file system of the test's own.

use hoy_e2e::disk::Disk;
use hoy_e2e::{field, give_busybox, import};
use hoy_testkit::{Daemon, alpine_rootfs, wait_until};

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
