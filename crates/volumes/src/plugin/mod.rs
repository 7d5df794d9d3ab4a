//! Volume plugins: programs on this machine, or on another one, that have volumes of their own.
//!
//! They are found by name when they are first needed (`discover`), asked by HTTP (`http`, over what
//! `address` says) in the words of Docker's protocol (`driver`), each call with a deadline and each
//! answer with a bound: a plugin may hang, die or lie, and harms nobody but its own volumes.

mod address;
mod call;
mod discover;
mod driver;
mod http;
mod mounted;
mod settings;
#[cfg(test)]
pub(crate) mod tests;
mod tls;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use call::CallError;
pub(crate) use driver::{Driver, PluginVolume};
pub(crate) use mounted::Mounted;
pub use settings::{PluginLimits, PluginSettings};

use call::{Patience, Waiting};

/// How long one that did not answer is not asked whose a name is.
const SILENT: Duration = Duration::from_secs(10);
/// What a thread may take longer than what it asks.
const GRACE: Duration = Duration::from_millis(500);

/// What a plugin that has volumes says of itself.
const INTERFACE: &str = "VolumeDriver";

/// Why a plugin is not to be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookupError {
    #[error("plugin \"{0}\" not found")]
    NotFound(String),
    #[error("legacy plugin: {0}")]
    Unusable(String),
    #[error("legacy plugin: {0}")]
    Call(CallError),
}

/// All plugins: where to look for them, and those that have answered once.
pub(crate) struct Plugins {
    settings: PluginSettings,
    active: Mutex<HashMap<String, Arc<Driver>>>,
    /// By name, also of those that have never answered.
    waiting: Mutex<HashMap<String, Waiting>>,
    /// Since when they keep silent.
    silent: Mutex<HashMap<String, Instant>>,
}

/// What one plugin said when all were asked.
pub(crate) struct Said {
    pub driver: String,
    pub scope: &'static str,
    pub volumes: Result<Vec<PluginVolume>, String>,
}

impl Plugins {
    pub fn new(settings: PluginSettings) -> Self {
        let (active, waiting, silent) = Default::default();
        Self { settings, active, waiting, silent }
    }

    /// How long a change is waited for that has to do without data.
    pub fn usual(&self) -> Patience {
        Patience::retry(self.settings.limits.other, self.settings.limits.retry)
    }

    /// The names of all that can be found now.
    pub fn names(&self) -> Vec<String> {
        discover::scan(&self.settings)
    }

    /// The names of those that have answered.
    pub fn active(&self) -> BTreeSet<String> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// For changes: a plugin that has just been started is waited for.
    pub fn driver(&self, name: &str) -> Result<Arc<Driver>, LookupError> {
        self.lookup(name, self.usual())
    }

    /// For reads.
    pub fn driver_soon(&self, name: &str, patience: Patience) -> Result<Arc<Driver>, LookupError> {
        self.lookup(name, patience)
    }

    /// How long a read asks, from now on.
    pub fn brief(&self) -> Patience {
        Patience::once(self.settings.limits.read)
    }

    fn lookup(&self, name: &str, patience: Patience) -> Result<Arc<Driver>, LookupError> {
        let address = discover::find(&self.settings, name)?;
        let known = self.active.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        // A plugin may come back elsewhere.
        if let Some(known) = known.filter(|known| known.address == address) {
            return Ok(known);
        }
        let waiting = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.entry(name.to_owned()).or_default().clone()
        };
        let limits = &self.settings.limits;
        let driver = Driver::activate(name, address, waiting, patience, limits)?;
        let driver = Arc::new(driver);
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        active.insert(name.to_owned(), Arc::clone(&driver));
        Ok(driver)
    }

    /// Asks all plugins at once, each for a short while. Programs that are no volume plugins are
    /// left out.
    pub fn survey(self: &Arc<Self>) -> Vec<Said> {
        let failed = |name: &str, said: String| Said {
            driver: name.to_owned(),
            scope: "local",
            volumes: Err(said),
        };
        let asked = self.of_each(self.names(), move |plugins, name, patience| {
            let driver = match plugins.driver_soon(name, patience) {
                Ok(driver) => driver,
                Err(LookupError::NotFound(_) | LookupError::Unusable(_)) => return None,
                Err(LookupError::Call(error)) => return Some(failed(name, error.to_string())),
            };
            let volumes = driver.list(patience).map_err(|error| error.to_string());
            let scope = if volumes.is_ok() { driver.scope(patience) } else { "local" };
            Some(Said { driver: name.to_owned(), scope, volumes })
        });
        let nothing = |name: String| Some(failed(&name, "no answer in time".to_owned()));
        asked.into_iter().filter_map(|(name, said)| said.unwrap_or_else(|| nothing(name))).collect()
    }

    /// The first plugin, in the order of their names, that has a volume of this name. One that has
    /// just kept somebody waiting in vain is not asked.
    pub fn who_has(self: &Arc<Self>, volume: &str) -> Option<(Arc<Driver>, PluginVolume)> {
        let mut names = self.names();
        {
            let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
            silent.retain(|_, since| since.elapsed() < SILENT);
            names.retain(|name| !silent.contains_key(name));
        }
        let volume: Arc<str> = volume.into();
        let found = self.of_each(names, move |plugins, name, patience| {
            let driver = plugins.driver_soon(name, patience);
            let late = match driver {
                Ok(driver) => match driver.get(&volume, patience) {
                    Ok(found) => return found.map(|found| (driver, found)),
                    Err(error) => error.is_late(),
                },
                Err(LookupError::Call(error)) => error.is_late(),
                Err(_) => false,
            };
            if late {
                let mut silent = plugins.silent.lock().unwrap_or_else(PoisonError::into_inner);
                silent.insert(name.to_owned(), Instant::now());
            }
            None
        });
        found.into_iter().find_map(|(_, found)| found.flatten())
    }

    /// Does something with each plugin in a thread of its own. These end by the deadline that they
    /// are given; one that does not is left behind.
    fn of_each<T: Send + 'static>(
        self: &Arc<Self>,
        names: Vec<String>,
        ask: impl Fn(&Self, &str, Patience) -> Option<T> + Clone + Send + 'static,
    ) -> Vec<(String, Option<Option<T>>)> {
        let patience = self.brief();
        let asked: Vec<_> = names
            .into_iter()
            .map(|name| {
                let (plugins, ask) = (Arc::clone(self), ask.clone());
                let (sender, answer) = std::sync::mpsc::channel();
                let named = name.clone();
                let thread = std::thread::Builder::new().name("plugin".to_owned());
                let spawned = thread.spawn(move || {
                    let _ = sender.send(ask(&plugins, &named, patience));
                });
                if let Err(error) = spawned {
                    tracing::warn!(plugin = name, %error, "begin to ask a plugin");
                }
                (name, answer)
            })
            .collect();
        let until = patience.until() + GRACE;
        let left = || until.saturating_duration_since(Instant::now());
        asked.into_iter().map(|(name, answer)| (name, answer.recv_timeout(left()).ok())).collect()
    }
}

impl From<CallError> for LookupError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl std::fmt::Debug for Plugins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugins").field("settings", &self.settings).finish_non_exhaustive()
    }
}
