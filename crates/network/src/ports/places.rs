//! By which addresses a binding is published, and who carries each. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hoy_types::{PortBinding, Protocol};

use super::{BoundPort, Carrier, Wanted};

/// One address of the host for one binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub ip: IpAddr,
    pub target: SocketAddr,
    pub by: Carrier,
}

/// IPv4 first, as Docker tells it.
pub(super) fn places(wanted: &Wanted<'_>, binding: &PortBinding) -> Vec<Place> {
    let port = binding.container.port;
    // SCTP is not proxied.
    let proxied = wanted.proxied && binding.container.protocol != Protocol::Sctp;
    let target4 = wanted.target4.map(|ip| SocketAddr::new(ip.into(), port));
    let target6 = wanted.target6.map(|ip| SocketAddr::new(ip.into(), port));
    let mut out = Vec::with_capacity(2);
    if let Some(ip) = host_v4(wanted, binding) {
        // Where a family is routed its addresses lead nowhere else either.
        match (target4, target6.filter(|_| proxied && !wanted.direct.v6)) {
            (Some(_), _) if wanted.direct.v4 => {}
            (Some(target), _) => out.push(Place { ip: ip.into(), target, by: Carrier::Kernel }),
            (None, Some(target)) => {
                out.push(Place { ip: ip.into(), target, by: Carrier::Keeper });
            }
            (None, None) => {}
        }
    }
    if let Some(ip) = host_v6(wanted, binding) {
        match (target6, target4.filter(|_| proxied && !wanted.direct.v4)) {
            (Some(_), _) if wanted.direct.v6 => {}
            (Some(target), _) => {
                let by = match (proxied, ip.is_loopback(), ip.is_unspecified()) {
                    (true, true, _) => Carrier::Keeper,
                    (true, _, true) => Carrier::Both,
                    _ => Carrier::Kernel,
                };
                out.push(Place { ip: ip.into(), target, by });
            }
            (None, Some(target)) => {
                out.push(Place { ip: ip.into(), target, by: Carrier::Keeper });
            }
            (None, None) => {}
        }
    }
    out
}

/// What is reached without the host: one entry for each routed family.
pub(super) fn direct(wanted: &Wanted<'_>, binding: &PortBinding) -> Vec<BoundPort> {
    let wants4 = wanted.direct.v4 && canonical(binding).is_none_or(|ip| ip.is_ipv4());
    let wants6 = wanted.direct.v6 && canonical(binding).is_none_or(|ip| ip.is_ipv6());
    let target4 = wanted.target4.filter(|_| wants4).map(IpAddr::from);
    let target6 = wanted.target6.filter(|_| wants6).map(IpAddr::from);
    let one = |target: IpAddr| BoundPort {
        container: binding.container,
        host_ip: match target {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        },
        host_port: 0,
        target: SocketAddr::new(target, binding.container.port),
        by: Carrier::Kernel,
    };
    target4.into_iter().chain(target6).map(one).collect()
}

/// An IPv4 address that is written as an IPv6 one is an IPv4 address.
fn canonical(binding: &PortBinding) -> Option<IpAddr> {
    binding.host_ip.map(|ip| ip.to_canonical())
}

fn host_v4(wanted: &Wanted<'_>, binding: &PortBinding) -> Option<Ipv4Addr> {
    match canonical(binding) {
        None => {
            let everywhere =
                wanted.default_v6.is_unspecified() || !wanted.default_v4.is_unspecified();
            everywhere.then_some(wanted.default_v4)
        }
        Some(IpAddr::V4(ip)) => Some(ip),
        Some(IpAddr::V6(_)) => None,
    }
}

