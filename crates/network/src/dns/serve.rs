//! The tasks of one container's server. What can be answered at once is answered by the task that
//! reads, many datagrams with one system call; what resolvers must say has tasks of its own, whose
//! number is bounded, so that neither waits for the other.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::AsFd as _;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hoy_sys::batches::{MANY, Received, ToSend};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet, yield_now};
use tokio::time::{sleep, timeout};

use super::answer::{Outcome, Scratch, View};
use super::ask::ask;
use super::sockets::DnsSockets;
use super::wire::{Answer, Query, SERVER_FAILURE, relay};
use crate::NetworkError;

/// Questions of one container that are with resolvers at once: a sixteenth of all.
const IN_FLIGHT: usize = 64;
/// Those that wait for it included. One more is answered with a failure.
const PENDING: usize = 256;
/// How long a question waits before it is asked.
const QUEUE: Duration = Duration::from_secs(2);
/// Connections of one container; more wait until one has ended.
const CONNECTIONS: usize = 32;
/// How long a connection may do nothing.
const IDLE: Duration = Duration::from_secs(10);
/// No honest question is longer.
const LONGEST: usize = 4096;
/// Batches that are read before others have their turn.
const BATCHES: usize = 4;
/// After an error that may last, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// One container's server; it ends with this.
pub(crate) struct Server {
    container: Arc<Container>,
    tasks: [AbortHandle; 2],
}

struct Container {
    view: RwLock<Arc<View>>,
    in_flight: Semaphore,
    all_in_flight: Arc<Semaphore>,
}

impl Server {
    pub fn start(
        handle: &tokio::runtime::Handle,
        sockets: DnsSockets,
        view: View,
        all_in_flight: Arc<Semaphore>,
    ) -> Result<Self, NetworkError> {
        let _inside = handle.enter();
        let (udp, tcp) = tokio_sockets(sockets)
            .map_err(NetworkError::io("serve the sockets of the embedded DNS server"))?;
        let container = Arc::new(Container {
            view: RwLock::new(Arc::new(view)),
            in_flight: Semaphore::new(IN_FLIGHT),
            all_in_flight,
        });
        let datagrams = serve_datagrams(container.clone(), Arc::new(udp));
        let connections = serve_connections(container.clone(), tcp);
        let tasks = [handle.spawn(datagrams), handle.spawn(connections)];
        Ok(Self { container, tasks: tasks.map(|task| task.abort_handle()) })
    }

