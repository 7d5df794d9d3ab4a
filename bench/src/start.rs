//! `start`: what it costs to have a container, for every engine that is there, interleaved.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};

use crate::account::Account;
use crate::bundle::Bare;
use crate::goals::{EXEC, FIRST, PS, RUN};
use crate::image::Image;
use crate::many::{self, Idle};
use crate::measure::{Rounds, Until, clock};
use crate::options::Options;
use crate::peer::{Kind, Peer};
use crate::place::Place;
use crate::report::{self, Report};
use crate::stats::Test;
use crate::{docker, goals, hoy, podman};

pub fn run(place: &Place, options: &Options) -> Result<()> {
    let mut notes = Vec::new();
    let image = Image::make(&place.work)?;
    let docker = wanted_docker(place, options, &image);
    let mut peers = engines(place, options, &image, docker.as_ref(), &mut notes)?;
    // What daemons do after they have begun is over.
    std::thread::sleep(Duration::from_secs(1));
    let mut idle: Vec<Idle> = peers.iter().map(Idle::of).collect();
    // Only now: it starts a container in dockerd.
    let (bare, full) = runtimes(place, options, &image, docker.as_ref(), &mut notes)?;
    peers.extend(bare);
    idle.extend(peers[idle.len()..].iter().map(Idle::of));
    let all: Vec<&Peer> = peers.iter().collect();
    let errors = place.work.join("errors");
    let mut rounds = Rounds { peers: &all, rounds: options.rounds, errors, failures: Vec::new() };
    let tests = tests(&mut rounds, place)?;
    let guest = |peer: &Peer| peer.engine().is_some_and(|engine| engine.guest);
    let hosts: Vec<(&Peer, &Idle)> =
        peers.iter().zip(&idle).filter(|(peer, _)| !guest(peer)).collect();
    let mut failures = std::mem::take(&mut rounds.failures);
    let many = many::run(&hosts, &rounds.errors, &mut failures)?;
    notes.extend(failures.into_iter().map(|failure| format!("FAILED {failure}")));
    let goals = goals::all(&tests, &many, full);
    let report = Report { machine: machine(), rounds: options.rounds, notes, tests, many, goals };
    if options.json {
        crate::say(&serde_json::to_string_pretty(&report::json(&report))?);
    } else {
        crate::say(&report::text(&report));
    }
    Ok(())
}

/// The kernel, processors and the load: figures of a busy machine are no figures.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let minute = load.split(' ').next().unwrap_or_default();
    format!("Linux {}, {processors} processors, load {minute} at the end", kernel.trim())
}

/// Everyone with a command line of its own, started, with the image.
fn engines(
    place: &Place,
    options: &Options,
    image: &Image,
    docker: Option<&Result<Peer>>,
    notes: &mut Vec<String>,
) -> Result<Vec<Peer>> {
    let mut peers = vec![image.import(hoy::start(place)?)?];
    let mut found = Vec::new();
    if options.wants("docker+hoyd") {
        found.push(("docker+hoyd", hoy::by_docker(place, &peers[0])));
    }
    if let Some(docker) = docker.filter(|_| options.wants("docker")) {
        let docker = match docker {
            Ok(peer) => Ok(peer.clone()),
            Err(error) => Err(anyhow!("{error:#}")),
        };
        found.push(("docker", docker));
    }
    for (name, runtime) in [("podman-crun", "crun"), ("podman-runc", "runc")] {
        if options.wants(name) {
            let peer = podman::prepare(place, name, runtime);
            found.push((name, peer.and_then(|peer| image.import(peer))));
        }
    }
    take(&mut peers, found, notes);
    Ok(peers)
}

/// dockerd, for itself or for its configuration of the bare runtimes.
fn wanted_docker(place: &Place, options: &Options, image: &Image) -> Option<Result<Peer>> {
    let wanted = ["docker", "crun", "runc"].into_iter().any(|name| options.wants(name));
    wanted.then(|| docker::start(place).and_then(|peer| image.import(peer)))
}

