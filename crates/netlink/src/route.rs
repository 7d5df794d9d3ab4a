//! Links, addresses and routes of both families.
//!
//! A link is made in the namespace where it is to be: moving one waits for RCU. To change what is
//! in another namespace, open a socket there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::message::{Attributes, Message};
use crate::{NetlinkError, Socket};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const GETROUTE: u16 = 26;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const REPLACE: u16 = 0x100;
const EXCL: u16 = 0x200;
const CREATE: u16 = 0x400;

const IFF_UP: u32 = 1;
const INET: u8 = 2;
const INET6: u8 = 10;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
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
    pub mtu: u32,
    pub mac: Option<[u8; 6]>,
    /// The bridge that it is a port of.
    pub master: Option<u32>,
    /// What it stands on (macvlan's and vlan's), or its other end (veth's), perhaps in another
    /// namespace.
    pub parent: Option<u32>,
    /// `bridge`, `veth`, `macvlan`…; hardware has none.
    pub kind: Option<String>,
}

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub index: u32,
    pub address: IpAddr,
    pub prefix: u8,
}

/// A route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// `None`: everything, of the gateway's family.
    pub destination: Option<(IpAddr, u8)>,
    /// `None`: straight to the link.
    pub gateway: Option<IpAddr>,
    pub index: u32,
}

impl Route {
    pub fn is_default(&self) -> bool {
        self.destination.is_none_or(|(_, prefix)| prefix == 0)
    }
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
    /// Frames may go back to where they came from, for a container that asks a published port of
    /// itself: with the kernel's br_netfilter the translation happens on the bridge.
    pub hairpin: bool,
}

/// How the macvlans of one parent see each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacvlanMode {
    Private = 1,
    Vepa = 2,
    Bridge = 4,
    Passthru = 8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpvlanMode {
    L2 = 0,
    L3 = 1,
    L3s = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpvlanFlag {
    Bridge = 0,
    Private = 1,
    Vepa = 2,
}

/// An interface with an address of its own on another one.
#[derive(Clone, Copy, Debug)]
pub struct Macvlan<'a> {
    /// Of the namespace of the socket.
    pub parent: u32,
    pub mode: MacvlanMode,
    pub name: &'a str,
    /// `None`: the kernel chooses (or takes the parent's, for passthru).
    pub mac: Option<[u8; 6]>,
    /// 0: the parent's.
    pub mtu: u32,
    pub netns: BorrowedFd<'a>,
}

/// An interface that shares another one's hardware address.
#[derive(Clone, Copy, Debug)]
pub struct Ipvlan<'a> {
    pub parent: u32,
    pub mode: IpvlanMode,
    pub flag: IpvlanFlag,
    pub name: &'a str,
    /// 0: the parent's.
    pub mtu: u32,
    pub netns: BorrowedFd<'a>,
}

/// What an interface of a namespace gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    /// Of both families, link-local ones as well.
    pub addresses: Vec<(IpAddr, u8)>,
}

fn link_head(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut head = [0; 16];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    head[12..16].copy_from_slice(&change.to_ne_bytes());
    head
}

const CHANGE: u16 = REQUEST | ACK;
const MAKE: u16 = REQUEST | ACK | CREATE | EXCL;

