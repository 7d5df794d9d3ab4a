//! Published ports: where each is published, by whom it is carried, and who has it.
//!
//! The kernel carries what it can: address translation by the firewall's maps. Then the port is
//! only reserved, by a socket that takes nothing, so that other programs of the host are told. The
//! rest (`[::1]`, and one family to a container that has only the other) is carried by the keeper,
//! the one helper of the host, which holds all these sockets and outlives the daemon. The client's
//! address cannot be kept there: the container sees the host's.
//!
//! More than [`HELD_AT_ONCE`] ports in one request are not held, but for those that the keeper
//! carries: the kernel is asked once who has them, and they are remembered here alone. Where there
//! are not enough descriptors for what the keeper would carry, the kernel's part is published alone.

mod busy;
mod jobs;
mod places;
mod reserve;
mod taken;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hoy_types::{PortBinding, PortSpec, Protocol};
use serde::{Deserialize, Serialize};

use self::taken::Taken;
use crate::keeper::{Hold, Holder, KeeperPlace, Key};

/// More in one request are checked, not held, if the kernel carries them.
pub const HELD_AT_ONCE: usize = 1000;
/// Something that can be said of each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Families {
    pub v4: bool,
    pub v6: bool,
}

/// What is to be published, and for whom.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub bindings: &'a [PortBinding],
    /// The container's addresses, where it may be reached at all.
    pub target4: Option<Ipv4Addr>,
    pub target6: Option<Ipv6Addr>,
    /// For bindings that name no address. Where `default_v4` is one address and `default_v6` is
    /// not, they are published by that one alone, as Docker does.
    pub default_v4: Ipv4Addr,
    pub default_v6: Ipv6Addr,
    pub ipv6_on_host: bool,
    /// Also what the kernel cannot carry; not set, nothing is proxied.
    pub proxied: bool,
    /// Families that are routed to the container: nothing is bound, the host port is 0.
    pub direct: Families,
}

/// Who carries what comes to a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Carrier {
    /// The firewall's maps.
    Kernel,
    /// The keeper alone.
    Keeper,
    /// The maps, and the keeper what comes to `[::1]`.
    Both,
}

/// A published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundPort {
    pub container: PortSpec,
    pub host_ip: IpAddr,
    /// 0 where nothing is bound since the container is reached directly.
    pub host_port: u16,
    pub target: SocketAddr,
    pub by: Carrier,
}

impl BoundPort {
    fn key(&self) -> Key {
        Key { protocol: self.container.protocol, ip: self.host_ip, port: self.host_port }
    }

    fn hold(&self) -> Hold {
        let proxy = (self.by != Carrier::Kernel).then_some(self.target);
        Hold { key: self.key(), proxy }
    }
}

/// All published ports of this host, and its keeper.
#[derive(Debug)]
pub struct Ports {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
pub(crate) struct State {
    taken: Taken,
    /// Where the search for a free port goes on.
    next: HashMap<Protocol, u16>,
    /// What a keeper held when this daemon began; none: there was no keeper.
    found: Option<HashSet<Key>>,
    pub(crate) holder: Holder,
}

impl Ports {
    /// Finds the keeper of a daemon before this one; none is started before it is needed.
    ///
    /// To be called, as everything here, in the network namespace of the host.
    pub fn open(place: KeeperPlace) -> Self {
        Self::open_as(place, crate::keeper::VERSION)
    }

    /// As a daemon of another version: for tests of what an upgrade does.
    #[doc(hidden)]
    pub fn open_as(place: KeeperPlace, version: u16) -> Self {
        let state = State {
            taken: Taken::default(),
            next: HashMap::new(),
            found: None,
            holder: Holder::with_keeper(place, version),
        };
        let state = Arc::new(Mutex::new(state));
        lock(&state).holder.watched_by(&state);
        Self { state }
    }

    /// Without a keeper: this process holds the sockets, and nothing is carried but by the kernel.
    pub fn without_keeper() -> Self {
        let holder = Holder::here();
        let state = State { taken: Taken::default(), next: HashMap::new(), found: None, holder };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Reserves all or none. What is refused is said in Docker's words.
    pub fn reserve(&mut self, wanted: &Wanted<'_>) -> Result<Vec<BoundPort>, String> {
        lock(&self.state).reserve(wanted)
    }

    /// Takes ports again that were published before the daemon ended. What somebody else has taken
    /// since is not held any more, but still published; the answer says which.
    pub fn restore(&mut self, ports: &[BoundPort]) -> Vec<String> {
        lock(&self.state).restore(ports)
    }

    /// After everything is restored: what the keeper holds for nobody is given back.
    pub fn settle(&mut self) {
        let mut state = lock(&self.state);
        let state = &mut *state;
        let stale: Vec<Key> =
            state.holder.list().into_iter().filter(|key| !state.taken.contains(key)).collect();
        state.holder.release(&stale);
    }

    /// Gives ports back.
    pub fn release(&mut self, ports: &[BoundPort]) {
        lock(&self.state).release(ports);
    }

    /// Gives everything back and ends the keeper.
    pub fn end(&mut self) {
        let mut state = lock(&self.state);
        state.taken = Taken::default();
        state.holder.end();
    }

    /// The keeper's process, while there is one.
    pub fn keeper(&self) -> Option<u32> {
        lock(&self.state).holder.process()
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        lock(&self.state).holder.leave();
    }
}

pub(crate) fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
