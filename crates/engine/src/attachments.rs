//! The networks of a container: what it asks for, checked, and what that comes to. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hoy_network::EndpointSpec;
use hoy_types::{Digest, ErrorKind, Timestamp};
use hoy_wire as wire;
use serde::{Deserialize, Serialize};

use crate::directory::{Directory, Document};
use crate::error::{Error, Result};
use crate::record::{NetworkMode, Record};

/// A network that a container is in, or will be when it runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Attachment {
    /// The network's id; its name where there was no such network yet.
    pub network: String,
    /// The network's name when the container was last told of it.
    #[serde(default)]
    pub name: String,
    /// As it was asked for.
    pub settings: wire::EndpointSettings,
}

const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";
const INTERFACE: &str = "com.docker.network.endpoint.ifname";

const OF_THE_HOST: &str =
    "container cannot be disconnected from host network or connected to host network";

/// A network by what somebody called it; it need not be there before the container starts.
struct Place {
    id: String,
    name: String,
    document: Option<Arc<Document>>,
}

impl Place {
    fn new(directory: &Directory, name: &str) -> Result<Self> {
        match directory.find(name) {
            Ok(found) => {
                let (id, name) = (found.id.clone(), found.name.clone());
                Ok(Self { id, name, document: Some(found) })
            }
            Err(error) if error.kind() == ErrorKind::NotFound && !name.is_empty() => {
                Ok(Self { id: name.to_owned(), name: name.to_owned(), document: None })
            }
            Err(error) => Err(error),
        }
    }

    fn has_names(&self) -> bool {
        self.document.as_ref().is_none_or(|document| document.has_names())
    }

    fn attachment(&self, settings: wire::EndpointSettings) -> Attachment {
        Attachment { network: self.id.clone(), name: self.name.clone(), settings }
    }
}

/// Finds by their names the networks that were not there when a container was created, or were
/// removed before it first ran.
pub(crate) fn resolve(directory: &Directory, record: &mut Record) -> Result<()> {
    let first = record.state.started_at == Timestamp::ZERO;
    for one in &mut record.network.attachments {
        if directory.by_id(&one.network).is_some() {
            continue;
        }
        let missing = |name: &str| Error::not_found(format!("network {name} not found"));
        if one.name.is_empty() || !(first || one.name == one.network) {
            return Err(missing(&one.network));
        }
        let found = directory.find(&one.name).map_err(|_| missing(&one.name))?;
        check(&one.settings, &found)?;
        one.network.clone_from(&found.id);
    }
    Ok(())
}

/// An id of what Docker has on its networks without interfaces: the same as long as one runs.
pub(crate) fn endpoint_without_interface(record: &Record, network: &str) -> String {
    let known = |hex: &str| Digest::from_hex(hex).map_or([0; 32], |digest| *digest.as_bytes());
    let (mut out, other) = (known(record.key()), known(network));
    for (byte, other) in out.iter_mut().zip(other) {
        *byte ^= other;
    }
    for (byte, started) in out.iter_mut().zip(record.state.started_at.seconds().to_be_bytes()) {
        *byte ^= started;
    }
    Digest::from_sha256(out).hex()
}

