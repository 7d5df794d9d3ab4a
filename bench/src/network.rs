//! `network`: what packets, connections, names, ports and starts cost on each engine's networks,
//! interleaved, beside a plain pair of the kernel's interfaces. Bounded in time as a whole.

mod dns;
mod goals;
mod grow;
mod stand;
mod table;
mod traffic;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::image::Image;
use crate::options::Options;
use crate::place::Place;
use crate::stats::order;
use crate::{docker, hoy, podman};
use dns::Asked;
use stand::{PATHS, Stand};
use table::{Row, Table, VETH};
use traffic::{part, within};

/// One sample of throughput, and one of anything else.
const STREAM: Duration = Duration::from_millis(600);
const SAMPLE: Duration = Duration::from_millis(400);
/// When each part is over, whatever is left of it: rounds and containers are left out, not parts.
const TRAFFIC: Duration = Duration::from_secs(190);
const NAMES: Duration = Duration::from_secs(220);
const STARTS: Duration = Duration::from_secs(310);
const BUDGET: Duration = Duration::from_secs(420);
/// The end, whatever hangs: what there is is told, and the namespaces go with the process.
const END: Duration = Duration::from_secs(480);

/// What has been found so far.
pub struct Bench {
    started: Instant,
    /// When the part that is measured is over.
    until: Duration,
    rounds: usize,
    errors: PathBuf,
    found: Arc<Mutex<Found>>,
    /// What failed once is not tried again.
    out: BTreeSet<(&'static str, &'static str)>,
}

/// What is told at the end, or when there is no more time.
#[derive(Clone, Default)]
struct Found {
    peers: Vec<&'static str>,
    notes: Vec<String>,
    rows: Vec<Row>,
}

impl Found {
    fn tell(self, options: &Options) -> Result<()> {
        let Self { peers, notes, rows } = self;
        let (machine, rounds) = (crate::start::machine(), options.rounds);
        let goals = goals::all(&rows);
        let table = Table { machine, rounds, peers, notes, rows, goals };
        if options.json {
            crate::say(&serde_json::to_string_pretty(&table::json(&table))?);
        } else {
            crate::say(&table::text(&table));
        }
        Ok(())
    }
}

fn lock(found: &Mutex<Found>) -> MutexGuard<'_, Found> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn run(place: &Place, options: &Options) -> Result<()> {
    let found = Arc::new(Mutex::new(Found::default()));
    let (late, told) = (Arc::clone(&found), options.clone());
    std::thread::spawn(move || {
        std::thread::sleep(END);
        let mut found = lock(&late).clone();
        found.notes.push(format!("NOT AT ITS END after {} seconds", END.as_secs()));
        let _ = found.tell(&told);
        std::process::exit(1);
    });
    let mut bench = Bench {
        started: Instant::now(),
        until: BUDGET,
        rounds: options.rounds,
        errors: place.work.join("errors"),
        found,
        out: BTreeSet::new(),
    };
    let stands = bench.stands(place, options)?;
    lock(&bench.found).peers = stands.iter().map(|stand| stand.name).collect();
    // What daemons do after they have begun is over.
    std::thread::sleep(Duration::from_secs(1));
    type Part = fn(&mut Bench, &[Stand]) -> Result<()>;
    let parts: [(&str, Duration, Part); 4] = [
        ("traffic", TRAFFIC, Bench::traffic),
        ("names", NAMES, Bench::names),
        ("starts", STARTS, Bench::starts),
        ("ports", BUDGET, Bench::ports),
    ];
    for (_, until, part) in parts.iter().filter(|part| options.wants_part(part.0)) {
        bench.until = *until;
        part(&mut bench, &stands)?;
    }
    let found = lock(&bench.found).clone();
    found.tell(options)
}

impl Bench {
    fn tell(&self, note: impl Into<String>) {
        lock(&self.found).notes.push(note.into());
    }

    fn rows(&self, rows: impl IntoIterator<Item = Row>) {
        lock(&self.found).rows.extend(rows);
    }

    fn is_over(&self) -> bool {
        self.started.elapsed() > self.until
    }

    /// Everyone that is there; hoy must be.
    fn stands(&mut self, place: &Place, options: &Options) -> Result<Vec<Stand>> {
        crate::note("bench: engines");
        let image = Image::make(&place.work)?;
        let hoy = image.import(hoy::start(place)?)?;
        let mut stands = vec![
            Stand::of(&hoy)?,
            Stand::plain(place)?,
            Stand::bridged(place)?,
            Stand::translated(place)?,
        ];
        let wanted = |name: &str| options.wants(name);
        let mut others = Vec::new();
        if wanted("docker") {
            others.push(("docker", docker::start(place)));
        }
        if wanted("podman-crun") {
            others.push(("podman-crun", podman::prepare(place, "podman-crun", "crun")));
        }
        for (name, peer) in others {
            match peer.and_then(|peer| image.import(peer)).and_then(|peer| Stand::of(&peer)) {
                Ok(stand) => stands.push(stand),
                Err(error) => self.tell(format!("{name}: skipped: {error:#}")),
            }
        }
        Ok(stands)
    }

