//! Containers as they are shown: inspect, list, wait, top.

use std::collections::BTreeMap;

use hoy_types::Timestamp;
use serde::{Deserialize, Serialize};

use crate::go::{is_default, nullable};
use crate::{ContainerConfig, EndpointSettings, HostConfig, PortMap};

/// `container.InspectResponse`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerInspect {
    #[serde(deserialize_with = "nullable")]
    pub id: String,
    #[serde(deserialize_with = "nullable")]
    pub created: String,
    #[serde(deserialize_with = "nullable")]
    pub path: String,
    pub args: Option<Vec<String>>,
    pub state: Option<ContainerState>,
    #[serde(deserialize_with = "nullable")]
    pub image: String,
    #[serde(deserialize_with = "nullable")]
    pub resolv_conf_path: String,
    #[serde(deserialize_with = "nullable")]
    pub hostname_path: String,
    #[serde(deserialize_with = "nullable")]
    pub hosts_path: String,
    #[serde(deserialize_with = "nullable")]
    pub log_path: String,
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    #[serde(deserialize_with = "nullable")]
    pub restart_count: i64,
    #[serde(deserialize_with = "nullable")]
    pub driver: String,
    #[serde(deserialize_with = "nullable")]
    pub platform: String,
    #[serde(deserialize_with = "nullable")]
    pub mount_label: String,
    #[serde(deserialize_with = "nullable")]
    pub process_label: String,
    #[serde(deserialize_with = "nullable")]
    pub app_armor_profile: String,
    #[serde(rename = "ExecIDs")]
    pub exec_ids: Option<Vec<String>>,
    pub host_config: Option<HostConfig>,
    #[serde(deserialize_with = "nullable")]
    pub graph_driver: DriverData,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_rw: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_root_fs: Option<i64>,
    pub mounts: Option<Vec<MountPoint>>,
    pub config: Option<ContainerConfig>,
    pub network_settings: Option<NetworkSettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_manifest_descriptor: Option<Descriptor>,
}

/// `container.State`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerState {
    #[serde(deserialize_with = "nullable")]
    pub status: String,
    #[serde(deserialize_with = "nullable")]
    pub running: bool,
    #[serde(deserialize_with = "nullable")]
    pub paused: bool,
    #[serde(deserialize_with = "nullable")]
    pub restarting: bool,
    #[serde(rename = "OOMKilled", deserialize_with = "nullable")]
    pub oom_killed: bool,
    #[serde(deserialize_with = "nullable")]
    pub dead: bool,
    #[serde(deserialize_with = "nullable")]
    pub pid: i64,
    #[serde(deserialize_with = "nullable")]
    pub exit_code: i64,
    #[serde(deserialize_with = "nullable")]
    pub error: String,
    #[serde(deserialize_with = "nullable")]
    pub started_at: String,
    #[serde(deserialize_with = "nullable")]
    pub finished_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

/// `container.Health`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Health {
    #[serde(deserialize_with = "nullable")]
    pub status: String,
    #[serde(deserialize_with = "nullable")]
    pub failing_streak: i64,
    pub log: Option<Vec<HealthcheckResult>>,
}

/// `container.HealthcheckResult`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthcheckResult {
    #[serde(deserialize_with = "nullable")]
    pub start: Timestamp,
    #[serde(deserialize_with = "nullable")]
    pub end: Timestamp,
    #[serde(deserialize_with = "nullable")]
    pub exit_code: i64,
    #[serde(deserialize_with = "nullable")]
    pub output: String,
}

/// `storage.DriverData`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DriverData {
    pub data: Option<BTreeMap<String, String>>,
    #[serde(deserialize_with = "nullable")]
    pub name: String,
}

/// `container.MountPoint`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct MountPoint {
    #[serde(rename = "Type", deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub kind: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub name: String,
    #[serde(deserialize_with = "nullable")]
    pub source: String,
    #[serde(deserialize_with = "nullable")]
    pub destination: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub driver: String,
    #[serde(deserialize_with = "nullable")]
    pub mode: String,
    #[serde(rename = "RW", deserialize_with = "nullable")]
    pub rw: bool,
    #[serde(deserialize_with = "nullable")]
    pub propagation: String,
}

