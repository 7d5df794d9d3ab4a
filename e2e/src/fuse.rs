//! A file system that the test itself serves: one directory, with files that are slow or stuck.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const INIT: u32 = 26;
const BATCH_FORGET: u32 = 42;

const ROOT: u64 = 1;
/// The only file's node: there is no more than one that is found.
const FILE: u64 = 2;

const FOPEN_DIRECT_IO: u32 = 1;

/// What comes of looking for a name.
pub enum Found {
    Nothing,
    /// Who asks waits until the server is gone.
    Never,
    /// A file of this many bytes.
    File(u64),
}

/// What is in the directory; asked for one thing at a time.
pub trait Files: Send + 'static {
    fn find(&mut self, name: &[u8]) -> Found;

    /// A part of the file, never from a cache of the kernel's.
    fn read(&mut self, _offset: u64, length: usize) -> Vec<u8> {
        vec![0; length]
    }
}

/// A mounted one; its server ends when it is dropped.
pub struct Fuse {
    path: PathBuf,
    device: Option<Arc<File>>,
    in_tree: bool,
}

impl Fuse {
    /// In a directory that is there.
    pub fn mount(path: &Path, files: impl Files) -> Self {
        let device = File::options().read(true).write(true).open("/dev/fuse").expect("/dev/fuse");
        let data =
            format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other\0", device.as_raw_fd());
        let data = CStr::from_bytes_with_nul(data.as_bytes()).expect("mount data");
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("hoytest", path, "fuse", flags, data).expect("mount");
        let device = Arc::new(device);
        let weak = Arc::downgrade(&device);
        std::thread::spawn(move || {
            let mut server = Server { files, size: 0 };
            let mut buffer = vec![0; 1 << 17];
            loop {
                let Some(device) = weak.upgrade() else { return };
                // Not blocking, so that closing the device is not kept from happening.
                let mut fds = [rustix::event::PollFd::new(&*device, rustix::event::PollFlags::IN)];
                let moment = rustix::event::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
                if rustix::event::poll(&mut fds, Some(&moment)) != Ok(1) {
                    continue;
                }
                let Ok(length) = rustix::io::read(&*device, &mut buffer) else { continue };
                if let Some(answer) = server.answer(&buffer[..length]) {
                    let _ = rustix::io::write(&*device, &answer);
                }
            }
        });
        Self { path: path.to_owned(), device: Some(device), in_tree: true }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Out of the tree: who has opened a file may go on.
    pub fn detach(&mut self) {
        if std::mem::take(&mut self.in_tree) {
            rustix::mount::unmount(&self.path, rustix::mount::UnmountFlags::DETACH)
                .expect("umount");
        }
    }

    /// Ends the server: the kernel answers in its stead that it is gone.
    pub fn end(&mut self) {
        // First out of the tree, while the server still answers for its root.
        self.detach();
        self.device = None;
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        self.end();
    }
}

struct Server<F> {
    files: F,
    /// Of the file that was found.
    size: u64,
}

impl<F: Files> Server<F> {
    /// The whole answer, or none where none is due.
    fn answer(&mut self, request: &[u8]) -> Option<Vec<u8>> {
        let word = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().expect("4"));
        let long = |at: usize| u64::from_le_bytes(request[at..at + 8].try_into().expect("8"));
        let body: Result<Vec<u8>, i32> = match word(4) {
            INIT => {
                let mut out = vec![0; 64];
                out[0..4].copy_from_slice(&7_u32.to_le_bytes());
                out[4..8].copy_from_slice(&31_u32.to_le_bytes());
                out[20..24].copy_from_slice(&4096_u32.to_le_bytes());
                Ok(out)
            }
            GETATTR => {
                let mut out = vec![0; 16];
                out[0..8].copy_from_slice(&3600_u64.to_le_bytes());
                out.extend(self.attributes(long(16)));
                Ok(out)
            }
            LOOKUP => {
                let name = request[40..].split(|byte| *byte == 0).next().unwrap_or_default();
                match self.files.find(name) {
                    Found::Nothing => Err(-2),
                    Found::Never => return None,
                    Found::File(size) => {
                        self.size = size;
                        let mut out = vec![0; 40];
                        out[0..8].copy_from_slice(&FILE.to_le_bytes());
                        out[16..24].copy_from_slice(&3600_u64.to_le_bytes());
                        out[24..32].copy_from_slice(&3600_u64.to_le_bytes());
                        out.extend(self.attributes(FILE));
                        Ok(out)
                    }
                }
            }
            OPEN => {
                let mut out = vec![0; 16];
                out[8..12].copy_from_slice(&FOPEN_DIRECT_IO.to_le_bytes());
                Ok(out)
            }
            READ => {
                let (offset, wanted) = (long(48), u64::from(word(56)));
                let length = wanted.min(self.size.saturating_sub(offset));
                Ok(self.files.read(offset, usize::try_from(length).expect("length")))
            }
            FORGET | BATCH_FORGET => return None,
            _ => Err(-38),
        };
        let (error, body) = match body {
            Ok(body) => (0, body),
            Err(error) => (error, Vec::new()),
        };
        let length = u32::try_from(16 + body.len()).expect("length");
        Some([&length.to_le_bytes()[..], &error.to_le_bytes(), &request[8..16], &body].concat())
    }

    fn attributes(&self, node: u64) -> [u8; 88] {
        let (mode, links, size) = match node {
            ROOT => (0o040_755_u32, 2_u32, 0),
            _ => (0o100_600, 1, self.size),
        };
        let mut out = [0; 88];
        out[0..8].copy_from_slice(&node.to_le_bytes());
        out[8..16].copy_from_slice(&size.to_le_bytes());
        out[60..64].copy_from_slice(&mode.to_le_bytes());
        out[64..68].copy_from_slice(&links.to_le_bytes());
        out
    }
}
