//! Plugins of the command line: programs `docker-NAME` in Docker's folders, with Docker's handshake.
//!
//! A folder is trusted as PATH is: what lies there is run with the user's rights. A program that
//! does not answer the handshake is none of ours and is not run for anything else.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::{Map, Value};

use crate::connect;
use crate::failure::{Failure, Result};
use crate::parse::Parsed;
use crate::settings;
use crate::signals::{self, Signals};

/// How long a program may take to say what it is.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The longest answer that makes sense.
const MAX_ANSWER: u64 = 1 << 20;
/// Connections of one plugin and what it starts; more are not taken.
const MAX_CONNECTIONS: usize = 16;
/// After so many signals a plugin that does not end is ended.
const PATIENCE: u32 = 3;
const FOLDERS: [&str; 4] = [
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];
const PREFIX: &str = "docker-";
const METADATA: &str = "docker-cli-plugin-metadata";

/// A program that may be a plugin.
#[derive(Clone, Debug)]
pub struct Plugin {
    pub name: String,
    pub path: PathBuf,
    /// Programs of the same name in later folders.
    pub shadowed: Vec<PathBuf>,
    /// What it says of itself, or why it is no plugin.
    pub about: std::result::Result<Map<String, Value>, String>,
}

impl Plugin {
    /// A line of the help.
    pub fn short(&self) -> &str {
        let about = self.about.as_ref().ok();
        about.and_then(|about| about.get("ShortDescription")?.as_str()).unwrap_or_default()
    }

    pub fn is_hidden(&self) -> bool {
        self.about.as_ref().is_ok_and(|about| about.get("Hidden") == Some(&Value::Bool(true)))
    }

    /// As `info` shows it.
    pub fn document(&self) -> Value {
        let mut map = self.about.clone().unwrap_or_default();
        map.insert("Name".to_owned(), self.name.clone().into());
        map.insert("Path".to_owned(), self.path.display().to_string().into());
        if let Err(error) = &self.about {
            map.insert("Err".to_owned(), error.clone().into());
        }
        if !self.shadowed.is_empty() {
            let paths: Vec<Value> =
                self.shadowed.iter().map(|path| path.display().to_string().into()).collect();
            map.insert("ShadowedPaths".to_owned(), paths.into());
        }
        map.into()
    }
}

/// Where plugins lie, the first folder first.
fn folders(settings: &Value, directory: &Path) -> Vec<PathBuf> {
    let extra = settings::texts(settings, "cliPluginsExtraDirs").map(PathBuf::from);
    let own = std::iter::once(directory.join("cli-plugins"));
    extra.chain(own).chain(FOLDERS.map(PathBuf::from)).collect()
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// The program of this name and those that it hides; it has not been asked anything.
fn candidates(folders: &[PathBuf], name: &str) -> Vec<PathBuf> {
    let paths = folders.iter().map(|folder| folder.join(format!("{PREFIX}{name}")));
    paths.filter(|path| path.is_file()).collect()
}

/// Asks a program what it is.
fn ask(name: &str, path: &Path) -> std::result::Result<Map<String, Value>, String> {
    if !is_name(name) {
        return Err(format!("plugin candidate \"{name}\" did not match \"^[a-z][a-z0-9]*$\""));
    }
    let failed = |why: String| format!("failed to fetch metadata: {why}");
    let executable = path.metadata().is_ok_and(|about| about.permissions().mode() & 0o111 != 0);
    if !executable {
        return Err(failed(format!("fork/exec {}: permission denied", path.display())));
    }
    let answer = answer(path, &[METADATA]).map_err(failed)?;
    let about: Map<String, Value> =
        serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
    let text = |key: &str| about.get(key).and_then(Value::as_str).unwrap_or_default();
    if text("SchemaVersion") != "0.1.0" {
        return Err(format!(
            "plugin SchemaVersion \"{}\" is not valid, must be 0.1.0",
            text("SchemaVersion")
        ));
    }
    if text("Vendor").is_empty() {
        return Err("plugin metadata does not define a vendor".to_owned());
    }
    Ok(about)
}

/// What a plugin answers to a question of its protocol.
pub fn answer(path: &Path, words: &[&str]) -> std::result::Result<Vec<u8>, String> {
    let mut child = Command::new(path)
        .args(words)
        .env("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND", original())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("fork/exec {}: {error}", path.display()))?;
    answer_of(&mut child)
}

