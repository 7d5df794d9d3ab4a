//! What a driver says to its container's supervisor, and how it waits for the answer: other words
//! of the supervisor are heard meanwhile, and none is waited for without a deadline.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use hoy_shim::client::Connection;
use hoy_shim::message::{Reply, Request};
use tokio::sync::oneshot;

use super::{Done, Driver};
use crate::error::{Error, Result, failed};
use crate::shim_link::{Answer, Incoming, LinkError, ShimLink};

/// A shim answers at once, or it is stopped or stuck.
pub(super) const ANSWER: Duration = Duration::from_secs(10);
/// The start itself may have to wait for a slow disk.
pub(super) const START: Duration = Duration::from_secs(60);
/// What the supervisor of the run before may need to clean up.
const CLEANED_UP: Duration = Duration::from_secs(30);

impl Driver {
    /// The first words with a supervisor, and a hold on its process.
    pub(super) async fn meet(&mut self, connection: Connection) -> Result<()> {
        let link = ShimLink::new(connection).map_err(failed("talk to the supervisor"))?;
        self.link = Some(link);
        let hello = Request::Hello { version: hoy_shim::message::VERSION };
        let answer = self.call(hello, &[]).await?;
        let Reply::Hello { pid, version, .. } = self.answer(answer, ANSWER).await? else {
            return Err(Error::system("the supervisor does not say who it is"));
        };
        self.keeps = version >= hoy_shim::message::KEEPS_SINCE;
        self.probes = version >= hoy_shim::message::PROBES_SINCE;
        let pid = rustix::process::Pid::from_raw(pid);
        let pid = pid.ok_or_else(|| Error::system("the supervisor has no process id"))?;
        let flags = rustix::process::PidfdFlags::empty();
        let pidfd = rustix::process::pidfd_open(pid, flags)
            .map_err(|errno| failed("hold the supervisor")(std::io::Error::from(errno)))?;
        self.shim = Some(crate::shim_link::watch(pidfd).map_err(failed("watch the supervisor"))?);
        Ok(())
    }

    pub(super) async fn call(
        &mut self,
        request: Request,
        descriptors: &[OwnedFd],
    ) -> Result<Answer> {
        let link = self.link.as_mut();
        let link = link.ok_or_else(|| Error::conflict("the container's supervisor is gone"))?;
        link.call(request, descriptors).await.map_err(failed("talk to the container's supervisor"))
    }

    /// Sends a request on and lets another task wait for the answer.
    pub(super) async fn forward(
        &mut self,
        admitted: Result<()>,
        request: Request,
        descriptors: Vec<OwnedFd>,
        done: Done<()>,
    ) {
        let answer = match admitted {
            Ok(()) => self.call(request, &descriptors).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) => {
                tokio::spawn(async move {
                    let _ = done.send(plain(answer).await);
                });
            }
            Err(error) => drop(done.send(Err(error))),
        }
    }

    /// Waits for an answer while going on to hear the shim.
    pub(super) async fn answer<T>(
        &mut self,
        mut answer: oneshot::Receiver<T>,
        deadline: Duration,
    ) -> Result<T> {
        let mut early = Vec::new();
        let result = {
            let link = self.link.as_mut();
            let link = link.ok_or_else(|| Error::conflict("the container's supervisor is gone"))?;
            let wait = async {
                loop {
                    tokio::select! {
                        biased;
                        reply = &mut answer => return reply.map_err(|_| LinkError::Gone),
                        incoming = link.next() => match incoming {
                            Incoming::Answered => {}
                            Incoming::Event(event) => early.push(event),
                            Incoming::Closed => return Err(LinkError::Gone),
                        },
                    }
                }
            };
            tokio::time::timeout(deadline, wait).await
        };
        for event in early {
            self.on_event(event).await;
        }
        result
            .map_err(|_| Error::system("the container's supervisor does not answer"))?
            .map_err(failed("talk to the container's supervisor"))
    }

    /// The supervisor of the run before must have let go of the root file system.
    pub(super) async fn wait_for_shim(&mut self) -> Result<()> {
        if let Some(shim) = &self.shim {
            let gone = tokio::time::timeout(CLEANED_UP, shim.readable()).await;
            gone.map_err(|_| {
                Error::conflict("what is left of the run before has not been cleaned up yet")
            })?
            .map(drop)
            .map_err(failed("wait for the supervisor"))?;
            self.shim_gone().await;
        }
        Ok(())
    }

    pub(super) fn end_supervisor(&self) -> Result<()> {
        let shim = self.shim.as_ref();
        let shim = shim.ok_or_else(|| Error::conflict("the container's supervisor is gone"))?;
        hoy_sys::process::pidfd_signal(shim.get_ref().as_fd(), hoy_types::Signal::KILL.number())
            .map_err(failed("end the container's supervisor"))
    }
}

pub(super) async fn wait(answer: Answer, deadline: Duration) -> Result<Reply> {
    tokio::time::timeout(deadline, answer)
        .await
        .map_err(|_| Error::system("the container's supervisor does not answer"))?
        .map_err(|_| Error::conflict("the container's supervisor is gone"))
}

async fn plain(answer: Answer) -> Result<()> {
    done(wait(answer, ANSWER).await?)
}

pub(super) fn done(reply: Reply) -> Result<()> {
    match reply {
        Reply::Done => Ok(()),
        Reply::Failed(failure) => Err(match failure.reason {
            hoy_runtime::FailureReason::State => Error::conflict(failure.message),
            _ => Error::system(failure.message),
        }),
        _ => Err(Error::system("the supervisor gave a wrong answer")),
    }
}
