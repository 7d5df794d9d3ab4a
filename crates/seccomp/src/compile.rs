//! From what is in force to a program.
//!
//! The verdicts are libseccomp's, with what Docker's runtime adds: calls beyond the newest one
//! that a profile names give ENOSYS, so that a C library falls back to what it knows.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::assemble::{Assembler, Label, Test};
use crate::profile::{Action, Argument, Operator, Resolved, Rule};
use crate::syscalls::{Abi, X32_BIT};

/// The kernel takes no more.
pub const MAX_INSTRUCTIONS: usize = 4096;

const ENOSYS: Action = Action::Errno(38);
/// What libseccomp does with an interface that a profile does not name.
const OTHER_INTERFACE: Action = Action::KillThread;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// What is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub instructions: Vec<Instruction>,
    /// SECCOMP_FILTER_FLAG_*.
    pub flags: u32,
}

/// Why a profile has no program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    #[error(
        "seccomp profile: syscalls[{second}]: the same arguments of {name:?} as in \
         syscalls[{first}], with another action"
    )]
    Contradiction { first: usize, second: usize, name: &'static str },
    #[error("seccomp profile: {0} instructions, and the kernel takes {MAX_INSTRUCTIONS}")]
    TooLong(usize),
}

/// Compiles a profile for one machine, kernel and set of capabilities.
pub fn compile(resolved: &Resolved<'_>) -> Result<Program, CompileError> {
    let mut assembler = Assembler::default();
    let mut archs: Vec<u32> = resolved.abis.iter().map(|abi| abi.audit_arch()).collect();
    archs.dedup();
    // The machine's own first: behind it, what is rare.
    let mut entry = assembler.answer(OTHER_INTERFACE.code());
    let native = resolved.machine.native().audit_arch();
    let mut order: Vec<u32> = archs.into_iter().filter(|arch| *arch != native).collect();
    order.dedup();
    order.push(native);
    for arch in order {
        let ranges = ranges(resolved, arch)?;
        let tree = tree(&mut assembler, &units(&ranges));
        let numbers = assembler.load(NUMBER, tree);
        entry = assembler.branch(Test::Equal, arch, numbers, entry);
    }
    assembler.load(ARCH, entry);
    let instructions = assembler.finish();
    if instructions.len() > MAX_INSTRUCTIONS {
        return Err(CompileError::TooLong(instructions.len()));
    }
    Ok(Program { instructions, flags: resolved.flags.0 })
}

/// What happens to a range of numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Answer(u32),
    ByArguments(Vec<Conditional>),
}

/// All comparisons hold: this answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Conditional {
    all: Vec<Comparison>,
    answer: u32,
}

/// One argument, compared by libseccomp's rules for the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Comparison {
    index: u8,
    operator: Reduced,
    value: u64,
    mask: u64,
    wide: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Reduced {
    Equal,
    NotEqual,
    Greater,
    NotGreater,
    GreaterOrEqual,
    NotGreaterOrEqual,
}

impl Comparison {
    /// `None` where everything matches: a mask without bits.
    fn new(argument: &Argument, abi: Abi) -> Option<Self> {
        let wide = !abi.is_32_bit();
        let width = if wide { u64::MAX } else { u64::from(u32::MAX) };
        let operator = match argument.operator {
            Operator::Equal | Operator::MaskedEqual => Reduced::Equal,
            Operator::NotEqual => Reduced::NotEqual,
            Operator::Greater => Reduced::Greater,
            Operator::LessOrEqual => Reduced::NotGreater,
            Operator::GreaterOrEqual => Reduced::GreaterOrEqual,
            Operator::Less => Reduced::NotGreaterOrEqual,
        };
        let (mask, value) = match argument.operator {
            Operator::MaskedEqual => (argument.value, argument.value_two),
            _ => (u64::MAX, argument.value),
        };
        let mask = mask & width;
        // Bits of the value beyond the mask do not count, for libseccomp too.
        let value = value & mask;
        (mask != 0).then_some(Self { index: argument.index, operator, value, mask, wide })
    }

