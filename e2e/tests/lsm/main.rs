//! Security modules of the host: AppArmor's profiles where it is on, SELinux's labels where there
//! is a policy, and clear refusals where not. The guest of `./x guest` has the first.

mod selinux;

use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use hoy_e2e::{both, daemon, field, give_busybox, pid};
use hoy_testkit::{Daemon, Output, Run, in_guest, wait_until};

const CURRENT: &str = "cat /proc/self/attr/apparmor/current";
const DEFAULT: &str = "hoy-default (enforce)";
const FILES: &str = "/sys/kernel/security/apparmor";

fn apparmor() -> bool {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    let on = enabled.is_ok_and(|text| text.starts_with('Y')) && Path::new(FILES).is_dir();
    // There, nothing may be left out because of something that is missing.
    assert!(on || !in_guest() || selinux::on(), "the guest's AppArmor is off");
    on
}

/// A shell line in a new container.
#[track_caller]
fn sh(daemon: &Daemon, flags: &[&str], line: &str) -> Output {
    daemon.hoy(&["run", "--rm"]).args(flags).args(["busybox", "sh", "-c", line]).run()
}

fn exec(daemon: &Daemon, flags: &[&str], name: &str) -> String {
    daemon.hoy(&["exec"]).args(flags).args([name, "sh", "-c", CURRENT]).run().ok().trim().to_owned()
}

fn confinement(pid: u32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/attr/apparmor/current")).unwrap();
    text.trim().to_owned()
}

/// One test unloads the profile that the others run under.
static LOADED: RwLock<()> = RwLock::new(());

fn shared() -> RwLockReadGuard<'static, ()> {
    LOADED.read().unwrap_or_else(PoisonError::into_inner)
}

fn parser(action: &str, text: &str) {
    Run::new("/sbin/apparmor_parser").args(["-K", action]).input(text).run().ok();
}

/// A profile for as long as it lives.
struct Profile(String, String);

impl Profile {
    fn load(rules: &str) -> Self {
        let name = format!("hoytest-{}", std::process::id());
        let text = format!("profile {name} flags=(attach_disconnected) {{\n{rules}\n}}\n");
        parser("--replace", &text);
        Self(name, text)
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        parser("--remove", &self.1);
    }
}

#[test]
fn what_the_host_lacks_is_refused() {
    let daemon = daemon();
    for run in
        both(&daemon, &["run", "--rm", "--security-opt", "label=type:spc_t", "busybox", "true"])
    {
        let said = run.run();
        assert!(said.fails_with(125).stderr.contains("SELinux is not enabled on this host"));
    }
    if !apparmor() {
        for run in
            both(&daemon, &["run", "--rm", "--security-opt", "apparmor=mine", "busybox", "true"])
        {
            let said = run.run();
            let text = "apparmor=mine: AppArmor is not enabled on this host";
            assert!(said.fails_with(125).stderr.contains(text), "{said:?}");
        }
        sh(&daemon, &["--security-opt", "apparmor=unconfined"], "true").ok();
        let info = daemon.docker(&["info", "-f", "{{json .SecurityOptions}}"]).run();
        assert!(!info.ok().contains("apparmor"));
        daemon.hoy(&["run", "-d", "--name", "own", "busybox", "sleep", "1000"]).run().ok();
        assert_eq!(field(&daemon, "own", "{{.AppArmorProfile}}"), "");
    }
    let said = sh(&daemon, &["--security-opt", "label=nonsense"], "true");
    let text = "bad label option \"nonsense\", valid options 'disable' or";
    assert!(said.fails_with(125).stderr.contains(text), "{said:?}");
    assert_eq!(daemon.hoy(&["ps", "-aq"]).run().ok().lines().count(), usize::from(!apparmor()));
}

