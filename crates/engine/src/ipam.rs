//! Docker's rules for the addresses that somebody asks for. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hoy_network::{Cidr, PoolRequest};
use hoy_wire as wire;

use crate::error::{Error, Result};

/// Checks the subnets of a network, with Docker's words for all that is wrong.
pub(crate) fn check(configs: &[wire::IpamConfig], ipv6: bool) -> Result<()> {
    let (mut wrong, mut taken) = (Vec::new(), Vec::new());
    for config in configs {
        if config.subnet.is_empty() {
            let more = !config.ip_range.is_empty()
                || !config.gateway.is_empty()
                || !config.auxiliary_addresses.is_empty();
            if more {
                wrong.push("invalid subnet : invalid CIDR block notation".to_owned());
            }
            continue;
        }
        let Ok(subnet) = config.subnet.parse::<Cidr>() else {
            wrong.push(format!("invalid subnet {}: invalid CIDR block notation", config.subnet));
            continue;
        };
        if !ipv6 && !subnet.is_ipv4() {
            continue;
        }
        if subnet != subnet.network() {
            wrong.push(format!("invalid subnet {subnet}: it should be {}", subnet.network()));
        }
        wrong.extend(range(&config.ip_range, &subnet));
        let address = |text: &str| address(text, &subnet);
        if let Some(why) = address(&config.gateway) {
            wrong.push(format!("invalid gateway {}: {why}", config.gateway));
        }
        for (name, text) in &config.auxiliary_addresses {
            if let Some(why) = address(text) {
                wrong.push(format!("invalid auxiliary address {name}: {why}"));
            } else if text == &config.gateway {
                taken.push(format!(
                    "failed to allocate secondary ip address ({name}:{text}): Address already in \
                     use"
                ));
            }
        }
    }
    if let (true, Some(first)) = (wrong.is_empty(), taken.into_iter().next()) {
        return Err(Error::new(hoy_types::ErrorKind::Forbidden, first));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Error::invalid(format!("invalid network config:\n{}", wrong.join("\n"))))
}

fn family(subnet: &Cidr) -> &'static str {
    if subnet.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn range(text: &str, subnet: &Cidr) -> Vec<String> {
    if text.is_empty() {
        return Vec::new();
    }
    let Ok(range) = text.parse::<Cidr>() else {
        return vec![format!("invalid ip-range {text}: invalid CIDR block notation")];
    };
    if range.is_ipv4() != subnet.is_ipv4() {
        return vec![format!(
            "invalid ip-range {text}: parent subnet is an {} block",
            family(subnet)
        )];
    }
    let mut wrong = Vec::new();
    if range.prefix < subnet.prefix {
        wrong.push(format!(
            "invalid ip-range {text}: CIDR block is bigger than its parent subnet {subnet}"
        ));
    }
    if range != range.network() {
        wrong.push(format!("invalid ip-range {text}: it should be {}", range.network()));
    }
    if !subnet.overlaps(&range) {
        wrong.push(format!(
            "invalid ip-range {text}: parent subnet {subnet} doesn't contain ip-range"
        ));
    }
    wrong
}

fn address(text: &str, subnet: &Cidr) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    let Ok(address) = text.parse::<IpAddr>() else { return Some("invalid address".into()) };
    if address.is_ipv4() != subnet.is_ipv4() {
        return Some(format!("parent subnet is an {} block", family(subnet)));
    }
    let outside = !subnet.contains(address);
    outside.then(|| format!("parent subnet {subnet} doesn't contain this address"))
}

/// What was checked, as the room of networks takes it.
pub(crate) fn pools(configs: &[wire::IpamConfig]) -> Result<Vec<PoolRequest>> {
    let bad = || Error::invalid("invalid network config");
    let all: Vec<PoolRequest> =
        configs.iter().map(|config| parsed(config).ok_or_else(bad)).collect::<Result<_>>()?;
    // Several ranges of one subnet are one pool's.
    let mut seen: BTreeMap<Option<Cidr>, ()> = BTreeMap::new();
    for pool in &all {
        if seen.insert(pool.subnet, ()).is_some() {
            return Err(Error::invalid(
                "invalid pool request: Pool overlaps with other one on this address space",
            ));
        }
    }
    Ok(all)
}

/// What somebody wrote, parsed.
pub(crate) fn parsed(config: &wire::IpamConfig) -> Option<PoolRequest> {
    let cidr = |text: &str| -> Option<Option<Cidr>> {
        if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
    };
    let address = |text: &str| -> Option<Option<IpAddr>> {
        if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
    };
    let set_aside = config
        .auxiliary_addresses
        .iter()
        .map(|(name, text)| Some((name.clone(), text.parse().ok()?)))
        .collect::<Option<_>>()?;
    Some(PoolRequest {
        subnet: cidr(&config.subnet)?,
        range: cidr(&config.ip_range)?,
        gateway: address(&config.gateway)?,
        set_aside,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(subnet: &str, range: &str, gateway: &str) -> wire::IpamConfig {
        wire::IpamConfig {
            subnet: subnet.into(),
            ip_range: range.into(),
            gateway: gateway.into(),
            ..wire::IpamConfig::default()
        }
    }

    #[test]
    fn docker_s_words() {
        for (subnet, range, gateway, says) in [
            ("10.1.0.0", "", "", "invalid subnet 10.1.0.0: invalid CIDR block notation"),
            ("10.1.2.0/16", "", "", "invalid subnet 10.1.2.0/16: it should be 10.1.0.0/16"),
            ("10.1.0.0/16", "10.2.0.0/24", "", "doesn't contain ip-range"),
            ("10.1.0.0/16", "10.0.0.0/8", "", "CIDR block is bigger than its parent subnet"),
            ("10.1.0.0/16", "fd00::/64", "", "parent subnet is an IPv4 block"),
            ("10.1.0.0/16", "", "10.2.0.1", "invalid gateway 10.2.0.1: parent subnet 10.1.0.0/16"),
            ("10.1.0.0/16", "", "x", "invalid gateway x: invalid address"),
        ] {
            let error = check(&[config(subnet, range, gateway)], true).unwrap_err().to_string();
            assert!(
                error.starts_with("invalid network config:\n") && error.contains(says),
                "{error}"
            );
        }
        check(&[config("10.1.0.0/16", "10.1.5.0/24", "10.1.0.1")], false).unwrap();
        check(&[config("fd00::/64", "", "fd00::1"), config("10.0.0.0/8", "", "")], true).unwrap();
        // Not looked at where IPv6 is off, as in Docker.
        check(&[config("fd00::1/64", "", "")], false).unwrap();
        let two = [config("10.0.0.0/8", "", ""), config("10.0.0.0/8", "", "")];
        assert!(pools(&two).is_err());
    }
}
