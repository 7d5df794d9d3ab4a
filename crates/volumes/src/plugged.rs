//! Volumes of plugins among all volumes.
//!
//! The plugin knows which volumes it has; what is written down here is which of them this engine
//! was asked for, with their labels and options. A name belongs to one driver.

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use hoy_types::Timestamp;

use crate::plugin::{CallError, LookupError, PluginVolume, Plugins};
use crate::shelf::Volumes;
use crate::volume::{LOCAL, Volume, VolumeRequest};
use crate::{Result, VolumeError};

/// What a plugin leaves out that does not know when.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// What became of a thread's work.
type Answer = std::result::Result<(), String>;

/// A volume as people see it, also one that only its plugin knows.
#[derive(Clone, Debug)]
pub struct Seen {
    pub volume: Arc<Volume>,
    pub mountpoint: String,
    pub scope: &'static str,
    /// What the plugin says, word by word; empty: what is known here.
    pub created: String,
    pub status: std::collections::BTreeMap<String, serde_json::Value>,
}

pub(crate) fn lookup(name: &str, error: LookupError) -> VolumeError {
    let text = format!("error looking up volume plugin {name}: {error}");
    match error {
        LookupError::NotFound(_) => VolumeError::Missing(text),
        LookupError::Unusable(_) | LookupError::Call(_) => VolumeError::Driver(text),
    }
}

impl Volumes {
    /// All volumes, and what went wrong with which plugin. No plugin is waited for for long.
    pub fn survey(&self) -> (Vec<Seen>, Vec<String>) {
        let mut seen: Vec<Seen> = Vec::new();
        let mut warnings = Vec::new();
        let said = self.plugins.survey();
        let known = self.list();
        let owner = |name: &str| known.iter().find(|known| known.name == name);
        let mut answered = Vec::new();
        for one in said {
            let volumes = match one.volumes {
                Ok(volumes) => volumes,
                Err(error) => {
                    warnings.push(format!("list {}: {error}", one.driver));
                    continue;
                }
            };
            for found in volumes {
                let volume = match owner(&found.name) {
                    Some(known) if known.driver == one.driver => Arc::clone(known),
                    // A name has one owner; the first one stays it.
                    Some(_) => continue,
                    None if seen.iter().any(|seen| seen.volume.name == found.name) => continue,
                    None => Arc::new(unknown(&found.name, &one.driver)),
                };
                // Docker's list has no status.
                let found = PluginVolume { status: None, ..found };
                seen.push(self.seen(volume, one.scope, found));
            }
            answered.push(one.driver);
        }
        // What a plugin does not tell of any more is gone; one that says nothing takes nothing away.
        let own = known.iter().filter(|known| !answered.contains(&known.driver));
        seen.extend(own.map(|known| self.remembered(Arc::clone(known))));
        seen.sort_by(|a, b| a.volume.name.cmp(&b.volume.name));
        seen.dedup_by(|a, b| a.volume.name == b.volume.name);
        (seen, warnings)
    }

    /// One volume; of a plugin's volume its plugin is asked.
    pub fn look(&self, name: &str) -> Result<Seen> {
        let gone = || VolumeError::NotFound(name.to_owned());
        let known = match self.get(name) {
            Ok(known) if known.is_local() => return Ok(self.remembered(known)),
            Ok(known) => known,
            Err(_) => {
                let (driver, found) = self.plugins.who_has(name).ok_or_else(gone)?;
                let volume = Arc::new(unknown(name, &driver.name));
                return Ok(self.seen(volume, driver.scope(self.plugins.brief()), found));
            }
        };
        let failed = |error: String| {
            VolumeError::Driver(format!(
                "get {name}: error while checking if volume \"{name}\" exists in driver \"{}\": \
                 {error}",
                known.driver
            ))
        };
        let patience = self.plugins.brief();
        let driver = self.plugins.driver_soon(&known.driver, patience);
        let driver = driver.map_err(|error| failed(lookup(&known.driver, error).to_string()))?;
        let found = driver.get(name, patience).map_err(|error| failed(error.to_string()))?;
        let mut found = found.ok_or_else(gone)?;
        if found.mountpoint.as_deref().unwrap_or_default().is_empty() {
            found.mountpoint = driver.path(name, patience).ok();
        }
        Ok(self.seen(known, driver.scope(patience), found))
    }

    /// What is known without asking anybody.
    pub fn remembered(&self, volume: Arc<Volume>) -> Seen {
        let mountpoint = self.mountpoint(&volume).display().to_string();
        let (created, status) = (String::new(), Default::default());
        Seen { volume, mountpoint, scope: "local", created, status }
    }

