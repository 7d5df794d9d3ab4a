//! Containers that know each other on a network that keeps its containers apart.

use hoy_types::PortSpec;

use super::net::Net;
use super::{Networks, State};
use crate::firewall::{Opening, Place};
use crate::sandbox::Endpoint;
use crate::{NetworkError, host};

/// One container that knows another, and may reach ports of it that are for others closed.
#[derive(Clone, Debug)]
pub struct Link<'a> {
    pub from: &'a Endpoint,
    pub to: &'a Endpoint,
    pub ports: Vec<PortSpec>,
}

impl Networks {
    /// Whether containers of a network are kept apart, so that a link must open ports.
    pub fn keeps_apart(&self, network: &str) -> bool {
        self.state().nets.get(network).is_some_and(Net::keeps_apart)
    }

    /// Opens ports of some endpoints to others, where their network keeps them apart.
    pub fn link(&self, links: &[Link<'_>]) -> Result<(), NetworkError> {
        let mut guard = self.state();
        let state = &mut *guard;
        let isolated = !host::filters_bridges();
        for link in links {
            let Some(opening) = state.opening(link) else { continue };
            state.firewall.open_ports(opening, isolated)?;
            // Only now: until here nothing was between them.
            for end in [link.from, link.to].iter().filter(|_| isolated) {
                state.route.set_bridge_port(&end.interface, true, false)?;
            }
        }
        Ok(())
    }

    /// Closes what was opened by these endpoints and to them, before what stays is opened again.
    pub fn close_links(&self, endpoints: &[Endpoint]) -> Result<(), NetworkError> {
        self.state().close_links(endpoints)
    }

    /// What was opened before this daemon began, and nothing else, to and from all that `running`.
    pub fn link_again(
        &self,
        links: &[Link<'_>],
        running: &[&Endpoint],
    ) -> Result<(), NetworkError> {
        let mut guard = self.state();
        let state = &mut *guard;
        let isolated = !host::filters_bridges();
        let openings: Vec<Opening> = links.iter().filter_map(|link| state.opening(link)).collect();
        let open = |endpoint: &Endpoint| {
            openings.iter().any(|one| one.from.id == endpoint.id || one.to.id == endpoint.id)
        };
        for endpoint in running.iter().filter(|endpoint| isolated && !open(endpoint)) {
            if state.nets.get(&endpoint.network).is_some_and(Net::keeps_apart) {
                // Who it was linked to may have gone while no daemon ran. So may this one.
                let _ = state.route.set_bridge_port(&endpoint.interface, true, true);
            }
        }
        state.firewall.open_again(openings, isolated)
    }
}

impl State {
    pub(super) fn close_links(&mut self, endpoints: &[Endpoint]) -> Result<(), NetworkError> {
        let gone = |id: &str| endpoints.iter().any(|endpoint| endpoint.id == id);
        for end in self.firewall.left_alone(gone) {
            // It may be gone already.
            let _ = self.route.set_bridge_port(&end, true, true);
        }
        self.firewall.close_ports(gone)
    }

    fn opening(&self, link: &Link<'_>) -> Option<Opening> {
        let apart = self.nets.get(&link.from.network).is_some_and(Net::keeps_apart);
        (apart && link.from.network == link.to.network).then(|| Opening {
            from: Place::of(link.from),
            to: Place::of(link.to),
            ports: link.ports.iter().copied().collect(),
        })
    }
}
