//! From Docker's JSON to a profile. Strict: what is wrong is refused with its place.
//!
//! A key that is not known is an error and not a comment: a mistyped `excludes` would otherwise
//! leave its rule in force. Names of system calls that nobody knows are passed over, as Docker's
//! runtime does, since profiles are written for many machines and kernels.

use std::borrow::Cow;
use std::fmt;

use crate::json::Json;
use crate::profile::{
    Action, Architectures, Argument, Condition, EPERM, Flags, Operator, Profile, Rule, Version,
};
use crate::syscalls::{Abi, Machine, Syscall};

/// Docker's own profile has 15 kB.
pub const MAX_BYTES: usize = 512 * 1024;
const MAX_ERRNO: u64 = 4095;

/// Why a document is no profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    #[error("Decoding seccomp profile failed: {0}")]
    Json(String),
    #[error("seccomp profile: larger than {MAX_BYTES} bytes")]
    TooLarge,
    /// A place like `syscalls[3].args[0]`, empty for the whole, and what is wrong there.
    #[error("seccomp profile: {0}{sep}{1}", sep = if .0.is_empty() { "" } else { ": " })]
    At(String, String),
}

type Result<T> = std::result::Result<T, ProfileError>;

impl Profile {
    /// Reads a profile. `capability` gives the number for a name with `CAP_`.
    pub fn parse(text: &str, capability: &dyn Fn(&str) -> Option<u32>) -> Result<Self> {
        if text.len() > MAX_BYTES {
            return Err(ProfileError::TooLarge);
        }
        let document: Json =
            serde_json::from_str(text).map_err(|error| ProfileError::Json(error.to_string()))?;
        profile(&Node { place: Place::Top, json: &document }, capability)
    }
}

/// Where something stands.
#[derive(Clone, Copy)]
enum Place<'a> {
    Top,
    Key(&'a Place<'a>, &'a str),
    Item(&'a Place<'a>, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Top => Ok(()),
            Self::Key(Self::Top, key) => f.write_str(key),
            Self::Key(above, key) => write!(f, "{above}.{key}"),
            Self::Item(above, index) => write!(f, "{above}[{index}]"),
        }
    }
}

#[derive(Clone, Copy)]
struct Node<'a> {
    place: Place<'a>,
    json: &'a Json,
}

impl<'a> Node<'a> {
    fn wrong(&self, what: impl Into<String>) -> ProfileError {
        ProfileError::At(self.place.to_string(), what.into())
    }

    fn expected(&self, what: &str) -> ProfileError {
        self.wrong(format!("expected {what}, not {}", self.json.kind()))
    }

