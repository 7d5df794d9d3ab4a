//! Links, addresses and routes.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::message::{Attributes, Message};
use crate::{NetlinkError, Socket};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const GETROUTE: u16 = 26;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const EXCL: u16 = 0x200;

const IFF_UP: u32 = 1;
const INET: u8 = 2;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
const BRPORT_HAIRPIN: u16 = 4;
const BRPORT_ISOLATED: u16 = 33;
const VETH_PEER: u16 = 1;

/// A link as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub up: bool,
}

/// An IPv4 address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub index: u32,
    pub address: Ipv4Addr,
    pub prefix: u8,
}

/// An IPv4 route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub destination: Ipv4Addr,
    pub prefix: u8,
    pub index: u32,
}

/// A pair of interfaces to make: the host's end on a bridge, the other in a namespace.
#[derive(Clone, Copy, Debug)]
pub struct Veth<'a> {
    pub name: &'a str,
    pub bridge: u32,
    pub peer: &'a str,
    pub peer_mac: [u8; 6],
    pub netns: BorrowedFd<'a>,
    pub mtu: u32,
    /// Frames of this port go to no other isolated port.
    pub isolated: bool,
}

fn link_head(index: u32, flags: u32) -> [u8; 16] {
    let mut head = [0; 16];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    head[12..16].copy_from_slice(&flags.to_ne_bytes());
    head
}

