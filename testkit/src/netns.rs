//! A network namespace of a test's own, held by one sleeping process.

use std::process::{Child, Command, Stdio};

use crate::command::{Run, wait_until};

/// A namespace that lives as long as this value.
pub struct NetNs {
    holder: Child,
}

impl NetNs {
    /// A new one, with loopback up.
    pub fn new() -> Self {
        let holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 3600"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare --net");
        let mut netns = Self { holder };
        let mut line = [0; 3];
        let out = netns.holder.stdout.as_mut().expect("piped");
        std::io::Read::read_exact(out, &mut line).expect("loopback comes up");
        let path = netns.path();
        wait_until("the namespace is there", || std::fs::metadata(&path).is_ok());
        netns
    }

    /// The file that stands for it.
    pub fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    /// A command inside it.
    pub fn run(&self, program: &str) -> Run {
        Run::new("nsenter").args([format!("--net={}", self.path()), "--".into(), program.into()])
    }

    /// A shell line inside it, which must succeed.
    #[track_caller]
    pub fn sh(&self, line: &str) -> String {
        self.run("sh").args(["-ec", line]).run().ok().to_owned()
    }

    /// Joins this namespace and another by a pair of interfaces with addresses.
    pub fn link(&self, other: &Self, name: &str, here: &str, there: &str) {
        self.sh(&format!(
            "ip link add {name} type veth peer name {name} netns {}; ip addr add {here} dev {name}; \
             ip link set {name} up",
            other.holder.id()
        ));
        other.sh(&format!("ip addr add {there} dev {name}; ip link set {name} up"));
    }
}

impl Default for NetNs {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
