//! `--link` on the default bridge: names in the hosts file and facts in the environment.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hoy_wire::HostConfig;

use crate::engine::{Inner, hostname};
use crate::error::{Error, Result};
use crate::record::{NetworkMode, Record};

/// A container that another one knows by a name of its own.
pub(crate) struct Link {
    pub address: IpAddr,
    /// Under which the hosts file has it.
    pub names: Vec<String>,
    pub environment: Vec<(String, String)>,
}

/// `name:alias`, or the name for both.
fn split(link: &str) -> Result<(&str, &str)> {
    let (name, alias) = link.split_once(':').unwrap_or((link, link));
    let (name, alias) = (name.trim_start_matches('/'), alias.trim_start_matches('/'));
    if name.is_empty() || alias.is_empty() || alias.contains(':') {
        return Err(Error::invalid(format!("bad format for links: {link}")));
    }
    Ok((name, alias))
}

impl Inner {
    /// Links that can never be are refused when the container is created.
    pub fn check_links(&self, host: &HostConfig) -> Result<()> {
        for link in host.links.iter().flatten() {
            let (name, _) = split(link)?;
            let missing = |_| {
                Error::invalid(format!(
                    "could not get container for {name}: No such container: {name}"
                ))
            };
            self.registry.find(name).map_err(missing)?;
            let kind = match host.network_mode.as_str() {
                "host" => "host type networking",
                mode if mode.starts_with("container:") => "container type network",
                _ => continue,
            };
            return Err(Error::invalid(format!(
                "conflicting options: {kind} can't be used with links. This would result in \
                 undefined behavior"
            )));
        }
        Ok(())
    }

    /// The links of the default bridge as Docker shows them; those of other networks are their
    /// endpoints'.
    pub fn shown_links(&self, record: &Record) -> Option<Vec<String>> {
        if record.host.network_mode != "bridge" {
            return None;
        }
        let shown = |link: &String| {
            let (name, alias) = split(link).ok()?;
            let other = self.registry.find(name).ok()?;
            Some(format!("/{}:/{}/{alias}", other.record().name, record.name))
        };
        let all: Vec<_> = record.host.links.iter().flatten().filter_map(shown).collect();
        (!all.is_empty()).then_some(all)
    }

    /// The linked containers as they are now.
    pub fn links(&self, record: &Record) -> Result<Vec<Link>> {
        let mut out = Vec::new();
        for link in record.host.links.iter().flatten() {
            let (name, alias) = split(link)?;
            let other = self.registry.find(name)?.record();
            let together =
                |one: &&hoy_network::Endpoint| record.network.attachment(&one.network).is_some();
            let endpoint = other.network.endpoints.iter().find(together);
            if !other.state.phase.is_alive() {
                return Err(Error::system(format!(
                    "Cannot link to a non running container: /{} AS /{}/{alias}",
                    other.name, record.name
                )));
            }
            let address = endpoint
                .and_then(|endpoint| endpoint.v4.or(endpoint.v6))
                .map(|cidr| cidr.address)
                .ok_or_else(|| {
                    Error::system(format!(
                        "Cannot link to /{}: it is in no network of /{}",
                        other.name, record.name
                    ))
                })?;
            let mut names = vec![alias.to_owned(), hostname(&other), other.name.clone()];
            names.dedup();
            let environment = environment(&record.name, alias, address, &other);
            out.push(Link { address, names, environment });
        }
        Ok(out)
    }

    /// Whether links mean names in the hosts file: only where no name server answers.
    pub fn links_of_the_bridge(&self, record: &Record) -> Result<Vec<Link>> {
        if record.network.mode != NetworkMode::Networks || self.has_names(record) {
            return Ok(Vec::new());
        }
        self.links(record)
    }
}

/// What Docker tells a container of another that it is linked to.
fn environment(own: &str, alias: &str, address: IpAddr, other: &Record) -> Vec<(String, String)> {
    let prefix = alias.replace('-', "_").to_ascii_uppercase();
    let mut ports: Vec<hoy_types::PortSpec> =
        other.config.exposed_ports.keys().filter_map(|port| port.parse().ok()).collect();
    let published = other.host.port_bindings.iter().flatten();
    ports.extend(published.filter_map(|(port, _)| port.parse::<hoy_types::PortSpec>().ok()));
    ports.sort();
    ports.dedup();
    let url = |port: &hoy_types::PortSpec| format!("{}://{address}:{}", port.protocol, port.port);
    let mut out = BTreeMap::new();
    if let Some(first) = ports.first() {
        out.insert(format!("{prefix}_PORT"), url(first));
    }
    for port in &ports {
        let name =
            format!("{prefix}_PORT_{}_{}", port.port, port.protocol.to_string().to_uppercase());
        out.insert(format!("{name}_ADDR"), address.to_string());
        out.insert(format!("{name}_PORT"), port.port.to_string());
        out.insert(format!("{name}_PROTO"), port.protocol.to_string());
        out.insert(name, url(port));
    }
    out.insert(format!("{prefix}_NAME"), format!("/{own}/{alias}"));
    for variable in other.config.env.iter().flatten() {
        if let Some((name, value)) = variable.split_once('=')
            && !matches!(name, "HOME" | "PATH")
        {
            out.insert(format!("{prefix}_ENV_{name}"), value.to_owned());
        }
    }
    out.into_iter().collect()
}