/// Which networks a new container is to be in. The first is the one that its mode names.
pub(crate) fn decide(
    directory: &Directory,
    find: impl Fn(&str) -> Result<hoy_types::ContainerId>,
    config: &wire::ContainerConfig,
    host: &wire::HostConfig,
    networking: Option<&wire::NetworkingConfig>,
) -> Result<(NetworkMode, Vec<Attachment>)> {
    let endpoints = networking.and_then(|networking| networking.endpoints_config.as_ref());
    let asked: Vec<(&String, &wire::EndpointSettings)> = endpoints.into_iter().flatten().collect();
    let mode = match host.network_mode.as_str() {
        "host" => NetworkMode::Host,
        "none" => NetworkMode::None,
        // The daemon is told to have no default bridge: loopback is all there is.
        "bridge" if directory.find("bridge").is_err() => {
            match asked.iter().find(|(name, _)| !matches!(name.as_str(), "bridge" | "default")) {
                Some((other, _)) => directory.find(other).map(drop)?,
                None => return Ok((NetworkMode::None, Vec::new())),
            }
            return Err(Error::not_found("network bridge not found"));
        }
        text => match text.strip_prefix("container:") {
            Some("") => {
                return Err(Error::invalid(
                    "Invalid network mode: invalid container format container:<name|id>",
                ));
            }
            // To Docker's client, what is not found at a create is the image.
            Some(other) => NetworkMode::Container(
                find(other).map_err(|error| Error::invalid(error.to_string()))?,
            ),
            None => NetworkMode::Networks,
        },
    };
    if mode != NetworkMode::Networks {
        // The network itself may be named again, by name.
        if let Some((other, _)) = asked.iter().find(|(name, _)| **name != host.network_mode) {
            directory.find(other)?;
            return Err(Error::invalid(
                "conflicting options: cannot attach both user-defined and non-user-defined \
                 network-modes",
            ));
        }
        for (name, settings) in asked {
            let document = directory.find(name)?;
            check(settings, &document)?;
        }
        return Ok((mode, Vec::new()));
    }
    let main = Place::new(directory, &host.network_mode)?;
    let mut out: Vec<Attachment> = Vec::new();
    for (name, settings) in asked {
        // Docker's clients call the default bridge `default`, too.
        let place = Place::new(directory, if name == "default" { "bridge" } else { name })?;
        if out.iter().any(|one| one.network == place.id) {
            return Err(Error::invalid(format!("network {} is given twice", place.name)));
        }
        let settings = wanted(settings);
        if let Some(document) = &place.document {
            check(&settings, document)?;
        }
        let one = place.attachment(settings);
        if place.id == main.id {
            out.insert(0, one);
        } else {
            out.push(one);
        }
    }
    let named = out.iter().any(|one| one.network == main.id);
    if out.is_empty() || (!named && main.has_names()) {
        if let Some(document) = &main.document {
            attachable(document)?;
        }
        out.insert(0, main.attachment(wire::EndpointSettings::default()));
    }
    own_mac(config, &main.id, &mut out)?;
    Ok((mode, out))
}

/// The container-wide address goes to the network that the mode names.
fn own_mac(
    config: &wire::ContainerConfig,
    main: &str,
    attachments: &mut [Attachment],
) -> Result<()> {
    if config.mac_address.is_empty() {
        return Ok(());
    }
    if hoy_network::parse_mac(&config.mac_address).is_none() {
        return Err(Error::invalid(format!("{} is not a valid mac address", config.mac_address)));
    }
    if let Some(one) = attachments.iter_mut().find(|one| one.network == main) {
        let own = &mut one.settings.mac_address;
        if !own.is_empty() && *own != config.mac_address {
            return Err(Error::invalid(
                "the container-wide MAC address must match the endpoint-specific MAC address for \
                 the main network, or be left empty",
            ));
        }
        own.clone_from(&config.mac_address);
    }
    Ok(())
}

/// Whether a container can be put into one more network.
pub(crate) fn may_connect(record: &Record, network: &Document) -> Result<()> {
    const SHARED: &str = "container sharing network namespace with another container or host \
                          cannot be connected to any other network";
    const NONE: &str = "container cannot be connected to multiple networks with one of the \
                        networks in private (none) mode";
    let twice = || {
        Err(Error::new(
            ErrorKind::Forbidden,
            format!(
                "endpoint with name {} already exists in network {}",
                record.name, network.name
            ),
        ))
    };
    match (&record.network.mode, network.name.as_str()) {
        (NetworkMode::Host, "host") | (NetworkMode::None, "none") => twice(),
        (NetworkMode::Container(_) | NetworkMode::Host, _) => Err(Error::invalid(SHARED)),
        (_, "host") => Err(Error::invalid(OF_THE_HOST)),
        (NetworkMode::None, _) | (_, "none") => Err(Error::invalid(NONE)),
        _ if record.network.attachment(&network.id).is_some() => twice(),
        _ => Ok(()),
    }
}

/// Whether a container can be taken out of a network.
pub(crate) fn may_disconnect(record: &Record, network: &Document) -> Result<()> {
    match (&record.network.mode, network.name.as_str()) {
        (NetworkMode::Host, "host") => Err(Error::invalid(OF_THE_HOST)),
        (NetworkMode::None, "none") => Ok(()),
        (NetworkMode::Networks, _) if record.network.attachment(&network.id).is_some() => Ok(()),
        _ => Err(Error::new(
            ErrorKind::Forbidden,
            format!("container {} is not connected to network {}", record.id, network.name),
        )),
    }
}

/// What somebody may ask for; the rest is the daemon's to say.
pub(crate) fn wanted(settings: &wire::EndpointSettings) -> wire::EndpointSettings {
    wire::EndpointSettings {
        ipam_config: settings.ipam_config.clone(),
        links: settings.links.clone(),
        aliases: settings.aliases.clone(),
        mac_address: settings.mac_address.clone(),
        driver_opts: settings.driver_opts.clone(),
        gw_priority: settings.gw_priority,
        ..wire::EndpointSettings::default()
    }
}

