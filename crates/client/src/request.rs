//! One request: built, sent, answered.

use std::fmt::Write as _;
use std::io::{self, BufReader, Read, Write};
use std::sync::OnceLock;

use crate::head::Head;
use crate::{ApiError, ClientError, Endpoint, Response, Stream};

/// The API version that requests are written in.
const VERSION: &str = "1.50";
/// How much of a streamed body goes into one chunk.
const CHUNK: usize = 64 << 10;

/// An engine to talk to.
#[derive(Clone, Debug)]
pub struct Client {
    endpoint: Endpoint,
    pinned: Option<String>,
    /// The version an older engine asked for.
    fallback: OnceLock<String>,
    /// What people want every request to say.
    headers: Vec<(String, String)>,
}

impl Client {
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, pinned: None, fallback: OnceLock::new(), headers: Vec::new() }
    }

    /// As `DOCKER_API_VERSION`: this version and no other.
    pub fn pinned(mut self, version: &str) -> Self {
        self.pinned = Some(version.trim_start_matches('v').to_owned());
        self
    }

    /// Headers of every request, as `HttpHeaders` of the client's settings.
    pub fn with_headers(mut self, headers: Vec<(String, String)>) -> Self {
        self.headers = headers;
        self
    }

    /// A connection without any request on it.
    pub fn raw(&self) -> Result<Stream, ClientError> {
        Stream::connect(&self.endpoint)
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The version that is spoken now.
    pub fn version(&self) -> &str {
        self.pinned.as_deref().or(self.fallback.get().map(String::as_str)).unwrap_or(VERSION)
    }

    pub fn get(&self, path: impl Into<String>) -> Request<'_> {
        self.request("GET", path)
    }

    pub fn post(&self, path: impl Into<String>) -> Request<'_> {
        self.request("POST", path)
    }

    pub fn delete(&self, path: impl Into<String>) -> Request<'_> {
        self.request("DELETE", path)
    }

    pub fn request(&self, method: &'static str, path: impl Into<String>) -> Request<'_> {
        Request {
            client: self,
            method,
            path: path.into(),
            query: Vec::new(),
            headers: Vec::new(),
            body: Body::None,
        }
    }
}

enum Body<'a> {
    None,
    Json(Vec<u8>),
    Stream(&'a mut dyn Read),
}

