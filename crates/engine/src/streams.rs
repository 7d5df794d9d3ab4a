//! Streams between clients and containers: attach and logs.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use hoy_logs::{Follower, Query, Record as LogRecord, Stream, Tail};
use hoy_shim::message::AttachRequest;
use hoy_types::Timestamp;
use tokio::sync::mpsc;

use crate::detach;
use crate::driver::Command;
use crate::engine::Engine;
use crate::error::{Error, Result, lost};
use crate::life::Wish;
use crate::registry::Handle;

/// A client's connection after its head: ours now.
pub struct HijackedConn {
    pub fd: OwnedFd,
    /// Bytes that arrived behind the request's head.
    pub early: Vec<u8>,
}

/// What an attach wants.
#[derive(Clone, Debug, Default)]
pub struct AttachOptions {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub stream: bool,
    pub logs: bool,
    pub detach_keys: Option<String>,
    /// Output says which stream it is of, unless there is a terminal.
    pub framed: bool,
}

/// An attach that was admitted.
pub struct AttachSession {
    engine: Engine,
    handle: Handle,
    options: AttachOptions,
    keys: Vec<u8>,
    /// Nothing starts before it is attached.
    _before: Option<tokio::sync::OwnedRwLockReadGuard<()>>,
    pub tty: bool,
}

/// Which log records.
#[derive(Clone, Debug, Default)]
pub struct LogsOptions {
    pub follow: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    pub timestamps: bool,
    /// `None` for all.
    pub tail: Option<usize>,
    /// Without frames, whatever the container has.
    pub raw: bool,
    /// With what the log says of each line's circumstances.
    pub details: bool,
}

/// Log output as the client gets it: framed unless the container has a terminal.
pub struct LogStream {
    pub tty: bool,
    chunks: mpsc::Receiver<Bytes>,
}

impl LogStream {
    pub async fn next(&mut self) -> Option<Bytes> {
        self.chunks.recv().await
    }
}

/// Pieces that may wait for a slow reader of logs.
const AHEAD: usize = 16;
/// A followed log is woken up for by its growth; this often its container's end is looked for.
const LOOK: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// A piece is sent once it has this size.
const PIECE: usize = 32 * 1024;

impl Engine {
    pub fn attach_begin(&self, id: &str, options: AttachOptions) -> Result<AttachSession> {
        let handle = self.find(id)?;
        let record = handle.record();
        record
            .state
            .phase
            .admits(Wish::Attach, handle.id.as_str())
            .map_err(|(kind, message)| Error::new(kind, message))?;
        let keys = detach::parse(options.detach_keys.as_deref())
            .map_err(|error| Error::invalid(error.to_string()))?;
        let tty = record.config.tty;
        // None while a start waits for others or goes on: then this one is not before it.
        let before = Arc::clone(&handle.attaching).try_read_owned().ok();
        Ok(AttachSession { engine: self.clone(), handle, options, keys, _before: before, tty })
    }

    pub fn logs(&self, id: &str, options: LogsOptions) -> Result<LogStream> {
        let handle = self.find(id)?;
        if !options.stdout && !options.stderr {
            return Err(Error::invalid("Bad parameters: you must choose at least one stream"));
        }
        let record = handle.record();
        if record.host.log_config.kind == "none" {
            return Err(Error::new(
                hoy_types::ErrorKind::NotImplemented,
                "configured logging driver does not support reading",
            ));
        }
        let tty = record.config.tty;
        let (sender, chunks) = mpsc::channel(AHEAD);
        let path = self.inner.log_path(&record);
        let format = crate::logging::format(&record.host);
        tokio::task::spawn_blocking(move || {
            // A log that cannot be read ends; the daemon's own log says why.
            if let Err(error) =
                read_logs(&handle, &path, format, &options, tty || options.raw, &sender)
            {
                tracing::warn!(container = handle.id.short(), %error, "read logs");
            }
        });
        Ok(LogStream { tty, chunks })
    }
}

