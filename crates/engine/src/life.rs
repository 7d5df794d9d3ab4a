//! The life of a container as a pure, total state machine.
//!
//! ```text
//!            start            started            exited
//! Created ----------> Starting -------> Running --------> Exited
//!    |                   |  failed       | |  ^  pause       |
//!    |                   +-----> Created | |  +---- Paused   | start
//!    |                          / Exited | +-----------^     +-------> Starting
//!    |                                   |  exited, and its policy has it come back
//!    |                                   +-------> Restarting --> Starting, or stop: Exited
//!    +---------------- remove: Removing, then gone ----------+
//! ```
//!
//! Which request is allowed in which state is decided here and nowhere else; the driver carries
//! the answer out. Messages are Docker's.

use hoy_types::ErrorKind;
use serde::{Deserialize, Serialize};

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Created,
    Starting,
    Running,
    Paused,
    /// It has ended, and will be started again when its time has come.
    Restarting,
    Exited,
    Removing,
}

/// What somebody wants of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Start,
    /// A signal to the first process.
    Signal,
    /// A stop: a signal, then SIGKILL.
    Stop,
    Pause,
    Resume,
    Exec,
    Attach,
    Resize,
    Top,
    Rename,
    Remove {
        force: bool,
    },
}

/// A refusal: the kind and Docker's text.
pub type Refusal = (ErrorKind, String);

impl Phase {
    /// Docker's name of the state.
    pub const fn status(self) -> &'static str {
        match self {
            Self::Created | Self::Starting => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
            Self::Removing => "removing",
        }
    }

    /// It has processes.
    pub const fn is_alive(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }

    /// What Docker calls running: also between two runs.
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }

    /// Whether a wish is granted in this phase. `id` is what the messages name.
    pub fn admits(self, wish: Wish, id: &str) -> Result<(), Refusal> {
        let conflict = |text: String| Err((ErrorKind::Conflict, text));
        let not_running = || conflict(format!("container {id} is not running"));
        let restarting = || {
            conflict(format!("Container {id} is restarting, wait until the container is running"))
        };
        match (wish, self) {
            (Wish::Start, Self::Created | Self::Exited) => Ok(()),
            (Wish::Start, Self::Running | Self::Starting | Self::Restarting) => {
                Err((ErrorKind::NotModified, format!("container {id} is already running")))
            }
            (Wish::Start, Self::Paused) => {
                conflict("cannot start a paused container, try unpause instead".into())
            }
            (Wish::Start, Self::Removing) => {
                conflict("container is marked for removal and cannot be started".into())
            }

            // Between two runs it only means that there is no next one.
            (Wish::Signal, Self::Running | Self::Paused | Self::Restarting) => Ok(()),
            (Wish::Signal, _) => conflict(format!("container {id} is not running")),

            (Wish::Stop, Self::Running | Self::Paused | Self::Restarting | Self::Starting) => {
                Ok(())
            }
            (Wish::Stop, _) => {
                Err((ErrorKind::NotModified, format!("container {id} is already stopped")))
            }

            (Wish::Pause, Self::Running) => Ok(()),
            (Wish::Pause, Self::Paused) => conflict(format!("container {id} is already paused")),
            (Wish::Pause, Self::Restarting) => restarting(),
            (Wish::Pause, _) => not_running(),
            (Wish::Resume, Self::Paused) => Ok(()),
            (Wish::Resume, _) => conflict(format!("container {id} is not paused")),

            (Wish::Exec, Self::Running) => Ok(()),
            (Wish::Exec, Self::Paused) => {
                conflict(format!("container {id} is paused, unpause the container before exec"))
            }
            (Wish::Exec, Self::Restarting) => restarting(),
            (Wish::Exec | Wish::Resize, _) if !self.is_alive() => not_running(),
            (Wish::Exec | Wish::Resize, _) => Ok(()),

            (Wish::Attach, Self::Paused) => {
                conflict(format!("container {id} is paused, unpause the container before attach"))
            }
            (Wish::Attach, Self::Restarting) => conflict(format!(
                "container {id} is restarting, wait until the container is running"
            )),
            (Wish::Attach, Self::Removing) => {
                conflict(format!("container {id} is marked for removal"))
            }
            (Wish::Attach, _) => Ok(()),

            (Wish::Top, Self::Running | Self::Paused) => Ok(()),
            (Wish::Top, Self::Restarting) => restarting(),
            (Wish::Top, _) => not_running(),

            (Wish::Rename, Self::Removing) => {
                conflict(format!("container {id} is marked for removal and cannot be renamed"))
            }
            (Wish::Rename, _) => Ok(()),

            (Wish::Remove { .. }, Self::Removing) => {
                conflict(format!("removal of container {id} is already in progress"))
            }
            (Wish::Remove { force: false }, Self::Running | Self::Starting) => conflict(format!(
                "cannot remove container \"{id}\": container is running: stop the container before \
                 removing or force remove"
            )),
            (Wish::Remove { force: false }, Self::Restarting) => conflict(format!(
                "cannot remove container \"{id}\": container is restarting: stop the container \
                 before removing or force remove"
            )),
            (Wish::Remove { force: false }, Self::Paused) => conflict(format!(
                "cannot remove container \"{id}\": container is paused and must be unpaused first"
            )),
            (Wish::Remove { .. }, _) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: [Phase; 7] = [
        Phase::Created,
        Phase::Starting,
        Phase::Running,
        Phase::Paused,
        Phase::Restarting,
        Phase::Exited,
        Phase::Removing,
    ];

    #[test]
    fn every_phase_answers_every_wish() {
        for phase in PHASES {
            let granted = |wish| phase.admits(wish, "c").is_ok();
            assert_eq!(granted(Wish::Start), matches!(phase, Phase::Created | Phase::Exited));
            assert_eq!(granted(Wish::Signal), phase.is_up());
            assert_eq!(granted(Wish::Exec), phase == Phase::Running);
            assert_eq!(granted(Wish::Resume), phase == Phase::Paused);
            assert_eq!(granted(Wish::Remove { force: true }), phase != Phase::Removing);
            assert_eq!(
                granted(Wish::Remove { force: false }),
                matches!(phase, Phase::Created | Phase::Exited)
            );
        }
    }

    #[test]
    fn nothing_to_do_is_not_an_error() {
        let kind = |phase: Phase, wish| phase.admits(wish, "c").unwrap_err().0;
        assert_eq!(kind(Phase::Running, Wish::Start), ErrorKind::NotModified);
        assert_eq!(kind(Phase::Exited, Wish::Stop), ErrorKind::NotModified);
        assert_eq!(kind(Phase::Exited, Wish::Signal), ErrorKind::Conflict);
    }
}