    const fn offset(&self, high: bool) -> u32 {
        ARGUMENTS + 8 * self.index as u32 + if high { 4 } else { 0 }
    }
}

/// What the rules say about one number, in their order.
#[derive(Default)]
struct Call {
    /// The first rule without a condition settles everything, also what was said before it.
    always: Option<u32>,
    conditional: Vec<Conditional>,
    /// Where each condition stands, and its answer.
    known: HashMap<Vec<Comparison>, (usize, u32)>,
}

impl Call {
    fn add(
        &mut self,
        position: usize,
        mut all: Vec<Comparison>,
        answer: u32,
    ) -> Result<(), (usize, usize)> {
        if self.always.is_some() {
            return Ok(());
        }
        if all.is_empty() {
            self.always = Some(answer);
            return Ok(());
        }
        all.sort_unstable();
        match self.known.get(&all) {
            Some((_, same)) if *same == answer => Ok(()),
            Some((first, _)) => Err((*first, position)),
            None => {
                self.known.insert(all.clone(), (position, answer));
                self.conditional.push(Conditional { all, answer });
                Ok(())
            }
        }
    }

    fn verdict(mut self) -> Verdict {
        if let Some(answer) = self.always {
            return Verdict::Answer(answer);
        }
        // Of several that match, the strictest, as the kernel decides between filters.
        self.conditional.sort_by_key(|one| (one.answer & 0xffff_0000).cast_signed());
        Verdict::ByArguments(self.conditional)
    }
}

type Calls = BTreeMap<u32, Call>;

fn calls(resolved: &Resolved<'_>, abi: Abi) -> Result<Calls, CompileError> {
    let mut calls = Calls::new();
    let default = resolved.default.code();
    for (position, rule) in &resolved.rules {
        // What happens anyway is no rule, also where a later one says otherwise.
        if rule.action.code() == default {
            continue;
        }
        for syscall in &rule.syscalls {
            let direct = syscall.number(abi).map(|number| (number, None));
            let shared = syscall.multiplexed(abi).map(|(number, what)| (number, Some(what)));
            for (number, what) in [direct, shared].into_iter().flatten() {
                for all in conditions(rule, abi, what) {
                    let call = calls.entry(number).or_default();
                    let added = call.add(*position, all, rule.action.code());
                    // Cut to 32 bits, what differed can be the same: the strictest, then.
                    if let Err((first, second)) = added
                        && !abi.is_32_bit()
                    {
                        let name = syscall.name();
                        return Err(CompileError::Contradiction { first, second, name });
                    }
                }
            }
        }
    }
    Ok(calls)
}

/// A rule's conditions, any of which is enough. All arguments must be so; but where one argument
/// is compared twice, Docker's runtimes make a rule of each comparison.
fn conditions(rule: &Rule, abi: Abi, what: Option<u64>) -> Vec<Vec<Comparison>> {
    let twice = (0..6).any(|i| rule.args.iter().filter(|arg| arg.index == i).count() > 1);
    let sets: Vec<&[Argument]> =
        if twice { rule.args.chunks(1).collect() } else { vec![&rule.args[..]] };
    let compared = |set: &[Argument]| {
        let mut all: Vec<Comparison> =
            set.iter().filter_map(|argument| Comparison::new(argument, abi)).collect();
        if let Some(value) = what {
            // The first argument says what is to be done; the call's own lie in memory.
            let operator = Operator::Equal;
            all.retain(|one| one.index != 0);
            let argument = Argument { index: 0, operator, value, value_two: 0 };
            all.extend(Comparison::new(&argument, abi));
        }
        all
    };
    sets.into_iter().map(compared).collect()
}

/// The newest call that a profile names for an interface, in any rule.
fn newest(resolved: &Resolved<'_>, abi: Abi) -> Option<u32> {
    let syscalls = resolved.rules.iter().flat_map(|(_, rule)| &rule.syscalls);
    syscalls.filter_map(|syscall| syscall.number(abi)).max().filter(|number| *number != 0)
}

