//! `import`: a root file system becomes an image of one layer. And the embedded `hello`.

use std::io::Read;

use hoy_oci::{History, ImageDocument, RootFs, host_architecture};
use hoy_types::{Digest, Reference};
use serde_json::{Map, Value, json};

use crate::{Images, Result, changes, now};

impl Images {
    /// Makes an image of an archive, compressed or not.
    pub fn import(
        &self,
        source: impl Read,
        name: Option<Reference>,
        instructions: &[String],
        message: &str,
    ) -> Result<Digest> {
        let mut config = Map::new();
        changes::apply(&mut config, instructions)?;
        let blob = self.store_blob(source, None)?;
        // Unpacked once to learn its digest; the second time it is known already.
        let layer = self.store.new_layer()?;
        let done = self.worker.unpack(&self.store.blob_path(&blob.digest), &layer.fs())?;
        let created = now().to_string();
        let comment = if message.is_empty() { "Imported from -" } else { message };
        let document = ImageDocument {
            created: Some(created.clone()),
            architecture: host_architecture().to_owned(),
            os: "linux".to_owned(),
            config: Value::Object(config),
            rootfs: RootFs { kind: "layers".to_owned(), diff_ids: vec![done.diff_id] },
            history: vec![History {
                created: Some(created),
                comment: comment.to_owned(),
                ..History::default()
            }],
            ..ImageDocument::default()
        };
        let bytes = to_bytes(&document)?;
        let names: Vec<Reference> = name.into_iter().map(Reference::with_default_tag).collect();
        let _lease = self.store.lease([done.diff_id.hex()]);
        layer.commit(&done.diff_id.hex())?;
        self.assemble_known(&bytes, document, blob, done.size, &names)
    }

    /// The image `hello`, of the program that the daemon carries.
    pub fn make_hello(&self, program: &[u8]) -> Result<Digest> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(program.len() as u64);
        header.set_mode(0o755);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        let failed = || crate::ImageError::io("make the image hello");
        builder.append_data(&mut header, "hello", program).map_err(failed())?;
        let archive = builder.into_inner().map_err(failed())?;
        let changes = ["CMD [\"/hello\"]", "LABEL org.opencontainers.image.title=hello"];
        let name = "hello".parse::<Reference>().ok();
        self.import(archive.as_slice(), name, &changes.map(str::to_owned), "The embedded greeting")
    }

    fn assemble_known(
        &self,
        config: &[u8],
        document: ImageDocument,
        blob: crate::load::StoredBlob,
        size: u64,
        names: &[Reference],
    ) -> Result<Digest> {
        let diff_id = document.rootfs.diff_ids.first().copied();
        let media_type = self.media_type(&blob.digest)?;
        let layers = diff_id.map(|diff_id| crate::LayerRecord {
            diff_id,
            key: diff_id.hex(),
            blob: blob.digest,
            blob_size: blob.size,
            media_type,
            size,
        });
        let (id, _lease) = self.store.put_blob(config)?;
        let layers = layers.into_iter().collect();
        self.record(
            crate::ImageRecord { id, layers, document, tagged: now(), parent: None },
            names,
        )?;
        Ok(id)
    }
}

pub(crate) fn to_bytes(document: &ImageDocument) -> Result<Vec<u8>> {
    serde_json::to_vec(&json!(document))
        .map_err(|error| crate::ImageError::Invalid(format!("an image's configuration: {error}")))
}