#[test]
fn labels_without_selinux() {
    if selinux::on() {
        return;
    }
    let daemon = Daemon::start_with(&["--selinux-enabled"]);
    give_busybox(&daemon);
    let info = daemon.docker(&["info", "-f", "{{json .Warnings}} {{json .SecurityOptions}}"]).run();
    assert!(info.ok().contains("WARNING: SELinux is not enabled on this host"));
    assert!(!info.ok().contains("name=selinux"));
    sh(&daemon, &["--security-opt", "label=disable"], "true").ok();
    // As Docker: these words are about labels only.
    let shared = daemon.path("shared");
    std::fs::create_dir(&shared).unwrap();
    for mode in ["z", "Z", "ro,Z"] {
        let bind = format!("{}:/shared:{mode}", shared.display());
        sh(&daemon, &["-v", &bind], "test -d /shared").ok();
    }
    daemon
        .hoy(&["run", "-d", "--privileged", "--name", "priv", "busybox", "sleep", "1000"])
        .run()
        .ok();
    let shown =
        field(&daemon, "priv", "{{.HostConfig.SecurityOpt}}{{.ProcessLabel}}{{.MountLabel}}");
    assert_eq!(shown, "[label=disable]");
}

#[test]
fn containers_run_under_the_default_profile() {
    if !apparmor() {
        return;
    }
    let _shared = shared();
    let daemon = daemon();
    let profiles = std::fs::read_to_string(format!("{FILES}/profiles")).unwrap();
    assert!(profiles.lines().any(|line| line == DEFAULT), "{profiles}");
    let info = daemon.docker(&["info", "-f", "{{json .SecurityOptions}}"]).run();
    assert!(info.ok().contains("\"name=apparmor\""), "{info:?}");
    for flags in [
        &[][..],
        &["--init", "--user", "1000", "--tty"],
        &["--security-opt", "no-new-privileges"],
        &["--security-opt", "apparmor=docker-default", "--security-opt", "seccomp=unconfined"],
        &["--pid", "host", "--cap-add", "ALL"],
    ] {
        assert_eq!(sh(&daemon, flags, CURRENT).ok().trim(), DEFAULT, "{flags:?}");
    }
    daemon.hoy(&["run", "-d", "--name", "own", "busybox", "sleep", "1000"]).run().ok();
    assert_eq!(confinement(pid(&daemon, "own")), DEFAULT);
    assert_eq!(field(&daemon, "own", "{{.AppArmorProfile}}"), "hoy-default");
    // What a further process is confined as is the container's choice, as with Docker.
    for flags in [&["--privileged"][..], &["--user", "1000", "--tty"]] {
        assert_eq!(exec(&daemon, flags, "own"), DEFAULT, "{flags:?}");
    }
    daemon.hoy(&["stop", "-t", "0", "own"]).run().ok();
    daemon.hoy(&["start", "own"]).run().ok();
    assert_eq!(confinement(pid(&daemon, "own")), DEFAULT);
}

#[test]
fn the_default_profile_denies_what_capabilities_allow() {
    if !apparmor() {
        return;
    }
    let _shared = shared();
    let daemon = daemon();
    let flags = ["--cap-add", "ALL", "--security-opt", "systempaths=unconfined"];
    let unconfined = [&flags[..], &["--security-opt", "apparmor=unconfined"]].concat();
    for (line, denied) in [
        ("mkdir -p /at && mount -t tmpfs none /at", "permission denied"),
        ("mkdir -p /at && mount -o bind /etc /at", "permission denied"),
        ("echo changed > /proc/sys/kernel/hostname", "can't create"),
        ("head -c 1 /proc/kcore", "permission denied"),
        ("echo > /proc/sys/kernel/printk", "can't create"),
    ] {
        let said = sh(&daemon, &flags, line);
        assert_ne!(said.code, Some(0), "{line}: {said:?}");
        let words = said.stderr.to_lowercase();
        assert!(words.contains(denied), "{line}: {said:?}");
        if line.contains("printk") {
            // The machine's own: not for a test to change.
            continue;
        }
        sh(&daemon, &unconfined, line).ok();
    }
    // What must go on as ever.
    for line in [
        "sleep 100 & kill $!; wait $!; test $? = 143",
        "echo 1000 > /proc/self/oom_score_adj && echo x > /dev/shm/x && umask 077",
        "ls -l /proc/1/exe && ps && netstat -l && ping -c 1 127.0.0.1",
    ] {
        sh(&daemon, &[], line).ok();
    }
    daemon
        .hoy(&["run", "-d", "--name", "trap", "busybox"])
        .args(["sh", "-c", "trap 'exit 7' TERM; echo set; while :; do sleep 0.1; done"])
        .run()
        .ok();
    // Before, process 1 does not hear of it.
    wait_until("the trap is set", || daemon.hoy(&["logs", "trap"]).run().stdout == "set\n");
    daemon.hoy(&["stop", "trap"]).run().ok();
    assert_eq!(field(&daemon, "trap", "{{.State.ExitCode}}"), "7");
}