impl Socket {
    /// Every link of the namespace.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let mut message = Message::new();
        message.begin(GETLINK, REQUEST | DUMP, self.next_sequence(), &link_head(0, 0));
        let mut out = Vec::new();
        self.dump("list links", message, |kind, body| {
            if kind == NEWLINK
                && let Some(link) = parse_link(body)
            {
                out.push(link);
            }
        })?;
        Ok(out)
    }

    /// Makes a bridge, up, with a fixed address of its own, so that it does not change with its
    /// ports.
    pub fn create_bridge(
        &mut self,
        name: &str,
        mac: [u8; 6],
        mtu: u32,
    ) -> Result<(), NetlinkError> {
        let mut message = Message::new();
        let flags = REQUEST | ACK | CREATE | EXCL;
        message.begin(NEWLINK, flags, self.next_sequence(), &link_head(0, IFF_UP));
        message.string(IFLA_IFNAME, name).attribute(IFLA_ADDRESS, &mac).number(IFLA_MTU, mtu);
        message.nested(IFLA_LINKINFO, |info| {
            info.string(INFO_KIND, "bridge");
        });
        self.transact("create a bridge", message, 0)
    }

    /// Makes both ends in place: moving an interface between namespaces waits for RCU.
    pub fn create_veth(&mut self, veth: &Veth<'_>) -> Result<(), NetlinkError> {
        let mut message = Message::new();
        let flags = REQUEST | ACK | CREATE | EXCL;
        message.begin(NEWLINK, flags, self.next_sequence(), &link_head(0, IFF_UP));
        message.string(IFLA_IFNAME, veth.name).number(IFLA_MASTER, veth.bridge);
        message.number(IFLA_MTU, veth.mtu);
        message.nested(IFLA_LINKINFO, |info| {
            info.string(INFO_KIND, "veth");
            info.nested(INFO_DATA, |data| {
                data.nested(VETH_PEER, |peer| {
                    peer.raw(&link_head(0, 0)).string(IFLA_IFNAME, veth.peer);
                    peer.attribute(IFLA_ADDRESS, &veth.peer_mac).number(IFLA_MTU, veth.mtu);
                    peer.number(IFLA_NET_NS_FD, veth.netns.as_raw_fd() as u32);
                });
            });
        });
        // Back to where it came from, for a container that asks a published port of itself: with
        // the kernel's br_netfilter the translation happens on the bridge.
        message.begin(NEWLINK, REQUEST | ACK, self.next_sequence(), &link_head(0, 0));
        message.string(IFLA_IFNAME, veth.name);
        message.nested(IFLA_LINKINFO, |info| {
            info.string(INFO_SLAVE_KIND, "bridge");
            info.nested(INFO_SLAVE_DATA, |port| {
                port.attribute(BRPORT_HAIRPIN, &[1]);
                port.attribute(BRPORT_ISOLATED, &[u8::from(veth.isolated)]);
            });
        });
        self.transact("create a pair of interfaces", message, 0)
    }

    /// Lets a link go up.
    pub fn set_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = Message::new();
        message.begin(NEWLINK, REQUEST | ACK, self.next_sequence(), &link_head(index, IFF_UP));
        self.transact("set a link up", message, 0)
    }

    /// Deletes a link. Waits for the kernel: not for a path that somebody waits on.
    pub fn delete_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = Message::new();
        message.begin(DELLINK, REQUEST | ACK, self.next_sequence(), &link_head(index, 0));
        self.transact("delete a link", message, 0)
    }

    /// Gives a link an address.
    pub fn add_address(
        &mut self,
        index: u32,
        address: Ipv4Addr,
        prefix: u8,
    ) -> Result<(), NetlinkError> {
        let mut message = Message::new();
        self.put_address(&mut message, index, address, prefix);
        self.transact("add an address", message, 0)
    }

    fn put_address(&mut self, message: &mut Message, index: u32, address: Ipv4Addr, prefix: u8) {
        let mut head = [INET, prefix, 0, 0, 0, 0, 0, 0];
        head[4..8].copy_from_slice(&index.to_ne_bytes());
        message.begin(NEWADDR, REQUEST | ACK | CREATE | EXCL, self.next_sequence(), &head);
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        let broadcast = Ipv4Addr::from(u32::from(address) | !mask);
        message.attribute(2, &address.octets()).attribute(1, &address.octets());
        message.attribute(4, &broadcast.octets());
    }

    /// All that a new namespace needs, in one message: loopback and interface up, address, default
    /// route.
    pub fn configure(
        &mut self,
        interface: u32,
        address: Ipv4Addr,
        prefix: u8,
        gateway: Ipv4Addr,
    ) -> Result<(), NetlinkError> {
        let mut message = Message::new();
        for index in [1, interface] {
            message.begin(NEWLINK, REQUEST | ACK, self.next_sequence(), &link_head(index, IFF_UP));
        }
        self.put_address(&mut message, interface, address, prefix);
        // Family, table main, protocol boot, scope universe, type unicast.
        let head = [INET, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
        message.begin(NEWROUTE, REQUEST | ACK | CREATE | EXCL, self.next_sequence(), &head);
        message.attribute(5, &gateway.octets()).number(4, interface);
        self.transact("configure a network namespace", message, 0)
    }

    /// Every IPv4 address of the namespace.
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let mut message = Message::new();
        message.begin(GETADDR, REQUEST | DUMP, self.next_sequence(), &[INET, 0, 0, 0, 0, 0, 0, 0]);
        let mut out = Vec::new();
        self.dump("list addresses", message, |kind, body| {
            if kind == NEWADDR
                && let Some(address) = parse_address(body)
            {
                out.push(address);
            }
        })?;
        Ok(out)
    }

    /// Every IPv4 route of the main table.
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let mut message = Message::new();
        let head = [INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        message.begin(GETROUTE, REQUEST | DUMP, self.next_sequence(), &head);
        let mut out = Vec::new();
        self.dump("list routes", message, |kind, body| {
            if kind == NEWROUTE
                && let Some(route) = parse_route(body)
            {
                out.push(route);
            }
        })?;
        Ok(out)
    }
}

fn word(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

fn ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(..4)?).ok()?))
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let index = word(body.get(4..)?)?;
    let flags = word(body.get(8..)?)?;
    let name = Attributes(body.get(16..)?).find(IFLA_IFNAME)?;
    let name = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
    Some(Link { index, name, up: flags & IFF_UP != 0 })
}

fn parse_address(body: &[u8]) -> Option<Address> {
    let prefix = *body.get(1)?;
    let index = word(body.get(4..)?)?;
    let attributes = Attributes(body.get(8..)?);
    let address = ipv4(attributes.find(2).or_else(|| attributes.find(1))?)?;
    Some(Address { index, address, prefix })
}

fn parse_route(body: &[u8]) -> Option<Route> {
    const MAIN: u8 = 254;
    if *body.get(4)? != MAIN {
        return None;
    }
    let prefix = *body.get(1)?;
    let attributes = Attributes(body.get(12..)?);
    let destination = attributes.find(1).and_then(ipv4).unwrap_or(Ipv4Addr::UNSPECIFIED);
    let index = attributes.find(4).and_then(word).unwrap_or(0);
    Some(Route { destination, prefix, index })
}
