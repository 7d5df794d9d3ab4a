//! What a profile says, and which of its rules are for one container.

use std::borrow::Cow;

use crate::syscalls::{Abi, Machine, Syscall};

pub(crate) const EPERM: u16 = 1;

/// What happens to a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    KillProcess,
    KillThread,
    Trap,
    /// Fails with this number.
    Errno(u16),
    /// A tracer is asked, with this number.
    Trace(u16),
    Log,
    Allow,
}

impl Action {
    /// SECCOMP_RET_*, with its data.
    pub const fn code(self) -> u32 {
        match self {
            Self::KillProcess => 0x8000_0000,
            Self::KillThread => 0,
            Self::Trap => 0x0003_0000,
            Self::Errno(errno) => 0x0005_0000 | errno as u32,
            Self::Trace(data) => 0x7ff0_0000 | data as u32,
            Self::Log => 0x7ffc_0000,
            Self::Allow => 0x7fff_0000,
        }
    }

    /// Whether a call that nobody named is carried out. A tracer is expected to know new calls.
    pub const fn is_permissive(self) -> bool {
        matches!(self, Self::Trace(_) | Self::Log | Self::Allow)
    }
}

/// A comparison of one argument, of 64 bits, without a sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    NotEqual,
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
    /// `argument & value == value_two`.
    MaskedEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Argument {
    /// 0 to 5.
    pub index: u8,
    pub operator: Operator,
    pub value: u64,
    pub value_two: u64,
}

/// A kernel's version: 6.1 and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u32, pub u32);

impl Version {
    /// From what `uname` says, `6.1.0-13-amd64`.
    pub fn of_release(release: &str) -> Option<Self> {
        let mut parts = release.split(|c: char| !c.is_ascii_digit());
        let mut number = || parts.next()?.parse().ok();
        Some(Self(number()?, number()?))
    }
}

/// When a rule is in force, or is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// By their numbers, as bits.
    pub capabilities: u64,
    /// Docker's words for machines; empty says nothing.
    pub machines: Vec<Cow<'static, str>>,
    pub min_kernel: Option<Version>,
}

/// System calls, and what happens to them if all arguments are so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub syscalls: Vec<Syscall>,
    pub action: Action,
    pub args: Vec<Argument>,
    /// In force only if all of this holds.
    pub includes: Condition,
    /// Not in force if any of this holds.
    pub excludes: Condition,
}

impl Rule {
    fn is_in_force(&self, facts: &Facts) -> bool {
        let (includes, excludes) = (&self.includes, &self.excludes);
        let here = |condition: &Condition| {
            condition.machines.iter().any(|word| word == facts.machine.word())
        };
        let new_enough = |version: Version| facts.kernel >= version;
        let included = facts.capabilities & includes.capabilities == includes.capabilities
            && (includes.machines.is_empty() || here(includes))
            && includes.min_kernel.is_none_or(new_enough);
        let excluded = facts.capabilities & excludes.capabilities != 0
            || here(excludes)
            || excludes.min_kernel.is_some_and(new_enough);
        included && !excluded
    }
}

/// Which binary interfaces a profile is about, beside the machine's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Architectures {
    Listed(Vec<Abi>),
    /// By the machine's own, those that come with it.
    ByMachine(Vec<(Abi, Vec<Abi>)>),
}

/// SECCOMP_FILTER_FLAG_*, by their bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flags(pub u32);

impl Flags {
    pub const TSYNC: Self = Self(1);
    pub const LOG: Self = Self(2);
    pub const SPEC_ALLOW: Self = Self(4);
    pub const WAIT_KILLABLE_RECV: Self = Self(32);
    /// What Docker's runtime takes where a profile says nothing.
    pub const DEFAULT: Self = Self::SPEC_ALLOW;
}

/// A whole profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// `None`: neither an action nor rules, which Docker takes for no profile at all.
    pub default: Option<Action>,
    pub architectures: Architectures,
    pub flags: Flags,
    pub rules: Vec<Rule>,
}

/// Whom a profile is resolved for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Facts {
    /// The bounding set.
    pub capabilities: u64,
    pub machine: Machine,
    pub kernel: Version,
}

/// What is in force.
#[derive(Clone, Debug)]
pub struct Resolved<'a> {
    pub machine: Machine,
    pub abis: Vec<Abi>,
    pub default: Action,
    pub flags: Flags,
    /// With their positions in the profile.
    pub rules: Vec<(usize, &'a Rule)>,
}

impl Profile {
    /// `None` where nothing is to be filtered.
    pub fn resolve(&self, facts: &Facts) -> Option<Resolved<'_>> {
        let native = facts.machine.native();
        let named: &[Abi] = match &self.architectures {
            Architectures::Listed(list) => list,
            Architectures::ByMachine(map) => {
                map.iter().find(|(machine, _)| *machine == native).map_or(&[], |(_, with)| with)
            }
        };
        let wanted = |abi: &&Abi| **abi == native || named.contains(abi);
        Some(Resolved {
            machine: facts.machine,
            abis: facts.machine.abis().iter().filter(wanted).copied().collect(),
            default: self.default?,
            flags: self.flags,
            rules: self
                .rules
                .iter()
                .enumerate()
                .filter(|(_, rule)| rule.is_in_force(facts))
                .collect(),
        })
    }
}
