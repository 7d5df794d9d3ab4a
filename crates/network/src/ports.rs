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
mod places;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hoy_types::{PortBinding, PortSpec, Protocol};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::keeper::{Hold, Holder, KeeperPlace, Key};
use busy::Busy;
use places::{Place, places};

/// More in one request are checked, not held, if the kernel carries them.
pub const HELD_AT_ONCE: usize = 1000;
/// How often other ports are tried in place of those that somebody took since the kernel was asked.
const ATTEMPTS: usize = 64;

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

/// What is published, by protocol, family and port.
#[derive(Debug, Default)]
struct Taken {
    by_port: HashMap<(Protocol, bool, u16), Vec<Entry>>,
    held: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    ip: IpAddr,
    /// There is a socket.
    held: Option<Hold>,
}

impl Taken {
    fn conflicts(&self, key: &Key) -> bool {
        let all = self.by_port.get(&(key.protocol, key.ip.is_ipv4(), key.port));
        all.is_some_and(|all| {
            key.ip.is_unspecified()
                || all.iter().any(|entry| entry.ip == key.ip || entry.ip.is_unspecified())
        })
    }

    fn add(&mut self, key: &Key, held: Option<Hold>) {
        let all = self.by_port.entry((key.protocol, key.ip.is_ipv4(), key.port)).or_default();
        all.push(Entry { ip: key.ip, held });
        self.held += usize::from(held.is_some());
    }

    fn contains(&self, key: &Key) -> bool {
        let all = self.by_port.get(&(key.protocol, key.ip.is_ipv4(), key.port));
        all.is_some_and(|all| all.iter().any(|entry| entry.ip == key.ip))
    }

    /// Whether there was a socket.
    fn remove(&mut self, key: &Key) -> bool {
        let place = (key.protocol, key.ip.is_ipv4(), key.port);
        let Some(all) = self.by_port.get_mut(&place) else { return false };
        let Some(at) = all.iter().position(|entry| entry.ip == key.ip) else { return false };
        let held = all.swap_remove(at).held.is_some();
        if all.is_empty() {
            self.by_port.remove(&place);
        }
        self.held -= usize::from(held);
        held
    }

    fn holds(&self) -> Vec<Hold> {
        self.by_port.values().flatten().filter_map(|entry| entry.held).collect()
    }
}

/// One binding on its way.
struct Job {
    binding: usize,
    places: Vec<Place>,
    choice: Choice,
    port: Option<u16>,
}

/// The ports that would do, in their order.
enum Choice {
    Fixed(u16),
    Any { first: u16, last: u16, begin: u16, tried: u32, ephemeral: bool },
}

impl Choice {
    fn next(&mut self) -> Option<u16> {
        match self {
            Self::Fixed(port) => Some(*port),
            Self::Any { first, last, begin, tried, .. } => {
                let count = u32::from(*last - *first) + 1;
                if *tried == count {
                    return None;
                }
                let offset = (u32::from(*begin - *first) + *tried) % count;
                *tried += 1;
                u16::try_from(u32::from(*first) + offset).ok()
            }
        }
    }

    /// Fixed ports are given first, what can be anywhere last.
    fn rank(&self) -> u8 {
        match self {
            Self::Fixed(_) => 0,
            Self::Any { ephemeral: false, .. } => 1,
            Self::Any { .. } => 2,
        }
    }
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

impl State {
    /// The keeper was lost: another one is to hold the same.
    pub(crate) fn hold_again(&mut self) {
        let mut holds = self.taken.holds();
        if holds.is_empty() {
            return;
        }
        // Those that carry something first: they are missed at once.
        holds.sort_by_key(|hold| (hold.proxy.is_none(), hold.key));
        let _ = self.holder.hold(&holds);
        let _ = self.holder.take_renewed();
    }

