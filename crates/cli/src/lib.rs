//! Door: the command line: Docker's grammar and output.
//!
//! Decides which command was meant, hands it its flags, and turns how it ended into text and an
//! exit code. It must not know how the engine does anything.

// The create request is one document of some seventy fields.
#![recursion_limit = "256"]

mod api_socket;
mod autostart;
mod commands;
mod completion;
mod connect;
mod contexts;
mod create;
mod csv;
mod device_requests;
mod experiments;
mod failure;
mod format;
mod go_path;
mod grammar;
mod help;
mod hooks;
mod ipam;
mod mounts;
mod networking;
mod parse;
mod plugins;
mod progress;
mod publish;
mod session;
mod settings;
mod signals;
mod terminal;
mod zip;

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
    let mut words = words.peekable();
    if words.peek().is_some_and(|word| word == "__session") {
        let error = autostart::become_session(words.skip(1));
        say(&error.to_string());
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
        return completion::complete(rest, first == "__complete");
    }
    let global = match parse::parse(grammar::global_flags(), words, true) {
        Ok(global) => global,
        Err(failure) if failure.message == parse::HELP => return help_before(words),
        Err(failure) => {
            return Err(Failure::usage(format!("{failure}\n\n{}", help::after_error(None))));
        }
    };
    if global.switch("version") {
        let own = env!("CARGO_PKG_VERSION");
        return print(&format!("Docker version {DOCKER_VERSION}, build hoy-{own}\n")).map(|()| 0);
    }
    let level = global.text("log-level");
    let levels = ["trace", "debug", "info", "warn", "warning", "error", "fatal", "panic"];
    if !levels.contains(&level.to_ascii_lowercase().as_str()) {
        return Err(Failure::new(format!("Unable to parse logging level: {level}")));
    }
    let args = &global.args;
    match args.first().map(String::as_str) {
        None => return bare(&help::of_program(&global)),
        Some("help") => return help_on(&args[1..], words, &global),
        Some("completion") => return completion::script(&args[1..]),
        Some(_) => {}
    }
    if let Some(code) = by_plugin(words, &global)? {
        return Ok(code);
    }
    let (command, rest) = find(args)?;
    let asks_for_help = rest.iter().take_while(|w| *w != "--").any(|w| w == "--help");
    if command.is_experiment() {
        return experiments::command(&command, asks_for_help, &global);
    }
    if command.is_group() {
        return group(&command, rest);
    }
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
    let result = execute(&command, rest, &global);
    hooks::after_command(&command, rest, &global, &result);
    result
}

/// Help that nobody asked for by name goes where errors go.
fn bare(text: &str) -> Result<u8> {
    say(text.trim_end_matches('\n'));
    Ok(0)
}

/// A group without one of its commands.
fn group(command: &Command, rest: &[String]) -> Result<u8> {
    let (path, usage) = (command.path, command.usage);
    let after =
        format!("Usage:  {0} {usage}\n\nRun '{0} {path} --help' for more information", help::NAME);
    if rest.iter().any(|word| matches!(word.as_str(), "--help" | "-h")) {
        return print(&help::of_command(command)).map(|()| 0);
    }
    match rest.iter().find(|word| word.starts_with('-')).or(rest.first()) {
        None => bare(&help::of_command(command)),
        Some(word) if word.starts_with("--") => {
            Err(Failure::usage(format!("unknown flag: {word}\n\n{after}")))
        }
        Some(word) if word.starts_with('-') => Err(Failure::usage(format!(
            "unknown shorthand flag: '{}' in {word}\n\n{after}",
            word.chars().nth(1).unwrap_or('-')
        ))),
        Some(word) => {
            let text = format!("{0}: unknown command: {0} {path} {word}\n\n{after}", help::NAME);
            Err(Failure::new(text).with_hint(similar(&format!("{path} {word}"))))
        }
    }
}

/// A command that a plugin has: what Docker gives to its builder, and what nobody here knows.
fn by_plugin(words: &[String], global: &Parsed) -> Result<Option<u8>> {
    let args = &global.args;
    let first = args.first().map_or("", String::as_str);
    if matches!(first, "build" | "builder" | "bake" | "image") {
        return by_builder(words, global);
    }
    // The one command of Docker's plugins that is here without any.
    let own = first != "buildx" && grammar::Command::find(first).is_some();
    if own {
        return Ok(None);
    }
    match plugins::find(first, global) {
        Some(plugin) if plugin.about.is_ok() => {
            let code = plugins::run(&plugin, words, &[], global)?;
            hooks::after_plugin(args, global);
            Ok(Some(code))
        }
        _ => Ok(None),
    }
}

