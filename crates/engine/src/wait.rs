//! `wait`: who waits for a container's end, and what it hears.

use hoy_wire as wire;
use tokio::sync::watch;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::life::Phase;
use crate::registry::View;

/// What `wait` waits for; registered before it is awaited.
pub struct WaitHandle {
    view: watch::Receiver<View>,
    condition: Condition,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    /// The next end of one that runs, though its policy starts it again.
    NotRunning {
        after: u64,
    },
    NextExit {
        after: u64,
    },
    Removed,
}

impl Condition {
    fn is_met(self, view: &View) -> bool {
        let phase = view.record.state.phase;
        view.removed
            || match self {
                Self::NotRunning { after } => {
                    view.exits > after || !(phase.is_up() || phase == Phase::Starting)
                }
                Self::NextExit { after } => view.exits > after,
                Self::Removed => false,
            }
    }
}

impl WaitHandle {
    /// The exit code.
    pub async fn done(mut self) -> wire::WaitResponse {
        let condition = self.condition;
        let met =
            self.view.wait_for(|view| condition.is_met(view)).await.map(|view| view.last_code);
        // The sender goes with the container: that is an end too.
        let code = met.unwrap_or_else(|_| self.view.borrow().last_code);
        wire::WaitResponse { error: None, status_code: code.into() }
    }
}

impl Engine {
    pub fn wait_begin(&self, id: &str, condition: &str) -> Result<WaitHandle> {
        let handle = self.find(id)?;
        let after = handle.view.borrow().exits;
        let condition = match condition {
            "" | "not-running" => Condition::NotRunning { after },
            "next-exit" => Condition::NextExit { after },
            "removed" => Condition::Removed,
            other => return Err(Error::invalid(format!("invalid condition: \"{other}\""))),
        };
        Ok(WaitHandle { view: handle.view, condition })
    }
}
