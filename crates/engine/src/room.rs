//! Room for what a container writes: its own layer, with a limit or without (`--storage-opt size=`).
//!
//! With one, the directories of its layer lie in a directory of their own that is limited; that is
//! shown from the container's start to its end.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use hoy_wire::HostConfig;
use rustix::fs::Mode;

use crate::engine::{Engine, Inner};
use crate::error::{Error, Result, failed};
use crate::record::Record;
use crate::volumes::volume_error;

const SIZE: &str = "size";
/// The limited directory, in the container's.
const LIMITED: &str = "layer";
const UPPER: &str = "upper";
const WORK: &str = "work";
/// Of the root directory of a container.
const MODE: u32 = 0o755;

/// Whether a directory of a container's holds what it has written.
pub(crate) fn is_layer(name: &str) -> bool {
    matches!(name, UPPER | LIMITED)
}

/// The bytes that a container may write, if that is limited.
pub(crate) fn limit(host: &HostConfig) -> Result<Option<u64>> {
    let mut limit = None;
    for (name, value) in &host.storage_opt {
        if !name.eq_ignore_ascii_case(SIZE) {
            return Err(Error::invalid(format!("unknown option {name}")));
        }
        let bytes = hoy_types::parse_bytes(value).ok().and_then(|bytes| u64::try_from(bytes).ok());
        let bytes = bytes.ok_or_else(|| Error::invalid(format!("invalid size: '{value}'")))?;
        // As Docker has it: none.
        limit = (bytes > 0).then_some(bytes);
    }
    Ok(limit)
}

/// Whether what a container writes is limited.
pub(crate) fn is_limited(record: &Record) -> bool {
    !record.host.storage_opt.is_empty() && !matches!(limit(&record.host), Ok(None))
}

/// Says another limit, in people's words.
pub(crate) fn grown(host: &mut HostConfig, size: String) -> Result<()> {
    if limit(host)?.is_none() {
        return Err(Error::invalid(
            "what it writes has no limit that could grow: it was created without --storage-opt \
             size=",
        ));
    }
    host.storage_opt.clear();
    host.storage_opt.insert(SIZE.to_owned(), size);
    match limit(host)? {
        Some(_) => Ok(()),
        None => Err(Error::invalid("a limit can grow, but not be taken away")),
    }
}

impl Inner {
    fn limited_directory(&self, record: &Record) -> PathBuf {
        self.store.container_directory(record.key()).join(LIMITED)
    }

    /// Where the directories of a container's layer lie.
    pub(crate) fn layer_directory(&self, record: &Record) -> PathBuf {
        match is_limited(record) {
            true => self.limited_directory(record),
            false => self.store.container_directory(record.key()),
        }
    }

    pub(crate) fn make_directories(&self, record: &Record) -> Result<()> {
        let failed = || failed("make the container's directory");
        let directory = self.store.container_directory(record.key());
        std::fs::create_dir(&directory).map_err(failed())?;
        if let Some(bytes) = limit(&record.host)? {
            let made =
                self.volumes.quotas().limited(&self.limited_directory(record), bytes, |inside| {
                    for name in [UPPER, WORK] {
                        rustix::fs::mkdirat(inside, name, Mode::from_raw_mode(MODE))?;
                    }
                    let upper = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
                    let upper = rustix::fs::openat(inside, UPPER, upper, Mode::empty())?;
                    Ok(rustix::fs::fchmod(upper, Mode::from_raw_mode(MODE))?)
                });
            return made.map_err(volume_error);
        }
        for name in [UPPER, WORK] {
            std::fs::create_dir(directory.join(name)).map_err(failed())?;
        }
        let mode = std::fs::Permissions::from_mode(MODE);
        std::fs::set_permissions(directory.join(UPPER), mode).map_err(failed())
    }

    /// For a start.
    pub(crate) fn attach_layer(&self, record: &Record) -> Result<()> {
        match is_limited(record) {
            true => {
                let directory = self.limited_directory(record);
                self.volumes.quotas().attach(&directory).map_err(volume_error)
            }
            false => Ok(()),
        }
    }

    /// After the end; again is fine.
    pub(crate) fn detach_layer(&self, record: &Record) {
        if is_limited(record)
            && let Err(error) = self.volumes.quotas().detach(&self.limited_directory(record))
        {
            tracing::warn!(container = record.id.short(), %error, "let go of the layer");
        }
    }

    pub(crate) fn grow_layer(&self, record: &Record) -> Result<()> {
        let Some(bytes) = limit(&record.host)? else { return Ok(()) };
        self.volumes.quotas().grow(&self.limited_directory(record), bytes).map_err(volume_error)
    }

    /// A container's directory is out of sight, and what limits it is taken away.
    pub(crate) fn discard_container(
        &self,
        record: &Record,
    ) -> std::result::Result<(), hoy_store::StoreError> {
        let leaving = match is_limited(record) {
            true => self.volumes.quotas().leave(&self.limited_directory(record)).ok(),
            false => None,
        };
        self.store.discard(&self.store.container_directory(record.key()))?;
        if let Some(leaving) = leaving {
            leaving.gone();
        }
        Ok(())
    }

    /// What a daemon before this one has left mounted for containers that do not live, or are not
    /// there. Volumes have looked after theirs already.
    pub(crate) fn settle_room(&self) {
        let root = self.store.root();
        let (containers, volumes) = (root.join("containers"), root.join("volumes"));
        let lives = |directory: &Path| {
            let id = directory.parent().and_then(Path::file_name).unwrap_or_default();
            let found = self.registry.find(&id.to_string_lossy());
            found.is_ok_and(|handle| handle.record().state.phase.is_alive())
        };
        self.volumes.quotas().settle(|directory| {
            directory.starts_with(&volumes)
                || (directory.starts_with(&containers) && lives(directory))
        });
    }
}

impl Engine {
    /// Lets a container write more, also while it runs.
    pub async fn container_grow(&self, id: &str, size: String) -> Result<()> {
        let handle = self.find(id)?;
        handle.ask(|done| crate::driver::Command::Grow { size, done }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, value: &str) -> HostConfig {
        let mut host = HostConfig::default();
        host.storage_opt.insert(name.to_owned(), value.to_owned());
        host
    }

    #[test]
    fn words_for_limits() {
        assert_eq!(limit(&HostConfig::default()).unwrap(), None);
        assert_eq!(limit(&host("size", "10m")).unwrap(), Some(10 << 20));
        assert_eq!(limit(&host("SIZE", "2G")).unwrap(), Some(2 << 30));
        assert_eq!(limit(&host("size", "0")).unwrap(), None);
        assert_eq!(limit(&host("inodes", "1")).unwrap_err().to_string(), "unknown option inodes");
        assert_eq!(limit(&host("size", "x")).unwrap_err().to_string(), "invalid size: 'x'");
        let mut grows = host("size", "1m");
        grown(&mut grows, "2m".to_owned()).unwrap();
        assert_eq!(limit(&grows).unwrap(), Some(2 << 20));
        assert!(grown(&mut grows, "0".to_owned()).is_err());
        assert!(grown(&mut HostConfig::default(), "2m".to_owned()).is_err());
    }
}
