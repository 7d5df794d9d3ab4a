//! Use cases of volumes, and what containers do with them.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;

use hoy_rootfd::{Links, RootFd};
use hoy_store::{Durability, Op};
use hoy_types::Timestamp;
use hoy_volumes::{Seen, Volume, VolumeError, VolumeRequest};
use hoy_wire as wire;
use rustix::fs::{FileType, Mode, OFlags};

use crate::engine::{Engine, Inner};
use crate::error::{Error, Result, failed, lost};
use crate::mounts::{self, Wanted};
use crate::record::{MountKind, MountRecord, Record};

/// Volumes that were made for one container alone, while they have none: they go, whatever becomes
/// of the daemon meanwhile.
const ORPHAN: &str = "orphan";

fn orphan(name: &str) -> Op {
    Op::Put { kind: ORPHAN, key: name.to_owned(), body: Vec::new() }
}

fn no_orphan(name: &str) -> Op {
    Op::Delete { kind: ORPHAN, key: name.to_owned() }
}

/// The names of those that were made for the container alone.
fn of_its_own(mounts: &[MountRecord]) -> impl Iterator<Item = &str> {
    mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Volume { name, anonymous: true, .. } => Some(name.as_str()),
        _ => None,
    })
}

/// Together with a container's record: its own volumes are no orphans any more.
pub(crate) fn adopted(mounts: &[MountRecord]) -> impl Iterator<Item = Op> {
    of_its_own(mounts).map(no_orphan)
}

/// Together with the end of the record.
pub(crate) fn orphaned(mounts: &[MountRecord]) -> impl Iterator<Item = Op> {
    of_its_own(mounts).map(orphan)
}

pub(crate) fn volume_error(error: VolumeError) -> Error {
    let kind = error.kind();
    Error::new(kind, error.to_string()).with_source(error)
}

impl Engine {
    /// What `volume ls` shows, without filters, and what went wrong with which plugin.
    pub async fn volumes(&self) -> Result<(Vec<Seen>, Vec<String>)> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || inner.volumes.survey()).await.map_err(lost)
    }

    pub async fn volume(&self, name: &str) -> Result<wire::Volume> {
        let inner = Arc::clone(&self.inner);
        let named = name.to_owned();
        let seen = tokio::task::spawn_blocking(move || inner.volumes.look(&named));
        Ok(self.volume_seen(seen.await.map_err(lost)?.map_err(volume_error)?))
    }

    /// What is known of a volume without asking its plugin.
    pub fn volume_shown(&self, volume: &Volume) -> wire::Volume {
        self.volume_seen(self.inner.volumes.remembered(Arc::new(volume.clone())))
    }

    pub fn volume_seen(&self, seen: Seen) -> wire::Volume {
        let filled = |map: &BTreeMap<String, String>| (!map.is_empty()).then(|| map.clone());
        let volume = &seen.volume;
        let created_at = if seen.created.is_empty() {
            Timestamp::from_parts(volume.created.seconds(), 0).to_string()
        } else {
            seen.created
        };
        wire::Volume {
            created_at,
            driver: volume.driver.clone(),
            labels: filled(&volume.labels),
            mountpoint: seen.mountpoint,
            name: volume.name.clone(),
            options: filled(&volume.options),
            scope: seen.scope.to_owned(),
            status: seen.status,
            ..wire::Volume::default()
        }
    }

    /// Whether no container names it.
    pub fn volume_unused(&self, name: &str) -> bool {
        self.inner.volumes.users(name).is_empty()
    }

    /// Makes a volume, or gives the one that is there already.
    pub async fn volume_create(&self, request: VolumeRequest) -> Result<wire::Volume> {
        let inner = Arc::clone(&self.inner);
        let made = tokio::task::spawn_blocking(move || inner.volumes.create(request));
        let (volume, new) = made.await.map_err(lost)?.map_err(volume_error)?;
        if new {
            self.inner.volume_event("create", &volume, &[]);
        }
        if volume.is_local() {
            return Ok(self.volume_shown(&volume));
        }
        // It is there whatever its plugin says now.
        let told = self.volume(&volume.name).await;
        told.or_else(|_| Ok(self.volume_shown(&volume)))
    }

    /// Lets a volume with a limit hold more, also while containers run with it.
    pub async fn volume_grow(&self, name: &str, size: &str) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        let (name, size) = (name.to_owned(), size.to_owned());
        let grown = tokio::task::spawn_blocking(move || inner.volumes.grow(&name, &size));
        let volume = grown.await.map_err(lost)?.map_err(volume_error)?;
        self.inner.volume_event("update", &volume, &[]);
        Ok(())
    }

    /// Removes a volume that no container names.
    pub async fn volume_remove(&self, name: &str, force: bool) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        let named = name.to_owned();
        let removed = tokio::task::spawn_blocking(move || match force {
            true => inner.volumes.remove_by_force(&named),
            false => inner.volumes.remove(&named),
        });
        match removed.await.map_err(lost)? {
            Ok(volume) => {
                self.inner.volume_event("destroy", &volume, &[]);
                Ok(())
            }
            Err(VolumeError::NotFound(_)) if force => Ok(()),
            Err(error) => Err(volume_error(error)),
        }
    }
}

