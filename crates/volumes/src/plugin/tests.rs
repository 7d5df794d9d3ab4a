//! A plugin of the tests' own behind a socket, which says what each test wants, and lies.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::address::{Address, TlsFiles};
use super::{CallError, LookupError, PluginLimits, PluginSettings, Plugins, discover};

/// Long enough for a busy machine, short enough for one that hangs.
pub(crate) fn settings(directory: &Path) -> PluginSettings {
    PluginSettings {
        sockets: vec![directory.to_owned()],
        specs: vec![directory.join("etc"), directory.join("lib")],
        limits: PluginLimits {
            long: Duration::from_secs(2),
            other: Duration::from_secs(2),
            read: Duration::from_secs(1),
            retry: Duration::from_millis(200),
            pause: Duration::from_millis(10),
            calls: 4,
        },
    }
}

pub(crate) type Asked = Arc<Mutex<Vec<String>>>;

/// Serves until the process ends; what `answer` gives goes to the wire as it is, nothing hangs.
pub(crate) fn serve(
    path: PathBuf,
    answer: impl Fn(&str, &str) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> Asked {
    let asked = Asked::default();
    let listener = UnixListener::bind(path).unwrap();
    let (seen, answer) = (Arc::clone(&asked), Arc::new(answer));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
            std::thread::spawn(move || one(stream.unwrap(), &seen, &*answer));
        }
    });
    asked
}

fn one(mut stream: UnixStream, seen: &Asked, answer: &dyn Fn(&str, &str) -> Option<Vec<u8>>) {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    let body = loop {
        let read = stream.read(&mut buffer).unwrap();
        text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
        if body.len() == length.parse::<usize>().unwrap() {
            break body.to_owned();
        }
    };
    assert!(text.contains("Accept: application/vnd.docker.plugins.v1.2+json\r\n"));
    let method = text.split(' ').nth(1).unwrap().trim_start_matches('/').to_owned();
    seen.lock().unwrap().push(format!("{method} {body}"));
    match answer(&method, &body) {
        Some(said) => drop(stream.write_all(&said)),
        None => std::thread::sleep(Duration::from_secs(5)),
    }
}

pub(crate) fn json(text: &str) -> Option<Vec<u8>> {
    Some(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()).into_bytes())
}

/// A plugin that answers one call in this way, and the rest well.
pub(crate) fn with(
    directory: &Path,
    name: &str,
    call: &'static str,
    said: Option<Vec<u8>>,
) -> Asked {
    serve(directory.join(format!("{name}.sock")), move |method, _| {
        if method == call {
            return said.clone();
        }
        json(match method {
            "Plugin.Activate" => r#"{"Implements":["VolumeDriver"]}"#,
            "VolumeDriver.Get" => r#"{"Volume":{"Name":"v1","Mountpoint":"/tmp"}}"#,
            "VolumeDriver.Capabilities" => r#"{"Capabilities":{"Scope":"GLOBAL"}}"#,
            "VolumeDriver.Mount" | "VolumeDriver.Path" => r#"{"Mountpoint":"/tmp","Err":""}"#,
            "VolumeDriver.List" => r#"{"Volumes":[{"Name":"v1","Status":{"a":1}},null]}"#,
            _ => "{}",
        })
    })
}

fn plugins(directory: &Path) -> Arc<Plugins> {
    Arc::new(Plugins::new(settings(directory)))
}

