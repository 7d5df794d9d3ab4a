//! Who is called what, per network. Lookups take a lock of one network for reading, for less time
//! than a system call; changes cost what they change, however many endpoints there are.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use super::wire;

/// What an endpoint is called in its network, and where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointNames {
    /// The container's name first (an address is answered with it), then its short id, its host
    /// name and its aliases there.
    pub names: Vec<String>,
    /// Every name is known as `<name>.<network>`, too.
    pub network_name: String,
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

/// The names of one network.
#[derive(Default)]
pub(crate) struct Zone {
    /// In lower case.
    network: Vec<u8>,
    names: HashMap<Box<[u8]>, Named>,
    addresses: HashMap<IpAddr, Owners>,
    endpoints: HashMap<Arc<str>, EndpointNames>,
}

/// Endpoints with an address, and their names as they go into a record.
type Owners = Vec<(Arc<str>, Vec<u8>)>;

/// Everybody who is called the same.
#[derive(Default)]
struct Named {
    endpoints: Vec<(Arc<str>, Option<Ipv4Addr>, Option<Ipv6Addr>)>,
    /// Who is named first the next time, by family: a client asks for both.
    turn: [AtomicUsize; 2],
}

impl Zone {
    fn set(&mut self, endpoint: &str, names: EndpointNames) {
        self.unset(endpoint);
        let endpoint: Arc<str> = endpoint.into();
        self.network = names.network_name.to_ascii_lowercase().into_bytes();
        for key in keys(&names) {
            let named = self.names.entry(key).or_insert_with(|| {
                let turn = || AtomicUsize::new(usize::from(random()));
                Named { endpoints: Vec::new(), turn: [turn(), turn()] }
            });
            named.endpoints.push((endpoint.clone(), names.v4, names.v6));
        }
        let spoken = names
            .names
            .iter()
            .find_map(|name| wire::encode_name(&format!("{name}.{}", names.network_name)));
        if let Some(spoken) = spoken {
            for address in addresses(&names) {
                let owners = self.addresses.entry(address).or_default();
                owners.push((endpoint.clone(), spoken.clone()));
            }
        }
        self.endpoints.insert(endpoint, names);
    }

    fn unset(&mut self, endpoint: &str) {
        let Some(names) = self.endpoints.remove(endpoint) else { return };
        for key in keys(&names) {
            if let Entry::Occupied(mut named) = self.names.entry(key) {
                named.get_mut().endpoints.retain(|(owner, ..)| **owner != *endpoint);
                if named.get().endpoints.is_empty() {
                    named.remove();
                }
            }
        }
        for address in addresses(&names) {
            if let Entry::Occupied(mut owners) = self.addresses.entry(address) {
                owners.get_mut().retain(|(owner, _)| **owner != *endpoint);
                if owners.get().is_empty() {
                    owners.remove();
                }
            }
        }
    }

    /// Whether the name is known here, with or without the network's own behind it.
    pub fn knows(&self, name: &[u8]) -> bool {
        self.find(name).is_some()
    }

    fn find(&self, name: &[u8]) -> Option<&Named> {
        self.names.get(name).or_else(|| {
            let name = name.strip_suffix(&self.network[..])?.strip_suffix(b".")?;
            self.names.get(name).filter(|_| !self.network.is_empty())
        })
    }

    /// The addresses of a name, each time with another one first; false if it is not known.
    pub fn v4(&self, name: &[u8], found: &mut Vec<Ipv4Addr>) -> bool {
        let Some(named) = self.find(name) else { return false };
        found.extend(named.endpoints.iter().filter_map(|(_, v4, _)| *v4));
        named.rotate(0, found);
        true
    }

    pub fn v6(&self, name: &[u8], found: &mut Vec<Ipv6Addr>) -> bool {
        let Some(named) = self.find(name) else { return false };
        found.extend(named.endpoints.iter().filter_map(|(_, _, v6)| *v6));
        named.rotate(1, found);
        true
    }

    /// Who has an address, as it goes into a record.
    pub fn owner(&self, address: IpAddr) -> Option<&[u8]> {
        self.addresses.get(&address)?.first().map(|(_, name)| &name[..])
    }
}

impl Named {
    fn rotate<T>(&self, family: usize, found: &mut [T]) {
        if found.len() > 1 {
            let turn = self.turn[family].fetch_add(1, Ordering::Relaxed);
            found.rotate_left(turn % found.len());
        }
    }
}

/// In lower case, each once.
fn keys(names: &EndpointNames) -> Vec<Box<[u8]>> {
    let mut keys: Vec<Box<[u8]>> = names
        .names
        .iter()
        .map(|name| name.trim_end_matches('.').to_ascii_lowercase().into_bytes().into_boxed_slice())
        .filter(|key| !key.is_empty())
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn addresses(names: &EndpointNames) -> impl Iterator<Item = IpAddr> {
    names.v4.map(IpAddr::V4).into_iter().chain(names.v6.map(IpAddr::V6))
}

/// Not for secrets: zero if the kernel has none to give.
fn random() -> u16 {
    let mut bytes = [0; 2];
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u16::from_ne_bytes(bytes)
}

/// A network's names, shared by all who may ask for them.
#[derive(Clone, Default)]
pub(crate) struct SharedZone(Arc<RwLock<Zone>>);

impl SharedZone {
    pub fn read(&self) -> RwLockReadGuard<'_, Zone> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Zone)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }
}

/// All networks that have names or somebody who asks for them.
#[derive(Default)]
pub(crate) struct Zones(Mutex<HashMap<String, SharedZone>>);

impl Zones {
    fn all(&self) -> MutexGuard<'_, HashMap<String, SharedZone>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn zone(&self, network: &str) -> SharedZone {
        let mut all = self.all();
        if let Some(zone) = all.get(network) {
            return zone.clone();
        }
        all.entry(network.to_owned()).or_default().clone()
    }

    pub fn set(&self, network: &str, endpoint: &str, names: EndpointNames) {
        self.zone(network).change(|zone| zone.set(endpoint, names));
    }

    pub fn unset(&self, network: &str, endpoint: &str) {
        let zone = self.all().get(network).cloned();
        if let Some(zone) = zone {
            zone.change(|zone| zone.unset(endpoint));
        }
        self.tidy();
    }

    /// Drops networks that nobody is on and nobody asks about.
    pub fn tidy(&self) {
        self.all()
            .retain(|_, zone| Arc::strong_count(&zone.0) > 1 || !zone.read().endpoints.is_empty());
    }
}
