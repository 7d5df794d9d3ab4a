//! What networks need of the host: bridges, parents and the facts that decisions are made from; and
//! what a daemon before this one has left of them.

use std::net::IpAddr;

use hoy_netlink::route::Address;

use super::net::{Kind, Net};
use super::{PREFIX, State};
use crate::address::Cidr;
use crate::firewall::Closed;
use crate::ports::BoundPort;
use crate::sandbox::Endpoint;
use crate::spec::{
    BridgeOptions, Facts, LinkOptions, NetworkRequest, NetworkSpec, PoolRequest, SpecError,
};
use crate::{NetworkError, Settings, host};

impl State {
    /// The default bridge as it is, or as it will be: nobody else gets its subnet.
    pub(super) fn default_bridge(
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
                let named = |pool: &PoolRequest| {
                    pool.subnet.is_some_and(|subnet| subnet.is_ipv4() == own.is_ipv4())
                };
                let mut unnamed = request.pools.iter_mut().filter(|pool| pool.subnet.is_none());
                if let (true, Some(pool)) = (global && own.is_ipv4(), unnamed.next()) {
                    (pool.subnet, pool.gateway) = (Some(own.network()), Some(own.address));
                } else if global && !request.pools.iter().any(named) {
                    request.pools.push(PoolRequest {
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

    pub(super) fn facts(
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
    pub(super) fn adopt(
        &mut self,
        settings: &Settings,
        running: &[Endpoint],
    ) -> Result<(), NetworkError> {
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
    pub(super) fn closed(&self, settings: &Settings) -> Closed {
        match settings.open {
            true => Closed { v4: false, v6: false },
            false => self.forwarding.closed(),
        }
    }

    /// The number of a network's interface where that is there already.
    pub(super) fn find(&mut self, id: &str) -> Result<(), NetworkError> {
        let Some(net) = self.nets.get_mut(id) else { return Ok(()) };
        net.link = self.route.link(&net.spec.interface())?.map(|link| link.index);
        Ok(())
    }

    /// The bridge with its addresses, or the parent.
    pub(super) fn make(
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

    pub(super) fn bring_up(&mut self, settings: &Settings, id: &str) -> Result<u32, NetworkError> {
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
    pub(super) fn parent(&mut self, options: &LinkOptions) -> Result<u32, NetworkError> {
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
}
