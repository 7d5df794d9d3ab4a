//! An assembler that works from the end to the beginning.
//!
//! Classic BPF jumps forward only, so whatever a step jumps to is there already, and its distance
//! known. Returns are shared where a jump reaches them, which halves a tree of ranges.

use std::collections::HashMap;

use crate::compile::Instruction;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const RETURN: u16 = 0x06;

/// How two numbers are compared by one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    Equal,
    Greater,
    GreaterOrEqual,
    AnyBit,
}

impl Test {
    const fn code(self) -> u16 {
        match self {
            Self::Equal => 0x15,
            Self::Greater => 0x25,
            Self::GreaterOrEqual => 0x35,
            Self::AnyBit => 0x45,
        }
    }
}

/// A step that is there already, counted from the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label(usize);

#[derive(Default)]
pub(crate) struct Assembler {
    /// Backwards.
    steps: Vec<Instruction>,
    returns: HashMap<u32, Label>,
}

impl Assembler {
    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.steps.push(Instruction { code, jt, jf, k });
        Label(self.steps.len() - 1)
    }

    /// Steps between the next one to be made and the label.
    fn distance(&self, to: Label) -> usize {
        self.steps.len() - 1 - to.0
    }

    pub(crate) fn answer(&mut self, code: u32) -> Label {
        // As far as a conditional jump reaches, with room for what stands between.
        const NEAR: usize = 200;
        match self.returns.get(&code) {
            Some(label) if self.distance(*label) <= NEAR => *label,
            _ => {
                let label = self.push(RETURN, 0, 0, code);
                self.returns.insert(code, label);
                label
            }
        }
    }

    /// A label that is reached by a conditional jump, after `between` further steps.
    fn near(&mut self, to: Label, between: usize) -> Label {
        let distance = self.distance(to);
        if distance + between <= usize::from(u8::MAX) {
            return to;
        }
        self.push(JUMP, 0, 0, u32::try_from(distance).unwrap_or(u32::MAX))
    }

    pub(crate) fn branch(&mut self, test: Test, k: u32, yes: Label, no: Label) -> Label {
        if yes == no {
            return yes;
        }
        let yes = self.near(yes, 1);
        let no = self.near(no, 0);
        // Both are near enough: `near` left room for the other's detour.
        let skip = |label: Label| u8::try_from(self.distance(label)).unwrap_or(u8::MAX);
        let (jt, jf) = (skip(yes), skip(no));
        self.push(test.code(), jt, jf, k)
    }

    /// A step that falls through to `then`.
    fn before(&mut self, code: u16, k: u32, then: Label) -> Label {
        let distance = self.distance(then);
        if distance > 0 {
            self.push(JUMP, 0, 0, u32::try_from(distance).unwrap_or(u32::MAX));
        }
        self.push(code, 0, 0, k)
    }

    pub(crate) fn load(&mut self, offset: u32, then: Label) -> Label {
        self.before(LOAD, offset, then)
    }

    pub(crate) fn mask(&mut self, mask: u32, then: Label) -> Label {
        self.before(AND, mask, then)
    }

    /// The program, whose first step is the last one made.
    pub(crate) fn finish(mut self) -> Vec<Instruction> {
        self.steps.reverse();
        self.steps
    }
}
