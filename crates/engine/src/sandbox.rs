//! The network of a container that is about to start, runs or has ended: what the rooms are asked
//! for, and what is noted of it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use hoy_network::{
    DnsClient, DnsSockets, Endpoint, EndpointNames, EndpointSpec, Forward, Forwarding, Owner,
    SandboxSpec, Ticket,
};
use hoy_store::Op;
use hoy_types::{ContainerId, Timestamp};

use crate::attachments::{self, Attachment};
use crate::directory::Document;
use crate::engine::{Inner, META, host_resolv_conf};
use crate::error::{Error, Result, failed};
use crate::networks::network_error;
use crate::record::{NetworkMode, Record};
use crate::spec::ports;
use crate::userns;

/// What a container's namespace comes from.
pub(crate) enum Sandbox {
    /// The host's: nothing is made.
    Host,
    Made(Ticket),
    /// Another container's, and the user namespace that owns it.
    Joined(OwnedFd, Option<OwnedFd>),
}

fn endpoints_path(exec_root: &std::path::Path, id: &str) -> PathBuf {
    exec_root.join("endpoints").join(id)
}

/// What the container has of networks, as it was noted before anything ran in it.
pub(crate) fn noted_endpoints(exec_root: &std::path::Path, id: &str) -> Option<Vec<Endpoint>> {
    serde_json::from_slice(&std::fs::read(endpoints_path(exec_root, id)).ok()?).ok()
}

impl Inner {
    /// The network of a container that is about to start. Blocks.
    /// `shared`: the user namespace of those that it shares more with.
    pub fn make_sandbox(&self, record: &Record, shared: Option<Arc<OwnedFd>>) -> Result<Sandbox> {
        // The daemon's settings may be others than when it was created.
        userns::check(&record.host, self.id_maps.is_some())?;
        let remapped = self.userns(&record.host).is_some();
        let owner = match shared.clone() {
            Some(userns) => Some(Owner::Given(userns)),
            None => self.userns(&record.host).cloned().map(Owner::New),
        };
        let spec = match &record.network.mode {
            NetworkMode::Host => return Ok(Sandbox::Host),
            NetworkMode::Container(other) => {
                let joined = self.join(other, remapped)?;
                if let (Some(shared), Sandbox::Joined(_, Some(userns))) = (&shared, &joined) {
                    crate::sharing::same(shared, userns)?;
                }
                return Ok(joined);
            }
            NetworkMode::None => SandboxSpec { owner, ..SandboxSpec::default() },
            NetworkMode::Networks => {
                let mut endpoints = Vec::new();
                for one in &record.network.attachments {
                    let missing = || Error::not_found(format!("network {} not found", one.network));
                    self.networks.by_id(&one.network).ok_or_else(missing)?;
                    endpoints.push(attachments::endpoint(one)?);
                }
                SandboxSpec {
                    name: record.name.clone(),
                    endpoints,
                    ports: ports(record)?,
                    owner,
                    dns: self.has_names(record),
                }
            }
        };
        let before = self.network.forwarding();
        let ticket = self.network.sandbox(&spec);
        self.remember_forwarding(before);
        let ticket = ticket.map_err(network_error).map_err(set_up)?;
        // Before anything runs in it: a daemon killed from here on finds its own again.
        if !ticket.endpoints.is_empty()
            && let Err(error) = self
                .note_endpoints(&record.id, &ticket.endpoints)
                .and_then(|()| self.open_links(record, &ticket.endpoints))
        {
            self.give_back(&record.id, &ticket.endpoints);
            return Err(error);
        }
        self.tell_linked(record, &ticket.endpoints);
        Ok(Sandbox::Made(ticket))
    }

    fn join(&self, other: &ContainerId, remapped: bool) -> Result<Sandbox> {
        let other = self.registry.find(other.as_str())?.record();
        if other.state.phase == crate::life::Phase::Restarting {
            return Err(Error::conflict(format!(
                "Container {} is restarting, wait until the container is running",
                other.id
            )));
        }
        if !other.state.phase.is_alive() {
            return Err(Error::conflict(format!(
                "cannot join network namespace of a non running container: container {} is {}",
                other.name,
                other.state.shown().status()
            )));
        }
        let netns = namespace_of(&other)?;
        let userns = match remapped {
            true => Some(self.userns_of(&other, "join network namespace")?.into()),
            false => None,
        };
        Ok(Sandbox::Joined(netns, userns))
    }

    /// Whether the embedded name server answers a container.
    pub fn has_names(&self, record: &Record) -> bool {
        let mut documents =
            record.network.attachments.iter().filter_map(|one| self.networks.by_id(&one.network));
        documents.any(|document| document.has_names())
    }

