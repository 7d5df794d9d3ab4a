//! What containers use: one sampler for all who look.
//!
//! It works only while somebody asks. Requests that come together are one look at /proc/stat and
//! one at each container; a container that was looked at a moment ago is not looked at again. The
//! last look of each is kept for a minute: it is what the next first answer is compared with, which
//! therefore comes at once. Without one, two looks are taken a moment apart.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hoy_cgroup::{BlockEntry, CgroupPlan, CpuUsage, Meter, Usage, system_cpu};
use hoy_types::Timestamp;
use hoy_wire as wire;
use tokio::runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior};

use crate::engine::{Engine, Inner, now};
use crate::error::{Error, Result};
use crate::plan;
use crate::record::{NetworkMode, Record};
use crate::registry::Handle;

/// Requests that may wait for a look, and that are served with one.
const QUEUE: usize = 1024;
const BATCH: usize = 512;
/// A look is as good as a new one for so long.
const FRESH: Duration = Duration::from_millis(100);
/// And good to be compared with for so long.
const KEPT: Duration = Duration::from_secs(60);
/// Between the two looks of a first answer: the machine's CPU time is counted in hundredths.
const WINDOW: Duration = Duration::from_millis(200);
/// Between two answers of a stream.
const PERIOD: Duration = Duration::from_secs(1);
/// A look takes no time: the kernel tells from memory.
const DEADLINE: Duration = Duration::from_secs(10);

/// One look at one container.
#[derive(Debug)]
struct Look {
    at: Timestamp,
    taken: Instant,
    usage: Usage,
    system: u64,
    cpus: u32,
    networks: BTreeMap<String, wire::NetworkStats>,
}

/// What to look at.
#[derive(Clone)]
struct Subject {
    id: String,
    /// A container that was started again begins at nothing.
    started: Timestamp,
    cgroup: CgroupPlan,
    pid: i32,
    /// Its interfaces, as they are called in it.
    interfaces: Vec<String>,
}

/// A look, and the one before that it can be compared with.
type Pair = (Arc<Look>, Option<Arc<Look>>);

struct Ask {
    subject: Subject,
    done: oneshot::Sender<Option<Pair>>,
}

struct Known {
    started: Timestamp,
    last: Arc<Look>,
    before: Option<Arc<Look>>,
}

/// See the module.
pub(crate) struct Sampler(mpsc::Sender<Ask>);

impl Sampler {
    pub fn start(runtime: &runtime::Handle) -> Self {
        let (sender, mut queue) = mpsc::channel::<Ask>(QUEUE);
        runtime.spawn(async move {
            let mut known = HashMap::new();
            while let Some(first) = queue.recv().await {
                let mut asks = vec![first];
                while asks.len() < BATCH
                    && let Ok(ask) = queue.try_recv()
                {
                    asks.push(ask);
                }
                let looked = tokio::task::spawn_blocking(move || {
                    look_at_all(&mut known, asks);
                    known
                });
                known = looked.await.unwrap_or_default();
            }
        });
        Self(sender)
    }

    /// `None` where the container has ended meanwhile.
    async fn look(&self, subject: Subject) -> Result<Option<Pair>> {
        let late = || Error::system("the container's statistics are not read in time");
        let (done, answer) = oneshot::channel();
        let look = async {
            self.0.send(Ask { subject, done }).await.ok()?;
            answer.await.ok()
        };
        tokio::time::timeout(DEADLINE, look).await.ok().flatten().ok_or_else(late)
    }
}

/// Blocks.
fn look_at_all(known: &mut HashMap<String, Known>, asks: Vec<Ask>) {
    known.retain(|_, known| known.last.taken.elapsed() < KEPT);
    let meter = match Meter::new() {
        Ok(meter) => meter,
        Err(error) => {
            tracing::error!(%error, "statistics");
            return;
        }
    };
    for Ask { subject, done } in asks {
        let pair = look_at(known, &meter, &subject);
        let _ = done.send(pair);
    }
}

