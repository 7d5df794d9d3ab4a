//! The start: network and supervisor at once, then the plan.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hoy_shim::message::{ExitRecord, Failure, Reply, Request, StartRequest};
use hoy_types::Timestamp;

use super::Driver;
use super::supervisor::START;
use crate::attachments;
use crate::error::{Error, Result, failed, lost};
use crate::life::{Phase, Wish};
use crate::record::State;
use crate::sandbox::{Sandbox, set_up};

/// A copy that goes on for longer makes a start or a removal fail.
const COPIED: Duration = Duration::from_secs(20);

impl Driver {
    pub(super) async fn start(&mut self) -> Result<()> {
        self.admit(Wish::Start)?;
        self.wait_for_shim().await?;
        self.keep_at_end = false;
        let memory = self.record.restart;
        self.record.restart.begun();
        let started = self.start_now().await;
        if started.is_err() {
            self.record.restart = memory;
            self.publish();
            self.save_later();
        }
        started
    }

    pub(super) async fn start_now(&mut self) -> Result<()> {
        let _tree = self.files_for_itself().await?;
        let before = self.record.state.clone();
        // As with Docker, one that comes back is restarting until it runs.
        if before.phase != Phase::Restarting {
            self.record.state.phase = Phase::Starting;
        }
        self.record.state.error.clear();
        self.publish();
        match self.try_start().await {
            Ok(()) => Ok(()),
            Err((error, code)) => {
                self.release_network().await;
                if self.link.is_some() {
                    let _ = self.call(Request::Release, &[]).await;
                }
                self.detach_volumes().await;
                self.waiting.clear();
                let phase = match before.phase {
                    Phase::Restarting => Phase::Exited,
                    other => other,
                };
                self.record.state =
                    State { exit_code: code, error: error.to_string(), phase, ..before };
                self.last_code = code;
                self.exits += u64::from(before.phase == Phase::Restarting);
                self.starts += 1;
                self.publish();
                self.save_later();
                Err(error)
            }
        }
    }

    /// Whoever copies has let go of its files.
    pub(super) async fn files_for_itself(&self) -> Result<tokio::sync::OwnedRwLockWriteGuard<()>> {
        let turn = tokio::time::timeout(COPIED, Arc::clone(&self.tree).write_owned()).await;
        turn.map_err(|_| {
            Error::conflict(format!(
                "the files of container {} are in use by a copy, export or commit that goes on",
                self.record.id
            ))
        })
    }

    async fn try_start(&mut self) -> std::result::Result<(), (Error, i32)> {
        let other = |error: Error| (error, 128);
        let inner = Arc::clone(&self.inner);
        attachments::resolve(&inner.networks, &mut self.record)
            .map_err(|error| other(set_up(error)))?;
        let record = self.record.clone();
        let others = inner.others(&record).map_err(other)?;
        let network = tokio::task::spawn_blocking({
            let (inner, userns) = (Arc::clone(&inner), others.userns.clone());
            move || inner.make_sandbox(&record, userns)
        });
        let id = self.id().to_owned();
        let shim = tokio::task::spawn_blocking({
            let inner = Arc::clone(&inner);
            move || {
                hoy_shim::client::spawn(&inner.shim, &inner.settings.exec_root, &id)
                    .map_err(failed("start the container's supervisor"))
            }
        });
        let (network, shim) = tokio::join!(network, shim);
        let network = network.map_err(lost).and_then(|result| result);
        let mut descriptors = Vec::new();
        let mut names = None;
        match network.map_err(other)? {
            Sandbox::Host => {}
            Sandbox::Joined(netns, userns) => {
                descriptors.push(netns);
                descriptors.extend(userns);
            }
            Sandbox::Made(ticket) => {
                self.record.network.endpoints = ticket.endpoints;
                if let Some(sockets) = ticket.dns {
                    let own = ticket.netns.try_clone().map_err(failed("keep the network"));
                    names = Some((sockets, own.map_err(other)?));
                }
                descriptors.push(ticket.netns);
                descriptors.extend(ticket.userns);
            }
        }
        descriptors.extend(others.into_descriptors());
        let connection = shim.map_err(lost).and_then(|result| result).map_err(other)?;
        self.meet(connection).await.map_err(other)?;
        if !self.record.network.endpoints.is_empty() {
            self.keep_rules().await.map_err(other)?;
        }
        if let Some((sockets, netns)) = names {
            self.serve_names(sockets, netns).await.map_err(other)?;
        }
        for (request, client) in std::mem::take(&mut self.waiting) {
            drop(self.call(Request::Attach(request), &[client]).await.map_err(other)?);
        }
        let directory = self.directory();
        ExitRecord::clear(&directory);
        let volumes = self.attach_volumes().await.map_err(other)?;
        let (plan, ticket, labels) = inner.container_plan(&self.record, &volumes).map_err(other)?;
        self.record.labels = labels;
        let log =
            crate::logging::plan(&self.record, inner.log_path(&self.record)).map_err(other)?;
        let request = StartRequest {
            plan,
            log,
            state_dir: directory,
            open_stdin: self.record.config.open_stdin,
            stdin_once: self.record.config.stdin_once,
            health: inner.health_plan(&self.record).map_err(other)?,
        };
        let probed = request.health.is_some();
        let answer = self.call(Request::Start(Box::new(request)), &descriptors).await;
        let reply = match answer {
            Ok(answer) => self.answer(answer, START).await,
            Err(error) => Err(error),
        };
        drop((descriptors, ticket));
        match reply.map_err(other)? {
            Reply::Started { pid, started_at } => {
                // It may have ended already: the event is handled after this.
                self.record.state = State {
                    phase: Phase::Running,
                    pid,
                    started_at: Timestamp::from_nanos(started_at),
                    // As Docker does, the end of the run before is told during this one.
                    finished_at: self.record.state.finished_at,
                    ..State::default()
                };
                self.starts += 1;
                self.health_begun(probed);
                let network = &self.record.network;
                let networks = inner.documents_of_running(&network.mode, &network.endpoints);
                self.network_events("connect", &networks);
                inner.volume_events("mount", &self.record);
                self.publish_as("start", &[]);
                self.save_later();
                if !networks.is_empty() {
                    inner.tell_barriers();
                }
                Ok(())
            }
            Reply::Failed(failure) => {
                Err(start_error(&failure, crate::plan::is_external(&self.record)))
            }
            _ => Err(other(Error::system("the supervisor gave a wrong answer"))),
        }
    }

    /// Where the container's volumes lie from now on.
    async fn attach_volumes(&self) -> Result<BTreeMap<String, PathBuf>> {
        if self.record.volumes().next().is_none() && !crate::room::is_limited(&self.record) {
            return Ok(BTreeMap::new());
        }
        let (inner, record) = (Arc::clone(&self.inner), self.record.clone());
        tokio::task::spawn_blocking(move || inner.attach_volumes(&record)).await.map_err(lost)?
    }
}

/// Docker's words, status and exit code for a start that failed.
fn start_error(failure: &Failure, external: bool) -> (Error, i32) {
    use hoy_runtime::FailureReason as Reason;
    // Another runtime names itself.
    let runtime = if external { "" } else { "OCI runtime create failed: runc create failed: " };
    let message = format!(
        "failed to create task for container: failed to create shim task: {runtime}{}",
        failure.message
    );
    match failure.reason {
        Reason::NotFound => (Error::invalid(message), 127),
        Reason::NotExecutable => (Error::invalid(message), 126),
        Reason::Invalid => (Error::invalid(failure.message.clone()), 128),
        Reason::State => (Error::conflict(message), 128),
        Reason::System => (Error::system(message), 128),
    }
}
