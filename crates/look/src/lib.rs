//! Room: what a container's files say about the program that it was to run.
//!
//! The daemon resolves nothing in a container's file system and reads nothing of it. It executes
//! itself with other arguments; that process sees the container's files alone, may only read, and
//! has a deadline. What it answers is plain data, and no more than was asked for.

mod elf;
mod files;
mod inside;
mod near;
mod worker;

pub use inside::main;
pub use near::near;
pub use worker::{LookError, Worker};

use serde::{Deserialize, Serialize};

/// What is to be found out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// The command's first word.
    pub command: String,
    /// The directories of its PATH.
    pub path: Vec<String>,
    /// Those of LD_LIBRARY_PATH.
    pub libraries: Vec<String>,
    pub cwd: String,
    /// A name that the password file may know; empty for none.
    pub user: String,
}

/// The answer. Texts that come from files are cut to a length that can be shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    pub program: Option<Program>,
    /// Names of programs that look like the one that is not there.
    pub near: Vec<String>,
    pub cwd: Kind,
    /// Whether the password file knows the user.
    pub user_known: bool,
    /// Names that it has, which look like it.
    pub near_users: Vec<String>,
}

/// What lies at a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    #[default]
    Missing,
    File,
    Directory,
    Other,
}

/// A file that was to be executed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Program {
    pub path: String,
    pub kind: Kind,
    /// Somebody may execute it.
    pub executable: bool,
    pub format: Format,
}

/// What the kernel would make of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Format {
    /// It could not be read.
    #[default]
    Unknown,
    Empty,
    Script {
        interpreter: String,
        /// The first line ends as lines do on Windows.
        carriage_return: bool,
        /// Where it is there.
        program: Option<Box<Program>>,
    },
    Elf(Elf),
    /// Text without a first line that names an interpreter.
    Text,
    /// A program for Windows or macOS.
    Foreign(String),
    Other,
}

/// A program of the machine's kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Elf {
    pub machine: u16,
    /// The dynamic loader that it names.
    pub interpreter: String,
    pub interpreter_there: bool,
    /// Libraries that it needs, or others for it, which are in none of the usual directories.
    pub missing: Vec<String>,
}
