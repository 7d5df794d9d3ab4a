//! The database: one connection, owned by one thread; writes that wait together commit together.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rusqlite::{Connection, params};

use crate::reserve::Reserve;
use crate::{Result, StoreError};

/// How much a write must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// A power cut.
    Sync,
    /// The end of the daemon.
    Written,
}

/// One change.
#[derive(Clone, Debug)]
pub enum Op {
    Put { kind: &'static str, key: String, body: Vec<u8> },
    Delete { kind: &'static str, key: String },
}

/// Keys and bodies.
type Documents = Vec<(String, Vec<u8>)>;

enum Request {
    Write { ops: Vec<Op>, durability: Durability, done: Option<SyncSender<Result<()>>> },
    List { kind: String, done: SyncSender<Result<Documents>> },
}

pub(crate) struct Database {
    requests: SyncSender<Request>,
}

/// Writes that may wait.
const QUEUE: usize = 1024;
/// Writes that commit together.
const GROUP: usize = 128;

impl Database {
    pub fn open(path: &Path) -> Result<Self> {
        let connection = match Self::connect(path) {
            // On a full disk the reserve that an earlier daemon has left is what there is room.
            Err(_) if Reserve::give_up(path) => Self::connect(path)?,
            other => other?,
        };
        let writer = Writer { connection, reserve: Reserve::new(path) };
        let (requests, receiver) = sync_channel(QUEUE);
        std::thread::Builder::new()
            .name("database".into())
            .spawn(move || serve(writer, &receiver))
            .map_err(crate::io_error("start the writer of", path))?;
        Ok(Self { requests })
    }

    fn connect(path: &Path) -> Result<Connection> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version == 0 {
            connection.execute_batch(
                "BEGIN;
                 CREATE TABLE documents (
                     kind TEXT NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL,
                     PRIMARY KEY (kind, key)) STRICT, WITHOUT ROWID;
                 PRAGMA user_version = 1;
                 COMMIT;",
            )?;
        }
        Ok(connection)
    }

    pub fn write(&self, ops: Vec<Op>, durability: Durability) -> Result<()> {
        let (done, wait) = sync_channel(1);
        let request = Request::Write { ops, durability, done: Some(done) };
        self.requests.send(request).map_err(|_| StoreError::WriterGone)?;
        wait.recv().map_err(|_| StoreError::WriterGone)?
    }

    pub fn write_later(&self, ops: Vec<Op>) {
        let request = Request::Write { ops, durability: Durability::Written, done: None };
        // Without a writer nothing is acknowledged any more either.
        let _ = self.requests.send(request);
    }

    pub fn list(&self, kind: &str) -> Result<Documents> {
        let (done, wait) = sync_channel(1);
        let request = Request::List { kind: kind.to_owned(), done };
        self.requests.send(request).map_err(|_| StoreError::WriterGone)?;
        wait.recv().map_err(|_| StoreError::WriterGone)?
    }
}

/// What the writer's thread owns.
struct Writer {
    connection: Connection,
    reserve: Reserve,
}

fn serve(mut writer: Writer, requests: &Receiver<Request>) {
    while let Ok(first) = requests.recv() {
        let mut group = Vec::new();
        let mut next = Some(first);
        while let Some(request) = next {
            match request {
                Request::Write { ops, durability, done } => group.push((ops, durability, done)),
                Request::List { kind, done } => {
                    commit(&mut writer, std::mem::take(&mut group));
                    let _ = done.send(list(&writer.connection, &kind));
                }
            }
            next = if group.len() < GROUP { requests.try_recv().ok() } else { None };
        }
        commit(&mut writer, group);
    }
}

type Group = Vec<(Vec<Op>, Durability, Option<SyncSender<Result<()>>>)>;

fn commit(writer: &mut Writer, group: Group) {
    if group.is_empty() {
        return;
    }
    let sync = group.iter().any(|(_, durability, _)| *durability == Durability::Sync);
    let mut result = apply(&mut writer.connection, &group, sync);
    if is_full(&result) && group.iter().all(|(ops, ..)| removes(ops)) && writer.reserve.release() {
        result = apply(&mut writer.connection, &group, sync);
    }
    if result.is_ok() {
        writer.reserve.hold();
    }
    if group.len() > 1 && result.is_err() {
        // One bad write must not take the others with it.
        for one in group {
            commit(writer, vec![one]);
        }
        return;
    }
    for (_, _, done) in group {
        if let Some(done) = done {
            let copy = match &result {
                Ok(()) => Ok(()),
                Err(error) => Err(StoreError::Io {
                    operation: "write",
                    path: "the database".into(),
                    source: std::io::Error::other(error.to_string()),
                }),
            };
            let _ = done.send(copy);
        }
    }
}

/// Whether a write takes something away, and does no more beside it than note what is to go, too:
/// a document without a body.
fn removes(ops: &[Op]) -> bool {
    let deletes = |op: &Op| matches!(op, Op::Delete { .. });
    let notes = |op: &Op| matches!(op, Op::Put { body, .. } if body.is_empty());
    ops.iter().any(deletes) && ops.iter().all(|op| deletes(op) || notes(op))
}

fn is_full(result: &Result<()>) -> bool {
    let Err(StoreError::Database(error)) = result else { return false };
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
}

fn apply(connection: &mut Connection, group: &Group, sync: bool) -> Result<()> {
    connection.pragma_update(None, "synchronous", if sync { "FULL" } else { "NORMAL" })?;
    let transaction = connection.transaction()?;
    for op in group.iter().flat_map(|(ops, ..)| ops) {
        match op {
            Op::Put { kind, key, body } => {
                let mut statement = transaction.prepare_cached(
                    "INSERT INTO documents (kind, key, body) VALUES (?1, ?2, ?3)
                     ON CONFLICT (kind, key) DO UPDATE SET body = excluded.body",
                )?;
                statement.execute(params![kind, key, body])?;
            }
            Op::Delete { kind, key } => {
                let mut statement = transaction
                    .prepare_cached("DELETE FROM documents WHERE kind = ?1 AND key = ?2")?;
                statement.execute(params![kind, key])?;
            }
        }
    }
    Ok(transaction.commit()?)
}

fn list(connection: &Connection, kind: &str) -> Result<Documents> {
    let mut statement = connection
        .prepare_cached("SELECT key, body FROM documents WHERE kind = ?1 ORDER BY key")?;
    let rows = statement.query_map([kind], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<std::result::Result<_, _>>()?)
}
