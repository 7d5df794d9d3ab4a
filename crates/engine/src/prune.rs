//! Prunes: what nobody uses is removed, or only told.
//!
//! A trial (`hoy-dry-run=1`) answers what the real one would, and changes nothing. One of a kind
//! runs at a time.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hoy_images::Removed;
use hoy_store::blocks_at;
use hoy_types::{Digest, Timestamp};
use hoy_wire as wire;
use tokio::sync::{Mutex, MutexGuard, Semaphore};

use crate::disk::Tree;
use crate::engine::{Engine, Inner};
use crate::error::{Error, Result, lost};
use crate::images::{config, image_error, removed_items};
use crate::life::Phase;
use crate::record::Record;
use crate::registry::Handle;

/// Objects that go at the same time: their writes share a sync.
const PARALLEL: usize = 32;
/// How long the sizes of what goes are waited for; they come from the last count after that.
const COUNTING: Duration = Duration::from_secs(20);

/// How a prune is meant.
#[derive(Clone, Copy, Debug, Default)]
pub struct PruneMode {
    /// Only told, nothing changes.
    pub trial: bool,
    /// A trial for what is left once the containers that the same filters mean are gone.
    pub after_containers: bool,
}

/// The turns of each kind.
#[derive(Default)]
pub(crate) struct Prunes {
    containers: Mutex<()>,
    images: Mutex<()>,
    volumes: Mutex<()>,
    networks: Mutex<()>,
}

fn turn(of: &Mutex<()>, mode: PruneMode) -> Result<Option<MutexGuard<'_, ()>>> {
    if mode.trial {
        return Ok(None);
    }
    let turn = of.try_lock();
    turn.map(Some).map_err(|_| Error::conflict("a prune operation is already running"))
}

/// Does the same with many, some at a time; those for which it failed are left out, the others
/// stay in order.
async fn each<T, F>(items: Vec<T>, act: impl Fn(T) -> F) -> Vec<T>
where
    T: Clone + Send + 'static,
    F: Future<Output = bool> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(PARALLEL));
    let mut tasks = Vec::new();
    for item in items {
        let (work, places) = (act(item.clone()), Arc::clone(&places));
        let task = tokio::spawn(async move {
            let _place = places.acquire().await;
            work.await
        });
        tasks.push((item, task));
    }
    let mut out = Vec::new();
    for (item, task) in tasks {
        if task.await.unwrap_or(false) {
            out.push(item);
        }
    }
    out
}

/// Whether a prune of containers means it.
fn ended(record: &Record, filter: &wire::PruneFilter) -> bool {
    matches!(record.state.phase, Phase::Created | Phase::Exited)
        && filter.admits(record.config.labels.as_ref(), record.created)
}

fn layers_of(records: &[Arc<Record>]) -> HashSet<String> {
    records.iter().flat_map(|record| record.used_layers()).collect()
}

impl Engine {
    fn pruned(&self, kind: &'static str, reclaimed: u64) {
        let attributes = BTreeMap::from([("reclaimed".to_owned(), reclaimed.to_string())]);
        self.inner.event(kind, "prune", "", attributes);
    }

    /// Containers that do not run.
    pub async fn container_prune(
        &self,
        filter: &wire::PruneFilter,
        mode: PruneMode,
    ) -> Result<wire::ContainerPruneReport> {
        let _turn = turn(&self.inner.prunes.containers, mode)?;
        let meant = self.inner.records().into_iter().filter(|record| ended(record, filter));
        let mut meant: Vec<String> = meant.map(|record| record.id.to_string()).collect();
        let tree = |id: &String| Tree::Container(id.clone());
        let sizes = self.sizes_of(&meant, tree).await;
        if !mode.trial {
            meant = each(meant, |id| {
                let engine = self.clone();
                async move { engine.remove(&id, false, false).await.is_ok() }
            })
            .await;
        }
        let space_reclaimed = meant.iter().filter_map(|id| sizes.get(id)).sum();
        if !mode.trial {
            self.pruned("container", space_reclaimed);
        }
        let containers_deleted = (!meant.is_empty()).then_some(meant);
        Ok(wire::ContainerPruneReport { containers_deleted, space_reclaimed })
    }

    async fn sizes_of(
        &self,
        names: &[String],
        tree: impl Fn(&String) -> Tree,
    ) -> BTreeMap<String, u64> {
        self.inner.count(names.iter().map(&tree).collect(), COUNTING).await;
        let size = |name: &String| self.inner.sizes.last(&tree(name)).unwrap_or_default().all();
        names.iter().map(|name| (name.clone(), size(name))).collect()
    }

    /// Volumes that nobody names: those without a name of their own, or `all`.
    pub async fn volume_prune(
        &self,
        all: bool,
        filter: &wire::PruneFilter,
        mode: PruneMode,
    ) -> Result<wire::VolumePruneReport> {
        let _turn = turn(&self.inner.prunes.volumes, mode)?;
        let staying = self.inner.staying(filter, mode);
        let mut named: HashSet<&str> = HashSet::new();
        for record in &staying {
            named.extend(record.volumes());
        }
        let mut meant = Vec::new();
        for volume in self.inner.volumes.list() {
            // What a plugin has is not this machine's disk, and what is mounted by options is not all
            // the engine's: those stay, as with Docker.
            if volume.is_local()
                && volume.options.is_empty()
                && (all || volume.is_anonymous())
                && filter.admits(Some(&volume.labels), volume.created)
                && (mode.after_containers || self.volume_unused(&volume.name))
                && !named.contains(volume.name.as_str())
            {
                meant.push(volume.name.clone());
            }
        }
        let here: HashSet<Tree> = self.inner.volume_trees().into_iter().collect();
        let tree = |name: &String| Tree::Volume(name.clone());
        let mut counted = meant.clone();
        counted.retain(|name| here.contains(&tree(name)));
        let sizes = self.sizes_of(&counted, tree).await;
        if !mode.trial {
            meant = each(meant, |name| {
                let engine = self.clone();
                async move { engine.volume_remove(&name, false).await.is_ok() }
            })
            .await;
        }
        let space_reclaimed = meant.iter().filter_map(|name| sizes.get(name)).sum();
        if !mode.trial {
            self.pruned("volume", space_reclaimed);
        }
        Ok(wire::VolumePruneReport { volumes_deleted: Some(meant), space_reclaimed })
    }

