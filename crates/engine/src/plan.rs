//! From a record and facts to the container plan. Pure.

use std::path::{Path, PathBuf};

use hoy_cgroup::{CgroupPlan, Driver, Limits};
use hoy_config::{CgroupDriver, Settings};
use hoy_runtime::{
    ContainerPlan, DevicePlan, ExternalPlan, MountPlan, MountSource, NamespacePlan, NetMode,
    ProcessPlan, Propagation, Rlimit, RootPlan, TmpfsOptions,
};
use hoy_types::{IdMaps, SysctlScope, UserRef, UserSpec};
use hoy_wire::{ExecConfig, HostConfig, Ulimit};

use crate::cdi::Edits;
use crate::devices::Devices;
use crate::error::{Error, Result};
use crate::record::{LabelRecord, MountKind, MountRecord, NetworkMode, Record};
use crate::seccomp::{RuleSource, Source};
use crate::sharing::mode;

/// What the plan needs beside the record.
pub(crate) struct Facts<'a> {
    pub settings: &'a Settings,
    /// Topmost first.
    pub layers: Vec<PathBuf>,
    /// Upper and work directories.
    pub upper: PathBuf,
    pub work: PathBuf,
    /// Where hosts, hostname and resolv.conf lie.
    pub files: &'a Path,
    /// The program for `--init`.
    pub init: PathBuf,
    pub hostname: String,
    pub limits: Limits,
    pub devices: Devices,
    /// What devices that are asked for by name change.
    pub cdi: Edits,
    /// The compiled filter for a request and a capability set.
    pub seccomp: Source<'a>,
    /// The same as a document, for a runtime that compiles it itself.
    pub seccomp_rules: RuleSource<'a>,
    /// The ids of its own user namespace.
    pub userns: Option<IdMaps>,
    pub labels: LabelRecord,
    /// Where volumes lie, by name.
    pub volumes: &'a std::collections::BTreeMap<String, PathBuf>,
    /// Where a layer lies.
    pub layer: &'a dyn Fn(&str) -> PathBuf,
    /// The socket that stands in for Docker's.
    pub socket: &'a dyn Fn(&str) -> Option<PathBuf>,
    /// What links tell: the container's own says otherwise if it wants.
    pub environment: Vec<(String, String)>,
}

/// The plan of a container's start.
pub(crate) fn container(record: &Record, mut facts: Facts<'_>) -> Result<ContainerPlan> {
    facts.devices.nodes.append(&mut facts.cdi.devices.nodes);
    facts.devices.rules.append(&mut facts.cdi.devices.rules);
    let host = &record.host;
    // Who joins another's network has that one's files.
    let joined = matches!(record.network.mode, NetworkMode::Container(_));
    let mode_of_files = if joined { "z" } else { "Z" };
    let mut mounts = network_files(record, facts.files);
    for mount in &mut mounts {
        mount.relabel = facts.labels.of_source(mode_of_files);
    }
    for mount in record.mounts.iter().chain(&facts.cdi.mounts) {
        let plan = resting_mount(mount, facts.volumes, facts.layer, facts.socket)?;
        mounts.push(MountPlan { relabel: facts.labels.of_source(&mount.mode), ..plan });
    }
    let config = &record.config;
    let wants_init = host.init == Some(true) && host.pid_mode.is_empty();
    Ok(ContainerPlan {
        id: record.key().to_owned(),
        hostname: facts.hostname,
        domainname: config.domainname.clone(),
        root: RootPlan {
            lower: facts.layers,
            upper: facts.upper,
            work: facts.work,
            volatile: host.auto_remove,
            readonly: host.readonly_rootfs,
        },
        namespaces: NamespacePlan {
            net: match record.network.mode {
                NetworkMode::Host => NetMode::Host,
                _ => NetMode::Given,
            },
            pid: mode(&host.pid_mode),
            ipc: mode(&host.ipc_mode),
            uts: mode(&host.uts_mode),
            cgroup: mode(&host.cgroupns_mode),
        },
        process: with_edits(
            with_links(
                process(record, &facts.labels, facts.settings, facts.seccomp)?,
                facts.environment,
            ),
            facts.cdi,
        ),
        mounts,
        devices: if host.privileged { DevicePlan::All } else { DevicePlan::Default },
        extra_devices: facts.devices.nodes,
        masked_paths: host.masked_paths.clone().unwrap_or_default(),
        readonly_paths: host.readonly_paths.clone().unwrap_or_default(),
        sysctls: sysctls(record),
        cgroup: CgroupPlan {
            limits: facts.limits,
            devices: (!host.privileged).then_some(facts.devices.rules),
            ..cgroup(record, facts.settings)
        },
        shm_size: (host.ipc_mode != "none").then_some(host.shm_size.unsigned_abs()),
        writable_sys: host.privileged,
        init: wants_init.then_some(facts.init),
        userns: facts.userns,
        mount_label: facts.labels.mount,
        external: external(record, facts.settings, facts.seccomp_rules)?,
    })
}

