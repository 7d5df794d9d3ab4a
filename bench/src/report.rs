//! The result, for a reader and for a program. Pure.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::goals::Goal;
use crate::many::{MANY, Many};
use crate::memory::Memory;
use crate::stats::{Figures, Test};

pub struct Report {
    pub machine: String,
    pub rounds: usize,
    /// Who was left out and why; what the bare runtimes ran.
    pub notes: Vec<String>,
    pub tests: Vec<Test>,
    pub many: Vec<Many>,
    pub goals: Vec<Goal>,
}

/// Tables.
pub fn text(report: &Report) -> String {
    let mut out = format!("{}; {} rounds, interleaved\n", report.machine, report.rounds);
    for note in &report.notes {
        let _ = writeln!(out, "  {note}");
    }
    out.push_str(
        "Times in milliseconds: of the clock, and of all processors in the peer's own cgroup \
         (client, daemon,\nhelpers, container; the kernel's own threads are in none). \
         \"x hoy\": the median in hoy's.\n",
    );
    for test in &report.tests {
        out.push_str(&times(test));
    }
    if !report.many.is_empty() {
        out.push_str(&starts(&report.many));
        out.push_str(&memory(&report.many));
    }
    let _ = writeln!(out, "\n{:<53}{:>16}{:>16}  reached", "goal", "wanted", "found");
    for goal in &report.goals {
        let reached = match goal.reached {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "-",
        };
        let _ = writeln!(out, "{:<53}{:>16}{:>16}  {reached}", goal.what, goal.wanted, goal.found);
    }
    out.pop();
    out
}

fn times(test: &Test) -> String {
    let hoy = test.of("hoy").map(|series| (series.wall().median, series.cpu().median));
    let (hoy_wall, hoy_cpu) = hoy.unwrap_or((f64::NAN, f64::NAN));
    let mut out = format!(
        "\n{}\n{:<14}{:>10}{:>10}{:>9} |{:>10}{:>10}{:>10}{:>9}\n",
        test.name, "", "median", "least", "x hoy", "CPU med.", "least", "mean", "x hoy"
    );
    for series in &test.series {
        let (wall, cpu) = (series.wall(), series.cpu());
        let _ = writeln!(
            out,
            "{:<14}{:>10.2}{:>10.2}{:>9.1} |{:>10.2}{:>10.2}{:>10.2}{:>9.1}",
            series.peer,
            wall.median,
            wall.least,
            wall.median / hoy_wall,
            cpu.median,
            cpu.least,
            cpu.mean,
            cpu.median / hoy_cpu,
        );
    }
    out
}

fn starts(many: &[Many]) -> String {
    let hoy = many.iter().find(|one| one.peer == "hoy").map(|one| (one.wall, one.cpu));
    let (hoy_wall, hoy_cpu) = hoy.unwrap_or((f64::NAN, f64::NAN));
    let mut out = format!(
        "\n{MANY} detached starts, one after another (seconds)\n{:<14}{:>10}{:>9} |{:>10}{:>9}\n",
        "", "clock", "x hoy", "CPU", "x hoy"
    );
    for one in many {
        let (wall, cpu) = (one.wall / 1e3, one.cpu / 1e3);
        let (more, more_cpu) = (one.wall / hoy_wall, one.cpu / hoy_cpu);
        let peer = one.peer;
        let _ = writeln!(out, "{peer:<14}{wall:>10.2}{more:>9.1} |{cpu:>10.2}{more_cpu:>9.1}");
    }
    out
}

