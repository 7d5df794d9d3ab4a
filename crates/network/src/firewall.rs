//! The rules of table `inet hoy`, for all networks and both families.
//!
//! The chains are the same however much there is: networks and ports are elements of sets and maps
//! keyed by interface name and by address, protocol and port.
//!
//! On kernels that have it (6.9 and later) the table is owned by our socket: nobody else can change
//! it, other people's `flush ruleset` passes it by. When the last descriptor of the socket is
//! closed the table stays, but belongs to nobody, and a flush would take it. So the socket is to be
//! kept open by a process that outlives the daemon (`descriptor`), and taken over by the next one
//! (`open_kept`). Elsewhere `watch` notices and `repair` puts it back; until then (milliseconds)
//! the host forwards for our bridges what its other rules let through.
//!
//! What is decided where:
//! - `loopback` (prerouting, raw): packets from or to 127/8 come from `lo` or are dropped, since
//!   ports that are published on loopback are routed to the bridges.
//! - `prerouting`, `output` (nat): published ports, first those of one address of the host, then
//!   those of all. Not `::1` and not link-local addresses of IPv6: nothing can be forwarded from
//!   there; the keeper's sockets serve them.
//! - `forward`: see `forward_rules`. What nothing allows to enter a bridge is dropped: that is the
//!   isolation of networks from each other and of containers from the neighbours of the host.
//! - `strangers` (postrouting): where it was us who turned forwarding on, the host forwards nothing
//!   that neither comes from nor goes to one of our bridges.
//! - `input`: internal networks do not reach what the keeper publishes.
//! - `postrouting` (nat): masquerading.
//!
//! # People's own rules
//!
//! Table `inet hoy-user` with an empty chain `forward` is made where it is absent, and never
//! touched after that (but by `remove`). It is asked before ours: what is dropped there is dropped,
//! what is accepted there goes on to ours. To let something pass that ours would drop, set the bit
//! `ACCEPT_MARK` of its mark there, in both directions:
//!
//! ```text
//! nft add rule inet hoy-user forward iifname wg0 oifname hoy0 meta mark set mark or 0x10000000
//! nft add rule inet hoy-user forward iifname hoy0 oifname wg0 meta mark set mark or 0x10000000
//! ```
//!
//! Marks do not cross the border of a network namespace, so that no container can set it.

mod chains;
mod elements;
mod openings;
mod sets;
mod table;
mod wanted;

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{BorrowedFd, OwnedFd};

use hoy_netlink::conntrack::Stale;
use hoy_netlink::nft::{Data, Element, Set};
use hoy_netlink::{Socket, SocketKind};

use self::elements::{Elements, Key, UDP, direct, element, key};
use self::openings::Openings;
pub(crate) use self::openings::{Opening, Place};
pub use self::wanted::{BridgeRules, Closed, GatewayMode, Masquerade, Publication};
use crate::NetworkError;

/// Our table; of the family bridge as well, where openings need it.
pub const TABLE: &str = "hoy";
/// People's table, with one chain `forward`.
pub const USER_TABLE: &str = "hoy-user";
/// Packets whose mark has this bit pass our forward chain.
pub const ACCEPT_MARK: u32 = 0x1000_0000;

const FILTER: i32 = 0;

/// Flows of UDP to ports that were published, withdrawn or changed: whoever sends without a pause
/// goes on to where he went before, until the kernel forgets it. That takes the kernel some ten
/// milliseconds, whatever it finds: not to be done while others wait.
#[derive(Debug, Default)]
pub struct Flows(Vec<Stale>);

impl Flows {
    /// In the network namespace of the calling thread.
    pub fn forget(self) -> Result<(), NetworkError> {
        if !self.0.is_empty() {
            Socket::open(SocketKind::Netfilter)?.forget(&self.0)?;
        }
        Ok(())
    }

    pub fn add(&mut self, mut more: Self) {
        self.0.append(&mut more.0);
    }
}

