//! One record as a line of JSON, and back. Pure.

use crate::read::Record;
use crate::scan::special;

/// Where a record came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Appends one record. `text` keeps its newline, if it has one; `between` is what
/// [`attributes`] made, or nothing.
pub(crate) fn encode(out: &mut Vec<u8>, text: &[u8], stream: Stream, between: &[u8], time: &[u8]) {
    out.extend_from_slice(b"{\"log\":\"");
    escape(out, text);
    out.extend_from_slice(b"\",\"stream\":\"");
    out.extend_from_slice(stream.name().as_bytes());
    out.push(b'"');
    out.extend_from_slice(between);
    out.extend_from_slice(b",\"time\":\"");
    out.extend_from_slice(time);
    out.extend_from_slice(b"\"}\n");
}

/// What is said with every record, in its place.
pub(crate) fn attributes(list: &[(String, String)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in list {
        let first = out.is_empty();
        out.extend_from_slice(if first { b",\"attrs\":{\"" } else { b",\"" });
        escape(&mut out, name.as_bytes());
        out.extend_from_slice(b"\":\"");
        escape(&mut out, value.as_bytes());
        out.push(b'"');
    }
    if !out.is_empty() {
        out.push(b'}');
    }
    out
}

/// The inverse, from what follows a record's text.
fn attributes_of(rest: &[u8]) -> Vec<(String, String)> {
    let key = b",\"attrs\":{";
    let mut out = Vec::new();
    let Some(at) = rest.windows(key.len()).position(|window| window == key) else { return out };
    let mut rest = &rest[at + key.len()..];
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    while let Some((name, after)) = rest.strip_prefix(b"\"").and_then(unescape) {
        let Some((value, after)) = after.strip_prefix(b":\"").and_then(unescape) else { break };
        out.push((text(name), text(value)));
        rest = after.strip_prefix(b",").unwrap_or(after);
    }
    out
}

/// JSON text as Docker writes it: control characters but newline and return as \u00XX, HTML
/// characters and the two Unicode line ends escaped, each byte that is not UTF-8 replaced.
fn escape(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    loop {
        let run = special(rest).unwrap_or(rest.len());
        let (plain, after) = rest.split_at(run);
        out.extend_from_slice(plain);
        match after {
            [] => return,
            [byte @ ..0x80, after @ ..] => {
                escape_ascii(out, *byte);
                rest = after;
            }
            _ => {
                let end = after.iter().position(u8::is_ascii).unwrap_or(after.len());
                let (wide, after) = after.split_at(end);
                escape_wide(out, wide);
                rest = after;
            }
        }
    }
}

fn escape_ascii(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        other => {
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(other >> 4)]);
            out.push(HEX[usize::from(other & 15)]);
        }
    }
}

