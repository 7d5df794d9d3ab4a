//! Containers whose users are others on the machine (`userns-remap`): the same images and the same
//! files on the disk, and a root that is nobody outside.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};

use hoy_e2e::{both, field, give_busybox, import, pid};
use hoy_testkit::{Daemon, Run, programs, wait_until};

const REMAP: &str = "--userns-remap=default";
/// What the machine calls the containers' root.
const UID: u32 = 100_000;
const GID: u32 = 200_000;

fn prepared(arguments: &[&str]) -> Daemon {
    let mut daemon = Daemon::prepare(arguments)
        .with_etc("subuid", &format!("dockremap:{UID}:65536\n"))
        .with_etc("subgid", &format!("dockremap:{GID}:65536\n"));
    daemon.launch();
    daemon
}

fn daemon() -> Daemon {
    let daemon = prepared(&[REMAP]);
    give_busybox(&daemon);
    daemon
}

/// A shell line in a new container.
fn sh(daemon: &Daemon, flags: &[&str], line: &str) -> hoy_testkit::Output {
    daemon.hoy(&["run", "--rm"]).args(flags).args(["busybox", "sh", "-c", line]).run()
}

fn owner(path: &Path) -> (u32, u32) {
    let found = std::fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    (found.uid(), found.gid())
}

fn upper(daemon: &Daemon, name: &str) -> PathBuf {
    daemon.path("data/containers").join(field(daemon, name, "{{.Id}}")).join("upper")
}

/// A directory of the host that everybody may write to.
fn open_directory(daemon: &Daemon, name: &str) -> PathBuf {
    let path = daemon.path(name);
    std::fs::create_dir(&path).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
    path
}

/// Uid and Gid of a process as the machine sees them.
fn ids(pid: u32) -> (String, String) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    (line("Uid:"), line("Gid:"))
}

#[test]
fn ids_inside_and_outside() {
    let daemon = daemon();
    for run in both(&daemon, &["run", "--rm", "busybox", "cat", "/proc/self/uid_map"]) {
        let map: Vec<String> = run.run().ok().split_whitespace().map(str::to_owned).collect();
        assert_eq!(map, ["0", "100000", "65536"]);
    }
    let said = sh(&daemon, &[], "id -u; id -g; cat /proc/self/setgroups");
    assert_eq!(said.ok(), "0\n0\nallow\n");
    daemon.hoy(&["run", "-d", "--name", "root", "busybox", "sleep", "1000"]).run().ok();
    daemon
        .hoy(&["run", "-d", "--name", "www", "-u", "33:50", "busybox", "sleep", "1000"])
        .run()
        .ok();
    let (root, www) = (pid(&daemon, "root"), pid(&daemon, "www"));
    assert_eq!(ids(root), ("100000".into(), "200000".into()));
    assert_eq!(ids(www), ("100033".into(), "200050".into()));
    assert!(daemon.hoy(&["top", "root"]).run().ok().contains("100000"));
    // Each has one of its own.
    let userns = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    assert_ne!(userns(root), userns(www));
    assert_ne!(userns(root), userns(std::process::id()));
    // All else of it belongs to that one: its root may do there what a root may.
    let all = [
        "ip link set eth0 mtu 1400",
        "hostname other",
        "mount -t tmpfs x /mnt && mount -t proc x /mnt",
        "echo 1 >/proc/sys/net/ipv4/ip_forward",
    ]
    .join(" && ");
    let flags = ["--cap-add=ALL", "--security-opt", "systempaths=unconfined"];
    sh(&daemon, &flags, &format!("mkdir /mnt && {all}")).ok();
    // With Docker's capabilities it may not.
    for line in ["mkdir /mnt; mount -t tmpfs x /mnt", "hostname other", "ip link set eth0 down"] {
        assert_ne!(sh(&daemon, &[], line).code, Some(0), "{line}");
    }
    let info = daemon.docker(&["info", "-f", "{{.SecurityOptions}}"]).run();
    assert!(info.ok().contains("name=userns"), "{info:?}");
}

