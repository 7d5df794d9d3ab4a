//! What the disk holds: `/system/df`, build cache, and our own `/hoy/check`.

use serde::{Deserialize, Serialize};

use crate::go::{is_default, nullable};
use crate::{ContainerSummary, ImageSummary, Volume};

/// `types.DiskUsage`, as it was before 1.52.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DiskUsage {
    #[serde(deserialize_with = "nullable")]
    pub layers_size: i64,
    pub images: Option<Vec<ImageSummary>>,
    pub containers: Option<Vec<ContainerSummary>>,
    pub volumes: Option<Vec<Volume>>,
    pub build_cache: Option<Vec<CacheRecord>>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub builder_size: i64,
}

/// `build.CacheRecord`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CacheRecord {
    #[serde(rename = "ID", deserialize_with = "nullable")]
    pub id: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub parent: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub parents: Vec<String>,
    #[serde(rename = "Type", deserialize_with = "nullable")]
    pub kind: String,
    #[serde(deserialize_with = "nullable")]
    pub description: String,
    #[serde(deserialize_with = "nullable")]
    pub in_use: bool,
    #[serde(deserialize_with = "nullable")]
    pub shared: bool,
    #[serde(deserialize_with = "nullable")]
    pub size: i64,
    #[serde(deserialize_with = "nullable")]
    pub created_at: String,
    pub last_used_at: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub usage_count: i64,
}

/// `build.CachePruneReport`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CachePruneReport {
    pub caches_deleted: Option<Vec<String>>,
    #[serde(deserialize_with = "nullable")]
    pub space_reclaimed: u64,
}

/// The answer of `/hoy/check`: what nobody owns, and how the disk is divided.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CheckReport {
    #[serde(deserialize_with = "nullable")]
    pub findings: Vec<Finding>,
    #[serde(deserialize_with = "nullable")]
    pub disk: DiskParts,
}

/// One thing that nobody owns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Finding {
    #[serde(deserialize_with = "nullable")]
    pub kind: String,
    #[serde(deserialize_with = "nullable")]
    pub what: String,
    #[serde(deserialize_with = "nullable")]
    pub bytes: u64,
    #[serde(deserialize_with = "nullable")]
    pub repaired: bool,
}

/// Bytes on the disk by what they are for; the total is what `du` of the data root says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DiskParts {
    pub images: u64,
    pub containers: u64,
    pub volumes: u64,
    pub logs: u64,
    pub trash: u64,
    pub database: u64,
    pub other: u64,
    pub total: u64,
}