fn by_builder(words: &[String], global: &Parsed) -> Result<Option<u8>> {
    let wanted = match std::env::var("DOCKER_BUILDKIT") {
        Ok(text) if !text.is_empty() => Some(parse::boolean(&text).ok_or_else(|| {
            Failure::new("DOCKER_BUILDKIT environment variable expects boolean value: strconv.ParseBool: parsing \"".to_owned() + &text + "\": invalid syntax")
        })?),
        _ => None,
    };
    let settings = settings::load(&settings::directory(global));
    let alias = settings["aliases"]["builder"].as_str();
    let builder = alias.unwrap_or("buildx");
    let Some(words) = plugins::forwarded(words, &global.args, builder) else {
        return Ok(None);
    };
    let bake = global.args.first().is_some_and(|word| word == "bake");
    if wanted == Some(false) && !bake {
        return Ok(None);
    }
    let plugin = plugins::find(builder, global).filter(|plugin| plugin.about.is_ok());
    let Some(plugin) = plugin else {
        if wanted == Some(true) || alias.is_some() {
            return Err(Failure::new(
                "ERROR: BuildKit is enabled but the buildx component is missing or broken.\n       Install the buildx component to build images with BuildKit:\n       https://docs.docker.com/go/buildx/",
            ));
        }
        return Ok(None);
    };
    // What is built is to be in the engine that is in use.
    let named = std::env::var_os("BUILDX_BUILDER").is_some_and(|name| !name.is_empty())
        || words.iter().any(|word| word == "--builder" || word.starts_with("--builder="));
    let mut more = Vec::new();
    if !named {
        more.push(("BUILDX_BUILDER", connect::Said::of(global).context().to_owned()));
    }
    let code = plugins::run(&plugin, &words, &more, global)?;
    if let Some(args) = plugins::forwarded(&global.args, &global.args, builder) {
        hooks::after_plugin(&args, global);
    }
    Ok(Some(code))
}

/// `--help` before the command.
fn help_before(words: &[String]) -> Result<u8> {
    let rest: Vec<String> =
        words.iter().filter(|word| !matches!(word.as_str(), "--help" | "-h")).cloned().collect();
    let global = parse::parse(grammar::global_flags(), &rest, true).unwrap_or_default();
    if global.args.is_empty() {
        return print(&help::of_program(&global)).map(|()| 0);
    }
    help_on(&global.args, words, &global)
}

fn help_on(words: &[String], all: &[String], global: &Parsed) -> Result<u8> {
    let Some(first) = words.first() else {
        return print(&help::of_program(global)).map(|()| 0);
    };
    match find(words) {
        Ok((command, _)) if command.is_experiment() => experiments::command(&command, true, global),
        Ok((command, rest)) if first != "buildx" && (rest.is_empty() || !command.is_group()) => {
            print(&help::of_command(&command)).map(|()| 0)
        }
        found => {
            if let Some(plugin) = plugins::find(first, global).filter(|plugin| plugin.about.is_ok())
            {
                return plugins::run(&plugin, all, &[], global);
            }
            match found {
                Ok((command, _)) => print(&help::of_command(&command)).map(|()| 0),
                Err(_) => Err(Failure::new(format!("unknown help topic: {}", words.join(" ")))),
            }
        }
    }
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
    let text = format!(
        "{0}: unknown command: {0} {word}\n\nRun '{0} --help' for more information",
        help::NAME
    );
    Err(Failure::new(text).with_hint(similar(word)))
}

/// The command that was meant, most likely.
fn similar(path: &str) -> Option<String> {
    let depth = path.split(' ').count();
    let all = Command::all().filter(|c| c.is_built() || c.is_group());
    let of_depth = all.filter(|c| !c.is_hidden() && c.path.split(' ').count() == depth);
    let near = of_depth.map(|c| (help::distance(c.path, path), c.path)).min()?;
    // Half of a word is not a slip of the finger.
    (near.0 <= 2 && near.0 * 2 < path.len())
        .then(|| format!("did you mean `{} {}`?", help::NAME, near.1))
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