#[test]
fn the_same_sandbox_as_without() {
    let daemon = daemon();
    let look = "grep -E '^(Cap|Seccomp|NoNewPrivs)' /proc/self/status; env | sort; id; pwd; umask; \
                stat -c '%n %a %u %g %F %t %T' /dev /dev/* /etc/hosts /etc/hostname \
                /etc/resolv.conf /tmp /root; readlink /dev/fd; ls /proc/1/fd; ulimit -a; \
                cat /proc/self/oom_score_adj; ls /sys/fs/cgroup; cat /proc/self/cgroup; \
                cut -d' ' -f5,6 /proc/self/mountinfo | sort";
    let flags = ["-h", "same", "--ulimit", "nofile=100:200", "--oom-score-adj", "77"];
    let with = sh(&daemon, &flags, look);
    let flags = [&flags[..], &["--userns=host"]].concat();
    let without = sh(&daemon, &flags, look);
    assert_eq!(with.ok(), without.ok());
    assert!(with.stdout.contains("/dev/null 666 0 0 character special file 1 3"), "{with:?}");
    let map = sh(&daemon, &["--userns=host"], "cat /proc/self/uid_map");
    assert!(map.ok().split_whitespace().eq(["0", "0", "4294967295"]), "{map:?}");
}

#[test]
fn files_lie_on_the_disk_as_the_image_has_them() {
    let daemon = daemon();
    let script = "mkdir srv; echo own >srv/own; chmod 600 srv/own; chown -R 1000:50 srv; \
                  echo old >srv/far; chown 70000:70000 srv/far";
    import(&daemon, "owned", script, &[]);
    let shared = open_directory(&daemon, "shared");
    std::fs::write(shared.join("host"), "host").unwrap();
    let volume = format!("{}:/shared", shared.display());
    let line = "stat -c '%u %g %n' /srv/own /srv/far /shared/host; touch /made /shared/made; \
                mkdir /dir; chown 1000:50 /dir; chown 33:33 /shared/made; touch /shared/root; \
                rm -r /var; mkdir /var; mv /srv /moved; stat -c '%u %g %n' /made /dir /var /moved";
    let run = ["run", "--name", "files", "-v", &volume, "owned", "sh", "-c", line];
    assert_eq!(
        daemon.hoy(&run).run().ok(),
        "1000 50 /srv/own\n65534 65534 /srv/far\n65534 65534 /shared/host\n0 0 /made\n1000 50 \
         /dir\n0 0 /var\n1000 50 /moved\n"
    );
    let upper = upper(&daemon, "files");
    assert_eq!(owner(&upper), (0, 0));
    assert_eq!(owner(&upper.join("made")), (0, 0));
    assert_eq!(owner(&upper.join("dir")), (1000, 50));
    assert_eq!(owner(&upper.join("moved")), (1000, 50));
    assert_eq!(owner(&shared.join("root")), (UID, GID));
    assert_eq!(owner(&shared.join("made")), (UID + 33, GID + 33));
    // Who owns a file may use it, nobody else; what belongs to nobody here is not even root's.
    let far = ["run", "--rm", "owned", "sh", "-c", "echo x >>/srv/far || chown 0 /srv/far"];
    daemon.hoy(&far).run().fails_with(1);
    let own =
        ["run", "--rm", "-u", "1000", "owned", "sh", "-c", "echo new >/srv/own; cat /srv/own"];
    assert_eq!(daemon.hoy(&own).run().ok(), "new\n");
    daemon.hoy(&["run", "--rm", "-u", "33", "owned", "cat", "/srv/own"]).run().fails_with(1);
    // The image as it was for those without.
    let host = ["run", "--rm", "--userns=host", "owned", "stat", "-c", "%u %n", "/srv/own"];
    assert_eq!(daemon.hoy(&host).run().ok(), "1000 /srv/own\n");
    let far = ["run", "--rm", "--userns=host", "owned", "stat", "-c", "%u %n", "/srv/far"];
    assert_eq!(daemon.hoy(&far).run().ok(), "70000 /srv/far\n");
}

/// Capabilities that an image gives to a program are those of its container's user namespace.
#[test]
fn capabilities_of_files() {
    let daemon = daemon();
    let ping = daemon.path("ping");
    std::fs::copy("/bin/busybox", &ping).unwrap();
    // As setcap writes cap_net_raw=ep.
    let mut value = [0_u8; 20];
    value[..8].copy_from_slice(&[1, 0, 0, 2, 0, 0x20, 0, 0]);
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&ping, "security.capability", &value, flags).unwrap();
    import(&daemon, "caps", &format!("mkdir opt; cp -a {} opt/ping", ping.display()), &[]);
    for userns in ["", "host"] {
        let own = ["run", "--rm", "--userns", userns, "-u", "33", "caps"];
        let ping = ["-c", "1", "-W", "30", "127.0.0.1"];
        daemon.hoy(&own).args(["/opt/ping"]).args(ping).run().ok();
        let without = daemon.hoy(&own).args(["sh", "-c"]);
        // In a user namespace no group may do without.
        let without = without.args(["cat /proc/sys/net/ipv4/ping_group_range"]).run();
        let wanted = if userns.is_empty() { "65534\t65534\n" } else { "0\t2147483647\n" };
        assert_eq!(without.ok(), wanted);
        // Copied up, they stay.
        let line = "touch /opt/ping; mv /opt/ping /opt/other; ln /opt/other /opt/ping; \
                    chmod 755 /opt; exec su www -c '/opt/ping -c 1 -W 30 127.0.0.1'";
        let root = ["run", "--rm", "--userns", userns, "caps", "sh", "-c", line];
        daemon.hoy(&root).run().ok();
    }
}

