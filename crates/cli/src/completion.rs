//! Shell completion: scripts that ask this program, and its answers, in the protocol that Docker's
//! scripts speak, too: a word per line, maybe its meaning behind a tab, and a number at the end.

use std::borrow::Cow;

use crate::commands::{self, Names, contexts};
use crate::failure::{Failure, Result};
use crate::grammar::{Command, Flag, Kind, global_flags};
use crate::parse::{self, Parsed};
use crate::{plugins, print, say};

const BASH: &str = r#"# bash completion for hoy
_hoy() {
    local rest=${COMP_LINE:0:COMP_POINT} words=() word i new program out directive head breaks
    # Bash cuts words at signs that are parts of ours, such as = and :.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        new=
        if [[ i -eq 0 || $rest == [[:space:]]* ]]; then
            new=1 rest=${rest#"${rest%%[![:space:]]*}"}
        fi
        word=${COMP_WORDS[i]}
        [[ i -lt COMP_CWORD ]] || word=$rest
        rest=${rest#"$word"}
        if [[ $new ]]; then words+=("$word"); else words[${#words[@]} - 1]+=$word; fi
    done
    word=${words[${#words[@]} - 1]}
    # What is another word for it is asked for by its own.
    program=${words[0]/#\~\//$HOME/}
    [[ ${program##*/} == hoy ]] || program=hoy
    out=$("$program" __completeNoDesc "${words[@]:1}" 2>/dev/null) || return
    directive=${out##*:}
    out=${out%:*}
    COMPREPLY=()
    [[ -z $out ]] || mapfile -t COMPREPLY <<<"${out%$'\n'}"
    [[ $word != --*=* ]] || COMPREPLY=("${COMPREPLY[@]/#/${word%%=*}=}")
    # What stands before the last of these signs is no part of the word that bash completes.
    breaks=${COMP_WORDBREAKS//[!:=]/}
    if [[ $breaks ]]; then
        head=${word##*[$breaks]} head=${word%"$head"}
        for i in "${!COMPREPLY[@]}"; do COMPREPLY[i]=${COMPREPLY[i]:${#head}}; done
    fi
    ((directive & 2)) && compopt -o nospace
    ((directive & 4)) || compopt -o default
}
complete -F _hoy hoy
# `alias docker=hoy`, or no other docker.
if [[ ${BASH_ALIASES[docker]} == *hoy* ]] || ! type -P docker >/dev/null; then
    complete -F _hoy docker
fi
"#;

const ZSH: &str = r#"#compdef hoy
_hoy() {
    local -a lines answers
    local line directive space=" "
    local word=$PREFIX
    lines=("${(@f)$("${(Q)words[1]/#\~\//$HOME/}" __complete "${(@Q)words[2,CURRENT-1]}" "$word" 2>/dev/null)}")
    [[ $word == --*=* ]] && compset -P 1 '*='
    directive=${lines[-1]#:}
    for line in "${(@)lines[1,-2]}"; do
        line=${line//:/\\:}
        answers+=("${line/$'\t'/:}")
    done
    (( directive & 2 )) && space=""
    _describe -V answer answers -S "$space" && return
    (( directive & 4 )) || _files
}
# Found in a folder of functions the first call is the file itself.
if [[ $funcstack[1] == _hoy ]]; then _hoy "$@"; else compdef _hoy hoy; fi
"#;

const FISH: &str = r#"# fish completion for hoy
function __hoy_complete
    set -l word (commandline -ct)
    set -l words (commandline -opc) "$word"
    set -l program (string replace -r '^~/' "$HOME/" -- $words[1])
    type -q $program; or return
    set -l lines ($program __complete $words[2..-1] 2>/dev/null)
    set -q lines[1]; or return
    set -l directive (string sub -s 2 -- $lines[-1])
    # Of `--flag=value` the answers are values, and fish asks for the whole word.
    set -l head (string match -r -- '^--[^=]+=' "$word")
    for line in $lines[1..-2]
        printf '%s\n' "$head$line"
    end
    if test (math "bitand($directive, 4)") -eq 0
        for line in (__fish_complete_path (string replace -- "$head" '' "$word"))
            printf '%s\n' "$head$line"
        end
    end
end
complete -c hoy -f -a '(__hoy_complete)'
"#;

/// What shells do with the answers: no space behind them; no names of files.
const NO_SPACE: u8 = 2;
const NO_FILES: u8 = 4;

const SIGNALS: [&str; 15] = [
    "SIGABRT",
    "SIGALRM",
    "SIGCONT",
    "SIGHUP",
    "SIGINT",
    "SIGKILL",
    "SIGPIPE",
    "SIGQUIT",
    "SIGRTMIN+3",
    "SIGSTOP",
    "SIGTERM",
    "SIGTSTP",
    "SIGUSR1",
    "SIGUSR2",
    "SIGWINCH",
];
const CAPABILITIES: &str = "AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF \
    CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL \
    LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN NET_BIND_SERVICE NET_BROADCAST \
    NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE \
    SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM";
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];
/// Of the drivers that are there.
const LOG_OPTIONS: [&str; 10] = [
    "compress",
    "env",
    "env-regex",
    "labels",
    "labels-regex",
    "max-buffer-size",
    "max-file",
    "max-size",
    "mode",
    "tag",
];
const EVENT_KEYS: [&str; 9] =
    ["container", "daemon", "event", "image", "label", "network", "scope", "type", "volume"];

/// Words with their meanings, and what the shell does with them.
#[derive(Debug, Default)]
struct Answer {
    words: Vec<(String, Cow<'static, str>)>,
    directive: u8,
}

impl Answer {
    fn names(words: Vec<String>) -> Self {
        Self {
            words: words.into_iter().map(|word| (word, "".into())).collect(),
            directive: NO_FILES,
        }
    }

    fn files() -> Self {
        Self::default()
    }
}

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

/// `__complete WORDS…`: what the last word may become.
pub fn complete(words: &[String], described: bool) -> Result<u8> {
    let Some((last, before)) = words.split_last() else { return Ok(0) };
    // `--flag=` and a part of its value: the shell looks at the part alone.
    let (before, last) = match last.split_once('=') {
        Some((flag, value)) if flag.starts_with("--") => {
            ([before, &[flag.to_owned()]].concat(), value)
        }
        _ => (before.to_vec(), last.as_str()),
    };
    let (global, own) = match globals(&before) {
        Ok(found) => found,
        Err(flag) => return tell(value_of_global(flag), last, described),
    };
    if let Some(name) = own.first().filter(|name| own.len() < 2 || Command::find(name).is_none())
        && (*name == "buildx" || Command::find(name).is_none())
        && let Some(plugin) = plugins::find(name, &global).filter(|plugin| plugin.about.is_ok())
    {
        let mut asked = vec!["__complete".to_owned()];
        asked.extend(own.iter().cloned());
        asked.push(last.to_owned());
        return plugins::run(&plugin, &asked, &[], &global);
    }
    let mut answer = candidates(&own, last, &global);
    if own.is_empty() && !last.starts_with('-') {
        let more = plugins::all(&global);
        let more = more.into_iter().filter(|plugin| plugin.about.is_ok() && !plugin.is_hidden());
        answer
            .words
            .extend(more.map(|plugin| (plugin.name.clone(), plugin.short().to_owned().into())));
    }
    tell(answer, last, described)
}

fn tell(mut answer: Answer, last: &str, described: bool) -> Result<u8> {
    // Names come from an engine, maybe a stranger's: what shells would read as more is no name.
    let plain = |c: char| c.is_alphanumeric() || "-_./:@+,=[]%".contains(c);
    answer.words.retain(|(word, _)| word.starts_with(last) && word.chars().all(plain));
    answer.words.sort_unstable();
    answer.words.dedup_by(|a, b| a.0 == b.0);
    let mut text = String::new();
    for (word, meaning) in answer.words {
        text.push_str(&word);
        if described && !meaning.is_empty() {
            text.push('\t');
            text.push_str(&meaning);
        }
        text.push('\n');
    }
    print(&format!("{text}:{}\n", answer.directive))?;
    let name = match answer.directive {
        0 => "Default",
        NO_SPACE => "NoSpace",
        NO_FILES => "NoFileComp",
        _ => "NoSpace, ShellCompDirectiveNoFileComp",
    };
    // For people who look into it: shells throw it away.
    say(&format!("Completion ended with directive: ShellCompDirective{name}"));
    Ok(0)
}

/// The flags before the command and the words from it on; or the flag whose value comes next.
fn globals(before: &[String]) -> std::result::Result<(Parsed, Vec<String>), Flag> {
    if let Ok(global) = parse::parse(global_flags(), before, true) {
        let own = global.args.clone();
        return Ok((global, own));
    }
    let awaited = before.last().and_then(|last| {
        global_flags().find(|flag| {
            let short = flag.short.is_some_and(|short| *last == format!("-{short}"));
            (short || *last == format!("--{}", flag.long)) && flag.kind() != Kind::Bool
        })
    });
    match awaited {
        Some(flag) => Err(flag),
        None => Ok((Parsed::default(), before.to_vec())),
    }
}

fn value_of_global(flag: Flag) -> Answer {
    match flag.long {
        "context" => Answer::names(contexts::names()),
        "log-level" => {
            Answer::names(["debug", "info", "warn", "error", "fatal"].map(str::to_owned).to_vec())
        }
        "host" => Answer { words: Vec::new(), directive: NO_FILES },
        _ => Answer::files(),
    }
}

fn candidates(before: &[String], last: &str, global: &Parsed) -> Answer {
    let path = before.iter().take_while(|word| !word.starts_with('-')).take(3);
    let path: Vec<&str> = path.map(String::as_str).collect();
    let command = (1..=path.len()).rev().find_map(|n| Command::find(&path[..n].join(" ")));
    let Some(command) = command else {
        if !before.is_empty() && before[0] != "help" {
            return Answer { words: Vec::new(), directive: NO_FILES };
        }
        return if last.starts_with('-') { flags(global_flags(), last, &[]) } else { below("") };
    };
    if command.path == "help" {
        return below("");
    }
    if command.is_group() {
        // Behind a word that is no command of it there is nothing.
        return match before.len() > command.path.split(' ').count() {
            true => Answer { words: Vec::new(), directive: 0 },
            false => below(&format!("{} ", command.path)),
        };
    }
    let words = before.get(command.path.split(' ').count()..).unwrap_or_default();
    match place(command, words) {
        Place::Value(flag) => value_in(command, flag, global),
        Place::Argument(_) if last.starts_with('-') => flags(command.flags(), last, words),
        Place::Argument(given) if command.canonical == "container cp" => match given.len() {
            0 | 1 => copied(last, global),
            _ => Answer { words: Vec::new(), directive: NO_FILES },
        },
        Place::Argument(given) => argument(command, &given, words, global),
    }
}

/// Flags that may still be given.
fn flags(all: impl Iterator<Item = Flag>, last: &str, words: &[String]) -> Answer {
    let mut answer = Answer { words: Vec::new(), directive: NO_FILES };
    for flag in all.filter(|flag| !flag.hidden) {
        let long = format!("--{}", flag.long);
        let given = words.iter().any(|word| *word == long || word.starts_with(&format!("{long}=")));
        if given && flag.kind() != Kind::List {
            continue;
        }
        if let Some(short) = flag.short.filter(|_| last == "-") {
            answer.words.push((format!("-{short}"), flag.about.into()));
        }
        answer.words.push((long, flag.about.into()));
    }
    answer
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

/// What differs from command to command.
fn value_in(command: Command, flag: Flag, global: &Parsed) -> Answer {
    match (command.canonical, flag.means()) {
        ("inspect", "type") => {
            Answer::names(["container", "image", "network", "volume"].map(str::to_owned).to_vec())
        }
        ("system events", "filter") => keys(&EVENT_KEYS),
        ("network create", "driver") => {
            Answer::names(["bridge", "ipvlan", "macvlan"].map(str::to_owned).to_vec())
        }
        _ => value(flag, global),
    }
}

/// Words that go on behind an equals sign.
fn keys(words: &[&str]) -> Answer {
    Answer {
        words: words.iter().map(|word| (format!("{word}="), "".into())).collect(),
        directive: NO_SPACE | NO_FILES,
    }
}

fn capabilities() -> Answer {
    let all = CAPABILITIES.split(' ').map(|name| format!("CAP_{name}"));
    Answer::names(std::iter::once("ALL".to_owned()).chain(all).collect())
}

/// Names of this shell's variables: one without a value is handed on.
fn variables() -> Vec<String> {
    std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect()
}

/// `CONTAINER:` or a file of this machine; behind the colon the files are the container's.
fn copied(last: &str, global: &Parsed) -> Answer {
    if last.contains(':') {
        return Answer { words: Vec::new(), directive: NO_FILES };
    }
    let names = commands::names(Names::Containers, global);
    let words = names.into_iter().map(|name| (name + ":", "".into())).collect();
    Answer { words, directive: NO_SPACE }
}

fn value(flag: Flag, global: &Parsed) -> Answer {
    let fixed =
        |words: &[&str]| Answer::names(words.iter().map(|word| (*word).to_owned()).collect());
    let before_colon = |names: Vec<String>| Answer {
        words: names.into_iter().map(|name| (name + ":", "".into())).collect(),
        directive: NO_SPACE,
    };
    match flag.means() {
        "network" => Answer::names(commands::names(Names::Networks, global)),
        "volume" => before_colon(commands::names(Names::Volumes, global)),
        "volumes-from" => Answer::names(commands::names(Names::Containers, global)),
        "link" => before_colon(commands::names(Names::Containers, global)),
        "from" => Answer::names(contexts::names()),
        "pull" => fixed(&["always", "missing", "never"]),
        "restart" => fixed(&["no", "always", "unless-stopped", "on-failure"]),
        "signal" | "stop-signal" => fixed(&SIGNALS),
        "cap-add" | "cap-drop" => capabilities(),
        "env" => Answer::names(variables()),
        "pid" => fixed(&["container:", "host"]),
        "uts" | "userns" => fixed(&["host"]),
        "volume-driver" => fixed(&["local"]),
        "security-opt" => fixed(&[
            "apparmor=",
            "label=",
            "no-new-privileges",
            "seccomp=",
            "systempaths=unconfined",
        ]),
        "storage-opt" => keys(&["size"]),
        "ulimit" => keys(&ULIMITS),
        "log-opt" => keys(&LOG_OPTIONS),
        "log-driver" => fixed(&["json-file", "local", "none"]),
        "ipc" => fixed(&["private", "shareable", "host", "none", "container:"]),
        "cgroupns" => fixed(&["host", "private"]),
        "attach" => fixed(&["stdin", "stdout", "stderr"]),
        "format" => fixed(&["json", "table"]),
        // Paths of this machine.
        "env-file" | "label-file" | "cidfile" | "mount" | "device" | "input" | "output"
        | "workdir" => Answer::files(),
        _ => Answer { words: Vec::new(), directive: NO_FILES },
    }
}

fn argument(command: Command, given: &[&str], words: &[String], global: &Parsed) -> Answer {
    let names = |of: Names<'_>| Answer::names(commands::names(of, global));
    if command.canonical == "inspect" {
        let kinds = [Names::Containers, Names::Images, Names::Networks, Names::Volumes];
        return Answer::names(
            kinds.into_iter().flat_map(|of| commands::names(of, global)).collect(),
        );
    }
    let nothing = Answer { words: Vec::new(), directive: NO_FILES };
    // One argument and no more: what follows is nobody's name.
    if command.most.is_some_and(|most| given.len() >= most) {
        return nothing;
    }
    let of = match (command.canonical, given) {
        ("context create" | "context ls" | "context show", _) => return nothing,
        ("context import" | "context export", [_]) => return Answer::files(),
        ("context import", _) => return nothing,
        (path, _) if path.starts_with("context ") => return Answer::names(contexts::names()),
        ("network create" | "network ls" | "network prune", _) => return nothing,
        ("network connect", [_, ..]) => Names::Containers,
        ("network disconnect", [network, ..]) => Names::ContainersIn(network),
        (path, _) if path.starts_with("network ") => Names::Networks,
        ("volume create" | "volume ls", _) => return nothing,
        (path, _) if path.ends_with(" prune") || path.starts_with("system ") => return nothing,
        (path, _) if path.starts_with("volume ") => Names::Volumes,
        ("image import" | "image load", _) => return Answer::files(),
        ("container run" | "container create", []) => Names::Images,
        // What runs inside is the container's own.
        ("container run" | "container create", _) | ("container exec", [_, ..]) => {
            return Answer::files();
        }
        ("container rename", [_]) => return nothing,
        (path, _) if path.starts_with("image ") => Names::Images,
        ("container start", _) => Names::State(&["created", "exited"]),
        ("container rm", _) if !words.iter().any(|word| word == "-f" || word == "--force") => {
            Names::State(&["created", "exited", "dead"])
        }
        ("container unpause", _) => Names::State(&["paused"]),
        ("container pause" | "container exec" | "container attach" | "container top", _) => {
            Names::State(&["running"])
        }
        ("container stop" | "container kill", _) => {
            Names::State(&["running", "paused", "restarting"])
        }
        (path, _) if path.starts_with("container ") => Names::Containers,
        _ => return Answer::files(),
    };
    names(of)
}

fn below(prefix: &str) -> Answer {
    // Of a group's commands each by its own name only; the short forms are at the top.
    let all =
        Command::all().filter(|c| !c.is_hidden() && (prefix.is_empty() || c.path == c.canonical));
    let words = all
        .filter_map(|c| c.path.strip_prefix(prefix).map(|rest| (rest.to_owned(), c.about.into())))
        .filter(|(rest, _)| !rest.contains(' '))
        .collect();
    Answer { words, directive: NO_FILES }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(before: &[&str], last: &str) -> (Vec<String>, u8) {
        let before: Vec<String> = before.iter().map(|w| (*w).to_owned()).collect();
        let answer = candidates(&before, last, &Parsed::default());
        (answer.words.into_iter().map(|(word, _)| word).collect(), answer.directive)
    }

    #[test]
    fn words_and_flags() {
        let has =
            |before: &[&str], last: &str, word: &str| of(before, last).0.contains(&word.to_owned());
        assert!(has(&[], "", "run"));
        assert!(has(&["container"], "", "ls"));
        assert!(has(&["run"], "--me", "--memory"));
        assert!(!has(&["run", "--memory=1"], "--me", "--memory"), "once is enough");
        assert!(has(&["run", "--env=1"], "--", "--env"), "a list goes on");
        assert!(has(&["network", "connect"], "--", "--gw-priority"));
        assert!(has(&["inspect", "--type"], "", "network"));
        assert!(has(&["ps"], "-", "-a") && !has(&["ps"], "--", "-a"));
        assert_eq!(of(&["run", "--env-file"], ""), (Vec::new(), 0));
        assert_eq!(of(&["run", "busybox"], ""), (Vec::new(), 0));
        assert!(has(&["run", "--cap-add"], "", "CAP_NET_ADMIN"));
        assert!(has(&["run", "--ulimit"], "", "nofile="));
        assert_eq!(of(&["container", "nope"], ""), (Vec::new(), 0));
        assert!(has(&[], "", "rmi") && has(&["image"], "", "rm") && !has(&["image"], "", "rmi"));
        assert_eq!(of(&["cp", "c:/etc"], "c:").1, NO_FILES);
        assert_eq!(of(&["context", "use", "x"], "").1, NO_FILES);
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

    #[test]
    fn flags_before_the_command() {
        let of = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            globals(&words).map(|(_, own)| own.join(" ")).map_err(|flag| flag.long)
        };
        assert_eq!(of(&["-H", "unix:///x", "ps", "-a"]), Ok("ps -a".to_owned()));
        assert_eq!(of(&["--context"]), Err("context"));
    }
}
