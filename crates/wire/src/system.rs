//! The daemon about itself: /version and /info.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::go::{is_default, nullable};

/// `types.Version`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Version {
    #[serde(deserialize_with = "nullable")]
    pub platform: PlatformName,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub components: Vec<ComponentVersion>,
    #[serde(deserialize_with = "nullable")]
    pub version: String,
    #[serde(deserialize_with = "nullable")]
    pub api_version: String,
    #[serde(
        rename = "MinAPIVersion",
        deserialize_with = "nullable",
        skip_serializing_if = "is_default"
    )]
    pub min_api_version: String,
    #[serde(deserialize_with = "nullable")]
    pub git_commit: String,
    #[serde(deserialize_with = "nullable")]
    pub go_version: String,
    #[serde(deserialize_with = "nullable")]
    pub os: String,
    #[serde(deserialize_with = "nullable")]
    pub arch: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub kernel_version: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub experimental: bool,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub build_time: String,
}

/// `types.ComponentVersion`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ComponentVersion {
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    #[serde(deserialize_with = "nullable")]
    pub version: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub details: BTreeMap<String, String>,
}

/// `system.Info`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Info {
    #[serde(rename = "ID", deserialize_with = "nullable")]
    pub id: String,
    #[serde(deserialize_with = "nullable")]
    pub containers: i64,
    #[serde(deserialize_with = "nullable")]
    pub containers_running: i64,
    #[serde(deserialize_with = "nullable")]
    pub containers_paused: i64,
    #[serde(deserialize_with = "nullable")]
    pub containers_stopped: i64,
    #[serde(deserialize_with = "nullable")]
    pub images: i64,
    #[serde(deserialize_with = "nullable")]
    pub driver: String,
    pub driver_status: Option<Vec<[String; 2]>>,
    #[serde(deserialize_with = "nullable")]
    pub plugins: PluginsInfo,
    #[serde(deserialize_with = "nullable")]
    pub memory_limit: bool,
    #[serde(deserialize_with = "nullable")]
    pub swap_limit: bool,
    #[serde(deserialize_with = "nullable")]
    pub cpu_cfs_period: bool,
    #[serde(deserialize_with = "nullable")]
    pub cpu_cfs_quota: bool,
    #[serde(rename = "CPUShares", deserialize_with = "nullable")]
    pub cpu_shares: bool,
    #[serde(rename = "CPUSet", deserialize_with = "nullable")]
    pub cpu_set: bool,
    #[serde(deserialize_with = "nullable")]
    pub pids_limit: bool,
    #[serde(rename = "IPv4Forwarding", deserialize_with = "nullable")]
    pub ipv4_forwarding: bool,
    #[serde(deserialize_with = "nullable")]
    pub debug: bool,
    #[serde(rename = "NFd", deserialize_with = "nullable")]
    pub nfd: i64,
    #[serde(deserialize_with = "nullable")]
    pub oom_kill_disable: bool,
    #[serde(rename = "NGoroutines", deserialize_with = "nullable")]
    pub ngoroutines: i64,
    #[serde(deserialize_with = "nullable")]
    pub system_time: String,
    #[serde(deserialize_with = "nullable")]
    pub logging_driver: String,
    #[serde(deserialize_with = "nullable")]
    pub cgroup_driver: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub cgroup_version: String,
    #[serde(rename = "NEventsListener", deserialize_with = "nullable")]
    pub nevents_listener: i64,
    #[serde(deserialize_with = "nullable")]
    pub kernel_version: String,
    #[serde(deserialize_with = "nullable")]
    pub operating_system: String,
    #[serde(rename = "OSVersion", deserialize_with = "nullable")]
    pub os_version: String,
    #[serde(rename = "OSType", deserialize_with = "nullable")]
    pub os_type: String,
    #[serde(deserialize_with = "nullable")]
    pub architecture: String,
    #[serde(deserialize_with = "nullable")]
    pub index_server_address: String,
    pub registry_config: Option<serde_json::Value>,
    #[serde(rename = "NCPU", deserialize_with = "nullable")]
    pub ncpu: i64,
    #[serde(deserialize_with = "nullable")]
    pub mem_total: i64,
    pub generic_resources: Option<Vec<serde_json::Value>>,
    #[serde(deserialize_with = "nullable")]
    pub docker_root_dir: String,
    #[serde(deserialize_with = "nullable")]
    pub http_proxy: String,
    #[serde(deserialize_with = "nullable")]
    pub https_proxy: String,
    #[serde(deserialize_with = "nullable")]
    pub no_proxy: String,
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    pub labels: Option<Vec<String>>,
    #[serde(deserialize_with = "nullable")]
    pub experimental_build: bool,
    #[serde(deserialize_with = "nullable")]
    pub server_version: String,
    pub runtimes: Option<BTreeMap<String, RuntimeWithStatus>>,
    #[serde(deserialize_with = "nullable")]
    pub default_runtime: String,
    #[serde(deserialize_with = "nullable")]
    pub swarm: SwarmInfo,
    #[serde(deserialize_with = "nullable")]
    pub live_restore_enabled: bool,
    #[serde(deserialize_with = "nullable")]
    pub isolation: String,
    #[serde(deserialize_with = "nullable")]
    pub init_binary: String,
    #[serde(deserialize_with = "nullable")]
    pub containerd_commit: Commit,
    #[serde(deserialize_with = "nullable")]
    pub runc_commit: Commit,
    #[serde(deserialize_with = "nullable")]
    pub init_commit: Commit,
    pub security_options: Option<Vec<String>>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub product_license: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub default_address_pools: Vec<NetworkAddressPool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firewall_backend: Option<FirewallInfo>,
    #[serde(rename = "CDISpecDirs")]
    pub cdi_spec_dirs: Option<Vec<String>>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub discovered_devices: Vec<DeviceInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub containerd: Option<ContainerdInfo>,
    pub warnings: Option<Vec<String>>,
}

