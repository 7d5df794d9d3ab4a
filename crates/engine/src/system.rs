//! The daemon about itself: version, info, events, networks, the end.

use std::collections::BTreeMap;
use std::path::Path;

use hoy_wire as wire;

use crate::engine::{Engine, host_name, now};
use crate::error::{Error, Result, lost};
use crate::life::Phase;

pub(crate) const ON_OVERLAY: &str = "The data root lies on overlayfs: no container can be started \
    there. Give the daemon a volume, a bind mount or a tmpfs for it";

impl Engine {
    pub fn version(&self) -> wire::Version {
        let uname = rustix::system::uname();
        let kernel = uname.release().to_string_lossy().into_owned();
        let details: BTreeMap<String, String> = [
            ("ApiVersion", wire::API_VERSION.to_owned()),
            ("MinAPIVersion", wire::MIN_API_VERSION.to_owned()),
            ("Arch", hoy_oci::host_architecture().to_owned()),
            ("Os", "linux".to_owned()),
            ("KernelVersion", kernel.clone()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        wire::Version {
            platform: wire::PlatformName { name: "hoy".into() },
            components: vec![
                wire::ComponentVersion {
                    name: "Engine".into(),
                    version: wire::DOCKER_VERSION.into(),
                    details,
                },
                wire::ComponentVersion {
                    name: "hoy".into(),
                    version: env!("CARGO_PKG_VERSION").into(),
                    details: BTreeMap::new(),
                },
            ],
            version: wire::DOCKER_VERSION.into(),
            api_version: wire::API_VERSION.into(),
            min_api_version: wire::MIN_API_VERSION.into(),
            os: "linux".into(),
            arch: hoy_oci::host_architecture().into(),
            kernel_version: kernel,
            ..wire::Version::default()
        }
    }

    pub fn info(&self) -> wire::Info {
        let inner = &self.inner;
        let current = inner.current();
        let all: Vec<Phase> =
            inner.registry.all().iter().map(|handle| handle.record().state.phase).collect();
        let count =
            |wanted: &[Phase]| all.iter().filter(|phase| wanted.contains(phase)).count() as i64;
        let cgroups = hoy_cgroup::Hierarchies::of_this_machine();
        let support = inner.support().cloned().unwrap_or_default();
        let unified = cgroups.as_ref().is_ok_and(hoy_cgroup::Hierarchies::unified);
        let mut warnings = missing_limits(&support, unified);
        if lies_on_overlay(&inner.settings.data_root) {
            warnings.push(format!("WARNING: {ON_OVERLAY}"));
        }
        let uname = rustix::system::uname();
        let forwarding = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward");
        let profile = match inner.settings.seccomp_profile.as_str() {
            "" => "builtin",
            named => named,
        };
        let barriers = inner.barriers_in_the_way();
        warnings.extend(barriers.into_iter().map(|line| format!("WARNING: {line}")));
        warnings.extend(inner.lsm.warnings.iter().cloned());
        warnings.extend(inner.pressure.warning().map(|line| format!("WARNING: {line}")));
        let mut security = Vec::new();
        security.extend(inner.lsm.apparmor().then(|| "name=apparmor".to_owned()));
        security.push(format!("name=seccomp,profile={profile}"));
        security.extend(inner.lsm.selinux().then(|| "name=selinux".to_owned()));
        security.extend(inner.id_maps.is_some().then(|| "name=userns".to_owned()));
        let list = |items: &[&str]| Some(items.iter().map(|item| (*item).to_owned()).collect());
        wire::Info {
            id: inner.id.clone(),
            containers: all.len() as i64,
            containers_running: count(&[Phase::Running]),
            containers_paused: count(&[Phase::Paused]),
            containers_stopped: count(&[
                Phase::Created,
                Phase::Starting,
                Phase::Restarting,
                Phase::Exited,
                Phase::Removing,
            ]),
            images: inner.images.list().len() as i64,
            driver: "overlay2".into(),
            driver_status: Some(vec![["Backing Filesystem".into(), "extfs".into()]]),
            plugins: wire::PluginsInfo {
                volume: Some(inner.volumes.drivers()),
                network: list(&["bridge", "host", "ipvlan", "macvlan", "null"]),
                authorization: None,
                log: list(&["json-file", "none"]),
            },
            warnings: Some(warnings).filter(|list| !list.is_empty()),
            memory_limit: support.memory,
            swap_limit: support.swap,
            cpu_cfs_period: support.cpu_quota,
            cpu_cfs_quota: support.cpu_quota,
            cpu_shares: support.cpu_shares,
            cpu_set: support.cpuset,
            pids_limit: support.pids,
            oom_kill_disable: support.oom_kill_disable,
            ipv4_forwarding: forwarding.is_ok_and(|text| text.trim() == "1"),
            debug: current.debug,
            system_time: now().to_string(),
            logging_driver: inner.settings.log_driver.clone(),
            cgroup_driver: inner.settings.cgroup_driver.map_or("cgroupfs", |d| d.name()).into(),
            cgroup_version: if unified { "2".into() } else { "1".into() },
            kernel_version: uname.release().to_string_lossy().into_owned(),
            operating_system: os_release("PRETTY_NAME"),
            os_version: os_release("VERSION_ID"),
            os_type: "linux".into(),
            architecture: uname.machine().to_string_lossy().into_owned(),
            index_server_address: "https://index.docker.io/v1/".into(),
            ncpu: std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as i64,
            mem_total: memory(),
            docker_root_dir: inner.settings.data_root.display().to_string(),
            name: host_name(),
            labels: Some(current.labels.clone()),
            server_version: wire::DOCKER_VERSION.into(),
            runtimes: Some(runtimes(&current)),
            default_runtime: current.default_runtime.clone(),
            swarm: wire::SwarmInfo { local_node_state: "inactive".into(), ..Default::default() },
            live_restore_enabled: true,
            init_binary: "hoy-init".into(),
            security_options: Some(security),
            cdi_spec_dirs: Some(
                crate::cdi::directories(&self.inner.settings)
                    .iter()
                    .map(|directory| directory.display().to_string())
                    .collect(),
            ),
            default_address_pools: inner
                .settings
                .networking
                .pools
                .iter()
                .map(|pool| wire::NetworkAddressPool {
                    base: pool.base.to_string(),
                    size: pool.size.into(),
                })
                .collect(),
            ..wire::Info::default()
        }
    }

    /// Whether a service manager has made the sockets and keeps them.
    pub fn has_given_sockets(&self) -> bool {
        self.inner.settings.hosts.iter().any(|host| host.starts_with("fd://"))
    }

    /// Ends the daemon; containers run on unless `clean`, which takes the network back and is
    /// refused while one needs it.
    pub async fn stop_daemon(&self, clean: bool) -> Result<()> {
        if clean {
            let running = self.inner.registry.all();
            let running = running.iter().find(|handle| handle.record().state.phase.is_alive());
            if let Some(handle) = running {
                return Err(Error::conflict(format!(
                    "container {} is running: end all containers before the network is taken back \
                     (`hoy stop $(hoy ps -q)`)",
                    handle.record().name
                )));
            }
            let inner = std::sync::Arc::clone(&self.inner);
            tokio::task::spawn_blocking(move || inner.clean_network()).await.map_err(lost)??;
        }
        let mut stop = self.inner.stop.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(stop) = stop.take() {
            let _ = stop.send(());
        }
        Ok(())
    }
}

/// What `info` warns of, in Docker's words.
fn missing_limits(support: &hoy_cgroup::Support, unified: bool) -> Vec<String> {
    [
        (support.memory, "memory limit support"),
        (support.swap, "swap limit support"),
        (support.oom_kill_disable || unified, "oom kill disable support"),
        (support.cpu_quota, "cpu cfs quota support"),
        (support.cpu_quota, "cpu cfs period support"),
        (support.cpu_shares, "cpu shares support"),
        (support.cpuset, "cpuset support"),
        (support.pids, "pids limit support"),
        (support.block_bps, "blkio throttle.read_bps_device support"),
        (support.block_bps, "blkio throttle.write_bps_device support"),
        (support.block_iops, "blkio throttle.read_iops_device support"),
        (support.block_iops, "blkio throttle.write_iops_device support"),
    ]
    .into_iter()
    .filter(|(have, _)| !have)
    .map(|(_, what)| format!("WARNING: No {what}"))
    .collect()
}

/// The built-in one under the names that Docker has for its own, and those of the settings.
fn runtimes(settings: &hoy_config::Settings) -> BTreeMap<String, wire::RuntimeWithStatus> {
    let built_in = ["io.containerd.runc.v2", "runc"].map(|name| {
        let runtime = wire::RuntimeWithStatus { path: "hoy".into(), ..Default::default() };
        (name.to_owned(), runtime)
    });
    let configured = settings.runtimes.iter().map(|(name, runtime)| {
        let path = runtime.path.display().to_string();
        let runtime_args = runtime.args.clone();
        (name.clone(), wire::RuntimeWithStatus { path, runtime_args, ..Default::default() })
    });
    built_in.into_iter().chain(configured).collect()
}

fn os_release(key: &str) -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    line.unwrap_or("Linux").trim_matches('"').to_owned()
}

pub(crate) fn memory() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<i64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// Whether a directory can carry no container: as the data root of a daemon in one, if it is not a
/// volume.
pub(crate) fn lies_on_overlay(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type == 0x794c_7630)
}
