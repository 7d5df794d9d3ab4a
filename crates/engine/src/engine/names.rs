//! What a container is told of names: its hosts, hostname and resolv.conf, gathered and written. How
//! they read is said in `files`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use hoy_types::ContainerId;

use super::Inner;
use crate::error::{Error, Result, failed};
use crate::files::{self, DnsOverrides};
use crate::record::{NetworkMode, Record};

impl Inner {
    pub fn files_directory(&self, id: &ContainerId) -> PathBuf {
        self.files_directory_of(id.as_str())
    }

    /// Where the hosts, hostname and resolv.conf of a container's network lie: they belong to
    /// whoever has the network.
    pub fn files_of_the_network(&self, record: &Record) -> PathBuf {
        match &record.network.mode {
            NetworkMode::Container(other) => match self.registry.find(other.as_str()) {
                Ok(other) => self.files_of_the_network(&other.record()),
                Err(_) => self.files_directory(other),
            },
            _ => self.files_directory(&record.id),
        }
    }

    pub(super) fn files_directory_of(&self, id: &str) -> PathBuf {
        self.settings.exec_root.join("files").join(id)
    }

    /// Writes what the container's network says of itself: at its start, and when its networks
    /// change.
    pub fn write_network_files(&self, record: &Record) -> Result<()> {
        self.write_files(record, &hostname(record), &self.files_of_the_network(record))
    }

    pub(super) fn write_files(
        &self,
        record: &Record,
        hostname: &str,
        directory: &Path,
    ) -> Result<()> {
        let doing = "write the container's files";
        std::fs::create_dir_all(directory).map_err(failed(doing))?;
        let host = &record.host;
        let addresses: Vec<IpAddr> = record
            .network
            .endpoints
            .iter()
            .flat_map(|endpoint| [endpoint.v4, endpoint.v6])
            .flatten()
            .map(|cidr| cidr.address)
            .collect();
        let extra = self.extra_hosts(record)?;
        let links = self.links_of_the_bridge(record)?;
        let links: Vec<_> = links.into_iter().map(|link| (link.names, link.address)).collect();
        let ipv6 = addresses.iter().any(IpAddr::is_ipv6);
        let hosts = if record.network.mode == NetworkMode::Host && extra.is_empty() {
            std::fs::read_to_string("/etc/hosts").unwrap_or_default()
        } else {
            files::hosts(&files::Hosts {
                hostname,
                domainname: &record.config.domainname,
                addresses: &addresses,
                extra: &extra,
                links: &links,
                // A container without IPv6 addresses has ::1 all the same.
                ipv6: true,
            })
        };
        let overrides = self.dns_overrides(record);
        let own = host_resolv_conf();
        let resolv = if self.has_names(record) {
            files::user_network_resolv_conf(&own, &overrides)
        } else if record.network.mode == NetworkMode::Host && overrides == DnsOverrides::default() {
            own
        } else {
            files::resolv_conf(&own, &overrides, ipv6)
        };
        for (name, text) in
            [("hosts", hosts), ("hostname", format!("{hostname}\n")), ("resolv.conf", resolv)]
        {
            let path = directory.join(name);
            std::fs::write(&path, text).map_err(failed(doing))?;
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            std::fs::set_permissions(&path, mode).map_err(failed(doing))?;
            if let Some(maps) = self.userns(host) {
                // It may write to them as it may without a user namespace.
                std::os::unix::fs::chown(&path, maps.uid(0), maps.gid(0)).map_err(failed(doing))?;
            }
        }
        Ok(())
    }

    /// `name:address`, with `host-gateway` for the host as the container reaches it.
    pub(super) fn extra_hosts(&self, record: &Record) -> Result<Vec<(String, IpAddr)>> {
        let said = &self.settings.networking.host_gateways;
        let gateways: Vec<IpAddr> = match self.networks.find("bridge") {
            Ok(bridge) => self.network.spec(&bridge.id).map(|spec| {
                let own = [spec.gateway(true), spec.gateway(false)];
                own.into_iter().flatten().map(|gateway| gateway.address).collect()
            }),
            Err(_) => None,
        }
        .unwrap_or_default();
        let gateways = if said.is_empty() { gateways } else { said.clone() };
        let mut out = Vec::new();
        for text in record.host.extra_hosts.iter().flatten() {
            let bad = || Error::invalid(format!("bad format for add-host: {text:?}"));
            let (name, address) = text.split_once([':', '=']).ok_or_else(bad)?;
            if address == "host-gateway" {
                if gateways.is_empty() {
                    return Err(Error::invalid(
                        "unable to derive the IP value for host-gateway: there is no default bridge",
                    ));
                }
                out.extend(gateways.iter().map(|gateway| (name.to_owned(), *gateway)));
                continue;
            }
            let address = address.trim_start_matches('[').trim_end_matches(']');
            out.push((name.to_owned(), address.parse().map_err(|_| bad())?));
        }
        Ok(out)
    }

    /// What a person or the daemon's settings say about names.
    pub fn dns_overrides(&self, record: &Record) -> DnsOverrides {
        let host = &record.host;
        let list = |own: &Option<Vec<String>>, default: &[String]| match own {
            Some(own) if !own.is_empty() => own.clone(),
            _ => default.to_vec(),
        };
        DnsOverrides {
            servers: list(&host.dns, &self.settings.dns),
            search: list(&host.dns_search, &self.settings.dns_search),
            options: list(&host.dns_options, &self.settings.dns_opts),
        }
    }
}

/// What a container calls itself: what it was given, the machine's name beside the machine's
/// network, else its own number.
pub(crate) fn hostname(record: &Record) -> String {
    match (&record.config.hostname, &record.network.mode) {
        (name, _) if !name.is_empty() => name.clone(),
        (_, NetworkMode::Host) => host_name(),
        _ if record.host.uts_mode == "host" => host_name(),
        _ => record.id.short().to_owned(),
    }
}

pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

pub(crate) fn host_resolv_conf() -> String {
    std::fs::read_to_string(host_resolv_conf_path()).unwrap_or_default()
}

/// Where the host's name servers are told: beside systemd's own, where that is all there is.
pub(super) fn host_resolv_conf_path() -> PathBuf {
    const USUAL: &str = "/etc/resolv.conf";
    const SYSTEMD: &str = "/run/systemd/resolve/resolv.conf";
    let own = std::fs::read_to_string(USUAL).unwrap_or_default();
    let servers: Vec<&str> =
        own.lines().filter_map(|line| line.trim().strip_prefix("nameserver")).collect();
    let stub = servers.iter().all(|server| server.trim() == "127.0.0.53") && !servers.is_empty();
    if stub && Path::new(SYSTEMD).exists() { SYSTEMD.into() } else { USUAL.into() }
}
