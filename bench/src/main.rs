//! Benchmarks: programs that print figures. They judge nothing; tests never time anything.

mod account;
mod bundle;
mod peers;
mod start;
mod stats;

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// Set once the program is in namespaces of its own.
const INSIDE: &str = "HOY_BENCH_INSIDE";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("start") => {}
        _ => bail!("which benchmark? There is: start [--rounds N] [--only NAME,NAME]"),
    }
    if std::env::var_os(INSIDE).is_none() {
        return Err(enter());
    }
    start::main(&args[1..])
}

/// Begins anew in a network namespace of its own, and without the cgroup v2 hierarchy that crun
/// refuses beside v1 ones: all peers see the same machine.
fn enter() -> anyhow::Error {
    let script = "mkdir -p /run/netns; mount -t tmpfs none /run/netns; ip link set lo up; echo 1 >/proc/sys/net/ipv4/ip_forward; \
        if [ -e /sys/fs/cgroup/unified ]; then umount /sys/fs/cgroup/unified; fi; exec \"$0\" \"$@\"";
    let own = match std::env::current_exe() {
        Ok(own) => own,
        Err(error) => return error.into(),
    };
    let mut command = Command::new("unshare");
    command
        .args(["--net", "--mount", "--propagation", "private", "sh", "-ec", script])
        .arg(own)
        .args(std::env::args().skip(1))
        .env(INSIDE, "1");
    anyhow::Error::from(command.exec()).context("unshare")
}

pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Runs a command that must succeed; its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out = command.output().with_context(|| format!("run {command:?}"))?;
    if !out.status.success() {
        bail!("{command:?} ended with {}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
