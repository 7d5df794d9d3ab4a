//! /containers and /exec.

use hoy_engine::{AttachOptions, Engine, ListOptions, LogsOptions, Stopped};
use hoy_types::Timestamp;
use hoy_wire as wire;

use crate::conn::Conn;
use crate::http::Head;
use crate::query::Query;
use crate::shape::{self, Version};
use crate::{ApiError, Outcome, stats, websocket};

const RAW: &str = "application/vnd.docker.raw-stream";
const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";

fn stream_type(tty: bool, version: Version) -> &'static str {
    if tty || version < shape::TELLS_STREAMS { RAW } else { MULTIPLEXED }
}

pub(crate) async fn route(
    engine: &Engine,
    conn: &mut Conn,
    head: &Head,
    parts: &[&str],
    query: &Query,
) -> Option<Outcome> {
    Some(match (head.method.as_str(), parts) {
        ("GET", ["containers", "json"]) => list(engine, conn, query).await,
        ("POST", ["containers", "create"]) => create(engine, conn, head, query).await,
        ("GET", ["containers", id, "json"]) => inspect(engine, conn, id, query).await,
        ("GET", ["containers", id, "top"]) => {
            match engine.top(id, query.get("ps_args").unwrap_or("-ef")).await {
                Ok(found) => conn.json_answer(200, &found).await,
                Err(error) => Err(error.into()),
            }
        }
        ("GET", ["containers", id, "stats"]) => stats::stats(engine, conn, id, query).await,
        ("GET", ["containers", id, "logs"]) => logs(engine, conn, id, query).await,
        ("POST", ["containers", id, "wait"]) => wait(engine, conn, id, query).await,
        ("POST", ["containers", id, action]) => act(engine, conn, head, id, action, query).await?,
        ("DELETE", ["containers", id]) => {
            let removed = match query.flag("link") {
                true => engine.unlink(id).await,
                false => engine.remove(id, query.flag("force"), query.flag("v")).await,
            };
            match removed {
                Ok(()) => conn.empty(204).await,
                Err(error) => Err(error.into()),
            }
        }
        ("GET", ["exec", id, "json"]) => match engine.exec_inspect(id).await {
            Ok(found) => conn.json_answer(200, &found).await,
            Err(error) => Err(error.into()),
        },
        ("POST", ["exec", id, "resize"]) => match size(query) {
            Ok((rows, columns)) => match engine.exec_resize(id, rows, columns).await {
                Ok(()) => conn.empty(200).await,
                Err(error) => Err(error.into()),
            },
            Err(error) => Err(error),
        },
        _ => return None,
    })
}

async fn inspect(engine: &Engine, conn: &mut Conn, id: &str, query: &Query) -> Outcome {
    let size = query.flag("size");
    if size {
        engine.count_containers(Some(id)).await?;
    }
    let found = engine.inspect(id, size)?;
    conn.shaped(200, shape::container, &found).await
}

fn size(query: &Query) -> Result<(u16, u16), ApiError> {
    let need = |name: &str| {
        let value = query.number::<u16>(name)?;
        value.ok_or_else(|| ApiError::bad(format!("invalid resize {name} \"\": value is empty")))
    };
    Ok((need("h")?, need("w")?))
}

async fn act(
    engine: &Engine,
    conn: &mut Conn,
    head: &Head,
    id: &str,
    action: &str,
    query: &Query,
) -> Option<Outcome> {
    let signal = query.get("signal").map(str::to_owned);
    let timeout = match query.number::<i64>("t") {
        Ok(timeout) => timeout,
        Err(error) => return Some(Err(error)),
    };
    let result = match action {
        "start" if !query.text("checkpoint").is_empty() => {
            let text = "checkpoint is only supported in experimental mode";
            return Some(Err(ApiError::bad(text)));
        }
        "start" => engine.start(id).await,
        "stop" => {
            return Some(match engine.stop(id, signal, timeout, head.hoy).await {
                Ok(stopped) => said(conn, stopped).await,
                Err(error) => Err(error.into()),
            });
        }
        "restart" => engine.restart(id, signal, timeout, head.hoy).await,
        "kill" => {
            let killed = engine.kill(id, &signal.unwrap_or_default()).await.map_err(ApiError::from);
            return Some(match killed {
                Ok(()) => conn.empty(204).await,
                Err(error) => {
                    let text = format!("cannot kill container: {id}: {}", error.message);
                    Err(ApiError::new(error.status, text))
                }
            });
        }
        "pause" => engine.pause(id, true).await,
        "unpause" => engine.pause(id, false).await,
        "rename" => engine.rename(id, query.get("name").unwrap_or_default()).await,
        "resize" => {
            let outcome = match size(query) {
                Ok((rows, columns)) => engine.resize(id, rows, columns).await.map_err(Into::into),
                Err(error) => Err(error),
            };
            return Some(match outcome {
                Ok(()) => conn.empty(200).await,
                Err(error) => Err(error),
            });
        }
        "exec" => return Some(exec_create(engine, conn, head, id).await),
        "update" => return Some(update(engine, conn, head, id).await),
        _ => return None,
    };
    Some(match result {
        Ok(()) => conn.empty(204).await,
        Err(error) => Err(error.into()),
    })
}

