//! Resource limits: Docker's checks and warnings, updates, and what they mean to the kernel.
//!
//! Pure, but for the numbers of devices, which the caller looks up.

use hoy_cgroup::{BlockLimits, Bound, Limits, PerDevice, Realtime, Support};
use hoy_config::Settings;
use hoy_wire::{HostConfig, ThrottleDevice, WeightDevice};

use crate::error::{Error, Result};

/// Docker's smallest memory limit.
const MIN_MEMORY: i64 = 6 << 20;
/// Beyond this no CPU or memory node is believed to exist: lists are expanded.
const MAX_NUMBER: usize = 8192;

const NO_KERNEL_MEMORY: &str = "Your kernel does not support kernel memory limit capabilities or the cgroup is not mounted. Limitation discarded.";
const NO_OOM_KILLER: &str = "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.";

/// Checks the limits of a request, and takes those out that this kernel does not have: each with
/// its warning.
pub(crate) fn verify(
    host: &mut HostConfig,
    support: &Support,
    cpus: usize,
    update: bool,
) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    memory(host, support, update, &mut warnings)?;
    cpu(host, support, cpus, &mut warnings)?;
    cpuset(host, support, &mut warnings)?;
    block(host, support, &mut warnings)?;
    Ok(warnings)
}

fn lacks(warnings: &mut Vec<String>, what: &str, consequence: &str) {
    warnings.push(format!(
        "Your kernel does not support {what} or the cgroup is not mounted. {consequence}"
    ));
}

fn invalid<T>(text: &str) -> Result<T> {
    Err(Error::invalid(text))
}