/// `container.NetworkSettings`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkSettings {
    #[serde(deserialize_with = "nullable")]
    pub bridge: String,
    #[serde(rename = "SandboxID", deserialize_with = "nullable")]
    pub sandbox_id: String,
    #[serde(deserialize_with = "nullable")]
    pub sandbox_key: String,
    pub ports: Option<PortMap>,
    #[serde(deserialize_with = "nullable")]
    pub hairpin_mode: bool,
    #[serde(rename = "LinkLocalIPv6Address", deserialize_with = "nullable")]
    pub link_local_ipv6_address: String,
    #[serde(rename = "LinkLocalIPv6PrefixLen", deserialize_with = "nullable")]
    pub link_local_ipv6_prefix_len: i64,
    #[serde(rename = "SecondaryIPAddresses")]
    pub secondary_ip_addresses: Option<Vec<Address>>,
    #[serde(rename = "SecondaryIPv6Addresses")]
    pub secondary_ipv6_addresses: Option<Vec<Address>>,
    #[serde(rename = "EndpointID", deserialize_with = "nullable")]
    pub endpoint_id: String,
    #[serde(deserialize_with = "nullable")]
    pub gateway: String,
    #[serde(rename = "GlobalIPv6Address", deserialize_with = "nullable")]
    pub global_ipv6_address: String,
    #[serde(rename = "GlobalIPv6PrefixLen", deserialize_with = "nullable")]
    pub global_ipv6_prefix_len: i64,
    #[serde(rename = "IPAddress", deserialize_with = "nullable")]
    pub ip_address: String,
    #[serde(rename = "IPPrefixLen", deserialize_with = "nullable")]
    pub ip_prefix_len: i64,
    #[serde(rename = "IPv6Gateway", deserialize_with = "nullable")]
    pub ipv6_gateway: String,
    #[serde(deserialize_with = "nullable")]
    pub mac_address: String,
    pub networks: Option<BTreeMap<String, EndpointSettings>>,
}

/// `network.Address`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Address {
    #[serde(deserialize_with = "nullable")]
    pub addr: String,
    #[serde(deserialize_with = "nullable")]
    pub prefix_len: i64,
}

/// `v1.Descriptor`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Descriptor {
    #[serde(rename = "mediaType", deserialize_with = "nullable")]
    pub media_type: String,
    #[serde(rename = "digest", deserialize_with = "nullable")]
    pub digest: String,
    #[serde(rename = "size", deserialize_with = "nullable")]
    pub size: i64,
    #[serde(rename = "urls", deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub urls: Vec<String>,
    #[serde(
        rename = "annotations",
        deserialize_with = "nullable",
        skip_serializing_if = "is_default"
    )]
    pub annotations: BTreeMap<String, String>,
    #[serde(rename = "data", skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    #[serde(rename = "platform", skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(
        rename = "artifactType",
        deserialize_with = "nullable",
        skip_serializing_if = "is_default"
    )]
    pub artifact_type: String,
}

/// `v1.Platform`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Platform {
    #[serde(rename = "architecture", deserialize_with = "nullable")]
    pub architecture: String,
    #[serde(rename = "os", deserialize_with = "nullable")]
    pub os: String,
    #[serde(
        rename = "os.version",
        deserialize_with = "nullable",
        skip_serializing_if = "is_default"
    )]
    pub os_version: String,
    #[serde(
        rename = "os.features",
        deserialize_with = "nullable",
        skip_serializing_if = "is_default"
    )]
    pub os_features: Vec<String>,
    #[serde(rename = "variant", deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub variant: String,
}

/// `container.Summary`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerSummary {
    #[serde(deserialize_with = "nullable")]
    pub id: String,
    pub names: Option<Vec<String>>,
    #[serde(deserialize_with = "nullable")]
    pub image: String,
    #[serde(rename = "ImageID", deserialize_with = "nullable")]
    pub image_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_manifest_descriptor: Option<Descriptor>,
    #[serde(deserialize_with = "nullable")]
    pub command: String,
    #[serde(deserialize_with = "nullable")]
    pub created: i64,
    pub ports: Option<Vec<PortSummary>>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub size_rw: i64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub size_root_fs: i64,
    pub labels: Option<BTreeMap<String, String>>,
    #[serde(deserialize_with = "nullable")]
    pub state: String,
    #[serde(deserialize_with = "nullable")]
    pub status: String,
    #[serde(deserialize_with = "nullable")]
    pub host_config: HostConfigSummary,
    pub network_settings: Option<NetworkSettingsSummary>,
    pub mounts: Option<Vec<MountPoint>>,
    /// Since 1.52, and only where there is a health check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthSummary>,
}

/// `container.HealthSummary`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthSummary {
    #[serde(deserialize_with = "nullable")]
    pub status: String,
    #[serde(deserialize_with = "nullable")]
    pub failing_streak: i64,
}

/// `container.Port`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortSummary {
    #[serde(rename = "IP", deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub ip: String,
    #[serde(deserialize_with = "nullable")]
    pub private_port: u16,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub public_port: u16,
    #[serde(rename = "Type", deserialize_with = "nullable")]
    pub kind: String,
}

/// `container.NetworkSettingsSummary`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkSettingsSummary {
    pub networks: Option<BTreeMap<String, EndpointSettings>>,
}

/// `container.WaitResponse`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct WaitResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<WaitExitError>,
    #[serde(deserialize_with = "nullable")]
    pub status_code: i64,
}

/// `container.WaitExitError`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct WaitExitError {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub message: String,
}

/// `container.TopResponse`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TopResponse {
    pub processes: Option<Vec<Vec<String>>>,
    pub titles: Option<Vec<String>>,
}

/// `container.PruneReport`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerPruneReport {
    pub containers_deleted: Option<Vec<String>>,
    #[serde(deserialize_with = "nullable")]
    pub space_reclaimed: u64,
}

/// The part of the host configuration that a list shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HostConfigSummary {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub network_mode: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub annotations: BTreeMap<String, String>,
}
