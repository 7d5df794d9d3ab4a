//! Which limits this kernel has, found out once from a cgroup made for it.

use crate::{Cgroup, CgroupError, CgroupPlan, Driver, Hierarchies, read_file};

/// What can be limited here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Support {
    pub memory: bool,
    pub swap: bool,
    pub reservation: bool,
    pub swappiness: bool,
    pub oom_kill_disable: bool,
    pub cpu_shares: bool,
    pub cpu_quota: bool,
    pub realtime: bool,
    pub cpuset: bool,
    /// The CPUs and memory nodes there are, as lists of ranges.
    pub cpus: String,
    pub mems: String,
    pub pids: bool,
    pub block_weight: bool,
    pub block_weight_device: bool,
    pub block_bps: bool,
    pub block_iops: bool,
}

impl Support {
    /// Makes a cgroup below the parent, looks at its files and removes it. One beside systemd's
    /// slices, where those are the parents: a scope needs a process, and this one is no container.
    pub fn probe(parent: &str, driver: Driver) -> Result<Self, CgroupError> {
        let mut parent = parent.to_owned();
        if driver == Driver::Systemd {
            parent = crate::systemd::base(&Hierarchies::of_this_machine()?);
        }
        // Always the same name: one that a killed daemon left is taken over and removed.
        let name = "hoy-probe".to_owned();
        let plan = CgroupPlan { parent, name, ..CgroupPlan::default() };
        let cgroup = Cgroup::create(&plan)?;
        let found = Self::of(&cgroup);
        cgroup.remove();
        Ok(found)
    }

    fn of(cgroup: &Cgroup) -> Self {
        let any = |pairs: &[(&str, &str)]| pairs.iter().any(|(c, file)| cgroup.shows(c, file));
        let root = |files: &[&str]| {
            let hierarchies = Hierarchies::of_this_machine().ok();
            let found = hierarchies.iter().flat_map(Hierarchies::used).find_map(|hierarchy| {
                let directory = hierarchy.has("cpuset").then(|| hierarchy.open("").ok()?)??;
                let read = |file: &&str| read_file(std::os::fd::AsFd::as_fd(&directory), file).ok();
                files.iter().find_map(read)
            });
            found.unwrap_or_default().trim().to_owned()
        };
        Self {
            memory: any(&[("memory", "memory.limit_in_bytes"), ("memory", "memory.max")]),
            swap: any(&[("memory", "memory.memsw.limit_in_bytes"), ("memory", "memory.swap.max")]),
            reservation: any(&[("memory", "memory.soft_limit_in_bytes"), ("memory", "memory.low")]),
            swappiness: any(&[("memory", "memory.swappiness")]),
            oom_kill_disable: any(&[("memory", "memory.oom_control")]),
            cpu_shares: any(&[("cpu", "cpu.shares"), ("cpu", "cpu.weight")]),
            cpu_quota: any(&[("cpu", "cpu.cfs_quota_us"), ("cpu", "cpu.max")]),
            realtime: any(&[("cpu", "cpu.rt_runtime_us")]),
            cpuset: any(&[("cpuset", "cpuset.cpus")]),
            cpus: root(&["cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"]),
            mems: root(&["cpuset.mems.effective", "cpuset.effective_mems", "cpuset.mems"]),
            pids: any(&[("pids", "pids.max")]),
            block_weight: any(&[
                ("blkio", "blkio.bfq.weight"),
                ("blkio", "blkio.weight"),
                ("io", "io.bfq.weight"),
                ("io", "io.weight"),
            ]),
            block_weight_device: any(&[
                ("blkio", "blkio.bfq.weight_device"),
                ("blkio", "blkio.weight_device"),
                ("io", "io.bfq.weight"),
            ]),
            block_bps: any(&[("blkio", "blkio.throttle.read_bps_device"), ("io", "io.max")]),
            block_iops: any(&[("blkio", "blkio.throttle.read_iops_device"), ("io", "io.max")]),
        }
    }
}
