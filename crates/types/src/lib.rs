//! Words: parsed ids, names, references, digests, ports, sizes, times, and the closed list of
//! error kinds. Everything here is plain data: no I/O, no clock, no randomness.

mod digest;
mod duration;
mod error;
mod id;
mod idmap;
mod name;
mod port;
mod reference;
mod signal;
mod size;
mod sysctl;
mod time;
mod ulimit;
mod user;

pub use digest::{Digest, DigestError};
pub use duration::parse_duration;
pub use error::ErrorKind;
pub use id::{ContainerId, IdError};
pub use idmap::{IdMaps, IdRange};
pub use name::{NameError, generate_name, validate_name};
pub use port::{
    PortBinding, PortError, PortSpec, Protocol, RangeError, parse_port_number, parse_port_range,
    parse_port_spec, split_protocol, written_address,
};
pub use reference::{Reference, ReferenceError};
pub use signal::{Signal, SignalError};
pub use size::{SizeError, human_size, human_size_binary, parse_bytes};
pub use sysctl::SysctlScope;
pub use time::{TimeError, Timestamp};
pub use ulimit::{check_ulimit, parse_ulimit, ulimit_number};
pub use user::{UserError, UserRef, UserSpec};
