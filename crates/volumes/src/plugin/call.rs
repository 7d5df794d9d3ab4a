//! A call to a plugin: JSON there and back, a deadline, and Docker's words for what goes wrong.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::address::Address;
use super::http::{self, Broken};
use super::settings::PluginLimits;

/// Larger answers are nothing a plugin sends: a list of some ten thousand volumes.
const LONGEST: usize = 16 << 20;
/// What of an answer that is no JSON is repeated to people.
const REPEATED: usize = 4 << 10;

/// How long to wait for an answer, and for somebody to be there at all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    until: Instant,
    retry: Option<Duration>,
}

impl Patience {
    /// From now on; for as many calls as there is time for.
    pub fn once(limit: Duration) -> Self {
        Self { until: Instant::now() + limit, retry: None }
    }

    pub fn retry(limit: Duration, retry: Duration) -> Self {
        Self { until: Instant::now() + limit, retry: Some(retry) }
    }

    pub fn until(self) -> Instant {
        self.until
    }
}

/// Why a call has not brought what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// The plugin says no.
    #[error("{0}")]
    Said(String),
    /// The plugin says no, with a status.
    #[error("{method}: {said}")]
    Status { method: &'static str, said: String },
    /// It cannot be reached, does not answer, or is interrupted.
    #[error("Post \"{url}\": {said}")]
    Transport { url: String, said: String, late: bool },
    /// What it answers has no meaning.
    #[error("{method}: {said}")]
    Lie { method: &'static str, said: String },
}

impl CallError {
    /// Whether there was no time left.
    pub fn is_late(&self) -> bool {
        matches!(self, Self::Transport { late: true, .. })
    }

    /// Whether a plugin has answered at all, in its own words.
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Said(_) | Self::Status { .. })
    }
}

/// What every answer may have.
#[derive(serde::Deserialize)]
struct Refusal {
    #[serde(rename = "Err", default)]
    err: Option<String>,
}

/// How many calls wait for a plugin now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waiting(Arc<AtomicUsize>);

/// One of them.
struct Place<'a>(&'a Waiting);

impl Waiting {
    fn enter(&self, most: usize) -> Option<Place<'_>> {
        let place = Place(self);
        (self.0.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Asks, and reads what the plugin answers.
pub(crate) fn call<Q: Serialize, A: DeserializeOwned>(
    address: &Address,
    waiting: &Waiting,
    method: &'static str,
    question: Option<&Q>,
    patience: Patience,
    limits: &PluginLimits,
) -> Result<A, CallError> {
    let lie = |said: String| CallError::Lie { method, said };
    let body = match question {
        Some(question) => serde_json::to_vec(question).map_err(|error| lie(error.to_string()))?,
        None => Vec::new(),
    };
    let _place = waiting.enter(limits.calls).ok_or_else(|| CallError::Transport {
        url: address.url(method),
        said: format!("{} calls wait for an answer already", limits.calls),
        late: true,
    })?;
    let answer = exchange(address, method, &body, patience, limits)?;
    let refusal = serde_json::from_slice::<Refusal>(&answer.body);
    let err = refusal.as_ref().ok().and_then(|refusal| refusal.err.clone());
    let err = err.filter(|err| !err.is_empty());
    if answer.status != 200 {
        let said = err.unwrap_or_else(|| {
            let shown = &answer.body[..answer.body.len().min(REPEATED)];
            String::from_utf8_lossy(shown).trim().to_owned()
        });
        return Err(CallError::Status { method, said });
    }
    if let Some(err) = err {
        return Err(CallError::Said(err));
    }
    let unread = |said: String| lie(format!("error reading plugin response: {said}"));
    // An array would do for an object to what reads it.
    if let Some(first) = answer.body.trim_ascii_start().first().filter(|first| **first != b'{') {
        let first = char::from(*first);
        return Err(unread(format!("invalid character {first:?}, an object was expected")));
    }
    serde_json::from_slice(&answer.body).map_err(|error| unread(error.to_string()))
}

fn exchange(
    address: &Address,
    method: &'static str,
    body: &[u8],
    patience: Patience,
    limits: &PluginLimits,
) -> Result<http::Answer, CallError> {
    let began = Instant::now();
    let until = patience.until;
    let failed =
        |said: String, late: bool| CallError::Transport { url: address.url(method), said, late };
    let mut pause = limits.pause;
    let mut connection = loop {
        let error = match address.connect(until) {
            Ok(connection) => break connection,
            Err(error) => error,
        };
        let late = is_late(&error);
        let spent = began.elapsed() + pause;
        let again = patience.retry.is_some_and(|retry| spent < retry) && began + spent < until;
        if late || error.kind() == io::ErrorKind::InvalidInput || !again {
            return Err(failed(not_connected(address, &error), late));
        }
        tracing::warn!(plugin = %address, %error, "a plugin takes no connection, it is tried again");
        std::thread::sleep(pause);
        pause *= 2;
    };
    let answer = http::post(&mut connection, &address.host(), method, body, LONGEST, until);
    answer.map_err(|broken| match broken {
        Broken::Head(error) | Broken::Sending(error) if is_late(&error) => failed(
            "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned(),
            true,
        ),
        Broken::Body(error) if is_late(&error) => failed(
            "context deadline exceeded (Client.Timeout or context cancellation while reading \
             body)"
                .to_owned(),
            true,
        ),
        Broken::Head(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            failed("EOF".to_owned(), false)
        }
        Broken::Body(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            failed("unexpected EOF".to_owned(), false)
        }
        Broken::Head(error) | Broken::Body(error) => {
            failed(format!("read {address}: read: {}", in_short(&error)), false)
        }
        Broken::Sending(error) => {
            failed(format!("write {address}: write: {}", in_short(&error)), false)
        }
        Broken::Malformed(said) => failed(said, false),
    })
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

fn not_connected(address: &Address, error: &io::Error) -> String {
    let said = if is_late(error) { "i/o timeout".to_owned() } else { in_short(error) };
    match error.raw_os_error() {
        Some(_) => format!("dial {address}: connect: {said}"),
        None => format!("dial {address}: {said}"),
    }
}

/// The kernel's words without Rust's number.
fn in_short(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    match error.raw_os_error() {
        Some(_) => text.to_lowercase(),
        None => text.to_owned(),
    }
}
