//! Taking up what a daemon before this one has left.

use std::os::fd::OwnedFd;

use hoy_network::DnsSockets;
use hoy_shim::client::Connection;
use hoy_shim::message::{ExitRecord, Reply, Request, Status};
use hoy_types::Timestamp;

use super::Driver;
use super::networks::KEPT_DNS;
use super::supervisor::ANSWER;
use crate::error::{Error, Result, failed};
use crate::life::Phase;
use crate::sandbox::namespace_of;

impl Driver {
    /// Takes up a container whose supervisor runs on.
    pub(super) async fn adopt(&mut self, connection: Connection) {
        let status = async {
            self.meet(connection).await?;
            let answer = self.call(Request::Status, &[]).await?;
            self.answer(answer, ANSWER).await
        };
        match status.await {
            Ok(Reply::Status(Status::Running { pid, started_at, paused, .. })) => {
                self.record.state.phase = if paused { Phase::Paused } else { Phase::Running };
                self.record.state.pid = pid;
                self.record.state.started_at = Timestamp::from_nanos(started_at);
                if let Err(error) = self.take_up_names().await {
                    tracing::error!(container = self.record.id.short(), %error, "take up names");
                }
                self.take_up_health().await;
                self.publish();
                self.save_later();
            }
            Ok(Reply::Status(Status::Exited(exit))) => {
                self.record.state.phase = Phase::Running;
                self.exited(&exit).await;
            }
            Ok(_) => {
                // It was never told to start anything.
                if self.link.is_some() {
                    let _ = self.call(Request::Release, &[]).await;
                }
            }
            Err(error) => {
                // One that was about to end when it was found.
                let exec_root = self.inner.settings.exec_root.clone();
                let id = self.id().to_owned();
                let again =
                    tokio::task::spawn_blocking(move || hoy_shim::client::find(&exec_root, &id));
                if matches!(again.await, Ok(Ok(None))) {
                    (self.link, self.shim) = (None, None);
                    return self.settle().await;
                }
                tracing::error!(container = self.id(), %error, "adopt");
            }
        }
    }

    /// What the daemon before has known of a container that has no supervisor may be old: the
    /// container's end is told by its exit record.
    pub(super) async fn settle(&mut self) {
        self.take_back_external().await;
        if matches!(self.record.state.phase, Phase::Running | Phase::Paused | Phase::Starting) {
            self.lost().await;
        } else if let Some(exit) = ExitRecord::read(&self.directory())
            && exit.finished_at > self.record.state.finished_at.nanos()
        {
            self.record.state.phase = Phase::Running;
            self.exited(&exit).await;
        } else {
            if self.record.state.phase == Phase::Restarting {
                // Its policy is asked again once everything is taken up.
                self.record.state.phase = Phase::Exited;
            }
            if !self.release_network().await.is_empty() {
                self.save_later();
            }
            self.tell_missed_death();
        }
        if self.record.host.auto_remove && self.record.state.phase == Phase::Exited {
            self.inner.remove_later(&self.record.id);
        }
        self.publish();
    }

    /// Goes on answering names where the daemon before has ended.
    async fn take_up_names(&mut self) -> Result<()> {
        if !self.inner.has_names(&self.record) {
            return Ok(());
        }
        if !self.keeps {
            return Err(Error::system(
                "its supervisor is too old to keep the name server's sockets",
            ));
        }
        let link = self.link.as_mut();
        let link = link.ok_or_else(|| Error::conflict("the container's supervisor is gone"))?;
        let answer = link.call_for_descriptors(Request::Kept { name: KEPT_DNS.into() }).await;
        let answer = answer.map_err(failed("talk to the container's supervisor"))?;
        let (_, sockets) = self.answer(answer, ANSWER).await?;
        let Ok([udp, tcp]) = <[OwnedFd; 2]>::try_from(sockets) else {
            return Ok(());
        };
        let netns = namespace_of(&self.record)?;
        self.inner.serve_names(&self.record, DnsSockets { udp, tcp }, netns);
        Ok(())
    }
}
