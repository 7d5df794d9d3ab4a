//! From a container plan to the runtime specification's document, for another OCI runtime than
//! the built-in one. Pure.

use std::collections::BTreeMap;

use hoy_cgroup::{BlockLimits, Bound, DeviceRule, Driver, Limits, PerDevice};
use hoy_oci::runtime as oci;
use rustix::fs::FileType;

use crate::caps;
use crate::error::StartError;
use crate::plan::{
    ContainerPlan, MountPlan, MountSource, NamespaceMode, NetMode, ProcessPlan, Propagation,
    TmpfsOptions,
};
use crate::prepare::DeviceNode;
use crate::users::Credentials;

/// What the document needs beside the plan.
pub(crate) struct Facts<'a> {
    /// Where the root file system is mounted.
    pub root: String,
    /// The network namespace, if it is given.
    pub network: Option<String>,
    pub credentials: &'a Credentials,
    /// What the supervisor has itself: more cannot be handed on.
    pub capabilities: u64,
    /// For each mount of the plan where its source is mounted.
    pub sources: Vec<String>,
    /// Nodes beside those that every container has.
    pub devices: Vec<DeviceNode>,
    /// Directories that tell of other tenants' load.
    pub throttling: Vec<String>,
    /// The kernel has POSIX message queues; beside the host's IPC, the host shows them.
    pub queues: bool,
}

const INIT: &str = "/sbin/docker-init";

/// The whole document.
pub(crate) fn document(
    plan: &ContainerPlan,
    seccomp: Option<oci::Seccomp>,
    facts: &Facts<'_>,
) -> Result<oci::Spec, StartError> {
    let mut process = process(&plan.process, facts.credentials, facts.capabilities)?;
    if plan.init.is_some() {
        process.args.splice(0..0, [INIT.to_owned(), "--".to_owned()]);
    }
    let annotations = plan.external.iter().flat_map(|external| external.annotations.clone());
    let propagation = match plan.mounts.iter().map(|mount| mount.propagation).max_by_key(rank) {
        Some(Propagation::Shared) => Some("shared".to_owned()),
        Some(Propagation::Slave) => Some("rslave".to_owned()),
        _ => None,
    };
    let mut masked = plan.masked_paths.clone();
    if !masked.is_empty() {
        masked.extend(facts.throttling.iter().cloned());
    }
    Ok(oci::Spec {
        oci_version: oci::VERSION.to_owned(),
        process,
        root: oci::Root { path: facts.root.clone(), readonly: plan.root.readonly },
        hostname: match plan.namespaces.uts {
            NamespaceMode::New => plan.hostname.clone(),
            NamespaceMode::Host | NamespaceMode::Given => String::new(),
        },
        mounts: mounts(plan, facts),
        annotations: annotations.collect(),
        linux: oci::Linux {
            sysctl: sysctls(plan),
            resources: oci::Resources {
                devices: device_rules(plan.cgroup.devices.as_deref()),
                ..resources(&plan.cgroup.limits)
            },
            cgroups_path: match (plan.cgroup.driver, &plan.cgroup) {
                (Driver::Cgroupfs, at) => format!("/{}/{}", at.parent.trim_matches('/'), at.name),
                (Driver::Systemd, at) => format!("{}:hoy:{}", at.parent, at.name),
            },
            namespaces: namespaces(plan, facts),
            devices: facts.devices.iter().map(device).collect(),
            seccomp,
            rootfs_propagation: propagation,
            masked_paths: masked,
            readonly_paths: plan.readonly_paths.clone(),
            mount_label: named(&plan.mount_label),
            ..oci::Linux::default()
        },
    })
}

fn rank(propagation: &Propagation) -> u8 {
    match propagation {
        Propagation::Private => 0,
        Propagation::Slave => 1,
        Propagation::Shared => 2,
    }
}

