//! `system df`: what images, containers and volumes take, and who shares what.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use hoy_images::ImageRecord;
use hoy_store::blocks_at;
use hoy_types::Digest;
use hoy_wire as wire;
use serde::Serialize;

use super::Tree;
use super::sizes::lies_here;
use crate::containers::ListOptions;
use crate::engine::{Engine, Inner};
use crate::error::{Result, lost};

/// What may be counted anew while somebody waits; the rest comes from the last count.
const WAIT: Duration = Duration::from_millis(30);

/// Which kinds of objects somebody asks about.
#[derive(Clone, Copy, Debug)]
pub struct UsageKinds {
    pub images: bool,
    pub containers: bool,
    pub volumes: bool,
    pub build_cache: bool,
}

/// `types.DiskUsage`; nothing for what was not asked about.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DiskUsage {
    pub layers_size: i64,
    pub images: Option<Vec<wire::ImageSummary>>,
    pub containers: Option<Vec<wire::ContainerSummary>>,
    pub volumes: Option<Vec<wire::Volume>>,
    /// Nothing is built yet: there is none.
    pub build_cache: Option<Vec<wire::Empty>>,
}

impl Engine {
    /// What everything takes on the disk, in the disk's bytes.
    pub async fn disk_usage(&self, kinds: UsageKinds) -> Result<DiskUsage> {
        let inner = &self.inner;
        let mut trees = Vec::new();
        if kinds.images {
            trees.extend(inner.layers_in_use().into_iter().map(Tree::Layer));
        }
        if kinds.containers {
            let all = inner.registry.all().into_iter();
            trees.extend(all.map(|handle| Tree::Container(handle.id.to_string())));
        }
        if kinds.volumes {
            trees.extend(inner.volume_trees());
        }
        inner.count(trees, WAIT).await;
        let engine = self.clone();
        let shown = tokio::task::spawn_blocking(move || engine.usage(kinds));
        shown.await.map_err(lost)?
    }

    fn usage(&self, kinds: UsageKinds) -> Result<DiskUsage> {
        let mut out = DiskUsage::default();
        if kinds.images {
            let images = ImageSizes::new(&self.inner);
            let mut shown = self.image_list(&[])?;
            for image in &mut shown {
                if let Some((size, shared)) = images.of(&image.id) {
                    (image.size, image.shared_size) = (size as i64, shared as i64);
                }
            }
            out.layers_size = images.all as i64;
            out.images = Some(shown);
        }
        if kinds.containers {
            let options = ListOptions { all: true, size: true, ..ListOptions::default() };
            out.containers = Some(self.list(&options)?);
        }
        if kinds.volumes {
            let volumes = self.inner.volumes.list();
            out.volumes = Some(volumes.iter().map(|volume| self.volume_usage(volume)).collect());
        }
        out.build_cache = kinds.build_cache.then(Vec::new);
        Ok(out)
    }

    fn volume_usage(&self, volume: &hoy_volumes::Volume) -> wire::Volume {
        let count = self.inner.sizes.last(&Tree::Volume(volume.name.clone()));
        let size = match count.filter(|_| lies_here(volume)) {
            Some(count) => count.bytes as i64,
            None => -1,
        };
        let ref_count = self.inner.volumes.users(&volume.name).len() as i64;
        let usage_data = Some(wire::VolumeUsage { ref_count, size });
        wire::Volume { usage_data, ..self.volume_shown(volume) }
    }

    /// For `ps -s` and `inspect -s`: one container, or all.
    pub async fn count_containers(&self, id: Option<&str>) -> Result<()> {
        let trees = match id {
            Some(id) => vec![Tree::Container(self.find(id)?.id.to_string())],
            None => {
                let all = self.inner.registry.all().into_iter();
                all.map(|handle| Tree::Container(handle.id.to_string())).collect()
            }
        };
        self.inner.count(trees, WAIT).await;
        Ok(())
    }

    /// What a container has written, and that with its image.
    pub(crate) fn container_size(&self, id: &str, image: &Digest) -> (i64, i64) {
        let last = self.inner.sizes.last(&Tree::Container(id.to_owned())).unwrap_or_default();
        let written = last.bytes as i64;
        (written, written + self.image_size(image))
    }
}

/// What images take: a layer or blob that several need is on the disk once.
struct ImageSizes {
    by_id: HashMap<String, (u64, u64)>,
    all: u64,
}

impl ImageSizes {
    fn new(inner: &Inner) -> Self {
        let images = inner.images.list();
        let images = || images.iter().map(|(image, _)| image);
        let mut uses: BTreeMap<String, u32> = BTreeMap::new();
        let mut sizes: HashMap<String, u64> = HashMap::new();
        for image in images() {
            for (name, size) in parts(inner, image, &sizes) {
                *uses.entry(name.clone()).or_default() += 1;
                sizes.insert(name, size);
            }
        }
        let of = |image: &Arc<ImageRecord>| {
            let mut sum = (0, 0);
            for (name, size) in parts(inner, image, &sizes) {
                sum.0 += size;
                sum.1 += if uses.get(&name).is_some_and(|uses| *uses > 1) { size } else { 0 };
            }
            sum
        };
        let by_id = images().map(|image| (image.id.to_string(), of(image))).collect();
        // Containers keep the layers of images that were removed by force.
        for key in inner.layers_in_use() {
            let last = inner.sizes.last(&Tree::Layer(key.clone()));
            sizes.entry(key).or_insert(last.map_or(0, |count| count.bytes));
        }
        Self { by_id, all: sizes.values().sum() }
    }

    fn of(&self, id: &str) -> Option<(u64, u64)> {
        self.by_id.get(id).copied()
    }
}

/// The layers, archives and document of an image, each once.
fn parts(inner: &Inner, image: &ImageRecord, known: &HashMap<String, u64>) -> Vec<(String, u64)> {
    let mut seen = HashSet::new();
    let mut out = Vec::new();
    let mut add = |name: String, size: &dyn Fn() -> u64| {
        if seen.insert(name.clone()) {
            let size = known.get(&name).copied().unwrap_or_else(size);
            out.push((name, size));
        }
    };
    for layer in &image.layers {
        let counted = || inner.sizes.last(&Tree::Layer(layer.key.clone()));
        add(layer.key.clone(), &|| counted().map_or(layer.size, |count| count.bytes));
        // A layer's key may be the digest of its archive, too.
        let blob = format!("sha256:{}", layer.blob.hex());
        add(blob, &|| blocks_at(&inner.store.blob_path(&layer.blob)));
    }
    add(image.id.to_string(), &|| blocks_at(&inner.store.blob_path(&image.id)));
    out
}
