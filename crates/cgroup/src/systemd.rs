//! Containers as scopes of systemd, where that is the only one who may change the cgroup tree.
//!
//! A scope begins with a process: a holder that does nothing, and ends once the container's own
//! first process is there. systemd is told the limits as properties, so that it does not take them
//! back when it reads its units again; the exact values are written to the files all the same.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use hoy_sys::process::{CloneArgs, spawn};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::dbus::{Body, Bus, Property, Value};
use crate::limits::Version;
use crate::{Bound, CgroupError, CgroupPlan, DeviceRule, Hierarchies, Limits, cpu_weight};

/// How long systemd may take to make a scope.
const START: Duration = Duration::from_secs(10);
/// How long the holder may take to end, and a stopped scope to vanish.
const END: Duration = Duration::from_secs(2);

/// Whether systemd is the init system here.
pub fn is_running() -> bool {
    let found = std::fs::symlink_metadata("/run/systemd/system");
    found.is_ok_and(|found| found.is_dir())
}

/// Where a slice lies below the slice of all: `a-b.slice` in `a.slice/a-b.slice`.
pub fn slice_path(slice: &str) -> Result<String, CgroupError> {
    let wrong = || CgroupError::Name(slice.to_owned());
    let name = slice.strip_suffix(".slice").filter(|name| !name.is_empty()).ok_or_else(wrong)?;
    if name == "-" {
        return Ok(String::new());
    }
    let plain = |c: u8| c.is_ascii_alphanumeric() || b":-_.\\@".contains(&c);
    if !name.bytes().all(plain) || name.split('-').any(str::is_empty) {
        return Err(wrong());
    }
    let mut path = String::new();
    for (at, _) in name.match_indices('-').chain([(name.len(), "")]) {
        let separator = if path.is_empty() { "" } else { "/" };
        path = format!("{path}{separator}{}.slice", name.get(..at).unwrap_or_default());
    }
    Ok(path)
}

/// The name of a container's unit.
pub(crate) fn unit(plan: &CgroupPlan) -> String {
    format!("hoy-{}.scope", plan.name)
}

/// Where systemd's tree begins below our mounts: at the root, but for one in a container that has
/// the hierarchies of its machine.
pub(crate) fn base(hierarchies: &Hierarchies) -> String {
    let text = std::fs::read_to_string("/proc/1/cgroup").unwrap_or_default();
    let found = hierarchies.of_init().and_then(|hierarchy| {
        let path = hierarchy.of_process(&text)?;
        hierarchy.below(path.strip_suffix("/init.scope")?)
    });
    found.unwrap_or_default()
}

/// Where a container's scope lies.
pub(crate) fn path(plan: &CgroupPlan, hierarchies: &Hierarchies) -> Result<String, CgroupError> {
    let parts = [base(hierarchies), slice_path(&plan.parent)?, unit(plan)];
    let parts: Vec<&str> = parts.iter().map(String::as_str).filter(|p| !p.is_empty()).collect();
    Ok(parts.join("/"))
}

/// Keeps a scope from ending before it has begun.
#[derive(Debug)]
pub(crate) struct Holder {
    pid: Pid,
    pidfd: OwnedFd,
    /// Its end of the pipe too: a word to one that has ended must not be fatal.
    pipe: [OwnedFd; 2],
}

impl Holder {
    fn new() -> io::Result<Self> {
        let (receiver, sender) = pipe_with(PipeFlags::CLOEXEC)?;
        let keep = [receiver.as_raw_fd()];
        let (pid, pidfd) = spawn(CloneArgs { keep: Some(&keep), ..CloneArgs::default() }, || {
            // A word, or nobody left to say one.
            let _ = rustix::io::read(&receiver, &mut [0; 1]);
            0
        })?;
        Ok(Self { pid, pidfd, pipe: [receiver, sender] })
    }

