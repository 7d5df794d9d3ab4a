//! Who a process is, what it has, and what can be seen of it.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};

use hoy_testkit::{Output, wait_until};

use crate::Verdict;
use crate::side::{PERL, Side, host_sh, status};

/// CVE-2016-3697: somebody in the image is called 1000, and is root.
pub fn numeric_names(side: &Side) -> Verdict {
    let script = "printf '1000:x:0:0::/:/bin/sh\\n0:x:7:7::/:\\nroot:x:0:0::/:\\n' >etc/passwd; \
        printf '1000:x:0:\\n50:x:0:1000\\n' >etc/group";
    side.import("names", script, &[]);
    side.import("by-config", script, &["USER 1000:50"]);
    for (options, image, wanted) in [
        (&["-u", "1000"][..], "names", "1000 0 0"),
        (&["-u", "1000:50"], "names", "1000 50 50"),
        (&[], "by-config", "1000 50 50"),
    ] {
        let line = "echo $(id -u) $(id -g) $(id -G)";
        let output = side.run(&[options, &[image, "sh", "-c", line]].concat());
        if output.ok().trim() != wanted {
            return Err(format!("{options:?} is {} instead of {wanted}", output.stdout.trim()));
        }
    }
    let id = side.start(&["names", "sleep", "1000"]);
    let output = side.daemon.hoy(&["exec", "-u", "1000", &id, "id", "-u"]).run();
    if output.ok() == "1000\n" { Ok(()) } else { Err(format!("exec is {}", output.stdout)) }
}

/// CVE-2024-40635, CVE-2026-47262: numbers that wrap to somebody else.
pub fn user_numbers(side: &Side) -> Verdict {
    const BAD: &[&str] = &[
        "2147483648",
        "4294967295",
        "4294967296",
        "-1",
        "-0",
        "18446744073709551616",
        "99999999999999999999999",
        "1:4294967296",
        "1:-1",
        "0000000004294967296",
    ];
    side.import("big", "printf 'big:x:4294967296:4294967296::/:\\n' >>etc/passwd", &[]);
    let id = side.start(&["busybox", "sleep", "1000"]);
    let refused = |what: &str, output: &Output| match output.code {
        Some(0) => Err(format!("{what} runs as {}", output.stdout.trim().replace('\n', " "))),
        _ => Ok(()),
    };
    for bad in BAD {
        let line = ["sh", "-c", "id -u; id -g"];
        let user = format!("--user={bad}");
        refused(bad, &side.run(&[&[user.as_str(), "busybox"][..], &line].concat()))?;
        let exec = side.daemon.hoy(&["exec", &user, &id]).args(line).run();
        refused(&format!("exec {bad}"), &exec)?;
        let group = format!("--group-add={}", bad.trim_start_matches("1:"));
        refused(&group, &side.run(&[&[group.as_str(), "busybox"][..], &line].concat()))?;
    }
    refused("a number in passwd", &side.run(&["-u", "big", "big", "id", "-u"]))?;
    // The largest that all agree on.
    assert_eq!(side.run(&["-u", "2147483647", "busybox", "id", "-u"]).ok(), "2147483647\n");
    Ok(())
}

