//! Which system call filter a container gets, compiled once per profile and capability set.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::Read as _;
use std::sync::{Mutex, PoisonError};

use hoy_oci::runtime::{Seccomp, Syscall, SyscallArg};
use hoy_runtime::BpfInstruction;
use hoy_seccomp::{
    Action, Argument, Facts, Flags, MAX_BYTES, Machine, Operator, Profile, Resolved, Rule, Version,
    builtin, compile,
};
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

/// The same as a document, for a runtime that compiles it itself.
pub(crate) type RuleSource<'a> = &'a dyn Fn(&HostConfig, u64) -> Result<Option<Seccomp>>;

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
        self.compiled(&self.choice(host), capabilities)
    }

    /// The same profile as a document of the runtime specification.
    pub(crate) fn rules(&self, host: &HostConfig, capabilities: u64) -> Result<Option<Seccomp>> {
        let profile = match self.choice(host) {
            Choice::Unconfined => return Ok(None),
            Choice::Builtin => Cow::Borrowed(builtin()),
            Choice::Text(text) => Cow::Owned(parse(&text)?),
        };
        Ok(profile.resolve(&self.facts(capabilities)).map(|resolved| document(&resolved)))
    }

    fn facts(&self, capabilities: u64) -> Facts {
        Facts { capabilities, machine: Machine::current(), kernel: self.kernel }
    }

    fn choice(&self, host: &HostConfig) -> Choice {
        let options = host.security_opt.iter().flatten();
        let asked = options.filter_map(|option| value(option)).next_back().unwrap_or("");
        match asked {
            UNCONFINED => Choice::Unconfined,
            BUILTIN => Choice::Builtin,
            "" if host.privileged => Choice::Unconfined,
            "" => self.default.clone(),
            text => Choice::Text(text.to_owned()),
        }
    }

    fn compiled(&self, choice: &Choice, capabilities: u64) -> Result<Filter> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.iter().position(|(c, with, _)| *with == capabilities && c == choice);
        // What is used moves to the end; what is not falls out at the beginning.
        let entry = match known.and_then(|at| kept.remove(at)) {
            Some(entry) => entry,
            None => (choice.clone(), capabilities, make(choice, &self.facts(capabilities))?),
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
            parsed = parse(text)?;
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

fn parse(text: &str) -> Result<Profile> {
    Profile::parse(text, &hoy_runtime::caps::number)
        .map_err(|error| Error::invalid(error.to_string()))
}

/// A resolved profile as other runtimes read it.
fn document(resolved: &Resolved<'_>) -> Seccomp {
    let (default_action, default_errno_ret) = action(resolved.default);
    let flags = [
        (Flags::TSYNC, "SECCOMP_FILTER_FLAG_TSYNC"),
        (Flags::LOG, "SECCOMP_FILTER_FLAG_LOG"),
        (Flags::SPEC_ALLOW, "SECCOMP_FILTER_FLAG_SPEC_ALLOW"),
    ];
    let syscall = |(_, rule): &(usize, &Rule)| {
        let (action, errno_ret) = action(rule.action);
        Syscall {
            names: rule.syscalls.iter().map(|call| call.name().to_owned()).collect(),
            action,
            errno_ret,
            args: rule.args.iter().map(argument).collect(),
        }
    };
    Seccomp {
        default_action,
        default_errno_ret,
        architectures: resolved.abis.iter().map(|abi| abi.name().to_owned()).collect(),
        flags: flags
            .into_iter()
            // What is the default is not said: older runtimes know no flags.
            .filter(|(flag, _)| resolved.flags != Flags::DEFAULT && resolved.flags.0 & flag.0 != 0)
            .map(|(_, name)| name.to_owned())
            .collect(),
        // A rule of which this machine knows no call says nothing.
        syscalls: resolved
            .rules
            .iter()
            .map(syscall)
            .filter(|rule| !rule.names.is_empty())
            .collect(),
        ..Seccomp::default()
    }
}

fn action(action: Action) -> (String, Option<u32>) {
    let (name, number) = match action {
        Action::KillProcess => ("SCMP_ACT_KILL_PROCESS", None),
        Action::KillThread => ("SCMP_ACT_KILL_THREAD", None),
        Action::Trap => ("SCMP_ACT_TRAP", None),
        Action::Errno(errno) => ("SCMP_ACT_ERRNO", Some(errno.into())),
        Action::Trace(data) => ("SCMP_ACT_TRACE", Some(data.into())),
        Action::Log => ("SCMP_ACT_LOG", None),
        Action::Allow => ("SCMP_ACT_ALLOW", None),
    };
    (name.to_owned(), number)
}

fn argument(argument: &Argument) -> SyscallArg {
    // The specification has the mask first, as profiles have.
    let op = match argument.operator {
        Operator::NotEqual => "SCMP_CMP_NE",
        Operator::Less => "SCMP_CMP_LT",
        Operator::LessOrEqual => "SCMP_CMP_LE",
        Operator::Equal => "SCMP_CMP_EQ",
        Operator::GreaterOrEqual => "SCMP_CMP_GE",
        Operator::Greater => "SCMP_CMP_GT",
        Operator::MaskedEqual => "SCMP_CMP_MASKED_EQ",
    };
    SyscallArg {
        index: argument.index.into(),
        value: argument.value,
        value_two: argument.value_two,
        op: op.to_owned(),
    }
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
    fn another_runtime_reads_the_same() {
        let filters = Filters::open("").unwrap();
        let of = |options: &[&str], capabilities| {
            filters.rules(&host(options, false), capabilities).unwrap()
        };
        let rules = of(&[], hoy_runtime::caps::DEFAULT).unwrap();
        assert_eq!(
            (rules.default_action.as_str(), rules.default_errno_ret),
            ("SCMP_ACT_ERRNO", Some(1))
        );
        let named = |rules: &Seccomp, name: &str| -> Vec<Syscall> {
            let all = rules.syscalls.iter();
            all.filter(|rule| rule.names.iter().any(|n| n == name)).cloned().collect()
        };
        assert_eq!(named(&rules, "read")[0].action, "SCMP_ACT_ALLOW");
        assert!(named(&rules, "mount").is_empty());
        assert_eq!(named(&rules, "clone3")[0].errno_ret, Some(38));
        assert_eq!(named(&rules, "clone")[0].args[0].value, 0x7e02_0000);
        assert_eq!(named(&rules, "personality").len(), 5);
        assert!(
            named(&of(&[], u64::MAX).unwrap(), "clone").iter().all(|rule| rule.args.is_empty())
        );
        assert_eq!(of(&["seccomp=unconfined"], 0), None);
        let own = of(&[r#"seccomp={"defaultAction": "SCMP_ACT_LOG"}"#], 0).unwrap();
        assert_eq!(own.default_action, "SCMP_ACT_LOG");
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
