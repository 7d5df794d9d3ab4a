//! The device list of a v2 cgroup as a BPF program, assembled by hand.
//!
//! The program gets `struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }`, the
//! type in the lower and the access in the upper half of `access_type`, and answers 1 to allow.

use std::io;
use std::os::fd::BorrowedFd;

use hoy_sys::bpf::{self, Instruction};

use crate::DeviceRule;

const LOAD_WORD: u8 = 0x61;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const MOVE: u8 = 0xb7;
const COPY: u8 = 0xbf;
const EXIT: u8 = 0x95;
const JUMP_NOT_EQUAL: u8 = 0x55;

const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;
const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;

/// Installs the program for good; it goes with the cgroup.
pub(crate) fn attach(directory: BorrowedFd<'_>, rules: &[DeviceRule]) -> io::Result<()> {
    bpf::attach_device_program(directory, &assemble(rules))
}

fn instruction(code: u8, dst: u8, src: u8, off: i16, imm: u32) -> Instruction {
    Instruction { code, registers: dst | src << 4, off, imm: imm as i32 }
}

/// Registers: 1 the context, 2 the type, 3 the access, 4 major, 5 minor.
fn assemble(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut out = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(LOAD_WORD, 3, 1, 0, 0),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        out.extend(one(rule));
    }
    out.push(instruction(MOVE, 0, 0, 0, 0));
    out.push(instruction(EXIT, 0, 0, 0, 0));
    out
}

/// One rule: whatever does not match jumps behind it, the rest is allowed.
fn one(rule: &DeviceRule) -> Vec<Instruction> {
    let mut tests: Vec<Vec<Instruction>> = Vec::new();
    match rule.kind {
        'b' => tests.push(vec![instruction(JUMP_NOT_EQUAL, 2, 0, 0, BLOCK)]),
        'c' => tests.push(vec![instruction(JUMP_NOT_EQUAL, 2, 0, 0, CHARACTER)]),
        _ => {}
    }
    let access = rule.access.chars().fold(0, |mask, letter| match letter {
        'r' => mask | READ,
        'w' => mask | WRITE,
        'm' => mask | MKNOD,
        _ => mask,
    });
    if access != READ | WRITE | MKNOD {
        // What is asked for beyond the rule's access must be nothing.
        tests.push(vec![
            instruction(COPY, 0, 3, 0, 0),
            instruction(AND, 0, 0, 0, !access),
            instruction(JUMP_NOT_EQUAL, 0, 0, 0, 0),
        ]);
    }
    if let Some(major) = rule.major {
        tests.push(vec![instruction(JUMP_NOT_EQUAL, 4, 0, 0, major)]);
    }
    if let Some(minor) = rule.minor {
        tests.push(vec![instruction(JUMP_NOT_EQUAL, 5, 0, 0, minor)]);
    }
    let mut out: Vec<Instruction> = tests.concat();
    out.push(instruction(MOVE, 0, 0, 0, 1));
    out.push(instruction(EXIT, 0, 0, 0, 0));
    let length = out.len();
    for (index, step) in out.iter_mut().enumerate() {
        if step.code == JUMP_NOT_EQUAL {
            step.off = (length - index - 1) as i16;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would answer.
    fn run(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> u64 {
        let context = [kind | access << 16, major, minor];
        let mut registers = [0_u64; 10];
        let mut at = 0_usize;
        loop {
            let step = &program[at];
            let (dst, src) = (usize::from(step.registers & 15), usize::from(step.registers >> 4));
            at += 1;
            match step.code {
                LOAD_WORD => registers[dst] = u64::from(context[step.off as usize / 4]),
                AND => registers[dst] &= i64::from(step.imm) as u64,
                SHIFT_RIGHT => registers[dst] >>= step.imm,
                MOVE => registers[dst] = i64::from(step.imm) as u64,
                COPY => registers[dst] = registers[src],
                EXIT => return registers[0],
                JUMP_NOT_EQUAL => {
                    if registers[dst] != i64::from(step.imm) as u64 {
                        at += step.off as usize;
                    }
                }
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn allows_what_the_rules_say() {
        let rule = |kind, major, minor, access: &str| DeviceRule {
            kind,
            major,
            minor,
            access: access.into(),
        };
        let program = assemble(&[
            rule('c', None, None, "m"),
            rule('c', Some(1), Some(3), "rwm"),
            rule('b', Some(8), None, "r"),
        ]);
        for (kind, access, major, minor, allowed) in [
            (CHARACTER, READ | WRITE, 1, 3, 1),
            (CHARACTER, READ, 1, 1, 0),
            (CHARACTER, MKNOD, 1, 1, 1),
            (CHARACTER, MKNOD | READ, 1, 1, 0),
            (BLOCK, READ, 8, 5, 1),
            (BLOCK, READ | WRITE, 8, 5, 0),
            (BLOCK, READ, 9, 5, 0),
        ] {
            assert_eq!(
                run(&program, kind, access, major, minor),
                allowed,
                "{kind} {access} {major}:{minor}"
            );
        }
    }
}