/// CVE-2026-30892: the grammar of users, for run and for exec alike.
pub fn user_strings(side: &Side) -> Verdict {
    const ALL: &[(&str, Option<&str>)] = &[
        ("", Some("0 0")),
        ("0", Some("0 0")),
        ("0:0", Some("0 0")),
        ("root", Some("0 0")),
        ("www", Some("33 33")),
        ("www:staff", Some("33 50")),
        ("www:0", Some("33 0")),
        ("33", Some("33 33")),
        ("33:staff", Some("33 50")),
        ("1000", Some("1000 0")),
        ("1000:1000", Some("1000 1000")),
        ("007", Some("7 0")),
        (":staff", Some("0 50")),
        (":50", Some("0 50")),
        ("www:", Some("33 33")),
        (":", Some("0 0")),
        (" root", None),
        ("root ", None),
        ("Root", None),
        ("root\n", None),
        ("0x0", None),
        ("0 ", None),
        (" 0", None),
        ("1e3", None),
        ("0.0", None),
        ("root:root:root", None),
        ("root,www", None),
        ("../root", None),
        ("root/", None),
        ("*", None),
        ("٠", None),
        ("nobody", None),
        ("www:nogroup", None),
        ("4294967296", None),
    ];
    let id = side.start(&["busybox", "sleep", "1000"]);
    let line = ["sh", "-c", "echo $(id -u) $(id -g)"];
    for (text, wanted) in ALL {
        let user = format!("--user={text}");
        let run = side.run(&[&[user.as_str(), "busybox"][..], &line].concat());
        let exec = side.daemon.hoy(&["exec", &user, &id]).args(line).run();
        for (how, output) in [("run", run), ("exec", exec)] {
            let got = (output.code == Some(0)).then_some(output.stdout.trim());
            if got != *wanted {
                return Err(format!("{how} --user={text:?} is {got:?} instead of {wanted:?}"));
            }
        }
    }
    Ok(())
}

/// CVE-2022-36109, CVE-2023-25173: the groups of users, against a reckoning of our own.
pub fn groups(side: &Side) -> Verdict {
    let passwd = "root:x:0:0:::\na:x:10:100:::\nb:x:11:101:::\nc:x:12:102:::\ntwin:x:10:103:::\n";
    let group = "root:x:0:root\nga:x:100:\ngb:x:101:a,b\nwheel:x:200:a,root\nlast:x:300:c,a\n\
        odd:x:400: a\nempty:x:500\n";
    let quoted = |text: &str| text.replace('\n', "\\n");
    let script =
        format!("printf '{}' >etc/passwd; printf '{}' >etc/group", quoted(passwd), quoted(group));
    side.import("people", &script, &[]);
    let rows = |text: &'static str| text.lines().map(|l| l.split(':').collect::<Vec<_>>());
    let reference = |user: &str, added: &[&str]| -> BTreeSet<u32> {
        let (name, chosen) = user.split_once(':').map_or((user, None), |(u, g)| (u, Some(g)));
        let entry = rows(passwd).find(|p| p[0] == name || p[2] == name);
        let number = |text: &str| -> u32 {
            let found = rows(group).find(|g| g[0] == text);
            text.parse().unwrap_or_else(|_| found.unwrap()[2].parse().unwrap())
        };
        let mut out = BTreeSet::new();
        out.insert(match (chosen, &entry) {
            (Some(chosen), _) => number(chosen),
            (None, Some(entry)) => entry[3].parse().unwrap(),
            (None, None) => 0,
        });
        if let (None, Some(entry)) = (chosen, &entry) {
            let of = |g: &Vec<&str>| g.get(3).is_some_and(|m| m.split(',').any(|m| m == entry[0]));
            out.extend(rows(group).filter(of).map(|g| g[2].parse::<u32>().unwrap()));
        }
        out.extend(added.iter().map(|text| number(text)));
        out
    };
    let id = side.start(&["people", "sleep", "1000"]);
    for user in ["root", "a", "b", "c", "10", "0", "99", "a:gb", "99:7", "b:0"] {
        for added in [&[][..], &["7"], &["wheel", "900"]] {
            let mut options = vec!["-u", user];
            options.extend(added.iter().flat_map(|group| ["--group-add", group]));
            let output = side.run(&[&options[..], &["people", "id", "-G"]].concat());
            let found: BTreeSet<u32> =
                output.ok().split_whitespace().map(|n| n.parse().unwrap()).collect();
            if found != reference(user, added) {
                let wanted = reference(user, added);
                return Err(format!("{user} {added:?} has {found:?} instead of {wanted:?}"));
            }
        }
        let output = side.daemon.hoy(&["exec", "-u", user, &id, "id", "-G"]).run();
        let found: BTreeSet<u32> =
            output.ok().split_whitespace().map(|n| n.parse().unwrap()).collect();
        if found != reference(user, &[]) {
            return Err(format!("exec as {user} has {found:?}"));
        }
    }
    Ok(())
}