    fn late(&mut self, what: &str) -> bool {
        crate::note(&format!("bench: {what}"));
        let late = self.is_over();
        if late {
            self.tell(format!("{what}: skipped: out of time"));
        }
        late
    }

    /// Runs one measure of one stand; a failure is told and ends its part in it.
    fn part<T>(
        &mut self,
        name: &'static str,
        what: &'static str,
        measure: impl FnOnce() -> Result<T>,
    ) -> Option<T> {
        if self.out.contains(&(name, what)) {
            return None;
        }
        match measure() {
            Ok(found) => Some(found),
            Err(error) => {
                self.tell(format!("FAILED {name}: {what}: {error:#}"));
                self.out.insert((name, what));
                None
            }
        }
    }

    /// Forth and back in turn; the first round warms up.
    fn rounds(
        &mut self,
        what: &str,
        stands: &[Stand],
        mut each: impl FnMut(&mut Self, &Stand, bool) -> Result<()>,
    ) -> Result<()> {
        for round in 0..=self.rounds {
            for index in order(stands.len(), round) {
                if self.is_over() {
                    let whole = round.saturating_sub(1);
                    self.tell(format!("{what}: {whole} rounds, not {}: no time", self.rounds));
                    return Ok(());
                }
                stands[index].account.enter()?;
                each(self, &stands[index], round > 0)?;
            }
        }
        Ok(())
    }

    fn traffic(&mut self, stands: &[Stand]) -> Result<()> {
        if self.late("traffic") {
            return Ok(());
        }
        let titles = [
            ("Gbit/s of a stream", true),
            (goals::PROCESSOR, false),
            ("connections/s", true),
            ("a request's median, µs", false),
            ("a request's p99, µs", false),
        ];
        let mut rows: Vec<Vec<Row>> = titles
            .iter()
            .map(|(title, rate)| {
                PATHS.iter().map(|path| Row::new(format!("{path}: {title}"), *rate)).collect()
            })
            .collect();
        self.rounds("traffic", stands, |bench, stand, counts| {
            for (index, path) in stand.paths.iter().enumerate() {
                let measured = bench.part(stand.name, PATHS[index], || {
                    within(&path.from, || {
                        let (stream, processor) = traffic::throughput(path.to, STREAM)?;
                        let connections = traffic::connections(path.to, SAMPLE)?;
                        let times = traffic::requests(path.to, SAMPLE)?;
                        let (median, p99) = (part(&times, 50), part(&times, 99));
                        Ok([stream, processor, connections, median, p99])
                    })
                });
                let Some(found) = measured.filter(|_| counts) else { continue };
                for (rows, value) in rows.iter_mut().zip(found) {
                    // The plain pair is beside every path.
                    let all = stand.name == VETH;
                    let beside = rows.iter_mut().enumerate().filter(|(at, _)| all || *at == index);
                    beside.for_each(|(_, row)| row.add(stand.name, value));
                }
            }
            Ok(())
        })?;
        self.rows(rows.into_iter().flatten());
        Ok(())
    }

    fn names(&mut self, stands: &[Stand]) -> Result<()> {
        const WHAT: &str = "names";
        if self.late(WHAT) {
            return Ok(());
        }
        let mut rows = [
            Row::new(goals::NAMES, true),
            Row::new("names: p99 at that rate, µs", false),
            Row::new("names: answers/s, one by one", true),
            Row::new("names: p99 one by one, µs", false),
        ];
        let mut lost: std::collections::BTreeMap<&str, (usize, usize, dns::Dropped)> =
            Default::default();
        self.rounds(WHAT, stands, |bench, stand, counts| {
            let Some((_, resolver)) = &stand.engine else { return Ok(()) };
            let measured = bench.part(stand.name, WHAT, || {
                within(&resolver.from, || {
                    let many = dns::many(resolver.server, "web", SAMPLE)?;
                    let each = dns::each(resolver.server, "web", SAMPLE)?;
                    Ok([many, each])
                })
            });
            let Some([many, each]) = measured.filter(|_| counts) else { return Ok(()) };
            let found = |asked: &Asked| [asked.rate, part(&asked.times, 99)];
            for (row, value) in rows.iter_mut().zip([found(&many), found(&each)].concat()) {
                row.add(stand.name, value);
            }
            let lost = lost.entry(stand.name).or_default();
            lost.0 += many.lost + each.lost;
            lost.1 += many.times.len() + each.times.len();
            lost.2.add(many.dropped);
            lost.2.add(each.dropped);
            Ok(())
        })?;
        for (name, (lost, answered, dropped)) in lost.into_iter().filter(|(_, all)| all.0 > 0) {
            self.tell(format!(
                "{name}: {lost} questions lost beside {answered} answered; meanwhile the kernel \
                 had no room for {} packets in the processors' queues and {} in sockets",
                dropped.queues, dropped.buffers,
            ));
        }
        self.rows(rows);
        Ok(())
    }
}
