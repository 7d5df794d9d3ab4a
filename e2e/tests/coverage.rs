//! What of Docker's surface is there: every route of its API and every command and flag of its
//! command line is asked for, and the answers are `docs/COVERAGE.md`. `cargo xtask coverage` writes
//! it anew; here it must be what the programs do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use hoy_e2e::daemon;
use hoy_testkit::{Daemon, workspace};
use serde_json::Value;

const ROUTES: &str = include_str!("reference/routes.tsv");
const COMMANDS: &str = include_str!("reference/cli.tsv");

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Done,
    /// As Docker does, which has a reason.
    Refused(String),
    Unbuilt(String),
    /// Of Windows, or of long ago: taken by Docker, too, and without a meaning.
    Nothing,
    /// Taken without a look: never.
    Ignored,
}

impl State {
    fn shown(&self) -> String {
        match self {
            Self::Done => "done".into(),
            Self::Refused(why) => format!("refused: {why}"),
            Self::Unbuilt(what) if what.is_empty() => "refused, not built yet".into(),
            Self::Unbuilt(what) => format!("refused, not built yet: {what}"),
            Self::Nothing => "mean nothing on Linux, to Docker as well".into(),
            Self::Ignored => "PARSED BUT IGNORED".into(),
        }
    }
}

const VOID: &[&str] = &["cpu-count", "cpu-percent", "disable-content-trust"];

/// Commands whose flags can be tried on a container or an image that is not there.
const HARMLESS: &[&str] = &[
    "container attach",
    "container exec",
    "container inspect",
    "container kill",
    "container logs",
    "container ls",
    "container restart",
    "container rm",
    "container start",
    "container stop",
    "container update",
    "image history",
    "image inspect",
    "image ls",
    "image rm",
    "image save",
];

const EXPERIMENT: &str = "a daemon has it only with experiments";
const NOT_YET: &str = " is not available yet";

/// Routes that Docker's engine has in special cases only.
fn special(path: &str) -> Option<&'static str> {
    match path {
        _ if path.starts_with("/debug/") => Some("a daemon has it only while it looks for faults"),
        _ if path.contains("/checkpoints") => Some(EXPERIMENT),
        _ => None,
    }
}

fn ask(daemon: &Daemon, method: &str, path: &str) -> (u16, String) {
    let mut at = String::new();
    for part in path.split('/').skip(1) {
        at.push('/');
        at.push_str(if part.starts_with('{') { "nosuch" } else { part });
    }
    // What has no end has one here.
    let query = if path == "/events" { "?since=0&until=1" } else { "" };
    let mut stream = UnixStream::connect(daemon.path("sock")).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("deadline");
    let body = if matches!(method, "POST" | "PUT") { "{}" } else { "" };
    let request = format!(
        "{method} {at}{query} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("write");
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let message: Option<Value> = serde_json::from_str(body).ok();
    let message = message.and_then(|value| value["message"].as_str().map(str::to_owned));
    (status.unwrap_or_else(|| panic!("{method} {at}: {text}")), message.unwrap_or_default())
}

fn route(daemon: &Daemon, method: &str, path: &str) -> State {
    let (status, message) = ask(daemon, method, path);
    match status {
        501 => match special(path) {
            Some(why) if !message.contains(NOT_YET) => State::Refused(why.to_owned()),
            _ => State::Unbuilt(message.trim_end_matches(NOT_YET).to_owned()),
        },
        404 if message == "page not found" || method == "HEAD" && message.is_empty() => {
            // A path that is not there at all answers the same.
            let unknown = method != "HEAD" || ask(daemon, "GET", path).1 == "page not found";
            match special(path) {
                _ if !unknown => State::Done,
                Some(why) => State::Refused(why.to_owned()),
                None => State::Unbuilt(String::new()),
            }
        }
        503 => State::Refused("this node is not a swarm manager".to_owned()),
        _ => State::Done,
    }
}

fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split('\t').collect())
}

/// The grammar that is compiled into the program, by path.
fn grammar() -> BTreeMap<String, Vec<String>> {
    let table = read("crates/cli/grammar/commands.tsv");
    rows(&table)
        .map(|row| (row[0].to_owned(), row.iter().map(|&f| f.to_owned()).collect()))
        .collect()
}

fn read(name: &str) -> String {
    std::fs::read_to_string(workspace().join(name)).unwrap_or_default()
}

fn flags_of(canonical: &str) -> BTreeSet<String> {
    let table = read(&format!("crates/cli/grammar/{}.tsv", canonical.replace(' ', "-")));
    rows(&table).map(|row| row[0].to_owned()).collect()
}

/// All that the command line's own code says, to find the flags that it looks at.
fn sources(directory: &Path, out: &mut String) {
    for entry in std::fs::read_dir(directory).expect("sources").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, out);
        } else {
            out.push_str(&std::fs::read_to_string(&path).unwrap_or_default());
        }
    }
}