/// CVE-2022-24769, 29162, 27649, 27650: capabilities that a program hands on.
pub fn inheritable(side: &Side) -> Verdict {
    let line = ["grep", "-E", "^Cap(Inh|Amb)", "/proc/self/status"];
    let check = |what: &str, output: &Output| {
        let none = output.ok().lines().all(|line| line.ends_with("0000000000000000"));
        assert_eq!(output.stdout.lines().count(), 2, "{output:?}");
        if none { Ok(()) } else { Err(format!("{what}: {}", output.stdout.replace('\n', " "))) }
    };
    for options in [
        &[][..],
        &["--cap-add", "ALL"],
        &["--cap-add", "NET_ADMIN", "-u", "1000"],
        &["--privileged"],
        &["--privileged", "-u", "1000"],
        &["--security-opt", "no-new-privileges"],
        &["--init"],
    ] {
        let output = side.run(&[options, &["busybox"], &line].concat());
        check(&format!("run {options:?}"), &output)?;
    }
    let id = side.start(&["--cap-add", "SYS_PTRACE", "busybox", "sleep", "1000"]);
    for options in [&[][..], &["--privileged"], &["-u", "1000"], &["--privileged", "-u", "1000"]] {
        let output = side.daemon.hoy(&[&["exec"], options, &[&id], &line].concat()).run();
        check(&format!("exec {options:?}"), &output)?;
    }
    Ok(())
}

/// CVE-2024-21626: a descriptor of the host's that stayed open, as the working directory.
pub fn descriptors(side: &Side) -> Verdict {
    let file = format!("{}/file", side.canary().trim_start_matches('/'));
    let line = format!("cat {file} ../../../{file} ../../../../../../{file}");
    let script = "i=0; while [ $i -lt 16 ]; do ln -s /proc/self/fd/$i wd$i; i=$((i+1)); done; \
        ln -s /proc/self/cwd wdcwd; ln -s /proc/1/cwd/.. wdone";
    side.import("links", script, &[]);
    let id = side.start(&["links", "sleep", "1000"]);
    let directories = (0..64).map(|n| format!("/proc/self/fd/{n}"));
    let directories = directories.chain((0..16).map(|n| format!("/wd{n}")));
    let others =
        ["/proc/self/fd/1023", "/proc/1/fd/3", "/wdcwd", "/wdone", "/proc/thread-self/fd/5"];
    for directory in directories.chain(others.map(str::to_owned)) {
        let run = side.run(&["-w", &directory, "links", "sh", "-c", &line]);
        if run.stdout.contains("untouched") {
            return Err(format!("-w {directory} reaches the host"));
        }
        let exec = side.daemon.hoy(&["exec", "-w", &directory, &id, "sh", "-c", &line]).run();
        if exec.stdout.contains("untouched") {
            return Err(format!("exec -w {directory} reaches the host"));
        }
    }
    let first = side.start(&["busybox", "sleep", "1000"]);
    let look = ["exec", &first, "sh", "-c", "ls /proc/1/fd; readlink /proc/1/cwd"];
    let seen = side.daemon.hoy(&look).run();
    if seen.ok() != "0\n1\n2\n/\n" {
        return Err(format!("open in a container: {}", seen.stdout.replace('\n', " ")));
    }
    Ok(())
}

