//! What a container's cgroup uses, as Docker tells it of either version. What the kernel does not
//! show is zero or absent.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};

use crate::hierarchy::Hierarchies;
use crate::{CgroupError, CgroupPlan, path_of, read_file};

/// The kernel's unit of times in /proc and in cpuacct.
const TICK_NS: u64 = 10_000_000;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu: CpuUsage,
    pub memory: MemoryUsage,
    pub pids: u64,
    /// v2 says `u64::MAX` where there is none, v1 nothing, as Docker tells it.
    pub pids_limit: u64,
    pub block: BlockUsage,
}

/// Nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuUsage {
    pub total: u64,
    pub user: u64,
    pub kernel: u64,
    /// v1 only.
    pub each: Vec<u64>,
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    pub usage: u64,
    /// v1 only.
    pub most: u64,
    pub failures: u64,
    pub limit: u64,
    pub details: BTreeMap<String, u64>,
}

/// What one device was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockEntry {
    pub major: u64,
    pub minor: u64,
    pub operation: String,
    pub value: u64,
}

/// `None` where the kernel's interface has no such figures at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockUsage {
    pub bytes: Option<Vec<BlockEntry>>,
    pub operations: Option<Vec<BlockEntry>>,
    pub queued: Option<Vec<BlockEntry>>,
    pub service_time: Option<Vec<BlockEntry>>,
    pub wait_time: Option<Vec<BlockEntry>>,
    pub merged: Option<Vec<BlockEntry>>,
    pub time: Option<Vec<BlockEntry>>,
    pub sectors: Option<Vec<BlockEntry>>,
}

/// What v1's memory.stat has that Docker shows; with `total_`, the same of the whole tree.
const MEMORY_V1: &[&str] = &[
    "cache",
    "rss",
    "rss_huge",
    "mapped_file",
    "dirty",
    "writeback",
    "pgpgin",
    "pgpgout",
    "pgfault",
    "pgmajfault",
    "inactive_anon",
    "active_anon",
    "inactive_file",
    "active_file",
    "unevictable",
];

/// The same of v2.
const MEMORY_V2: &[&str] = &[
    "anon",
    "file",
    "kernel_stack",
    "slab",
    "sock",
    "shmem",
    "file_mapped",
    "file_dirty",
    "file_writeback",
    "anon_thp",
    "inactive_anon",
    "active_anon",
    "inactive_file",
    "active_file",
    "unevictable",
    "slab_reclaimable",
    "slab_unreclaimable",
    "pgfault",
    "pgmajfault",
    "workingset_refault",
    "workingset_activate",
    "workingset_nodereclaim",
    "pgrefill",
    "pgscan",
    "pgsteal",
    "pgactivate",
    "pgdeactivate",
    "pglazyfree",
    "pglazyfreed",
    "thp_fault_alloc",
    "thp_collapse_alloc",
];

/// Reads many cgroups; the machine's hierarchies are looked up once.
#[derive(Debug)]
pub struct Meter(Hierarchies);

/// One controller's directory of a container.
struct Files {
    directory: OwnedFd,
    unified: bool,
}

impl Files {
    fn text(&self, file: &str) -> Option<String> {
        read_file(self.directory.as_fd(), file).ok()
    }

    fn number(&self, file: &str) -> u64 {
        self.text(file).map_or(0, |text| number(text.trim()))
    }

    fn table(&self, file: &str) -> BTreeMap<String, u64> {
        self.text(file).map(|text| table(&text)).unwrap_or_default()
    }

    fn entries(&self, file: &str) -> Vec<BlockEntry> {
        self.text(file).map(|text| entries(&text)).unwrap_or_default()
    }
}

impl Meter {
    pub fn new() -> Result<Self, CgroupError> {
        Hierarchies::of_this_machine().map(Self)
    }

