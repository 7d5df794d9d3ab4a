//! SELinux on this host: whether it is on, and which labels containers get. The choice is pure.

use std::collections::HashSet;
use std::path::Path;

use crate::error::{Error, Result};

const FILES: &str = "/sys/fs/selinux";
const MAGIC: i64 = 0xf97c_ff8c;
const SETTINGS: &str = "/etc/selinux/config";
/// One category of a pair; the last two are for who is separated from nobody.
const CATEGORIES: u32 = 1024;

/// `user:role:type:level`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Context {
    user: String,
    role: String,
    kind: String,
    level: Option<String>,
}

impl Context {
    fn parse(text: &str) -> Option<Self> {
        // A level can have colons of its own.
        let mut parts = text.splitn(4, ':').map(str::to_owned);
        let (user, role, kind) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { user, role, kind, level: parts.next() })
    }

    fn at(&self, level: &str) -> Self {
        // A policy without levels has none to give.
        let level = self.level.as_ref().map(|_| level.to_owned());
        Self { level, ..self.clone() }
    }
}

impl std::fmt::Display for Context {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { user, role, kind, level } = self;
        match level {
            Some(level) => write!(out, "{user}:{role}:{kind}:{level}"),
            None => write!(out, "{user}:{role}:{kind}"),
        }
    }
}

/// What the host's policy says about containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeLinux {
    process: Context,
    file: Context,
}

/// What one container has. Both may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    pub process: String,
    pub mount: String,
}

impl SeLinux {
    /// `None` where SELinux is off; words where it is on and says nothing about containers.
    pub fn of_this_host() -> std::result::Result<Option<Self>, String> {
        let found = rustix::fs::statfs(FILES);
        let current = std::fs::read_to_string("/proc/self/attr/current").unwrap_or_default();
        // Without a policy everything is the kernel's.
        let off = matches!(current.trim_end_matches(['\n', '\0']), "" | "kernel");
        if !found.is_ok_and(|found| found.f_type == MAGIC) || off {
            return Ok(None);
        }
        let settings = std::fs::read_to_string(SETTINGS).unwrap_or_default();
        let policy = value(&settings, "SELINUXTYPE").unwrap_or("targeted");
        let path = Path::new("/etc/selinux").join(policy).join("contexts/lxc_contexts");
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("read {}: {error}", path.display()))?;
        let contexts = Self::parse(&text);
        let missing = || format!("{} names no labels of processes and files", path.display());
        contexts.ok_or_else(missing).map(Some)
    }

    /// lxc_contexts: `process = "user:role:type:level"`.
    fn parse(text: &str) -> Option<Self> {
        let context = |name| Context::parse(value(text, name)?.trim_matches('"'));
        Some(Self { process: context("process")?, file: context("file")? })
    }

    /// The labels of a container with these `--security-opt label=…` and, unless they say
    /// otherwise, this level.
    pub fn labels(&self, options: &[&str], level: &str) -> Result<Labels> {
        let (mut process, mut file) = (self.process.at(level), self.file.at(level));
        for option in checked(options)? {
            match option {
                Choice::Disable => {
                    let all = format!("s0:c{},c{}", CATEGORIES - 2, CATEGORIES - 1);
                    let mount = self.file.at(&all).to_string();
                    return Ok(Labels { process: String::new(), mount });
                }
                Choice::User(user) => {
                    user.clone_into(&mut process.user);
                    user.clone_into(&mut file.user);
                }
                Choice::Role(role) => role.clone_into(&mut process.role),
                Choice::Type(kind) => kind.clone_into(&mut process.kind),
                Choice::FileType(kind) => kind.clone_into(&mut file.kind),
                Choice::Level(level) => {
                    process.level = Some(level.to_owned());
                    file.level = Some(level.to_owned());
                }
            }
        }
        Ok(Labels { process: process.to_string(), mount: file.to_string() })
    }
}

fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().rev().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == name).then(|| value.trim())
    })
}

enum Choice<'a> {
    Disable,
    User(&'a str),
    Role(&'a str),
    Type(&'a str),
    Level(&'a str),
    FileType(&'a str),
}

fn checked<'a>(options: &[&'a str]) -> Result<Vec<Choice<'a>>> {
    options.iter().map(|option| choice(option)).collect()
}

fn choice(option: &str) -> Result<Choice<'_>> {
    if option == "disable" {
        return Ok(Choice::Disable);
    }
    let Some((name, value)) = option.split_once(':') else {
        return Err(Error::invalid(format!(
            "bad label option {option:?}, valid options 'disable' or \n'user, role, level, type, \
             filetype' followed by ':' and a value"
        )));
    };
    let plain = !value.is_empty() && !value.contains([',', '\n', '\0', '"'])
        || name == "level" && !value.is_empty() && !value.contains(['\n', '\0', '"']);
    match name {
        "user" | "role" | "type" | "level" | "filetype" if !plain => {
            Err(Error::invalid(format!("bad label option {option:?}: the value cannot be used")))
        }
        "user" => Ok(Choice::User(value)),
        "role" => Ok(Choice::Role(value)),
        "type" => Ok(Choice::Type(value)),
        "level" => Ok(Choice::Level(value)),
        "filetype" => Ok(Choice::FileType(value)),
        _ => Err(Error::invalid(format!(
            "bad label option {name:?}, valid options 'disable, user, role, level, type, filetype'"
        ))),
    }
}

