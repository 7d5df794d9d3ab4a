//! Which range, gateway and reserved addresses belong to which subnet of a new network, as far as
//! Docker's client looks at it. Pure.

use std::net::IpAddr;

use serde_json::{Map, Value};

type Result<T> = std::result::Result<T, String>;

/// The pools that a request names, in the order of the subnets.
pub fn config(
    subnets: &[String],
    ranges: &[String],
    gateways: &[String],
    reserved: &Map<String, Value>,
) -> Result<Vec<Value>> {
    if subnets.len() < ranges.len() || subnets.len() < gateways.len() {
        return Err("every ip-range or gateway must have a corresponding subnet".to_owned());
    }
    for (index, subnet) in subnets.iter().enumerate() {
        for earlier in &subnets[..index] {
            if holds(subnet, earlier)? || holds(earlier, subnet)? {
                return Err("multiple overlapping subnet configuration is not supported".to_owned());
            }
        }
    }
    let mut pools: Vec<Pool<'_>> =
        subnets.iter().map(|subnet| Pool { subnet, ..Pool::default() }).collect();
    for range in ranges {
        let inside = |pool: &Pool<'_>| {
            // A range is told by its prefix; an address alone is none.
            Prefix::parse(pool.subnet).map_err(|error| format!("invalid subnet: {error}"))?;
            Prefix::parse(range)?;
            holds(pool.subnet, range)
        };
        let pool = find(&mut pools, inside)?
            .ok_or_else(|| format!("no matching subnet for range {range}"))?;
        if let Some(first) = pool.range.replace(range) {
            return Err(format!(
                "cannot configure multiple ranges ({range}, {first}) on the same subnet ({})",
                pool.subnet
            ));
        }
    }
    for gateway in gateways {
        let pool = find(&mut pools, |pool| holds(pool.subnet, gateway))?
            .ok_or_else(|| format!("no matching subnet for gateway {gateway}"))?;
        if let Some(first) = pool.gateway.replace(gateway) {
            return Err(format!(
                "cannot configure multiple gateways ({gateway}, {first}) for the same subnet ({})",
                pool.subnet
            ));
        }
    }
    for (name, address) in reserved {
        let text = address.as_str().unwrap_or_default();
        let pool = find(&mut pools, |pool| holds(pool.subnet, text))?
            .ok_or_else(|| format!("no matching subnet for aux-address {text}"))?;
        pool.reserved.insert(name.clone(), address.clone());
    }
    Ok(pools.into_iter().map(Pool::into_json).collect())
}

#[derive(Default)]
struct Pool<'a> {
    subnet: &'a str,
    range: Option<&'a str>,
    gateway: Option<&'a str>,
    reserved: Map<String, Value>,
}

impl Pool<'_> {
    fn into_json(self) -> Value {
        let mut out = Map::new();
        out.insert("Subnet".to_owned(), self.subnet.into());
        for (key, value) in [("IPRange", self.range), ("Gateway", self.gateway)] {
            if let Some(value) = value {
                out.insert(key.to_owned(), value.into());
            }
        }
        if !self.reserved.is_empty() {
            out.insert("AuxiliaryAddresses".to_owned(), self.reserved.into());
        }
        out.into()
    }
}

fn find<'a, 'b>(
    pools: &'a mut [Pool<'b>],
    fits: impl Fn(&Pool<'b>) -> Result<bool>,
) -> Result<Option<&'a mut Pool<'b>>> {
    for pool in pools {
        if fits(pool)? {
            return Ok(Some(pool));
        }
    }
    Ok(None)
}

/// An address and how many of its bits are the network's.
struct Prefix {
    address: IpAddr,
    bits: u32,
}

impl Prefix {
    fn parse(text: &str) -> Result<Self> {
        let bad = || format!("invalid CIDR address: {text}");
        let (address, bits) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if !bits.bytes().all(|c| c.is_ascii_digit()) {
            return Err(bad());
        }
        let bits = bits.parse().ok().filter(|bits| *bits <= most).ok_or_else(bad)?;
        Ok(Self { address, bits })
    }

    /// Addresses of four bytes and those mapped into sixteen are the same ones.
    fn contains(&self, address: IpAddr) -> bool {
        let wide = |address: IpAddr| match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => address.to_bits(),
        };
        let bits = if self.address.is_ipv4() { self.bits + 96 } else { self.bits };
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        wide(self.address) & mask == wide(address) & mask
    }
}

