//! Limits in their natural units, and what each kernel interface wants written for them. Pure.

use serde::{Deserialize, Serialize};

/// Everything a container may be limited in; what is `None` or empty is left as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<Bound>,
    /// Bytes of memory and swap together.
    pub memory_swap: Option<Bound>,
    /// Bytes that are taken last when memory is short.
    pub memory_reservation: Option<u64>,
    /// 0 to 100; v1 only.
    pub swappiness: Option<u64>,
    /// Processes wait instead of being killed; v1 only.
    pub oom_kill_disable: Option<bool>,
    /// Relative, 2 to 262144; 1024 is everybody's.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU time in each period.
    pub cpu_quota_us: Option<Bound>,
    pub cpu_period_us: Option<u64>,
    /// v1 only, on kernels that schedule real-time tasks by group.
    pub realtime: Realtime,
    /// Lists of ranges: `0-2,5`.
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    pub pids: Option<Bound>,
    pub block: BlockLimits,
    /// Bytes per page size, which is named as the kernel does: `2MB`.
    pub hugetlb: Vec<(String, u64)>,
}

/// A number, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bound {
    Unlimited,
    At(u64),
}

impl Bound {
    /// The API's way: negative is unlimited, zero is not said.
    pub fn from_api(value: i64) -> Option<Self> {
        match value {
            0 => None,
            value => Some(u64::try_from(value).map_or(Self::Unlimited, Self::At)),
        }
    }

    fn or(self, unlimited: &str) -> String {
        match self {
            Self::Unlimited => unlimited.to_owned(),
            Self::At(value) => value.to_string(),
        }
    }
}

/// Microseconds that real-time tasks of a container may run, of each period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Realtime {
    pub runtime_us: Option<u64>,
    pub period_us: Option<u64>,
    /// What the parents are given first, as the daemon's settings say: they have none of their own.
    pub parent_runtime_us: Option<u64>,
    pub parent_period_us: Option<u64>,
}

/// Limits on block devices.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BlockLimits {
    /// 10 to 1000.
    pub weight: Option<u16>,
    pub weights: Vec<PerDevice>,
    /// Bytes or operations per second.
    pub read_bps: Vec<PerDevice>,
    pub write_bps: Vec<PerDevice>,
    pub read_iops: Vec<PerDevice>,
    pub write_iops: Vec<PerDevice>,
}

/// A value for one block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerDevice {
    pub major: u32,
    pub minor: u32,
    pub value: u64,
}

/// One value to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub controller: &'static str,
    /// File and value; the first file that exists counts.
    pub choices: Vec<(String, String)>,
    /// What the limit is called when it cannot be set.
    pub limit: &'static str,
}

/// Which interface serves a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// What to write for these limits, in order. What v2 has no file for is left out: Docker's warning
/// has been given by then.
pub(crate) fn settings(limits: &Limits, version: impl Fn(&str) -> Version) -> Vec<Setting> {
    let mut out = Vec::new();
    match version("memory") {
        Version::V1 => memory_v1(limits, &mut out),
        Version::V2 => memory_v2(limits, &mut out),
    }
    match version("cpu") {
        Version::V1 => cpu_v1(limits, &mut out),
        Version::V2 => cpu_v2(limits, &mut out),
    }
    // Both versions have these under one name.
    let mut set = |controller, file: &str, value: &Option<String>, limit| {
        if let Some(value) = value {
            out.push(setting(controller, file, value.clone(), limit));
        }
    };
    set("cpuset", "cpuset.cpus", &limits.cpuset_cpus, "cpuset cpus");
    set("cpuset", "cpuset.mems", &limits.cpuset_mems, "cpuset mems");
    set("pids", "pids.max", &limits.pids.map(|pids| pids.or("max")), "pids limit");
    match version("blkio") {
        Version::V1 => block_v1(&limits.block, &mut out),
        Version::V2 => block_v2(&limits.block, &mut out),
    }
    for (size, bytes) in &limits.hugetlb {
        let last = match version("hugetlb") {
            Version::V1 => "limit_in_bytes",
            Version::V2 => "max",
        };
        let file = format!("hugetlb.{size}.{last}");
        out.push(setting("hugetlb", &file, bytes.to_string(), "hugetlb limit"));
    }
    out
}

fn setting(controller: &'static str, file: &str, value: String, limit: &'static str) -> Setting {
    Setting { controller, choices: vec![(file.to_owned(), value)], limit }
}

