//! `commit`: what a container has written becomes a layer above its image's.

use std::io::Read;

use hoy_oci::{History, ImageDocument};
use hoy_types::{Digest, Reference};
use serde_json::{Map, Value};

use crate::import::to_bytes;
use crate::{ImageError, ImageRecord, Images, LayerRecord, Result, changes, fixup, now};

/// What a new image is to say of itself.
#[derive(Clone, Debug, Default)]
pub struct CommitPlan {
    /// The container's image.
    pub parent: Option<Digest>,
    /// What the container runs with, as an image's configuration, before the instructions.
    pub config: Map<String, Value>,
    pub instructions: Vec<String>,
    pub author: String,
    pub comment: String,
    /// The container's command, in one line.
    pub created_by: String,
    pub name: Option<Reference>,
}

impl Images {
    /// Checks the instructions before anything is done.
    pub fn check_instructions(&self, plan: &CommitPlan) -> Result<()> {
        changes::apply(&mut plan.config.clone(), &plan.instructions)
    }

    /// Makes an image of a layer's archive above a parent; without one, of the parent's alone.
    pub fn commit(&self, mut plan: CommitPlan, layer: Option<impl Read>) -> Result<Digest> {
        changes::apply(&mut plan.config, &plan.instructions)?;
        let parent =
            plan.parent.map(|id| self.get(id).ok_or_else(|| ImageError::NotFound(id.to_string())));
        let parent = parent.transpose()?;
        let mut layers: Vec<LayerRecord> =
            parent.as_ref().map(|parent| parent.layers.clone()).unwrap_or_default();
        let below = layers.iter().flat_map(|layer| [layer.key.clone(), layer.blob.hex()]);
        let _below = self.store.lease(below.collect::<Vec<_>>());
        let mut document = match &parent {
            Some(parent) => parent.document.clone(),
            None => ImageDocument {
                architecture: hoy_oci::host_architecture().to_owned(),
                os: "linux".to_owned(),
                ..ImageDocument::default()
            },
        };
        document.rootfs.kind = "layers".to_owned();
        let mut leases = Vec::new();
        let empty = layer.is_none();
        if let Some(layer) = layer {
            let made = self.add_layer(layer, &layers, &mut leases)?;
            document.rootfs.diff_ids.push(made.diff_id);
            layers.push(made);
        }
        let created = now().to_string();
        document.created = Some(created.clone());
        document.author.clone_from(&plan.author);
        document.comment.clone_from(&plan.comment);
        document.config = Value::Object(plan.config);
        document.history.push(History {
            created: Some(created),
            created_by: plan.created_by,
            author: plan.author,
            comment: plan.comment,
            empty_layer: empty,
        });
        let (id, _config) = self.store.put_blob(&to_bytes(&document)?)?;
        let names: Vec<Reference> =
            plan.name.into_iter().map(Reference::with_default_tag).collect();
        let record = ImageRecord { id, layers, document, tagged: now(), parent: plan.parent };
        self.record(record, &names)?;
        Ok(id)
    }

    /// Stored, unpacked and on the disk.
    fn add_layer(
        &self,
        source: impl Read,
        below: &[LayerRecord],
        leases: &mut Vec<hoy_store::Lease>,
    ) -> Result<LayerRecord> {
        let blob = self.store_blob(source, None)?;
        let layer = self.store.new_layer()?;
        let done = self.worker.unpack(&self.store.blob_path(&blob.digest), &layer.fs())?;
        // Of a directory that is not told of, the one below is seen.
        let key = if done.implied.is_empty() || below.is_empty() {
            done.diff_id.hex()
        } else {
            let paths: Vec<_> = below.iter().map(|l| self.store.layer_path(&l.key)).collect();
            let paths: Vec<_> = paths.iter().map(|path| path.as_path()).collect();
            fixup::apply(&layer.fs(), &done.implied, &paths)
                .map_err(ImageError::io("complete a layer"))?;
            let mut ids: Vec<Digest> = below.iter().map(|layer| layer.diff_id).collect();
            ids.push(done.diff_id);
            crate::load::chain_ids(&ids).last().unwrap_or(&done.diff_id).hex()
        };
        leases.push(self.store.lease([key.clone(), blob.digest.hex()]));
        layer.commit(&key)?;
        Ok(LayerRecord {
            diff_id: done.diff_id,
            key,
            blob: blob.digest,
            blob_size: blob.size,
            media_type: self.media_type(&blob.digest)?,
            size: done.size,
        })
    }
}
