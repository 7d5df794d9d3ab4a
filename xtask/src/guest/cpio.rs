//! An archive for the kernel to unpack at boot: cpio, the "newc" form.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};

const DIRECTORY: u32 = 0o040_000;
const CHARACTER: u32 = 0o020_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// What lies below /usr on today's systems, and is reached through links from the root.
const MERGED: &[&str] = &["bin", "sbin", "lib", "lib64"];

/// An archive being written. Names are absolute; parents are made by themselves, and what is added
/// twice is kept once.
pub struct Archive {
    out: BufWriter<File>,
    names: BTreeSet<String>,
    written: u64,
}

impl Archive {
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        let out = BufWriter::with_capacity(1 << 20, file);
        let mut archive = Self { out, names: BTreeSet::new(), written: 0 };
        for name in MERGED {
            archive.directory(&format!("/usr/{name}"), 0o755)?;
            archive.link(&format!("/{name}"), &format!("usr/{name}"))?;
        }
        Ok(archive)
    }

    pub fn directory(&mut self, name: &str, mode: u32) -> Result<()> {
        self.add(name, DIRECTORY | mode, (0, 0), &[])
    }

    pub fn link(&mut self, name: &str, target: &str) -> Result<()> {
        self.add(name, SYMLINK | 0o777, (0, 0), target.as_bytes())
    }

    pub fn character_device(&mut self, name: &str, major: u32, minor: u32) -> Result<()> {
        self.add(name, CHARACTER | 0o600, (major, minor), &[])
    }

    pub fn file(&mut self, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.add(name, REGULAR | mode, (0, 0), bytes)
    }

    /// A file of this machine, links followed.
    pub fn copy(&mut self, from: &Path, name: &str, mode: u32) -> Result<()> {
        if self.names.contains(&merged(name)) {
            return Ok(());
        }
        let bytes = std::fs::read(from).with_context(|| format!("read {}", from.display()))?;
        self.file(name, mode, &bytes)
    }

    /// A directory of this machine with all that is in it.
    pub fn copy_tree(&mut self, from: &Path, name: &str) -> Result<()> {
        let failed = || format!("read {}", from.display());
        self.directory(name, 0o755)?;
        for entry in std::fs::read_dir(from).with_context(failed)? {
            let entry = entry.with_context(failed)?;
            let inside = format!("{name}/{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                self.copy_tree(&entry.path(), &inside)?;
            } else {
                self.copy(&entry.path(), &inside, 0o644)?;
            }
        }
        Ok(())
    }

    /// Ends the archive; the answer is its size.
    pub fn finish(mut self) -> Result<u64> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]).context("write the archive")?;
        self.out.flush().context("write the archive")?;
        Ok(self.written)
    }

    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), bytes: &[u8]) -> Result<()> {
        let name = merged(name);
        if self.names.contains(&name) {
            return Ok(());
        }
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.directory(&format!("/{parent}"), 0o755)?;
        }
        self.entry(&name, mode, device, bytes).with_context(|| format!("archive {name}"))?;
        self.names.insert(name);
        Ok(())
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), bytes: &[u8]) -> io::Result<()> {
        let too_large = |_| io::Error::other("too large for cpio");
        let size = u32::try_from(bytes.len()).map_err(too_large)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_large)?;
        // A number of its own, or the kernel would take files for links of each other.
        let inode = u32::try_from(self.names.len() + 1).map_err(too_large)?;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let (major, minor) = device;
        let fields = [inode, mode, 0, 0, links, 1, size, 0, 0, major, minor, name_size, 0];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        self.put(header.as_bytes())?;
        self.put(name.as_bytes())?;
        self.put(&[0])?;
        self.pad()?;
        self.put(bytes)?;
        self.pad()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn pad(&mut self) -> io::Result<()> {
        let rest = (4 - self.written % 4) % 4;
        self.put(&[0; 3][..rest as usize])
    }
}

/// The name as it is in the archive: without the leading slash, and below usr where that is where
/// the root's links lead.
fn merged(name: &str) -> String {
    let name = name.trim_start_matches('/');
    match name.split_once('/') {
        Some((first, _)) if MERGED.contains(&first) => format!("usr/{name}"),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// An independent reader finds what was put in.
    #[test]
    fn another_program_reads_it() {
        let directory = std::env::temp_dir().join(format!("hoy-cpio-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("archive");
        let mut archive = Archive::create(&path).unwrap();
        archive.file("/bin/tool", 0o755, b"odd").unwrap();
        archive.file("/usr/bin/tool", 0o755, b"again").unwrap();
        archive.link("/a/link", "../bin/tool").unwrap();
        archive.finish().unwrap();
        let line = "busybox cpio -idm <archive && cat bin/tool a/link && stat -c %a a/link usr/bin";
        let output = Command::new("sh").args(["-ec", line]).current_dir(&directory).output();
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(String::from_utf8_lossy(&output.unwrap().stdout), "oddodd777\n755\n");
    }
}
