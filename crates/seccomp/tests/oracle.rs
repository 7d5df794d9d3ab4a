//! libseccomp as the oracle: the same profile, given to it, has the same verdicts.
//!
//! What is compared: every number from 0 to 600 of every interface and the borders beyond, with
//! random arguments. What is not libseccomp's, and so is added to its verdicts here: ENOSYS for
//! calls beyond the newest one that a profile names, which Docker's runtime puts before its
//! program. What differs on purpose, each with its own test below or kept out of the generator:
//!
//! - Where several rules about one call have conditions, hoy asks each, and takes the strictest
//!   answer of those that match. libseccomp builds one tree of comparisons, whose answer depends
//!   on its shape: of `a < 2^32` and `a < 0` it forgets the first. So several conditions are given
//!   to it where each is one value, as in Docker's profile; `several_actions` compares with the
//!   rules as they are read.
//! - libseccomp 2.5 takes LE for GT on interfaces of 32 bits where another argument is compared
//!   before it, so there the generator compares one argument only.
//! - Names that this libseccomp is too old for are left out on both sides.
//! - If a call that an interface lacks is all that a profile names, or the first of it, libseccomp
//!   2.5 forgets to load the number there, and compares the AUDIT_ARCH instead. So random profiles
//!   are given to it once per AUDIT_ARCH, without the names that are not there, and all name
//!   `exit`; the default one is given whole.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use std::collections::{BTreeSet, HashSet};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use hoy_seccomp::{
    Abi, Action, Architectures, Argument, Condition, Facts, Flags, Instruction, Machine, Operator,
    Profile, Resolved, Rule, Syscall, Version, X32_BIT, builtin, compile,
};
use proptest::prelude::*;
use support::{DOCKER, Data, SYS_ADMIN, run};

/// The program in C, built once per run.
fn oracle_program() -> &'static std::path::Path {
    static PATH: OnceLock<std::path::PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let program = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("seccomp-oracle");
        let made = program.with_extension(std::process::id().to_string());
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracle.c");
        let built = Command::new("cc")
            .args(["-O1", "-Wall", "-D_GNU_SOURCE", "-o"])
            .arg(&made)
            .args([source, "-lseccomp"])
            .status()
            .unwrap();
        assert!(built.success(), "needs a C compiler and libseccomp-dev");
        std::fs::rename(made, &program).unwrap();
        program
    })
}

struct Oracle {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// What libseccomp made.
struct Made {
    program: Vec<Instruction>,
    refused: Vec<String>,
}

impl Oracle {
    fn new() -> Self {
        let mut child = Command::new(oracle_program())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "the oracle ended");
        line.trim_end().to_owned()
    }

    fn known(&mut self) -> HashSet<Syscall> {
        let mut known = HashSet::new();
        for syscall in Syscall::all() {
            writeln!(self.input, "knows {}", syscall.name()).unwrap();
            self.input.flush().unwrap();
            if self.line() == "yes" {
                known.insert(syscall);
            }
        }
        known
    }

