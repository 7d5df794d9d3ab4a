//! Unpacked layers. A layer is visible when it is complete and on the disk.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::{Result, Store, io_error, sync_directory};

/// A layer on its way in.
pub struct NewLayer {
    store: Store,
    path: PathBuf,
    kept: bool,
}

impl Store {
    /// The directory that overlay uses for a layer, or would.
    pub fn layer_path(&self, key: &str) -> PathBuf {
        self.root().join("layers").join(key).join("fs")
    }

    pub fn has_layer(&self, key: &str) -> bool {
        self.layer_path(key).exists()
    }

    pub fn new_layer(&self) -> Result<NewLayer> {
        let path = self.fresh("ingest");
        let fs = path.join("fs");
        std::fs::create_dir_all(&fs).map_err(io_error("create", &fs))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&fs, mode).map_err(io_error("create", &fs))?;
        Ok(NewLayer { store: self.clone(), path, kept: false })
    }
}

impl NewLayer {
    /// Where its files go.
    pub fn fs(&self) -> PathBuf {
        self.path.join("fs")
    }

    /// Makes it visible: data, sync of the file system, rename, directory sync. One sync for all
    /// of its files. Somebody else may have been faster: theirs is as good.
    pub fn commit(mut self, key: &str) -> Result<()> {
        let directory = File::open(&self.path).map_err(io_error("open", &self.path))?;
        rustix::fs::syncfs(&directory)
            .map_err(|errno| io_error("sync", &self.path)(errno.into()))?;
        let layers: PathBuf = self.store.root().join("layers");
        let target: &Path = &layers.join(key);
        match std::fs::rename(&self.path, target) {
            Ok(()) => self.kept = true,
            Err(_) if target.exists() => {}
            Err(error) => return Err(io_error("rename", &self.path)(error)),
        }
        sync_directory(&layers)
    }
}

impl Drop for NewLayer {
    fn drop(&mut self) {
        if !self.kept {
            let _ = self.store.discard(&self.path);
        }
    }
}