/// The runtime that the container names, if it is another than the built-in one.
fn external(
    record: &Record,
    settings: &Settings,
    rules: RuleSource<'_>,
) -> Result<Option<ExternalPlan>> {
    let host = &record.host;
    let name = host.runtime.as_str();
    let Some(runtime) = settings.runtimes.get(name) else {
        if settings.has_runtime(name) {
            return Ok(None);
        }
        // The settings have changed since it was created.
        return Err(Error::invalid(format!("unknown or invalid runtime name: {name}")));
    };
    let seccomp = rules(host, capabilities(host)?)?;
    let seccomp = seccomp.map(|rules| serde_json::to_string(&rules)).transpose();
    let mut args = runtime.args.clone();
    if driver(settings) == Driver::Systemd {
        args.push("--systemd-cgroup".to_owned());
    }
    Ok(Some(ExternalPlan {
        name: name.to_owned(),
        path: runtime.path.clone(),
        args,
        place: hoy_shim::external::place(&settings.exec_root, record.key()),
        seccomp: seccomp.map_err(crate::error::failed("write down the seccomp profile"))?,
        annotations: host.annotations.clone().into_iter().collect(),
    }))
}

/// Whether another runtime than the built-in one runs it.
pub(crate) fn is_external(record: &Record) -> bool {
    !hoy_config::BUILT_IN_RUNTIMES.contains(&record.host.runtime.as_str())
}

/// The files that tell of its network, where nothing else is mounted. Without labels.
pub(crate) fn network_files(record: &Record, files: &Path) -> Vec<MountPlan> {
    let covered = |target: &str| record.mounts.iter().any(|mount| mount.target == target);
    let names = ["resolv.conf", "hostname", "hosts"].into_iter();
    let plans = names.map(|name| MountPlan {
        target: format!("/etc/{name}"),
        source: MountSource::Bind { path: files.join(name), recursive: false },
        readonly: record.host.readonly_rootfs,
        propagation: Propagation::Private,
        relabel: None,
        readonly_top_only: false,
    });
    plans.filter(|plan| !covered(&plan.target)).collect()
}

/// One mount, without labels. `volumes` says where volumes lie by name, `layer` where a layer
/// does, `socket` what stands in for Docker's.
pub(crate) fn resting_mount(
    mount: &MountRecord,
    volumes: &std::collections::BTreeMap<String, PathBuf>,
    layer: &dyn Fn(&str) -> PathBuf,
    socket: &dyn Fn(&str) -> Option<PathBuf>,
) -> Result<MountPlan> {
    let mut readonly_top_only = false;
    let source = match &mount.kind {
        MountKind::Bind { source, recursive, readonly_top_only: top, .. } => {
            readonly_top_only = *top;
            let path = socket(source).unwrap_or_else(|| source.into());
            MountSource::Bind { path, recursive: *recursive }
        }
        MountKind::Volume { name, subpath, .. } => {
            let path = volumes.get(name).cloned();
            let path =
                path.ok_or_else(|| Error::not_found(format!("get {name}: no such volume")))?;
            MountSource::Volume { path, subpath: subpath.clone() }
        }
        MountKind::Image { layers, subpath, .. } => MountSource::Image {
            lower: layers.iter().rev().map(|key| layer(key)).collect(),
            subpath: subpath.clone(),
        },
        MountKind::Tmpfs { size, mode, exec, suid, dev } => MountSource::Tmpfs {
            size: *size,
            mode: *mode,
            options: TmpfsOptions { noexec: !exec, nosuid: !suid, nodev: !dev },
        },
    };
    let propagation = match mount.propagation.as_str() {
        "slave" | "rslave" => Propagation::Slave,
        "shared" | "rshared" => Propagation::Shared,
        _ => Propagation::Private,
    };
    Ok(MountPlan {
        target: mount.target.clone(),
        source,
        readonly: mount.readonly,
        propagation,
        relabel: None,
        readonly_top_only,
    })
}

