//! Use cases of networks: create, list, inspect, connect, disconnect, remove, prune.

use std::collections::BTreeMap;

use hoy_wire as wire;

use crate::engine::Engine;
use crate::error::{Error, Result};

/// Docker's filters: values by name.
pub type Filters = BTreeMap<String, Vec<String>>;

impl Engine {
    pub async fn network_create(
        &self,
        request: wire::NetworkCreateRequest,
    ) -> Result<wire::NetworkCreateResponse> {
        let _ = request;
        Err(Error::unavailable("network create"))
    }

    /// Without the containers in them.
    pub fn network_list(&self, filters: &Filters) -> Result<Vec<wire::NetworkInspect>> {
        let _ = filters;
        Ok(self.networks())
    }

    /// By name, id or the beginning of one.
    pub fn network_inspect(&self, name: &str, scope: &str) -> Result<wire::NetworkInspect> {
        let _ = scope;
        let known = |network: &wire::NetworkInspect| {
            network.name == name || network.id == name || network.id.starts_with(name)
        };
        let found = self.networks().into_iter().find(known);
        found.ok_or_else(|| Error::not_found(format!("network {name} not found")))
    }

    pub async fn network_remove(&self, name: &str) -> Result<()> {
        Err(Error::not_found(format!("network {name} not found")))
    }

    pub async fn network_prune(&self, filters: &Filters) -> Result<wire::NetworkPruneResponse> {
        let _ = filters;
        Ok(wire::NetworkPruneResponse::default())
    }

    pub async fn network_connect(
        &self,
        name: &str,
        request: wire::NetworkConnectRequest,
    ) -> Result<()> {
        let _ = request;
        Err(Error::not_found(format!("network {name} not found")))
    }

    pub async fn network_disconnect(
        &self,
        name: &str,
        request: wire::NetworkDisconnectRequest,
    ) -> Result<()> {
        let _ = request;
        Err(Error::not_found(format!("network {name} not found")))
    }
}