    /// Networks that no container is in, or will be when it starts.
    pub async fn network_prune(
        &self,
        filter: &wire::PruneFilter,
        mode: PruneMode,
    ) -> Result<wire::NetworkPruneResponse> {
        let _turn = turn(&self.inner.prunes.networks, mode)?;
        let used = self.inner.networks_in_use(&self.inner.staying(filter, mode));
        let mut gone = Vec::new();
        for document in self.inner.networks.all() {
            let meant = !document.is_predefined()
                && !used.contains(&document.id)
                && filter.admits(Some(&document.labels), document.created);
            // One that somebody has taken meanwhile stays.
            if meant && (mode.trial || self.drop_network(&document).await.is_ok()) {
                gone.push(document.name.clone());
            }
        }
        if !mode.trial {
            self.pruned("network", 0);
        }
        Ok(wire::NetworkPruneResponse { networks_deleted: Some(gone) })
    }

    /// Images without a name that no container was made of; or all that no container was made of.
    pub async fn image_prune(
        &self,
        all: bool,
        filter: &wire::PruneFilter,
        mode: PruneMode,
    ) -> Result<wire::ImagePruneReport> {
        let _turn = turn(&self.inner.prunes.images, mode)?;
        let staying = self.inner.staying(filter, mode);
        let meant = self.inner.prunable_images(all, filter, &staying);
        let layers = self.inner.layers_in_use().into_iter().map(Tree::Layer).collect();
        self.inner.count(layers, COUNTING).await;
        let before: Vec<Digest> =
            self.inner.images.list().iter().map(|(image, _)| image.id).collect();
        let inner = Arc::clone(&self.inner);
        let done =
            tokio::task::spawn_blocking(move || inner.prune_images(&meant, &staying, mode.trial));
        let (removed, space_reclaimed) = done.await.map_err(lost)??;
        if !mode.trial {
            self.removal_events(&before, &removed);
            self.pruned("image", space_reclaimed);
        }
        let images_deleted = (!removed.is_empty()).then(|| removed_items(removed));
        Ok(wire::ImagePruneReport { images_deleted, space_reclaimed })
    }

    /// Nothing is built yet: there is no cache to take from.
    pub fn build_prune(&self, mode: PruneMode) {
        if !mode.trial {
            self.pruned("builder", 0);
        }
    }
}

impl Inner {
    fn records(&self) -> Vec<Arc<Record>> {
        self.registry.all().iter().map(Handle::record).collect()
    }

    /// The containers that are there, or would be.
    fn staying(&self, filter: &wire::PruneFilter, mode: PruneMode) -> Vec<Arc<Record>> {
        let mut all = self.records();
        all.retain(|record| !(mode.trial && mode.after_containers && ended(record, filter)));
        all
    }

    fn prunable_images(
        &self,
        all: bool,
        filter: &wire::PruneFilter,
        staying: &[Arc<Record>],
    ) -> Vec<Digest> {
        let used: HashSet<Digest> = staying.iter().map(|record| record.image).collect();
        let mut out = Vec::new();
        for (image, names) in self.images.list() {
            let created = image.document.created.as_deref().unwrap_or_default();
            let created = created.parse::<Timestamp>().unwrap_or(Timestamp::ZERO);
            let labels = config(&image).labels;
            if (all || names.is_empty())
                && !used.contains(&image.id)
                && filter.admits(Some(&labels), created)
            {
                out.push(image.id);
            }
        }
        out
    }

    pub(crate) fn used_layers(&self) -> HashSet<String> {
        layers_of(&self.records())
    }

    fn prune_images(
        &self,
        meant: &[Digest],
        staying: &[Arc<Record>],
        trial: bool,
    ) -> Result<(Vec<Removed>, u64)> {
        if trial {
            let going = self.images.garbage(&layers_of(staying), meant).map_err(image_error)?;
            let bytes = self.sizes_at(&going).values().sum();
            return Ok((self.images.told(meant, &going), bytes));
        }
        // Somebody may have taken one meanwhile.
        let records = self.records();
        let used: HashSet<Digest> = records.iter().map(|record| record.image).collect();
        let meant: Vec<Digest> = meant.iter().copied().filter(|id| !used.contains(id)).collect();
        let going = self.images.garbage(&layers_of(&records), &meant).map_err(image_error)?;
        let mut sizes = self.sizes_at(&going);
        let removed = self.images.told(&meant, &going);
        self.images.remove_all(&meant, || self.used_layers()).map_err(image_error)?;
        sizes.retain(|path, _| !path.exists());
        Ok((removed, sizes.values().sum()))
    }

    /// Of layers and blobs.
    pub(crate) fn sizes_at(&self, paths: &[PathBuf]) -> BTreeMap<PathBuf, u64> {
        let size = |path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match self.sizes.last(&Tree::Layer(name)) {
                Some(count) if path.is_dir() => count.bytes,
                _ => blocks_at(path),
            }
        };
        paths.iter().map(|path| (path.clone(), size(path))).collect()
    }
}