/// CVE-2016-9962: a process of the container looks into one that joins, and stops it.
pub fn exec_spied(side: &Side) -> Verdict {
    // Reads all links of every process that comes, attached to it where it lets itself be.
    let spy = "$| = 1; print qq(watching\\n); my %seen; while (!-e '/stop') { \
        for my $p (grep { m{/(\\d+)$} && $1 != $$ } glob('/proc/[0-9]*')) { \
        my ($n) = $p =~ /(\\d+)$/; next if $n == 1 || $n == $$; \
        my $attached = syscall(101, 0x4206, $n + 0, 0, 0) == 0; \
        if ($attached) { syscall(101, 0x4207, $n + 0, 0, 0); waitpid($n, 0x40000000); } \
        for my $l (glob(\"$p/fd/*\"), \"$p/cwd\", \"$p/root\") { my $t = readlink($l); \
        next if !defined $t; \
        if ($t eq '/') { my @s = stat($l); next if !@s; my @own = stat('/'); \
        $t = 'of another root' if qq(@s[0, 1]) ne qq(@own[0, 1]); } my $k = $l; $k =~ s{.*/\\d+/}{}; $k =~ s{fd/.*}{fd}; \
        $t =~ s/\\d+/N/g; print qq($k $t\\n) if !$seen{qq($k $t)}++; } \
        syscall(101, 17, $n + 0, 0, 0) if $attached; } } print qq(end\\n);";
    let options = ["--cap-add", "SYS_PTRACE", "busybox", "/usr/bin/perl", "-e", spy];
    let id = side.start(&[PERL, &options].concat());
    wait_until("it watches", || side.daemon.hoy(&["logs", &id]).run().stdout.contains("watching"));
    let rounds = if side.weakened { 20 } else { 100 };
    for _ in 0..rounds {
        side.daemon.hoy(&["exec", &id, "/bin/busybox", "true"]).run();
    }
    side.daemon.hoy(&["exec", &id, "/bin/busybox", "touch", "/stop"]).run();
    side.daemon.hoy(&["wait", &id]).run().ok();
    let seen = side.daemon.hoy(&["logs", &id]).run();
    let known = ["fd pipe:[N]", "fd socket:[N]", "fd /dev/null", "fd /", "cwd /", "root /"];
    let foreign: Vec<&str> = seen
        .ok()
        .lines()
        .filter(|line| !known.contains(line) && !matches!(*line, "watching" | "end"))
        // Of the container's own programs: what busybox opens itself.
        .filter(|line| !line.starts_with("fd /stop") && !line.starts_with("fd /etc/"))
        .collect();
    assert!(seen.stdout.ends_with("end\n"), "{seen:?}");
    assert!(seen.stdout.contains("root /\n"), "nobody was seen: {seen:?}");
    match foreign.first() {
        Some(first) => Err(format!("{} things of the host were seen: {first}", foreign.len())),
        None => Ok(()),
    }
}

/// CVE-2019-5736: the program that becomes the container's is written to, or made unusable.
pub fn own_program(side: &Side) -> Verdict {
    let look = || {
        let stat = std::fs::metadata(&side.shim).unwrap();
        (std::fs::read(&side.shim).unwrap(), stat.permissions().mode(), stat.uid(), stat.mtime())
    };
    let before = look();
    let script = "printf '#!/proc/self/exe\\n' >loop; chmod 755 loop; ln -s /proc/self/exe me";
    side.import("own", script, &[]);
    let spoil = "while [ ! -e /stop ]; do for p in /proc/[0-9]*; do case \"$(readlink $p/exe)\" in \
        *hoy-shim*) echo spoilt >$p/exe; chmod 000 $p/exe; chown 1:1 $p/exe;; esac; done; done 2>/dev/null";
    let containers = ["busybox", "own"]
        .map(|image| side.start(&["--cap-add", "ALL", image, "/bin/busybox", "sh", "-c", spoil]));
    for _ in 0..40 {
        for id in &containers {
            for words in
                [&["/proc/self/exe", "x"][..], &["/loop"], &["/me", "/", "y"], &["/bin/true"]]
            {
                side.daemon.hoy(&[&["exec", id], words].concat()).run();
            }
        }
        for entry in ["/proc/self/exe", "/loop", "/me"] {
            side.run(&["--entrypoint", entry, "own", "x"]);
        }
        if look() != before {
            // So that this daemon can end its containers.
            std::fs::set_permissions(&side.shim, PermissionsExt::from_mode(0o755)).unwrap();
            return Err("the host's program has been changed".to_owned());
        }
        if side.run(&["busybox", "true"]).code != Some(0) {
            return Err("no container starts any more".to_owned());
        }
    }
    Ok(())
}

