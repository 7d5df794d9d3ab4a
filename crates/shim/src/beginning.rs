//! Exec sessions that are about to begin: awaited beside everything else, and not for ever.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use hoy_runtime::{StartError, Starting};

use crate::leftovers::Leftovers;
use crate::message::{ExecRequest, Reply};
use crate::requests::{now, refused};
use crate::session::{Note, Pipes, Session};
use crate::supervise::{Container, Shim};

/// How long a program may take to begin: less than what the daemon waits for the answer.
const DEADLINE: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub(crate) struct Beginning {
    /// The call that asked for it, and of which daemon.
    pub sequence: u32,
    pub daemon: u64,
    pub request: ExecRequest,
    pub client: Option<OwnedFd>,
    pub ours: Option<Pipes>,
    pub starting: Starting,
    pub since: Instant,
}

impl Beginning {
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.starting.as_fd()
    }

    /// When it is given up.
    pub fn deadline(&self) -> Duration {
        DEADLINE.saturating_sub(self.since.elapsed())
    }

    /// What there is to answer; itself, where there is nothing yet.
    fn tend(mut self, runs: bool, left: &mut Leftovers) -> Result<Begun, Box<Self>> {
        let outcome = if self.starting.advance() {
            let (outcome, over) = self.starting.finish();
            left.add(over);
            outcome
        } else if !runs || self.deadline().is_zero() {
            let late = match runs {
                true => self.starting.late(&self.request.plan.process),
                false => StartError::new(
                    hoy_runtime::FailureReason::State,
                    "the container is not running",
                ),
            };
            left.add(self.starting.give_up());
            Err(late)
        } else {
            return Err(Box::new(self));
        };
        let session = outcome.and_then(|started| Session::begun(started, self.ours));
        Ok(Begun {
            sequence: self.sequence,
            daemon: self.daemon,
            request: self.request,
            client: self.client,
            session,
        })
    }
}

/// One that has begun, or has not.
pub(crate) struct Begun {
    pub sequence: u32,
    pub daemon: u64,
    pub request: ExecRequest,
    pub client: Option<OwnedFd>,
    pub session: Result<Session, StartError>,
}

impl Shim {
    /// Those that have begun are sessions from now on; those that do not are given up.
    pub fn tend_beginnings(&mut self) {
        let runs = matches!(self.container, Container::Running(_));
        for beginning in std::mem::take(&mut self.beginnings) {
            match beginning.tend(runs, &mut self.leftovers) {
                Ok(begun) => {
                    let (sequence, daemon) = (begun.sequence, begun.daemon);
                    let (reply, notes, id) = self.take_in(begun);
                    self.tell_notes(&notes, Some(&id));
                    self.reply(sequence, daemon, reply);
                }
                Err(beginning) => self.beginnings.push(*beginning),
            }
        }
    }

    pub fn take_in(&mut self, begun: Begun) -> (Reply, Vec<Note>, String) {
        let Begun { request, client, session, .. } = begun;
        let mut notes = Vec::new();
        let mut session = match session {
            Ok(session) => session,
            Err(error) => return (refused(error), notes, request.id),
        };
        session.ends_with_client = request.ends_with_client;
        if let (Some(client), Some(attach)) = (client, &request.attach) {
            session.attach(client, attach, &mut notes);
        }
        let pid = session.pid;
        self.execs.add(request.id.clone(), session);
        (Reply::Started { pid, started_at: now() }, notes, request.id)
    }
}
