//! `load`: archives of `docker save`, old and new, and OCI layouts.

use std::collections::BTreeMap;
use std::io::{self, Read, Write as _};
use std::sync::Mutex;

use hoy_oci::{Descriptor, Either, ImageDocument, OCI_LAYER, host_architecture};
use hoy_store::Lease;
use hoy_types::{Digest, Reference};

use crate::archive::Archive;
use crate::{ImageError, ImageRecord, Images, LayerRecord, Result, fixup, now};

/// An image in an archive, before anything of it is stored.
struct Candidate {
    config: Vec<u8>,
    /// Name in the archive, and the digest and size that it must have.
    layers: Vec<(String, Option<(Digest, u64)>)>,
    names: Vec<Reference>,
}

/// Layers unpacked at the same time.
const PARALLEL: usize = 4;

impl Images {
    /// Loads all images of an archive. Says what became of each: a name, or an id.
    pub fn load(&self, source: impl Read) -> Result<Vec<(Option<Reference>, Digest)>> {
        let archive = Archive::receive(&self.store, source)?;
        let candidates = if archive.has("manifest.json") {
            docker(&archive)?
        } else if archive.has("index.json") {
            layout(&archive)?
        } else {
            return Err(ImageError::Invalid(
                "invalid archive: neither manifest.json nor index.json is in it".into(),
            ));
        };
        let mut loaded = Vec::new();
        for candidate in candidates {
            let names = candidate.names.clone();
            let id = self.bring_in(&archive, candidate)?;
            if names.is_empty() {
                loaded.push((None, id));
            }
            loaded.extend(names.into_iter().map(|name| (Some(name), id)));
        }
        Ok(loaded)
    }

    fn bring_in(&self, archive: &Archive, candidate: Candidate) -> Result<Digest> {
        let document = ImageDocument::parse(&candidate.config)?;
        check(&document, candidate.layers.len())?;
        let mut blobs = Vec::new();
        for (name, expected) in &candidate.layers {
            blobs.push(self.store_blob(archive.open(name)?, *expected)?);
        }
        self.assemble(&candidate.config, document, blobs, &candidate.names)
    }

    /// Copies a layer's archive into the store.
    pub(crate) fn store_blob(
        &self,
        mut source: impl Read,
        expected: Option<(Digest, u64)>,
    ) -> Result<StoredBlob> {
        let mut writer = self.store.new_blob()?;
        let size = io::copy(&mut source, &mut writer).map_err(ImageError::io("store a layer"))?;
        writer.flush().map_err(ImageError::io("store a layer"))?;
        let (digest, lease) =
            writer.commit(expected.map(|(digest, _)| digest), expected.map(|(_, size)| size))?;
        Ok(StoredBlob { digest, size, _lease: lease })
    }

    /// From verified blobs to a known image: unpack, verify, fix up, record.
    pub(crate) fn assemble(
        &self,
        config: &[u8],
        document: ImageDocument,
        blobs: Vec<StoredBlob>,
        names: &[Reference],
    ) -> Result<Digest> {
        let chains = chain_ids(&document.rootfs.diff_ids);
        let diff_ids = document.rootfs.diff_ids.clone();
        let keys = diff_ids.iter().chain(&chains).map(Digest::hex);
        let _lease = self.store.lease(keys.collect::<Vec<_>>());
        let fresh = self.unpack_missing(&diff_ids, &chains, &blobs)?;
        let mut layers: Vec<LayerRecord> = Vec::new();
        for (index, unpacked) in fresh.into_iter().enumerate() {
            let (key, size) = match unpacked {
                Made::Known { key, size } => (key, size),
                Made::New { layer, size, implied } => {
                    // Alone it can be shared by its own digest; else only above these parents.
                    let key = if implied.is_empty() || index == 0 {
                        diff_ids[index].hex()
                    } else {
                        let below: Vec<_> =
                            layers.iter().map(|layer| self.store.layer_path(&layer.key)).collect();
                        let below: Vec<_> = below.iter().map(|path| path.as_path()).collect();
                        fixup::apply(&layer.fs(), &implied, &below)
                            .map_err(ImageError::io("complete a layer"))?;
                        chains[index].hex()
                    };
                    layer.commit(&key)?;
                    (key, size)
                }
            };
            layers.push(LayerRecord {
                diff_id: diff_ids[index],
                key,
                blob: blobs[index].digest,
                blob_size: blobs[index].size,
                media_type: self.media_type(&blobs[index].digest)?,
                size,
            });
        }
        let (id, _document) = self.store.put_blob(config)?;
        self.record(ImageRecord { id, layers, document, tagged: now(), parent: None }, names)?;
        Ok(id)
    }

