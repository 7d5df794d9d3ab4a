//! The keeper: the one helper of the host, which holds the sockets of published ports.

mod hold;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rustix::io::Errno;

pub(crate) use hold::{Hold, Key, take};

use crate::ports::State;

/// Where the keeper's program is and where it listens.
#[derive(Clone, Debug)]
pub struct KeeperPlace {
    /// The daemon's own program: it is executed with the argument `ports`.
    pub program: PathBuf,
    /// `<exec root>/ports.sock`.
    pub socket: PathBuf,
}

#[derive(Debug)]
pub(crate) struct Holder {
    held: HashMap<Key, Option<OwnedFd>>,
}

impl Holder {
    pub fn here() -> Self {
        Self { held: HashMap::new() }
    }
    pub fn with_keeper(_place: KeeperPlace) -> Self {
        Self::here()
    }
    pub fn watched_by(&mut self, _state: &Arc<Mutex<State>>) {}
    pub fn limit(&self) -> usize {
        10_000
    }
    pub fn hold(&mut self, holds: &[Hold]) -> Result<Vec<Result<(), Errno>>, String> {
        Ok(holds
            .iter()
            .map(|hold| take(hold).map(|socket| drop(self.held.insert(hold.key, socket))))
            .collect())
    }
    pub fn release(&mut self, keys: &[Key]) {
        for key in keys {
            self.held.remove(key);
        }
    }
    pub fn list(&mut self) -> Vec<Key> {
        self.held.keys().copied().collect()
    }
    pub fn end(&mut self) {
        self.held.clear();
    }
    pub fn leave(&mut self) {}
    pub fn pid(&self) -> Option<u32> {
        None
    }
}
