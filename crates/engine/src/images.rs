//! Use cases of images.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use hoy_images::{ImageError, ImageRecord, Removed, User};
use hoy_types::{Digest, Reference, Timestamp};
use hoy_wire as wire;
use tokio::sync::mpsc;

use crate::engine::Engine;
use crate::error::{Error, Result, lost};

/// Pieces of a download that may wait to be unpacked.
const FETCHED_AHEAD: usize = 8;

pub(crate) fn image_error(error: ImageError) -> Error {
    Error::new(error.kind(), error.to_string()).with_source(error)
}

/// A request's body as a blocking reader.
pub struct BodyReader {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl BodyReader {
    pub fn new(chunks: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self { chunks, current: Bytes::new() }
    }
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.current.len());
        buffer[..length].copy_from_slice(&self.current.split_to(length));
        Ok(length)
    }
}

/// A response's body as a blocking writer.
struct BodyWriter(mpsc::Sender<io::Result<Bytes>>);

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = Bytes::copy_from_slice(&bytes[..bytes.len().min(64 * 1024)]);
        let length = bytes.len();
        self.0.blocking_send(Ok(bytes)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn created(image: &ImageRecord) -> i64 {
    let text = image.document.created.as_deref().unwrap_or_default();
    text.parse::<Timestamp>().map_or(0, |time| time.seconds())
}

pub(crate) fn config(image: &ImageRecord) -> wire::ImageConfig {
    serde_json::from_value(image.document.config.clone()).unwrap_or_default()
}

pub(crate) fn removed_items(removed: Vec<Removed>) -> Vec<wire::ImageDeleteItem> {
    let shown = |removed| match removed {
        Removed::Untagged(name) => {
            wire::ImageDeleteItem { untagged: name, ..wire::ImageDeleteItem::default() }
        }
        Removed::Deleted(id) => {
            wire::ImageDeleteItem { deleted: id, ..wire::ImageDeleteItem::default() }
        }
    };
    removed.into_iter().map(shown).collect()
}

impl Engine {
    /// With the labels of one that is (still) there.
    pub(crate) fn image_event(&self, action: &str, id: Digest, name: &str) {
        let image = self.inner.images.get(id);
        let mut attributes = image.map(|image| config(&image).labels).unwrap_or_default();
        attributes.insert("name".to_owned(), name.to_owned());
        self.inner.event("image", action, &id.to_string(), attributes);
    }

    /// What has gone of these images, in order: the names of each before itself. Layers go with
    /// them and are not told.
    pub(crate) fn removal_events(&self, of: &[Digest], removed: &[Removed]) {
        let image = |one: &Removed| match one {
            Removed::Deleted(id) => id.parse().ok().filter(|id: &Digest| of.contains(id)),
            Removed::Untagged(_) => None,
        };
        for (at, one) in removed.iter().enumerate() {
            let next = || removed[at..].iter().find_map(image).or(of.first().copied());
            let (action, id) = match one {
                Removed::Untagged(_) => ("untag", next()),
                Removed::Deleted(_) => ("delete", image(one)),
            };
            if let Some(id) = id {
                self.image_event(action, id, &id.to_string());
            }
        }
    }

    pub fn image_list(&self, filters: &[(String, Vec<String>)]) -> Result<Vec<wire::ImageSummary>> {
        for (name, _) in filters {
            if !matches!(name.as_str(), "reference" | "dangling" | "label" | "label!") {
                let known = matches!(name.as_str(), "before" | "since" | "until");
                return Err(if known {
                    Error::unavailable(format!("the filter {name}"))
                } else {
                    Error::invalid(format!("invalid filter '{name}'"))
                });
            }
        }
        let mut out = Vec::new();
        let mut users: BTreeMap<Digest, i64> = BTreeMap::new();
        for handle in self.inner.registry.all() {
            *users.entry(handle.record().image).or_default() += 1;
        }
        for (image, names) in self.inner.images.list() {
            let config = config(&image);
            let mut names: Vec<Reference> = names;
            let wanted = filters.iter().all(|(filter, values)| match filter.as_str() {
                "reference" => {
                    names.retain(|name| {
                        values.iter().any(|pattern| matches_reference(pattern, name))
                    });
                    !names.is_empty()
                }
                "dangling" => {
                    let dangling = values.iter().any(|v| matches!(v.as_str(), "true" | "1"));
                    names.is_empty() == dangling
                }
                negated => values.iter().all(|value| {
                    let (key, expected) = value.split_once('=').unwrap_or((value, ""));
                    let found = config.labels.get(key);
                    let has = found.is_some_and(|v| !value.contains('=') || v == expected);
                    has != (negated == "label!")
                }),
            });
            if !wanted {
                continue;
            }
            let size = image.size() as i64;
            out.push(wire::ImageSummary {
                containers: users.get(&image.id).copied().unwrap_or(0),
                created: created(&image),
                id: image.id.to_string(),
                labels: if config.labels.is_empty() { None } else { Some(config.labels) },
                repo_digests: Some(Vec::new()),
                repo_tags: Some(names.iter().map(Reference::familiar).collect()),
                shared_size: -1,
                size,
                ..wire::ImageSummary::default()
            });
        }
        out.sort_by_key(|image| std::cmp::Reverse(image.created));
        Ok(out)
    }

    fn resolve_image(&self, name: &str) -> Result<Arc<ImageRecord>> {
        self.inner.images.resolve(name).map_err(image_error)
    }

    pub fn image_inspect(&self, name: &str) -> Result<wire::ImageInspect> {
        let image = self.resolve_image(name)?;
        let names = self.inner.images.names(image.id);
        let document = &image.document;
        let paths: Vec<String> = image
            .layers
            .iter()
            .rev()
            .map(|layer| self.inner.store.layer_path(&layer.key).display().to_string())
            .collect();
        let mut data = BTreeMap::new();
        if let Some((top, below)) = paths.split_first() {
            data.insert("UpperDir".to_owned(), top.clone());
            if !below.is_empty() {
                data.insert("LowerDir".to_owned(), below.join(":"));
            }
        }
        Ok(wire::ImageInspect {
            id: image.id.to_string(),
            repo_tags: Some(names.iter().map(Reference::familiar).collect()),
            repo_digests: Some(Vec::new()),
            parent: image
                .parent
                .filter(|parent| self.inner.images.get(*parent).is_some())
                .map_or_else(String::new, |parent| parent.to_string()),
            comment: document
                .history
                .last()
                .map(|step| step.comment.clone())
                .filter(|comment| !comment.is_empty())
                .unwrap_or_else(|| document.comment.clone()),
            created: document.created.clone().unwrap_or_default(),
            docker_version: document.docker_version.clone(),
            author: document.author.clone(),
            config: Some(config(&image)),
            architecture: document.architecture.clone(),
            variant: document.variant.clone(),
            os: document.os.clone(),
            size: image.size() as i64,
            graph_driver: wire::DriverData { name: "overlay2".into(), data: Some(data) },
            root_fs: wire::ImageRootFs {
                kind: "layers".into(),
                layers: document.rootfs.diff_ids.iter().map(Digest::to_string).collect(),
            },
            metadata: wire::ImageMetadata { last_tag_time: image.tagged },
            ..wire::ImageInspect::default()
        })
    }

    pub fn image_history(&self, name: &str) -> Result<Vec<wire::ImageHistoryItem>> {
        let image = self.resolve_image(name)?;
        let names = self.inner.images.names(image.id);
        let mut layers = image.layers.iter();
        let mut out: Vec<wire::ImageHistoryItem> = Vec::new();
        for step in &image.document.history {
            let size =
                if step.empty_layer { 0 } else { layers.next().map_or(0, |l| l.size as i64) };
            let time = step.created.as_deref().unwrap_or_default().parse::<Timestamp>();
            out.push(wire::ImageHistoryItem {
                comment: step.comment.clone(),
                created: time.map_or(0, |time| time.seconds()),
                created_by: step.created_by.clone(),
                id: "<missing>".into(),
                size,
                tags: None,
            });
        }
        if let Some(last) = out.last_mut() {
            last.id = image.id.to_string();
            last.tags = Some(names.iter().map(Reference::familiar).collect());
        }
        out.reverse();
        Ok(out)
    }

    pub async fn image_tag(&self, name: &str, repo: &str, tag: &str) -> Result<()> {
        let image = self.resolve_image(name)?;
        let invalid = |error: hoy_types::ReferenceError| Error::invalid(error.to_string());
        let mut reference: Reference = repo.parse().map_err(invalid)?;
        if !tag.is_empty() {
            reference = reference.with_tag(tag).map_err(invalid)?;
        }
        let (images, target) = (self.inner.images.clone(), reference.clone());
        let tagged = tokio::task::spawn_blocking(move || images.tag(image.id, &target));
        tagged.await.map_err(lost)?.map_err(image_error)?;
        self.image_event(
            "tag",
            self.resolve_image(name)?.id,
            &reference.with_default_tag().familiar(),
        );
        Ok(())
    }

    pub async fn image_remove(
        &self,
        name: &str,
        force: bool,
    ) -> Result<Vec<wire::ImageDeleteItem>> {
        let engine = self.clone();
        let text = name.to_owned();
        let of: Vec<Digest> =
            self.resolve_image(name).ok().map(|image| image.id).into_iter().collect();
        let removed = tokio::task::spawn_blocking(move || {
            let users = |id: Digest| {
                let all = engine.inner.registry.all().into_iter();
                let of = all.map(|handle| handle.record()).filter(|record| record.image == id);
                of.map(|record| User {
                    container: record.id.short().to_owned(),
                    running: record.state.phase.is_up(),
                })
                .collect()
            };
            let keys = || engine.inner.used_layers();
            engine.inner.images.remove(&text, force, users, keys)
        });
        let removed = removed.await.map_err(lost)?.map_err(image_error)?;
        self.removal_events(&of, &removed);
        Ok(removed_items(removed))
    }

    /// What `load` says of each image.
    pub async fn image_load(&self, body: BodyReader) -> Result<Vec<String>> {
        let images = self.inner.images.clone();
        let loaded = tokio::task::spawn_blocking(move || images.load(body));
        let loaded = loaded.await.map_err(lost)?.map_err(image_error)?;
        Ok(loaded
            .into_iter()
            .map(|(name, id)| {
                self.image_event("load", id, &id.to_string());
                match name {
                    Some(name) => format!("Loaded image: {}\n", name.familiar()),
                    None => format!("Loaded image ID: {id}\n"),
                }
            })
            .collect())
    }

    /// The new image's id.
    pub async fn image_import(
        &self,
        body: BodyReader,
        repo: &str,
        tag: &str,
        changes: Vec<String>,
        message: String,
    ) -> Result<String> {
        let invalid = |error: hoy_types::ReferenceError| Error::invalid(error.to_string());
        let mut name = None;
        if !repo.is_empty() {
            let mut reference: Reference = repo.parse().map_err(invalid)?;
            if !tag.is_empty() {
                reference = reference.with_tag(tag).map_err(invalid)?;
            }
            name = Some(reference);
        }
        let images = self.inner.images.clone();
        let tagged = name.clone();
        let imported =
            tokio::task::spawn_blocking(move || images.import(body, name, &changes, &message));
        let id = imported.await.map_err(lost)?.map_err(image_error)?;
        if let Some(name) = tagged {
            self.image_event("tag", id, &name.with_default_tag().familiar());
        }
        self.image_event("import", id, &id.to_string());
        Ok(id.to_string())
    }

    /// As [`Self::image_import`], from a URL that the daemon fetches.
    pub async fn image_import_url(
        &self,
        url: &str,
        repo: &str,
        tag: &str,
        changes: Vec<String>,
        message: String,
    ) -> Result<String> {
        let (sender, receiver) = mpsc::channel(FETCHED_AHEAD);
        let body = BodyReader::new(receiver);
        let import = self.image_import(body, repo, tag, changes, message);
        let (fetched, imported) = tokio::join!(hoy_images::fetch(url, sender), import);
        fetched.map_err(image_error)?;
        imported
    }

    /// An archive of images, piece by piece; what is missing is an error before the first.
    pub fn image_save(&self, names: Vec<String>) -> Result<mpsc::Receiver<io::Result<Bytes>>> {
        if names.is_empty() {
            return Err(Error::invalid("no image names were given"));
        }
        self.inner.images.check_names(&names).map_err(image_error)?;
        for image in names.iter().filter_map(|name| self.resolve_image(name).ok()) {
            self.image_event("save", image.id, &image.id.to_string());
        }
        let (sender, receiver) = mpsc::channel(8);
        let images = self.inner.images.clone();
        tokio::task::spawn_blocking(move || {
            let out = io::BufWriter::with_capacity(64 * 1024, BodyWriter(sender.clone()));
            if let Err(error) = images.save(&names, out) {
                // The client sees a broken transfer, not a short archive.
                let _ = sender.blocking_send(Err(io::Error::other(error.to_string())));
            }
        });
        Ok(receiver)
    }

    /// Registries come with a later release; the text is what a client shows for one that cannot
    /// be reached.
    pub fn image_pull(&self, name: &str, tag: &str) -> Result<()> {
        let mut reference: Reference =
            name.parse().map_err(|e: hoy_types::ReferenceError| Error::invalid(e.to_string()))?;
        if !tag.is_empty() && reference.digest().is_none() {
            reference = reference
                .with_tag(tag)
                .map_err(|e: hoy_types::ReferenceError| Error::invalid(e.to_string()))?;
        }
        Err(Error::unavailable(format!(
            "pulling {} from a registry",
            reference.with_default_tag().familiar()
        ))
        .hint("bring the image in with `load` or `import`"))
    }
}

/// `*` matches within one component, as Docker's path patterns.
fn matches_reference(pattern: &str, name: &Reference) -> bool {
    let full = name.familiar();
    let bare = name.familiar_name();
    [full.as_str(), bare.as_str()].iter().any(|text| glob(pattern.as_bytes(), text.as_bytes()))
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            glob(rest, text)
                || text.split_first().is_some_and(|(c, after)| *c != b'/' && glob(pattern, after))
        }
        (Some((b'?', rest)), Some((c, after))) => *c != b'/' && glob(rest, after),
        (Some((p, rest)), Some((c, after))) => p == c && glob(rest, after),
        _ => false,
    }
}
