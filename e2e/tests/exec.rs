//! Further processes in a container, in the words that Docker's clients hear, and what is left of
//! a thousand of them.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use hoy_e2e::{daemon, field, pid};
use hoy_testkit::{Daemon, Output, Run, wait_until};

fn docker(daemon: &Daemon, line: &str) -> Output {
    daemon.docker(&line.split_whitespace().collect::<Vec<_>>()).run()
}

/// Status and body of a JSON request.
fn ask(daemon: &Daemon, method: &str, path: &str, body: &str) -> (u16, String) {
    let json = "Content-Type: application/json";
    let mut args = vec!["-s", "-X", method, "-w", "\n%{http_code}"];
    if method == "POST" {
        args.extend(["-H", json, "-d", body]);
    }
    let url = format!("http://d{path}");
    args.push(&url);
    let text = daemon.curl(&args).ok().to_owned();
    let (body, status) = text.trim_end().rsplit_once('\n').unwrap_or(("", text.trim()));
    (status.parse().unwrap(), body.trim().to_owned())
}

fn create(daemon: &Daemon, body: &str) -> String {
    let (status, text) = ask(daemon, "POST", "/containers/box/exec", body);
    assert_eq!(status, 201, "{text}");
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["Id"].as_str().unwrap().to_owned()
}

fn inspect(daemon: &Daemon, id: &str) -> serde_json::Value {
    let (status, text) = ask(daemon, "GET", &format!("/exec/{id}/json"), "");
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// A connection on which a head was sent and the answer's was read.
fn hijack(daemon: &Daemon, head: &str) -> (UnixStream, String) {
    let path = daemon.host().trim_start_matches("unix://").to_owned();
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&answer));
        answer.push(byte[0]);
    }
    (stream, String::from_utf8(answer).unwrap())
}

