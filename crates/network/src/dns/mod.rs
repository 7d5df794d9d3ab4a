//! The embedded DNS server: 127.0.0.11 of every container on a network with names.
//!
//! The sockets live in the container's namespace and are served by one thread of the daemon, with
//! one task per container: names of its networks are answered in that task, from memory; everything
//! else is asked of resolvers by tasks of its own, which are counted. A single thread, since what a
//! second one wakes up for is done before it has woken; and so that no container's questions take
//! the daemon's time, nor the other way round. Nothing here decides who may be on which network.
//!
//! - `wire`: the packets' format, pure
//! - `names`: who is called what, per network, pure
//! - `answer`: what becomes of one query, pure
//! - `sockets`: the container's sockets and the rules that lead port 53 to them
//! - `upstream`, `ask`: which resolvers are asked, and asking them
//! - `serve`: the tasks

mod answer;
mod ask;
mod names;
mod serve;
mod sockets;
#[cfg(test)]
mod tests;
mod upstream;
mod wire;

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

pub use names::EndpointNames;
pub use sockets::{DnsSockets, open_sockets};

use crate::NetworkError;
use names::Zones;
use serve::Server;
use upstream::{HostResolvers, Upstreams};

/// How many questions may be with resolvers at once.
const MAX_IN_FLIGHT: usize = 1024;

/// What one container may ask. Plain data.
#[derive(Clone, Debug, Default)]
pub struct DnsClient {
    /// Ids of the networks whose names it sees; the first one that has a name answers.
    pub networks: Vec<String>,
    /// Names that only it knows: what it says, and the name in its networks that is meant.
    pub links: Vec<(String, String)>,
    /// What becomes of other names.
    pub forward: Forward,
    /// Whether the host's resolv.conf or the user says `ndots`: names of one label then stay here,
    /// as the client will come back with a search domain.
    pub ndots_set: bool,
}

/// Where names go that none of the networks has.
#[derive(Clone, Debug, Default)]
pub enum Forward {
    /// Nowhere: all of the container's networks are internal.
    #[default]
    Never,
    /// To the host's resolvers, from the host's namespace; changes of its resolv.conf are followed.
    Host,
    /// To these, asked from the container's namespace.
    Servers { servers: Vec<IpAddr>, netns: Arc<OwnedFd> },
}

/// The servers of all containers.
#[derive(Clone)]
pub struct Dns {
    shared: Arc<Shared>,
}

struct Shared {
    handle: Handle,
    /// The thread ends when this is dropped.
    _end: oneshot::Sender<()>,
    zones: Zones,
    host: Arc<HostResolvers>,
    in_flight: Arc<Semaphore>,
    servers: Mutex<HashMap<String, Server>>,
}

/// A runtime of one thread, until the other end of `ended` is dropped.
fn own_thread(ended: oneshot::Receiver<()>) -> std::io::Result<Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let work = move || {
        let _ = runtime.block_on(ended);
    };
    std::thread::Builder::new().name("dns".into()).spawn(work)?;
    Ok(handle)
}

impl Dns {
    /// `host_resolv_conf` names the host's resolvers; it is read when there is something to ask.
    /// They are asked from the namespace of the thread that calls this. `handle` is used where no
    /// thread can be had.
    pub fn start(handle: Handle, host_resolv_conf: PathBuf) -> Self {
        let (end, ended) = oneshot::channel();
        let shared = Shared {
            handle: own_thread(ended).unwrap_or(handle),
            _end: end,
            zones: Zones::default(),
            host: Arc::new(HostResolvers::new(host_resolv_conf)),
            in_flight: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            servers: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Answers a container's questions from now on, those that wait in the sockets first: what its
    /// networks know must have been said by `set_names`, also after a restart of the daemon, or a
    /// name of theirs is taken for a foreign one. Sockets given earlier for the same container are
    /// left. From any thread.
    pub fn serve(
        &self,
        container: &str,
        sockets: DnsSockets,
        client: DnsClient,
    ) -> Result<(), NetworkError> {
        let view = self.view(client);
        let in_flight = self.shared.in_flight.clone();
        let server = Server::start(&self.shared.handle, sockets, view, in_flight)?;
        self.servers().insert(container.to_owned(), server);
        Ok(())
    }

    /// The container was connected to a network or disconnected from one. Nothing happens if it is
    /// not served.
    pub fn update(&self, container: &str, client: DnsClient) {
        let view = self.view(client);
        if let Some(server) = self.servers().get(container) {
            server.update(view);
        }
        self.shared.zones.tidy();
    }

    /// The container has ended: closes our ends of its sockets.
    pub fn forget(&self, container: &str) {
        let server = self.servers().remove(container);
        drop(server);
        self.shared.zones.tidy();
    }

    /// Whether the container's questions are answered.
    pub fn serves(&self, container: &str) -> bool {
        self.servers().contains_key(container)
    }

    /// An endpoint is called this in its network from now on; what it was called before is
    /// forgotten. Known before the container runs, so that it finds itself.
    pub fn set_names(&self, network: &str, endpoint: &str, names: EndpointNames) {
        self.shared.zones.set(network, endpoint, names);
    }

    /// An endpoint has left its network.
    pub fn unset_names(&self, network: &str, endpoint: &str) {
        self.shared.zones.unset(network, endpoint);
    }

    fn view(&self, client: DnsClient) -> answer::View {
        let upstreams = match client.forward {
            Forward::Never => Upstreams::Never,
            Forward::Host => Upstreams::Host(self.shared.host.clone()),
            Forward::Servers { servers, netns } => Upstreams::inside(&servers, netns),
        };
        let zones = client.networks.iter().map(|network| self.shared.zones.zone(network)).collect();
        answer::View::new(zones, &client.links, upstreams, client.ndots_set)
    }

    fn servers(&self) -> MutexGuard<'_, HashMap<String, Server>> {
        self.shared.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
