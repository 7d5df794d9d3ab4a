//! A container's life by bollard: the program of `clients/sdk.py` and `clients/sdk.js`, in Rust. It
//! sees what they see. A file of its own, so that no other test is linked with the library.

use std::collections::HashMap;
use std::io::Read as _;
use std::time::{Duration, SystemTime};

use bollard::container::{AttachContainerResults, LogOutput};
use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::models::{ContainerCreateBody, ContainerInspectResponse};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, ContainerArchiveInfoOptionsBuilder,
    CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder, EventsOptionsBuilder,
    LogsOptionsBuilder, StatsOptionsBuilder, UploadToContainerOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker, body_full};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use hoy_e2e::sdks;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

#[test]
fn bollard() {
    sdks::with_daemon(|daemon| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let seen = runtime.expect("a runtime").block_on(async {
            tokio::time::timeout(Duration::from_secs(300), life(&daemon.host())).await
        });
        let seen = seen.expect("five minutes are enough").expect("the engine answers");
        sdks::is_as_it_shall_be("bollard", &seen);
    });
}

async fn life(host: &str) -> Result<Value, Error> {
    let docker = Docker::connect_with_unix(host, 250, API_DEFAULT_VERSION)?;
    let docker = docker.negotiate_version().await?;
    let since = now();
    let mut seen = json!({});
    for (name, part) in [
        ("attached", works(&docker).await?),
        ("code", json!(code(&docker, "worker").await?)),
        ("out", json!(logs(&docker, "worker", "out", "all").await?)),
        ("err", json!(logs(&docker, "worker", "err", "all").await?)),
        ("last", json!(logs(&docker, "worker", "out", "1").await?)),
        ("state", state(&docker).await?),
        ("followed", json!(followed(&docker).await?)),
    ] {
        seen[name] = part;
    }

    create(&docker, "box", &["sleep", "1000"], ContainerCreateBody::default()).await?;
    docker.start_container("box", None).await?;
    seen["exec"] = exec(&docker, "pwd; echo $V; echo no >&2; exit 7").await?;
    seen["archives"] = archives(&docker).await?;
    seen["stats"] = stats(&docker).await?;
    let processes = docker.top_processes("box", None).await?.processes.unwrap_or_default();
    seen["top"] = processes.iter().map(|line| json!(line.last())).collect();
    docker.kill_container("box", None).await?;
    seen["killed"] = json!(code(&docker, "box").await?);
    for name in ["worker", "talker", "box"] {
        docker.remove_container(name, None).await?;
    }
    seen["gone"] = match docker.inspect_container("box", None).await {
        Err(Error::DockerResponseServerError { status_code, .. }) => json!(status_code),
        other => panic!("the container is gone, but its inspect gives {other:?}"),
    };
    seen["events"] = events(&docker, &since).await?;
    Ok(seen)
}

/// Attached before it starts: it talks, listens, and ends with a code of its own.
async fn works(docker: &Docker) -> Result<Value, Error> {
    let line = "echo out; echo err >&2; while read line; do echo got $line; done; exit 3";
    let body = ContainerCreateBody {
        labels: Some(HashMap::from([("made".to_owned(), "by-sdk".to_owned())])),
        env: Some(vec!["A=b".to_owned()]),
        open_stdin: Some(true),
        stdin_once: Some(true),
        ..ContainerCreateBody::default()
    };
    create(docker, "worker", &["sh", "-c", line], body).await?;
    let options = AttachContainerOptionsBuilder::new().stream(true);
    let options = options.stdin(true).stdout(true).stderr(true).build();
    let attached = docker.attach_container("worker", Some(options)).await?;
    let AttachContainerResults { mut output, mut input } = attached;
    docker.start_container("worker", None).await?;
    input.write_all(b"one\n").await?;
    input.flush().await?;
    let mut texts = Texts::default();
    while !(texts.out.contains("got one") && texts.err.contains('\n')) {
        texts.take(output.next().await.expect("it is not over")?);
    }
    input.write_all(b"two\n").await?;
    // Half of the connection: what comes back comes until the container has ended.
    input.shutdown().await?;
    while let Some(piece) = output.next().await {
        texts.take(piece?);
    }
    assert!(texts.out.ends_with("got one\ngot two\n"), "{:?}", texts.out);
    let lines: Vec<&str> = texts.out.lines().take(2).collect();
    Ok(json!({ "out": lines, "err": texts.err }))
}

async fn state(docker: &Docker) -> Result<Value, Error> {
    let found: ContainerInspectResponse = docker.inspect_container("worker", None).await?;
    let state = found.state.expect("a state");
    let labels = found.config.expect("a configuration").labels;
    Ok(json!([state.status, state.exit_code, labels]))
}

/// Lines as they come.
async fn followed(docker: &Docker) -> Result<String, Error> {
    let line = "for i in 1 2 3; do echo $i; sleep 0.05; done";
    create(docker, "talker", &["sh", "-c", line], ContainerCreateBody::default()).await?;
    docker.start_container("talker", None).await?;
    let options = LogsOptionsBuilder::new().follow(true).stdout(true).build();
    Ok(Texts::of(docker.logs("talker", Some(options))).await?.out)
}