    /// As Docker's runtime drives it: for one AUDIT_ARCH alone, or for all.
    fn make(&mut self, resolved: &Resolved<'_>, alone: Option<u32>) -> Made {
        let mut resolved = resolved.clone();
        resolved.abis.retain(|abi| alone.is_none_or(|arch| abi.audit_arch() == arch));
        let is_there = |syscall: &Syscall| {
            let there =
                |abi: &Abi| syscall.number(*abi).is_some() || syscall.multiplexed(*abi).is_some();
            alone.is_none() || resolved.abis.iter().any(there)
        };
        let mut text = format!("default {} {}", resolved.default.code(), resolved.abis.len());
        for abi in &resolved.abis {
            let token = match abi {
                Abi::X32 => 0x4000_003e,
                other => other.audit_arch(),
            };
            write!(text, " {token}").unwrap();
        }
        text.push('\n');
        for (_, rule) in &resolved.rules {
            if rule.action.code() == resolved.default.code() {
                continue;
            }
            let twice = (0..6).any(|i| rule.args.iter().filter(|a| a.index == i).count() > 1);
            let sets: Vec<&[Argument]> =
                if twice { rule.args.chunks(1).collect() } else { vec![&rule.args[..]] };
            for syscall in rule.syscalls.iter().filter(|syscall| is_there(syscall)) {
                for set in &sets {
                    let (code, name) = (rule.action.code(), syscall.name());
                    write!(text, "rule {code} {name} {}", set.len()).unwrap();
                    for argument in *set {
                        let operator = match argument.operator {
                            Operator::NotEqual => 1,
                            Operator::Less => 2,
                            Operator::LessOrEqual => 3,
                            Operator::Equal => 4,
                            Operator::GreaterOrEqual => 5,
                            Operator::Greater => 6,
                            Operator::MaskedEqual => 7,
                        };
                        let Argument { index, value, value_two, .. } = argument;
                        write!(text, " {index} {operator} {value} {value_two}").unwrap();
                    }
                    text.push('\n');
                }
            }
        }
        text.push_str("end\n");
        self.input.write_all(text.as_bytes()).unwrap();
        self.input.flush().unwrap();
        let mut refused = Vec::new();
        let count: usize = loop {
            let line = self.line();
            match line.strip_prefix("program ") {
                Some(count) => break count.parse().unwrap(),
                None => refused.push(line),
            }
        };
        let program = (0..count)
            .map(|_| {
                let line = self.line();
                let numbers: Vec<u32> = line.split(' ').map(|n| n.parse().unwrap()).collect();
                Instruction {
                    code: numbers[0] as u16,
                    jt: numbers[1] as u8,
                    jf: numbers[2] as u8,
                    k: numbers[3],
                }
            })
            .collect();
        Made { program, refused }
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What Docker's runtime puts before libseccomp's program.
fn is_beyond(resolved: &Resolved<'_>, data: &Data) -> bool {
    if matches!(
        resolved.default,
        Action::Allow | Action::Log | Action::Trace(_) | Action::Errno(38)
    ) {
        return false;
    }
    let x32 = data.arch == Abi::X86_64.audit_arch() && data.number & X32_BIT != 0;
    let abi = resolved
        .abis
        .iter()
        .find(|abi| abi.audit_arch() == data.arch && (**abi == Abi::X32) == x32);
    let newest = abi.and_then(|abi| {
        let named = resolved.rules.iter().flat_map(|(_, rule)| &rule.syscalls);
        named.filter_map(|syscall| syscall.number(*abi)).max()
    });
    newest.is_some_and(|newest| newest != 0 && data.number > newest)
}

/// Every number worth a look.
fn numbers() -> Vec<u32> {
    let mut all: BTreeSet<u32> = (0..=600).collect();
    all.extend(0xf_0000..0xf_0008);
    for border in [X32_BIT, 0x8000_0000, 0xc000_0000] {
        all.extend([border - 2, border - 1]);
        all.extend((0..=600).map(|number| border + number));
    }
    all.extend([u32::MAX - 1, u32::MAX]);
    all.into_iter().collect()
}

/// Splitmix: the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Near what rules compare with.
    fn argument(&mut self, pool: &[u64]) -> u64 {
        let value = pool[(self.next() % pool.len() as u64) as usize];
        match self.next() % 8 {
            0 => value.wrapping_add(1),
            1 => value.wrapping_sub(1),
            2 => value ^ (1 << (self.next() % 64)),
            3 => value | self.next() << 32,
            4 => self.next(),
            _ => value,
        }
    }
}

fn pool(resolved: &Resolved<'_>) -> Vec<u64> {
    let args = resolved.rules.iter().flat_map(|(_, rule)| &rule.args);
    let mut pool: Vec<u64> = args.flat_map(|arg| [arg.value, arg.value_two]).collect();
    pool.extend([0, 1, 2, 20, 38, 40, u64::from(u32::MAX), 1 << 32, u64::MAX]);
    pool
}

/// How many calls were compared, or the first one with another verdict.
fn agree(
    oracle: &mut Oracle,
    resolved: &Resolved<'_>,
    whole: bool,
    often: usize,
) -> Result<usize, String> {
    let ours = compile(resolved).unwrap();
    let pool = pool(resolved);
    let mut random = Random(7);
    let conditional: HashSet<u32> = resolved
        .rules
        .iter()
        .filter(|(_, rule)| !rule.args.is_empty())
        .flat_map(|(_, rule)| &rule.syscalls)
        .flat_map(|syscall| resolved.abis.iter().filter_map(|abi| syscall.number(*abi)))
        .chain([102, 117])
        .collect();
    let mut archs: BTreeSet<u32> = resolved.abis.iter().map(|abi| abi.audit_arch()).collect();
    archs.extend([Abi::X86.audit_arch(), 0x1234]);
    let mut compared = 0;
    for arch in archs {
        let named = resolved.abis.iter().any(|abi| abi.audit_arch() == arch);
        let native = resolved.machine.native().audit_arch();
        let alone = if named { arch } else { native };
        let made = oracle.make(resolved, (!whole).then_some(alone));
        if !made.refused.is_empty() {
            return Err(format!("{:?}", made.refused));
        }
        for number in numbers() {
            let times = if conditional.contains(&number) { often } else { 2 };
            for _ in 0..times {
                let args = std::array::from_fn(|_| random.argument(&pool));
                let data = Data { number, arch, args };
                let mut expected = run(&made.program, &data);
                if is_beyond(resolved, &data) {
                    expected = Action::Errno(38).code();
                }
                let answer = run(&ours.instructions, &data);
                if answer != expected {
                    return Err(format!("{answer:#x}, libseccomp {expected:#x}: {data:x?}"));
                }
                compared += 1;
            }
        }
    }
    Ok(compared)
}

fn only(profile: &Profile, known: &HashSet<Syscall>) -> Profile {
    let mut profile = profile.clone();
    for rule in &mut profile.rules {
        rule.syscalls.retain(|syscall| known.contains(syscall));
    }
    profile
}

#[test]
fn the_default_profile() {
    let mut oracle = Oracle::new();
    let known = oracle.known();
    let profile = only(builtin(), &known);
    let mut random = Random(1);
    let mut sets = vec![DOCKER, DOCKER | SYS_ADMIN, 0, (1 << 41) - 1];
    sets.extend((0..6).map(|_| random.next()));
    let mut compared = 0;
    for machine in [Machine::X86_64, Machine::Aarch64] {
        for capabilities in &sets {
            for kernel in [Version(6, 1), Version(4, 4)] {
                let facts = Facts { capabilities: *capabilities, machine, kernel };
                compared +=
                    agree(&mut oracle, &profile.resolve(&facts).unwrap(), true, 3000).unwrap();
            }
        }
    }
    println!("{compared} calls compared, {} names known", known.len());
}

#[test]
fn every_name_has_libseccomps_number() {
    let mut oracle = Oracle::new();
    for syscall in oracle.known() {
        let profile = profile_of(Action::Allow, vec![rule(&[syscall], Action::Trap, &[])]);
        let facts = |machine| Facts { capabilities: 0, machine, kernel: Version(6, 1) };
        for machine in [Machine::X86_64, Machine::Aarch64] {
            let resolved = profile.resolve(&facts(machine)).unwrap();
            let made = oracle.make(&resolved, None);
            for abi in machine.abis() {
                let theirs: Vec<u32> = numbers()
                    .into_iter()
                    .filter(|number| {
                        let data = Data::new(abi.audit_arch(), *number);
                        run(&made.program, &data) == Action::Trap.code()
                    })
                    .filter(|number| {
                        // x32 is told by its bit, and has the same kind.
                        abi.audit_arch() != Abi::X86_64.audit_arch()
                            || (number & X32_BIT != 0) == (*abi == Abi::X32)
                    })
                    .collect();
                let ours: Vec<u32> = syscall.number(*abi).into_iter().collect();
                assert_eq!(ours, theirs, "{} {abi:?}", syscall.name());
            }
        }
    }
}

fn rule(syscalls: &[Syscall], action: Action, args: &[Argument]) -> Rule {
    Rule {
        syscalls: syscalls.to_vec(),
        action,
        args: args.to_vec(),
        includes: Condition::default(),
        excludes: Condition::default(),
    }
}

fn profile_of(default: Action, rules: Vec<Rule>) -> Profile {
    let all = [Machine::X86_64, Machine::Aarch64].map(Machine::abis).concat();
    Profile {
        default: Some(default),
        architectures: Architectures::Listed(all),
        flags: Flags::DEFAULT,
        rules,
    }
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        Just(Action::KillProcess),
        Just(Action::KillThread),
        Just(Action::Trap),
        (0_u16..200).prop_map(Action::Errno),
        Just(Action::Errno(38)),
        (0_u16..9).prop_map(Action::Trace),
        Just(Action::Log),
        Just(Action::Allow),
    ]
}

