//! Shell completion: scripts that ask this program, and the answers.

use crate::commands::{self, Names};
use crate::failure::{Failure, Result};
use crate::grammar::{Command, Flag, Kind, global_flags};
use crate::print;

const BASH: &str = r#"# bash completion for hoy
_hoy() {
    local IFS=$'\n'
    COMPREPLY=($(compgen -W "$("${COMP_WORDS[0]}" __completeNoDesc "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _hoy hoy
"#;

const ZSH: &str = r#"#compdef hoy
_hoy() {
    local -a answers
    answers=("${(@f)$("${words[1]}" __completeNoDesc "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    compadd -a answers || _files
}
compdef _hoy hoy
"#;

const FISH: &str = r#"# fish completion for hoy
function __hoy_complete
    set -l words (commandline -opc) (commandline -ct)
    $words[1] __completeNoDesc $words[2..-1] 2>/dev/null
end
complete -c hoy -f -a '(__hoy_complete)'
"#;

/// `completion SHELL`.
pub fn script(args: &[String]) -> Result<u8> {
    let text = match args {
        [shell] if shell == "bash" => BASH,
        [shell] if shell == "zsh" => ZSH,
        [shell] if shell == "fish" => FISH,
        _ => return Err(Failure::new("which shell? There is: bash, zsh, fish")),
    };
    print(text).map(|()| 0)
}

/// `__complete WORDS…`: what the last word may become, one per line.
pub fn complete(words: &[String]) -> Result<u8> {
    let Some((last, before)) = words.split_last() else { return Ok(0) };
    let mut answers = candidates(before, last);
    answers.retain(|answer| answer.starts_with(last.as_str()));
    answers.sort_unstable();
    answers.dedup();
    let text: String = answers.into_iter().map(|answer| answer + "\n").collect();
    print(&text).map(|()| 0)
}

fn candidates(before: &[String], last: &str) -> Vec<String> {
    let path = before.iter().take_while(|word| !word.starts_with('-')).take(2);
    let path: Vec<&str> = path.map(String::as_str).collect();
    let command = (1..=path.len()).rev().find_map(|n| Command::find(&path[..n].join(" ")));
    let long = |flags: &mut dyn Iterator<Item = Flag>| -> Vec<String> {
        flags.filter(|flag| !flag.hidden).map(|flag| format!("--{}", flag.long)).collect()
    };
    let Some(command) = command else {
        return if last.starts_with('-') { long(&mut global_flags()) } else { below("") };
    };
    if command.is_group() {
        return below(&format!("{} ", command.path));
    }
    let words = before.get(command.path.split(' ').count()..).unwrap_or_default();
    match place(command, words) {
        Place::Value(flag) => value(flag),
        Place::Argument(_) if last.starts_with('-') => long(&mut command.flags()),
        Place::Argument(given) => argument(command, &given),
    }
}

/// Where in a command a word stands.
#[derive(Debug)]
enum Place<'a> {
    /// Behind a flag that takes one.
    Value(Flag),
    /// Behind these arguments.
    Argument(Vec<&'a str>),
}

fn place(command: Command, words: &[String]) -> Place<'_> {
    let mut given = Vec::new();
    let mut awaited: Option<Flag> = None;
    for word in words {
        if awaited.take().is_some() {
            continue;
        }
        let found = match word.strip_prefix("--") {
            Some(long) => command.flags().find(|flag| flag.long == long),
            // The last of a cluster may take a value.
            None if word.starts_with('-') => command
                .flags()
                .find(|flag| flag.short.is_some() && word.chars().last() == flag.short),
            None => {
                given.push(word.as_str());
                None
            }
        };
        awaited = found.filter(|flag| flag.kind() != Kind::Bool);
    }
    match awaited {
        Some(flag) => Place::Value(flag),
        None => Place::Argument(given),
    }
}

fn value(flag: Flag) -> Vec<String> {
    match flag.means() {
        "network" => commands::names(Names::Networks),
        "volume" => commands::names(Names::Volumes).into_iter().map(|name| name + ":").collect(),
        "volumes-from" => commands::names(Names::Containers),
        "link" => commands::names(Names::Containers).into_iter().map(|name| name + ":").collect(),
        "type" => {
            ["container", "image", "network", "volume"].map(str::to_owned).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

fn argument(command: Command, given: &[&str]) -> Vec<String> {
    if command.canonical == "inspect" {
        let kinds = [Names::Containers, Names::Images, Names::Networks, Names::Volumes];
        return kinds.into_iter().flat_map(commands::names).collect();
    }
    let of = match (command.canonical, given) {
        ("network create" | "network ls" | "network prune", _) => return Vec::new(),
        ("network connect", [_, ..]) => Names::Containers,
        ("network disconnect", [network, ..]) => Names::ContainersIn(network),
        (path, _) if path.starts_with("network ") => Names::Networks,
        ("volume create" | "volume ls", _) => return Vec::new(),
        (path, _) if path.ends_with(" prune") || path.starts_with("system ") => return Vec::new(),
        (path, _) if path.starts_with("volume ") => Names::Volumes,
        ("container run" | "container create", _) => Names::Images,
        (path, _) if path.starts_with("image ") => Names::Images,
        _ => Names::Containers,
    };
    commands::names(of)
}

fn below(prefix: &str) -> Vec<String> {
    Command::all()
        .filter(|c| !c.is_hidden())
        .filter_map(|c| c.path.strip_prefix(prefix).map(str::to_owned))
        .filter(|rest| !rest.contains(' '))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_flags() {
        let of = |before: &[&str], last: &str| {
            let before: Vec<String> = before.iter().map(|w| (*w).to_owned()).collect();
            candidates(&before, last)
        };
        assert!(of(&[], "").contains(&"run".to_owned()));
        assert!(of(&["container"], "").contains(&"ls".to_owned()));
        assert!(of(&["run"], "--me").contains(&"--memory".to_owned()));
        assert!(of(&["network", "connect"], "--").contains(&"--gw-priority".to_owned()));
        assert!(of(&["inspect", "--type"], "").contains(&"network".to_owned()));
    }

    #[test]
    fn places() {
        let of = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            match place(Command::find("run").unwrap(), &words) {
                Place::Value(flag) => format!("--{}", flag.means()),
                Place::Argument(given) => given.join(" "),
            }
        };
        assert_eq!(of(&["-d", "--net"]), "--network");
        assert_eq!(of(&["-itp"]), "--publish");
        assert_eq!(of(&["-it", "--network", "n", "--rm", "img"]), "img");
        assert_eq!(of(&["--network=n"]), "");
    }
}
