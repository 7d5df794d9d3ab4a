//! Many containers at once: their starts, and what an idle one and an idle daemon hold in memory.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::measure::{self, SETTLE, Until};
use crate::memory::{self, Memory};
use crate::peer::Peer;
use crate::stats::order;

/// Containers of each.
pub const MANY: usize = 100;
/// So many in turn.
const BATCH: usize = 10;

/// One peer's result.
#[derive(Clone, Debug, Default)]
pub struct Many {
    pub peer: &'static str,
    /// Milliseconds of all starts, one after another.
    pub wall: f64,
    pub cpu: f64,
    pub memory: Option<Held>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The daemon with an image and no container yet.
    pub idle: Memory,
    /// The daemon with all of them.
    pub busy: Memory,
    /// Processes outside that hold the containers, together.
    pub helpers: Memory,
    pub processes: usize,
}

impl Held {
    /// KiB that one idle container costs beside its own processes: what holds it, and what the
    /// daemon has grown by.
    pub fn per_container(&self) -> f64 {
        let grown = self.busy.private.saturating_sub(self.idle.private);
        (self.helpers.private + grown) as f64 / MANY as f64
    }
}

/// The daemons' processes, before anything has run.
pub struct Idle {
    daemon: Vec<u32>,
    memory: Memory,
}

impl Idle {
    pub fn of(peer: &Peer) -> Self {
        let daemon = peer.account.processes();
        Self { memory: memory::of(&daemon), daemon }
    }
}

/// Ten of one, ten of the next …, until there are a hundred of each.
pub fn run(
    peers: &[(&Peer, &Idle)],
    errors: &Path,
    failures: &mut Vec<String>,
) -> Result<Vec<Many>> {
    crate::note(&format!("bench: {MANY} detached starts"));
    let mut results: Vec<Many> =
        peers.iter().map(|(peer, _)| Many { peer: peer.name, ..Many::default() }).collect();
    let mut failed = vec![false; peers.len()];
    for batch in 0..MANY / BATCH {
        for index in order(peers.len(), batch) {
            let peer = peers[index].0;
            if failed[index] {
                continue;
            }
            match starts(peer, batch, errors) {
                Ok((wall, cpu)) => {
                    results[index].wall += wall;
                    results[index].cpu += cpu;
                }
                Err(error) => {
                    failures.push(format!("{}: {MANY} detached starts: {error:#}", peer.name));
                    failed[index] = true;
                }
            }
        }
    }
    std::thread::sleep(Duration::from_secs(1));
    for (result, (peer, idle)) in results.iter_mut().zip(peers) {
        result.memory = peer.engine().map(|_| held(peer, idle));
    }
    let mut index = 0;
    results.retain(|_| {
        index += 1;
        !failed[index - 1]
    });
    Ok(results)
}

fn name(peer: &Peer, number: usize) -> String {
    format!("many-{}-{number}", peer.name)
}

/// Milliseconds of the clock and of processors.
fn starts(peer: &Peer, batch: usize, errors: &Path) -> Result<(f64, f64)> {
    peer.account.enter()?;
    let before = peer.account.usage();
    let mut wall = Duration::ZERO;
    for number in batch * BATCH..(batch + 1) * BATCH {
        let commands = peer.detached(&name(peer, number))?;
        wall += measure::clock(commands, Until::Exit, errors)?;
    }
    std::thread::sleep(SETTLE);
    Ok((wall.as_secs_f64() * 1e3, peer.account.usage() - before))
}

fn held(peer: &Peer, idle: &Idle) -> Held {
    let processes = peer.account.processes();
    let (daemon, others): (Vec<u32>, Vec<u32>) =
        processes.into_iter().partition(|pid| idle.daemon.contains(pid));
    let helpers: Vec<u32> = others.into_iter().filter(|pid| !memory::contained(*pid)).collect();
    Held {
        idle: idle.memory,
        busy: memory::of(&daemon),
        helpers: memory::of(&helpers),
        processes: helpers.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_costs_its_helper_and_the_daemons_growth() {
        let of = |private| Memory { private, proportional: 0 };
        let held = Held { idle: of(9000), busy: of(9700), helpers: of(5600), processes: 100 };
        assert_eq!(held.per_container(), 63.0);
        let shrunk = Held { busy: of(8000), ..held };
        assert_eq!(shrunk.per_container(), 56.0);
    }
}
