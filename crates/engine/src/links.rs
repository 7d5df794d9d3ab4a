//! `--link` on the default bridge: names in the hosts file and facts in the environment.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use hoy_network::Endpoint;
use hoy_types::{ContainerId, PortSpec};
use hoy_wire::HostConfig;

use crate::driver::Command;
use crate::engine::{Engine, Inner, hostname};
use crate::error::{Error, Result};
use crate::files;
use crate::networks::network_error;
use crate::record::{NetworkMode, Record};
use crate::registry::Handle;

/// A container may write whatever it likes into its hosts file.
const MAX_HOSTS: u64 = 1 << 20;

/// A container that another one knows by a name of its own.
pub(crate) struct Link {
    pub address: IpAddr,
    /// Under which the hosts file has it.
    pub names: Vec<String>,
    pub environment: Vec<(String, String)>,
}

/// The links of the default bridge; those of other networks are their endpoints'.
fn of_the_bridge(record: &Record) -> impl Iterator<Item = (&str, &str)> {
    let host = Some(&record.host).filter(|host| host.network_mode == "bridge");
    let links = host.into_iter().flat_map(|host| host.links.iter().flatten());
    links.filter_map(|link| split(link).ok())
}

/// Whom a container knows by this alias.
pub(crate) fn linked_as<'a>(record: &'a Record, alias: &str) -> Option<&'a str> {
    of_the_bridge(record).find(|(_, known)| *known == alias).map(|(name, _)| name)
}

/// `name:alias`, or the name for both.
pub(crate) fn split(link: &str) -> Result<(&str, &str)> {
    let (name, alias) = link.split_once(':').unwrap_or((link, link));
    let (name, alias) = (name.trim_start_matches('/'), alias.trim_start_matches('/'));
    if name.is_empty() || alias.is_empty() || alias.contains(':') {
        return Err(Error::invalid(format!("bad format for links: {link}")));
    }
    Ok((name, alias))
}

