//! Room: the container plan (pure data) and its execution on the kernel.
//!
//! Used inside the shim. It executes no other program, mounts nothing into the host's tree, and
//! never trusts a path below a container's root. For another OCI runtime it makes the bundle, and
//! the shim calls that runtime.

mod bundle;
pub mod caps;
mod child;
mod error;
mod external;
mod lsm;
pub mod plan;
mod prepare;
mod resting;
mod rootfs;
mod running;
mod shared;
mod starting;
mod tree;
mod users;

pub use error::{FailureReason, StartError, text as plain_error};
pub use external::{Bundle, prepare_external};
pub use plan::*;
pub use prepare::{GivenFds, Prepared, prepare};
pub use resting::{Written, ids_of, show_resting, show_running, show_written};
pub use rootfs::image_root;
pub use running::{Refusal, Remains, Running, Started, Stdio, resize};
pub use starting::{Starting, reap_now};
