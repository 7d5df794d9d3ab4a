//! The result, for a reader and for a program. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::goals::Goal;
use crate::stats::{Figures, figures};

/// The kernel's own pair of interfaces, with nothing between them.
pub const VETH: &str = "plain veth";
/// A bridge as engines make one, without rules.
pub const BRIDGED: &str = "plain bridge";

/// The same with one rule that publishes a port: what the kernel itself asks for translating
/// addresses. No engine can be cheaper.
pub const TRANSLATED: &str = "one DNAT rule";

/// One measure, by all who took part.
#[derive(Clone, Debug)]
pub struct Row {
    pub what: String,
    /// Rates are better where they are higher, times where they are lower.
    pub rate: bool,
    pub samples: BTreeMap<&'static str, Vec<f64>>,
}

impl Row {
    pub fn new(what: impl Into<String>, rate: bool) -> Self {
        Self { what: what.into(), rate, samples: BTreeMap::new() }
    }

    pub fn add(&mut self, peer: &'static str, sample: f64) {
        self.samples.entry(peer).or_default().push(sample);
    }

    pub fn of(&self, peer: &str) -> Option<Figures> {
        self.samples.get(peer).map(|samples| figures(samples.iter().copied()))
    }

    /// The best sample: what else runs on the machine only ever costs.
    pub fn best(&self, peer: &str) -> Option<f64> {
        let samples = self.samples.get(peer)?.iter().copied();
        if self.rate { samples.max_by(f64::total_cmp) } else { samples.min_by(f64::total_cmp) }
    }

    /// How many times better hoy is.
    fn gain(&self, peer: &str) -> Option<f64> {
        let (hoy, other) = (self.of("hoy")?.median, self.of(peer)?.median);
        Some(if self.rate { hoy / other } else { other / hoy })
    }
}

pub struct Table {
    pub machine: String,
    pub rounds: usize,
    pub peers: Vec<&'static str>,
    pub notes: Vec<String>,
    pub rows: Vec<Row>,
    pub goals: Vec<Goal>,
}

pub fn text(table: &Table) -> String {
    let mut out = format!("{}; {} rounds, interleaved\n", table.machine, table.rounds);
    for note in &table.notes {
        let _ = writeln!(out, "  {note}");
    }
    out.push_str(
        "Medians. In brackets: how many times better hoy is in the same run (above 1: hoy is better).\n\n",
    );
    let _ = write!(out, "{:<52}", "");
    for peer in &table.peers {
        let _ = write!(out, "{peer:>19}");
    }
    out.push('\n');
    for row in &table.rows {
        let _ = write!(out, "{:<52}", row.what);
        for peer in &table.peers {
            let cell = match (row.of(peer), row.gain(peer)) {
                (None, _) => "-".to_owned(),
                (Some(found), Some(gain)) if *peer != "hoy" => {
                    format!("{} ({gain:.2})", short(found.median))
                }
                (Some(found), _) => short(found.median),
            };
            let _ = write!(out, "{cell:>19}");
        }
        out.push('\n');
    }
    let _ = writeln!(
        out,
        "\n{:<66}{:>12}{:>12}  reached",
        "goal (of the best samples: noise only ever costs)", "wanted", "found"
    );
    for goal in &table.goals {
        let reached = match goal.reached {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "-",
        };
        let _ = writeln!(out, "{:<66}{:>12}{:>12}  {reached}", goal.what, goal.wanted, goal.found);
    }
    out.trim_end().to_owned()
}

/// Three digits or all before the point.
fn short(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

pub fn json(table: &Table) -> Value {
    let rows = table.rows.iter().map(|row| {
        let peers = table.peers.iter().filter_map(|peer| {
            let found = row.of(peer)?;
            Some(json!({
                "peer": peer,
                "samples": found.count,
                "median": found.median,
                "best": row.best(peer),
                "least": found.least,
                "mean": found.mean,
                "hoy_is_better_by": row.gain(peer),
            }))
        });
        json!({ "measure": row.what, "higher_is_better": row.rate, "peers": peers.collect::<Vec<_>>() })
    });
    let goals = table.goals.iter().map(|goal| {
        let Goal { what, wanted, found, reached } = goal;
        json!({ "goal": what, "wanted": wanted, "found": found, "reached": reached })
    });
    json!({
        "benchmark": "network",
        "machine": table.machine,
        "rounds": table.rounds,
        "notes": table.notes,
        "measures": rows.collect::<Vec<_>>(),
        "goals": goals.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(what: &str, rate: bool, values: &[(&'static str, f64)]) -> Row {
        let mut row = Row::new(what, rate);
        for (peer, value) in values {
            row.add(peer, *value);
        }
        row
    }

    #[test]
    fn above_one_is_better_in_rates_and_in_times() {
        let table = Table {
            machine: "here".into(),
            rounds: 1,
            peers: vec!["hoy", VETH, "docker"],
            notes: vec!["podman: skipped".into()],
            rows: vec![
                row("rate", true, &[("hoy", 30.0), (VETH, 40.0), ("docker", 10.0)]),
                row("time", false, &[("hoy", 3.0), ("docker", 300.0)]),
            ],
            goals: Vec::new(),
        };
        let text = text(&table);
        let of = |start: &str| {
            let line = text.lines().find(|line| line.starts_with(start)).unwrap_or_default();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of("rate"), "rate 30.0 40.0 (0.75) 10.0 (3.00)");
        assert_eq!(of("time"), "time 3.00 - 300 (100.00)");
        assert!(text.contains("podman: skipped"), "{text}");
        let two = |rate| row("", rate, &[("hoy", 2.0), ("hoy", 5.0)]).best("hoy");
        assert_eq!((two(true), two(false)), (Some(5.0), Some(2.0)));
        let value = json(&table);
        assert_eq!(value["measures"][1]["peers"][1]["hoy_is_better_by"], 100.0);
    }
}