    /// What stands under the keys, in their order; `null` is as if it were not there.
    fn fields<const N: usize>(&'a self, keys: [&'a str; N]) -> Result<[Option<Node<'a>>; N]> {
        let Json::Object(entries) = self.json else {
            return Err(self.expected("an object"));
        };
        let mut out = [None; N];
        for (key, value) in entries {
            let Some(at) = keys.iter().position(|known| known == key) else {
                return Err(self.wrong(format!("unknown key {key:?}")));
            };
            if out[at].is_some() {
                return Err(self.wrong(format!("the key {key:?} is given twice")));
            }
            out[at] = Some(Node { place: Place::Key(&self.place, keys[at]), json: value });
        }
        Ok(out.map(|node: Option<Node<'a>>| node.filter(|node| *node.json != Json::Null)))
    }

    fn text(&self) -> Result<&'a str> {
        match self.json {
            Json::Text(text) => Ok(text),
            _ => Err(self.expected("a string")),
        }
    }

    fn whole(&self) -> Result<u64> {
        match self.json {
            Json::Whole(number) => Ok(*number),
            Json::OtherNumber => Err(self.wrong("expected a whole number from 0 on")),
            _ => Err(self.expected("a number")),
        }
    }

    fn items<T>(&self, read: impl Fn(&Node<'_>) -> Result<T>) -> Result<Vec<T>> {
        let Json::List(items) = self.json else {
            return Err(self.expected("a list"));
        };
        let item = |(index, json)| read(&Node { place: Place::Item(&self.place, index), json });
        items.iter().enumerate().map(item).collect()
    }
}

type Capability<'a> = &'a dyn Fn(&str) -> Option<u32>;

fn profile(node: &Node<'_>, capability: Capability<'_>) -> Result<Profile> {
    let [
        default,
        errno,
        errno_word,
        architectures,
        map,
        flags,
        listener_path,
        listener_metadata,
        syscalls,
        _,
    ] = node.fields([
        "defaultAction",
        "defaultErrnoRet",
        "defaultErrno",
        "architectures",
        "archMap",
        "flags",
        "listenerPath",
        "listenerMetadata",
        "syscalls",
        "$schema",
    ])?;
    for text in [listener_path, listener_metadata].iter().flatten() {
        // For SCMP_ACT_NOTIFY only, which is refused where it stands.
        text.text()?;
    }
    let rules = match syscalls {
        Some(list) => list.items(|item| rule(item, capability))?,
        None => Vec::new(),
    };
    // An empty text is what Go's encoder writes for nothing.
    let named = default.filter(|node| *node.json != Json::Text(String::new()));
    let default = match named {
        Some(named) => Some(action(&named, errno.as_ref(), errno_word.as_ref())?),
        None if rules.is_empty() => None,
        None => return Err(node.wrong("defaultAction is missing")),
    };
    Ok(Profile {
        default,
        architectures: self::architectures(node, architectures, map)?,
        flags: flags.map_or(Ok(Flags::DEFAULT), |node| self::flags(&node))?,
        rules,
    })
}

fn action(name: &Node<'_>, errno: Option<&Node<'_>>, word: Option<&Node<'_>>) -> Result<Action> {
    let number = match errno {
        Some(node) => match node.whole()? {
            number @ 0..=MAX_ERRNO => Some(number as u16),
            number => return Err(node.wrong(format!("{number} is beyond {MAX_ERRNO}"))),
        },
        None => None,
    };
    if let Some(word) = word {
        // Others' tools write the name beside the number; Docker reads the number only.
        word.text()?;
        if number.is_none() {
            return Err(word.wrong("an error by name is not read: give its number as errnoRet"));
        }
    }
    let action = match name.text()? {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_ERRNO" => Action::Errno(number.unwrap_or(EPERM)),
        "SCMP_ACT_TRACE" => Action::Trace(number.unwrap_or(EPERM)),
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_NOTIFY" => return Err(name.wrong("SCMP_ACT_NOTIFY is not available yet")),
        other => return Err(name.wrong(format!("unknown action {other:?}"))),
    };
    match (action, errno) {
        (Action::Errno(_) | Action::Trace(_), _) | (_, None) => Ok(action),
        (_, Some(node)) => Err(node.wrong(format!("{} has no errno", name.text()?))),
    }
}

/// Names of interfaces that libseccomp knows, but no machine that hoy runs on.
const FOREIGN: &[&str] = &[
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
];

fn architecture(node: &Node<'_>) -> Result<Option<Abi>> {
    let name = node.text()?;
    let ours = [Machine::X86_64, Machine::Aarch64].map(Machine::abis).concat();
    match ours.into_iter().find(|abi| abi.name() == name) {
        Some(abi) => Ok(Some(abi)),
        None if FOREIGN.contains(&name) => Ok(None),
        None => Err(node.wrong(format!("unknown architecture {name:?}"))),
    }
}

fn architectures(
    top: &Node<'_>,
    listed: Option<Node<'_>>,
    map: Option<Node<'_>>,
) -> Result<Architectures> {
    let listed = listed.map(|node| node.items(architecture)).transpose()?.unwrap_or_default();
    let map = map.map(|node| node.items(machine)).transpose()?.unwrap_or_default();
    if !listed.is_empty() && !map.is_empty() {
        return Err(top.wrong(
            "both 'architectures' and 'archMap' are specified in the seccomp profile, use either \
             'architectures' or 'archMap'",
        ));
    }
    if map.is_empty() {
        return Ok(Architectures::Listed(listed.into_iter().flatten().collect()));
    }
    Ok(Architectures::ByMachine(map.into_iter().flatten().collect()))
}

fn machine(node: &Node<'_>) -> Result<Option<(Abi, Vec<Abi>)>> {
    let [machine, with] = node.fields(["architecture", "subArchitectures"])?;
    let machine = machine.ok_or_else(|| node.wrong("architecture is missing"))?;
    let machine = architecture(&machine)?;
    let with = with.map(|node| node.items(architecture)).transpose()?.unwrap_or_default();
    Ok(machine.map(|machine| (machine, with.into_iter().flatten().collect())))
}

fn flags(node: &Node<'_>) -> Result<Flags> {
    let flag = |node: &Node<'_>| match node.text()? {
        "SECCOMP_FILTER_FLAG_TSYNC" => Ok(Flags::TSYNC),
        "SECCOMP_FILTER_FLAG_LOG" => Ok(Flags::LOG),
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Ok(Flags::SPEC_ALLOW),
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => {
            Err(node.wrong("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV is for SCMP_ACT_NOTIFY only"))
        }
        other => Err(node.wrong(format!("unknown flag {other:?}"))),
    };
    Ok(Flags(node.items(flag)?.iter().fold(0, |all, flag| all | flag.0)))
}

