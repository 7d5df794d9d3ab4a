//! Which system call filter a container gets, compiled once per profile and capability set.

use std::collections::VecDeque;
use std::io::Read as _;
use std::sync::{Mutex, PoisonError};

use hoy_runtime::BpfInstruction;
use hoy_seccomp::{Facts, MAX_BYTES, Machine, Profile, Version, builtin, compile};
use hoy_wire::HostConfig;

use crate::error::{Error, Result};

/// Compiled filters that are kept.
const KEPT: usize = 32;

const UNCONFINED: &str = "unconfined";
const BUILTIN: &str = "builtin";

/// What is loaded; empty for nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Filter {
    pub program: Vec<BpfInstruction>,
    /// SECCOMP_FILTER_FLAG_*.
    pub flags: u32,
}

/// How a plan asks for its filter: by the host's part of the request and the capabilities.
pub(crate) type Source<'a> = &'a dyn Fn(&HostConfig, u64) -> Result<Filter>;

/// The daemon's filters.
#[derive(Debug)]
pub(crate) struct Filters {
    default: Choice,
    kernel: Version,
    kept: Mutex<VecDeque<(Choice, u64, Filter)>>,
}

#[derive(Clone, Debug, PartialEq)]
enum Choice {
    Unconfined,
    Builtin,
    /// A profile's text.
    Text(String),
}

impl Filters {
    /// `setting` is the daemon's `seccomp-profile`. Reads the file that it names.
    pub(crate) fn open(setting: &str) -> Result<Self> {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let default = match setting {
            "" | BUILTIN => Choice::Builtin,
            UNCONFINED => Choice::Unconfined,
            path => Choice::Text(read(path)?),
        };
        let kernel = Version::of_release(&release).unwrap_or(Version(6, 1));
        let filters = Self { default, kernel, kept: Mutex::default() };
        // What is wrong with it is said when the daemon starts, not with each container.
        filters.compiled(&filters.default, hoy_runtime::caps::DEFAULT)?;
        Ok(filters)
    }

    /// The filter for a container, or why it cannot have one.
    pub(crate) fn filter(&self, host: &HostConfig, capabilities: u64) -> Result<Filter> {
        let options = host.security_opt.iter().flatten();
        let asked = options.filter_map(|option| value(option)).next_back().unwrap_or("");
        let choice = match asked {
            UNCONFINED => return Ok(Filter::default()),
            BUILTIN => Choice::Builtin,
            "" if host.privileged => return Ok(Filter::default()),
            "" => self.default.clone(),
            text => Choice::Text(text.to_owned()),
        };
        self.compiled(&choice, capabilities)
    }

    fn compiled(&self, choice: &Choice, capabilities: u64) -> Result<Filter> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.iter().position(|(c, with, _)| *with == capabilities && c == choice);
        // What is used moves to the end; what is not falls out at the beginning.
        let entry = match known.and_then(|at| kept.remove(at)) {
            Some(entry) => entry,
            None => {
                let facts =
                    Facts { capabilities, machine: Machine::current(), kernel: self.kernel };
                (choice.clone(), capabilities, make(choice, &facts)?)
            }
        };
        let filter = entry.2.clone();
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back(entry);
        Ok(filter)
    }
}

/// What stands behind `seccomp=`.
fn value(option: &str) -> Option<&str> {
    option.strip_prefix("seccomp")?.strip_prefix(['=', ':'])
}

fn read(path: &str) -> Result<String> {
    let failed = |error: &dyn std::fmt::Display| {
        Error::system(format!("opening seccomp profile ({path}) failed: {error}"))
    };
    let file = std::fs::File::open(path).map_err(|error| failed(&error))?;
    let mut text = String::new();
    file.take(MAX_BYTES as u64 + 1).read_to_string(&mut text).map_err(|error| failed(&error))?;
    Ok(text)
}

fn make(choice: &Choice, facts: &Facts) -> Result<Filter> {
    let parsed;
    let profile = match choice {
        Choice::Unconfined => return Ok(Filter::default()),
        Choice::Builtin => builtin(),
        Choice::Text(text) => {
            parsed = Profile::parse(text, &hoy_runtime::caps::number)
                .map_err(|error| Error::invalid(error.to_string()))?;
            &parsed
        }
    };
    let Some(resolved) = profile.resolve(facts) else { return Ok(Filter::default()) };
    let program = compile(&resolved).map_err(|error| Error::invalid(error.to_string()))?;
    let instruction =
        |i: &hoy_seccomp::Instruction| BpfInstruction { code: i.code, jt: i.jt, jf: i.jf, k: i.k };
    Ok(Filter {
        program: program.instructions.iter().map(instruction).collect(),
        flags: program.flags,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(options: &[&str], privileged: bool) -> HostConfig {
        HostConfig {
            security_opt: Some(options.iter().map(|option| (*option).to_owned()).collect()),
            privileged,
            ..HostConfig::default()
        }
    }

    #[test]
    fn who_gets_which() {
        const LOG: &str = r#"seccomp={"defaultAction": "SCMP_ACT_LOG", "flags": []}"#;
        let default = hoy_runtime::caps::DEFAULT;
        let filters = Filters::open("").unwrap();
        let of = |options: &[&str], privileged| filters.filter(&host(options, privileged), default);
        let ordinary = of(&[], false).unwrap();
        assert!(ordinary.program.len() > 100 && ordinary.flags == 4);
        assert_eq!(of(&["seccomp=builtin"], true).unwrap(), ordinary);
        assert_eq!(of(&[], true).unwrap(), Filter::default());
        assert_eq!(of(&["seccomp=unconfined"], false).unwrap(), Filter::default());
        assert_eq!(of(&["seccomp=unconfined", "seccomp:builtin"], false).unwrap(), ordinary);
        for privileged in [false, true] {
            let own = of(&["no-new-privileges", LOG], privileged).unwrap();
            assert!(own.program.len() < 10 && own.flags == 0, "{own:?}");
        }
        let error = of(&[r#"seccomp={"syscalls": 1}"#], false).unwrap_err();
        assert_eq!(error.kind(), hoy_types::ErrorKind::InvalidParameter);
        assert_eq!(error.to_string(), "seccomp profile: syscalls: expected a list, not a number");
        let error = of(&["seccomp=builtins"], false).unwrap_err().to_string();
        assert!(error.starts_with("Decoding seccomp profile failed: "), "{error}");
        // The daemon's own, where nothing is asked for.
        let open = Filters::open("unconfined").unwrap();
        assert_eq!(open.filter(&host(&[], false), default).unwrap(), Filter::default());
        assert_eq!(open.filter(&host(&["seccomp=builtin"], false), default).unwrap(), ordinary);
        let missing = Filters::open("/no/such/profile").unwrap_err().to_string();
        assert!(
            missing.starts_with("opening seccomp profile (/no/such/profile) failed: "),
            "{missing}"
        );
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let filters = Filters::open("").unwrap();
        for capabilities in 0..200 {
            filters.filter(&HostConfig::default(), capabilities).unwrap();
        }
        assert_eq!(filters.kept.lock().unwrap().len(), KEPT);
    }
}
