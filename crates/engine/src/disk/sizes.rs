//! What each tree takes, maintained: counted when it has changed, and not again.
//!
//! A layer never changes, a container's files only while it runs, a volume's while a container runs
//! with it. What is counted carries a stamp of the state that it was counted in; whoever asks is
//! answered from what fits, what does not is counted anew, and what is not ready in the time that
//! somebody has comes from the last count. The walkers are few, and a tree is walked by one.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hoy_store::{Measure, Op, blocks_at};
use hoy_volumes::LocalOptions;
use tokio::sync::{Notify, broadcast};

use crate::engine::Inner;
use crate::events::Happening;

/// Documents of counted layers.
const LAYER: &str = "layer-size";
/// Trees that are walked at the same time.
const WALKERS: usize = 4;
/// A tree that takes longer is given up; it is tried again when somebody asks.
const LONGEST: Duration = Duration::from_secs(300);
/// How long after something has happened it is counted: others may follow, and some containers are
/// removed as soon as they end.
const CALM: Duration = Duration::from_secs(1);

/// Something that is counted as one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Tree {
    Layer(String),
    Container(String),
    Volume(String),
}

/// In bytes of the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub bytes: u64,
    /// Of a container: not in `bytes`.
    pub logs: u64,
}

impl Count {
    pub fn all(self) -> u64 {
        self.bytes + self.logs
    }
}

#[derive(Default)]
struct State {
    known: HashMap<Tree, (Count, Option<u64>)>,
    queue: VecDeque<Tree>,
    /// Waiting or walked.
    counting: HashSet<Tree>,
    walkers: usize,
    /// How often a volume was taken or let go.
    turns: HashMap<String, u64>,
    /// Events were missed: whatever was known of volumes may be old.
    missed: u64,
    events: Option<broadcast::Receiver<Arc<Happening>>>,
}

/// All counts.
#[derive(Default)]
pub(crate) struct Sizes {
    state: Mutex<State>,
    counted: Notify,
}

impl Sizes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last count, however old.
    pub fn last(&self, tree: &Tree) -> Option<Count> {
        self.state().known.get(tree).map(|(count, _)| *count)
    }

    /// True if none of these is being counted any more; those that are not are taken away.
    fn are_ready(&self, trees: &mut Vec<Tree>) -> bool {
        let state = self.state();
        while trees.last().is_some_and(|tree| !state.counting.contains(tree)) {
            trees.pop();
        }
        trees.is_empty()
    }
}

impl State {
    /// Takes note of one event; what is gone is forgotten.
    fn note(&mut self, event: &Happening, inner: &Inner) {
        let mut turned = |name: &str| *self.turns.entry(name.to_owned()).or_default() += 1;
        match (event.kind, event.action.as_str()) {
            ("volume", "mount" | "unmount" | "create") => turned(&event.id),
            ("volume", "destroy") => {
                turned(&event.id);
                self.known.remove(&Tree::Volume(event.id.clone()));
            }
            // It may have filled its volumes.
            ("container", action @ ("create" | "extract-to-dir")) => {
                if action == "extract-to-dir" {
                    self.known.remove(&Tree::Container(event.id.clone()));
                }
                if let Ok(handle) = inner.registry.find(&event.id) {
                    handle.record().volumes().for_each(turned);
                }
            }
            ("container", "destroy") => {
                self.known.remove(&Tree::Container(event.id.clone()));
            }
            _ => {}
        }
    }

    fn catch_up(&mut self, inner: &Inner) {
        let Some(mut events) = self.events.take() else {
            self.events = Some(inner.journal.listen(None).live);
            return;
        };
        loop {
            match events.try_recv() {
                Ok(event) => self.note(&event, inner),
                Err(broadcast::error::TryRecvError::Lagged(_)) => self.missed += 1,
                Err(_) => break,
            }
        }
        self.events = Some(events);
    }

