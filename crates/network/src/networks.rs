//! All networks of the daemon: their bridges, their addresses, and the way in and out of
//! containers.
//!
//! One lock guards what is given; what waits for the kernel (a namespace, the end of an interface)
//! is done outside of it. Everything works in whatever network namespace the daemon runs in.

mod endpoints;
mod hosted;
mod links;
mod net;
mod published;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hoy_netlink::{Socket, SocketKind};

pub use self::links::Link;
use self::net::{Kind, Net};
use crate::address::Cidr;
use crate::dns::DnsSockets;
use crate::firewall::{Firewall, Flows};
use crate::host::{Forwarding, HostSettings};
use crate::ports::Ports;
use crate::sandbox::Endpoint;
use crate::spec::{NetworkRequest, NetworkSpec};
use crate::watch::Watcher;
use crate::{NetworkError, Settings};

/// Our interfaces' names begin with this.
pub(crate) const PREFIX: &str = "hv";
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
