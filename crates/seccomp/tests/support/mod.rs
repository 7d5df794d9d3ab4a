//! What the kernel does with a filter, in Rust, and the capabilities' numbers.
#![allow(dead_code, reason = "each test uses its part")]

use hoy_seccomp::{Instruction, Profile, ProfileError};

/// `struct seccomp_data`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Data {
    pub number: u32,
    pub arch: u32,
    pub args: [u64; 6],
}

impl Data {
    pub fn new(arch: u32, number: u32) -> Self {
        Self { number, arch, args: [0; 6] }
    }

    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            8 | 12 => 0,
            16..64 => {
                let argument = self.args[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
            }
            other => panic!("load of {other}"),
        }
    }
}

/// The verdict.
pub fn run(program: &[Instruction], data: &Data) -> u32 {
    steps(program, data).0
}

/// The verdict, and how many steps it took.
pub fn steps(program: &[Instruction], data: &Data) -> (u32, usize) {
    let mut a = 0_u32;
    let mut at = 0_usize;
    for taken in 1.. {
        let step = program[at];
        at += 1;
        let skip = |yes: bool| usize::from(if yes { step.jt } else { step.jf });
        match step.code {
            0x20 => {
                assert!(step.k.is_multiple_of(4));
                a = data.word(step.k);
            }
            0x05 => at += step.k as usize,
            0x15 => at += skip(a == step.k),
            0x25 => at += skip(a > step.k),
            0x35 => at += skip(a >= step.k),
            0x45 => at += skip(a & step.k != 0),
            0x54 => a &= step.k,
            0x06 => return (step.k, taken),
            other => panic!("the kernel refuses {other:#x}"),
        }
    }
    unreachable!()
}

pub const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Docker's 14.
pub const DOCKER: u64 = 0xa804_25fb;
pub const SYS_ADMIN: u64 = 1 << 21;

pub fn parse(text: &str) -> Result<Profile, ProfileError> {
    Profile::parse(text, &|name| NAMES.iter().position(|known| *known == name).map(|n| n as u32))
}
