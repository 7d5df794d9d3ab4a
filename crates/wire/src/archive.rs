//! A container's files: what lies at a path, and what has changed.

use hoy_types::Timestamp;
use serde::{Deserialize, Serialize};

use crate::go::nullable;

/// `container.PathStat`, which travels in a header.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PathStat {
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    #[serde(deserialize_with = "nullable")]
    pub size: i64,
    /// In Go's bits.
    #[serde(deserialize_with = "nullable")]
    pub mode: u32,
    #[serde(deserialize_with = "nullable")]
    pub mtime: Timestamp,
    #[serde(deserialize_with = "nullable")]
    pub link_target: String,
}

/// `container.FilesystemChange`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct FilesystemChange {
    /// 0 is modified, 1 added, 2 deleted.
    #[serde(deserialize_with = "nullable")]
    pub kind: u8,
    #[serde(deserialize_with = "nullable")]
    pub path: String,
}
