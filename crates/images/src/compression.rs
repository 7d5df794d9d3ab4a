//! Which compression a stream has, by its first bytes, and taking it off.

use std::io::{self, BufRead, BufReader, Read};

/// A reader of the plain bytes. What hoy cannot read is refused by name.
pub fn plain<'a>(source: impl Read + 'a) -> io::Result<(Box<dyn Read + 'a>, &'static str)> {
    let mut source = BufReader::with_capacity(128 * 1024, source);
    let head = source.fill_buf()?;
    let is = |magic: &[u8]| head.starts_with(magic);
    let refused = |name: &str| {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("an archive compressed with {name} cannot be read: use gzip, zstd or none"),
        ))
    };
    if is(&[0x1f, 0x8b]) {
        return Ok((Box::new(flate2::bufread::MultiGzDecoder::new(source)), "+gzip"));
    }
    if is(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
        // 128 MiB: what zstd's own tools accept without being asked for more.
        decoder.window_log_max(27)?;
        return Ok((Box::new(decoder), "+zstd"));
    }
    if is(b"BZh") {
        return refused("bzip2");
    }
    if is(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
        return refused("xz");
    }
    Ok((Box::new(source), ""))
}
