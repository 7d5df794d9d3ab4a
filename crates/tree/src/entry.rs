//! What an entry of an archive says.

use std::borrow::Cow;
use std::io::{self, Read};

use rustix::fs::{Timespec, Timestamps};
use tar::Entry;

use crate::sparse::Sparse;

/// The longest path that the kernel takes.
const MAX_PATH: usize = 4096;

/// Something in the archive is not as it must be.
pub fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// What an entry says of its owner, mode, times and extended attributes.
#[derive(Debug)]
pub struct Meta {
    /// Absent: whoever unpacks it.
    pub owner: Option<(u32, u32)>,
    pub mode: u32,
    pub times: Timestamps,
    pub xattrs: Vec<(String, Vec<u8>)>,
    pub sparse: Option<Sparse>,
}

/// `a/b/c` of whatever stands in an archive, by its text alone; what leads out of it is refused.
pub fn lexical(path: &[u8]) -> io::Result<String> {
    parts(path, |out| out.pop().is_some())
}

/// The same for archives in which no honest name has `..` at all.
pub fn downwards(path: &[u8]) -> io::Result<String> {
    parts(path, |_| false)
}

/// `up` does what `..` means, or says that it is refused.
fn parts(path: &[u8], up: impl Fn(&mut Vec<&str>) -> bool) -> io::Result<String> {
    let text = std::str::from_utf8(path)
        .map_err(|_| invalid("a name in the archive is not UTF-8".into()))?;
    if text.len() > MAX_PATH || text.contains('\0') {
        return Err(invalid("a name in the archive is too long or contains NUL".into()));
    }
    let mut out: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." if up(&mut out) => {}
            ".." => return Err(invalid(format!("invalid tar entry {text:?}: breakout"))),
            part => out.push(part),
        }
    }
    Ok(out.join("/"))
}

/// Where an entry that is a link leads, as it stands there.
pub fn link_target<'a, R: Read>(entry: &'a Entry<'_, R>) -> io::Result<Cow<'a, [u8]>> {
    entry.link_name_bytes().ok_or_else(|| invalid("a link to nothing".into()))
}

pub fn meta<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Meta> {
    let header = entry.header();
    let old = header.as_old();
    let mut uid = or_zero(&old.uid, || header.uid())?;
    let mut gid = or_zero(&old.gid, || header.gid())?;
    let mode = or_zero(&old.mode, || header.mode())? & 0o7777;
    let mut seconds = i64::try_from(or_zero(&old.mtime, || header.mtime())?).unwrap_or(0);
    let mut nanos = 0;
    let mut xattrs = Vec::new();
    let mut sparse: Option<Sparse> = None;
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions {
            let extension = extension?;
            let key = extension.key().map_err(|_| invalid("a PAX key is not UTF-8".into()))?;
            let text = || String::from_utf8_lossy(extension.value_bytes()).into_owned();
            let number =
                || text().parse::<u64>().map_err(|_| invalid(format!("invalid PAX {key}")));
            match key {
                "uid" => uid = number()?,
                "gid" => gid = number()?,
                "mtime" => {
                    let text = text();
                    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
                    seconds = whole
                        .parse()
                        .map_err(|_| invalid(format!("invalid PAX mtime {text:?}")))?;
                    let digits: String =
                        fraction.chars().chain("000000000".chars()).take(9).collect();
                    nanos = digits.parse().unwrap_or(0);
                }
                key => {
                    if let Some(key) = key.strip_prefix("GNU.sparse.") {
                        let sparse = sparse.get_or_insert_with(Sparse::default);
                        sparse.take(key, extension.value_bytes())?;
                    } else if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                        xattrs.push((name.to_owned(), extension.value_bytes().to_vec()));
                    }
                }
            }
        }
    }
    let id = |value: u64| {
        u32::try_from(value)
            .ok()
            .filter(|value| *value != u32::MAX)
            .ok_or_else(|| invalid(format!("an owner {value} that no system has")))
    };
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(Meta { owner: Some((id(uid)?, id(gid)?)), mode, times, xattrs, sparse })
}

/// A number in which nothing is written is zero, as it is to Docker: programs that write archives
/// of their own leave out what they have no value for.
fn or_zero<N: Default>(field: &[u8], read: impl FnOnce() -> io::Result<N>) -> io::Result<N> {
    if field.iter().all(|&byte| byte == 0 || byte == b' ') { Ok(N::default()) } else { read() }
}

pub fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_written_is_zero() {
        let mut header = tar::Header::new_ustar();
        header.set_size(0);
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_data(&mut header, "given", &b""[..]).expect("an archive");
        let bytes = archive.into_inner().expect("its bytes");
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut entry = archive.entries().expect("entries").next().expect("one").expect("read");
        let meta = meta(&mut entry).expect("zeros");
        assert_eq!((meta.owner, meta.mode), (Some((0, 0)), 0));
        assert_eq!(meta.times.last_modification.tv_sec, 0);

        let wrong = or_zero(b"12x\0", || tar::Header::new_ustar().uid());
        assert!(wrong.is_err(), "something that is no number is still refused: {wrong:?}");
    }
}