/// Bytes above ASCII.
fn escape_wide(out: &mut Vec<u8>, wide: &[u8]) {
    for chunk in wide.utf8_chunks() {
        let mut valid = chunk.valid();
        while let Some(at) = valid.find(['\u{2028}', '\u{2029}']) {
            let (before, found) = valid.split_at(at);
            out.extend_from_slice(before.as_bytes());
            let first = found.starts_with('\u{2028}');
            out.extend_from_slice(if first { b"\\u2028" } else { b"\\u2029" });
            valid = &found['\u{2028}'.len_utf8()..];
        }
        out.extend_from_slice(valid.as_bytes());
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

/// The inverse. `None` for anything that is no record.
pub(crate) fn decode(line: &[u8]) -> Option<Record> {
    let rest = line.strip_prefix(b"{\"log\":\"")?;
    let (text, rest) = unescape(rest)?;
    // Fields that others may have written between (attrs) are passed over.
    let stream = if find(rest, b"\"stream\":\"stderr\"") {
        Stream::Stderr
    } else if find(rest, b"\"stream\":\"stdout\"") {
        Stream::Stdout
    } else {
        return None;
    };
    let key = b"\"time\":\"";
    let at = rest.windows(key.len()).position(|window| window == key)? + key.len();
    let end = rest.get(at..)?.iter().position(|byte| *byte == b'"')? + at;
    let time = std::str::from_utf8(rest.get(at..end)?).ok()?.parse().ok()?;
    Some(Record { text, stream, time, attributes: attributes_of(rest) })
}

fn find(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// A JSON string up to its closing quote, and what follows.
fn unescape(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    let unit = |from: usize| -> Option<u32> {
        u32::from_str_radix(std::str::from_utf8(text.get(from..from + 4)?).ok()?, 16).ok()
    };
    loop {
        match *text.get(at)? {
            b'"' => return Some((out, text.get(at + 1..)?)),
            b'\\' => {
                let escape = *text.get(at + 1)?;
                at += 2;
                match escape {
                    b'n' => out.push(b'\n'),
                    b'r' => out.push(b'\r'),
                    b't' => out.push(b'\t'),
                    b'b' => out.push(8),
                    b'f' => out.push(12),
                    b'u' => {
                        let mut code = unit(at)?;
                        at += 4;
                        if (0xd800..0xdc00).contains(&code) && text.get(at..at + 2) == Some(b"\\u")
                        {
                            let low = unit(at + 2)?;
                            if (0xdc00..0xe000).contains(&low) {
                                code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
                                at += 6;
                            }
                        }
                        let letter = char::from_u32(code).unwrap_or('\u{fffd}');
                        out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                    }
                    other => out.push(other),
                }
            }
            _ => {
                let rest = text.get(at..)?;
                let run = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
                out.extend_from_slice(&rest[..run]);
                at += run;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hoy_types::Timestamp;

    use super::*;

    #[test]
    fn as_docker_writes_it() {
        let mut out = Vec::new();
        encode(
            &mut out,
            b"a\t\"<b>\" \\ \x01\xff \xe2\x82\xac\n",
            Stream::Stdout,
            b"",
            b"2026-01-02T03:04:05.6Z",
        );
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"log\":\"a\\u0009\\\"\\u003cb\\u003e\\\" \\\\ \\u0001\\ufffd €\\n\",\"stream\":\"stdout\",\
             \"time\":\"2026-01-02T03:04:05.6Z\"}\n"
        );
    }

    #[test]
    fn round_trip() {
        let time: Timestamp = "2026-01-02T03:04:05.000000006Z".parse().unwrap();
        for text in ["", "plain\n", "€ \u{2028} \u{1f6a2} \"quoted\" \\n\n", "\u{0}\u{1f}\r"] {
            let mut out = Vec::new();
            let said = vec![("a\"".to_owned(), "b,\n".to_owned()), ("c".to_owned(), String::new())];
            let between = attributes(&said);
            encode(
                &mut out,
                text.as_bytes(),
                Stream::Stderr,
                &between,
                time.to_string().as_bytes(),
            );
            let decoded = decode(&out).unwrap();
            let (stream, text) = (Stream::Stderr, text.as_bytes().to_vec());
            assert_eq!(decoded, Record { text, stream, time, attributes: said });
        }
    }

    #[test]
    fn garbage_is_no_record() {
        for line in [
            "",
            "{",
            "{\"log\":\"",
            "{\"log\":\"a\"}",
            "{\"log\":\"\\u12\",\"stream\":\"stdout\",\"time\":\"x\"}",
        ] {
            assert!(decode(line.as_bytes()).is_none(), "{line}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_comes_back(text: String) {
            let mut out = Vec::new();
            encode(&mut out, text.as_bytes(), Stream::Stdout, b"", b"2026-01-02T03:04:05Z");
            // Always one line, and nothing a browser would take for markup.
            assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
            assert!(!out.iter().any(|byte| matches!(byte, b'<' | b'>' | b'&')));
            assert_eq!(decode(&out).unwrap().text, text.as_bytes());
        }

        #[test]
        fn any_bytes_make_a_line_of_text(bytes: Vec<u8>) {
            let mut out = Vec::new();
            encode(&mut out, &bytes, Stream::Stdout, b"", b"2026-01-02T03:04:05Z");
            assert!(std::str::from_utf8(&out).is_ok());
            assert!(decode(&out).is_some());
            // Damage is never more than a record that is not there.
            let _ = decode(&bytes);
            for end in 0..out.len() {
                let _ = decode(&out[..end]);
            }
        }
    }
}
