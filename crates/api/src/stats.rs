//! GET /containers/{id}/stats.

use hoy_engine::Engine;

use crate::conn::Conn;
use crate::query::Query;
use crate::{Fate, Outcome, shape};

pub(crate) async fn stats(engine: &Engine, conn: &mut Conn, id: &str, query: &Query) -> Outcome {
    let stream = query.get("stream").is_none() || query.flag("stream");
    let mut answers = engine.stats(id, stream, query.flag("one-shot"))?;
    if !stream {
        let answer = answers.next().await?;
        return conn.shaped(200, shape::stats, &answer.unwrap_or_default()).await;
    }
    conn.begin(200, "application/json").await?;
    loop {
        let next = tokio::select! {
            next = answers.next() => next?,
            () = conn.hung_up() => return Ok(Fate::Over),
        };
        let Some(answer) = next else { return conn.finish().await };
        let mut body = conn.body_of(shape::stats, &answer)?;
        body.push(b'\n');
        conn.chunk(&body).await?;
    }
}
