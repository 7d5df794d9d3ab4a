//! `stats`: what containers use, once or until it is ended.

use std::io::{BufRead as _, BufReader, Read as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hoy_client::Client;
use serde_json::{Value, json};

use super::list::{format_of, short};
use super::run::container;
use super::{App, filters};
use crate::failure::{Failure, Result};
use crate::format::human;
use crate::format::rows::{Listing, render};
use crate::format::template::{self, Headers};
use crate::print;

/// Who says nothing for so long has nothing to say.
const SILENCE: Duration = Duration::from_secs(2);
/// Between two pictures.
const PERIOD: Duration = Duration::from_millis(500);
/// Connections at a time where each is for one answer.
const AT_A_TIME: usize = 100;
/// No honest answer is longer.
const MAX_ANSWER: u64 = 4 << 20;
const STACK: usize = 256 << 10;

const HEADERS: &Headers = &[
    ("ID", "CONTAINER ID"),
    ("Container", "CONTAINER"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];
const COLUMNS: &[&str] =
    &["ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs"];

/// One container as far as it is known.
#[derive(Default)]
struct Entry {
    /// As it was asked for.
    container: String,
    answer: Value,
    heard: Option<Instant>,
    error: Option<String>,
    /// Somebody need not wait for its first answer any more.
    settled: bool,
    gone: bool,
}

/// What is shown, and who waits for it.
#[derive(Default)]
struct Board {
    entries: Mutex<Vec<Entry>>,
    changed: Condvar,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its place; `None` if it is there already.
    fn add(&self, container: &str) -> Option<usize> {
        let mut entries = self.lock();
        if entries.iter().any(|entry| entry.container == container && !entry.gone) {
            return None;
        }
        entries.push(Entry { container: container.to_owned(), ..Entry::default() });
        Some(entries.len() - 1)
    }

    fn remove(&self, container: &str) {
        let mut entries = self.lock();
        for entry in entries.iter_mut().filter(|entry| entry.container == container) {
            entry.gone = true;
        }
    }

    fn change(&self, at: usize, change: impl FnOnce(&mut Entry)) -> bool {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(at) else { return false };
        change(entry);
        entry.settled = true;
        let goes_on = !entry.gone;
        self.changed.notify_all();
        goes_on
    }

    /// Until each has said something, or has been silent for too long.
    fn await_first(&self) {
        let until = Instant::now() + SILENCE;
        let mut entries = self.lock();
        while entries.iter().any(|entry| !entry.settled && !entry.gone) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(entries, left);
            entries = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn rows(&self, full: bool) -> Vec<Value> {
        let entries = self.lock();
        entries.iter().filter(|entry| !entry.gone).map(|entry| row(entry, full)).collect()
    }
}

pub fn stats(app: &App<'_>) -> Result<u8> {
    let flags = app.flags;
    let format = format_of(app, "statsFormat")?;
    if !matches!(format.as_str(), "" | "table" | "json") {
        // A field that is not there is seen before anything is asked.
        let text = format.strip_prefix("table ").unwrap_or(&format);
        template::one(text, &row(&Entry::default(), false), template::Missing::Mistake)?;
    }
    let (once, all) = (flags.switch("no-stream"), flags.switch("all"));
    let board = Arc::new(Board::default());
    let client = Arc::new(app.client.clone());
    let everything = app.args().is_empty();
    let names: Vec<String> = if everything {
        if !once {
            watch(&board, &client, all)?;
        }
        let answer = app.client.get("/containers/json").switch("all", all).fetch()?;
        let listed = answer.as_array().into_iter().flatten();
        listed.map(|about| short(about["Id"].as_str().unwrap_or_default()).to_owned()).collect()
    } else {
        app.args().to_vec()
    };
    if once {
        ask_once(&board, &client, &names);
    } else {
        for name in &names {
            follow(&board, &client, name);
        }
    }
    board.await_first();
    if !everything {
        let entries = board.lock();
        let errors: Vec<&str> = entries.iter().filter_map(|entry| entry.error.as_deref()).collect();
        if !errors.is_empty() {
            return Err(Failure::new(errors.join("\n")));
        }
    }
    let listing = Listing {
        format: &format,
        quiet: false,
        columns: COLUMNS,
        headers: HEADERS,
        key: "ID",
        raw: &[],
    };
    let full = flags.switch("no-trunc");
    loop {
        let rows = board.rows(full);
        let text = render(&listing, &rows)?;
        if once {
            return print(&text).map(|()| 0);
        }
        // Over the picture before, line by line, so that nothing flickers.
        let lines: String = text.lines().map(|line| format!("{line}\x1b[K\n")).collect();
        print(&format!("\x1b[H{lines}\x1b[J"))?;
        if rows.is_empty() && !everything {
            return Ok(0);
        }
        std::thread::sleep(PERIOD);
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    // They end with the process, whatever they wait for.
    std::thread::Builder::new().stack_size(STACK).spawn(work).map(drop)
}

/// One answer for each, some at a time.
fn ask_once(board: &Arc<Board>, client: &Arc<Client>, names: &[String]) {
    let places: Vec<(usize, String)> =
        names.iter().filter_map(|name| Some((board.add(name)?, name.clone()))).collect();
    let workers = places.len().min(AT_A_TIME);
    let next = Arc::new((AtomicUsize::new(0), places));
    for _ in 0..workers {
        let (board, client, next) = (Arc::clone(board), Arc::clone(client), Arc::clone(&next));
        let spawned = spawn(move || {
            while let Some((at, name)) = next.1.get(next.0.fetch_add(1, Ordering::Relaxed)) {
                let request = client.get(format!("{}/stats", container(name))).query("stream", "0");
                match request.fetch() {
                    Ok(answer) => board.change(*at, |entry| heard(entry, answer)),
                    Err(error) => board.change(*at, |entry| entry.error = Some(error.to_string())),
                };
            }
        });
        if spawned.is_err() {
            break;
        }
    }
}

fn heard(entry: &mut Entry, answer: Value) {
    entry.answer = answer;
    entry.heard = Some(Instant::now());
    entry.error = None;
}

/// Answers as they come, on a thread of its own.
fn follow(board: &Arc<Board>, client: &Arc<Client>, name: &str) {
    let Some(at) = board.add(name) else { return };
    let (board_, client, name) = (Arc::clone(board), Arc::clone(client), name.to_owned());
    let spawned = spawn(move || {
        let board = board_;
        let request = client.get(format!("{}/stats", container(&name))).query("stream", "1");
        let answer = match request.send() {
            Ok(answer) => answer,
            Err(error) => {
                board.change(at, |entry| entry.error = Some(error.to_string()));
                return;
            }
        };
        let mut reader = BufReader::new(answer);
        loop {
            let mut line = Vec::new();
            let read = (&mut reader).take(MAX_ANSWER).read_until(b'\n', &mut line);
            if line.is_empty() || read.is_err() {
                // The container is gone, or the engine is.
                board.change(at, |entry| entry.gone = true);
                return;
            }
            if let Ok(answer) = serde_json::from_slice(&line)
                && !board.change(at, |entry| heard(entry, answer))
            {
                return;
            }
        }
    });
    if let Err(error) = spawned {
        board.change(at, |entry| entry.error = Some(error.to_string()));
    }
}

/// Containers that come and go meanwhile come and go in the picture.
fn watch(board: &Arc<Board>, client: &Arc<Client>, all: bool) -> Result<()> {
    let wanted = filters(&["type=container".to_owned()]);
    let (board, listener) = (Arc::clone(board), Arc::clone(client));
    // Heard before the list is asked for: nobody is missed.
    let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
    spawn(move || {
        let answer = match listener.get("/events").query("filters", wanted).send() {
            Ok(answer) => answer,
            Err(_) => return,
        };
        let _ = ready.send(());
        for line in BufReader::new(answer).lines() {
            let Ok(line) = line else { return };
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            let id = short(event["Actor"]["ID"].as_str().unwrap_or_default()).to_owned();
            match event["Action"].as_str() {
                Some("create") if all => follow(&board, &listener, &id),
                Some("start") => follow(&board, &listener, &id),
                Some("die") if !all => board.remove(&id),
                Some("destroy") => board.remove(&id),
                _ => {}
            }
        }
    })?;
    // An engine that does not answer is told of by the list.
    let _ = is_ready.recv_timeout(SILENCE);
    Ok(())
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

#[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
fn float(value: u64) -> f64 {
    value as f64
}

/// Of all CPUs together, so that two whole ones are 200.
fn cpu_percent(answer: &Value) -> f64 {
    let (now, before) = (&answer["cpu_stats"], &answer["precpu_stats"]);
    let total = |stats: &Value| float(number(&stats["cpu_usage"]["total_usage"]));
    let system = |stats: &Value| float(number(&stats["system_cpu_usage"]));
    let (used, of) = (total(now) - total(before), system(now) - system(before));
    let cpus = match number(&now["online_cpus"]) {
        0 => now["cpu_usage"]["percpu_usage"].as_array().map_or(0, Vec::len) as u64,
        cpus => cpus,
    };
    if used > 0.0 && of > 0.0 { used / of * float(cpus) * 100.0 } else { 0.0 }
}

/// Without the files that the kernel may forget at any moment.
fn memory(stats: &Value) -> u64 {
    let usage = number(&stats["usage"]);
    let details = &stats["stats"];
    let key = if details["total_inactive_file"].is_u64() {
        "total_inactive_file"
    } else {
        "inactive_file"
    };
    match number(&details[key]) {
        idle if idle < usage => usage - idle,
        _ => usage,
    }
}

fn sum(values: impl Iterator<Item = u64>) -> u64 {
    values.fold(0, u64::saturating_add)
}

fn row(entry: &Entry, full: bool) -> Value {
    let answer = &entry.answer;
    let known = entry.error.is_none() && entry.heard.is_some_and(|at| at.elapsed() <= SILENCE);
    let id = answer["id"].as_str().unwrap_or_default();
    let name = answer["name"].as_str().unwrap_or_default();
    let mut out = json!({
        "BlockIO": "--",
        "CPUPerc": "--",
        "Container": entry.container,
        "ID": if full { id } else { short(id) },
        "MemPerc": "--",
        "MemUsage": "-- / --",
        "Name": if name.len() > 1 { &name[1..] } else { "--" },
        "NetIO": "--",
        "PIDs": "--",
    });
    if !known {
        return out;
    }
    let (used, limit) = (memory(&answer["memory_stats"]), number(&answer["memory_stats"]["limit"]));
    let percent = |value: f64| json!(format!("{value:.2}%"));
    let size = |bytes: u64| human::size(i64::try_from(bytes).unwrap_or(i64::MAX));
    let binary = |bytes: u64| hoy_types::human_size_binary(float(bytes));
    let networks = answer["networks"].as_object();
    let network =
        |key: &str| sum(networks.into_iter().flatten().map(|(_, stats)| number(&stats[key])));
    let block = |letter: char| {
        let all = answer["blkio_stats"]["io_service_bytes_recursive"].as_array();
        let of = all.into_iter().flatten().filter(|one| {
            let operation = one["op"].as_str().unwrap_or_default();
            operation.chars().next().is_some_and(|first| first.eq_ignore_ascii_case(&letter))
        });
        sum(of.map(|one| number(&one["value"])))
    };
    out["CPUPerc"] = percent(cpu_percent(answer));
    out["MemUsage"] = json!(format!("{} / {}", binary(used), binary(limit)));
    out["MemPerc"] = percent(if limit == 0 { 0.0 } else { float(used) / float(limit) * 100.0 });
    out["NetIO"] = json!(format!("{} / {}", size(network("rx_bytes")), size(network("tx_bytes"))));
    out["BlockIO"] = json!(format!("{} / {}", size(block('r')), size(block('w'))));
    out["PIDs"] = json!(number(&answer["pids_stats"]["current"]).to_string());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_as_docker_computes_them() {
        let mut entry = Entry { container: "c".into(), ..Entry::default() };
        assert_eq!(row(&entry, false)["MemUsage"], "-- / --");
        heard(
            &mut entry,
            json!({
                "id": "0123456789abcdef", "name": "/web",
                "cpu_stats": {"cpu_usage": {"total_usage": 600}, "system_cpu_usage": 2000, "online_cpus": 4},
                "precpu_stats": {"cpu_usage": {"total_usage": 100}, "system_cpu_usage": 1000},
                "memory_stats": {"usage": 3 << 20, "limit": 8 << 20, "stats": {"inactive_file": 1 << 20}},
                "networks": {"eth0": {"rx_bytes": 1000, "tx_bytes": 2}, "eth1": {"rx_bytes": 500, "tx_bytes": 0}},
                "blkio_stats": {"io_service_bytes_recursive": [
                    {"op": "Read", "value": 10}, {"op": "write", "value": 2_000_000},
                    {"op": "Total", "value": 99}, {"op": "read", "value": 5}]},
                "pids_stats": {"current": 3},
            }),
        );
        let shown = row(&entry, false);
        let wanted = json!({
            "BlockIO": "15B / 2MB", "CPUPerc": "200.00%", "Container": "c", "ID": "0123456789ab",
            "MemPerc": "25.00%", "MemUsage": "2MiB / 8MiB", "Name": "web",
            "NetIO": "1.5kB / 2B", "PIDs": "3",
        });
        assert_eq!(shown, wanted);
        assert_eq!(row(&entry, true)["ID"], "0123456789abcdef");
        entry.error = Some("gone".into());
        assert_eq!(row(&entry, false)["PIDs"], "--");
    }

    #[test]
    fn v1_counts_the_whole_tree() {
        let stats =
            json!({"usage": 100, "stats": {"inactive_file": 90, "total_inactive_file": 10}});
        assert_eq!(memory(&stats), 90);
        assert_eq!(memory(&json!({"usage": 5, "stats": {"inactive_file": 9}})), 5);
    }
}
