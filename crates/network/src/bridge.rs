//! The default bridge and what hangs on it: the only host-touching part of this room.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hoy_netlink::route::{Interface, Route, Veth};
use hoy_netlink::{Socket, SocketKind};
use hoy_sys::{process, userns};
use hoy_types::IdMaps;
use rustix::fs::{Mode, OFlags};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::address::{Pool, Subnet, choose};
use crate::firewall::{BridgeRules, Closed, Firewall, GatewayMode, Masquerade, Publication};
use crate::ports::Ports;
use crate::{BoundPort, Endpoint, EndpointSpec, NetworkError, NetworkSettings};

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
/// Our interfaces' names begin with this.
const PREFIX: &str = "hv";

/// A network namespace, ready to be entered.
#[derive(Debug)]
pub struct NetTicket {
    pub netns: OwnedFd,
    /// The user namespace that owns it, where that is not the machine's.
    pub userns: Option<OwnedFd>,
    /// `None` where there is only loopback.
    pub endpoint: Option<Endpoint>,
}

/// The default bridge.
#[derive(Debug)]
pub struct Network {
    settings: NetworkSettings,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    route: Socket,
    firewall: Firewall,
    ports: Ports,
    up: Option<Up>,
    /// Forwarding is on because of us.
    forwarding: bool,
}

#[derive(Debug)]
struct Up {
    index: u32,
    pool: Pool,
}

