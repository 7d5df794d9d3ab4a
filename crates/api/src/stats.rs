//! GET /containers/{id}/stats.

use hoy_engine::Engine;

use crate::conn::Conn;
use crate::query::Query;
use crate::{ApiError, Fate, Outcome};

pub(crate) async fn stats(engine: &Engine, conn: &mut Conn, id: &str, query: &Query) -> Outcome {
    let stream = query.get("stream").is_none() || query.flag("stream");
    let mut answers = engine.stats(id, stream, query.flag("one-shot"))?;
    if !stream {
        let answer = answers.next().await?;
        return conn.json_answer(200, &answer.unwrap_or_default()).await;
    }
    conn.begin(200, "application/json").await?;
    loop {
        let next = tokio::select! {
            next = answers.next() => next?,
            () = conn.hung_up() => return Ok(Fate::Over),
        };
        let Some(answer) = next else { return conn.finish().await };
        let mut body = serde_json::to_vec(&answer)
            .map_err(|error| ApiError::new(500, format!("encode the answer: {error}")))?;
        body.push(b'\n');
        conn.chunk(&body).await?;
    }
}