#[test]
fn off_and_on_again() {
    let mut daemon = daemon();
    daemon.hoy(&["run", "-d", "--name", "lives", "busybox", "sleep", "1000"]).run().ok();
    let line = "cat /made 2>/dev/null; stat -c '%u %g' /made 2>/dev/null; echo $1 >>/made";
    let name = ["create", "--name", "again", "busybox", "sh", "-c", line, "sh", "run"];
    daemon.hoy(&name).run().ok();
    let start = |daemon: &Daemon| daemon.hoy(&["start", "-a", "again"]).run().ok().to_owned();
    assert_eq!(start(&daemon), "");
    daemon.terminate();
    daemon.set_arguments(&[]);
    daemon.launch();
    assert_eq!(start(&daemon), "run\n0 0\n");
    // What runs keeps what it has, also for who enters it now.
    let map = daemon.hoy(&["exec", "lives", "cat", "/proc/self/uid_map"]).run();
    assert!(map.ok().contains("100000"), "{map:?}");
    assert_eq!(owner(&upper(&daemon, "again").join("made")), (0, 0));
    daemon.hoy(&["create", "--name", "all", "--privileged", "busybox", "true"]).run().ok();
    daemon.terminate();
    daemon.set_arguments(&[REMAP]);
    daemon.launch();
    assert_eq!(start(&daemon), "run\nrun\n0 0\n");
    // Made when it was allowed, refused now.
    let refused = daemon.hoy(&["start", "all"]).run();
    assert!(refused.fails_with(1).stderr.contains("privileged mode is incompatible"));
    daemon.hoy(&["exec", "lives", "true"]).run().ok();
}

#[test]
fn the_network_works() {
    let daemon = daemon();
    let line = "ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p'";
    let gateway = sh(&daemon, &[], line).ok().trim().to_owned();
    sh(&daemon, &[], &format!("ping -c 1 -W 30 {gateway}")).ok();
    let range = sh(&daemon, &[], "cat /proc/sys/net/ipv4/ip_unprivileged_port_start");
    assert_eq!(range.ok(), "0\n");
    // Nobody special serves port 80, which is published.
    let serve = "mkdir /tmp/w; echo hello >/tmp/w/index.html; exec httpd -f -p 80 -h /tmp/w";
    let run = ["run", "-d", "--name", "web", "-u", "33", "-p", "8080:80", "busybox", "sh", "-c"];
    daemon.hoy(&run).args([serve]).run().ok();
    let ask = || daemon.netns().run("curl").args(["-s", "http://127.0.0.1:8080"]).run().stdout;
    wait_until("the published port answers", || ask() == "hello\n");
    // Who shares its network shares the user namespace; others may look in.
    for flags in
        [&["--network", "container:web"][..], &["--network=container:web", "--userns=host"]]
    {
        let got = sh(&daemon, flags, "wget -qO- http://127.0.0.1");
        assert_eq!(got.ok(), "hello\n", "{flags:?}");
    }
    daemon.hoy(&["run", "-d", "--name", "shares", "--network=container:web", "busybox"]).run().ok();
    let two = ["run", "-d", "--name", "two", "--network=container:web", "busybox", "sleep", "1000"];
    daemon.hoy(&two).run().ok();
    let userns = |name| std::fs::read_link(format!("/proc/{}/ns/user", pid(&daemon, name)));
    assert_eq!(userns("web").unwrap(), userns("two").unwrap());
    let plain = ["run", "-d", "--name", "plain", "--userns=host", "busybox", "sleep", "1000"];
    daemon.hoy(&plain).run().ok();
    // The same of process numbers and IPC, with a network of its own: both belong to one.
    let donor = ["run", "-d", "--name", "donor", "--ipc=shareable", "busybox", "sleep", "1001"];
    daemon.hoy(&donor).run().ok();
    let shares = ["--pid=container:donor", "--ipc=container:donor"];
    let line = "touch /dev/shm/x && ps -o args | grep -c 'sleep 100[1]'; ip -o link | grep -c eth0";
    assert_eq!(sh(&daemon, &shares, line).ok(), "1\n1\n");
    assert_eq!(daemon.hoy(&["exec", "donor", "ls", "/dev/shm"]).run().ok(), "x\n");
    let guest = ["run", "-d", "--name", "guest", "--network=container:donor", shares[0], shares[1]];
    daemon.hoy(&guest).args(["busybox", "sleep", "1002"]).run().ok();
    assert_eq!(userns("donor").unwrap(), userns("guest").unwrap());
    let seen = daemon.hoy(&["exec", "guest", "sh", "-c", "ps -o args; id -u"]).run();
    assert!(seen.ok().contains("sleep 1001") && seen.stdout.ends_with("\n0\n"), "{seen:?}");
    let both = [shares[0], "--network=container:web"];
    let refused = sh(&daemon, &both, "true");
    assert!(refused.fails_with(125).stderr.contains("different user namespaces"), "{refused:?}");
    let refused = sh(&daemon, &["--pid", "container:plain"], "true");
    assert!(refused.fails_with(125).stderr.contains("its user namespace has other ids"));
    let refused = sh(&daemon, &["--network", "container:plain"], "true");
    assert!(refused.fails_with(125).stderr.contains("its user namespace has other ids"));
    assert_eq!(sh(&daemon, &["--network", "none"], "ls /sys/class/net").ok(), "lo\n");
}

