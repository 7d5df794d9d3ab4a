//! Ground: links, addresses, routes, nftables transactions and remembered connections over netlink,
//! our own encoder.
//!
//! Messages are built by `Message`, whose lengths are checked; answers are read by `Attributes`,
//! which never looks beyond what arrived. Every wait has a deadline.

pub mod conntrack;
pub mod diag;
mod message;
pub mod nft;
pub mod route;
mod socket;

pub use message::{Attributes, Message};
pub use socket::{Socket, SocketKind};

use std::io;

/// What the kernel or the socket said.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("{operation}: {source}")]
    Io { operation: &'static str, source: io::Error },
    /// The kernel refused; its own words if it gave any.
    #[error("{operation}: {source}{}", if explanation.is_empty() { String::new() } else { format!(" ({explanation})") })]
    Refused { operation: &'static str, source: io::Error, explanation: String },
    #[error("{0}: the kernel did not answer in time")]
    Late(&'static str),
    /// A list that somebody changed while it was read.
    #[error("{0}: it changes too often to be read")]
    Changed(&'static str),
}

impl NetlinkError {
    /// The error number, if the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } | Self::Refused { source, .. } => source.raw_os_error(),
            Self::Late(_) | Self::Changed(_) => None,
        }
    }

    fn is(&self, errnos: &[rustix::io::Errno]) -> bool {
        errnos.iter().any(|errno| self.errno() == Some(errno.raw_os_error()))
    }

    /// The kernel does not know the kind of thing that was asked for.
    pub fn is_unsupported(&self) -> bool {
        self.is(&[rustix::io::Errno::OPNOTSUPP, rustix::io::Errno::AFNOSUPPORT])
    }

    /// What was named is not there.
    pub fn is_missing(&self) -> bool {
        use rustix::io::Errno;
        self.is(&[Errno::NOENT, Errno::NODEV, Errno::SRCH, Errno::ADDRNOTAVAIL])
    }

    /// What was to be made is there.
    pub fn exists(&self) -> bool {
        self.is(&[rustix::io::Errno::EXIST])
    }

    pub(crate) fn garbled(operation: &'static str) -> Self {
        Self::Io { operation, source: io::ErrorKind::InvalidData.into() }
    }
}
