//! As much of ELF as says whether a program can begin. Of the little-endian 64 bit kind what it
//! needs is read; of others only for which machine they are.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

const MAGIC: [u8; 4] = *b"\x7fELF";
const LOAD: u32 = 1;
const DYNAMIC: u32 = 2;
const INTERPRETER: u32 = 3;
const NEEDED: u64 = 1;
const STRINGS: u64 = 5;
const RPATH: u64 = 15;
const RUNPATH: u64 = 29;
/// Program headers and entries of the dynamic section that are looked at.
const HEADERS: usize = 64;
const ENTRIES: usize = 1024;
/// No path is longer.
const TEXT: usize = 4096;

/// What a file says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Image {
    pub machine: u16,
    pub interpreter: String,
    pub needed: Vec<String>,
    /// Where it looks for them first.
    pub path: Vec<String>,
}

fn bytes<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn half(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes(data, at)?))
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes(data, at)?))
}

fn long(data: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes(data, at)?))
}

fn read(file: &File, at: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    let read = file.read_at(&mut out, at).unwrap_or(0);
    out.truncate(read);
    out
}

fn text(file: &File, at: u64, length: usize) -> String {
    let found = read(file, at, length.min(TEXT));
    let end = found.iter().position(|byte| *byte == 0).unwrap_or(found.len());
    String::from_utf8_lossy(&found[..end]).into_owned()
}

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

/// `None` for what is no ELF.
pub(crate) fn read_image(file: &File) -> Option<Image> {
    let head = read(file, 0, 64);
    if head.get(..4)? != MAGIC {
        return None;
    }
    let little = head.get(5) == Some(&1);
    let machine =
        bytes(&head, 18).map(if little { u16::from_le_bytes } else { u16::from_be_bytes });
    let mut image = Image { machine: machine.unwrap_or(0), ..Image::default() };
    if little && head.get(4) == Some(&2) {
        // What is cut off leaves the rest unknown.
        let _ = read_segments(file, &head, &mut image);
    }
    Some(image)
}

fn read_segments(file: &File, head: &[u8], image: &mut Image) -> Option<()> {
    let (offset, count) = (long(head, 32)?, usize::from(half(head, 56)?).min(HEADERS));
    let table = read(file, offset, count * 56);
    let segments: Vec<Segment> = table
        .chunks_exact(56)
        .filter_map(|entry| {
            Some(Segment {
                kind: word(entry, 0)?,
                offset: long(entry, 8)?,
                address: long(entry, 16)?,
                size: long(entry, 32)?,
            })
        })
        .collect();
    let of = |kind: u32| segments.iter().find(|segment| segment.kind == kind);
    if let Some(found) = of(INTERPRETER) {
        image.interpreter = text(file, found.offset, usize::try_from(found.size).ok()?);
    }
    let dynamic = of(DYNAMIC)?;
    let size = usize::try_from(dynamic.size).ok()?.min(ENTRIES * 16);
    let entries: Vec<(u64, u64)> = read(file, dynamic.offset, size)
        .chunks_exact(16)
        .map_while(|entry| {
            let (tag, value) = (long(entry, 0)?, long(entry, 8)?);
            (tag != 0).then_some((tag, value))
        })
        .collect();
    let strings = entries.iter().find(|(tag, _)| *tag == STRINGS)?.1;
    let home = segments.iter().find(|segment| {
        segment.kind == LOAD
            && strings.checked_sub(segment.address).is_some_and(|inside| inside < segment.size)
    })?;
    let strings = home.offset.checked_add(strings - home.address)?;
    for (tag, value) in entries {
        let name = || strings.checked_add(value).map(|at| text(file, at, TEXT));
        match tag {
            NEEDED => image.needed.extend(name()),
            RPATH | RUNPATH => {
                let path = name().unwrap_or_default();
                image.path.extend(path.split(':').filter(|one| !one.is_empty()).map(str::to_owned));
            }
            _ => {}
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_program_of_this_machine_says_what_it_needs() {
        let image = read_image(&File::open("/bin/sh").unwrap()).unwrap();
        assert_ne!(image.machine, 0);
        if cfg!(target_pointer_width = "64") && !image.interpreter.is_empty() {
            assert!(image.interpreter.starts_with("/lib"), "{image:?}");
            assert!(image.needed.iter().any(|name| name.starts_with("libc.so")), "{image:?}");
        }
    }

    #[test]
    fn what_is_cut_off_or_wrong_is_no_trouble() {
        let whole = std::fs::read("/bin/sh").unwrap();
        for length in [0, 3, 4, 17, 20, 63, 64, 100, 500, 5000] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&whole[..length.min(whole.len())]).unwrap();
            assert_eq!(read_image(&file).is_some(), length >= 4);
        }
        for at in 0..600 {
            let mut file = tempfile::tempfile().unwrap();
            let mut broken = whole[..whole.len().min(8192)].to_vec();
            broken[at] ^= 0xff;
            file.write_all(&broken).unwrap();
            let _ = read_image(&file);
        }
    }
}