fn memory_v1(limits: &Limits, out: &mut Vec<Setting>) {
    let mut set = |file, value: Option<String>, limit| {
        out.extend(value.map(|value| setting("memory", file, value, limit)));
    };
    set("memory.limit_in_bytes", limits.memory.map(|b| b.or("-1")), "memory limit");
    set("memory.memsw.limit_in_bytes", limits.memory_swap.map(|b| b.or("-1")), "swap limit");
    let reservation = limits.memory_reservation.map(|bytes| bytes.to_string());
    set("memory.soft_limit_in_bytes", reservation, "memory reservation");
    set("memory.swappiness", limits.swappiness.map(|value| value.to_string()), "swappiness");
    let disable = limits.oom_kill_disable.map(|yes| if yes { "1" } else { "0" }.to_owned());
    set("memory.oom_control", disable, "OOM kill disable");
}

fn memory_v2(limits: &Limits, out: &mut Vec<Setting>) {
    let mut set = |file, value: Option<String>, limit| {
        out.extend(value.map(|value| setting("memory", file, value, limit)));
    };
    set("memory.max", limits.memory.map(|b| b.or("max")), "memory limit");
    set("memory.swap.max", swap_v2(limits).map(|b| b.or("max")), "swap limit");
    set("memory.low", limits.memory_reservation.map(|b| b.to_string()), "memory reservation");
}

/// Here swap is counted alone.
pub(crate) fn swap_v2(limits: &Limits) -> Option<Bound> {
    match (limits.memory, limits.memory_swap) {
        (_, Some(Bound::Unlimited)) | (Some(Bound::Unlimited), None) => Some(Bound::Unlimited),
        (Some(Bound::At(memory)), Some(Bound::At(both))) => {
            Some(Bound::At(both.saturating_sub(memory)))
        }
        // Of an unknown memory nothing can be taken away: refused before.
        _ => None,
    }
}

fn cpu_v1(limits: &Limits, out: &mut Vec<Setting>) {
    let mut set = |file, value: Option<String>, limit| {
        out.extend(value.map(|value| setting("cpu", file, value, limit)));
    };
    let number = |value: Option<u64>| value.map(|value| value.to_string());
    set("cpu.shares", number(limits.cpu_shares), "CPU shares");
    set("cpu.cfs_period_us", number(limits.cpu_period_us), "CPU period");
    set("cpu.cfs_quota_us", limits.cpu_quota_us.map(|b| b.or("-1")), "CPU quota");
    set("cpu.rt_period_us", number(limits.realtime.period_us), "CPU real-time period");
    set("cpu.rt_runtime_us", number(limits.realtime.runtime_us), "CPU real-time runtime");
}

fn cpu_v2(limits: &Limits, out: &mut Vec<Setting>) {
    if let Some(shares) = limits.cpu_shares {
        out.push(setting("cpu", "cpu.weight", cpu_weight(shares).to_string(), "CPU shares"));
    }
    if limits.cpu_quota_us.is_some() || limits.cpu_period_us.is_some() {
        let quota = limits.cpu_quota_us.unwrap_or(Bound::Unlimited).or("max");
        let period = limits.cpu_period_us.unwrap_or(100_000);
        out.push(setting("cpu", "cpu.max", format!("{quota} {period}"), "CPU quota"));
    }
}

/// v1's 2 to 262144 around 1024 as v2's 1 to 10000 around 100: a quadratic curve between their
/// logarithms that goes through all three pairs.
pub fn cpu_weight(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let l = (shares as f64).log2();
    let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
    10_f64.powf(exponent).ceil() as u64
}

fn block_v1(block: &BlockLimits, out: &mut Vec<Setting>) {
    let either = |name: &str, value: String, limit| Setting {
        controller: "blkio",
        choices: ["blkio.bfq", "blkio"].map(|by| (format!("{by}.{name}"), value.clone())).into(),
        limit,
    };
    if let Some(weight) = block.weight {
        out.push(either("weight", weight.to_string(), "block I/O weight"));
    }
    for device in &block.weights {
        out.push(either("weight_device", line(device), "block I/O weight of a device"));
    }
    for (file, list) in [
        ("read_bps_device", &block.read_bps),
        ("write_bps_device", &block.write_bps),
        ("read_iops_device", &block.read_iops),
        ("write_iops_device", &block.write_iops),
    ] {
        for device in list {
            let file = format!("blkio.throttle.{file}");
            out.push(setting("blkio", &file, line(device), "block I/O limit of a device"));
        }
    }
}

fn line(device: &PerDevice) -> String {
    format!("{}:{} {}", device.major, device.minor, device.value)
}

