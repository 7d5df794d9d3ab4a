//! What broke others, tried on us: each attempt has a canary outside, and the canary is untouched.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use hoy_e2e::{daemon, field, import, pid};
use hoy_testkit::{Daemon, Run};

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

fn path_with_programs() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{}:{path}", hoy_testkit::programs().display())
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
    let id = daemon.hoy(&["run", "-d", "busybox", "sleep", "1000"]).run().ok().trim().to_owned();
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
    let writer = "i=0; while [ $i -lt 300 ]; do for e in /proc/[0-9]*/exe; do echo overwritten 2>/dev/null >$e; done; i=$((i+1)); done; sleep 1000";
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
    daemon.hoy(&["run", "-d", "--name", "plain", "busybox", "sleep", "1000"]).run().ok();
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
        // Should one of these ever be let through, it changes nothing: it sets what is set.
        "value=$(cat /proc/sys/kernel/panic) && echo $value >/proc/sys/kernel/panic",
        "echo h >/proc/sysrq-trigger",
        "cat /proc/kcore | head -c 1 | grep .",
        "grep -q . /proc/keys",
        "grep -q . /proc/timer_list",
        "ls /sys/firmware | grep .",
        "mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk",
        "echo 1 >/sys/fs/cgroup/cgroup.procs || echo 1 >/sys/fs/cgroup/memory/cgroup.procs",
        "chroot /proc/1/root cat /etc/debian_version",
        "date -s @$(date +%s)",
        "hostname $(hostname)",
        "ip link set lo mtu 65000",
        "nice -n -5 true",
    ] {
        refused(line);
    }
    // And what a container needs is there.
    let fine = "id -u; cd /dev && ls full mqueue null ptmx pts random shm tty urandom zero >/dev/null || exit 1; echo >/dev/null; head -c 1 /dev/urandom | wc -c; chown 1:1 /tmp; ping -c 1 127.0.0.1 >/dev/null; echo fine";
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
    // A number is a number, whatever passwd says.
    assert_eq!(id("1000"), "1000 0 0");
    assert_eq!(id("www"), "33 50 50 70");
    for bad in ["nobody-here", "-1", "4294967296", "0:nogroup-here"] {
        let output = daemon.hoy(&["run", "--rm", "-u", bad, "users", "id"]).run();
        assert_ne!(output.code, Some(0), "{bad}: {output:?}");
    }
}

/// Two containers share a volume; in it a directory becomes a link and a directory again, all the
/// time, while mounts and working directories are made below.
#[test]
fn a_volume_that_changes_under_us() {
    let daemon = daemon();
    let canary = Canary::new(&daemon);
    let volume = daemon.path("volume");
    std::fs::create_dir_all(volume.join("place")).unwrap();
    std::os::unix::fs::symlink(&canary.path, volume.join("absolute")).unwrap();
    std::os::unix::fs::symlink(climbing(&canary.path), volume.join("relative")).unwrap();
    let source = std::fs::File::open(&volume).unwrap();
    let shared = format!("{}:/v", volume.display());
    let before = hoy_e2e::counts(&daemon);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let exchange = rustix::fs::RenameFlags::EXCHANGE;
            while !done.load(Ordering::Relaxed) {
                for other in ["absolute", "relative"] {
                    for _ in 0..2 {
                        let renamed =
                            rustix::fs::renameat_with(&source, "place", &source, other, exchange);
                        renamed.unwrap();
                    }
                }
            }
        });
        for round in 0..12 {
            let tmpfs = format!("type=tmpfs,dst=/v/place/tmpfs{round}");
            let file = format!("type=bind,src=/etc/os-release,dst=/v/place/file{round}");
            let directory = format!("/v/place/directory{round}");
            for extra in [["--mount", &tmpfs], ["--mount", &file], ["-w", &directory]] {
                let output = daemon
                    .hoy(&["run", "--rm", "-v", &shared])
                    .args(extra)
                    .args(["busybox", "true"])
                    .run();
                assert!(output.code == Some(0) || output.code >= Some(125), "{output:?}");
            }
            canary.is_untouched();
        }
        done.store(true, Ordering::Relaxed);
    });
    canary.is_untouched();
    before.wait_for(&daemon);
}

