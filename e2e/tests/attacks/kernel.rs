//! What of the kernel can be reached.

use crate::Verdict;
use crate::side::{PERL, Side};

const EPERM: i32 = 1;
const ENOSYS: i32 = 38;

/// System calls that Docker's profile refuses: name, what perl evaluates, the error.
const CALLS: &[(&str, &str, i32)] = &[
    ("AF_ALG", "syscall(41, 38, 5, 0)", EPERM),
    ("AF_VSOCK", "syscall(41, 40, 1, 0)", EPERM),
    ("io_uring_setup", "syscall(425, 1, $buffer)", EPERM),
    ("io_uring_enter", "syscall(426, -1, 0, 0, 0, 0, 0)", EPERM),
    ("userfaultfd", "syscall(323, 1)", EPERM),
    ("bpf", "syscall(321, 0, $buffer, 48)", EPERM),
    ("perf_event_open", "syscall(298, $buffer, 0, -1, -1, 0)", EPERM),
    ("add_key", "syscall(248, 'user', 'x', 'y', 1, -3)", EPERM),
    ("request_key", "syscall(249, 'user', 'x', 0, 0)", EPERM),
    ("keyctl", "syscall(250, 0, -3, 0)", EPERM),
    ("unshare NEWUSER", "syscall(272, 0x10000000)", EPERM),
    ("unshare NEWNS", "syscall(272, 0x20000)", EPERM),
    ("clone NEWUSER", "syscall(56, 0x10000011, 0, 0, 0, 0) || syscall(60, 0)", EPERM),
    ("clone3", "syscall(435, $buffer, 88) || syscall(60, 0)", ENOSYS),
    ("setns", "syscall(308, 0, 0)", EPERM),
    ("mount", "syscall(165, 'none', '/tmp', 'tmpfs', 0, 0)", EPERM),
    ("umount2", "syscall(166, '/none', 0)", EPERM),
    ("pivot_root", "syscall(155, '.', '.')", EPERM),
    ("fsopen", "syscall(430, 'tmpfs', 0)", EPERM),
    ("fspick", "syscall(433, -100, '/', 0)", EPERM),
    ("fsconfig", "syscall(431, -1, 0, 0, 0, 0)", EPERM),
    ("fsmount", "syscall(432, -1, 0, 0)", EPERM),
    ("open_tree", "syscall(428, -100, '/', 1)", EPERM),
    ("move_mount", "syscall(429, -100, '/', -100, '/tmp', 0)", EPERM),
    ("mount_setattr", "syscall(442, -100, '/', 0, $buffer, 32)", EPERM),
    ("open_by_handle_at", "syscall(304, -100, $buffer, 0)", EPERM),
    ("kexec_load", "syscall(246, 0, 0, 0, 0)", EPERM),
    ("kexec_file_load", "syscall(320, -1, -1, 0, 0, 0)", EPERM),
    ("init_module", "syscall(175, 0, 0, 0)", EPERM),
    ("finit_module", "syscall(313, -1, '', 0)", EPERM),
    ("delete_module", "syscall(176, 'none', 0)", EPERM),
    ("swapon", "syscall(167, '/none', 0)", EPERM),
    ("swapoff", "syscall(168, '/none')", EPERM),
    ("acct", "syscall(163, '/none')", EPERM),
    ("quotactl", "syscall(179, 0, 0, 0, 0)", EPERM),
    ("syslog", "syscall(103, 10, 0, 0)", EPERM),
    ("iopl", "syscall(172, 0)", EPERM),
    ("ioperm", "syscall(173, 0, 0, 0)", EPERM),
    ("settimeofday", "syscall(164, 0, 0)", EPERM),
    ("uselib", "syscall(134, '/none')", EPERM),
    ("vm86 personality", "syscall(135, 0x0400000)", EPERM),
    ("kcmp", "syscall(312, $$, $$, 0, 0, 0)", EPERM),
    ("pidfd_getfd", "syscall(438, -1, 0, 0)", EPERM),
    ("process_madvise", "syscall(440, -1, 0, 0, 0, 0)", EPERM),
    ("mbind", "syscall(237, 0, 0, 0, 0, 0, 0)", EPERM),
    ("fanotify_init", "syscall(300, 0, 0)", EPERM),
    ("lookup_dcookie", "syscall(212, 0, 0, 0)", EPERM),
    ("vhangup", "syscall(153)", EPERM),
];

/// CVE-2022-0185, CVE-2026-31431 and all that begins with a rarely used call of the kernel.
pub fn primitives(side: &Side) -> Verdict {
    // Strings that a call is given must be variables.
    let mut program = String::from("my $buffer = chr(0) x 256; my $r; ");
    program.push_str("sub copy { my ($number, @given) = @_; syscall($number, @given) }\n");
    for (name, call, _) in CALLS {
        let call = call.replace("syscall(", "copy(");
        program.push_str(&format!(
            "$! = 0; $r = {call}; print '{name}: ', ($r == -1 ? $! + 0 : 'done'), qq(\\n);\n"
        ));
    }
    for options in [&[][..], &["-u", "1000"]] {
        let words = ["busybox", "/usr/bin/perl", "-e", program.as_str()];
        let output = side.run(&[options, PERL, &words].concat());
        let wrong: Vec<&str> = output
            .ok()
            .lines()
            .zip(CALLS)
            .filter(|(line, (name, _, errno))| **line != format!("{name}: {errno}"))
            .map(|(line, _)| line)
            .collect();
        if let Some(first) = wrong.first() {
            return Err(format!("{} calls are answered: {first}; {wrong:?}", wrong.len()));
        }
        assert_eq!(output.stdout.lines().count(), CALLS.len(), "{output:?}");
    }
    Ok(())
}