fn syscall() -> impl Strategy<Value = Syscall> {
    prop::sample::select(vec![
        "read",
        "write",
        "fcntl",
        "clone",
        "personality",
        "socket",
        "bind",
        "recv",
        "accept",
        "recvmmsg",
        "socketcall",
        "ipc",
        "shmget",
        "semop",
        "semtimedop",
        "msgctl",
        "ioctl",
        "execve",
        "rt_sigaction",
        "mmap2",
        "openat2",
        "close_range",
        "prctl",
        "waitid",
        "stat64",
        "_llseek",
        "set_tls",
        "kexec_load",
    ])
    .prop_map(|name| Syscall::named(name).unwrap())
}

fn argument() -> impl Strategy<Value = Argument> {
    let operator = prop::sample::select(vec![
        Operator::NotEqual,
        Operator::Less,
        Operator::LessOrEqual,
        Operator::Equal,
        Operator::GreaterOrEqual,
        Operator::Greater,
        Operator::MaskedEqual,
    ]);
    let value = prop_oneof![
        0_u64..6,
        Just(u64::from(u32::MAX)),
        Just(1 << 32),
        Just(0x1_0000_0005),
        Just(0xf0_0000_00ff),
        Just(u64::MAX),
        any::<u64>(),
    ];
    (0_u8..6, operator, value.clone(), value).prop_map(|(index, operator, value, value_two)| {
        Argument { index, operator, value, value_two }
    })
}

