//! Our own `/hoy/check`: what nobody owns, and what the disk holds.

use serde::{Deserialize, Serialize};

use crate::go::nullable;

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
