//! Listening, and the loop of each connection.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use hoy_engine::Engine;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use crate::conn::{Conn, Socket};
use crate::{ApiError, Fate, route};

/// Connections at the same time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 4096;

/// Serves one socket until the task is dropped.
pub async fn serve(engine: Engine, host: &str, group: Option<u32>) -> std::io::Result<()> {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    match host.split_once("://") {
        Some(("unix", path)) => {
            // The data root's lock says that no other daemon lives: what lies here is left over.
            let _ = std::fs::remove_file(path);
            let listener = UnixListener::bind(path)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
            std::os::unix::fs::chown(path, Some(0), Some(group.unwrap_or(0)))?;
            loop {
                let slot = Arc::clone(&slots).acquire_owned().await;
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let engine = engine.clone();
                        tokio::spawn(async move {
                            talk(engine, Conn::new(Socket::Unix(stream)), false).await;
                            drop(slot);
                        });
                    }
                    Err(error) => rest(&error).await,
                }
            }
        }
        Some(("tcp", address)) => {
            let listener = TcpListener::bind(address).await?;
            if !listener.local_addr()?.ip().is_loopback() {
                return Err(std::io::Error::other(
                    "a TCP socket that others can reach needs TLS, which is not available yet: \
                     use a loopback address",
                ));
            }
            loop {
                let slot = Arc::clone(&slots).acquire_owned().await;
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let _ = stream.set_nodelay(true);
                        let engine = engine.clone();
                        tokio::spawn(async move {
                            talk(engine, Conn::new(Socket::Tcp(stream)), true).await;
                            drop(slot);
                        });
                    }
                    Err(error) => rest(&error).await,
                }
            }
        }
        _ => Err(std::io::Error::other(format!("cannot listen on {host}"))),
    }
}

/// Out of descriptors, most likely: trying at once again would only burn the CPU.
async fn rest(error: &std::io::Error) {
    tracing::warn!(%error, "accept");
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
}

async fn talk(engine: Engine, conn: Conn, tcp: bool) {
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
        if tcp && !trusted(&head) {
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
fn trusted(head: &crate::http::Head) -> bool {
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
