//! The daemon about itself.

use hoy_engine::Engine;

use crate::conn::Conn;
use crate::events::events;
use crate::http::Head;
use crate::query::Query;
use crate::{Outcome, shape};

pub(crate) async fn route(
    engine: &Engine,
    conn: &mut Conn,
    head: &Head,
    parts: &[&str],
    query: &Query,
) -> Option<Outcome> {
    Some(match (head.method.as_str(), parts) {
        ("GET" | "HEAD", ["_ping"]) => {
            let headers = [
                ("Content-Type", "text/plain; charset=utf-8"),
                ("Builder-Version", "1"),
                ("Swarm", "inactive"),
                ("Cache-Control", "no-cache, no-store, must-revalidate"),
                ("Pragma", "no-cache"),
            ];
            conn.respond_with(200, &headers, b"OK").await
        }
        ("GET", ["version"]) => conn.json_answer(200, &engine.version()).await,
        ("GET", ["info"]) => conn.shaped(200, shape::info, &engine.info()).await,
        ("GET", ["events"]) => events(engine, conn, head, query).await,
        ("POST", ["hoy", "stop"]) => match engine.stop_daemon(query.flag("clean")).await {
            // Where it listens somebody else does, too: to ask again would start the next daemon.
            Ok(()) if engine.has_given_sockets() => {
                conn.respond_with(204, &[("Hoy-Socket", "kept")], b"").await
            }
            Ok(()) => conn.empty(204).await,
            Err(error) => Err(error.into()),
        },
        _ => return None,
    })
}