/// The table, and what is to be in it.
#[derive(Debug)]
pub struct Firewall {
    /// Owns the table: kept open for as long as the daemon lives.
    nft: Socket,
    closed: Closed,
    bridges: BTreeMap<String, BridgeRules>,
    publications: HashMap<Key, Publication>,
    openings: Openings,
    /// How many publications stand behind an element that can have several.
    shared: HashMap<(u32, Vec<u8>), usize>,
    /// Published ports are reached directly, too.
    direct: bool,
    /// Once there was something to install.
    installed: Option<Installed>,
    /// Whether to ask for a table of our own.
    own: bool,
}

/// What the table looked like when we had made it.
#[derive(Debug)]
struct Installed {
    owned: bool,
    handle: u64,
    /// Rules by chain and handle. Of no interest in a table that nobody else can change.
    rules: Vec<(String, u64)>,
    /// The ruleset's generation when it was seen whole.
    seen: Option<u32>,
    /// The table for bridges, where there is one.
    bridged: Option<(u64, Vec<u64>)>,
}

impl Firewall {
    /// In the network namespace of the calling thread. Installs nothing yet.
    pub fn open() -> Result<Self, NetworkError> {
        Ok(Self {
            nft: Socket::open(SocketKind::Netfilter)?,
            closed: Closed::default(),
            bridges: BTreeMap::new(),
            publications: HashMap::new(),
            openings: Openings::default(),
            shared: HashMap::new(),
            direct: false,
            installed: None,
            own: true,
        })
    }

    /// With the socket of a daemon before this one, which somebody kept. It must belong to the
    /// network namespace of the calling thread; if it does not look so, it is not used.
    pub fn open_kept(socket: OwnedFd) -> Result<Self, NetworkError> {
        let mut fresh = Self::open()?;
        let mut kept = Socket::from_kept(socket, SocketKind::Netfilter)?;
        let same = kept.nft_generation()? == fresh.nft.nft_generation()?
            && kept.nft_tables()? == fresh.nft.nft_tables()?;
        if same {
            fresh.nft = kept;
        }
        Ok(fresh)
    }

    /// Whether other hosts reach published ports at the containers' own addresses, too.
    #[must_use]
    pub fn with_direct_routing(mut self, direct: bool) -> Self {
        self.direct = direct;
        self
    }

    /// The elements of a publication.
    fn elements_of(
        &self,
        publication: &Publication,
    ) -> impl Iterator<Item = (Set, Element)> + use<> {
        let direct = self.direct.then(|| direct(publication)).flatten();
        element(publication).into_iter().chain(direct)
    }