impl Inner {
    pub(crate) fn volume_event(&self, action: &str, volume: &Volume, extra: &[(&str, String)]) {
        let mut attributes = BTreeMap::from([("driver".to_owned(), volume.driver.clone())]);
        attributes.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        self.event("volume", action, &volume.name, attributes);
    }

    /// What a request's mounts are, before anything is made.
    pub(crate) fn wanted_mounts(
        &self,
        host: &wire::HostConfig,
        declared: &BTreeMap<String, wire::Empty>,
    ) -> Result<Vec<Wanted>> {
        let mut others = Vec::new();
        for text in host.volumes_from.iter().flatten() {
            let (name, writable) = mounts::parse_volumes_from(text)?;
            // A status that clients do not take for a missing image, as Docker's.
            let other = self.registry.find(name);
            let other = other.map_err(|error| Error::invalid(error.to_string()))?;
            others.push((other.record(), writable));
        }
        let mut wanted = mounts::wanted(host, declared.keys(), &others)?;
        for one in &mut wanted {
            match &mut one.mount.kind {
                MountKind::Bind { source, create: false, .. }
                    if one.own
                        && std::fs::symlink_metadata(&source).is_err()
                        && self.socket_for(source).is_none() =>
                {
                    return Err(Error::invalid(format!(
                        "invalid mount config for type \"bind\": bind source path does not exist: \
                         {source}"
                    )));
                }
                MountKind::Image { source, layers, .. } if one.own => {
                    // As with --volumes-from: it is not the container's own image that is missing.
                    let image = self.image_for(source);
                    let image = image.map_err(|error| Error::invalid(error.to_string()))?;
                    *layers = image.layers.iter().map(|layer| layer.key.clone()).collect();
                }
                _ => {}
            }
        }
        Ok(wanted)
    }

    /// Takes the volumes of a new container: makes those that are missing and fills empty ones.
    /// What was made for it alone is gone again if this fails.
    pub(crate) fn claim_volumes(
        &self,
        container: &str,
        layers: &[String],
        mut wanted: Vec<Wanted>,
    ) -> Result<Vec<MountRecord>> {
        let mut orphans = Vec::new();
        for request in wanted.iter_mut().filter_map(|one| one.volume.as_mut()) {
            if request.name.is_empty() {
                request.name = hoy_volumes::random_name().map_err(volume_error)?;
                request.anonymous = true;
                orphans.push(orphan(&request.name));
            }
        }
        if !orphans.is_empty() {
            // Until there is a container that has them.
            let written = self.store.write(orphans, Durability::Written);
            written.map_err(failed("write to the database"))?;
        }
        let mut out: Vec<MountRecord> = Vec::new();
        for one in wanted {
            match self.claim_volume(container, layers, one) {
                Ok(mount) => out.push(mount),
                Err(error) => {
                    self.release_volumes(container, &out, true);
                    return Err(error);
                }
            }
        }
        Ok(out)
    }

    fn claim_volume(
        &self,
        container: &str,
        layers: &[String],
        wanted: Wanted,
    ) -> Result<MountRecord> {
        let Wanted { mut mount, volume: Some(request), own } = wanted else {
            return Ok(wanted.mount);
        };
        let (volume, new) = self.volumes.claim(request, container).map_err(volume_error)?;
        if new {
            self.volume_event("create", &volume, &[]);
        }
        if own {
            mounts::shown_mode(&mut mount, &volume.driver);
        }
        let target = mount.target.clone();
        if let MountKind::Volume { name, driver, .. } = &mut mount.kind {
            name.clone_from(&volume.name);
            driver.clone_from(&volume.driver);
        }
        let copy = matches!(&mount.kind, MountKind::Volume { copy: true, .. });
        if copy && let Err(error) = self.fill_volume(&volume, layers, &target) {
            self.release_volumes(container, std::slice::from_ref(&mount), true);
            return Err(error);
        }
        Ok(mount)
    }

    /// The first contents of a volume are what the image has at the target.
    fn fill_volume(&self, volume: &Volume, layers: &[String], target: &str) -> Result<()> {
        let doing = "look into the image";
        let ticket = self.images.layers(layers.to_vec()).map_err(failed(doing))?;
        if ticket.layers.is_empty() {
            return Ok(());
        }
        let root = hoy_runtime::image_root(&ticket.layers).map_err(failed(doing))?;
        let found = match RootFd::new(root).handle(target, Links::Inside) {
            Ok(found) => found,
            Err(error) if error.is_missing() => return Ok(()),
            Err(error) => return Err(failed(doing)(error)),
        };
        let stat = rustix::fs::fstat(&found).map_err(failed(doing))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(Error::invalid(format!(
                "cannot mount volume over existing file, file exists {target}"
            )));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let from = rustix::fs::openat(&found, ".", flags, Mode::empty()).map_err(failed(doing))?;
        self.volumes.populate(&volume.name, from.as_fd()).map_err(volume_error)?;
        Ok(())
    }

