//! Volumes as they are shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::go::{is_default, nullable};

/// `volume.Volume`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Volume {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub created_at: String,
    #[serde(deserialize_with = "nullable")]
    pub driver: String,
    pub labels: Option<BTreeMap<String, String>>,
    #[serde(deserialize_with = "nullable")]
    pub mountpoint: String,
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    pub options: Option<BTreeMap<String, String>>,
    #[serde(deserialize_with = "nullable")]
    pub scope: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub status: BTreeMap<String, serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_data: Option<VolumeUsage>,
}

/// `volume.CreateOptions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeCreateRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_volume_spec: Option<serde_json::Value>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub driver: String,
    pub driver_opts: Option<BTreeMap<String, String>>,
    pub labels: Option<BTreeMap<String, String>>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub name: String,
}

/// `volume.PruneReport`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumePruneReport {
    pub volumes_deleted: Option<Vec<String>>,
    pub space_reclaimed: u64,
}

/// `volume.UsageData`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeUsage {
    #[serde(deserialize_with = "nullable")]
    pub ref_count: i64,
    #[serde(deserialize_with = "nullable")]
    pub size: i64,
}

/// `volume.ListResponse`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeList {
    pub volumes: Option<Vec<Volume>>,
    pub warnings: Option<Vec<String>>,
}
