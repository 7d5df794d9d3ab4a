//! Docker's `local` format: a protocol buffer per record, with its length before and behind it.
//! Pure.

use hoy_types::Timestamp;

use crate::encode::Stream;
use crate::{MAX_RECORD, read::Record};

/// A record that claims to be longer was not written by us or by Docker.
const LONGEST: usize = 4 * MAX_RECORD;
/// The two lengths.
pub(crate) const AROUND: usize = 8;

const SOURCE: u8 = 1 << 3 | 2;
const TIME: u8 = 2 << 3;
const LINE: u8 = 3 << 3 | 2;
const PARTIAL: u8 = 4 << 3;

/// Appends one record. A line's newline is left out, and what is no whole line says so.
pub(crate) fn encode(out: &mut Vec<u8>, text: &[u8], stream: Stream, time: Timestamp) {
    let line = text.strip_suffix(b"\n");
    let mut body = Vec::with_capacity(text.len() + 40);
    bytes(&mut body, SOURCE, stream.name().as_bytes());
    body.push(TIME);
    varint(&mut body, time.nanos() as u64);
    bytes(&mut body, LINE, line.unwrap_or(text));
    if line.is_none() {
        body.extend([PARTIAL, 1]);
    }
    let length = (body.len() as u32).to_be_bytes();
    out.extend(length);
    out.extend(body);
    out.extend(length);
}

fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    out.push(field);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The length of a record from the four bytes before or behind it; `None` for damage.
pub(crate) fn length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_be_bytes(bytes.try_into().ok()?) as usize;
    (length <= LONGEST).then_some(length)
}

/// The whole record at the start, and how many bytes it takes. `Ok(None)`: there is more to come;
/// `Err`: this is no record.
pub(crate) fn decode(bytes: &[u8]) -> Result<Option<(Record, usize)>, ()> {
    let Some(head) = bytes.get(..4) else { return Ok(None) };
    let length = length(head).ok_or(())?;
    let Some(body) = bytes.get(4..4 + length) else { return Ok(None) };
    let Some(tail) = bytes.get(4 + length..AROUND + length) else { return Ok(None) };
    if head != tail {
        return Err(());
    }
    record(body).map(|record| Some((record, AROUND + length))).ok_or(())
}

fn record(mut body: &[u8]) -> Option<Record> {
    let mut found = Record {
        text: Vec::new(),
        stream: Stream::Stdout,
        time: Timestamp::from_nanos(0),
        attributes: Vec::new(),
    };
    let (mut partial, mut last) = (false, false);
    while !body.is_empty() {
        let key = take_varint(&mut body)?;
        match key & 7 {
            0 => {
                let value = take_varint(&mut body)?;
                match key >> 3 {
                    2 => found.time = Timestamp::from_nanos(value as i64),
                    4 => partial = value != 0,
                    _ => {}
                }
            }
            2 => {
                let length = usize::try_from(take_varint(&mut body)?).ok()?;
                let value = body.get(..length)?;
                body = &body[length..];
                match key >> 3 {
                    1 if value == b"stderr" => found.stream = Stream::Stderr,
                    3 => found.text = value.to_vec(),
                    // Whether a piece is its line's last: the first field, a flag.
                    5 => last = value.starts_with(&[1 << 3, 1]),
                    _ => {}
                }
            }
            _ => return None,
        }
    }
    if !partial || last {
        found.text.push(b'\n');
    }
    Some(found)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_docker_writes_it() {
        // What dockerd 20.10 wrote for `echo hi`.
        let docker = [
            0, 0, 0, 0x16, 0x0a, 6, b's', b't', b'd', b'o', b'u', b't', 0x10, 0xae, 0xef, 0xdf,
            0xec, 0xf3, 0xca, 0x88, 0xf5, 0x18, 0x1a, 2, b'h', b'i', 0, 0, 0, 0x16,
        ];
        let (record, length) = decode(&docker).unwrap().unwrap();
        assert_eq!((record.text.as_slice(), length), (&b"hi\n"[..], docker.len()));
        let mut ours = Vec::new();
        encode(&mut ours, b"hi\n", Stream::Stdout, record.time);
        assert_eq!(ours, docker);
    }

    #[test]
    fn damage_is_no_record() {
        let mut out = Vec::new();
        encode(&mut out, b"part", Stream::Stderr, Timestamp::from_nanos(5));
        let (record, length) = decode(&out).unwrap().unwrap();
        assert_eq!((record.text.as_slice(), record.stream), (&b"part"[..], Stream::Stderr));
        assert_eq!(length, out.len());
        for end in 0..out.len() {
            assert!(matches!(decode(&out[..end]), Ok(None)), "{end}");
        }
        let last = out.len() - 1;
        out[last] ^= 1;
        assert!(decode(&out).is_err());
        assert!(decode(&[255; 16]).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_come_back(text: Vec<u8>, nanos in 0..i64::MAX) {
            let mut out = Vec::new();
            encode(&mut out, &text, Stream::Stdout, Timestamp::from_nanos(nanos));
            let (record, length) = decode(&out).unwrap().unwrap();
            assert_eq!((record.text, record.time.nanos()), (text.clone(), nanos));
            assert_eq!(length, out.len());
            let _ = decode(&text);
        }
    }
}