/// CVE-2022-0492: a namespace in which one is root, and a hierarchy mounted there.
pub fn new_namespaces(side: &Side) -> Verdict {
    let program = "my ($n, $t, $f, $c, $m) = ('none', '/tmp', 'tmpfs', 'cgroup', 'memory'); \
        exit 2 if syscall(272, 0x10000000 | 0x20000) == -1; \
        my $none = syscall(165, $n, $t, $f, 0, 0); \
        syscall(272, 0x02000000); my $cgroup = syscall(165, $n, $t, $c, 0, $m); \
        print qq(mounted: $none $cgroup\\n);";
    for options in [&[][..], &["-u", "1000"], &["--cap-drop", "ALL"]] {
        let words = ["busybox", "/usr/bin/perl", "-e", program];
        let output = side.run(&[options, PERL, &words].concat());
        if output.code != Some(2) {
            return Err(format!("a new user namespace: {}", output.stdout.trim()));
        }
    }
    let found = side.sh(&["--cap-add", "ALL"], "find /sys/fs/cgroup -name release_agent");
    if found.is_empty() { Ok(()) } else { Err(format!("release_agent is seen: {found}")) }
}

/// Whether a container with a setting begins: asked by who checks nothing beforehand.
fn runs_with(side: &Side, name: &str, value: &str) -> bool {
    let host = serde_json::json!({ "Sysctls": { name: value } });
    let body = serde_json::json!({ "Image": "busybox", "Cmd": ["true"], "HostConfig": host });
    let post = |path: &str, body: &str| {
        let url = format!("http://x{path}");
        let json = "Content-Type: application/json";
        side.daemon.curl(&["-X", "POST", "-H", json, "-d", body, "-w", "%{http_code}", &url]).stdout
    };
    let made = post("/containers/create", &body.to_string());
    let made: String = made.chars().take_while(|c| *c != '\n').collect();
    let made: serde_json::Value = serde_json::from_str(&made).unwrap_or_default();
    let Some(id) = made["Id"].as_str() else { return false };
    let begun = post(&format!("/containers/{id}/start"), "").trim() == "204";
    side.daemon.hoy(&["rm", "-f", id]).run();
    begun
}

/// CVE-2022-0811: settings that are the machine's, by any spelling.
pub fn sysctls(side: &Side) -> Verdict {
    let host = |name: &str| std::fs::read_to_string(format!("/proc/sys/{name}")).unwrap();
    let pattern = host("kernel/core_pattern");
    let panic = host("kernel/panic");
    let panic = panic.trim();
    // Each sets what is set already, should it be let through.
    for name in [
        "kernel.panic",
        "kernel/panic",
        "net.ipv4.ip_forward+kernel.panic",
        "net/../kernel.panic",
        "net/../kernel/panic",
        "net./../kernel.panic",
        "net.ipv4/../../kernel/panic",
        "fs.mqueue./../../kernel.panic",
        "fs.mqueue/../../kernel/panic",
        "Kernel.panic",
        " kernel.panic",
        "net. kernel.panic",
        "kernel.shmmax/../panic",
        "net",
        "net.",
        ".net",
        "kernel.msgmax.",
    ] {
        if runs_with(side, name, panic) {
            return Err(format!("{name} is set"));
        }
    }
    for value in
        ["1+kernel.core_pattern=|/x", "1\nkernel.core_pattern=|/x", "1 kernel.core_pattern=|/x"]
    {
        runs_with(side, "net.ipv4.ip_forward", value);
        if host("kernel/core_pattern") != pattern {
            return Err("core_pattern was set".to_owned());
        }
    }
    let fine = ["--sysctl", "kernel.msgmax=5000", "busybox", "cat", "/proc/sys/kernel/msgmax"];
    assert_eq!(side.run(&fine).ok(), "5000\n");
    assert_ne!(host("kernel/msgmax"), "5000\n");
    Ok(())
}

/// GHSA-6fw5-f8r9-fgfm, GHSA-jq35-85cj-fj4p and R24: what tells of others, and what acts on them.
pub fn masks(side: &Side) -> Verdict {
    let line = "for f in asound acpi interrupts kcore keys latency_stats timer_list timer_stats sched_debug scsi; do \
        [ -f /proc/$f ] && head -c 1 /proc/$f | grep -q . && echo /proc/$f; \
        [ -d /proc/$f ] && [ -n \"$(ls -A /proc/$f)\" ] && echo /proc/$f; done; \
        for d in /sys/firmware /sys/devices/virtual/powercap /sys/devices/system/cpu/cpu*/thermal_throttle; do \
        [ -d $d ] && [ -n \"$(ls -A $d)\" ] && echo $d; done; \
        for f in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/irq/default_smp_affinity \
        /proc/sys/vm/drop_caches /sys/kernel/uevent_helper; do (: >>$f) 2>/dev/null && echo write $f; done; true";
    for options in [&[][..], &["--cap-add", "ALL"], &["-u", "1000"]] {
        let found = side.sh(options, line);
        if let Some(first) = found.lines().next() {
            return Err(format!("{} can be had: {first}", found.lines().count()));
        }
    }
    Ok(())
}
