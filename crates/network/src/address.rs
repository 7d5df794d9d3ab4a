//! Addresses, subnets and the pools that they are taken from. Pure, for both families alike.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An address with the length of its network's prefix: a subnet, or an interface's address in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Cidr {
    pub address: IpAddr,
    pub prefix: u8,
}

/// What is not `address/prefix`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid CIDR address: {0}")]
pub struct BadCidr(pub String);

impl FromStr for Cidr {
    type Err = BadCidr;

    fn from_str(text: &str) -> Result<Self, BadCidr> {
        let bad = || BadCidr(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = prefix.parse().ok().filter(|_| digits).ok_or_else(bad)?;
        Self::new(address.parse().map_err(|_| bad())?, prefix).ok_or_else(bad)
    }
}

impl TryFrom<String> for Cidr {
    type Error = BadCidr;

    fn try_from(text: String) -> Result<Self, BadCidr> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// An address as a number, whatever its family.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn address(number: u128, v4: bool) -> IpAddr {
    if v4 {
        // The upper bits are never set where the family is the smaller one.
        IpAddr::V4(Ipv4Addr::from((number & u128::from(u32::MAX)) as u32))
    } else {
        IpAddr::V6(Ipv6Addr::from(number))
    }
}

impl Cidr {
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let width = if address.is_ipv4() { 32 } else { 128 };
        (prefix <= width).then_some(Self { address, prefix })
    }

    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    fn width(&self) -> u8 {
        if self.is_ipv4() { 32 } else { 128 }
    }

    /// The bits that tell the hosts of the subnet apart.
    fn host_bits(&self) -> u128 {
        let bits = u32::from(self.width().saturating_sub(self.prefix));
        1_u128.checked_shl(bits).map_or(u128::MAX, |one| one - 1)
    }

    fn first(&self) -> u128 {
        number(self.address) & !self.host_bits()
    }

    fn last(&self) -> u128 {
        number(self.address) | self.host_bits()
    }

    /// The subnet itself: no bit of a host is set.
    pub fn network(&self) -> Self {
        Self { address: address(self.first(), self.is_ipv4()), prefix: self.prefix }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4()
            && (self.first()..=self.last()).contains(&number(address))
    }

    /// Whether `other` lies in this subnet as a whole.
    pub fn includes(&self, other: &Self) -> bool {
        self.prefix <= other.prefix && self.contains(other.address)
    }

    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.network().address) || other.contains(self.network().address)
    }

    /// The address that is the subnet itself: in IPv6 that of all its routers. Two hosts of IPv4,
    /// or one, need none.
    pub fn own_address(&self) -> Option<IpAddr> {
        let has = !self.is_ipv4() || self.prefix < 31;
        has.then(|| address(self.first(), self.is_ipv4()))
    }

    /// The address of all hosts at once.
    pub fn broadcast(&self) -> Option<IpAddr> {
        let has = self.is_ipv4() && self.prefix < 31;
        has.then(|| address(self.last(), true))
    }

    /// An address of the subnet by its place.
    pub fn host(&self, place: u128) -> IpAddr {
        address(self.first() + (place & self.host_bits()), self.is_ipv4())
    }

    /// The subnets of a length that this one is divided into, from the first.
    pub fn divided(self, length: u8) -> impl Iterator<Item = Self> {
        let size = Self { prefix: length.min(self.width()), ..self };
        let step = size.host_bits().saturating_add(1);
        let end = self.last();
        let mut next = (length >= self.prefix).then(|| self.first());
        std::iter::from_fn(move || {
            let at = next?;
            next = at.checked_add(step).filter(|begin| *begin <= end);
            Some(Self { address: address(at, self.is_ipv4()), prefix: length })
        })
    }
}

/// Where networks take subnets from that name none: `size` is the length of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supply {
    pub base: Cidr,
    pub size: u8,
}

/// Docker's for local networks; the first of them is the default bridge's.
pub fn docker_supply() -> Vec<Supply> {
    let net = |a, b, prefix, size| Supply {
        base: Cidr { address: Ipv4Addr::new(a, b, 0, 0).into(), prefix },
        size,
    };
    vec![
        net(172, 17, 16, 16),
        net(172, 18, 16, 16),
        net(172, 19, 16, 16),
        net(172, 20, 14, 16),
        net(172, 24, 14, 16),
        net(172, 28, 14, 16),
        net(192, 168, 16, 20),
    ]
}

/// Unique local addresses of an installation: the same after each start of the daemon.
pub fn local_supply(seed: [u8; 8]) -> Supply {
    let [.., a, b, c, d, e] = seed;
    let parts = [0xfd, a, b, c, d, e];
    let mut octets = [0; 16];
    octets[..6].copy_from_slice(&parts);
    Supply { base: Cidr { address: Ipv6Addr::from(octets).into(), prefix: 48 }, size: 64 }
}

/// Subnets that are looked at before an answer is given: 65,536 are in a default one of IPv6.
const LOOKED_AT: usize = 70_000;

