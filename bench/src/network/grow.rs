//! What becomes of costs as there is more: containers on one network, published ports.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::stand::{INSIDE, MACHINE, Stand, idle, netns};
use super::table::Row;
use super::traffic::{self, Server, part, within};
use super::{Bench, SAMPLE, goals};
use crate::measure::{Until, clock};
use crate::peer::Engine;

/// Containers on one network.
const CONTAINERS: usize = 500;
/// The stretches of them that are told: numbers of the last of ten.
const STRETCH: usize = 10;
pub const STRETCHES: [usize; 3] = [10, 100, 500];
/// Ports in all.
const PORTS: usize = 5000;
/// So many of a container; those before and after the many are one each.
const BUNDLE: usize = 100;
const PROBES: usize = 7;
/// Only every second number is published: neighbours could be taken for a range.
const FIRST_PORT: usize = 20_000;
/// How long one engine may take for all of one kind.
const BOUND: Duration = Duration::from_secs(30);

impl Bench {
    fn clock(&self, command: std::process::Command) -> Result<f64> {
        Ok(clock(vec![command], Until::Exit, &self.errors)?.as_secs_f64() * 1e3)
    }

    /// Containers, one after another.
    pub(super) fn starts(&mut self, stands: &[Stand]) -> Result<()> {
        let mut rows = STRETCHES.map(|last| Row::new(goals::started(last), false));
        for stand in stands {
            let Some((engine, _)) = &stand.engine else { continue };
            if self.late("starts") {
                break;
            }
            stand.account.enter()?;
            let times = self.part(stand.name, "starts", || {
                crate::output(&mut engine.command(["network", "create", "many"])).map(drop)
            });
            let Some(()) = times else { continue };
            let (began, mut times) = (Instant::now(), Vec::new());
            while times.len() < CONTAINERS && began.elapsed() < BOUND && !self.is_over() {
                let name = format!("many-{}", times.len());
                let command = idle(engine, &name, &["--network", "many"]);
                let time = self.clock(command);
                let Some(time) = self.part(stand.name, "starts", || time) else { break };
                times.push(time);
            }
            for (row, last) in rows.iter_mut().zip(STRETCHES) {
                let stretch = times.get(last - STRETCH..last).unwrap_or_default();
                stretch.iter().for_each(|time| row.add(stand.name, *time));
            }
            if times.len() < CONTAINERS {
                let seconds = began.elapsed().as_secs();
                self.tell(format!(
                    "{}: {} containers on one network in {seconds} s, not {CONTAINERS}",
                    stand.name,
                    times.len()
                ));
            }
        }
        self.rows(rows);
        Ok(())
    }

    /// Ports: what the first ones and the last ones cost, and a packet with none and with all.
    pub(super) fn ports(&mut self, stands: &[Stand]) -> Result<()> {
        if self.late("ports") {
            return Ok(());
        }
        let mut bulk = Row::new(goals::BULK, false);
        let mut next: Vec<usize> = vec![0; stands.len()];
        let before = self.one_each(stands, &mut next, goals::FEW)?;
        self.packets(stands, &before, goals::FEW)?;
        drop(before);
        for (stand, next) in stands.iter().zip(&mut next) {
            let Some((engine, _)) = &stand.engine else { continue };
            stand.account.enter()?;
            let (began, first) = (Instant::now(), *next);
            while *next < PORTS - PROBES && began.elapsed() < BOUND && !self.is_over() {
                let last = (*next + BUNDLE).min(PORTS - PROBES);
                let ports: Vec<String> = (*next..last).map(published).collect();
                let flags: Vec<&str> =
                    ports.iter().flat_map(|port| ["-p", port.as_str()]).collect();
                let time = self.clock(idle(engine, &format!("bundle-{next}"), &flags));
                let Some(time) = self.part(stand.name, "ports", || time) else { break };
                bulk.add(stand.name, time / (last - *next) as f64);
                *next = last;
            }
            self.tell(format!(
                "{}: {} ports in {:.1} s, {BUNDLE} of a container, each one its own",
                stand.name,
                *next - first,
                began.elapsed().as_secs_f64(),
            ));
        }
        self.rows([bulk]);
        let after = self.one_each(stands, &mut next, goals::ALL)?;
        self.packets(stands, &after, goals::ALL)
    }