impl Socket {
    /// Every link of the namespace.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        self.listed("list links", GETLINK, &link_head(0, 0, 0), |kind, body| {
            if kind == NEWLINK { parse_link(body) } else { None }
        })
    }

    /// One link by its name.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut message = Message::new();
        message.begin(GETLINK, REQUEST, self.next_sequence(), &link_head(0, 0, 0));
        message.string(IFLA_IFNAME, name);
        let mut found = None;
        let asked = self.ask("look for a link", message, |kind, body| {
            if kind == NEWLINK {
                found = parse_link(body);
            }
        });
        match asked {
            Err(error) if error.is_missing() => Ok(None),
            other => other.map(|()| found),
        }
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
        message.begin(NEWLINK, MAKE, self.next_sequence(), &link_head(0, IFF_UP, IFF_UP));
        message.string(IFLA_IFNAME, name).attribute(IFLA_ADDRESS, &mac).number(IFLA_MTU, mtu);
        message.nested(IFLA_LINKINFO, |info| {
            info.string(INFO_KIND, "bridge");
        });
        self.transact("create a bridge", message, 0)
    }

    /// Makes both ends in place.
    pub fn create_veth(&mut self, veth: &Veth<'_>) -> Result<(), NetlinkError> {
        self.create_veth_with(veth, || {})
    }

    /// As `create_veth`; what is done with the host's end before it goes up is given.
    pub fn create_veth_with(
        &mut self,
        veth: &Veth<'_>,
        before_up: impl FnOnce(),
    ) -> Result<(), NetlinkError> {
        let mut message = Message::new();
        message.begin(NEWLINK, MAKE, self.next_sequence(), &link_head(0, 0, 0));
        message.string(IFLA_IFNAME, veth.name).number(IFLA_MASTER, veth.bridge);
        message.number(IFLA_MTU, veth.mtu);
        message.nested(IFLA_LINKINFO, |info| {
            info.string(INFO_KIND, "veth");
            info.nested(INFO_DATA, |data| {
                data.nested(VETH_PEER, |peer| {
                    peer.raw(&link_head(0, 0, 0)).string(IFLA_IFNAME, veth.peer);
                    peer.attribute(IFLA_ADDRESS, &veth.peer_mac).number(IFLA_MTU, veth.mtu);
                    peer.number(IFLA_NET_NS_FD, veth.netns.as_raw_fd() as u32);
                });
            });
        });
        self.put_bridge_port(&mut message, veth.name, veth.hairpin, veth.isolated);
        self.transact("create a pair of interfaces", message, 0)?;
        before_up();
        self.change("set a link up", &link_head(0, IFF_UP, IFF_UP), |message| {
            message.string(IFLA_IFNAME, veth.name);
        })
    }

    /// How a bridge treats one of its ports.
    pub fn set_bridge_port(
        &mut self,
        name: &str,
        hairpin: bool,
        isolated: bool,
    ) -> Result<(), NetlinkError> {
        let mut message = Message::new();
        self.put_bridge_port(&mut message, name, hairpin, isolated);
        self.transact("set up a bridge's port", message, 0)
    }

    fn put_bridge_port(&mut self, message: &mut Message, name: &str, hairpin: bool, alone: bool) {
        message.begin(NEWLINK, CHANGE, self.next_sequence(), &link_head(0, 0, 0));
        message.string(IFLA_IFNAME, name);
        message.nested(IFLA_LINKINFO, |info| {
            info.string(INFO_SLAVE_KIND, "bridge");
            info.nested(INFO_SLAVE_DATA, |port| {
                port.attribute(BRPORT_HAIRPIN, &[u8::from(hairpin)]);
                port.attribute(BRPORT_ISOLATED, &[u8::from(alone)]);
            });
        });
    }

    /// Makes a macvlan in its namespace, down.
    pub fn create_macvlan(&mut self, macvlan: &Macvlan<'_>) -> Result<(), NetlinkError> {
        let mut message = Message::new();
        message.begin(NEWLINK, MAKE, self.next_sequence(), &link_head(0, 0, 0));
        message.string(IFLA_IFNAME, macvlan.name).number(IFLA_LINK, macvlan.parent);
        message.number(IFLA_NET_NS_FD, macvlan.netns.as_raw_fd() as u32);
        if let Some(mac) = macvlan.mac {
            message.attribute(IFLA_ADDRESS, &mac);
        }
        if macvlan.mtu != 0 {
            message.number(IFLA_MTU, macvlan.mtu);
        }
        message.nested(IFLA_LINKINFO, |info| {
            info.string(INFO_KIND, "macvlan");
            info.nested(INFO_DATA, |data| {
                data.number(1, macvlan.mode as u32);
            });
        });
        self.transact("create a macvlan", message, 0)
    }

    /// Makes an ipvlan in its namespace, down.
    pub fn create_ipvlan(&mut self, ipvlan: &Ipvlan<'_>) -> Result<(), NetlinkError> {
        let mut message = Message::new();
        message.begin(NEWLINK, MAKE, self.next_sequence(), &link_head(0, 0, 0));
        message.string(IFLA_IFNAME, ipvlan.name).number(IFLA_LINK, ipvlan.parent);
        message.number(IFLA_NET_NS_FD, ipvlan.netns.as_raw_fd() as u32);
        if ipvlan.mtu != 0 {
            message.number(IFLA_MTU, ipvlan.mtu);
        }
        message.nested(IFLA_LINKINFO, |info| {
            info.string(INFO_KIND, "ipvlan");
            info.nested(INFO_DATA, |data| {
                data.attribute(1, &(ipvlan.mode as u16).to_ne_bytes());
                data.attribute(2, &(ipvlan.flag as u16).to_ne_bytes());
            });
        });
        self.transact("create an ipvlan", message, 0)
    }

    /// Makes an 802.1q interface of a parent, up.
    pub fn create_vlan(&mut self, parent: u32, id: u16, name: &str) -> Result<(), NetlinkError> {
        let mut message = Message::new();
        message.begin(NEWLINK, MAKE, self.next_sequence(), &link_head(0, IFF_UP, IFF_UP));
        message.string(IFLA_IFNAME, name).number(IFLA_LINK, parent);
        message.nested(IFLA_LINKINFO, |info| {
            info.string(INFO_KIND, "vlan");
            info.nested(INFO_DATA, |data| {
                data.attribute(1, &id.to_ne_bytes());
            });
        });
        self.transact("create a vlan", message, 0)
    }

    /// Makes an interface, up, that leads nowhere, to be a parent of macvlans. Where the kernel
    /// has no dummies it is one end of a pair whose other end (`<name>p`, cut to fit) lies unused;
    /// deleting it deletes both.
    pub fn create_dummy(&mut self, name: &str) -> Result<(), NetlinkError> {
        let mut message = Message::new();
        message.begin(NEWLINK, MAKE, self.next_sequence(), &link_head(0, IFF_UP, IFF_UP));
        message.string(IFLA_IFNAME, name).nested(IFLA_LINKINFO, |info| {
            info.string(INFO_KIND, "dummy");
        });
        match self.transact("create a dummy interface", message, 0) {
            Err(error) if error.is_unsupported() => {}
            other => return other,
        }
        let end: String = name.chars().take(14).chain(['p']).collect();
        let mut message = Message::new();
        message.begin(NEWLINK, MAKE, self.next_sequence(), &link_head(0, 0, 0));
        message.string(IFLA_IFNAME, name).nested(IFLA_LINKINFO, |info| {
            info.string(INFO_KIND, "veth");
            info.nested(INFO_DATA, |data| {
                data.nested(VETH_PEER, |peer| {
                    peer.raw(&link_head(0, 0, 0)).string(IFLA_IFNAME, &end);
                });
            });
        });
        // Neither end goes up before both are there.
        for one in [&end, name] {
            let head = link_head(0, IFF_UP, IFF_UP);
            message.begin(NEWLINK, CHANGE, self.next_sequence(), &head).string(IFLA_IFNAME, one);
        }
        self.transact("create an interface that leads nowhere", message, 0)
    }

    /// Lets a link go up.
    pub fn set_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.change("set a link up", &link_head(index, IFF_UP, IFF_UP), |_| {})
    }

    pub fn set_down(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.change("set a link down", &link_head(index, 0, IFF_UP), |_| {})
    }

    /// Gives a link another name. It must be down.
    pub fn rename(&mut self, index: u32, name: &str) -> Result<(), NetlinkError> {
        self.change("rename a link", &link_head(index, 0, 0), |message| {
            message.string(IFLA_IFNAME, name);
        })
    }

    pub fn set_mac(&mut self, index: u32, mac: [u8; 6]) -> Result<(), NetlinkError> {
        self.change("set a link's address", &link_head(index, 0, 0), |message| {
            message.attribute(IFLA_ADDRESS, &mac);
        })
    }

    /// Tells the neighbours whose the link's addresses are now: for an address that somebody else
    /// had before, with another hardware address. The kernel does it (gratuitous ARP, unsolicited
    /// advertisements) when it is told the hardware address again. By the thread whose namespace
    /// the link and the socket are in.
    pub fn announce(&mut self, link: &Link) -> Result<(), NetlinkError> {
        let Some(mac) = link.mac else { return Ok(()) };
        for (family, setting) in [("ipv4", "arp_notify"), ("ipv6", "ndisc_notify")] {
            // A family that is not there has no neighbours.
            let path = format!("/proc/sys/net/{family}/conf/{}/{setting}", link.name);
            let _ = std::fs::write(path, "1");
        }
        self.set_mac(link.index, mac)
    }

    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        self.change("set a link's MTU", &link_head(index, 0, 0), |message| {
            message.number(IFLA_MTU, mtu);
        })
    }

    fn change(
        &mut self,
        operation: &'static str,
        head: &[u8; 16],
        what: impl FnOnce(&mut Message),
    ) -> Result<(), NetlinkError> {
        let mut message = Message::new();
        message.begin(NEWLINK, CHANGE, self.next_sequence(), head);
        what(&mut message);
        self.transact(operation, message, 0)
    }

    /// Deletes a link. Waits for the kernel: not for a path that somebody waits on.
    pub fn delete_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = Message::new();
        message.begin(DELLINK, CHANGE, self.next_sequence(), &link_head(index, 0, 0));
        self.transact("delete a link", message, 0)
    }

    /// Gives a link an address. One of IPv6 is used at once, not looked for among the neighbours
    /// first: whoever gives it out knows that it is free.
    pub fn add_address(
        &mut self,
        index: u32,
        address: IpAddr,
        prefix: u8,
    ) -> Result<(), NetlinkError> {
        let mut message = Message::new();
        self.put_address(&mut message, index, address, prefix);
        self.transact("add an address", message, 0)
    }

    pub fn remove_address(
        &mut self,
        index: u32,
        address: IpAddr,
        prefix: u8,
    ) -> Result<(), NetlinkError> {
        let mut message = Message::new();
        let head = address_head(index, address, prefix);
        message.begin(DELADDR, CHANGE, self.next_sequence(), &head);
        put_ip(&mut message, 2, address);
        self.transact("remove an address", message, 0)
    }

    fn put_address(&mut self, message: &mut Message, index: u32, address: IpAddr, prefix: u8) {
        let head = address_head(index, address, prefix);
        message.begin(NEWADDR, MAKE, self.next_sequence(), &head);
        put_ip(message, 2, address);
        put_ip(message, 1, address);
        match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
                let broadcast = Ipv4Addr::from(u32::from(address) | !mask);
                // Networks of two addresses and of one have no broadcast.
                if prefix < 31 {
                    message.attribute(4, &broadcast.octets());
                }
            }
            IpAddr::V6(_) => {
                const FLAGS: u16 = 8;
                const NODAD: u32 = 2;
                message.number(FLAGS, NODAD);
            }
        }
    }

    /// Adds a route. A gateway outside of the link's networks is taken to be on the link.
    pub fn add_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        self.route(NEWROUTE, CREATE | EXCL, route, "add a route")
    }

    /// Adds a route in place of one with the same destination.
    pub fn replace_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        self.route(NEWROUTE, CREATE | REPLACE, route, "replace a route")
    }

    pub fn remove_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        self.route(DELROUTE, 0, route, "remove a route")
    }

    fn route(
        &mut self,
        kind: u16,
        flags: u16,
        route: &Route,
        operation: &'static str,
    ) -> Result<(), NetlinkError> {
        use rustix::io::Errno;
        let mut message = Message::new();
        self.put_route(&mut message, kind, flags, route, false);
        match self.transact(operation, message, 0) {
            Err(error)
                if kind == NEWROUTE
                    && route.gateway.is_some()
                    && error.is(&[Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::INVAL]) =>
            {
                let mut message = Message::new();
                self.put_route(&mut message, kind, flags, route, true);
                self.transact(operation, message, 0)
            }
            other => other,
        }
    }

    fn put_route(
        &mut self,
        message: &mut Message,
        kind: u16,
        flags: u16,
        route: &Route,
        onlink: bool,
    ) {
        const MAIN: u8 = 254;
        const BOOT: u8 = 3;
        const UNICAST: u8 = 1;
        const LINK: u8 = 253;
        const NOWHERE: u8 = 255;
        const ONLINK: u32 = 4;
        let sample = route.destination.map(|(to, _)| to).or(route.gateway);
        let v6 = sample.is_some_and(|sample| sample.is_ipv6());
        let prefix = route.destination.map_or(0, |(_, prefix)| prefix);
        let scope = match (kind, route.gateway) {
            (DELROUTE, _) => NOWHERE,
            (_, None) if !v6 => LINK,
            _ => 0,
        };
        let family = if v6 { INET6 } else { INET };
        let mut head = [family, prefix, 0, 0, MAIN, BOOT, scope, UNICAST, 0, 0, 0, 0];
        if onlink {
            // The gateway needs no route of its own.
            head[8..12].copy_from_slice(&ONLINK.to_ne_bytes());
        }
        message.begin(kind, REQUEST | ACK | flags, self.next_sequence(), &head);
        if let Some((to, prefix)) = route.destination
            && prefix > 0
        {
            put_ip(message, 1, to);
        }
        if let Some(gateway) = route.gateway {
            put_ip(message, 5, gateway);
        }
        if route.index != 0 {
            message.number(4, route.index);
        }
    }

    /// All that a namespace needs, in one message: loopback (if wanted) and the interfaces up,
    /// their addresses, routes.
    pub fn configure(
        &mut self,
        loopback: bool,
        interfaces: &[Interface],
        routes: &[Route],
    ) -> Result<(), NetlinkError> {
        let mut message = Message::new();
        let indices = loopback.then_some(1).into_iter().chain(interfaces.iter().map(|i| i.index));
        for index in indices {
            let head = link_head(index, IFF_UP, IFF_UP);
            message.begin(NEWLINK, CHANGE, self.next_sequence(), &head);
        }
        for interface in interfaces {
            for (address, prefix) in &interface.addresses {
                self.put_address(&mut message, interface.index, *address, *prefix);
            }
        }
        for route in routes {
            // Not for those that need none, so that `ip route` shows what Docker's shows.
            let onlink = route.gateway.is_some_and(|gateway| {
                !interfaces.iter().any(|interface| {
                    interface.index == route.index
                        && interface.addresses.iter().any(|(a, p)| within(gateway, *a, *p))
                })
            });
            self.put_route(&mut message, NEWROUTE, CREATE | EXCL, route, onlink);
        }
        if message.count() == 0 {
            return Ok(());
        }
        self.transact("configure a network namespace", message, 0)
    }

    /// Every address of the namespace, of both families.
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        self.listed("list addresses", GETADDR, &[0; 8], |kind, body| {
            if kind == NEWADDR { parse_address(body) } else { None }
        })
    }

    /// Every route of the main tables, of both families.
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        self.listed("list routes", GETROUTE, &[0; 12], |kind, body| {
            if kind == NEWROUTE { parse_route(body) } else { None }
        })
    }

    fn listed<T>(
        &mut self,
        operation: &'static str,
        kind: u16,
        head: &[u8],
        mut each: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        // What changes while it is read is read again; where it always does, the last is as good
        // as any.
        const TRIES: usize = 10;
        let mut tries = 0;
        loop {
            let mut message = Message::new();
            message.begin(kind, REQUEST | DUMP, self.next_sequence(), head);
            let mut out = Vec::new();
            let done = self.dump(operation, message, |kind, body| out.extend(each(kind, body)));
            tries += 1;
            match done {
                Err(NetlinkError::Changed(_)) if tries < TRIES => {}
                Err(NetlinkError::Changed(_)) => return Ok(out),
                other => return other.map(|()| out),
            }
        }
    }
}

