//! Ground: what a worker gives up before it looks at what somebody else has made.
//!
//! A worker is a process of a moment, the daemon's own program with other arguments. Bytes, names
//! and trees of images, archives and containers are handled by workers alone; what is wrong with
//! their handling then costs the directory that is worked on, and nothing else. There is no way
//! back: the capabilities leave the bounding set, too, and nothing is executed that could bring
//! any. Each worker says what it needs, the rest is the same for all.

use std::io;
use std::os::fd::OwnedFd;

use hoy_sys::process;
use rustix::process::{DumpableBehavior, Resource, Rlimit};
pub use rustix::thread::CapabilitySet;
use rustix::thread::CapabilitySets;

/// With these one lays out trees that belong to others.
pub const WRITES_TREES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP);
/// With these one reads trees that belong to others.
pub const READS_TREES: CapabilitySet = CapabilitySet::DAC_READ_SEARCH;

/// What a worker keeps.
#[derive(Clone, Copy, Debug)]
pub struct Jail {
    pub capabilities: CapabilitySet,
    /// In bytes.
    pub address_space: u64,
    /// Absent: as many as it may have already.
    pub open_files: Option<u64>,
    /// It may make files longer.
    pub writes: bool,
}

impl Jail {
    /// From here on there is only the directory.
    pub fn around(&self, directory: OwnedFd) -> io::Result<()> {
        process::unshare(process::NEWNS)?;
        rustix::process::fchdir(&directory)?;
        rustix::process::chroot(".")?;
        rustix::process::chdir("/")?;
        drop(directory);
        self.here()
    }

    /// The same for who holds descriptors of all that it needs, or has gone where there is nothing
    /// else: the mount namespace stays the one that it is in.
    pub fn here(&self) -> io::Result<()> {
        process::unshare(process::NEWNET | process::NEWIPC | process::NEWUTS)?;
        limit(Resource::As, self.address_space)?;
        if let Some(most) = self.open_files {
            limit(Resource::Nofile, most)?;
        }
        // What it has read is nobody's to find in a core dump.
        limit(Resource::Core, 0)?;
        if !self.writes {
            limit(Resource::Fsize, 0)?;
        }
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        rustix::thread::set_no_new_privs(true)?;
        self.give_up()
    }

    fn give_up(&self) -> io::Result<()> {
        for number in 0..64 {
            let one = CapabilitySet::from_bits_retain(1 << number);
            // The first one that the kernel does not know is behind the last one.
            if !self.capabilities.contains(one)
                && rustix::thread::remove_capability_from_bounding_set(one).is_err()
            {
                break;
            }
        }
        let sets = CapabilitySets {
            effective: self.capabilities,
            permitted: self.capabilities,
            inheritable: CapabilitySet::empty(),
        };
        Ok(rustix::thread::set_capabilities(None, sets)?)
    }
}

fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let limit = Rlimit { current: Some(most), maximum: Some(most) };
    Ok(rustix::process::setrlimit(resource, limit)?)
}
