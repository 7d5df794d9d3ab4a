//! Help texts and usage lines, in Docker's layout.

use std::fmt::Write as _;

use crate::grammar::{Command, Flag, global_flags};
use crate::parse::Parsed;
use crate::{plugins, settings, terminal};

/// The program's name in texts.
pub const NAME: &str = "hoy";
/// Where a flag's description is wrapped.
const WIDTH: usize = 80;

/// `Usage:` and where to read more, as it follows an error.
pub fn after_error(command: Option<&Command>) -> String {
    match command {
        Some(command) => format!(
            "Usage:  {NAME} {}\n\nRun '{NAME} {} --help' for more information",
            usage(command),
            command.path
        ),
        None => format!(
            "Usage:  {NAME} [OPTIONS] COMMAND [ARG...]\n\nRun '{NAME} --help' for more information"
        ),
    }
}

/// What is wrong with the number of arguments, if anything is.
pub fn wrong_count(command: &Command, count: usize) -> Option<String> {
    let path = command.path;
    let plural = |n: usize| if n == 1 { "argument" } else { "arguments" };
    let (least, most) = (command.least, command.most);
    if count >= least && most.is_none_or(|most| count <= most) {
        return None;
    }
    let needs = match most {
        Some(0) => "accepts no arguments".to_owned(),
        Some(most) if most == least => format!("requires {most} {}", plural(most)),
        Some(most) if least == 0 => format!("requires at most {most} {}", plural(most)),
        Some(most) => {
            format!("requires at least {least} and at most {most} {}", plural(most))
        }
        None => format!("requires at least {least} {}", plural(least)),
    };
    // Docker says "See" in one of its shapes, and so scripts may look for it.
    let see = if most.is_none() { "See" } else { "Run" };
    Some(format!(
        "{NAME}: '{NAME} {path}' {needs}\n\nUsage:  {NAME} {}\n\n{see} '{NAME} {path} --help' for more information",
        usage(command)
    ))
}

/// How a command is said; one can be said in two ways.
fn usage(command: &Command) -> String {
    let (path, first) = (command.path, command.usage);
    match command.canonical {
        "container cp" => {
            format!("{first}\n\t{NAME} {path} [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH")
        }
        _ => first.to_owned(),
    }
}

/// The help of one command or group.
pub fn of_command(command: &Command) -> String {
    if command.is_group() {
        return of_group(command);
    }
    let mut text = format!("Usage:  {NAME} {}\n\n{}\n", usage(command), command.about);
    if !command.aliases.is_empty() {
        let named: Vec<String> =
            command.aliases.split(", ").map(|alias| format!("{NAME} {alias}")).collect();
        let _ = write!(text, "\nAliases:\n  {}\n", named.join(", "));
    }
    let flags: Vec<Flag> = command.flags().filter(|flag| !flag.hidden).collect();
    if !flags.is_empty() {
        text.push_str("\nOptions:\n");
        text.push_str(&flag_lines(&flags));
    }
    text
}

fn of_group(group: &Command) -> String {
    let prefix = format!("{} ", group.path);
    let mut text =
        format!("Usage:  {NAME} {} COMMAND\n\n{}\n\nCommands:\n", group.path, group.about);
    let commands = Command::all()
        .filter(|c| c.path.starts_with(&prefix) && !c.is_alias() && !c.is_hidden())
        .map(|c| (&c.path[prefix.len()..], c.about));
    let mut commands: Vec<_> = commands.collect();
    commands.sort_unstable();
    text.push_str(&command_lines(commands.into_iter()));
    let _ = write!(
        text,
        "\nRun '{NAME} {} COMMAND --help' for more information on a command.\n",
        group.path
    );
    text
}

/// Docker's order of what is needed most.
const COMMON: [&str; 12] = [
    "run", "exec", "ps", "build", "bake", "pull", "push", "images", "login", "logout", "search",
    "version",
];