fn memory(many: &[Many]) -> String {
    let mut out = format!(
        "\nmemory that is a process's own (with its part of what is shared), {MANY} idle containers\n\
         {:<14}{:>22}{:>22}{:>26}{:>11}\n",
        "", "daemon idle MiB", "daemon then MiB", "helpers KiB/container", "total KiB"
    );
    let mib = |memory: Memory| {
        let (own, part) = (memory.private as f64, memory.proportional as f64);
        format!("{:.1} ({:.1})", own / 1024.0, part / 1024.0)
    };
    for one in many {
        let Some(held) = one.memory else { continue };
        let each = |kib: u64| kib as f64 / MANY as f64;
        let helpers =
            format!("{:.0} ({:.0})", each(held.helpers.private), each(held.helpers.proportional));
        let _ = writeln!(
            out,
            "{:<14}{:>22}{:>22}{:>26}{:>11.0}",
            one.peer,
            mib(held.idle),
            mib(held.busy),
            helpers,
            held.per_container(),
        );
    }
    out.push_str("total: helpers and what the daemon has grown by, for each container\n");
    out
}

/// The same for a program.
pub fn json(report: &Report) -> Value {
    let figures = |figures: Figures| json!({ "median": figures.median, "least": figures.least, "mean": figures.mean });
    let tests = report.tests.iter().map(|test| {
        let peers = test.series.iter().map(|series| {
            json!({
                "peer": series.peer,
                "samples": series.samples.len(),
                "wall_ms": figures(series.wall()),
                "cpu_ms": figures(series.cpu()),
            })
        });
        json!({ "test": test.name, "peers": peers.collect::<Vec<_>>() })
    });
    let kib =
        |memory: Memory| json!({ "private_kib": memory.private, "pss_kib": memory.proportional });
    let many = report.many.iter().map(|one| {
        let memory = one.memory.map(|held| {
            json!({
                "daemon_idle": kib(held.idle),
                "daemon_with_all": kib(held.busy),
                "helpers": kib(held.helpers),
                "helper_processes": held.processes,
                "private_kib_per_container": held.per_container(),
            })
        });
        json!({ "peer": one.peer, "wall_ms": one.wall, "cpu_ms": one.cpu, "memory": memory })
    });
    let goals = report.goals.iter().map(|goal| {
        let Goal { what, wanted, found, reached } = goal;
        json!({ "goal": what, "wanted": wanted, "found": found, "reached": reached })
    });
    json!({
        "benchmark": "start",
        "machine": report.machine,
        "rounds": report.rounds,
        "notes": report.notes,
        "tests": tests.collect::<Vec<_>>(),
        "containers": MANY,
        "detached_starts": many.collect::<Vec<_>>(),
        "goals": goals.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::many::Held;
    use crate::stats::{Sample, Series};

    fn report() -> Report {
        let series = |peer, wall| Series { peer, samples: vec![Sample { wall, cpu: wall / 2.0 }] };
        let memory = |private| Memory { private, proportional: private + 1 };
        let held = Held {
            idle: memory(9216),
            busy: memory(10240),
            helpers: memory(5600),
            processes: MANY,
        };
        Report {
            machine: "here".into(),
            rounds: 1,
            notes: vec!["runc: skipped".into()],
            tests: vec![Test {
                name: "exec true",
                series: vec![series("hoy", 2.0), series("docker", 50.0)],
            }],
            many: vec![
                Many { peer: "hoy", wall: 900.0, cpu: 800.0, memory: Some(held) },
                Many { peer: "crun", wall: 1800.0, cpu: 1600.0, memory: None },
            ],
            goals: Vec::new(),
        }
    }

    #[test]
    fn a_table_has_ratios_of_the_same_run() {
        let text = text(&report());
        let row = |start: &str| {
            let line = text.lines().find(|line| line.starts_with(start)).unwrap_or_default();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(row("docker"), "docker 50.00 50.00 25.0 | 25.00 25.00 25.00 25.0");
        assert_eq!(row("crun"), "crun 1.80 2.0 | 1.60 2.0");
        assert!(text.contains("9.0 (9.0)"), "{text}");
        assert!(text.contains("runc: skipped"), "{text}");
    }

    #[test]
    fn a_program_reads_the_same_figures() {
        let value = json(&report());
        assert_eq!(value["tests"][0]["peers"][1]["wall_ms"]["median"], 50.0);
        assert_eq!(value["detached_starts"][0]["memory"]["private_kib_per_container"], 66.24);
        assert_eq!(value["detached_starts"][1]["memory"], Value::Null);
    }
}
