//! /images.

use hoy_engine::{BodyReader, Engine};
use serde_json::json;
use tokio::sync::mpsc;

use crate::conn::Conn;
use crate::query::Query;
use crate::{ApiError, Fate, Outcome, shape};

/// Pieces of a body that may wait for a slow disk.
const AHEAD: usize = 16;

pub(crate) async fn route(
    engine: &Engine,
    conn: &mut Conn,
    method: &str,
    parts: &[&str],
    query: &Query,
) -> Option<Outcome> {
    Some(match (method, parts) {
        ("GET", ["images", "json"]) => list(engine, conn, query).await,
        ("POST", ["images", "load"]) => load(engine, conn, query).await,
        ("POST", ["images", "create"]) => create(engine, conn, query).await,
        ("GET", ["images", "get"]) => save(engine, conn, query.all("names")).await,
        ("GET", ["images", name @ .., "get"]) => save(engine, conn, vec![name.join("/")]).await,
        ("GET", ["images", name @ .., "json"]) => match engine.image_inspect(&name.join("/")) {
            Ok(found) => conn.shaped(200, shape::image, &found).await,
            Err(error) => Err(error.into()),
        },
        ("GET", ["images", name @ .., "history"]) => match engine.image_history(&name.join("/")) {
            Ok(found) => conn.json_answer(200, &found).await,
            Err(error) => Err(error.into()),
        },
        ("POST", ["images", name @ .., "tag"]) => {
            let (repo, tag) = (query.text("repo"), query.text("tag"));
            match engine.image_tag(&name.join("/"), &repo, &tag).await {
                Ok(()) => conn.empty(201).await,
                Err(error) => Err(error.into()),
            }
        }
        ("DELETE", ["images", name @ ..]) if !name.is_empty() => {
            match engine.image_remove(&name.join("/"), query.flag("force")).await {
                Ok(removed) => conn.json_answer(200, &removed).await,
                Err(error) => Err(error.into()),
            }
        }
        _ => return None,
    })
}

async fn list(engine: &Engine, conn: &mut Conn, query: &Query) -> Outcome {
    let found = engine.image_list(&query.filters()?)?;
    conn.shaped(200, shape::images, &found).await
}

/// Reads the body on while something works on it.
async fn with_body<T>(
    conn: &mut Conn,
    work: impl AsyncFnOnce(BodyReader) -> hoy_engine::Result<T>,
) -> Result<T, ApiError> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let (pumped, done) = tokio::join!(conn.pump(sender), work(BodyReader::new(receiver)));
    // A cut body is the client's fault, whatever came of it.
    pumped?;
    Ok(done?)
}

fn line(value: &serde_json::Value) -> Vec<u8> {
    let mut out = value.to_string().into_bytes();
    out.extend_from_slice(b"\r\n");
    out
}

/// Problems are told inside of the stream, as Docker does: its head has no status for them.
async fn stream_error(conn: &mut Conn, error: &ApiError) -> Outcome {
    let message = &error.message;
    let body = line(&json!({ "errorDetail": { "message": message }, "error": message }));
    conn.chunk(&body).await?;
    conn.finish().await
}

async fn load(engine: &Engine, conn: &mut Conn, query: &Query) -> Outcome {
    let _ = query.flag("quiet");
    let loaded = with_body(conn, async |body| engine.image_load(body).await).await;
    match loaded {
        Ok(lines) => {
            conn.begin(200, "application/json").await?;
            for text in lines {
                conn.chunk(&line(&json!({ "stream": text }))).await?;
            }
            conn.finish().await
        }
        Err(error) if error.status >= 500 || error.status == 0 => Err(error),
        Err(error) => {
            conn.begin(200, "application/json").await?;
            stream_error(conn, &error).await
        }
    }
}

async fn create(engine: &Engine, conn: &mut Conn, query: &Query) -> Outcome {
    match (query.get("fromImage"), query.get("fromSrc")) {
        (Some(name), _) if !name.is_empty() => {
            engine.image_pull(name, query.get("tag").unwrap_or_default())?;
            conn.empty(200).await
        }
        (_, Some("-")) => {
            let (repo, tag) = (query.text("repo"), query.text("tag"));
            let (changes, message) = (query.all("changes"), query.text("message"));
            let imported = with_body(conn, async |body| {
                engine.image_import(body, &repo, &tag, changes, message).await
            })
            .await?;
            conn.begin(200, "application/json").await?;
            conn.chunk(&line(&json!({ "status": imported }))).await?;
            conn.finish().await
        }
        (_, Some(source)) if !source.is_empty() => {
            let url = match source.contains("://") {
                true => source.to_owned(),
                false => format!("http://{source}"),
            };
            if !url.starts_with("http://") && !url.starts_with("https://") {
                return Err(ApiError::bad(format!("{url}: only http and https are fetched")));
            }
            let (repo, tag) = (query.text("repo"), query.text("tag"));
            let (changes, message) = (query.all("changes"), query.text("message"));
            conn.begin(200, "application/json").await?;
            conn.chunk(&line(&json!({ "status": format!("Downloading from {url}") }))).await?;
            match engine.image_import_url(&url, &repo, &tag, changes, message).await {
                Ok(id) => {
                    conn.chunk(&line(&json!({ "status": id }))).await?;
                    conn.finish().await
                }
                Err(error) => stream_error(conn, &error.into()).await,
            }
        }
        _ => Err(ApiError::bad("neither fromImage nor fromSrc was given")),
    }
}

async fn save(engine: &Engine, conn: &mut Conn, names: Vec<String>) -> Outcome {
    let mut pieces = engine.image_save(names)?;
    conn.begin(200, "application/x-tar").await?;
    while let Some(piece) = pieces.recv().await {
        match piece {
            Ok(bytes) => conn.chunk(&bytes).await?,
            // Cut: the client must not take it for a whole archive.
            Err(_) => return Ok(Fate::Over),
        }
    }
    conn.finish().await
}