/// CVE-2020-14370, CVE-2021-3602: variables of the daemon or of another container.
pub fn environment(side: &Side) -> Verdict {
    side.start(&["-e", "CANARY_OF_ANOTHER=sings", "busybox", "sleep", "1000"]);
    let id = side.start(&["busybox", "sleep", "1000"]);
    let environ = std::fs::read(format!("/proc/{}/environ", side.daemon.pid())).unwrap();
    assert!(String::from_utf8_lossy(&environ).contains("CANARY_OF_THE_DAEMON"));
    let run = side.run(&["busybox", "cat", "/proc/self/environ"]);
    let exec = side.daemon.hoy(&["exec", &id, "cat", "/proc/self/environ"]).run();
    for text in [run.ok(), exec.ok()] {
        let foreign = text.split_terminator('\0').find(|entry| {
            let name = entry.split('=').next().unwrap_or("");
            !matches!(name, "PATH" | "HOSTNAME" | "HOME")
        });
        if text.contains("CANARY_OF") {
            return Err("a container has the daemon's canary".to_owned());
        }
        assert_eq!(foreign, None);
    }
    Ok(())
}

/// CVE-2022-1708, CVE-2022-31030: output without end, to a client that does not read.
pub fn exec_flood(side: &Side) -> Verdict {
    let id = side.start(&["busybox", "sleep", "1000"]);
    let memory = || -> u64 {
        let text = status(side.daemon.pid(), "VmRSS");
        text.trim_end_matches(" kB").parse().unwrap()
    };
    // Once for what the daemon makes once.
    side.daemon.hoy(&["exec", &id, "head", "-c", "9000000", "/dev/zero"]).run().ok();
    let before = memory();
    let mut deaf: Vec<_> = (0..8).map(|_| side.daemon.hoy(&["exec", &id, "yes"]).spawn()).collect();
    let mut peak = before;
    let until = std::time::Instant::now() + std::time::Duration::from_secs(3);
    while std::time::Instant::now() < until {
        // One that reads as fast as it can, between those that do not read.
        side.daemon.hoy(&["exec", &id, "head", "-c", "9000000", "/dev/zero"]).run().ok();
        peak = peak.max(memory());
    }
    for client in &mut deaf {
        client.kill().unwrap();
        client.wait().unwrap();
    }
    side.daemon.hoy(&["rm", "-f", &id]).run().ok();
    if peak < before + 8192 {
        return Ok(());
    }
    Err(format!("the daemon grew from {before} to {peak} kB"))
}

/// CVE-2022-23471, CVE-2025-64329: clients that attach, resize and hang up.
pub fn hang_ups(side: &Side) -> Verdict {
    let id = side.start(&["-it", "busybox", "sleep", "1000"]);
    let descriptors = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let threads = |pid: u32| status(pid, "Threads").parse::<usize>().unwrap();
    let shim: u32 = {
        let first = hoy_e2e::pid(&side.daemon, &id);
        status(first, "PPid").parse().unwrap()
    };
    let round = |count: usize| {
        for number in 0..count {
            let clients: Vec<_> =
                (0..4).map(|_| side.daemon.hoy(&["attach", "--no-stdin", &id]).spawn()).collect();
            let url = format!("http://x/containers/{id}/resize?h={}&w=80", number % 50 + 1);
            side.daemon.curl(&["-X", "POST", &url]);
            for mut client in clients {
                client.kill().unwrap();
                client.wait().unwrap();
            }
        }
    };
    round(5);
    let counts = || (descriptors(side.daemon.pid()), descriptors(shim));
    let before = counts();
    round(60);
    let settled = |what: &dyn Fn() -> bool| {
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !what() && std::time::Instant::now() < until {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        what()
    };
    if !settled(&|| counts().0 <= before.0 + 2 && counts().1 <= before.1 + 2) {
        return Err(format!("descriptors grew from {before:?} to {:?}", counts()));
    }
    assert!(threads(shim) == 1);
    host_sh("true");
    Ok(())
}
