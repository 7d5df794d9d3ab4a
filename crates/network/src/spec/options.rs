//! The options of the drivers, as people say them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hoy_netlink::route::{IpvlanFlag, IpvlanMode, MacvlanMode};

use super::{Driver, NetworkSpec, SpecError};
use crate::firewall::{BridgeRules, GatewayMode, Masquerade};

/// How long an interface's name may be.
const LONGEST_NAME: usize = 15;

/// The options of the bridge driver.
#[derive(Clone, Debug, PartialEq)]
pub struct BridgeOptions {
    pub name: Option<String>,
    pub icc: bool,
    pub masquerade: bool,
    /// Where ports are published that name no address of the host.
    pub host_binding: Option<Ipv4Addr>,
    pub mode4: GatewayMode,
    pub mode6: GatewayMode,
    /// The bridge has no IPv4 address of its own.
    pub inhibit4: bool,
    pub trusted: Vec<String>,
    pub mtu: Option<u32>,
    /// What interfaces in containers are called: `eth`.
    pub prefix: String,
    pub source4: Option<Ipv4Addr>,
    pub source6: Option<Ipv6Addr>,
}

impl BridgeOptions {
    pub fn parse(options: &BTreeMap<String, String>) -> Result<Self, SpecError> {
        let mut out = Self {
            name: None,
            icc: true,
            masquerade: true,
            host_binding: None,
            mode4: GatewayMode::Nat,
            mode6: GatewayMode::Nat,
            inhibit4: false,
            trusted: Vec::new(),
            mtu: None,
            prefix: "eth".into(),
            source4: None,
            source6: None,
        };
        for (name, value) in options {
            let Some(key) = name.strip_prefix("com.docker.network.") else {
                // Whatever other programs note there.
                continue;
            };
            match key {
                "bridge.name" => out.name = Some(interface_name(name, value)?),
                "bridge.enable_icc" => out.icc = boolean(name, value)?,
                "bridge.enable_ip_masquerade" => out.masquerade = boolean(name, value)?,
                "bridge.host_binding_ipv4" => {
                    out.host_binding = Some(parse(name, value, ": an IPv4 address is")?);
                }
                "bridge.gateway_mode_ipv4" => out.mode4 = gateway_mode(name, value)?,
                "bridge.gateway_mode_ipv6" => out.mode6 = gateway_mode(name, value)?,
                "bridge.inhibit_ipv4" => out.inhibit4 = boolean(name, value)?,
                "bridge.trusted_host_interfaces" => {
                    let names = value.split(':').filter(|name| !name.is_empty());
                    out.trusted =
                        names.map(|one| interface_name(name, one)).collect::<Result<_, _>>()?;
                }
                "bridge.default_bridge" => {
                    if boolean(name, value)? {
                        return Err(SpecError::Option {
                            name: name.clone(),
                            value: value.clone(),
                            hint: ": there is one default bridge, the daemon's",
                        });
                    }
                }
                "driver.mtu" => out.mtu = Some(mtu(name, value)?),
                "container_iface_prefix" => out.prefix = interface_prefix(name, value)?,
                "host_ipv4" => out.source4 = Some(parse(name, value, ": an IPv4 address is")?),
                "host_ipv6" => out.source6 = Some(parse(name, value, ": an IPv6 address is")?),
                // These say by option what a field of the request says.
                "enable_ipv4" | "enable_ipv6" => drop(boolean(name, value)?),
                _ => {
                    return Err(SpecError::Unknown { name: name.clone(), driver: "bridge" });
                }
            }
        }
        Ok(out)
    }

    pub fn interface(&self, id: &str) -> String {
        match &self.name {
            Some(name) => name.clone(),
            None => format!("br-{}", id.get(..12).unwrap_or(id)),
        }
    }

    /// What the firewall is to know.
    pub fn rules(&self, spec: &NetworkSpec) -> BridgeRules {
        let masquerade = |source: Option<IpAddr>, mode: GatewayMode, on: bool| match source {
            _ if !on || spec.internal || mode == GatewayMode::Routed => Masquerade::No,
            _ if mode == GatewayMode::Isolated || !self.masquerade => Masquerade::No,
            Some(source) => Masquerade::To(source),
            None => Masquerade::Yes,
        };
        BridgeRules {
            interface: self.interface(&spec.id),
            icc: self.icc,
            internal: spec.internal,
            masquerade4: masquerade(self.source4.map(IpAddr::V4), self.mode4, spec.ipv4),
            masquerade6: masquerade(self.source6.map(IpAddr::V6), self.mode6, spec.ipv6),
            mode4: self.mode4,
            mode6: self.mode6,
            trusted: self.trusted.clone(),
        }
    }
}

/// How interfaces beside the host's share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkMode {
    Macvlan(MacvlanMode),
    Ipvlan(IpvlanMode, IpvlanFlag),
}

/// The options of macvlan and ipvlan.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkOptions {
    pub parent: String,
    pub mode: LinkMode,
    pub mtu: Option<u32>,
    pub prefix: String,
    /// The parent is made for this network alone, and leads nowhere.
    pub own: bool,
}