#[test]
fn addresses() {
    let parse = |text: &str| Address::parse(text, &TlsFiles::default());
    let shown = |text: &str| parse(text).unwrap().to_string();
    assert_eq!(shown("unix:///run/x.sock"), "unix /run/x.sock");
    assert_eq!(shown("tcp://[::1]:99/path"), "tcp [::1]:99");
    assert_eq!(shown("http://localhost"), "tcp localhost:80");
    assert_eq!(shown("https://example.com/plugin"), "tcp example.com:443");
    assert_eq!(parse("tcp://a:1").unwrap().url("X"), "http://a:1/X");
    assert_eq!(parse("unix:///a/b").unwrap().url("X"), "http://%2Fa%2Fb/X");
    for bad in ["", "/run/x", "unix://x", "tcp://a", "tcp://a:b", "tcp://:1", "ftp://a:1", "tcp://"]
    {
        parse(bad).unwrap_err();
    }
    let named = TlsFiles { ca: Some("/ca".into()), ..TlsFiles::default() };
    let Address::Tcp { tls: Some(tls), .. } = Address::parse("tcp://a:1", &named).unwrap() else {
        panic!("files of TLS are not for nothing");
    };
    assert_eq!(tls, named);
    let text = r#"{"Name":"x","Addr":"https://h:8","TLSConfig":{"InsecureSkipVerify":true,
        "CAFile":"/ca","CertFile":"/cert","KeyFile":""}}"#;
    let Address::Tcp { tls: Some(tls), port: 8, .. } = discover::parse_json(text).unwrap() else {
        panic!("not what it says");
    };
    assert!(tls.insecure && tls.key.is_none() && tls.cert.is_some());
}

#[test]
fn found_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for name in ["two", "etc/deep", "lib", "a.b"] {
        std::fs::create_dir_all(at(name)).unwrap();
    }
    let sockets = ["one.sock", "two/two.sock", "a.b/a.b.sock"];
    let _sockets = sockets.map(|name| UnixListener::bind(at(name)).unwrap());
    std::fs::write(at("etc/spec.spec"), "tcp://localhost:1\n").unwrap();
    std::fs::write(at("etc/deep/deep.json"), r#"{"Addr":"unix:///x"}"#).unwrap();
    std::fs::write(at("lib/one.spec"), "tcp://localhost:2").unwrap();
    std::fs::write(at("lib/bad.json"), "{").unwrap();
    // Not a socket, not in its directory, not a plugin at all.
    std::fs::write(at("file.sock"), "").unwrap();
    std::fs::write(at("two/other.sock"), "").unwrap();
    std::fs::write(at("lib/readme.txt"), "").unwrap();
    let settings = settings(directory.path());
    assert_eq!(discover::scan(&settings), ["a.b", "bad", "deep", "one", "spec", "two"]);
    let find = |name: &str| discover::find(&settings, name);
    assert_eq!(find("one").unwrap(), Address::Unix(at("one.sock")), "sockets come first");
    assert_eq!(find("a.b").unwrap(), Address::Unix(at("a.b/a.b.sock")));
    assert_eq!(find("spec").unwrap().to_string(), "tcp localhost:1");
    assert_eq!(find("deep").unwrap(), Address::Unix("/x".into()));
    assert!(matches!(find("bad"), Err(LookupError::Unusable(_))));
    for name in ["", "file", "readme", "../one", "etc/spec", ".", ".."] {
        let error = find(name).unwrap_err().to_string();
        assert_eq!(error, format!("plugin \"{name}\" not found"));
    }
}

#[test]
fn the_calls_as_docker_makes_them() {
    let directory = tempfile::tempdir().unwrap();
    let asked = with(directory.path(), "p", "", None);
    let plugins = plugins(directory.path());
    let driver = plugins.driver("p").unwrap();
    driver.create("v1", &BTreeMap::from([("a".into(), "b".into())])).unwrap();
    driver.create("v2", &BTreeMap::new()).unwrap();
    assert_eq!(driver.mount("v1", "id").unwrap(), Path::new("/tmp"));
    driver.unmount("v1", "id", plugins.usual()).unwrap();
    assert_eq!(driver.path("v1", plugins.brief()).unwrap(), "/tmp");
    let found = driver.get("v1", plugins.brief()).unwrap().unwrap();
    assert_eq!((found.name.as_str(), found.mountpoint.as_deref()), ("v1", Some("/tmp")));
    assert_eq!(driver.list(plugins.brief()).unwrap().len(), 1);
    assert_eq!(driver.scope(plugins.brief()), "global");
    assert_eq!(driver.scope(plugins.brief()), "global");
    driver.remove("v1").unwrap();
    // Known now: it is not asked again what it is.
    plugins.driver("p").unwrap();
    let expected = [
        "Plugin.Activate ",
        r#"VolumeDriver.Create {"Name":"v1","Opts":{"a":"b"}}"#,
        r#"VolumeDriver.Create {"Name":"v2","Opts":null}"#,
        r#"VolumeDriver.Mount {"Name":"v1","ID":"id"}"#,
        r#"VolumeDriver.Unmount {"Name":"v1","ID":"id"}"#,
        r#"VolumeDriver.Path {"Name":"v1"}"#,
        r#"VolumeDriver.Get {"Name":"v1"}"#,
        "VolumeDriver.List {}",
        "VolumeDriver.Capabilities {}",
        r#"VolumeDriver.Remove {"Name":"v1"}"#,
    ];
    assert_eq!(*asked.lock().unwrap(), expected);
    assert_eq!(plugins.who_has("v1").unwrap().0.name, "p");
    assert!(plugins.who_has("other").is_none(), "it told of another volume");
}

