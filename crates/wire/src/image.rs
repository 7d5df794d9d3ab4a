//! Images as they are shown.

use std::collections::BTreeMap;

use hoy_types::Timestamp;
use serde::{Deserialize, Serialize};

use crate::go::{is_default, nullable};
use crate::{ContainerConfig, Descriptor, DriverData, Empty, HealthConfig};

/// `image.InspectResponse`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageInspect {
    #[serde(deserialize_with = "nullable")]
    pub id: String,
    pub repo_tags: Option<Vec<String>>,
    pub repo_digests: Option<Vec<String>>,
    #[serde(deserialize_with = "nullable")]
    pub parent: String,
    #[serde(deserialize_with = "nullable")]
    pub comment: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub created: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub container: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_config: Option<ContainerConfig>,
    #[serde(deserialize_with = "nullable")]
    pub docker_version: String,
    #[serde(deserialize_with = "nullable")]
    pub author: String,
    pub config: Option<ImageConfig>,
    #[serde(deserialize_with = "nullable")]
    pub architecture: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub variant: String,
    #[serde(deserialize_with = "nullable")]
    pub os: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub os_version: String,
    #[serde(deserialize_with = "nullable")]
    pub size: i64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub virtual_size: i64,
    #[serde(deserialize_with = "nullable")]
    pub graph_driver: DriverData,
    #[serde(rename = "RootFS", deserialize_with = "nullable")]
    pub root_fs: ImageRootFs,
    #[serde(deserialize_with = "nullable")]
    pub metadata: ImageMetadata,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptor: Option<Descriptor>,
}

/// `v1.DockerOCIImageConfig`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub user: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub exposed_ports: BTreeMap<String, Empty>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub cmd: Vec<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub volumes: BTreeMap<String, Empty>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub working_dir: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub stop_signal: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub args_escaped: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub on_build: Vec<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub shell: Vec<String>,
}

/// `image.RootFS`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageRootFs {
    #[serde(rename = "Type", deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub kind: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub layers: Vec<String>,
}

/// `image.Metadata`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageMetadata {
    #[serde(deserialize_with = "nullable")]
    pub last_tag_time: Timestamp,
}

/// `image.Summary`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageSummary {
    #[serde(deserialize_with = "nullable")]
    pub containers: i64,
    #[serde(deserialize_with = "nullable")]
    pub created: i64,
    #[serde(deserialize_with = "nullable")]
    pub id: String,
    pub labels: Option<BTreeMap<String, String>>,
    #[serde(deserialize_with = "nullable")]
    pub parent_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptor: Option<Descriptor>,
    pub repo_digests: Option<Vec<String>>,
    pub repo_tags: Option<Vec<String>>,
    #[serde(deserialize_with = "nullable")]
    pub shared_size: i64,
    #[serde(deserialize_with = "nullable")]
    pub size: i64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub virtual_size: i64,
}

/// `image.HistoryResponseItem`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageHistoryItem {
    #[serde(deserialize_with = "nullable")]
    pub comment: String,
    #[serde(deserialize_with = "nullable")]
    pub created: i64,
    #[serde(deserialize_with = "nullable")]
    pub created_by: String,
    #[serde(deserialize_with = "nullable")]
    pub id: String,
    #[serde(deserialize_with = "nullable")]
    pub size: i64,
    pub tags: Option<Vec<String>>,
}

/// `image.DeleteResponse`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageDeleteItem {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub deleted: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub untagged: String,
}

/// `image.PruneReport`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImagePruneReport {
    pub images_deleted: Option<Vec<ImageDeleteItem>>,
    #[serde(deserialize_with = "nullable")]
    pub space_reclaimed: u64,
}
