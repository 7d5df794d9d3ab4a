//! The first contents of a volume, from the image.
//!
//! They are copied beside the data (`ingest`), made durable, and shown by one rename of that
//! directory to `ready`; from then on they are the volume's, and every entry moves to its place.
//! Who is killed in between leaves what the next daemon throws away, or what it goes on with.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Dir, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::copy::{copy_attributes, copy_tree, is_empty};

/// Not complete: to be thrown away.
const INGEST: &str = "ingest";
/// Complete and on the disk: to be put in place.
const READY: &str = "ready";
/// The data is being filled in its place.
const MARK: &str = "filling";
pub(crate) const DATA: &str = "_data";

fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Gives an empty volume what lies below `from`; the answer is whether it was empty.
pub(crate) fn populate(volume: &Path, from: BorrowedFd<'_>) -> io::Result<bool> {
    let data = open(&volume.join(DATA))?;
    if !is_empty(data.as_fd())? {
        return Ok(false);
    }
    let ingest = volume.join(INGEST);
    let made = std::fs::create_dir(&ingest).and_then(|()| {
        let target = open(&ingest)?;
        copy_tree(from, target.as_fd())?;
        // One for all files.
        rustix::fs::syncfs(&target)?;
        std::fs::rename(&ingest, volume.join(READY))?;
        std::fs::File::open(volume)?.sync_all()
    });
    if let Err(error) = made {
        let _ = std::fs::remove_dir_all(&ingest);
        return Err(error);
    }
    recover(volume)?;
    Ok(true)
}

/// Copies into what lies on another file system, where nothing can be made beside it.
pub(crate) fn populate_in_place(data: &Path, from: BorrowedFd<'_>) -> io::Result<bool> {
    let data = open(data)?;
    if !is_empty(data.as_fd())? {
        return Ok(false);
    }
    copy_tree(from, data.as_fd())?;
    rustix::fs::syncfs(&data)?;
    Ok(true)
}

/// The same in a directory with a limit, beside which nothing can be made: while the mark is there,
/// what it holds is not whole.
pub(crate) fn populate_marked(
    volume: &Path,
    data: &Path,
    from: BorrowedFd<'_>,
) -> io::Result<bool> {
    let opened = open(data)?;
    if !is_empty(opened.as_fd())? {
        return Ok(false);
    }
    std::fs::File::create(volume.join(MARK))?.sync_all()?;
    std::fs::File::open(volume)?.sync_all()?;
    let copied = copy_tree(from, opened.as_fd()).and_then(|_| Ok(rustix::fs::syncfs(&opened)?));
    if let Err(error) = copied {
        undo_marked(volume, data)?;
        return Err(error);
    }
    std::fs::remove_file(volume.join(MARK))?;
    std::fs::File::open(volume)?.sync_all()?;
    Ok(true)
}

/// Empties what was not filled to its end. Nobody has had it: its first container was not made.
pub(crate) fn undo_marked(volume: &Path, data: &Path) -> io::Result<()> {
    let mark = volume.join(MARK);
    if !mark.exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(data)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => std::fs::remove_dir_all(entry.path())?,
            false => std::fs::remove_file(entry.path())?,
        }
    }
    rustix::fs::syncfs(open(data)?)?;
    std::fs::remove_file(mark)?;
    std::fs::File::open(volume)?.sync_all()
}

/// Ends what a daemon before this one has begun.
pub(crate) fn recover(volume: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(volume.join(INGEST)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let ready = match open(&volume.join(READY)) {
        Ok(ready) => ready,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let data = open(&volume.join(DATA))?;
    for entry in Dir::read_from(&ready)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        // What somebody has put there meanwhile is theirs.
        match rustix::fs::renameat_with(&ready, name, &data, name, RenameFlags::NOREPLACE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    copy_attributes(ready.as_fd(), data.as_fd())?;
    rustix::fs::fsync(&data)?;
    std::fs::remove_dir_all(volume.join(READY))?;
    std::fs::File::open(volume)?.sync_all()
}
