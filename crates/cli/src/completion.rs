//! Shell completion: scripts that ask this program, and the answers.

use crate::commands;
use crate::failure::{Failure, Result};
use crate::grammar::{Command, Flag, global_flags};
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
    match command {
        None if last.starts_with('-') => long(&mut global_flags()),
        None => below(""),
        Some(command) if command.is_group() => below(&format!("{} ", command.path)),
        Some(command) if last.starts_with('-') => long(&mut command.flags()),
        Some(command) => commands::names_for(command.canonical),
    }
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
    }
}
