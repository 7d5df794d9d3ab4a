//! All containers by id and name. Lists and inspects are answered from published views: nobody
//! who reads waits for a container.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use hoy_types::ContainerId;
use tokio::sync::{mpsc, watch};

use crate::driver::Command;
use crate::error::{Error, Result};
use crate::record::Record;

/// What everybody may know of a container.
#[derive(Clone, Debug)]
pub struct View {
    pub record: Arc<Record>,
    /// How often it has ended since this daemon knows it.
    pub exits: u64,
    /// The code of its last end.
    pub last_code: i32,
    /// How often a start was tried and is over.
    pub starts: u64,
    pub removed: bool,
}

/// The way to one container.
#[derive(Clone)]
pub(crate) struct Handle {
    pub id: ContainerId,
    pub view: watch::Receiver<View>,
    pub commands: mpsc::Sender<Command>,
    /// Held for reading by an attach from before its client hears of it until its command was
    /// obeyed; a start that comes later waits for that.
    pub attaching: Arc<tokio::sync::RwLock<()>>,
    /// Held by whoever works on its files beside it: for reading while it runs, for writing while
    /// it does not, and by its start.
    pub tree: Arc<tokio::sync::RwLock<()>>,
}

impl Handle {
    pub fn record(&self) -> Arc<Record> {
        Arc::clone(&self.view.borrow().record)
    }
}

#[derive(Default)]
struct Tables {
    by_id: BTreeMap<ContainerId, Handle>,
    names: HashMap<String, ContainerId>,
}

#[derive(Default)]
pub(crate) struct Registry(RwLock<Tables>);

impl Registry {
    fn read<T>(&self, with: impl FnOnce(&Tables) -> T) -> T {
        with(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, with: impl FnOnce(&mut Tables) -> T) -> T {
        with(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Newest first.
    pub fn all(&self) -> Vec<Handle> {
        let mut all: Vec<Handle> = self.read(|tables| tables.by_id.values().cloned().collect());
        all.sort_by_cached_key(|handle| std::cmp::Reverse(handle.record().created));
        all
    }

    /// Takes a name for an id, if nobody has it.
    pub fn reserve(&self, name: &str, id: &ContainerId) -> Result<()> {
        self.write(|tables| match tables.names.get(name) {
            Some(owner) if owner != id => Err(Error::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \
                 \"{owner}\". You have to remove (or rename) that container to be able to reuse \
                 that name."
            ))),
            _ => {
                tables.names.insert(name.to_owned(), id.clone());
                Ok(())
            }
        })
    }

    pub fn release(&self, name: &str, id: &ContainerId) {
        self.write(|tables| {
            if tables.names.get(name) == Some(id) {
                tables.names.remove(name);
            }
        });
    }

    pub fn insert(&self, handle: Handle) {
        self.write(|tables| tables.by_id.insert(handle.id.clone(), handle));
    }

    pub fn remove(&self, id: &ContainerId, name: &str) {
        self.write(|tables| {
            tables.by_id.remove(id);
        });
        self.release(name, id);
    }

    /// Whether a container has this id, or is about to.
    pub fn knows(&self, id: &str) -> bool {
        self.read(|tables| {
            tables.by_id.keys().chain(tables.names.values()).any(|known| known.as_str() == id)
        })
    }

    /// By id, name, or the beginning of an id, in this order.
    pub fn find(&self, text: &str) -> Result<Handle> {
        let name = text.strip_prefix('/').unwrap_or(text);
        self.read(|tables| {
            let exact = text.parse::<ContainerId>().ok().and_then(|id| tables.by_id.get(&id));
            let named = || tables.names.get(name).and_then(|id| tables.by_id.get(id));
            if let Some(handle) = exact.or_else(named) {
                return Ok(handle.clone());
            }
            let hex =
                !text.is_empty() && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
            if hex {
                let mut found = tables.by_id.iter().filter(|(id, _)| id.as_str().starts_with(text));
                match (found.next(), found.next()) {
                    (Some((_, handle)), None) => return Ok(handle.clone()),
                    (Some(_), Some(_)) => {
                        return Err(Error::invalid(format!(
                            "Multiple IDs found with provided prefix: {text}"
                        )));
                    }
                    _ => {}
                }
            }
            if let Some(handle) = linked(tables, name) {
                return Ok(handle.clone());
            }
            Err(Error::not_found(format!("No such container: {text}")))
        })
    }
}

/// By the name that another container has for it: `PARENT/ALIAS`.
fn linked<'a>(tables: &'a Tables, name: &str) -> Option<&'a Handle> {
    let (parent, alias) = name.split_once('/')?;
    let parent = tables.names.get(parent).and_then(|id| tables.by_id.get(id))?.record();
    let name = crate::links::linked_as(&parent, alias)?;
    let by_name = tables.names.get(name).and_then(|id| tables.by_id.get(id));
    by_name.or_else(|| tables.by_id.get(&name.parse::<ContainerId>().ok()?))
}
