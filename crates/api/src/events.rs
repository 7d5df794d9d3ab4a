//! GET /events.

use std::sync::Arc;

use hoy_engine::{Engine, Happening};
use hoy_types::Timestamp;
use hoy_wire as wire;
use tokio::sync::broadcast::error::RecvError;

use crate::conn::Conn;
use crate::http::Head;
use crate::query::Query;
use crate::{ApiError, Fate, Outcome, shape};

/// Kinds of objects that are found by the beginning of their id or name.
const OBJECTS: &[&str] =
    &["config", "container", "daemon", "network", "node", "plugin", "secret", "service", "volume"];
/// What else can be asked for.
const OTHERS: &[&str] = &["event", "image", "label", "scope", "type"];
/// Actions that are followed by something of their own.
const BEGINNINGS: &[&str] = &["health_status", "exec_create", "exec_start"];

fn message(event: &Happening) -> wire::EventMessage {
    let container = event.kind == "container";
    let named = container || event.kind == "image";
    wire::EventMessage {
        status: if named { event.action.clone() } else { String::new() },
        id: if named { event.id.clone() } else { String::new() },
        from: match event.attributes.get("image") {
            Some(image) if container => image.clone(),
            _ => String::new(),
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

/// What a listener wants to hear of.
struct Filter(Vec<(String, Vec<String>)>);

impl Filter {
    /// Docker takes no notice of names that it does not know, and clients rely on it.
    fn new(mut pairs: Vec<(String, Vec<String>)>) -> Self {
        let known = |name: &str| OBJECTS.contains(&name) || OTHERS.contains(&name);
        pairs.retain(|(name, values)| known(name) && !values.is_empty());
        Self(pairs)
    }

    /// Values of one filter: any, but all labels; filters: all.
    fn admits(&self, event: &Happening) -> bool {
        let attribute = |name: &str| event.attributes.get(name).map_or("", String::as_str);
        self.0.iter().all(|(name, values)| {
            let exactly = |text: &str| values.iter().any(|value| value == text);
            let begins = |text: &str| values.iter().any(|value| text.starts_with(value.as_str()));
            match name.as_str() {
                "type" => exactly(event.kind),
                "scope" => exactly("local"),
                "event" if values.iter().any(|value| BEGINNINGS.contains(&value.as_str())) => {
                    begins(&event.action)
                }
                "event" => exactly(&event.action),
                "label" => values.iter().all(|value| match value.split_once('=') {
                    Some((key, value)) => event.attributes.get(key).is_some_and(|v| v == value),
                    None => event.attributes.contains_key(value),
                }),
                "image" => {
                    let name = attribute(if event.kind == "image" { "name" } else { "image" });
                    let texts = [&event.id, name, untagged(&event.id), untagged(name)];
                    texts.into_iter().any(exactly)
                }
                _ => begins(&event.id) || begins(attribute("name")),
            }
        })
    }
}

/// A reference without its tag, as people write it.
fn untagged(name: &str) -> &str {
    let name = name.split('@').next().unwrap_or(name);
    match name.rsplit_once(':') {
        Some((rest, tag)) if !tag.contains('/') => rest,
        _ => name,
    }
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
        _ => Err(ApiError::bad(format!("strconv.ParseInt: parsing \"{seconds}\": invalid syntax"))),
    }
}

fn time_now() -> Timestamp {
    Timestamp::from_system(std::time::SystemTime::now())
}

pub(crate) async fn events(
    engine: &Engine,
    conn: &mut Conn,
    head: &Head,
    query: &Query,
) -> Outcome {
    let filter = Filter::new(query.filters()?);
    let (since, until) = (moment(query, "since")?, moment(query, "until")?);
    if let (Some(first), Some(last)) = (since, until)
        && last < first
    {
        return Err(ApiError::bad(format!(
            "`since` time ({}) cannot be after `until` time ({})",
            query.text("since"),
            query.text("until")
        )));
    }
    // An end without a beginning means all that is known before it.
    let wanted = since.or(until.map(|_| Timestamp::from_nanos(0)));
    let mut heard = engine.events(wanted);
    let (kind, before) = shape::stream_of_events(&head.accept, conn.version);
    conn.begin(200, kind).await?;
    let meant = |event: &Arc<Happening>| {
        since.is_none_or(|since| event.at >= since)
            && until.is_none_or(|until| event.at <= until)
            && filter.admits(event)
    };
    while let Some(mut history) = heard.history.take() {
        let read = tokio::task::spawn_blocking(move || history.read().map(|some| (some, history)));
        if let Ok(Some((some, history))) = read.await {
            tell(conn, before, some.iter().filter(|event| meant(event))).await?;
            heard.history = Some(history);
        }
    }
    tell(conn, before, heard.past.iter().filter(|event| meant(event))).await?;
    heard.past.clear();
    let left = until.map(|until| u64::try_from(until.nanos() - time_now().nanos()).unwrap_or(0));
    let late = async {
        match left {
            Some(nanos) => tokio::time::sleep(std::time::Duration::from_nanos(nanos)).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(late);
    loop {
        let event = tokio::select! {
            biased;
            () = &mut late => return conn.finish().await,
            () = conn.hung_up() => return Ok(Fate::Over),
            event = heard.live.recv() => event,
        };
        match event {
            Ok(event) if filter.admits(&event) => tell(conn, before, [&event].into_iter()).await?,
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return conn.finish().await,
        }
    }
}

/// Each in one piece.
async fn tell(
    conn: &mut Conn,
    before: &[u8],
    events: impl Iterator<Item = &Arc<Happening>>,
) -> Result<(), ApiError> {
    for event in events {
        let mut message = message(event);
        shape::event(&mut message, conn.version);
        let mut body = before.to_vec();
        serde_json::to_writer(&mut body, &message)
            .map_err(|error| ApiError::new(500, error.to_string()))?;
        body.push(b'\n');
        conn.chunk(&body).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &'static str, action: &str, id: &str, attributes: &[(&str, &str)]) -> Happening {
        Happening {
            kind,
            action: action.into(),
            id: id.into(),
            attributes: attributes.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            at: Timestamp::from_nanos(1),
            death: None,
        }
    }

    #[test]
    fn filters_as_docker_understands_them() {
        let attributes = [("image", "repo/bb:1"), ("name", "web1"), ("tier", "front")];
        let exec = event("container", "exec_create: sh -c x", "abcdef", &attributes);
        let tag = event("image", "tag", "sha256:12", &[("name", "bb:latest")]);
        let admits = |event: &Happening, pairs: &[(&str, &[&str])]| {
            let pairs = pairs.iter().map(|(name, values)| {
                ((*name).to_owned(), values.iter().map(|v| (*v).to_owned()).collect())
            });
            Filter::new(pairs.collect()).admits(event)
        };
        assert!(admits(&exec, &[]));
        assert!(admits(&exec, &[("event", &["exec_create"])]));
        assert!(!admits(&exec, &[("event", &["exec"])]));
        assert!(!admits(&exec, &[("event", &["exec_die"])]));
        assert!(admits(&exec, &[("container", &["we"]), ("type", &["image", "container"])]));
        assert!(admits(&exec, &[("container", &["abc"])]));
        assert!(!admits(&tag, &[("container", &["web1"])]));
        assert!(admits(&exec, &[("image", &["repo/bb"])]));
        assert!(admits(&exec, &[("image", &["repo/bb:1"])]));
        assert!(!admits(&exec, &[("image", &["repo"])]));
        assert!(admits(&tag, &[("image", &["bb"])]));
        assert!(admits(&exec, &[("label", &["tier", "tier=front"])]));
        assert!(!admits(&exec, &[("label", &["tier", "tier=back"])]));
        assert!(!admits(&exec, &[("scope", &["swarm"])]));
        assert!(admits(&exec, &[("label", &[])]));
        assert!(admits(&exec, &[("nosuch", &["1"])]));
    }

    #[test]
    fn tags() {
        assert_eq!(untagged("localhost:5000/x"), "localhost:5000/x");
        assert_eq!(untagged("localhost:5000/x:1"), "localhost:5000/x");
        assert_eq!(untagged("x@sha256:1"), "x");
    }
}