fn sysctls(record: &Record) -> Vec<(String, String)> {
    record.host.sysctls.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Docker's rules for `--sysctl`: only what belongs to a namespace of the container's own.
pub(crate) fn check_sysctls(host: &HostConfig) -> Result<()> {
    for (name, value) in &host.sysctls {
        let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-' | b'/');
        if name.is_empty()
            || name.split('.').any(str::is_empty)
            || !name.bytes().all(plain)
            || name.contains("..")
            || value.contains(['\n', '\0'])
        {
            return Err(Error::invalid(format!("invalid sysctl: {name:?}")));
        }
        match SysctlScope::of(name) {
            Some(SysctlScope::Network) if host.network_mode == "host" => {
                return Err(Error::invalid(format!(
                    "sysctl '{name}' not allowed in host network namespace"
                )));
            }
            Some(SysctlScope::Ipc) if host.ipc_mode == "host" => {
                return Err(Error::invalid(format!(
                    "sysctl '{name}' not allowed in host ipc namespace"
                )));
            }
            None if !hoy_weak::without(hoy_weak::Protection::Sysctls) => {
                return Err(Error::invalid(format!("sysctl '{name}' is not whitelisted")));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Where the container's cgroup lies.
pub(crate) fn cgroup(record: &Record, settings: &Settings) -> CgroupPlan {
    CgroupPlan {
        parent: cgroup_parent(&record.host.cgroup_parent, &settings.cgroup_parent),
        name: record.key().to_owned(),
        driver: driver(settings),
        ..CgroupPlan::default()
    }
}

pub(crate) fn driver(settings: &Settings) -> Driver {
    match settings.cgroup_driver {
        Some(CgroupDriver::Systemd) => Driver::Systemd,
        _ => Driver::Cgroupfs,
    }
}

/// Docker's rule: systemd only has slices to put containers in.
pub(crate) fn check_cgroup_parent(parent: &str, settings: &Settings) -> Result<()> {
    let systemd = driver(settings) == Driver::Systemd && !parent.is_empty();
    if systemd && hoy_cgroup::systemd::slice_path(parent).is_err() {
        return Err(Error::invalid(
            "cgroup-parent for systemd cgroup should be a valid slice named as \"xxx.slice\"",
        ));
    }
    Ok(())
}

/// Says what the settings leave to the machine: `systemd` tells whether that is its init system
/// and the only one who may change cgroups.
pub(crate) fn settle_cgroups(settings: &mut Settings, systemd: bool) -> Result<()> {
    let default = if systemd { CgroupDriver::Systemd } else { CgroupDriver::Cgroupfs };
    settings.cgroup_driver.get_or_insert(default);
    check_cgroup_parent(&settings.cgroup_parent, settings)?;
    if settings.cgroup_parent.is_empty() {
        settings.cgroup_parent = match driver(settings) {
            Driver::Cgroupfs => "hoy".to_owned(),
            Driver::Systemd => "system.slice".to_owned(),
        };
    }
    Ok(())
}

/// `--cgroup-parent` below the root of the hierarchies: `..` leads nowhere from there.
fn cgroup_parent(asked: &str, default: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in asked.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    if parts.is_empty() { default.to_owned() } else { parts.join("/") }
}

/// What links tell stands where the container's own settings say nothing.
pub(crate) fn with_links(
    mut process: ProcessPlan,
    links: impl IntoIterator<Item = (String, String)>,
) -> ProcessPlan {
    for (name, value) in links {
        if !process.env.iter().any(|known| known.split('=').next() == Some(&name)) {
            process.env.push(format!("{name}={value}"));
        }
    }
    process
}

/// What a device says stands over what the container says, as Docker has it.
fn with_edits(mut process: ProcessPlan, edits: Edits) -> ProcessPlan {
    for entry in edits.environment {
        let name = entry.split('=').next().unwrap_or_default().to_owned();
        process.env.retain(|known| known.split('=').next() != Some(&name));
        process.env.push(entry);
    }
    process.additional_groups.extend(edits.groups);
    process
}

fn process(
    record: &Record,
    labels: &LabelRecord,
    settings: &Settings,
    seccomp: Source<'_>,
) -> Result<ProcessPlan> {
    let config = &record.config;
    let host = &record.host;
    let capabilities = capabilities(host)?;
    let filter = seccomp(host, capabilities)?;
    let rlimits = host.ulimits.iter().flatten().map(rlimit).collect::<Result<Vec<_>>>()?;
    Ok(ProcessPlan {
        args: record.command.clone(),
        env: environment(record),
        cwd: if config.working_dir.is_empty() { "/".into() } else { config.working_dir.clone() },
        user: user(&config.user)?,
        additional_groups: groups(host.group_add.as_deref().unwrap_or(&[]))?,
        tty: config.tty,
        console_size: match host.console_size {
            [rows, columns] if rows > 0 && columns > 0 => {
                Some((rows.min(9999) as u16, columns.min(9999) as u16))
            }
            _ => None,
        },
        capabilities,
        no_new_privileges: no_new_privileges(host, settings),
        rlimits,
        seccomp: filter.program,
        oom_score_adj: (host.oom_score_adj != 0).then_some(host.oom_score_adj as i32),
        seccomp_flags: filter.flags,
        labels: labels.of_processes(),
    })
}

/// PATH, HOSTNAME and at a terminal TERM first, as Docker orders them; what was asked for wins.
fn environment(record: &Record) -> Vec<String> {
    let config = &record.config;
    let mut rest = config.env.clone().unwrap_or_default();
    let mut env = Vec::new();
    let mut first = |name: &str, default: Option<&str>| match rest
        .iter()
        .position(|entry| entry.split('=').next() == Some(name))
    {
        Some(at) => env.push(rest.remove(at)),
        None => env.extend(default.map(|value| format!("{name}={value}"))),
    };
    first("PATH", None);
    let hostname = Some(config.hostname.as_str()).filter(|name| !name.is_empty());
    first("HOSTNAME", hostname.or(Some(record.id.short())));
    if config.tty {
        first("TERM", Some("xterm"));
    }
    env.extend(rest);
    env
}

/// A further process: the container's settings, overridden by the request's.
pub(crate) fn exec(
    record: &Record,
    request: &ExecConfig,
    console_size: Option<[u32; 2]>,
    settings: &Settings,
    seccomp: Source<'_>,
) -> Result<ProcessPlan> {
    let mut plan = process(record, &record.labels, settings, seccomp)?;
    plan.args = request.cmd.clone().unwrap_or_default();
    for entry in request.env.iter().flatten() {
        let key = entry.split('=').next().unwrap_or(entry);
        plan.env.retain(|known| known.split('=').next() != Some(key));
        if entry.contains('=') {
            plan.env.push(entry.clone());
        }
    }
    if !request.working_dir.is_empty() {
        plan.cwd.clone_from(&request.working_dir);
    }
    if !request.user.is_empty() {
        plan.user = user(&request.user)?;
    }
    if request.tty && !plan.env.iter().any(|entry| entry.starts_with("TERM=")) {
        plan.env.push("TERM=xterm".to_owned());
    }
    plan.tty = request.tty;
    plan.console_size = console_size
        .or(request.console_size)
        .map(|[rows, columns]| (rows.min(9999) as u16, columns.min(9999) as u16));
    if request.privileged {
        // The filter stays the container's, as with Docker.
        plan.capabilities = hoy_runtime::caps::all();
    }
    plan.oom_score_adj = None;
    Ok(plan)
}

fn user(text: &str) -> Result<UserSpec> {
    text.parse().map_err(|error: hoy_types::UserError| Error::invalid(error.to_string()))
}

fn groups(list: &[String]) -> Result<Vec<UserRef>> {
    let group = |text: &String| {
        let spec = user(text)?;
        spec.user.ok_or_else(|| Error::invalid("invalid group: \"\""))
    };
    list.iter().map(group).collect()
}

/// The capability set of a container; also the check of `--cap-add` and `--cap-drop`.
pub(crate) fn capabilities(host: &HostConfig) -> Result<u64> {
    let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    hoy_runtime::caps::parse_add_drop(&list(&host.cap_add), &list(&host.cap_drop), host.privileged)
        .map_err(|error| Error::invalid(error.to_string()))
}

fn no_new_privileges(host: &HostConfig, settings: &Settings) -> bool {
    let last = host.security_opt.iter().flatten().rev().find_map(|option| {
        let rest = option.strip_prefix("no-new-privileges")?;
        Some(!rest.ends_with("false"))
    });
    last.unwrap_or(settings.no_new_privileges)
}

/// `--ulimit` by name.
pub(crate) fn rlimit(ulimit: &Ulimit) -> Result<Rlimit> {
    let resource = hoy_types::ulimit_number(&ulimit.name).map_err(Error::invalid)?;
    hoy_types::check_ulimit(ulimit.soft, ulimit.hard).map_err(Error::invalid)?;
    let unlimited = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    let (soft, hard) = (unlimited(ulimit.soft), unlimited(ulimit.hard));
    Ok(Rlimit { resource, soft, hard })
}
