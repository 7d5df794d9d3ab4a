//! Which devices a container may use: a list on v1, a BPF program on v2.

use crate::{Cgroup, CgroupError, DeviceRule, v2devices};

pub(crate) fn allow_only(cgroup: &Cgroup, rules: &[DeviceRule]) -> Result<(), CgroupError> {
    if let Some(member) = cgroup.find("devices") {
        cgroup.write(member, "devices.deny", "a")?;
        for rule in rules {
            cgroup.write(member, "devices.allow", &line(rule))?;
        }
        return Ok(());
    }
    match cgroup.unified() {
        Some(directory) => v2devices::attach(directory, rules).map_err(|source| CgroupError::Io {
            operation: "restrict the devices of",
            path: cgroup.path.clone(),
            source,
        }),
        None => Err(CgroupError::Missing("devices")),
    }
}

fn line(rule: &DeviceRule) -> String {
    let number = |value: Option<u32>| value.map_or("*".to_owned(), |value| value.to_string());
    format!("{} {}:{} {}", rule.kind, number(rule.major), number(rule.minor), rule.access)
}
