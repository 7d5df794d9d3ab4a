//! `limits`: what each limit and each part of the sandbox costs a start of hoy's.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::hoy;
use crate::image::Image;
use crate::measure::{Until, clock};
use crate::options::Options;
use crate::place::Place;
use crate::stats::{Figures, figures, order};

/// What is asked for, and how. The first row is what the others are compared with.
const ROWS: &[(&str, &[&str])] = &[
    ("nothing (the default profile, no limit)", &[]),
    ("seccomp=unconfined", &["--security-opt", "seccomp=unconfined"]),
    ("no-new-privileges", &["--security-opt", "no-new-privileges"]),
    ("systempaths=unconfined (no masks)", &["--security-opt", "systempaths=unconfined"]),
    ("cap-drop ALL", &["--cap-drop", "ALL"]),
    ("memory (with its swap)", &["--memory", "64m"]),
    (
        "memory, reservation, swap",
        &["-m", "64m", "--memory-swap", "64m", "--memory-reservation=32m"],
    ),
    ("cpus", &["--cpus", "1"]),
    ("cpu-shares", &["--cpu-shares", "512"]),
    ("cpuset-cpus", &["--cpuset-cpus", "0"]),
    ("pids-limit", &["--pids-limit", "100"]),
    ("device-write-bps", &["--device-write-bps", "/dev/loop0:1mb"]),
    (
        "four limits of a device",
        &[
            "--device-write-bps=/dev/loop0:1mb",
            "--device-read-bps=/dev/loop0:1mb",
            "--device-write-iops=/dev/loop0:10",
            "--device-read-iops=/dev/loop0:10",
        ],
    ),
    ("device", &["--device", "/dev/loop0"]),
    (
        "four ulimits",
        &["--ulimit=nofile=99", "--ulimit=nproc=99", "--ulimit=core=0", "--ulimit=stack=8388608"],
    ),
    ("read-only root", &["--read-only"]),
    (
        "everything",
        &[
            "-m",
            "64m",
            "--memory-reservation=32m",
            "--cpus=1",
            "--cpu-shares=512",
            "--cpuset-cpus=0",
            "--pids-limit=100",
            "--device-write-bps=/dev/loop0:1mb",
            "--device=/dev/loop0",
            "--ulimit=nofile=99",
            "--read-only",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
        ],
    ),
];

pub fn run(place: &Place, options: &Options) -> Result<()> {
    let image = Image::make(&place.work)?;
    let hoy = image.import(hoy::start(place)?)?;
    let engine = hoy.engine().context("hoy is an engine")?;
    let errors = place.work.join("errors");
    let mut samples: Vec<Vec<f64>> = vec![Vec::new(); ROWS.len()];
    // The first round warms up.
    for round in 0..=options.rounds {
        for index in order(ROWS.len(), round) {
            let mut args = vec!["--rm"];
            args.extend(ROWS[index].1);
            args.extend(["busybox", "true"]);
            let wall = clock(vec![engine.run(&args)], Until::Exit, &errors)
                .with_context(|| ROWS[index].0)?;
            std::thread::sleep(Duration::from_millis(15));
            if round > 0 {
                samples[index].push(wall.as_secs_f64() * 1000.0);
            }
        }
    }
    let rows: Vec<(&str, Figures)> =
        ROWS.iter().zip(samples).map(|((name, _), list)| (*name, figures(list))).collect();
    crate::say(&if options.json { json(&rows) } else { text(&rows, options.rounds) });
    Ok(())
}

fn text(rows: &[(&str, Figures)], rounds: usize) -> String {
    let base = rows.first().map_or(f64::NAN, |(_, figures)| figures.median);
    let mut out = format!(
        "hoy run --rm … true, {rounds} rounds interleaved, milliseconds\n{:<44}{:>8}{:>8}{:>9}\n",
        "", "median", "least", "+median"
    );
    for (name, figures) in rows {
        out.push_str(&format!(
            "{name:<44}{:>8.2}{:>8.2}{:>+9.2}\n",
            figures.median,
            figures.least,
            figures.median - base
        ));
    }
    out.trim_end().to_owned()
}

fn json(rows: &[(&str, Figures)]) -> String {
    let row = |(name, figures): &(&str, Figures)| serde_json::json!({ "name": name, "median_ms": figures.median, "least_ms": figures.least });
    serde_json::Value::Array(rows.iter().map(row).collect()).to_string()
}