fn start_head(id: &str, version: &str, query: &str, body: &str) -> String {
    format!(
        "POST {version}/exec/{id}/start{query} HTTP/1.1\r\nHost: d\r\nContent-Type: \
         application/json\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn as_dockers_clients_hear_it() {
    let daemon = daemon();
    docker(&daemon, "run -d --name box busybox sleep 1000").ok();
    let code = |line: &str| docker(&daemon, line).code;
    assert_eq!(code("exec box nosuch"), Some(127));
    assert_eq!(code("exec box /tmp"), Some(126));
    let killed = daemon.docker(&["exec", "box", "sh", "-c", "kill -9 $$"]).run();
    assert_eq!(killed.code, Some(137));
    let nobody = docker(&daemon, "exec -u nobody2 box true");
    let text = format!("{}{}", nobody.stdout, nobody.stderr);
    assert!(text.starts_with("unable to find user nobody2: no matching"), "{text}");
    let env = docker(&daemon, "exec -t -e A=1 -w /tmp box sh -c env").ok().to_owned();
    assert!(env.contains("TERM=xterm") && env.contains("A=1") && env.contains("PWD=/tmp"), "{env}");

    // All of what is told of one, before, while and after it runs.
    let id =
        create(&daemon, r#"{"Cmd":["sleep","1000"],"AttachStdout":true,"DetachKeys":"ctrl-a"}"#);
    let before = inspect(&daemon, &id);
    assert_eq!(before["ExitCode"], serde_json::Value::Null);
    assert_eq!((&before["DetachKeys"], &before["Pid"]), (&"AQ==".into(), &0.into()));
    assert_eq!(before["ProcessConfig"]["arguments"], serde_json::json!(["1000"]));
    assert!(field(&daemon, "box", "{{.ExecIDs}}").contains(&id));
    let start = format!("/exec/{id}/start");
    assert_eq!(ask(&daemon, "POST", &start, "{\"Detach\":true}").0, 200);
    let (status, text) = ask(&daemon, "POST", &start, "{\"Detach\":true}");
    assert_eq!(status, 409);
    assert!(text.contains(&format!("Error: Exec command {id} is already running")), "{text}");
    // A size that nothing has is no error while it runs.
    assert_eq!(ask(&daemon, "POST", &format!("/exec/{id}/resize?h=5&w=6"), "").0, 200);
    let running = inspect(&daemon, &id);
    assert_eq!(running["Running"], true);
    let process = running["Pid"].as_i64().unwrap();
    assert!(std::path::Path::new(&format!("/proc/{process}")).exists());
    Run::new("kill").args(["-9", &process.to_string()]).run().ok();
    wait_until("it has ended", || inspect(&daemon, &id)["Running"] == false);
    assert_eq!(inspect(&daemon, &id)["ExitCode"], 137);
    assert!(ask(&daemon, "POST", &start, "{\"Detach\":true}").1.contains("has already run"));
    let (status, text) = ask(&daemon, "POST", &format!("/exec/{id}/resize?h=5&w=6"), "");
    assert_eq!((status, text.as_str()), (404, "{\"message\":\"no such exec\"}"));
    assert!(!field(&daemon, "box", "{{.ExecIDs}}").contains(&id));

    for (path, body, status, says) in [
        ("/containers/box/exec", "{\"Cmd\":[]}", 400, "No exec command specified"),
        ("/containers/box/exec", "", 400, "EOF while reading request body"),
        (
            "/containers/box/exec",
            "{\"Cmd\":[\"a\"],\"DetachKeys\":\"bogus\"}",
            500,
            "Invalid escape keys (bogus) provided",
        ),
        ("/exec/nosuch/start", "{}", 404, "No such exec instance: nosuch"),
        ("/exec/nosuch/resize?h=1&w=1", "", 404, "No such exec instance: nosuch"),
        ("/exec/nosuch/resize?h=x&w=1", "", 400, "h"),
    ] {
        let found = ask(&daemon, "POST", path, body);
        assert!(found.0 == status && found.1.contains(says), "{path} {body}: {found:?}");
    }
    docker(&daemon, "pause box").ok();
    let paused = docker(&daemon, "exec box true");
    assert!(paused.stderr.contains("Container box is paused, unpause the container before exec"));
    docker(&daemon, "unpause box").ok();

    // Frames as the start asks for them, and the type's name by version.
    for (version, body, kind, says) in [
        ("/v1.50", "{}", "multiplexed-stream", &b"\x01\0\0\0\0\0\0\x03hi\n"[..]),
        ("/v1.41", "{}", "raw-stream", &b"\x01\0\0\0\0\0\0\x03hi\n"[..]),
        ("/v1.50", "{\"Tty\":true}", "raw-stream", &b"hi\n"[..]),
    ] {
        let id = create(&daemon, r#"{"Cmd":["echo","hi"],"AttachStdout":true}"#);
        let (mut stream, head) = hijack(&daemon, &start_head(&id, version, "", body));
        assert!(head.starts_with("HTTP/1.1 101 UPGRADED") && head.contains(kind), "{head}");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        assert_eq!(all, says, "{version} {body}");
    }
    docker(&daemon, "rm -f box").ok();
    assert_eq!(ask(&daemon, "GET", &format!("/exec/{id}/json"), "").0, 404);
}

#[test]
fn with_its_client_and_without() {
    let daemon = daemon();
    docker(&daemon, "run -d -i --name box busybox cat").ok();
    // One outlives its client, unless it was asked not to.
    for (query, lives) in [("", true), ("?hoy-kill-on-disconnect=1", false)] {
        let id = create(&daemon, r#"{"Cmd":["sleep","1000"],"AttachStdout":true}"#);
        let (stream, _) = hijack(&daemon, &start_head(&id, "", query, "{}"));
        wait_until("it runs", || inspect(&daemon, &id)["Pid"] != 0);
        let process = format!("/proc/{}", inspect(&daemon, &id)["Pid"]);
        drop(stream);
        if lives {
            docker(&daemon, "exec box true").ok();
            assert!(std::path::Path::new(&process).exists());
        } else {
            wait_until("it is gone", || inspect(&daemon, &id)["Running"] == false);
            assert_eq!(inspect(&daemon, &id)["ExitCode"], 137);
        }
    }

    // By WebSocket: both directions, a ping, an end.
    let plain = ask(&daemon, "GET", "/containers/box/attach/ws?stdout=1", "");
    assert_eq!((plain.0, plain.1.contains("not websocket protocol")), (400, true), "{plain:?}");
    let head = "GET /v1.50/containers/box/attach/ws?stdin=1&stdout=1&stream=1 HTTP/1.1\r\nHost: d\r\n\
                Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let (mut stream, answer) = hijack(&daemon, head);
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    assert!(answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
    let frame = |kind: u8, text: &[u8]| -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let masked = text.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]);
        [0x80 | kind, 0x80 | text.len() as u8].into_iter().chain(mask).chain(masked).collect()
    };
    stream.write_all(&frame(9, b"are you there")).unwrap();
    let mut read = |length: usize| {
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).map(|()| bytes).unwrap()
    };
    assert_eq!(read(15), [&[0x8a, 13], &b"are you there"[..]].concat());
    stream.write_all(&frame(2, b"hello\n")).unwrap();
    let mut read = |length: usize| {
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).map(|()| bytes).unwrap()
    };
    assert_eq!(read(8), [&[0x82, 6], &b"hello\n"[..]].concat());
    stream.write_all(&frame(8, &[3, 232])).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, [0x88, 2, 3, 232]);
    assert_eq!(field(&daemon, "box", "{{.State.Running}}"), "true");

    // What is left of many is nothing: neither files nor processes of its supervisor.
    let supervisor = {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid(&daemon, "box"))).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        fields[1].to_owned()
    };
    let files = || std::fs::read_dir(format!("/proc/{supervisor}/fd")).unwrap().count();
    let before = files();
    let body = r#"{"Cmd":["true"],"AttachStdout":true}"#;
    let ids: Vec<String> = (0..40).map(|_| create(&daemon, body)).collect();
    std::thread::scope(|scope| {
        let daemon = &daemon;
        for half in ids.chunks(10) {
            scope.spawn(move || {
                for id in half {
                    let (mut stream, _) = hijack(daemon, &start_head(id, "", "", "{}"));
                    stream.read_to_end(&mut Vec::new()).unwrap();
                    assert_eq!(inspect(daemon, id)["ExitCode"], 0);
                }
            });
        }
    });
    wait_until("its files are as before", || files() <= before);
}