impl Engine {
    /// Takes a name away that one container has for another: `PARENT/ALIAS`.
    pub async fn unlink(&self, name: &str) -> Result<()> {
        self.find(name)?;
        let name = name.strip_prefix('/').unwrap_or(name);
        let Some((parent, alias)) = name.split_once('/') else {
            let text = "Conflict, cannot remove the default link name of the container";
            return Err(Error::system(text));
        };
        let parent = self.find(parent)?;
        let alias = alias.to_owned();
        parent.ask(|done| Command::Unlink { alias, done }).await
    }
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
        let shown = |(name, alias)| {
            let other = self.registry.find(name).ok()?;
            Some(format!("/{}:/{}/{alias}", other.record().name, record.name))
        };
        let all: Vec<_> = of_the_bridge(record).filter_map(shown).collect();
        (!all.is_empty()).then_some(all)
    }

    /// The names that containers have for others: `/PARENT/ALIAS`, by whom they mean.
    pub fn linked_names(&self, all: &[Handle]) -> HashMap<ContainerId, Vec<String>> {
        let mut out: HashMap<ContainerId, Vec<String>> = HashMap::new();
        for handle in all {
            let record = handle.record();
            for (name, alias) in of_the_bridge(&record) {
                if let Ok(other) = self.registry.find(name) {
                    out.entry(other.id).or_default().push(format!("/{}/{alias}", record.name));
                }
            }
        }
        out
    }

    /// Somebody's container that runs has one link less: what only that opened is closed, and the
    /// hosts file has the name no more. Blocks.
    pub fn forget_link(&self, record: &Record, alias: &str) -> Result<()> {
        let endpoints = &record.network.endpoints;
        if let Some(own) = self.apart_on_the_bridge(endpoints) {
            self.network.close_links(std::slice::from_ref(own)).map_err(network_error)?;
            self.open_links(record, endpoints)?;
        }
        if record.network.mode != NetworkMode::Networks || self.has_names(record) {
            return Ok(());
        }
        let path = self.files_of_the_network(record).join("hosts");
        let changed = change(&path, |text| files::unlinked(text, alias));
        if let Err(error) = changed {
            tracing::warn!(container = record.id.short(), %error, "names of a linked container");
        }
        Ok(())
    }

    /// The linked containers as they are now.
    pub fn links(&self, record: &Record) -> Result<Vec<Link>> {
        let mut out = Vec::new();
        for link in record.host.links.iter().flatten() {
            let (name, alias) = split(link)?;
            let other = self.registry.find(name)?.record();
            let together = |one: &&Endpoint| record.network.attachment(&one.network).is_some();
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

    /// On the default bridge a link opens what the other container exposes, where containers are
    /// kept apart: by a container that starts, and to it by those that know it and run. Blocks.
    pub fn open_links(&self, record: &Record, endpoints: &[Endpoint]) -> Result<()> {
        let Some(own) = self.apart_on_the_bridge(endpoints) else { return Ok(()) };
        let mut others = Vec::new();
        for link in record.host.links.iter().flatten() {
            let (name, _) = split(link)?;
            others.push((true, self.registry.find(name)?.record()));
        }
        let running = self.registry.all().into_iter().map(|handle| handle.record());
        others.extend(
            running.filter(|other| self.is_linked(other, record)).map(|other| (false, other)),
        );
        let links: Vec<_> = others
            .iter()
            .filter_map(|(to, other)| {
                let end = self.apart_on_the_bridge(&other.network.endpoints)?;
                let (from, to, ports) = match to {
                    true => (own, end, exposed(other)),
                    false => (end, own, exposed(record)),
                };
                Some(hoy_network::Link { from, to, ports })
            })
            .collect();
        self.network.link(&links).map_err(network_error)
    }

    /// What runs since before the daemon began.
    pub fn open_links_again(&self, records: &[Record]) {
        let find = |name: &str| {
            let by = |record: &&Record| record.name == name || record.id.as_str() == name;
            records.iter().find(by)
        };
        let mut links = Vec::new();
        for record in records {
            for link in record.host.links.iter().flatten() {
                if let Ok((name, _)) = split(link)
                    && let Some(other) = find(name)
                    && let Some(from) = self.apart_on_the_bridge(&record.network.endpoints)
                    && let Some(to) = self.apart_on_the_bridge(&other.network.endpoints)
                {
                    links.push(hoy_network::Link { from, to, ports: exposed(other) });
                }
            }
        }
        let running: Vec<_> = records.iter().flat_map(|record| &record.network.endpoints).collect();
        if let Err(error) = self.network.link_again(&links, &running) {
            tracing::error!(%error, "ports of linked containers");
        }
    }

    /// Whether a container that runs has a link to another.
    fn is_linked(&self, record: &Record, to: &Record) -> bool {
        let mut links = record.host.links.iter().flatten().filter_map(|link| split(link).ok());
        links.any(|(name, _)| {
            self.registry.find(name).is_ok_and(|handle| handle.record().id == to.id)
        })
    }

    /// The endpoint on the default bridge, if that keeps its containers apart.
    fn apart_on_the_bridge<'a>(&self, endpoints: &'a [Endpoint]) -> Option<&'a Endpoint> {
        let on = |one: &&Endpoint| one.network_name == "bridge" && !one.interface.is_empty();
        endpoints.iter().find(on).filter(|one| self.network.keeps_apart(&one.network))
    }

    /// Those that run and know it by a link learn its address: it may have had another before.
    /// Blocks.
    pub fn tell_linked(&self, record: &Record, endpoints: &[Endpoint]) {
        // Elsewhere a name server answers.
        if !endpoints.iter().any(|one| one.network_name == "bridge") {
            return;
        }
        for other in self.registry.all().into_iter().map(|handle| handle.record()) {
            let by_hosts = other.network.mode == NetworkMode::Networks && !self.has_names(&other);
            if !by_hosts || !other.state.phase.is_alive() || !self.is_linked(&other, record) {
                continue;
            }
            let together = |one: &&Endpoint| other.network.attachment(&one.network).is_some();
            let endpoint = endpoints.iter().find(together);
            let Some(cidr) = endpoint.and_then(|endpoint| endpoint.v4.or(endpoint.v6)) else {
                continue;
            };
            let links = other.host.links.iter().flatten().filter_map(|link| split(link).ok());
            let aliases: Vec<&str> = links
                .filter(|(name, _)| {
                    self.registry.find(name).is_ok_and(|handle| handle.record().id == record.id)
                })
                .map(|(_, alias)| alias)
                .collect();
            let path = self.files_of_the_network(&other).join("hosts");
            let changed = change(&path, |text| files::relinked(text, &aliases, cidr.address));
            if let Err(error) = changed {
                tracing::warn!(container = other.id.short(), %error, "address of a linked container");
            }
        }
    }

    /// Whether links mean names in the hosts file: only where no name server answers.
    pub fn links_of_the_bridge(&self, record: &Record) -> Result<Vec<Link>> {
        if record.network.mode != NetworkMode::Networks || self.has_names(record) {
            return Ok(Vec::new());
        }
        self.links(record)
    }
}

/// Changes a hosts file. It stays the one that is mounted.
fn change(path: &std::path::Path, act: impl FnOnce(&str) -> Option<String>) -> std::io::Result<()> {
    use std::io::{Read as _, Seek as _, Write as _};
    let mut file = std::fs::File::options().read(true).write(true).open(path)?;
    if file.metadata()?.len() > MAX_HOSTS {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    let mut text = String::new();
    (&file).take(MAX_HOSTS).read_to_string(&mut text)?;
    let Some(text) = act(&text) else { return Ok(()) };
    // Over what is there: on a full disk it stays what it was.
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

/// What a container says that it serves, and what it publishes.
fn exposed(record: &Record) -> Vec<PortSpec> {
    let mut ports: Vec<PortSpec> =
        record.config.exposed_ports.keys().filter_map(|port| port.parse().ok()).collect();
    let published = record.host.port_bindings.iter().flatten();
    ports.extend(published.filter_map(|(port, _)| port.parse::<PortSpec>().ok()));
    ports.sort();
    ports.dedup();
    ports
}

/// What Docker tells a container of another that it is linked to.
fn environment(own: &str, alias: &str, address: IpAddr, other: &Record) -> Vec<(String, String)> {
    let prefix = alias.replace('-', "_").to_ascii_uppercase();
    let ports = exposed(other);
    let url = |port: &PortSpec| format!("{}://{address}:{}", port.protocol, port.port);
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
