//! What the room does to the host itself: bridges, the kernel's switches, forwarding.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::path::Path;

use hoy_netlink::Socket;
use hoy_netlink::route::Address;
use rustix::fs::{Mode, OFlags};
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

use crate::NetworkError;
use crate::address::Cidr;
use crate::firewall::{Closed, GatewayMode};
use crate::spec::{BridgeOptions, NetworkSpec};

const FORWARD4: &str = "/proc/sys/net/ipv4/ip_forward";
const FORWARD6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

/// Which forwarding is on because of us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forwarding {
    pub v4: bool,
    pub v6: bool,
}

impl Forwarding {
    /// Nobody else's packets pass where it was us who opened the way.
    pub(crate) fn closed(self) -> Closed {
        Closed { v4: self.v4, v6: self.v6 }
    }

    pub(crate) fn turn_on(&mut self, v4: bool, v6: bool) {
        if v4 && read(FORWARD4).trim() == "0" {
            self.v4 = write(FORWARD4, "1");
        }
        if v6 && read(FORWARD6).trim() == "0" {
            keep_advertised_routes();
            self.v6 = write(FORWARD6, "1");
        }
    }

    pub(crate) fn give_back(&mut self) {
        if self.v4 {
            write(FORWARD4, "0");
        }
        if self.v6 {
            write(FORWARD6, "0");
        }
        *self = Self::default();
    }
}

/// A host that forwards does not listen to router advertisements any more, and would lose its own
/// way out, unless its interface says that it does all the same.
fn keep_advertised_routes() {
    let Ok(entries) = std::fs::read_dir("/proc/sys/net/ipv6/conf") else { return };
    for entry in entries.flatten() {
        let file = entry.path().join("accept_ra");
        let template = matches!(entry.file_name().to_str(), Some("all" | "default"));
        if !template && std::fs::read_to_string(&file).is_ok_and(|text| text.trim() == "1") {
            let _ = std::fs::write(&file, "2");
        }
    }
}

/// A bridge as it is to be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BridgePlan {
    pub name: String,
    pub mtu: u32,
    pub addresses: Vec<Cidr>,
    pub ipv6: bool,
    /// Publications on loopback are routed to it.
    pub loopback: bool,
}

pub(crate) fn bridge_plan(spec: &NetworkSpec, options: &BridgeOptions, mtu: u32) -> BridgePlan {
    let own = |v4: bool| {
        let mode = if v4 { options.mode4 } else { options.mode6 };
        let hidden = mode == GatewayMode::Isolated || (v4 && options.inhibit4);
        spec.gateway(v4).filter(|_| !hidden)
    };
    BridgePlan {
        name: options.interface(&spec.id),
        mtu,
        addresses: [own(true), own(false)].into_iter().flatten().collect(),
        ipv6: spec.ipv6,
        loopback: !spec.internal && spec.ipv4,
    }
}

/// Makes the bridge, or what is missing of it; its number. `known`: the host's addresses, where
/// somebody has just looked; with many networks there are many.
pub(crate) fn make_bridge(
    route: &mut Socket,
    plan: &BridgePlan,
    known: Option<&[Address]>,
) -> Result<u32, NetworkError> {
    let found = route.link(&plan.name)?;
    let fresh = found.is_none();
    let found = match found {
        Some(link) => link,
        None => {
            // So that it asks nobody for an address of its own before it is told.
            let mut mac = random::<6>()?;
            mac[0] = mac[0] & 0xfc | 2;
            route.create_bridge(&plan.name, mac, plan.mtu)?;
            let gone = || NetworkError::io("find the bridge")(std::io::ErrorKind::NotFound.into());
            route.link(&plan.name)?.ok_or_else(gone)?
        }
    };
    if !found.up {
        route.set_up(found.index)?;
    }
    let conf =
        |family: &str, name: &str| format!("/proc/sys/net/{family}/conf/{}/{name}", plan.name);
    write(&conf("ipv6", "accept_ra"), "0");
    write(&conf("ipv6", "disable_ipv6"), if plan.ipv6 { "0" } else { "1" });
    if plan.loopback {
        write(&conf("ipv4", "route_localnet"), "1");
    }
    let all = match known {
        Some(known) => known.to_vec(),
        // It has none, or only the one that the kernel gave it.
        None if fresh => Vec::new(),
        None => route.addresses()?,
    };
    let there: Vec<Cidr> = all
        .into_iter()
        .filter(|address| address.index == found.index)
        .filter_map(|found| Cidr::new(found.address, found.prefix))
        .collect();
    for address in plan.addresses.iter().filter(|address| !there.contains(address)) {
        route.add_address(found.index, address.address, address.prefix)?;
    }
    Ok(found.index)
}