    /// Ends it, and returns once it is in no cgroup any more. From any copy of this process.
    pub(crate) fn let_go(&self) {
        let _ = rustix::io::write(&self.pipe[1], b".");
        let deadline = END.try_into().ok();
        let _ = poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], deadline.as_ref());
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.let_go();
        let _ = waitid(
            WaitId::PidFd(std::os::fd::AsFd::as_fd(&self.pidfd)),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        );
    }
}

/// Makes a container's scope, with a holder in it.
pub(crate) fn start(plan: &CgroupPlan, hierarchies: &Hierarchies) -> Result<Holder, CgroupError> {
    let unit = unit(plan);
    let holder = Holder::new().map_err(|source| CgroupError::Io {
        operation: "make a process for",
        path: unit.clone(),
        source,
    })?;
    let version = |controller: &str| hierarchies.version(controller);
    let mut list = vec![
        ("Description", Value::Text(format!("hoy container {}", plan.name))),
        ("Slice", Value::Text(plan.parent.clone())),
        ("PIDs", Value::Pids(vec![holder.pid.as_raw_nonzero().get().unsigned_abs()])),
        ("Delegate", Value::Flag(true)),
        ("DefaultDependencies", Value::Flag(false)),
        ("CollectMode", Value::Text("inactive-or-failed".into())),
        ("MemoryAccounting", Value::Flag(true)),
        ("CPUAccounting", Value::Flag(true)),
        ("TasksAccounting", Value::Flag(true)),
    ];
    list.push(match version("blkio") {
        Version::V1 => ("BlockIOAccounting", Value::Flag(true)),
        Version::V2 => ("IOAccounting", Value::Flag(true)),
    });
    list.extend(properties(&plan.limits, version));
    if let Some(rules) = &plan.devices {
        list.extend(devices(rules, &std::fs::read_to_string("/proc/devices").unwrap_or_default()));
    }
    let mut body = Body::default();
    body.text(&unit);
    body.text("replace");
    body.properties(&list);
    body.no_more_units();
    let failed = |source| CgroupError::Systemd {
        operation: "StartTransientUnit",
        unit: unit.clone(),
        source,
    };
    let mut bus = Bus::connect().map_err(failed)?;
    match bus.call("StartTransientUnit", "ssa(sv)a(sa(sv))", &body) {
        Err(error) if error.is("UnitExists") => {
            // What a killed daemon or supervisor left.
            end(&mut bus, &unit);
            bus.call("StartTransientUnit", "ssa(sv)a(sa(sv))", &body).map_err(failed)?;
        }
        other => other.map_err(failed)?,
    }
    await_scope(&holder, &unit, hierarchies)?;
    Ok(holder)
}

