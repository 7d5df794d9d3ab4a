//! Room: named volumes: their directories, mounts, contents and plugins.
//!
//! A volume of the local driver is one directory: `volumes/NAME/volume.json` says what it is,
//! `_data` is what containers see. It comes into being by a rename and goes by one, so that a kill
//! or a power cut at any moment leaves the old state or the new one; there is no second record of
//! it that could say something else. Of a plugin's volume there is the document alone: the plugin
//! knows whether there is such a volume, and where its data is.

mod copy;
mod mounts;
mod options;
mod plugged;
mod plugin;
mod populate;
mod quota;
mod shelf;
mod turn;
mod volume;

use hoy_types::ErrorKind;

pub use copy::copy_tree;
pub use options::LocalOptions;
pub use plugged::Seen;
pub use plugin::{PluginLimits, PluginSettings};
pub use quota::{DISK, Leaving, Means, Quotas, Usage};
pub use shelf::random_name;
pub use shelf::{Filled, Volumes};
pub use volume::{ANONYMOUS, LOCAL, Volume, VolumeRequest, check_name};

/// What went wrong with which volume.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("get {0}: no such volume")]
    NotFound(String),
    /// Not a volume, but what it needs.
    #[error("{0}")]
    Missing(String),
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Conflict(String),
    #[error("{operation} {what}: {source}")]
    Io { operation: &'static str, what: String, source: std::io::Error },
    #[error("{0}")]
    Driver(String),
    #[error(transparent)]
    Store(#[from] hoy_store::StoreError),
}

impl VolumeError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) | Self::Missing(_) => ErrorKind::NotFound,
            Self::Invalid(_) => ErrorKind::InvalidParameter,
            Self::Conflict(_) => ErrorKind::Conflict,
            Self::Io { .. } | Self::Driver(_) | Self::Store(_) => ErrorKind::System,
        }
    }

    pub(crate) fn io(
        operation: &'static str,
        what: impl ToString,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.to_string();
        move |source| Self::Io { operation, what, source }
    }

    pub(crate) fn errno(
        operation: &'static str,
        what: impl ToString,
    ) -> impl FnOnce(rustix::io::Errno) -> Self {
        let io = Self::io(operation, what);
        move |errno| io(errno.into())
    }
}

/// The result of an operation on volumes.
pub type Result<T> = std::result::Result<T, VolumeError>;
