//! Benchmarks: programs that print figures. They never fail because of a figure; tests never time
//! anything.
//!
//! The program runs twice: outside it makes a place and waits (`place`), inside it measures.

mod account;
mod bundle;
mod docker;
mod goals;
mod hoy;
mod image;
mod limits;
mod many;
mod measure;
mod memory;
mod network;
mod observe;
mod options;
mod peer;
mod place;
mod podman;
mod quota;
mod report;
mod start;
mod stats;
mod volumes;

use std::io::Write as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use options::What;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            note(&format!("bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let options = options::parse(&args)?;
    match place::inside() {
        Some(place) => {
            let run = match options.what {
                What::Start => start::run,
                What::Limits => limits::run,
                What::Network => network::run,
                What::Volumes => volumes::run,
                What::Quota => quota::run,
                What::Observe => observe::run,
            };
            run(&place, &options).map(|()| ExitCode::SUCCESS)
        }
        None => place::enter(&args),
    }
}

/// The result.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// What goes on meanwhile.
fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Runs a command that must succeed; its standard output.
fn output(command: &mut Command) -> Result<String> {
    let out = command.output().with_context(|| format!("run {command:?}"))?;
    if !out.status.success() {
        bail!("{command:?} ended with {}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Whether a program is on PATH.
fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).exists())
}
