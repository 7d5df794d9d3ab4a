//! Why containers do not run: each cause provoked for real, by one daemon.

use std::sync::Mutex;

use hoy_e2e::{daemon, import, pid};
use hoy_testkit::{Daemon, Run, wait_until};
use serde_json::Value;

/// What is wrong in the image `odd`. The loader of its programs is there, and no library.
const ODD: &str = r"
    printf '#!/bin/nosuch\n' >script
    printf '#!/bin/sh\r\necho\r\n' >windows
    printf 'echo hello\n' >text; : >empty; cp text plain
    cp -L /bin/true nolib
    loader=$(strings -a nolib 2>/dev/null | grep -m1 '^/lib.*ld-' || echo /lib64/ld-linux-x86-64.so.2)
    mkdir -p .$(dirname $loader); cp -L $loader .$loader
    sed 's#/ld-linux#/xx-linux#' nolib >noloader
    cp nolib arm; printf '\267' | dd of=arm bs=1 seek=18 conv=notrunc 2>/dev/null
    printf '#!/arm\n' >byarm
    # It begins where nothing is.
    cp bin/busybox crash; printf '\0\0\0\0\0\20\0\0' | dd of=crash bs=1 seek=24 conv=notrunc 2>/dev/null
    chmod 755 script windows text empty nolib noloader arm byarm crash; chmod 644 plain";

/// Name, options, image, command, and what is said of it: kind, confidence, words in it.
type Case = (&'static str, &'static str, &'static str, &'static [&'static str], [&'static str; 3]);

/// Those that cannot start, and those that end by themselves.
#[rustfmt::skip]
const CASES: &[Case] = &[
    ("notinpath", "", "busybox", &["slep", "1"], ["not-in-path", "certain", "did you mean sleep"]),
    ("nofile", "", "busybox", &["/bin/slep"], ["program-missing", "certain", "did you mean sleep"]),
    ("oneword", "", "busybox", &["sleep 1"], ["not-in-path", "certain", "words of their own"]),
    ("interp", "", "odd", &["/script"], ["interpreter-missing", "certain", "/bin/nosuch"]),
    ("crlf", "", "odd", &["/windows"], ["line-endings", "certain", "Windows"]),
    ("loader", "", "odd", &["/noloader"], ["loader-missing", "certain", "/xx-linux"]),
    ("arch", "", "odd", &["/arm"], ["wrong-architecture", "certain", "built for arm64"]),
    ("archby", "", "odd", &["/byarm"], ["wrong-architecture", "certain", "which /byarm needs"]),
    ("noexec", "", "odd", &["/plain"], ["not-executable", "certain", "chmod +x /plain"]),
    ("text", "", "odd", &["/text"], ["no-interpreter-line", "certain", "#!/bin/sh"]),
    ("empty", "", "odd", &["/empty"], ["empty-program", "certain", "empty"]),
    ("dir", "", "busybox", &["/etc"], ["is-a-directory", "certain", "/etc"]),
    ("user", "--user nobdy", "busybox", &["true"], ["user-unknown", "certain", "did you mean nobody"]),
    ("group", "--user 0:nogrp", "busybox", &["true"], ["group-unknown", "certain", "nogrp"]),
    ("cwd", "-w /etc/passwd", "busybox", &["true"], ["working-directory", "certain", "is a file"]),
    ("port", "-p 8088:80", "busybox", &["true"], ["port-in-use", "certain", "hoy stop holder"]),
    ("joins", "--network container:never", "busybox", &["true"],
        ["needs-another-container", "certain", "does not run"]),
    ("library", "", "odd", &["/nolib"], ["library-missing", "certain", "libc.so"]),
    ("shell", "", "busybox", &["sh"], ["shell-without-input", "certain", "-it"]),
    ("done", "", "busybox", &["true"], ["finished", "certain", "ended with 0"]),
    ("failed", "", "busybox", &["sh", "-c", "echo broken; exit 3"], ["program-failed", "certain", "with 3"]),
    ("command", "", "busybox", &["sh", "-c", "nosuch"], ["command-not-found", "certain", "nosuch: not found"]),
    ("child", "", "busybox", &["sh", "-c", "sh -c 'kill -SEGV $$'; exit $?"],
        ["child-killed", "likely", "SIGSEGV"]),
    ("readonly", "--read-only", "busybox", &["touch", "/x"], ["read-only", "certain", "--read-only"]),
    ("full", "--tmpfs /t:size=64k", "busybox", &["dd", "if=/dev/zero", "of=/t/x", "bs=1k", "count=99"],
        ["disk-full", "likely", "tmpfs"]),
    ("quota", "--storage-opt size=8m", "busybox", &["dd", "if=/dev/zero", "of=/x", "bs=1M", "count=20"],
        ["disk-full", "certain", "its own disk (8m)"]),
    ("forks", "--pids-limit 2", "busybox", &["sh", "-c", "sleep 9 & sleep 9 & sleep 9"],
        ["pids-limit", "certain", "limit of 2"]),
    ("listens", "--network container:holder", "busybox", &["nc", "-l", "-p", "80"],
        ["address-in-use", "likely", "bind"]),
    ("names", "--network none", "busybox", &["wget", "-T1", "http://nosuch.invalid"],
        ["name-resolution", "likely", "nosuch"]),
    ("refused", "", "busybox", &["wget", "http://127.0.0.1:9"], ["connection-refused", "likely", "refused"]),
    ("denied", "--user 33", "busybox", &["touch", "/etc/x"], ["permission-denied", "likely", "user"]),
    ("permitted", "", "busybox", &["hostname", "x"], ["not-permitted", "likely", "capabilities"]),
    ("crash", "", "odd", &["/crash"], ["crashed", "certain", "SIGSEGV"]),
    ("files", "--ulimit nofile=3", "odd", &["cat", "/etc/passwd"], ["open-files", "likely", "ulimit"]),
    ("memory", "-m 16m", "busybox", &["tail", "/dev/zero"],
        ["out-of-memory", "certain", "16.0 MiB"]),
];