#[test]
fn every_way_of_running() {
    let daemon = daemon();
    let shared = open_directory(&daemon, "shared");
    std::fs::set_permissions(&shared, PermissionsExt::from_mode(0o755)).unwrap();
    let volume = format!("{}:/v", shared.display());
    for (flags, line, says) in [
        (
            &["-t"][..],
            "tty; stat -c '%u %g' $(tty); echo x >/dev/console",
            "/dev/pts/0\r\n0 5\r\nx\r\n",
        ),
        (&["-t", "-u", "33"], "stat -c '%u' $(tty); echo x >/dev/tty", "33\r\nx\r\n"),
        (&["--init"], "cat /proc/1/comm; id -u", "docker-init\n0\n"),
        (&["--read-only"], "touch /x 2>/dev/null || echo no; touch /dev/shm/x; echo", "no\n\n"),
        (&["-u", "33:33"], "echo x >/dev/stdout; echo y >/dev/stderr; id -G", "x\n33\n"),
        (&["-u", "www-data"], "id -un", "www-data\n"),
        (&["--tmpfs", "/t"], "stat -c '%u %g %a' /t; touch /t/x && echo made", "0 0 1777\nmade\n"),
        (&["--ipc=host"], "ls -d /dev/shm", "/dev/shm\n"),
        (&["--uts=host"], "true", ""),
        (&["--group-add", "50"], "id -G", "0 10 50\n"),
        (&["-v", &volume], "touch /v/x 2>/dev/null || echo no", "no\n"),
        (&["-w", "/made/here"], "pwd; stat -c '%u' .", "/made/here\n0\n"),
        (&["--ulimit", "nofile=64:128"], "ulimit -n; ulimit -Hn", "64\n128\n"),
        (&["--sysctl", "net.ipv4.ip_forward=0"], "cat /proc/sys/net/ipv4/ip_forward", "0\n"),
        (
            &["--device", "/dev/zero:/dev/a/zero", "--device", "/dev/null:/opt/a/null"],
            "head -c 3 /dev/a/zero | wc -c; echo x >/opt/a/null; \
             stat -c '%u %g %F' /dev/a /dev/a/zero /opt/a /opt/a/null",
            "3\n0 0 directory\n0 0 character special file\n0 0 directory\n\
             0 0 character special file\n",
        ),
        (&["--oom-score-adj", "33"], "cat /proc/self/oom_score_adj", "33\n"),
        (&["-m", "64m", "--cpus", "0.5"], "echo x", "x\n"),
        (&["--pids-limit", "5"], "echo x", "x\n"),
    ] {
        assert_eq!(sh(&daemon, flags, line).ok(), says, "{flags:?}");
    }
    for user in ["70000", "33:70000"] {
        let refused = sh(&daemon, &["-u", user], "true");
        assert!(refused.fails_with(125).stderr.contains("is not mapped"), "{refused:?}");
    }
    daemon.hoy(&["run", "-d", "--name", "one", "busybox", "sleep", "1000"]).run().ok();
    for (flags, line, says) in [
        (&[][..], "id -u; cat /proc/self/uid_map | wc -l; echo x >/dev/stdout", "0\n1\nx\n"),
        (&["-u", "33"], "id -u; echo x >/dev/stdout; echo y >/dev/stderr", "33\nx\n"),
        (&["-t"], "tty; id -u", "/dev/pts/0\r\n0\r\n"),
        (&["-w", "/tmp"], "pwd; ls /proc/self/fd | wc -l", "/tmp\n4\n"),
    ] {
        let exec = daemon.hoy(&["exec"]).args(flags).args(["one", "sh", "-c", line]).run();
        assert_eq!(exec.ok(), says, "{flags:?}");
    }
    daemon.hoy(&["exec", "-u", "70000", "one", "true"]).run().fails_with(126);
    for (verb, state) in [("pause", "paused"), ("unpause", "running"), ("kill", "exited")] {
        daemon.hoy(&[verb, "one"]).run().ok();
        wait_until(state, || field(&daemon, "one", "{{.State.Status}}") == state);
    }
}