fn attachable(document: &Document) -> Result<()> {
    if document.config_only {
        return Err(Error::new(
            ErrorKind::Forbidden,
            format!("cannot connect to network {}: it is a config-only network", document.name),
        ));
    }
    Ok(())
}

/// Checks what is asked of one network, with Docker's words for all that is wrong.
pub(crate) fn check(settings: &wire::EndpointSettings, document: &Document) -> Result<()> {
    attachable(document)?;
    let mut wrong: Vec<String> = Vec::new();
    if !document.has_names() && settings.aliases.as_ref().is_some_and(|list| !list.is_empty()) {
        wrong.push("network-scoped aliases are only supported for user-defined networks".into());
    }
    if let Some(ipam) = &settings.ipam_config {
        addresses(ipam, document, &mut wrong);
    }
    let mac = &settings.mac_address;
    if !mac.is_empty() {
        match hoy_network::parse_mac(mac) {
            None => wrong.push(format!("invalid MAC address: {mac}")),
            Some(parsed) if parsed[0] & 1 != 0 => {
                wrong.push(format!("invalid MAC address: {mac} is a group's"));
            }
            Some(_) => {}
        }
    }
    if let Err(error) = options(settings) {
        wrong.push(error.to_string());
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "invalid config for network {}: invalid endpoint settings:\n{}",
        document.name,
        wrong.join("\n")
    )))
}

fn addresses(ipam: &wire::EndpointIpamConfig, document: &Document, wrong: &mut Vec<String>) {
    for address in &ipam.link_local_ips {
        let good = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => address.is_link_local(),
            Ok(IpAddr::V6(address)) => address.is_unicast_link_local(),
            Err(_) => false,
        };
        if !good {
            wrong.push(format!("invalid link-local IP address: {address}"));
        }
    }
    let v4 = (!ipam.ipv4_address.is_empty()).then(|| ipam.ipv4_address.parse::<Ipv4Addr>());
    let v6 = (!ipam.ipv6_address.is_empty()).then(|| ipam.ipv6_address.parse::<Ipv6Addr>());
    let given: Vec<std::result::Result<IpAddr, String>> = [
        v4.map(|parsed| {
            let bad = || format!("invalid IPv4 address: {}", ipam.ipv4_address);
            parsed.map(IpAddr::V4).map_err(|_| bad())
        }),
        v6.map(|parsed| {
            let bad = || format!("invalid IPv6 address: {}", ipam.ipv6_address);
            parsed.map(IpAddr::V6).map_err(|_| bad())
        }),
    ]
    .into_iter()
    .flatten()
    .collect();
    if given.is_empty() {
        return;
    }
    if !document.has_names() {
        wrong.push("user specified IP address is supported on user defined networks only".into());
        return;
    }
    for address in given {
        match address {
            Err(text) => wrong.push(text),
            Ok(address) => wrong.extend(place(address, document)),
        }
    }
}

/// Whether an address lies where people said that addresses are.
fn place(address: IpAddr, document: &Document) -> Option<String> {
    let asked: Vec<hoy_network::Cidr> = document
        .asked
        .iter()
        .filter_map(|config| config.subnet.parse().ok())
        .filter(|subnet: &hoy_network::Cidr| subnet.is_ipv4() == address.is_ipv4())
        .collect();
    if asked.is_empty() {
        return Some(
            "user specified IP address is supported only when connecting to networks with user \
             configured subnets"
                .into(),
        );
    }
    let inside = asked.iter().any(|subnet| subnet.contains(address));
    (!inside).then(|| format!("no configured subnet or ip-range contain the IP address {address}"))
}

/// The interface's own name and settings, by options of the endpoint.
type Options = (Option<String>, Vec<(String, String)>);

fn options(settings: &wire::EndpointSettings) -> Result<Options> {
    let mut out: Options = (None, Vec::new());
    for (name, value) in settings.driver_opts.iter().flatten() {
        match name.as_str() {
            INTERFACE => {
                if !hoy_network::is_interface_name(value) || value == "lo" {
                    return Err(Error::invalid(format!("invalid interface name: {value:?}")));
                }
                out.0 = Some(value.clone());
            }
            SYSCTLS => {
                for one in value.split(',').filter(|one| !one.is_empty()) {
                    out.1.push(sysctl(one)?);
                }
            }
            _ if name.starts_with("com.docker.network.") => {
                return Err(Error::invalid(format!("unknown option {name:?} of an endpoint")));
            }
            _ => {}
        }
    }
    Ok(out)
}

