//! Use cases of networks: create, list, inspect, connect, disconnect, remove.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use hoy_network::{Driver, Endpoint, NetworkRequest};
use hoy_store::{Durability, Op};
use hoy_types::ErrorKind;
use hoy_wire as wire;

use crate::attachments;
use crate::directory::{Document, NETWORK, is_predefined};
use crate::driver::Command;
use crate::engine::{Engine, Inner, now, random};
use crate::error::{Error, Result, failed, lost};
use crate::ipam;
use crate::record::{NetworkMode, Record};

/// Containers in a network, by id.
type Inside = BTreeMap<String, wire::EndpointResource>;

fn forbidden(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Forbidden, message)
}

pub(crate) fn network_error(error: hoy_network::NetworkError) -> Error {
    let kind = error.kind();
    Error::new(kind, error.to_string()).with_source(error)
}

impl Engine {
    pub async fn network_create(
        &self,
        request: wire::NetworkCreateRequest,
    ) -> Result<wire::NetworkCreateResponse> {
        let (inner, id) =
            (Arc::clone(&self.inner), hoy_types::Digest::from_sha256(random()?).hex());
        let document = self.inner.network_document(request, id)?;
        self.inner.networks.reserve(&document.name, &document.id)?;
        let (name, id) = (document.name.clone(), document.id.clone());
        let made = tokio::task::spawn_blocking(move || inner.make_network(document));
        match made.await.map_err(lost).and_then(|made| made) {
            Ok(document) => {
                self.inner.networks.insert(document.clone());
                self.inner.network_event("create", &document, None);
                Ok(wire::NetworkCreateResponse { id, warning: String::new() })
            }
            Err(error) => {
                self.inner.networks.remove(&id, &name);
                Err(error)
            }
        }
    }

    /// Every network, with the containers that run in it.
    pub fn network_list(&self) -> Vec<wire::NetworkInspect> {
        let mut inside = self.inner.containers_by_network();
        let shown = |document: &Arc<Document>| wire::NetworkInspect {
            containers: Some(inside.remove(&document.id).unwrap_or_default()),
            ..self.inner.show_network(document)
        };
        self.inner.networks.all().iter().map(shown).collect()
    }

    /// By name, id or the beginning of one.
    pub fn network_inspect(&self, name: &str, scope: &str) -> Result<wire::NetworkInspect> {
        let document = self.inner.networks.find(name)?;
        if !scope.is_empty() && scope != "local" {
            return Err(Error::not_found(format!("network {name} not found")));
        }
        let mut shown = self.inner.show_network(&document);
        shown.containers = Some(self.inner.containers_in(&document));
        let subnets =
            self.inner.network.usage(&document.id).into_iter().map(|(subnet, used, left)| {
                let status = wire::SubnetStatus { ips_in_use: used, dynamic_ips_available: left };
                (subnet.to_string(), status)
            });
        let ipam = wire::IpamStatus { subnets: subnets.collect() };
        shown.status = (!ipam.subnets.is_empty()).then_some(wire::NetworkStatus { ipam });
        Ok(shown)
    }

    pub async fn network_remove(&self, name: &str) -> Result<()> {
        let document = self.inner.networks.find(name)?;
        if document.is_predefined() {
            return Err(forbidden(format!(
                "{} is a pre-defined network and cannot be removed",
                document.name
            )));
        }
        if document.config_only
            && self.inner.networks.all().iter().any(|other| other.config_from == document.name)
        {
            return Err(forbidden(format!(
                "error while removing network: configuration network {:?} is in use",
                document.name
            )));
        }
        let inside = self.inner.containers_in(&document);
        if !inside.is_empty() {
            let all: Vec<String> = inside
                .values()
                .map(|endpoint| {
                    let id = endpoint.endpoint_id.get(..12).unwrap_or(&endpoint.endpoint_id);
                    format!("name:{:?} id:{id:?}", endpoint.name)
                })
                .collect();
            return Err(forbidden(format!(
                "error while removing network: network {} has active endpoints ({})",
                document.name,
                all.join(", ")
            )));
        }
        self.drop_network(&document).await
    }