/// How a container was stopped, where that is not what Docker does.
async fn said(conn: &mut Conn, stopped: Stopped) -> Outcome {
    match stopped {
        Stopped::AsAsked => conn.empty(204).await,
        Stopped::InVain(signal) => {
            let text = format!("killed at once, signal {signal} has no effect");
            conn.respond_with(204, &[("Hoy-Stopped", &text)], b"").await
        }
    }
}

async fn update(engine: &Engine, conn: &mut Conn, head: &Head, id: &str) -> Outcome {
    let asked: Option<wire::HostConfig> = conn.json(head).await?;
    let mut asked =
        asked.ok_or_else(|| ApiError::bad("invalid JSON: got EOF while reading request body"))?;
    shape::update(&mut asked, conn.version);
    let warnings = Some(engine.update(id, asked).await?);
    conn.json_answer(200, &wire::UpdateResponse { warnings }).await
}

async fn list(engine: &Engine, conn: &mut Conn, query: &Query) -> Outcome {
    let limit = query.number::<i64>("limit")?.unwrap_or(0);
    let options = ListOptions {
        all: query.flag("all"),
        limit: usize::try_from(limit).unwrap_or(0),
        size: query.flag("size"),
        filters: query.filters()?,
    };
    if options.size {
        engine.count_containers(None).await?;
    }
    let found = engine.list(&options)?;
    conn.shaped(200, shape::containers, &found).await
}

async fn create(engine: &Engine, conn: &mut Conn, head: &Head, query: &Query) -> Outcome {
    let request: Option<wire::CreateRequest> = conn.json(head).await?;
    let mut request =
        request.ok_or_else(|| ApiError::bad("invalid JSON: got EOF while reading request body"))?;
    let warnings = shape::create(&mut request, conn.version)?;
    let name = query.get("name").filter(|name| !name.is_empty()).map(str::to_owned);
    let platform = query.get("platform").filter(|_| conn.version >= shape::PLATFORMS);
    let platform = platform.map(str::to_owned);
    let created = engine.create(name, platform, request).await.map_err(ApiError::from);
    // A client that hears 404 fetches the image and asks again: that is for images alone.
    let mut created =
        created.map_err(|error| match error.message.starts_with("No such container") {
            true => ApiError::bad(error.message),
            false => error,
        })?;
    created.warnings.get_or_insert_default().extend(warnings);
    conn.json_answer(201, &created).await
}

/// Seconds with a fraction, or RFC 3339.
fn time(query: &Query, name: &str) -> Result<Option<Timestamp>, ApiError> {
    let Some(text) = query.get(name).filter(|text| !matches!(*text, "" | "0")) else {
        return Ok(None);
    };
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(Some(time));
    }
    let bad = || ApiError::new(500, format!("invalid value for \"{name}\": {text}"));
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let seconds: i64 = seconds.parse().map_err(|_| bad())?;
    Ok(Some(Timestamp::from_parts(seconds, digits.parse().map_err(|_| bad())?)))
}