/// `net.ipv4.conf.IFNAME.log_martians=1`: without its first word, the interface's name still open.
fn sysctl(text: &str) -> Result<(String, String)> {
    let bad = || {
        Error::invalid(format!(
            "unable to set sysctl {text:?}: it is net.{{ipv4,ipv6,mpls}}.{{conf,neigh}}.IFNAME.name=value"
        ))
    };
    let (name, value) = text.split_once('=').ok_or_else(bad)?;
    let parts: Vec<&str> = name.split(['.', '/']).collect();
    let [net, family, kind, interface, setting] = parts.as_slice() else { return Err(bad()) };
    let plain =
        !setting.is_empty() && setting.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
    let known = *net == "net"
        && matches!(*family, "ipv4" | "ipv6" | "mpls")
        && matches!(*kind, "conf" | "neigh")
        // Docker's client writes what it is told in small letters.
        && interface.eq_ignore_ascii_case("IFNAME");
    if !known || !plain || value.is_empty() {
        return Err(bad());
    }
    Ok((format!("{family}.{kind}.IFNAME.{setting}"), value.to_owned()))
}

/// What the room of networks is asked for.
pub(crate) fn endpoint(one: &Attachment) -> Result<EndpointSpec> {
    let settings = &one.settings;
    let (interface, sysctls) = options(settings)?;
    let ipam = settings.ipam_config.clone().unwrap_or_default();
    Ok(EndpointSpec {
        network: one.network.clone(),
        v4: ipam.ipv4_address.parse().ok(),
        v6: ipam.ipv6_address.parse().ok(),
        link_local: ipam.link_local_ips.iter().filter_map(|text| text.parse().ok()).collect(),
        mac: hoy_network::parse_mac(&settings.mac_address),
        priority: settings.gw_priority,
        interface,
        sysctls,
    })
}

/// Under which names the container is known in a network.
pub(crate) fn names(record: &Record, one: &Attachment) -> Vec<String> {
    let mut out = vec![record.name.clone()];
    out.extend(one.settings.aliases.iter().flatten().cloned());
    out.push(record.id.short().to_owned());
    out.push(crate::engine::hostname(record));
    let mut seen = std::collections::BTreeSet::new();
    out.retain(|name| !name.is_empty() && seen.insert(name.to_ascii_lowercase()));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(name: &str, subnets: &[&str]) -> Document {
        let mut document = Document::predefined(name, "bridge", name.repeat(10));
        document.asked = subnets
            .iter()
            .map(|subnet| wire::IpamConfig { subnet: (*subnet).into(), ..Default::default() })
            .collect();
        document
    }

    fn with_address(text: &str) -> wire::EndpointSettings {
        let ipam = wire::EndpointIpamConfig { ipv4_address: text.into(), ..Default::default() };
        wire::EndpointSettings { ipam_config: Some(ipam), ..Default::default() }
    }

    #[test]
    fn addresses_of_one_s_own() {
        let says = |settings: &wire::EndpointSettings, document: &Document| {
            check(settings, document).unwrap_err().to_string()
        };
        let mine = document("mine", &["10.1.0.0/16"]);
        check(&with_address("10.1.2.3"), &mine).unwrap();
        assert!(
            says(&with_address("10.2.2.3"), &mine)
                .ends_with("no configured subnet or ip-range contain the IP address 10.2.2.3")
        );
        assert!(says(&with_address("10.1.2"), &mine).contains("invalid IPv4 address: 10.1.2"));
        let open = document("open", &[]);
        assert!(says(&with_address("10.1.2.3"), &open).contains("with user configured subnets"));
        let bridge = document("bridge", &[]);
        assert!(says(&with_address("172.17.0.9"), &bridge).ends_with("defined networks only"));
    }

    #[test]
    fn options_of_endpoints() {
        let with = |name: &str, value: &str| wire::EndpointSettings {
            driver_opts: Some([(name.to_owned(), value.to_owned())].into()),
            ..Default::default()
        };
        let (_, sysctls) = options(&with(SYSCTLS, "net.ipv4.conf.IFNAME.log_martians=1")).unwrap();
        assert_eq!(sysctls, [("ipv4.conf.IFNAME.log_martians".to_owned(), "1".to_owned())]);
        for bad in [
            "net.ipv4.conf.eth0.log_martians=1",
            "net.ipv4.ip_forward=1",
            "x",
            "net.ipv4.conf.IFNAME./=1",
        ] {
            assert!(options(&with(SYSCTLS, bad)).is_err(), "{bad}");
        }
        assert_eq!(options(&with(INTERFACE, "wan0")).unwrap().0.as_deref(), Some("wan0"));
        assert!(options(&with(INTERFACE, "../x")).is_err());
        assert!(options(&with("com.docker.network.colour", "red")).is_err());
        options(&with("mine", "1")).unwrap();
    }
}
