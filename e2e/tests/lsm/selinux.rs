//! Labels by SELinux, with a policy of the test's own: `./x guest --append security=selinux -- lsm`.

use std::path::Path;
use std::sync::OnceLock;

use hoy_e2e::{field, give_busybox, pid};
use hoy_testkit::{Daemon, Run, in_guest};

use crate::{SLEEP, sh};

/// Whether the kernel was started with it.
pub fn on() -> bool {
    let modules = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    modules.split(',').any(|name| name == "selinux")
}

/// A daemon under our policy. A machine with one of its own is left alone.
fn daemon() -> Option<Daemon> {
    static POLICY: OnceLock<()> = OnceLock::new();
    if !on() || !in_guest() {
        return None;
    }
    POLICY.get_or_init(load_policy);
    let daemon = Daemon::start_with(&["--selinux-enabled"]);
    give_busybox(&daemon);
    Some(daemon)
}

fn load_policy() {
    let categories: Vec<String> = (0..1024).map(|number| format!("c{number}")).collect();
    let mut lines: Vec<String> =
        categories.iter().map(|category| format!("(category {category})")).collect();
    lines.push(format!("(categoryorder ({}))", categories.join(" ")));
    let text = include_str!("policy.cil").replace("@categories@", &lines.join("\n"));
    std::fs::write("/run/policy.cil", text).unwrap();
    let lines = "cd /run; secilc -N -o policy -f contexts policy.cil; \
                 mount -t selinuxfs selinuxfs /sys/fs/selinux; cat policy > /sys/fs/selinux/load; \
                 echo 1 > /sys/fs/selinux/enforce; mkdir -p /etc/selinux/ours/contexts; \
                 echo SELINUXTYPE=ours > /etc/selinux/config";
    Run::new("sh").args(["-ec", lines]).run().ok();
    let contexts = "process = \"system_u:system_r:container_t:s0\"\n\
                    file = \"system_u:object_r:container_file_t:s0\"\n";
    std::fs::write("/etc/selinux/ours/contexts/lxc_contexts", contexts).unwrap();
}

fn start(daemon: &Daemon, name: &str, flags: &[&str]) {
    daemon.hoy(&["run", "-d", "--name", name]).args(flags).args(SLEEP).run().ok();
}

fn process_label(pid: u32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/attr/current")).unwrap();
    text.trim_end_matches(['\n', '\0']).to_owned()
}

fn file_label(path: &Path) -> String {
    let mut buffer = [0; 256];
    let length = rustix::fs::lgetxattr(path, "security.selinux", &mut buffer[..]).unwrap();
    let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
    text.trim_end_matches('\0').to_owned()
}

#[test]
fn every_container_has_labels_of_its_own() {
    let Some(daemon) = daemon() else { return };
    let info = daemon.docker(&["info", "-f", "{{json .SecurityOptions}}"]).run();
    assert!(info.ok().contains("\"name=selinux\""), "{info:?}");
    let mut levels = Vec::new();
    for name in ["one", "two"] {
        start(&daemon, name, &["--tmpfs", "/fresh"]);
        let process = field(&daemon, name, "{{.ProcessLabel}}");
        let level = process.strip_prefix("system_u:system_r:container_t:s0:c").expect(&process);
        levels.push(level.to_owned());
        let mount = format!("system_u:object_r:container_file_t:s0:c{level}");
        assert_eq!(field(&daemon, name, "{{.MountLabel}}"), mount);
        let pid = pid(&daemon, name);
        assert_eq!(process_label(pid), process);
        for path in ["bin/busybox", "dev/null", "dev/pts/ptmx", "dev/shm", "dev/mqueue", "fresh"] {
            let path = format!("/proc/{pid}/root/{path}");
            assert_eq!(file_label(Path::new(&path)), mount, "{path}");
        }
        for path in ["etc/hosts", "etc/hostname", "etc/resolv.conf"] {
            let path = format!("/proc/{pid}/root/{path}");
            assert_eq!(file_label(Path::new(&path)), mount, "{path}");
        }
        for flags in [&[][..], &["--privileged"], &["-t"]] {
            let exec = daemon.hoy(&["exec"]).args(flags).args([name, "cat"]);
            let said = exec.args(["/proc/self/attr/current"]).run();
            assert_eq!(said.ok().trim_end_matches(['\0', '\r', '\n']), process);
        }
    }
    assert_ne!(levels[0], levels[1]);
    // The same again after a restart.
    let before = field(&daemon, "one", "{{.ProcessLabel}}");
    daemon.hoy(&["restart", "-t", "0", "one"]).run().ok();
    assert_eq!(process_label(pid(&daemon, "one")), before);
}

