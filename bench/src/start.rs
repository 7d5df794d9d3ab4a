//! `start`: what it costs to have a container, for every engine that is there, interleaved.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::account;
use crate::peers::{Field, Peer};
use crate::stats::{Sample, Series};
use crate::{output, say};

/// Containers in the test of many.
const MANY: usize = 100;
/// What is done behind an answer is given time, and counted.
const SETTLE: Duration = Duration::from_millis(60);

pub fn main(args: &[String]) -> Result<()> {
    let (mut rounds, mut only) = (20, Vec::new());
    let mut words = args.iter();
    while let Some(word) = words.next() {
        match (word.as_str(), words.next()) {
            ("--rounds", Some(number)) => rounds = number.parse().context("--rounds")?,
            ("--only", Some(names)) => only = names.split(',').map(str::to_owned).collect(),
            _ => bail!("unknown argument {word}"),
        }
    }
    let work = tempfile::Builder::new().prefix("hoy-bench-").tempdir()?;
    let field = Field::open(work.path(), &only);
    let result = match field {
        Ok(field) => {
            let result = measure(&field, work.path(), rounds);
            field.close();
            result
        }
        Err(error) => Err(error),
    };
    account::clean();
    result
}

type Table = BTreeMap<&'static str, BTreeMap<usize, Series>>;

fn measure(field: &Field, work: &Path, rounds: usize) -> Result<()> {
    let peers = &field.peers;
    let mut table = Table::new();
    let engines: Vec<usize> = (0..peers.len()).filter(|&i| peers[i].bare.is_none()).collect();
    interleave(&mut table, "1 run --rm true", peers, 0..peers.len(), rounds, |peer, round| {
        match &peer.bare {
            None => peer.run(&["--rm", "busybox", "true"]),
            Some(bundle) => {
                let bundle = bundle.display().to_string();
                peer.command(&["run", "-b", &bundle, &format!("x{round}")])
            }
        }
    })?;
    first_instruction(&mut table, peers, &engines, rounds, work)?;
    for &index in &engines {
        output(&mut peers[index].run(&[
            "-d",
            "--name",
            &name("ex", peers[index].name),
            "busybox",
            "sleep",
            "100000",
        ]))?;
    }
    interleave(&mut table, "3 exec true", peers, engines.iter().copied(), rounds, |peer, _| {
        peer.command(&["exec", &name("ex", peer.name), "true"])
    })?;
    interleave(&mut table, "4 ps", peers, engines.iter().copied(), rounds, |peer, _| {
        peer.command(&["ps"])
    })?;
    for &index in &engines {
        let peer = &peers[index];
        output(peer.command(peer.remove).arg(name("ex", peer.name)))?;
    }
    for (test, peers_of) in &table {
        print(test, peers, peers_of);
    }
    many(peers, &engines)
}

fn name(prefix: &str, peer: &str) -> String {
    format!("{prefix}-{}", peer.replace('+', "-"))
}

/// A B C A B C …: what the machine does meanwhile befalls all alike.
fn interleave(
    table: &mut Table,
    test: &'static str,
    peers: &[Peer],
    of: impl Iterator<Item = usize> + Clone,
    rounds: usize,
    command: impl Fn(&Peer, usize) -> Command,
) -> Result<()> {
    for round in 0..=rounds {
        for index in of.clone() {
            let peer = &peers[index];
            peer.account.enter()?;
            let before = peer.account.usage();
            let mut command = command(peer, round);
            let started = Instant::now();
            let out = command.output()?;
            let wall = started.elapsed();
            ensure!(
                out.status.success(),
                "{}: {command:?}: {}",
                peer.name,
                String::from_utf8_lossy(&out.stderr)
            );
            std::thread::sleep(SETTLE);
            // The first round warms up.
            if round > 0 {
                let sample =
                    Sample { wall: wall.as_secs_f64() * 1e3, cpu: peer.account.usage() - before };
                table.entry(test).or_default().entry(index).or_default().samples.push(sample);
            }
        }
    }
    Ok(())
}