/// What hides something is ours, whatever the image has in the places it is usually taken from.
#[test]
fn masks_are_made_by_us() {
    let daemon = daemon();
    let canary = Canary::new(&daemon);
    let file = canary.path.join("file");
    let script = format!(
        "rm -rf dev; mkdir -p dev/pts; for f in null zero ptmx console pts/0 pts/ptmx; do ln -s {0} dev/$f; done; \
         rm -rf proc; mkdir proc; for f in keys kcore timer_list; do ln -s {0} proc/$f; done",
        file.display()
    );
    import(&daemon, "masks", &script, &[]);
    // Device 1:3 everywhere, and nothing to be read or written in the usual holes.
    let look = "for f in /dev/null /proc/keys /proc/timer_list; do stat -c '%F %t:%T' $f; done; \
        echo gone >/dev/null; ls -l /dev/ptmx | grep -o 'pts/ptmx'; \
        echo x 2>/dev/null >/proc/sys/kernel/core_pattern || echo refused; \
        for d in /proc/acpi /sys/firmware; do [ -d $d ] && ls $d; done; echo seen";
    let output = daemon.hoy(&["run", "--rm", "masks", "sh", "-c", look]).run();
    let null = "character special file 1:3\n";
    assert_eq!(output.ok(), format!("{null}{null}{null}pts/ptmx\nrefused\nseen\n"));
    canary.is_untouched();
    // A console is a terminal of the container's own devpts.
    let console = "test -c /dev/console && test -t 0 && stat -c %t /dev/console && tty";
    let line = format!("hoy run --rm -it masks sh -c '{console}'");
    let line = Run::new("script").args(["-qec", &line, "/dev/null"]);
    let line = line.env("HOY_HOST", daemon.host()).env("PATH", path_with_programs());
    let output = line.run();
    assert_eq!(output.ok().replace(['\r', '\0'], "").replace("^@", ""), "88\n/dev/pts/0\n");
    canary.is_untouched();
}

/// A process that may look at every other one sees nothing of the host while processes join.
#[test]
fn nothing_is_seen_of_who_joins() {
    let daemon = daemon();
    let spy = "while [ ! -e /stop ]; do for p in /proc/[0-9]*; do for f in $p/fd/* $p/cwd $p/root $p/exe; do \
        readlink $f; done; done; done 2>/dev/null | sort -u; cat /stop";
    let id = daemon
        .hoy(&["run", "-d", "--cap-add", "SYS_PTRACE", "busybox", "sh", "-c", spy])
        .run()
        .ok()
        .trim()
        .to_owned();
    for _ in 0..60 {
        daemon.hoy(&["exec", &id, "/bin/busybox", "true"]).run().ok();
    }
    daemon.hoy(&["exec", &id, "sh", "-c", "echo end >/stop"]).run().ok();
    daemon.hoy(&["wait", &id]).run().ok();
    let seen = daemon.hoy(&["logs", &id]).run();
    let root = daemon.path("").display().to_string();
    let root = root.trim_end_matches('/');
    for line in seen.ok().lines() {
        let known = ["pipe:", "/dev/null", "/proc", "/bin/", "end", "socket:", "/stop"];
        assert!(line == "/" || known.iter().any(|known| line.starts_with(known)), "{line}");
        assert!(!line.contains(root), "{line}");
    }
    assert!(seen.stdout.ends_with("end\n"));
}

/// What is the daemon's alone is closed to other users, and to containers with the host's network.
#[test]
fn the_state_is_private() {
    let daemon = daemon();
    daemon.hoy(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).run().ok();
    // The test's own directory is open, so that what stops the stranger is not that.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(daemon.path(""), open).unwrap();
    let as_stranger = |program: &[&str]| {
        Run::new("setpriv").args(["--reuid=12345", "--regid=12345", "--clear-groups"]).args(program)
    };
    for directory in ["data", "run"] {
        let path = daemon.path(directory).display().to_string();
        let found = as_stranger(&["find", &path]).run();
        assert_eq!(found.stdout.trim(), path, "a stranger sees more than the directory itself");
        assert_ne!(found.code, Some(0));
    }
    let info = as_stranger(&["curl", "-s", "--unix-socket"])
        .args([daemon.path("sock")])
        .args(["http://x/info"])
        .run();
    assert_ne!(info.code, Some(0), "{}", info.stdout);
    let sockets =
        daemon.hoy(&["run", "--rm", "--network", "host", "busybox", "cat", "/proc/net/unix"]).run();
    let abstracts: Vec<_> = sockets.ok().lines().filter(|line| line.contains(" @")).collect();
    assert!(abstracts.is_empty(), "{abstracts:?}");
}