#[test]
fn what_does_not_go_together_is_refused() {
    let daemon = daemon();
    for (flag, says) in [
        (
            "--privileged",
            "privileged mode is incompatible with user namespaces.  You must run the container in \
             the host namespace when running privileged mode",
        ),
        (
            "--network=host",
            "cannot share the host's network namespace when user namespaces are enabled",
        ),
        ("--pid=host", "cannot share the host PID namespace when user namespaces are enabled"),
    ] {
        for run in both(&daemon, &["run", "--rm", flag, "busybox", "true"]) {
            let output = run.run();
            assert!(output.fails_with(125).stderr.contains(says), "{output:?}");
        }
        for run in both(&daemon, &["run", "--rm", flag, "--userns=host", "busybox", "true"]) {
            run.run().ok();
        }
    }
    for run in both(&daemon, &["run", "--rm", "--userns=private", "busybox", "true"]) {
        let output = run.run();
        assert!(
            output.fails_with(125).stderr.contains("--userns: invalid USER mode"),
            "{output:?}"
        );
    }
    let body = r#"{"Image":"busybox","HostConfig":{"UsernsMode":"private"}}"#;
    let output = daemon.curl(&[
        "-H",
        "Content-Type: application/json",
        "-d",
        body,
        "http://d/containers/create",
    ]);
    assert!(output.ok().contains("invalid user namespace mode: private"), "{output:?}");
    assert_eq!(daemon.hoy(&["ps", "-aq"]).run().ok(), "");
}

/// Each line is an attempt by a container's root with all capabilities and no filter. With the
/// machine's user namespace it succeeds, which shows that it would.
#[test]
fn root_is_nobody_outside() {
    let daemon = daemon();
    let canary = daemon.path("canary");
    std::fs::create_dir(&canary).unwrap();
    std::fs::write(canary.join("file"), "untouched").unwrap();
    std::fs::write(canary.join("secret"), "hidden").unwrap();
    std::fs::set_permissions(canary.join("secret"), PermissionsExt::from_mode(0o600)).unwrap();
    let volume = format!("{}:/canary", canary.display());
    let flags = [
        "--cap-add=ALL",
        "--security-opt=seccomp=unconfined",
        "--security-opt=apparmor=unconfined",
        "--security-opt=systempaths=unconfined",
        "-v",
        &volume,
        "-v",
        "/proc:/hostproc",
    ];
    let host = format!("/hostproc/{}", daemon.pid());
    for attempt in [
        "echo x >>/canary/file",
        "touch /canary/new && rm /canary/new",
        "cat /canary/secret",
        "chown 0 /canary/file",
        "chmod 644 /canary/file",
        "ls /hostproc/1/root/",
        "cat /hostproc/1/environ",
        "ls -l /hostproc/1/fd",
        "nsenter --mount=/hostproc/1/ns/mnt true",
        "nsenter --net=/hostproc/1/ns/net true",
        // Opened only: nothing of the machine's is changed.
        ": >>/hostproc/sys/kernel/core_pattern",
        ": >>/proc/sys/kernel/core_pattern",
        "mknod /tmp/zero c 1 5 && head -c1 /tmp/zero",
        "echo -1 >/proc/self/oom_score_adj; [ $(cat /proc/self/oom_score_adj) = -1 ]",
        "mkdir /m; mount -t cgroup -o memory x /m || mount -t cgroup2 x /m; mkdir /m/below",
    ] {
        let attempt = &attempt.replace("/hostproc/1", &host);
        let inside = sh(&daemon, &flags, attempt);
        assert_ne!(inside.code, Some(0), "{attempt}: {inside:?}");
        // The control may not do this on a machine whose root may not raise limits.
        if attempt.starts_with("echo -1") {
            continue;
        }
        let control = sh(&daemon, &[&flags[..], &["--userns=host"]].concat(), attempt);
        assert_eq!(control.code, Some(0), "the control: {attempt}: {control:?}");
        std::fs::write(canary.join("file"), "untouched").unwrap();
    }
    // A program that it leaves with the bit of root is its own root's.
    let shared = open_directory(&daemon, "shared");
    let volume = format!("{}:/s", shared.display());
    sh(&daemon, &["-v", &volume], "cp /bin/busybox /s/su; chmod 4755 /s/su").ok();
    assert_eq!(owner(&shared.join("su")), (UID, GID));
    // Nothing of ours is open in what runs, and none of it can be looked at from there.
    daemon.hoy(&["run", "-d", "--name", "one", "busybox", "sleep", "1000"]).run().ok();
    let open = daemon.hoy(&["exec", "one", "ls", "/proc/1/fd"]).run();
    assert_eq!(open.ok(), "0\n1\n2\n");
}

