//! Test programs beside each other.
//!
//! Most tests wait: for daemons, packets, and answers that must not come. What measures a share of
//! the processors or of a disk runs first and alone, the others in lanes, the longest first.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{Read as _, Seek as _, Write as _};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::programs::{TestProgram, workspace};

/// What others would disturb.
const ALONE: &[&str] = &["block", "limits", "leaks"];

/// What takes long: begun first, so that no lane ends late.
const LONG: &[&str] = &[
    "networks_clients",
    "attacks",
    "networks_between",
    "networks_storm",
    "networks",
    "nesting",
    "network-firewall",
    "runtimes",
    "networks_beside",
    "network-dns",
    "volumes_storm",
    "main_path",
];

/// How many run at once: each has several tests at a time itself, and lints run beside them.
const LANES: usize = 1;

/// One that has not ended by then never will.
const DEADLINE: Duration = Duration::from_secs(400);

/// What a program said, and whether it is content.
struct Report {
    name: String,
    passed: bool,
}

/// Runs all of them; each one's words are shown together when it has ended.
pub fn run(programs: Vec<TestProgram>, environment: &[(&str, OsString)]) -> Result<()> {
    let (alone, beside) = in_order(programs);
    let reports = Mutex::new(Vec::new());
    let lane = |queue: &Mutex<VecDeque<TestProgram>>| {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(program) = next else { break };
            let report = one(&program, environment);
            reports.lock().unwrap_or_else(PoisonError::into_inner).push(report);
        }
    };
    lane(&Mutex::new(alone.into()));
    let queue = Mutex::new(VecDeque::from(beside));
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| lane(&queue));
        }
    });
    let reports = reports.into_inner().unwrap_or_else(PoisonError::into_inner);
    let failed: Vec<String> =
        reports.iter().filter(|report| !report.passed).map(|report| report.name.clone()).collect();
    if !failed.is_empty() {
        bail!("{} of {} test programs failed: {}", failed.len(), reports.len(), failed.join(", "));
    }
    Ok(())
}

/// Those that need the machine for themselves, and the others as they are begun.
fn in_order(programs: Vec<TestProgram>) -> (Vec<TestProgram>, Vec<TestProgram>) {
    let (alone, mut beside): (Vec<_>, Vec<_>) =
        programs.into_iter().partition(|program| ALONE.contains(&program.name.as_str()));
    let place = |program: &TestProgram| {
        LONG.iter().position(|name| *name == program.name).unwrap_or(LONG.len())
    };
    beside.sort_by_key(place);
    (alone, beside)
}

fn one(program: &TestProgram, environment: &[(&str, OsString)]) -> Report {
    let started = Instant::now();
    let answer = answer(program, environment);
    let took = started.elapsed().as_secs_f32();
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "     Running {} ({})", program.name, program.package);
    let passed = match answer {
        Ok((status, text)) => {
            let _ = out.write_all(&text);
            let _ = writeln!(out, "       Ended {}: {status}, {took:.1} s\n", program.name);
            status.success()
        }
        Err(error) => {
            let _ = writeln!(out, "       Ended {}: {error:#}\n", program.name);
            false
        }
    };
    Report { name: program.name.clone(), passed }
}

/// How it ended and what it said. Whoever outlives its test would keep a pipe open: a file is read
/// when the program has ended.
fn answer(
    program: &TestProgram,
    environment: &[(&str, OsString)],
) -> Result<(ExitStatus, Vec<u8>)> {
    let mut said = tempfile::tempfile().context("make a file for what it says")?;
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after", "10", &DEADLINE.as_secs().to_string()])
        .arg(&program.path)
        .current_dir(workspace().join(&program.package))
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(said.try_clone().context("share the file")?)
        .stderr(said.try_clone().context("share the file")?);
    let status = command.status().with_context(|| format!("run {}", program.path.display()))?;
    let mut text = Vec::new();
    said.rewind().and_then(|()| said.read_to_end(&mut text)).context("read what it said")?;
    Ok((status, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_long_ones_begin() {
        let programs =
            ["images", "main_path", "block", "networks_clients"].map(|name| TestProgram {
                name: name.to_owned(),
                package: "e2e".to_owned(),
                path: "none".into(),
                unit: false,
            });
        let (alone, beside) = in_order(programs.into());
        let names = |programs: &[TestProgram]| -> Vec<String> {
            programs.iter().map(|program| program.name.clone()).collect()
        };
        assert_eq!(names(&alone), ["block"]);
        assert_eq!(names(&beside), ["networks_clients", "main_path", "images"]);
    }
}