fn block_v2(block: &BlockLimits, out: &mut Vec<Setting>) {
    if let Some(weight) = block.weight {
        // bfq's file takes Docker's scale; the other has its own.
        let scaled = 1 + (u64::from(weight).max(10) - 10) * 9999 / 990;
        let choices = [("io.bfq.weight", u64::from(weight)), ("io.weight", scaled)];
        out.push(Setting {
            controller: "io",
            choices: choices.map(|(file, value)| (file.to_owned(), value.to_string())).into(),
            limit: "block I/O weight",
        });
    }
    for device in &block.weights {
        out.push(setting("io", "io.bfq.weight", line(device), "block I/O weight of a device"));
    }
    for (key, list) in [
        ("rbps", &block.read_bps),
        ("wbps", &block.write_bps),
        ("riops", &block.read_iops),
        ("wiops", &block.write_iops),
    ] {
        for device in list {
            let value = format!("{}:{} {key}={}", device.major, device.minor, device.value);
            out.push(setting("io", "io.max", value, "block I/O limit of a device"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(limits: &Limits, version: Version) -> Vec<String> {
        let all = settings(limits, |_| version);
        let text = |(file, value): &(String, String)| format!("{file} = {value}");
        all.iter().map(|s| s.choices.iter().map(text).collect::<Vec<_>>().join(" | ")).collect()
    }

    #[test]
    fn weights_go_through_the_known_pairs() {
        for (shares, weight) in [
            (2, 1),
            (10, 4),
            (100, 17),
            (128, 21),
            (256, 35),
            (512, 59),
            (1000, 99),
            (1024, 100),
            (2048, 174),
            (4096, 303),
            (10_240, 639),
            (65_536, 3023),
            (131_072, 5478),
            (262_144, 10_000),
        ] {
            assert_eq!(cpu_weight(shares), weight, "{shares}");
        }
    }

    #[test]
    fn swap_is_counted_as_each_kernel_counts_it() {
        let at = |memory, swap| Limits {
            memory: Bound::from_api(memory),
            memory_swap: Bound::from_api(swap),
            ..Limits::default()
        };
        let v2 = |memory, swap| written(&at(memory, swap), Version::V2);
        assert_eq!(v2(300, 1000), ["memory.max = 300", "memory.swap.max = 700"]);
        assert_eq!(v2(300, 300), ["memory.max = 300", "memory.swap.max = 0"]);
        assert_eq!(v2(300, -1), ["memory.max = 300", "memory.swap.max = max"]);
        assert_eq!(v2(300, 0), ["memory.max = 300"]);
        assert_eq!(v2(-1, 0), ["memory.max = max", "memory.swap.max = max"]);
        assert_eq!(
            written(&at(300, -1), Version::V1),
            ["memory.limit_in_bytes = 300", "memory.memsw.limit_in_bytes = -1"]
        );
    }

    #[test]
    fn both_versions_of_everything() {
        let device = |value| vec![PerDevice { major: 8, minor: 16, value }];
        let limits = Limits {
            memory_reservation: Some(7),
            swappiness: Some(10),
            oom_kill_disable: Some(true),
            cpu_shares: Some(512),
            cpu_quota_us: Some(Bound::At(50_000)),
            cpu_period_us: Some(100_000),
            realtime: Realtime { runtime_us: Some(5), period_us: Some(9), ..Realtime::default() },
            cpuset_cpus: Some("0-1".into()),
            cpuset_mems: Some("0".into()),
            pids: Some(Bound::Unlimited),
            block: BlockLimits {
                weight: Some(500),
                weights: device(300),
                read_bps: device(1),
                write_bps: device(2),
                read_iops: device(3),
                write_iops: device(4),
            },
            hugetlb: vec![("2MB".into(), 9)],
            ..Limits::default()
        };
        assert_eq!(
            written(&limits, Version::V1),
            [
                "memory.soft_limit_in_bytes = 7",
                "memory.swappiness = 10",
                "memory.oom_control = 1",
                "cpu.shares = 512",
                "cpu.cfs_period_us = 100000",
                "cpu.cfs_quota_us = 50000",
                "cpu.rt_period_us = 9",
                "cpu.rt_runtime_us = 5",
                "cpuset.cpus = 0-1",
                "cpuset.mems = 0",
                "pids.max = max",
                "blkio.bfq.weight = 500 | blkio.weight = 500",
                "blkio.bfq.weight_device = 8:16 300 | blkio.weight_device = 8:16 300",
                "blkio.throttle.read_bps_device = 8:16 1",
                "blkio.throttle.write_bps_device = 8:16 2",
                "blkio.throttle.read_iops_device = 8:16 3",
                "blkio.throttle.write_iops_device = 8:16 4",
                "hugetlb.2MB.limit_in_bytes = 9",
            ]
        );
        assert_eq!(
            written(&limits, Version::V2),
            [
                "memory.low = 7",
                "cpu.weight = 59",
                "cpu.max = 50000 100000",
                "cpuset.cpus = 0-1",
                "cpuset.mems = 0",
                "pids.max = max",
                "io.bfq.weight = 500 | io.weight = 4950",
                "io.bfq.weight = 8:16 300",
                "io.max = 8:16 rbps=1",
                "io.max = 8:16 wbps=2",
                "io.max = 8:16 riops=3",
                "io.max = 8:16 wiops=4",
                "hugetlb.2MB.max = 9",
            ]
        );
    }
}
