//! The options of the local driver: what is mounted on a volume's directory.

use std::collections::BTreeMap;

use rustix::mount::{MountFlags, MountPropagationFlags};

use crate::{Result, VolumeError};

/// `type`, `device` and `o` as mount(2) takes them, and `size`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalOptions {
    pub mount: Option<MountOptions>,
    /// Bytes that it may hold.
    pub size: Option<u64>,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    pub kind: String,
    pub device: String,
    pub flags: MountFlags,
    pub propagation: MountPropagationFlags,
    /// What only the file system understands.
    pub data: String,
}

/// With everything below it: a flag that rustix has for changes of propagation alone.
const REC: u32 = 0x4000;

impl LocalOptions {
    /// Docker's rules: known names, and which need which.
    pub fn parse(options: &BTreeMap<String, String>) -> Result<Self> {
        let get = |name: &str| options.get(name).map(String::as_str);
        for name in options.keys() {
            if !matches!(name.as_str(), "type" | "device" | "o" | "size") {
                return Err(VolumeError::Invalid(format!("invalid option: \"{name}\"")));
            }
        }
        for (name, needed) in
            [("device", &["type"][..]), ("type", &["device"]), ("o", &["device", "type"])]
        {
            if get(name).is_none() {
                continue;
            }
            if let Some(missing) = needed.iter().find(|other| get(other).is_none()) {
                return Err(VolumeError::Invalid(format!(
                    "missing required option: \"{missing}\""
                )));
            }
        }
        let size = match get("size") {
            Some(text) => {
                let bytes = hoy_types::parse_bytes(text).ok().and_then(|n| u64::try_from(n).ok());
                let bytes = bytes.filter(|bytes| *bytes > 0);
                Some(bytes.ok_or_else(|| VolumeError::Invalid(format!("invalid size: '{text}'")))?)
            }
            None => None,
        };
        let mount = match (get("type"), get("device")) {
            (Some(kind), Some(device)) => {
                Some(mount_options(kind, device, get("o").unwrap_or(""))?)
            }
            _ => None,
        };
        if mount.is_some() && size.is_some() {
            return Err(VolumeError::Invalid(
                "the option size is for volumes on the data root's disk: what is mounted by type \
                 and device has its own limits"
                    .to_owned(),
            ));
        }
        Ok(Self { mount, size })
    }
}

fn mount_options(kind: &str, device: &str, words: &str) -> Result<MountOptions> {
    if kind.contains('\0') || device.contains('\0') || words.contains('\0') {
        return Err(VolumeError::Invalid("an option holds a NUL byte".to_owned()));
    }
    let mut out = MountOptions {
        kind: if kind == "none" { String::new() } else { kind.to_owned() },
        device: device.to_owned(),
        flags: MountFlags::empty(),
        propagation: MountPropagationFlags::empty(),
        data: String::new(),
    };
    let mut data: Vec<&str> = Vec::new();
    for word in words.split(',').filter(|word| !word.is_empty()) {
        let (set, flag) = match word {
            "defaults" => continue,
            "ro" => (true, MountFlags::RDONLY),
            "rw" => (false, MountFlags::RDONLY),
            "nosuid" => (true, MountFlags::NOSUID),
            "suid" => (false, MountFlags::NOSUID),
            "nodev" => (true, MountFlags::NODEV),
            "dev" => (false, MountFlags::NODEV),
            "noexec" => (true, MountFlags::NOEXEC),
            "exec" => (false, MountFlags::NOEXEC),
            "sync" => (true, MountFlags::SYNCHRONOUS),
            "async" => (false, MountFlags::SYNCHRONOUS),
            "dirsync" => (true, MountFlags::DIRSYNC),
            "noatime" => (true, MountFlags::NOATIME),
            "atime" => (false, MountFlags::NOATIME),
            "nodiratime" => (true, MountFlags::NODIRATIME),
            "diratime" => (false, MountFlags::NODIRATIME),
            "relatime" => (true, MountFlags::RELATIME),
            "norelatime" => (false, MountFlags::RELATIME),
            "strictatime" => (true, MountFlags::STRICTATIME),
            "nostrictatime" => (false, MountFlags::STRICTATIME),
            "bind" => (true, MountFlags::BIND),
            "rbind" => (true, MountFlags::BIND | MountFlags::from_bits_retain(REC)),
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" | "unbindable"
            | "runbindable" => {
                let (deep, name) = match word.strip_prefix('r') {
                    Some(name) => (true, name),
                    None => (false, word),
                };
                out.propagation = match name {
                    "shared" => MountPropagationFlags::SHARED,
                    "slave" => MountPropagationFlags::DOWNSTREAM,
                    "unbindable" => MountPropagationFlags::UNBINDABLE,
                    _ => MountPropagationFlags::PRIVATE,
                };
                out.propagation.set(MountPropagationFlags::REC, deep);
                continue;
            }
            other => {
                data.push(other);
                continue;
            }
        };
        out.flags.set(flag, set);
    }
    out.data = data.join(",");
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[(&str, &str)]) -> Result<LocalOptions> {
        let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        LocalOptions::parse(&options)
    }

    #[test]
    fn which_need_which() {
        assert_eq!(parse(&[]).unwrap(), LocalOptions::default());
        for (bad, says) in [
            (&[("x", "1")][..], "invalid option: \"x\""),
            (&[("device", "/x")], "missing required option: \"type\""),
            (&[("type", "tmpfs")], "missing required option: \"device\""),
            (&[("o", "ro")], "missing required option: \"device\""),
            (&[("size", "x")], "invalid size: 'x'"),
            (&[("size", "0")], "invalid size: '0'"),
        ] {
            assert_eq!(parse(bad).unwrap_err().to_string(), says);
        }
        assert_eq!(parse(&[("size", "10m")]).unwrap().size, Some(10 << 20));
    }

    #[test]
    fn words_become_flags_and_data() {
        let options = parse(&[
            ("type", "tmpfs"),
            ("device", "tmpfs"),
            ("o", "size=100m,uid=1000,noexec,nosuid,ro,rw"),
        ]);
        let mount = options.unwrap().mount.unwrap();
        assert_eq!(mount.data, "size=100m,uid=1000");
        assert_eq!(mount.flags, MountFlags::NOEXEC | MountFlags::NOSUID);
        let options = parse(&[("type", "none"), ("device", "/srv"), ("o", "rbind,rslave")]);
        let mount = options.unwrap().mount.unwrap();
        assert!(mount.flags.contains(MountFlags::BIND) && mount.kind.is_empty());
        let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        assert_eq!(mount.propagation, slave);
    }
}
