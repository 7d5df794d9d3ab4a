//! What a process finds in a container, field by field beside Docker's own engine.

use std::collections::{BTreeMap, BTreeSet};

use hoy_e2e::dockerd::Dockerd;
use hoy_testkit::{Daemon, Run, busybox_rootfs};

/// Everything that a process can see of its sandbox, in sections.
const PROBE: &str = r#"
echo '# status'; grep -E '^(Cap|NoNewPrivs|Seccomp|Uid|Gid|Groups|Cpus_allowed_list)' /proc/self/status
echo '# mounts'; while read -r _ _ _ root point options rest; do echo "$point $root $options - ${rest##*- }"; done </proc/self/mountinfo
echo '# dev'; find /dev -exec stat -c '%n %F %a %u:%g %t,%T' {} \;
echo '# limits'; cat /proc/self/limits
echo '# env'; env
echo '# id'; id; umask; cat /proc/self/oom_score_adj; pwd; readlink /proc/self/cwd
echo '# descriptors'; for n in 0 1 2 3 4 5 6 7 8 9; do test -e /proc/$$/fd/$n && echo $n; done
echo '# files'; stat -c '%n %F %a %u:%g' / /etc /etc/hosts /etc/hostname /etc/resolv.conf /etc/mtab /.dockerenv /proc /sys
echo '# sysctl'; cat /proc/sys/net/ipv4/ping_group_range /proc/sys/net/ipv4/ip_unprivileged_port_start
"#;

/// What is told on purpose otherwise than the peer does (dockerd 20.10), and why.
fn deliberate(section: &str, line: &str) -> bool {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| line.starts_with(prefix));
    match section {
        // Of the places in the host's tree; hoy's overlay names descriptors and options.
        "mounts" if starts(&["/ ", "/etc/resolv.conf ", "/etc/hostname ", "/etc/hosts "]) => true,
        // Masked since Docker 24 (interrupts), 25 (powercap) and 28; the peer is older.
        "mounts" if starts(&["/proc/interrupts ", "/sys/devices/virtual/powercap "]) => true,
        // A cgroup namespace always: its own part is all that a container sees.
        "mounts" if starts(&["/sys/fs/cgroup"]) => true,
        // Read-only tmpfs with no inodes, nosuid, nodev and noexec.
        "mounts" if line.contains(" - tmpfs tmpfs ") && line.contains(" ro") => true,
        _ => false,
    }
}

fn sections(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut out: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut section = String::new();
    for line in text.lines() {
        match line.strip_prefix("# ") {
            Some(name) => section = name.to_owned(),
            None if line.starts_with("HOSTNAME=") => {}
            None => drop(out.entry(section.clone()).or_default().insert(line.to_owned())),
        }
    }
    out
}

#[test]
fn as_dockers_engine_has_it() {
    let Some(peer) = Dockerd::start() else {
        println!("not shown here: Debian's docker.io is not installed");
        return;
    };
    let daemon = Daemon::start();
    let tar = busybox_rootfs().display().to_string();
    daemon.docker(&["import", "-c", "CMD [\"sh\"]", &tar, "bb"]).run().ok();
    let mut differences = Vec::new();
    for flags in [
        &[][..],
        &["--privileged"],
        &["-u", "www"],
        &["-u", "33:50", "--group-add", "7"],
        &["--cap-drop", "ALL", "--cap-add", "NET_ADMIN"],
        &["--cap-add", "ALL", "--cap-drop", "SYS_ADMIN"],
        &["--security-opt", "no-new-privileges"],
        &["--security-opt", "seccomp=unconfined"],
        &["--security-opt", "systempaths=unconfined"],
        &["--read-only", "--tmpfs", "/run:size=1m"],
        &["--ipc", "none", "--shm-size", "8m"],
        &["--ipc", "host"],
        &["-w", "/var/www", "-e", "A=b", "-h", "boat"],
        &["--device", "/dev/zero:/dev/nothing", "--ulimit", "nofile=99:100"],
        &["--oom-score-adj", "50", "--cpuset-cpus", "0"],
    ] {
        let run = |run: Run| run.args(flags).args(["bb", "sh", "-c", PROBE]).run();
        let arguments = ["run", "--rm", "--net", "none"];
        let theirs = run(peer.docker(&arguments));
        if theirs.stderr.contains("unable to apply caps") {
            println!("{flags:?}: not shown here: this machine's root lacks capabilities");
            continue;
        }
        let (ours, theirs) = (sections(run(daemon.docker(&arguments)).ok()), sections(theirs.ok()));
        for (name, lines) in &theirs {
            let own = &ours[name];
            let differing = own.symmetric_difference(lines);
            for line in differing.filter(|line| !deliberate(name, line)) {
                let whose = if own.contains(line) { "hoy" } else { "docker" };
                differences.push(format!("{flags:?} {name}: {whose}: {line}"));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
