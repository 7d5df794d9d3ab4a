//! `save`: an OCI layout that is an archive of `docker save` too. The same images give the same
//! bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;

use hoy_oci::{ArchiveEntry, Descriptor, Index, Manifest, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
use hoy_types::{Digest, Reference};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use crate::{ImageError, Images, Result};

impl Images {
    /// Whether every one of these can be saved.
    pub fn check_names(&self, names: &[String]) -> Result<()> {
        names.iter().try_for_each(|name| self.resolve(name).map(drop))
    }

    /// Writes an archive of images by name or id.
    pub fn save(&self, names: &[String], out: impl Write) -> Result<()> {
        // By image: all names that were asked for.
        let mut wanted: Vec<(Digest, BTreeSet<Reference>)> = Vec::new();
        for text in names {
            let image = self.resolve(text)?;
            let named = text.parse::<Reference>().map(Reference::with_default_tag);
            let all = self.names(image.id);
            let given = named.ok().filter(|name| all.contains(name));
            match wanted.iter_mut().find(|(id, _)| *id == image.id) {
                Some((_, known)) => known.extend(given),
                None => wanted.push((image.id, given.into_iter().collect())),
            }
        }
        let mut archive = Saved { builder: Builder::new(out), done: BTreeSet::new() };
        archive.directory("blobs/")?;
        archive.directory("blobs/sha256/")?;
        let mut manifests = Vec::new();
        let mut entries = Vec::new();
        let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for (id, tags) in &wanted {
            let image = self.resolve(&id.to_string())?;
            let config = self.store.read_blob(id)?;
            let describe = |media_type: &str, digest, size| Descriptor {
                media_type: media_type.to_owned(),
                digest,
                size,
                platform: None,
                annotations: BTreeMap::new(),
            };
            let manifest = json(&Manifest {
                schema_version: 2,
                media_type: Some(OCI_MANIFEST.to_owned()),
                config: describe(OCI_CONFIG, *id, config.len() as u64),
                layers: image
                    .layers
                    .iter()
                    .map(|layer| describe(&layer.media_type, layer.blob, layer.blob_size))
                    .collect(),
            })?;
            archive.blob(*id, &config)?;
            for layer in &image.layers {
                let failed = ImageError::io("read a layer");
                let file = File::open(self.store.blob_path(&layer.blob)).map_err(failed)?;
                archive.blob_file(layer.blob, file, layer.blob_size)?;
            }
            let digest = Digest::from_sha256(Sha256::digest(&manifest).into());
            archive.blob(digest, &manifest)?;
            let plain = describe(OCI_MANIFEST, digest, manifest.len() as u64);
            if tags.is_empty() {
                manifests.push(plain.clone());
            }
            for tag in tags {
                let mut named = plain.clone();
                let name = tag.tag().unwrap_or_default().to_owned();
                named.annotations.insert("io.containerd.image.name".into(), tag.to_string());
                named.annotations.insert("org.opencontainers.image.ref.name".into(), name.clone());
                manifests.push(named);
                let top = image.layers.last().map(|layer| layer.diff_id.hex()).unwrap_or_default();
                repositories.entry(tag.familiar_name()).or_default().insert(name, top);
            }
            entries.push(ArchiveEntry {
                config: format!("blobs/sha256/{}", id.hex()),
                repo_tags: (!tags.is_empty())
                    .then(|| tags.iter().map(Reference::familiar).collect()),
                layers: image
                    .layers
                    .iter()
                    .map(|layer| format!("blobs/sha256/{}", layer.blob.hex()))
                    .collect(),
            });
        }
        let index = Index { schema_version: 2, media_type: Some(OCI_INDEX.to_owned()), manifests };
        archive.file("index.json", &json(&index)?)?;
        archive.file("manifest.json", &json(&entries)?)?;
        archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        if !repositories.is_empty() {
            archive.file("repositories", &json(&repositories)?)?;
        }
        archive.finish()
    }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| ImageError::Invalid(format!("a document of the archive: {error}")))
}

struct Saved<W: Write> {
    builder: Builder<W>,
    done: BTreeSet<Digest>,
}

impl<W: Write> Saved<W> {
    fn header(size: u64, directory: bool) -> Header {
        let mut header = Header::new_ustar();
        header.set_size(size);
        header.set_mode(if directory { 0o755 } else { 0o644 });
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_entry_type(if directory { EntryType::Directory } else { EntryType::Regular });
        header
    }

    fn directory(&mut self, name: &str) -> Result<()> {
        let mut header = Self::header(0, true);
        let result = self.builder.append_data(&mut header, name, std::io::empty());
        result.map_err(ImageError::io("write the archive"))
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut header = Self::header(bytes.len() as u64, false);
        let result = self.builder.append_data(&mut header, name, bytes);
        result.map_err(ImageError::io("write the archive"))
    }

    fn blob(&mut self, digest: Digest, bytes: &[u8]) -> Result<()> {
        if !self.done.insert(digest) {
            return Ok(());
        }
        self.file(&format!("blobs/sha256/{}", digest.hex()), bytes)
    }

    fn blob_file(&mut self, digest: Digest, file: File, size: u64) -> Result<()> {
        if !self.done.insert(digest) {
            return Ok(());
        }
        let mut header = Self::header(size, false);
        let name = format!("blobs/sha256/{}", digest.hex());
        let result = self.builder.append_data(&mut header, name, file);
        result.map_err(ImageError::io("write the archive"))
    }

    fn finish(self) -> Result<()> {
        let mut out = self.builder.into_inner().map_err(ImageError::io("write the archive"))?;
        out.flush().map_err(ImageError::io("write the archive"))
    }
}