/// Whether a rule's comparisons hold, by what profiles mean and nothing cleverer.
fn holds(args: &[Argument], data: &Data, narrow: bool) -> bool {
    let cut = |value: u64| if narrow { value & 0xffff_ffff } else { value };
    let one = |arg: &Argument| {
        let (given, value) = (cut(data.args[usize::from(arg.index)]), cut(arg.value));
        match arg.operator {
            Operator::NotEqual => given != value,
            Operator::Less => given < value,
            Operator::LessOrEqual => given <= value,
            Operator::Equal => given == value,
            Operator::GreaterOrEqual => given >= value,
            Operator::Greater => given > value,
            Operator::MaskedEqual => given & value == arg.value_two & value,
        }
    };
    let twice = (0..6).any(|i| args.iter().filter(|a| a.index == i).count() > 1);
    if twice { args.iter().any(one) } else { args.iter().all(one) }
}

fn is_always(args: &[Argument], narrow: bool) -> bool {
    let cut = |value: u64| if narrow { value & 0xffff_ffff } else { value };
    let nothing = |arg: &Argument| arg.operator == Operator::MaskedEqual && cut(arg.value) == 0;
    let twice = (0..6).any(|i| args.iter().filter(|a| a.index == i).count() > 1);
    if twice { args.iter().any(nothing) } else { args.iter().all(nothing) }
}

/// The verdict for a call of x86-64 or aarch64, rule by rule.
fn plainly(resolved: &Resolved<'_>, data: &Data) -> u32 {
    if is_beyond(resolved, data) {
        return Action::Errno(38).code();
    }
    let native = resolved.machine.native();
    let about = |rule: &&(usize, &Rule)| {
        rule.1.syscalls.iter().any(|syscall| syscall.number(native) == Some(data.number))
            && rule.1.action.code() != resolved.default.code()
    };
    let rules = || resolved.rules.iter().filter(about).map(|(_, rule)| rule);
    if let Some(rule) = rules().find(|rule| is_always(&rule.args, false)) {
        return rule.action.code();
    }
    let matching = rules().filter(|rule| holds(&rule.args, data, false));
    matching
        .map(|rule| rule.action.code())
        .min_by_key(|code| (code & 0xffff_0000).cast_signed())
        .unwrap_or(resolved.default.code())
}

