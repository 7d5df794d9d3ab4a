//! Listening, and the loop of each connection.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use hoy_engine::Engine;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use crate::conn::{Conn, Socket};
use crate::tls::Tls;
use crate::{ApiError, Fate, route};

/// Connections at the same time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 4096;

/// Where to listen.
pub enum Place {
    /// A path, which is made.
    Unix(PathBuf),
    /// An address, with TLS or without.
    Tcp(String, Option<Tls>),
    /// A socket that listens already: a service manager has made it.
    Given(OwnedFd, Option<Tls>),
}

/// Why a connection is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// Whoever may open the socket.
    Socket,
    /// Whoever is on this machine, but no page in a browser.
    Loopback,
    /// Whoever has a certificate.
    Certificate,
}

/// Serves one socket until the task is dropped.
pub async fn serve(engine: Engine, place: Place, group: Option<u32>) -> io::Result<()> {
    match place {
        Place::Unix(path) => {
            // The data root's lock says that no other daemon lives: what lies here is left over.
            let _ = std::fs::remove_file(&path);
            let listener = UnixListener::bind(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660))?;
            std::os::unix::fs::chown(&path, Some(0), Some(group.unwrap_or(0)))?;
            local(engine, listener).await
        }
        Place::Tcp(address, tls) => remote(engine, TcpListener::bind(address).await?, tls).await,
        Place::Given(socket, tls) => {
            let local_socket = rustix::net::getsockname(&socket)?;
            if local_socket.address_family() == rustix::net::AddressFamily::UNIX {
                let listener = std::os::unix::net::UnixListener::from(socket);
                listener.set_nonblocking(true)?;
                return local(engine, UnixListener::from_std(listener)?).await;
            }
            let listener = std::net::TcpListener::from(socket);
            listener.set_nonblocking(true)?;
            remote(engine, TcpListener::from_std(listener)?, tls).await
        }
    }
}

async fn local(engine: Engine, listener: UnixListener) -> io::Result<()> {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let engine = engine.clone();
                tokio::spawn(async move {
                    talk(engine, Conn::new(Socket::Unix(stream)), Trust::Socket).await;
                    drop(slot);
                });
            }
            Err(error) => rest(&error).await,
        }
    }
}

async fn remote(engine: Engine, listener: TcpListener, tls: Option<Tls>) -> io::Result<()> {
    let address = listener.local_addr()?;
    let known = tls.as_ref().is_some_and(|tls| tls.verifies);
    if !known && !address.ip().is_loopback() {
        return Err(io::Error::other(
            "whoever reaches this address would be root here: it needs --tlsverify, with \
             --tlscacert, --tlscert and --tlskey; without, only a loopback address is listened on",
        ));
    }
    if tls.is_none() {
        tracing::warn!(%address, "everybody on this machine can be root by this socket: it has no TLS");
    }
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, from)) => {
                let _ = stream.set_nodelay(true);
                let (engine, tls) = (engine.clone(), tls.clone());
                tokio::spawn(async move {
                    let trust = if known { Trust::Certificate } else { Trust::Loopback };
                    let socket = match &tls {
                        None => Ok(Socket::Tcp(stream)),
                        Some(tls) => tls.accept(stream, from).await.map(Socket::Unix),
                    };
                    match socket {
                        Ok(socket) => talk(engine, Conn::new(socket), trust).await,
                        Err(error) => tracing::info!(%from, %error, "no TLS with a client"),
                    }
                    drop(slot);
                });
            }
            Err(error) => rest(&error).await,
        }
    }
}

/// Out of descriptors, most likely: trying at once again would only burn the CPU.
async fn rest(error: &io::Error) {
    tracing::warn!(%error, "accept");
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
}

async fn talk(engine: Engine, conn: Conn, trust: Trust) {
    let mut conn = conn;
    loop {
        let head = match conn.next().await {
            Ok(Some(head)) => head,
            Ok(None) => return,
            Err(error) => {
                refuse(&mut conn, &error).await;
                return;
            }
        };
        if !trusted(&head, trust) {
            let error = ApiError::new(403, "requests by browsers are refused");
            refuse(&mut conn, &error).await;
            return;
        }
        match route::handle(&engine, conn, &head).await {
            Some((after, Ok(Fate::Done))) => conn = after,
            Some((mut after, Err(error))) if error.status != 0 && !after.answered => {
                match answer(&mut after, &error).await {
                    Ok(Fate::Done) => conn = after,
                    _ => return,
                }
            }
            _ => return,
        }
    }
}

/// A page in a browser can reach loopback, but it cannot hide where it comes from.
fn trusted(head: &crate::http::Head, trust: Trust) -> bool {
    match trust {
        Trust::Socket => return true,
        // A browser has its user's certificate.
        Trust::Certificate => return !head.origin,
        Trust::Loopback => {}
    }
    let host = head.host.as_deref().unwrap_or("localhost");
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    };
    let local = matches!(name, "localhost" | "[::1]" | "docker" | "hoy")
        || name.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback());
    local && !head.origin
}

async fn answer(conn: &mut Conn, error: &ApiError) -> Result<Fate, ApiError> {
    if matches!(error.status, 204 | 304) {
        return conn.empty(error.status).await;
    }
    let body = hoy_wire::ErrorResponse { message: error.message.clone() };
    conn.json_answer(error.status, &body).await
}

async fn refuse(conn: &mut Conn, error: &ApiError) {
    let mut body = serde_json::json!({ "message": error.message }).to_string();
    body.push('\n');
    let headers = [("Content-Type", "application/json"), ("Connection", "close")];
    let _ = conn.respond_with(error.status, &headers, body.as_bytes()).await;
}