fn read_logs(
    handle: &Handle,
    path: &std::path::Path,
    format: hoy_logs::Format,
    options: &LogsOptions,
    tty: bool,
    out: &mpsc::Sender<Bytes>,
) -> std::result::Result<(), hoy_logs::LogError> {
    let query = Query {
        stdout: options.stdout,
        stderr: options.stderr,
        since: options.since,
        until: options.until,
    };
    let tail = options.tail.map_or(Tail::All, Tail::Last);
    let mut follower = Follower::open(path, format, query, tail)?;
    // Made before the log is read to its end, it misses nothing.
    let watch = if options.follow { Some(follower.watch()?) } else { None };
    loop {
        // Asked before reading: what was written before the end is then read.
        let over = !options.follow || {
            let view = handle.view.borrow();
            view.removed
                || (view.starts > 0 && !view.record.state.phase.is_alive())
                || (view.starts == 0
                    && !matches!(
                        view.record.state.phase,
                        crate::life::Phase::Created | crate::life::Phase::Starting
                    )
                    && !view.record.state.phase.is_alive())
        };
        let mut piece = Vec::new();
        while let Some(record) = follower.next_record()? {
            encode(&mut piece, &record, options, tty);
            if piece.len() >= PIECE && out.blocking_send(std::mem::take(&mut piece).into()).is_err()
            {
                return Ok(());
            }
        }
        if !piece.is_empty() && out.blocking_send(piece.into()).is_err() {
            return Ok(());
        }
        if over || out.is_closed() {
            return Ok(());
        }
        if options.until.is_some_and(|until| until < crate::engine::now()) {
            return Ok(());
        }
        if let Some(watch) = &watch {
            use rustix::event::{PollFd, PollFlags, poll};
            let mut fds = [PollFd::new(watch, PollFlags::IN)];
            if poll(&mut fds, Some(&LOOK)).is_ok_and(|ready| ready > 0) {
                watch.clear()?;
            }
        }
    }
}

fn encode(out: &mut Vec<u8>, record: &LogRecord, options: &LogsOptions, tty: bool) {
    let mut stamp = String::new();
    if options.timestamps {
        stamp = format!("{} ", record.time.fixed());
    }
    if options.details {
        stamp.push_str(&crate::logging::details(&record.attributes));
    }
    if !tty {
        let stream = match record.stream {
            Stream::Stdout => 1,
            Stream::Stderr => 2,
        };
        let length = (stamp.len() + record.text.len()) as u32;
        out.extend([stream, 0, 0, 0]);
        out.extend(length.to_be_bytes());
    }
    out.extend(stamp.as_bytes());
    out.extend(&record.text);
}

impl AttachSession {
    /// With the client's connection, whose head is written.
    pub async fn run(self, conn: HijackedConn) {
        if self.options.logs && self.replay(&conn).await.is_err() {
            return;
        }
        if !self.options.stream {
            return;
        }
        let request = AttachRequest {
            stdin: self.options.stdin,
            stdout: self.options.stdout,
            stderr: self.options.stderr,
            early: conn.early,
            framed: self.options.framed && !self.tty,
            detach_keys: self.keys,
        };
        let client = conn.fd;
        // Refused now means that the container has ended meanwhile: the connection closes.
        let _ = self.handle.ask(|done| Command::Attach { request, client, done }).await;
    }

    /// What was said before.
    async fn replay(&self, conn: &HijackedConn) -> Result<()> {
        let options = LogsOptions {
            stdout: self.options.stdout,
            stderr: self.options.stderr,
            raw: !self.options.framed,
            ..LogsOptions::default()
        };
        let mut logs = self.engine.logs(self.handle.id.as_str(), options)?;
        while let Some(chunk) = logs.next().await {
            let fd = conn.fd.try_clone().map_err(crate::error::failed("attach"))?;
            send_all(fd, chunk.to_vec()).await?;
        }
        Ok(())
    }
}

/// Writes a text as a client of an attached stream expects it.
pub(crate) async fn write_text(fd: OwnedFd, text: &str, framed: bool) {
    let mut bytes = Vec::new();
    if framed {
        bytes.extend([1, 0, 0, 0]);
        bytes.extend((text.len() as u32).to_be_bytes());
    }
    bytes.extend(text.as_bytes());
    let _ = send_all(fd, bytes).await;
}

async fn send_all(fd: OwnedFd, bytes: Vec<u8>) -> Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::net::{SendFlags, send};
    let sent = tokio::task::spawn_blocking(move || {
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match send(&fd, rest, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(written) => rest = &rest[written..],
                Err(rustix::io::Errno::AGAIN) => {
                    let patience = Timespec { tv_sec: 30, tv_nsec: 0 };
                    let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
                    if matches!(poll(&mut fds, Some(&patience)), Ok(0)) {
                        return Err(Error::system("the client takes nothing"));
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return Err(Error::system("the client is gone")),
            }
        }
        Ok(())
    });
    sent.await.map_err(lost)?
}
