//! What was set out for, beside what was measured. Pure.

use crate::many::Many;
use crate::stats::Test;

pub const RUN: &str = "run --rm true";
pub const FIRST: &str = "create+start to the first instruction";
pub const EXEC: &str = "exec true";
pub const PS: &str = "ps";

/// One goal. Not decided where the other side was not measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Goal {
    pub what: &'static str,
    pub wanted: String,
    pub found: String,
    pub reached: Option<bool>,
}

/// Bare crun counts with Docker's `full` configuration: without its filter it does less than half.
pub fn all(tests: &[Test], many: &[Many], full: bool) -> Vec<Goal> {
    let median = |test: &str, peer: &str| {
        let found = tests.iter().find(|found| found.name == test)?;
        Some(found.of(peer)?.wall().median)
    };
    let run = median(RUN, "hoy");
    let crun = median(RUN, "crun").filter(|_| full);
    let times = run.zip(median(RUN, "docker")).map(|(hoy, docker)| docker / hoy);
    let memory = many.iter().find(|one| one.peer == "hoy").and_then(|one| one.memory);
    let wanted =
        crun.map_or_else(|| "no full crun".to_owned(), |crun| format!("below {crun:.2} ms"));
    vec![
        goal("hoy run --rm, with a network, against bare crun run", &wanted, run, " ms", |it| {
            crun.map(|crun| it < crun)
        }),
        goal("docker run --rm in hoy run --rm", "15 times", times, " times", |it| Some(it >= 15.0)),
        below("hoy exec", 10.0, " ms", median(EXEC, "hoy")),
        below("hoy ps", 3.0, " ms", median(PS, "hoy")),
        below("an idle container", 512.0, " KiB", memory.map(|held| held.per_container())),
        below("hoyd, idle", 20.0, " MiB", memory.map(|held| held.idle.private as f64 / 1024.0)),
    ]
}

fn below(what: &'static str, limit: f64, unit: &str, found: Option<f64>) -> Goal {
    goal(what, &format!("below {limit}{unit}"), found, unit, |it| Some(it < limit))
}

fn goal(
    what: &'static str,
    wanted: &str,
    found: Option<f64>,
    unit: &str,
    reached: impl Fn(f64) -> Option<bool>,
) -> Goal {
    Goal {
        what,
        wanted: wanted.to_owned(),
        found: found.map_or_else(|| "not measured".to_owned(), |it| format!("{it:.2}{unit}")),
        reached: found.and_then(reached),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{Sample, Series};

    fn test(of: &[(&'static str, f64)]) -> Test {
        let series = |&(peer, wall): &(&'static str, f64)| Series {
            peer,
            samples: vec![Sample { wall, cpu: wall }],
        };
        Test { name: RUN, series: of.iter().map(series).collect() }
    }

    #[test]
    fn a_goal_against_a_peer_needs_the_peer() {
        let alone = all(&[test(&[("hoy", 10.0)])], &[], true);
        assert_eq!((alone[0].reached, alone[1].reached), (None, None));
        let both = all(&[test(&[("hoy", 10.0), ("crun", 18.0), ("docker", 149.0)])], &[], true);
        assert_eq!((both[0].reached, both[1].reached), (Some(true), Some(false)));
        assert_eq!(both[1].found, "14.90 times");
        let light = all(&[test(&[("hoy", 10.0), ("crun", 7.0)])], &[], false);
        assert_eq!(light[0].reached, None, "crun without the filter is another goal");
        assert_eq!((both[2].reached, both[2].found.as_str()), (None, "not measured"));
    }
}
