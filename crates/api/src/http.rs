//! Heads of requests and answers. Pure.

use crate::ApiError;

/// No honest head is larger.
pub(crate) const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 100;

/// What a request's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
}

/// A parsed head.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub method: String,
    pub path: String,
    pub query: String,
    pub framing: Framing,
    pub keep_alive: bool,
    pub upgrade: bool,
    /// The key of one who wants a WebSocket, and the version of the protocol.
    pub websocket: Option<String>,
    pub websocket_version: String,
    pub expects_continue: bool,
    pub content_type: String,
    pub accept: String,
    pub host: Option<String>,
    pub origin: bool,
    /// The client is hoy's own.
    pub hoy: bool,
    /// The client loses what it reads together with a head.
    pub loses_early: bool,
    /// Bytes of the head.
    pub length: usize,
}

/// Parses a head, or says that more bytes are needed.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Head>, ApiError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() >= MAX_HEAD => {
            return Err(ApiError::new(431, "the request's head is too large"));
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(ApiError::bad(format!("malformed request: {error}"))),
    };
    // A bare line feed ends a line for some and not for others: refused.
    let head = &bytes[..length];
    let bare = head
        .iter()
        .enumerate()
        .any(|(at, byte)| *byte == b'\n' && (at == 0 || head[at - 1] != b'\r'));
    if bare {
        return Err(ApiError::bad("malformed request: a line without CR LF"));
    }
    let method = request.method.unwrap_or_default().to_owned();
    let target = request.path.unwrap_or_default();
    let newest = request.version == Some(1);
    let mut out = Head {
        method,
        path: String::new(),
        query: String::new(),
        framing: Framing::Length(0),
        keep_alive: newest,
        upgrade: false,
        websocket: None,
        websocket_version: String::new(),
        expects_continue: false,
        content_type: String::new(),
        accept: String::new(),
        host: None,
        origin: false,
        hoy: false,
        loses_early: false,
        length,
    };
    // `http://host/path` as a proxy's clients write it, or the path alone.
    let target = match target.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    out.path = path.to_owned();
    out.query = query.to_owned();
    let mut lengths: Option<u64> = None;
    let mut chunked = false;
    let mut websocket = false;
    for header in request.headers.iter() {
        let bad = || ApiError::bad(format!("malformed request: header {}", header.name));
        let value = std::str::from_utf8(header.value).map_err(|_| bad())?.trim();
        match header.name.to_ascii_lowercase().as_str() {
            "content-length" => {
                let digits = !value.is_empty() && value.bytes().all(|c| c.is_ascii_digit());
                let number = value.parse().ok().filter(|_| digits).ok_or_else(bad)?;
                if lengths.is_some_and(|known| known != number) {
                    return Err(bad());
                }
                lengths = Some(number);
            }
            "transfer-encoding" => {
                if chunked || !value.eq_ignore_ascii_case("chunked") || !newest {
                    return Err(bad());
                }
                chunked = true;
            }
            "connection" => {
                for word in value.split(',').map(str::trim) {
                    if word.eq_ignore_ascii_case("close") {
                        out.keep_alive = false;
                    } else if word.eq_ignore_ascii_case("keep-alive") {
                        out.keep_alive = true;
                    }
                }
            }
            "upgrade" => {
                out.upgrade = value.eq_ignore_ascii_case("tcp");
                websocket = value.eq_ignore_ascii_case("websocket");
            }
            "sec-websocket-key" => out.websocket = Some(value.to_owned()),
            "sec-websocket-version" => out.websocket_version = value.to_owned(),
            "expect" => out.expects_continue = value.eq_ignore_ascii_case("100-continue"),
            "accept" => out.accept = value.to_owned(),
            "content-type" => out.content_type = value.to_owned(),
            "host" => {
                if out.host.is_some() {
                    return Err(bad());
                }
                out.host = Some(value.to_owned());
            }
            "origin" => out.origin = true,
            "user-agent" => {
                out.hoy = value.starts_with("Hoy-Client/");
                out.loses_early = value.starts_with("docker-sdk-python/");
            }
            _ => {}
        }
    }
    out.websocket = out.websocket.filter(|_| websocket);
    // Two ways to say where the body ends are one too many.
    if chunked && lengths.is_some() {
        return Err(ApiError::bad("malformed request: both Content-Length and Transfer-Encoding"));
    }
    out.framing = match lengths {
        _ if chunked => Framing::Chunked,
        Some(length) => Framing::Length(length),
        None => Framing::Length(0),
    };
    Ok(Some(out))
}

/// The head of an answer.
pub(crate) fn answer(status: u16, headers: &[(&str, &str)], close: bool) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 {status} {}\r\n", reason(status));
    let server = format!("Docker/{} (linux)", hoy_wire::DOCKER_VERSION);
    let fixed = [
        ("Api-Version", hoy_wire::API_VERSION),
        ("Docker-Experimental", "false"),
        ("Ostype", "linux"),
        ("Server", &server),
    ];
    for (name, value) in fixed.iter().chain(headers) {
        out.push_str(name);
        out.push_str(": ");
        // A name from a request must not become a header of its own.
        out.extend(value.chars().filter(|c| !c.is_control()));
        out.push_str("\r\n");
    }
    if close {
        out.push_str("Connection: close\r\n");
    }
    out.push_str("\r\n");
    out.into_bytes()
}

fn reason(status: u16) -> &'static str {
    match status {
        101 => "UPGRADED",
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Request Entity Too Large",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Internal Server Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let head = parse(b"POST /v1.50/x?a=1 HTTP/1.1\r\nHost: d\r\nContent-Length: 3\r\n\r\nabc")
            .unwrap()
            .unwrap();
        assert_eq!((head.path.as_str(), head.query.as_str()), ("/v1.50/x", "a=1"));
        assert_eq!((head.framing, head.keep_alive), (Framing::Length(3), true));
        assert!(parse(b"GET / HTTP/1.1\r\nHost:").unwrap().is_none());
        let old = parse(b"GET / HTTP/1.0\r\n\r\n").unwrap().unwrap();
        assert!(!old.keep_alive);
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        for head in [
            "GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\nHost: a\n\n",
            "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nA\0: b\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET / HTTP/0.9\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\n",
        ] {
            assert!(parse(head.as_bytes()).is_err(), "{head:?}");
        }
    }
}
