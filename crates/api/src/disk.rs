//! /system/df, the prunes, /hoy/check, and /hoy/containers/NAME/explain.

use hoy_engine::{Engine, PruneMode};
use hoy_types::Timestamp;
use hoy_wire as wire;

use crate::conn::Conn;
use crate::http::Head;
use crate::query::Query;
use crate::{ApiError, Outcome, shape};

pub(crate) async fn route(
    engine: &Engine,
    conn: &mut Conn,
    head: &Head,
    parts: &[&str],
    query: &Query,
) -> Option<Outcome> {
    Some(match (head.method.as_str(), parts) {
        ("GET", ["system", "df"]) => usage(engine, conn, query).await,
        ("POST", ["hoy", "check"]) => match engine.check(query.flag("repair")).await {
            Ok(report) => conn.json_answer(200, &report).await,
            Err(error) => Err(error.into()),
        },
        ("GET", ["hoy", "containers", id, "explain"]) => match engine.explain(id).await {
            Ok(found) => conn.json_answer(200, &found).await,
            Err(error) => Err(error.into()),
        },
        ("POST", [what, "prune"]) => prune(engine, conn, what, query).await?,
        _ => return None,
    })
}

async fn usage(engine: &Engine, conn: &mut Conn, query: &Query) -> Outcome {
    let kinds = shape::usage_kinds(&query.all("type"), conn.version)?;
    let found = engine.disk_usage(kinds).await?;
    let shown = shape::usage(&found, conn.version, query.flag("verbose"))
        .map_err(|error| ApiError::new(500, format!("encode the answer: {error}")))?;
    conn.json_answer(200, &shown).await
}

/// What is left of the filters once one of them that takes a boolean is taken out.
fn taken(filters: &mut Vec<(String, Vec<String>)>, name: &str) -> Result<Option<bool>, ApiError> {
    let Some(at) = filters.iter().position(|(known, _)| known == name) else { return Ok(None) };
    let (_, values) = filters.swap_remove(at);
    match values.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["1" | "true"] => Ok(Some(true)),
        ["0" | "false"] => Ok(Some(false)),
        _ => Err(ApiError::bad(format!("invalid filter '{name}=[{}]'", values.join(" ")))),
    }
}

async fn prune(engine: &Engine, conn: &mut Conn, what: &str, query: &Query) -> Option<Outcome> {
    Some(match what {
        "containers" | "images" | "volumes" | "networks" => {
            prune_of(engine, conn, what, query).await
        }
        "build" => {
            engine.build_prune(mode(query));
            let nothing = serde_json::json!({ "CachesDeleted": null, "SpaceReclaimed": 0 });
            conn.json_answer(200, &nothing).await
        }
        _ => return None,
    })
}

fn mode(query: &Query) -> PruneMode {
    PruneMode {
        trial: query.flag(wire::DRY_RUN),
        after_containers: query.flag(wire::AFTER_CONTAINERS),
    }
}

async fn prune_of(engine: &Engine, conn: &mut Conn, what: &str, query: &Query) -> Outcome {
    let mode = mode(query);
    let mut filters = query.filters()?;
    let mut all = false;
    match what {
        "images" => all = taken(&mut filters, "dangling")? == Some(false),
        "volumes" => {
            all = taken(&mut filters, "all")?.unwrap_or(conn.version < shape::SPARES_NAMED);
            if filters.iter().any(|(name, _)| name == "until") {
                return Err(ApiError::bad("invalid filter 'until'"));
            }
        }
        _ => {}
    }
    let now = Timestamp::from_system(std::time::SystemTime::now());
    let said = filters.iter().map(|(name, values)| (name.as_str(), values.as_slice()));
    let filter = wire::PruneFilter::parse(said, now).map_err(ApiError::bad)?;
    let answer = match what {
        "containers" => serde_json::to_value(engine.container_prune(&filter, mode).await?),
        "images" => serde_json::to_value(engine.image_prune(all, &filter, mode).await?),
        "volumes" => serde_json::to_value(engine.volume_prune(all, &filter, mode).await?),
        _ => serde_json::to_value(engine.network_prune(&filter, mode).await?),
    };
    let mut answer =
        answer.map_err(|error| ApiError::new(500, format!("encode the answer: {error}")))?;
    if mode.trial && mode.after_containers {
        answer["AfterContainers"] = true.into();
    }
    if query.flag("stream") && conn.version >= shape::PRUNES_IN_STREAMS {
        conn.begin(200, "application/jsonl").await?;
        for line in shape::prune_lines(&answer) {
            let mut line = line.to_string().into_bytes();
            line.push(b'\n');
            conn.chunk(&line).await?;
        }
        return conn.finish().await;
    }
    conn.json_answer(200, &answer).await
}
