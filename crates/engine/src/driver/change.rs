//! What changes a container without starting or ending it, and its removal.

use std::sync::Arc;

use hoy_cgroup::Limits;
use hoy_shim::message::Request;
use hoy_wire::HostConfig;

use super::Driver;
use super::supervisor::{ANSWER, done};
use crate::containers::cpus;
use crate::error::{Error, Result, lost};
use crate::life::{Phase, Wish};
use crate::limits;

impl Driver {
    pub(super) async fn pause(&mut self, pause: bool) -> Result<()> {
        self.admit(if pause { Wish::Pause } else { Wish::Resume })?;
        let request = if pause { Request::Pause } else { Request::Resume };
        let answer = self.call(request, &[]).await?;
        let reply = self.answer(answer, ANSWER).await?;
        done(reply)?;
        if self.record.state.phase.is_alive() {
            self.record.state.phase = if pause { Phase::Paused } else { Phase::Running };
        }
        if pause {
            self.health_ended();
        }
        self.publish_as(if pause { "pause" } else { "unpause" }, &[]);
        self.save_later();
        Ok(())
    }

    pub(super) async fn rename(&mut self, name: String) -> Result<()> {
        self.admit(Wish::Rename)?;
        self.inner.registry.reserve(&name, &self.record.id)?;
        let old = std::mem::replace(&mut self.record.name, name);
        if let Err(error) = self.inner.save(&self.record).await {
            let new = std::mem::replace(&mut self.record.name, old);
            self.inner.registry.release(&new, &self.record.id);
            return Err(error);
        }
        self.inner.registry.release(&old, &self.record.id);
        self.inner.tell_names(&self.record);
        self.publish_as("rename", &[("oldName", format!("/{old}"))]);
        Ok(())
    }

    /// Decided here, from what is true now: of two updates at once neither undoes the other.
    pub(super) async fn update(&mut self, asked: &HostConfig) -> Result<()> {
        let phase = self.record.state.phase;
        if phase == Phase::Removing {
            return Err(Error::conflict(
                "Container is marked for removal and cannot be \"update\".",
            ));
        }
        let mut host = limits::updated(&self.record.host, asked)?;
        // What is there and what comes may contradict each other.
        limits::verify(&mut host, self.inner.support()?, cpus(), true)?;
        let limits = self.inner.limits(&host)?;
        if phase.is_alive() {
            self.limit(limits).await?;
        }
        let before = std::mem::replace(&mut self.record.host, host);
        if let Err(error) = self.inner.save(&self.record).await {
            self.record.host = before;
            if let (true, Ok(old)) = (phase.is_alive(), self.inner.limits(&self.record.host)) {
                let _ = self.limit(old).await;
            }
            return Err(error);
        }
        self.publish_as("update", &[]);
        Ok(())
    }

    pub(super) async fn grow(&mut self, size: String) -> Result<()> {
        let phase = self.record.state.phase;
        if phase == Phase::Removing {
            return Err(Error::conflict(
                "Container is marked for removal and cannot be \"update\".",
            ));
        }
        if !phase.is_alive() {
            // Nobody has it then.
            self.wait_for_shim().await?;
        }
        let mut record = self.record.clone();
        crate::room::grown(&mut record.host, size)?;
        let host = record.host.clone();
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || inner.grow_layer(&record)).await.map_err(lost)??;
        self.record.host = host;
        self.inner.save(&self.record).await?;
        self.publish_as("update", &[]);
        Ok(())
    }

    /// All or nothing: what the kernel refuses leaves the limits as they were.
    async fn limit(&mut self, limits: Limits) -> Result<()> {
        let answer = self.call(Request::Update(Box::new(limits)), &[]).await?;
        let result = done(self.answer(answer, ANSWER).await?);
        if result.is_err()
            && let Ok(old) = self.inner.limits(&self.record.host)
            && let Ok(answer) = self.call(Request::Update(Box::new(old)), &[]).await
        {
            let _ = self.answer(answer, ANSWER).await;
        }
        result
    }

    pub(super) async fn remove(&mut self, force: bool, volumes: bool) -> Result<()> {
        self.admit(Wish::Remove { force })?;
        // Whoever forces has it killed first; what still lives here does not die.
        self.admit(Wish::Remove { force: false })?;
        let before = self.record.state.phase;
        self.record.state.phase = Phase::Removing;
        self.publish();
        let removed = async {
            self.wait_for_shim().await?;
            let _tree = self.files_for_itself().await?;
            self.inner.forget(&self.record, volumes).await
        };
        if let Err(error) = removed.await {
            self.record.state.phase = before;
            self.publish();
            return Err(error);
        }
        self.waiting.clear();
        if !self.record.mounts.is_empty() {
            let inner = Arc::clone(&self.inner);
            let (id, mounts) = (self.record.key().to_owned(), self.record.mounts.clone());
            let released =
                tokio::task::spawn_blocking(move || inner.release_volumes(&id, &mounts, volumes));
            let _ = released.await;
        }
        self.inner.container_event_with(&self.record, "destroy", &[], || {
            self.inner.registry.remove(&self.record.id, &self.record.name);
            self.view.send_modify(|view| view.removed = true);
        });
        Ok(())
    }
}
