//! An archive from a URL, piece by piece. Only `import` asks for one.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::{ImageError, Result};

/// A server must answer, and go on sending, in this time.
const CONNECT: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(60);

/// Hands the body of `url` to a reader. An end before the end is told to it, too.
pub async fn fetch(url: &str, sender: mpsc::Sender<io::Result<Bytes>>) -> Result<()> {
    let result = copy(url, &sender).await;
    if let Err(error) = &result {
        // The reader must not take what came for all of it.
        let _ = sender.send(Err(io::Error::other(error.to_string()))).await;
    }
    result
}

async fn copy(url: &str, sender: &mpsc::Sender<io::Result<Bytes>>) -> Result<()> {
    let failed = |error: reqwest::Error| {
        let mut text = format!("download {url}: {error}");
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        ImageError::Invalid(text)
    };
    let builder = || {
        reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .user_agent(concat!("hoy/", env!("CARGO_PKG_VERSION")))
    };
    let client = match builder().build() {
        // A machine that has no certificates still fetches what needs none; it trusts nobody else.
        Err(_) if url.starts_with("http://") => builder().tls_certs_only([]).build(),
        built => built,
    };
    let client = client.map_err(failed)?;
    let answer = client.get(url).send().await.map_err(failed)?;
    let mut answer = answer.error_for_status().map_err(failed)?;
    while let Some(piece) = answer.chunk().await.map_err(failed)? {
        if sender.send(Ok(piece)).await.is_err() {
            // The reader has seen enough, or has failed: it says so itself.
            return Ok(());
        }
    }
    Ok(())
}
