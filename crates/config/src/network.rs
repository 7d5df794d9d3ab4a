//! The daemon's settings of networks: their texts parsed, and what they say of each other checked.
//! Pure; what the host has is looked at by others.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Deserialize;

use crate::{DEFAULT_BRIDGE, Settings};

/// An address with the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    pub address: IpAddr,
    pub prefix: u8,
}

impl Subnet {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let (address, prefix) = (address.parse::<IpAddr>().ok()?, prefix.parse::<u8>().ok()?);
        (prefix <= Self::bits_of(address)).then_some(Self { address, prefix })
    }

    fn bits_of(address: IpAddr) -> u8 {
        if address.is_ipv4() { 32 } else { 128 }
    }

    pub fn contains(&self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let shift = 32 - u32::from(self.prefix);
                shift == 32 || own.to_bits() >> shift == other.to_bits() >> shift
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let shift = 128 - u32::from(self.prefix);
                shift == 128 || own.to_bits() >> shift == other.to_bits() >> shift
            }
            _ => false,
        }
    }

    fn holds(&self, other: &Self) -> bool {
        self.prefix <= other.prefix && self.contains(other.address)
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.holds(other) || other.holds(self)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Where networks take subnets from that name none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressPool {
    pub base: Subnet,
    /// The prefix of each subnet.
    pub size: u8,
}

/// The settings of networks that Docker has beside the oldest ones.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Networking {
    pub bip6: Option<Subnet>,
    /// What of the default bridge's subnet containers get.
    pub fixed_cidr: Option<Subnet>,
    pub fixed_cidr6: Option<Subnet>,
    /// Another way out of the default bridge than the bridge itself.
    pub gateway: Option<Ipv4Addr>,
    pub gateway6: Option<Ipv6Addr>,
    /// The default bridge has IPv6.
    pub ipv6: bool,
    /// Empty: Docker's, and unique local addresses.
    pub pools: Vec<AddressPool>,
    /// Options of new networks, by driver.
    pub options: BTreeMap<String, BTreeMap<String, String>>,
    /// What `host-gateway` means.
    pub host_gateways: Vec<IpAddr>,
    /// What the kernel cannot carry to a container goes without the helper, too.
    pub without_proxy: bool,
    /// Forwarding between strangers stays open where it was us who turned it on.
    pub forward_no_drop: bool,
    /// Forwarded packets pass other people's firewalls.
    pub allow_through_firewall: bool,
    /// Published ports of containers are reached at the containers' own addresses, too.
    pub direct_routing: bool,
}

impl Settings {
    /// Whether there is a default bridge.
    pub fn has_bridge(&self) -> bool {
        self.bridge != "none"
    }
}

fn subnet(text: &str, v4: bool) -> Result<Subnet, String> {
    let found = Subnet::parse(text).filter(|found| found.address.is_ipv4() == v4);
    found.ok_or_else(|| {
        let family = if v4 { "IPv4" } else { "IPv6" };
        format!("invalid CIDR address: {text}: want an {family} address and a prefix")
    })
}

pub(crate) fn bip6(s: &mut Settings, text: &str) -> Result<(), String> {
    let found = subnet(text, false)?;
    if found.prefix > 126 {
        return Err("want a prefix of at most 126".into());
    }
    s.networking.bip6 = Some(found);
    Ok(())
}

pub(crate) fn fixed_cidr(s: &mut Settings, text: &str) -> Result<(), String> {
    s.networking.fixed_cidr = Some(subnet(text, true)?);
    Ok(())
}

pub(crate) fn fixed_cidr6(s: &mut Settings, text: &str) -> Result<(), String> {
    s.networking.fixed_cidr6 = Some(subnet(text, false)?);
    Ok(())
}

pub(crate) fn gateway(s: &mut Settings, text: &str) -> Result<(), String> {
    s.networking.gateway = Some(text.parse().map_err(|_| "want an IPv4 address")?);
    Ok(())
}

pub(crate) fn gateway6(s: &mut Settings, text: &str) -> Result<(), String> {
    s.networking.gateway6 = Some(text.parse().map_err(|_| "want an IPv6 address")?);
    Ok(())
}

