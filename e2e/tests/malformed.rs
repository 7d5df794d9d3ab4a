//! Ten thousand requests that no honest client sends, generated over every route of the API: the
//! daemon answers each with Docker's kind of status and a message in JSON, and keeps nothing.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hoy_e2e::daemon;
use hoy_testkit::KernelCounts;
use serde_json::{Value, json};

const ROUTES: &str = include_str!("reference/routes.tsv");
const REQUESTS: usize = 10_000;
const CLIENTS: usize = 4;

/// Chance that is the same every time.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

struct Route {
    method: &'static str,
    path: &'static str,
    query: Vec<(&'static str, &'static str)>,
    status: Vec<u16>,
}

fn routes() -> Vec<Route> {
    let rows = ROUTES.lines().filter(|line| !line.starts_with('#'));
    rows.map(|line| {
        let fields: Vec<&'static str> = line.split('\t').collect();
        let query = fields[4].split(' ').filter_map(|one| one.split_once(':')).collect();
        let status = fields[6].split([',', ' ']).filter_map(|code| code.parse().ok()).collect();
        Route { method: fields[0], path: fields[1], query, status }
    })
    .collect()
}

/// Names that nothing has.
const NAMES: &[&str] = &[
    "nosuch",
    "%00",
    "%ff%fe",
    "..",
    "%2e%2e%2f%2e%2e",
    "%2F",
    "a%20b",
    "-",
    "*",
    "%",
    "%0d%0aX-Header:%20y",
    "sha256:",
    "sha256:zz",
    "a@sha256:00",
    "%F0%9F%90%8B",
    "deadbeefdeadbeef",
];

/// Values of no type.
const VALUES: &[&str] = &[
    "",
    "0",
    "-1",
    "1",
    "banana",
    "NaN",
    "1e9",
    "99999999999999999999999",
    "-9223372036854775809",
    "%00",
    "%ff%fe",
    "%0d%0aX:%20y",
    "0x10",
    "[]",
    "{}",
    "null",
    "true",
    "1.5",
    "..%2f..",
    "%7B%22a%22",
    "SIGBOGUS",
    "ctrl-bogus",
    "2026-13-45",
];

const FILTERS: &[&str] = &[
    "%7B",
    "%5B%5D",
    "1",
    "null",
    "%22x%22",
    "%7B%22bogus%22%3A%5B%22x%22%5D%7D",
    "%7B%22label%22%3A1%7D",
    "%7B%22label%22%3A%5B1%5D%7D",
    "%7B%22label%22%3A%7B%22a%22%3A1%7D%7D",
    "%7B%22id%22%3A%5B%22(%22%5D%7D",
    "%7B%22status%22%3A%5B%22x%22%5D%7D",
    "%7B%22until%22%3A%5B%22x%22%2C%22y%22%5D%7D",
    "%7B%22dangling%22%3A%5B%22maybe%22%5D%7D",
    "%7B%22%00%22%3A%5B%22%00%22%5D%7D",
    "%7B%22before%22%3A%5B%22nosuch%22%5D%7D",
    "%ff",
];

/// Fields of requests, for values of every wrong type.
const FIELDS: &[&str] = &[
    "Image",
    "Cmd",
    "Entrypoint",
    "Env",
    "Labels",
    "HostConfig",
    "NetworkingConfig",
    "ExposedPorts",
    "Volumes",
    "Healthcheck",
    "StopTimeout",
    "Name",
    "Driver",
    "DriverOpts",
    "Options",
    "IPAM",
    "Container",
    "EndpointConfig",
    "AttachStdin",
    "Tty",
    "ConsoleSize",
    "Memory",
    "PidsLimit",
    "RestartPolicy",
    "Ulimits",
    "Mounts",
    "Binds",
    "PortBindings",
    "username",
    "Config",
];

fn wrong_value(chance: &mut Chance) -> Value {
    match chance.below(12) {
        0 => Value::Null,
        1 => true.into(),
        2 => (-1).into(),
        3 => u64::MAX.into(),
        4 => json!(1.5),
        5 => json!(1e300),
        6 => "banana".into(),
        7 => "x".repeat(5000).into(),
        8 => json!([1, "a", null]),
        9 => json!({"a": {"b": []}}),
        10 => json!([[[]]]),
        _ => "\u{0}\r\n".into(),
    }
}