fn explain(daemon: &Daemon, name: &str) -> Value {
    let run = daemon.hoy(&["explain", "--format", "json", name]).run();
    serde_json::from_str(run.ok()).unwrap_or_else(|error| panic!("{name}: {error}: {run:?}"))
}

#[track_caller]
fn says(daemon: &Daemon, name: &str, [kind, confidence, words]: [&str; 3]) -> Value {
    let found = explain(daemon, name);
    let first = &found["Causes"][0];
    assert!(
        first["Kind"] == kind
            && first["Confidence"] == confidence
            && first.to_string().contains(words),
        "{name} is not {kind}, {confidence}, {words:?}: {found:#}"
    );
    found
}

fn begin(daemon: &Daemon, verb: &[&str], name: &str, options: &str, rest: &[&str]) {
    let mut args = verb.to_vec();
    args.extend(["--name", name]);
    args.extend(options.split_whitespace());
    args.extend(rest);
    daemon.hoy(&args).run();
}

fn one(daemon: &Daemon, (name, options, image, command, said): &Case) {
    let mut rest = vec![*image];
    rest.extend(*command);
    begin(daemon, &["run", "-d"], name, options, &rest);
    daemon.hoy(&["wait", name]).run().ok();
    says(daemon, name, *said);
}

fn stat_parent(pid: u32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    line.trim().to_owned()
}

fn signal(signal: &str, pid: &str) {
    Run::new("kill").args([signal, pid]).run().ok();
}

#[test]
fn every_cause_is_found() {
    let daemon = daemon();
    import(&daemon, "odd", ODD, &[]);
    begin(&daemon, &["create"], "never", "", &["busybox"]);
    let holder = ["busybox", "nc", "-ll", "-p", "80", "-e", "true"];
    begin(&daemon, &["run", "-d"], "holder", "-p 8088:80", &holder);
    let sockets = format!("/proc/{}/net/tcp6", pid(&daemon, "holder"));
    let all = || std::fs::read_to_string(&sockets).unwrap_or_default();
    wait_until("its port is taken", || all().contains(":0050 "));
    let next = Mutex::new(CASES.iter());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let Some(case) = next.lock().unwrap().next() else { break };
                    one(&daemon, case);
                }
            });
        }
        scope.spawn(|| by_others(&daemon));
        scope.spawn(|| that_go_on(&daemon));
    });
    says(&daemon, "never", ["never-started", "certain", "hoy start never"]);
    gone(&daemon);
    shown(&daemon);
}

