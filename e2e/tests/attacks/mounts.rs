//! Where mounts go and where they come from.

use std::os::unix::fs::symlink;
use std::time::Instant;

use crate::Verdict;
use crate::side::{PERL, Side, host_sh, ran_or_refused};

/// CVE-2015-3630, CVE-2019-18837, CVE-2023-27561: links at the targets of every kind of mount.
pub fn targets(side: &Side) -> Verdict {
    let up = side.climbing();
    let script = format!("ln -s {} abs; ln -s {up} rel; ln -s /proc/1/root magic", side.canary());
    side.import("links", &script, &[]);
    let directory = side.directory("mounted").display().to_string();
    for link in ["abs", "rel", "magic"] {
        for place in ["", "/new", "/deep/er"] {
            let target = format!("/{link}{place}");
            for mount in [
                format!("type=tmpfs,dst={target}"),
                format!("type=bind,src=/etc/os-release,dst={target}"),
                format!("type=bind,src={directory},dst={target}"),
            ] {
                ran_or_refused(&side.run(&["--mount", &mount, "links", "true"]));
                side.untouched()?;
            }
        }
    }
    for (name, place) in [("sbin", "sbin"), ("devices", "dev"), ("system", "sys"), ("p", "proc")] {
        for to in [&side.canary(), &up] {
            let name = format!("link-{name}-{}", to.starts_with('/'));
            side.import(&name, &format!("rm -rf ./{place}; ln -s {to} {place}"), &[]);
            ran_or_refused(&side.run(&["--init", &name, "/bin/busybox", "true"]));
            side.untouched()?;
        }
    }
    Ok(())
}

/// CVE-2021-30465, CVE-2024-45310: a second container exchanges a directory and a link, in a
/// volume of both, while mounts are made below.
pub fn race(side: &Side) -> Verdict {
    let volume = side.directory("volume");
    std::fs::create_dir(volume.join("place")).unwrap();
    symlink(&side.canary, volume.join("absolute")).unwrap();
    symlink(side.climbing(), volume.join("relative")).unwrap();
    let shared = format!("{}:/v", volume.display());
    let exchange = "chdir '/v'; my ($p, $a, $r) = ('place', 'absolute', 'relative'); while (1) { \
        for my $o ($a, $r) { for (1, 2) { syscall(316, -100, $p, -100, $o, 2) == 0 or die $! } } }";
    let racer = ["-v", &shared, "busybox", "/usr/bin/perl", "-e", exchange];
    let racer = side.start(&[PERL, &racer].concat());
    let until = Instant::now() + side.race();
    let mut verdict = Ok(());
    for round in 0.. {
        if Instant::now() > until || verdict.is_err() {
            break;
        }
        for mount in [
            format!("type=tmpfs,dst=/v/place/tmpfs{round}"),
            format!("type=bind,src=/etc/os-release,dst=/v/place/file{round}"),
            format!("type=bind,src=/etc,dst=/v/place/deep{round}/er"),
        ] {
            ran_or_refused(&side.run(&["-v", &shared, "--mount", &mount, "busybox", "true"]));
            verdict = side.untouched();
            if verdict.is_err() {
                break;
            }
        }
    }
    let racing = hoy_e2e::field(&side.daemon, &racer, "{{.State.Running}}");
    assert_eq!(racing, "true", "{:?}", side.daemon.hoy(&["logs", &racer]).run());
    side.daemon.hoy(&["rm", "-f", &racer]).run().ok();
    verdict
}

/// CVE-2021-43816, CVE-2025-24965: links where the engine's own files are put.
pub fn engine_files(side: &Side) -> Verdict {
    let places = ["etc", "etc/hosts", "etc/resolv.conf", "etc/hostname", "etc/mtab", ".dockerenv"];
    for place in places {
        for (kind, to) in [("abs", side.canary()), ("rel", side.climbing())] {
            let name = format!("{kind}-{}", place.replace(['/', '.'], "-"));
            // A file that is not there yet would be made.
            let to = if place == "etc" { to } else { format!("{to}/made") };
            side.import(&name, &format!("rm -rf ./{place}; ln -s {to} {place}"), &[]);
            ran_or_refused(&side.run(&[&name, "/bin/busybox", "true"]));
            side.untouched()?;
        }
    }
    // What somebody puts over them is not written to.
    let own = side.daemon.path("own-hosts");
    std::fs::write(&own, "mine\n").unwrap();
    let bind = format!("{}:/etc/hosts", own.display());
    side.sh(&["-v", &bind, "--add-host", "a:1.2.3.4"], "true");
    match std::fs::read_to_string(&own).unwrap().as_str() {
        "mine\n" => side.untouched(),
        other => Err(format!("the engine wrote to a mounted file: {other}")),
    }
}