fn body(chance: &mut Chance) -> Vec<u8> {
    let mut document = json!({});
    for _ in 0..=chance.below(3) {
        let value = match chance.below(3) {
            0 => json!({ chance.one(FIELDS): wrong_value(chance) }),
            _ => wrong_value(chance),
        };
        document[chance.one(FIELDS)] = value;
    }
    let text = document.to_string().into_bytes();
    match chance.below(14) {
        0 => Vec::new(),
        1 => b"{".to_vec(),
        2 => b"not json".to_vec(),
        3 => b"{\"Image\":\"\xff\xfe\"}".to_vec(),
        4 => [text.as_slice(), b"{}"].concat(),
        5 => b"[".repeat(4000),
        6 => b"{\"a\":".repeat(1000),
        7 => b"[]".to_vec(),
        8 => b"null".to_vec(),
        9 => text[..text.len() / 2].to_vec(),
        10 => b"\0".repeat(100),
        11 => b"{\"Image\":\"a\",\"Image\":1}".to_vec(),
        _ => text,
    }
}

struct Request {
    line: String,
    bytes: Vec<u8>,
    /// Somebody asks for a stream that has no end.
    may_last: bool,
}

fn request(route: &Route, ambiguous: &str, chance: &mut Chance) -> Request {
    let mut path = String::new();
    for part in route.path.split('/').filter(|part| !part.is_empty()) {
        path.push('/');
        let shared = route.path.starts_with("/containers/{") && chance.below(8) == 0;
        path.push_str(match part.starts_with('{') {
            true if shared => ambiguous,
            true => chance.one(NAMES),
            false => part,
        });
    }
    // `POST /containers/prune` and its like mean something without any word: they get a wrong one.
    let mut query: Vec<String> = Vec::new();
    for (name, kind) in &route.query {
        let filters = *name == "filters";
        if filters || chance.below(3) > 0 {
            let of = if filters || kind.contains("json") { FILTERS } else { VALUES };
            query.push(format!("{name}={}", chance.one(of)));
        }
    }
    if chance.below(10) == 0 {
        query
            .push(chance.one(&["&&&=&", "%zz=%", "a[]=1", "filters=%7B", "=", "t=t=t"]).to_owned());
    }
    let version = match chance.below(40) {
        0 => "/v1.99",
        1 => "/v0.1",
        2 => "/v1.x",
        3 => "/v99999999999.1",
        4..=10 => "/v1.24",
        11..=17 => "/v1.41",
        18..=24 => "/v1.52",
        _ => "",
    };
    let has_body = route.method == "POST" || route.method == "PUT" || chance.below(20) == 0;
    let body = if has_body { body(chance) } else { Vec::new() };
    let kind = chance.one(&[
        "application/json",
        "application/json",
        "application/json",
        "application/json; charset=utf-8",
        "text/plain",
        "application/x-tar",
        "",
        "application/json; charset=",
        "bogus",
    ]);
    let target = format!("{version}{path}?{}", query.join("&"));
    let mut bytes = format!("{} {target} HTTP/1.1\r\nHost: d\r\n", route.method).into_bytes();
    if !kind.is_empty() {
        bytes.extend(format!("Content-Type: {kind}\r\n").bytes());
    }
    if chance.below(8) == 0 && !body.is_empty() {
        bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
        bytes.extend(format!("{:x}\r\n", body.len()).bytes());
        bytes.extend(&body);
        bytes.extend(b"\r\n0\r\n\r\n");
    } else {
        bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
        bytes.extend(&body);
    }
    let said = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
    Request {
        line: format!("{} {target} ({kind}) {said}", route.method),
        bytes,
        may_last: route.path == "/events",
    }
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
    /// The connection serves for the next request.
    again: bool,
}

fn answer(stream: &mut UnixStream, request: &Request, head_only: bool) -> Option<Answer> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 8192];
    let mut more = |bytes: &mut Vec<u8>| match stream.read(&mut buffer) {
        Ok(length) if length > 0 => {
            bytes.extend_from_slice(&buffer[..length]);
            true
        }
        _ => false,
    };
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if !more(&mut bytes) {
            return None;
        }
    };
    let mut body = bytes.split_off(end);
    let head = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut again = !head.contains("connection: close") && !request.may_last;
    if let Some(length) = length {
        let length: usize = length.trim().parse().ok()?;
        while !head_only && body.len() < length {
            if !more(&mut body) {
                return None;
            }
        }
    } else if head.contains("transfer-encoding: chunked") && !head_only {
        while !request.may_last && !body.ends_with(b"0\r\n\r\n") {
            if !more(&mut body) {
                return None;
            }
        }
    } else if !matches!(status, 204 | 304) && !head_only {
        again = false;
    }
    Some(Answer { status, head, body, again })
}

