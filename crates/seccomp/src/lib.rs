//! Seccomp profiles: Docker's JSON, its default profile, and a compiler to classic BPF. Pure.
//!
//! [`Profile`] is what a document says, [`Profile::resolve`] picks what is for one machine and one
//! set of capabilities, [`compile()`] makes the program. The verdicts are those of libseccomp as
//! Docker's runtime drives it (`tests/oracle.rs` asks the library itself); the program is a tree
//! of ranges, since the kernel runs it once for every system call number when it is loaded.

mod assemble;
mod builtin;
mod compile;
mod json;
mod parse;
mod profile;
mod syscalls;
mod table;

pub use builtin::builtin;
pub use compile::{CompileError, Instruction, MAX_INSTRUCTIONS, Program, compile};
pub use parse::{MAX_BYTES, ProfileError};
pub use profile::{
    Action, Architectures, Argument, Condition, Facts, Flags, Operator, Profile, Resolved, Rule,
    Version,
};
pub use syscalls::{Abi, Machine, Syscall, X32_BIT};