    /// Containers with one port and with none, interleaved; a server behind the last port of each.
    fn one_each(
        &mut self,
        stands: &[Stand],
        next: &mut [usize],
        when: &str,
    ) -> Result<Vec<Option<(Server, u16)>>> {
        let mut rows = [
            Row::new(goals::with_port(when), false),
            Row::new(format!("run -d without a port, {when}, ms"), false),
        ];
        let mut last: Vec<Option<(&Engine, String, u16)>> = stands.iter().map(|_| None).collect();
        for _ in 0..PROBES {
            // With at least one of each there is a server to ask.
            if self.is_over() && last.iter().any(Option::is_some) {
                break;
            }
            for (index, stand) in stands.iter().enumerate() {
                let Some((engine, _)) = &stand.engine else { continue };
                stand.account.enter()?;
                let port = next[index];
                next[index] += 1;
                let name = format!("port-{port}");
                let with = self.clock(idle(engine, &name, &["-p", &published(port)]));
                let without = self.clock(idle(engine, &format!("none-{port}"), &[]));
                for (row, time) in rows.iter_mut().zip([with, without]) {
                    if let Some(time) = self.part(stand.name, "a port", || time) {
                        row.add(stand.name, time);
                    }
                }
                last[index] = Some((engine, name, number(port)));
            }
        }
        self.rows(rows);
        let mut servers = Vec::new();
        for (stand, last) in stands.iter().zip(last) {
            let server = last.and_then(|(engine, name, port)| {
                self.part(stand.name, "a server", || {
                    Ok((Server::start(&netns(engine, &name)?, INSIDE)?, port))
                })
            });
            servers.push(server);
        }
        Ok(servers)
    }

    /// From outside through all rules to the port that was published last.
    fn packets(
        &mut self,
        stands: &[Stand],
        servers: &[Option<(Server, u16)>],
        when: &str,
    ) -> Result<()> {
        if self.late("packets") {
            return Ok(());
        }
        let mut rows = [
            Row::new(goals::through(when), true),
            Row::new(format!("outside, {when}: a request's median, µs"), false),
        ];
        self.rounds("packets", stands, |bench, stand, counts| {
            let path = stand.paths.last().context("a path")?;
            let at = stands.iter().position(|other| other.name == stand.name);
            let to = match (&stand.engine, at.and_then(|at| servers.get(at)?.as_ref())) {
                (Some(_), Some((_, port))) => (MACHINE, *port).into(),
                (Some(_), None) => return Ok(()),
                (None, _) => path.to,
            };
            let found = bench.part(stand.name, "packets", || {
                within(&path.from, || {
                    let connections = traffic::connections(to, SAMPLE)?;
                    Ok([connections, part(&traffic::requests(to, SAMPLE)?, 50)])
                })
            });
            for (row, value) in rows.iter_mut().zip(found.filter(|_| counts).into_iter().flatten())
            {
                row.add(stand.name, value);
            }
            Ok(())
        })?;
        self.rows(rows);
        Ok(())
    }
}

/// The number on the machine of the so manieth port.
fn number(index: usize) -> u16 {
    u16::try_from(FIRST_PORT + 2 * index).unwrap_or(u16::MAX)
}

fn published(index: usize) -> String {
    format!("{}:{INSIDE}", number(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_ports_are_neighbours_and_all_are_below_the_kernels_own() {
        assert_eq!((published(0), published(1)), ("20000:7001".into(), "20002:7001".into()));
        assert!(number(PORTS - 1) < 32768);
    }
}