impl LinkOptions {
    /// What people say; whoever names no parent gets one of his own.
    pub fn parse(driver: Driver, options: &BTreeMap<String, String>) -> Result<Self, SpecError> {
        let macvlan = driver == Driver::Macvlan;
        let mut out = Self {
            parent: String::new(),
            mode: LinkMode::Macvlan(MacvlanMode::Bridge),
            mtu: None,
            prefix: "eth".into(),
            own: false,
        };
        let (mut mode, mut flag) = (IpvlanMode::L2, IpvlanFlag::Bridge);
        for (name, value) in options {
            let bad = |hint| SpecError::Option { name: name.clone(), value: value.clone(), hint };
            match name.strip_prefix("com.docker.network.").unwrap_or(name) {
                "parent" => out.parent = interface_name(name, value)?,
                "driver.mtu" => out.mtu = Some(mtu(name, value)?),
                "container_iface_prefix" => out.prefix = interface_prefix(name, value)?,
                "enable_ipv4" | "enable_ipv6" => drop(boolean(name, value)?),
                "macvlan_mode" if macvlan => {
                    out.mode = LinkMode::Macvlan(match value.as_str() {
                        "" | "bridge" => MacvlanMode::Bridge,
                        "private" => MacvlanMode::Private,
                        "vepa" => MacvlanMode::Vepa,
                        "passthru" => MacvlanMode::Passthru,
                        _ => return Err(SpecError::MacvlanMode(value.clone())),
                    });
                }
                "ipvlan_mode" if !macvlan => {
                    mode = match value.as_str() {
                        "" | "l2" => IpvlanMode::L2,
                        "l3" => IpvlanMode::L3,
                        "l3s" => IpvlanMode::L3s,
                        _ => return Err(bad(": there are l2, l3 and l3s")),
                    }
                }
                "ipvlan_flag" if !macvlan => {
                    flag = match value.as_str() {
                        "" | "bridge" => IpvlanFlag::Bridge,
                        "private" => IpvlanFlag::Private,
                        "vepa" => IpvlanFlag::Vepa,
                        _ => return Err(bad(": there are bridge, private and vepa")),
                    }
                }
                _ => return Err(SpecError::Unknown { name: name.clone(), driver: driver.name() }),
            }
        }
        if !macvlan {
            out.mode = LinkMode::Ipvlan(mode, flag);
        }
        Ok(out)
    }

    /// `eth0.50`: the interface that is divided, and the number of its virtual network.
    pub fn vlan(&self) -> Option<(&str, u16)> {
        let (parent, number) = self.parent.rsplit_once('.')?;
        let number = number.parse().ok().filter(|number| (1..4095).contains(number))?;
        (!parent.is_empty()).then_some((parent, number))
    }
}

pub(super) fn parse<T: std::str::FromStr>(
    name: &str,
    value: &str,
    hint: &'static str,
) -> Result<T, SpecError> {
    let bad = || SpecError::Option { name: name.to_owned(), value: value.to_owned(), hint };
    value.parse().map_err(|_| bad())
}

fn boolean(name: &str, value: &str) -> Result<bool, SpecError> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(SpecError::Option {
            name: name.to_owned(),
            value: value.to_owned(),
            hint: ": true or false is",
        }),
    }
}

fn gateway_mode(name: &str, value: &str) -> Result<GatewayMode, SpecError> {
    Ok(match value {
        "" | "nat" => GatewayMode::Nat,
        "nat-unprotected" => GatewayMode::NatUnprotected,
        "routed" => GatewayMode::Routed,
        "isolated" => GatewayMode::Isolated,
        _ => {
            return Err(SpecError::Option {
                name: name.to_owned(),
                value: value.to_owned(),
                hint: ": there are nat, nat-unprotected, routed and isolated",
            });
        }
    })
}

/// A name that the kernel takes for an interface.
pub fn is_interface_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= LONGEST_NAME
        && !matches!(name, "." | "..")
        && name.bytes().all(|c| c.is_ascii_graphic() && !matches!(c, b'/' | b':' | b'%'))
}

fn interface_name(name: &str, value: &str) -> Result<String, SpecError> {
    if is_interface_name(value) {
        return Ok(value.to_owned());
    }
    Err(SpecError::Option {
        name: name.to_owned(),
        value: value.to_owned(),
        hint: ": an interface's name has up to 15 letters, digits and the like",
    })
}

fn interface_prefix(name: &str, value: &str) -> Result<String, SpecError> {
    // Room for a number behind it.
    let found = interface_name(name, value)?;
    if found.len() + 3 <= LONGEST_NAME && found != "lo" {
        return Ok(found);
    }
    Err(SpecError::Option {
        name: name.to_owned(),
        value: value.to_owned(),
        hint: ": a name with room for a number behind it is",
    })
}

pub(super) fn mtu(name: &str, value: &str) -> Result<u32, SpecError> {
    let hint = ": a number from 68 to 65535 is";
    let mtu: u32 = parse(name, value, hint)?;
    if (68..=65_535).contains(&mtu) {
        return Ok(mtu);
    }
    Err(SpecError::Option { name: name.to_owned(), value: value.to_owned(), hint })
}