    fn reserve(&mut self, wanted: &Wanted<'_>) -> Result<Vec<BoundPort>, String> {
        let mut wide = wanted.bindings.len() > HELD_AT_ONCE;
        let mut jobs = jobs(wanted);
        let room = self.holder.limit().saturating_sub(self.taken.held);
        let places = || jobs.iter().flat_map(|job| &job.places);
        wide |= places().count() > room;
        if wide && places().filter(|place| place.by != Carrier::Kernel).count() > room {
            jobs = self::jobs(&Wanted { proxied: false, ..*wanted });
            lost(wanted, &jobs)?;
        }
        let mut out: Vec<(usize, BoundPort)> = Vec::new();
        let result = self.place(wanted, &mut jobs, wide, &mut out);
        if let Err(reason) = result {
            let done: Vec<BoundPort> = out.iter().map(|(_, port)| *port).collect();
            self.release(&done);
            return Err(reason);
        }
        for (at, binding) in wanted.bindings.iter().enumerate() {
            let direct = places::direct(wanted, binding);
            out.extend(direct.into_iter().map(|port| (at, port)));
        }
        out.sort_by_key(|(at, port)| (*at, port.host_ip.is_ipv6()));
        Ok(out.into_iter().map(|(_, port)| port).collect())
    }

    /// Finds a port for each job and holds it. What is done is in `out`, also after an error.
    fn place(
        &mut self,
        wanted: &Wanted<'_>,
        jobs: &mut [Job],
        wide: bool,
        out: &mut Vec<(usize, BoundPort)>,
    ) -> Result<(), String> {
        let mut busy = if wide { Some(Busy::ask(&protocols(wanted))) } else { None };
        for attempt in 0..ATTEMPTS {
            if attempt == 1 && busy.is_none() {
                // Something was in the way: from now on what the kernel knows is passed over.
                busy = Some(Busy::ask(&protocols(wanted)));
            }
            let mut fresh: Vec<(usize, BoundPort)> = Vec::new();
            for (index, job) in jobs.iter_mut().enumerate() {
                if job.port.is_some() {
                    continue;
                }
                match self.choose(wanted, job, busy.as_ref(), wide) {
                    Ok(ports) => fresh.extend(ports.into_iter().map(|port| (index, port))),
                    Err(reason) => {
                        out.extend(fresh);
                        return Err(reason);
                    }
                }
            }
            if fresh.is_empty() {
                return Ok(());
            }
            let failed = self.hold(&fresh, wide)?;
            let again = self.take_back(jobs, &failed, &mut fresh);
            out.extend(fresh.into_iter().map(|(index, port)| (jobs[index].binding, port)));
            match again {
                Ok(false) => return Ok(()),
                Ok(true) => {}
                Err(reason) => return Err(reason),
            }
        }
        Err("all ports are allocated".to_owned())
    }

    /// The next port for a job that nobody is known to have; it is noted as taken.
    fn choose(
        &mut self,
        wanted: &Wanted<'_>,
        job: &mut Job,
        busy: Option<&Busy>,
        wide: bool,
    ) -> Result<Vec<BoundPort>, String> {
        let protocol = wanted.bindings[job.binding].container.protocol;
        if let Choice::Any { first, last, begin, tried: 0, ephemeral: true } = &mut job.choice {
            let next = self.next.get(&protocol).copied().unwrap_or(*first);
            *begin = next.clamp(*first, *last);
        }
        loop {
            let Some(port) = job.choice.next() else { return Err(exhausted(job)) };
            let fixed = matches!(job.choice, Choice::Fixed(_));
            let keys = || job.places.iter().map(|place| Key { protocol, ip: place.ip, port });
            if let Some(key) = keys().find(|key| self.taken.conflicts(key)) {
                if fixed {
                    return Err(format!(
                        "Bind for {}:{port} failed: port is already allocated",
                        key.ip
                    ));
                }
                continue;
            }
            let passed = busy.filter(|_| wide || !fixed);
            let other = passed.and_then(|busy| keys().find(|key| busy.conflicts(key)));
            if let Some(key) = other {
                if fixed {
                    let place = job.places.iter().find(|place| place.ip == key.ip);
                    let target = place.map(|place| place.target);
                    return Err(in_use(&key, target, Errno::ADDRINUSE));
                }
                continue;
            }
            job.port = Some(port);
            if let Choice::Any { last, first, ephemeral: true, .. } = job.choice {
                self.next.insert(protocol, if port == last { first } else { port + 1 });
            }
            let container = wanted.bindings[job.binding].container;
            let bound = |place: &Place| BoundPort {
                container,
                host_ip: place.ip,
                host_port: port,
                target: place.target,
                by: place.by,
            };
            let ports: Vec<BoundPort> = job.places.iter().map(bound).collect();
            for port in &ports {
                self.taken.add(&port.key(), is_held(port, wide).then(|| port.hold()));
            }
            return Ok(ports);
        }
    }

