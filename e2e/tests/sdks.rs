//! The libraries through which programs speak to an engine, each with a realistic program: create,
//! attach, logs as they come, exec, archives, statistics, wait, events.
//!
//! `HOY_CLIENTS` names a directory with what Debian does not have; `xtask test` makes it. Where a
//! library is missing there, its test says so by name. bollard's program is `bollard.rs`.

use std::path::{Path, PathBuf};

use hoy_e2e::import;
use hoy_e2e::sdks::{file, is_as_it_shall_be, with_daemon};
use hoy_testkit::{Run, programs};
use serde_json::{Value, json};

/// What is not in Debian, if it is here.
fn brought(name: &str) -> Option<PathBuf> {
    let directory = std::env::var_os("HOY_CLIENTS").map(PathBuf::from)?;
    Some(directory.join(name)).filter(|path| path.exists())
}

fn seen(run: Run) -> Value {
    let output = run.deadline(200).run();
    serde_json::from_str(output.ok()).expect("JSON")
}

#[test]
fn docker_for_python() {
    if !Path::new("/usr/lib/python3/dist-packages/docker/__init__.py").exists() {
        println!("not shown here: Debian's python3-docker is not installed");
        return;
    }
    with_daemon(|daemon| {
        let run = Run::new("/usr/bin/python3").args([file("sdk.py").as_os_str()]);
        is_as_it_shall_be("docker-py", &seen(run.args([daemon.host()])));
    });
}

#[test]
fn dockerode() {
    let Some(modules) = brought("node_modules/dockerode").and(brought("node_modules")) else {
        println!("not shown here: HOY_CLIENTS has no dockerode");
        return;
    };
    with_daemon(|daemon| {
        let run = Run::new("node").args([file("sdk.js").as_os_str()]).args([daemon.host()]);
        is_as_it_shall_be("dockerode", &seen(run.env("NODE_PATH", modules)));
    });
}

/// What Testcontainers' own helper does, in shell: it tells that it is there, is told labels, and
/// removes what has them once nobody is connected any more.
const REAPER: &str = r#"
printf '%s\n' '#!/bin/sh' \
  'echo "reaper: Started!"' \
  'while :; do nc -l -p 8080 -e /serve; done' > start
printf '%s\n' '#!/bin/sh' \
  'while read -r line; do' \
  '  labels="$labels $(echo "$line" | tr "&" "\n" | sed -n "s/^label=/--filter label=/p" | sed "s/%3D/=/g" | tr "\n" " ")"' \
  '  echo ACK' \
  'done' \
  '[ -n "$labels" ] && export DOCKER_HOST=unix:///var/run/docker.sock' \
  '[ -n "$labels" ] && /bin/hoy ps -aq $labels | while read -r id; do' \
  '  /bin/hoy rm -fv "$id"; done >/dev/null 2>&1' \
  'touch /done' > serve
chmod 755 start serve
"#;

#[test]
fn testcontainers() {
    let Some(python) = brought("venv/bin/python") else {
        println!("not shown here: HOY_CLIENTS has no testcontainers");
        return;
    };
    with_daemon(|daemon| {
        let hoy = programs().join("hoy");
        let script = format!("cp {} bin/hoy; {REAPER}", hoy.display());
        import(daemon, "reaper", &script, &["CMD [\"/start\"]"]);
        let run = |reaper: &str| {
            let run = daemon.netns().run(&python.display().to_string());
            let run = run.args([file("sdk_testcontainers.py").as_os_str()]);
            let run = run.args([daemon.host(), reaper.to_owned()]);
            let socket = daemon.path("sock");
            seen(run.env("TESTCONTAINERS_DOCKER_SOCKET_OVERRIDE", socket).env("NO_COLOR", "1"))
        };
        let shall = |left: u64| {
            json!({
                "exec": [4, "b\n"], "logs": ["ready\n", ""], "port": true, "page": "hello\n",
                "labelled": true, "left": left,
            })
        };
        assert_eq!(run("none"), shall(0));
        assert_eq!(run("reaper"), shall(0));
    });
}