/// An image's texts are for the workload only.
#[test]
fn an_image_steers_nothing_outside() {
    let daemon = daemon();
    let canary = Canary::new(&daemon);
    let trojan = format!(
        "for p in ps nsenter tar xz runc mount; do rm -f bin/$p; printf '#!/bin/sh\\ntouch {0}/trojan /trojan\\n' >bin/$p; chmod 755 bin/$p; done",
        canary.text()
    );
    let outside = format!("VOLUME {}", climbing(&canary.path));
    let changes = [
        outside.as_str(),
        "LABEL containerd.io/restart.loguri=binary:///bin/ps",
        "LABEL com.docker.compose.project=x",
        "ENV LD_PRELOAD=/bin/ps",
        "ENV DOCKER_HOST=tcp://127.0.0.1:1",
    ];
    import(&daemon, "steering", &trojan, &changes);
    let created = daemon.hoy(&["run", "-d", "--name", "box", "steering", "sleep", "1000"]).run();
    if created.code == Some(0) {
        let top = daemon.hoy(&["top", "box"]).run();
        assert!(top.ok().contains("sleep 1000"));
        daemon.hoy(&["exec", "box", "ls", "/trojan"]).run().fails_with(1);
        daemon.hoy(&["logs", "box"]).run().ok();
        daemon.hoy(&["rm", "-f", "box"]).run().ok();
    }
    canary.is_untouched();
}

/// Nothing of the daemon's environment, nor of another container's, is in a container's.
#[test]
fn an_environment_of_its_own() {
    let daemon = daemon();
    let canary = ["run", "-d", "--name", "other", "-e", "CANARY=sings", "busybox", "sleep", "1000"];
    daemon.hoy(&canary).run().ok();
    // The programs' own environment is full of the test's.
    let environment = std::fs::read(format!("/proc/{}/environ", daemon.pid())).unwrap();
    assert!(String::from_utf8_lossy(&environment).contains("HOY_PROGRAMS="));
    daemon.hoy(&["run", "-d", "--name", "own", "-h", "own", "busybox", "sleep", "1000"]).run().ok();
    let expected = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\0HOSTNAME=own\0HOME=/root\0";
    let file = format!("/proc/{}/environ", pid(&daemon, "own"));
    assert_eq!(std::fs::read_to_string(file).unwrap(), expected);
    let exec = daemon.hoy(&["exec", "own", "cat", "/proc/self/environ"]).run();
    assert_eq!(exec.ok(), expected);
    assert_eq!(field(&daemon, "own", "{{len .Config.Env}}"), "1");
}

/// What fills a new volume comes from the image, whatever the image says of where it lies.
#[test]
fn what_fills_a_volume() {
    let daemon = daemon();
    let canary = Canary::new(&daemon);
    let script = format!(
        "mkdir deep; ln -s {0} abs; ln -s {1} rel; ln -s {0}/file deep/file; ln -s {1} deep/dir",
        canary.text(),
        climbing(&canary.path)
    );
    let climbs = format!("VOLUME {}", climbing(&canary.path));
    import(&daemon, "fills", &script, &["VOLUME /abs", "VOLUME /rel", "VOLUME /deep", &climbs]);
    for flags in [&[][..], &["-v", "va:/abs", "-v", "vr:/rel", "-v", "vd:/deep"]] {
        let look = "find /abs/ /rel/ -type f; ls /deep; cat /deep/file /deep/dir/file; true";
        let mut args = vec!["run", "--rm"];
        args.extend(flags);
        args.extend(["fills", "sh", "-c", look]);
        let said = daemon.hoy(&args).run();
        // Links are copied as links.
        assert!(said.code != Some(0) || said.stdout == "dir\nfile\n", "{said:?}");
        assert!(!said.stdout.contains("untouched"), "{said:?}");
    }
    let volumes = daemon.path("data/volumes").display().to_string();
    let found = Run::new("grep").args(["-rs", "untouched", &volumes]).run();
    assert_eq!(found.stdout, "");
    canary.is_untouched();
}

/// A part of a volume is looked for while a container that has the volume changes what it is.
#[test]
fn a_part_of_a_volume_that_moves() {
    let daemon = daemon();
    let canary = Canary::new(&daemon);
    let swap = format!(
        "while :; do ln -s {} /v/s; rm /v/s; ln -s {} /v/s; rm /v/s; mkdir /v/s; rmdir /v/s; done",
        canary.text(),
        climbing(&canary.path)
    );
    daemon
        .hoy(&["run", "-d", "--name", "mover", "-v", "vol:/v", "busybox", "sh", "-c", &swap])
        .run()
        .ok();
    let mount = "type=volume,source=vol,target=/mnt,volume-subpath=s";
    let (mut seen, mut refused) = (0, 0);
    while (seen < 3 || refused < 3) && seen + refused < 40 {
        let look = "ls /mnt; touch /mnt/made; ls /mnt/file && echo out";
        let said = daemon
            .hoy(&["run", "--rm", "--network", "none", "--mount", mount, "busybox"])
            .args(["sh", "-c", look])
            .run();
        assert!(!said.stdout.contains("file"), "{said:?}");
        if said.code == Some(125) {
            refused += 1;
        } else {
            seen += 1;
        }
    }
    canary.is_untouched();
    assert!(seen > 0 && refused > 0, "{seen} seen, {refused} not: nothing was raced for");
    daemon.hoy(&["rm", "-f", "mover"]).run().ok();
}