    fn seen(&self, volume: Arc<Volume>, scope: &'static str, found: PluginVolume) -> Seen {
        let mountpoint = found.mountpoint.unwrap_or_default();
        if self.get(&volume.name).is_ok() {
            self.mounted.told(&volume.name, &mountpoint);
        }
        let ours = volume.created > Timestamp::ZERO;
        let told = found.created_at.filter(|told| told != NO_TIME);
        // What is no time is not shown for one.
        let told = told.filter(|told| told.parse::<Timestamp>().is_ok());
        let created = match told {
            Some(told) => told,
            None if ours => String::new(),
            None => NO_TIME.to_owned(),
        };
        Seen { volume, mountpoint, scope, created, status: found.status.unwrap_or_default() }
    }

    /// Whether a plugin's volume that is written down here is still one; what is stale and
    /// unused is forgotten.
    pub(crate) fn still_there(&self, known: &Volume, request: &VolumeRequest) -> Result<bool> {
        let name = &known.name;
        let conflict = |said: String| {
            VolumeError::Conflict(format!("create {name}: {said}: volume name must be unique"))
        };
        let asked = self.plugins.driver(&known.driver);
        let asked = asked.map_err(|error| lookup(&known.driver, error).to_string());
        let there = asked.and_then(|driver| driver.has(name).map_err(|error| error.to_string()));
        let there = there.map_err(|error| {
            conflict(format!(
                "found reference to volume '{name}' in driver '{}', but got an error while \
                 checking the driver: {error}",
                known.driver
            ))
        })?;
        if there {
            if !request.driver.is_empty() && request.driver != known.driver {
                return Err(conflict(format!(
                    "driver '{}' already has volume '{name}'",
                    known.driver
                )));
            }
            return Ok(true);
        }
        if !self.users(name).is_empty() {
            return Err(conflict(format!(
                "found references to volume '{name}' in driver '{}' but the volume was not found \
                 in the driver -- you may need to remove containers referencing this volume or \
                 force remove the volume to re-create it",
                known.driver
            )));
        }
        self.forget(name)?;
        Ok(false)
    }

    /// Who already has a volume of this name, when nobody said whose it is.
    pub(crate) fn owner(&self, request: &VolumeRequest) -> Option<String> {
        if !request.driver.is_empty() {
            return None;
        }
        self.plugins.who_has(&request.name).map(|(driver, _)| driver.name.clone())
    }

    /// Makes a volume at its plugin, or takes the one that is there.
    pub(crate) fn make_plugged(&self, request: VolumeRequest, driver: &str) -> Result<Arc<Volume>> {
        let name = &request.name;
        let of_name = |error: &dyn std::fmt::Display| format!("create {name}: {error}");
        let driver = self.plugins.driver(driver).map_err(|error| match lookup(driver, error) {
            VolumeError::Missing(text) => VolumeError::Missing(of_name(&text)),
            other => VolumeError::Driver(of_name(&other)),
        })?;
        let failed = |error: CallError| VolumeError::Driver(of_name(&error));
        let made = match driver.has(name).map_err(failed)? {
            true => false,
            false => driver.create(name, &request.options).map(|()| true).map_err(failed)?,
        };
        let volume = Volume {
            name: request.name.clone(),
            driver: driver.name.clone(),
            labels: request.labels.clone(),
            options: request.options.clone(),
            created: Timestamp::from_system(std::time::SystemTime::now()),
        };
        self.remember(volume, None).inspect_err(|_| {
            if made && let Err(error) = driver.remove(name) {
                tracing::warn!(volume = name, %error, "take back a volume of a plugin");
            }
        })
    }

    /// Mounts for a container, or for a moment.
    pub(crate) fn mount_plugged(&self, volume: &Volume, id: &str) -> Result<PathBuf> {
        let name = &volume.name;
        let driver = self.plugins.driver(&volume.driver);
        let driver = driver.map_err(|error| lookup(&volume.driver, error))?;
        let io = "write down where it is mounted";
        let again = self.mounted.begin(name, id).map_err(VolumeError::io(io, name))?;
        match driver.mount(name, id) {
            Ok(place) => match self.mounted.placed(name, &place) {
                Ok(()) => Ok(place),
                Err(error) => {
                    if driver.unmount(name, id, self.plugins.usual()).is_ok() {
                        self.mounted.end(name, id);
                    }
                    Err(VolumeError::io(io, name)(error))
                }
            },
            Err(failed) => {
                if !failed.unmounted {
                    // To be tried again when the container is let go, or by the next daemon.
                    self.mounted.unwanted(name, id);
                } else if !again || !failed.error.is_answer() {
                    self.mounted.end(name, id);
                }
                Err(VolumeError::Driver(failed.error.to_string()))
            }
        }
    }