    /// Which could not be held, and why.
    fn hold(
        &mut self,
        fresh: &[(usize, BoundPort)],
        wide: bool,
    ) -> Result<Vec<(usize, Key, Errno)>, String> {
        let held = || fresh.iter().filter(|(_, port)| is_held(port, wide));
        let holds: Vec<Hold> = held().map(|(_, port)| port.hold()).collect();
        if holds.is_empty() {
            return Ok(Vec::new());
        }
        let result = self.holder.hold(&holds);
        if self.holder.take_renewed() && self.taken.held > holds.len() {
            self.hold_again();
        }
        let results = match result {
            Ok(results) => results,
            Err(reason) => {
                let ports: Vec<BoundPort> = fresh.iter().map(|(_, port)| *port).collect();
                self.release(&ports);
                return Err(reason);
            }
        };
        Ok(held()
            .zip(results)
            .filter_map(|((index, port), result)| Some((*index, port.key(), result.err()?)))
            .collect())
    }

    /// Takes back jobs that failed; whether there is something to try again.
    fn take_back(
        &mut self,
        jobs: &mut [Job],
        failed: &[(usize, Key, Errno)],
        fresh: &mut Vec<(usize, BoundPort)>,
    ) -> Result<bool, String> {
        let mut fatal: Option<(usize, String)> = None;
        for (index, key, errno) in failed {
            let job = &mut jobs[*index];
            let of_job = |(at, port): &(usize, BoundPort)| (at == index).then_some(*port);
            let ports: Vec<BoundPort> = fresh.iter().filter_map(of_job).collect();
            fresh.retain(|(at, _)| at != index);
            self.release(&ports);
            job.port = None;
            let another = *errno == Errno::ADDRINUSE && !matches!(job.choice, Choice::Fixed(_));
            let earlier = fatal.as_ref().is_none_or(|(at, _)| job.binding < *at);
            if !another && earlier {
                let place = job.places.iter().find(|place| place.ip == key.ip);
                fatal = Some((job.binding, in_use(key, place.map(|place| place.target), *errno)));
            }
        }
        match fatal {
            Some((_, reason)) => Err(reason),
            None => Ok(!failed.is_empty()),
        }
    }

    fn restore(&mut self, ports: &[BoundPort]) -> Vec<String> {
        let bound = ports.iter().filter(|port| port.host_port != 0);
        let fresh: Vec<BoundPort> =
            bound.filter(|port| !self.taken.contains(&port.key())).copied().collect();
        let holder = &mut self.holder;
        let found = self.found.get_or_insert_with(|| holder.list().into_iter().collect());
        // A keeper that lives holds all that was to be held. Without one, it is held anew.
        let all = found.is_empty();
        let mut room = self.holder.limit().saturating_sub(self.taken.held);
        let mut holds = Vec::new();
        for port in &fresh {
            let wanted = all || port.by != Carrier::Kernel || found.contains(&port.key());
            let hold = (wanted && room > 0).then(|| port.hold());
            room -= usize::from(hold.is_some());
            self.taken.add(&port.key(), hold);
            holds.extend(hold);
        }
        if holds.is_empty() {
            return Vec::new();
        }
        match self.holder.hold(&holds) {
            Err(reason) => vec![reason],
            Ok(results) => {
                let pairs = holds.iter().zip(results);
                pairs
                    .filter_map(|(hold, result)| Some(in_use(&hold.key, hold.proxy, result.err()?)))
                    .collect()
            }
        }
    }

