//! Files with holes as PAX archives write them: formats 0.0, 0.1 and 1.0 of GNU tar.
//!
//! The archive says where the data of the file lies; it says nothing that is believed before it
//! was checked: pieces are in order, inside of the file, and as long as the data there is.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};

/// More pieces than any honest file has.
const MAX_PIECES: usize = 1 << 20;
/// The map of format 1.0 is a list of decimal numbers, one per line.
const MAX_DIGITS: usize = 20;
const BLOCK: usize = 512;

/// What the extended header says of a file with holes.
#[derive(Debug, Default)]
pub struct Sparse {
    /// The file's own name: the header's is an invented one.
    pub name: Option<Vec<u8>>,
    real_size: Option<u64>,
    major: u64,
    /// Offsets and lengths, one after the other, in formats 0.x.
    numbers: Vec<u64>,
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a file with holes: {text}"))
}

impl Sparse {
    /// Takes one `GNU.sparse.KEY`.
    pub fn take(&mut self, key: &str, value: &[u8]) -> io::Result<()> {
        let text = std::str::from_utf8(value).map_err(|_| invalid("a header is not UTF-8"))?;
        let number = |text: &str| text.parse::<u64>().map_err(|_| invalid("a number is none"));
        match key {
            "name" => self.name = Some(value.to_vec()),
            "realsize" | "size" => self.real_size = Some(number(text)?),
            "major" => self.major = number(text)?,
            "offset" | "numbytes" => self.numbers.push(number(text)?),
            "map" => self.numbers = text.split(',').map(number).collect::<io::Result<_>>()?,
            // The number of pieces is seen from the pieces.
            _ => {}
        }
        if self.numbers.len() > 2 * MAX_PIECES {
            return Err(invalid("too many pieces"));
        }
        Ok(())
    }

    /// Writes the file; the number of bytes that it takes.
    pub fn write(&self, source: &mut impl Read, file: &mut File) -> io::Result<u64> {
        let numbers = match self.major {
            0 => self.numbers.clone(),
            1 => read_map(source)?,
            _ => return Err(invalid("an unknown format")),
        };
        let size = self.real_size.ok_or_else(|| invalid("its size is missing"))?;
        let pieces = pieces(&numbers, size)?;
        let mut written = 0;
        for (offset, length) in pieces {
            file.seek(SeekFrom::Start(offset))?;
            let copied = io::copy(&mut source.take(length), file)?;
            if copied != length {
                return Err(invalid("its data ends too early"));
            }
            written += copied;
        }
        file.flush()?;
        file.set_len(size)?;
        Ok(written)
    }
}

fn pieces(numbers: &[u64], size: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut end = 0;
    let (pairs, rest) = numbers.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(invalid("half a piece"));
    }
    let check = |&[offset, length]: &[u64; 2]| {
        let next = offset.checked_add(length).filter(|next| offset >= end && *next <= size);
        end = next.ok_or_else(|| invalid("a piece lies outside or in another"))?;
        Ok((offset, length))
    };
    pairs.iter().map(check).collect()
}

/// The map in front of the data, up to the end of its last block.
fn read_map(source: &mut impl Read) -> io::Result<Vec<u64>> {
    let mut lines = Lines { source, block: [0; BLOCK], at: BLOCK };
    let count = lines.number()?;
    let count = usize::try_from(count).ok().filter(|count| *count <= MAX_PIECES);
    let count = count.ok_or_else(|| invalid("too many pieces"))?;
    (0..2 * count).map(|_| lines.number()).collect()
}

/// Numbers of a map, read block by block: what follows the last block is data.
struct Lines<'a, R> {
    source: &'a mut R,
    block: [u8; BLOCK],
    at: usize,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> io::Result<u64> {
        let mut digits = String::new();
        loop {
            if self.at == BLOCK {
                self.source.read_exact(&mut self.block)?;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'\n' => return digits.parse().map_err(|_| invalid("a number is none")),
                b'0'..=b'9' if digits.len() < MAX_DIGITS => digits.push(char::from(byte)),
                _ => return Err(invalid("its map is not one")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_checked() {
        assert_eq!(pieces(&[0, 5, 10, 5], 20).unwrap(), [(0, 5), (10, 5)]);
        assert!(pieces(&[0, 5, 4, 5], 20).is_err());
        assert!(pieces(&[0, 21], 20).is_err());
        assert!(pieces(&[u64::MAX, 2], 20).is_err());
        assert!(pieces(&[1], 20).is_err());
    }

    #[test]
    fn format_one() {
        let mut data = b"2\n0\n3\n1000\n2\n".to_vec();
        data.resize(512, 0);
        data.extend_from_slice(b"abcde");
        let mut sparse = Sparse::default();
        for (key, value) in [("major", "1"), ("minor", "0"), ("realsize", "2000")] {
            sparse.take(key, value.as_bytes()).unwrap();
        }
        let mut file = tempfile::tempfile().unwrap();
        assert_eq!(sparse.write(&mut data.as_slice(), &mut file).unwrap(), 5);
        let mut text = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut text).unwrap();
        assert_eq!((text.len(), &text[..3], &text[1000..1003]), (2000, &b"abc"[..], &b"de\0"[..]));
        assert!(sparse.write(&mut b"x\n".as_slice(), &mut file).is_err());
    }
}
