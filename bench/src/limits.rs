//! `limits`: what each limit and each part of the sandbox costs a start of hoy's.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hoy_seccomp::{Facts, Machine, Version, builtin, compile};
use hoy_sys::seccomp::Instruction;

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
    let filter = filter()?;
    if options.json {
        crate::say(&json(&rows, &filter));
    } else {
        crate::say(&text(&rows, options.rounds));
        crate::say(&format!(
            "\nthe default profile: {} instructions; compiled in {:.0} µs (once), loaded in {:.0} µs \
             (median; least {:.0})",
            filter.instructions, filter.compile, filter.load.median, filter.load.least
        ));
    }
    Ok(())
}

/// The default profile's program, in microseconds.
struct Filter {
    instructions: usize,
    compile: f64,
    load: Figures,
}

fn filter() -> Result<Filter> {
    let facts = Facts {
        capabilities: hoy_runtime::caps::DEFAULT,
        machine: Machine::current(),
        kernel: Version(6, 1),
    };
    let started = Instant::now();
    let resolved = builtin().resolve(&facts).context("the default profile filters")?;
    let program = compile(&resolved)?;
    let compile = started.elapsed().as_secs_f64() * 1e6;
    let mut instructions = Vec::new();
    for i in &program.instructions {
        instructions.push(Instruction { code: i.code, jt: i.jt, jf: i.jf, k: i.k });
    }
    let mut loads = Vec::new();
    for _ in 0..200 {
        // A filter is its thread's, and goes with it.
        let load = || -> std::io::Result<f64> {
            rustix::thread::set_no_new_privs(true)?;
            let started = Instant::now();
            hoy_sys::seccomp::load(&instructions, program.flags)?;
            Ok(started.elapsed().as_secs_f64() * 1e6)
        };
        let loaded = std::thread::scope(|scope| scope.spawn(load).join());
        loads.push(loaded.map_err(|_| anyhow::anyhow!("a thread was lost"))??);
    }
    Ok(Filter { instructions: instructions.len(), compile, load: figures(loads) })
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

fn json(rows: &[(&str, Figures)], filter: &Filter) -> String {
    let row = |(name, figures): &(&str, Figures)| serde_json::json!({ "name": name, "median_ms": figures.median, "least_ms": figures.least });
    let starts: Vec<serde_json::Value> = rows.iter().map(row).collect();
    serde_json::json!({
        "starts": starts,
        "filter": {
            "instructions": filter.instructions,
            "compile_us": filter.compile,
            "load_median_us": filter.load.median,
            "load_least_us": filter.load.least,
        },
    })
    .to_string()
}
