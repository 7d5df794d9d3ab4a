//! /networks.

use std::collections::BTreeMap;

use hoy_engine::Engine;
use hoy_wire as wire;
use serde::de::DeserializeOwned;

use crate::conn::Conn;
use crate::http::Head;
use crate::network_filters::NetworkFilter;
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
        ("GET", ["networks"] | ["networks", ""]) => list(engine, conn, query).await,
        ("POST", ["networks", "create"]) => create(engine, conn, head).await,
        ("GET", ["networks", name]) => inspect(engine, conn, name, query).await,
        ("DELETE", ["networks", name]) => match engine.network_remove(name).await {
            Ok(()) => conn.empty(204).await,
            Err(error) => Err(error.into()),
        },
        ("POST", ["networks", name, "connect"]) => connect(engine, conn, head, name).await,
        ("POST", ["networks", name, "disconnect"]) => disconnect(engine, conn, head, name).await,
        _ => return None,
    })
}

async fn body<T: DeserializeOwned>(conn: &mut Conn, head: &Head) -> Result<T, ApiError> {
    let found = conn.json(head).await?;
    found.ok_or_else(|| ApiError::bad("invalid JSON: got EOF while reading request body"))
}

/// Values by name.
pub(crate) type Filters = BTreeMap<String, Vec<String>>;

fn filters(query: &Query) -> Result<Filters, ApiError> {
    Ok(query.filters()?.into_iter().collect())
}

async fn list(engine: &Engine, conn: &mut Conn, query: &Query) -> Outcome {
    let filters = filters(query)?;
    let filter = NetworkFilter::parse(&filters)?;
    let mut found = engine.network_list();
    found.retain(|network| {
        let used = network.containers.as_ref().is_some_and(|inside| !inside.is_empty());
        filter.admits(network, used)
    });
    conn.shaped(200, shape::networks, &found).await
}

async fn inspect(engine: &Engine, conn: &mut Conn, name: &str, query: &Query) -> Outcome {
    // What is said of a swarm's services is not there on one host: the word alone is looked at.
    if let Some(text) = query.get("verbose").filter(|text| !text.is_empty())
        && !matches!(
            text,
            "1" | "t"
                | "T"
                | "true"
                | "TRUE"
                | "True"
                | "0"
                | "f"
                | "F"
                | "false"
                | "FALSE"
                | "False"
        )
    {
        return Err(ApiError::bad(format!(
            "invalid value for verbose: {text}: strconv.ParseBool: parsing {text:?}: invalid syntax"
        )));
    }
    let found = engine.network_inspect(name, query.get("scope").unwrap_or_default())?;
    conn.shaped(200, shape::network, &found).await
}

async fn create(engine: &Engine, conn: &mut Conn, head: &Head) -> Outcome {
    let mut request: wire::NetworkCreateRequest = body(conn, head).await?;
    if conn.version < shape::PRIORITIES {
        request.enable_ipv4 = None;
    }
    let created = engine.network_create(request).await?;
    conn.json_answer(201, &created).await
}

async fn connect(engine: &Engine, conn: &mut Conn, head: &Head, name: &str) -> Outcome {
    let mut request: wire::NetworkConnectRequest = body(conn, head).await?;
    if let Some(endpoint) = &mut request.endpoint_config
        && conn.version < shape::PRIORITIES
    {
        endpoint.gw_priority = 0;
    }
    engine.network_connect(name, request).await?;
    conn.empty(200).await
}

async fn disconnect(engine: &Engine, conn: &mut Conn, head: &Head, name: &str) -> Outcome {
    let request: wire::NetworkDisconnectRequest = body(conn, head).await?;
    engine.network_disconnect(name, request).await?;
    conn.empty(200).await
}