/// A value that means something, for flags of a container to be made.
fn sample(flag: &str, kind: &str) -> Option<&'static str> {
    Some(match flag {
        "add-host" => "a:1.2.3.4",
        "annotation" | "env" | "label" => "a=b",
        "attach" => "stdout",
        "blkio-weight" => "100",
        "blkio-weight-device" => "/dev/null:100",
        "cap-add" | "cap-drop" => "CHOWN",
        "cgroup-parent" => "/hoytest-coverage",
        "cgroupns" | "userns" | "pid" | "ipc" | "uts" => "host",
        "cidfile" => "/dev/shm/hoytest-coverage",
        "cpu-period" => "100000",
        "cpu-quota" => "50000",
        "cpu-rt-period" => "1000000",
        "cpu-rt-runtime" => "0",
        "cpu-shares" => "512",
        "cpus" => "0.5",
        "cpuset-cpus" | "cpuset-mems" => "0",
        "detach-keys" => "ctrl-x",
        "device" => "/dev/null",
        "device-cgroup-rule" => "c 1:3 rwm",
        "device-read-bps" | "device-write-bps" => "/dev/null:1mb",
        "device-read-iops" | "device-write-iops" => "/dev/null:100",
        "dns" => "1.1.1.1",
        "dns-opt" | "dns-option" => "ndots:1",
        "dns-search" | "domainname" | "hostname" | "name" | "network-alias" | "net-alias" => "x.y",
        "entrypoint" => "/bin/true",
        "env-file" | "label-file" => "/dev/null",
        "expose" => "80",
        "gpus" => "all",
        "group-add" => "1",
        "health-cmd" => "true",
        "health-interval" | "health-timeout" | "health-start-period" | "health-start-interval" => {
            "1s"
        }
        "health-retries" => "1",
        "ip" => "172.30.0.5",
        "ip6" => "fd00::5",
        "isolation" => "default",
        "kernel-memory" => "64m",
        "link" => "base:alias",
        "link-local-ip" => "169.254.1.5",
        "log-driver" => "local",
        "log-opt" => "max-size=1m",
        "mac-address" => "02:42:ac:11:00:05",
        "memory" | "memory-reservation" | "memory-swap" => "64m",
        "memory-swappiness" => "0",
        "mount" => "type=tmpfs,target=/t",
        "network" | "net" => "none",
        "oom-score-adj" => "100",
        "pids-limit" => "10",
        "platform" => "linux",
        "publish" => "80",
        "pull" => "never",
        "restart" => "always",
        "runtime" => "hoy",
        "security-opt" => "no-new-privileges",
        "shm-size" => "1m",
        "stop-signal" => "TERM",
        "stop-timeout" => "1",
        "storage-opt" => "size=64m",
        "sysctl" => "net.ipv4.ip_forward=1",
        "tmpfs" => "/t",
        "ulimit" => "nofile=10",
        "user" => "1",
        "volume" => "/v",
        "volume-driver" => "local",
        "volumes-from" => "base",
        "workdir" => "/w",
        "cpu-count" | "cpu-percent" | "io-maxiops" => "1",
        "io-maxbandwidth" => "1m",
        _ if kind == "bool" => "",
        _ => return None,
    })
}

/// Beside some flags others must stand, and some have more than one thing to say.
fn beside(flag: &str) -> &'static [&'static str] {
    match flag {
        "memory-swap" | "memory-swappiness" => &["--memory", "64m"],
        "ip" | "ip6" | "link-local-ip" | "network-alias" | "net-alias" => &["--network", "six"],
        "cpu-rt-runtime" => &["--cpu-rt-period", "1000000"],
        _ => &[],
    }
}

/// What `hoy create` says to a flag.
fn probe(daemon: &Daemon, flag: &str, kind: &str) -> State {
    let value = sample(flag, kind).unwrap_or_else(|| panic!("no sample of --{flag} ({kind})"));
    let said = if value.is_empty() { format!("--{flag}") } else { format!("--{flag}={value}") };
    let mut args = vec!["create", said.as_str()];
    args.extend(beside(flag));
    args.push("busybox");
    let output = daemon.hoy(&args).run();
    let error = output.stderr.lines().next().unwrap_or_default();
    let error =
        error.trim_start_matches("hoy: ").trim_start_matches("Error response from daemon: ");
    match output.code {
        Some(0) => State::Done,
        _ if error.contains(NOT_YET) => State::Unbuilt(error.replace(NOT_YET, "")),
        _ => State::Refused(error.to_owned()),
    }
}