fn look_at(known: &mut HashMap<String, Known>, meter: &Meter, subject: &Subject) -> Option<Pair> {
    let before = known.get(&subject.id).filter(|known| known.started == subject.started);
    if let Some(known) = before
        && known.last.taken.elapsed() < FRESH
    {
        return Some((Arc::clone(&known.last), known.before.clone()));
    }
    // With each one anew: both times must be of the same moment.
    let (system, cpus) = system_cpu(&std::fs::read_to_string("/proc/stat").unwrap_or_default());
    let usage = match meter.read(&subject.cgroup) {
        Ok(usage) => usage?,
        Err(error) => {
            tracing::warn!(container = subject.id, %error, "statistics");
            return None;
        }
    };
    let (at, taken) = (now(), Instant::now());
    let networks = networks(subject);
    let last = Arc::new(Look { at, taken, usage, system, cpus, networks });
    let before = before.map(|known| Arc::clone(&known.last));
    let pair = (Arc::clone(&last), before.clone());
    known.insert(subject.id.clone(), Known { started: subject.started, last, before });
    Some(pair)
}

/// The kernel shows the network of a process to whoever may see the process: nobody has to enter
/// it.
fn networks(subject: &Subject) -> BTreeMap<String, wire::NetworkStats> {
    if subject.interfaces.is_empty() {
        return BTreeMap::new();
    }
    let text = std::fs::read_to_string(format!("/proc/{}/net/dev", subject.pid));
    interfaces(&text.unwrap_or_default(), &subject.interfaces)
}

fn interfaces(text: &str, wanted: &[String]) -> BTreeMap<String, wire::NetworkStats> {
    let line = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let name = name.trim();
        if !wanted.iter().any(|wanted| wanted == name) {
            return None;
        }
        let numbers: Vec<u64> =
            numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let at = |index: usize| numbers.get(index).copied().unwrap_or(0);
        let stats = wire::NetworkStats {
            rx_bytes: at(0),
            rx_packets: at(1),
            rx_errors: at(2),
            rx_dropped: at(3),
            tx_bytes: at(8),
            tx_packets: at(9),
            tx_errors: at(10),
            tx_dropped: at(11),
        };
        Some((name.to_owned(), stats))
    };
    text.lines().filter_map(line).collect()
}

/// Answers about one container.
pub struct StatsStream {
    inner: Arc<Inner>,
    handle: Handle,
    stream: bool,
    one_shot: bool,
    before: Option<Arc<Look>>,
    ticks: Option<Interval>,
}

impl Engine {
    /// What a container uses: once, or every second until it is removed.
    pub fn stats(&self, id: &str, stream: bool, one_shot: bool) -> Result<StatsStream> {
        if stream && one_shot {
            return Err(Error::invalid("cannot have stream=true and one-shot=true"));
        }
        let (inner, handle) = (Arc::clone(&self.inner), self.find(id)?);
        Ok(StatsStream { inner, handle, stream, one_shot, before: None, ticks: None })
    }
}

impl StatsStream {
    /// The next answer; `None` once the container is gone.
    pub async fn next(&mut self) -> Result<Option<wire::StatsResponse>> {
        match &mut self.ticks {
            None => {
                let mut ticks = tokio::time::interval(PERIOD);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                // The first one is now.
                ticks.tick().await;
                self.ticks = Some(ticks);
            }
            Some(_) if !self.stream => return Ok(None),
            Some(ticks) => {
                let mut view = self.handle.view.clone();
                tokio::select! {
                    _ = view.wait_for(|view| view.removed) => return Ok(None),
                    _ = ticks.tick() => {}
                }
            }
        }
        let record = self.handle.record();
        let pair = match record.state.phase.is_alive() {
            true => self.look(&record).await?,
            false => None,
        };
        let name = format!("/{}", record.name);
        let mut answer = wire::StatsResponse::nothing(name, record.id.to_string());
        match pair {
            Some((look, before)) => {
                fill(&mut answer, &look, before.as_deref(), self.inner.memory);
                self.before = Some(look);
            }
            None => self.before = None,
        }
        Ok(Some(answer))
    }