    fn release(&mut self, ports: &[BoundPort]) {
        let keys: Vec<Key> = ports
            .iter()
            .map(BoundPort::key)
            .filter(|key| key.port != 0 && self.taken.remove(key))
            .collect();
        self.holder.release(&keys);
    }
}

fn jobs(wanted: &Wanted<'_>) -> Vec<Job> {
    let mut range = None;
    let mut jobs: Vec<Job> = Vec::with_capacity(wanted.bindings.len());
    for (at, binding) in wanted.bindings.iter().enumerate() {
        let places = places(wanted, binding);
        if places.is_empty() {
            continue;
        }
        let choice = match binding.host_ports {
            Some((first, last)) if first == last && first != 0 => Choice::Fixed(first),
            Some((first, last)) if first != 0 && first < last => {
                Choice::Any { first, last, begin: first, tried: 0, ephemeral: false }
            }
            _ => {
                let (first, last) = *range.get_or_insert_with(ephemeral_range);
                Choice::Any { first, last, begin: first, tried: 0, ephemeral: true }
            }
        };
        jobs.push(Job { binding: at, places, choice, port: None });
    }
    // Stable: within a rank in the order in which they were asked for.
    jobs.sort_by_key(|job| job.choice.rank());
    jobs
}

/// Whether there is a socket for a port; of many only for those that the keeper carries.
fn is_held(port: &BoundPort, wide: bool) -> bool {
    !wide || port.by != Carrier::Kernel
}

fn protocols(wanted: &Wanted<'_>) -> Vec<Protocol> {
    let mut all: Vec<Protocol> = wanted.bindings.iter().map(|b| b.container.protocol).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Refuses bindings that only the keeper could carry.
fn lost(wanted: &Wanted<'_>, jobs: &[Job]) -> Result<(), String> {
    let served: HashSet<usize> = jobs.iter().map(|job| job.binding).collect();
    let mut all = wanted.bindings.iter().enumerate();
    let lost = |(at, binding): &(usize, &PortBinding)| {
        wanted.proxied && !served.contains(at) && !places(wanted, binding).is_empty()
    };
    match all.find(lost) {
        None => Ok(()),
        Some((_, binding)) => Err(format!(
            "publish {}: this needs a proxy, of which there are as many as half of the descriptors \
             that the daemon may have (LimitNOFILE)",
            binding.container
        )),
    }
}

fn exhausted(job: &Job) -> String {
    let ip = job.places.first().map_or_else(String::new, |place| place.ip.to_string());
    match &job.choice {
        Choice::Any { first, last, ephemeral: false, .. } => {
            format!("Bind for {ip}:{first}-{last} failed: all ports are allocated")
        }
        _ => "all ports are allocated".to_owned(),
    }
}

/// Docker's words for a port that another program has, and which program that is.
fn in_use(key: &Key, target: Option<SocketAddr>, errno: Errno) -> String {
    let host = SocketAddr::new(key.ip, key.port);
    let target = target.map_or_else(String::new, |target| format!(":{target}"));
    let why = match errno {
        Errno::ADDRINUSE => "address already in use".to_owned(),
        Errno::ADDRNOTAVAIL => "cannot assign requested address".to_owned(),
        Errno::AFNOSUPPORT => "address family not supported by protocol".to_owned(),
        Errno::ACCESS => "permission denied".to_owned(),
        other => other.to_string(),
    };
    let who = match errno {
        Errno::ADDRINUSE => busy::whose(key).map_or_else(String::new, |who| format!(". {who}")),
        _ => String::new(),
    };
    format!("failed to bind host port for {host}{target}/{}: {why}{who}", key.protocol)
}

/// Where the kernel takes ports of its own from.
fn ephemeral_range() -> (u16, u16) {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let text = text.unwrap_or_default();
    let mut numbers = text.split_whitespace().map(|word| word.parse::<u16>());
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) if first > 0 && first <= last => (first, last),
        _ => (49_153, 65_535),
    }
}
