//! What a container's supervisor says of its health.

use hoy_shim::message::{Event, HealthState, HealthStatus, ProbeResult, Reply, Request};

use super::Driver;
use super::supervisor::ANSWER;
use crate::health::{self, HealthRecord};

impl Driver {
    /// At a start; true where there are probes.
    pub(super) fn health_begun(&mut self, probed: bool) {
        let before = self.record.health.take();
        self.record.health = probed.then(|| HealthRecord::begun(before));
    }

    /// Docker's word for what nobody asks any more.
    pub(super) fn health_ended(&mut self) {
        if let Some(health) = &mut self.record.health {
            health.status = HealthStatus::Unhealthy;
        }
    }

    pub(super) fn on_probe(&mut self, event: Event) {
        match event {
            Event::ProbeBegins { id } => {
                let words = health::command(&self.record.config).unwrap_or_default().join(" ");
                let named = [("execID", id)];
                self.event(&format!("exec_create: {words}"), &named);
                self.event(&format!("exec_start: {words}"), &named);
            }
            Event::Probed { id, died, status, streak, result } => {
                if let Some(code) = died {
                    self.event("exec_die", &[("execID", id), ("exitCode", code.to_string())]);
                }
                self.probed(status, streak, *result);
            }
            _ => {}
        }
    }

    fn probed(&mut self, status: HealthStatus, streak: u32, result: ProbeResult) {
        if !self.record.state.phase.is_alive() {
            return;
        }
        let Some(known) = &mut self.record.health else { return };
        let changed = known.status != status;
        (known.status, known.streak) = (status, streak);
        known.add(result);
        if changed {
            self.publish_as(&self.health_action(), &[]);
            // The supervisor knows the rest.
            self.save_later();
        } else {
            self.publish();
        }
    }

    fn health_action(&self) -> String {
        format!("health_status: {}", health::of(&self.record))
    }

    /// What a container that runs on has learned while there was no daemon.
    pub(super) async fn take_up_health(&mut self) {
        if !self.probes || health::command(&self.record.config).is_none() {
            return;
        }
        let answer = match self.call(Request::Health, &[]).await {
            Ok(answer) => self.answer(answer, ANSWER).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(Reply::Health(Some(state))) => self.health_known(state),
            Ok(_) => {}
            Err(error) => {
                tracing::error!(container = self.record.id.short(), %error, "take up health");
            }
        }
    }

    fn health_known(&mut self, state: HealthState) {
        let before = self.record.health.as_ref().map(|health| health.status);
        let began = self.record.state.started_at.nanos();
        let known = self.record.health.get_or_insert_with(|| HealthRecord::begun(None));
        known.take_up(state, began);
        let now = known.status;
        if before != Some(now) {
            self.event(&self.health_action(), &[]);
        }
    }
}
