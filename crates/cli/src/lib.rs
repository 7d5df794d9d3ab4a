//! Door: the command line: Docker's grammar and output.
//!
//! Decides which command was meant, hands it its flags, and turns how it ended into text and an
//! exit code. It must not know how the engine does anything.

// The create request is one document of some seventy fields.
#![recursion_limit = "256"]

mod autostart;
mod commands;
mod completion;
mod connect;
mod create;
mod csv;
mod failure;
mod format;
mod grammar;
mod help;
mod ipam;
mod mounts;
mod networking;
mod parse;
mod progress;
mod publish;
mod session;
mod signals;
mod terminal;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use failure::{Failure, Result};
use grammar::Command;
use parse::Parsed;

/// Docker's version that `--version` names first: scripts read it.
const DOCKER_VERSION: &str = "28.2.2";
const SIGPIPE: i32 = 13;

/// The program.
pub fn main() -> ExitCode {
    // A reader that has seen enough ends us, as it ends every tool.
    hoy_sys::process::default_signal(SIGPIPE);
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    if name == "hoy-start" {
        if let Some(program) = words.next() {
            let error = autostart::become_daemon(&program);
            say(&format!("start {}: {error}", program.display()));
        }
        return ExitCode::FAILURE;
    }
    let words: std::result::Result<Vec<String>, _> = words.map(|w| w.into_string()).collect();
    let Ok(words) = words else {
        say("arguments must be UTF-8");
        return ExitCode::FAILURE;
    };
    match run(&words) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if !failure.message.is_empty() {
                say(&failure.message);
            }
            // Scripts compare; people read.
            if let Some(hint) = failure.hint.filter(|_| std::io::stderr().is_terminal()) {
                say(&format!("Hint: {hint}"));
            }
            ExitCode::from(failure.code)
        }
    }
}

/// To standard error; a closed one is nobody's loss.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// To standard output.
fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

fn run(words: &[String]) -> Result<u8> {
    if let [first, rest @ ..] = words
        && matches!(first.as_str(), "__complete" | "__completeNoDesc")
    {
        return completion::complete(rest);
    }
    let global = match parse::parse(grammar::global_flags(), words, true) {
        Ok(global) => global,
        Err(failure) if failure.message == parse::HELP => {
            return print(&help::of_program()).map(|()| 0);
        }
        Err(failure) => {
            return Err(Failure::usage(format!("{failure}\n\n{}", help::after_error(None))));
        }
    };
    if global.switch("version") {
        let own = env!("CARGO_PKG_VERSION");
        return print(&format!("Docker version {DOCKER_VERSION}, build hoy-{own}\n")).map(|()| 0);
    }
    for unbuilt in ["tls", "tlsverify"] {
        if global.switch(unbuilt) {
            return Err(Failure::new(format!("--{unbuilt} is not available yet")));
        }
    }
    let args = &global.args;
    match args.first().map(String::as_str) {
        None => return print(&help::of_program()).map(|()| 0),
        Some("help") => return help_on(&args[1..]),
        Some("completion") => return completion::script(&args[1..]),
        Some(_) => {}
    }
    let (command, rest) = find(args)?;
    if command.is_group() {
        let (path, usage) = (command.path, command.usage);
        return match rest.first().map(String::as_str) {
            None | Some("--help" | "-h") => print(&help::of_command(&command)).map(|()| 0),
            Some(word) if word.starts_with('-') => Err(Failure::usage(format!(
                "unknown flag: {word}\n\nUsage:  {0} {usage}\n\nRun '{0} {path} --help' for more information",
                help::NAME
            ))),
            Some(word) => Err(Failure::new(format!(
                "{0}: unknown command: {0} {path} {word}\n\nUsage:  {0} {usage}\n\nRun '{0} {path} --help' for more information",
                help::NAME
            ))),
        };
    }
    let asks_for_help = rest.iter().take_while(|w| *w != "--").any(|w| w == "--help");
    if !command.is_built() {
        if asks_for_help {
            return print(&help::of_command(&command)).map(|()| 0);
        }
        return Err(Failure::new(format!(
            "{0}: '{0} {1}' is not available yet",
            help::NAME,
            command.path
        )));
    }
    execute(&command, rest, &global)
}

fn help_on(words: &[String]) -> Result<u8> {
    if words.is_empty() {
        return print(&help::of_program()).map(|()| 0);
    }
    let (command, _) = find(words)?;
    print(&help::of_command(&command)).map(|()| 0)
}

/// The longest command that the words begin with.
fn find(words: &[String]) -> Result<(Command, &[String])> {
    let depth = words.iter().take(3).take_while(|word| !word.starts_with('-')).count();
    for length in (1..=depth).rev() {
        if let Some(command) = Command::find(&words[..length].join(" ")) {
            return Ok((command, &words[length..]));
        }
    }
    let word = words.first().map_or("", String::as_str);
    Err(Failure::new(format!(
        "{0}: unknown command: {0} {word}\n\nRun '{0} --help' for more information",
        help::NAME
    )))
}

fn execute(command: &Command, words: &[String], global: &Parsed) -> Result<u8> {
    let parsed = match parse::parse(command.flags(), words, command.stops_at_argument()) {
        Ok(parsed) => parsed,
        Err(failure) if failure.message == parse::HELP => {
            return print(&help::of_command(command)).map(|()| 0);
        }
        Err(failure) => {
            let text = format!("{failure}\n\n{}", help::after_error(Some(command)));
            return Err(failure.with_message(text));
        }
    };
    if let Some(text) = help::wrong_count(command, parsed.args.len()) {
        return Err(Failure::new(text));
    }
    commands::run(command, &parsed, global)
}
