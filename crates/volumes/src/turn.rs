//! Changes of one volume are one after the other.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{Result, VolumeError};

/// How long one may wait for what others do with the same volume.
const LONGEST: Duration = Duration::from_secs(150);

/// Who changes which volume now.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    busy: Mutex<HashSet<String>>,
    freed: Condvar,
}

/// The right to change one volume, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Arc<Turns>,
    name: String,
}

impl Turns {
    fn busy(&self) -> MutexGuard<'_, HashSet<String>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn take(self: &Arc<Self>, name: &str) -> Result<Turn> {
        let busy = self.busy();
        let waited = self.freed.wait_timeout_while(busy, LONGEST, |busy| busy.contains(name));
        let (mut busy, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return Err(VolumeError::Conflict(format!(
                "volume {name}: something else is still being done with it"
            )));
        }
        busy.insert(name.to_owned());
        Ok(Turn { turns: Arc::clone(self), name: name.to_owned() })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.busy().remove(&self.name);
        self.turns.freed.notify_all();
    }
}
