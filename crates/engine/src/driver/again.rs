//! What somebody's signals and a container's policy make of its end.

use std::time::Duration;

use hoy_shim::message::{Reply, Request};
use tokio::sync::oneshot::error::TryRecvError;
use tokio::time::Instant;

use super::supervisor::done;
use super::{Done, Driver};
use crate::error::{Error, Result};
use crate::life::{Phase, Wish};
use crate::restart;
use crate::shim_link::Answer;

/// Signals whose answers may be awaited at a time.
const MOST: usize = 64;

/// A signal on its way.
pub(super) struct Sent {
    signal: i32,
    answer: Answer,
    done: Done<()>,
}

impl Driver {
    /// Where the container is once it has ended.
    pub(super) fn phase_after_end(&mut self, code: i32, ran: Duration) -> Phase {
        self.again_at = None;
        if self.settling || self.keep_at_end {
            return Phase::Exited;
        }
        let policy = &self.record.host.restart_policy;
        match restart::after_end(policy, &mut self.record.restart, code, ran) {
            Some(delay) => {
                self.again_at = Some(Instant::now() + delay);
                Phase::Restarting
            }
            None => Phase::Exited,
        }
    }

    /// Its time has come.
    pub(super) async fn start_again(&mut self) {
        self.again_at = None;
        if self.record.state.phase != Phase::Restarting {
            return;
        }
        let started = match self.wait_for_shim().await {
            Ok(()) => self.start_now().await,
            Err(error) => {
                self.not_again();
                Err(error)
            }
        };
        if let Err(error) = started {
            tracing::warn!(container = self.record.id.short(), %error, "start again");
        }
    }

    /// At the daemon's start.
    pub(super) async fn begin(&mut self) -> Result<()> {
        let state = &self.record.state;
        let policy = &self.record.host.restart_policy;
        let again = restart::at_the_beginning(policy, &self.record.restart, state.exit_code);
        if state.phase != Phase::Exited || !again {
            return Ok(());
        }
        self.start().await
    }

    /// There is no next run.
    fn not_again(&mut self) {
        self.again_at = None;
        self.record.state.phase = Phase::Exited;
        self.exits += 1;
        self.publish();
        self.save_later();
    }

    /// Whoever sends a signal may mean that the container ends for good, and the policy knows. The
    /// answer is awaited beside whatever else happens.
    pub(super) async fn signal(&mut self, signal: i32, all: bool, done: Done<()>) {
        let sent = async {
            self.admit(Wish::Signal)?;
            self.stopped_by_hand(signal).await?;
            if self.record.state.phase == Phase::Restarting {
                if self.record.restart.canceled {
                    self.not_again();
                }
                return Ok(None);
            }
            if self.signals.len() >= MOST {
                return Err(Error::system("the container's supervisor does not answer"));
            }
            self.call(Request::Kill { signal, all }, &[]).await.map(Some)
        };
        match sent.await {
            Ok(Some(answer)) => self.signals.push(Sent { signal, answer, done }),
            Ok(None) => drop(done.send(Ok(()))),
            Err(error) => drop(done.send(Err(error))),
        }
    }

    async fn stopped_by_hand(&mut self, signal: i32) -> Result<()> {
        let before = self.record.restart;
        self.record.restart.stopped = true;
        self.record.restart.canceled |=
            restart::ends_for_good(&self.record.config.stop_signal, signal);
        if self.record.restart != before && restart::has_policy(&self.record.host) {
            // Before the signal: no daemon after this one may take it for an accident.
            self.inner.save(&self.record).await?;
        }
        Ok(())
    }

    /// Tells of the signals that have arrived.
    pub(super) fn signals_answered(&mut self) {
        for mut sent in std::mem::take(&mut self.signals) {
            let result = match sent.answer.try_recv() {
                Err(TryRecvError::Empty) => {
                    self.signals.push(sent);
                    continue;
                }
                Err(TryRecvError::Closed) => {
                    Err(Error::conflict("the container's supervisor is gone"))
                }
                Ok(reply) => self.arrived(sent.signal, reply),
            };
            let _ = sent.done.send(result);
        }
    }

    fn arrived(&self, signal: i32, reply: Reply) -> Result<()> {
        done(reply)?;
        self.event("kill", &[("signal", signal.to_string())]);
        Ok(())
    }
}
