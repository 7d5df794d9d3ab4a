//! Older files of a log, compressed and as they were.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use rustix::fs::MemfdFlags;

/// A compressed file that claims to hold more was not written by us.
const MOST: u64 = 8 << 30;

/// The name of a compressed file.
pub(crate) fn compressed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    name.into()
}

/// Puts the compressed file beside the other and takes that away. At any moment one is whole.
pub(crate) fn compress(path: &Path) -> io::Result<()> {
    let done = compressed(path);
    let mut making = done.clone().into_os_string();
    making.push(".tmp");
    let file = File::options().create(true).write(true).truncate(true).mode(0o640).open(&making)?;
    let mut encoder = GzEncoder::new(file, Compression::fast());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?.flush()?;
    std::fs::rename(&making, &done)?;
    std::fs::remove_file(path)
}

/// What a compressed file holds, as a file without a name.
pub(crate) fn expand(file: &File) -> io::Result<File> {
    let mut out = File::from(rustix::fs::memfd_create("log", MemfdFlags::CLOEXEC)?);
    let mut decoder = GzDecoder::new(file).take(MOST);
    match io::copy(&mut decoder, &mut out) {
        // The end of a damaged one is lost, what came before is not.
        Ok(_) => Ok(out),
        Err(error) if matches!(error.kind(), io::ErrorKind::OutOfMemory) => Err(error),
        Err(_) => Ok(out),
    }
}