/// What a program writes until it ends; it has not forever.
fn answer_of(child: &mut Child) -> std::result::Result<Vec<u8>, String> {
    let started = Instant::now();
    let mut out = child.stdout.take().ok_or("no output")?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    let result = loop {
        let left = HANDSHAKE.saturating_sub(started.elapsed());
        let wait = rustix::event::Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(&out, PollFlags::IN)], Some(&wait));
        if ready == Ok(0) && left < Duration::from_secs(1) {
            break Err(format!("no answer in {} s", HANDSHAKE.as_secs()));
        }
        if !matches!(ready, Ok(1)) {
            continue;
        }
        match out.read(&mut piece) {
            Ok(0) => break Ok(()),
            Ok(length) if (answer.len() + length) as u64 <= MAX_ANSWER => {
                answer.extend_from_slice(&piece[..length]);
            }
            Ok(_) => break Err("the answer is too long".to_owned()),
            Err(error) => break Err(error.to_string()),
        }
    };
    if result.is_err() {
        let _ = child.kill();
    }
    // One that says no more and does not end has not forever either.
    let status = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status,
            None if started.elapsed() > HANDSHAKE => drop(child.kill()),
            None => {}
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    result?;
    if status.success() {
        Ok(answer)
    } else {
        Err(format!("exit status {}", status.code().unwrap_or(-1)))
    }
}

/// What this program was called as.
fn original() -> std::ffi::OsString {
    std::env::args_os().next().unwrap_or_else(|| crate::help::NAME.into())
}

/// All plugins, by name; each was asked what it is, all at once.
pub fn all(global: &Parsed) -> Vec<Plugin> {
    let directory = settings::directory(global);
    let folders = folders(&settings::load(&directory), &directory);
    let mut found: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for folder in &folders {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(name) = name.strip_prefix(PREFIX) else { continue };
            if entry.path().is_file() {
                found.entry(name.to_owned()).or_default().push(entry.path());
            }
        }
    }
    let asked: Vec<_> = found
        .into_iter()
        .map(|(name, mut paths)| {
            std::thread::spawn(move || {
                let path = paths.remove(0);
                let about = ask(&name, &path);
                Plugin { name, path, shadowed: paths, about }
            })
        })
        .collect();
    asked.into_iter().filter_map(|asked| asked.join().ok()).collect()
}

/// The plugin of this name, if there is a good one.
pub fn find(name: &str, global: &Parsed) -> Option<Plugin> {
    if !is_name(name) {
        return None;
    }
    let directory = settings::directory(global);
    let mut paths = candidates(&folders(&settings::load(&directory), &directory), name);
    if paths.is_empty() {
        return None;
    }
    let path = paths.remove(0);
    let about = ask(name, &path);
    Some(Plugin { name: name.to_owned(), path, shadowed: paths, about })
}

/// Words of a command that Docker forwards to its builder, with the builder's in their place.
pub fn forwarded(words: &[String], args: &[String], builder: &str) -> Option<Vec<String>> {
    let forms: [(&[&str], &[&str]); 4] = [
        (&["builder"], &[]),
        (&["build"], &["build"]),
        (&["image", "build"], &["build"]),
        (&["bake"], &["bake"]),
    ];
    let (old, new) =
        forms.into_iter().find(|(old, _)| args.len() >= old.len() && args[..old.len()] == **old)?;
    let at = words.windows(old.len()).position(|window| window == old)?;
    let mut out = words[..at].to_vec();
    out.push(builder.to_owned());
    out.extend(new.iter().map(|word| (*word).to_owned()));
    out.extend_from_slice(&words[at + old.len()..]);
    Some(out)
}

/// Runs a plugin with all words of the command line; its end is ours.
pub fn run(
    plugin: &Plugin,
    words: &[String],
    more: &[(&str, String)],
    global: &Parsed,
) -> Result<u8> {
    let mut command = Command::new(&plugin.path);
    command.args(words).env("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND", original());
    command.envs(more.iter().map(|(name, value)| (name, value)));
    // Where our engine is, it cannot know by Docker's rules.
    // Whoever asks for help or for words needs no daemon.
    let asks =
        words.iter().any(|word| matches!(word.as_str(), "--help" | "-h" | "help" | "__complete"));
    let choice = match asks {
        true => connect::choose(&connect::Said::of(global)),
        false => connect::chosen(global),
    };
    if let Ok(choice) = choice
        && choice.own
    {
        command.env("DOCKER_HOST", &choice.host);
    }
    let listener = listen();
    if let Some((_, address)) = &listener {
        command.env("DOCKER_CLI_PLUGIN_SOCKET", address);
    }
    let mut signals = Signals::of(&[signals::INT, signals::TERM])?;
    let mut child = command
        .spawn()
        .map_err(|error| Failure::new(format!("fork/exec {}: {error}", plugin.path.display())))?;
    let code = attend(&mut child, &mut signals, listener.map(|(listener, _)| listener))?;
    if code == 0 { Ok(0) } else { Err(Failure::silent(code)) }
}