/// Ended by somebody.
fn by_others(daemon: &Daemon) {
    let idle = |name: &str, options: &str| {
        begin(daemon, &["run", "-d"], name, options, &["busybox", "sleep", "1000"]);
    };
    idle("stopped", "--init");
    daemon.hoy(&["stop", "stopped"]).run().ok();
    says(daemon, "stopped", ["stopped-on-request", "certain", "SIGTERM"]);
    idle("killed", "");
    daemon.hoy(&["kill", "killed"]).run().ok();
    says(daemon, "killed", ["killed-on-request", "certain", "killed"]);
    idle("late", "");
    daemon.hoy(&["stop", "-t", "1", "late"]).run().ok();
    says(daemon, "late", ["stop-timeout", "certain", "SIGTERM"]);
    idle("other", "");
    signal("-KILL", &pid(daemon, "other").to_string());
    daemon.hoy(&["wait", "other"]).run().ok();
    let found = says(daemon, "other", ["killed-by-others", "likely", "SIGKILL"]);
    assert_eq!((&found["Signal"], &found["ExitCode"]), (&"SIGKILL".into(), &137.into()));
    idle("lost", "");
    signal("-KILL", &stat_parent(pid(daemon, "lost")));
    daemon.hoy(&["wait", "lost"]).run().ok();
    says(daemon, "lost", ["supervisor-lost", "certain", "supervisor"]);
    // What was before a new start says nothing of that one's end.
    daemon.hoy(&["start", "killed"]).run().ok();
    says(daemon, "killed", ["running", "certain", "runs"]);
    daemon.hoy(&["pause", "killed"]).run().ok();
    says(daemon, "killed", ["paused", "certain", "hoy unpause killed"]);
}

/// Not well, and again and again.
fn that_go_on(daemon: &Daemon) {
    let health = "--health-interval 100ms --health-retries 1";
    let options = format!("{health} --health-cmd false");
    begin(daemon, &["run", "-d"], "sick", &options, &["busybox", "sleep", "1000"]);
    let loops = ["busybox", "sh", "-c", "exit 4"];
    begin(daemon, &["run", "-d"], "loops", "--restart always", &loops);
    let kinds = |name: &str| explain(daemon, name)["Causes"].to_string();
    wait_until("it is unhealthy", || kinds("sick").contains("\"unhealthy\""));
    let found = says(daemon, "sick", ["unhealthy", "certain", "ended with 1"]);
    assert_eq!(found["Probes"][0]["ExitCode"], 1);
    let eats = ["busybox", "sh", "-c", "tail /dev/zero; sleep 1000"];
    begin(daemon, &["run", "-d"], "eats", "-m 16m", &eats);
    wait_until("a process of it is ended", || kinds("eats").contains("\"out-of-memory\""));
    says(daemon, "eats", ["out-of-memory", "certain", "it runs on"]);
    wait_until("it goes round", || kinds("loops").contains("\"restart-loop\""));
}

/// What a start needs is not there any more.
fn gone(daemon: &Daemon) {
    let source = daemon.path("source");
    std::fs::create_dir(&source).unwrap();
    let mount = format!("--mount type=bind,src={},dst=/x", source.display());
    begin(daemon, &["create"], "mount", &mount, &["busybox", "true"]);
    begin(daemon, &["run", "-d"], "mounted", &mount, &["busybox", "sleep", "1000"]);
    std::fs::remove_dir(&source).unwrap();
    says(daemon, "mounted", ["mount-source-missing", "likely", "not there any more"]);
    daemon.hoy(&["start", "mount"]).run().fails_with(1);
    says(daemon, "mount", ["mount-source-missing", "certain", "/source"]);
    let template = "{{.GraphDriver.Data.LowerDir}}";
    let lower = daemon.docker(&["inspect", "-f", template, "library"]).run();
    let layer = std::path::PathBuf::from(lower.ok().trim().split(':').next().unwrap());
    let aside = layer.with_extension("aside");
    std::fs::rename(&layer, &aside).unwrap();
    daemon.hoy(&["start", "library"]).run().fails_with(1);
    says(daemon, "library", ["layer-missing", "certain", "hoy load"]);
    std::fs::rename(&aside, &layer).unwrap();
}

/// To people, and to who asks wrongly.
fn shown(daemon: &Daemon) {
    let found = explain(daemon, "memory");
    assert_eq!((&found["ExitCode"], &found["Signal"]), (&137.into(), &"SIGKILL".into()));
    let text = daemon.hoy(&["explain", "failed"]).run();
    assert_eq!(
        text.ok(),
        "failed has ended with 3.\n\nIts program ended by itself with 3, which it calls a \
         failure.\n  Next: its last lines say why\n\nIts last lines:\n  | broken\n"
    );
    let text = daemon.hoy(&["container", "explain", "-f", "{{.Summary}}", "done"]).run();
    assert!(text.code != Some(0) && text.stderr.contains("unknown shorthand flag"), "{text:?}");
    let text = daemon.hoy(&["container", "explain", "--format", "{{.Summary}}", "done"]).run();
    assert_eq!(text.ok(), "Its program has done its work, and ended with 0.\n");
    let missing = daemon.hoy(&["explain", "nobody"]).run();
    assert!(missing.fails_with(1).stderr.contains("No such container: nobody"), "{missing:?}");
}