/// The name servers of the host: a network over their addresses would hide them.
pub(crate) fn name_servers(resolv_conf: &Path) -> Vec<Cidr> {
    let text = std::fs::read_to_string(resolv_conf).unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    servers
        .filter_map(|server| server.trim().parse::<IpAddr>().ok())
        .filter(|server| !server.is_loopback())
        .filter_map(|server| Cidr::new(server, if server.is_ipv4() { 32 } else { 128 }))
        .collect()
}

/// Whether frames between the ports of a bridge pass the firewall, too.
pub(crate) fn filters_bridges() -> bool {
    read("/proc/sys/net/bridge/bridge-nf-call-iptables").trim() == "1"
}

/// Whether the host has IPv6 at all.
pub(crate) fn has_ipv6() -> bool {
    read("/proc/sys/net/ipv6/conf/lo/disable_ipv6").trim() == "0"
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], NetworkError> {
    let mut bytes = [0; N];
    getrandom(&mut bytes, GetRandomFlags::empty())
        .map_err(|errno| NetworkError::io("get random bytes")(errno.into()))?;
    Ok(bytes)
}

pub(crate) fn random_hex() -> Result<String, NetworkError> {
    Ok(hoy_types::Digest::from_sha256(random::<32>()?).hex())
}

/// A locally administered unicast address that goes with an address, as Docker's did: whoever
/// reached the one that had it before, reaches the one that has it now, without asking anew.
pub(crate) fn mac(address: Option<Cidr>, id: &str) -> [u8; 6] {
    let tail = |bytes: [u8; 4]| [0x02, 0x42, bytes[0], bytes[1], bytes[2], bytes[3]];
    match address.map(|cidr| cidr.address) {
        Some(IpAddr::V4(address)) => tail(address.octets()),
        Some(IpAddr::V6(address)) => {
            let [.., a, b, c, d, e] = address.octets();
            // Others than an IPv4 address on the same bridge would have.
            [0x06, a, b, c, d, e]
        }
        None => tail(
            Ipv4Addr::from(u32::from_str_radix(id.get(..8).unwrap_or("0"), 16).unwrap_or(0))
                .octets(),
        ),
    }
}

pub(crate) fn mac_text(mac: [u8; 6]) -> String {
    let parts: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    parts.join(":")
}

/// `02:42:ac:11:00:02`, also with dashes.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut out = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut out {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(out)
}

pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The host's settings of its interfaces for IPv6, at hand wherever the calling thread is: a path
/// below /proc/sys/net leads to those of its own namespace.
#[derive(Debug)]
pub(crate) struct HostSettings(Option<OwnedFd>);

impl HostSettings {
    /// Of the calling thread's namespace.
    pub fn open() -> Self {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self(rustix::fs::open("/proc/sys/net/ipv6/conf", flags, Mode::empty()).ok())
    }

    /// A bridge's port needs no address. With IPv6 each has one, with its routes, and the kernel
    /// looks through those of all ports whenever one comes or goes.
    pub fn without_ipv6(&self, interface: &str) {
        let Some(all) = &self.0 else { return };
        let path = format!("{interface}/disable_ipv6");
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        if let Ok(file) = rustix::fs::openat(all, path, flags, Mode::empty()) {
            let _ = rustix::io::write(&file, b"1");
        }
    }
}

/// Kernel settings that may not exist here are left alone.
pub(crate) fn write(path: &str, value: &str) -> bool {
    std::fs::write(path, value).is_ok()
}
