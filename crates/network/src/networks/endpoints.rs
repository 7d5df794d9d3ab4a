//! Endpoints: given, made in their namespace, and taken back.

use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use hoy_types::PortBinding;

use super::net::Kind;
use super::published::wanted_again;
use super::{Networks, PREFIX, State, Ticket};
use crate::inside::{self, LinkPlan};
use crate::sandbox::{Endpoint, EndpointSpec, SandboxSpec, decide_way_out, next_name};
use crate::{NetworkError, Settings, host};

/// How long an interface waits for its parent to be free, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);

impl Networks {
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
}

impl State {
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
}
