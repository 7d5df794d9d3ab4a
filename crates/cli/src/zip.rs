//! Zip archives in memory, as far as contexts come in them: stored and deflated files.

use std::io::Read as _;

use flate2::Crc;
use flate2::read::DeflateDecoder;

const END: &[u8] = b"PK\x05\x06";
const ENTRY: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";
/// How long the end's record is without its remark, and the longest remark.
const END_SIZE: usize = 22;
const MAX_REMARK: usize = 0xffff;
const UNIX: u8 = 3;
const FORMAT: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;

/// What is wrong, as Go's library words it.
const INVALID: &str = "zip: not a valid zip file";
const METHOD: &str = "zip: unsupported compression algorithm";
const CHECKSUM: &str = "zip: checksum error";
const SIZE: &str = "the archive's files are too large";

fn half(bytes: &[u8], at: usize) -> Option<usize> {
    let two = bytes.get(at..at + 2)?;
    Some(usize::from(u16::from_le_bytes([two[0], two[1]])))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
}

fn size(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(word(bytes, at)?).ok()
}

/// One entry of the archive's list.
#[derive(Debug)]
struct Entry<'a> {
    name: String,
    method: usize,
    crc: u32,
    data: &'a [u8],
    /// As the list says; no more is read.
    size: usize,
}

/// Names and contents of the regular files, in the list's order; of all no more than `most` bytes.
pub fn files(archive: &[u8], most: usize) -> Result<Vec<(String, Vec<u8>)>, &'static str> {
    let mut left = most;
    let mut out = Vec::new();
    for entry in entries(archive).ok_or(INVALID)? {
        left = left.checked_sub(entry.size).ok_or(SIZE)?;
        let mut text = Vec::new();
        // One more than there should be is seen.
        let limit = entry.size as u64 + 1;
        let read = match entry.method {
            0 => entry.data.take(limit).read_to_end(&mut text),
            8 => DeflateDecoder::new(entry.data).take(limit).read_to_end(&mut text),
            _ => return Err(METHOD),
        };
        read.map_err(|_| INVALID)?;
        let mut crc = Crc::new();
        crc.update(&text);
        if text.len() != entry.size || crc.sum() != entry.crc {
            return Err(CHECKSUM);
        }
        out.push((entry.name, text));
    }
    Ok(out)
}

/// The list at the archive's end; none where it is not one.
fn entries(archive: &[u8]) -> Option<Vec<Entry<'_>>> {
    let last = archive.len().checked_sub(END_SIZE)?;
    let end = (last.saturating_sub(MAX_REMARK)..=last)
        .rev()
        .find(|at| archive[*at..].starts_with(END))?;
    let (count, mut at) = (half(archive, end + 10)?, size(archive, end + 16)?);
    let mut out = Vec::new();
    for _ in 0..count {
        let head = archive.get(at..at + 46).filter(|head| head.starts_with(ENTRY))?;
        let lengths = (half(head, 28)?, half(head, 30)?, half(head, 32)?);
        let name = archive.get(at + 46..at + 46 + lengths.0)?;
        let name = String::from_utf8_lossy(name).into_owned();
        let place = size(head, 42)?;
        let mode = if head[5] == UNIX { word(head, 38)? >> 16 & FORMAT } else { 0 };
        if !name.ends_with('/') && (mode == 0 || mode == REGULAR) {
            let local = archive.get(place..).filter(|local| local.starts_with(LOCAL))?;
            let start = 30 + half(local, 26)? + half(local, 28)?;
            out.push(Entry {
                name,
                method: half(head, 10)?,
                crc: word(head, 16)?,
                data: local.get(start..start.checked_add(size(head, 20)?)?)?,
                size: size(head, 24)?,
            });
        }
        at += 46 + lengths.0 + lengths.1 + lengths.2;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By Python's own library: one file stored, one deflated, a directory.
    const ARCHIVE: &[u8] = include_bytes!("../golden/context.zip");

    #[test]
    fn what_another_program_wrote() {
        let files = files(ARCHIVE, 1 << 20).unwrap();
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["meta.json", "tls/docker/ca.pem"]);
        assert!(files[0].1.starts_with(b"{\"Name\":\"zipped\""));
        assert_eq!(files[1].1, b"pem".repeat(100));
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(files(ARCHIVE, 100), Err(SIZE));
        assert_eq!(files(b"PK\x03\x04", 100), Err(INVALID));
        // Whatever is changed or missing, there is an answer.
        for length in 0..ARCHIVE.len() {
            assert!(files(&ARCHIVE[..length], 1 << 20).is_err());
            let mut changed = ARCHIVE.to_vec();
            changed[length] ^= 0xff;
            let _ = files(&changed, 1 << 20);
        }
    }
}
