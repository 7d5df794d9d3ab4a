//! One connection: requests come, answers go, and sometimes the socket itself is handed over.
//! Every wait has a deadline, every buffer a bound.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::http::{self, Framing, Head, MAX_HEAD};
use crate::shape::{self, Version};
use crate::{ApiError, Fate, Outcome, route};

/// A connection without a request.
const IDLE: Duration = Duration::from_secs(300);
/// A head that has begun must end.
const HEAD: Duration = Duration::from_secs(30);
/// A body that has begun must go on; an answer must be taken.
const PROGRESS: Duration = Duration::from_secs(300);
/// JSON bodies.
const MAX_JSON: usize = 4 << 20;
/// A body that nobody wants is read all the same, up to here and for so long: a client that still
/// writes when the connection closes sees a broken pipe and not the answer.
const MAX_DRAIN: u64 = 8 << 30;
const DRAIN: Duration = Duration::from_secs(20);
/// A head that must be read before anything follows it is waited for that long.
const LONGEST_READ: Duration = Duration::from_millis(500);

pub(crate) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// See the module.
pub(crate) struct Conn {
    socket: Socket,
    buffer: BytesMut,
    body: Framing,
    /// Of a chunked body: what is left of the current chunk, and whether the last one has come.
    chunk_left: u64,
    ended: bool,
    expects_continue: bool,
    keep_alive: bool,
    head_only: bool,
    /// The answer's head has left: an error can no longer be one.
    pub answered: bool,
    /// In which the request is written, and its answer.
    pub version: Version,
    loses_early: bool,
}

/// Both halves of a socket.
pub(crate) type Halves = (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>);

impl Socket {
    pub fn into_split(self) -> Halves {
        match self {
            Self::Unix(stream) => {
                let (read, write) = stream.into_split();
                (Box::new(read), Box::new(write))
            }
            Self::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (Box::new(read), Box::new(write))
            }
        }
    }
}

impl Conn {
    pub fn new(socket: Socket) -> Self {
        Self {
            socket,
            buffer: BytesMut::new(),
            body: Framing::Length(0),
            chunk_left: 0,
            ended: true,
            expects_continue: false,
            keep_alive: true,
            head_only: false,
            answered: false,
            version: shape::newest(),
            loses_early: false,
        }
    }