    pub(crate) fn media_type(&self, blob: &Digest) -> Result<String> {
        let failed = ImageError::io("look at a layer");
        let file = std::fs::File::open(self.store.blob_path(blob)).map_err(failed)?;
        let (_, suffix) =
            crate::compression::plain(file).map_err(ImageError::io("look at a layer"))?;
        Ok(format!("{OCI_LAYER}{suffix}"))
    }

    /// Unpacks what is not there, several at a time.
    fn unpack_missing(
        &self,
        diff_ids: &[Digest],
        chains: &[Digest],
        blobs: &[StoredBlob],
    ) -> Result<Vec<Made>> {
        let known: BTreeMap<String, u64> = self
            .list()
            .iter()
            .flat_map(|(image, _)| image.layers.clone())
            .map(|layer| (layer.key, layer.size))
            .collect();
        let results: Vec<Mutex<Option<Result<Made>>>> =
            diff_ids.iter().map(|_| Mutex::new(None)).collect();
        let next = std::sync::atomic::AtomicUsize::new(0);
        let work = || {
            loop {
                let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let Some(slot) = results.get(index) else { return };
                let made = self.unpack_one(&diff_ids[index], &chains[index], &blobs[index], &known);
                *slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(made);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..PARALLEL.min(diff_ids.len()) {
                scope.spawn(work);
            }
            work();
        });
        let take = |slot: Mutex<Option<Result<Made>>>| {
            slot.into_inner()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .unwrap_or_else(|| Err(ImageError::Invalid("a layer was not unpacked".into())))
        };
        results.into_iter().map(take).collect()
    }

    fn unpack_one(
        &self,
        diff_id: &Digest,
        chain: &Digest,
        blob: &StoredBlob,
        known: &BTreeMap<String, u64>,
    ) -> Result<Made> {
        for key in [chain.hex(), diff_id.hex()] {
            if let (true, Some(size)) = (self.store.has_layer(&key), known.get(&key)) {
                return Ok(Made::Known { key, size: *size });
            }
        }
        let layer = self.store.new_layer()?;
        let done = self.worker.unpack(&self.store.blob_path(&blob.digest), &layer.fs())?;
        if done.diff_id != *diff_id {
            return Err(ImageError::Invalid(format!(
                "layer {}: its content has the digest {}, the image says {diff_id}",
                blob.digest, done.diff_id
            )));
        }
        Ok(Made::New { layer, size: done.size, implied: done.implied })
    }
}

/// A layer's archive in the store, leased.
pub(crate) struct StoredBlob {
    pub digest: Digest,
    pub size: u64,
    _lease: Lease,
}

enum Made {
    Known { key: String, size: u64 },
    New { layer: hoy_store::NewLayer, size: u64, implied: Vec<String> },
}

/// ChainID(n) = sha256(ChainID(n-1) " " DiffID(n)).
pub(crate) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    use sha2::{Digest as _, Sha256};
    let mut out: Vec<Digest> = Vec::new();
    for diff_id in diff_ids {
        out.push(match out.last() {
            None => *diff_id,
            Some(parent) => {
                let text = format!("{parent} {diff_id}");
                Digest::from_sha256(Sha256::digest(text.as_bytes()).into())
            }
        });
    }
    out
}

fn check(document: &ImageDocument, layers: usize) -> Result<()> {
    let invalid = |text: String| Err(ImageError::Invalid(text));
    if document.rootfs.diff_ids.len() != layers {
        return invalid(format!(
            "invalid image: {layers} layers, but {} diff ids",
            document.rootfs.diff_ids.len()
        ));
    }
    let host = host_architecture();
    let os = if document.os.is_empty() { "linux" } else { &document.os };
    let architecture = if document.architecture.is_empty() { host } else { &document.architecture };
    if os != "linux" || architecture != host {
        return invalid(format!(
            "the image is for {os}/{architecture}; this machine runs linux/{host}"
        ));
    }
    Ok(())
}

