//! GET /events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::go::{is_default, nullable};

/// `events.Message`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EventMessage {
    #[serde(rename = "status", deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub status: String,
    #[serde(rename = "id", deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub id: String,
    #[serde(rename = "from", deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub from: String,
    #[serde(rename = "Type", deserialize_with = "nullable")]
    pub kind: String,
    #[serde(deserialize_with = "nullable")]
    pub action: String,
    #[serde(deserialize_with = "nullable")]
    pub actor: EventActor,
    #[serde(rename = "scope", deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub scope: String,
    #[serde(rename = "time", deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub time: i64,
    #[serde(
        rename = "timeNano",
        deserialize_with = "nullable",
        skip_serializing_if = "is_default"
    )]
    pub time_nano: i64,
}

/// `events.Actor`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EventActor {
    #[serde(rename = "ID", deserialize_with = "nullable")]
    pub id: String,
    pub attributes: Option<BTreeMap<String, String>>,
}
