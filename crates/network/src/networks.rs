//! All networks of the daemon: their bridges, their addresses, and the way in and out of
//! containers.
//!
//! One lock guards what is given; what waits for the kernel (a namespace, the end of an interface)
//! is done outside of it. Everything works in whatever network namespace the daemon runs in.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hoy_netlink::route::Address;
use hoy_netlink::{Socket, SocketKind};
use hoy_types::{PortBinding, PortSpec};

use crate::address::{Cidr, Claim, Pool};
use crate::dns::DnsSockets;
use crate::firewall::{Closed, Firewall, Flows, GatewayMode, Opening, Place, Publication};
use crate::host::{self, Forwarding, HostSettings};
use crate::inside::{self, LinkPlan};
use crate::ports::{BoundPort, Families, Ports, Wanted};
use crate::sandbox::{Endpoint, EndpointSpec, SandboxSpec, decide_way_out, next_name};
use crate::spec::{
    BridgeOptions, Driver, Facts, LinkOptions, NetworkRequest, NetworkSpec, SpecError,
};
use crate::watch::Watcher;
use crate::{NetworkError, Settings};

/// Our interfaces' names begin with this.
pub(crate) const PREFIX: &str = "hv";
/// How long an interface waits for its parent to be free, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);

/// A network namespace, ready to be entered.
#[derive(Debug)]
pub struct Ticket {
    pub netns: OwnedFd,
    /// The user namespace that owns it, where that is not the machine's.
    pub userns: Option<OwnedFd>,
    pub endpoints: Vec<Endpoint>,
    pub dns: Option<DnsSockets>,
}

/// All networks.
#[derive(Debug)]
pub struct Networks {
    settings: Settings,
    host: HostSettings,
    state: Arc<Mutex<State>>,
    /// Where the table can be taken away by others.
    _watcher: Option<Watcher>,
}

#[derive(Debug)]
struct State {
    route: Socket,
    firewall: Firewall,
    ports: Ports,
    nets: HashMap<String, Net>,
    forwarding: Forwarding,
    /// Where interfaces beside the host's are, by the endpoint: a namespace may outlive its
    /// container for as long as the kernel keeps a connection, and they are to go at once.
    beside: HashMap<String, OwnedFd>,
    /// To be forgotten once nobody waits for us.
    flows: Flows,
}

/// One container that knows another, and may reach ports of it that are for others closed.
#[derive(Clone, Debug)]
pub struct Link<'a> {
    pub from: &'a Endpoint,
    pub to: &'a Endpoint,
    pub ports: Vec<PortSpec>,
}

/// A network and what is given of it.
#[derive(Debug)]
struct Net {
    spec: NetworkSpec,
    kind: Kind,
    pools: Vec<Pool>,
    /// The bridge's or the parent's number, once it is there.
    link: Option<u32>,
    endpoints: usize,
}

#[derive(Debug)]
enum Kind {
    Bridge(BridgeOptions),
    Link(LinkOptions),
}

impl Net {
    fn new(spec: NetworkSpec) -> Result<Self, NetworkError> {
        let kind = match spec.driver {
            Driver::Bridge => Kind::Bridge(spec.bridge_options()?),
            Driver::Macvlan | Driver::Ipvlan => Kind::Link(spec.link_options()?),
        };
        let pools = spec.pools.iter().map(|pool| {
            let mut aside: Vec<IpAddr> = pool.set_aside.values().copied().collect();
            aside.extend(pool.gateway);
            Pool::new(pool.subnet, pool.range, &aside)
        });
        Ok(Self { pools: pools.collect(), kind, link: None, endpoints: 0, spec })
    }

    fn keeps_apart(&self) -> bool {
        matches!(&self.kind, Kind::Bridge(options) if !options.icc)
    }

    fn prefix(&self) -> &str {
        match &self.kind {
            Kind::Bridge(options) => &options.prefix,
            Kind::Link(options) => &options.prefix,
        }
    }

    /// Where packets of a container leave the network, if they may.
    fn gateway(&self, v4: bool) -> Option<IpAddr> {
        let isolated = |options: &BridgeOptions| {
            let mode = if v4 { options.mode4 } else { options.mode6 };
            mode == GatewayMode::Isolated || (v4 && options.inhibit4)
        };
        if self.spec.internal || matches!(&self.kind, Kind::Link(options) if options.own) {
            return None;
        }
        if let (Kind::Bridge(_), Some(other)) = (&self.kind, self.spec.other_gateway(v4)) {
            return Some(other);
        }
        match &self.kind {
            Kind::Bridge(options) if isolated(options) => match options.inhibit4 {
                // Another host of the network is the gateway.
                true if v4 && options.mode4 != GatewayMode::Isolated => {
                    self.spec.gateway(v4).map(|gateway| gateway.address)
                }
                _ => None,
            },
            _ => self.spec.gateway(v4).map(|gateway| gateway.address),
        }
    }

