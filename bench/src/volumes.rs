//! `volumes`: the first use of a volume that an image fills, the size of everything asked for, and
//! the removal of many things, for every engine, beside `cp -a`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
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

/// Files that the image brings into a volume, and bytes of each.
const FILES: usize = 10_000;
const BYTES: usize = 1024;
/// How much an engine is to hold when it is asked for sizes, and how long it may take to get it.
const CONTAINERS: usize = 500;
const IMAGES: usize = 200;
const VOLUMES: usize = 1000;
const FILLING: Duration = Duration::from_secs(40);
/// The end, whatever hangs.
const END: Duration = Duration::from_secs(540);

const COPY: &str = "cp -a";
const FIRST: &str = "run --rm with a new volume: 10,000 files of the image";
const AGAIN: &str = "the same with the volume as it is then";
const DF: &str = "system df";
const PRUNE: &str = "volume prune, one of all";

/// Milliseconds by measure and peer.
#[derive(Default)]
struct Found {
    samples: BTreeMap<(&'static str, &'static str), Vec<f64>>,
    notes: Vec<String>,
}

impl Found {
    fn add(&mut self, what: &'static str, peer: &'static str, sample: f64) {
        self.samples.entry((what, peer)).or_default().push(sample);
    }

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
    let full = full_image(&place.work, &image)?;
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
    for peer in &peers {
        peer.account.enter()?;
        let import = engine(peer)?.command(["import"]).arg(&full.tar).arg("full").output()?;
        anyhow::ensure!(import.status.success(), "{}: import the full image", peer.name);
    }
    first_use(place, &peers, &full, options.rounds, &mut found)?;
    for peer in &peers {
        many(place, peer, options.rounds, &mut found)
            .with_context(|| format!("{}: many objects", peer.name))?;
    }
    let names: Vec<&'static str> = peers.iter().map(|peer| peer.name).collect();
    crate::say(&if options.json { json(&found) } else { text(&found, &names, options.rounds) });
    Ok(())
}

fn engine(peer: &Peer) -> Result<&Engine> {
    peer.engine().context("an engine")
}

/// An image with many files, and the directory that they are in.
struct Full {
    files: PathBuf,
    tar: PathBuf,
}

fn full_image(work: &Path, image: &Image) -> Result<Full> {
    let root = work.join("full");
    crate::output(Command::new("cp").arg("-a").arg(&image.rootfs).arg(&root))?;
    let files = root.join("srv");
    for number in 0..FILES {
        // As trees are: some tens in a directory.
        let directory = files.join(format!("{:03}", number / 50));
        if number.is_multiple_of(50) {
            std::fs::create_dir_all(&directory)?;
        }
        std::fs::write(directory.join(number.to_string()), [b'x'; BYTES])?;
    }
    let tar = work.join("full.tar");
    crate::output(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg("."))?;
    Ok(Full { files, tar })
}

fn first_use(
    place: &Place,
    peers: &[Peer],
    full: &Full,
    rounds: usize,
    found: &mut Found,
) -> Result<()> {
    crate::note("bench: first use");
    let errors = place.work.join("errors");
    let wall = |command: Command| -> Result<f64> {
        Ok(clock(vec![command], Until::Exit, &errors)?.as_secs_f64() * 1000.0)
    };
    for round in 0..=rounds {
        for index in order(peers.len() + 1, round) {
            let Some(peer) = peers.get(index) else {
                let target = place.work.join("copy");
                let mut copy = Command::new("cp");
                copy.arg("-a").arg(&full.files).arg(&target);
                let copied = wall(copy)?;
                // What was written must be on the disk, as a volume's first contents are.
                let synced = wall({
                    let mut sync = Command::new("sync");
                    sync.arg("-f").arg(&target);
                    sync
                })?;
                std::fs::remove_dir_all(&target)?;
                if round > 0 {
                    found.add(FIRST, COPY, copied + synced);
                }
                continue;
            };
            peer.account.enter()?;
            let engine = engine(peer)?;
            for what in [FIRST, AGAIN] {
                let taken = wall(engine.run(&["--rm", "-v", "bench:/srv", "full", "true"]))?;
                if round > 0 {
                    found.add(what, peer.name, taken);
                }
            }
            crate::output(&mut engine.command(["volume", "rm", "bench"]))?;
        }
    }
    Ok(())
}