/// The answer comes before the scope: the kernel tells when its process is there.
fn await_scope(holder: &Holder, unit: &str, hierarchies: &Hierarchies) -> Result<(), CgroupError> {
    let file = format!("/proc/{}/cgroup", holder.pid.as_raw_nonzero());
    let started = Instant::now();
    while started.elapsed() < START {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let path = hierarchies.of_init().and_then(|hierarchy| hierarchy.of_process(&text));
        if path.is_some_and(|path| path.ends_with(&format!("/{unit}"))) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let source = io::Error::new(io::ErrorKind::TimedOut, "systemd has not made it in ten seconds");
    Err(CgroupError::Io { operation: "wait for", path: unit.to_owned(), source })
}

/// Tells systemd of new limits.
pub(crate) fn update(
    unit: &str,
    limits: &Limits,
    version: impl Fn(&str) -> Version,
) -> Result<(), CgroupError> {
    let list = properties(limits, version);
    if list.is_empty() {
        return Ok(());
    }
    let mut body = Body::default();
    body.text(unit);
    body.flag(true);
    body.properties(&list);
    let done = Bus::connect().and_then(|mut bus| bus.call("SetUnitProperties", "sba(sv)", &body));
    done.map_err(|source| CgroupError::Systemd {
        operation: "SetUnitProperties",
        unit: unit.to_owned(),
        source,
    })
}

/// Ends a scope and forgets how it ended. One that has gone, or nobody to ask, is no error: what
/// is left of its cgroup is removed by whoever asked.
pub(crate) fn stop(unit: &str) {
    if let Ok(mut bus) = Bus::connect() {
        end(&mut bus, unit);
    }
}

fn end(bus: &mut Bus, unit: &str) {
    let mut body = Body::default();
    body.text(unit);
    let mut replace = Body::default();
    replace.text(unit);
    replace.text("replace");
    let _ = bus.call("StopUnit", "ss", &replace);
    let _ = bus.call("ResetFailedUnit", "s", &body);
}

/// Waits until systemd has removed a directory that it made.
pub(crate) fn await_end(directory: &Path) {
    let started = Instant::now();
    while directory.exists() && started.elapsed() < END {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Limits as properties. What systemd has no property for is in the files alone, which it then
/// leaves as they are. Pure.
fn properties(limits: &Limits, version: impl Fn(&str) -> Version) -> Vec<Property> {
    let mut out = Vec::new();
    let mut number = |name, value: Option<u64>| {
        out.extend(value.map(|value| (name, Value::Number(value))));
    };
    let bound = |bound: Option<Bound>| bound.map(endless);
    match version("memory") {
        Version::V1 => number("MemoryLimit", bound(limits.memory)),
        Version::V2 => {
            number("MemoryMax", bound(limits.memory));
            number("MemoryLow", limits.memory_reservation);
            number("MemorySwapMax", bound(crate::limits::swap_v2(limits)));
        }
    }
    match version("cpu") {
        Version::V1 => number("CPUShares", limits.cpu_shares),
        Version::V2 => number("CPUWeight", limits.cpu_shares.map(cpu_weight)),
    }
    number("CPUQuotaPeriodUSec", limits.cpu_period_us);
    let period = limits.cpu_period_us.unwrap_or(100_000).max(1);
    let per_second = limits.cpu_quota_us.map(|quota| match quota {
        Bound::Unlimited => u64::MAX,
        // In whole hundredths, upwards, or what the files say would be taken back a little.
        Bound::At(quota) => (quota.saturating_mul(1_000_000) / period).next_multiple_of(10_000),
    });
    number("CPUQuotaPerSecUSec", per_second);
    number("TasksMax", bound(limits.pids));
    let weight = limits.block.weight.map(u64::from);
    match version("blkio") {
        Version::V1 => number("BlockIOWeight", weight),
        Version::V2 => {
            number("IOWeight", weight.map(|weight| 1 + (weight.max(10) - 10) * 9999 / 990));
        }
    }
    if version("cpuset") == Version::V2 {
        for (name, list) in
            [("AllowedCPUs", &limits.cpuset_cpus), ("AllowedMemoryNodes", &limits.cpuset_mems)]
        {
            let mask = list.as_deref().and_then(mask);
            out.extend(mask.map(|mask| (name, Value::Bytes(mask))));
        }
    }
    out
}

fn endless(bound: Bound) -> u64 {
    match bound {
        Bound::Unlimited => u64::MAX,
        Bound::At(value) => value,
    }
}

/// A list of ranges as bits, the first in the lowest of the first byte.
fn mask(list: &str) -> Option<Vec<u8>> {
    let mut out: Vec<u8> = Vec::new();
    for range in list.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last > 8191 {
            return None;
        }
        for bit in first..=last {
            if out.len() <= bit / 8 {
                out.resize(bit / 8 + 1, 0);
            }
            if let Some(byte) = out.get_mut(bit / 8) {
                *byte |= 1 << (bit % 8);
            }
        }
    }
    (!out.is_empty()).then_some(out)
}

/// The device list in systemd's words; `known` is /proc/devices, since groups have names there.
fn devices(rules: &[DeviceRule], known: &str) -> [Property; 2] {
    let mut list = Vec::new();
    for rule in rules {
        let kinds: &[(&str, &str)] = match rule.kind {
            'b' => &[("block", "/dev/block")],
            'c' => &[("char", "/dev/char")],
            _ => &[("block", "/dev/block"), ("char", "/dev/char")],
        };
        for (kind, directory) in kinds {
            let name = match (rule.major, rule.minor) {
                (None, _) => Some(format!("{kind}-*")),
                (Some(major), Some(minor)) => Some(format!("{directory}/{major}:{minor}")),
                (Some(major), None) => {
                    group(known, kind, major).map(|name| format!("{kind}-{name}"))
                }
            };
            list.extend(name.map(|name| (name, rule.access.clone())));
        }
    }
    [("DevicePolicy", Value::Text("strict".into())), ("DeviceAllow", Value::Pairs(list))]
}

fn group<'t>(known: &'t str, kind: &str, major: u32) -> Option<&'t str> {
    let (characters, blocks) = known.split_once("Block devices:")?;
    let part = if kind == "block" { blocks } else { characters };
    part.lines().find_map(|line| {
        let (number, name) = line.trim().split_once(' ')?;
        (number.parse() == Ok(major)).then_some(name.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_lie_in_slices() {
        assert_eq!(slice_path("system.slice").unwrap(), "system.slice");
        assert_eq!(slice_path("a-b-c.slice").unwrap(), "a.slice/a-b.slice/a-b-c.slice");
        assert_eq!(slice_path("-.slice").unwrap(), "");
        for wrong in
            ["", ".slice", "a", "a/b.slice", "a--b.slice", "-a.slice", "a-.slice", "é.slice"]
        {
            assert!(slice_path(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn limits_in_words_of_both_versions() {
        let limits = Limits {
            memory: Some(Bound::At(300)),
            memory_swap: Some(Bound::At(1000)),
            memory_reservation: Some(7),
            cpu_shares: Some(512),
            cpu_quota_us: Some(Bound::At(50_500)),
            cpu_period_us: Some(100_000),
            cpuset_cpus: Some("0-1,9".into()),
            pids: Some(Bound::Unlimited),
            ..Limits::default()
        };
        let number = Value::Number;
        assert_eq!(
            properties(&limits, |_| Version::V2),
            [
                ("MemoryMax", number(300)),
                ("MemoryLow", number(7)),
                ("MemorySwapMax", number(700)),
                ("CPUWeight", number(59)),
                ("CPUQuotaPeriodUSec", number(100_000)),
                ("CPUQuotaPerSecUSec", number(510_000)),
                ("TasksMax", number(u64::MAX)),
                ("AllowedCPUs", Value::Bytes(vec![3, 2])),
            ]
        );
        assert_eq!(
            properties(&limits, |_| Version::V1),
            [
                ("MemoryLimit", number(300)),
                ("CPUShares", number(512)),
                ("CPUQuotaPeriodUSec", number(100_000)),
                ("CPUQuotaPerSecUSec", number(510_000)),
                ("TasksMax", number(u64::MAX)),
            ]
        );
        assert_eq!(properties(&Limits::default(), |_| Version::V2), []);
    }

    #[test]
    fn devices_by_name_of_their_group() {
        let known = "Character devices:\n  1 mem\n136 pts\n\nBlock devices:\n  8 sd\n254 virtblk\n";
        let rule = |kind, major, minor| DeviceRule { kind, major, minor, access: "rwm".into() };
        let rules = [
            rule('c', None, None),
            rule('c', Some(1), Some(3)),
            rule('c', Some(136), None),
            rule('b', Some(254), None),
            rule('b', Some(77), None),
        ];
        let [policy, (_, Value::Pairs(list))] = devices(&rules, known) else { panic!() };
        assert_eq!(policy, ("DevicePolicy", Value::Text("strict".into())));
        let names: Vec<&str> = list.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["char-*", "/dev/char/1:3", "char-pts", "block-virtblk"]);
    }
}
