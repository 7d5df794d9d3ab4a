//! How networks are on this host: what the settings say of them, in `network`'s words, and the
//! firewall's rules as the supervisors have kept them.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use hoy_config::Settings;
use hoy_network::{Cidr, NetworkRequest, NetworkSpec, Networks, PoolRequest, Supply};
use hoy_store::{Durability, Op, Store};

use super::names::host_resolv_conf_path;
use super::{Inner, META};
use crate::directory::{Directory, Document, NETWORK};
use crate::driver::KEPT_RULES;
use crate::error::{Result, failed};
use crate::plan;

/// Supervisors that are asked for the owner of the rules: the first one that answers has it.
const ASKED_FOR_THE_OWNER: usize = 8;
/// How long somebody else may own the rules when a daemon starts.
const OWNER_GIVEN_UP: Duration = Duration::from_secs(10);

impl Inner {
    /// Takes bridge, table and forwarding back.
    pub fn clean_network(&self) -> Result<()> {
        self.barriers.take_back().map_err(failed("take rules out of other firewalls"))?;
        self.network.clean().map_err(failed("take the network back"))?;
        if plan::driver(&self.settings) == hoy_cgroup::Driver::Cgroupfs {
            let _ = hoy_cgroup::remove_parent(&self.settings.cgroup_parent);
        }
        self.store
            .write(vec![Op::Delete { kind: META, key: "forwarding".into() }], Durability::Written)
            .map_err(failed("write to the database"))
    }
}

/// What people know of networks, and what each of them is.
pub(super) fn read(
    store: &Store,
    settings: &Settings,
    id: &str,
) -> Result<(Directory, Vec<NetworkSpec>)> {
    let networks = Directory::default();
    let documents = store.documents(NETWORK).map_err(failed("read the networks"))?;
    let mut specs = Vec::new();
    for (key, body) in documents {
        match serde_json::from_slice::<Document>(&body) {
            Ok(document) => {
                specs.extend(document.spec.clone());
                networks.insert(document);
            }
            Err(error) => tracing::error!(network = key, %error, "an unreadable record"),
        }
    }
    for document in predefined(settings, id) {
        networks.insert(document);
    }
    Ok((networks, specs))
}

/// The networks that the daemon has by itself.
pub(super) fn predefined(settings: &Settings, id: &str) -> Vec<Document> {
    let mut bridge = Document::predefined("bridge", "bridge", network_id(id, 'b'));
    let yes = |value: bool| value.to_string();
    let options = [
        ("bridge.default_bridge", yes(true)),
        ("bridge.enable_icc", yes(settings.icc)),
        ("bridge.enable_ip_masquerade", yes(settings.ip_masq)),
        (
            "bridge.host_binding_ipv4",
            settings.ip.map_or_else(|| "0.0.0.0".to_owned(), |ip| ip.to_string()),
        ),
        ("bridge.name", settings.bridge.clone()),
        ("driver.mtu", settings.mtu.to_string()),
    ];
    bridge.ipv6 = settings.networking.ipv6;
    bridge.options = options
        .into_iter()
        .map(|(name, value)| (format!("com.docker.network.{name}"), value))
        .collect();
    let bridge = settings.has_bridge().then_some(bridge);
    let others = [
        Document::predefined("host", "host", network_id(id, 'h')),
        Document::predefined("none", "null", network_id(id, 'n')),
    ];
    bridge.into_iter().chain(others).collect()
}

/// How networks are to be on this host.
pub(super) fn settings(settings: &Settings, id: &str, program: &Path) -> hoy_network::Settings {
    let options = predefined(settings, id).into_iter().next().map(|bridge| bridge.options);
    let mut options = options.unwrap_or_default();
    // What the default bridge is needs no saying; where it publishes is said below.
    options.remove("com.docker.network.bridge.default_bridge");
    options.remove("com.docker.network.bridge.host_binding_ipv4");
    let networking = &settings.networking;
    hoy_network::Settings {
        default: settings.has_bridge().then(|| NetworkRequest {
            id: network_id(id, 'b'),
            name: "bridge".into(),
            driver: hoy_network::Driver::Bridge,
            ipv4: true,
            ipv6: networking.ipv6,
            internal: false,
            options,
            pools: default_pools(settings),
        }),
        supplies: supplies(networking, id),
        mtu: settings.mtu,
        forward: settings.ip_forward,
        open: networking.forward_no_drop,
        direct: networking.direct_routing,
        host_ip4: match settings.ip {
            Some(IpAddr::V4(address)) => address,
            _ => std::net::Ipv4Addr::UNSPECIFIED,
        },
        host_ip6: match settings.ip {
            Some(IpAddr::V6(address)) => address,
            _ => std::net::Ipv6Addr::UNSPECIFIED,
        },
        proxied: !networking.without_proxy,
        keeper: Some(hoy_network::KeeperPlace {
            program: program.to_owned(),
            socket: settings.exec_root.join("ports.sock"),
        }),
        resolv_conf: host_resolv_conf_path(),
    }
}