/// Whether label options say no more than that there is to be none.
pub(crate) fn only_disabled(options: &[&str]) -> Result<bool> {
    Ok(checked(options)?.iter().all(|choice| matches!(choice, Choice::Disable)))
}

/// The level of a context.
pub(crate) fn level_of(context: &str) -> Option<&str> {
    context.splitn(4, ':').nth(3)
}

/// The same label for whoever may share: without categories.
pub(crate) fn shared(label: &str) -> String {
    Context::parse(label).map_or_else(String::new, |context| context.at("s0").to_string())
}

/// A pair of categories that no container has: only its own processes reach its files.
pub(crate) fn unique_level(
    used: &HashSet<String>,
    mut random: impl FnMut() -> Result<u64>,
) -> Result<String> {
    // Half a million pairs: many attempts mean that nearly all are taken.
    for _ in 0..10_000 {
        let number = random()?;
        let category = |number: u64| (number & 0xffff_ffff) as u32 % (CATEGORIES - 2);
        let (a, b) = (category(number), category(number >> 32));
        let level = format!("s0:c{},c{}", a.min(b), a.max(b));
        if a != b && !used.contains(&level) {
            return Ok(level);
        }
    }
    Err(Error::system("no pair of SELinux categories is free"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> SeLinux {
        let text = "process = \"system_u:system_r:container_t:s0\"\n\
                    content = \"system_u:object_r:virt_var_lib_t:s0\"\n\
                    file = \"system_u:object_r:container_file_t:s0\"\n\
                    ro_file=\"system_u:object_r:container_ro_file_t:s0\"\n";
        SeLinux::parse(text).unwrap()
    }

    fn labels(options: &[&str]) -> (String, String) {
        let labels = policy().labels(options, "s0:c1,c2").unwrap();
        (labels.process, labels.mount)
    }

    #[test]
    fn labels_by_options() {
        let process = "system_u:system_r:container_t:s0:c1,c2";
        let file = "system_u:object_r:container_file_t:s0:c1,c2";
        for (options, expected) in [
            (&[][..], (process, file)),
            (&["disable"], ("", "system_u:object_r:container_file_t:s0:c1022,c1023")),
            (&["type:spc_t"], ("system_u:system_r:spc_t:s0:c1,c2", file)),
            (&["filetype:x_t"], (process, "system_u:object_r:x_t:s0:c1,c2")),
            (&["role:r", "type:t"], ("system_u:r:t:s0:c1,c2", file)),
            (
                &["user:u", "level:s0:c100,c200"],
                ("u:system_r:container_t:s0:c100,c200", "u:object_r:container_file_t:s0:c100,c200"),
            ),
        ] {
            let (process, mount) = labels(options);
            assert_eq!((process.as_str(), mount.as_str()), expected, "{options:?}");
        }
    }

    #[test]
    fn bad_options() {
        for (option, says) in [
            ("nonsense", "bad label option \"nonsense\", valid options 'disable' or"),
            ("nested", "bad label option \"nested\""),
            ("color:red", "bad label option \"color\", valid options 'disable, user"),
            ("type:", "the value cannot be used"),
            ("type:a,b", "the value cannot be used"),
        ] {
            let error = policy().labels(&[option], "s0:c1,c2").unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            assert!(only_disabled(&[option]).is_err());
        }
        assert!(only_disabled(&["disable"]).unwrap());
        assert!(!only_disabled(&["disable", "level:s0"]).unwrap());
    }

    #[test]
    fn policies_without_levels_and_without_containers() {
        let text = "process = \"u:r:p_t\"\nfile = \"u:o:f_t\"\n";
        let labels = SeLinux::parse(text).unwrap().labels(&[], "s0:c1,c2").unwrap();
        assert_eq!((labels.process.as_str(), labels.mount.as_str()), ("u:r:p_t", "u:o:f_t"));
        assert_eq!(SeLinux::parse("file = \"u:o:f_t\"\n"), None);
        assert_eq!(SeLinux::parse(""), None);
    }

    #[test]
    fn levels() {
        assert_eq!(level_of("u:r:t:s0:c1,c2"), Some("s0:c1,c2"));
        assert_eq!(level_of(""), None);
        assert_eq!(shared("u:r:t:s0:c1,c2"), "u:r:t:s0");
        let used = HashSet::from(["s0:c1,c2".to_owned()]);
        // Ordered, two of them, and nobody's.
        let mut numbers = [(2 << 32) | 1, (5 << 32) | 5, (3 << 32) | 7].into_iter();
        let level = unique_level(&used, || Ok(numbers.next().unwrap())).unwrap();
        assert_eq!(level, "s0:c3,c7");
        assert!(unique_level(&used, || Ok((1 << 32) | 2)).is_err());
    }
}