/// Whether an address is in the network of another one.
fn within(address: IpAddr, other: IpAddr, prefix: u8) -> bool {
    let prefix = u32::from(prefix);
    match (address, other) {
        (IpAddr::V4(one), IpAddr::V4(two)) => {
            let mask = u32::MAX.checked_shl(32 - prefix.min(32)).unwrap_or(0);
            (u32::from(one) ^ u32::from(two)) & mask == 0
        }
        (IpAddr::V6(one), IpAddr::V6(two)) => {
            let mask = u128::MAX.checked_shl(128 - prefix.min(128)).unwrap_or(0);
            (u128::from(one) ^ u128::from(two)) & mask == 0
        }
        _ => false,
    }
}

fn address_head(index: u32, address: IpAddr, prefix: u8) -> [u8; 8] {
    let family = if address.is_ipv6() { INET6 } else { INET };
    let mut head = [family, prefix, 0, 0, 0, 0, 0, 0];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head
}

fn put_ip(message: &mut Message, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(address) => message.attribute(kind, &address.octets()),
        IpAddr::V6(address) => message.attribute(kind, &address.octets()),
    };
}

fn word(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

/// An address of the family that the message's head names.
fn ip(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        INET => <[u8; 4]>::try_from(bytes).ok().map(|b| Ipv4Addr::from(b).into()),
        INET6 => <[u8; 16]>::try_from(bytes).ok().map(|b| Ipv6Addr::from(b).into()),
        _ => None,
    }
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let attributes = Attributes(body.get(16..)?);
    let number = |kind| attributes.find(kind).and_then(word).filter(|number| *number != 0);
    let info = attributes.find(IFLA_LINKINFO).map(Attributes);
    Some(Link {
        index: word(body.get(4..)?)?,
        name: text(attributes.find(IFLA_IFNAME)?),
        up: word(body.get(8..)?)? & IFF_UP != 0,
        mtu: number(IFLA_MTU).unwrap_or(0),
        mac: attributes.find(IFLA_ADDRESS).and_then(|mac| mac.try_into().ok()),
        master: number(IFLA_MASTER),
        parent: number(IFLA_LINK),
        kind: info.and_then(|info| info.find(INFO_KIND)).map(text),
    })
}