/// Whether an address, or the address of a prefix, lies in a subnet.
fn holds(subnet: &str, data: &str) -> Result<bool> {
    let subnet = Prefix::parse(subnet).map_err(|error| format!("invalid subnet: {error}"))?;
    if data.contains('/') {
        return Ok(subnet.contains(Prefix::parse(data)?.address));
    }
    // No address at all lies nowhere.
    Ok(data.parse().is_ok_and(|address| subnet.contains(address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(
        subnets: &str,
        ranges: &str,
        gateways: &str,
        reserved: &[(&str, &str)],
    ) -> Result<String> {
        let list =
            |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
        let reserved = reserved.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
        config(&list(subnets), &list(ranges), &list(gateways), &reserved)
            .map(|pools| Value::from(pools).to_string())
    }

    /// Each line as docker 28.2 answers it.
    #[test]
    fn as_dockers_client() {
        assert_eq!(
            made(
                "10.1.0.0/16 10.2.0.0/16",
                "",
                "10.2.0.1 10.1.0.1",
                &[("a", "10.1.0.5"), ("b", "10.2.0.6")]
            )
            .unwrap(),
            r#"[{"Subnet":"10.1.0.0/16","Gateway":"10.1.0.1","AuxiliaryAddresses":{"a":"10.1.0.5"}},{"Subnet":"10.2.0.0/16","Gateway":"10.2.0.1","AuxiliaryAddresses":{"b":"10.2.0.6"}}]"#
        );
        for (subnets, ranges, gateways, reserved) in [
            ("bogus", "", "", None),
            ("10.2.0.0", "", "", None),
            ("10.2.0.0/16", "10.2.0.0/8", "10.2.0.1/16", None),
            ("::ffff:10.0.0.0/112", "", "10.0.0.1", None),
            ("fd00::/64", "fd00::/80", "fd00::1", Some(("a", "fd00::5"))),
        ] {
            made(subnets, ranges, gateways, reserved.as_slice()).unwrap();
        }
        let says = |subnets: &str, ranges: &str, gateways: &str| {
            made(subnets, ranges, gateways, &[]).unwrap_err()
        };
        let corresponding = "every ip-range or gateway must have a corresponding subnet";
        assert_eq!(says("", "10.3.0.0/24", ""), corresponding);
        assert_eq!(says("10.2.0.0/16", "", "10.2.0.1 10.2.0.2"), corresponding);
        assert_eq!(
            says("10.2.0.0/16", "10.3.0.0/24", ""),
            "no matching subnet for range 10.3.0.0/24"
        );
        assert_eq!(says("10.2.0.0/16", "bogus", ""), "invalid CIDR address: bogus");
        assert_eq!(says("10.2.0.0/16", "10.2.0.0", ""), "invalid CIDR address: 10.2.0.0");
        assert_eq!(says("10.2.0.0/16", "10.2.0.0/33", ""), "invalid CIDR address: 10.2.0.0/33");
        assert_eq!(says("10.2.0.0/16", "", "10.3.0.1"), "no matching subnet for gateway 10.3.0.1");
        assert_eq!(says("10.2.0.0/16", "", "bogus"), "no matching subnet for gateway bogus");
        assert_eq!(says("10.2.0.0/16", "", "10.2.0.1/x"), "invalid CIDR address: 10.2.0.1/x");
        assert_eq!(says("bogus", "10.0.0.0/24", ""), "invalid subnet: invalid CIDR address: bogus");
        assert_eq!(
            says("10.2.0.0/16 bogus", "", ""),
            "invalid subnet: invalid CIDR address: bogus"
        );
        assert_eq!(
            says("10.2.0.0/16 10.3.0.0/16", "10.2.0.0/24 10.2.1.0/24", ""),
            "cannot configure multiple ranges (10.2.1.0/24, 10.2.0.0/24) on the same subnet (10.2.0.0/16)"
        );
        assert_eq!(
            says("10.2.0.0/16 10.3.0.0/16", "", "10.2.0.1 10.2.0.2"),
            "cannot configure multiple gateways (10.2.0.2, 10.2.0.1) for the same subnet (10.2.0.0/16)"
        );
        for overlapping in ["10.2.0.0/16 10.2.3.0/24", "10.2.3.0/24 10.2.0.0/16"] {
            assert_eq!(
                says(overlapping, "", ""),
                "multiple overlapping subnet configuration is not supported"
            );
        }
        assert_eq!(
            made("10.2.0.0/16", "", "", &[("x", "10.3.0.1")]).unwrap_err(),
            "no matching subnet for aux-address 10.3.0.1"
        );
    }
}