    async fn look(&self, record: &Record) -> Result<Option<Pair>> {
        let subject = self.inner.subject(record);
        let Some((look, before)) = self.inner.sampler.look(subject.clone()).await? else {
            return Ok(None);
        };
        if self.one_shot {
            return Ok(Some((look, None)));
        }
        if let Some(before) = self.before.clone().or(before) {
            return Ok(Some((look, Some(before))));
        }
        tokio::time::sleep(WINDOW).await;
        let second = self.inner.sampler.look(subject).await?;
        Ok(second.map(|(second, _)| (second, Some(look))))
    }
}

impl Inner {
    fn subject(&self, record: &Record) -> Subject {
        Subject {
            id: record.key().to_owned(),
            started: record.state.started_at,
            cgroup: plan::cgroup(record, &self.settings),
            pid: record.state.pid,
            interfaces: self.interfaces(record),
        }
    }

    /// One that has another's network shows that.
    fn interfaces(&self, record: &Record) -> Vec<String> {
        if let NetworkMode::Container(other) = &record.network.mode {
            return match self.registry.find(other.as_str()) {
                Ok(other) => {
                    let other = other.record();
                    other.network.endpoints.iter().map(|one| one.inside.clone()).collect()
                }
                Err(_) => Vec::new(),
            };
        }
        record.network.endpoints.iter().map(|one| one.inside.clone()).collect()
    }
}

fn fill(answer: &mut wire::StatsResponse, look: &Look, before: Option<&Look>, memory: u64) {
    let usage = &look.usage;
    answer.read = look.at;
    answer.cpu_stats = cpu(&usage.cpu, look);
    if let Some(before) = before {
        answer.preread = before.at;
        answer.precpu_stats = cpu(&before.usage.cpu, before);
    }
    answer.pids_stats = wire::PidsStats { current: usage.pids, limit: usage.pids_limit };
    let limit = usage.memory.limit;
    answer.memory_stats = wire::MemoryStats {
        usage: usage.memory.usage,
        max_usage: usage.memory.most,
        stats: usage.memory.details.clone(),
        failcnt: usage.memory.failures,
        // No limit is the machine's.
        limit: if memory > 0 { limit.min(memory) } else { limit },
    };
    let block = &usage.block;
    answer.blkio_stats = wire::BlkioStats {
        io_service_bytes_recursive: entries(block.bytes.as_deref()),
        io_serviced_recursive: entries(block.operations.as_deref()),
        io_queue_recursive: entries(block.queued.as_deref()),
        io_service_time_recursive: entries(block.service_time.as_deref()),
        io_wait_time_recursive: entries(block.wait_time.as_deref()),
        io_merged_recursive: entries(block.merged.as_deref()),
        io_time_recursive: entries(block.time.as_deref()),
        sectors_recursive: entries(block.sectors.as_deref()),
    };
    answer.networks.clone_from(&look.networks);
}

fn cpu(usage: &CpuUsage, look: &Look) -> wire::CpuStats {
    wire::CpuStats {
        cpu_usage: wire::CpuUsageStats {
            total_usage: usage.total,
            percpu_usage: usage.each.clone(),
            usage_in_kernelmode: usage.kernel,
            usage_in_usermode: usage.user,
        },
        system_cpu_usage: look.system,
        online_cpus: look.cpus,
        throttling_data: wire::ThrottlingData {
            periods: usage.periods,
            throttled_periods: usage.throttled_periods,
            throttled_time: usage.throttled,
        },
    }
}

fn entries(list: Option<&[BlockEntry]>) -> Option<Vec<wire::BlkioStatEntry>> {
    let shown = |entry: &BlockEntry| wire::BlkioStatEntry {
        major: entry.major,
        minor: entry.minor,
        op: entry.operation.clone(),
        value: entry.value,
    };
    list.map(|list| list.iter().map(shown).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_interfaces_only() {
        let text = "Inter-|   Receive   |  Transmit\n face |bytes    packets\n    \
                    lo: 9 9 9 9 0 0 0 0 9 9 9 9 0 0 0 0\n  \
                    eth0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n";
        let found = interfaces(text, &["eth0".to_owned(), "eth1".to_owned()]);
        assert_eq!(found.len(), 1);
        let eth0 = &found["eth0"];
        assert_eq!((eth0.rx_bytes, eth0.rx_dropped, eth0.tx_bytes, eth0.tx_dropped), (1, 4, 5, 8));
    }
}
