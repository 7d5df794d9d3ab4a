//! /containers/NAME/{archive,changes,export} and /commit.

use hoy_engine::{BodyReader, CommitRequest, Engine, PutOptions};
use hoy_wire as wire;
use serde_json::json;
use tokio::sync::mpsc;

use crate::conn::Conn;
use crate::http::Head;
use crate::query::Query;
use crate::{ApiError, Fate, Outcome};

const STAT: &str = "X-Docker-Container-Path-Stat";
/// Pieces of a body that may wait for a slow disk.
const AHEAD: usize = 16;

pub(crate) async fn route(
    engine: &Engine,
    conn: &mut Conn,
    head: &Head,
    parts: &[&str],
    query: &Query,
) -> Option<Outcome> {
    Some(match (head.method.as_str(), parts) {
        ("HEAD", ["containers", id, "archive"]) => stat(engine, conn, id, query).await,
        ("GET", ["containers", id, "archive"]) => get(engine, conn, id, query).await,
        ("PUT", ["containers", id, "archive"]) => put(engine, conn, id, query).await,
        ("GET", ["containers", id, "changes"]) => match engine.changes(id).await {
            Ok(found) => conn.json_answer(200, &found).await,
            Err(error) => Err(error.into()),
        },
        ("GET", ["containers", id, "export"]) => match engine.export(id).await {
            Ok(pieces) => {
                stream(conn, &[("Content-Type", "application/octet-stream")], pieces).await
            }
            Err(error) => Err(error.into()),
        },
        ("POST", ["commit"]) => commit(engine, conn, head, query).await,
        _ => return None,
    })
}

fn path(query: &Query) -> Result<&str, ApiError> {
    let path = query.get("path").filter(|path| !path.is_empty());
    // Docker's words, to the missing blank.
    path.ok_or_else(|| ApiError::bad("bad parameter: pathcannot be empty"))
}

fn stat_header(stat: &wire::PathStat) -> String {
    base64(json!(stat).to_string().as_bytes())
}

async fn stat(engine: &Engine, conn: &mut Conn, id: &str, query: &Query) -> Outcome {
    let found = engine.archive_stat(id, path(query)?).await?;
    conn.respond_with(200, &[(STAT, &stat_header(&found))], b"").await
}

async fn get(engine: &Engine, conn: &mut Conn, id: &str, query: &Query) -> Outcome {
    let (found, pieces) = engine.archive_get(id, path(query)?).await?;
    let headers = [("Content-Type", "application/x-tar"), (STAT, &*stat_header(&found))];
    stream(conn, &headers, pieces).await
}

async fn stream(
    conn: &mut Conn,
    headers: &[(&str, &str)],
    mut pieces: mpsc::Receiver<std::io::Result<bytes::Bytes>>,
) -> Outcome {
    conn.begin_with(200, headers).await?;
    while let Some(piece) = pieces.recv().await {
        match piece {
            Ok(bytes) => conn.chunk(&bytes).await?,
            // Cut: the client must not take it for a whole archive.
            Err(_) => return Ok(Fate::Over),
        }
    }
    conn.finish().await
}

async fn put(engine: &Engine, conn: &mut Conn, id: &str, query: &Query) -> Outcome {
    let path = path(query)?;
    let options = PutOptions {
        keep_kinds: query.flag("noOverwriteDirNonDir"),
        as_user: query.flag("copyUIDGID"),
    };
    let (sender, receiver) = mpsc::channel(AHEAD);
    let work = engine.archive_put(id, path, options, BodyReader::new(receiver));
    let (pumped, done) = tokio::join!(conn.pump(sender), work);
    // A cut body is the client's fault, whatever came of it.
    pumped?;
    done?;
    conn.respond_with(200, &[], b"").await
}

async fn commit(engine: &Engine, conn: &mut Conn, head: &Head, query: &Query) -> Outcome {
    let config: Option<wire::ContainerConfig> = conn.json(head).await?;
    let request = CommitRequest {
        container: query.text("container"),
        repo: query.text("repo"),
        tag: query.text("tag"),
        comment: query.text("comment"),
        author: query.text("author"),
        pause: query.get("pause").is_none_or(str::is_empty) || query.flag("pause"),
        changes: query.all("changes"),
        config,
    };
    let id = engine.commit(request).await?;
    conn.json_answer(201, &json!({ "Id": id })).await
}

/// The standard alphabet, with padding.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            if place > chunk.len() {
                out.push('=');
            } else {
                let index = bits >> (18 - 6 * place) & 63;
                out.push(char::from(LETTERS[index as usize]));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings() {
        for (plain, encoded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob?>", "Zm9vYj8+")]
        {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