    pub(crate) async fn drop_network(&self, document: &Arc<Document>) -> Result<()> {
        let (inner, doomed) = (Arc::clone(&self.inner), Arc::clone(document));
        let removed = tokio::task::spawn_blocking(move || {
            // The bridge first: what is written down is made again at the next start.
            inner.network.remove(&doomed.id).map_err(network_error)?;
            inner.bridges_changed();
            let op = Op::Delete { kind: NETWORK, key: doomed.id.clone() };
            inner.store.write(vec![op], Durability::Sync).map_err(failed("forget a network"))
        });
        removed.await.map_err(lost)??;
        self.inner.networks.remove(&document.id, &document.name);
        self.inner.network_event("destroy", document, None);
        Ok(())
    }

    pub async fn network_connect(
        &self,
        name: &str,
        request: wire::NetworkConnectRequest,
    ) -> Result<()> {
        let handle = self.inner.registry.find(&request.container)?;
        let document = self.inner.networks.find(name)?;
        let settings = request.endpoint_config.unwrap_or_default();
        let settings = Box::new(settings);
        handle.ask(|done| Command::Connect { network: document, settings, done }).await
    }

    pub async fn network_disconnect(
        &self,
        name: &str,
        request: wire::NetworkDisconnectRequest,
    ) -> Result<()> {
        let force = request.force;
        let handle = match self.inner.registry.find(&request.container) {
            Err(error) if force && error.kind() == ErrorKind::NotFound => {
                return Err(Error::not_found(format!("endpoint {} not found", request.container)));
            }
            found => found?,
        };
        let document = match self.inner.networks.find(name) {
            Err(error) => {
                let record = handle.record();
                let gone = left_of(&record, name);
                let given = gone.filter(|_| force || !record.state.phase.is_alive());
                Arc::new(given.ok_or(error)?)
            }
            Ok(found) => found,
        };
        handle.ask(|done| Command::Disconnect { network: document, force, done }).await
    }
}