/// The default bridge's addresses, as far as the settings name them.
fn default_pools(settings: &Settings) -> Vec<PoolRequest> {
    let networking = &settings.networking;
    let bip = settings.bip.as_ref().and_then(|bip| bip.parse::<Cidr>().ok());
    let bip6 = networking.bip6.and_then(cidr);
    let gateway = networking.gateway.map(IpAddr::V4);
    let gateway6 = networking.gateway6.map(IpAddr::V6);
    let families = [
        (bip, networking.fixed_cidr, gateway, hoy_network::OTHER_GATEWAY4),
        (bip6, networking.fixed_cidr6, gateway6, hoy_network::OTHER_GATEWAY6),
    ];
    let asked = families.into_iter().filter_map(|(own, range, gateway, name)| {
        let range = range.and_then(cidr).map(|range| range.network());
        // Without an address of its own the bridge has what containers have.
        let subnet = own.map(|own| own.network()).or(range);
        (subnet.is_some() || gateway.is_some()).then(|| PoolRequest {
            subnet,
            range,
            gateway: own.map(|own| own.address),
            set_aside: gateway.map(|gateway| (name.to_owned(), gateway)).into_iter().collect(),
        })
    });
    // What the default bridge has not needs no addresses.
    asked.filter(|pool| networking.ipv6 || pool.subnet.is_none_or(|s| s.is_ipv4())).collect()
}

/// Where networks take subnets from that name none. IPv6 is never without.
fn supplies(networking: &hoy_config::Networking, id: &str) -> Vec<Supply> {
    let own = networking
        .pools
        .iter()
        .filter_map(|pool| Some(Supply { base: cidr(pool.base)?.network(), size: pool.size }));
    let mut out: Vec<Supply> = own.collect();
    if out.is_empty() {
        out = hoy_network::docker_supply();
    }
    if out.iter().all(|supply| supply.base.is_ipv4()) {
        out.push(hoy_network::local_supply(seed(id)));
    }
    out
}

pub(super) fn cidr(subnet: hoy_config::Subnet) -> Option<Cidr> {
    Cidr::new(subnet.address, subnet.prefix)
}

/// The predefined networks' ids hang together with the installation's.
pub(super) fn network_id(id: &str, letter: char) -> String {
    let shift = letter as usize % 32;
    let (left, right) = id.split_at(shift.min(id.len()));
    format!("{right}{left}")
}

/// Of the installation's unique local addresses.
pub(super) fn seed(id: &str) -> [u8; 8] {
    u64::from_str_radix(id.get(..16).unwrap_or("0"), 16).unwrap_or(0).to_be_bytes()
}

/// With the owner of the firewall's rules, where a supervisor has kept it. One that is about to
/// end, or is slow, is waited for: as long as it holds the owner nobody else can be that.
pub(super) fn open(
    exec_root: &Path,
    open: &dyn Fn(Option<OwnedFd>) -> std::result::Result<Networks, hoy_network::NetworkError>,
) -> std::result::Result<Networks, hoy_network::NetworkError> {
    let started = std::time::Instant::now();
    loop {
        match open(kept_owner(exec_root)) {
            Err(error) if error.is_owned_elsewhere() && started.elapsed() < OWNER_GIVEN_UP => {
                std::thread::sleep(Duration::from_millis(50));
            }
            other => return other,
        }
    }
}

/// The owner of the firewall's rules, from any supervisor that has kept it for us.
fn kept_owner(exec_root: &Path) -> Option<OwnedFd> {
    let shims = hoy_shim::client::list(exec_root).unwrap_or_default();
    shims.iter().take(ASKED_FOR_THE_OWNER).find_map(|id| {
        let kept = hoy_shim::client::kept(exec_root, id, KEPT_RULES);
        kept.ok()?.into_iter().next()
    })
}