/// Fills an engine as far as it gets in its time, asks for sizes, and prunes.
fn many(place: &Place, peer: &Peer, rounds: usize, found: &mut Found) -> Result<()> {
    crate::note(&format!("bench: {} with many objects", peer.name));
    peer.account.enter()?;
    let engine = engine(peer)?;
    let started = Instant::now();
    let count = |wanted: usize, share: u32, each: &mut dyn FnMut(usize) -> Command| {
        let end = started.elapsed() + FILLING * share / 4;
        let mut done = 0;
        while done < wanted && started.elapsed() < end {
            crate::output(&mut each(done))?;
            done += 1;
        }
        Ok::<_, anyhow::Error>(done)
    };
    let containers = count(CONTAINERS, 2, &mut |number| {
        let (name, volume) = (format!("many{number}"), format!("v{number}:/v"));
        engine.command(["create", "--name", &name, "-v", &volume, "busybox", "true"])
    })?;
    let tar = place.work.join("small.tar");
    let images = count(IMAGES, 1, &mut |number| {
        let directory = place.work.join("small");
        let _ = std::fs::create_dir(&directory);
        let _ = std::fs::write(directory.join("file"), number.to_string().repeat(1000));
        let _ = crate::output(
            Command::new("tar").arg("-C").arg(&directory).arg("-cf").arg(&tar).arg("."),
        );
        let mut import = engine.command(["import"]);
        import.arg(&tar).arg(format!("small{number}"));
        import
    })?;
    let volumes = count(VOLUMES, 1, &mut |number| {
        engine.command(["volume".to_owned(), "create".to_owned(), format!("spare{number}")])
    })?;
    found.notes.push(format!(
        "{}: {containers} containers, {images} images, {} volumes in {:.0} s",
        peer.name,
        volumes + containers,
        started.elapsed().as_secs_f64()
    ));
    let errors = place.work.join("errors");
    for round in 0..=rounds {
        let taken = clock(vec![engine.command(["system", "df"])], Until::Exit, &errors)?;
        if round > 0 {
            found.add(DF, peer.name, taken.as_secs_f64() * 1000.0);
        }
    }
    // Older ones and Podman remove all that nobody uses without being asked.
    let all: &[&str] = if peer.name == "hoy" { &["-a"] } else { &[] };
    let prune = engine.command(["volume", "prune", "-f"].iter().chain(all));
    let taken = clock(vec![prune], Until::Exit, &errors)?;
    found.add(PRUNE, peer.name, taken.as_secs_f64() * 1000.0 / volumes.max(1) as f64);
    Ok(())
}

fn text(found: &Found, peers: &[&'static str], rounds: usize) -> String {
    let mut out = format!("{}; {rounds} rounds; medians in ms\n", crate::start::machine());
    for note in &found.notes {
        out.push_str(&format!("  {note}\n"));
    }
    out.push_str(&format!("\n{:<56}", ""));
    let columns: Vec<&'static str> = peers.iter().copied().chain([COPY]).collect();
    for peer in &columns {
        out.push_str(&format!("{peer:>20}"));
    }
    for what in [FIRST, AGAIN, DF, PRUNE] {
        out.push_str(&format!("\n{what:<56}"));
        let hoy = found.of(what, "hoy").map(|figures| figures.median);
        for peer in &columns {
            let cell = match (found.of(what, peer).map(|figures| figures.median), hoy) {
                (None, _) => "-".to_owned(),
                (Some(median), Some(hoy)) if *peer != "hoy" => {
                    format!("{median:.2} ({:.2})", median / hoy)
                }
                (Some(median), _) => format!("{median:.2}"),
            };
            out.push_str(&format!("{cell:>20}"));
        }
    }
    let best = |what, peer| found.of(what, peer).map(|figures| figures.least);
    let copy = best(FIRST, "hoy").zip(best(FIRST, COPY)).map(|(hoy, copy)| hoy / copy);
    out.push_str("\n\ngoal (of the least)                                     wanted     found\n");
    for (what, wanted, value) in [
        ("filling a volume / cp -a and sync", "<= 1.30", copy),
        ("system df, ms", "<= 50", best(DF, "hoy")),
    ] {
        let value = value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
        out.push_str(&format!("{what:<56}{wanted:>6}{value:>10}\n"));
    }
    out.trim_end().to_owned()
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
