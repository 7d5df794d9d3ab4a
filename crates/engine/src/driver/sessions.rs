//! Clients that are handed to the supervisor: attached ones, also before the start, and execs.

use std::os::fd::OwnedFd;

use hoy_shim::message::{AttachRequest, ExecRequest, Failure, Reply, Request};

use super::supervisor::{START, wait};
use super::{Done, Driver};
use crate::error::Error;
use crate::life::Wish;

/// Clients that may wait for one start.
const MAX_WAITING: usize = 32;

impl Driver {
    pub(super) async fn attach(&mut self, request: AttachRequest, client: OwnedFd, done: Done<()>) {
        let admitted = self.admit(Wish::Attach);
        if admitted.is_ok() && !self.record.state.phase.is_alive() {
            // Before the start, so that no output is missed.
            self.waiting.retain(|(_, client)| still_there(client));
            let full = self.waiting.len() >= MAX_WAITING;
            let result = if full {
                Err(Error::conflict("too many clients wait for this container to start"))
            } else {
                self.waiting.push((request, client));
                self.event("attach", &[]);
                Ok(())
            };
            let _ = done.send(result);
            return;
        }
        if admitted.is_ok() {
            self.event("attach", &[]);
        }
        self.forward(admitted, Request::Attach(request), vec![client], done).await;
    }

    pub(super) async fn exec(
        &mut self,
        request: ExecRequest,
        client: Option<OwnedFd>,
        done: Done<std::result::Result<i32, Failure>>,
    ) {
        let descriptors: Vec<OwnedFd> = client.into_iter().collect();
        let answer = match self.admit(Wish::Exec) {
            Ok(()) => self.call(Request::Exec(Box::new(request)), &descriptors).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) => {
                tokio::spawn(async move {
                    let result = match wait(answer, START).await {
                        Ok(Reply::Started { pid, .. }) => Ok(Ok(pid)),
                        Ok(Reply::Failed(failure)) => Ok(Err(failure)),
                        Ok(_) => Err(Error::system("the supervisor gave a wrong answer")),
                        Err(error) => Err(error),
                    };
                    let _ = done.send(result);
                });
            }
            Err(error) => drop(done.send(Err(error))),
        }
    }
}

/// Whether a client's connection is still open.
fn still_there(client: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(client, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok()
        && !fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}