fn parse_address(body: &[u8]) -> Option<Address> {
    let (family, prefix) = (*body.first()?, *body.get(1)?);
    let index = word(body.get(4..)?)?;
    let attributes = Attributes(body.get(8..)?);
    let address = ip(family, attributes.find(2).or_else(|| attributes.find(1))?)?;
    Some(Address { index, address, prefix })
}

fn parse_route(body: &[u8]) -> Option<Route> {
    const MAIN: u32 = 254;
    const UNICAST: u8 = 1;
    let (family, prefix, table) = (*body.first()?, *body.get(1)?, *body.get(4)?);
    let attributes = Attributes(body.get(12..)?);
    let table = attributes.find(15).and_then(word).unwrap_or_else(|| table.into());
    if table != MAIN || *body.get(7)? != UNICAST {
        return None;
    }
    let gateway = attributes.find(5).and_then(|bytes| ip(family, bytes));
    let nowhere: IpAddr = match family {
        INET => Ipv4Addr::UNSPECIFIED.into(),
        INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let to = attributes.find(1).and_then(|bytes| ip(family, bytes)).unwrap_or(nowhere);
    let index = attributes.find(4).and_then(word).unwrap_or(0);
    let destination = (prefix > 0 || gateway.is_none()).then_some((to, prefix));
    Some(Route { destination, gateway, index })
}