    pub fn update(&self, view: View) {
        let mut current = self.container.view.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(view);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

fn tokio_sockets(sockets: DnsSockets) -> io::Result<(UdpSocket, TcpListener)> {
    let udp = std::net::UdpSocket::from(sockets.udp);
    let tcp = std::net::TcpListener::from(sockets.tcp);
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    Ok((UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?))
}

impl Container {
    fn view(&self) -> Arc<View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What resolvers say to a question, or that they say nothing.
    async fn forward(&self, packet: &[u8], limit: Option<usize>) -> Option<Vec<u8>> {
        let query = Query::read(packet).ok()?;
        let limit = limit.unwrap_or_else(|| query.udp_limit());
        let permits = async {
            let own = self.in_flight.acquire().await.ok()?;
            Some((own, self.all_in_flight.acquire().await.ok()?))
        };
        let answer = match timeout(QUEUE, permits).await {
            Ok(Some(_permits)) => ask(&self.view().upstreams, &query).await,
            Ok(None) | Err(_) => None,
        };
        Some(match answer {
            Some(answer) => relay(answer, &query, limit),
            None => failure(&query, limit),
        })
    }
}

fn failure(query: &Query<'_>, limit: usize) -> Vec<u8> {
    let mut out = Vec::new();
    Answer::new(&mut out, query, SERVER_FAILURE, limit).finish();
    out
}

/// Memory for one batch, one per thread: it is never held while something is awaited.
struct Batch {
    received: Received,
    answers: ToSend,
    scratch: Scratch,
}

thread_local! {
    static BATCH: RefCell<Batch> = RefCell::new(Batch {
        received: Received::new(LONGEST),
        answers: ToSend::default(),
        scratch: Scratch::default(),
    });
}

type Question = (Vec<u8>, SocketAddrV4);

async fn serve_datagrams(container: Arc<Container>, socket: Arc<UdpSocket>) {
    let mut asking = JoinSet::new();
    let mut questions: Vec<Question> = Vec::new();
    loop {
        tokio::select! {
            ready = socket.readable() => {
                if ready.is_err() {
                    return;
                }
            }
            _ = asking.join_next(), if !asking.is_empty() => continue,
        }
        let view = container.view();
        let mut more = true;
        for _ in 0..BATCHES {
            let room = PENDING.saturating_sub(asking.len());
            match answer_batch(&socket, &view, room, &mut questions) {
                Ok(full) => more = full,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => more = false,
                // An error of one datagram, such as one that could not be delivered.
                Err(_) => {}
            }
            for (packet, from) in questions.drain(..) {
                let (container, socket) = (container.clone(), socket.clone());
                asking.spawn(async move {
                    if let Some(answer) = container.forward(&packet, None).await {
                        // Who has gone meanwhile does not need it.
                        let _ = socket.try_send_to(&answer, from.into());
                    }
                });
            }
            if !more {
                break;
            }
        }
        if more {
            yield_now().await;
        }
    }
}

/// Reads what is there and answers what is known; the rest is put into `questions`. Whether there
/// may be more.
fn answer_batch(
    socket: &UdpSocket,
    view: &View,
    room: usize,
    questions: &mut Vec<Question>,
) -> io::Result<bool> {
    BATCH.with_borrow_mut(|Batch { received, answers, scratch }| {
        let mut count = 0;
        let read = socket.try_io(Interest::READABLE, || {
            count = received.receive(socket.as_fd())?;
            // The queue is empty now: no need to ask again before there is news.
            if count < MANY { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        if count == 0 {
            return read.map(|()| false);
        }
        answers.clear();
        for (packet, cut, from) in received.iter() {
            if cut {
                continue;
            }
            match view.answer(packet, None, scratch, &mut answers.bytes) {
                Outcome::Answered => answers.end(from),
                Outcome::Ignore => {}
                Outcome::Ask if questions.len() < room => questions.push((packet.to_vec(), from)),
                Outcome::Ask => {
                    if let Ok(query) = Query::read(packet) {
                        let limit = query.udp_limit();
                        Answer::new(&mut answers.bytes, &query, SERVER_FAILURE, limit).finish();
                        answers.end(from);
                    }
                }
            }
        }
        let mut sent = 0;
        while sent < answers.count() {
            // What cannot be sent is lost, as datagrams may be: the client asks again.
            sent += answers.send_joined(socket.as_fd(), sent).unwrap_or(1).max(1);
        }
        Ok(count == MANY)
    })
}

async fn serve_connections(container: Arc<Container>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(container.clone(), stream));
                }
                Err(_) => sleep(PAUSE).await,
            },
            _ = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

/// One question after the other, until the client has no more.
async fn serve_connection(container: Arc<Container>, mut stream: TcpStream) {
    let mut packet = Vec::new();
    let mut scratch = Scratch::default();
    let mut message = Vec::new();
    loop {
        let read = async {
            let length = usize::from(stream.read_u16().await?);
            if length > LONGEST {
                return Err(io::ErrorKind::InvalidData.into());
            }
            packet.resize(length, 0);
            stream.read_exact(&mut packet).await
        };
        if in_time(read).await.is_none() {
            return;
        }
        message.clear();
        message.extend_from_slice(&[0, 0]);
        let limit = Some(usize::from(u16::MAX));
        let outcome = container.view().answer(&packet, limit, &mut scratch, &mut message);
        match outcome {
            Outcome::Answered => {}
            Outcome::Ignore => return,
            Outcome::Ask => match container.forward(&packet, limit).await {
                Some(answer) => message.extend_from_slice(&answer),
                None => return,
            },
        }
        let Ok(length) = u16::try_from(message.len() - 2) else { return };
        message[..2].copy_from_slice(&length.to_be_bytes());
        if in_time(stream.write_all(&message)).await.is_none() {
            return;
        }
    }
}

async fn in_time<T>(what: impl Future<Output = io::Result<T>>) -> Option<T> {
    timeout(IDLE, what).await.ok()?.ok()
}