fn syscalls() -> impl Strategy<Value = Vec<Syscall>> {
    prop::collection::vec(syscall(), 0..5)
}

fn shuffled(mut rules: Vec<Rule>, seed: u64) -> Vec<Rule> {
    let mut random = Random(seed);
    rules.sort_by_cached_key(|_| random.next());
    rules
}

/// A call has one rule with a condition at most, or several that compare one argument with one
/// value each; beside any number without one.
fn profile() -> impl Strategy<Value = Profile> {
    let with = prop::collection::vec((syscalls(), prop::collection::vec(argument(), 1..4)), 0..6);
    let without = prop::collection::vec((syscalls(), action()), 0..6);
    let abis = prop::sample::subsequence(vec![Abi::X86, Abi::X32, Abi::Arm], 0..=3);
    (action(), action(), with, without, abis, any::<bool>(), any::<u64>()).prop_map(
        |(default, conditional, with, without, abis, values, seed)| {
            let mut seen = HashSet::new();
            let mut rules = Vec::new();
            for (mut syscalls, mut args) in with {
                if values {
                    args.truncate(1);
                    args[0].operator = Operator::Equal;
                } else {
                    if !abis.is_empty() {
                        args.truncate(1);
                    }
                    let mut indices = HashSet::new();
                    args.retain(|arg| indices.insert(arg.index));
                    syscalls.retain(|syscall| seen.insert(*syscall));
                }
                rules.push(rule(&syscalls, conditional, &args));
            }
            for (syscalls, action) in without {
                // What shares a number on i386 is conditional there.
                let shares = syscalls.iter().any(|s| s.multiplexed(Abi::X86).is_some());
                rules.push(rule(&syscalls, if shares { conditional } else { action }, &[]));
            }
            // See above: something that every interface has.
            let exit = Syscall::named("exit").unwrap();
            rules.push(rule(&[exit], Action::Trace(77), &[]));
            let mut profile = profile_of(default, shuffled(rules, seed));
            profile.architectures = Architectures::Listed(abis);
            profile
        },
    )
}

/// Anything.
fn any_profile() -> impl Strategy<Value = Profile> {
    let args = prop::collection::vec(argument(), 0..4);
    let rules = prop::collection::vec((syscalls(), action(), args), 0..12);
    (action(), rules).prop_map(|(default, rules)| {
        let rules = rules.iter().map(|(syscalls, action, args)| rule(syscalls, *action, args));
        profile_of(default, rules.collect())
    })
}

fn facts(machine: Machine) -> Facts {
    Facts { capabilities: DOCKER, machine, kernel: Version(6, 1) }
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..Default::default() }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn random_profiles(profile in profile()) {
        let mut oracle = Oracle::new();
        for machine in [Machine::X86_64, Machine::Aarch64] {
            let agreed = agree(&mut oracle, &profile.resolve(&facts(machine)).unwrap(), false, 200);
            prop_assert!(agreed.is_ok(), "{agreed:?}");
        }
    }

    #[test]
    fn several_actions(profile in any_profile(), seed in any::<u64>()) {
        for machine in [Machine::X86_64, Machine::Aarch64] {
            let resolved = profile.resolve(&facts(machine)).unwrap();
            let Ok(program) = compile(&resolved) else { continue };
            let pool = pool(&resolved);
            let mut random = Random(seed);
            let arch = machine.native().audit_arch();
            for number in (0..470).cycle().take(5000) {
                let args = std::array::from_fn(|_| random.argument(&pool));
                let data = Data { number, arch, args };
                let answer = run(&program.instructions, &data);
                prop_assert_eq!(answer, plainly(&resolved, &data), "{:x?}", data);
            }
        }
    }
}