async fn logs(engine: &Engine, conn: &mut Conn, id: &str, query: &Query) -> Outcome {
    let tail = match query.get("tail") {
        None | Some("" | "all") => None,
        // As Docker: what is no number means all.
        Some(text) => text.parse::<usize>().ok(),
    };
    let options = LogsOptions {
        follow: query.flag("follow"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        since: time(query, "since")?,
        until: time(query, "until")?,
        timestamps: query.flag("timestamps"),
        tail,
        raw: false,
        details: query.flag("details"),
    };
    let mut stream = engine.logs(id, options)?;
    conn.begin(200, stream_type(stream.tty, conn.version)).await?;
    loop {
        let next = tokio::select! {
            next = stream.next() => next,
            () = conn.hung_up() => return Ok(crate::Fate::Over),
        };
        match next {
            Some(chunk) => conn.chunk(&chunk).await?,
            None => return conn.finish().await,
        }
    }
}

async fn wait(engine: &Engine, conn: &mut Conn, id: &str, query: &Query) -> Outcome {
    let condition = query.get("condition").filter(|_| conn.version >= shape::CONDITIONS);
    let waiting = engine.wait_begin(id, condition.unwrap_or_default())?;
    // At once: clients start the container only when they see that they are waiting.
    conn.begin(200, "application/json").await?;
    let answer = tokio::select! {
        answer = waiting.done() => answer,
        () = conn.hung_up() => return Ok(crate::Fate::Over),
    };
    let mut body = serde_json::to_vec(&answer)
        .map_err(|error| ApiError::new(500, format!("encode the answer: {error}")))?;
    body.push(b'\n');
    conn.chunk(&body).await?;
    conn.finish().await
}

fn attach_options(query: &Query, framed: bool) -> AttachOptions {
    AttachOptions {
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        stream: query.flag("stream"),
        logs: query.flag("logs"),
        detach_keys: query.get("detachKeys").map(str::to_owned),
        framed,
    }
}

/// Errors come before the handshake, as answers that a client can read.
pub(crate) async fn attach_websocket(
    engine: &Engine,
    conn: Conn,
    head: &Head,
    id: &str,
    query: &Query,
) -> Option<(Conn, Outcome)> {
    let begun = || -> Result<_, ApiError> {
        let session = engine.attach_begin(id, attach_options(query, false))?;
        Ok((session, websocket::accept(head)?))
    };
    match begun() {
        Ok((session, accept)) => {
            websocket::carry(conn, &accept, session).await;
            None
        }
        Err(error) => Some((conn, Err(error))),
    }
}

pub(crate) async fn attach(
    engine: &Engine,
    conn: Conn,
    head: &Head,
    id: &str,
    query: &Query,
) -> Option<(Conn, Outcome)> {
    let options = attach_options(query, true);
    let session = match engine.attach_begin(id, options) {
        Ok(session) => session,
        Err(error) => return Some((conn, Err(error.into()))),
    };
    let kind = stream_type(session.tty, conn.version);
    if let Ok(client) = conn.hijack(head.upgrade, kind).await {
        session.run(client).await;
    }
    None
}

async fn exec_create(engine: &Engine, conn: &mut Conn, head: &Head, id: &str) -> Outcome {
    let config: Option<wire::ExecConfig> = conn.json(head).await?;
    let mut config =
        config.ok_or_else(|| ApiError::bad("invalid JSON: got EOF while reading request body"))?;
    if conn.version < shape::SIZES_CONSOLES {
        config.console_size = None;
    }
    let id = engine.exec_create(id, config)?;
    conn.json_answer(201, &serde_json::json!({ "Id": id })).await
}

pub(crate) async fn exec_start(
    engine: &Engine,
    mut conn: Conn,
    head: &Head,
    id: &str,
    query: &Query,
) -> Option<(Conn, Outcome)> {
    let mut start = match conn.json::<wire::ExecStart>(head).await {
        Ok(Some(start)) => start,
        Ok(None) => {
            let empty = ApiError::bad("invalid JSON: got EOF while reading request body");
            return Some((conn, Err(empty)));
        }
        Err(error) => return Some((conn, Err(error))),
    };
    if conn.version < shape::SIZES_CONSOLES {
        start.console_size = None;
    }
    // Ours: Docker's leave a process behind that nobody hears any more.
    let ends_with_client = query.flag("hoy-kill-on-disconnect") && !start.detach;
    let session = match engine.exec_begin(id, &start, ends_with_client) {
        Ok(session) => session,
        Err(error) => return Some((conn, Err(error.into()))),
    };
    if start.detach {
        let outcome = match session.run_detached().await {
            Ok(()) => conn.empty(200).await,
            Err(error) => Err(error.into()),
        };
        return Some((conn, outcome));
    }
    let kind = stream_type(session.tty, conn.version);
    if let Ok(client) = conn.hijack(head.upgrade, kind).await {
        session.run(client).await;
    }
    None
}
