//! Room: images in and out: load, import, save, unpack in a jailed worker.
//!
//! Synchronous: the engine runs it on threads for blocking work. Nothing is visible before its
//! digests were verified and its bytes are on the disk; what fails leaves nothing behind.

mod archive;
mod changes;
mod commit;
pub mod compression;
mod export;
mod fetch;
mod fixup;
mod import;
mod load;
mod prune;
mod unpack;
pub mod worker;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use hoy_oci::ImageDocument;
use hoy_store::{Durability, Lease, Op, Store};
use hoy_types::{Digest, ErrorKind, Reference, Timestamp};
use serde::{Deserialize, Serialize};

pub use commit::CommitPlan;
pub use fetch::fetch;
pub use worker::Worker;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(transparent)]
    Store(#[from] hoy_store::StoreError),
    #[error(transparent)]
    Document(#[from] hoy_oci::DocumentError),
    #[error("No such image: {0}")]
    NotFound(String),
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Conflict(String),
    #[error("{0} is not available yet")]
    Unavailable(String),
    #[error("{operation}: {source}")]
    Io { operation: &'static str, source: std::io::Error },
}

impl ImageError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Invalid(_) | Self::Document(_) => ErrorKind::InvalidParameter,
            Self::Conflict(_) => ErrorKind::Conflict,
            Self::Unavailable(_) => ErrorKind::NotImplemented,
            Self::Store(
                hoy_store::StoreError::Digest { .. } | hoy_store::StoreError::Size { .. },
            ) => ErrorKind::InvalidParameter,
            Self::Store(_) | Self::Io { .. } => ErrorKind::System,
        }
    }

    pub(crate) fn io(operation: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { operation, source }
    }
}

pub type Result<T> = std::result::Result<T, ImageError>;

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerRecord {
    pub diff_id: Digest,
    /// The directory of the store.
    pub key: String,
    /// The archive as it came.
    pub blob: Digest,
    /// Bytes of the archive as it came.
    pub blob_size: u64,
    pub media_type: String,
    /// Bytes of its files.
    pub size: u64,
}

/// One image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The digest of its configuration document.
    pub id: Digest,
    pub layers: Vec<LayerRecord>,
    pub document: ImageDocument,
    /// When a name last came to point to it.
    pub tagged: Timestamp,
    /// The image that it was made from here.
    #[serde(default)]
    pub parent: Option<Digest>,
}

impl ImageRecord {
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }
}

/// An image's root file system, kept from garbage collection while this lives.
pub struct RootfsTicket {
    /// Topmost first.
    pub layers: Vec<PathBuf>,
    pub keys: Vec<String>,
    _lease: Lease,
}

/// What a removal did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    Untagged(String),
    Deleted(String),
}

/// A container that an image's removal has to ask about.
#[derive(Clone, Debug)]
pub struct User {
    pub container: String,
    pub running: bool,
}

#[derive(Default)]
struct Index {
    images: BTreeMap<Digest, Arc<ImageRecord>>,
    tags: BTreeMap<String, Digest>,
}

/// All images. Cheap to clone.
#[derive(Clone)]
pub struct Images {
    store: Store,
    worker: Worker,
    index: Arc<RwLock<Index>>,
}

const IMAGE: &str = "image";
const TAG: &str = "tag";

impl Images {
    pub fn open(store: Store, worker: Worker) -> Result<Self> {
        let mut index = Index::default();
        for (_, body) in store.documents(IMAGE)? {
            let record: ImageRecord = serde_json::from_slice(&body)
                .map_err(|error| ImageError::Invalid(format!("an image's record: {error}")))?;
            index.images.insert(record.id, Arc::new(record));
        }
        for (name, body) in store.documents(TAG)? {
            if let Some(id) = std::str::from_utf8(&body).ok().and_then(|text| text.parse().ok()) {
                index.tags.insert(name, id);
            }
        }
        Ok(Self { store, worker, index: Arc::new(RwLock::new(index)) })
    }