/// Whether a flag of one of the harmless commands is refused because it is not built.
fn refuses(daemon: &Daemon, canonical: &str, flag: &str, kind: &str) -> Option<State> {
    let value = match kind {
        "bool" => "true",
        "list" | "filter" => "a=b",
        _ if kind.starts_with("int") || kind.starts_with("uint") => "1",
        _ => "x",
    };
    let said = format!("--{flag}={value}");
    let mut args: Vec<&str> = canonical.split(' ').collect();
    args.push(&said);
    args.extend(if canonical.ends_with("ls") { &[][..] } else { &["nosuch"] });
    args.extend((canonical == "container exec").then_some("true"));
    let error = daemon.hoy(&args).run().stderr;
    if error.contains("is only supported on a Docker daemon with experimental features") {
        return Some(State::Refused(EXPERIMENT.to_owned()));
    }
    let line = error.lines().find(|line| line.contains(NOT_YET))?;
    Some(State::Unbuilt(line.trim_start_matches("hoy: ").replace(NOT_YET, "")))
}

/// States of `container create`'s flags, which are those of `run`, too.
fn of_create(daemon: &Daemon, flags: &[(&str, &str)]) -> BTreeMap<String, State> {
    let parts: Vec<_> = flags.chunks(flags.len().div_ceil(3)).collect();
    std::thread::scope(|scope| {
        let all: Vec<_> = parts
            .into_iter()
            .map(|part| {
                scope.spawn(move || {
                    let one = |(flag, kind): &(&str, &str)| {
                        ((*flag).to_owned(), probe(daemon, flag, kind))
                    };
                    part.iter().map(one).collect::<Vec<_>>()
                })
            })
            .collect();
        all.into_iter().flat_map(|part| part.join().expect("probe")).collect()
    })
}

struct Row {
    command: String,
    state: State,
    flags: BTreeMap<String, State>,
}

fn command_line(daemon: &Daemon) -> Vec<Row> {
    let grammar = grammar();
    let mut code = String::new();
    sources(&workspace().join("crates/cli/src"), &mut code);
    let flags: Vec<Vec<&str>> = rows(COMMANDS).filter(|row| row[0] == "flag").collect();
    let of = |path: &str| -> Vec<(&str, &str)> {
        let rows = flags.iter().filter(|row| row[1] == path);
        rows.map(|row| (row[2].trim_start_matches("--"), row[4])).collect()
    };
    let made = of_create(daemon, &of("docker container create"));
    let mut refused: BTreeMap<(String, String), State> = BTreeMap::new();
    let mut out = Vec::new();
    // The canonical names first, which are tried.
    let mut all: Vec<Vec<&str>> = rows(COMMANDS).filter(|row| row[0] == "command").collect();
    all.sort_by_key(|row| row[1].split(' ').count() < 3);
    for row in all {
        let path = row[1].strip_prefix("docker").unwrap_or(row[1]).trim_start();
        let known = grammar.get(path);
        let marks = known.map_or("", |fields| fields[5].as_str());
        let canonical = known.map_or(path, |fields| fields[1].as_str());
        let built =
            path.is_empty() || marks.contains(['b', 'g']) || matches!(path, "help" | "completion");
        let state = match built {
            _ if marks.contains('x') => State::Refused(EXPERIMENT.to_owned()),
            true => State::Done,
            false => State::Unbuilt(String::new()),
        };
        let table = if path.is_empty() { "global" } else { canonical };
        let ours = flags_of(table);
        let mut states = BTreeMap::new();
        for (flag, kind) in of(row[1]).into_iter().filter(|_| state == State::Done) {
            let is_create = matches!(canonical, "container create" | "container run");
            let looked_at = code.contains(&format!("\"{flag}\""));
            let state = match made.get(flag).filter(|_| is_create) {
                _ if VOID.contains(&flag) && ours.contains(flag) => State::Nothing,
                Some(state) => state.clone(),
                None if !ours.contains(flag) && flag != "help" => State::Unbuilt(String::new()),
                None if !looked_at => State::Ignored,
                None => State::Done,
            };
            // Twins are the same program.
            let tried = state == State::Done && HARMLESS.contains(&canonical) && path == canonical;
            if let Some(state) = refused.get(&(canonical.to_owned(), flag.to_owned())) {
                states.insert(flag.to_owned(), state.clone());
                continue;
            }
            let state = match tried.then(|| refuses(daemon, canonical, flag, kind)).flatten() {
                Some(state) => {
                    refused.insert((canonical.to_owned(), flag.to_owned()), state.clone());
                    state
                }
                None => state,
            };
            states.insert(flag.to_owned(), state);
        }
        out.push(Row { command: row[1].to_owned(), state, flags: states });
    }
    out.sort_by(|one, other| one.command.cmp(&other.command));
    out
}

