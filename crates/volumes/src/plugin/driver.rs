//! What a volume plugin can be asked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::address::Address;
use super::call::{CallError, Patience, Waiting, call};
use super::settings::PluginLimits;
use super::{INTERFACE, LookupError};

/// A plugin that has said that it is one.
#[derive(Debug)]
pub(crate) struct Driver {
    pub name: String,
    pub address: Address,
    waiting: Waiting,
    limits: PluginLimits,
    scope: OnceLock<&'static str>,
}

/// Why a volume is not mounted, and whether that is sure.
#[derive(Debug)]
pub(crate) struct NotMounted {
    pub error: CallError,
    pub unmounted: bool,
}

/// A volume as its plugin tells of it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct PluginVolume {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub mountpoint: Option<String>,
    /// As it is written: it is only shown.
    #[serde(default)]
    pub created_at: Option<String>,
    #[serde(default)]
    pub status: Option<BTreeMap<String, serde_json::Value>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Create<'a> {
    name: &'a str,
    /// Docker's client sends null where there are none, too.
    opts: Option<&'a BTreeMap<String, String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Named<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct Mounting<'a> {
    #[serde(rename = "Name")]
    name: &'a str,
    #[serde(rename = "ID")]
    id: &'a str,
}

#[derive(Serialize)]
struct Nothing {}

#[derive(Deserialize)]
struct Done {}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Place {
    #[serde(default)]
    mountpoint: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct List {
    #[serde(default)]
    volumes: Option<Vec<Option<PluginVolume>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Got {
    #[serde(default)]
    volume: Option<PluginVolume>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Manifest {
    #[serde(default)]
    implements: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Capable {
    #[serde(default)]
    capabilities: Option<Capabilities>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Capabilities {
    #[serde(default)]
    scope: Option<String>,
}

impl Driver {
    /// Asks a program what it is; only a volume plugin will do.
    pub fn activate(
        name: &str,
        address: Address,
        waiting: Waiting,
        patience: Patience,
        limits: &PluginLimits,
    ) -> Result<Self, LookupError> {
        let method = "Plugin.Activate";
        let asked = call::<Nothing, Manifest>(&address, &waiting, method, None, patience, limits);
        let implements = asked?.implements.unwrap_or_default();
        if !implements.iter().any(|interface| interface == INTERFACE) {
            let said = "Plugin does not implement the requested driver";
            return Err(LookupError::Unusable(said.to_owned()));
        }
        let (name, limits) = (name.to_owned(), limits.clone());
        Ok(Self { name, address, waiting, limits, scope: OnceLock::new() })
    }

    fn ask<Q: Serialize, A: serde::de::DeserializeOwned>(
        &self,
        method: &'static str,
        question: &Q,
        patience: Patience,
    ) -> Result<A, CallError> {
        call(&self.address, &self.waiting, method, Some(question), patience, &self.limits)
    }

    fn patience(&self) -> Patience {
        Patience::retry(self.limits.other, self.limits.retry)
    }

    pub fn create(&self, name: &str, options: &BTreeMap<String, String>) -> Result<(), CallError> {
        let opts = (!options.is_empty()).then_some(options);
        let patience = Patience::retry(self.limits.long, self.limits.retry);
        self.ask("VolumeDriver.Create", &Create { name, opts }, patience).map(|Done {}| ())
    }

    pub fn remove(&self, name: &str) -> Result<(), CallError> {
        self.ask("VolumeDriver.Remove", &Named { name }, self.patience()).map(|Done {}| ())
    }

    /// Where it lies now; empty while nobody has mounted it.
    pub fn path(&self, name: &str, patience: Patience) -> Result<String, CallError> {
        let place: Place = self.ask("VolumeDriver.Path", &Named { name }, patience)?;
        Ok(place.mountpoint.unwrap_or_default())
    }

    /// The volume's data is wanted at a place of the plugin's choice, until `unmount` with the
    /// same id. What may be mounted at no place that can be used is given back at once.
    pub fn mount(&self, name: &str, id: &str) -> Result<PathBuf, NotMounted> {
        let method = "VolumeDriver.Mount";
        let patience = Patience::retry(self.limits.long, self.limits.retry);
        let answer = self.ask::<_, Place>(method, &Mounting { name, id }, patience);
        let checked = answer.and_then(|place| {
            let place = place.mountpoint.unwrap_or_default();
            match bad_place(&place) {
                None => Ok(PathBuf::from(place)),
                Some(why) => Err(CallError::Lie {
                    method,
                    said: format!("plugin {} gave \"{place}\" as mount point, {why}", self.name),
                }),
            }
        });
        checked.map_err(|error| {
            // One that has no time for this has none for more.
            let back = || self.unmount(name, id, Patience::once(self.limits.read));
            let unmounted = error.is_answer()
                || match back() {
                    Err(back) if !back.is_answer() => {
                        tracing::warn!(plugin = self.name, volume = name, error = %back, "unmount");
                        false
                    }
                    _ => true,
                };
            NotMounted { error, unmounted }
        })
    }

    pub fn unmount(&self, name: &str, id: &str, patience: Patience) -> Result<(), CallError> {
        let asked = self.ask("VolumeDriver.Unmount", &Mounting { name, id }, patience);
        asked.map(|Done {}| ())
    }

    pub fn list(&self, patience: Patience) -> Result<Vec<PluginVolume>, CallError> {
        let list: List = self.ask("VolumeDriver.List", &Nothing {}, patience)?;
        let volumes = list.volumes.unwrap_or_default().into_iter().flatten();
        Ok(volumes.filter(|volume| !volume.name.is_empty()).collect())
    }

    /// None: the plugin answers, and has no such volume.
    pub fn get(&self, name: &str, patience: Patience) -> Result<Option<PluginVolume>, CallError> {
        match self.ask::<_, Got>("VolumeDriver.Get", &Named { name }, patience) {
            Ok(Got { volume: Some(volume) }) if volume.name == name => Ok(Some(volume)),
            Ok(Got { volume: Some(volume) }) => Err(CallError::Lie {
                method: "VolumeDriver.Get",
                said: format!("asked for {name}, the plugin tells of \"{}\"", volume.name),
            }),
            Ok(Got { volume: None }) => Ok(None),
            Err(error) if error.is_answer() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As [`Self::get`] for what a change depends on.
    pub fn has(&self, name: &str) -> Result<bool, CallError> {
        self.get(name, self.patience()).map(|found| found.is_some())
    }

    /// Whether its volumes are this machine's or those of many. Plugins need not say it.
    pub fn scope(&self, patience: Patience) -> &'static str {
        if let Some(known) = self.scope.get() {
            return known;
        }
        let asked = self.ask::<_, Capable>("VolumeDriver.Capabilities", &Nothing {}, patience);
        let scope = match asked {
            Ok(answer) => answer.capabilities.and_then(|said| said.scope).unwrap_or_default(),
            Err(error) if error.is_answer() => String::new(),
            Err(_) => return "local",
        };
        let scope = match scope.to_ascii_lowercase().as_str() {
            "global" => "global",
            "local" | "" => "local",
            other => {
                tracing::warn!(plugin = self.name, scope = other, "a plugin has no such scope");
                "local"
            }
        };
        self.scope.get_or_init(|| scope)
    }
}

/// Why this cannot be a place where a volume's data is.
fn bad_place(place: &str) -> Option<&'static str> {
    let path = Path::new(place);
    if !path.is_absolute() || place.contains('\0') {
        return Some("which is not an absolute path");
    }
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => None,
        Ok(_) => Some("which is not a directory"),
        Err(_) => Some("which does not exist"),
    }
}
