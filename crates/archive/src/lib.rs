//! Room: files of containers in and out, by a jailed worker process.
//!
//! The daemon resolves nothing of a container's file system. It executes itself with other
//! arguments; that process enters what the container sees (`hoy_runtime::show_running`, or
//! `show_resting` for one that does not run), gives up all that it does not need, and only then
//! looks at a name or at a client's archive. Whatever it meets there, a FIFO, a server that does
//! not answer, a link that changes, it is the worker that waits or fails; the daemon has a
//! deadline for each piece and ends it.

mod changes;
mod inside;
mod job;
mod place;
mod worker;

pub use inside::main;
pub use job::{Change, ChangeKind, Fault, Job, PathStat, Place, Task};
pub use worker::{ArchiveError, Running, Sink, Worker};