/// The first subnet of the family that nothing taken overlaps.
pub fn choose(supplies: &[Supply], ipv4: bool, taken: &[Cidr]) -> Option<Cidr> {
    // The default route overlaps everything and takes nothing.
    let real: Vec<&Cidr> =
        taken.iter().filter(|other| other.prefix > 0 && other.is_ipv4() == ipv4).collect();
    supplies
        .iter()
        .filter(|supply| supply.base.is_ipv4() == ipv4)
        .flat_map(|supply| supply.base.divided(supply.size))
        .take(LOOKED_AT)
        .find(|subnet| !real.iter().any(|other| other.overlaps(subnet)))
}

/// Why an address cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    Used,
    Outside,
}

/// The addresses of one subnet, given one after the other.
#[derive(Clone, Debug)]
pub struct Pool {
    subnet: Cidr,
    /// Where those are taken from that nobody named.
    range: Cidr,
    used: BTreeSet<u128>,
    /// Those that are never given: the gateway and what people set aside.
    fixed: usize,
    last: Option<u128>,
}

impl Pool {
    pub fn new(subnet: Cidr, range: Option<Cidr>, set_aside: &[IpAddr]) -> Self {
        let subnet = subnet.network();
        let mut used: BTreeSet<u128> = set_aside.iter().copied().map(number).collect();
        used.extend([subnet.own_address(), subnet.broadcast()].into_iter().flatten().map(number));
        let fixed = used.len();
        Self { subnet, range: range.unwrap_or(subnet).network(), used, fixed, last: None }
    }

    pub fn subnet(&self) -> Cidr {
        self.subnet
    }

    fn with_prefix(&self, at: u128) -> Cidr {
        Cidr { address: address(at, self.subnet.is_ipv4()), prefix: self.subnet.prefix }
    }

    /// The next free address after the last one given; begins again at the end.
    pub fn take(&mut self) -> Option<Cidr> {
        let (first, end) = (self.range.first(), self.range.last());
        let begin = match self.last {
            Some(last) if (first..end).contains(&last) => last + 1,
            _ => first,
        };
        let found = self.free(begin, end).or_else(|| self.free(first, begin))?;
        self.used.insert(found);
        self.last = Some(found);
        Some(self.with_prefix(found))
    }

    /// The first free address in these bounds: the first gap in what is used.
    fn free(&self, first: u128, last: u128) -> Option<u128> {
        let mut next = first;
        for used in self.used.range(first..=last) {
            if *used != next {
                break;
            }
            next = next.checked_add(1)?;
        }
        (next <= last).then_some(next)
    }

    /// Takes this one.
    pub fn claim(&mut self, wanted: IpAddr) -> Result<Cidr, Claim> {
        if !self.subnet.contains(wanted) {
            return Err(Claim::Outside);
        }
        if !self.used.insert(number(wanted)) {
            return Err(Claim::Used);
        }
        Ok(self.with_prefix(number(wanted)))
    }

    /// Marks an address that somebody has already.
    pub fn restore(&mut self, address: IpAddr) {
        self.used.insert(number(address));
        self.last = self.last.max(Some(number(address)));
    }

    pub fn give_back(&mut self, address: IpAddr) {
        self.used.remove(&number(address));
        // A pool that nobody uses begins at its beginning again.
        if self.used.len() == self.fixed {
            self.last = None;
        }
    }

    /// How many addresses of the subnet nobody can get any more, and how many there are left of
    /// those that are given to who names none.
    pub fn counts(&self) -> (u64, u64) {
        let within = |of: Cidr| self.used.range(of.first()..=of.last()).count() as u64;
        // Of all of IPv6, one less than there are.
        let size = (self.range.last() - self.range.first()).saturating_add(1);
        let size = u64::try_from(size).unwrap_or(u64::MAX);
        (within(self.subnet), size.saturating_sub(within(self.range)))
    }