async fn exec(docker: &Docker, line: &str) -> Result<Value, Error> {
    let options = CreateExecOptions {
        cmd: Some(vec!["sh", "-c", line]),
        working_dir: Some("/tmp"),
        env: Some(vec!["V=x"]),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..CreateExecOptions::default()
    };
    let id = docker.create_exec("box", options).await?.id;
    let StartExecResults::Attached { output, .. } = docker.start_exec(&id, None).await? else {
        panic!("nobody asked to detach");
    };
    let texts = Texts::of(output).await?;
    Ok(json!([docker.inspect_exec(&id).await?.exit_code, texts.out, texts.err]))
}

async fn archives(docker: &Docker) -> Result<Value, Error> {
    let mut header = tar::Header::new_ustar();
    header.set_size(5);
    header.set_mode(0o640);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, "given", &b"there"[..])?;
    let body = body_full(archive.into_inner()?.into());
    let options = UploadToContainerOptionsBuilder::new().path("/tmp").build();
    docker.upload_to_container("box", Some(options), body).await?;

    let options = ContainerArchiveInfoOptionsBuilder::new().path("/tmp/given").build();
    let stat = docker.get_container_archive_info("box", Some(options)).await?;
    let options = DownloadFromContainerOptionsBuilder::new().path("/tmp/given").build();
    let pieces = docker.download_from_container("box", Some(options));
    let bytes = pieces.try_collect::<Vec<_>>().await?.concat();
    let mut text = String::new();
    for entry in tar::Archive::new(bytes.as_slice()).entries()? {
        entry?.read_to_string(&mut text)?;
    }
    let inside = exec(docker, "cat /tmp/given").await?;
    Ok(json!([true, stat.name, stat.size, stat.file_mode & 0o777, text, inside[1]]))
}

async fn stats(docker: &Docker) -> Result<Value, Error> {
    let next = async |stream| {
        let options = StatsOptionsBuilder::new().stream(stream).build();
        docker.stats("box", Some(options)).next().await.expect("a sample")
    };
    let one = next(false).await?;
    let used = one.memory_stats.and_then(|memory| memory.usage) > Some(0);
    let first = next(true).await?;
    Ok(json!([one.name, used, first.pids_stats.and_then(|pids| pids.current)]))
}

async fn events(docker: &Docker, since: &str) -> Result<Value, Error> {
    let filters = HashMap::from([("container", vec!["worker"])]);
    let options = EventsOptionsBuilder::new().since(since).until(&now()).filters(&filters);
    let told: Vec<_> = docker.events(Some(options.build())).try_collect().await?;
    let told = told.into_iter().filter_map(|event| event.action);
    let known = ["create", "attach", "start", "die", "destroy"];
    Ok(told.filter(|action| known.contains(&action.as_str())).map(Value::from).collect())
}

async fn create(
    docker: &Docker,
    name: &str,
    command: &[&str],
    body: ContainerCreateBody,
) -> Result<(), Error> {
    let body = ContainerCreateBody {
        image: Some("busybox".to_owned()),
        cmd: Some(command.iter().map(|&word| word.to_owned()).collect()),
        ..body
    };
    let options = CreateContainerOptionsBuilder::new().name(name).build();
    docker.create_container(Some(options), body).await?;
    Ok(())
}

/// How it ended, once it has.
async fn code(docker: &Docker, name: &str) -> Result<i64, Error> {
    match docker.wait_container(name, None).next().await.expect("an answer") {
        Ok(answer) => Ok(answer.status_code),
        // What is not zero is an error to this library.
        Err(Error::DockerContainerWaitError { code, error }) if error.is_empty() => Ok(code),
        Err(error) => Err(error),
    }
}

async fn logs(docker: &Docker, name: &str, of: &str, tail: &str) -> Result<String, Error> {
    let options = LogsOptionsBuilder::new().stdout(of == "out").stderr(of == "err").tail(tail);
    let texts = Texts::of(docker.logs(name, Some(options.build()))).await?;
    Ok(texts.out + &texts.err)
}

/// What a framed stream brought, by its two kinds.
#[derive(Default)]
struct Texts {
    out: String,
    err: String,
}

impl Texts {
    async fn of(stream: impl Stream<Item = Result<LogOutput, Error>>) -> Result<Self, Error> {
        stream
            .try_fold(Self::default(), async |mut texts, piece| {
                texts.take(piece);
                Ok(texts)
            })
            .await
    }

    fn take(&mut self, piece: LogOutput) {
        match &piece {
            LogOutput::StdOut { .. } => self.out += &piece.to_string(),
            LogOutput::StdErr { .. } => self.err += &piece.to_string(),
            other => panic!("{other:?} is of no stream that was asked for"),
        }
    }
}

fn now() -> String {
    let since = SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
    format!("{}.{:09}", since.as_secs(), since.subsec_nanos())
}