    async fn read_more(&mut self) -> io::Result<usize> {
        self.buffer.reserve(8 * 1024);
        match &mut self.socket {
            Socket::Unix(stream) => stream.read_buf(&mut self.buffer).await,
            Socket::Tcp(stream) => stream.read_buf(&mut self.buffer).await,
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        let write = async {
            match &mut self.socket {
                Socket::Unix(stream) => stream.write_all(bytes).await,
                Socket::Tcp(stream) => stream.write_all(bytes).await,
            }
        };
        // Status 0: there is nobody to tell.
        let gone = || ApiError::new(0, "the client is gone");
        timeout(PROGRESS, write).await.map_err(|_| gone())?.map_err(|_| gone())
    }

    /// The next request, or `None` when the client is done.
    pub async fn next(&mut self) -> Result<Option<Head>, ApiError> {
        self.answered = false;
        let mut deadline = if self.buffer.is_empty() { IDLE } else { HEAD };
        loop {
            if let Some(head) = http::parse(&self.buffer)? {
                let _ = self.buffer.split_to(head.length);
                self.body = head.framing;
                self.chunk_left = 0;
                self.ended = head.framing == Framing::Length(0);
                self.expects_continue = head.expects_continue;
                self.keep_alive = head.keep_alive;
                self.head_only = head.method == "HEAD";
                self.version = route::version(&head);
                self.loses_early = head.loses_early;
                return Ok(Some(head));
            }
            let late = || ApiError::new(408, "the request's head did not come in time");
            let read = timeout(deadline, self.read_more()).await;
            match read {
                Err(_) if self.buffer.is_empty() => return Ok(None),
                Err(_) => return Err(late()),
                Ok(Ok(0) | Err(_)) => return Ok(None),
                Ok(Ok(_)) => {}
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(ApiError::new(431, "the request's head is too large"));
            }
            deadline = HEAD;
        }
    }

    async fn fill(&mut self) -> Result<(), ApiError> {
        if self.expects_continue {
            self.expects_continue = false;
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        match timeout(PROGRESS, self.read_more()).await {
            Ok(Ok(length)) if length > 0 => Ok(()),
            Ok(_) => Err(ApiError::bad("unexpected EOF: the body is shorter than announced")),
            Err(_) => Err(ApiError::new(408, "the request's body did not come in time")),
        }
    }

    /// The next piece of the body, `None` at its end.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            if self.ended {
                return Ok(None);
            }
            match self.body {
                Framing::Length(left) => {
                    if self.buffer.is_empty() {
                        self.fill().await?;
                    }
                    let take = left.min(self.buffer.len() as u64);
                    self.body = Framing::Length(left - take);
                    self.ended = left == take;
                    return Ok(Some(self.buffer.split_to(take as usize).freeze()));
                }
                Framing::Chunked if self.chunk_left > 0 => {
                    if self.buffer.is_empty() {
                        self.fill().await?;
                    }
                    let take = self.chunk_left.min(self.buffer.len() as u64);
                    self.chunk_left -= take;
                    let piece = self.buffer.split_to(take as usize).freeze();
                    if self.chunk_left == 0 {
                        self.line_end().await?;
                    }
                    return Ok(Some(piece));
                }
                Framing::Chunked => self.chunk_head().await?,
            }
        }
    }

    async fn line(&mut self) -> Result<Vec<u8>, ApiError> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.buffer.split_to(at + 2);
                return Ok(line[..at].to_vec());
            }
            if self.buffer.len() > 1024 {
                return Err(ApiError::bad("malformed chunked encoding"));
            }
            self.fill().await?;
        }
    }

    async fn line_end(&mut self) -> Result<(), ApiError> {
        if self.line().await?.is_empty() {
            Ok(())
        } else {
            Err(ApiError::bad("malformed chunked encoding"))
        }
    }

    async fn chunk_head(&mut self) -> Result<(), ApiError> {
        let bad = || ApiError::bad("malformed chunked encoding");
        let line = self.line().await?;
        let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
        let digits = (1..=15).contains(&size.len()) && size.iter().all(u8::is_ascii_hexdigit);
        let text = std::str::from_utf8(size).map_err(|_| bad())?;
        self.chunk_left = u64::from_str_radix(text, 16).ok().filter(|_| digits).ok_or_else(bad)?;
        if self.chunk_left == 0 {
            // Trailers end with an empty line; none of them means anything here.
            for _ in 0..32 {
                if self.line().await?.is_empty() {
                    self.ended = true;
                    return Ok(());
                }
            }
            return Err(bad());
        }
        Ok(())
    }

    /// A JSON body; `None` if there is none.
    pub async fn json<T: DeserializeOwned>(&mut self, head: &Head) -> Result<Option<T>, ApiError> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.piece().await? {
            if bytes.len() + piece.len() > MAX_JSON {
                return Err(ApiError::new(413, "http: request body too large"));
            }
            bytes.extend_from_slice(&piece);
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        let kind = head.content_type.split(';').next().unwrap_or_default().trim();
        if !kind.is_empty()
            && !kind.eq_ignore_ascii_case("application/json")
            && !kind.eq_ignore_ascii_case("text/plain")
        {
            return Err(ApiError::bad(format!(
                "unsupported Content-Type header ({kind}): must be 'application/json'"
            )));
        }
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| ApiError::bad(format!("invalid JSON: {error}")))
    }

    /// Gives the body to a reader on another thread, piece by piece.
    pub async fn pump(&mut self, sender: mpsc::Sender<io::Result<Bytes>>) -> Result<(), ApiError> {
        loop {
            match self.piece().await {
                Ok(Some(piece)) => {
                    if sender.send(Ok(piece)).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(None) => return Ok(()),
                Err(error) => {
                    let cut = io::Error::new(io::ErrorKind::UnexpectedEof, error.message.clone());
                    let _ = sender.send(Err(cut)).await;
                    return Err(error);
                }
            }
        }
    }

    /// What is left of a body is read, so that it is not taken for the next request; a long one
    /// ends the connection instead.
    async fn settle(&mut self) {
        if timeout(DRAIN, self.drain()).await.is_err() {
            self.keep_alive = false;
        }
    }

    async fn drain(&mut self) {
        let mut read = 0;
        while !self.ended {
            match self.piece().await {
                Ok(Some(piece)) => {
                    read += piece.len() as u64;
                    if read > MAX_DRAIN {
                        self.keep_alive = false;
                        return;
                    }
                }
                Ok(None) => return,
                Err(_) => {
                    self.keep_alive = false;
                    return;
                }
            }
        }
    }

    fn fate(&self) -> Fate {
        if self.keep_alive { Fate::Done } else { Fate::Over }
    }

    /// A whole answer.
    pub async fn respond(&mut self, status: u16, kind: &str, body: &[u8]) -> Outcome {
        self.respond_with(status, &[("Content-Type", kind)], body).await
    }

    pub async fn respond_with(
        &mut self,
        status: u16,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Outcome {
        if self.expects_continue && !self.ended {
            // The body was never asked for.
            self.keep_alive = false;
        } else {
            self.settle().await;
        }
        let length = body.len().to_string();
        let mut all: Vec<(&str, &str)> = headers.to_vec();
        let bodiless = matches!(status, 204 | 304);
        if bodiless {
            all.retain(|(name, _)| *name != "Content-Type");
        } else {
            all.push(("Content-Length", if self.head_only { "0" } else { &length }));
        }
        let mut bytes = http::answer(status, &all, !self.keep_alive);
        if !self.head_only && !bodiless {
            bytes.extend_from_slice(body);
        }
        self.answered = true;
        self.write(&bytes).await?;
        Ok(self.fate())
    }

    pub async fn json_answer<T: Serialize + ?Sized>(&mut self, status: u16, value: &T) -> Outcome {
        let mut body = serde_json::to_vec(value)
            .map_err(|error| ApiError::new(500, format!("encode the answer: {error}")))?;
        body.push(b'\n');
        self.respond(status, "application/json", &body).await
    }

    /// A document in the shape that the request's version has.
    pub fn body_of<T: Serialize + ?Sized>(
        &self,
        shape: fn(&mut serde_json::Value, Version),
        value: &T,
    ) -> Result<Vec<u8>, ApiError> {
        let encoded = |error| ApiError::new(500, format!("encode the answer: {error}"));
        let mut value = serde_json::to_value(value).map_err(encoded)?;
        shape(&mut value, self.version);
        serde_json::to_vec(&value).map_err(encoded)
    }

    /// The same as an answer.
    pub async fn shaped<T: Serialize + ?Sized>(
        &mut self,
        status: u16,
        shape: fn(&mut serde_json::Value, Version),
        value: &T,
    ) -> Outcome {
        let mut body = self.body_of(shape, value)?;
        body.push(b'\n');
        self.respond(status, "application/json", &body).await
    }

    pub async fn empty(&mut self, status: u16) -> Outcome {
        self.respond_with(status, &[], b"").await
    }

    /// Begins an answer whose length is not known yet; its head leaves at once.
    pub async fn begin(&mut self, status: u16, kind: &str) -> Result<(), ApiError> {
        self.begin_with(status, &[("Content-Type", kind)]).await
    }

    /// The same with headers of the caller's.
    pub async fn begin_with(
        &mut self,
        status: u16,
        headers: &[(&str, &str)],
    ) -> Result<(), ApiError> {
        self.settle().await;
        let mut headers = headers.to_vec();
        headers.push(("Transfer-Encoding", "chunked"));
        let head = http::answer(status, &headers, !self.keep_alive);
        self.answered = true;
        self.write(&head).await
    }

    pub async fn chunk(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        if bytes.is_empty() || self.head_only {
            return Ok(());
        }
        let mut out = format!("{:x}\r\n", bytes.len()).into_bytes();
        out.extend_from_slice(bytes);
        out.extend_from_slice(b"\r\n");
        self.write(&out).await
    }

    pub async fn finish(&mut self) -> Outcome {
        if !self.head_only {
            self.write(b"0\r\n\r\n").await?;
        }
        Ok(self.fate())
    }

    /// Resolves when the client has hung up. What it sends meanwhile is kept for later.
    pub async fn hung_up(&mut self) {
        loop {
            // More than this is no next request but somebody who never reads.
            if self.buffer.len() > MAX_HEAD {
                return;
            }
            if !matches!(self.read_more().await, Ok(length) if length > 0) {
                return;
            }
        }
    }

    /// The socket as a WebSocket's, after the handshake's head, and what came behind the request.
    pub async fn upgrade(mut self, accept: &str) -> Result<(Socket, Vec<u8>), ApiError> {
        let headers =
            [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept)];
        let head = http::answer(101, &headers, false);
        self.answered = true;
        self.write(&head).await?;
        Ok((self.socket, self.buffer.to_vec()))
    }

    /// docker-py reads a head together with what comes right behind it, and loses that: nothing
    /// comes behind it before it is read.
    async fn until_read(&self) {
        let fd = match &self.socket {
            Socket::Unix(stream) => stream.as_fd(),
            Socket::Tcp(stream) => stream.as_fd(),
        };
        let started = Instant::now();
        while self.loses_early
            && started.elapsed() < LONGEST_READ
            && hoy_sys::socket::is_unread(fd).unwrap_or(false)
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Hands the socket over after a head that leaves alone.
    pub async fn hijack(
        mut self,
        upgrade: bool,
        kind: &str,
    ) -> Result<hoy_engine::HijackedConn, ApiError> {
        self.settle().await;
        let head = if upgrade {
            let headers = [("Content-Type", kind), ("Connection", "Upgrade"), ("Upgrade", "tcp")];
            http::answer(101, &headers, false)
        } else {
            let headers = [("Content-Type", "application/vnd.docker.raw-stream")];
            http::answer(200, &headers, false)
        };
        self.answered = true;
        self.write(&head).await?;
        self.until_read().await;
        let early = self.buffer.to_vec();
        let failed = |error: io::Error| ApiError::new(0, error.to_string());
        let fd: OwnedFd = match self.socket {
            Socket::Unix(stream) => stream.into_std().map_err(failed)?.into(),
            Socket::Tcp(stream) => stream.into_std().map_err(failed)?.into(),
        };
        Ok(hoy_engine::HijackedConn { fd, early })
    }
}
