//! Which handler a request goes to.

use hoy_engine::Engine;

use crate::conn::Conn;
use crate::http::Head;
use crate::query::{self, Query};
use crate::shape::{self, Version, number};
use crate::{ApiError, Outcome, archive, containers, disk, images, networks, system, volumes};

/// The parts of a path behind the version, decoded.
fn parts(head: &Head) -> Result<Vec<String>, ApiError> {
    let path = head.path.trim_start_matches('/');
    let mut all: Vec<String> = path.split('/').map(|part| query::decode(part, false)).collect();
    let version = all.first().and_then(|first| first.strip_prefix('v')).map(str::to_owned);
    if let Some(version) = version.filter(|v| v.starts_with(|c: char| c.is_ascii_digit())) {
        check_version(&version)?;
        all.remove(0);
    }
    Ok(all)
}

/// The version in which a request is written: the newest where its path names none.
pub(crate) fn version(head: &Head) -> Version {
    let first = head.path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let named = first.strip_prefix('v').and_then(number);
    named.unwrap_or_else(shape::newest)
}

fn check_version(version: &str) -> Result<(), ApiError> {
    let (newest, oldest) = (hoy_wire::API_VERSION, hoy_wire::MIN_API_VERSION);
    let asked = number(version).ok_or_else(|| ApiError::new(404, "page not found"))?;
    if Some(asked) > number(newest) {
        return Err(ApiError::bad(format!(
            "client version {version} is too new. Maximum supported API version is {newest}"
        )));
    }
    if Some(asked) < number(oldest) {
        return Err(ApiError::bad(format!(
            "client version {version} is too old. Minimum supported API version is {oldest}, \
             please upgrade your client to a newer version"
        )));
    }
    Ok(())
}

pub(crate) const NO_SWARM: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \
                                   \"docker swarm join\" to connect this node to swarm and try \
                                   again.";

/// Docker's answer, as long as nobody asked for its experiments.
const EXPERIMENTAL: &str = "This experimental feature is disabled by default. Start the Docker \
                            daemon in experimental mode in order to enable it.";

/// What hoy will have, by the beginning of its path.
fn unbuilt(parts: &[&str]) -> Option<&'static str> {
    Some(match parts {
        ["build", ..] => "build",
        ["swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs", ..] => "swarm",
        ["plugins", ..] => "plugins",
        ["auth"] => "login",
        ["session" | "grpc"] => return None,
        ["distribution", ..] => "the registry client",
        ["containers", _, "update"] => "update",
        ["images", "search"] => "search",
        ["images", .., "push"] => "push",
        _ => return None,
    })
}

/// Questions that have a true answer although the kind of object is not built: there is none.
fn absent(method: &str, parts: &[&str]) -> Option<ApiError> {
    match (method, parts) {
        ("GET" | "POST", ["containers", _, "checkpoints"])
        | ("DELETE", ["containers", _, "checkpoints", _]) => Some(ApiError::new(501, EXPERIMENTAL)),
        ("GET", ["plugins", name @ .., "json"]) => {
            Some(ApiError::new(404, format!("plugin \"{}\" not found", name.join("/"))))
        }
        ("GET", ["swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs", ..]) => {
            Some(ApiError::new(503, NO_SWARM))
        }
        _ => None,
    }
}

/// A container's name may be one that another has for it, with a slash: `PARENT/ALIAS`.
fn with_whole_name(method: &str, parts: Vec<String>) -> Vec<String> {
    let texts: Vec<&str> = parts.iter().map(String::as_str).collect();
    // What follows the name.
    let after = match texts.as_slice() {
        ["containers", _, .., "checkpoints", _] | ["containers", _, .., "attach", "ws"] => 2,
        ["containers", ..] if method == "DELETE" => 0,
        ["containers", ..] => 1,
        _ => return parts,
    };
    let end = parts.len().saturating_sub(after);
    if end < 3 {
        return parts;
    }
    let mut out = vec![parts[0].clone(), parts[1..end].join("/")];
    out.extend_from_slice(&parts[end..]);
    out
}

