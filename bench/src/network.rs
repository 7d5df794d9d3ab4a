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
/// What has not begun then is left out.
const BUDGET: Duration = Duration::from_secs(420);
/// The end, whatever hangs: the namespaces go with the process.
const END: Duration = Duration::from_secs(480);

/// What has been found so far.
pub struct Bench {
    started: Instant,
    rounds: usize,
    errors: PathBuf,
    notes: Vec<String>,
    rows: Vec<Row>,
    /// What failed once is not tried again.
    out: BTreeSet<(&'static str, &'static str)>,
}

pub fn run(place: &Place, options: &Options) -> Result<()> {
    std::thread::spawn(|| {
        std::thread::sleep(END);
        crate::note(&format!("bench: not at its end after {} seconds", END.as_secs()));
        std::process::exit(1);
    });
    let mut bench = Bench {
        started: Instant::now(),
        rounds: options.rounds,
        errors: place.work.join("errors"),
        notes: Vec::new(),
        rows: Vec::new(),
        out: BTreeSet::new(),
    };
    let stands = bench.stands(place, options)?;
    // What daemons do after they have begun is over.
    std::thread::sleep(Duration::from_secs(1));
    bench.traffic(&stands)?;
    bench.names(&stands)?;
    bench.starts(&stands)?;
    bench.ports(&stands)?;
    let peers = stands.iter().map(|stand| stand.name).collect();
    let machine = crate::start::machine();
    let goals = goals::all(&bench.rows);
    let Bench { rounds, notes, rows, .. } = bench;
    let table = Table { machine, rounds, peers, notes, rows, goals };
    if options.json {
        crate::say(&serde_json::to_string_pretty(&table::json(&table))?);
    } else {
        crate::say(&table::text(&table));
    }
    Ok(())
}

impl Bench {
    /// Everyone that is there; hoy must be.
    fn stands(&mut self, place: &Place, options: &Options) -> Result<Vec<Stand>> {
        crate::note("bench: engines");
        let image = Image::make(&place.work)?;
        let hoy = image.import(hoy::start(place)?)?;
        let mut stands = vec![Stand::of(&hoy)?, Stand::plain(place)?, Stand::bridged(place)?];
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
                Err(error) => self.notes.push(format!("{name}: skipped: {error:#}")),
            }
        }
        Ok(stands)
    }

    fn late(&mut self, what: &str) -> bool {
        crate::note(&format!("bench: {what}"));
        let late = self.started.elapsed() > BUDGET;
        if late {
            self.notes.push(format!("{what}: skipped: out of time"));
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
                self.notes.push(format!("FAILED {name}: {what}: {error:#}"));
                self.out.insert((name, what));
                None
            }
        }
    }

    /// Forth and back in turn; the first round warms up.
    fn rounds(
        &mut self,
        stands: &[Stand],
        mut each: impl FnMut(&mut Self, &Stand, bool) -> Result<()>,
    ) -> Result<()> {
        for round in 0..=self.rounds {
            for index in order(stands.len(), round) {
                if self.started.elapsed() > BUDGET {
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
        self.rounds(stands, |bench, stand, counts| {
            for (index, path) in stand.paths.iter().enumerate() {
                let measured = bench.part(stand.name, PATHS[index], || {
                    within(&path.from, || {
                        let stream = traffic::throughput(path.to, STREAM)?;
                        let connections = traffic::connections(path.to, SAMPLE)?;
                        let times = traffic::requests(path.to, SAMPLE)?;
                        Ok([stream, connections, part(&times, 50), part(&times, 99)])
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
        self.rows.extend(rows.into_iter().flatten());
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
        let mut lost: std::collections::BTreeMap<&str, (usize, usize)> = Default::default();
        self.rounds(stands, |bench, stand, counts| {
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
            Ok(())
        })?;
        for (name, (lost, answered)) in lost.into_iter().filter(|(_, (lost, _))| *lost > 0) {
            self.notes.push(format!("{name}: {lost} questions lost beside {answered} answered"));
        }
        self.rows.extend(rows);
        Ok(())
    }
}