fn docker(archive: &Archive) -> Result<Vec<Candidate>> {
    let entries = hoy_oci::parse_archive(&archive.document("manifest.json")?)?;
    let candidate = |entry: hoy_oci::ArchiveEntry| -> Result<Candidate> {
        let names = entry.repo_tags.unwrap_or_default();
        let parse = |name: &String| {
            name.parse::<Reference>()
                .map_err(|error| ImageError::Invalid(format!("invalid tag {name:?}: {error}")))
        };
        Ok(Candidate {
            config: verified(&entry.config, archive.document(&entry.config)?)?,
            layers: entry.layers.into_iter().map(|name| expected(name, None)).collect(),
            names: names.iter().map(parse).collect::<Result<_>>()?,
        })
    };
    entries.into_iter().map(candidate).collect()
}

/// A name that is a digest says what the content must be.
fn expected(name: String, size: Option<u64>) -> (String, Option<(Digest, u64)>) {
    let digest = name.strip_prefix("blobs/sha256/").and_then(|hex| Digest::from_hex(hex).ok());
    let pair = digest.zip(size);
    (name, pair)
}

fn verified(name: &str, bytes: Vec<u8>) -> Result<Vec<u8>> {
    use sha2::{Digest as _, Sha256};
    let stem = name.rsplit('/').next().unwrap_or(name).trim_end_matches(".json");
    if let Ok(wanted) = Digest::from_hex(stem) {
        let found = Digest::from_sha256(Sha256::digest(&bytes).into());
        if found != wanted {
            return Err(hoy_store::StoreError::Digest { expected: wanted, found }.into());
        }
    }
    Ok(bytes)
}

fn blob_name(descriptor: &Descriptor) -> String {
    format!("blobs/sha256/{}", descriptor.digest.hex())
}

fn layout(archive: &Archive) -> Result<Vec<Candidate>> {
    let index = hoy_oci::parse_index(&archive.document("index.json")?)?;
    let mut out = Vec::new();
    for descriptor in &index.manifests {
        if descriptor.annotations.contains_key("vnd.docker.reference.type") {
            continue;
        }
        let names = names(&descriptor.annotations)?;
        if let Some(candidate) = choose(archive, descriptor, names, 0)? {
            out.push(candidate);
        }
    }
    if out.is_empty() {
        return Err(ImageError::Invalid(format!(
            "no image for linux/{} is in the archive",
            host_architecture()
        )));
    }
    Ok(out)
}

fn names(annotations: &BTreeMap<String, String>) -> Result<Vec<Reference>> {
    let full = annotations.get("io.containerd.image.name");
    let short = annotations
        .get("org.opencontainers.image.ref.name")
        // Often only a tag, which names nothing by itself.
        .filter(|name| name.contains([':', '/']));
    match full.or(short) {
        Some(name) => match name.parse::<Reference>() {
            Ok(name) => Ok(vec![name.with_default_tag()]),
            Err(error) => Err(ImageError::Invalid(format!("invalid name {name:?}: {error}"))),
        },
        None => Ok(Vec::new()),
    }
}

fn choose(
    archive: &Archive,
    descriptor: &Descriptor,
    names: Vec<Reference>,
    depth: u32,
) -> Result<Option<Candidate>> {
    let platform = descriptor.platform.as_ref();
    if platform.is_some_and(|p| p.os != "linux" || p.architecture != host_architecture()) {
        return Ok(None);
    }
    let name = blob_name(descriptor);
    let bytes = verified(&name, archive.document(&name)?)?;
    if bytes.len() as u64 != descriptor.size {
        let found = bytes.len() as u64;
        return Err(hoy_store::StoreError::Size { expected: descriptor.size, found }.into());
    }
    match Either::parse(&bytes, &descriptor.media_type)? {
        Either::Index(_) if depth >= 3 => {
            Err(ImageError::Invalid("indexes within indexes within indexes".into()))
        }
        Either::Index(index) => {
            for inner in &index.manifests {
                if inner.annotations.contains_key("vnd.docker.reference.type") {
                    continue;
                }
                if let Some(found) = choose(archive, inner, names.clone(), depth + 1)? {
                    return Ok(Some(found));
                }
            }
            Ok(None)
        }
        Either::Manifest(manifest) => {
            let config_name = blob_name(&manifest.config);
            let config = verified(&config_name, archive.document(&config_name)?)?;
            let layers = manifest
                .layers
                .iter()
                .map(|layer| expected(blob_name(layer), Some(layer.size)))
                .collect();
            Ok(Some(Candidate { config, layers, names }))
        }
    }
}