pub(crate) fn host_gateway(s: &mut Settings, text: &str) -> Result<(), String> {
    // Docker takes several in one flag, with commas.
    for one in text.split(',') {
        let address: IpAddr = one.trim().parse().map_err(|_| "want an IP address")?;
        let known = &mut s.networking.host_gateways;
        if known.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            return Err(format!("only one {family} host gateway IP address can be specified"));
        }
        known.push(address);
    }
    Ok(())
}

/// `base=10.10.0.0/16,size=24`, or from the file a list of objects.
pub(crate) fn pools(s: &mut Settings, text: &str) -> Result<(), String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Given {
        base: String,
        size: u8,
    }
    let given: Vec<Given> = if text.trim_start().starts_with('[') {
        serde_json::from_str(text).map_err(|error| error.to_string())?
    } else {
        let (mut base, mut size) = (None, None);
        for field in text.split(',') {
            match field.trim().split_once('=') {
                Some(("base", value)) => base = Some(value.to_owned()),
                Some(("size", value)) => {
                    size = Some(value.parse().map_err(|_| format!("invalid size value: {value}"))?);
                }
                _ => return Err(format!("invalid field '{field}': want base=…,size=…")),
            }
        }
        match (base, size) {
            (Some(base), Some(size)) => vec![Given { base, size }],
            _ => return Err("want base=ADDRESS/PREFIX,size=PREFIX".into()),
        }
    };
    for Given { base: text, size } in given {
        let base = Subnet::parse(&text)
            .ok_or_else(|| format!("invalid base pool {text:?}: want a CIDR"))?;
        if size < base.prefix || size > Subnet::bits_of(base.address) || size == 0 {
            return Err(format!("invalid pool size {size} of the base {base}"));
        }
        if let Some(other) = s.networking.pools.iter().find(|other| other.base.overlaps(&base)) {
            return Err(format!("the pools {} and {base} overlap", other.base));
        }
        s.networking.pools.push(AddressPool { base, size });
    }
    Ok(())
}

/// `bridge=com.docker.network.driver.mtu=1400`, or from the file objects by driver.
pub(crate) fn options(s: &mut Settings, text: &str) -> Result<(), String> {
    let known = &mut s.networking.options;
    if text.trim_start().starts_with('{') {
        let given: BTreeMap<String, BTreeMap<String, String>> =
            serde_json::from_str(text).map_err(|error| error.to_string())?;
        for (driver, options) in given {
            known.entry(driver).or_default().extend(options);
        }
        return Ok(());
    }
    let wrong = || "invalid key value pair format: want DRIVER=NAME=VALUE".to_owned();
    let (driver, option) = text.split_once('=').ok_or_else(wrong)?;
    let (name, value) = option.split_once('=').ok_or_else(wrong)?;
    known.entry(driver.to_owned()).or_default().insert(name.to_owned(), value.to_owned());
    Ok(())
}

/// What several settings say together.
pub(crate) fn check(settings: &Settings) -> Result<(), String> {
    let networking = &settings.networking;
    if settings.bridge != DEFAULT_BRIDGE {
        for (given, flag) in [(settings.bip.is_some(), "bip"), (networking.bip6.is_some(), "bip6")]
        {
            if given {
                return Err(format!(
                    "You specified -b & --{flag}, mutually exclusive options. Please specify only \
                     one."
                ));
            }
        }
    }
    if let (Some(gateway), None, None) =
        (networking.gateway6, networking.bip6, networking.fixed_cidr6)
    {
        return Err(format!(
            "--default-gateway-v6={gateway} needs the subnet of the default bridge: specify \
             --bip6 or --fixed-cidr-v6, too"
        ));
    }
    let bip = settings.bip.as_deref().and_then(Subnet::parse);
    let families = [
        (bip, networking.fixed_cidr, networking.gateway.map(IpAddr::V4), ""),
        (networking.bip6, networking.fixed_cidr6, networking.gateway6.map(IpAddr::V6), "-v6"),
    ];
    for (bip, range, gateway, end) in families {
        if let (Some(bip), Some(range)) = (bip, range)
            && !bip.holds(&range)
        {
            return Err(format!(
                "--fixed-cidr{end}={range} is not within the subnet of the default bridge, {bip}"
            ));
        }
        if let (Some(subnet), Some(gateway)) = (bip.or(range), gateway)
            && !subnet.contains(gateway)
        {
            return Err(format!(
                "--default-gateway{end}={gateway} is not within the subnet of the default bridge, \
                 {subnet}"
            ));
        }
    }
    Ok(())
}