/// `system.PluginsInfo`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PluginsInfo {
    pub volume: Option<Vec<String>>,
    pub network: Option<Vec<String>>,
    pub authorization: Option<Vec<String>>,
    pub log: Option<Vec<String>>,
}

/// `system.Commit`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Commit {
    #[serde(rename = "ID", deserialize_with = "nullable")]
    pub id: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub expected: String,
}

/// `system.RuntimeWithStatus`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RuntimeWithStatus {
    #[serde(rename = "path", deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub path: String,
    #[serde(
        rename = "runtimeArgs",
        deserialize_with = "nullable",
        skip_serializing_if = "is_default"
    )]
    pub runtime_args: Vec<String>,
    #[serde(
        rename = "runtimeType",
        deserialize_with = "nullable",
        skip_serializing_if = "is_default"
    )]
    pub runtime_type: String,
    #[serde(rename = "options", deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub options: BTreeMap<String, serde_json::Value>,
    #[serde(rename = "status", deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub status: BTreeMap<String, String>,
}

/// `system.ContainerdInfo`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerdInfo {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub address: String,
    #[serde(deserialize_with = "nullable")]
    pub namespaces: ContainerdNamespaces,
}

/// `system.ContainerdNamespaces`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerdNamespaces {
    #[serde(deserialize_with = "nullable")]
    pub containers: String,
    #[serde(deserialize_with = "nullable")]
    pub plugins: String,
}

/// `system.FirewallInfo`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct FirewallInfo {
    #[serde(deserialize_with = "nullable")]
    pub driver: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub info: Vec<[String; 2]>,
}

/// `system.DeviceInfo`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DeviceInfo {
    #[serde(deserialize_with = "nullable")]
    pub source: String,
    #[serde(rename = "ID", deserialize_with = "nullable")]
    pub id: String,
}

/// `system.NetworkAddressPool`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkAddressPool {
    #[serde(deserialize_with = "nullable")]
    pub base: String,
    #[serde(deserialize_with = "nullable")]
    pub size: i64,
}

/// `swarm.Info`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SwarmInfo {
    #[serde(rename = "NodeID", deserialize_with = "nullable")]
    pub node_id: String,
    #[serde(deserialize_with = "nullable")]
    pub node_addr: String,
    #[serde(deserialize_with = "nullable")]
    pub local_node_state: String,
    #[serde(deserialize_with = "nullable")]
    pub control_available: bool,
    #[serde(deserialize_with = "nullable")]
    pub error: String,
    pub remote_managers: Option<Vec<SwarmPeer>>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub nodes: i64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub managers: i64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub warnings: Vec<String>,
}

/// `swarm.Peer`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SwarmPeer {
    #[serde(rename = "NodeID", deserialize_with = "nullable")]
    pub node_id: String,
    #[serde(deserialize_with = "nullable")]
    pub addr: String,
}

/// The name of the product.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PlatformName {
    pub name: String,
}