fn rule(node: &Node<'_>, capability: Capability<'_>) -> Result<Rule> {
    let [names, name, action_name, errno, errno_word, args, comment, includes, excludes] = node
        .fields([
            "names", "name", "action", "errnoRet", "errno", "args", "comment", "includes",
            "excludes",
        ])?;
    if let Some(comment) = comment {
        comment.text()?;
    }
    let name = name.filter(|node| *node.json != Json::Text(String::new()));
    let syscalls = match (names, name) {
        (Some(_), Some(_)) => {
            return Err(node.wrong(
                "both 'name' and 'names' are specified in the seccomp profile, use either 'name' \
                 or 'names'",
            ));
        }
        (Some(names), None) => names.items(syscall)?,
        (None, Some(name)) => vec![syscall(&name)?],
        (None, None) => return Err(node.wrong("names is missing")),
    };
    let action_name = action_name.ok_or_else(|| node.wrong("action is missing"))?;
    let condition = |node: Option<Node<'_>>| match node {
        Some(node) => condition(&node, capability),
        None => Ok(Condition::default()),
    };
    Ok(Rule {
        syscalls: syscalls.into_iter().flatten().collect(),
        action: action(&action_name, errno.as_ref(), errno_word.as_ref())?,
        args: args.map(|node| node.items(argument)).transpose()?.unwrap_or_default(),
        includes: condition(includes)?,
        excludes: condition(excludes)?,
    })
}

fn syscall(node: &Node<'_>) -> Result<Option<Syscall>> {
    match node.text()? {
        "" => Err(node.wrong("empty string is not a valid syscall")),
        name => Ok(Syscall::named(name)),
    }
}

fn argument(node: &Node<'_>) -> Result<Argument> {
    let [index, value, value_two, op] = node.fields(["index", "value", "valueTwo", "op"])?;
    let number = |node: Option<Node<'_>>| node.map_or(Ok(0), |node| node.whole());
    let place = index;
    let index = match number(index)? {
        index @ 0..=5 => index as u8,
        index => {
            let at = place.as_ref().unwrap_or(node);
            return Err(at.wrong(format!("a system call has no argument {index}")));
        }
    };
    let op = op.ok_or_else(|| node.wrong("op is missing"))?;
    let operator = match op.text()? {
        "SCMP_CMP_NE" => Operator::NotEqual,
        "SCMP_CMP_LT" => Operator::Less,
        "SCMP_CMP_LE" => Operator::LessOrEqual,
        "SCMP_CMP_EQ" => Operator::Equal,
        "SCMP_CMP_GE" => Operator::GreaterOrEqual,
        "SCMP_CMP_GT" => Operator::Greater,
        "SCMP_CMP_MASKED_EQ" => Operator::MaskedEqual,
        other => return Err(node.wrong(format!("unknown operator {other:?}"))),
    };
    Ok(Argument { index, operator, value: number(value)?, value_two: number(value_two)? })
}

fn condition(node: &Node<'_>, capability: Capability<'_>) -> Result<Condition> {
    let [capabilities, machines, min_kernel] = node.fields(["caps", "arches", "minKernel"])?;
    let bit = |node: &Node<'_>| {
        let name = node.text()?;
        match capability(name).filter(|number| *number < 64 && name.starts_with("CAP_")) {
            Some(number) => Ok(1_u64 << number),
            None => Err(node.wrong(format!("unknown capability {name:?}"))),
        }
    };
    let word = |node: &Node<'_>| Ok(Cow::Owned(node.text()?.to_owned()));
    Ok(Condition {
        capabilities: match capabilities {
            Some(list) => list.items(bit)?.into_iter().fold(0, |all, bit| all | bit),
            None => 0,
        },
        machines: machines.map(|list| list.items(word)).transpose()?.unwrap_or_default(),
        min_kernel: min_kernel.map(|node| version(&node)).transpose()?,
    })
}

fn version(node: &Node<'_>) -> Result<Version> {
    let text = node.text()?;
    let parts = text.split_once('.');
    let parsed =
        parts.and_then(|(kernel, major)| Some(Version(kernel.parse().ok()?, major.parse().ok()?)));
    match parsed {
        Some(version) if version > Version(0, 0) => Ok(version),
        _ => {
            Err(node
                .wrong(format!("invalid kernel version {text:?}, expected \"<kernel>.<major>\"")))
        }
    }
}
