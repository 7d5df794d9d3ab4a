//! The API's door: malformed requests get an answer or a closed connection, and nobody is harmed.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use hoy_e2e::daemon;
use hoy_testkit::Daemon;

/// What comes back, if anything does.
fn send(daemon: &Daemon, bytes: &[u8]) -> String {
    send_for(daemon, bytes, usize::MAX, Duration::from_millis(700))
}

/// What comes back, until there are so many answers.
fn expect(daemon: &Daemon, bytes: &[u8], wanted: usize) -> String {
    send_for(daemon, bytes, wanted, Duration::from_secs(60))
}

fn send_for(daemon: &Daemon, bytes: &[u8], wanted: usize, patience: Duration) -> String {
    let mut stream = UnixStream::connect(daemon.path("sock")).unwrap();
    stream.set_read_timeout(Some(patience)).unwrap();
    let _ = stream.write_all(bytes);
    let mut out = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read) = stream.read(&mut buffer) {
        out.extend_from_slice(&buffer[..read]);
        if read == 0 || answers(&String::from_utf8_lossy(&out)) >= wanted {
            break;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn answers(text: &str) -> usize {
    text.matches("HTTP/1.1 ").count()
}

#[test]
fn malformed_requests() {
    let daemon = daemon();
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(200_000));
    let many = format!("GET /_ping HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(5000));
    for bad in [
        "\r\n\r\n",
        "GET\r\n\r\n",
        "GET /_ping\r\n\r\n",
        "GET /_ping HTTP/3.9\r\nHost: x\r\n\r\n",
        "\0\u{1}\u{2}",
        "POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        "POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
        "POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "POST /containers/create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "POST /containers/create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        "GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /containers/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /containers/%2e%2e%2f%2e%2e/json HTTP/1.1\r\nHost: x\r\n\r\n",
        long.as_str(),
        many.as_str(),
    ] {
        let answer = send(&daemon, bad.as_bytes());
        assert!(!answer.contains("HTTP/1.1 2"), "{:?} got {answer}", &bad[..bad.len().min(80)]);
    }
    assert!(
        expect(&daemon, b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", usize::MAX)
            .ends_with("OK")
    );
}

/// Two parsers that disagree about where a request ends are how one request hides in another.
#[test]
fn no_request_hides_in_another() {
    let daemon = daemon();
    let hidden = "GET /info HTTP/1.1\r\nHost: x\r\n\r\n";
    for smuggling in [
        format!(
            "POST /v1.50/images/load HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}",
            5 + hidden.len()
        ),
        format!(
            "POST /containers/create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{hidden}"
        ),
        format!(
            "POST /containers/create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{hidden}"
        ),
        format!(
            "POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length : 0\r\n\r\n{hidden}"
        ),
        format!(
            "POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: +0\r\n\r\n{hidden}"
        ),
        format!(
            "POST /containers/create HTTP/1.1\r\nHost: x\r\nX: a\r\n Content-Length: 0\r\n\r\n{hidden}"
        ),
        format!("POST /containers/create HTTP/1.1\nHost: x\nContent-Length: 0\n\n{hidden}"),
    ] {
        let answer = send(&daemon, smuggling.as_bytes());
        assert!(answers(&answer) <= 1, "{smuggling:?} was answered more than once: {answer}");
        assert!(!answer.contains("KernelVersion"), "{smuggling:?}");
    }
    // Honest pipelining is answered in order.
    let two = "GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2);
    assert_eq!(answers(&expect(&daemon, two.as_bytes(), 2)), 2);
}

#[test]
fn malformed_json() {
    let daemon = daemon();
    let post = |body: &str| {
        daemon
            .curl(&[
                "-X",
                "POST",
                "-H",
                "Content-Type: application/json",
                "-w",
                "%{http_code}",
                "-d",
                body,
                "http://x/v1.50/containers/create",
            ])
            .stdout
    };
    let deep = "[".repeat(100_000);
    for bad in [
        "",
        "{",
        "[]",
        "null",
        "{\"Image\":1}",
        "{\"Image\":\"busybox\",\"HostConfig\":{\"Memory\":\"x\"}}",
        "{\"Image\":\"busybox\"}{}",
        "\u{feff}{}",
        deep.as_str(),
        "{\"HostConfig\":{\"Binds\":{}}}",
    ] {
        let answer = post(bad);
        assert!(answer.ends_with("400"), "{:?}: {answer}", &bad[..bad.len().min(60)]);
        assert!(answer.contains("\"message\""), "{answer}");
    }
    assert_eq!(daemon.docker(&["ps", "-aq"]).run().ok(), "");
}

#[test]
fn versions_and_errors() {
    let daemon = daemon();
    let get = |path: &str| daemon.curl(&["-w", " %{http_code}", &format!("http://x{path}")]).stdout;
    assert!(get("/v1.24/version").ends_with("200"));
    assert!(get("/version").ends_with("200"));
    assert!(
        get("/v1.99/version")
            .contains("client version 1.99 is too new. Maximum supported API version is 1.56")
    );
    assert!(get("/v1.10/version").contains("too old"));
    assert!(get("/nowhere").contains("page not found") && get("/nowhere").ends_with("404"));
    assert!(get("/containers/none/json").contains("No such container: none"));
    let head = daemon.curl(&["-I", "http://x/_ping"]).stdout.to_lowercase();
    assert!(head.contains("api-version: 1.56") && head.contains("ostype: linux"), "{head}");
}

#[test]
fn clients_that_stall_and_vanish() {
    let daemon = daemon();
    // A hundred that never finish a request, and some that leave in the middle of a load.
    let stalled: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = UnixStream::connect(daemon.path("sock")).unwrap();
            stream.write_all(b"POST /containers/create HTTP/1.1\r\nHost").unwrap();
            stream
        })
        .collect();
    for _ in 0..5 {
        let mut stream = UnixStream::connect(daemon.path("sock")).unwrap();
        stream.write_all(b"POST /images/load HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\nhalf").unwrap();
    }
    assert_eq!(daemon.hoy(&["run", "--rm", "busybox", "echo", "served"]).run().ok(), "served\n");
    drop(stalled);
    assert_eq!(daemon.hoy(&["ps", "-aq"]).run().ok(), "");
}
