//! `quota`: what a limit costs: writing in a directory that has one, beside one that has none, on
//! the same file system.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use hoy_volumes::Quotas;

use crate::options::Options;
use crate::place::Place;
use crate::stats::figures;

const LIMIT: u64 = 1 << 30;
const LARGE: usize = 256 << 20;
const FILES: usize = 5000;
const SMALL: usize = 4096;
const SYNCED: usize = 200;

const MAKE: &str = "make it, 1 GiB, ms";
const SHOW: &str = "show it (attach), ms";
const SEQUENTIAL: &str = "write 256 MiB and sync, MiB/s";
const AGAIN: &str = "write over them and sync, MiB/s";
const MANY: &str = "5,000 files of 4 KiB and sync, files/s";
const DELETE: &str = "delete them and sync, files/s";
const COMMITS: &str = "write 4 KiB and sync, 200 times, per s";
const ROWS: &[&str] = &[MAKE, SHOW, SEQUENTIAL, AGAIN, MANY, DELETE, COMMITS];

const OUTSIDE: &str = "without";
const PROJECT: &str = "project";
const IMAGE: &str = "file";

type Found = BTreeMap<(&'static str, &'static str), Vec<f64>>;

pub fn run(place: &Place, options: &Options) -> Result<()> {
    let found_out = Quotas::open(&place.work);
    let mut kinds = vec![(OUTSIDE, None)];
    if found_out.has_projects() {
        kinds.push((PROJECT, Some(&found_out)));
    }
    let images = Quotas::with_images(&place.work);
    kinds.push((IMAGE, Some(&images)));
    let mut found = Found::new();
    for round in 0..=options.rounds {
        for (kind, quotas) in &kinds {
            let taken = one(&place.work.join("limited"), *quotas).context(*kind)?;
            for (what, value) in taken.into_iter().filter(|_| round > 0) {
                found.entry((what, kind)).or_default().push(value);
            }
        }
    }
    let kinds: Vec<&'static str> = kinds.iter().map(|(kind, _)| *kind).collect();
    crate::say(&if options.json { json(&found) } else { text(&found, &kinds, options.rounds) });
    Ok(())
}

fn one(directory: &Path, quotas: Option<&Quotas>) -> Result<Vec<(&'static str, f64)>> {
    let mut out = Vec::new();
    let milliseconds = |started: Instant| started.elapsed().as_secs_f64() * 1000.0;
    let each_second = |number: usize, started: Instant| {
        f64::from(u32::try_from(number).unwrap_or(u32::MAX)) / started.elapsed().as_secs_f64()
    };
    let started = Instant::now();
    match quotas {
        Some(quotas) => quotas.limited(directory, LIMIT, |_| Ok(()))?,
        None => std::fs::create_dir(directory)?,
    }
    out.push((MAKE, milliseconds(started)));
    let started = Instant::now();
    if let Some(quotas) = quotas {
        quotas.attach(directory)?;
    }
    out.push((SHOW, milliseconds(started)));
    let sync = || -> Result<()> { Ok(rustix::fs::syncfs(File::open(directory)?)?) };
    // What was made before is not to be written in what is measured.
    sync()?;

    let block = vec![b'x'; 1 << 20];
    for what in [SEQUENTIAL, AGAIN] {
        let mut file =
            File::options().create(true).truncate(false).write(true).open(directory.join("l"))?;
        let started = Instant::now();
        for _ in 0..LARGE >> 20 {
            file.write_all(&block)?;
        }
        file.sync_all()?;
        out.push((what, each_second(LARGE >> 20, started)));
    }

    let started = Instant::now();
    for number in 0..FILES {
        let below = directory.join(format!("{:03}", number / 50));
        if number.is_multiple_of(50) {
            std::fs::create_dir(&below)?;
        }
        std::fs::write(below.join(number.to_string()), block.get(..SMALL).unwrap_or_default())?;
    }
    sync()?;
    out.push((MANY, each_second(FILES, started)));
    let started = Instant::now();
    for number in 0..FILES / 50 {
        std::fs::remove_dir_all(directory.join(format!("{number:03}")))?;
    }
    sync()?;
    out.push((DELETE, each_second(FILES, started)));

    let mut file = File::create(directory.join("commits"))?;
    let started = Instant::now();
    for _ in 0..SYNCED {
        file.write_all(block.get(..SMALL).unwrap_or_default())?;
        file.sync_data()?;
    }
    out.push((COMMITS, each_second(SYNCED, started)));
    drop(file);
    match quotas {
        Some(quotas) => quotas.remove(directory)?,
        None => std::fs::remove_dir_all(directory)?,
    }
    Ok(out)
}

fn median(found: &Found, what: &'static str, kind: &'static str) -> Option<f64> {
    found.get(&(what, kind)).map(|values| figures(values.iter().copied()).median)
}

fn text(found: &Found, kinds: &[&'static str], rounds: usize) -> String {
    let mut out = format!("{}; {rounds} rounds; medians\n\n{:<44}", crate::start::machine(), "");
    for kind in kinds {
        out.push_str(&format!("{kind:>20}"));
    }
    for what in ROWS {
        out.push_str(&format!("\n{what:<44}"));
        let without = median(found, what, OUTSIDE);
        for kind in kinds {
            let cell = match (median(found, what, kind), without) {
                (None, _) => "-".to_owned(),
                (Some(value), Some(without))
                    if *kind != OUTSIDE && *what != MAKE && *what != SHOW =>
                {
                    format!("{value:.0} ({:.2})", value / without)
                }
                (Some(value), _) if *what == MAKE || *what == SHOW => format!("{value:.1}"),
                (Some(value), _) => format!("{value:.0}"),
            };
            out.push_str(&format!("{cell:>20}"));
        }
    }
    out
}

fn json(found: &Found) -> String {
    let rows: Vec<serde_json::Value> = found
        .iter()
        .map(|((what, kind), values)| {
            let figures = figures(values.iter().copied());
            serde_json::json!({ "what": what, "kind": kind, "median": figures.median })
        })
        .collect();
    serde_json::json!({ "rows": rows }).to_string()
}