/// All numbers of one AUDIT_ARCH_*, from 0 on, each range with its verdict.
fn ranges(resolved: &Resolved<'_>, arch: u32) -> Result<Vec<(u32, Verdict)>, CompileError> {
    let default = Verdict::Answer(resolved.default.code());
    let refuses = !resolved.default.is_permissive() && resolved.default != ENOSYS;
    let mut verdicts: BTreeMap<u32, Verdict> = BTreeMap::new();
    let mut newest_plain = None;
    let mut newest_x32 = None;
    for abi in resolved.abis.iter().filter(|abi| abi.audit_arch() == arch) {
        let calls = calls(resolved, *abi)?;
        verdicts.extend(calls.into_iter().map(|(number, call)| (number, call.verdict())));
        let newest = newest(resolved, *abi).filter(|_| refuses);
        if *abi == Abi::X32 { newest_x32 = newest } else { newest_plain = newest }
    }
    let x86_64 = arch == Abi::X86_64.audit_arch();
    let x32_is_other = x86_64 && !resolved.abis.contains(&Abi::X32);
    let verdict = |number: u32| {
        let x32 = x86_64 && number & X32_BIT != 0;
        let newest = if x32 { newest_x32 } else { newest_plain };
        if newest.is_some_and(|newest| number > newest) {
            return Verdict::Answer(ENOSYS.code());
        }
        // -1 is what a tracer leaves of a call that is not to be made.
        if x32_is_other && number >= X32_BIT && number != u32::MAX {
            return Verdict::Answer(OTHER_INTERFACE.code());
        }
        verdicts.get(&number).unwrap_or(&default).clone()
    };
    let mut starts = BTreeSet::from([0, X32_BIT, X32_BIT << 1, 3 * X32_BIT, u32::MAX]);
    for number in verdicts.keys().chain(&newest_plain).chain(&newest_x32) {
        starts.insert(*number);
        starts.insert(number.saturating_add(1));
    }
    let mut ranges: Vec<(u32, Verdict)> = Vec::new();
    for start in starts {
        let verdict = verdict(start);
        if ranges.last().is_none_or(|(_, last)| *last != verdict) {
            ranges.push((start, verdict));
        }
    }
    for (_, verdict) in &mut ranges {
        if let Verdict::ByArguments(list) = verdict {
            list.push(Conditional { all: Vec::new(), answer: resolved.default.code() });
        }
    }
    Ok(ranges)
}

/// A range with single numbers in it that have other verdicts.
struct Unit<'a> {
    start: u32,
    verdict: &'a Verdict,
    exceptions: Vec<(u32, &'a Verdict)>,
}

/// An exception costs one step here, and two as a range of its own: that is most of them.
fn units(ranges: &[(u32, Verdict)]) -> Vec<Unit<'_>> {
    const EXCEPTIONS: usize = 3;
    let mut out = Vec::new();
    let mut rest = ranges;
    while let [(start, verdict), after @ ..] = rest {
        let mut exceptions = Vec::new();
        rest = after;
        while let [(single, other), (next, same), after @ ..] = rest
            && exceptions.len() < EXCEPTIONS
            && single.checked_add(1) == Some(*next)
            && same == verdict
        {
            exceptions.push((*single, other));
            rest = after;
        }
        out.push(Unit { start: *start, verdict, exceptions });
    }
    out
}