/// The bare runtimes, and whether they do all that Docker asks of them.
fn runtimes(
    place: &Place,
    options: &Options,
    image: &Image,
    docker: Option<&Result<Peer>>,
    notes: &mut Vec<String>,
) -> Result<(Vec<Peer>, bool)> {
    let names: Vec<&str> = ["crun", "runc"].into_iter().filter(|n| options.wants(n)).collect();
    let docker = docker.and_then(|docker| docker.as_ref().ok());
    let docker = docker.filter(|_| !names.is_empty());
    let pattern = docker.map(|docker| docker::pattern(place, docker)).transpose()?;
    let mut peers = Vec::new();
    let made = names.iter().map(|name| (*name, alone(place, name, &image.rootfs, pattern.clone())));
    take(&mut peers, made.collect(), notes);
    if !peers.is_empty() {
        let whose = if pattern.is_some() { "dockerd writes" } else { "they propose themselves" };
        notes.push(format!("bare runtimes: no network, with the configuration that {whose}"));
    }
    Ok((peers, pattern.is_some()))
}

fn take(peers: &mut Vec<Peer>, found: Vec<(&str, Result<Peer>)>, notes: &mut Vec<String>) {
    for (name, peer) in found {
        match peer {
            Ok(peer) => peers.push(peer),
            Err(error) => notes.push(format!("{name}: skipped: {error:#}")),
        }
    }
}

fn alone(
    place: &Place,
    name: &str,
    rootfs: &Path,
    pattern: Option<serde_json::Value>,
) -> Result<Peer> {
    let runtime = if name == "crun" { "crun" } else { "runc" };
    ensure!(crate::installed(runtime), "not installed (package {runtime})");
    let account = Account::open(place, runtime)?;
    let directory = place.work.join(runtime);
    let bare = Bare::new(runtime, directory, rootfs, &account.cgroup, pattern)?;
    Ok(Peer { name: runtime, account: Rc::new(account), kind: Kind::Bare(bare) })
}

fn tests(rounds: &mut Rounds<'_>, place: &Place) -> Result<Vec<Test>> {
    let nothing = |_: &Peer, _: String| Ok(());
    let run = rounds.test(RUN, Until::Exit, |peer, id| Some(peer.run_true(id)), nothing)?;

    let directory = place.work.join("first");
    std::fs::create_dir(&directory)?;
    crate::output(Command::new("mkfifo").arg(directory.join("pipe")))?;
    // Held open for writing, too: so it is no end of file between two containers.
    let pipe = File::options().read(true).write(true).open(directory.join("pipe"))?;
    let first = rounds.test(
        FIRST,
        Until::Byte(&pipe),
        |peer, id| Some(peer.first(id, &directory)),
        |peer, id| peer.remove(&[id]),
    )?;

    let idle = |peer: &Peer| format!("idle-{}", peer.name.replace('+', "-"));
    for peer in rounds.peers {
        peer.account.enter()?;
        let started = peer
            .detached(&idle(peer))
            .and_then(|commands| clock(commands, Until::Exit, &rounds.errors));
        // Whose container is not there fails the next test.
        if let Err(error) = started {
            rounds.failures.push(format!("{}: an idle container: {error:#}", peer.name));
        }
    }
    let exec =
        rounds.test(EXEC, Until::Exit, |peer, _| Some(Ok(peer.exec_true(&idle(peer)))), nothing)?;
    let list = |peer: &Peer| Some(Ok(vec![peer.engine()?.command(["ps"])]));
    let ps = rounds.test(PS, Until::Exit, |peer, _| list(peer), nothing)?;
    for peer in rounds.peers {
        if let Err(error) = peer.remove(&[idle(peer)]) {
            rounds.failures.push(format!("{}: remove: {error:#}", peer.name));
        }
    }
    Ok(vec![run, first, exec, ps])
}
