//! What broke others, tried on us: each attempt has a canary outside, and the canary is untouched.

use std::path::{Path, PathBuf};

use hoy_e2e::{daemon, import, pid};
use hoy_testkit::Daemon;

/// A directory of the host that an image points at.
struct Canary {
    path: PathBuf,
}

impl Canary {
    fn new(daemon: &Daemon) -> Self {
        let path = daemon.path("canary");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("file"), "untouched").unwrap();
        Self { path }
    }

    fn text(&self) -> String {
        self.path.display().to_string()
    }

    fn is_untouched(&self) {
        let names: Vec<_> =
            std::fs::read_dir(&self.path).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["file"], "something was made outside");
        assert_eq!(std::fs::read_to_string(self.path.join("file")).unwrap(), "untouched");
    }
}

/// The path as an image would see it if it could climb: many steps up, then down.
fn climbing(path: &Path) -> String {
    format!("{}{}", "../".repeat(16), path.display().to_string().trim_start_matches('/'))
}

#[test]
fn links_where_mounts_go() {
    let daemon = daemon();
    let canary = Canary::new(&daemon);
    for place in
        ["proc", "dev", "sys", "etc", "etc/hosts", "etc/resolv.conf", "etc/hostname", "tmp"]
    {
        for (kind, target) in [("abs", canary.text()), ("rel", climbing(&canary.path))] {
            let name = format!("link-{kind}-{}", place.replace(['/', '.'], "-"));
            let script =
                format!("rm -rf ./{place}; mkdir -p $(dirname {place}); ln -s {target} {place}");
            import(&daemon, &name, &script, &[]);
            // It may run, inside of its root, or be refused: it does not reach out.
            let output = daemon
                .hoy(&["run", "--rm", "--tmpfs", "/tmp/t", "-v", "/etc/os-release:/tmp/m/x", &name])
                .args(["/bin/busybox", "sh", "-c", "echo ran"])
                .run();
            assert!(output.code == Some(0) || output.code >= Some(125), "{name}: {output:?}");
            canary.is_untouched();
        }
    }
}

#[test]
fn mount_targets_through_links() {
    let daemon = daemon();
    let canary = Canary::new(&daemon);
    let script = format!(
        "ln -s {} abs; ln -s {} rel; ln -s /proc/1/root up; ln -s /proc/self/cwd here",
        canary.text(),
        climbing(&canary.path)
    );
    import(&daemon, "links", &script, &[]);
    for target in
        ["/abs", "/abs/new", "/rel/file", "/rel/new/deep", "/up/x", "/here/x", "/proc/../abs/n"]
    {
        for mount in [
            format!("type=tmpfs,dst={target}"),
            format!("type=bind,src=/etc/os-release,dst={target}"),
        ] {
            let output = daemon.hoy(&["run", "--rm", "--mount", &mount, "links", "true"]).run();
            assert!(output.code == Some(0) || output.code >= Some(125), "{output:?}");
            canary.is_untouched();
        }
        let output = daemon.hoy(&["run", "--rm", "-w", target, "links", "pwd"]).run();
        assert!(output.code == Some(0) || output.code >= Some(125), "{output:?}");
        canary.is_untouched();
    }
    // Mounts over /proc and /sys would hide what is masked there.
    for target in ["/proc", "/proc/sys", "/sys/../proc/self"] {
        let mount = format!("type=tmpfs,dst={target}");
        let output = daemon.docker(&["run", "--rm", "--mount", &mount, "busybox", "true"]).run();
        assert_ne!(output.code, Some(0), "{target}");
    }
}

#[test]
fn no_descriptor_leaks_in() {
    let daemon = daemon();
    let list = "for f in /proc/self/fd/* /proc/self/cwd /proc/self/exe /proc/self/root; do readlink $f; done; true";
    let output = daemon.hoy(&["run", "--rm", "busybox", "sh", "-c", list]).run();
    let root = daemon.path("").display().to_string();
    for line in output.ok().lines() {
        assert!(!line.contains(root.trim_end_matches('/')) && !line.contains("memfd"), "{line}");
    }
    let fds = "ls /proc/1/fd | tr '\\n' ' '; ls /proc/self/fd | wc -l";
    assert!(
        daemon.hoy(&["run", "--rm", "busybox", "sh", "-c", fds]).run().ok().starts_with("0 1 2 ")
    );
    for number in (0..40).chain([255, 1023]) {
        let directory = format!("/proc/self/fd/{number}");
        let output = daemon
            .hoy(&["run", "--rm", "-w", &directory, "busybox", "cat", "../../../../etc/shadow"])
            .run();
        assert_ne!(output.code, Some(0), "{directory}: {output:?}");
    }
    let id = daemon.hoy(&["run", "-d", "busybox", "sleep", "100"]).run().ok().trim().to_owned();
    let output = daemon.hoy(&["exec", &id, "sh", "-c", list]).run();
    for line in output.ok().lines() {
        assert!(!line.contains(root.trim_end_matches('/')) && !line.contains("memfd"), "{line}");
    }
    for number in 3..24 {
        let directory = format!("/proc/self/fd/{number}");
        let output = daemon.hoy(&["exec", "-w", &directory, &id, "pwd"]).run();
        assert_ne!(output.code, Some(0), "{directory}: {output:?}");
    }
}