/// What is wrong with an answer, if anything is.
fn fault(route: &Route, answer: &Answer) -> Option<String> {
    let Answer { status, head, body, .. } = answer;
    if !head.contains("api-version: ") {
        return Some("no API version".into());
    }
    if *status < 400 {
        let known = route.status.contains(status) || matches!(status, 200..=204);
        return (!known).then(|| format!("status {status}"));
    }
    // What Docker says of a request that means nothing; not built yet; not in a swarm.
    let usual = matches!(status, 400 | 403 | 404 | 405 | 409 | 501 | 503);
    let expected = usual || (*status == 500 && route.status.contains(status));
    if !expected {
        return Some(format!("status {status}"));
    }
    if route.method == "HEAD" {
        return None;
    }
    let message = serde_json::from_slice::<Value>(body).ok();
    let message = message.as_ref().and_then(|value| value["message"].as_str());
    if message.is_none_or(str::is_empty) || !head.contains("content-type: application/json") {
        return Some("no message in JSON".into());
    }
    // Docker says that of a time that is none.
    if *status == 500 && message.is_some_and(|text| !text.starts_with("invalid value for \"")) {
        return Some("an inner error for a wrong request".into());
    }
    None
}

fn client(socket: &Path, ambiguous: &str, seed: u64, left: &AtomicUsize) -> Vec<String> {
    let routes = routes();
    let mut chance = Chance(seed);
    let mut wrong = Vec::new();
    let mut stream: Option<UnixStream> = None;
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
        let route = &routes[chance.below(routes.len())];
        let request = request(route, ambiguous, &mut chance);
        let mut connection = stream.take().unwrap_or_else(|| {
            let stream = UnixStream::connect(socket).expect("connect");
            stream.set_read_timeout(Some(Duration::from_secs(60))).expect("deadline");
            stream
        });
        // It may be answered, and closed, before all of it is written.
        let _ = connection.write_all(&request.bytes);
        match answer(&mut connection, &request, route.method == "HEAD") {
            None => wrong.push(format!("{}: no answer", request.line)),
            Some(answer) => {
                if let Some(fault) = fault(route, &answer) {
                    let body = String::from_utf8_lossy(&answer.body);
                    wrong.push(format!("{fault}: {}: {} {body}", request.line, answer.status));
                }
                stream = answer.again.then_some(connection);
            }
        }
    }
    wrong
}

#[test]
fn ten_thousand_requests_without_sense() {
    let daemon = daemon();
    // Until two have ids that begin alike.
    let mut ids: Vec<String> = Vec::new();
    let ambiguous = loop {
        let id = daemon.hoy(&["create", "busybox"]).run().ok().trim().to_owned();
        let first = id[..1].to_owned();
        if ids.iter().any(|other| other.starts_with(&first)) {
            break first;
        }
        ids.push(id);
    };
    let known = || {
        let lists = [&["ps", "-aq"][..], &["images", "-q"], &["network", "ls", "-q"]];
        lists.map(|list| daemon.hoy(list).run().ok().lines().count())
    };
    let images = || {
        let format = "{{.Repository}}:{{.Tag}} {{.ID}}";
        let listed = daemon.hoy(&["images", "-a", "--format", format]).run();
        listed.ok().lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
    };
    let there = images();
    let before = (known(), KernelCounts::of(&daemon));
    let pid = daemon.pid();
    let (socket, left) = (daemon.path("sock"), AtomicUsize::new(REQUESTS));
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let clients: Vec<_> = (1..=CLIENTS as u64)
            .map(|seed| {
                let (socket, left, ambiguous) = (&socket, &left, &ambiguous);
                scope.spawn(move || {
                    client(socket, ambiguous, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), left)
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().expect("client")).collect()
    });
    let shown: Vec<&String> = wrong.iter().take(20).collect();
    assert!(wrong.is_empty(), "{} of {REQUESTS}: {shown:#?}", wrong.len());
    // The same process serves, and has what it had.
    assert_eq!(daemon.pid(), pid);
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    // Some of them made sense by chance.
    daemon.hoy(&["volume", "prune", "-af"]).run().ok();
    daemon.hoy(&["network", "prune", "-f"]).run().ok();
    for made in images().difference(&there) {
        // A container that was committed, or another name.
        let (name, id) = made.split_once(' ').expect("a name and an id");
        daemon.hoy(&["rmi", if name.contains("<none>") { id } else { name }]).run().ok();
    }
    before.1.wait_for(&daemon);
    assert_eq!(known(), before.0);
}