    /// The socket that the table belongs to, to be kept open by another process.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.nft.descriptor()
    }

    /// As on a kernel whose tables have no owner.
    #[doc(hidden)]
    pub fn open_without_owner() -> Result<Self, NetworkError> {
        Ok(Self { own: false, ..Self::open()? })
    }

    /// Whether the kernel keeps others from changing the table.
    pub fn is_owned(&self) -> bool {
        self.installed.as_ref().is_some_and(|installed| installed.owned)
    }

    /// The whole table, in one transaction: packets see what was there before, or this. A table
    /// that a daemon before this one left is replaced.
    pub fn install(
        &mut self,
        closed: Closed,
        bridges: Vec<BridgeRules>,
        publications: Vec<Publication>,
    ) -> Result<(), NetworkError> {
        self.closed = closed;
        self.bridges = bridges.into_iter().map(|rules| (rules.interface.clone(), rules)).collect();
        self.publications = publications.into_iter().map(|one| (key(&one), one)).collect();
        self.reinstall()
    }

    pub fn set_closed(&mut self, closed: Closed) -> Result<(), NetworkError> {
        if self.closed == closed && self.installed.is_some() {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.closed, closed);
        self.reinstall().inspect_err(|_| self.closed = before)
    }

    /// Adds a bridge, or changes its rules.
    pub fn add_bridge(&mut self, rules: BridgeRules) -> Result<(), NetworkError> {
        let mut added = Elements::default();
        added.bridge(&rules);
        let mut removed = Elements::default();
        let name = rules.interface.clone();
        let before = self.bridges.insert(name.clone(), rules);
        if let Some(before) = &before {
            removed.bridge(before);
        }
        self.change("add a network to the rules", &removed, &added).inspect_err(|_| {
            match before {
                Some(before) => self.bridges.insert(name, before),
                None => self.bridges.remove(&name),
            };
        })
    }

    /// Takes a bridge out. Packets of its interface, should it still be there, are then none of
    /// ours: delete the interface first.
    pub fn remove_bridge(&mut self, interface: &str) -> Result<(), NetworkError> {
        let Some(before) = self.bridges.remove(interface) else { return Ok(()) };
        let mut removed = Elements::default();
        removed.bridge(&before);
        let done = self.change("remove a network from the rules", &removed, &Elements::default());
        done.inspect_err(|_| {
            self.bridges.insert(before.interface.clone(), before);
        })
    }

    /// Publishes ports, all or none. One that was published for another target changes it. Gives
    /// the flows that go on where they went.
    pub fn publish(&mut self, publications: &[Publication]) -> Result<Flows, NetworkError> {
        self.republish("publish ports", &[], publications)
    }

    /// Takes published ports back, all or none. What is not published (or for another target) is
    /// left as it is.
    pub fn withdraw(&mut self, publications: &[Publication]) -> Result<Flows, NetworkError> {
        self.republish("withdraw published ports", publications, &[])
    }

    fn republish(
        &mut self,
        operation: &'static str,
        withdrawn: &[Publication],
        published: &[Publication],
    ) -> Result<Flows, NetworkError> {
        let (mut removed, mut added) = (Elements::default(), Elements::default());
        // What was there before, to be put back where the kernel refuses.
        let mut undo: Vec<(Key, Option<Publication>)> = Vec::new();
        for publication in withdrawn {
            let key = key(publication);
            if self.publications.get(&key) == Some(publication) {
                self.publications.remove(&key);
                undo.push((key, Some(publication.clone())));
                self.release(publication, &mut removed);
            }
        }
        for publication in published {
            let key = key(publication);
            let before = self.publications.get(&key).cloned();
            if before.as_ref() == Some(publication) {
                continue;
            }
            if let Some(before) = &before {
                self.release(before, &mut removed);
            }
            self.publications.insert(key, publication.clone());
            self.hold(publication, &mut added);
            undo.push((key, before));
        }
        let flows: Vec<Stale> = undo
            .iter()
            .filter(|((protocol, ..), _)| *protocol == UDP)
            .map(|((protocol, address, port), _)| Stale::To {
                protocol: *protocol,
                address: *address,
                port: *port,
            })
            .collect();
        self.change(operation, &removed, &added).inspect_err(|_| {
            for (key, before) in undo.into_iter().rev() {
                match before {
                    Some(before) => self.publications.insert(key, before),
                    None => self.publications.remove(&key),
                };
            }
            self.count();
        })?;
        Ok(Flows(flows))
    }

    /// A publication's elements, as far as it is the first that needs them.
    fn hold(&mut self, publication: &Publication, added: &mut Elements) {
        for (set, element) in self.elements_of(publication) {
            if set.data == Data::Nothing {
                let count = self.shared.entry((set.id, element.key.clone())).or_default();
                *count += 1;
                if *count > 1 {
                    continue;
                }
            }
            added.add(set, element);
        }
    }

    /// A publication's elements, as far as nobody else needs them.
    fn release(&mut self, publication: &Publication, removed: &mut Elements) {
        for (set, element) in self.elements_of(publication) {
            if set.data == Data::Nothing {
                let shared = (set.id, element.key.clone());
                let count = self.shared.entry(shared.clone()).or_default();
                *count = count.saturating_sub(1);
                if *count > 0 {
                    continue;
                }
                self.shared.remove(&shared);
            }
            removed.add(set, element);
        }
    }

    /// Counts anew who needs what; the elements of all publications.
    fn count(&mut self) -> Elements {
        self.shared.clear();
        let publications = std::mem::take(&mut self.publications);
        let mut all = Elements::default();
        for publication in publications.values() {
            self.hold(publication, &mut all);
        }
        self.publications = publications;
        all
    }

    fn elements(&mut self) -> Elements {
        let mut elements = self.count();
        for rules in self.bridges.values() {
            elements.bridge(rules);
        }
        for opening in self.openings.iter() {
            elements.opening(opening);
        }
        elements
    }
}