impl Inner {
    /// What somebody asks for, checked for itself.
    fn network_document(
        &self,
        request: wire::NetworkCreateRequest,
        id: String,
    ) -> Result<Document> {
        let mut request = request;
        if is_predefined(&request.name) {
            return Err(forbidden(format!(
                "operation is not permitted on predefined {} network",
                request.name
            )));
        }
        check_name(&request.name)?;
        match request.scope.as_str() {
            "" | "local" => {}
            "swarm" => {
                return Err(forbidden(
                    "cannot create a swarm scoped network when swarm is not active",
                ));
            }
            other => return Err(Error::unavailable(format!("a network of the scope {other}"))),
        }
        if request.ingress {
            return Err(Error::unavailable("an ingress network: it belongs to a cluster, which"));
        }
        let from = request.config_from.take().map(|from| from.network).unwrap_or_default();
        if !from.is_empty() {
            request = self.with_pattern(request, &from)?;
        }
        let ipam = request.ipam.clone().unwrap_or_default();
        if !matches!(ipam.driver.as_str(), "" | "default") {
            return Err(Error::unavailable(format!("the IPAM driver {}", ipam.driver)));
        }
        let driver = if request.config_only { "null" } else { driver_name(&request.driver) };
        let mut options = request.options.clone().unwrap_or_default();
        if from.is_empty()
            && let Some(defaults) = self.settings.networking.options.get(driver)
        {
            for (name, value) in defaults {
                options.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        let family = |field: Option<bool>, option: &str, default: bool| match field {
            Some(on) => on,
            None => match options.get(&format!("com.docker.network.{option}")) {
                Some(text) => matches!(text.as_str(), "1" | "true" | "True" | "TRUE" | "t"),
                None => default,
            },
        };
        let ipv4 = family(request.enable_ipv4, "enable_ipv4", true);
        let ipv6 = family(request.enable_ipv6, "enable_ipv6", false);
        let asked = ipam.config.clone().unwrap_or_default();
        ipam::check(&asked, ipv6)?;
        let driver = driver.to_owned();
        Ok(Document {
            id,
            name: request.name,
            created: now(),
            driver,
            ipv4,
            ipv6,
            internal: request.internal,
            attachable: request.attachable,
            config_only: request.config_only,
            config_from: from,
            ipam_driver: "default".into(),
            ipam_options: ipam.options.unwrap_or_default(),
            options,
            labels: request.labels.unwrap_or_default(),
            asked,
            spec: None,
        })
    }

    /// A network with the settings of another that is only a pattern.
    fn with_pattern(
        &self,
        request: wire::NetworkCreateRequest,
        from: &str,
    ) -> Result<wire::NetworkCreateRequest> {
        let found = self.networks.find(from).ok().filter(|found| found.config_only);
        let missing = || Error::not_found(format!("configuration network {from:?} does not exist"));
        let pattern = found.ok_or_else(missing)?;
        let some =
            |map: &Option<BTreeMap<String, String>>| map.as_ref().is_some_and(|m| !m.is_empty());
        let own = request.ipam.as_ref().is_some_and(|ipam| {
            ipam.config.as_ref().is_some_and(|list| !list.is_empty()) || some(&ipam.options)
        });
        if own || some(&request.options) || some(&request.labels) || request.internal {
            return Err(forbidden(
                "user specified configurations are not supported if the network depends on a \
                 configuration network",
            ));
        }
        Ok(wire::NetworkCreateRequest {
            ipam: Some(wire::Ipam {
                driver: pattern.ipam_driver.clone(),
                options: Some(pattern.ipam_options.clone()),
                config: Some(pattern.asked.clone()),
            }),
            options: Some(pattern.options.clone()),
            labels: Some(pattern.labels.clone()),
            internal: pattern.internal,
            enable_ipv4: Some(pattern.ipv4),
            enable_ipv6: Some(pattern.ipv6),
            config_from: Some(wire::ConfigReference { network: from.to_owned() }),
            ..request
        })
    }

    /// Decides, writes down, makes; or leaves nothing. Blocks.
    fn make_network(&self, mut document: Document) -> Result<Document> {
        let driver = match document.driver.as_str() {
            "bridge" => Some(Driver::Bridge),
            "macvlan" => Some(Driver::Macvlan),
            "ipvlan" => Some(Driver::Ipvlan),
            "null" if document.config_only => None,
            "host" | "null" | "none" => {
                return Err(forbidden(format!(
                    "only one instance of {:?} network is allowed",
                    if document.driver == "host" { "host" } else { "null" }
                )));
            }
            "overlay" => {
                return Err(Error::conflict(
                    "This node is not a swarm manager. Use \"docker swarm init\" or \"docker \
                     swarm join\" to connect this node to swarm and try again.",
                ));
            }
            other => {
                return Err(Error::not_found(format!(
                    "plugin {other:?} not found: hoy has the drivers bridge, macvlan, ipvlan, \
                     host and none"
                )));
            }
        };
        if let Some(driver) = driver {
            let request = NetworkRequest {
                id: document.id.clone(),
                name: document.name.clone(),
                driver,
                ipv4: document.ipv4,
                ipv6: document.ipv6,
                internal: document.internal,
                options: document.options.clone(),
                pools: ipam::pools(&document.asked)?,
            };
            document.spec = Some(self.network.decide(request).map_err(network_error)?);
        }
        let made = self.write_network(&document).and_then(|()| {
            if document.spec.is_none() {
                return Ok(());
            }
            let before = self.network.forwarding();
            let made = self.network.realize(&document.id).map_err(network_error);
            self.remember_forwarding(before);
            self.bridges_changed();
            made
        });
        if let Err(error) = made {
            let _ = self.network.remove(&document.id);
            let op = Op::Delete { kind: NETWORK, key: document.id.clone() };
            let _ = self.store.write(vec![op], Durability::Sync);
            return Err(error);
        }
        Ok(document)
    }

    fn write_network(&self, document: &Document) -> Result<()> {
        let body = serde_json::to_vec(document).map_err(failed("write down a network"))?;
        let op = Op::Put { kind: NETWORK, key: document.id.clone(), body };
        self.store.write(vec![op], Durability::Sync).map_err(failed("write down a network"))
    }

    /// Networks that some container is in, or will be when it starts.
    pub(crate) fn networks_in_use(&self, by: &[Arc<Record>]) -> BTreeSet<String> {
        let mut used = BTreeSet::new();
        for record in by {
            used.extend(record.network.attachments.iter().map(|one| one.network.clone()));
        }
        let all = self.networks.all();
        let patterns = all.iter().filter(|one| !one.config_from.is_empty());
        used.extend(
            patterns.filter_map(|one| Some(self.networks.find(&one.config_from).ok()?.id.clone())),
        );
        used
    }

    pub fn show_network(&self, document: &Document) -> wire::NetworkInspect {
        // What was decided when the daemon started is true of the default bridge.
        let spec = match &document.spec {
            Some(spec) => Some(spec.clone()),
            None => self.network.spec(&document.id),
        };
        let decided = spec.iter().flat_map(|spec| &spec.pools).map(|pool| wire::IpamConfig {
            subnet: pool.subnet.to_string(),
            ip_range: pool.range.map(|range| range.to_string()).unwrap_or_default(),
            gateway: pool.gateway.map(|gateway| gateway.to_string()).unwrap_or_default(),
            auxiliary_addresses: pool
                .set_aside
                .iter()
                .map(|(name, address)| (name.clone(), address.to_string()))
                .collect(),
        });
        let config = if spec.is_some() { decided.collect() } else { document.asked.clone() };
        let options = &document.ipam_options;
        wire::NetworkInspect {
            status: None,
            name: document.name.clone(),
            id: document.id.clone(),
            created: document.created,
            scope: "local".into(),
            driver: document.driver.clone(),
            enable_ipv4: document.ipv4,
            enable_ipv6: document.ipv6,
            ipam: wire::Ipam {
                driver: document.ipam_driver.clone(),
                options: (!document.is_predefined()).then(|| options.clone()),
                config: Some(config),
            },
            internal: document.internal,
            attachable: document.attachable,
            ingress: false,
            config_from: wire::ConfigReference { network: document.config_from.clone() },
            config_only: document.config_only,
            containers: None,
            options: Some(document.options.clone()),
            labels: Some(document.labels.clone()),
        }
    }

    /// Containers that run in a network.
    fn containers_in(&self, document: &Document) -> Inside {
        self.containers_by_network().remove(&document.id).unwrap_or_default()
    }

    /// Containers that run, by network and id.
    fn containers_by_network(&self) -> HashMap<String, Inside> {
        let mut out: HashMap<String, Inside> = HashMap::new();
        for handle in self.registry.all() {
            let record = handle.record();
            for (network, resource) in self.resources(&record) {
                out.entry(network).or_default().insert(record.id.to_string(), resource);
            }
        }
        out
    }

    fn resources(&self, record: &Record) -> Vec<(String, wire::EndpointResource)> {
        let named = || wire::EndpointResource { name: record.name.clone(), ..Default::default() };
        let shown = |endpoint: &Endpoint| wire::EndpointResource {
            endpoint_id: endpoint.id.clone(),
            mac_address: endpoint.mac.clone(),
            ipv4_address: endpoint.v4.map(|cidr| cidr.to_string()).unwrap_or_default(),
            ipv6_address: endpoint.v6.map(|cidr| cidr.to_string()).unwrap_or_default(),
            ..named()
        };
        let mut out: Vec<_> =
            record.network.endpoints.iter().map(|one| (one.network.clone(), shown(one))).collect();
        let predefined = match record.network.mode {
            NetworkMode::Host => "host",
            NetworkMode::None => "none",
            _ => return out,
        };
        if let (true, Ok(network)) = (record.state.phase.is_alive(), self.networks.find(predefined))
        {
            let endpoint_id = attachments::endpoint_without_interface(record, &network.id);
            out.push((network.id.clone(), wire::EndpointResource { endpoint_id, ..named() }));
        }
        out
    }

    pub fn network_event(&self, action: &str, document: &Document, container: Option<&str>) {
        let mut attributes = BTreeMap::from([
            ("name".to_owned(), document.name.clone()),
            ("type".to_owned(), document.driver.clone()),
        ]);
        if let Some(container) = container {
            attributes.insert("container".to_owned(), container.to_owned());
        }
        self.event("network", action, &document.id, attributes);
    }
}

/// A network that is not there (any more), by what a container has of it.
fn left_of(record: &Record, name: &str) -> Option<Document> {
    let mut all = record.network.attachments.iter();
    let one = all.find(|one| one.name == name || one.network == name)?;
    Some(Document::predefined(&one.name, "bridge", one.network.clone()))
}

/// Docker's name of what makes a network.
fn driver_name(asked: &str) -> &str {
    match asked {
        "" | "default" => "bridge",
        other => other,
    }
}

fn check_name(name: &str) -> Result<()> {
    if name.trim().is_empty() {
        return Err(Error::invalid("invalid name: name is empty"));
    }
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let begins = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if !begins || !name.chars().all(good) {
        return Err(Error::invalid(format!(
            "invalid network name: {name:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )));
    }
    Ok(())
}