    /// Of what does not change as it is now; none for what may.
    fn stamp(&self, tree: &Tree, inner: &Inner) -> Option<u64> {
        match tree {
            Tree::Layer(_) => Some(0),
            Tree::Container(id) => {
                let record = inner.registry.find(id).ok()?.record();
                let ended = record.state.finished_at.nanos().unsigned_abs();
                (!record.state.phase.is_alive()).then_some(ended)
            }
            Tree::Volume(name) => {
                let turns = self.turns.get(name).copied().unwrap_or(0);
                (!inner.volumes.is_running(name)).then_some(turns + (self.missed << 32))
            }
        }
    }
}

impl Inner {
    /// Sees to it that these are counted, and waits for that no longer than `time`.
    pub(crate) async fn count(self: &Arc<Self>, mut trees: Vec<Tree>, time: Duration) {
        let until = tokio::time::Instant::now() + time;
        self.begin_counts(&trees, false);
        loop {
            let counted = self.sizes.counted.notified();
            tokio::pin!(counted);
            // Before the question, so that no answer is missed.
            counted.as_mut().enable();
            if self.sizes.are_ready(&mut trees) {
                return;
            }
            if tokio::time::timeout_at(until, counted).await.is_err() {
                return;
            }
        }
    }

    /// Queues those whose count does not fit any more. `calm`: what may change is left alone.
    fn begin_counts(self: &Arc<Self>, trees: &[Tree], calm: bool) {
        let mut state = self.sizes.state();
        state.catch_up(self);
        for tree in trees {
            let stamp = state.stamp(tree, self);
            let fits = match state.known.get(tree) {
                Some((_, known)) => stamp.is_some() && *known == stamp,
                None => false,
            };
            if !(fits || calm && stamp.is_none()) && state.counting.insert(tree.clone()) {
                state.queue.push_back(tree.clone());
            }
        }
        while state.walkers < WALKERS && state.walkers < state.queue.len() {
            state.walkers += 1;
            let inner = Arc::clone(self);
            tokio::task::spawn_blocking(move || inner.walk());
        }
    }

    /// One walker, until nothing waits.
    fn walk(&self) {
        loop {
            let (tree, before) = {
                let mut state = self.sizes.state();
                let Some(tree) = state.queue.pop_front() else {
                    state.walkers -= 1;
                    return;
                };
                state.catch_up(self);
                let stamp = state.stamp(&tree, self);
                (tree, stamp)
            };
            let found = self.measure(&tree);
            let mut state = self.sizes.state();
            state.catch_up(self);
            state.counting.remove(&tree);
            let after = state.stamp(&tree, self);
            match found {
                Ok(count) => {
                    if let Tree::Layer(key) = &tree {
                        let body = count.bytes.to_string().into_bytes();
                        self.store.write_later(vec![Op::Put {
                            kind: LAYER,
                            key: key.clone(),
                            body,
                        }]);
                    }
                    state.known.insert(tree, (count, before.filter(|_| before == after)));
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    state.known.remove(&tree);
                }
                Err(error) => tracing::warn!(?tree, %error, "count"),
            }
            drop(state);
            self.sizes.counted.notify_waiters();
        }
    }

    fn measure(&self, tree: &Tree) -> std::io::Result<Count> {
        let begun = Instant::now();
        let go_on = || begun.elapsed() < LONGEST;
        let mut measure = Measure::new(&go_on);
        let count = |bytes| Count { bytes, logs: 0 };
        match tree {
            Tree::Layer(key) => {
                let path = self.store.root().join("layers").join(key);
                Ok(count(measure.below(&path)? + blocks_at(&path)))
            }
            Tree::Container(id) => self.measure_container(&mut measure, id),
            Tree::Volume(name) => {
                let path = self.store.root().join("volumes").join(name);
                measure_parts(&mut measure, &path, |name| name == "_data").map(count)
            }
        }
    }

    fn measure_container(&self, measure: &mut Measure<'_>, id: &str) -> std::io::Result<Count> {
        let path = self.store.container_directory(id);
        let bytes = measure_parts(measure, &path, crate::room::is_layer)?;
        let mut logs = 0;
        for entry in std::fs::read_dir(&path)?.flatten() {
            if is_log(&entry.file_name().to_string_lossy()) {
                logs += blocks_at(&entry.path());
            }
        }
        Ok(Count { bytes, logs })
    }