    fn take(&mut self, v4: bool, wanted: Option<IpAddr>) -> Result<Option<Cidr>, NetworkError> {
        let on = if v4 { self.spec.ipv4 } else { self.spec.ipv6 };
        let mut pools = self.pools.iter_mut().filter(|pool| pool.subnet().is_ipv4() == v4);
        match wanted {
            Some(address) => {
                let claimed = pools
                    .find(|pool| pool.subnet().contains(address))
                    .ok_or(Claim::Outside)
                    .and_then(|pool| pool.claim(address));
                claimed.map(Some).map_err(|why| NetworkError::address(why, address))
            }
            None if !on => Ok(None),
            None => {
                let taken = pools.find_map(Pool::take).map(Some);
                taken.ok_or_else(|| NetworkError::Exhausted {
                    family: if v4 { "IPv4" } else { "IPv6" },
                    network: format!("{} ({})", self.spec.name, self.spec.id),
                })
            }
        }
    }

    fn give_back(&mut self, address: IpAddr) {
        if let Some(pool) = self.pools.iter_mut().find(|pool| pool.subnet().contains(address)) {
            pool.give_back(address);
        }
    }
}

impl Networks {
    /// In the namespace of the calling thread. `specs` are the networks that people made,
    /// `running` the endpoints of what runs since before. The default bridge is not made before
    /// somebody needs it. `kept` is the owner of the rules, where somebody has kept it.
    pub fn open(
        settings: Settings,
        specs: Vec<NetworkSpec>,
        running: &[Endpoint],
        forwarding: Forwarding,
        kept: Option<OwnedFd>,
    ) -> Result<Self, NetworkError> {
        let mut state = State {
            route: Socket::open(SocketKind::Route)?,
            firewall: match kept {
                Some(kept) => Firewall::open_kept(kept)?,
                None => Firewall::open()?,
            }
            .with_direct_routing(settings.direct),
            ports: match &settings.keeper {
                Some(keeper) => Ports::open(keeper.clone()),
                None => Ports::without_keeper(),
            },
            nets: HashMap::new(),
            forwarding,
            beside: HashMap::new(),
            flows: Flows::default(),
        };
        let default = state.default_bridge(&settings, &specs)?;
        for spec in specs.into_iter().chain(default) {
            let id = spec.id.clone();
            match Net::new(spec) {
                Ok(net) => drop(state.nets.insert(id, net)),
                Err(error) => tracing::error!(network = id, %error, "a network that cannot be"),
            }
        }
        state.adopt(&settings, running)?;
        let owned = state.firewall.is_owned();
        let state = Arc::new(Mutex::new(state));
        let watcher = match owned {
            true => None,
            false => {
                let watched = Arc::downgrade(&state);
                Some(Watcher::start(move || match watched.upgrade() {
                    Some(state) => {
                        state.lock().unwrap_or_else(PoisonError::into_inner).firewall.repair()
                    }
                    None => Ok(false),
                })?)
            }
        };
        Ok(Self { settings, host: HostSettings::open(), state, _watcher: watcher })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the network is, as it was decided.
    pub fn spec(&self, id: &str) -> Option<NetworkSpec> {
        self.state().nets.get(id).map(|net| net.spec.clone())
    }

    /// Of each subnet: how many addresses are used, and how many are left for who names none.
    pub fn usage(&self, id: &str) -> Vec<(Cidr, u64, u64)> {
        let state = self.state();
        let pools = state.nets.get(id).map(|net| net.pools.iter()).into_iter().flatten();
        pools
            .map(|pool| {
                let (used, left) = pool.counts();
                (pool.subnet(), used, left)
            })
            .collect()
    }

    /// The bridges whose containers are to be reached, and to reach others: those that are there
    /// and the default one, which may come yet.
    pub fn bridges(&self) -> Vec<String> {
        let state = self.state();
        let open = state.nets.values().filter(|net| !net.spec.internal);
        let bridges = open.filter(|net| matches!(net.kind, Kind::Bridge(_)));
        let mut out: Vec<String> = bridges.map(|net| net.spec.interface()).collect();
        out.sort();
        out
    }

    /// What owns the rules: as long as somebody keeps it, nobody else can take them away.
    pub fn owner_of_the_rules(&self) -> Result<OwnedFd, NetworkError> {
        let state = self.state();
        let copy = state.firewall.descriptor().try_clone_to_owned();
        copy.map_err(NetworkError::io("keep the owner of the rules"))
    }

    /// Which forwarding is on because of us: to be remembered for `open` and `clean`.
    pub fn forwarding(&self) -> Forwarding {
        self.state().forwarding
    }

    /// Outside of the lock: the kernel takes its time for it.
    fn forget_flows(&self) {
        let flows = std::mem::take(&mut self.state().flows);
        if let Err(error) = flows.forget() {
            tracing::warn!(%error, "old flows of UDP go on where they went");
        }
    }

    /// Decides a network and keeps its place. It is made by `realize`, once it is written down.
    pub fn decide(&self, request: NetworkRequest) -> Result<NetworkSpec, NetworkError> {
        let mut state = self.state();
        let facts = state.facts(&self.settings, &request)?;
        let spec = NetworkSpec::decide(request, &facts)?;
        let net = Net::new(spec.clone())?;
        // What people name is there, or the network cannot be.
        if let Kind::Link(options) = &net.kind
            && !options.own
        {
            state.parent(options)?;
        }
        state.nets.insert(spec.id.clone(), net);
        Ok(spec)
    }

    /// Makes what a network needs of the host.
    pub fn realize(&self, id: &str) -> Result<(), NetworkError> {
        self.state().bring_up(&self.settings, id).map(drop)
    }

    /// Takes a network back. Containers in it are the caller's to ask for; here it is refused.
    pub fn remove(&self, id: &str) -> Result<(), NetworkError> {
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(net) = state.nets.get(id) else { return Ok(()) };
        if net.endpoints > 0 {
            return Err(NetworkError::InUse(net.spec.name.clone()));
        }
        let (bridge, adopted) = match &net.kind {
            Kind::Bridge(options) => (Some(options.interface(id)), net.spec.adopted),
            Kind::Link(options) => (None, !options.own),
        };
        let link = net.link;
        if let Some(bridge) = &bridge {
            state.firewall.remove_bridge(bridge)?;
        }
        if let (Some(index), false) = (link, adopted) {
            state.route.delete_link(index)?;
        }
        state.nets.remove(id);
        Ok(())
    }

    /// A namespace with loopback and an interface for each endpoint, their addresses, their way
    /// out and their ports.
    pub fn sandbox(&self, spec: &SandboxSpec) -> Result<Ticket, NetworkError> {
        let mut endpoints = Vec::new();
        let made = self.fill(spec, &mut endpoints);
        match made {
            Ok((netns, userns, dns)) => Ok(Ticket { netns, userns, endpoints, dns }),
            Err(error) => {
                self.release(&endpoints);
                Err(error)
            }
        }
    }

    fn fill(
        &self,
        spec: &SandboxSpec,
        endpoints: &mut Vec<Endpoint>,
    ) -> Result<inside::Made, NetworkError> {
        let mut links = Vec::new();
        {
            let mut guard = self.state();
            let state = &mut *guard;
            for wanted in &spec.endpoints {
                links.push(state.allocate(&self.settings, wanted, endpoints)?);
            }
            decide_way_out(endpoints);
            state.open_ports(&self.settings, &spec.name, &spec.ports, endpoints)?;
        }
        self.forget_flows();
        let made =
            inside::make(spec.owner.as_ref(), spec.dns, endpoints, &links, |link, netns| {
                self.plug(link, netns)
            })?;
        self.remember_beside(made.0.as_fd(), endpoints);
        Ok(made)
    }

    /// Makes the interface of an endpoint in its namespace. One that needs its parent alone waits
    /// for those to go that were there before: with a namespace that the kernel has not cleaned up.
    fn plug(&self, link: &LinkPlan, netns: BorrowedFd<'_>) -> Result<(), NetworkError> {
        let started = Instant::now();
        loop {
            match inside::create(&mut self.state().route, &self.host, link, netns) {
                Err(NetworkError::NotAlone) if started.elapsed() < PATIENCE => {
                    std::thread::sleep(LOOK);
                }
                other => return other,
            }
        }
    }

    fn remember_beside(&self, netns: BorrowedFd<'_>, endpoints: &[Endpoint]) {
        let mut state = self.state();
        for endpoint in endpoints.iter().filter(|endpoint| endpoint.interface.is_empty()) {
            if let Ok(netns) = netns.try_clone_to_owned() {
                state.beside.insert(endpoint.id.clone(), netns);
            }
        }
    }

    /// One more endpoint for a container that runs. Gives all endpoints as they are now: another
    /// may have become the way out, and ports go where that is. `bindings` are all that the
    /// container wants: as long as it had no way out, it has none of them.
    pub fn connect(
        &self,
        netns: BorrowedFd<'_>,
        name: &str,
        bindings: &[PortBinding],
        before: &[Endpoint],
        spec: &EndpointSpec,
    ) -> Result<Vec<Endpoint>, NetworkError> {
        let mut all = before.to_vec();
        let ports = wanted_again(bindings, before);
        let link = {
            let mut guard = self.state();
            let state = &mut *guard;
            let link = state.allocate(&self.settings, spec, &mut all)?;
            decide_way_out(&mut all);
            if let Err(error) = state.move_ports(&self.settings, name, &ports, before, &mut all) {
                drop(guard);
                self.release(all.get(before.len()..).unwrap_or_default());
                return Err(error);
            }
            link
        };
        self.forget_flows();
        let done = inside::add(netns, &all, before, &link, |link, netns| self.plug(link, netns));
        if let Err(error) = done {
            let mut old = before.to_vec();
            let mut guard = self.state();
            let state = &mut *guard;
            let _ = state.move_ports(&self.settings, name, &ports, &all, &mut old);
            drop(guard);
            self.release(all.get(before.len()..).unwrap_or_default());
            return Err(error);
        }
        self.remember_beside(netns, all.get(before.len()..).unwrap_or_default());
        Ok(all)
    }

    /// One endpoint less, of a container that runs. Gives those that are left.
    pub fn disconnect(
        &self,
        netns: BorrowedFd<'_>,
        name: &str,
        bindings: &[PortBinding],
        before: &[Endpoint],
        network: &str,
    ) -> Result<Vec<Endpoint>, NetworkError> {
        let ports = wanted_again(bindings, before);
        let (gone, mut left): (Vec<Endpoint>, Vec<Endpoint>) =
            before.iter().cloned().partition(|endpoint| endpoint.network == network);
        decide_way_out(&mut left);
        {
            let mut guard = self.state();
            let state = &mut *guard;
            state.move_ports(&self.settings, name, &ports, before, &mut left)?;
        }
        self.forget_flows();
        if let Err(error) = inside::remove(netns, &gone, &left) {
            // Still there, and with it what it has.
            let mut again = before.to_vec();
            let mut guard = self.state();
            let _ = guard.move_ports(&self.settings, name, &ports, &left, &mut again);
            return Err(error);
        }
        let quiet: Vec<Endpoint> =
            gone.into_iter().map(|endpoint| Endpoint { ports: Vec::new(), ..endpoint }).collect();
        self.release(&quiet);
        Ok(left)
    }

    /// Whether containers of a network are kept apart, so that a link must open ports.
    pub fn keeps_apart(&self, network: &str) -> bool {
        self.state().nets.get(network).is_some_and(Net::keeps_apart)
    }

    /// Opens ports of some endpoints to others, where their network keeps them apart.
    pub fn link(&self, links: &[Link<'_>]) -> Result<(), NetworkError> {
        let mut guard = self.state();
        let state = &mut *guard;
        let isolated = !host::filters_bridges();
        for link in links {
            let Some(opening) = state.opening(link) else { continue };
            state.firewall.open_ports(opening, isolated)?;
            // Only now: until here nothing was between them.
            for end in [link.from, link.to].iter().filter(|_| isolated) {
                state.route.set_bridge_port(&end.interface, true, false)?;
            }
        }
        Ok(())
    }

    /// What was opened before this daemon began, and nothing else, to and from all that `running`.
    pub fn link_again(
        &self,
        links: &[Link<'_>],
        running: &[&Endpoint],
    ) -> Result<(), NetworkError> {
        let mut guard = self.state();
        let state = &mut *guard;
        let isolated = !host::filters_bridges();
        let openings: Vec<Opening> = links.iter().filter_map(|link| state.opening(link)).collect();
        let open = |endpoint: &Endpoint| {
            openings.iter().any(|one| one.from.id == endpoint.id || one.to.id == endpoint.id)
        };
        for endpoint in running.iter().filter(|endpoint| isolated && !open(endpoint)) {
            if state.nets.get(&endpoint.network).is_some_and(Net::keeps_apart) {
                // Who it was linked to may have gone while no daemon ran. So may this one.
                let _ = state.route.set_bridge_port(&endpoint.interface, true, true);
            }
        }
        state.firewall.open_again(openings, isolated)
    }

    /// Closes what was opened by these endpoints and to them, before what stays is opened again.
    pub fn close_links(&self, endpoints: &[Endpoint]) -> Result<(), NetworkError> {
        self.state().close_links(endpoints)
    }

    /// Takes endpoints back. Their interfaces go with their namespace, by the kernel; those beside
    /// the host's at once.
    pub fn release(&self, endpoints: &[Endpoint]) {
        let mut guard = self.state();
        let state = &mut *guard;
        state.close_ports(endpoints);
        if let Err(error) = state.close_links(endpoints) {
            tracing::warn!(%error, "ports stay open to a linked container");
        }
        for endpoint in endpoints {
            let Some(net) = state.nets.get_mut(&endpoint.network) else { continue };
            for cidr in [endpoint.v4, endpoint.v6].into_iter().flatten() {
                net.give_back(cidr.address);
            }
            net.endpoints = net.endpoints.saturating_sub(1);
        }
        let beside: Vec<_> = endpoints
            .iter()
            .filter_map(|endpoint| Some((state.beside.remove(&endpoint.id)?, endpoint)))
            .collect();
        drop(guard);
        for (netns, endpoint) in beside {
            if let Err(error) = inside::remove(netns.as_fd(), std::slice::from_ref(endpoint), &[]) {
                tracing::warn!(interface = endpoint.inside, %error, "an interface stays for a while");
            }
        }
        self.forget_flows();
    }

    /// Takes bridges, table, helper and forwarding back.
    pub fn clean(&self) -> Result<(), NetworkError> {
        let mut guard = self.state();
        let state = &mut *guard;
        state.firewall.remove()?;
        state.ports.end();
        for net in state.nets.values_mut() {
            let ours = match &net.kind {
                Kind::Bridge(_) => !net.spec.adopted,
                Kind::Link(options) => options.own,
            };
            if let (Some(index), true) = (net.link.take(), ours) {
                state.route.delete_link(index)?;
            }
        }
        state.forwarding.give_back();
        Ok(())
    }
}

/// The ports of a container as they are, to be had again elsewhere; those that it has not got, as
/// they are wanted.
fn wanted_again(bindings: &[PortBinding], endpoints: &[Endpoint]) -> Vec<PortBinding> {
    let mut out: Vec<PortBinding> = Vec::new();
    for port in endpoints.iter().flat_map(|endpoint| &endpoint.ports) {
        let binding = PortBinding {
            container: port.container,
            host_ip: Some(port.host_ip),
            host_ports: Some((port.host_port, port.host_port)),
        };
        if !out.contains(&binding) {
            out.push(binding);
        }
    }
    let has: Vec<_> = out.iter().map(|binding| binding.container).collect();
    out.extend(bindings.iter().filter(|one| !has.contains(&one.container)).cloned());
    out
}

impl State {
    /// The default bridge as it is, or as it will be: nobody else gets its subnet.
    fn default_bridge(
        &mut self,
        settings: &Settings,
        specs: &[NetworkSpec],
    ) -> Result<Option<NetworkSpec>, NetworkError> {
        let Some(request) = &settings.default else { return Ok(None) };
        let mut request = request.clone();
        let interface = BridgeOptions::parse(&request.options)?.interface(&request.id);
        let mut facts = self.facts(settings, &request)?;
        facts.networks.extend(specs.iter().flat_map(NetworkSpec::subnets));
        if let Some(link) = self.route.link(&interface)? {
            // Whatever it was made with before, unless somebody says otherwise.
            let own: Vec<Cidr> = self
                .route
                .addresses()?
                .into_iter()
                .filter(|address| address.index == link.index)
                .filter_map(|found| Cidr::new(found.address, found.prefix))
                .collect();
            facts.host.retain(|taken| !own.iter().any(|own| own.overlaps(taken)));
            for own in own {
                let global = match own.address {
                    IpAddr::V4(_) => request.ipv4,
                    IpAddr::V6(address) => request.ipv6 && !address.is_unicast_link_local(),
                };
                let named = |pool: &crate::spec::PoolRequest| {
                    pool.subnet.is_some_and(|subnet| subnet.is_ipv4() == own.is_ipv4())
                };
                let mut unnamed = request.pools.iter_mut().filter(|pool| pool.subnet.is_none());
                if let (true, Some(pool)) = (global && own.is_ipv4(), unnamed.next()) {
                    (pool.subnet, pool.gateway) = (Some(own.network()), Some(own.address));
                } else if global && !request.pools.iter().any(named) {
                    request.pools.push(crate::spec::PoolRequest {
                        subnet: Some(own.network()),
                        gateway: Some(own.address),
                        ..Default::default()
                    });
                }
            }
        }
        // A bridge of that name is the one of a daemon before this one.
        facts.links.clear();
        match NetworkSpec::decide(request, &facts) {
            Ok(spec) => Ok(Some(spec)),
            // What somebody wants of it cannot be.
            Err(error @ SpecError::Gateway(_)) => Err(error.into()),
            Err(error) => {
                // The others can be used all the same.
                tracing::error!(%error, "the default bridge cannot be");
                Ok(None)
            }
        }
    }

    fn facts(
        &mut self,
        settings: &Settings,
        request: &NetworkRequest,
    ) -> Result<Facts, NetworkError> {
        let mut host: Vec<Cidr> = Vec::new();
        for route in self.route.routes()? {
            host.extend(route.destination.and_then(|(address, prefix)| Cidr::new(address, prefix)));
        }
        for address in self.route.addresses()? {
            host.extend(Cidr::new(address.address, address.prefix));
        }
        host.extend(host::name_servers(&settings.resolv_conf));
        let ours = |net: &Net| (net.spec.interface(), net.spec.name.clone());
        let others = self.nets.values().filter(|net| net.spec.id != request.id);
        Ok(Facts {
            networks: others.clone().flat_map(|net| net.spec.subnets()).collect(),
            host,
            supplies: settings.supplies.clone(),
            interfaces: others.map(ours).collect(),
            links: self.route.links()?.into_iter().map(|link| link.name).collect(),
        })
    }

    /// After a restart: same addresses, same ports, stale things gone.
    fn adopt(&mut self, settings: &Settings, running: &[Endpoint]) -> Result<(), NetworkError> {
        for endpoint in running {
            let Some(net) = self.nets.get_mut(&endpoint.network) else { continue };
            net.endpoints += 1;
            for cidr in [endpoint.v4, endpoint.v6].into_iter().flatten() {
                let pool = net.pools.iter_mut().find(|pool| pool.subnet().contains(cidr.address));
                if let Some(pool) = pool {
                    pool.restore(cidr.address);
                }
            }
        }
        let ports: Vec<BoundPort> =
            running.iter().flat_map(|endpoint| endpoint.ports.iter().copied()).collect();
        for lost in self.ports.restore(&ports) {
            tracing::warn!("{lost}");
        }
        self.ports.settle();
        let mut ids: Vec<String> = self.nets.keys().cloned().collect();
        ids.sort();
        let mut rules = Vec::new();
        let addresses = self.route.addresses()?;
        for id in &ids {
            let lazy = settings.default.as_ref().is_some_and(|default| default.id == *id);
            let made = match lazy {
                true => self.find(id),
                false => self.make(settings, id, Some(&addresses)).map(drop),
            };
            if let Err(error) = made {
                tracing::error!(network = id, %error, "a network that cannot be made");
                continue;
            }
            if let Some(net) = self.nets.get(id)
                && let Kind::Bridge(options) = &net.kind
                && net.link.is_some()
            {
                rules.push(options.rules(&net.spec));
            }
        }
        if !rules.is_empty() {
            let publications = self.publications(running);
            self.firewall.install(self.closed(settings), rules, publications)?;
        }
        let known = |name: &str| running.iter().any(|endpoint| endpoint.interface == name);
        for link in self.route.links()? {
            let hex = link.name.strip_prefix(PREFIX).unwrap_or("");
            let ours = hex.len() == 9 && hex.bytes().all(|c| c.is_ascii_hexdigit());
            if ours && !known(&link.name) {
                let _ = self.route.delete_link(link.index);
            }
        }
        Ok(())
    }

    /// Where strangers' packets do not pass.
    fn closed(&self, settings: &Settings) -> Closed {
        match settings.open {
            true => Closed { v4: false, v6: false },
            false => self.forwarding.closed(),
        }
    }

    /// The number of a network's interface where that is there already.
    fn find(&mut self, id: &str) -> Result<(), NetworkError> {
        let Some(net) = self.nets.get_mut(id) else { return Ok(()) };
        net.link = self.route.link(&net.spec.interface())?.map(|link| link.index);
        Ok(())
    }

    /// The bridge with its addresses, or the parent.
    fn make(
        &mut self,
        settings: &Settings,
        id: &str,
        known: Option<&[Address]>,
    ) -> Result<u32, NetworkError> {
        let missing = || NetworkError::NoNetwork(id.to_owned());
        let net = self.nets.get(id).ok_or_else(missing)?;
        let index = match &net.kind {
            Kind::Link(options) => {
                let options = options.clone();
                self.parent(&options)?
            }
            Kind::Bridge(options) => {
                let mtu = options.mtu.unwrap_or(settings.mtu);
                let plan = host::bridge_plan(&net.spec, options, mtu);
                let index = host::make_bridge(&mut self.route, &plan, known)?;
                if !net.spec.internal && settings.forward {
                    self.forwarding.turn_on(net.spec.ipv4, net.spec.ipv6);
                }
                index
            }
        };
        if let Some(net) = self.nets.get_mut(id) {
            net.link = Some(index);
        }
        Ok(index)
    }

    fn bring_up(&mut self, settings: &Settings, id: &str) -> Result<u32, NetworkError> {
        let index = self.make(settings, id, None)?;
        if let Some(net) = self.nets.get(id)
            && let Kind::Bridge(options) = &net.kind
        {
            let closed = self.closed(settings);
            self.firewall.set_closed(closed)?;
            self.firewall.add_bridge(options.rules(&net.spec))?;
        }
        Ok(index)
    }

    /// The parent of interfaces beside the host's, made where it is a virtual network's or this
    /// network's own.
    fn parent(&mut self, options: &LinkOptions) -> Result<u32, NetworkError> {
        if let Some(link) = self.route.link(&options.parent)? {
            return Ok(link.index);
        }
        if options.own {
            self.route.create_dummy(&options.parent)?;
            let made = self.route.link(&options.parent)?.map(|link| link.index);
            return made.ok_or_else(|| NetworkError::NoParent(options.parent.clone()));
        }
        let Some((parent, number)) = options.vlan() else {
            return Err(NetworkError::NoParent(options.parent.clone()));
        };
        let Some(parent) = self.route.link(parent)? else {
            return Err(NetworkError::NoParent(parent.to_owned()));
        };
        self.route.create_vlan(parent.index, number, &options.parent)?;
        let made = self.route.link(&options.parent)?;
        made.map(|link| link.index).ok_or_else(|| NetworkError::NoParent(options.parent.clone()))
    }

    /// Addresses and names of one endpoint, and how its interface is made.
    fn allocate(
        &mut self,
        settings: &Settings,
        wanted: &EndpointSpec,
        endpoints: &mut Vec<Endpoint>,
    ) -> Result<LinkPlan, NetworkError> {
        let missing = || NetworkError::NoNetwork(wanted.network.clone());
        let link = match self.nets.get(&wanted.network).ok_or_else(missing)?.link {
            Some(link) => link,
            None => self.bring_up(settings, &wanted.network)?,
        };
        let net = self.nets.get_mut(&wanted.network).ok_or_else(missing)?;
        let id = host::random_hex()?;
        let v4 = net.take(true, wanted.v4.map(IpAddr::V4))?;
        let v6 = match net.take(false, wanted.v6.map(IpAddr::V6)) {
            Ok(v6) => v6,
            Err(error) => {
                v4.into_iter().for_each(|v4| net.give_back(v4.address));
                return Err(error);
            }
        };
        net.endpoints += 1;
        let mac = wanted.mac.unwrap_or_else(|| host::mac(v4.or(v6), &id));
        let only4 = |address: IpAddr| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        };
        let only6 = |address: IpAddr| match address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        };
        let bridge = matches!(net.kind, Kind::Bridge(_));
        let name = || format!("{PREFIX}{}", id.get(..9).unwrap_or(&id));
        let endpoint = Endpoint {
            network: net.spec.id.clone(),
            network_name: net.spec.name.clone(),
            v4,
            v6,
            link_local: wanted.link_local.clone(),
            gateway4: v4.and(net.gateway(true)).and_then(only4),
            gateway6: v6.and(net.gateway(false)).and_then(only6),
            mac: host::mac_text(mac),
            inside: match &wanted.interface {
                Some(name) => name.clone(),
                None => next_name(net.prefix(), endpoints),
            },
            interface: if bridge { name() } else { String::new() },
            priority: wanted.priority,
            way_out4: false,
            way_out6: false,
            ports: Vec::new(),
            id,
        };
        let plan = match &net.kind {
            Kind::Bridge(options) => LinkPlan::veth(
                &endpoint,
                link,
                mac,
                options.mtu.unwrap_or(settings.mtu),
                // Otherwise it is the firewall that lets published ports pass, and nothing else.
                !options.icc && !host::filters_bridges(),
            ),
            Kind::Link(options) => LinkPlan::beside(&endpoint, link, mac, options),
        };
        endpoints.push(endpoint);
        Ok(plan.with_sysctls(wanted.sysctls.clone()))
    }

    fn opening(&self, link: &Link<'_>) -> Option<Opening> {
        let apart = self.nets.get(&link.from.network).is_some_and(Net::keeps_apart);
        (apart && link.from.network == link.to.network).then(|| Opening {
            from: Place::of(link.from),
            to: Place::of(link.to),
            ports: link.ports.iter().copied().collect(),
        })
    }

    /// Reserves the ports of a container and lets them in, where its way out is.
    fn open_ports(
        &mut self,
        settings: &Settings,
        name: &str,
        bindings: &[PortBinding],
        endpoints: &mut [Endpoint],
    ) -> Result<(), NetworkError> {
        if bindings.is_empty() {
            return Ok(());
        }
        // Who has no way out has no way in.
        let four = endpoints.iter().position(|endpoint| endpoint.way_out4);
        let six = endpoints.iter().position(|endpoint| endpoint.way_out6);
        let Some(first) = four.or(six) else { return Ok(()) };
        let bridge = |index: Option<usize>| {
            let net = self.nets.get(&endpoints.get(index?)?.network)?;
            match &net.kind {
                Kind::Bridge(options) => Some(options),
                // Reached by its own address; nothing of the host stands between.
                Kind::Link(_) => None,
            }
        };
        let options = [bridge(four), bridge(six)];
        if options.iter().all(Option::is_none) {
            return Ok(());
        }
        let mode = |options: Option<&BridgeOptions>, v4: bool| {
            options.map_or(GatewayMode::Nat, |o| if v4 { o.mode4 } else { o.mode6 })
        };
        let routed = |mode: GatewayMode| mode == GatewayMode::Routed;
        let target4 = four.filter(|_| options[0].is_some());
        let target6 = six.filter(|_| options[1].is_some());
        let binding = options.iter().flatten().find_map(|options| options.host_binding);
        let wanted = Wanted {
            bindings,
            target4: target4.and_then(|at| endpoints.get(at)?.address4()),
            target6: target6.and_then(|at| endpoints.get(at)?.address6()),
            default_v4: binding.unwrap_or(settings.host_ip4),
            default_v6: settings.host_ip6,
            ipv6_on_host: host::has_ipv6(),
            proxied: settings.proxied,
            direct: Families {
                v4: routed(mode(options[0], true)),
                v6: routed(mode(options[1], false)),
            },
        };
        let bound = self.ports.reserve(&wanted);
        let bound = bound.map_err(|reason| NetworkError::Port {
            name: name.to_owned(),
            endpoint: endpoints.get(first).map(|endpoint| endpoint.id.clone()).unwrap_or_default(),
            reason,
        })?;
        for port in bound {
            let at = if port.target.is_ipv4() { target4 } else { target6 };
            if let Some(endpoint) = at.and_then(|at| endpoints.get_mut(at)) {
                endpoint.ports.push(port);
            }
        }
        let publications = self.publications(endpoints);
        match self.firewall.publish(&publications) {
            Ok(flows) => self.flows.add(flows),
            Err(error) => {
                self.close_ports(endpoints);
                endpoints.iter_mut().for_each(|endpoint| endpoint.ports.clear());
                return Err(error);
            }
        }
        Ok(())
    }

    fn close_links(&mut self, endpoints: &[Endpoint]) -> Result<(), NetworkError> {
        let gone = |id: &str| endpoints.iter().any(|endpoint| endpoint.id == id);
        for end in self.firewall.left_alone(gone) {
            // It may be gone already.
            let _ = self.route.set_bridge_port(&end, true, true);
        }
        self.firewall.close_ports(gone)
    }

    fn close_ports(&mut self, endpoints: &[Endpoint]) {
        let publications = self.publications(endpoints);
        if !publications.is_empty() {
            // Gone already, with the whole table perhaps: that is what is wanted.
            if let Ok(flows) = self.firewall.withdraw(&publications) {
                self.flows.add(flows);
            }
        }
        for endpoint in endpoints.iter().filter(|endpoint| !endpoint.ports.is_empty()) {
            self.ports.release(&endpoint.ports);
        }
    }

    /// The same ports, where the way out is now.
    fn move_ports(
        &mut self,
        settings: &Settings,
        name: &str,
        ports: &[PortBinding],
        before: &[Endpoint],
        now: &mut [Endpoint],
    ) -> Result<(), NetworkError> {
        let way = |endpoints: &[Endpoint]| -> Vec<(String, bool, bool)> {
            let ways = endpoints.iter().filter(|e| e.way_out4 || e.way_out6);
            ways.map(|e| (e.id.clone(), e.way_out4, e.way_out6)).collect()
        };
        if ports.is_empty() || way(before) == way(now) {
            return Ok(());
        }
        self.close_ports(before);
        now.iter_mut().for_each(|endpoint| endpoint.ports.clear());
        let moved = self.open_ports(settings, name, ports, now);
        if moved.is_err() {
            let mut old = before.to_vec();
            old.iter_mut().for_each(|endpoint| endpoint.ports.clear());
            let _ = self.open_ports(settings, name, ports, &mut old);
        }
        moved
    }

    /// What the firewall is to let in.
    fn publications(&self, endpoints: &[Endpoint]) -> Vec<Publication> {
        let mut out = Vec::new();
        for endpoint in endpoints {
            let Some(net) = self.nets.get(&endpoint.network) else { continue };
            let Kind::Bridge(options) = &net.kind else { continue };
            for port in &endpoint.ports {
                out.push(Publication {
                    protocol: port.container.protocol,
                    host_ip: port.host_ip,
                    host_port: port.host_port,
                    target: port.target,
                    interface: options.interface(&net.spec.id),
                    mode: if port.target.is_ipv4() { options.mode4 } else { options.mode6 },
                });
            }
        }
        out
    }
}
