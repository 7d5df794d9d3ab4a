//! The journal of events: the last ones for who asks later, and a live stream for who listens.
//!
//! Losing one is harmless to hoy itself: state is always derived again from the kernel and the
//! store. A slow listener loses the oldest ones and nobody else waits for it. What has happened is
//! on the disk a moment later (`disk`), so that the next daemon knows it; the deaths among it are
//! told once, whoever notices them first.

mod disk;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hoy_types::Timestamp;
use tokio::sync::{Notify, broadcast};

use disk::Disk;
pub use disk::History;

use crate::engine::{Engine, Inner, now};
use crate::record::Record;

/// How many past events are in memory, as Docker does.
const KEPT: usize = 256;
/// So many may wait for a disk that does not take them.
const WAITING: usize = 16 * 1024;
/// How far a listener may fall behind.
const BEHIND: usize = 1024;
/// What happens within this time is written at once.
const BATCH: Duration = Duration::from_millis(100);

/// How long a disk may take for that.
const DEADLINE: Duration = Duration::from_secs(5);

/// The kinds of objects that something happens to.
const KINDS: &[&str] =
    &["container", "image", "volume", "network", "plugin", "daemon", "builder", "node", "service"];

/// One thing that happened to one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Happening {
    /// `container`, `image`, `network`, …
    pub kind: &'static str,
    pub action: String,
    pub id: String,
    pub attributes: BTreeMap<String, String>,
    pub at: Timestamp,
    /// Of a container's death: when that was.
    pub death: Option<Timestamp>,
}

/// With its place in the order of all.
#[derive(Debug)]
struct Numbered {
    number: u64,
    happening: Arc<Happening>,
}

#[derive(Default)]
struct State {
    past: VecDeque<Numbered>,
    next: u64,
    /// All before this one are on the disk.
    written: u64,
}

/// All events of this daemon's life, and of those before it as far as the disk has them.
pub struct Journal {
    state: Mutex<State>,
    live: broadcast::Sender<Arc<Happening>>,
    something: Notify,
    disk: Option<Disk>,
    /// Deaths that daemons before this one have told.
    told: HashSet<(String, i64)>,
    /// From when on `told` is whole.
    since: Option<Timestamp>,
}

/// What has happened, oldest first, and without a gap what will.
pub struct Listening {
    /// On the disk, before what follows.
    pub history: Option<History>,
    pub past: Vec<Arc<Happening>>,
    pub live: broadcast::Receiver<Arc<Happening>>,
}