/// CVE-2026-55686: a working directory behind links.
pub fn working_directories(side: &Side) -> Verdict {
    let script = format!("ln -s {} abs; ln -s {} rel", side.canary(), side.climbing());
    side.import("links", &script, &[]);
    for directory in ["/abs/new", "/rel/new/deep", "/abs/../made"] {
        ran_or_refused(&side.run(&["-w", directory, "-u", "5", "links", "true"]));
        side.untouched()?;
        let name = format!("in-{}", directory.replace(['/', '.'], "-"));
        side.import(&name, &script, &[&format!("WORKDIR {directory}")]);
        ran_or_refused(&side.run(&[&name, "true"]));
        side.untouched()?;
    }
    let id = side.start(&["links", "sleep", "1000"]);
    for directory in ["/abs/exec", "/rel/exec", "/abs"] {
        side.daemon.hoy(&["exec", "-w", directory, &id, "true"]).run();
        side.untouched()?;
    }
    Ok(())
}

/// CVE-2019-19921, CVE-2023-28642: /proc leads into a volume that somebody else fills.
pub fn proc_is_a_link(side: &Side) -> Verdict {
    let volume = side.directory("volume");
    std::fs::create_dir(volume.join("p")).unwrap();
    std::fs::write(volume.join("p/planted"), "planted").unwrap();
    side.import("link", "rmdir proc; mkdir -p v/p; ln -s /v/p proc", &[]);
    let bind = format!("{}:/v", volume.display());
    let output = side.run(&["-v", &bind, "link", "cat", "/proc/planted"]);
    if output.stdout.contains("planted") {
        return Err("a container runs with a volume for its /proc".to_owned());
    }
    Ok(())
}

/// CVE-2019-16884, CVE-2015-3630: a volume over /proc or in it.
pub fn proc_covered(side: &Side) -> Verdict {
    let volume = side.directory("volume");
    std::fs::write(volume.join("planted"), "planted").unwrap();
    side.import("up", "ln -s /proc up; ln -s proc/sys settings", &[]);
    for target in ["/proc", "/proc/sys", "/proc/self/attr", "/up/sys/net", "/settings", "/proc/1"] {
        let mount = format!("type=bind,src={},dst={target}", volume.display());
        let line = format!("cat {target}/planted; grep -q planted {target}/*");
        let output = side.run(&["--mount", &mount, "up", "sh", "-c", &line]);
        if output.code == Some(0) || output.stdout.contains("planted") {
            return Err(format!("a volume covers {target}"));
        }
    }
    Ok(())
}

/// CVE-2025-31133: what masks is taken from where the container can put something else.
pub fn masks_planted(side: &Side) -> Verdict {
    let volume = side.directory("volume");
    symlink("/planted", volume.join("null")).unwrap();
    let script = "echo planted >planted; rm -rf dev; mkdir dev; ln -s /planted dev/null";
    side.import("plant", script, &[]);
    let bind = format!("{}:/dev", volume.display());
    let look = "for f in /proc/keys /proc/timer_list /proc/interrupts; do cat $f; \
        stat -c '%F %t:%T' $f; done; cat /proc/self/mountinfo";
    for options in [&["-v", &bind][..], &[]] {
        let output = side.run(&[options, &["plant", "sh", "-c", look]].concat());
        let text = output.ok();
        if text.contains("planted") {
            return Err("a mask is a file of the image".to_owned());
        }
        let null = text.lines().filter(|line| *line == "character special file 1:3").count();
        assert_eq!(null, 3, "{text}");
        // Of a file system of our own: not of the image's, and not of the host's /dev.
        let mounts: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split(' ').collect())
            .filter(|f: &Vec<_>| f.len() > 8)
            .collect();
        let device = |target: &str| mounts.iter().rfind(|f| f[4] == target).map(|f| f[2]);
        let ours = mounts.iter().find(|f| f[4] == "/dev" && f.contains(&"tmpfs"));
        assert_eq!(device("/proc/keys"), ours.map(|f| f[2]), "{text}");
        assert!(text.contains(" - tmpfs "), "{text}");
    }
    Ok(())
}

