//! The ports of a container: reserved and let in where its way out is.

use hoy_types::PortBinding;

use super::State;
use super::net::Kind;
use crate::firewall::{GatewayMode, Publication};
use crate::ports::{Families, Wanted};
use crate::sandbox::Endpoint;
use crate::spec::BridgeOptions;
use crate::{NetworkError, Settings, host};

impl State {
    /// Reserves the ports of a container and lets them in, where its way out is.
    pub(super) fn open_ports(
        &mut self,
        settings: &Settings,
        name: &str,
        bindings: &[PortBinding],
        endpoints: &mut [Endpoint],
    ) -> Result<(), NetworkError> {
        if bindings.is_empty() {
            return Ok(());
        }
        // Who has no way out has no way in.
        let four = endpoints.iter().position(|endpoint| endpoint.way_out4);
        let six = endpoints.iter().position(|endpoint| endpoint.way_out6);
        let Some(first) = four.or(six) else { return Ok(()) };
        let bridge = |index: Option<usize>| {
            let net = self.nets.get(&endpoints.get(index?)?.network)?;
            match &net.kind {
                Kind::Bridge(options) => Some(options),
                // Reached by its own address; nothing of the host stands between.
                Kind::Link(_) => None,
            }
        };
        let options = [bridge(four), bridge(six)];
        if options.iter().all(Option::is_none) {
            return Ok(());
        }
        let mode = |options: Option<&BridgeOptions>, v4: bool| {
            options.map_or(GatewayMode::Nat, |o| if v4 { o.mode4 } else { o.mode6 })
        };
        let routed = |mode: GatewayMode| mode == GatewayMode::Routed;
        let target4 = four.filter(|_| options[0].is_some());
        let target6 = six.filter(|_| options[1].is_some());
        let binding = options.iter().flatten().find_map(|options| options.host_binding);
        let wanted = Wanted {
            bindings,
            target4: target4.and_then(|at| endpoints.get(at)?.address4()),
            target6: target6.and_then(|at| endpoints.get(at)?.address6()),
            default_v4: binding.unwrap_or(settings.host_ip4),
            default_v6: settings.host_ip6,
            ipv6_on_host: host::has_ipv6(),
            proxied: settings.proxied,
            direct: Families {
                v4: routed(mode(options[0], true)),
                v6: routed(mode(options[1], false)),
            },
        };
        let bound = self.ports.reserve(&wanted);
        let bound = bound.map_err(|reason| NetworkError::Port {
            name: name.to_owned(),
            endpoint: endpoints.get(first).map(|endpoint| endpoint.id.clone()).unwrap_or_default(),
            reason,
        })?;
        for port in bound {
            let at = if port.target.is_ipv4() { target4 } else { target6 };
            if let Some(endpoint) = at.and_then(|at| endpoints.get_mut(at)) {
                endpoint.ports.push(port);
            }
        }
        let publications = self.publications(endpoints);
        match self.firewall.publish(&publications) {
            Ok(flows) => self.flows.add(flows),
            Err(error) => {
                self.close_ports(endpoints);
                endpoints.iter_mut().for_each(|endpoint| endpoint.ports.clear());
                return Err(error);
            }
        }
        Ok(())
    }

    pub(super) fn close_ports(&mut self, endpoints: &[Endpoint]) {
        let publications = self.publications(endpoints);
        if !publications.is_empty() {
            // Gone already, with the whole table perhaps: that is what is wanted.
            if let Ok(flows) = self.firewall.withdraw(&publications) {
                self.flows.add(flows);
            }
        }
        for endpoint in endpoints.iter().filter(|endpoint| !endpoint.ports.is_empty()) {
            self.ports.release(&endpoint.ports);
        }
    }

    /// The same ports, where the way out is now.
    pub(super) fn move_ports(
        &mut self,
        settings: &Settings,
        name: &str,
        ports: &[PortBinding],
        before: &[Endpoint],
        now: &mut [Endpoint],
    ) -> Result<(), NetworkError> {
        let way = |endpoints: &[Endpoint]| -> Vec<(String, bool, bool)> {
            let ways = endpoints.iter().filter(|e| e.way_out4 || e.way_out6);
            ways.map(|e| (e.id.clone(), e.way_out4, e.way_out6)).collect()
        };
        if ports.is_empty() || way(before) == way(now) {
            return Ok(());
        }
        self.close_ports(before);
        now.iter_mut().for_each(|endpoint| endpoint.ports.clear());
        let moved = self.open_ports(settings, name, ports, now);
        if moved.is_err() {
            let mut old = before.to_vec();
            old.iter_mut().for_each(|endpoint| endpoint.ports.clear());
            let _ = self.open_ports(settings, name, ports, &mut old);
        }
        moved
    }

    /// What the firewall is to let in.
    pub(super) fn publications(&self, endpoints: &[Endpoint]) -> Vec<Publication> {
        let mut out = Vec::new();
        for endpoint in endpoints {
            let Some(net) = self.nets.get(&endpoint.network) else { continue };
            let Kind::Bridge(options) = &net.kind else { continue };
            for port in &endpoint.ports {
                out.push(Publication {
                    protocol: port.container.protocol,
                    host_ip: port.host_ip,
                    host_port: port.host_port,
                    target: port.target,
                    interface: options.interface(&net.spec.id),
                    mode: if port.target.is_ipv4() { options.mode4 } else { options.mode6 },
                });
            }
        }
        out
    }
}

/// The ports of a container as they are, to be had again elsewhere; those that it has not got, as
/// they are wanted.
pub(super) fn wanted_again(bindings: &[PortBinding], endpoints: &[Endpoint]) -> Vec<PortBinding> {
    let mut out: Vec<PortBinding> = Vec::new();
    for port in endpoints.iter().flat_map(|endpoint| &endpoint.ports) {
        let binding = PortBinding {
            container: port.container,
            host_ip: Some(port.host_ip),
            host_ports: Some((port.host_port, port.host_port)),
        };
        if !out.contains(&binding) {
            out.push(binding);
        }
    }
    let has: Vec<_> = out.iter().map(|binding| binding.container).collect();
    out.extend(bindings.iter().filter(|one| !has.contains(&one.container)).cloned());
    out
}
