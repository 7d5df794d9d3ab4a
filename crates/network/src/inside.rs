//! What is done in a container's network namespace, by a thread that enters it.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hoy_netlink::route::{Interface, Ipvlan, Macvlan, MacvlanMode, Route, Veth};
use hoy_netlink::{NetlinkError, Socket, SocketKind};
use hoy_sys::{process, userns};
use rustix::fs::{Mode, OFlags};

use crate::NetworkError;
use crate::dns::{self, DnsSockets};
use crate::host::{HostSettings, write};
use crate::sandbox::{Endpoint, Owner};
use crate::spec::{LinkMode, LinkOptions};

/// The namespace, the user namespace that owns it, and the name server's sockets.
pub(crate) type Made = (OwnedFd, Option<OwnedFd>, Option<DnsSockets>);

/// How an endpoint's interface is made.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LinkPlan {
    kind: LinkKind,
    inside: String,
    mac: [u8; 6],
    ipv6: bool,
    sysctls: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq)]
enum LinkKind {
    Veth { name: String, bridge: u32, mtu: u32, isolated: bool },
    Beside { parent: u32, mode: LinkMode, mtu: Option<u32> },
}

impl LinkPlan {
    fn new(endpoint: &Endpoint, mac: [u8; 6], kind: LinkKind) -> Self {
        Self {
            kind,
            inside: endpoint.inside.clone(),
            mac,
            ipv6: endpoint.v6.is_some() || endpoint.link_local.iter().any(IpAddr::is_ipv6),
            sysctls: Vec::new(),
        }
    }

    pub fn veth(endpoint: &Endpoint, bridge: u32, mac: [u8; 6], mtu: u32, isolated: bool) -> Self {
        let name = endpoint.interface.clone();
        Self::new(endpoint, mac, LinkKind::Veth { name, bridge, mtu, isolated })
    }

    pub fn beside(endpoint: &Endpoint, parent: u32, mac: [u8; 6], options: &LinkOptions) -> Self {
        let LinkOptions { mode, mtu, .. } = *options;
        Self::new(endpoint, mac, LinkKind::Beside { parent, mode, mtu })
    }

    pub fn with_sysctls(mut self, sysctls: Vec<(String, String)>) -> Self {
        self.sysctls = sysctls;
        self
    }
}

/// Makes the interface, by a socket of the host's namespace: moving one between namespaces waits
/// for RCU.
pub(crate) fn create(
    route: &mut Socket,
    settings: &HostSettings,
    link: &LinkPlan,
    netns: BorrowedFd<'_>,
) -> Result<(), NetworkError> {
    match &link.kind {
        LinkKind::Veth { name, bridge, mtu, isolated } => {
            let veth = Veth {
                name,
                bridge: *bridge,
                peer: &link.inside,
                peer_mac: link.mac,
                netns,
                mtu: *mtu,
                isolated: *isolated,
                hairpin: true,
            };
            route.create_veth_with(&veth, || settings.without_ipv6(name))?;
        }
        LinkKind::Beside { parent, mode, mtu } => {
            let (parent, name, mtu) = (*parent, link.inside.as_str(), mtu.unwrap_or(0));
            match mode {
                LinkMode::Macvlan(mode) => {
                    // Passing all through, it has the parent's address.
                    let mac = (*mode != MacvlanMode::Passthru).then_some(link.mac);
                    let made = route.create_macvlan(&Macvlan {
                        parent,
                        mode: *mode,
                        name,
                        mac,
                        mtu,
                        netns,
                    });
                    made.map_err(|error| match (mode, error.errno()) {
                        (MacvlanMode::Passthru, Some(errno))
                            if errno == rustix::io::Errno::INVAL.raw_os_error() =>
                        {
                            NetworkError::NotAlone
                        }
                        _ => lacks("macvlan")(error),
                    })?;
                }
                LinkMode::Ipvlan(mode, flag) => {
                    let (mode, flag) = (*mode, *flag);
                    let made =
                        route.create_ipvlan(&Ipvlan { parent, mode, flag, name, mtu, netns });
                    made.map_err(lacks("ipvlan"))?;
                }
            }
        }
    }
    Ok(())
}

/// A kind of interface that the kernel does not know is called by its name.
fn lacks(driver: &'static str) -> impl FnOnce(NetlinkError) -> NetworkError {
    move |error| match error.errno() {
        Some(errno) if errno == rustix::io::Errno::OPNOTSUPP.raw_os_error() => {
            NetworkError::NoDriver(driver)
        }
        _ => error.into(),
    }
}