fn host_v6(wanted: &Wanted<'_>, binding: &PortBinding) -> Option<Ipv6Addr> {
    match canonical(binding) {
        None => {
            let everywhere =
                wanted.default_v4.is_unspecified() || !wanted.default_v6.is_unspecified();
            (wanted.ipv6_on_host && everywhere).then_some(wanted.default_v6)
        }
        Some(IpAddr::V6(ip)) => Some(ip),
        Some(IpAddr::V4(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Families;
    use super::*;

    fn binding(text: &str) -> PortBinding {
        hoy_types::parse_port_spec(text).unwrap().remove(0)
    }

    const BASE: Wanted<'static> = Wanted {
        bindings: &[],
        target4: Some(Ipv4Addr::new(172, 17, 0, 2)),
        target6: None,
        default_v4: Ipv4Addr::UNSPECIFIED,
        default_v6: Ipv6Addr::UNSPECIFIED,
        ipv6_on_host: true,
        proxied: true,
        direct: Families { v4: false, v6: false },
    };
    const DUAL: Wanted<'static> =
        Wanted { target6: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)), ..BASE };

    fn told(wanted: &Wanted<'_>, text: &str) -> Vec<String> {
        let all = places(wanted, &binding(text));
        all.iter().map(|p| format!("{} {} {:?}", p.ip, p.target, p.by)).collect()
    }

    #[test]
    fn each_address_has_its_carrier() {
        let only6 = Wanted { target4: None, ..DUAL };
        let quiet = Wanted { proxied: false, ..BASE };
        let plain = Wanted { proxied: false, ..DUAL };
        let cases: &[(&Wanted<'_>, &str, &[&str])] = &[
            (&BASE, "80:80", &["0.0.0.0 172.17.0.2:80 Kernel", ":: 172.17.0.2:80 Keeper"]),
            (&DUAL, "80:80", &["0.0.0.0 172.17.0.2:80 Kernel", ":: [fd00::2]:80 Both"]),
            (&only6, "80:80", &["0.0.0.0 [fd00::2]:80 Keeper", ":: [fd00::2]:80 Both"]),
            (&quiet, "80:80", &["0.0.0.0 172.17.0.2:80 Kernel"]),
            (&plain, "80:80", &["0.0.0.0 172.17.0.2:80 Kernel", ":: [fd00::2]:80 Kernel"]),
            (&BASE, "127.0.0.1:80:80", &["127.0.0.1 172.17.0.2:80 Kernel"]),
            (&BASE, "[::1]:80:80", &["::1 172.17.0.2:80 Keeper"]),
            (&DUAL, "[::1]:80:80", &["::1 [fd00::2]:80 Keeper"]),
            (&DUAL, "[2001:db8::1]:80:80", &["2001:db8::1 [fd00::2]:80 Kernel"]),
            (&BASE, "[2001:db8::1]:80:80", &["2001:db8::1 172.17.0.2:80 Keeper"]),
            (&DUAL, "0.0.0.0:80:80", &["0.0.0.0 172.17.0.2:80 Kernel"]),
            (&DUAL, "[::]:80:80/sctp", &[":: [fd00::2]:80 Kernel"]),
            (&BASE, "80:80/sctp", &["0.0.0.0 172.17.0.2:80 Kernel"]),
        ];
        for (wanted, text, expected) in cases {
            assert_eq!(told(wanted, text), *expected, "{text}");
        }
    }

    #[test]
    fn defaults_and_hosts_without_ipv6() {
        let loopback = Wanted { default_v4: Ipv4Addr::LOCALHOST, ..DUAL };
        assert_eq!(told(&loopback, "80:80"), ["127.0.0.1 172.17.0.2:80 Kernel"]);
        let both = Wanted { default_v6: Ipv6Addr::LOCALHOST, ..loopback };
        assert_eq!(told(&both, "80:80").len(), 2);
        let six = Wanted { default_v6: Ipv6Addr::LOCALHOST, ..DUAL };
        assert_eq!(told(&six, "80:80").len(), 1);
        let old = Wanted { ipv6_on_host: false, ..DUAL };
        assert_eq!(told(&old, "80:80"), ["0.0.0.0 172.17.0.2:80 Kernel"]);
        let nowhere = Wanted { target4: None, ..BASE };
        assert!(told(&nowhere, "80:80").is_empty());
    }

    #[test]
    fn what_is_routed_is_not_bound() {
        let routed6 = Wanted { direct: Families { v4: false, v6: true }, ..DUAL };
        assert_eq!(told(&routed6, "80:80"), ["0.0.0.0 172.17.0.2:80 Kernel"]);
        let ports = direct(&routed6, &binding("80:80"));
        assert_eq!(ports.len(), 1);
        assert_eq!((ports[0].host_port, ports[0].target.to_string()), (0, "[fd00::2]:80".into()));
        let routed = Wanted { direct: Families { v4: true, v6: true }, ..DUAL };
        assert!(told(&routed, "80:80").is_empty());
        assert_eq!(direct(&routed, &binding("80:80")).len(), 2);
        assert_eq!(direct(&routed, &binding("0.0.0.0:80:80")).len(), 1);
    }
}