    /// What a container got, known to any daemon that finds it: its record is written later.
    pub fn note_endpoints(&self, id: &ContainerId, endpoints: &[Endpoint]) -> Result<()> {
        let error = || failed("note the container's networks");
        let text =
            serde_json::to_vec(endpoints).map_err(failed("note the container's networks"))?;
        let path = endpoints_path(&self.settings.exec_root, id.as_str());
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(error())?;
        }
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, text).map_err(error())?;
        std::fs::rename(&fresh, &path).map_err(error())
    }

    /// Takes a container's networks back. Blocks.
    pub fn give_back(&self, id: &ContainerId, endpoints: &[Endpoint]) {
        self.dns.forget(id.as_str());
        for endpoint in endpoints {
            self.dns.unset_names(&endpoint.network, &endpoint.id);
        }
        self.network.release(endpoints);
        let path = endpoints_path(&self.settings.exec_root, id.as_str());
        let _ = std::fs::remove_file(path.with_extension("new"));
        let _ = std::fs::remove_file(path);
    }

    pub fn remember_forwarding(&self, before: Forwarding) {
        let now = self.network.forwarding();
        if now != before
            && let Ok(body) = serde_json::to_vec(&now)
        {
            self.store.write_later(vec![Op::Put { kind: META, key: "forwarding".into(), body }]);
        }
    }

    /// Makes a container known by its names, in all of its networks.
    pub fn tell_names(&self, record: &Record) {
        for endpoint in &record.network.endpoints {
            let Some(one) = record.network.attachment(&endpoint.network) else { continue };
            let Some(document) = self.networks.by_id(&endpoint.network) else { continue };
            if !document.has_names() {
                continue;
            }
            let names = EndpointNames {
                names: attachments::names(record, one),
                network_name: document.name.clone(),
                v4: endpoint.address4(),
                v6: endpoint.address6(),
            };
            self.dns.set_names(&endpoint.network, &endpoint.id, names);
        }
    }

    /// What the embedded name server is to know of a container. The namespace is where servers of
    /// its own are asked from.
    pub fn dns_client(&self, record: &Record, netns: &Arc<OwnedFd>) -> DnsClient {
        let mut open = false;
        let mut networks = Vec::new();
        let mut links = Vec::new();
        for endpoint in &record.network.endpoints {
            let Some(document) = self.networks.by_id(&endpoint.network) else { continue };
            open |= !document.internal;
            if document.has_names() {
                networks.push(document.id.clone());
            }
            let own = record.network.attachment(&endpoint.network);
            for link in own.iter().flat_map(|one| one.settings.links.iter().flatten()) {
                links.push(self.link(link));
            }
        }
        let overrides = self.dns_overrides(record);
        let servers: Vec<IpAddr> =
            overrides.servers.iter().filter_map(|server| server.parse().ok()).collect();
        let forward = if !open {
            Forward::Never
        } else if servers.is_empty() {
            Forward::Host
        } else {
            Forward::Servers { servers, netns: Arc::clone(netns) }
        };
        let ndots_set = crate::files::ndots_set(&host_resolv_conf(), &overrides);
        DnsClient { networks, links, forward, ndots_set }
    }

    /// `container:alias`: the alias, and the name that the container has now.
    fn link(&self, link: &str) -> (String, String) {
        let (name, alias) = link.split_once(':').unwrap_or((link, link));
        let name = name.trim_start_matches('/');
        let known = self.registry.find(name).map(|handle| handle.record().name.clone());
        (alias.trim_start_matches('/').to_owned(), known.unwrap_or_else(|_| name.to_owned()))
    }

    /// Answers a container's questions from now on.
    pub fn serve_names(&self, record: &Record, sockets: DnsSockets, netns: OwnedFd) {
        let client = self.dns_client(record, &Arc::new(netns));
        if let Err(error) = self.dns.serve(record.key(), sockets, client) {
            tracing::error!(container = record.id.short(), %error, "serve names");
        }
    }

    /// One more interface for a container that runs. Blocks.
    pub fn plug(&self, record: &Record, name: &str, spec: &EndpointSpec) -> Result<Vec<Endpoint>> {
        let netns = namespace_of(record)?;
        let bindings = ports(record)?;
        let before = self.network.forwarding();
        let all =
            self.network.connect(netns.as_fd(), name, &bindings, &record.network.endpoints, spec);
        self.remember_forwarding(before);
        let all = all.map_err(network_error)?;
        let kept = self.note_endpoints(&record.id, &all);
        if let Err(error) = kept.and_then(|()| self.open_links(record, &all)) {
            let _ = self.network.disconnect(netns.as_fd(), name, &bindings, &all, &spec.network);
            return Err(error);
        }
        Ok(all)
    }

    /// One interface less. By force its address is free even if the interface stays. Blocks.
    pub fn unplug(&self, record: &Record, network: &str, force: bool) -> Result<Vec<Endpoint>> {
        let before = &record.network.endpoints;
        // Noted before it is done: an interface that nobody knows of is removed by the next daemon,
        // one that is only noted would never come back.
        let noted: Vec<Endpoint> =
            before.iter().filter(|endpoint| endpoint.network != network).cloned().collect();
        match self.note_endpoints(&record.id, &noted) {
            Err(error) if !force => return Err(error),
            _ => {}
        }
        let left = namespace_of(record).and_then(|netns| {
            let (name, bindings) = (&record.name, ports(record)?);
            let left = self.network.disconnect(netns.as_fd(), name, &bindings, before, network);
            left.map_err(network_error)
        });
        let (gone, others): (Vec<Endpoint>, Vec<Endpoint>) =
            before.iter().cloned().partition(|endpoint| endpoint.network == network);
        let left = match left {
            Err(error) if force => {
                tracing::warn!(container = record.id.short(), %error, "disconnect");
                self.network.release(&gone);
                others
            }
            Err(error) => {
                if let Err(error) = self.note_endpoints(&record.id, before) {
                    tracing::error!(container = record.id.short(), %error, "disconnect");
                }
                return Err(error);
            }
            Ok(left) => left,
        };
        for endpoint in &gone {
            self.dns.unset_names(network, &endpoint.id);
        }
        // The way out may be another one now.
        if let Err(error) = self.note_endpoints(&record.id, &left) {
            tracing::error!(container = record.id.short(), %error, "disconnect");
        }
        Ok(left)
    }

    /// The files and names of a container whose networks have changed; sockets for a name server,
    /// if it has none yet and needs one now. Blocks.
    pub fn networks_changed(&self, record: &Record) -> Result<Option<(DnsSockets, OwnedFd)>> {
        self.tell_names(record);
        self.write_network_files(record)?;
        let netns = namespace_of(record)?;
        if !self.has_names(record) || self.dns.serves(record.key()) {
            let copy = netns.try_clone().map_err(failed("keep the network"))?;
            self.dns.update(record.key(), self.dns_client(record, &Arc::new(copy)));
            return Ok(None);
        }
        let sockets = hoy_network::open_sockets_in(netns.as_fd()).map_err(network_error)?;
        Ok(Some((sockets, netns)))
    }

    /// Of the networks of a container, which are named in events.
    pub fn documents_of(&self, endpoints: &[Endpoint]) -> Vec<Arc<Document>> {
        let mut seen = BTreeSet::new();
        endpoints
            .iter()
            .filter(|endpoint| seen.insert(&endpoint.network))
            .filter_map(|endpoint| self.networks.by_id(&endpoint.network))
            .collect()
    }

    /// The networks that a container which runs is in, the predefined ones without endpoints
    /// included.
    pub fn documents_of_running(
        &self,
        mode: &NetworkMode,
        endpoints: &[Endpoint],
    ) -> Vec<Arc<Document>> {
        let predefined = match mode {
            NetworkMode::Host => "host",
            NetworkMode::None => "none",
            NetworkMode::Networks | NetworkMode::Container(_) => {
                return self.documents_of(endpoints);
            }
        };
        self.networks.find(predefined).into_iter().collect()
    }

    /// A container's endpoint as people are shown it.
    pub fn show_endpoint(&self, record: &Record, one: &Attachment) -> hoy_wire::EndpointSettings {
        let mut out = one.settings.clone();
        let named = self.networks.by_id(&one.network).is_some_and(|d| d.has_names());
        out.dns_names = named.then(|| attachments::names(record, one));
        let Some(endpoint) = record.network.endpoints.iter().find(|e| e.network == one.network)
        else {
            // Known from the first start on.
            if record.state.started_at != Timestamp::ZERO {
                out.network_id.clone_from(&one.network);
            }
            return out;
        };
        out.network_id.clone_from(&endpoint.network);
        out.endpoint_id.clone_from(&endpoint.id);
        out.mac_address.clone_from(&endpoint.mac);
        if let Some(v4) = endpoint.v4 {
            out.ip_address = v4.address.to_string();
            out.ip_prefix_len = v4.prefix.into();
        }
        if let Some(v6) = endpoint.v6 {
            out.global_ipv6_address = v6.address.to_string();
            out.global_ipv6_prefix_len = v6.prefix.into();
        }
        out.gateway = endpoint.gateway4.map(|gateway| gateway.to_string()).unwrap_or_default();
        out.ipv6_gateway = endpoint.gateway6.map(|gateway| gateway.to_string()).unwrap_or_default();
        out
    }
}

/// In Docker's words: what kept a container from starting.
pub(crate) fn set_up(error: Error) -> Error {
    Error::new(error.kind(), format!("failed to set up container networking: {error}"))
        .with_source(error)
}

/// The network namespace of a container that runs.
pub(crate) fn namespace_of(record: &Record) -> Result<OwnedFd> {
    let path = format!("/proc/{}/ns/net", record.state.pid);
    let file = std::fs::File::open(path).map_err(failed("open the container's network"))?;
    Ok(file.into())
}
