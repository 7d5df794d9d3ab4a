//! Capability sets by Docker's rules. Pure.

/// In the order of their numbers.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Docker's 14.
pub const DEFAULT: u64 = 0xa804_25fb;

/// The number of a capability by its name with `CAP_`.
pub fn number(name: &str) -> Option<u32> {
    let bare = name.strip_prefix("CAP_")?;
    NAMES.iter().position(|known| *known == bare).and_then(|at| u32::try_from(at).ok())
}

/// Every capability that the kernel of today knows.
pub const fn all() -> u64 {
    (1 << NAMES.len()) - 1
}

/// The names of a set, with `CAP_`.
pub fn names(set: u64) -> Vec<String> {
    let numbered = NAMES.iter().enumerate();
    let held = numbered.filter(|(number, _)| set >> number & 1 == 1);
    held.map(|(_, name)| format!("CAP_{name}")).collect()
}

/// A name that is no capability. The text is Docker's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {list}: unknown capability: \"{name}\"")]
pub struct CapabilityError {
    list: &'static str,
    name: String,
}

/// `--cap-add` and `--cap-drop` applied to the default set.
pub fn parse_add_drop(
    add: &[String],
    drop: &[String],
    privileged: bool,
) -> Result<u64, CapabilityError> {
    let added = parse("CapAdd", add)?;
    let dropped = parse("CapDrop", drop)?;
    if privileged {
        return Ok(all());
    }
    Ok(match (added, dropped) {
        (Set::All, Set::All | Set::Some(0)) => all(),
        (Set::All, Set::Some(drop)) => all() & !drop,
        (Set::Some(add), Set::All) => add,
        (Set::Some(add), Set::Some(drop)) => (DEFAULT & !drop) | add,
    })
}

#[derive(Clone, Copy)]
enum Set {
    All,
    Some(u64),
}

fn parse(list: &'static str, names: &[String]) -> Result<Set, CapabilityError> {
    let mut mask = 0;
    let mut everything = false;
    for name in names {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        match NAMES.iter().position(|known| *known == bare) {
            Some(number) => mask |= 1 << number,
            None if upper == "ALL" => everything = true,
            None => {
                let name = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
                return Err(CapabilityError { list, name });
            }
        }
    }
    Ok(if everything { Set::All } else { Set::Some(mask) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(add: &[&str], drop: &[&str]) -> Result<u64, CapabilityError> {
        let strings = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        parse_add_drop(&strings(add), &strings(drop), false)
    }

    #[test]
    fn rules() {
        assert_eq!(set(&[], &[]), Ok(DEFAULT));
        assert_eq!(set(&["net_admin"], &["CAP_CHOWN"]), Ok((DEFAULT | 1 << 12) & !1));
        assert_eq!(set(&["NET_RAW"], &["ALL"]), Ok(1 << 13));
        assert_eq!(set(&["ALL"], &["MKNOD"]), Ok(all() & !(1 << 27)));
        assert_eq!(
            set(&["bogus"], &[]).unwrap_err().to_string(),
            "invalid CapAdd: unknown capability: \"CAP_BOGUS\""
        );
    }
}
