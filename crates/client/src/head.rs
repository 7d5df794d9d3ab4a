//! The head of an answer: status line and headers, read with a bound.

use std::io::{BufRead, BufReader};

use crate::{ClientError, Stream};

/// Larger heads are nothing an engine sends.
const MAX_HEAD: usize = 64 << 10;
const MAX_HEADERS: usize = 64;

#[derive(Debug)]
pub(crate) struct Head {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

impl Head {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Reads up to and with the empty line; what follows stays in the reader.
    pub fn read(reader: &mut BufReader<Stream>) -> Result<Self, ClientError> {
        let mut text = Vec::with_capacity(512);
        loop {
            let available = reader.fill_buf().map_err(ClientError::io("read"))?;
            if available.is_empty() {
                return Err(ClientError::Io {
                    operation: "read",
                    source: std::io::ErrorKind::UnexpectedEof.into(),
                });
            }
            let before = text.len();
            text.extend_from_slice(available);
            let Some(end) = end_of_head(&text, before) else {
                let read = text.len() - before;
                reader.consume(read);
                if text.len() > MAX_HEAD {
                    return Err(ClientError::Protocol("its head is too long".to_owned()));
                }
                continue;
            };
            reader.consume(end - before);
            text.truncate(end);
            return Self::parse(&text);
        }
    }

    fn parse(text: &[u8]) -> Result<Self, ClientError> {
        let mut slots = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut parsed = httparse::Response::new(&mut slots);
        parsed.parse(text).map_err(|error| ClientError::Protocol(error.to_string()))?;
        let status =
            parsed.code.ok_or_else(|| ClientError::Protocol("it has no status".to_owned()))?;
        let headers = parsed
            .headers
            .iter()
            .map(|h| (h.name.to_owned(), String::from_utf8_lossy(h.value).into_owned()))
            .collect();
        Ok(Self { status, headers })
    }
}

/// The position behind the empty line, looking only at what `before` left unseen.
fn end_of_head(text: &[u8], before: usize) -> Option<usize> {
    let from = before.saturating_sub(3);
    let at = text[from..].windows(4).position(|window| window == b"\r\n\r\n")?;
    Some(from + at + 4)
}
