//! Ends: what the supervisor says of one, what follows from it, and its telling.

use std::sync::Arc;
use std::time::Duration;

use hoy_shim::message::{Event, ExitRecord, Request};
use hoy_types::Timestamp;

use super::Driver;
use crate::life::Phase;
use crate::record::State;
use crate::shim_link::Incoming;

impl Driver {
    pub(super) async fn on_event(&mut self, event: Event) {
        // What follows from a signal is told after it.
        self.signals_answered();
        match event {
            Event::Exited(exit) => self.exited(&exit).await,
            Event::ExecExited { id, code } => {
                let told = [("execID", id.clone()), ("exitCode", code.to_string())];
                let ended = || self.inner.exec_ended(&id, code);
                self.inner.container_event_with(&self.record, "exec_die", &told, ended);
            }
            Event::Detached { exec: None } => self.event("detach", &[]),
            Event::Detached { exec: Some(id) } => self.event("exec_detach", &[("execID", id)]),
            Event::OutOfMemory { .. } => {
                if self.record.state.phase.is_alive() {
                    self.record.state.oom_killed = true;
                    self.publish_as("oom", &[]);
                    self.save_later();
                }
            }
            Event::ProbeBegins { .. } | Event::Probed { .. } => self.on_probe(event),
            Event::LogDropped { records } => {
                tracing::warn!(container = self.record.id.short(), records, "log records lost");
            }
        }
    }

    pub(super) async fn exited(&mut self, exit: &ExitRecord) {
        if !matches!(self.record.state.phase, Phase::Running | Phase::Paused | Phase::Starting) {
            return;
        }
        let ran = Duration::from_nanos((exit.finished_at - exit.started_at).max(0).unsigned_abs());
        let phase = self.phase_after_end(exit.code, ran);
        self.record.state = State {
            phase,
            pid: 0,
            exit_code: exit.code,
            error: self.record.state.error.clone(),
            oom_killed: exit.oom_killed,
            started_at: Timestamp::from_nanos(exit.started_at),
            finished_at: Timestamp::from_nanos(exit.finished_at),
        };
        let networks = self.release_network().await;
        self.exits += 1;
        self.last_code = exit.code;
        self.health_ended();
        self.inner.execs_of_ended(&self.record.id);
        self.publish_death(exit.code, (exit.finished_at - exit.started_at).max(0));
        self.save_later();
        self.network_events("disconnect", &networks);
        self.detach_volumes().await;
        // The supervisor may clean up; nobody waits for that.
        if self.link.is_some() {
            let _ = self.call(Request::Release, &[]).await;
        }
    }

    /// The supervisor's process has ended.
    pub(super) async fn shim_gone(&mut self) {
        self.shim = None;
        // What it said last may still lie in the socket.
        while let Some(link) = &mut self.link {
            match link.next().await {
                Incoming::Event(event) => self.on_event(event).await,
                Incoming::Answered => {}
                Incoming::Closed => self.link = None,
            }
        }
        hoy_shim::client::forget(&self.inner.settings.exec_root, self.id());
        self.take_back_external().await;
        if matches!(self.record.state.phase, Phase::Running | Phase::Paused | Phase::Starting) {
            self.lost().await;
        }
        let ended = self.record.state.phase == Phase::Exited && !self.keep_at_end;
        if self.record.host.auto_remove && ended {
            self.inner.remove_later(&self.record.id);
        }
        self.publish();
    }

    /// There is no supervisor: either the container has ended and its record says how, or what is
    /// left of it is ended now.
    pub(super) async fn lost(&mut self) {
        let directory = self.directory();
        if let Some(exit) = ExitRecord::read(&directory) {
            return self.exited(&exit).await;
        }
        let plan = crate::plan::cgroup(&self.record, &self.inner.settings);
        let killed = tokio::task::spawn_blocking(move || match hoy_cgroup::Cgroup::open(&plan) {
            Ok(Some(cgroup)) => {
                let killed = cgroup.kill(Duration::from_secs(10)).is_ok();
                cgroup.remove();
                (killed, true)
            }
            _ => (true, false),
        });
        let (killed, found) = killed.await.unwrap_or((false, true));
        if !killed {
            tracing::error!(container = self.id(), "processes without a supervisor do not end");
        }
        // The machine was started anew where not even its cgroup is there: Docker's code for that.
        let code = if self.settling && !found {
            255
        } else {
            self.record.state.error = "supervisor lost".to_owned();
            137
        };
        // A daemon before this one may have noticed it, and ended before that was written down.
        let known = self.inner.journal.death_since(self.id(), self.record.state.started_at);
        let finished_at = known.unwrap_or_else(crate::engine::now);
        let exit = ExitRecord {
            code,
            oom_killed: false,
            pid: self.record.state.pid,
            started_at: self.record.state.started_at.nanos(),
            finished_at: finished_at.nanos(),
        };
        self.exited(&exit).await;
    }

    /// What a supervisor that was killed left of a container that another runtime has made.
    pub(super) async fn take_back_external(&self) {
        let settings = &self.inner.settings;
        let (exec_root, id) = (settings.exec_root.clone(), self.id().to_owned());
        if !hoy_shim::external::place(&exec_root, &id).exists() {
            return;
        }
        let plan = crate::plan::cgroup(&self.record, settings);
        let taken = tokio::task::spawn_blocking(move || {
            if let Ok(Some(cgroup)) = hoy_cgroup::Cgroup::open(&plan) {
                let _ = cgroup.kill(Duration::from_secs(5));
            }
            hoy_shim::external::take_back(&exec_root, &id);
            let _ = hoy_cgroup::remove_everywhere(&plan);
        });
        let _ = taken.await;
    }

    /// A daemon may have been killed between the end of a container and its word of that.
    pub(super) fn tell_missed_death(&self) {
        let state = &self.record.state;
        if state.phase == Phase::Exited
            && self.inner.journal.has_missed(self.id(), state.finished_at)
        {
            let lasted = (state.finished_at.nanos() - state.started_at.nanos()).max(0);
            self.publish_death(state.exit_code, lasted);
        }
    }

    fn publish_death(&self, code: i32, lasted: i64) {
        let lasted = lasted / 1_000_000_000;
        let die = [("exitCode", code.to_string()), ("execDuration", lasted.to_string())];
        self.publish_as("die", &die);
    }

    pub(super) async fn detach_volumes(&self) {
        if self.record.volumes().next().is_none() && !crate::room::is_limited(&self.record) {
            return;
        }
        let (inner, record) = (Arc::clone(&self.inner), self.record.clone());
        let detached = tokio::task::spawn_blocking(move || inner.detach_volumes(&record));
        let _ = detached.await;
        self.inner.volume_events("unmount", &self.record);
    }
}
