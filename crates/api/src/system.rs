//! The daemon about itself, events.

use hoy_engine::{Engine, Happening};
use hoy_types::Timestamp;
use hoy_wire as wire;
use tokio::sync::broadcast::error::RecvError;

use crate::conn::Conn;
use crate::query::Query;
use crate::{ApiError, Fate, Outcome};

pub(crate) async fn route(
    engine: &Engine,
    conn: &mut Conn,
    method: &str,
    parts: &[&str],
    query: &Query,
) -> Option<Outcome> {
    Some(match (method, parts) {
        ("GET" | "HEAD", ["_ping"]) => {
            let headers = [
                ("Content-Type", "text/plain; charset=utf-8"),
                ("Builder-Version", "1"),
                ("Swarm", "inactive"),
                ("Cache-Control", "no-cache, no-store, must-revalidate"),
                ("Pragma", "no-cache"),
            ];
            conn.respond_with(200, &headers, b"OK").await
        }
        ("GET", ["version"]) => conn.json_answer(200, &engine.version()).await,
        ("GET", ["info"]) => conn.json_answer(200, &engine.info()).await,
        ("GET", ["events"]) => events(engine, conn, query).await,
        ("POST", ["hoy", "stop"]) => match engine.stop_daemon(query.flag("clean")).await {
            Ok(()) => conn.empty(204).await,
            Err(error) => Err(error.into()),
        },
        _ => return None,
    })
}

fn message(event: &Happening) -> wire::EventMessage {
    let container = event.kind == "container";
    wire::EventMessage {
        status: if matches!(event.kind, "container" | "image") {
            event.action.clone()
        } else {
            String::new()
        },
        id: if matches!(event.kind, "container" | "image") {
            event.id.clone()
        } else {
            String::new()
        },
        from: if container {
            event.attributes.get("image").cloned().unwrap_or_default()
        } else {
            String::new()
        },
        kind: event.kind.to_owned(),
        action: event.action.clone(),
        actor: wire::EventActor {
            id: event.id.clone(),
            attributes: Some(event.attributes.clone()),
        },
        scope: "local".to_owned(),
        time: event.at.seconds(),
        time_nano: event.at.nanos(),
    }
}

fn admits(filters: &[(String, Vec<String>)], event: &Happening) -> bool {
    let attribute = |name: &str| event.attributes.get(name).cloned().unwrap_or_default();
    filters.iter().all(|(name, values)| {
        values.is_empty()
            || values.iter().any(|value| match name.as_str() {
                "type" => event.kind == value,
                "event" => event.action == *value || event.action.split(':').next() == Some(value),
                "container" => {
                    event.kind == "container"
                        && (event.id.starts_with(value.as_str()) || attribute("name") == *value)
                }
                "image" => {
                    (event.kind == "image" && (event.id == *value || attribute("name") == *value))
                        || attribute("image") == *value
                }
                "network" => {
                    event.kind == "network" && (event.id == *value || attribute("name") == *value)
                }
                "label" => match value.split_once('=') {
                    Some((key, value)) => attribute(key) == value,
                    None => event.attributes.contains_key(value),
                },
                "scope" => value == "local",
                _ => false,
            })
    })
}

fn moment(query: &Query, name: &str) -> Result<Option<Timestamp>, ApiError> {
    let Some(text) = query.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(Some(time));
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    match (seconds.parse::<i64>(), digits.parse::<u32>()) {
        (Ok(seconds), Ok(nanos)) => Ok(Some(Timestamp::from_parts(seconds, nanos))),
        _ => Err(ApiError::bad(format!("invalid value for \"{name}\": {text}"))),
    }
}

async fn events(engine: &Engine, conn: &mut Conn, query: &Query) -> Outcome {
    let filters = query.filters()?;
    let (since, until) = (moment(query, "since")?, moment(query, "until")?);
    let (past, mut live) = engine.events();
    conn.begin(200, "application/json").await?;
    let mut tell = Vec::new();
    if since.is_some() || until.is_some() {
        let within = |event: &&Happening| {
            since.is_none_or(|since| event.at >= since)
                && until.is_none_or(|until| event.at <= until)
        };
        tell.extend(past.iter().filter(within).filter(|event| admits(&filters, event)).cloned());
    }
    loop {
        for event in tell.drain(..) {
            let mut body = serde_json::to_vec(&message(&event))
                .map_err(|error| ApiError::new(500, error.to_string()))?;
            body.push(b'\n');
            conn.chunk(&body).await?;
        }
        let left = until.map(|until| {
            let now = Timestamp::from_system(std::time::SystemTime::now());
            u64::try_from(until.nanos() - now.nanos()).unwrap_or(0)
        });
        let late = async {
            match left {
                Some(nanos) => tokio::time::sleep(std::time::Duration::from_nanos(nanos)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = late => return conn.finish().await,
            () = conn.hung_up() => return Ok(Fate::Over),
            event = live.recv() => match event {
                Ok(event) if admits(&filters, &event) => tell.push(event),
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return conn.finish().await,
            },
        }
    }
}
