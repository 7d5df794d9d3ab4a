//! Blobs by digest. A blob is visible when it is complete, verified and on the disk.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use hoy_types::Digest;
use sha2::{Digest as _, Sha256};

use crate::{Lease, Result, Store, StoreError, io_error, sync_directory};

/// A blob on its way in.
pub struct BlobWriter {
    store: Store,
    path: PathBuf,
    file: File,
    hash: Sha256,
    size: u64,
    kept: bool,
}

impl Store {
    /// Where a blob lies, or would.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root().join("blobs/sha256").join(digest.hex())
    }

    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_path(digest).exists()
    }

    /// The bytes of a small blob.
    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        std::fs::read(&path).map_err(io_error("read", &path))
    }

    pub fn new_blob(&self) -> Result<BlobWriter> {
        let path = self.fresh("ingest");
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(io_error("create", &path))?;
        Ok(BlobWriter {
            store: self.clone(),
            path,
            file,
            hash: Sha256::new(),
            size: 0,
            kept: false,
        })
    }

    /// Stores bytes at hand.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<(Digest, Lease)> {
        let mut writer = self.new_blob()?;
        let path = writer.path.clone();
        writer.write_all(bytes).map_err(io_error("write", &path))?;
        writer.commit(None, None)
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl BlobWriter {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Verifies and makes it visible: data, sync, rename, directory sync. The metadata that
    /// refers to it comes after; until then the lease keeps it.
    pub fn commit(mut self, digest: Option<Digest>, size: Option<u64>) -> Result<(Digest, Lease)> {
        let found = Digest::from_sha256(self.hash.clone().finalize().into());
        if let Some(expected) = size.filter(|expected| *expected != self.size) {
            return Err(StoreError::Size { expected, found: self.size });
        }
        if let Some(expected) = digest.filter(|expected| *expected != found) {
            return Err(StoreError::Digest { expected, found });
        }
        self.file.sync_all().map_err(io_error("sync", &self.path))?;
        let target = self.store.blob_path(&found);
        let lease = self.store.lease([found.hex()]);
        std::fs::rename(&self.path, &target).map_err(io_error("rename", &self.path))?;
        self.kept = true;
        if let Some(parent) = target.parent() {
            sync_directory(parent)?;
        }
        Ok((found, lease))
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
