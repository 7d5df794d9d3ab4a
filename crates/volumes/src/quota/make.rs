//! An ext4 in a file, made by the programs that people make theirs with.

use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{Result, VolumeError};

/// Where programs of administrators are, in a service's PATH or not.
const PLACES: &str = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin";
/// It writes a few megabytes, even for terabytes.
const DEADLINE: Duration = Duration::from_secs(60);

/// Said in full: what is made must not depend on a machine's /etc/mke2fs.conf. Neither `quota` nor
/// `project`, with which kernels without quotas do not mount it.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,\
                        flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,\
                        metadata_csum";

pub(super) const BLOCK: u64 = 4096;
/// One for each block: bytes run out before inodes do. Tables that nobody uses take no room.
const BYTES_PER_INODE: u64 = BLOCK;
const INODE: u64 = 256;
const BLOCKS_PER_GROUP: u64 = 32768;

/// How large the file has to be at least, so that there are so many bytes for files.
pub(super) fn first_guess(bytes: u64) -> u64 {
    let table = BLOCKS_PER_GROUP * BLOCK / BYTES_PER_INODE * INODE / BLOCK;
    let bitmaps = 2;
    let for_files = BLOCKS_PER_GROUP - table - bitmaps;
    let blocks = bytes.div_ceil(BLOCK);
    let whole = blocks / for_files * BLOCKS_PER_GROUP;
    let rest = blocks % for_files;
    (whole + rest + rest * table / for_files) * BLOCK + journal(bytes)
}

/// It takes room of the disk as it is written: not more than is good for anything.
fn journal(bytes: u64) -> u64 {
    match bytes {
        0..0x400_0000 => 4 << 20,
        0x400_0000..0x4000_0000 => 16 << 20,
        _ => 64 << 20,
    }
}

fn find(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&path).chain(std::env::split_paths(PLACES));
    all.map(|place| place.join(name)).find(|program| program.is_file()).ok_or_else(|| {
        VolumeError::Driver(format!(
            "to limit the size of a directory on this file system the program {name} is needed, \
             which is in the package e2fsprogs"
        ))
    })
}

/// Makes it in a file that is as large as it is to be. Nothing is written where zeros are.
pub(super) fn make_ext4(file: &Path, bytes: u64) -> Result<()> {
    let mut command = Command::new(find("mkfs.ext4")?);
    command
        .args(["-q", "-F", "-m", "0", "-O", FEATURES, "-L", "hoy"])
        .args(["-b", &BLOCK.to_string(), "-I", &INODE.to_string()])
        .args(["-i", &BYTES_PER_INODE.to_string()])
        .args(["-J", &format!("size={}", journal(bytes) >> 20)])
        .args(["-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0"])
        .arg(file);
    run("mkfs.ext4", &mut command, 0)
}

/// Grows one that nobody has mounted to so many of its blocks; the file is as large already.
pub(super) fn grow_ext4(file: &Path, blocks: u64) -> Result<()> {
    // Without this the other one refuses. 1: it has found something to put right.
    run("e2fsck", Command::new(find("e2fsck")?).args(["-f", "-p"]).arg(file), 1)?;
    let mut command = Command::new(find("resize2fs")?);
    run("resize2fs", command.arg(file).arg(blocks.to_string()), 0)
}

/// What one of them does; `worst` is the greatest exit code of success.
fn run(program: &str, command: &mut Command, worst: i32) -> Result<()> {
    let failed = VolumeError::io("run", program);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let failed = || VolumeError::io("wait for", program);
    let ended = wait(&mut child);
    if !ended.as_ref().is_ok_and(|ended| *ended) {
        let _ = child.kill();
    }
    let status = child.wait().map_err(failed())?;
    if !ended.map_err(failed())? {
        return Err(VolumeError::Driver(format!(
            "{program} has not ended within {} s",
            DEADLINE.as_secs()
        )));
    }
    if status.code().is_some_and(|code| code <= worst) {
        return Ok(());
    }
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr {
        // Whatever it has said is in the pipe by now.
        let _ = stderr.take(4096).read_to_end(&mut said);
    }
    let how = match status.signal() {
        Some(signal) => format!("was ended by signal {signal}"),
        None => format!("failed with {}", status.code().unwrap_or_default()),
    };
    let said = String::from_utf8_lossy(&said);
    Err(VolumeError::Driver(format!("{program} {how}: {}", said.trim())))
}

/// Whether it has ended in time.
fn wait(child: &mut Child) -> std::io::Result<bool> {
    let pid = rustix::process::Pid::from_child(child);
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    let started = std::time::Instant::now();
    loop {
        let Some(left) = DEADLINE.checked_sub(started.elapsed()) else { return Ok(false) };
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_too_large() {
        for bytes in [1 << 20, 100 << 20, 1 << 30, 100 << 30] {
            let guess = first_guess(bytes);
            assert!(guess > bytes && guess < bytes + bytes / 10 + (65 << 20), "{bytes}: {guess}");
            assert_eq!(guess % BLOCK, 0);
        }
    }
}
