//! The runtime specification's container document (`config.json`), as far as hoy writes it.
//!
//! Strict: a key that is not known here is refused when such a document is read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of the specification that these documents follow: what runtimes of the last years
/// all take.
pub const VERSION: &str = "1.0.2";

macro_rules! documents {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
    )*};
}

documents! {
    /// The whole document.
    Spec {
        oci_version: String,
        process: Process,
        root: Root,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        hostname: String,
        mounts: Vec<Mount>,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        annotations: BTreeMap<String, String>,
        linux: Linux,
    }

    /// A container's first process, or a further one.
    Process {
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        terminal: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        console_size: Option<ConsoleSize>,
        user: User,
        args: Vec<String>,
        env: Vec<String>,
        cwd: String,
        capabilities: Capabilities,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        rlimits: Vec<Rlimit>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        no_new_privileges: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        apparmor_profile: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        selinux_label: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        oom_score_adj: Option<i32>,
    }

    ConsoleSize {
        height: u32,
        width: u32,
    }

    User {
        uid: u32,
        gid: u32,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        additional_gids: Vec<u32>,
    }

    /// Names with `CAP_`. An absent set is an empty one.
    Capabilities {
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        bounding: Vec<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        effective: Vec<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        inheritable: Vec<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        permitted: Vec<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        ambient: Vec<String>,
    }

    Rlimit {
        /// `RLIMIT_…`.
        r#type: String,
        hard: u64,
        soft: u64,
    }

    Root {
        path: String,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        readonly: bool,
    }

    Mount {
        destination: String,
        r#type: String,
        source: String,
        options: Vec<String>,
    }

    Linux {
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        uid_mappings: Vec<IdMapping>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        gid_mappings: Vec<IdMapping>,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        sysctl: BTreeMap<String, String>,
        resources: Resources,
        cgroups_path: String,
        namespaces: Vec<Namespace>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        devices: Vec<Device>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seccomp: Option<Seccomp>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rootfs_propagation: Option<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        masked_paths: Vec<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        readonly_paths: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mount_label: Option<String>,
    }

    IdMapping {
        #[serde(rename = "containerID")]
        container_id: u32,
        #[serde(rename = "hostID")]
        host_id: u32,
        size: u32,
    }

    /// One that is new, or is joined where there is a path.
    Namespace {
        r#type: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
    }

    Device {
        path: String,
        /// `c` or `b`.
        r#type: String,
        major: i64,
        minor: i64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file_mode: Option<u32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uid: Option<u32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gid: Option<u32>,
    }

    /// Limits. Also what `update` is told.
    Resources {
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        devices: Vec<DeviceRule>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        memory: Option<Memory>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cpu: Option<Cpu>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pids: Option<Pids>,
        #[serde(rename = "blockIO", default, skip_serializing_if = "Option::is_none")]
        block_io: Option<BlockIo>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        hugepage_limits: Vec<HugepageLimit>,
    }

    /// Later rules win over earlier ones.
    DeviceRule {
        allow: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        r#type: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        major: Option<i64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        minor: Option<i64>,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        access: String,
    }

    /// Bytes; -1 is unlimited. Swap includes memory.
    Memory {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<i64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reservation: Option<i64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        swap: Option<i64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        swappiness: Option<u64>,
        #[serde(rename = "disableOOMKiller", default, skip_serializing_if = "Option::is_none")]
        disable_oom_killer: Option<bool>,
    }

    Cpu {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shares: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        quota: Option<i64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        period: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        realtime_runtime: Option<i64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        realtime_period: Option<u64>,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        cpus: String,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        mems: String,
    }

    Pids {
        limit: i64,
    }

    BlockIo {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        weight: Option<u16>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        weight_device: Vec<WeightDevice>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        throttle_read_bps_device: Vec<ThrottleDevice>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        throttle_write_bps_device: Vec<ThrottleDevice>,
        #[serde(
            rename = "throttleReadIOPSDevice",
            default,
            skip_serializing_if = "Vec::is_empty"
        )]
        throttle_read_iops_device: Vec<ThrottleDevice>,
        #[serde(
            rename = "throttleWriteIOPSDevice",
            default,
            skip_serializing_if = "Vec::is_empty"
        )]
        throttle_write_iops_device: Vec<ThrottleDevice>,
    }

    WeightDevice {
        major: i64,
        minor: i64,
        weight: u16,
    }

    ThrottleDevice {
        major: i64,
        minor: i64,
        rate: u64,
    }

    HugepageLimit {
        page_size: String,
        limit: u64,
    }

    /// A filter for system calls, all conditions resolved.
    Seccomp {
        default_action: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        default_errno_ret: Option<u32>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        architectures: Vec<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        flags: Vec<String>,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        listener_path: String,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        listener_metadata: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        syscalls: Vec<Syscall>,
    }

    Syscall {
        names: Vec<String>,
        action: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        errno_ret: Option<u32>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        args: Vec<SyscallArg>,
    }

    SyscallArg {
        index: u32,
        value: u64,
        #[serde(default)]
        value_two: u64,
        /// `SCMP_CMP_…`.
        op: String,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_specification() {
        let resources = Resources {
            memory: Some(Memory { disable_oom_killer: Some(true), ..Memory::default() }),
            block_io: Some(BlockIo {
                throttle_read_iops_device: vec![ThrottleDevice { major: 8, minor: 0, rate: 1 }],
                ..BlockIo::default()
            }),
            ..Resources::default()
        };
        assert_eq!(
            serde_json::to_string(&resources).unwrap(),
            r#"{"memory":{"disableOOMKiller":true},"blockIO":{"throttleReadIOPSDevice":[{"major":8,"minor":0,"rate":1}]}}"#
        );
        let mapping = IdMapping { container_id: 0, host_id: 1, size: 2 };
        assert_eq!(
            serde_json::to_string(&mapping).unwrap(),
            r#"{"containerID":0,"hostID":1,"size":2}"#
        );
        assert!(serde_json::from_str::<Pids>(r#"{"limit":1,"bogus":2}"#).is_err());
    }
}
