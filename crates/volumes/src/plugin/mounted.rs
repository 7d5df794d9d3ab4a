//! Which containers a plugin has mounted its volumes for.
//!
//! It is written down beside the volume's document before the plugin is asked, and forgotten after
//! the plugin has let go: the next daemon knows what it has to give back, and where the data of a
//! running container lies. It is true as long as the machine runs and is not synced.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

const FILE: &str = "mounted.json";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    #[serde(default)]
    place: Option<PathBuf>,
    /// The ids that the plugin was given.
    #[serde(default)]
    ids: BTreeSet<String>,
    /// Those of them that nobody runs with any more.
    #[serde(skip)]
    unwanted: BTreeSet<String>,
}

/// The mounts of all volumes of plugins.
#[derive(Debug)]
pub(crate) struct Mounted {
    /// Where the volumes' directories are.
    root: PathBuf,
    known: Mutex<BTreeMap<String, State>>,
}

impl Mounted {
    pub fn new(root: PathBuf) -> Self {
        Self { root, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, State>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a daemon before this one has written.
    pub fn take_up(&self, name: &str) {
        let read = std::fs::read(self.root.join(name).join(FILE));
        let state = read.ok().and_then(|text| serde_json::from_slice::<State>(&text).ok());
        if let Some(mut state) = state {
            // Until it is found running.
            state.unwanted = state.ids.clone();
            self.known().insert(name.to_owned(), state);
        }
    }

    /// A container of before this daemon runs with it.
    pub fn wanted(&self, name: &str, id: &str) {
        if let Some(state) = self.known().get_mut(name) {
            state.unwanted.remove(id);
        }
    }

    /// A container has ended; the answer is whether it was mounted for it.
    pub fn unwanted(&self, name: &str, id: &str) -> bool {
        let mut known = self.known();
        let state = known.get_mut(name).filter(|state| state.ids.contains(id));
        state.map(|state| state.unwanted.insert(id.to_owned())).is_some()
    }

    pub fn is_unwanted(&self, name: &str, id: &str) -> bool {
        self.known().get(name).is_some_and(|state| state.unwanted.contains(id))
    }

    pub fn all_unwanted(&self, name: &str) -> BTreeSet<String> {
        self.known().get(name).map(|state| state.unwanted.clone()).unwrap_or_default()
    }

    /// A plugin is about to be asked to mount. The answer is whether it was before.
    pub fn begin(&self, name: &str, id: &str) -> std::io::Result<bool> {
        let mut known = self.known();
        let state = known.entry(name.to_owned()).or_default();
        state.unwanted.remove(id);
        if !state.ids.insert(id.to_owned()) {
            return Ok(true);
        }
        let written = self.write(name, state);
        if written.is_err() {
            state.ids.remove(id);
        }
        written.map(|()| false)
    }

    /// It has mounted there.
    pub fn placed(&self, name: &str, place: &Path) -> std::io::Result<()> {
        let mut known = self.known();
        let state = known.entry(name.to_owned()).or_default();
        if state.place.as_deref() == Some(place) {
            return Ok(());
        }
        state.place = Some(place.to_owned());
        self.write(name, state)
    }

    /// A place that is only told of; nothing that a later daemon needs.
    pub fn told(&self, name: &str, place: &str) {
        if !place.is_empty() {
            self.known().entry(name.to_owned()).or_default().place = Some(place.into());
        }
    }

    /// It has let go, or was never asked.
    pub fn end(&self, name: &str, id: &str) {
        let mut known = self.known();
        let Some(state) = known.get_mut(name) else { return };
        state.unwanted.remove(id);
        if state.ids.remove(id)
            && let Err(error) = self.write(name, state)
        {
            tracing::warn!(volume = name, %error, "write down that a volume is not mounted");
        }
    }

    /// Where it lies, or did when it was last seen.
    pub fn place(&self, name: &str) -> Option<PathBuf> {
        self.known().get(name).and_then(|state| state.place.clone())
    }

    /// The volume is no more.
    pub fn forget(&self, name: &str) {
        self.known().remove(name);
    }

    fn write(&self, name: &str, state: &State) -> std::io::Result<()> {
        let directory = self.root.join(name);
        let fresh = directory.join(format!("{FILE}.new"));
        std::fs::write(&fresh, serde_json::to_vec(state)?)?;
        std::fs::rename(&fresh, directory.join(FILE))
    }
}
