//! Further processes in a container.

use serde::{Deserialize, Serialize};

use crate::go::{is_default, nullable};

/// `container.ExecOptions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ExecConfig {
    #[serde(deserialize_with = "nullable")]
    pub user: String,
    #[serde(deserialize_with = "nullable")]
    pub privileged: bool,
    #[serde(deserialize_with = "nullable")]
    pub tty: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_size: Option<[u32; 2]>,
    #[serde(deserialize_with = "nullable")]
    pub attach_stdin: bool,
    #[serde(deserialize_with = "nullable")]
    pub attach_stderr: bool,
    #[serde(deserialize_with = "nullable")]
    pub attach_stdout: bool,
    #[serde(deserialize_with = "nullable")]
    pub detach: bool,
    #[serde(deserialize_with = "nullable")]
    pub detach_keys: String,
    pub env: Option<Vec<String>>,
    #[serde(deserialize_with = "nullable")]
    pub working_dir: String,
    pub cmd: Option<Vec<String>>,
}

/// `container.ExecStartOptions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ExecStart {
    #[serde(deserialize_with = "nullable")]
    pub detach: bool,
    #[serde(deserialize_with = "nullable")]
    pub tty: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_size: Option<[u32; 2]>,
}

/// `exec.Inspect`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ExecInspect {
    #[serde(rename = "ID", deserialize_with = "nullable")]
    pub id: String,
    #[serde(deserialize_with = "nullable")]
    pub running: bool,
    pub exit_code: Option<i64>,
    pub process_config: Option<ExecProcess>,
    #[serde(deserialize_with = "nullable")]
    pub open_stdin: bool,
    #[serde(deserialize_with = "nullable")]
    pub open_stderr: bool,
    #[serde(deserialize_with = "nullable")]
    pub open_stdout: bool,
    #[serde(deserialize_with = "nullable")]
    pub can_remove: bool,
    #[serde(rename = "ContainerID", deserialize_with = "nullable")]
    pub container_id: String,
    pub detach_keys: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub pid: i64,
}

/// `exec.ProcessConfig`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ExecProcess {
    #[serde(rename = "tty", deserialize_with = "nullable")]
    pub tty: bool,
    #[serde(rename = "entrypoint", deserialize_with = "nullable")]
    pub entrypoint: String,
    #[serde(rename = "arguments")]
    pub arguments: Option<Vec<String>>,
    #[serde(rename = "privileged", skip_serializing_if = "Option::is_none")]
    pub privileged: Option<bool>,
    #[serde(rename = "user", deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub user: String,
}