fn memory(
    host: &mut HostConfig,
    support: &Support,
    update: bool,
    warnings: &mut Vec<String>,
) -> Result<()> {
    if host.memory != 0 && host.memory < MIN_MEMORY {
        return invalid("Minimum memory limit allowed is 6MB");
    }
    if host.memory > 0 && !support.memory {
        lacks(warnings, "memory limit capabilities", "Limitation discarded.");
        host.memory = 0;
        host.memory_swap = -1;
    }
    if host.memory > 0 && host.memory_swap != -1 && !support.swap {
        lacks(warnings, "swap limit capabilities", "Memory limited without swap.");
        host.memory_swap = -1;
    }
    if host.memory > 0 && host.memory_swap > 0 && host.memory_swap < host.memory {
        return invalid("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if host.memory == 0 && host.memory_swap > 0 && !update {
        return invalid(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        );
    }
    // What the command line sends for "not said".
    if host.memory_swappiness == Some(-1) {
        host.memory_swappiness = None;
    }
    if let Some(swappiness) = host.memory_swappiness {
        if !support.swappiness {
            lacks(warnings, "memory swappiness capabilities", "Memory swappiness discarded.");
            host.memory_swappiness = None;
        } else if !(0..=100).contains(&swappiness) {
            return Err(Error::invalid(format!(
                "Invalid value: {swappiness}, valid memory swappiness range is 0-100"
            )));
        }
    }
    if host.memory_reservation != 0 && host.memory_reservation < MIN_MEMORY {
        return invalid("Minimum memory reservation allowed is 6MB");
    }
    if host.memory_reservation > 0 && !support.reservation {
        lacks(warnings, "memory soft limit capabilities", "Limitation discarded.");
        host.memory_reservation = 0;
    }
    if host.memory > 0 && host.memory_reservation > 0 && host.memory < host.memory_reservation {
        return invalid(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        );
    }
    for value in [&mut host.kernel_memory, &mut host.kernel_memory_tcp] {
        // No kernel of today has it.
        if std::mem::take(value) != 0 && !warnings.iter().any(|known| known == NO_KERNEL_MEMORY) {
            warnings.push(NO_KERNEL_MEMORY.to_owned());
        }
    }
    if host.oom_kill_disable.is_some() && !support.oom_kill_disable {
        if host.oom_kill_disable == Some(true) {
            warnings.push(
                "Your kernel does not support OomKillDisable. OomKillDisable discarded.".into(),
            );
        }
        host.oom_kill_disable = None;
    }
    if host.oom_kill_disable == Some(true) && host.memory == 0 {
        warnings.push(NO_OOM_KILLER.to_owned());
    }
    if host.pids_limit.is_some() && !support.pids {
        if host.pids_limit.is_some_and(|limit| limit > 0) {
            lacks(warnings, "PIDs limit capabilities", "PIDs limit discarded.");
        }
        host.pids_limit = None;
    }
    Ok(())
}

fn cpu(
    host: &mut HostConfig,
    support: &Support,
    cpus: usize,
    warnings: &mut Vec<String>,
) -> Result<()> {
    if host.nano_cpus > 0 && host.cpu_period > 0 {
        return invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set");
    }
    if host.nano_cpus > 0 && host.cpu_quota > 0 {
        return invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
    }
    if host.nano_cpus > 0 && !support.cpu_quota {
        return invalid(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted",
        );
    }
    if host.nano_cpus < 0 || host.nano_cpus > cpus as i64 * 1_000_000_000 {
        return Err(Error::invalid(format!(
            "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        )));
    }
    if host.cpu_shares < 0 {
        return Err(Error::invalid(format!(
            "invalid CPU shares ({}): shares cannot be negative",
            host.cpu_shares
        )));
    }
    if host.cpu_shares > 0 && !support.cpu_shares {
        lacks(warnings, "CPU shares", "Shares discarded.");
        host.cpu_shares = 0;
    }
    if host.cpu_shares == 1 {
        return invalid("the minimum allowed cpu-shares is 2");
    }
    if host.cpu_shares > 262_144 {
        return invalid("the maximum allowed cpu-shares is 262144");
    }
    if (host.cpu_period != 0 || host.cpu_quota != 0) && !support.cpu_quota {
        warnings.push(
            "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.".into(),
        );
        host.cpu_period = 0;
        host.cpu_quota = 0;
    }
    if host.cpu_period != 0 && !(1000..=1_000_000).contains(&host.cpu_period) {
        return invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if host.cpu_quota > 0 && host.cpu_quota < 1000 {
        return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    if host.cpu_percent > 0 {
        warnings.push("linux does not support CPU percent. Percent discarded.".into());
        host.cpu_percent = 0;
    }
    let realtime = host.cpu_realtime_period != 0 || host.cpu_realtime_runtime != 0;
    if realtime && !support.realtime {
        return invalid("kernel does not support CPU real-time scheduler");
    }
    if host.cpu_realtime_period != 0 && host.cpu_realtime_runtime > host.cpu_realtime_period {
        return invalid("cpu real-time runtime cannot be higher than cpu real-time period");
    }
    if host.cpu_realtime_period < 0 || host.cpu_realtime_runtime < 0 {
        return invalid("cpu real-time runtime and period cannot be negative");
    }
    Ok(())
}

fn cpuset(host: &mut HostConfig, support: &Support, warnings: &mut Vec<String>) -> Result<()> {
    if host.cpuset_cpus.is_empty() && host.cpuset_mems.is_empty() {
        return Ok(());
    }
    if !support.cpuset {
        lacks(warnings, "cpuset", "Cpuset discarded.");
        host.cpuset_cpus.clear();
        host.cpuset_mems.clear();
        return Ok(());
    }
    for (asked, there, what, many) in [
        (&host.cpuset_cpus, &support.cpus, "cpus", "CPUs"),
        (&host.cpuset_mems, &support.mems, "mems", "memory nodes"),
    ] {
        let bad = |text| Error::invalid(format!("Invalid value {asked} for cpuset {what}: {text}"));
        let wanted = numbers(asked).map_err(bad)?;
        let available = numbers(there).unwrap_or_default();
        if wanted.iter().any(|number| !available.contains(number)) {
            return Err(Error::invalid(format!(
                "Requested {many} are not available - requested {asked}, available: {there}"
            )));
        }
    }
    Ok(())
}

/// The numbers of a list of ranges: `0-2,5`.
fn numbers(list: &str) -> std::result::Result<Vec<usize>, String> {
    let mut out = Vec::new();
    for part in list.split(',').filter(|_| !list.is_empty()) {
        let bad = || format!("invalid format: {part}");
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
        if !digits(first) || !digits(last) {
            return Err(bad());
        }
        let number = |text: &str| text.parse::<usize>().ok().filter(|n| *n <= MAX_NUMBER);
        let range = number(first).zip(number(last));
        let (first, last) =
            range.ok_or_else(|| format!("value of out range, maximum is {MAX_NUMBER}"))?;
        if first > last {
            return Err(bad());
        }
        out.extend(first..=last);
    }
    Ok(out)
}

fn block(host: &mut HostConfig, support: &Support, warnings: &mut Vec<String>) -> Result<()> {
    if host.blkio_weight > 0 && !support.block_weight {
        lacks(warnings, "Block I/O weight", "Weight discarded.");
        host.blkio_weight = 0;
    }
    if host.blkio_weight > 0 && !(10..=1000).contains(&host.blkio_weight) {
        return invalid("Range of blkio weight is from 10 to 1000");
    }
    if host.io_maximum_bandwidth != 0 || host.io_maximum_iops != 0 {
        return invalid(
            "Invalid QoS settings: linux does not support Maximum IO Bandwidth or Maximum IO IOps",
        );
    }
    let given = |list: &Option<Vec<WeightDevice>>| list.as_ref().is_some_and(|l| !l.is_empty());
    if given(&host.blkio_weight_device) && !support.block_weight_device {
        lacks(warnings, "Block I/O weight_device", "Weight-device discarded.");
        host.blkio_weight_device = Some(Vec::new());
    }
    for device in host.blkio_weight_device.iter().flatten() {
        if !(10..=1000).contains(&device.weight) {
            return Err(Error::invalid(format!("invalid weight for device: {}", device.path)));
        }
    }
    for (list, have, what, consequence) in [
        (
            &mut host.blkio_device_read_bps,
            support.block_bps,
            "BPS Block I/O read limit",
            "Block I/O BPS read limit discarded.",
        ),
        (
            &mut host.blkio_device_write_bps,
            support.block_bps,
            "BPS Block I/O write limit",
            "Block I/O BPS write limit discarded.",
        ),
        (
            &mut host.blkio_device_read_iops,
            support.block_iops,
            "IOPS Block read limit",
            "Block I/O IOPS read limit discarded.",
        ),
        (
            &mut host.blkio_device_write_iops,
            support.block_iops,
            "IOPS Block write limit",
            "Block I/O IOPS write limit discarded.",
        ),
    ] {
        if list.as_ref().is_some_and(|list| !list.is_empty()) && !have {
            lacks(warnings, what, consequence);
            *list = Some(Vec::new());
        }
    }
    Ok(())
}

/// A container's settings after an update: what the request does not say stays.
pub(crate) fn updated(host: &HostConfig, asked: &HostConfig) -> Result<HostConfig> {
    let conflict = |text: &str| Err(Error::conflict(text));
    let mut out = host.clone();
    if asked.nano_cpus > 0 && host.cpu_period > 0 {
        return conflict(
            "Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set",
        );
    }
    if asked.nano_cpus > 0 && host.cpu_quota > 0 {
        return conflict(
            "Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set",
        );
    }
    if asked.cpu_period > 0 && host.nano_cpus > 0 {
        return conflict(
            "Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set",
        );
    }
    if asked.cpu_quota > 0 && host.nano_cpus > 0 {
        return conflict(
            "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set",
        );
    }
    // Unlimited swap is above every memory limit, and no limit of memory has one of swap.
    let above = asked.memory > host.memory_swap && host.memory_swap != -1;
    if asked.memory > 0 && asked.memory_swap == 0 && above {
        return conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        );
    }
    let number = |to: &mut i64, from: i64| {
        if from != 0 {
            *to = from;
        }
    };
    number(&mut out.cpu_shares, asked.cpu_shares);
    number(&mut out.nano_cpus, asked.nano_cpus);
    number(&mut out.cpu_period, asked.cpu_period);
    number(&mut out.cpu_quota, asked.cpu_quota);
    number(&mut out.cpu_realtime_period, asked.cpu_realtime_period);
    number(&mut out.cpu_realtime_runtime, asked.cpu_realtime_runtime);
    number(&mut out.memory, asked.memory);
    number(&mut out.memory_swap, asked.memory_swap);
    number(&mut out.memory_reservation, asked.memory_reservation);
    if asked.blkio_weight != 0 {
        out.blkio_weight = asked.blkio_weight;
    }
    for (to, from) in
        [(&mut out.cpuset_cpus, &asked.cpuset_cpus), (&mut out.cpuset_mems, &asked.cpuset_mems)]
    {
        if !from.is_empty() {
            to.clone_from(from);
        }
    }
    fn list<T: Clone>(to: &mut Option<Vec<T>>, from: &Option<Vec<T>>) {
        if from.as_ref().is_some_and(|list| !list.is_empty()) {
            to.clone_from(from);
        }
    }
    list(&mut out.blkio_weight_device, &asked.blkio_weight_device);
    list(&mut out.blkio_device_read_bps, &asked.blkio_device_read_bps);
    list(&mut out.blkio_device_write_bps, &asked.blkio_device_write_bps);
    list(&mut out.blkio_device_read_iops, &asked.blkio_device_read_iops);
    list(&mut out.blkio_device_write_iops, &asked.blkio_device_write_iops);
    if asked.memory_swappiness.is_some() {
        out.memory_swappiness = asked.memory_swappiness;
    }
    if asked.oom_kill_disable.is_some() {
        out.oom_kill_disable = asked.oom_kill_disable;
    }
    // Whoever says a number says it all: 0 and -1 take the limit away.
    if let Some(pids) = asked.pids_limit.filter(|pids| *pids != 0) {
        out.pids_limit = Some(pids);
    }
    if !asked.restart_policy.name.is_empty() {
        if host.auto_remove && asked.restart_policy.name != "no" {
            return conflict(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            );
        }
        out.restart_policy = asked.restart_policy.clone();
    }
    Ok(out)
}

/// What the kernel is told. `device` finds the numbers of a block device by its path.
pub(crate) fn limits(
    host: &HostConfig,
    settings: &Settings,
    device: &dyn Fn(&str) -> Result<(u32, u32)>,
) -> Result<Limits> {
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let (cpu_quota_us, cpu_period_us) = match positive(host.nano_cpus) {
        // Thousandths of a CPU in a period of 100 ms.
        Some(nano) => (Some(Bound::At((nano / 10_000).max(1000))), Some(100_000)),
        None => (Bound::from_api(host.cpu_quota), positive(host.cpu_period)),
    };
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let rates = |list: &Option<Vec<ThrottleDevice>>| -> Result<Vec<PerDevice>> {
        let one = |entry: &ThrottleDevice| {
            let (major, minor) = device(&entry.path)?;
            Ok(PerDevice { major, minor, value: entry.rate })
        };
        list.iter().flatten().map(one).collect()
    };
    let weights = host.blkio_weight_device.iter().flatten().map(|entry| {
        let (major, minor) = device(&entry.path)?;
        Ok(PerDevice { major, minor, value: entry.weight.into() })
    });
    Ok(Limits {
        memory: Bound::from_api(host.memory),
        memory_swap: Bound::from_api(host.memory_swap).filter(|_| host.memory != 0),
        memory_reservation: positive(host.memory_reservation),
        swappiness: host.memory_swappiness.and_then(|value| u64::try_from(value).ok()),
        oom_kill_disable: host.oom_kill_disable.filter(|disabled| *disabled),
        cpu_shares: positive(host.cpu_shares),
        cpu_quota_us,
        cpu_period_us,
        realtime: Realtime {
            runtime_us: positive(host.cpu_realtime_runtime),
            period_us: positive(host.cpu_realtime_period),
            parent_runtime_us: positive(settings.cpu_rt_runtime),
            parent_period_us: positive(settings.cpu_rt_period),
        },
        cpuset_cpus: text(&host.cpuset_cpus),
        cpuset_mems: text(&host.cpuset_mems),
        pids: host.pids_limit.and_then(Bound::from_api),
        block: BlockLimits {
            weight: Some(host.blkio_weight).filter(|weight| *weight > 0),
            weights: weights.collect::<Result<_>>()?,
            read_bps: rates(&host.blkio_device_read_bps)?,
            write_bps: rates(&host.blkio_device_write_bps)?,
            read_iops: rates(&host.blkio_device_read_iops)?,
            write_iops: rates(&host.blkio_device_write_iops)?,
        },
        hugetlb: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Support {
        Support {
            memory: true,
            swap: true,
            reservation: true,
            swappiness: true,
            oom_kill_disable: true,
            cpu_shares: true,
            cpu_quota: true,
            realtime: true,
            cpuset: true,
            cpus: "0-1".into(),
            mems: "0".into(),
            pids: true,
            block_weight: true,
            block_weight_device: true,
            block_bps: true,
            block_iops: true,
        }
    }

    fn host(set: impl FnOnce(&mut HostConfig)) -> HostConfig {
        let mut host = HostConfig::default();
        set(&mut host);
        host
    }

    fn refused(set: impl FnOnce(&mut HostConfig)) -> String {
        verify(&mut host(set), &all(), 2, false).unwrap_err().to_string()
    }

    #[test]
    fn dockers_words_for_what_cannot_be() {
        const M: i64 = 1 << 20;
        assert_eq!(refused(|h| h.memory = 5 * M), "Minimum memory limit allowed is 6MB");
        assert_eq!(
            refused(|h| (h.memory, h.memory_swap) = (10 * M, 9 * M)),
            "Minimum memoryswap limit should be larger than memory limit, see usage"
        );
        assert_eq!(
            refused(|h| h.memory_swap = 100 * M),
            "You should always set the Memory limit when using Memoryswap limit, see usage"
        );
        assert_eq!(
            refused(|h| h.memory_swappiness = Some(101)),
            "Invalid value: 101, valid memory swappiness range is 0-100"
        );
        assert_eq!(
            refused(|h| (h.memory, h.memory_reservation) = (20 * M, 30 * M)),
            "Minimum memory limit can not be less than memory reservation limit, see usage"
        );
        assert_eq!(
            refused(|h| h.nano_cpus = 3_000_000_000),
            "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"
        );
        assert_eq!(
            refused(|h| (h.nano_cpus, h.cpu_quota) = (1, 1000)),
            "Conflicting options: Nano CPUs and CPU Quota cannot both be set"
        );
        assert_eq!(
            refused(|h| h.cpu_quota = 10),
            "CPU cfs quota can not be less than 1ms (i.e. 1000)"
        );
        assert_eq!(
            refused(|h| h.cpuset_cpus = "7".into()),
            "Requested CPUs are not available - requested 7, available: 0-1"
        );
        assert_eq!(
            refused(|h| h.cpuset_cpus = "1-0".into()),
            "Invalid value 1-0 for cpuset cpus: invalid format: 1-0"
        );
        assert_eq!(
            refused(|h| h.cpuset_mems = "0-99999999999".into()),
            "Invalid value 0-99999999999 for cpuset mems: value of out range, maximum is 8192"
        );
        assert_eq!(refused(|h| h.blkio_weight = 5), "Range of blkio weight is from 10 to 1000");
        assert_eq!(
            refused(|h| (h.cpu_realtime_runtime, h.cpu_realtime_period) = (1000, 500)),
            "cpu real-time runtime cannot be higher than cpu real-time period"
        );
    }

    #[test]
    fn what_the_kernel_lacks_is_discarded_with_a_warning() {
        let nothing = Support::default();
        let mut host = host(|h| {
            h.memory = 1 << 30;
            h.memory_swappiness = Some(3);
            h.cpu_shares = 3;
            h.cpu_quota = 5000;
            h.cpuset_cpus = "0".into();
            h.blkio_weight = 10;
            h.blkio_device_read_bps = Some(vec![ThrottleDevice { path: "/dev/x".into(), rate: 1 }]);
            h.oom_kill_disable = Some(true);
            h.pids_limit = Some(3);
            h.kernel_memory = 1 << 30;
        });
        let warnings = verify(&mut host, &nothing, 2, false).unwrap();
        assert_eq!(warnings.len(), 10, "{warnings:#?}");
        let limits = limits(&host, &Settings::default(), &|_| Ok((0, 0))).unwrap();
        assert_eq!(limits, Limits::default());
        let mut quiet = HostConfig {
            memory_swappiness: Some(-1),
            oom_kill_disable: Some(false),
            ..HostConfig::default()
        };
        assert!(verify(&mut quiet, &nothing, 2, false).unwrap().is_empty());
        assert_eq!(quiet, HostConfig::default());
    }

    #[test]
    fn updates_keep_what_they_do_not_say() {
        let before = host(|h| (h.memory, h.memory_swap, h.cpu_shares) = (20, 40, 7));
        let after = updated(&before, &host(|h| h.memory = 30)).unwrap();
        assert_eq!((after.memory, after.memory_swap, after.cpu_shares), (30, 40, 7));
        let text = updated(&before, &host(|h| h.memory = 60)).unwrap_err().to_string();
        assert!(text.starts_with("Memory limit should be smaller than already set memoryswap"));
        let both = updated(&before, &host(|h| (h.memory, h.memory_swap) = (60, -1))).unwrap();
        assert_eq!((both.memory, both.memory_swap), (60, -1));
        assert_eq!(updated(&both, &host(|h| h.memory = 90)).unwrap().memory, 90);
        let nano = updated(&before, &host(|h| h.nano_cpus = 5)).unwrap();
        assert!(updated(&nano, &host(|h| h.cpu_quota = 5000)).is_err());
        let pids = updated(&before, &host(|h| h.pids_limit = Some(-1))).unwrap();
        let limits = limits(&pids, &Settings::default(), &|_| Ok((0, 0))).unwrap();
        assert_eq!(limits.pids, Some(Bound::Unlimited));
    }
}
