//! House: use cases; the life cycle of containers; the only holder of several tickets.
//!
//! One driver task owns each container; everybody else reads published views. Decisions are pure
//! functions (`spec`, `plan`, `life`, `refuse`, `files`); what touches the host is in the rooms
//! below. The engine knows nothing of HTTP.

mod apparmor;
mod archive;
mod attachments;
mod barriers;
mod begin;
mod cdi;
mod commit;
mod containers;
mod detach;
mod devices;
mod directory;
mod disk;
mod driver;
mod encoding;
mod engine;
mod error;
mod events;
mod exec;
mod explain;
mod files;
mod health;
mod images;
mod ipam;
mod life;
mod limits;
mod links;
mod list;
mod log_tag;
mod logging;
mod lsm;
mod mounts;
mod networks;
mod plan;
mod prune;
mod record;
mod refuse;
mod registry;
mod reload;
mod restart;
mod room;
mod sandbox;
mod seccomp;
mod selinux;
mod sharing;
mod shim_link;
mod show;
mod spec;
mod stats;
mod stop;
mod streams;
mod system;
mod top;
mod userns;
mod vain;
mod volumes;
mod wait;

pub use archive::PutOptions;
pub use commit::CommitRequest;
pub use containers::ListOptions;
pub use disk::{DiskUsage, UsageKinds};
pub use encoding::base64;
pub use engine::{Engine, Parts};
pub use error::{Error, Result};
pub use events::{Happening, History, Listening};
pub use exec::ExecSession;
pub use hoy_volumes::{Volume, VolumeRequest};
pub use images::BodyReader;
pub use prune::PruneMode;
pub use stats::StatsStream;
pub use stop::Stopped;
pub use streams::{AttachOptions, AttachSession, HijackedConn, LogStream, LogsOptions};
pub use wait::WaitHandle;
