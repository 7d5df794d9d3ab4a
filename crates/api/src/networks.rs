//! /networks, and what older clients say of networks otherwise than newer ones.

use std::collections::BTreeMap;

use hoy_engine::Engine;
use hoy_wire as wire;
use serde::de::DeserializeOwned;

use crate::conn::Conn;
use crate::http::Head;
use crate::network_filters::NetworkFilter;
use crate::query::Query;
use crate::{ApiError, Outcome, route};

/// The first version that knows of gateways' priorities and of networks without IPv4.
const PRIORITIES: (u32, u32) = (1, 48);
/// The first version that tells DNS names apart from aliases.
const DNS_NAMES: (u32, u32) = (1, 45);
/// The first version in which a MAC address belongs to an endpoint.
const ENDPOINT_MAC: (u32, u32) = (1, 44);

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
    for network in &mut found {
        network.containers = Some(BTreeMap::new());
    }
    conn.json_answer(200, &found).await
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
    conn.json_answer(200, &found).await
}

async fn create(engine: &Engine, conn: &mut Conn, head: &Head) -> Outcome {
    let mut request: wire::NetworkCreateRequest = body(conn, head).await?;
    if route::version(head) < PRIORITIES {
        request.enable_ipv4 = None;
    }
    let created = engine.network_create(request).await?;
    conn.json_answer(201, &created).await
}

async fn connect(engine: &Engine, conn: &mut Conn, head: &Head, name: &str) -> Outcome {
    let mut request: wire::NetworkConnectRequest = body(conn, head).await?;
    if let Some(endpoint) = &mut request.endpoint_config
        && route::version(head) < PRIORITIES
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

const MAC_WARNING: &str = "The container-wide MacAddress field is now deprecated. It should be \
                           specified in EndpointsConfig instead.";

/// Brings what a client of another version says of a new container's networks into today's form.
/// The result is a warning for the client.
pub(crate) fn modernize(
    request: &mut wire::CreateRequest,
    version: (u32, u32),
) -> Result<Option<&'static str>, ApiError> {
    let mode = request.host_config.as_ref().map_or("", |host| host.network_mode.as_str());
    let mode = if mode.is_empty() { "default" } else { mode }.to_owned();
    let mut none = BTreeMap::new();
    let endpoints = match &mut request.networking_config {
        Some(networking) => networking.endpoints_config.get_or_insert_default(),
        None => &mut none,
    };
    if version < PRIORITIES {
        endpoints.values_mut().for_each(|endpoint| endpoint.gw_priority = 0);
    }
    if version < ENDPOINT_MAC && endpoints.len() > 1 {
        let names: Vec<&str> = endpoints.keys().map(String::as_str).collect();
        return Err(ApiError::bad(format!(
            "Container cannot be created with multiple network endpoints: {}",
            names.join(", ")
        )));
    }
    let address = std::mem::take(&mut request.mac_address);
    if address.is_empty() {
        if version < ENDPOINT_MAC {
            // Older clients sent back there what an inspect had told them.
            endpoints.values_mut().for_each(|endpoint| endpoint.mac_address.clear());
        }
        return Ok(None);
    }
    let takes_address =
        !matches!(mode.as_str(), "host" | "none") && !mode.starts_with("container:");
    let warning = (version >= ENDPOINT_MAC).then_some(MAC_WARNING);
    if !takes_address {
        return match warning {
            None => Err(ApiError::bad("conflicting options: mac-address and the network mode")),
            warning => Ok(warning),
        };
    }
    let own: Vec<&str> = match mode.as_str() {
        "default" | "bridge" => vec!["default", "bridge"],
        name => vec![name],
    };
    let known = endpoints.keys().find(|name| own.contains(&name.as_str())).cloned();
    let endpoint = endpoints.entry(known.unwrap_or(mode)).or_default();
    if version >= ENDPOINT_MAC
        && !endpoint.mac_address.is_empty()
        && endpoint.mac_address != address
    {
        return Err(ApiError::bad(
            "the container-wide MAC address must match the endpoint-specific MAC address for the \
             main network, or be left empty",
        ));
    }
    endpoint.mac_address = address;
    if !none.is_empty() {
        request.networking_config = Some(wire::NetworkingConfig { endpoints_config: Some(none) });
    }
    Ok(warning)
}

