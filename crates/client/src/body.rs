//! The body of an answer: of a known length, in chunks, or up to the end of the connection.

use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd};

use serde::de::DeserializeOwned;

use crate::head::Head;
use crate::{ApiError, ClientError, Stream};

/// The longest line that may announce a chunk.
const MAX_CHUNK_LINE: u64 = 256;
/// The longest error message worth reading.
const MAX_ERROR: u64 = 1 << 20;

#[derive(Debug)]
enum Framing {
    Length(u64),
    /// What is left of the current chunk.
    Chunked(u64),
    Close,
    Ended,
}

/// An answer whose head is read; reading it gives the body.
#[derive(Debug)]
pub struct Response {
    head: Head,
    reader: BufReader<Stream>,
    framing: Framing,
}

impl Response {
    pub(crate) fn new(
        head: Head,
        reader: BufReader<Stream>,
        no_body: bool,
    ) -> Result<Self, ClientError> {
        let framing = if no_body || head.status == 204 || head.status == 304 {
            Framing::Ended
        } else if head.header("transfer-encoding").is_some_and(|v| v.ends_with("chunked")) {
            Framing::Chunked(0)
        } else {
            match head.header("content-length") {
                None => Framing::Close,
                Some(text) => {
                    let bad = |_| ClientError::Protocol(format!("bad content length {text:?}"));
                    Framing::Length(text.parse().map_err(bad)?)
                }
            }
        };
        Ok(Self { head, reader, framing })
    }

    pub fn status(&self) -> u16 {
        self.head.status
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The whole body as one JSON value.
    pub fn json<T: DeserializeOwned>(mut self) -> Result<T, ClientError> {
        let mut text = Vec::new();
        self.read_to_end(&mut text).map_err(ClientError::io("read"))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Whether something of the body is here already, unseen by a poll of the connection.
    pub fn has_buffered(&self) -> bool {
        !self.reader.buffer().is_empty() || matches!(self.framing, Framing::Ended)
    }

    pub(crate) fn into_parts(self) -> (Head, BufReader<Stream>) {
        (self.head, self.reader)
    }

    /// Turns an answer outside 200..400 into the engine's message.
    pub(crate) fn check(mut self) -> Result<Self, ClientError> {
        let status = self.status();
        if (200..400).contains(&status) || status == 101 {
            return Ok(self);
        }
        let mut body = Vec::new();
        let read = (&mut self).take(MAX_ERROR).read_to_end(&mut body);
        let text = String::from_utf8_lossy(&body);
        let message = match serde_json::from_slice::<serde_json::Value>(&body) {
            Ok(value) if value["message"].is_string() => {
                value["message"].as_str().unwrap_or_default().trim().to_owned()
            }
            _ if read.is_ok() && !text.trim().is_empty() => text.trim().to_owned(),
            _ => format!("request returned {status} with no message"),
        };
        Err(ApiError { status, message }.into())
    }

    fn next_chunk(&mut self) -> io::Result<u64> {
        let mut line = Vec::new();
        (&mut self.reader).take(MAX_CHUNK_LINE).read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(&line);
        let digits = text.split(';').next().unwrap_or_default().trim();
        u64::from_str_radix(digits, 16)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "bad chunk size"))
    }

    /// The line that ends a chunk's data, or one line of the trailer.
    fn skip_line(&mut self) -> io::Result<bool> {
        let mut line = Vec::new();
        (&mut self.reader).take(MAX_CHUNK_LINE).read_until(b'\n', &mut line)?;
        Ok(line.trim_ascii().is_empty())
    }
}

impl AsFd for Response {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.get_ref().as_fd()
    }
}

impl Read for Response {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if matches!(self.framing, Framing::Chunked(0)) {
            match self.next_chunk()? {
                0 => {
                    while !self.skip_line()? {}
                    self.framing = Framing::Ended;
                }
                size => self.framing = Framing::Chunked(size),
            }
        }
        match self.framing {
            Framing::Ended | Framing::Length(0) => Ok(0),
            Framing::Close => self.reader.read(buffer),
            Framing::Length(left) => {
                let read = read_some(&mut self.reader, buffer, left)?;
                self.framing = Framing::Length(left - read as u64);
                Ok(read)
            }
            Framing::Chunked(left) => {
                let read = read_some(&mut self.reader, buffer, left)?;
                let left = left - read as u64;
                if left == 0 {
                    self.skip_line()?;
                }
                self.framing = Framing::Chunked(left);
                Ok(read)
            }
        }
    }
}

/// Reads at least one of the bytes that must still come.
fn read_some(reader: &mut BufReader<Stream>, buffer: &mut [u8], left: u64) -> io::Result<usize> {
    let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
    match reader.read(&mut buffer[..want])? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        read => Ok(read),
    }
}
