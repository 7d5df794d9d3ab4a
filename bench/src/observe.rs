//! `observe`: what it takes to look at many running containers, for every engine: statistics,
//! lists and documents.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::image::Image;
use crate::measure::{Until, clock};
use crate::options::Options;
use crate::peer::{Engine, Peer};
use crate::place::Place;
use crate::stats::{Figures, figures, order};
use crate::{docker, hoy, podman};

/// How many an engine is to run, and how long it may take to get there.
const CONTAINERS: usize = 200;
const FILLING: Duration = Duration::from_secs(120);
/// Which start at a time.
const AT_A_TIME: usize = 4;
/// The end, whatever hangs.
const END: Duration = Duration::from_secs(540);

const STATS: &str = "stats --no-stream, all";
const PS: &str = "ps";
const ONE: &str = "inspect, one";
const ALL: &str = "inspect, all";
const ROWS: &[&str] = &[STATS, PS, ONE, ALL];

/// Milliseconds by measure and peer.
#[derive(Default)]
struct Found {
    samples: BTreeMap<(&'static str, &'static str), Vec<f64>>,
    notes: Vec<String>,
}

impl Found {
    fn of(&self, what: &'static str, peer: &'static str) -> Option<Figures> {
        self.samples.get(&(what, peer)).map(|samples| figures(samples.iter().copied()))
    }
}

pub fn run(place: &Place, options: &Options) -> Result<()> {
    std::thread::spawn(|| {
        std::thread::sleep(END);
        crate::note(&format!("bench: not at its end after {} seconds", END.as_secs()));
        std::process::exit(1);
    });
    let mut found = Found::default();
    let image = Image::make(&place.work)?;
    let mut peers = vec![image.import(hoy::start(place)?)?];
    for (name, peer) in [
        ("docker", options.wants("docker").then(|| docker::start(place))),
        (
            "podman-crun",
            options.wants("podman-crun").then(|| podman::prepare(place, "podman-crun", "crun")),
        ),
    ] {
        match peer.map(|peer| peer.and_then(|peer| image.import(peer))) {
            Some(Ok(peer)) => peers.push(peer),
            Some(Err(error)) => found.notes.push(format!("{name}: skipped: {error:#}")),
            None => {}
        }
    }
    let mut names = Vec::new();
    for peer in &peers {
        names.push(fill(peer, &mut found)?);
    }
    let errors = place.work.join("errors");
    for what in ROWS {
        crate::note(&format!("bench: {what}"));
        for round in 0..=options.rounds {
            for index in order(peers.len(), round) {
                let (peer, names) = (&peers[index], &names[index]);
                peer.account.enter()?;
                let taken = clock(vec![command(engine(peer)?, what, names)], Until::Exit, &errors);
                match taken {
                    // The first round warms up.
                    Ok(_) if round == 0 => {}
                    Ok(taken) => found
                        .samples
                        .entry((what, peer.name))
                        .or_default()
                        .push(taken.as_secs_f64() * 1000.0),
                    Err(error) => {
                        found.notes.push(format!("FAILED {}: {what}: {error:#}", peer.name));
                    }
                }
            }
        }
    }
    let peers: Vec<&'static str> = peers.iter().map(|peer| peer.name).collect();
    crate::say(&if options.json { json(&found) } else { text(&found, &peers, options.rounds) });
    Ok(())
}

fn engine(peer: &Peer) -> Result<&Engine> {
    peer.engine().context("an engine")
}

fn command(engine: &Engine, what: &str, names: &[String]) -> Command {
    let first = names.first().map_or("none", String::as_str);
    match what {
        STATS => engine.command(["stats", "--no-stream"]),
        PS => engine.command(["ps"]),
        ONE => engine.command(["inspect", first]),
        _ => engine.command(["inspect"].into_iter().chain(names.iter().map(String::as_str))),
    }
}

/// As many as it starts in its time.
fn fill(peer: &Peer, found: &mut Found) -> Result<Vec<String>> {
    crate::note(&format!("bench: {CONTAINERS} containers of {}", peer.name));
    peer.account.enter()?;
    let engine = engine(peer)?;
    let started = Instant::now();
    let mut names = Vec::new();
    while names.len() < CONTAINERS && started.elapsed() < FILLING {
        let mut children = Vec::new();
        for _ in 0..AT_A_TIME.min(CONTAINERS - names.len()) {
            let name = format!("many{}", names.len());
            let mut run = engine.run(&["-d", "--name", &name, "busybox", "sleep", "100000"]);
            run.stdout(std::process::Stdio::null());
            children.push(run.spawn().with_context(|| format!("{run:?}"))?);
            names.push(name);
        }
        for mut child in children {
            anyhow::ensure!(child.wait()?.success(), "{}: a container did not start", peer.name);
        }
    }
    found.notes.push(format!(
        "{}: {} containers in {:.0} s",
        peer.name,
        names.len(),
        started.elapsed().as_secs_f64()
    ));
    Ok(names)
}

fn text(found: &Found, peers: &[&'static str], rounds: usize) -> String {
    let mut out = format!("{}; {rounds} rounds; medians in ms\n", crate::start::machine());
    for note in &found.notes {
        out.push_str(&format!("  {note}\n"));
    }
    out.push_str(&format!("\n{:<32}", ""));
    for peer in peers {
        out.push_str(&format!("{peer:>20}"));
    }
    for what in ROWS {
        out.push_str(&format!("\n{what:<32}"));
        let hoy = found.of(what, "hoy").map(|figures| figures.median);
        for peer in peers {
            let cell = match (found.of(what, peer).map(|figures| figures.median), hoy) {
                (None, _) => "-".to_owned(),
                (Some(median), Some(hoy)) if *peer != "hoy" => {
                    format!("{median:.1} ({:.1})", median / hoy)
                }
                (Some(median), _) => format!("{median:.1}"),
            };
            out.push_str(&format!("{cell:>20}"));
        }
    }
    let best = found.of(STATS, "hoy").map(|figures| figures.least);
    let best = best.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
    out.push_str("\n\ngoal (of the least)               wanted     found\n");
    out.push_str(&format!("{:<32}{:>8}{best:>10}", "stats --no-stream, all, ms", "<= 500"));
    out
}

fn json(found: &Found) -> String {
    let rows: Vec<serde_json::Value> = found
        .samples
        .iter()
        .map(|((what, peer), samples)| {
            let figures = figures(samples.iter().copied());
            serde_json::json!({
                "what": what, "peer": peer,
                "median_ms": figures.median, "least_ms": figures.least,
            })
        })
        .collect();
    serde_json::json!({ "notes": found.notes, "rows": rows }).to_string()
}