    /// What a container uses now; `None` where it has no cgroup (any more).
    pub fn read(&self, plan: &CgroupPlan) -> Result<Option<Usage>, CgroupError> {
        let path = path_of(plan, &self.0)?;
        let mut found = false;
        let mut of = |controller: &str| -> Result<Option<Files>, CgroupError> {
            let Some(hierarchy) = self.0.used().find(|one| one.has(controller)) else {
                return Ok(None);
            };
            let directory = hierarchy.open(&path)?;
            found |= directory.is_some();
            Ok(directory.map(|directory| Files { directory, unified: hierarchy.unified }))
        };
        let mut usage = Usage::default();
        if let Some(cpu) = of("cpu")? {
            match cpu.unified {
                true => usage.cpu = cpu_v2(&cpu.table("cpu.stat")),
                false => throttling(&mut usage.cpu, &cpu.table("cpu.stat"), 1, "throttled_time"),
            }
        }
        if let Some(times) = of("cpuacct")? {
            cpuacct(&mut usage.cpu, &times);
        }
        if let Some(memory) = of("memory")? {
            usage.memory = if memory.unified { memory_v2(&memory) } else { memory_v1(&memory) };
        }
        if let Some(pids) = of("pids")? {
            usage.pids = pids.number("pids.current");
            let most = pids.number("pids.max");
            usage.pids_limit = if !pids.unified && most == u64::MAX { 0 } else { most };
        }
        if let Some(io) = of("io")? {
            let text = io.text("io.stat").unwrap_or_default();
            usage.block.bytes = Some(io_v2(&text)).filter(|list| !list.is_empty());
        } else if let Some(block) = of("blkio")? {
            usage.block = block_v1(&block);
        }
        Ok(found.then_some(usage))
    }
}

fn number(text: &str) -> u64 {
    if text == "max" { u64::MAX } else { text.parse().unwrap_or(0) }
}

fn table(text: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

fn get(table: &BTreeMap<String, u64>, key: &str) -> u64 {
    table.get(key).copied().unwrap_or(0)
}

fn throttling(cpu: &mut CpuUsage, stat: &BTreeMap<String, u64>, unit: u64, key: &str) {
    cpu.periods = get(stat, "nr_periods");
    cpu.throttled_periods = get(stat, "nr_throttled");
    cpu.throttled = get(stat, key).saturating_mul(unit);
}

fn cpu_v2(stat: &BTreeMap<String, u64>) -> CpuUsage {
    let ns = |key| get(stat, key).saturating_mul(1000);
    let mut cpu = CpuUsage {
        total: ns("usage_usec"),
        user: ns("user_usec"),
        kernel: ns("system_usec"),
        ..CpuUsage::default()
    };
    throttling(&mut cpu, stat, 1000, "throttled_usec");
    cpu
}

fn cpuacct(cpu: &mut CpuUsage, files: &Files) {
    cpu.total = files.number("cpuacct.usage");
    let each = files.text("cpuacct.usage_percpu").unwrap_or_default();
    cpu.each = each.split_whitespace().map(number).collect();
    let stat = files.table("cpuacct.stat");
    cpu.user = get(&stat, "user").saturating_mul(TICK_NS);
    cpu.kernel = get(&stat, "system").saturating_mul(TICK_NS);
}

fn memory_v1(files: &Files) -> MemoryUsage {
    let stat = files.table("memory.stat");
    let own = MEMORY_V1.iter().map(|key| (*key).to_owned());
    let whole = MEMORY_V1.iter().map(|key| format!("total_{key}"));
    let limits = ["hierarchical_memory_limit", "hierarchical_memsw_limit"].map(str::to_owned);
    let keys = own.chain(whole).chain(limits);
    MemoryUsage {
        usage: files.number("memory.usage_in_bytes"),
        most: files.number("memory.max_usage_in_bytes"),
        failures: files.number("memory.failcnt"),
        limit: files.number("memory.limit_in_bytes"),
        details: keys.map(|key| (key.clone(), get(&stat, &key))).collect(),
    }
}

fn memory_v2(files: &Files) -> MemoryUsage {
    let stat = files.table("memory.stat");
    let details = MEMORY_V2.iter().map(|key| ((*key).to_owned(), get(&stat, key)));
    MemoryUsage {
        usage: files.number("memory.current"),
        most: 0,
        failures: get(&files.table("memory.events"), "oom"),
        limit: files.number("memory.max"),
        details: details.collect(),
    }
}

/// `8:0 rbytes=1 wbytes=2 …`, as reads and writes.
fn io_v2(text: &str) -> Vec<BlockEntry> {
    let mut out = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let device = words.next().and_then(|device| device.split_once(':'));
        let Some((Ok(major), Ok(minor))) = device.map(|(a, b)| (a.parse(), b.parse())) else {
            continue;
        };
        let pairs: BTreeMap<&str, &str> = words.filter_map(|word| word.split_once('=')).collect();
        for (operation, key) in [("read", "rbytes"), ("write", "wbytes")] {
            let value = pairs.get(key).map_or(0, |value| number(value));
            out.push(BlockEntry { major, minor, operation: operation.into(), value });
        }
    }
    out
}