#[test]
fn profiles_by_name() {
    if !apparmor() {
        return;
    }
    let _shared = shared();
    let daemon = daemon();
    let profile = Profile::load("file,\nnetwork,\ncapability,\nsignal,\ndeny /forbidden/** w,");
    let option = format!("apparmor={}", profile.0);
    let said = sh(
        &daemon,
        &["--security-opt", &option],
        &format!("mkdir -p /forbidden && echo x > /free && {CURRENT} && echo x > /forbidden/file"),
    );
    assert_eq!(said.stdout.trim(), format!("{} (enforce)", profile.0));
    assert!(said.fails_with(1).stderr.contains("/forbidden/file"), "{said:?}");
    daemon.hoy(&["run", "-d", "--name", "own", "--security-opt", &option]).args(SLEEP).run().ok();
    assert_eq!(field(&daemon, "own", "{{.AppArmorProfile}}"), profile.0);
    assert_eq!(exec(&daemon, &[], "own"), format!("{} (enforce)", profile.0));
    daemon.hoy(&["rm", "-f", "own"]).run().ok();

    for (flags, name) in [
        (&["--privileged"][..], "unconfined"),
        (&["--security-opt", "apparmor=unconfined"], "unconfined"),
        (&["--privileged", "--security-opt", "apparmor=hoy-default"], "hoy-default"),
    ] {
        daemon.hoy(&["run", "-d", "--name", "own"]).args(flags).args(SLEEP).run().ok();
        let shown = if name == "unconfined" { name } else { DEFAULT };
        assert_eq!(confinement(pid(&daemon, "own")), shown, "{flags:?}");
        assert_eq!(exec(&daemon, &["--privileged"], "own"), shown, "{flags:?}");
        assert_eq!(field(&daemon, "own", "{{.AppArmorProfile}}"), name);
        daemon.hoy(&["rm", "-f", "own"]).run().ok();
    }

    let said = sh(&daemon, &["--security-opt", "apparmor=no-such-profile"], "true");
    let text = "unable to start container process: error during container init: unable to apply \
                apparmor profile: apparmor failed to apply profile: write \
                /proc/self/attr/apparmor/exec: no such file or directory";
    assert!(said.fails_with(127).stderr.contains(text), "{said:?}");
    assert_eq!(daemon.hoy(&["ps", "-aq"]).run().ok(), "");
}

const SLEEP: [&str; 3] = ["busybox", "sleep", "1000"];

#[test]
fn user_namespaces_and_profiles() {
    if !apparmor() {
        return;
    }
    let _shared = shared();
    let mut daemon = Daemon::prepare(&["--userns-remap=default"])
        .with_etc("subuid", "dockremap:100000:65536\n")
        .with_etc("subgid", "dockremap:100000:65536\n");
    daemon.launch();
    give_busybox(&daemon);
    daemon.hoy(&["run", "-d", "--name", "own"]).args(SLEEP).run().ok();
    assert_eq!(confinement(pid(&daemon, "own")), DEFAULT);
    assert_eq!(exec(&daemon, &[], "own"), DEFAULT);
    let said = sh(&daemon, &["--cap-add", "ALL"], "mount -t tmpfs none /tmp");
    assert_ne!(said.code, Some(0), "{said:?}");
}

#[test]
fn a_profile_that_was_unloaded_is_loaded_again() {
    if !apparmor() {
        return;
    }
    let _alone = LOADED.write().unwrap_or_else(PoisonError::into_inner);
    let daemon = daemon();
    let unload = || parser("--remove", "profile hoy-default {}\n");
    unload();
    daemon.hoy(&["run", "-d", "--name", "own"]).args(SLEEP).run().ok();
    assert_eq!(confinement(pid(&daemon, "own")), DEFAULT);
    unload();
    assert_eq!(exec(&daemon, &[], "own"), DEFAULT);
}
