//! What is kept of networks, and which there are.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use hoy_network::NetworkSpec;
use hoy_types::Timestamp;
use hoy_wire as wire;
use serde::{Deserialize, Serialize};

use crate::engine::now;
use crate::error::{Error, Result};

pub(crate) const NETWORK: &str = "network";

/// What is kept of a network: as it was asked for, and as it was decided.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Document {
    pub id: String,
    pub name: String,
    pub created: Timestamp,
    pub driver: String,
    pub ipv4: bool,
    pub ipv6: bool,
    pub internal: bool,
    pub attachable: bool,
    pub config_only: bool,
    pub config_from: String,
    pub ipam_driver: String,
    pub ipam_options: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// Where addresses were asked for: only then may a container name its own.
    pub asked: Vec<wire::IpamConfig>,
    /// Absent where there is nothing to make: host, none, and those that are only patterns.
    pub spec: Option<NetworkSpec>,
}

impl Document {
    /// A network of the daemon itself.
    pub fn predefined(name: &str, driver: &str, id: String) -> Self {
        Self {
            id,
            name: name.to_owned(),
            created: now(),
            driver: driver.to_owned(),
            ipv4: true,
            ipv6: false,
            internal: false,
            attachable: false,
            config_only: false,
            config_from: String::new(),
            ipam_driver: "default".into(),
            ipam_options: BTreeMap::new(),
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
            asked: Vec::new(),
            spec: None,
        }
    }

    pub fn is_predefined(&self) -> bool {
        is_predefined(&self.name)
    }

    /// Whether names are resolved in it: everywhere but on the networks of the daemon itself.
    pub fn has_names(&self) -> bool {
        !self.is_predefined()
    }
}

pub(crate) fn is_predefined(name: &str) -> bool {
    matches!(name, "bridge" | "host" | "none" | "default")
}

/// All networks by id and name.
#[derive(Default)]
pub(crate) struct Directory(RwLock<Tables>);

#[derive(Default)]
struct Tables {
    by_id: BTreeMap<String, Arc<Document>>,
    names: HashMap<String, String>,
}

impl Directory {
    fn read<T>(&self, with: impl FnOnce(&Tables) -> T) -> T {
        with(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, with: impl FnOnce(&mut Tables) -> T) -> T {
        with(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn insert(&self, document: Document) {
        self.write(|tables| {
            tables.names.insert(document.name.clone(), document.id.clone());
            tables.by_id.insert(document.id.clone(), Arc::new(document));
        });
    }

    /// Takes the name, if nobody has it.
    pub fn reserve(&self, name: &str, id: &str) -> Result<()> {
        self.write(|tables| {
            if tables.names.contains_key(name) {
                return Err(Error::conflict(format!("network with name {name} already exists")));
            }
            tables.names.insert(name.to_owned(), id.to_owned());
            Ok(())
        })
    }

    pub fn remove(&self, id: &str, name: &str) {
        self.write(|tables| {
            tables.by_id.remove(id);
            if tables.names.get(name).is_some_and(|owner| owner == id) {
                tables.names.remove(name);
            }
        });
    }

    pub fn all(&self) -> Vec<Arc<Document>> {
        self.read(|tables| tables.by_id.values().cloned().collect())
    }

    pub fn by_id(&self, id: &str) -> Option<Arc<Document>> {
        self.read(|tables| tables.by_id.get(id).cloned())
    }

    /// By id, name, or the beginning of an id, in this order.
    pub fn find(&self, text: &str) -> Result<Arc<Document>> {
        self.read(|tables| {
            let named = || tables.names.get(text).and_then(|id| tables.by_id.get(id));
            if let Some(found) = tables.by_id.get(text).or_else(named) {
                return Ok(Arc::clone(found));
            }
            let missing = || Error::not_found(format!("network {text} not found"));
            if text.is_empty() {
                return Err(missing());
            }
            let mut begins = tables.by_id.values().filter(|found| found.id.starts_with(text));
            match (begins.next(), begins.next()) {
                (Some(found), None) => Ok(Arc::clone(found)),
                (Some(_), Some(_)) => Err(Error::invalid(format!(
                    "network {text} is ambiguous (more than one match found on id prefix)"
                ))),
                _ => Err(missing()),
            }
        })
    }
}
