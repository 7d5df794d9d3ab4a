//! System call filters as the process inside sees them.

use hoy_e2e::{both, counts, daemon, field, give_busybox};
use hoy_testkit::{Daemon, wait_until};

/// Writes a profile; the text to ask for it.
fn profile(daemon: &Daemon, name: &str, text: &str) -> String {
    let path = daemon.path(&format!("{name}.json"));
    std::fs::write(&path, text).unwrap();
    format!("seccomp={}", path.display())
}

/// Everything is allowed but what the rules say.
fn but(rules: &str) -> String {
    format!(r#"{{ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [ {rules} ] }}"#)
}

const NO_MKDIR: &str =
    r#"{"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO"}"#;

#[test]
fn a_custom_profile_is_what_the_process_sees() {
    let daemon = daemon();
    let with = |action: &str| {
        but(&format!(r#"{{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_{action}}}"#))
    };
    for (name, text, code, says) in [
        ("eperm", but(NO_MKDIR), 1, "Operation not permitted"),
        ("enosys", with(r#"ERRNO", "errnoRet": 38"#), 1, "Function not implemented"),
        ("enospc", with(r#"ERRNO", "errnoRet": 28"#), 1, "No space left on device"),
        // Nobody traces.
        ("trace", with(r#"TRACE""#), 1, "Function not implemented"),
        ("log", with(r#"LOG""#), 0, ""),
        ("process", with(r#"KILL_PROCESS""#), 159, ""),
        ("thread", with(r#"KILL""#), 159, ""),
        ("trap", with(r#"TRAP""#), 159, ""),
    ] {
        let option = profile(&daemon, name, &text);
        let args = ["run", "--rm", "--security-opt", &option, "busybox", "mkdir", "/x"];
        for run in both(&daemon, &args) {
            let output = run.run();
            assert_eq!(output.code, Some(code), "{name}: {output:?}");
            assert!(output.stderr.contains(says), "{name}: {output:?}");
        }
    }
}

/// What Docker says that a profile needs at least, and what the C library does around `main`.
#[test]
fn a_list_of_what_is_allowed() {
    let daemon = daemon();
    let runtime = "capget capset chdir fchown futex getdents64 getpid getppid lstat openat prctl \
                   setgid setgroups setuid stat execve";
    let program = "arch_prctl brk exit_group getrandom mprotect prlimit64 readlink readlinkat \
                   rseq set_robust_list set_tid_address write getuid getgid geteuid getegid \
                   access getgroups ioctl pread64 writev uname read close fstat newfstatat mmap munmap open lseek";
    let names: Vec<String> =
        runtime.split(' ').chain(program.split(' ')).map(|name| format!("{name:?}")).collect();
    let text = format!(
        r#"{{"defaultAction": "SCMP_ACT_ERRNO", "archMap": [{{"architecture": "SCMP_ARCH_X86_64",
             "subArchitectures": ["SCMP_ARCH_X86"]}}],
             "syscalls": [{{"names": [{}], "action": "SCMP_ACT_ALLOW"}}]}}"#,
        names.join(",")
    );
    let option = profile(&daemon, "list", &text);
    for (user, says) in [("0", "uid=0(root) gid=0(root)"), ("33:44", "uid=33 gid=44")] {
        for bits in [&[][..], &["--security-opt", "no-new-privileges"]] {
            let args = ["run", "--rm", "-u", user, "--security-opt", &option];
            let args = [&args, bits, &["busybox", "id"]].concat();
            let output = daemon.hoy(&args).run();
            let said = output.ok().replace("(www-data)", "");
            assert!(said.starts_with(says), "{output:?}");
        }
    }
}

#[test]
fn arguments_decide() {
    let daemon = daemon();
    // No set-user-id: the mode's bit, wherever the mode stands.
    let masked = |name: &str, index: u8| {
        format!(
            r#"{{"names": ["{name}"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28, "args":
                [{{"index": {index}, "value": 2048, "valueTwo": 2048, "op": "SCMP_CMP_MASKED_EQ"}}]}}"#
        )
    };
    let text = but(&[masked("chmod", 1), masked("fchmod", 1), masked("fchmodat", 2)].join(","));
    let option = profile(&daemon, "modes", &text);
    let script =
        "touch /f; chmod 777 /f && echo plain; chmod 4755 /f 2>&1; chmod 2755 /f && stat -c %a /f";
    let output =
        daemon.docker(&["run", "--rm", "--security-opt", &option, "busybox", "sh", "-c", script]);
    let output = output.run();
    let lines: Vec<&str> = output.ok().lines().collect();
    assert_eq!((lines[0], lines[2]), ("plain", "2755"), "{output:?}");
    assert!(lines[1].ends_with("No space left on device"), "{output:?}");
}

#[test]
fn who_is_filtered_and_by_what() {
    let daemon = daemon();
    let option = profile(&daemon, "own", &but(NO_MKDIR));
    let status = ["busybox", "grep", "^Seccomp:", "/proc/self/status"];
    let seccomp = |options: &[&str]| {
        let args = [&["run", "--rm"], options, &status[..]].concat();
        daemon.hoy(&args).run().ok().trim_start_matches("Seccomp:").trim().to_owned()
    };
    assert_eq!(seccomp(&[]), "2");
    assert_eq!(seccomp(&["--security-opt", "seccomp=builtin"]), "2");
    assert_eq!(seccomp(&["--security-opt", "seccomp=unconfined"]), "0");
    assert_eq!(seccomp(&["--privileged"]), "0");
    // Asked for by name, it is for a privileged one, too.
    assert_eq!(seccomp(&["--privileged", "--security-opt", &option]), "2");
    // The last one counts.
    assert_eq!(
        seccomp(&["--security-opt", "seccomp=unconfined", "--security-opt", "seccomp=builtin"]),
        "2"
    );
    // The default one follows the capabilities.
    let unshare = ["busybox", "unshare", "-u", "true"];
    let output = daemon.hoy(&[&["run", "--rm"], &unshare[..]].concat()).run();
    assert_ne!(output.code, Some(0), "{output:?}");
    daemon.hoy(&[&["run", "--rm", "--cap-add", "SYS_ADMIN"], &unshare[..]].concat()).run().ok();
}

#[test]
fn further_processes_obey_it_too_and_it_is_shown_as_asked() {
    let daemon = daemon();
    let text = but(&format!(
        r#"{NO_MKDIR}, {{"name": "acct", "action": "SCMP_ACT_TRAP",
                       "comment": "not  for \"us\"\\ "}}"#
    ));
    let option = profile(&daemon, "own", &text);
    for (name, run) in ["theirs", "ours"].into_iter().zip(both(&daemon, &[])) {
        let run = run.args(["run", "-d", "--name", name, "--security-opt", &option]);
        run.args(["busybox", "sleep", "1000"]).run().ok();
        let output = daemon.docker(&["exec", name, "mkdir", "/x"]).run();
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(output.stderr.contains("Operation not permitted"), "{output:?}");
        // A privileged one, too: it gets every capability, and the container's filter.
        daemon.docker(&["exec", "--privileged", name, "mkdir", "/y"]).run().fails_with(1);
    }
    let shown = |name| field(&daemon, name, "{{json .HostConfig.SecurityOpt}}");
    assert_eq!(shown("theirs"), shown("ours"));
    assert!(shown("ours").contains(r#"not  for"#), "{}", shown("ours"));
    // Also after the daemon was killed, by what is written.
    let mut daemon = daemon;
    daemon.kill();
    daemon.launch();
    let output = daemon.docker(&["exec", "ours", "mkdir", "/x"]).run();
    assert_eq!(output.code, Some(1), "{output:?}");
}

#[test]
fn malformed_profiles_are_refused_with_the_place_and_leave_nothing() {
    let daemon = daemon();
    let before = counts(&daemon);
    let operator =
        but(r#"{"names": ["read"], "action": "SCMP_ACT_LOG"}, {"names": ["read"], "action":
           "SCMP_ACT_TRAP", "args": [{"index": 0, "op": "SCMP_CMP_XX"}]}"#);
    let same = |action: &str| {
        format!(
            r#"{{"names": ["dup"], "action": "{action}", "args": [{{"index": 0, "op": "SCMP_CMP_EQ"}}]}}"#
        )
    };
    let contradiction = but(&[same("SCMP_ACT_TRAP"), same("SCMP_ACT_LOG")].join(","));
    for (name, text, message) in [
        ("operator", operator, r#"syscalls[1].args[0]: unknown operator "SCMP_CMP_XX""#),
        (
            "contradiction",
            contradiction,
            r#"syscalls[1]: the same arguments of "dup" as in syscalls[0], with another action"#,
        ),
        (
            "both",
            r#"{"defaultAction": "SCMP_ACT_LOG", "architectures": ["SCMP_ARCH_X86"],
                "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []}]}"#
                .to_owned(),
            "both 'architectures' and 'archMap' are specified in the seccomp profile, use either \
             'architectures' or 'archMap'",
        ),
        ("list", "[1]".to_owned(), "expected an object, not a list"),
    ] {
        let option = profile(&daemon, name, &text);
        for run in both(&daemon, &["run", "--rm", "--security-opt", &option, "busybox", "true"]) {
            let output = run.run();
            assert_eq!(output.code, Some(125), "{output:?}");
            assert!(output.stderr.contains(&format!("seccomp profile: {message}")), "{output:?}");
        }
    }
    let broken = profile(&daemon, "broken", r#"{"defaultAction": "#);
    for run in both(&daemon, &["run", "--rm", "--security-opt", &broken, "busybox", "true"]) {
        let output = run.run();
        assert_eq!(output.code, Some(125), "{output:?}");
        assert!(output.stderr.contains("compacting json for seccomp profile ("), "{output:?}");
    }
    let missing = "seccomp=/no/such/profile";
    for run in both(&daemon, &["run", "--rm", "--security-opt", missing, "busybox", "true"]) {
        let output = run.run();
        let says = "opening seccomp profile (/no/such/profile) failed: open /no/such/profile: no \
                    such file or directory";
        assert!(output.stderr.contains(says), "{output:?}");
    }
    // A client that does not look at it.
    let body = r#"{"Image": "busybox", "HostConfig": {"SecurityOpt": ["seccomp={"]}}"#;
    let output = daemon.curl(&[
        "-s",
        "-H",
        "Content-Type: application/json",
        "-d",
        body,
        "http://d/containers/create",
    ]);
    assert!(output.stdout.contains("Decoding seccomp profile failed: "), "{output:?}");
    assert_eq!(daemon.docker(&["ps", "-aq"]).run().ok(), "");
    before.wait_for(&daemon);
}

#[test]
fn a_process_that_may_do_nothing_ends_and_leaves_nothing() {
    let daemon = daemon();
    let before = counts(&daemon);
    for action in ["KILL", "KILL_PROCESS", "ERRNO", "TRAP"] {
        let text = format!(r#"{{"defaultAction": "SCMP_ACT_{action}"}}"#);
        let option = profile(&daemon, action, &text);
        let output =
            daemon.hoy(&["run", "--rm", "--security-opt", &option, "busybox", "true"]).run();
        assert_ne!(output.code, Some(0), "{action}: {output:?}");
    }
    wait_until("they are gone", || daemon.hoy(&["ps", "-aq"]).run().ok().is_empty());
    before.wait_for(&daemon);
}

#[test]
fn the_daemons_own_profile() {
    // For its directory only.
    let place = Daemon::prepare(&[]);
    let option = profile(&place, "default", &but(NO_MKDIR));
    let path = option.trim_start_matches("seccomp=");
    for value in [path, "unconfined", "builtin"] {
        let daemon = Daemon::start_with(&["--seccomp-profile", value]);
        give_busybox(&daemon);
        let shown = daemon.docker(&["info", "-f", "{{json .SecurityOptions}}"]).run();
        let wanted = format!("name=seccomp,profile={value}");
        assert!(shown.ok().contains(&wanted), "{shown:?}");
        let run = |args: &[&str]| {
            let args = [&["run", "--rm"], args].concat();
            daemon.docker(&args).run().code
        };
        let mkdir = run(&["busybox", "mkdir", "/x"]);
        assert_eq!(mkdir, Some(i32::from(value == path)), "{value}");
        let builtin = ["--security-opt", "seccomp=builtin", "busybox", "mkdir", "/x"];
        assert_eq!(run(&builtin), Some(0), "{value}");
        let filtered = ["busybox", "grep", "-q", "^Seccomp:.2", "/proc/self/status"];
        assert_eq!(run(&filtered), Some(i32::from(value == "unconfined")), "{value}");
    }
}
