//! One measurement, and rounds of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::peer::Peer;
use crate::stats::{Sample, Series, Test, order};

/// What is done behind an answer is given time, and counted.
pub const SETTLE: Duration = Duration::from_millis(60);
const DEADLINE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// When the clock stops.
#[derive(Clone, Copy)]
pub enum Until<'a> {
    /// At the end of the last command.
    Exit,
    /// When there is something to read.
    Byte(&'a File),
}

/// Runs commands one after another and takes the time; where they complain to a file.
pub fn clock(commands: Vec<Command>, until: Until<'_>, errors: &Path) -> Result<Duration> {
    let count = commands.len();
    let errors_to = File::create(errors)?;
    let mut ready = Vec::new();
    for mut command in commands {
        // A detached container keeps what it inherits: no pipe, whose end would never come.
        command.stdout(Stdio::null()).stderr(errors_to.try_clone()?);
        ready.push(command);
    }
    let started = Instant::now();
    let mut wall = None;
    for (index, mut command) in ready.into_iter().enumerate() {
        let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
        let last = index + 1 == count;
        if let (true, Until::Byte(pipe)) = (last, until) {
            let mut fds = [PollFd::new(pipe, PollFlags::IN)];
            let found = poll(&mut fds, Some(&DEADLINE))?;
            wall = Some(started.elapsed());
            ensure!(found == 1, "{command:?}: nothing was written{}", complaint(errors));
            rustix::io::read(pipe, &mut [0; 16])?;
        }
        wait(&mut child, &command)?;
        if last && wall.is_none() {
            wall = Some(started.elapsed());
        }
        let status = child.wait()?;
        ensure!(status.success(), "{command:?} ended with {status}{}", complaint(errors));
    }
    wall.context("no command")
}

fn wait(child: &mut Child, command: &Command) -> Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process id")?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    if poll(&mut fds, Some(&DEADLINE))? == 0 {
        child.kill()?;
        child.wait()?;
        bail!("{command:?} did not end in {} seconds", DEADLINE.tv_sec);
    }
    Ok(())
}

fn complaint(errors: &Path) -> String {
    let text = std::fs::read_to_string(errors).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() { String::new() } else { format!(": {}", lines.join(" / ")) }
}

/// Rounds of one test after another, by all who can take part.
pub struct Rounds<'a> {
    pub peers: &'a [&'a Peer],
    pub rounds: usize,
    pub errors: PathBuf,
    /// What went wrong, to be told with the figures.
    pub failures: Vec<String>,
}

impl Rounds<'_> {
    /// A B C C B A …: what the machine does meanwhile befalls all alike. Who fails is left out.
    pub fn test(
        &mut self,
        name: &'static str,
        until: Until<'_>,
        commands: impl Fn(&Peer, &str) -> Option<Result<Vec<Command>>>,
        after: impl Fn(&Peer, String) -> Result<()>,
    ) -> Result<Test> {
        crate::note(&format!("bench: {name}"));
        let mut series: BTreeMap<usize, Series> = BTreeMap::new();
        let mut out = vec![false; self.peers.len()];
        for round in 0..=self.rounds {
            for index in order(self.peers.len(), round) {
                let peer = self.peers[index];
                let id = format!("bench-{}-{round}", peer.name.replace('+', "-"));
                let Some(commands) = commands(peer, &id).filter(|_| !out[index]) else { continue };
                let done = commands
                    .and_then(|commands| sample(peer, commands, until, &self.errors))
                    .and_then(|sample| after(peer, id).map(|()| sample));
                match done {
                    // The first round warms up.
                    Ok(_) if round == 0 => {}
                    Ok(sample) => series
                        .entry(index)
                        .or_insert_with(|| Series { peer: peer.name, samples: Vec::new() })
                        .samples
                        .push(sample),
                    Err(error) => {
                        self.failures.push(format!("{}: {name}: {error:#}", peer.name));
                        series.remove(&index);
                        out[index] = true;
                    }
                }
            }
        }
        Ok(Test { name, series: series.into_values().collect() })
    }
}

fn sample(peer: &Peer, commands: Vec<Command>, until: Until<'_>, errors: &Path) -> Result<Sample> {
    peer.account.enter()?;
    let before = peer.account.usage();
    let wall = clock(commands, until, errors)?;
    std::thread::sleep(SETTLE);
    let cpu = peer.account.usage() - before;
    Ok(Sample { wall: wall.as_secs_f64() * 1e3, cpu })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(line: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        command
    }

    #[test]
    fn a_failure_carries_what_was_said() {
        let directory = tempfile::tempdir().unwrap();
        let errors = directory.path().join("errors");
        let error =
            clock(vec![sh("echo no >&2; echo; echo help >&2; exit 3")], Until::Exit, &errors)
                .unwrap_err();
        assert!(error.to_string().ends_with("exit status: 3: no / help"), "{error}");
    }

    #[test]
    fn the_clock_stops_at_a_byte_and_still_waits_for_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        crate::output(Command::new("mkfifo").arg(at("pipe"))).unwrap();
        let pipe = File::options().read(true).write(true).open(at("pipe")).unwrap();
        let line = format!("echo >{}; touch {}", at("pipe").display(), at("end").display());
        let commands = vec![sh("true"), sh(&line)];
        clock(commands, Until::Byte(&pipe), &at("errors")).unwrap();
        assert!(at("end").exists());
    }
}