#[test]
fn our_own_program_is_out_of_reach() {
    let daemon = daemon();
    let program = hoy_testkit::programs().join("hoy-shim");
    let before = std::fs::read(&program).unwrap();
    import(
        &daemon,
        "self",
        "printf '#!/proc/self/exe\\n' >loop; chmod 755 loop; ln -s /proc/self/exe me",
        &[],
    );
    for entry in ["/proc/self/exe", "/loop", "/me"] {
        let output = daemon.hoy(&["run", "--rm", "--entrypoint", entry, "self", "x"]).run();
        assert_ne!(output.code, Some(0), "{entry}");
        assert!(!output.stdout.contains("hoy-shim"), "{output:?}");
    }
    // Writing through every /proc/N/exe that is visible from inside, while execs come and go.
    let writer = "i=0; while [ $i -lt 300 ]; do for e in /proc/[0-9]*/exe; do echo overwritten 2>/dev/null >$e; done; i=$((i+1)); done; sleep 100";
    let id = daemon
        .hoy(&["run", "-d", "--cap-add", "ALL", "busybox", "sh", "-c", writer])
        .run()
        .ok()
        .trim()
        .to_owned();
    for _ in 0..40 {
        let _ = daemon.hoy(&["exec", &id, "/bin/busybox", "true"]).run();
    }
    assert!(std::fs::read(&program).unwrap() == before, "the shim's program was written to");
    assert_eq!(daemon.hoy(&["run", "--rm", "busybox", "echo", "well"]).run().ok(), "well\n");
}

#[test]
fn what_a_process_may() {
    let daemon = daemon();
    daemon.hoy(&["run", "-d", "--name", "plain", "busybox", "sleep", "100"]).run().ok();
    let status = |pid: &str| -> String {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        text.lines()
            .filter(|l| {
                l.starts_with("Cap") || l.starts_with("Seccomp:") || l.starts_with("NoNewPrivs")
            })
            .collect::<Vec<_>>()
            .join("\n")
    };
    let text = status(&pid(&daemon, "plain").to_string());
    for line in [
        "CapInh:\t0000000000000000",
        "CapPrm:\t00000000a80425fb",
        "CapEff:\t00000000a80425fb",
        "CapBnd:\t00000000a80425fb",
        "CapAmb:\t0000000000000000",
        "Seccomp:\t2",
    ] {
        assert!(text.contains(line), "{line} not in\n{text}");
    }
    // A user without power has none, not even by inheritance.
    let inside = daemon
        .hoy(&[
            "run",
            "--rm",
            "-u",
            "1000",
            "--cap-add",
            "NET_ADMIN",
            "busybox",
            "grep",
            "Cap",
            "/proc/self/status",
        ])
        .run();
    for line in [
        "CapInh:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapAmb:\t0000000000000000",
    ] {
        assert!(inside.ok().contains(line), "{line} not in\n{}", inside.stdout);
    }
    let refused = |line: &str| {
        let output = daemon.hoy(&["run", "--rm", "busybox", "sh", "-c", line]).run();
        assert_ne!(output.code, Some(0), "{line}: {output:?}");
    };
    for line in [
        "mount -t tmpfs none /tmp",
        "unshare -U true",
        "unshare -m true",
        "echo 1 >/proc/sys/kernel/panic",
        "echo b >/proc/sysrq-trigger",
        "cat /proc/kcore | head -c 1 | grep .",
        "[ -s /proc/keys ]",
        "ls /sys/firmware | grep .",
        "mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk",
        "echo 1 >/sys/fs/cgroup/cgroup.procs || echo 1 >/sys/fs/cgroup/memory/cgroup.procs",
        "chroot /proc/1/root cat /etc/debian_version",
        "date -s 2000-01-01",
        "insmod /x.ko",
    ] {
        refused(line);
    }
    // And what a container needs is there.
    let fine = "id -u; cd /dev; ls console full mqueue null ptmx pts random shm tty urandom zero >/dev/null 2>&1; echo >/dev/null; head -c 1 /dev/urandom | wc -c; chown 1:1 /tmp; ping -c 1 127.0.0.1 >/dev/null; echo fine";
    assert!(
        daemon.hoy(&["run", "--rm", "busybox", "sh", "-c", fine]).run().ok().ends_with("fine\n")
    );
}

#[test]
fn users_of_the_image() {
    let daemon = daemon();
    let script = "printf '1000:x:0:0::/:/bin/sh\\nwww:x:33:50::/:/bin/sh\\nroot:x:0:0::/:/bin/sh\\n' >etc/passwd; printf 'extra:x:70:www\\n' >>etc/group";
    import(&daemon, "users", script, &[]);
    let id = |user: &str| {
        let output = daemon
            .hoy(&["run", "--rm", "-u", user, "users", "sh", "-c", "id -u; id -g; id -G"])
            .run();
        output.ok().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert!(
        id("1000").starts_with("1000 "),
        "a number is a number, whatever passwd says: {}",
        id("1000")
    );
    assert!(id("www").starts_with("33 50 50"), "{}", id("www"));
    assert!(id("www").ends_with(" 70"), "{}", id("www"));
    for bad in ["nobody-here", "-1", "4294967296", "0:nogroup-here"] {
        let output = daemon.hoy(&["run", "--rm", "-u", bad, "users", "id"]).run();
        assert_ne!(output.code, Some(0), "{bad}: {output:?}");
    }
}