/// Brings what is told of a container's networks into the form that an older client knows: its
/// short id and its host name were aliases in every network that people made.
pub(crate) fn antiquate(found: &mut wire::ContainerInspect, version: (u32, u32)) {
    if version >= DNS_NAMES {
        return;
    }
    let own = [
        found.id.get(..12).unwrap_or_default().to_owned(),
        found.config.as_ref().map(|config| config.hostname.clone()).unwrap_or_default(),
    ];
    let networks = found.network_settings.as_mut().and_then(|settings| settings.networks.as_mut());
    for (name, endpoint) in networks.into_iter().flatten() {
        if matches!(name.as_str(), "default" | "bridge" | "host" | "none") {
            continue;
        }
        let aliases = endpoint.aliases.get_or_insert_default();
        for alias in &own {
            if !alias.is_empty() && !aliases.contains(alias) {
                aliases.push(alias.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> wire::CreateRequest {
        serde_json::from_str(text).unwrap()
    }

    fn endpoints(request: &wire::CreateRequest) -> BTreeMap<String, wire::EndpointSettings> {
        let networking = request.networking_config.clone().unwrap_or_default();
        networking.endpoints_config.unwrap_or_default()
    }

    const MAC: &str = "02:42:ac:11:00:05";

    #[test]
    fn the_address_of_old_goes_to_the_first_network() {
        for (mode, networking, name) in [
            ("default", "null", "default"),
            ("n", "null", "n"),
            ("bridge", r#"{"EndpointsConfig":{"default":{}}}"#, "default"),
            ("n", r#"{"EndpointsConfig":{"n":{"GwPriority":5}}}"#, "n"),
        ] {
            let text = format!(
                r#"{{"MacAddress":"{MAC}","HostConfig":{{"NetworkMode":"{mode}"}},"NetworkingConfig":{networking}}}"#
            );
            for version in [(1, 43), (1, 50)] {
                let mut asked = request(&text);
                let warning = modernize(&mut asked, version).unwrap();
                assert_eq!(warning.is_some(), version == (1, 50));
                assert_eq!(asked.mac_address, "");
                let endpoint = endpoints(&asked).remove(name).unwrap();
                assert_eq!(endpoint.mac_address, MAC);
                assert!(version == (1, 50) || endpoint.gw_priority == 0);
            }
        }
    }

    #[test]
    fn names_of_old_are_aliases() {
        let text = r#"{"Id":"0123456789abcdef","Config":{"Hostname":"boat"},"NetworkSettings":{
            "Networks":{"bridge":{},"n":{"Aliases":["boat","a"]},"m":{}}}}"#;
        let aliases = |version| -> Vec<Option<Vec<String>>> {
            let mut found: wire::ContainerInspect = serde_json::from_str(text).unwrap();
            antiquate(&mut found, version);
            let networks = found.network_settings.unwrap().networks.unwrap();
            networks.into_values().map(|endpoint| endpoint.aliases).collect()
        };
        let list = |all: &[&str]| Some(all.iter().map(|name| (*name).to_owned()).collect());
        let old = [None, list(&["0123456789ab", "boat"]), list(&["boat", "a", "0123456789ab"])];
        assert_eq!(aliases((1, 44)), old);
        assert_eq!(aliases((1, 45)), [None, None, list(&["boat", "a"])]);
    }

    #[test]
    fn what_does_not_fit_together() {
        let host = format!(r#"{{"MacAddress":"{MAC}","HostConfig":{{"NetworkMode":"host"}}}}"#);
        assert!(modernize(&mut request(&host), (1, 43)).is_err());
        assert_eq!(modernize(&mut request(&host), (1, 44)).unwrap(), Some(MAC_WARNING));
        let other = format!(
            r#"{{"MacAddress":"{MAC}","HostConfig":{{"NetworkMode":"n"}},"NetworkingConfig":{{"EndpointsConfig":{{"n":{{"MacAddress":"02:42:ac:11:00:06"}}}}}}}}"#
        );
        assert!(
            modernize(&mut request(&other), (1, 50)).unwrap_err().message.contains("must match")
        );
        let two = r#"{"NetworkingConfig":{"EndpointsConfig":{"a":{"MacAddress":"x"},"b":null}}}"#;
        assert!(modernize(&mut request(two), (1, 50)).unwrap().is_none());
        let refused = modernize(&mut request(two), (1, 43)).unwrap_err().message;
        assert!(refused.ends_with("multiple network endpoints: a, b"), "{refused}");
        let old = r#"{"NetworkingConfig":{"EndpointsConfig":{"a":{"MacAddress":"x"}}}}"#;
        let mut old = request(old);
        modernize(&mut old, (1, 43)).unwrap();
        assert_eq!(endpoints(&old)["a"].mac_address, "");
    }
}