#[test]
fn nothing_is_left() {
    let daemon = daemon();
    let before = hoy_e2e::counts(&daemon);
    for number in 0..20 {
        let name = format!("n{number}");
        if number % 4 == 0 {
            daemon.hoy(&["run", "-d", "--name", &name, "busybox", "sleep", "1000"]).run().ok();
            daemon.hoy(&["exec", &name, "true"]).run().ok();
            daemon.hoy(&["rm", "-f", &name]).run().ok();
        } else {
            sh(&daemon, &["-p", "80", "--network", ["bridge", "none"][number % 2]], "true").ok();
        }
        sh(&daemon, &[], "exec nosuch").fails_with(127);
        daemon.hoy(&["run", "--rm", "busybox", "nosuch"]).run().fails_with(127);
    }
    before.wait_for(&daemon);
}

#[test]
fn settings_that_come_to_nothing() {
    // By the configuration file, with a user and a group of the machine.
    let mut daemon = Daemon::prepare(&[])
        .with_etc("passwd", "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:/bin/sh\n")
        .with_etc("group", "root:x:0:\nann:x:1000:\nstaff:x:50:\n")
        .with_etc("subuid", "ann:300000:1000\n1000:400000:1000\n")
        .with_etc("subgid", "staff:500000:65536\n");
    let path = |name: &str| daemon.path(name).display().to_string();
    for (value, says) in [
        ("nosuchuser", "no user \"nosuchuser\" in /etc/passwd"),
        ("a:b:c", "Invalid user/group specification in --userns-remap: \"a:b:c\""),
        ("4000000", "Uid 4000000 has no entry in /etc/passwd"),
    ] {
        let output = Run::new(programs().join("hoyd"))
            .args(["--data-root", &path("data"), "--exec-root", &path("run")])
            .args(["--pidfile", &path("pid"), "--host", &format!("unix://{}", path("sock"))])
            .args(["--config-file=/dev/null", "--userns-remap", value])
            .run();
        assert_ne!(output.code, Some(0));
        assert!(format!("{}{}", output.stdout, output.stderr).contains(says), "{output:?}");
    }
    std::fs::write(path("daemon.json"), r#"{"userns-remap": "ann:50"}"#).unwrap();
    let config = format!("--config-file={}", path("daemon.json"));
    daemon.set_arguments(&[&config]);
    daemon.launch();
    give_busybox(&daemon);
    let map = sh(&daemon, &[], "cat /proc/self/uid_map /proc/self/gid_map; id -u");
    let words: Vec<&str> = map.ok().split_whitespace().collect();
    let wanted = "0 300000 1000 1000 400000 1000 0 500000 65536 0";
    assert_eq!(words.join(" "), wanted);
    daemon
        .hoy(&["run", "-d", "--name", "other", "-u", "1001", "busybox", "sleep", "1000"])
        .run()
        .ok();
    assert_eq!(ids(pid(&daemon, "other")).0, "400001");
}
