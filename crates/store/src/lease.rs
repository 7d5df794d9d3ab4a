//! Leases: what running operations use is not garbage, whatever the metadata says meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

type Counts = Arc<Mutex<HashMap<String, usize>>>;

/// Everything that is leased, counted.
#[derive(Default)]
pub(crate) struct Leases(Counts);

/// Holds its keys until it is dropped.
pub struct Lease {
    keys: Vec<String>,
    counts: Counts,
}

impl Leases {
    pub fn take(&self, keys: impl IntoIterator<Item = String>) -> Lease {
        let keys: Vec<String> = keys.into_iter().collect();
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &keys {
            *counts.entry(key.clone()).or_default() += 1;
        }
        drop(counts);
        Lease { keys, counts: Arc::clone(&self.0) }
    }

    /// Acts on a key that nobody holds, and that nobody can take before it is done.
    pub fn unless_held(&self, key: &str, act: impl FnOnce() -> bool) -> bool {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !counts.contains_key(key) && act()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &self.keys {
            if let Some(count) = counts.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(key);
                }
            }
        }
    }
}