impl Network {
    /// In the namespace of the calling thread. Makes nothing yet but finds what a daemon before
    /// this one left: `endpoints` are those of running containers. `forwarding` says whether it
    /// was that daemon that had turned forwarding on.
    pub fn open(
        settings: NetworkSettings,
        endpoints: &[Endpoint],
        forwarding: bool,
    ) -> Result<Self, NetworkError> {
        let mut state = State {
            route: Socket::open(SocketKind::Route)?,
            firewall: Firewall::open()?,
            ports: Ports::default(),
            up: None,
            forwarding,
        };
        state.adopt(&settings, endpoints)?;
        Ok(Self { settings, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Address and prefix of the bridge, once it is there.
    pub fn subnet(&self) -> Option<Subnet> {
        self.state().up.as_ref().map(|up| up.pool.subnet())
    }

    /// Whether forwarding is on because of us: to be remembered for `open` and `clean`.
    pub fn forwarding(&self) -> bool {
        self.state().forwarding
    }

    /// A namespace with loopback only.
    pub fn loopback(&self, owner: Option<&IdMaps>) -> Result<NetTicket, NetworkError> {
        in_thread(|| {
            let (netns, userns) = new_namespace(owner)?;
            Socket::open(SocketKind::Route)?.set_up(1)?;
            Ok(NetTicket { netns, userns, endpoint: None })
        })
    }

    /// A namespace with an interface on the bridge, its address and its ports.
    pub fn connect(&self, spec: &EndpointSpec) -> Result<NetTicket, NetworkError> {
        let id = random_hex()?;
        let (index, endpoint) = self.allocate(spec, &id)?;
        match self.attach(index, &endpoint, spec.owner.as_ref()) {
            Ok((netns, userns)) => Ok(NetTicket { netns, userns, endpoint: Some(endpoint) }),
            Err(error) => {
                self.release(&endpoint);
                Err(error)
            }
        }
    }

    /// Address and ports, and the ports' elements.
    fn allocate(&self, spec: &EndpointSpec, id: &str) -> Result<(u32, Endpoint), NetworkError> {
        let mut guard = self.state();
        let state = &mut *guard;
        if state.up.is_none() {
            state.bring_up(&self.settings)?;
        }
        let up = state.up.as_mut().ok_or(NetworkError::NoPool)?;
        let subnet = up.pool.subnet();
        let refused = |reason| NetworkError::Port {
            name: spec.name.clone(),
            endpoint: id.to_owned(),
            reason,
        };
        let ports = state.ports.reserve(&spec.ports, self.settings.host_ip, refused)?;
        let Some(address) = up.pool.take() else {
            state.ports.release(&ports);
            return Err(NetworkError::Exhausted);
        };
        let endpoint = Endpoint {
            id: id.to_owned(),
            address,
            prefix: subnet.prefix,
            gateway: subnet.address,
            mac: mac_text(mac(address)),
            interface: format!("{PREFIX}{}", id.get(..9).unwrap_or(id)),
            ports,
        };
        let index = up.index;
        let publications = publications(&self.settings.bridge, &endpoint);
        if let Err(error) = state.firewall.publish(&publications) {
            drop(guard);
            self.release(&endpoint);
            return Err(error);
        }
        Ok((index, endpoint))
    }

    /// The kernel's part, in a thread of its own, since the namespace is a thread's.
    fn attach(
        &self,
        bridge: u32,
        endpoint: &Endpoint,
        owner: Option<&IdMaps>,
    ) -> Result<(OwnedFd, Option<OwnedFd>), NetworkError> {
        let host = &self.state;
        in_thread(|| {
            let (netns, userns) = new_namespace(owner)?;
            // Before the interface is there, so that it never asks the network for IPv6.
            write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
            let veth = Veth {
                name: &endpoint.interface,
                bridge,
                peer: "eth0",
                peer_mac: mac(endpoint.address),
                netns: netns.as_fd(),
                mtu: self.settings.mtu,
                isolated: !self.settings.icc,
                hairpin: true,
            };
            {
                let mut state = host.lock().unwrap_or_else(PoisonError::into_inner);
                state.route.create_veth(&veth)?;
            }
            let mut inside = Socket::open(SocketKind::Route)?;
            // The first interface of a new namespace after loopback (and the kernel's templates).
            let index = inside
                .links()?
                .into_iter()
                .find(|link| link.name == "eth0")
                .map(|link| link.index)
                .ok_or_else(|| {
                    NetworkError::io("find eth0")(std::io::ErrorKind::NotFound.into())
                })?;
            let interface =
                Interface { index, addresses: vec![(endpoint.address.into(), endpoint.prefix)] };
            let route = Route { destination: None, gateway: Some(endpoint.gateway.into()), index };
            inside.configure(true, &[interface], &[route])?;
            Ok((netns, userns))
        })
    }

    /// Takes an endpoint back. The interface goes with its namespace, by the kernel.
    pub fn release(&self, endpoint: &Endpoint) {
        let mut guard = self.state();
        let state = &mut *guard;
        let publications = publications(&self.settings.bridge, endpoint);
        // Gone already, with the whole table perhaps: that is what is wanted.
        let _ = state.firewall.withdraw(&publications);
        state.ports.release(&endpoint.ports);
        if let Some(up) = &mut state.up {
            up.pool.give_back(endpoint.address);
        }
    }

    /// Takes bridge, table and forwarding back.
    pub fn clean(&self) -> Result<(), NetworkError> {
        let mut guard = self.state();
        let state = &mut *guard;
        state.firewall.remove()?;
        if let Some(up) = state.up.take() {
            state.route.delete_link(up.index)?;
        }
        if state.forwarding {
            write(FORWARD, "0");
            state.forwarding = false;
        }
        Ok(())
    }
}

impl State {
    fn find_bridge(&mut self, settings: &NetworkSettings) -> Result<Option<Up>, NetworkError> {
        let links = self.route.links()?;
        let Some(link) = links.into_iter().find(|link| link.name == settings.bridge) else {
            return Ok(None);
        };
        let addresses = self.route.addresses()?;
        let mut found = addresses.into_iter().filter(|a| a.index == link.index);
        let Some((address, prefix)) = found.find_map(|a| Some((ipv4(a.address)?, a.prefix))) else {
            // Half made: begin again.
            self.route.delete_link(link.index)?;
            return Ok(None);
        };
        let subnet = Subnet { address, prefix };
        if settings.subnet.is_some_and(|wanted| wanted != subnet) {
            self.route.delete_link(link.index)?;
            return Ok(None);
        }
        Ok(Some(Up { index: link.index, pool: Pool::new(subnet) }))
    }

    /// After a restart: same addresses, same ports, stale things gone.
    fn adopt(
        &mut self,
        settings: &NetworkSettings,
        endpoints: &[Endpoint],
    ) -> Result<(), NetworkError> {
        let Some(mut up) = self.find_bridge(settings)? else { return Ok(()) };
        for endpoint in endpoints {
            up.pool.restore(endpoint.address);
            self.ports.restore(&endpoint.ports);
        }
        self.up = Some(up);
        self.install(settings, endpoints)?;
        let known = |name: &str| endpoints.iter().any(|endpoint| endpoint.interface == name);
        for link in self.route.links()? {
            let hex = link.name.strip_prefix(PREFIX).unwrap_or("");
            let ours = hex.len() == 9 && hex.bytes().all(|c| c.is_ascii_hexdigit());
            if ours && !known(&link.name) {
                let _ = self.route.delete_link(link.index);
            }
        }
        Ok(())
    }

    fn bring_up(&mut self, settings: &NetworkSettings) -> Result<(), NetworkError> {
        if let Some(up) = self.find_bridge(settings)? {
            self.up = Some(up);
        } else {
            let subnet = match settings.subnet {
                Some(subnet) => subnet,
                None => {
                    let routes = self.route.routes()?.into_iter().filter_map(|r| r.destination);
                    let addresses =
                        self.route.addresses()?.into_iter().map(|a| (a.address, a.prefix));
                    let taken: Vec<(Ipv4Addr, u8)> = routes
                        .chain(addresses)
                        .filter_map(|(address, prefix)| Some((ipv4(address)?, prefix)))
                        .collect();
                    choose(&taken).ok_or(NetworkError::NoPool)?
                }
            };
            let mut mac_bytes = random::<6>()?;
            mac_bytes[0] = mac_bytes[0] & 0xfc | 2;
            self.route.create_bridge(&settings.bridge, mac_bytes, settings.mtu)?;
            let links = self.route.links()?;
            let index = links
                .iter()
                .find(|link| link.name == settings.bridge)
                .map(|link| link.index)
                .ok_or_else(|| {
                    NetworkError::io("find the bridge")(std::io::ErrorKind::NotFound.into())
                })?;
            self.route.add_address(index, subnet.address.into(), subnet.prefix)?;
            self.up = Some(Up { index, pool: Pool::new(subnet) });
        }
        // Loopback publications are routed to the bridge.
        write(&format!("/proc/sys/net/ipv4/conf/{}/route_localnet", settings.bridge), "1");
        if settings.forward && read(FORWARD).trim() == "0" {
            self.forwarding = write(FORWARD, "1");
        }
        self.install(settings, &[])
    }

    fn install(
        &mut self,
        settings: &NetworkSettings,
        endpoints: &[Endpoint],
    ) -> Result<(), NetworkError> {
        let rules = BridgeRules {
            interface: settings.bridge.clone(),
            icc: settings.icc,
            internal: false,
            masquerade4: if settings.masquerade { Masquerade::Yes } else { Masquerade::No },
            masquerade6: Masquerade::No,
            mode4: GatewayMode::Nat,
            mode6: GatewayMode::Nat,
            trusted: Vec::new(),
        };
        let publications =
            endpoints.iter().flat_map(|endpoint| publications(&settings.bridge, endpoint));
        let closed = Closed { v4: self.forwarding, v6: false };
        self.firewall.install(closed, vec![rules], publications.collect())
    }
}

fn publications(bridge: &str, endpoint: &Endpoint) -> Vec<Publication> {
    let publication = |port: &BoundPort| Publication {
        protocol: port.container.protocol,
        host_ip: port.host_ip.into(),
        host_port: port.host_port,
        target: (endpoint.address, port.container.port).into(),
        interface: bridge.to_owned(),
        mode: GatewayMode::Nat,
    };
    endpoint.ports.iter().map(publication).collect()
}

fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
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

/// Moves the calling thread into a new network namespace, which belongs to the machine or to a new
/// user namespace. Into that one the thread does not go: it stays the machine's root.
fn new_namespace(owner: Option<&IdMaps>) -> Result<(OwnedFd, Option<OwnedFd>), NetworkError> {
    if let Some(maps) = owner {
        let made = userns::user_and_network(&maps.uid_map(), &maps.gid_map())
            .map_err(NetworkError::Userns)?;
        process::setns(made.net.as_fd(), process::NEWNET)
            .map_err(NetworkError::io("enter the network namespace"))?;
        return Ok((made.net, Some(made.user)));
    }
    process::unshare(process::NEWNET).map_err(NetworkError::io("make a network namespace"))?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let netns = rustix::fs::open("/proc/thread-self/ns/net", flags, Mode::empty())
        .map_err(|errno| NetworkError::io("open the network namespace")(errno.into()))?;
    Ok((netns, None))
}

fn random<const N: usize>() -> Result<[u8; N], NetworkError> {
    let mut bytes = [0; N];
    getrandom(&mut bytes, GetRandomFlags::empty())
        .map_err(|errno| NetworkError::io("get random bytes")(errno.into()))?;
    Ok(bytes)
}

fn random_hex() -> Result<String, NetworkError> {
    Ok(hoy_types::Digest::from_sha256(random::<32>()?).hex())
}

/// A locally administered unicast address that goes with an address, as Docker's did: whoever
/// reached the one that had it before, reaches the one that has it now, without asking anew.
fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x42, a, b, c, d]
}

fn mac_text(mac: [u8; 6]) -> String {
    let parts: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    parts.join(":")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Kernel settings that may not exist here are left alone.
fn write(path: &str, value: &str) -> bool {
    std::fs::write(path, value).is_ok()
}