fn tree(assembler: &mut Assembler, units: &[Unit<'_>]) -> Label {
    match units {
        [] => assembler.answer(OTHER_INTERFACE.code()),
        [unit] => {
            let otherwise = leaf(assembler, unit.verdict);
            unit.exceptions.iter().rev().fold(otherwise, |no, (number, verdict)| {
                let yes = leaf(assembler, verdict);
                assembler.branch(Test::Equal, *number, yes, no)
            })
        }
        _ => {
            let (left, right) = units.split_at(units.len() / 2);
            let middle = right[0].start;
            let right = tree(assembler, right);
            let left = tree(assembler, left);
            assembler.branch(Test::GreaterOrEqual, middle, right, left)
        }
    }
}

fn leaf(assembler: &mut Assembler, verdict: &Verdict) -> Label {
    match verdict {
        Verdict::Answer(code) => assembler.answer(*code),
        Verdict::ByArguments(list) => by_arguments(assembler, list),
    }
}

fn by_arguments(assembler: &mut Assembler, list: &[Conditional]) -> Label {
    let Some((last, rest)) = list.split_last() else {
        return assembler.answer(OTHER_INTERFACE.code());
    };
    let mut next = assembler.answer(last.answer);
    let mut end = rest.len();
    while end > 0 {
        // Several values of one argument with one answer: its word is loaded once.
        let one = &rest[end - 1];
        let start = match one.one_value() {
            Some(key) => {
                let same = |other: &&Conditional| {
                    other.answer == one.answer && other.one_value() == Some(key)
                };
                end - rest[..end].iter().rev().take_while(same).count()
            }
            None => end - 1,
        };
        let yes = assembler.answer(one.answer);
        next = if end - start > 1 {
            any_value(assembler, &rest[start..end], yes, next)
        } else {
            one.all.iter().rev().fold(yes, |yes, one| compare(assembler, one, yes, next))
        };
        end = start;
    }
    next
}

impl Conditional {
    /// For a single comparison with a value: the argument and the upper half of the value.
    fn one_value(&self) -> Option<(u8, u32)> {
        match &self.all[..] {
            [one] if one.operator == Reduced::Equal && one.mask >= u64::from(u32::MAX) => {
                let whole = one.mask == if one.wide { u64::MAX } else { u64::from(u32::MAX) };
                whole.then_some((one.index, high(one.value)))
            }
            _ => None,
        }
    }
}

const fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

const fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

fn any_value(assembler: &mut Assembler, list: &[Conditional], yes: Label, no: Label) -> Label {
    let comparisons: Vec<&Comparison> = list.iter().flat_map(|one| &one.all).collect();
    let Some(first) = comparisons.first() else { return no };
    let tests = comparisons
        .iter()
        .rev()
        .fold(no, |no, one| assembler.branch(Test::Equal, low(one.value), yes, no));
    let entry = assembler.load(first.offset(false), tests);
    if !first.wide {
        return entry;
    }
    let upper = assembler.branch(Test::Equal, high(first.value), entry, no);
    assembler.load(first.offset(true), upper)
}

fn compare(assembler: &mut Assembler, one: &Comparison, yes: Label, no: Label) -> Label {
    let (test, yes, no) = match one.operator {
        Reduced::Equal => (Test::Equal, yes, no),
        Reduced::NotEqual => (Test::Equal, no, yes),
        Reduced::Greater => (Test::Greater, yes, no),
        Reduced::NotGreater => (Test::Greater, no, yes),
        Reduced::GreaterOrEqual => (Test::GreaterOrEqual, yes, no),
        Reduced::NotGreaterOrEqual => (Test::GreaterOrEqual, no, yes),
    };
    if yes == no {
        return yes;
    }
    let lower = word(assembler, test, one, false, yes, no);
    if !one.wide {
        return lower;
    }
    if test == Test::Equal {
        return word(assembler, test, one, true, lower, no);
    }
    // The upper halves decide, unless they are equal.
    let equal = assembler.branch(Test::Equal, high(one.value), lower, no);
    let greater = assembler.branch(Test::Greater, high(one.value), yes, equal);
    assembler.load(one.offset(true), greater)
}

/// One half of an argument, under its half of the mask.
fn word(
    assembler: &mut Assembler,
    test: Test,
    one: &Comparison,
    upper: bool,
    yes: Label,
    no: Label,
) -> Label {
    let half = if upper { high } else { low };
    let (mask, value) = (half(one.mask), half(one.value));
    if mask == 0 {
        return yes;
    }
    let entry = if mask == u32::MAX {
        assembler.branch(test, value, yes, no)
    } else if value == 0 {
        // Masks are for equality only: none of the bits is set.
        assembler.branch(Test::AnyBit, mask, no, yes)
    } else {
        let entry = assembler.branch(test, value, yes, no);
        assembler.mask(mask, entry)
    };
    assembler.load(one.offset(upper), entry)
}
