//! The command line. Pure.

use anyhow::{Context as _, Result, bail, ensure};

/// Everything that can be measured, in the order of the table. `hoy` is measured always: the
/// others are compared with it.
pub const NAMES: &[&str] =
    &["hoy", "docker+hoyd", "docker", "podman-crun", "podman-runc", "crun", "runc"];

/// Those of them that have networks of their own.
pub const NETWORKED: &[&str] = &["hoy", "docker", "podman-crun"];

pub const USAGE: &str = "usage: bench start [--rounds N] [--only NAME,..] [--json]\n       bench limits [--rounds N] [--json]\n       bench network [--rounds N] [--only NAME,..] [--part NAME].. [--json]\n       bench volumes [--rounds N] [--only NAME,..] [--json]\n       bench quota [--rounds N] [--json]\n       bench observe [--rounds N] [--only NAME,..] [--json]";

/// The parts of the benchmark of networks.
pub const PARTS: &[&str] = &["traffic", "names", "starts", "ports"];

/// Which benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// What it costs to have a container, for every engine.
    Start,
    /// What each limit adds to a start of hoy's.
    Limits,
    /// What networks cost, for every engine.
    Network,
    /// What volumes and the sizes of things cost, for every engine.
    Volumes,
    /// What a limit of a directory costs.
    Quota,
    /// What it takes to look at many containers, for every engine.
    Observe,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub what: What,
    pub rounds: usize,
    /// Empty: all.
    pub only: Vec<String>,
    pub json: bool,
    /// Of a bench that has parts. Empty: all.
    pub parts: Vec<String>,
}

impl Options {
    pub fn wants(&self, name: &str) -> bool {
        name == "hoy" || self.only.is_empty() || self.only.iter().any(|wanted| wanted == name)
    }

    pub fn wants_part(&self, name: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|wanted| wanted == name)
    }
}

pub fn parse(args: &[String]) -> Result<Options> {
    let mut words = args.iter().map(String::as_str);
    let what = match words.next() {
        Some("start") => What::Start,
        Some("limits") => What::Limits,
        Some("network") => What::Network,
        Some("volumes") => What::Volumes,
        Some("quota") => What::Quota,
        Some("observe") => What::Observe,
        _ => bail!(
            "which benchmark? There are start, limits, network, volumes, quota and observe\n{USAGE}"
        ),
    };
    // Some are long.
    let rounds = if matches!(what, What::Start | What::Limits) { 20 } else { 5 };
    let mut options = Options { what, rounds, only: Vec::new(), json: false, parts: Vec::new() };
    while let Some(word) = words.next() {
        match word {
            "--rounds" => {
                let number = words.next().context("--rounds needs a number")?;
                options.rounds = number.parse().context("--rounds")?;
                ensure!(options.rounds > 0, "--rounds: at least 1");
            }
            "--only" if what != What::Limits => {
                let names = words.next().context("--only needs names")?;
                let networked = matches!(what, What::Network | What::Volumes | What::Observe);
                let known = if networked { NETWORKED } else { NAMES };
                for name in names.split(',') {
                    ensure!(known.contains(&name), "no {name:?}; there are {}", known.join(", "));
                    options.only.push(name.to_owned());
                }
            }
            "--part" if what == What::Network => {
                let name = words.next().context("--part needs a name")?;
                ensure!(PARTS.contains(&name), "no part {name:?}; there are {}", PARTS.join(", "));
                options.parts.push(name.to_owned());
            }
            "--json" => options.json = true,
            _ => bail!("unknown argument {word:?}\n{USAGE}"),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Options> {
        parse(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn names_are_exact_and_hoy_is_always_there() {
        let options = of("start --only crun,docker --rounds 3 --json").unwrap();
        assert!(options.wants("hoy") && options.wants("crun") && options.wants("docker"));
        assert!(!options.wants("podman-crun") && !options.wants("docker+hoyd"));
        assert_eq!((options.rounds, options.json), (3, true));
        assert!(NAMES.iter().all(|name| of("start").unwrap().wants(name)));
    }

    #[test]
    fn rounds_of_a_network_are_fewer() {
        let options = of("network --only docker").unwrap();
        assert_eq!((options.what, options.rounds), (What::Network, 5));
        assert!(options.wants("docker") && !options.wants("podman-crun"));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for line in [
            "network --part nosuch",
            "start --part names",
            "",
            "stop",
            "start --only podman",
            "start --rounds",
            "start --rounds 0",
            "start -x",
            "network --only crun",
        ] {
            assert!(of(line).is_err(), "{line}");
        }
    }
}