    /// A container has ended. A plugin that does not answer is left to a thread.
    pub(crate) fn unmount_plugged(&self, volume: &Volume, id: &str) -> Result<()> {
        if !self.mounted.unwanted(&volume.name, id) {
            return Ok(());
        }
        // It goes on behind it: an end is not to wait for a plugin.
        let patience = self.plugins.brief().until().saturating_duration_since(Instant::now());
        match self.give_back(volume, id)?.recv_timeout(patience) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(VolumeError::Driver(error)),
            Err(_) => Err(VolumeError::Driver(format!(
                "plugin {} takes its time to unmount",
                volume.driver
            ))),
        }
    }

    /// What was mounted for containers that do not run any more, by a daemon before this one.
    pub(crate) fn give_back_stale(&self, volume: &Volume) -> Result<()> {
        for id in self.mounted.all_unwanted(&volume.name) {
            self.give_back(volume, &id)?;
        }
        Ok(())
    }

    /// Unmounts in a thread of its own, which has the volume's turn as long as it takes: who mounts
    /// it again waits, or comes first and keeps the mount.
    fn give_back(&self, volume: &Volume, id: &str) -> Result<Receiver<Answer>> {
        let (plugins, mounted) = (Arc::clone(&self.plugins), Arc::clone(&self.mounted));
        let turns = Arc::clone(&self.turns);
        let (name, driver, id) = (volume.name.clone(), volume.driver.clone(), id.to_owned());
        let (sender, answer) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("plugin".to_owned());
        let spawned = thread.spawn(move || {
            let done = match turns.take(&name) {
                Ok(_turn) if mounted.is_unwanted(&name, &id) => {
                    let done = unmount(&plugins, &driver, &name, &id);
                    if let Err(error) = &done {
                        tracing::warn!(volume = name, container = id, %error, "unmount a volume");
                    }
                    if done.is_ok() {
                        mounted.end(&name, &id);
                    }
                    done.map_err(|error| error.to_string())
                }
                Ok(_) => Ok(()),
                Err(error) => Err(error.to_string()),
            };
            let _ = sender.send(done);
        });
        spawned.map_err(VolumeError::io("unmount", &volume.name))?;
        Ok(answer)
    }

    /// Removes it at its plugin. By force it is forgotten here whatever the plugin says, also when
    /// there is none any more.
    pub(crate) fn remove_plugged(&self, volume: &Volume, force: bool) -> Result<()> {
        let name = &volume.name;
        let failed = |text: String| VolumeError::Driver(format!("remove {name}: {text}"));
        let removed = match self.plugins.driver(&volume.driver) {
            Err(error) => Err(failed(lookup(&volume.driver, error).to_string())),
            Ok(driver) => match driver.has(name) {
                Err(error) => Err(failed(error.to_string())),
                Ok(false) => {
                    self.forget(name)?;
                    return Err(VolumeError::NotFound(name.clone()));
                }
                Ok(true) => driver.remove(name).map_err(|error| failed(error.to_string())),
            },
        };
        match removed {
            Err(error) if !force => return Err(error),
            Err(error) => {
                tracing::warn!(volume = name, %error, "a volume is forgotten by force");
            }
            Ok(()) => {}
        }
        self.forget(name)
    }

    /// Removes a volume that only its plugin knows.
    pub(crate) fn remove_unknown(&self, name: &str) -> Result<Arc<Volume>> {
        let found = self.plugins.who_has(name);
        let (driver, _) = found.ok_or_else(|| VolumeError::NotFound(name.to_owned()))?;
        let removed = driver.remove(name);
        removed.map_err(|error| VolumeError::Driver(format!("remove {name}: {error}")))?;
        Ok(Arc::new(unknown(name, &driver.name)))
    }

    /// Has a plugin's volume for oneself, between two containers.
    pub(crate) fn mount_for_a_moment<T>(
        &self,
        volume: &Volume,
        act: impl FnOnce(&std::path::Path) -> Result<T>,
    ) -> Result<T> {
        // The plugin tells containers by these ids, and this is none.
        let id = crate::shelf::random_name()?;
        let place = self.mount_plugged(volume, &id)?;
        let done = act(&place);
        if let Err(error) = unmount(&self.plugins, &volume.driver, &volume.name, &id) {
            tracing::warn!(volume = volume.name, %error, "unmount a volume");
        }
        self.mounted.end(&volume.name, &id);
        done
    }
}

/// The plugin's own words are its last: nobody asks a second time then, as with Docker.
fn unmount(plugins: &Plugins, driver: &str, name: &str, id: &str) -> Result<()> {
    let driver = plugins.driver(driver).map_err(|error| lookup(driver, error))?;
    match driver.unmount(name, id, plugins.usual()) {
        Err(error) if error.is_answer() => {
            tracing::warn!(volume = name, %error, "a plugin does not unmount");
            Ok(())
        }
        done => done.map_err(|error| VolumeError::Driver(error.to_string())),
    }
}

/// A volume that only its plugin knows.
fn unknown(name: &str, driver: &str) -> Volume {
    debug_assert_ne!(driver, LOCAL);
    Volume {
        name: name.to_owned(),
        driver: driver.to_owned(),
        labels: Default::default(),
        options: Default::default(),
        created: Timestamp::ZERO,
    }
}