/// A new namespace with its interfaces.
pub(crate) fn make(
    owner: Option<&Owner>,
    with_dns: bool,
    endpoints: &[Endpoint],
    links: &[LinkPlan],
    plug: impl Fn(&LinkPlan, BorrowedFd<'_>) -> Result<(), NetworkError> + Sync,
) -> Result<Made, NetworkError> {
    in_thread(|| {
        let (netns, userns) = new_namespace(owner)?;
        // Before an interface is there, so that it never asks the network for IPv6.
        write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        for link in links {
            plug(link, netns.as_fd())?;
        }
        configure(endpoints, links, endpoints, true)?;
        let dns = if with_dns { Some(dns::open_sockets()?) } else { None };
        Ok((netns, userns, dns))
    })
}

/// The name server's sockets, for a container that had none.
pub fn open_sockets_in(netns: BorrowedFd<'_>) -> Result<DnsSockets, NetworkError> {
    in_thread(|| {
        process::setns(netns, process::NEWNET).map_err(NetworkError::io("enter the network"))?;
        dns::open_sockets()
    })
}

/// One more interface: the last of `all`.
pub(crate) fn add(
    netns: BorrowedFd<'_>,
    all: &[Endpoint],
    before: &[Endpoint],
    link: &LinkPlan,
    plug: impl Fn(&LinkPlan, BorrowedFd<'_>) -> Result<(), NetworkError> + Sync,
) -> Result<(), NetworkError> {
    let fresh = all.get(before.len()..).unwrap_or_default();
    in_thread(|| {
        process::setns(netns, process::NEWNET).map_err(NetworkError::io("enter the network"))?;
        plug(link, netns)?;
        let configured = configure(fresh, std::slice::from_ref(link), all, false);
        if configured.is_err() {
            let _ = delete(fresh);
            // What was the way out is it again.
            let _ = configure(&[], &[], before, false);
        }
        configured
    })
}

/// Some interfaces less.
pub(crate) fn remove(
    netns: BorrowedFd<'_>,
    gone: &[Endpoint],
    left: &[Endpoint],
) -> Result<(), NetworkError> {
    in_thread(|| {
        process::setns(netns, process::NEWNET).map_err(NetworkError::io("enter the network"))?;
        delete(gone)?;
        configure(&[], &[], left, false)
    })
}

fn delete(gone: &[Endpoint]) -> Result<(), NetworkError> {
    let mut socket = Socket::open(SocketKind::Route)?;
    for endpoint in gone {
        if let Some(link) = socket.link(&endpoint.inside)? {
            socket.delete_link(link.index)?;
        }
    }
    Ok(())
}

/// Addresses of fresh interfaces, and the way out among all.
fn configure(
    fresh: &[Endpoint],
    links: &[LinkPlan],
    all: &[Endpoint],
    first: bool,
) -> Result<(), NetworkError> {
    let mut socket = Socket::open(SocketKind::Route)?;
    let index = |socket: &mut Socket, endpoint: &Endpoint| {
        let gone = || NetworkError::io("find the interface")(std::io::ErrorKind::NotFound.into());
        Ok::<u32, NetworkError>(socket.link(&endpoint.inside)?.ok_or_else(gone)?.index)
    };
    let mut interfaces = Vec::new();
    for (endpoint, link) in fresh.iter().zip(links) {
        let number = index(&mut socket, endpoint)?;
        let conf = |name: &str| format!("/proc/sys/net/ipv6/conf/{}/{name}", endpoint.inside);
        // The first ones are as the namespace's default says: the kernel finds a setting the
        // slower the more namespaces there are.
        if link.ipv6 || !first {
            write(&conf("disable_ipv6"), if link.ipv6 { "0" } else { "1" });
        }
        if link.ipv6 {
            // The daemon says what addresses it has.
            write(&conf("accept_ra"), "0");
        }
        for (name, value) in &link.sysctls {
            let path = name.replace('.', "/").replace("IFNAME", &endpoint.inside);
            std::fs::write(format!("/proc/sys/net/{path}"), value)
                .map_err(NetworkError::io("set an interface's sysctl"))?;
        }
        let global = [endpoint.v4, endpoint.v6].into_iter().flatten();
        let mut addresses: Vec<(IpAddr, u8)> =
            global.map(|cidr| (cidr.address, cidr.prefix)).collect();
        addresses.extend(
            endpoint
                .link_local
                .iter()
                .map(|address| (*address, if address.is_ipv4() { 16 } else { 64 })),
        );
        interfaces.push(Interface { index: number, addresses });
    }
    let mut routes = Vec::new();
    for endpoint in all {
        let four = endpoint.gateway4.filter(|_| endpoint.way_out4).map(IpAddr::V4);
        let six = endpoint.gateway6.filter(|_| endpoint.way_out6).map(IpAddr::V6);
        for gateway in [four, six].into_iter().flatten() {
            let index = index(&mut socket, endpoint)?;
            routes.push(Route { destination: None, gateway: Some(gateway), index });
        }
    }
    if first {
        return Ok(socket.configure(true, &interfaces, &routes)?);
    }
    socket.configure(false, &interfaces, &[])?;
    for route in &routes {
        socket.replace_route(route)?;
    }
    Ok(())
}

/// Runs something in a thread that ends with it: what it does to its namespaces stays there.
fn in_thread<T: Send>(
    work: impl FnOnce() -> Result<T, NetworkError> + Send,
) -> Result<T, NetworkError> {
    std::thread::scope(|scope| {
        let handle = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, work)
            .map_err(NetworkError::io("start a thread"))?;
        handle.join().unwrap_or_else(|_| {
            Err(NetworkError::io("set up a network namespace")(std::io::ErrorKind::Other.into()))
        })
    })
}

/// Moves the calling thread into a new network namespace, which belongs to the machine or to a
/// user namespace. Into that one the thread does not go: it stays the machine's root.
fn new_namespace(owner: Option<&Owner>) -> Result<(OwnedFd, Option<OwnedFd>), NetworkError> {
    if let Some(owner) = owner {
        let (net, user) = match owner {
            Owner::New(maps) => {
                let made = userns::user_and_network(&maps.uid_map(), &maps.gid_map())
                    .map_err(NetworkError::Userns)?;
                (made.net, made.user)
            }
            Owner::Given(user) => {
                let user = user.try_clone().map_err(NetworkError::Userns)?;
                (userns::network_of(user.as_fd()).map_err(NetworkError::Userns)?, user)
            }
        };
        process::setns(net.as_fd(), process::NEWNET)
            .map_err(NetworkError::io("enter the network namespace"))?;
        return Ok((net, Some(user)));
    }
    process::unshare(process::NEWNET).map_err(NetworkError::io("make a network namespace"))?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let netns = rustix::fs::open("/proc/thread-self/ns/net", flags, Mode::empty())
        .map_err(|errno| NetworkError::io("open the network namespace")(errno.into()))?;
    Ok((netns, None))
}