    fn read<T>(&self, with: impl FnOnce(&Index) -> T) -> T {
        with(&self.index.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn change<T>(&self, with: impl FnOnce(&mut Index) -> T) -> T {
        with(&mut self.index.write().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Every image with its names.
    pub fn list(&self) -> Vec<(Arc<ImageRecord>, Vec<Reference>)> {
        self.read(|index| {
            let all = index.images.values();
            all.map(|image| (Arc::clone(image), names_of(index, image.id))).collect()
        })
    }

    /// The names of an image.
    pub fn names(&self, id: Digest) -> Vec<Reference> {
        self.read(|index| names_of(index, id))
    }

    /// By its whole id.
    pub fn get(&self, id: Digest) -> Option<Arc<ImageRecord>> {
        self.read(|index| index.images.get(&id).cloned())
    }

    /// By name, id, or the beginning of an id.
    pub fn resolve(&self, text: &str) -> Result<Arc<ImageRecord>> {
        let missing = |shown: String| ImageError::NotFound(shown);
        let bare = text.strip_prefix("sha256:");
        let hex = bare.unwrap_or(text);
        let is_hex = !hex.is_empty()
            && hex.len() <= 64
            && hex.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        let reference = text.parse::<Reference>().map(Reference::with_default_tag);
        self.read(|index| {
            if let Ok(reference) = &reference
                && bare.is_none()
            {
                let named = match reference.digest() {
                    Some(digest) => Some(digest),
                    None => index.tags.get(&reference.to_string()),
                };
                if let Some(image) = named.and_then(|id| index.images.get(id)) {
                    return Ok(Arc::clone(image));
                }
            }
            if is_hex {
                let mut found =
                    index.images.values().filter(|image| image.id.hex().starts_with(hex));
                match (found.next(), found.next()) {
                    (Some(image), None) => return Ok(Arc::clone(image)),
                    (Some(_), Some(_)) => {
                        return Err(ImageError::Invalid(format!(
                            "ambiguous image id {hex}: more than one image begins with it"
                        )));
                    }
                    _ => {}
                }
            }
            match reference {
                Ok(reference) if bare.is_none() => Err(missing(reference.familiar())),
                Ok(_) => Err(missing(text.to_owned())),
                Err(error) if !is_hex => Err(ImageError::Invalid(error.to_string())),
                Err(_) => Err(missing(text.to_owned())),
            }
        })
    }

    /// Gives an image a further name; another image may lose it.
    pub fn tag(&self, id: Digest, name: &Reference) -> Result<()> {
        let name = name.clone().with_default_tag();
        if name.digest().is_some() {
            return Err(ImageError::Invalid(
                "refusing to create a tag with a digest reference".into(),
            ));
        }
        let image = self.read(|index| index.images.get(&id).cloned());
        let image = image.ok_or_else(|| ImageError::NotFound(id.to_string()))?;
        let mut image = ImageRecord::clone(&image);
        image.tagged = now();
        self.record(image, &[name])
    }

    /// Makes an image known under names: the last step of whatever brought it in.
    fn record(&self, image: ImageRecord, names: &[Reference]) -> Result<()> {
        let body = serde_json::to_vec(&image)
            .map_err(|error| ImageError::Invalid(format!("an image's record: {error}")))?;
        let mut ops = vec![Op::Put { kind: IMAGE, key: image.id.hex(), body }];
        for name in names {
            let body = image.id.to_string().into_bytes();
            ops.push(Op::Put { kind: TAG, key: name.to_string(), body });
        }
        self.store.write(ops, Durability::Sync)?;
        self.change(|index| {
            for name in names {
                index.tags.insert(name.to_string(), image.id);
            }
            index.images.insert(image.id, Arc::new(image));
        });
        Ok(())
    }

    /// The layers of an image, leased.
    pub fn rootfs(&self, id: Digest) -> Result<RootfsTicket> {
        let image = self.read(|index| index.images.get(&id).cloned());
        let image = image.ok_or_else(|| ImageError::NotFound(id.to_string()))?;
        self.layers(image.layers.iter().map(|layer| layer.key.clone()).collect())
    }

    /// The same from the keys that a container's record holds.
    pub fn layers(&self, keys: Vec<String>) -> Result<RootfsTicket> {
        let lease = self.store.lease(keys.iter().cloned());
        let layers: Vec<PathBuf> =
            keys.iter().rev().map(|key| self.store.layer_path(key)).collect();
        if let Some(missing) = layers.iter().find(|path| !path.exists()) {
            return Err(ImageError::Invalid(format!(
                "a layer of the image is missing from the store: {}: load the image again",
                missing.display()
            )));
        }
        Ok(RootfsTicket { layers, keys, _lease: lease })
    }

    /// Takes a name away, and the image with its last name, by Docker's rules. `users` says which
    /// containers were made of it, `used_keys` which layers containers hold.
    pub fn remove(
        &self,
        text: &str,
        force: bool,
        users: impl Fn(Digest) -> Vec<User>,
        used_keys: impl Fn() -> HashSet<String>,
    ) -> Result<Vec<Removed>> {
        let image = self.resolve(text)?;
        let names = self.names(image.id);
        let named = text.parse::<Reference>().map(Reference::with_default_tag).ok();
        let by_name = named.filter(|name| names.contains(name));
        let short = image.id.hex().chars().take(12).collect::<String>();
        let users = users(image.id);
        if let (Some(name), true) = (&by_name, names.len() > 1) {
            return self.untag(std::slice::from_ref(name)).map(|removed| removed.0);
        }
        if let Some(user) = users.iter().find(|user| user.running) {
            return Err(ImageError::Conflict(match (&by_name, force) {
                (Some(name), false) => format!(
                    "conflict: unable to remove repository reference \"{}\" (must force) - container \
                     {} is using its referenced image {short}",
                    name.familiar(),
                    user.container
                ),
                _ => format!(
                    "conflict: unable to delete {short} (cannot be forced) - image is being used by \
                     running container {}",
                    user.container
                ),
            }));
        }
        if let (Some(user), false) = (users.first(), force) {
            return Err(ImageError::Conflict(match &by_name {
                Some(name) => format!(
                    "conflict: unable to remove repository reference \"{}\" (must force) - container \
                     {} is using its referenced image {short}",
                    name.familiar(),
                    user.container
                ),
                None => format!(
                    "conflict: unable to delete {short} (must be forced) - image is being used by \
                     stopped container {}",
                    user.container
                ),
            }));
        }
        if by_name.is_none() && names.len() > 1 && !force {
            return Err(ImageError::Conflict(format!(
                "conflict: unable to delete {short} (must be forced) - image is referenced in multiple \
                 repositories"
            )));
        }
        // Layers that others have stay, and are not told.
        let removed = self.told(&[image.id], &self.garbage(&used_keys(), &[image.id])?);
        let (_, mut ops) = self.untag(&names)?;
        ops.push(Op::Delete { kind: IMAGE, key: image.id.hex() });
        self.store.write(ops, Durability::Sync)?;
        self.change(|index| index.images.remove(&image.id));
        self.collect(&used_keys())?;
        Ok(removed)
    }

    fn untag(&self, names: &[Reference]) -> Result<(Vec<Removed>, Vec<Op>)> {
        let ops: Vec<Op> =
            names.iter().map(|name| Op::Delete { kind: TAG, key: name.to_string() }).collect();
        self.store.write(ops, Durability::Sync)?;
        self.change(|index| {
            for name in names {
                index.tags.remove(&name.to_string());
            }
        });
        let removed = names.iter().map(|name| Removed::Untagged(name.familiar())).collect();
        Ok((removed, Vec::new()))
    }

    /// Removes what no image and no container needs.
    pub fn collect(&self, used_keys: &HashSet<String>) -> Result<u64> {
        Ok(self.store.collect(&self.needed(used_keys, &HashSet::new()))?)
    }

    /// What is needed once some images are gone.
    fn needed(&self, used_keys: &HashSet<String>, without: &HashSet<Digest>) -> HashSet<String> {
        let mut keep = used_keys.clone();
        self.read(|index| {
            for image in index.images.values().filter(|image| !without.contains(&image.id)) {
                keep.insert(image.id.hex());
                for layer in &image.layers {
                    keep.insert(layer.key.clone());
                    keep.insert(layer.blob.hex());
                }
            }
        });
        keep
    }
}

fn names_of(index: &Index, id: Digest) -> Vec<Reference> {
    let names = index.tags.iter().filter(|(_, image)| **image == id);
    names.filter_map(|(name, _)| name.parse().ok()).collect()
}

pub(crate) fn now() -> Timestamp {
    Timestamp::from_system(std::time::SystemTime::now())
}