impl Journal {
    /// Takes up what is in a directory, which is made if it is not there. Without one events are
    /// in memory alone.
    pub fn open(directory: &Path) -> Self {
        let disk = match Disk::open(directory) {
            Ok(disk) => Some(disk),
            Err(error) => {
                tracing::warn!(%error, "events are not kept beyond this daemon's end");
                None
            }
        };
        let last = disk.as_ref().map(Disk::last).unwrap_or_default();
        let told = last.iter().filter_map(|one| {
            let death = one.happening.death?;
            Some((one.happening.id.clone(), death.nanos()))
        });
        let told = told.collect();
        let since = last.first().map(|one| one.happening.at);
        let next = last.last().map_or(0, |one| one.number.saturating_add(1));
        let skip = last.len().saturating_sub(KEPT);
        let past = last.into_iter().skip(skip).collect();
        Self {
            state: Mutex::new(State { past, next, written: next }),
            live: broadcast::channel(BEHIND).0,
            something: Notify::new(),
            disk,
            told,
            since,
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn record(&self, happening: Happening) {
        self.record_with(happening, || ());
    }

    /// Makes known, by `publish`, what has happened: whoever has seen it finds it among the events,
    /// and whoever hears of it sees it. `publish` only sets what others read, and waits for nobody.
    pub fn record_with(&self, happening: Happening, publish: impl FnOnce()) {
        let happening = Arc::new(happening);
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.past.push_back(Numbered { number, happening: Arc::clone(&happening) });
        let written = if self.disk.is_some() { state.written } else { u64::MAX };
        while state.past.len() > KEPT
            && (state.past.len() > WAITING
                || state.past.front().is_some_and(|oldest| oldest.number < written))
        {
            state.past.pop_front();
        }
        // Who asks for events from here on waits for the lock, and finds this one.
        publish();
        // Under the lock, so that a listener gets each event either as past or as live.
        let _ = self.live.send(happening);
        drop(state);
        self.something.notify_one();
    }

    /// Whether a daemon before this one has told of a container's death.
    pub fn has_told(&self, id: &str, death: Timestamp) -> bool {
        self.told.contains(&(id.to_owned(), death.nanos()))
    }

    /// Whether one had noticed a death and ended before it was told: it would be known here.
    pub fn has_missed(&self, id: &str, death: Timestamp) -> bool {
        self.since.is_some_and(|since| death >= since) && !self.has_told(id, death)
    }

    /// The death that a daemon before this one has told of a container since it was started.
    pub fn death_since(&self, id: &str, started: Timestamp) -> Option<Timestamp> {
        let of = self.told.iter().filter(|(known, _)| known == id);
        let deaths = of.map(|(_, death)| Timestamp::from_nanos(*death));
        deaths.filter(|death| *death >= started).max()
    }

    /// What happened from a moment on, and, without a gap, what will; only the latter for `None`.
    pub fn listen(&self, since: Option<Timestamp>) -> Listening {
        let state = self.state();
        let live = self.live.subscribe();
        let Some(since) = since else {
            return Listening { history: None, past: Vec::new(), live };
        };
        let oldest = state.past.front();
        let reaches =
            oldest.is_some_and(|oldest| oldest.number == 0 || oldest.happening.at < since);
        let until = oldest.map_or(state.next, |oldest| oldest.number);
        let past = state.past.iter().map(|one| Arc::clone(&one.happening)).collect();
        drop(state);
        let history = match &self.disk {
            Some(disk) if !reaches && until > 0 => Some(disk.history(since, until)),
            _ => None,
        };
        Listening { history, past, live }
    }

    /// Writes what waits. Blocks.
    pub fn write(&self) {
        let Some(disk) = &self.disk else { return };
        // One at a time, in order.
        let mut turn = disk.turn();
        let (lines, next) = {
            let state = self.state();
            let written = state.written;
            let waiting = state.past.iter().filter(|one| one.number >= written);
            (waiting.map(disk::line).collect::<Vec<_>>(), state.next)
        };
        if !lines.is_empty() {
            disk.append(&mut turn, &lines);
        }
        let mut state = self.state();
        state.written = next;
        while state.past.len() > KEPT {
            state.past.pop_front();
        }
    }

    async fn something_to_write(&self) {
        self.something.notified().await;
        tokio::time::sleep(BATCH).await;
    }
}

impl Engine {
    /// What has happened since a moment and what will; the latter alone for `None`.
    pub fn events(&self, since: Option<Timestamp>) -> Listening {
        self.inner.journal.listen(since)
    }

    /// To be done before the daemon ends: what has just happened is written, too.
    pub async fn keep_events(&self) {
        let inner = Arc::clone(&self.inner);
        let written = tokio::task::spawn_blocking(move || inner.journal.write());
        // A disk that does not answer keeps no daemon from its end.
        let _ = tokio::time::timeout(DEADLINE, written).await;
    }

    pub(crate) async fn write_events(self) {
        loop {
            self.inner.journal.something_to_write().await;
            self.keep_events().await;
        }
    }
}

impl Inner {
    pub fn container_event(&self, record: &Record, action: &str, extra: &[(&str, String)]) {
        self.container_event_with(record, action, extra, || ());
    }

    /// As [`Journal::record_with`].
    pub fn container_event_with(
        &self,
        record: &Record,
        action: &str,
        extra: &[(&str, String)],
        publish: impl FnOnce(),
    ) {
        let mut attributes: BTreeMap<String, String> =
            record.labels().map(|(name, value)| (name.clone(), value.clone())).collect();
        attributes.insert("image".into(), record.config.image.clone());
        attributes.insert("name".into(), record.name.clone());
        attributes.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        // Told once: by this daemon, or one before it.
        let death = (action == "die").then_some(record.state.finished_at);
        if death.is_some_and(|death| self.journal.has_told(record.key(), death)) {
            return publish();
        }
        let happening = Happening {
            kind: "container",
            action: action.to_owned(),
            id: record.key().to_owned(),
            attributes,
            at: now(),
            death,
        };
        self.journal.record_with(happening, publish);
    }

    pub fn event(
        &self,
        kind: &'static str,
        action: &str,
        id: &str,
        attributes: BTreeMap<String, String>,
    ) {
        self.journal.record(Happening {
            kind,
            action: action.to_owned(),
            id: id.to_owned(),
            attributes,
            at: now(),
            death: None,
        });
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
            attributes: BTreeMap::from([("name".into(), "x".into())]),
            at: Timestamp::from_nanos(number as i64),
            death: None,
        }
    }

    /// Everything since the beginning of time.
    fn all(journal: &Journal) -> Vec<String> {
        let heard = journal.listen(Some(Timestamp::from_nanos(-1)));
        let mut out = Vec::new();
        if let Some(mut history) = heard.history {
            while let Some(some) = history.read() {
                out.extend(some.into_iter().map(|one| one.id.clone()));
            }
        }
        out.extend(heard.past.iter().map(|one| one.id.clone()));
        out
    }

    #[test]
    fn past_is_bounded_and_live_follows() {
        let journal = Journal::open(Path::new("/proc/none"));
        for number in 0..300 {
            journal.record(happening(number));
        }
        let mut heard = journal.listen(Some(Timestamp::ZERO));
        assert_eq!(heard.past.len(), KEPT);
        assert_eq!(heard.past[0].id, "44");
        journal.record(happening(300));
        assert_eq!(heard.live.try_recv().unwrap().id, "300");
        assert!(journal.listen(None).past.is_empty());
    }

    #[test]
    fn who_sees_a_state_finds_its_event_and_who_hears_that_sees_the_state() {
        let journal = Journal::open(Path::new("/proc/none"));
        let (seen, mut shown) = tokio::sync::watch::channel(0);
        let mut live = journal.listen(None).live;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 1..=2000 {
                    let publish = || {
                        seen.send_replace(number);
                    };
                    journal.record_with(happening(number), publish);
                }
            });
            let mut last = 0;
            while last < 2000 {
                last = *shown.borrow_and_update();
                let found = journal.listen(Some(Timestamp::ZERO)).past.pop();
                let found = found.map_or(0, |one| one.id.parse::<usize>().unwrap());
                assert!(found >= last, "{found} is told, {last} is seen");
                while let Ok(heard) = live.try_recv() {
                    assert!(*shown.borrow() >= heard.id.parse::<usize>().unwrap());
                }
            }
        });
    }

    #[test]
    fn what_was_written_is_known_to_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("events");
        let journal = Journal::open(&place);
        let first = 1_700_000_000_000_000_000;
        for number in 0..1000 {
            let at = Timestamp::from_nanos(first + number as i64);
            let death = (number == 990).then_some(at);
            journal.record(Happening { at, death, ..happening(number) });
            if number % 100 == 0 {
                journal.write();
            }
        }
        // Also what waits to be written.
        assert_eq!(all(&journal).len(), 1000);
        journal.write();
        drop(journal);
        // A tail that was torn is no event.
        let mut file =
            std::fs::File::options().append(true).open(place.join("events.log")).unwrap();
        std::io::Write::write_all(&mut file, b"{\"n\":1000,\"t\":5,\"k\":\"cont").unwrap();
        let journal = Journal::open(&place);
        journal.record(Happening { at: Timestamp::from_nanos(first + 1000), ..happening(1000) });
        journal.write();
        let wanted: Vec<String> = (0..=1000).map(|number| number.to_string()).collect();
        assert_eq!(all(&journal), wanted);
        let death = |number: i64| Timestamp::from_nanos(first + number);
        assert!(journal.has_told("990", death(990)) && !journal.has_missed("990", death(990)));
        assert_eq!(journal.death_since("990", death(5)), Some(death(990)));
        assert_eq!(journal.death_since("990", death(991)), None);
        assert!(journal.has_missed("991", death(991)));
        assert!(!journal.has_missed("5", Timestamp::from_nanos(first - 1)));
        // From a moment on.
        let heard = journal.listen(Some(death(700)));
        let mut history = heard.history.unwrap();
        assert_eq!(history.read().unwrap()[0].id, "700");
        assert!(journal.listen(Some(death(999))).history.is_none());
    }
}