/// A process, first or further.
pub(crate) fn process(
    plan: &ProcessPlan,
    credentials: &Credentials,
    capabilities: u64,
) -> Result<oci::Process, StartError> {
    let mut env = plan.env.clone();
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={}", credentials.home));
    }
    let granted = caps::names(plan.capabilities & capabilities);
    // Somebody else than root has none from the beginning: inheritable and ambient are empty.
    let own = if credentials.uid == 0 { granted.clone() } else { Vec::new() };
    let rlimits = plan.rlimits.iter().map(|limit| {
        let name = rlimit(limit.resource);
        let name = name.ok_or_else(|| {
            StartError::invalid(format!("no resource limit has the number {}", limit.resource))
        })?;
        Ok(oci::Rlimit { r#type: format!("RLIMIT_{name}"), hard: limit.hard, soft: limit.soft })
    });
    Ok(oci::Process {
        terminal: plan.tty,
        console_size: plan
            .console_size
            .filter(|_| plan.tty)
            .map(|(rows, columns)| oci::ConsoleSize { height: rows.into(), width: columns.into() }),
        user: oci::User {
            uid: credentials.uid,
            gid: credentials.gid,
            additional_gids: credentials.groups.clone(),
        },
        args: plan.args.clone(),
        env,
        cwd: plan.cwd.clone(),
        capabilities: oci::Capabilities {
            bounding: granted,
            effective: own.clone(),
            permitted: own,
            ..oci::Capabilities::default()
        },
        rlimits: rlimits.collect::<Result<_, StartError>>()?,
        no_new_privileges: plan.no_new_privileges,
        apparmor_profile: named(&plan.labels.apparmor),
        selinux_label: named(&plan.labels.selinux),
        oom_score_adj: plan.oom_score_adj,
    })
}

fn named(label: &str) -> Option<String> {
    (!label.is_empty()).then(|| label.to_owned())
}

/// By the kernel's number.
fn rlimit(resource: u32) -> Option<&'static str> {
    const NAMES: [&str; 16] = [
        "CPU",
        "FSIZE",
        "DATA",
        "STACK",
        "CORE",
        "RSS",
        "NPROC",
        "NOFILE",
        "MEMLOCK",
        "AS",
        "LOCKS",
        "SIGPENDING",
        "MSGQUEUE",
        "NICE",
        "RTPRIO",
        "RTTIME",
    ];
    NAMES.get(usize::try_from(resource).ok()?).copied()
}