fn counted<'a>(states: impl Iterator<Item = &'a State>) -> String {
    let (mut all, mut done, mut refused, mut unbuilt) = (0, 0, 0, 0);
    for state in states {
        all += 1;
        match state {
            State::Done | State::Nothing => done += 1,
            State::Refused(_) => refused += 1,
            State::Unbuilt(_) => unbuilt += 1,
            State::Ignored => {}
        }
    }
    format!("{all} | {done} | {refused} | {unbuilt}")
}

fn document(routes: &[(String, State)], commands: &[Row]) -> String {
    let mut out = String::from(
        "# What of Docker's surface is there\n\nWritten by `cargo xtask coverage`, which asks the \
         programs themselves; do not edit. *Done*: it acts. *Refused*: as Docker does, with the \
         reason. *Not built yet*: refused by name with the words `is not available yet`. Nothing is \
         taken and ignored.\n\n| of the | rows | done | refused | not built yet |\n|---|---|---|---|---|\n",
    );
    let container = |row: &&Row| {
        let twin = row.command.strip_prefix("docker ").unwrap_or_default();
        let twin = format!("docker container {twin}");
        row.command.starts_with("docker container") || commands.iter().any(|r| r.command == twin)
    };
    let of_containers: Vec<&Row> = commands.iter().filter(container).collect();
    let is_of_containers = |path: &str| {
        ["/containers/", "/exec/", "/events", "/commit", "/system/df"]
            .iter()
            .any(|p| path.contains(p))
    };
    let states =
        |rows: &[&Row]| -> Vec<State> { rows.iter().map(|row| row.state.clone()).collect() };
    let flags = |rows: &[&Row]| -> Vec<State> {
        rows.iter().flat_map(|row| row.flags.values().cloned()).collect()
    };
    let every: Vec<&Row> = commands.iter().collect();
    let lines = [
        ("API's routes", counted(routes.iter().map(|(_, state)| state))),
        (
            "API's routes of containers",
            counted(routes.iter().filter(|(path, _)| is_of_containers(path)).map(|(_, s)| s)),
        ),
        ("commands", counted(states(&every).iter())),
        ("commands of containers", counted(states(&of_containers).iter())),
        ("flags of commands that are there", counted(flags(&every).iter())),
        ("flags of commands of containers", counted(flags(&of_containers).iter())),
    ];
    for (what, counts) in lines {
        let _ = writeln!(out, "| {what} | {counts} |");
    }
    out.push_str("\n## The API\n\n| route | |\n|---|---|\n");
    for (route, state) in routes {
        let _ = writeln!(out, "| `{route}` | {} |", state.shown());
    }
    out.push_str(
        "\n## The command line\n\n| command | | flags done | other flags |\n|---|---|---|---|\n",
    );
    for row in commands {
        let mut by_state: BTreeMap<&State, Vec<String>> = BTreeMap::new();
        for (flag, state) in &row.flags {
            by_state.entry(state).or_default().push(format!("`--{flag}`"));
        }
        let done = by_state.remove(&State::Done).unwrap_or_default().join(" ");
        let others: Vec<String> = by_state
            .iter()
            .map(|(state, flags)| format!("{} {}", flags.join(" "), state.shown()))
            .collect();
        let others = others.join("; ").replace('|', "\\|");
        let _ = writeln!(out, "| `{}` | {} | {done} | {others} |", row.command, row.state.shown());
    }
    out
}

#[test]
fn the_table_says_what_the_programs_do() {
    let daemon = daemon();
    daemon.hoy(&["create", "--name", "base", "busybox"]).run().ok();
    let network =
        ["network", "create", "--ipv6", "--subnet=172.30.0.0/16", "--subnet=fd00::/64", "six"];
    daemon.hoy(&network).run().ok();
    let commands = command_line(&daemon);
    let _ = std::fs::remove_file("/dev/shm/hoytest-coverage");
    let routes: Vec<(String, State)> = rows(ROUTES)
        .map(|row| (format!("{} {}", row[0], row[1]), route(&daemon, row[0], row[1])))
        .collect();
    let ignored: Vec<String> = commands
        .iter()
        .flat_map(|row| row.flags.iter().map(|(flag, state)| (&row.command, flag, state)))
        .filter(|(_, _, state)| **state == State::Ignored)
        .map(|(command, flag, _)| format!("{command} --{flag}"))
        .collect();
    assert!(ignored.is_empty(), "taken and ignored: {ignored:?}");
    let text = document(&routes, &commands);
    if std::env::var_os("HOY_COVERAGE").is_some() {
        std::fs::write(workspace().join("docs/COVERAGE.md"), &text).expect("write");
    }
    let known = read("docs/COVERAGE.md");
    let differ: Vec<_> = text.lines().filter(|line| !known.lines().any(|l| l == *line)).collect();
    assert!(text == known, "docs/COVERAGE.md is stale: cargo xtask coverage. New: {differ:#?}");
}
