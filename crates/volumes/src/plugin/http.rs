//! One request and its answer, over a connection of their own. Every read has what is left of the
//! time, and an answer that does not end is cut off.

use std::io;
use std::time::Instant;

use super::address::Connection;

const LONGEST_HEAD: usize = 64 << 10;
const HEADERS: usize = 64;
/// Answers of the kind "I am still here" before the real one.
const INTERIM: usize = 8;
const PIECE: usize = 16 << 10;

/// Docker's name for the protocol.
const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Where an exchange failed.
#[derive(Debug)]
pub(crate) enum Broken {
    Sending(io::Error),
    /// Nothing, or not all, of the head has come.
    Head(io::Error),
    Body(io::Error),
    /// It is no HTTP, or too much of it.
    Malformed(String),
}

/// Sends a request and reads the answer.
pub(crate) fn post(
    connection: &mut Connection,
    host: &str,
    method: &str,
    body: &[u8],
    longest: usize,
    until: Instant,
) -> Result<Answer, Broken> {
    let mut request = format!(
        "POST /{method} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: Go-http-client/1.1\r\n\
         Content-Length: {}\r\nAccept: {MEDIA_TYPE}\r\nContent-Type: {MEDIA_TYPE}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    let sent = connection.write_until(&request, until);
    // One that has not read everything may have answered all the same.
    let refused = match sent {
        Ok(()) => None,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            return Err(Broken::Sending(error));
        }
        Err(error) => Some(error),
    };
    let mut reader = Reader { connection, seen: Vec::new(), until };
    match reader.answer(longest) {
        Err(Broken::Head(error)) => Err(refused.map_or(Broken::Head(error), Broken::Sending)),
        answer => answer,
    }
}

struct Reader<'a> {
    connection: &'a mut Connection,
    /// Read, and not yet used.
    seen: Vec<u8>,
    until: Instant,
}

/// How a body ends.
enum End {
    After(usize),
    Chunked,
    Close,
}

impl Reader<'_> {
    /// Reads some more; false at the end.
    fn more(&mut self) -> io::Result<bool> {
        let before = self.seen.len();
        self.seen.resize(before + PIECE, 0);
        let read = loop {
            match self.connection.read_until(&mut self.seen[before..], self.until) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.seen.truncate(before + *read.as_ref().unwrap_or(&0));
        Ok(read? > 0)
    }

    fn answer(&mut self, longest: usize) -> Result<Answer, Broken> {
        for _ in 0..INTERIM {
            let (status, end) = self.head()?;
            if (100..200).contains(&status) {
                continue;
            }
            let body = match end {
                End::After(_) | End::Close if matches!(status, 204 | 304) => Vec::new(),
                End::After(length) if length > longest => return Err(too_much(longest)),
                End::After(length) => {
                    while self.seen.len() < length {
                        self.must_come()?;
                    }
                    self.seen.truncate(length);
                    std::mem::take(&mut self.seen)
                }
                End::Chunked => self.chunks(longest)?,
                End::Close => {
                    while self.more().map_err(Broken::Body)? {
                        if self.seen.len() > longest {
                            return Err(too_much(longest));
                        }
                    }
                    std::mem::take(&mut self.seen)
                }
            };
            return Ok(Answer { status, body });
        }
        Err(Broken::Malformed("too many 1xx informational responses".to_owned()))
    }

    fn must_come(&mut self) -> Result<(), Broken> {
        match self.more() {
            Ok(true) => Ok(()),
            Ok(false) => Err(Broken::Body(io::ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(Broken::Body(error)),
        }
    }

    fn head(&mut self) -> Result<(u16, End), Broken> {
        loop {
            if let Some((length, status, end)) = parse_head(&self.seen)? {
                self.seen.drain(..length);
                return Ok((status, end));
            }
            if self.seen.len() > LONGEST_HEAD {
                return Err(Broken::Malformed("its head is too long".to_owned()));
            }
            if !self.more().map_err(Broken::Head)? {
                return Err(Broken::Head(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    fn chunks(&mut self, longest: usize) -> Result<Vec<u8>, Broken> {
        let mut body = Vec::new();
        loop {
            let (line, size) = loop {
                match httparse::parse_chunk_size(&self.seen) {
                    Ok(httparse::Status::Complete(found)) => break found,
                    Ok(httparse::Status::Partial) if self.seen.len() <= PIECE => {
                        self.must_come()?
                    }
                    _ => return Err(Broken::Malformed("malformed chunked encoding".to_owned())),
                }
            };
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            if size > longest - body.len() {
                return Err(too_much(longest));
            }
            // What may follow the last chunk is of no interest.
            if size == 0 {
                return Ok(body);
            }
            while self.seen.len() < line + size + 2 {
                self.must_come()?;
            }
            body.extend_from_slice(&self.seen[line..line + size]);
            self.seen.drain(..line + size + 2);
        }
    }
}

fn too_much(longest: usize) -> Broken {
    Broken::Malformed(format!("the answer is longer than {longest} bytes"))
}

/// The head's length, its status and how the body ends, once all of it is there.
fn parse_head(text: &[u8]) -> Result<Option<(usize, u16, End)>, Broken> {
    let malformed = |said: String| Broken::Malformed(format!("malformed HTTP response: {said}"));
    let mut slots = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Response::new(&mut slots);
    let length = match parsed.parse(text).map_err(|error| malformed(error.to_string()))? {
        httparse::Status::Partial => return Ok(None),
        httparse::Status::Complete(length) => length,
    };
    let header = |name: &str| {
        let found = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| String::from_utf8_lossy(header.value).trim().to_ascii_lowercase())
    };
    let end = if header("transfer-encoding").is_some_and(|coding| coding.ends_with("chunked")) {
        End::Chunked
    } else if let Some(text) = header("content-length") {
        End::After(text.parse().map_err(|_| malformed(format!("bad Content-Length \"{text}\"")))?)
    } else {
        End::Close
    };
    Ok(Some((length, parsed.code.unwrap_or(0), end)))
}