/// The help of the program, with the plugins that there are.
pub fn of_program(global: &Parsed) -> String {
    let mut text = format!(
        "Usage:  {NAME} [OPTIONS] COMMAND\n\nContainers: run, build, store and connect them\n"
    );
    let plugins = plugins::all(global);
    let top =
        || Command::all().filter(|c| !c.path.contains(' ') && !c.is_hidden() && !c.is_alias());
    let is_plugin = |name: &str| plugins.iter().any(|p| p.about.is_ok() && p.name == name);
    let builder = is_plugin("buildx");
    let built = |c: &Command| {
        c.is_built()
            || c.is_group() && has_built(c)
            || builder && matches!(c.path, "build" | "bake")
    };
    let mut section = |title: &str, sorted: bool, lines: &mut Vec<(String, String)>| {
        if lines.is_empty() {
            return;
        }
        if sorted {
            lines.sort_unstable();
        }
        let _ = write!(text, "\n{}:\n", emphasis(title));
        text.push_str(&command_lines(
            lines.iter().map(|(name, about)| (name.as_str(), about.as_str())),
        ));
    };
    let line = |c: Command| (c.path.to_owned(), c.about.to_owned());
    let rank = |name: &str| COMMON.iter().position(|known| *known == name).unwrap_or(COMMON.len());
    let mut common: Vec<Command> = top().filter(|c| c.is_common() && built(c)).collect();
    common.sort_by_key(|c| rank(c.path));
    section("Common Commands", false, &mut common.into_iter().map(line).collect());
    let mut groups: Vec<_> = top()
        .filter(|c| c.is_group() && !c.is_swarm() && built(c) && !is_plugin(c.path))
        .map(line)
        .collect();
    // Docker marks what is not its own.
    let shown = plugins.iter().filter(|p| p.about.is_ok() && !p.is_hidden());
    groups.extend(shown.map(|p| (format!("{}*", p.name), p.short().to_owned())));
    section("Management Commands", true, &mut groups);
    section(
        "Swarm Commands",
        true,
        &mut top().filter(|c| c.is_swarm() && built(c)).map(line).collect(),
    );
    let others = top().filter(|c| c.is_built() && !c.is_common() && !c.is_group());
    section("Commands", true, &mut others.map(line).collect());
    section("Not available yet", true, &mut top().filter(|c| !built(c)).map(line).collect());
    let bad =
        plugins.iter().filter_map(|p| Some((p.name.clone(), p.about.as_ref().err()?.clone())));
    section("Invalid Plugins", true, &mut bad.collect());
    let _ = write!(text, "\n{}:\n", emphasis("Global Options"));
    let flags: Vec<Flag> = global_flags().filter(|flag| !flag.hidden).collect();
    let folder = settings::directory(global).display().to_string();
    text.push_str(&flag_lines(&flags).replace("/root/.docker", &folder));
    let _ = write!(text, "\nRun '{NAME} COMMAND --help' for more information on a command.\n");
    text
}

/// Titles stand out on terminals that can, for people who want that.
fn emphasis(title: &str) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|text| !text.is_empty())
        || std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    if plain || !terminal::stdout_is_terminal() {
        title.to_owned()
    } else {
        format!("\x1b[1m{title}\x1b[0m")
    }
}

/// How many letters are to be added, dropped, changed or swapped to make one word the other.
pub fn distance(one: &str, other: &str) -> usize {
    let (a, b) = (one.as_bytes(), other.as_bytes());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let change = rows[i][j] + usize::from(x != y);
            let mut best = change.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

fn has_built(group: &Command) -> bool {
    let prefix = format!("{} ", group.path);
    Command::all().any(|c| c.is_built() && c.path.starts_with(&prefix))
}

fn command_lines<'a>(commands: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let all: Vec<_> = commands.collect();
    let width = all.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(11);
    all.iter().fold(String::new(), |mut text, (name, about)| {
        let _ = writeln!(text, "  {name:width$} {about}");
        text
    })
}

fn flag_lines(flags: &[Flag]) -> String {
    let heads: Vec<String> = flags
        .iter()
        .map(|flag| {
            let short = flag.short.map_or("    ".to_owned(), |short| format!("-{short}, "));
            let placeholder = flag.placeholder();
            let space = if placeholder.is_empty() { "" } else { " " };
            format!("  {short}--{}{space}{placeholder}", flag.long)
        })
        .collect();
    let width = heads.iter().map(String::len).max().unwrap_or(0) + 3;
    let mut text = String::new();
    for (flag, head) in flags.iter().zip(heads) {
        let mut about = flag.about.to_owned();
        let zero = matches!(flag.default, "" | "0" | "0s" | "false" | "[]" | "map[]");
        if !zero {
            let quoted = flag.placeholder() == "string";
            let mark = if quoted { "\"" } else { "" };
            let _ = write!(about, " (default {mark}{}{mark})", flag.default);
        }
        let mut lines = wrap(&about, WIDTH.saturating_sub(width).max(20)).into_iter();
        let _ = writeln!(text, "{head:width$}{}", lines.next().unwrap_or_default());
        for line in lines {
            let _ = writeln!(text, "{:width$}{line}", "");
        }
    }
    text
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().filter(|l| l.is_empty() || l.len() + 1 + word.len() <= width);
        match line {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_as_docker_words_them() {
        let says = |path: &str, count| wrong_count(&Command::find(path).unwrap(), count);
        assert_eq!(
            says("run", 0).unwrap(),
            "hoy: 'hoy run' requires at least 1 argument\n\nUsage:  hoy run [OPTIONS] IMAGE [COMMAND] [ARG...]\n\nSee 'hoy run --help' for more information"
        );
        assert!(says("ps", 1).unwrap().starts_with("hoy: 'hoy ps' accepts no arguments\n"));
        assert!(says("port", 3).unwrap().contains("requires at least 1 and at most 2 arguments"));
        assert!(says("rename", 1).unwrap().contains("requires 2 arguments"));
        assert!(says("images", 2).unwrap().contains("requires at most 1 argument\n"));
        assert_eq!(says("run", 5), None);
    }

    #[test]
    fn slips_of_the_finger() {
        assert_eq!(distance("ps", "sp"), 1);
        assert_eq!(distance("volume", "volum"), 1);
        assert_eq!(distance("", "ab"), 2);
        assert_eq!(distance("run", "rm"), 2);
    }

    #[test]
    fn every_help_fits_its_lines() {
        for command in Command::all() {
            let text = of_command(&command);
            assert!(text.starts_with("Usage:  hoy "), "{text}");
        }
        assert!(of_program(&Parsed::default()).contains("\n  ps "));
    }
}