#[test]
fn labels_by_option() {
    let Some(daemon) = daemon() else { return };
    let own = process_label(std::process::id());
    let file = "system_u:object_r:container_file_t";
    for (flags, process, mount) in [
        (&["--security-opt", "label=type:other_t"][..], "system_u:system_r:other_t:s0:", file),
        (
            &["--security-opt", "label=level:s0:c100,c200"],
            "system_u:system_r:container_t:s0:c100,c200",
            "system_u:object_r:container_file_t:s0:c100,c200",
        ),
        (
            &["--security-opt", "label=filetype:host_t"],
            "system_u:system_r:container_t:s0:c",
            "system_u:object_r:host_t:s0:c",
        ),
        (
            &["--security-opt", "label=disable"],
            &own,
            "system_u:object_r:container_file_t:s0:c1022,c1023",
        ),
        (&["--privileged"], &own, "system_u:object_r:container_file_t:s0:c1022,c1023"),
        (&["--pid", "host"], &own, "system_u:object_r:container_file_t:s0:c1022,c1023"),
    ] {
        start(&daemon, "it", flags);
        let pid = pid(&daemon, "it");
        let label = process_label(pid);
        assert!(label.starts_with(process), "{flags:?}: {label}");
        let label = file_label(Path::new(&format!("/proc/{pid}/root/etc/passwd")));
        assert!(label.starts_with(mount), "{flags:?}: {label}");
        assert_eq!(field(&daemon, "it", "{{.MountLabel}}"), label);
        daemon.hoy(&["rm", "-f", "it"]).run().ok();
    }
    let said = sh(&daemon, &["--security-opt", "label=type:nosuch_t"], "true");
    assert_ne!(said.code, Some(0));
    assert!(
        said.stderr.contains("nosuch_t") && said.stderr.contains("invalid argument"),
        "{said:?}"
    );
    assert_eq!(daemon.hoy(&["ps", "-aq"]).run().ok(), "");
}

#[test]
fn sources_of_binds_are_labelled_on_request() {
    let Some(daemon) = daemon() else { return };
    let data = daemon.path("data-of-the-host");
    let secret = daemon.path("secret");
    std::fs::create_dir_all(data.join("deep/er")).unwrap();
    for path in [data.join("file"), data.join("deep/er/file"), secret.clone()] {
        std::fs::write(path, "x").unwrap();
    }
    std::os::unix::fs::symlink(&secret, data.join("link")).unwrap();
    let bind = |mode: &str| format!("{}:/data{mode}", data.display());
    let write = "cat /data/file && echo changed > /data/file";

    let said = sh(&daemon, &["-v", &bind("")], write);
    assert!(said.fails_with(1).stderr.contains("Permission denied"), "{said:?}");
    assert_eq!(said.stdout, "x");

    start(&daemon, "own", &["-v", &bind(":Z")]);
    let label = field(&daemon, "own", "{{.MountLabel}}");
    for path in [data.clone(), data.join("deep/er/file"), data.join("link")] {
        assert_eq!(file_label(&path), label, "{path:?}");
    }
    assert_ne!(file_label(&secret), label, "no link was followed");
    daemon.hoy(&["exec", "own", "sh", "-c", write]).run().ok();
    // Its categories are nobody else's.
    let said = sh(&daemon, &["-v", &bind("")], "cat /data/file");
    assert!(said.fails_with(1).stderr.contains("Permission denied"), "{said:?}");

    for _ in 0..2 {
        sh(&daemon, &["-v", &bind(":z")], write).ok();
    }
    assert_eq!(file_label(&data), "system_u:object_r:container_file_t:s0");

    let said = sh(&daemon, &["-v", "/etc:/data:Z"], "true");
    let text = "error setting label on mount source '/etc': SELinux relabeling of /etc is not \
                allowed";
    assert!(said.fails_with(125).stderr.contains(text), "{said:?}");
}
