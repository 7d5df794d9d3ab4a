//! The journal of events: the last ones for who asks later, and a live stream for who listens.
//!
//! Losing one is harmless to hoy itself: state is always derived again from the kernel and the
//! store. A slow listener loses the oldest ones and nobody else waits for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use hoy_types::Timestamp;
use tokio::sync::broadcast;

/// How many past events are kept, as Docker does.
const KEPT: usize = 256;
/// How far a listener may fall behind.
const BEHIND: usize = 1024;

/// One thing that happened to one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Happening {
    /// `container`, `image`, `network`, …
    pub kind: &'static str,
    pub action: String,
    pub id: String,
    pub attributes: BTreeMap<String, String>,
    pub at: Timestamp,
}

/// All events of this daemon's life.
pub struct Journal {
    past: Mutex<VecDeque<Happening>>,
    live: broadcast::Sender<Happening>,
}

impl Default for Journal {
    fn default() -> Self {
        Self { past: Mutex::new(VecDeque::with_capacity(KEPT)), live: broadcast::channel(BEHIND).0 }
    }
}

impl Journal {
    pub fn record(&self, happening: Happening) {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        if past.len() == KEPT {
            past.pop_front();
        }
        past.push_back(happening.clone());
        // Under the lock, so that a listener gets each event either as past or as live.
        let _ = self.live.send(happening);
    }

    /// The kept events and, without a gap, those to come.
    pub fn listen(&self) -> (Vec<Happening>, broadcast::Receiver<Happening>) {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        (past.iter().cloned().collect(), self.live.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn happening(number: usize) -> Happening {
        Happening {
            kind: "container",
            action: "start".into(),
            id: number.to_string(),
            attributes: BTreeMap::new(),
            at: Timestamp::from_nanos(number as i64),
        }
    }

    #[test]
    fn past_is_bounded_and_live_follows() {
        let journal = Journal::default();
        for number in 0..300 {
            journal.record(happening(number));
        }
        let (past, mut live) = journal.listen();
        assert_eq!(past.len(), KEPT);
        assert_eq!(past[0].id, "44");
        journal.record(happening(300));
        assert_eq!(live.try_recv().unwrap().id, "300");
    }
}