/// A request under construction.
pub struct Request<'a> {
    client: &'a Client,
    method: &'static str,
    path: String,
    query: Vec<(&'static str, String)>,
    headers: Vec<(&'static str, String)>,
    body: Body<'a>,
}

/// A connection that has left HTTP: bytes both ways.
#[derive(Debug)]
pub struct Hijacked {
    /// What the engine sends; may hold bytes that came with the head.
    pub reader: BufReader<Stream>,
    /// The same connection for writing.
    pub writer: Stream,
    /// Whether the engine said that output is framed by stream.
    pub multiplexed: bool,
}

impl<'a> Request<'a> {
    pub fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// Adds `name=1`, or nothing, as docker sends its switches.
    pub fn switch(self, name: &'static str, on: bool) -> Self {
        if on { self.query(name, "1") } else { self }
    }

    /// Adds a parameter unless it is empty.
    pub fn given(self, name: &'static str, value: &str) -> Self {
        if value.is_empty() { self } else { self.query(name, value) }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn json(mut self, value: &serde_json::Value) -> Self {
        self.body = Body::Json(value.to_string().into_bytes());
        self
    }

    /// A body of unknown length, sent in chunks as it is read.
    pub fn stream(mut self, content_type: &'static str, reader: &'a mut dyn Read) -> Self {
        self.headers.push(("Content-Type", content_type.to_owned()));
        self.body = Body::Stream(reader);
        self
    }

    /// Sends, and reads the answer's head; an answer of failure is an error.
    pub fn send(mut self) -> Result<Response, ClientError> {
        let first = self.exchange(false);
        match self.older(&first) {
            true => self.exchange(false),
            false => first,
        }
    }

    /// As [`Self::send`], for the whole body as JSON.
    pub fn fetch(self) -> Result<serde_json::Value, ClientError> {
        self.send()?.json()
    }

    /// Asks for the raw connection behind the request.
    pub fn hijack(mut self) -> Result<Hijacked, ClientError> {
        let first = self.exchange(true);
        let answer = match self.older(&first) {
            true => self.exchange(true),
            false => first,
        }?;
        if answer.status() != 101 {
            return Err(ClientError::NotUpgraded(answer.status()));
        }
        let (head, reader) = answer.into_parts();
        let multiplexed =
            head.header("content-type").is_some_and(|v| v.contains("multiplexed-stream"));
        let writer = reader.get_ref().try_clone().map_err(ClientError::io("dup"))?;
        Ok(Hijacked { reader, writer, multiplexed })
    }

    /// Learns the version of an engine that is older than this client; true if it is worth
    /// asking again (a streamed body cannot be sent twice).
    fn older(&self, answer: &Result<Response, ClientError>) -> bool {
        let Err(ClientError::Api(ApiError { status: 400, message })) = answer else {
            return false;
        };
        if self.client.pinned.is_some() || matches!(self.body, Body::Stream(_)) {
            return false;
        }
        let Some((_, version)) = message.split_once("Maximum supported API version is ") else {
            return false;
        };
        let version: String =
            version.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        let version = version.trim_end_matches('.').to_owned();
        !version.is_empty() && self.client.fallback.set(version).is_ok()
    }

    fn exchange(&mut self, upgrade: bool) -> Result<Response, ClientError> {
        let mut stream = Stream::connect(&self.client.endpoint)?;
        let mut head = self.head(upgrade);
        let sent = match &mut self.body {
            Body::None => stream.write_all(&head),
            Body::Json(json) => {
                head.extend_from_slice(json);
                stream.write_all(&head)
            }
            Body::Stream(reader) => {
                stream.write_all(&head).and_then(|()| send_chunks(&mut stream, *reader))
            }
        };
        // An engine that refuses a long body answers and closes before it has read all of it.
        let refused = match sent {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Some(error),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Some(error),
            Err(error) => return Err(ClientError::Io { operation: "write", source: error }),
            Ok(()) => None,
        };
        let mut reader = BufReader::with_capacity(32 << 10, stream);
        let head = match (Head::read(&mut reader), refused) {
            (Ok(head), _) => head,
            (Err(_), Some(source)) => {
                return Err(ClientError::Io { operation: "write", source });
            }
            (Err(error), None) => return Err(error),
        };
        Response::new(head, reader, self.method == "HEAD")?.check()
    }

    fn host(&self) -> String {
        match &self.client.endpoint {
            Endpoint::Program(program) => program.host.clone(),
            Endpoint::Unix(_) => "api.moby.localhost".to_owned(),
            Endpoint::Tcp(host, port) if host.contains(':') => format!("[{host}]:{port}"),
            Endpoint::Tcp(host, port) => format!("{host}:{port}"),
        }
    }

    fn head(&self, upgrade: bool) -> Vec<u8> {
        let mut text = format!("{} /v{}{}", self.method, self.client.version(), self.path);
        for (index, (name, value)) in self.query.iter().enumerate() {
            text.push(if index == 0 { '?' } else { '&' });
            text.push_str(name);
            text.push('=');
            escape(value, &mut text);
        }
        let _ = write!(text, " HTTP/1.1\r\nHost: {}\r\nUser-Agent: Hoy-Client/", self.host());
        text.push_str(env!("CARGO_PKG_VERSION"));
        text.push_str(" (linux)\r\n");
        if upgrade {
            text.push_str("Connection: Upgrade\r\nUpgrade: tcp\r\n");
        } else {
            text.push_str("Connection: close\r\n");
        }
        for (name, value) in &self.headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        for (name, value) in &self.client.headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        match &self.body {
            Body::Stream(_) => text.push_str("Transfer-Encoding: chunked\r\n"),
            Body::Json(json) => {
                text.push_str("Content-Type: application/json\r\n");
                let _ = write!(text, "Content-Length: {}\r\n", json.len());
            }
            Body::None if self.method == "POST" => {
                if upgrade {
                    text.push_str("Content-Type: text/plain\r\n");
                }
                text.push_str("Content-Length: 0\r\n");
            }
            Body::None => {}
        }
        text.push_str("\r\n");
        text.into_bytes()
    }
}

fn send_chunks(stream: &mut Stream, reader: &mut dyn Read) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = match reader.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        };
        if read == 0 {
            return stream.write_all(b"0\r\n\r\n");
        }
        stream.write_all(format!("{read:x}\r\n").as_bytes())?;
        stream.write_all(&buffer[..read])?;
        stream.write_all(b"\r\n")?;
    }
}

/// Percent-encoding as Go's `url.QueryEscape`.
fn escape(value: &str, out: &mut String) {
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            other => {
                let _ = write!(out, "%{other:02X}");
            }
        }
    }
}