#[test]
fn answers_in_every_form() {
    let directory = tempfile::tempdir().unwrap();
    let body = r#"{"Volume":{"Name":"v1"}}"#;
    let (one, two) = body.split_at(7);
    let forms = [
        format!("HTTP/1.0 200 OK\r\n\r\n{body}"),
        format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 24\r\n\r\n{body}"),
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{one}\r\n{:x};x=y\r\n\
             {two}\r\n0\r\n\r\n",
            one.len(),
            two.len()
        ),
    ];
    for (index, form) in forms.into_iter().enumerate() {
        let name = format!("p{index}");
        with(directory.path(), &name, "VolumeDriver.Get", Some(form.into_bytes()));
        let driver = plugins(directory.path()).driver(&name).unwrap();
        let patience = plugins(directory.path()).brief();
        assert_eq!(driver.get("v1", patience).unwrap().unwrap().name, "v1", "{name}");
    }
}

#[test]
fn lies_and_silence() {
    let directory = tempfile::tempdir().unwrap();
    let endless = |head: &str| {
        let mut text = format!("HTTP/1.1 200 OK\r\n{head}").into_bytes();
        text.resize(17 << 20, b'0');
        Some(text)
    };
    let raw = |text: &str| Some(text.as_bytes().to_vec());
    let big = "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n";
    let chunk = "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n";
    for (name, said, shown) in [
        ("silent", None, "(Client.Timeout exceeded while awaiting headers)"),
        ("closes", raw(""), ": EOF"),
        ("short", raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"), "unexpected EOF"),
        ("other", raw("hello\r\n\r\n"), "malformed HTTP response"),
        ("large", raw(big), "bad Content-Length"),
        ("vast", endless("\r\n"), "longer than 16777216 bytes"),
        ("chunks", endless(chunk), "longer than 16777216 bytes"),
        ("wordy", endless("X: "), "head is too long"),
        ("html", json("<html>"), "VolumeDriver.Mount: error reading plugin response"),
        ("array", json("[]"), "error reading plugin response"),
        ("number", json(r#"{"Mountpoint":1}"#), "error reading plugin response"),
        ("empty", json("{}"), "gave \"\" as mount point, which is not an absolute path"),
        ("relative", json(r#"{"Mountpoint":"tmp"}"#), "which is not an absolute path"),
        ("nowhere", json(r#"{"Mountpoint":"/no/such"}"#), "which does not exist"),
        ("file", json(r#"{"Mountpoint":"/proc/version"}"#), "which is not a directory"),
    ] {
        let asked = with(directory.path(), name, "VolumeDriver.Mount", said);
        let driver = plugins(directory.path()).driver(name).unwrap();
        let failed = driver.mount("v1", "id").unwrap_err();
        let error = failed.error;
        assert!(failed.unmounted);
        assert!(error.to_string().contains(shown), "{name}: {error}");
        assert!(!error.is_answer());
        // What may be mounted is given back.
        let asked = asked.lock().unwrap();
        assert_eq!(asked.last().unwrap(), r#"VolumeDriver.Unmount {"Name":"v1","ID":"id"}"#);
    }
    // What it refuses itself it need not give back.
    let refusal = json(r#"{"Err":"no space"}"#);
    let asked = with(directory.path(), "refuses", "VolumeDriver.Mount", refusal);
    let driver = plugins(directory.path()).driver("refuses").unwrap();
    let error = driver.mount("v1", "id").unwrap_err().error;
    assert_eq!(error, CallError::Said("no space".into()));
    assert_eq!(asked.lock().unwrap().len(), 2);
    let refusal = raw("HTTP/1.1 500 X\r\n\r\n{\"Err\":\"bad\"}");
    with(directory.path(), "status", "VolumeDriver.Remove", refusal);
    let driver = plugins(directory.path()).driver("status").unwrap();
    assert_eq!(driver.remove("v1").unwrap_err().to_string(), "VolumeDriver.Remove: bad");
}

#[test]
fn who_is_not_there_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("late.sock");
    drop(UnixListener::bind(&path).unwrap());
    let plugins = plugins(directory.path());
    let error = plugins.driver("late").unwrap_err().to_string();
    let shown = path.display().to_string();
    let url = shown.replace('/', "%2F");
    assert_eq!(
        error,
        format!(
            "legacy plugin: Post \"http://{url}/Plugin.Activate\": dial unix {shown}: connect: \
             connection refused"
        )
    );
    let waits = Arc::clone(&plugins);
    let waiter = std::thread::spawn(move || waits.driver("late").map(|driver| driver.name.clone()));
    std::fs::remove_file(&path).unwrap();
    with(directory.path(), "late", "", None);
    // It may have looked for it in the moment between the two.
    if let Err(error) = waiter.join().unwrap() {
        assert!(matches!(error, LookupError::NotFound(_)), "{error}");
    }
    assert_eq!(plugins.driver("late").unwrap().name, "late");
    // Another kind of plugin is none of ours.
    let manifest = json(r#"{"Implements":["NetworkDriver"]}"#);
    with(directory.path(), "net", "Plugin.Activate", manifest);
    assert!(matches!(plugins.driver("net"), Err(LookupError::Unusable(_))));
}

#[test]
fn one_that_hangs_delays_no_other() {
    let directory = tempfile::tempdir().unwrap();
    with(directory.path(), "good", "", None);
    with(directory.path(), "hangs", "VolumeDriver.List", None);
    let asked = with(directory.path(), "sleeps", "VolumeDriver.Get", None);
    // One that takes no connections: its queue is full.
    let path = directory.path().join("full.sock");
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _waiting = UnixStream::connect(&path).unwrap();
    std::fs::write(directory.path().join("gone"), "").unwrap();
    let plugins = plugins(directory.path());
    let said = plugins.survey();
    let shown = said.iter().map(|one| (one.driver.as_str(), one.volumes.is_ok()));
    let expected = [("full", false), ("good", true), ("hangs", false), ("sleeps", true)];
    assert_eq!(shown.collect::<Vec<_>>(), expected);
    let full = said[0].volumes.as_ref().unwrap_err();
    assert!(full.ends_with("i/o timeout"), "{full}");
    assert_eq!(said[1].scope, "global");
    assert_eq!(plugins.who_has("v1").unwrap().0.name, "good");
    // Who was silent is left alone for a while.
    let before = asked.lock().unwrap().len();
    assert_eq!(plugins.who_has("v1").unwrap().0.name, "good");
    assert_eq!(asked.lock().unwrap().len(), before);
}

#[test]
fn so_many_wait_and_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let asked = with(directory.path(), "slow", "VolumeDriver.Remove", None);
    let plugins = plugins(directory.path());
    let driver = plugins.driver("slow").unwrap();
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let driver = Arc::clone(&driver);
            std::thread::spawn(move || driver.remove("v1").unwrap_err())
        })
        .collect();
    let began = std::time::Instant::now();
    while asked.lock().unwrap().len() < 5 && began.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let error = driver.get("v1", plugins.brief()).unwrap_err().to_string();
    assert!(error.ends_with("4 calls wait for an answer already"), "{error}");
    for waiter in waiting {
        assert!(waiter.join().unwrap().is_late());
    }
    assert!(driver.get("v1", plugins.brief()).unwrap().is_some());
}