/// From the command to a byte that the container's process wrote into a pipe of the host.
fn first_instruction(
    table: &mut Table,
    peers: &[Peer],
    engines: &[usize],
    rounds: usize,
    work: &Path,
) -> Result<()> {
    let directory = work.join("first");
    std::fs::create_dir(&directory)?;
    output(Command::new("mkfifo").arg(directory.join("pipe")))?;
    // Held open for writing, too: so it is no end of file between two containers.
    let pipe = File::options().read(true).write(true).open(directory.join("pipe"))?;
    let volume = format!("{}:/first", directory.display());
    for round in 0..=rounds {
        for &index in engines {
            let peer = &peers[index];
            peer.account.enter()?;
            let before = peer.account.usage();
            let started = Instant::now();
            let mut child = peer
                .run(&["-d", "-v", &volume, "busybox", "sh", "-c", "echo >/first/pipe"])
                .stdout(std::process::Stdio::piped())
                .spawn()?;
            let mut fds = [PollFd::new(&pipe, PollFlags::IN)];
            let deadline = Timespec { tv_sec: 30, tv_nsec: 0 };
            ensure!(poll(&mut fds, Some(&deadline))? == 1, "{}: nothing was written", peer.name);
            let wall = started.elapsed();
            rustix::io::read(&pipe, &mut [0; 16])?;
            let mut id = String::new();
            if let Some(mut out) = child.stdout.take() {
                std::io::Read::read_to_string(&mut out, &mut id)?;
            }
            ensure!(child.wait()?.success(), "{}: run -d", peer.name);
            std::thread::sleep(SETTLE);
            let cpu = peer.account.usage() - before;
            output(peer.command(peer.remove).arg(id.trim()))?;
            if round > 0 {
                let sample = Sample { wall: wall.as_secs_f64() * 1e3, cpu };
                let series = table.entry("2 create+start to the first instruction").or_default();
                series.entry(index).or_default().samples.push(sample);
            }
        }
    }
    Ok(())
}

/// Many at once: their start, what each holds in memory, and the idle daemon.
fn many(peers: &[Peer], engines: &[usize]) -> Result<()> {
    say(&format!(
        "\n5 {MANY} detached starts, one after another; memory that belongs to one process alone"
    ));
    say(&format!(
        "  {:<14}{:>12}{:>14}{:>20}{:>16}",
        "", "seconds", "cpu seconds", "KiB per container", "MiB daemon"
    ));
    for &index in engines.iter().filter(|&&index| peers[index].name != "docker+hoyd") {
        let peer = &peers[index];
        peer.account.enter()?;
        let daemon = account::private_memory(peer.daemons);
        let before = peer.account.usage();
        let started = Instant::now();
        let mut ids = Vec::new();
        for _ in 0..MANY {
            ids.push(
                output(&mut peer.run(&["-d", "busybox", "sleep", "100000"]))?.trim().to_owned(),
            );
        }
        let wall = started.elapsed().as_secs_f64();
        let cpu = (peer.account.usage() - before) / 1e3;
        std::thread::sleep(Duration::from_secs(1));
        let holders: u64 = account::private_memory(peer.holders).iter().sum();
        say(&format!(
            "  {:<14}{wall:>12.2}{cpu:>14.2}{:>20}{:>16.1}",
            peer.name,
            holders / MANY as u64,
            daemon.iter().sum::<u64>() as f64 / 1024.0,
        ));
        for some in ids.chunks(20) {
            output(peer.command(peer.remove).args(some))?;
        }
    }
    Ok(())
}

fn print(test: &str, peers: &[Peer], series: &BTreeMap<usize, Series>) {
    let base = series.get(&0).map_or(f64::NAN, Series::median);
    say(&format!("\n{test} (milliseconds)"));
    say(&format!("  {:<14}{:>10}{:>10}{:>10}{:>14}", "", "median", "least", "cpu", "times hoy"));
    for (index, series) in series {
        say(&format!(
            "  {:<14}{:>10.2}{:>10.2}{:>10.2}{:>14.1}",
            peers[*index].name,
            series.median(),
            series.least(),
            series.cpu(),
            series.median() / base,
        ));
    }
}
