//! From facts to causes. Pure.

use hoy_types::Signal;
use hoy_wire::Cause;

use super::facts::{Facts, LOST, Stage};
use super::{refused, words};

/// How sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sure {
    Certain,
    Likely,
    Possible,
}

impl Sure {
    const fn word(self) -> &'static str {
        match self {
            Self::Certain => "certain",
            Self::Likely => "likely",
            Self::Possible => "possible",
        }
    }
}

/// Causes as they are found.
#[derive(Debug, Default)]
pub(crate) struct Causes(Vec<(Sure, Cause)>);

impl Causes {
    pub fn add(
        &mut self,
        sure: Sure,
        kind: &str,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        if self.has(kind) {
            return;
        }
        let cause = Cause {
            kind: kind.to_owned(),
            confidence: sure.word().to_owned(),
            what: what.into(),
            evidence: Vec::new(),
            hint: hint.into(),
        };
        self.0.push((sure, cause));
    }

    /// What the last one was concluded from.
    pub fn because(&mut self, evidence: impl Into<String>) {
        if let Some((_, cause)) = self.0.last_mut() {
            cause.evidence.push(evidence.into());
        }
    }

    pub fn has(&self, kind: &str) -> bool {
        self.0.iter().any(|(_, cause)| cause.kind == kind)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The surest first, else in the order in which they were found.
    fn sorted(mut self) -> Vec<Cause> {
        self.0.sort_by_key(|(sure, _)| *sure);
        self.0.into_iter().map(|(_, cause)| cause).collect()
    }
}

/// Everything that may be why a container is as it is.
pub(crate) fn causes(facts: &Facts) -> Vec<Cause> {
    let mut out = Causes::default();
    match facts.stage() {
        Stage::NeverStarted => {
            out.add(
                Sure::Certain,
                "never-started",
                "It was made, but nobody has started it.",
                format!("hoy start {}", facts.name),
            );
            for path in &facts.gone {
                out.add(
                    Sure::Likely,
                    "mount-source-missing",
                    format!("Its start will fail if {path}, which it mounts, is not there."),
                    "make it first",
                );
            }
        }
        Stage::Refused => {
            hangs(facts, &mut out);
            refused::causes(facts, &mut out);
        }
        Stage::Alive => {
            hangs(facts, &mut out);
            source_deleted(facts, &mut out);
            alive(facts, &mut out);
        }
        Stage::Ended => {
            ended(facts, &mut out);
            source_deleted(facts, &mut out);
        }
    }
    restarts(facts, &mut out);
    out.sorted()
}

/// A mount whose server does not answer.
fn hangs(facts: &Facts, out: &mut Causes) {
    let said = facts.error.contains("waited in the kernel for too long");
    if facts.silent.is_none() && facts.waits.is_empty() && !said {
        return;
    }
    let places: Vec<String> =
        facts.served.iter().map(|(target, kind)| format!("{target} ({kind})")).collect();
    let (sure, what) = match (&facts.silent, facts.waits.first(), places.as_slice()) {
        (Some(path), _, _) => {
            (Sure::Certain, format!("What it mounts does not answer: {path} hangs."))
        }
        (None, Some(one), [place]) => (
            Sure::Certain,
            format!(
                "Its process {} ({}) waits for {place}, which does not answer.",
                one.name, one.pid
            ),
        ),
        (None, Some(one), _) => (
            Sure::Certain,
            format!(
                "Its process {} ({}) waits for a file system that does not answer.",
                one.name, one.pid
            ),
        ),
        (None, None, _) => (
            Sure::Likely,
            "Its program, or what that needs, lies on a file system that does not answer."
                .to_owned(),
        ),
    };
    let hint = "see whether the file system's server runs and can be reached: what waits for it \
                goes on when it answers, and cannot be ended before";
    out.add(sure, "file-system-hangs", what, hint);
    for one in &facts.waits {
        out.because(format!("{} ({}) is in {}", one.name, one.pid, one.place));
    }
    if places.len() > 1 {
        out.because(format!("it has mounts of servers at {}", places.join(", ")));
    }
}

/// A bind mount whose source is gone since it was started.
fn source_deleted(facts: &Facts, out: &mut Causes) {
    for path in &facts.gone {
        out.add(
            Sure::Likely,
            "mount-source-missing",
            format!(
                "{path}, which it mounts, is not there any more: it sees what was there before, and \
                 does not start again."
            ),
            "make it anew, and then restart the container",
        );
    }
}

fn alive(facts: &Facts, out: &mut Causes) {
    unhealthy(facts, out);
    if facts.status == "paused" {
        out.add(
            Sure::Certain,
            "paused",
            "It is paused: its processes are there, and do nothing.",
            format!("hoy unpause {}", facts.name),
        );
    }
    if facts.oom_killed {
        memory(facts, out, false);
    }
    if out.is_empty() {
        out.add(Sure::Certain, "running", "It runs, and nothing is known to be wrong.", "");
    }
}

fn unhealthy(facts: &Facts, out: &mut Causes) {
    let Some(health) = facts.health.as_ref().filter(|health| health.status == "unhealthy") else {
        return;
    };
    let last = health.log.iter().flatten().last();
    let said = last.map_or("", |probe| probe.output.trim());
    let code = last.map_or(0, |probe| probe.exit_code);
    let how = match code {
        -1 if said.contains("exceeded timeout") => "took too long".to_owned(),
        -1 => "could not be run".to_owned(),
        code => format!("ended with {code}"),
    };
    out.add(
        Sure::Certain,
        "unhealthy",
        format!(
            "Its health check fails: the last {} failed, and the last one {how}.",
            match health.failing_streak {
                1 => "probe".to_owned(),
                count => format!("{count} probes"),
            }
        ),
        format!(
            "run the check yourself: hoy exec {} COMMAND (hoy inspect -f '{{{{json \
             .Config.Healthcheck.Test}}}}' {} shows which)",
            facts.name, facts.name
        ),
    );
    if !said.is_empty() {
        out.because(format!("the last probe said: {}", words::cut(said)));
    }
}

fn ended(facts: &Facts, out: &mut Causes) {
    lost(facts, out);
    if facts.oom_killed {
        memory(facts, out, true);
    }
    signalled(facts, out);
    limits(facts, out);
    words::causes(facts, out);
    by_code(facts, out);
    unhealthy(facts, out);
}

fn lost(facts: &Facts, out: &mut Causes) {
    if facts.error != LOST {
        return;
    }
    if facts.started > 0 && facts.started < facts.booted {
        out.add(
            Sure::Certain,
            "machine-restarted",
            "The machine was restarted while it ran.",
            format!("hoy update --restart unless-stopped {} lets it come back", facts.name),
        );
        return;
    }
    out.add(
        Sure::Certain,
        "supervisor-lost",
        "Its supervisor was ended, and so it was, too: nobody can say how it would have ended.",
        "look in the machine's log for who ended hoy-shim, or whether memory was short",
    );
}

fn bytes(count: u64) -> String {
    const MIB: u64 = 1 << 20;
    match count {
        0..MIB => format!("{} KiB", count >> 10),
        _ => format!("{:.1} MiB", count as f64 / MIB as f64),
    }
}

/// `first`: the container has ended. Otherwise it goes on without a process.
fn memory(facts: &Facts, out: &mut Causes, over: bool) {
    let end = facts.end.clone().unwrap_or_default();
    let limit = facts.memory.map_or_else(
        || "what the machine has".to_owned(),
        |limit| format!("its limit of {}", bytes(limit)),
    );
    let victim = end.tasks.iter().find(|task| task.killed);
    let victim = victim.map_or_else(
        || "a process of it".to_owned(),
        |task| format!("its process {} ({})", task.name, task.pid),
    );
    let then = match (over, end.signal == Some(9) || facts.exit_code == 137) {
        (true, true) => "and with that it ended",
        (true, false) => "and it ended after that",
        (false, _) => "and it runs on",
    };
    let sure = if !over || facts.exit_code == 137 { Sure::Certain } else { Sure::Likely };
    out.add(
        sure,
        "out-of-memory",
        format!("It used more memory than {limit}: the kernel ended {victim}, {then}."),
        match facts.memory {
            Some(limit) => {
                let more = bytes(limit.saturating_mul(2));
                format!(
                    "let it use less, or give it more: hoy update --memory {} {}",
                    more.replace(" MiB", "m").replace(" KiB", "k").replace(".0m", "m"),
                    facts.name
                )
            }
            None => "let it use less, or limit others: the machine's memory was short".to_owned(),
        },
    );
    if let Some(peak) = end.memory_peak.filter(|peak| *peak > 0) {
        out.because(format!("the most that it used: {}", bytes(peak)));
    }
    for task in end.tasks.iter().take(3).filter(|task| task.rss > 0) {
        let killed = if task.killed { ", ended by the kernel" } else { "" };
        out.because(format!("{} ({}): {}{killed}", task.name, task.pid, bytes(task.rss)));
    }
}

fn name_of(signal: i32) -> String {
    Signal::from_number(signal).map_or_else(|| format!("signal {signal}"), |name| name.to_string())
}

/// Signals by which programs end through their own doing.
fn crash(signal: i32) -> Option<(&'static str, &'static str)> {
    Some(match signal {
        4 => ("an instruction that this processor does not know", "built for a newer processor?"),
        5 => ("a trap, as debuggers and assertions make it", ""),
        6 => ("it aborted itself, as after a failed assertion", "its last lines may say why"),
        7 | 11 => (
            "it used memory that is not its own: a fault of the program",
            "a core dump or a debugger says where",
        ),
        8 => ("a calculation without a result, as a division by zero", ""),
        13 => ("it wrote to where nobody reads any more", ""),
        24 | 25 => ("a limit of ulimit was reached", "see --ulimit cpu and fsize"),
        31 => (
            "a system call that its filter does not allow",
            "try --security-opt seccomp=unconfined once to see whether it is that",
        ),
        _ => return None,
    })
}

fn signalled(facts: &Facts, out: &mut Causes) {
    let end = facts.end.clone().unwrap_or_default();
    let asked = |signal: i32| end.asked.iter().rev().find(|asked| asked.signal == signal);
    let again = format!("hoy start {}", facts.name);
    let first = end.asked.front();
    match end.signal {
        Some(9) if asked(9).is_some() => {
            let before = end.asked.iter().find(|one| one.signal != 9);
            match before {
                Some(one) => {
                    let waited = asked(9).map_or(0, |kill| (kill.at - one.at) / 1_000_000_000);
                    out.add(
                        Sure::Certain,
                        "stop-timeout",
                        match (name_of(one.signal), waited) {
                            (name, 0) => format!(
                                "It was told to stop: as {name} did not end it, and would not \
                                 have, it was killed."
                            ),
                            (name, _) => format!(
                                "It was told to stop: as it did not end by {name} within \
                                 {waited} s, it was killed."
                            ),
                        },
                        "its program should end on that signal: see --stop-signal, --stop-timeout \
                         and --init",
                    );
                }
                None => out.add(
                    Sure::Certain,
                    "killed-on-request",
                    "Somebody has killed it through the engine (kill, rm -f, or stop without \
                     patience).",
                    again,
                ),
            }
        }
        Some(signal) if asked(signal).is_some() => out.add(
            Sure::Certain,
            "stopped-on-request",
            format!("Somebody has stopped it through the engine: it ended by {}.", name_of(signal)),
            again,
        ),
        Some(9) if facts.oom_killed => {}
        Some(signal) => match crash(signal) {
            Some((what, hint)) => out.add(
                Sure::Certain,
                if signal == 31 { "system-call-refused" } else { "crashed" },
                format!("Its program crashed by {}: {what}.", name_of(signal)),
                hint,
            ),
            None => out.add(
                Sure::Likely,
                "killed-by-others",
                format!(
                    "It was ended by {}, which neither the engine was asked for nor the kernel \
                     sent for want of memory: a process in it did that, or somebody on the machine.",
                    name_of(signal)
                ),
                "look at what runs beside it, and at the machine's own guards of memory",
            ),
        },
        None if first.is_some() && facts.error.is_empty() => {
            let signal = first.map_or(15, |asked| asked.signal);
            let code = facts.exit_code;
            out.add(
                Sure::Certain,
                "stopped-on-request",
                format!(
                    "Somebody has sent it {} through the engine, and it ended by itself then, \
                     with {code}.",
                    name_of(signal)
                ),
                again,
            );
        }
        None if (129..=192).contains(&facts.exit_code) && facts.error.is_empty() => {
            let signal = facts.exit_code - 128;
            let why = crash(signal).map_or_else(String::new, |(what, _)| format!(" ({what})"));
            out.add(
                Sure::Likely,
                "child-killed",
                format!(
                    "It ended with {}, which says that a program that it started was ended by \
                     {}{why}.",
                    facts.exit_code,
                    name_of(signal)
                ),
                format!("hoy logs {}", facts.name),
            );
        }
        None => {}
    }
}

fn limits(facts: &Facts, out: &mut Causes) {
    let end = facts.end.clone().unwrap_or_default();
    if end.pids_refused > 0 {
        let limit = facts.pids.map_or_else(String::new, |limit| format!(" of {limit}"));
        let sure = if words::says(facts, &words::NO_FORK) { Sure::Certain } else { Sure::Likely };
        out.add(
            sure,
            "pids-limit",
            format!("It has reached its limit{limit} processes and threads: no more could begin."),
            format!("hoy update --pids-limit NUMBER {}", facts.name),
        );
        out.because(format!("the kernel has refused {} times", end.pids_refused));
    }
}

/// What the code alone says, where nothing better is known.
fn by_code(facts: &Facts, out: &mut Causes) {
    if !out.is_empty() {
        return;
    }
    let shells = ["sh", "bash", "ash", "dash", "zsh", "busybox"];
    let program = facts.program().rsplit('/').next().unwrap_or_default();
    let alone = facts.command.len() == 1 && shells.contains(&program);
    match facts.exit_code {
        0 if alone && !facts.open_stdin => out.add(
            Sure::Certain,
            "shell-without-input",
            format!("It is a shell ({program}) without input: it had nothing to do, and ended."),
            "run it with -it, or give it a command",
        ),
        0 => out.add(
            Sure::Certain,
            "finished",
            "Its program has done its work, and ended with 0.",
            format!(
                "a service must stay in the foreground; hoy logs {} shows what it said",
                facts.name
            ),
        ),
        126 | 127 => out.add(
            Sure::Likely,
            "command-not-found",
            format!(
                "It ended with {}, as shells do for a command that {}.",
                facts.exit_code,
                if facts.exit_code == 127 { "they do not find" } else { "cannot be executed" }
            ),
            format!("hoy logs {}", facts.name),
        ),
        code => out.add(
            Sure::Certain,
            "program-failed",
            format!("Its program ended by itself with {code}, which it calls a failure."),
            match facts.log.is_empty() {
                true => "it has written nothing: its manual says what that number means".to_owned(),
                false => "its last lines say why".to_owned(),
            },
        ),
    }
}

fn restarts(facts: &Facts, out: &mut Causes) {
    let many = facts.restarts > 0 && facts.stage() != Stage::Alive;
    if facts.restarting {
        out.add(
            Sure::Certain,
            "restart-loop",
            format!(
                "It ends again and again: its policy {:?} has started it {} times, and waits \
                 before the next time, each time twice as long, up to a minute.",
                facts.policy, facts.restarts
            ),
            format!("hoy stop {} ends the loop", facts.name),
        );
    } else if many && facts.policy.starts_with("on-failure") {
        out.add(
            Sure::Certain,
            "restarts-used-up",
            format!(
                "Its policy {:?} has started it {} times, and does not again.",
                facts.policy, facts.restarts
            ),
            format!("hoy start {}", facts.name),
        );
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
