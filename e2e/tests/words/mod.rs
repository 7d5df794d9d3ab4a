//! An engine that does nothing: it notes what clients ask and answers from a table.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use hoy_testkit::{Output, Run, docker_cli, programs};
use serde_json::{Value, json};

/// What one run of a client came to.
#[derive(Debug)]
pub struct Heard {
    pub output: Output,
    pub requests: Vec<String>,
}

/// See the module.
pub struct Recorder {
    directory: tempfile::TempDir,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Recorder {
    /// With answers by method and path without version: `{"GET /networks": [200, []]}`.
    pub fn start(answers: Value) -> Self {
        let directory = tempfile::Builder::new().prefix("hoy-words-").tempdir().expect("directory");
        let listener = UnixListener::bind(directory.path().join("sock")).expect("bind");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let heard = requests.clone();
        // Ends with the test's process: the socket's name goes with the directory.
        std::thread::spawn(move || {
            let answers = Arc::new(answers);
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let (heard, answers) = (heard.clone(), answers.clone());
                std::thread::spawn(move || serve(stream, &heard, &answers));
            }
        });
        Self { directory, requests }
    }

    /// A client that speaks to this engine.
    pub fn run(&self, program: &Path, args: &[&str]) -> Run {
        let host = format!("unix://{}", self.directory.path().join("sock").display());
        Run::new(program)
            .args(args)
            .env("DOCKER_HOST", &host)
            .env("HOY_HOST", &host)
            .env("DOCKER_CONFIG", self.directory.path())
            .env("DOCKER_CONTEXT", "")
    }

    /// What was asked since the last call.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().expect("lock"))
    }
}

/// Runs both clients against a recorder; what one did the other must have done.
#[track_caller]
pub fn same(recorder: &Recorder, line: &[&str]) {
    same_typing(recorder, line, "");
}

/// As [`same`], with an answer to what is asked.
#[track_caller]
pub fn same_typing(recorder: &Recorder, line: &[&str], typed: &str) {
    let [docker, mut hoy] = [docker_cli(), programs().join("hoy")].map(|program| {
        let output = recorder.run(&program, line).input(typed).run();
        Heard { output, requests: recorder.requests() }
    });
    // Each is known by its own name.
    hoy.output.stderr = hoy.output.stderr.replace("hoy", "docker");
    // What Docker's adds of how Go words an exit code.
    let stderr = docker.output.stderr.replace("\nexit status 1\n", "\n");
    assert_eq!(hoy.output.code, docker.output.code, "{line:?}\n{hoy:?}\n{docker:?}");
    assert_eq!(hoy.output.stdout, docker.output.stdout, "{line:?}");
    assert_eq!(hoy.output.stderr, stderr, "{line:?}");
    assert_eq!(hoy.requests, docker.requests, "{line:?}");
}

/// Words as a shell would divide them, without quotes.
#[track_caller]
pub fn all_same(recorder: &Recorder, lines: &str) {
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        same(recorder, &line.split(' ').collect::<Vec<_>>());
    }
}

/// One connection, until the client leaves.
fn serve(stream: UnixStream, heard: &Mutex<Vec<String>>, answers: &Value) {
    let Ok(mut writer) = stream.try_clone() else { return };
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if !matches!(reader.read_line(&mut line), Ok(length) if length > 0) {
            return;
        }
        let mut words = line.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (mut length, mut kind) = (0, String::new());
        loop {
            let mut header = String::new();
            if !matches!(reader.read_line(&mut header), Ok(length) if length > 0) {
                return;
            }
            let Some((name, value)) = header.trim_end().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().unwrap_or(0),
                "content-type" => kind = value.to_owned(),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        if !target.ends_with("/_ping") {
            let body = String::from_utf8_lossy(&body);
            let request = format!("{method} {target} {kind} {}", body.trim_end());
            heard.lock().expect("lock").push(request);
        }
        let answer = answer(answers, &method, &target);
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn answer(answers: &Value, method: &str, target: &str) -> String {
    let path = target.split('?').next().unwrap_or_default();
    let path = match path.strip_prefix("/v").and_then(|rest| rest.split_once('/')) {
        Some((_, rest)) => format!("/{rest}"),
        None => path.to_owned(),
    };
    let known = &answers[format!("{method} {path}")];
    let (status, body) = match (known, method, path.as_str()) {
        (Value::Array(known), ..) => (known[0].as_u64().unwrap_or(500), known[1].clone()),
        (_, _, "/containers/create") => (201, json!({"Id": "made", "Warnings": []})),
        (_, _, "/volumes/create") => (201, json!({"Name": "made"})),
        (_, _, "/networks/create") => (201, json!({"Id": "made", "Warning": ""})),
        (_, "GET", "/networks" | "/containers/json") => (200, json!([])),
        (_, "GET", path) if path.starts_with("/networks/") => {
            (200, json!({"Name": "n", "Id": "made", "IPAM": {"Config": []}}))
        }
        (_, "DELETE", _) => (204, Value::Null),
        _ => (200, json!({})),
    };
    let text = if status == 204 || method == "HEAD" { String::new() } else { body.to_string() };
    let length =
        if status == 204 { String::new() } else { format!("Content-Length: {}\r\n", text.len()) };
    format!(
        "HTTP/1.1 {status} OK\r\nApi-Version: 1.50\r\nOstype: linux\r\nServer: Docker/28.2.2 (linux)\r\n\
         Content-Type: application/json\r\n{length}\r\n{text}"
    )
}
