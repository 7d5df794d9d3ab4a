//! What was set out for, beside what was measured. Pure.

use super::grow::STRETCHES;
use super::stand::PATHS;
use super::table::{Row, TRANSLATED, VETH};
use crate::goals::Goal;

pub const PROCESSOR: &str = "processor for a MB, µs";
pub const NAMES: &str = "names: answers/s, 128 questions at a time";
pub const BULK: &str = "ports: one of 100 of a container, ms";
/// How many ports are published.
pub const FEW: &str = "first ports";
pub const ALL: &str = "last of 5,000";

pub fn started(last: usize) -> String {
    format!("starts on one network: {} to {last}, ms", last - 9)
}

pub fn with_port(when: &str) -> String {
    format!("run -d with a port, {when}, ms")
}

pub fn through(when: &str) -> String {
    format!("outside, {when}: connections/s")
}

/// Not decided where the other side was not measured.
pub fn all(rows: &[Row]) -> Vec<Goal> {
    let row = |what: &str| rows.iter().find(|row| row.what == what);
    let hoy = |what: &str| row(what)?.best("hoy");
    let streams = [
        (1, "published, host by address: stream / plain veth's"),
        (2, "published, host by loopback: stream / plain veth's"),
        (3, "published, from outside: stream / plain veth's"),
    ];
    let mut goals = Vec::new();
    for (path, what) in streams {
        let row = row(&format!("{}: Gbit/s of a stream", PATHS[path]));
        let found = row.and_then(|row| Some(row.best("hoy")? / row.best(VETH)?));
        goals.push(goal(what, found, 0.9, true));
    }
    let floors = [
        (1, "published, host by address: processor / one DNAT rule's"),
        (2, "published, host by loopback: processor / one DNAT rule's"),
        (3, "published, from outside: processor / one DNAT rule's"),
    ];
    for (path, what) in floors {
        let row = row(&format!("{}: {PROCESSOR}", PATHS[path]));
        let found = row.and_then(|row| Some(row.best("hoy")? / row.best(TRANSLATED)?));
        goals.push(goal(what, found, 1.1, false));
    }
    let over = |after: Option<f64>, before: Option<f64>| Some(after? / before?);
    let port = over(hoy(&with_port(ALL)), hoy(&with_port(FEW)));
    goals.push(goal("run with a port: the 5,000th / the 1st", port, 1.25, false));
    let start = over(hoy(&started(STRETCHES[2])), hoy(&started(STRETCHES[0])));
    goals.push(goal("start on one network: the 500th / the 1st", start, 1.25, false));
    let packet = over(hoy(&through(ALL)), hoy(&through(FEW)));
    goals.push(goal("connections/s: with 5,000 ports / with few", packet, 0.9, true));
    let best = row(NAMES).and_then(|row| {
        let others = row.samples.keys().filter(|peer| **peer != "hoy");
        others.filter_map(|peer| row.best(peer)).max_by(f64::total_cmp)
    });
    goals.push(goal("names/s / the best peer's", over(hoy(NAMES), best), 3.0, true));
    goals
}

fn goal(what: &'static str, found: Option<f64>, limit: f64, least: bool) -> Goal {
    Goal {
        what,
        wanted: format!("{} {limit:.2}", if least { ">=" } else { "<=" }),
        found: found.map_or_else(|| "-".to_owned(), |found| format!("{found:.2}")),
        reached: found.map(|found| if least { found >= limit } else { found <= limit }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decided_only_where_both_sides_are() {
        let mut names = Row::new(NAMES, true);
        names.add("hoy", 300.0);
        assert!(all(&[names.clone()]).iter().all(|goal| goal.reached.is_none()));
        names.add("docker", 40.0);
        names.add("podman-crun", 101.0);
        let goals = all(&[names]);
        let last = goals.last().unwrap();
        assert_eq!((last.found.as_str(), last.reached), ("2.97", Some(false)));
    }
}