/// The scheduler's own figures where it has some, else those of throttling, which every one has.
fn block_v1(files: &Files) -> BlockUsage {
    let schedulers = ["blkio.", "blkio.bfq."];
    let of = |scheduler: &&str| files.text(&format!("{scheduler}io_serviced_recursive")).is_some();
    let Some(scheduler) = schedulers.into_iter().find(|one| of(one)) else {
        return BlockUsage {
            bytes: Some(files.entries("blkio.throttle.io_service_bytes_recursive")),
            operations: Some(files.entries("blkio.throttle.io_serviced_recursive")),
            queued: Some(Vec::new()),
            service_time: Some(Vec::new()),
            wait_time: Some(Vec::new()),
            merged: Some(Vec::new()),
            time: Some(Vec::new()),
            sectors: Some(Vec::new()),
        };
    };
    let read = |file: &str| Some(files.entries(&format!("{scheduler}{file}")));
    BlockUsage {
        bytes: read("io_service_bytes_recursive"),
        operations: read("io_serviced_recursive"),
        queued: read("io_queued_recursive"),
        service_time: read("io_service_time_recursive"),
        wait_time: read("io_wait_time_recursive"),
        merged: read("io_merged_recursive"),
        time: read("time_recursive"),
        sectors: read("sectors_recursive"),
    }
}

/// `8:0 Read 123`, or without an operation; the last line is the sum.
fn entries(text: &str) -> Vec<BlockEntry> {
    let line = |line: &str| {
        let (device, rest) = line.split_once(' ')?;
        let (major, minor) = device.split_once(':')?;
        let (operation, value) = rest.trim().rsplit_once(' ').unwrap_or(("", rest.trim()));
        Some(BlockEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            operation: operation.to_owned(),
            value: value.parse().ok()?,
        })
    };
    text.lines().filter_map(line).collect()
}

/// Nanoseconds that all CPUs together have counted, in whatever way, and how many there are: from
/// /proc/stat.
pub fn system_cpu(stat: &str) -> (u64, u32) {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let ticks: u64 = all.split_whitespace().take(7).map(number).sum();
    let is_cpu = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let cpus = stat.lines().filter(is_cpu).count();
    (ticks.saturating_mul(TICK_NS), u32::try_from(cpus).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices() {
        let one = |operation: &str, value| BlockEntry {
            major: 8,
            minor: 16,
            operation: operation.into(),
            value,
        };
        let text = "8:16 Read 10\n8:16 Write 0\n8:16 Total 10\nTotal 10\n";
        assert_eq!(entries(text), [one("Read", 10), one("Write", 0), one("Total", 10)]);
        assert_eq!(entries("8:16 7\n"), [one("", 7)]);
        let text = "8:16 rbytes=5 wbytes=6 rios=1 wios=2 dbytes=0 dios=0\n7:0 \nx\n";
        let found = io_v2(text);
        assert_eq!(found[..2], [one("read", 5), one("write", 6)]);
        assert_eq!(found[2].value, 0);
    }

    #[test]
    fn times() {
        let stat = "cpu  1 2 3 4 5 6 7 100 200 300\ncpu0 1 0 0 0 0 0 0 0 0 0\ncpu1 0 0\nintr 5\n";
        assert_eq!(system_cpu(stat), (28 * TICK_NS, 2));
        assert_eq!(system_cpu(""), (0, 0));
        let stat = table(
            "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 9\nnr_throttled 4\nthrottled_usec 7\n",
        );
        let cpu = cpu_v2(&stat);
        assert_eq!((cpu.total, cpu.user, cpu.kernel, cpu.throttled), (5000, 3000, 2000, 7000));
        assert_eq!((cpu.periods, cpu.throttled_periods), (9, 4));
    }

    #[test]
    fn what_has_no_cgroup_has_no_usage() {
        let plan = CgroupPlan { parent: "hoy-none".into(), name: "x".into(), ..Default::default() };
        assert_eq!(Meter::new().unwrap().read(&plan).unwrap(), None);
    }
}