    /// How many are given.
    pub fn given(&self) -> usize {
        self.used.len() - self.fixed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn texts() {
        for good in ["10.0.0.1/8", "0.0.0.0/0", "fd00::1/64", "::/0", "1.2.3.4/32"] {
            assert_eq!(cidr(good).to_string(), good);
        }
        for bad in
            ["", "10.0.0.1", "10.0.0.1/33", "10.0.0.1/+8", "::1/129", "x/8", "1.2.3/8", "1.2.3.4/"]
        {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
        assert_eq!(cidr("10.1.2.3/16").network(), cidr("10.1.0.0/16"));
        assert_eq!(cidr("fd00:1::5/64").host(7), "fd00:1::7".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn supplies_avoid_what_is_taken() {
        let supply = docker_supply();
        assert_eq!(choose(&supply, true, &[]).unwrap(), cidr("172.17.0.0/16"));
        let taken = [cidr("0.0.0.0/0"), cidr("172.17.3.0/24"), cidr("172.18.0.0/15")];
        assert_eq!(choose(&supply, true, &taken).unwrap(), cidr("172.20.0.0/16"));
        let all = [cidr("172.0.0.0/8"), cidr("192.168.0.0/16")];
        assert_eq!(choose(&supply, true, &all), None);
        assert_eq!(
            choose(&supply, true, &[cidr("172.16.0.0/12")]).unwrap(),
            cidr("192.168.0.0/20")
        );
        let six = [local_supply([0, 0, 0, 1, 2, 3, 4, 5])];
        assert_eq!(choose(&six, false, &[]).unwrap(), cidr("fd01:203:405::/64"));
        assert_eq!(
            choose(&six, false, &[cidr("fd01:203:405::/64")]).unwrap(),
            cidr("fd01:203:405:1::/64")
        );
        assert_eq!(choose(&six, true, &[]), None);
        assert_eq!(docker_supply().iter().flat_map(|s| s.base.divided(s.size)).count(), 31);
    }

    #[test]
    fn addresses_in_sequence_and_to_the_end() {
        let mut pool = Pool::new(cidr("10.0.0.0/29"), None, &["10.0.0.1".parse().unwrap()]);
        let all: Vec<u128> =
            std::iter::from_fn(|| pool.take()).map(|a| number(a.address) & 7).collect();
        assert_eq!(all, [2, 3, 4, 5, 6]);
        pool.give_back("10.0.0.3".parse().unwrap());
        pool.give_back("10.0.0.5".parse().unwrap());
        assert_eq!(pool.take().unwrap(), cidr("10.0.0.3/29"));
        assert_eq!(pool.take().unwrap(), cidr("10.0.0.5/29"));
        assert_eq!((pool.take(), pool.counts()), (None, (8, 0)));
    }

    #[test]
    fn ranges_and_claims() {
        let gateway = "10.0.0.1".parse().unwrap();
        let mut pool = Pool::new(cidr("10.0.0.0/16"), Some(cidr("10.0.5.0/30")), &[gateway]);
        assert_eq!(pool.take().unwrap(), cidr("10.0.5.0/16"));
        assert_eq!(pool.claim("10.0.9.9".parse().unwrap()).unwrap(), cidr("10.0.9.9/16"));
        assert_eq!(pool.claim("10.0.9.9".parse().unwrap()), Err(Claim::Used));
        assert_eq!(pool.claim(gateway), Err(Claim::Used));
        assert_eq!(pool.claim("10.1.0.1".parse().unwrap()), Err(Claim::Outside));
        assert_eq!(pool.claim("fd00::1".parse().unwrap()), Err(Claim::Outside));
        assert_eq!((pool.given(), pool.counts()), (2, (5, 3)));
        let mut small = Pool::new(cidr("10.0.0.0/31"), None, &[]);
        assert_eq!(small.take().unwrap(), cidr("10.0.0.0/31"));
        assert_eq!(small.take().unwrap(), cidr("10.0.0.1/31"));
        assert_eq!(small.take(), None);
        let mut smallest = Pool::new(cidr("10.0.0.7/32"), None, &[]);
        assert_eq!(smallest.take().unwrap(), cidr("10.0.0.7/32"));
        let mut two = Pool::new(cidr("fd00::4/127"), None, &[]);
        assert_eq!((two.take().unwrap(), two.take()), (cidr("fd00::5/127"), None));
        assert_eq!(two.claim("fd00::4".parse().unwrap()), Err(Claim::Used));
        let mut six = Pool::new(cidr("fd00::/64"), None, &["fd00::1".parse().unwrap()]);
        assert_eq!(six.take().unwrap(), cidr("fd00::2/64"));
        assert_eq!(six.counts(), (3, u64::MAX - 3));
    }

    proptest! {
        /// Whatever is given and taken back, nobody has another's address, and a full pool says so.
        #[test]
        fn nobody_has_anothers(steps in prop::collection::vec((any::<bool>(), 0_usize..20), 0..200)) {
            let mut pool = Pool::new(cidr("10.0.0.0/28"), None, &["10.0.0.1".parse().unwrap()]);
            let mut held: Vec<Cidr> = Vec::new();
            for (take, which) in steps {
                if take {
                    match pool.take() {
                        Some(got) => {
                            prop_assert!(!held.contains(&got));
                            prop_assert!(cidr("10.0.0.0/28").contains(got.address));
                            held.push(got);
                        }
                        None => prop_assert_eq!(held.len(), 13),
                    }
                } else if !held.is_empty() {
                    let gone = held.remove(which % held.len());
                    pool.give_back(gone.address);
                }
                prop_assert_eq!(pool.given(), held.len());
            }
        }

        #[test]
        fn overlap_is_mutual_and_true(a in any::<u32>(), b in any::<u32>(), p in 0_u8..=32, q in 0_u8..=32) {
            let one = Cidr::new(Ipv4Addr::from(a).into(), p).unwrap();
            let two = Cidr::new(Ipv4Addr::from(b).into(), q).unwrap();
            prop_assert_eq!(one.overlaps(&two), two.overlaps(&one));
            let shorter = p.min(q);
            let same = shorter == 0 || (a ^ b) >> (32 - u32::from(shorter)) == 0;
            prop_assert_eq!(one.overlaps(&two), same);
        }
    }
}
