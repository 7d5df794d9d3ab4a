//! AppArmor on this host: whether it is on, what is loaded, and hoy's own profile.
//!
//! The profile is compiled and loaded by the host's own parser, as every other profile there is.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

pub(crate) const DEFAULT: &str = "hoy-default";
pub(crate) const UNCONFINED: &str = "unconfined";

const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
const FILES: &str = "/sys/kernel/security/apparmor";
const PARSERS: &[&str] = &["/sbin/apparmor_parser", "/usr/sbin/apparmor_parser"];
/// The parser needs some milliseconds, on a busy machine some seconds.
const DEADLINE: Duration = Duration::from_secs(30);
/// How much of what the parser says is kept.
const WORDS: u64 = 4096;

/// A host with AppArmor turned on.
#[derive(Debug)]
pub(crate) struct AppArmor {
    parser: Option<PathBuf>,
    /// What this daemon is confined as, if it is.
    daemon: Option<String>,
}

impl AppArmor {
    pub fn of_this_host() -> Option<Self> {
        let enabled = std::fs::read_to_string(ENABLED).ok()?;
        if !enabled.starts_with('Y') || !Path::new(FILES).is_dir() {
            return None;
        }
        let parser = PARSERS.iter().map(PathBuf::from).find(|path| path.exists());
        let current = ["/proc/self/attr/apparmor/current", "/proc/self/attr/current"]
            .iter()
            .find_map(|path| std::fs::read_to_string(path).ok());
        let daemon = current.as_deref().map(profile_of).filter(|name| *name != UNCONFINED);
        Some(Self { parser, daemon: daemon.map(str::to_owned) })
    }

    /// Makes sure that the default profile can be used. False where there is nothing to load it
    /// with, and nobody else did: as Docker, hoy then runs containers without one.
    pub fn has_default(&self) -> Result<bool> {
        let path = Path::new(FILES).join("profiles");
        let loaded = std::fs::read_to_string(&path).map_err(|error| {
            Error::system(format!(
                "could not check if the {DEFAULT} AppArmor profile was loaded: read {}: {error}",
                path.display()
            ))
        })?;
        if is_listed(&loaded, DEFAULT) {
            return Ok(true);
        }
        let Some(parser) = &self.parser else { return Ok(false) };
        load(parser, &profile(self.daemon.as_deref())).map_err(|reason| {
            Error::system(format!(
                "AppArmor enabled on system but the {DEFAULT} profile could not be loaded: {reason}"
            ))
        })?;
        tracing::info!(profile = DEFAULT, "loaded the AppArmor profile");
        Ok(true)
    }
}

/// `name (mode)`.
fn profile_of(label: &str) -> &str {
    let label = label.trim_end_matches(['\n', '\0']);
    label.rsplit_once(" (").map_or(label, |(name, _)| name)
}

fn is_listed(profiles: &str, name: &str) -> bool {
    profiles.lines().any(|line| profile_of(line) == name)
}

/// Runs the parser on a text.
fn load(parser: &Path, text: &str) -> std::result::Result<(), String> {
    let program = parser.display();
    let failed = |error: std::io::Error| format!("run {program}: {error}");
    let mut child = Command::new(parser)
        .args(["--replace", "--skip-cache"])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read says why by its exit code.
        let _ = stdin.write_all(text.as_bytes());
    }
    let started = Instant::now();
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if started.elapsed() > DEADLINE => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{program} did not end in {} s", DEADLINE.as_secs()));
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut words = String::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(WORDS).read_to_string(&mut words);
    }
    Err(format!("{program} ended with {status}: {}", words.trim()))
}

/// The text of the default profile: Docker's rules. A further peer may send signals, which is
/// whoever kills for `docker kill`.
fn profile(daemon: Option<&str>) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let daemon = daemon.filter(|name| !name.is_empty() && name.chars().all(plain));
    let peer = daemon.map(|name| format!("  signal (receive) peer={name},\n")).unwrap_or_default();
    PROFILE.replace("@daemon@", &peer)
}

const PROFILE: &str = include_str!("apparmor.profile");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_lists() {
        assert_eq!(profile_of("hoy-default (enforce)\n"), "hoy-default");
        assert_eq!(profile_of("unconfined\n"), "unconfined");
        assert_eq!(profile_of("with (some) words (complain)\0"), "with (some) words");
        let list = "/usr/bin/man (enforce)\nhoy-default-2 (enforce)\n";
        assert!(!is_listed(list, DEFAULT));
        assert!(is_listed(&format!("{list}hoy-default (complain)\n"), DEFAULT));
    }

    #[test]
    fn the_daemons_own_profile_may_send_signals() {
        let text = profile(None);
        assert!(text.contains("profile hoy-default flags="));
        assert!(!text.contains('@'));
        assert!(profile(Some("/usr/bin/hoyd")).contains("signal (receive) peer=/usr/bin/hoyd,\n"));
        assert_eq!(profile(Some("a,\n  mount")), text, "no name writes rules");
    }

    #[test]
    fn a_parser_that_fails_says_why() {
        let error = load(Path::new("/nonexistent/parser"), "").unwrap_err();
        assert!(error.contains("run /nonexistent/parser"), "{error}");
        let error = load(Path::new("/bin/cat"), "").unwrap_err();
        assert!(error.contains("/bin/cat ended with") && error.contains("--replace"), "{error}");
    }
}