/// CVE-2025-52565: the terminal's file is exchanged before it becomes the console.
pub fn console_planted(side: &Side) -> Verdict {
    let volume = side.directory("volume");
    std::fs::write(volume.join("0"), "planted").unwrap();
    std::fs::write(volume.join("ptmx"), "planted").unwrap();
    let bind = format!("{}:/dev/pts", volume.display());
    let look = "stat -c '%F %t' /dev/console; tty; cat /proc/self/mountinfo | grep /dev/console";
    let output = side.run(&["-t", "-v", &bind, "busybox", "sh", "-c", look]);
    let text = output.stdout.replace('\r', "");
    if text.contains("regular") {
        return Err("the console is a file of a volume".to_owned());
    }
    assert!(text.starts_with("character special file 88\n"), "{output:?}");
    assert!(text.contains(" devpts "), "{text}");
    Ok(())
}

/// CVE-2026-41579, CVE-2026-47766: /dev of the image leads outside, and devices are made in it.
pub fn devices_outside(side: &Side) -> Verdict {
    for (name, to) in [("abs", side.canary()), ("rel", side.climbing())] {
        side.import(name, &format!("rm -rf dev; ln -s {to} dev"), &[]);
        for options in [&[][..], &["--privileged"], &["-t"], &["--ipc", "host"], &["--init"]] {
            ran_or_refused(&side.run(&[options, &[name, "/bin/busybox", "true"]].concat()));
            side.untouched()?;
        }
    }
    // A directory in /dev that is none.
    for below in ["pts", "shm", "mqueue", "console", "null", "fd"] {
        let name = format!("below-{below}");
        side.import(
            &name,
            &format!("rm -rf dev; mkdir dev; ln -s {} dev/{below}", side.canary()),
            &[],
        );
        side.run(&["-t", &name, "/bin/busybox", "true"]).ok();
        side.untouched()?;
    }
    Ok(())
}

/// CVE-2025-52881: what is written to a kernel setting lands in another file.
pub fn sysctl_redirected(side: &Side) -> Verdict {
    let volume = side.directory("volume");
    for file in ["ip_forward", "ping_group_range", "ip_unprivileged_port_start"] {
        std::fs::write(volume.join(file), "untouched").unwrap();
    }
    let bind = format!("{}:/proc/sys/net/ipv4", volume.display());
    let setting = ["--sysctl", "net.ipv4.ip_forward=1"];
    let output = side.run(&[&setting[..], &["-v", &bind, "busybox", "true"]].concat());
    ran_or_refused(&output);
    if host_sh(&format!("cat {}/*", volume.display())) != "untouched".repeat(3) {
        return Err("a setting was written to a file of a volume".to_owned());
    }
    let read = "cat /proc/sys/net/ipv4/ip_forward";
    assert_eq!(side.sh(&setting, read), "1\n");
    Ok(())
}

/// CVE-2023-25809: files of the cgroup that can be written.
pub fn cgroups_writable(side: &Side) -> Verdict {
    // They are opened for writing, and nothing is written.
    let line = "find /sys/fs/cgroup -type f | while read f; do (: >>$f) 2>/dev/null && echo $f; done; \
        find /sys/fs/cgroup -type d | while read d; do mkdir $d/made 2>/dev/null && rmdir $d/made && echo $d; done; \
        find /sys/fs/cgroup -name release_agent; \
        find /sys/fs/cgroup | wc -l";
    for options in [&[][..], &["--cap-add", "ALL"], &["--user", "0"], &["--cgroupns", "host"]] {
        let text = side.sh(options, line);
        let lines: Vec<&str> = text.lines().collect();
        let (count, open) = lines.split_last().unwrap();
        assert!(count.trim().parse::<u32>().unwrap() > 5, "{text}");
        if let Some(first) = open.first() {
            return Err(format!("{} can be written, of {count}: {first}", open.len()));
        }
    }
    Ok(())
}
