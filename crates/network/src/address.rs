//! Address pools. Pure.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An address with its prefix, as `--bip` gives it: the gateway's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    pub address: Ipv4Addr,
    pub prefix: u8,
}

impl FromStr for Subnet {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, prefix) = text.split_once('/').ok_or(())?;
        let prefix = prefix.parse().ok().filter(|prefix| (8..=30).contains(prefix)).ok_or(())?;
        Ok(Self { address: address.parse().map_err(|_| ())?, prefix })
    }
}

impl Subnet {
    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }

    pub fn network(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) & self.mask())
    }

    fn broadcast(self) -> u32 {
        u32::from(self.address) | !self.mask()
    }

    fn overlaps(self, network: Ipv4Addr, prefix: u8) -> bool {
        let other = Self { address: network, prefix };
        let mask = self.mask() & other.mask();
        u32::from(self.address) & mask == u32::from(network) & mask
    }
}

/// Docker's pools for local networks; the first of them is the default bridge's.
fn pools() -> impl Iterator<Item = Subnet> {
    let sixteen = (17..32).map(|second| Ipv4Addr::new(172, second, 0, 1));
    let twenty = (0..16).map(|part| Ipv4Addr::new(192, 168, part * 16, 1));
    sixteen
        .map(|address| Subnet { address, prefix: 16 })
        .chain(twenty.map(|address| Subnet { address, prefix: 20 }))
}

/// The first pool that no route and no address of the host overlaps.
pub(crate) fn choose(taken: &[(Ipv4Addr, u8)]) -> Option<Subnet> {
    // The default route overlaps everything and takes nothing.
    let real = taken.iter().filter(|(_, prefix)| *prefix > 0);
    let real: Vec<_> = real.collect();
    pools().find(|pool| !real.iter().any(|(network, prefix)| pool.overlaps(*network, *prefix)))
}

/// The addresses of one subnet.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    subnet: Subnet,
    used: BTreeSet<u32>,
    last: u32,
}

impl Pool {
    pub fn new(subnet: Subnet) -> Self {
        let gateway = u32::from(subnet.address);
        Self { subnet, used: BTreeSet::from([gateway]), last: u32::from(subnet.network()) }
    }

    pub fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// The next free address after the last one given; begins again at the end.
    pub fn take(&mut self) -> Option<Ipv4Addr> {
        let first = u32::from(self.subnet.network()) + 1;
        let end = self.subnet.broadcast();
        let candidates = (self.last.saturating_add(1).max(first)..end).chain(first..end);
        let found = candidates.into_iter().find(|address| !self.used.contains(address))?;
        self.used.insert(found);
        self.last = found;
        Some(Ipv4Addr::from(found))
    }

    /// Marks an address that somebody has already.
    pub fn restore(&mut self, address: Ipv4Addr) {
        self.used.insert(u32::from(address));
        self.last = self.last.max(u32::from(address));
    }

    pub fn give_back(&mut self, address: Ipv4Addr) {
        if address != self.subnet.address {
            self.used.remove(&u32::from(address));
        }
        // A pool that nobody uses begins at its beginning again.
        if self.used.len() == 1 {
            self.last = u32::from(self.subnet.network());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_avoid_what_is_taken() {
        let network = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        assert_eq!(choose(&[]).unwrap().address, network("172.17.0.1"));
        let taken =
            [(network("0.0.0.0"), 0), (network("172.17.3.0"), 24), (network("172.18.0.0"), 15)];
        assert_eq!(choose(&taken).unwrap().address, network("172.20.0.1"));
        assert_eq!(choose(&[(network("172.0.0.0"), 8), (network("192.168.0.0"), 16)]), None);
    }

    #[test]
    fn addresses_in_sequence_and_to_the_end() {
        let mut pool = Pool::new("10.0.0.1/29".parse().unwrap());
        let all: Vec<u8> = std::iter::from_fn(|| pool.take()).map(|a| a.octets()[3]).collect();
        assert_eq!(all, [2, 3, 4, 5, 6]);
        pool.give_back("10.0.0.3".parse().unwrap());
        pool.give_back("10.0.0.5".parse().unwrap());
        assert_eq!(pool.take().unwrap().octets()[3], 3);
        assert_eq!(pool.take().unwrap().octets()[3], 5);
        assert_eq!(pool.take(), None);
    }
}