/// Handles one request. `None` when the connection was handed over.
pub(crate) async fn handle(
    engine: &Engine,
    mut conn: Conn,
    head: &Head,
) -> Option<(Conn, Outcome)> {
    let parts = match parts(head) {
        Ok(parts) => parts,
        Err(error) => return Some((conn, Err(error))),
    };
    let parts = with_whole_name(&head.method, parts);
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let query = Query::parse(&head.query);
    let method = head.method.as_str();
    match (method, parts.as_slice()) {
        ("POST", ["containers", id, "attach"]) => {
            return containers::attach(engine, conn, head, id, &query).await;
        }
        ("GET", ["containers", id, "attach", "ws"]) => {
            return containers::attach_websocket(engine, conn, head, id, &query).await;
        }
        ("POST", ["exec", id, "start"]) => {
            return containers::exec_start(engine, conn, head, id, &query).await;
        }
        _ => {}
    }
    let outcome = match (method, parts.as_slice()) {
        ("POST", [_, "prune"] | ["hoy", "check"])
        | ("GET", ["system", "df"] | ["hoy", "containers", _, "explain"]) => {
            disk::route(engine, &mut conn, head, &parts, &query).await
        }
        (_, ["commit"] | ["containers", _, "archive" | "changes" | "export"]) => {
            archive::route(engine, &mut conn, head, &parts, &query).await
        }
        (_, ["containers", ..] | ["exec", ..]) => {
            containers::route(engine, &mut conn, head, &parts, &query).await
        }
        (_, ["images", ..]) => images::route(engine, &mut conn, method, &parts, &query).await,
        (_, ["volumes", ..]) => volumes::route(engine, &mut conn, head, &parts, &query).await,
        (_, ["networks", ..]) => networks::route(engine, &mut conn, head, &parts, &query).await,
        ("POST", ["hoy", kind @ ("containers" | "volumes"), name, "disk"]) => {
            Some(grow(engine, &mut conn, kind, name, &query).await)
        }
        _ => system::route(engine, &mut conn, head, &parts, &query).await,
    };
    let outcome = match outcome {
        Some(outcome) => outcome,
        None => Err(match absent(method, &parts) {
            Some(error) => error,
            None => match unbuilt(&parts) {
                Some(what) => ApiError::new(501, format!("{what} is not available yet")),
                None => ApiError::new(404, "page not found"),
            },
        }),
    };
    Some((conn, outcome))
}

/// More room: `size` as with `--storage-opt` and `volume create -o`.
async fn grow(engine: &Engine, conn: &mut Conn, kind: &str, name: &str, query: &Query) -> Outcome {
    let size = query.text("size");
    match kind {
        "containers" => engine.container_grow(name, size).await?,
        _ => engine.volume_grow(name, &size).await?,
    }
    conn.empty(204).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_slashes() {
        for (method, path, is) in [
            ("GET", "containers|json", "containers|json"),
            ("GET", "containers|a|json", "containers|a|json"),
            ("GET", "containers|a|b|json", "containers|a/b|json"),
            ("DELETE", "containers|a|b", "containers|a/b"),
            ("DELETE", "containers|a", "containers|a"),
            ("DELETE", "containers|a|checkpoints|b", "containers|a|checkpoints|b"),
            ("GET", "containers|a|b|attach|ws", "containers|a/b|attach|ws"),
            ("POST", "containers|a|attach", "containers|a|attach"),
            ("POST", "containers", "containers"),
            ("GET", "images|a|b|json", "images|a|b|json"),
        ] {
            let parts = path.split('|').map(str::to_owned).collect();
            assert_eq!(with_whole_name(method, parts).join("|"), is, "{method} {path}");
        }
    }
}
