//! Many images at once: one write, one collection.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;

use hoy_store::{Durability, Op};
use hoy_types::Digest;

use crate::{IMAGE, Images, Removed, Result, TAG, names_of};

impl Images {
    /// Removes images with all of their names; the caller has seen to it that nobody uses them.
    pub fn remove_all(
        &self,
        ids: &[Digest],
        used_keys: impl Fn() -> HashSet<String>,
    ) -> Result<()> {
        let ops = self.read(|index| {
            let names = ids.iter().flat_map(|id| names_of(index, *id));
            let names = names.map(|name| Op::Delete { kind: TAG, key: name.to_string() });
            let images = ids.iter().map(|id| Op::Delete { kind: IMAGE, key: id.hex() });
            names.chain(images).collect::<Vec<_>>()
        });
        if ops.is_empty() {
            return Ok(());
        }
        self.store.write(ops, Durability::Sync)?;
        self.change(|index| {
            index.tags.retain(|_, image| !ids.contains(image));
            index.images.retain(|id, _| !ids.contains(id));
        });
        self.collect(&used_keys())?;
        Ok(())
    }

    /// What that comes to for people; `garbage` is what goes with them.
    pub fn told(&self, ids: &[Digest], garbage: &[PathBuf]) -> Vec<Removed> {
        let goes = |key: &str| garbage.iter().any(|path| path.ends_with(key));
        let mut out = self.read(|index| {
            let mut out = Vec::new();
            for image in ids.iter().filter_map(|id| index.images.get(id)) {
                let names = names_of(index, image.id);
                out.extend(names.iter().map(|name| Removed::Untagged(name.familiar())));
                out.push(Removed::Deleted(image.id.to_string()));
                let layers = image.layers.iter().filter(|layer| goes(&layer.key));
                let layers: BTreeSet<_> = layers.map(|layer| layer.diff_id).collect();
                out.extend(layers.iter().rev().map(|id| Removed::Deleted(id.to_string())));
            }
            out
        });
        // A layer of several goes with the last of them.
        let mut told = HashSet::new();
        out.reverse();
        out.retain(|one| match one {
            Removed::Deleted(id) => told.insert(id.clone()),
            Removed::Untagged(_) => true,
        });
        out.reverse();
        out
    }

    /// Directories and files that nothing needs, once these images are gone.
    pub fn garbage(&self, used_keys: &HashSet<String>, without: &[Digest]) -> Result<Vec<PathBuf>> {
        let without = without.iter().copied().collect();
        Ok(self.store.garbage(&self.needed(used_keys, &without))?)
    }
}