/// In Docker's order, with its options.
fn mounts(plan: &ContainerPlan, facts: &Facts<'_>) -> Vec<oci::Mount> {
    let usual = ["nosuid", "noexec", "nodev"];
    let access = if plan.writable_sys { &[][..] } else { &["ro"] };
    let system: Vec<&str> = usual.iter().chain(access).copied().collect();
    let mut out = vec![
        mount("/proc", "proc", "proc", &usual),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &system),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &system),
    ];
    if plan.namespaces.ipc == NamespaceMode::Host {
        let host = ["rbind", "rprivate", "nosuid", "noexec", "nodev"];
        if facts.queues {
            out.push(mount("/dev/mqueue", "bind", "/dev/mqueue", &host));
        }
        out.push(mount("/dev/shm", "bind", "/dev/shm", &host));
    } else {
        if facts.queues {
            out.push(mount("/dev/mqueue", "mqueue", "mqueue", &usual));
        }
        if let Some(size) = plan.shm_size {
            let size = format!("size={size}");
            let options = ["nosuid", "noexec", "nodev", "mode=1777", &size];
            out.push(mount("/dev/shm", "tmpfs", "shm", &options));
        }
    }
    if let Some(init) = &plan.init {
        out.push(mount(INIT, "bind", &init.display().to_string(), &["bind", "ro"]));
    }
    out.extend(
        plan.mounts.iter().zip(&facts.sources).map(|(plan, source)| user_mount(plan, source)),
    );
    out
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> oci::Mount {
    oci::Mount {
        destination: destination.to_owned(),
        r#type: kind.to_owned(),
        source: source.to_owned(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    }
}

fn user_mount(plan: &MountPlan, source: &str) -> oci::Mount {
    let readonly = plan.readonly.then_some("ro");
    match &plan.source {
        MountSource::Bind { .. } | MountSource::Volume { .. } | MountSource::Image { .. } => {
            let one = matches!(&plan.source, MountSource::Bind { recursive: false, .. });
            let mut options = vec![if one { "bind" } else { "rbind" }];
            options.extend(readonly);
            options.push(match plan.propagation {
                Propagation::Private => "rprivate",
                Propagation::Slave => "rslave",
                Propagation::Shared => "rshared",
            });
            mount(&plan.target, "bind", source, &options)
        }
        MountSource::Tmpfs { size, mode, options: flags } => {
            let TmpfsOptions { noexec, nosuid, nodev } = *flags;
            let mut options: Vec<&str> = [("noexec", noexec), ("nosuid", nosuid), ("nodev", nodev)]
                .into_iter()
                .filter_map(|(name, set)| set.then_some(name))
                .collect();
            options.extend(readonly);
            let mode = format!("mode={:o}", mode.unwrap_or(0o1777));
            options.push(&mode);
            let size = size.map(|size| format!("size={size}"));
            options.extend(size.as_deref());
            mount(&plan.target, "tmpfs", "tmpfs", &options)
        }
    }
}

fn namespaces(plan: &ContainerPlan, facts: &Facts<'_>) -> Vec<oci::Namespace> {
    let own = |kind: &str| oci::Namespace { r#type: kind.to_owned(), path: None };
    let mut out = vec![own("mount")];
    for (mode, kind) in [
        (plan.namespaces.pid, "pid"),
        (plan.namespaces.ipc, "ipc"),
        (plan.namespaces.uts, "uts"),
        (plan.namespaces.cgroup, "cgroup"),
    ] {
        if mode == NamespaceMode::New {
            out.push(own(kind));
        }
    }
    if plan.namespaces.net == NetMode::Given {
        out.push(oci::Namespace { path: facts.network.clone(), ..own("network") });
    }
    out
}

fn sysctls(plan: &ContainerPlan) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut set = |name: &str, value: &str| out.insert(name.to_owned(), value.to_owned());
    if plan.namespaces.net == NetMode::Given {
        set("net.ipv4.ping_group_range", "0 2147483647");
        set("net.ipv4.ip_unprivileged_port_start", "0");
    }
    if plan.namespaces.uts == NamespaceMode::New && !plan.domainname.is_empty() {
        // Runtimes of this version of the specification have no word of their own for it.
        set("kernel.domainname", &plan.domainname);
    }
    for (name, value) in &plan.sysctls {
        set(name, value);
    }
    out
}

fn device(node: &DeviceNode) -> oci::Device {
    let block = FileType::from_raw_mode(node.mode) == FileType::BlockDevice;
    oci::Device {
        path: node.path.clone(),
        r#type: if block { "b" } else { "c" }.to_owned(),
        major: rustix::fs::major(node.device).into(),
        minor: rustix::fs::minor(node.device).into(),
        file_mode: Some(node.mode & 0o7777),
        uid: Some(node.uid),
        gid: Some(node.gid),
    }
}

/// The limits in the specification's words; also what `update` is told.
pub(crate) fn resources(limits: &Limits) -> oci::Resources {
    let memory = oci::Memory {
        limit: limits.memory.map(bound),
        reservation: limits.memory_reservation.map(signed),
        swap: limits.memory_swap.map(bound),
        swappiness: limits.swappiness,
        disable_oom_killer: limits.oom_kill_disable,
    };
    let cpu = oci::Cpu {
        shares: limits.cpu_shares,
        quota: limits.cpu_quota_us.map(bound),
        period: limits.cpu_period_us,
        realtime_runtime: limits.realtime.runtime_us.map(signed),
        realtime_period: limits.realtime.period_us,
        cpus: limits.cpuset_cpus.clone().unwrap_or_default(),
        mems: limits.cpuset_mems.clone().unwrap_or_default(),
    };
    let hugepages = limits
        .hugetlb
        .iter()
        .map(|(size, limit)| oci::HugepageLimit { page_size: size.clone(), limit: *limit });
    oci::Resources {
        devices: Vec::new(),
        memory: said(memory),
        cpu: said(cpu),
        pids: limits.pids.map(|pids| oci::Pids { limit: bound(pids) }),
        block_io: said(block(&limits.block)),
        hugepage_limits: hugepages.collect(),
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn bound(bound: Bound) -> i64 {
    match bound {
        Bound::Unlimited => -1,
        Bound::At(value) => signed(value),
    }
}

/// What says nothing is left out.
fn said<T: Default + PartialEq>(value: T) -> Option<T> {
    (value != T::default()).then_some(value)
}

fn block(limits: &BlockLimits) -> oci::BlockIo {
    let throttled = |list: &[PerDevice]| {
        list.iter()
            .map(|limit| oci::ThrottleDevice {
                major: limit.major.into(),
                minor: limit.minor.into(),
                rate: limit.value,
            })
            .collect()
    };
    let weight_device = limits.weights.iter().map(|limit| oci::WeightDevice {
        major: limit.major.into(),
        minor: limit.minor.into(),
        weight: u16::try_from(limit.value).unwrap_or(u16::MAX),
    });
    oci::BlockIo {
        weight: limits.weight,
        weight_device: weight_device.collect(),
        throttle_read_bps_device: throttled(&limits.read_bps),
        throttle_write_bps_device: throttled(&limits.write_bps),
        throttle_read_iops_device: throttled(&limits.read_iops),
        throttle_write_iops_device: throttled(&limits.write_iops),
    }
}

fn device_rules(devices: Option<&[DeviceRule]>) -> Vec<oci::DeviceRule> {
    let all = |allow| oci::DeviceRule { allow, access: "rwm".to_owned(), ..Default::default() };
    let Some(rules) = devices else { return vec![all(true)] };
    let mut out = vec![all(false)];
    out.extend(rules.iter().map(|rule| oci::DeviceRule {
        allow: true,
        r#type: Some(rule.kind.to_string()),
        major: rule.major.map(i64::from),
        minor: rule.minor.map(i64::from),
        access: rule.access.clone(),
    }));
    out
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use hoy_cgroup::CgroupPlan;
    use hoy_types::UserSpec;

    use super::*;
    use crate::plan::{DevicePlan, NamespacePlan, ProcessLabels, RootPlan};

    fn plan() -> ContainerPlan {
        ContainerPlan {
            id: "abc".into(),
            hostname: "name".into(),
            domainname: String::new(),
            root: RootPlan {
                lower: vec!["/lower".into()],
                upper: "/upper".into(),
                work: "/work".into(),
                volatile: false,
                readonly: true,
            },
            namespaces: NamespacePlan {
                net: NetMode::Given,
                pid: NamespaceMode::New,
                ipc: NamespaceMode::New,
                uts: NamespaceMode::New,
                cgroup: NamespaceMode::Host,
            },
            process: ProcessPlan {
                args: vec!["sh".into()],
                env: vec!["A=b".into()],
                cwd: "/".into(),
                user: UserSpec::default(),
                additional_groups: Vec::new(),
                tty: false,
                console_size: None,
                capabilities: caps::DEFAULT,
                no_new_privileges: true,
                rlimits: vec![crate::plan::Rlimit { resource: 7, soft: 1, hard: 2 }],
                seccomp: Vec::new(),
                seccomp_flags: 0,
                oom_score_adj: Some(5),
                labels: ProcessLabels { apparmor: "profile".into(), selinux: String::new() },
            },
            mounts: vec![MountPlan {
                target: "/data".into(),
                source: MountSource::Bind { path: "/source".into(), recursive: true },
                readonly: true,
                propagation: Propagation::Slave,
                relabel: None,
                readonly_top_only: false,
            }],
            devices: DevicePlan::Default,
            masked_paths: vec!["/proc/kcore".into()],
            readonly_paths: Vec::new(),
            sysctls: vec![("net.core.somaxconn".into(), "5".into())],
            cgroup: CgroupPlan {
                parent: "/hoy/".into(),
                name: "abc".into(),
                limits: Limits {
                    memory: Some(Bound::At(1 << 20)),
                    memory_swap: Some(Bound::Unlimited),
                    ..Limits::default()
                },
                devices: Some(Vec::new()),
                ..CgroupPlan::default()
            },
            shm_size: Some(4096),
            writable_sys: false,
            init: Some(PathBuf::from("/init")),
            extra_devices: Vec::new(),
            userns: None,
            mount_label: "u:o:t:s0".into(),
            external: None,
        }
    }

    fn made(plan: &ContainerPlan, uid: u32) -> oci::Spec {
        let credentials = Credentials { uid, home: "/root".into(), ..Credentials::default() };
        let facts = Facts {
            root: "/place/rootfs".into(),
            network: Some("/proc/1/fd/9".into()),
            credentials: &credentials,
            capabilities: !1,
            sources: vec!["/place/mounts/0".into()],
            devices: Vec::new(),
            throttling: vec!["/sys/cpu0".into()],
            queues: true,
        };
        document(plan, None, &facts).unwrap()
    }

    #[test]
    fn a_plan_in_the_specifications_words() {
        let spec = made(&plan(), 0);
        assert_eq!(spec.process.args, ["/sbin/docker-init", "--", "sh"]);
        assert_eq!(spec.process.env, ["A=b", "HOME=/root"]);
        assert_eq!(spec.process.rlimits[0].r#type, "RLIMIT_NOFILE");
        let caps = &spec.process.capabilities;
        assert_eq!(caps.effective, caps.bounding);
        assert!(caps.inheritable.is_empty() && caps.ambient.is_empty());
        assert!(!caps.bounding.contains(&"CAP_CHOWN".into()), "the supervisor lacks it");
        assert!(caps.bounding.contains(&"CAP_KILL".into()));
        assert!(spec.root.readonly && spec.root.path == "/place/rootfs");
        let targets: Vec<&str> = spec.mounts.iter().map(|m| m.destination.as_str()).collect();
        assert_eq!(
            targets,
            [
                "/proc",
                "/dev",
                "/dev/pts",
                "/sys",
                "/sys/fs/cgroup",
                "/dev/mqueue",
                "/dev/shm",
                "/sbin/docker-init",
                "/data"
            ]
        );
        assert_eq!(spec.mounts[8].source, "/place/mounts/0");
        assert_eq!(spec.mounts[8].options, ["rbind", "ro", "rslave"]);
        let linux = &spec.linux;
        assert_eq!(linux.cgroups_path, "/hoy/abc");
        assert_eq!(linux.rootfs_propagation.as_deref(), Some("rslave"));
        assert_eq!(linux.mount_label.as_deref(), Some("u:o:t:s0"));
        assert_eq!(spec.process.apparmor_profile.as_deref(), Some("profile"));
        assert_eq!(spec.process.selinux_label, None);
        assert_eq!(linux.masked_paths, ["/proc/kcore", "/sys/cpu0"]);
        assert_eq!(linux.sysctl["net.core.somaxconn"], "5");
        let memory = linux.resources.memory.as_ref().unwrap();
        assert_eq!((memory.limit, memory.swap), (Some(1 << 20), Some(-1)));
        assert!(linux.resources.cpu.is_none() && linux.resources.block_io.is_none());
        let kinds: Vec<_> = linux.namespaces.iter().map(|n| n.r#type.as_str()).collect();
        assert_eq!(kinds, ["mount", "pid", "ipc", "uts", "network"]);
        assert_eq!(linux.namespaces[4].path.as_deref(), Some("/proc/1/fd/9"));
    }

    #[test]
    fn somebody_else_than_root_begins_with_no_capability() {
        let spec = made(&plan(), 33);
        let caps = &spec.process.capabilities;
        assert!(!caps.bounding.is_empty() && caps.effective.is_empty());
        assert!(caps.permitted.is_empty());
    }
}