    /// A container is no more, or never came to be: its volumes are free, and those that were made
    /// for it alone go with it if `anonymous` says so.
    pub(crate) fn release_volumes(&self, container: &str, mounts: &[MountRecord], anonymous: bool) {
        self.volumes.let_go(container);
        for name in of_its_own(mounts).filter(|_| anonymous) {
            self.remove_orphan(name);
        }
    }

    /// Removes a volume that was made for one container, and what says that it is to go.
    fn remove_orphan(&self, name: &str) {
        match self.volumes.remove(name) {
            Ok(volume) => self.volume_event("destroy", &volume, &[]),
            // Others have it through --volumes-from, or it was removed by hand.
            Err(VolumeError::Conflict(_) | VolumeError::NotFound(_)) => {}
            Err(error) => tracing::warn!(volume = name, %error, "remove an anonymous volume"),
        }
        self.store.write_later(vec![no_orphan(name)]);
    }

    /// What a daemon that was killed had made for a container that never came to be, or had not
    /// yet removed with its container.
    pub(crate) fn remove_orphans(&self) {
        let orphans = match self.store.documents(ORPHAN) {
            Ok(orphans) => orphans,
            Err(error) => return tracing::warn!(%error, "look for volumes that nobody has"),
        };
        for (name, _) in orphans {
            self.remove_orphan(&name);
        }
    }

    /// For a start: where each volume lies, by name; and its own files are there.
    pub(crate) fn attach_volumes(&self, record: &Record) -> Result<BTreeMap<String, PathBuf>> {
        self.attach_layer(record)?;
        let mut out = BTreeMap::new();
        for mount in &record.mounts {
            let MountKind::Volume { name, .. } = &mount.kind else { continue };
            if out.contains_key(name) {
                continue;
            }
            match self.volumes.attach(name, record.key()) {
                Ok(path) => drop(out.insert(name.clone(), path)),
                Err(error) => {
                    self.detach_volumes(record);
                    let at = self.volumes.get(name).map(|known| self.volumes.mountpoint(&known));
                    let at = at.unwrap_or_default();
                    let message =
                        format!("error while mounting volume '{}': {error}", at.display());
                    return Err(Error::new(error.kind(), message).with_source(error));
                }
            }
        }
        Ok(out)
    }

    /// After the end; also of what was not attached.
    pub(crate) fn detach_volumes(&self, record: &Record) {
        for name in record.volumes() {
            if let Err(error) = self.volumes.detach(name, record.key()) {
                tracing::warn!(volume = name, %error, "let go of a volume");
            }
        }
        self.detach_layer(record);
    }

    pub(crate) fn volume_events(&self, action: &str, record: &Record) {
        for mount in &record.mounts {
            let MountKind::Volume { name, driver, .. } = &mount.kind else { continue };
            let mut attributes = BTreeMap::from([
                ("driver".to_owned(), driver.clone()),
                ("container".to_owned(), record.key().to_owned()),
            ]);
            if action == "mount" {
                attributes.insert("destination".into(), mount.target.clone());
                attributes.insert("propagation".into(), mount.propagation.clone());
                attributes.insert("read/write".into(), (!mount.readonly).to_string());
            }
            self.event("volume", action, name, attributes);
        }
    }

    /// What containers of before this daemon name and run with.
    pub(crate) fn take_up_volumes(&self, records: &[Record]) {
        for record in records {
            for name in record.volumes() {
                self.volumes.claimed(name, record.key());
                if record.state.phase.is_alive() {
                    self.volumes.attached(name, record.key());
                }
            }
        }
    }

    /// Where a volume is shown to be.
    pub(crate) fn volume_place(&self, name: &str) -> String {
        match self.volumes.get(name) {
            Ok(volume) => self.volumes.mountpoint(&volume).display().to_string(),
            Err(_) => String::new(),
        }
    }
}

impl Record {
    /// The names of its volumes; one may come twice.
    pub(crate) fn volumes(&self) -> impl Iterator<Item = &str> {
        self.mounts.iter().filter_map(|mount| match &mount.kind {
            MountKind::Volume { name, .. } => Some(name.as_str()),
            _ => None,
        })
    }

    /// The store's keys of its own layers and of those of images that are mounted in it.
    pub(crate) fn used_layers(&self) -> Vec<String> {
        let mounted = self.mounts.iter().filter_map(|mount| match &mount.kind {
            MountKind::Image { layers, .. } => Some(layers),
            _ => None,
        });
        std::iter::once(&self.layers).chain(mounted).flatten().cloned().collect()
    }
}