    /// All layers that something needs.
    pub(crate) fn layers_in_use(&self) -> HashSet<String> {
        let mut out: HashSet<String> = HashSet::new();
        for (image, _) in self.images.list() {
            out.extend(image.layers.iter().map(|layer| layer.key.clone()));
        }
        for handle in self.registry.all() {
            out.extend(handle.record().used_layers());
        }
        out
    }

    /// Everything that is counted.
    fn trees(&self) -> Vec<Tree> {
        let containers = self.registry.all().into_iter();
        let containers = containers.map(|handle| Tree::Container(handle.id.to_string()));
        self.layers_in_use()
            .into_iter()
            .map(Tree::Layer)
            .chain(containers)
            .chain(self.volume_trees())
            .collect()
    }

    pub(crate) fn volume_trees(&self) -> Vec<Tree> {
        let local = |volume: &Arc<hoy_volumes::Volume>| lies_here(volume);
        let volumes = self.volumes.list().into_iter().filter(local);
        volumes.map(|volume| Tree::Volume(volume.name.clone())).collect()
    }
}

/// Whether a volume's data is on this disk: not on what its options mount.
pub(crate) fn lies_here(volume: &hoy_volumes::Volume) -> bool {
    let mounted = LocalOptions::parse(&volume.options).is_ok_and(|found| found.mount.is_some());
    volume.is_local() && !mounted
}

pub(crate) fn is_log(name: &str) -> bool {
    name.contains("-json.log")
}

/// What people put into a container or volume: the named directory without itself, and files of
/// file systems beside it.
pub(crate) fn measure_parts(
    measure: &mut Measure<'_>,
    path: &Path,
    is_data: impl Fn(&str) -> bool,
) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(path)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type()?;
        if kind.is_dir() && is_data(&name) {
            bytes += below_unless_mounted(measure, path, &name)?;
        } else if kind.is_file() && name.ends_with(hoy_volumes::DISK) {
            bytes += blocks_at(&entry.path());
        }
    }
    Ok(bytes)
}

/// Something mounted on it is not on this disk, or is in a file beside it.
fn below_unless_mounted(
    measure: &mut Measure<'_>,
    path: &Path,
    name: &str,
) -> std::io::Result<u64> {
    let parent = std::fs::File::open(path)?;
    let with_itself = measure.inside(std::os::fd::AsFd::as_fd(&parent), name)?;
    Ok(with_itself.saturating_sub(blocks_at(&path.join(name))))
}

/// Counts behind everybody's back what has come to rest, from the beginning on.
pub(crate) async fn keep(inner: Arc<Inner>) {
    let mut events = inner.journal.listen(None).live;
    let store = inner.store.clone();
    let read = tokio::task::spawn_blocking(move || store.documents(LAYER)).await;
    let needed = inner.layers_in_use();
    let mut gone = Vec::new();
    for (key, body) in read.ok().and_then(Result::ok).unwrap_or_default() {
        let bytes = std::str::from_utf8(&body).ok().and_then(|text| text.parse().ok());
        match bytes.filter(|_| needed.contains(&key)) {
            Some(bytes) => {
                let count = Count { bytes, logs: 0 };
                inner.sizes.state().known.insert(Tree::Layer(key), (count, Some(0)));
            }
            None => gone.push(Op::Delete { kind: LAYER, key }),
        }
    }
    if !gone.is_empty() {
        inner.store.write_later(gone);
    }
    loop {
        tokio::time::sleep(CALM).await;
        let trees = inner.trees();
        inner.begin_counts(&trees, true);
        loop {
            match events.recv().await {
                Ok(event) if comes_to_rest(&event) => break,
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => break,
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }
}

fn comes_to_rest(event: &Happening) -> bool {
    matches!(
        (event.kind, event.action.as_str()),
        ("container", "die" | "create")
            | ("volume", "create" | "unmount")
            | ("image", "load" | "import" | "pull" | "create")
    )
}
