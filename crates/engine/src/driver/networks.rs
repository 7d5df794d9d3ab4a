//! A container's networks while it has a driver: who keeps the rules and the name server's sockets,
//! what comes and goes while it runs, and giving everything back.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use hoy_network::DnsSockets;
use hoy_shim::message::Request;
use hoy_wire::EndpointSettings;

use super::Driver;
use crate::attachments::{self, Attachment};
use crate::directory::Document;
use crate::error::{Error, Result, failed, lost};
use crate::life::Phase;
use crate::networks::network_error;
use crate::record::{NetworkMode, NetworkRecord};

/// The name server's sockets, with the supervisor.
pub(super) const KEPT_DNS: &str = "dns";
/// The owner of the firewall's rules, with every supervisor of a container that they are for.
pub(crate) const KEPT_RULES: &str = "rules";

impl Driver {
    /// The rules outlive the daemon as long as their owner does.
    pub(super) async fn keep_rules(&mut self) -> Result<()> {
        let owner = self.inner.network.owner_of_the_rules().map_err(network_error)?;
        drop(self.call(Request::Keep { name: KEPT_RULES.into() }, &[owner]).await?);
        Ok(())
    }

    /// Names are answered before anything of the container runs; the supervisor keeps the sockets
    /// for the daemon to come.
    pub(super) async fn serve_names(&mut self, sockets: DnsSockets, netns: OwnedFd) -> Result<()> {
        let copy = |socket: &OwnedFd| {
            socket.try_clone().map_err(failed("keep the sockets of the name server"))
        };
        let kept = [copy(&sockets.udp)?, copy(&sockets.tcp)?];
        drop(self.call(Request::Keep { name: KEPT_DNS.into() }, &kept).await?);
        self.inner.tell_names(&self.record);
        self.inner.serve_names(&self.record, sockets, netns);
        Ok(())
    }

    pub(super) async fn connect(
        &mut self,
        network: &Arc<Document>,
        asked: &EndpointSettings,
    ) -> Result<()> {
        let settings = attachments::wanted(asked);
        let name = self.record.name.clone();
        attachments::may_connect(&self.record, network)?;
        attachments::check(&settings, network)?;
        if self.record.state.phase == Phase::Removing {
            return Err(Error::conflict(
                "Container is marked for removal and cannot be connected or disconnected to the \
                 network",
            ));
        }
        let before = self.record.network.clone();
        let one = Attachment { network: network.id.clone(), name: network.name.clone(), settings };
        if self.record.state.phase.is_alive() {
            let spec = attachments::endpoint(&one)?;
            self.record.network.attachments.push(one);
            // First the wish, with its aliases and addresses: a daemon that finds the endpoint
            // must know what it is for, and one that finds none forgets the wish.
            if let Err(error) = self.inner.save(&self.record).await {
                self.record.network = before;
                return Err(error);
            }
            let inner = Arc::clone(&self.inner);
            let record = self.record.clone();
            let done = tokio::task::spawn_blocking(move || inner.plug(&record, &name, &spec));
            match done.await.map_err(lost).and_then(|done| done) {
                Ok(endpoints) => self.record.network.endpoints = endpoints,
                Err(error) => {
                    self.record.network = before;
                    if let Err(error) = self.inner.save(&self.record).await {
                        tracing::error!(container = self.record.id.short(), %error, "connect");
                    }
                    return Err(error);
                }
            }
            self.networks_changed().await;
        } else {
            self.record.network.attachments.push(one);
        }
        self.networks_written(before).await?;
        self.network_events("connect", std::slice::from_ref(network));
        Ok(())
    }

    pub(super) async fn disconnect(&mut self, network: &Arc<Document>, force: bool) -> Result<()> {
        attachments::may_disconnect(&self.record, network)?;
        let before = self.record.network.clone();
        self.record.network.attachments.retain(|one| one.network != network.id);
        if self.record.network.mode == NetworkMode::None {
            // It has a namespace of its own, in which interfaces may come.
            self.record.network.mode = NetworkMode::Networks;
        } else if self.record.state.phase.is_alive() {
            let inner = Arc::clone(&self.inner);
            let record = self.record.clone();
            let id = network.id.clone();
            let done = tokio::task::spawn_blocking(move || inner.unplug(&record, &id, force));
            match done.await.map_err(lost).and_then(|done| done) {
                Ok(endpoints) => self.record.network.endpoints = endpoints,
                Err(error) => {
                    self.record.network = before;
                    return Err(error);
                }
            }
            self.networks_changed().await;
        }
        self.networks_written(before).await?;
        self.network_events("disconnect", std::slice::from_ref(network));
        Ok(())
    }

    /// What a running container and its neighbours know of its networks is told anew.
    async fn networks_changed(&mut self) {
        let inner = Arc::clone(&self.inner);
        let record = self.record.clone();
        let told = tokio::task::spawn_blocking(move || inner.networks_changed(&record));
        let sockets = match told.await.map_err(lost).and_then(|told| told) {
            Ok(sockets) => sockets,
            Err(error) => {
                tracing::error!(container = self.record.id.short(), %error, "tell of networks");
                return;
            }
        };
        if let Some((sockets, netns)) = sockets
            && let Err(error) = self.serve_names(sockets, netns).await
        {
            tracing::error!(container = self.record.id.short(), %error, "serve names");
        }
    }

    /// The kernel's state is what it is: where it cannot be written down, the next daemon finds it
    /// by what was noted.
    async fn networks_written(&mut self, before: NetworkRecord) -> Result<()> {
        if let Err(error) = self.inner.save(&self.record).await {
            if !self.record.state.phase.is_alive() {
                self.record.network = before;
            }
            self.publish();
            return Err(error);
        }
        self.publish();
        Ok(())
    }

    /// Takes back what the container has of networks; which those were.
    pub(super) async fn release_network(&mut self) -> Vec<Arc<Document>> {
        let endpoints = std::mem::take(&mut self.record.network.endpoints);
        // One that has left its networks while it ran has noted that.
        let mode = &self.record.network.mode;
        let documents = self.inner.documents_of_running(mode, &endpoints);
        if endpoints.is_empty() && *mode != NetworkMode::Networks {
            return documents;
        }
        let inner = Arc::clone(&self.inner);
        let id = self.record.id.clone();
        let release = tokio::task::spawn_blocking(move || inner.give_back(&id, &endpoints));
        let _ = release.await;
        documents
    }
}