/// The socket whose end tells a plugin to end.
fn listen() -> Option<(UnixListener, String)> {
    let mut random = [0; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).ok()?;
    let name: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let name = format!("docker_cli_{name}");
    let address = SocketAddr::from_abstract_name(&name).ok()?;
    Some((UnixListener::bind_addr(&address).ok()?, format!("@{name}")))
}

/// Waits for the plugin, takes its connections, and tells it of signals.
fn attend(child: &mut Child, signals: &mut Signals, listener: Option<UnixListener>) -> Result<u8> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Failure::new("the plugin has no process"))?;
    let end = pidfd_open(pid, PidfdFlags::empty()).map_err(std::io::Error::from)?;
    let mut listener = listener;
    let mut connections: Vec<UnixStream> = Vec::new();
    let mut told = 0;
    let on_terminal = crate::terminal::stdout_is_terminal();
    loop {
        let (ended, signalled, connects) = {
            let end = end.as_fd();
            let mut fds =
                vec![PollFd::new(&end, PollFlags::IN), PollFd::new(&*signals, PollFlags::IN)];
            if let Some(listener) =
                listener.as_ref().filter(|_| connections.len() < MAX_CONNECTIONS)
            {
                fds.push(PollFd::new(listener, PollFlags::IN));
            }
            // Without a deadline: a plugin runs as long as it runs, and its end is seen.
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(std::io::Error::from(error).into()),
            }
            let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
            (ready(0), ready(1), ready(2))
        };
        if ended {
            let status = child.wait()?;
            let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
            return Ok(code.and_then(|code| u8::try_from(code & 0xff).ok()).unwrap_or(1));
        }
        if connects && let Some(Ok((stream, _))) = listener.as_ref().map(UnixListener::accept) {
            connections.push(stream);
        }
        while signalled && let Some(signal) = signals.next() {
            told += 1;
            // A terminal tells the whole group itself.
            if !on_terminal {
                let had_any = !connections.is_empty();
                connections.clear();
                listener = None;
                // One that never took the socket knows signals only.
                if !had_any && told == 1 {
                    let signal = if signal == signals::INT { Signal::INT } else { Signal::TERM };
                    let _ = kill_process(pid, signal);
                }
            }
            if told >= PATIENCE && !on_terminal {
                let _ = child.kill();
                let _ = child.wait();
                crate::say(&format!("got {told} SIGTERM/SIGINTs, forcefully exiting"));
                return Ok(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn what_is_forwarded() {
        let of = |line: &str, args: &str| {
            forwarded(&words(line), &words(args), "buildx").map(|out| out.join(" "))
        };
        assert_eq!(of("-D build .", "build ."), Some("-D buildx build .".to_owned()));
        assert_eq!(of("image build .", "image build ."), Some("buildx build .".to_owned()));
        assert_eq!(of("builder prune -f", "builder prune -f"), Some("buildx prune -f".to_owned()));
        assert_eq!(of("image ls", "image ls"), None);
    }

    #[test]
    fn who_is_a_plugin() {
        let directory = tempfile::tempdir().unwrap();
        let make = |name: &str, text: &str, mode: u32| {
            let path = directory.path().join(format!("docker-{name}"));
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            ask(name, &path)
        };
        let good = r#"echo '{"SchemaVersion":"0.1.0","Vendor":"v","ShortDescription":"s"}'"#;
        assert_eq!(make("good", good, 0o755).unwrap()["Vendor"], "v");
        assert!(make("plain", good, 0o644).unwrap_err().contains("permission denied"));
        assert!(make("Bad", good, 0o755).unwrap_err().contains("did not match"));
        assert!(make("fails", "exit 3", 0o755).unwrap_err().contains("exit status 3"));
        assert!(make("noise", "echo x", 0o755).is_err());
        let old = r#"echo '{"SchemaVersion":"9","Vendor":"v"}'"#;
        assert!(make("old", old, 0o755).unwrap_err().contains("must be 0.1.0"));
        let nobody = r#"echo '{"SchemaVersion":"0.1.0"}'"#;
        assert!(make("nobody", nobody, 0o755).unwrap_err().contains("vendor"));
        let folders = folders(&serde_json::json!({"cliPluginsExtraDirs": ["/x"]}), Path::new("/c"));
        assert_eq!(folders[..2], [PathBuf::from("/x"), PathBuf::from("/c/cli-plugins")]);
    }
}
