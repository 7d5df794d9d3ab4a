//! The daemon's end of one shim: calls with answers, events, and the shim's own life.
//!
//! Owned by the container's driver task. It never waits for a container: sending is bounded by a
//! deadline, and whoever awaits an answer does so outside of the driver.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use hoy_shim::client::Connection;
use hoy_shim::message::{Call, Event, FromShim, Reply, Request};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

/// A message must leave in this time: the shim answers in microseconds, or it is stopped.
const SEND_DEADLINE: Duration = Duration::from_secs(5);

/// What the driver has to know of.
#[derive(Debug)]
pub enum Incoming {
    Event(Event),
    /// The answer to a call that somebody awaits was delivered.
    Answered,
    /// The control socket was closed: the shim is gone, or about to be.
    Closed,
}

/// Why a call to a shim failed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the shim does not take messages")]
    Late,
    #[error("the shim is gone")]
    Gone,
    #[error("talking to the shim: {0}")]
    Io(#[from] std::io::Error),
    #[error("talking to the shim: {0}")]
    Shim(#[from] hoy_shim::Error),
}

/// An answer that will come.
pub type Answer = oneshot::Receiver<Reply>;

/// An answer that will come with descriptors.
pub type GivingAnswer = oneshot::Receiver<(Reply, Vec<OwnedFd>)>;

/// Who awaits an answer. Whoever it is may have gone; the answer is then of no interest.
enum Waiting {
    Plain(oneshot::Sender<Reply>),
    Giving(oneshot::Sender<(Reply, Vec<OwnedFd>)>),
}

/// One connection to one shim.
pub struct ShimLink {
    /// The same socket, for waiting.
    ready: AsyncFd<OwnedFd>,
    connection: Connection,
    next: u32,
    waiting: HashMap<u32, Waiting>,
}

impl ShimLink {
    /// Must be called inside the runtime.
    pub fn new(connection: Connection) -> Result<Self, LinkError> {
        let ready = watch(connection.as_fd().try_clone_to_owned()?)?;
        Ok(Self { ready, connection, next: 1, waiting: HashMap::new() })
    }

    /// Sends a request and says where its answer will come.
    pub async fn call(
        &mut self,
        request: Request,
        descriptors: &[OwnedFd],
    ) -> Result<Answer, LinkError> {
        let sequence = self.send(request, descriptors).await?;
        let (sender, receiver) = oneshot::channel();
        self.waiting.insert(sequence, Waiting::Plain(sender));
        Ok(receiver)
    }

    /// Like `call`, for a request whose answer has descriptors.
    pub async fn call_for_descriptors(
        &mut self,
        request: Request,
    ) -> Result<GivingAnswer, LinkError> {
        let sequence = self.send(request, &[]).await?;
        let (sender, receiver) = oneshot::channel();
        self.waiting.insert(sequence, Waiting::Giving(sender));
        Ok(receiver)
    }

    async fn send(&mut self, request: Request, descriptors: &[OwnedFd]) -> Result<u32, LinkError> {
        let sequence = self.next;
        self.next = self.next.wrapping_add(1).max(1);
        let call = Call { sequence, request };
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        let send = async {
            loop {
                if self.connection.send(&call, &borrowed)? {
                    return Ok::<(), LinkError>(());
                }
                self.ready.writable().await?.clear_ready();
            }
        };
        tokio::time::timeout(SEND_DEADLINE, send).await.map_err(|_| LinkError::Late)??;
        Ok(sequence)
    }

    /// The next thing that the shim says. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Incoming {
        loop {
            match self.connection.recv() {
                Ok(Some((FromShim::Reply { sequence, reply }, descriptors))) => {
                    match self.waiting.remove(&sequence) {
                        Some(Waiting::Plain(sender)) => drop(sender.send(reply)),
                        Some(Waiting::Giving(sender)) => drop(sender.send((reply, descriptors))),
                        None => {}
                    }
                    return Incoming::Answered;
                }
                Ok(Some((FromShim::Event(event), _))) => return Incoming::Event(event),
                Ok(None) => match self.ready.readable().await {
                    Ok(mut guard) => guard.clear_ready(),
                    Err(_) => return Incoming::Closed,
                },
                Err(_) => return Incoming::Closed,
            }
        }
    }
}

/// For awaiting a descriptor's readiness.
#[expect(
    deprecated,
    reason = "its successor is unsafe, for descriptors that are not owned: this one is"
)]
pub(crate) fn watch(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}
