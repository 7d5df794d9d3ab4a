//! Asking resolvers: the first, the next when it is late or fails, at most three; the first good
//! answer is taken. What is not an answer to this very question is not heard.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::time::{sleep, timeout};

use super::upstream::Upstreams;
use super::wire::{Query, Reply, judge};

/// How long a resolver may take.
const PATIENCE: Duration = Duration::from_secs(4);
/// How much earlier a resolver is asked than the next one. The order is the host's wish: the first
/// may know names that the others deny.
const HEAD_START: Duration = Duration::from_millis(300);
/// The longest datagram.
const LONGEST: usize = 65_535;

/// The answer to a question, as a resolver wrote it; one that is an error if there is no better.
pub(crate) async fn ask(upstreams: &Upstreams, query: &Query<'_>) -> Option<Vec<u8>> {
    let mut servers = upstreams.servers().into_iter();
    let mut asked = FuturesUnordered::new();
    let mut failed = None;
    let begin = |server| timeout(PATIENCE, ask_one(upstreams, server, query));
    asked.push(begin(servers.next()?));
    loop {
        let waiting = servers.len() > 0;
        tokio::select! {
            answer = asked.next() => {
                match answer? {
                    Ok(Ok((Reply::Good | Reply::Truncated, packet))) => return Some(packet),
                    Ok(Ok((_, packet))) => failed = Some(packet),
                    // Unreachable or silent.
                    Ok(Err(_)) | Err(_) => {}
                }
                match servers.next() {
                    Some(server) => asked.push(begin(server)),
                    None if asked.is_empty() => return failed,
                    None => {}
                }
            }
            () = sleep(HEAD_START), if waiting => {
                if let Some(server) = servers.next() {
                    asked.push(begin(server));
                }
            }
        }
    }
}

async fn ask_one(
    upstreams: &Upstreams,
    server: SocketAddr,
    query: &Query<'_>,
) -> io::Result<(Reply, Vec<u8>)> {
    let id = random_id()?;
    let question = query.with_id(id);
    let (reply, packet) = over_udp(upstreams, server, query, id, &question).await?;
    if reply != Reply::Truncated {
        return Ok((reply, packet));
    }
    // What came is better than nothing, if the rest cannot be had.
    match over_tcp(upstreams, server, query, id, &question).await {
        Ok((reply @ (Reply::Good | Reply::Failed), whole)) => Ok((reply, whole)),
        _ => Ok((Reply::Truncated, packet)),
    }
}

async fn over_udp(
    upstreams: &Upstreams,
    server: SocketAddr,
    query: &Query<'_>,
    id: u16,
    question: &[u8],
) -> io::Result<(Reply, Vec<u8>)> {
    let socket = upstreams.udp(server).await?;
    socket.send(question).await?;
    loop {
        // Nobody at that port is an error of the socket, and nothing to read.
        if socket.ready(Interest::READABLE | Interest::ERROR).await?.is_error() {
            return Err(socket.take_error()?.unwrap_or_else(|| io::ErrorKind::Other.into()));
        }
        // Memory is taken when there is something to put into it.
        let mut packet = vec![0; LONGEST];
        match socket.try_recv(&mut packet) {
            Ok(length) => packet.truncate(length),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        match judge(&packet, query, id) {
            Reply::Foreign => {}
            reply => {
                packet.shrink_to_fit();
                return Ok((reply, packet));
            }
        }
    }
}

async fn over_tcp(
    upstreams: &Upstreams,
    server: SocketAddr,
    query: &Query<'_>,
    id: u16,
    question: &[u8],
) -> io::Result<(Reply, Vec<u8>)> {
    let mut stream = upstreams.tcp(server).await?;
    let length = u16::try_from(question.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut message = length.to_be_bytes().to_vec();
    message.extend_from_slice(question);
    stream.write_all(&message).await?;
    loop {
        let length = stream.read_u16().await?;
        let mut packet = vec![0; usize::from(length)];
        stream.read_exact(&mut packet).await?;
        match judge(&packet, query, id) {
            Reply::Foreign => {}
            reply => return Ok((reply, packet)),
        }
    }
}

/// Nobody who does not see the question can guess it. Without randomness nothing is asked.
fn random_id() -> io::Result<u16> {
    let mut bytes = [0; 2];
    let flags = rustix::rand::GetRandomFlags::empty();
    match rustix::rand::getrandom(&mut bytes, flags)? {
        2 => Ok(u16::from_ne_bytes(bytes)),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
