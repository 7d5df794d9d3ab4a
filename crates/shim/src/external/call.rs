//! One call of an OCI runtime, bounded in time, and what its failure means.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hoy_runtime::{ExternalPlan, FailureReason, StartError, Stdio};
use hoy_sys::exec::{CStringArray, execve};
use hoy_sys::process::{self, CloneArgs};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, MemfdFlags, Mode, OFlags, memfd_create};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde::{Deserialize, Serialize};

/// Below the container's place: what the runtime remembers.
pub(super) const STATE: &str = "state";
const LOG: &str = "log.json";
const NOTE: &str = "runtime.json";
/// More than this is not read of what a runtime writes.
const LONGEST: u64 = 1 << 20;
/// Of a message that is handed on.
const SAID: usize = 4096;
/// How long one that was killed may take to end.
const KILLED: Duration = Duration::from_secs(2);
/// For whatever a runtime itself calls.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How a runtime is called for one container. Also what is noted for a daemon that finds no
/// supervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Runtime {
    name: String,
    path: PathBuf,
    args: Vec<String>,
    place: PathBuf,
    id: String,
}

impl Runtime {
    pub fn new(plan: &ExternalPlan, id: &str) -> Result<Self, StartError> {
        let path = find(&plan.path).map_err(|errno| {
            let error = StartError::system(&format!("exec: {:?}", plan.path), errno);
            let missing = matches!(errno, Errno::NOENT | Errno::NOTDIR);
            StartError::new(
                if missing { FailureReason::NotFound } else { FailureReason::NotExecutable },
                format!("OCI runtime create failed: runtime {}: {error}", plan.name),
            )
        })?;
        Ok(Self {
            name: plan.name.clone(),
            path,
            args: plan.args.clone(),
            place: plan.place.clone(),
            id: id.to_owned(),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes down how it is called.
    pub fn note(&self, place: &Path) -> Result<(), StartError> {
        let text = serde_json::to_vec(self).map_err(io::Error::other);
        text.and_then(|text| std::fs::write(place.join(NOTE), text))
            .map_err(|error| StartError::system("note the runtime", error))
    }

    /// As it was noted.
    pub fn noted(place: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(place.join(NOTE)).ok()?).ok()
    }

    /// The whole command line.
    fn words(&self, words: &[&str], after: &[&str]) -> Vec<Vec<u8>> {
        let bytes = |text: &str| text.as_bytes().to_vec();
        let path = |name: &str| self.place.join(name).as_os_str().as_bytes().to_vec();
        let mut out = vec![self.path.as_os_str().as_bytes().to_vec()];
        out.extend(self.args.iter().map(|word| bytes(word)));
        out.extend([bytes("--root"), path(STATE)]);
        out.extend([bytes("--log"), path(LOG), bytes("--log-format"), bytes("json")]);
        out.extend(words.iter().map(|word| bytes(word)));
        out.push(bytes(&self.id));
        out.extend(after.iter().map(|word| bytes(word)));
        out
    }

    /// For callers that have threads: the same command line for `std`.
    pub fn command(&self, words: &[&str]) -> std::process::Command {
        use std::ffi::OsStr;
        let all = self.words(words, &[]);
        let mut all = all.iter().map(|word| OsStr::from_bytes(word));
        let mut command = std::process::Command::new(all.next().unwrap_or_default());
        command.args(all).env_clear().env("PATH", PATH).current_dir("/");
        command
    }

    /// A call that has nothing to do with a process's streams.
    pub fn call(&self, words: &[&str], deadline: Duration) -> Result<(), CallError> {
        self.call_after(words, &[], deadline)
    }

    /// With words behind the container's id.
    pub fn call_after(
        &self,
        words: &[&str],
        after: &[&str],
        deadline: Duration,
    ) -> Result<(), CallError> {
        self.run(words, after, None, deadline)
    }

    /// A call that makes a process with these streams.
    pub fn call_with(
        &self,
        words: &[&str],
        stdio: Stdio,
        deadline: Duration,
    ) -> Result<(), CallError> {
        self.run(words, &[], Some(stdio), deadline)
    }

    fn run(
        &self,
        words: &[&str],
        after: &[&str],
        stdio: Option<Stdio>,
        deadline: Duration,
    ) -> Result<(), CallError> {
        let log = self.place.join(LOG);
        let _ = std::fs::remove_file(&log);
        let what = words.first().copied().unwrap_or_default();
        let failed = |doing: &str, error: io::Error| CallError {
            text: format!("runtime {}: {what}: {doing}: {error}", self.name),
        };
        let said = memfd_create("runtime", MemfdFlags::CLOEXEC)
            .map_err(|errno| failed("make a file", errno.into()))?;
        let status = self
            .run_to_end(&self.words(words, after), stdio, &said, deadline)
            .map_err(|error| failed("run it", error))?;
        match status {
            Some(0) => Ok(()),
            Some(code) => Err(CallError { text: self.why(&log, said, what, code) }),
            None => {
                let seconds = deadline.as_secs();
                let text =
                    format!("runtime {}: {what} has not ended within {seconds} seconds", self.name);
                Err(CallError { text })
            }
        }
    }

    /// The exit status, or none if the deadline was reached: then it is killed.
    fn run_to_end(
        &self,
        words: &[Vec<u8>],
        stdio: Option<Stdio>,
        said: &OwnedFd,
        deadline: Duration,
    ) -> io::Result<Option<i32>> {
        let nul = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let words = words.iter().map(|word| CString::new(word.clone()).map_err(nul));
        let words = words.collect::<io::Result<Vec<_>>>()?;
        let program = words.first().cloned().unwrap_or_default();
        let environment = CString::new(format!("PATH={PATH}")).map_err(nul)?;
        let (arguments, environment) =
            (CStringArray::new(words), CStringArray::new(vec![environment]));
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let null = rustix::fs::open("/dev/null", flags, Mode::empty())?;
        let (stdin, stdout, stderr) = match &stdio {
            Some(Stdio::Pipes { stdin, stdout, stderr }) => (stdin, stdout, stderr),
            Some(Stdio::Terminal) | None => (&null, &null, said),
        };
        // Tells of an execve that failed; closed without a word by one that did not.
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        let (_, pidfd) = process::spawn(CloneArgs::default(), || {
            process::reset_signals();
            rustix::process::umask(Mode::from_raw_mode(0o022));
            let ready = rustix::stdio::dup2_stdin(stdin)
                .and_then(|()| rustix::stdio::dup2_stdout(stdout))
                .and_then(|()| rustix::stdio::dup2_stderr(stderr));
            let error = match ready {
                Ok(()) if process::close_on_exec_from(3).is_ok() => {
                    execve(&program, &arguments, &environment)
                }
                Ok(()) => io::Error::last_os_error(),
                Err(errno) => errno.into(),
            };
            let code = error.raw_os_error().unwrap_or(0);
            let _ = rustix::io::write(&theirs, &code.to_ne_bytes());
            255
        })?;
        drop(theirs);
        drop(stdio);
        let ended = wait(&pidfd, deadline)?;
        if !ended {
            let _ = process::pidfd_signal(pidfd.as_fd(), 9);
            // One that the kernel holds is found among the children when it is let go.
            if wait(&pidfd, KILLED)? {
                waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)?;
            }
            return Ok(None);
        }
        let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)?;
        let mut code = [0; 4];
        if matches!(rustix::io::read(&ours, &mut code), Ok(4)) {
            return Err(io::Error::from_raw_os_error(i32::from_ne_bytes(code)));
        }
        let killed = |status: &rustix::process::WaitIdStatus| {
            status.terminating_signal().map(|signal| 128 + signal)
        };
        Ok(Some(status.and_then(|s| s.exit_status().or_else(|| killed(&s))).unwrap_or(255)))
    }

    /// What the runtime says is wrong: the last error of its log, or what it wrote.
    fn why(&self, log: &Path, said: OwnedFd, what: &str, code: i32) -> String {
        let read = |file: io::Result<File>| {
            let mut bytes = Vec::new();
            let _ = file.and_then(|file| file.take(LONGEST).read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        };
        if let Some(text) = last_error(&read(File::open(log))) {
            return text;
        }
        let mut said = File::from(said);
        let said = read(said.rewind().map(|()| said));
        match said.lines().rev().find(|line| !line.trim().is_empty()) {
            Some(line) => shortened(line.trim()),
            None => format!("runtime {}: {what} ended with status {code}", self.name),
        }
    }
}

/// Where the program lies: its path, or a name to be looked for.
fn find(path: &Path) -> Result<PathBuf, Errno> {
    let usable = |path: &Path| rustix::fs::access(path, Access::EXEC_OK);
    if path.components().count() > 1 || path.is_absolute() {
        let directory = std::fs::metadata(path).is_ok_and(|found| found.is_dir());
        return usable(path).and(if directory { Err(Errno::ISDIR) } else { Ok(path.to_owned()) });
    }
    let mut all = PATH.split(':').map(|directory| Path::new(directory).join(path));
    all.find(|path| usable(path).is_ok() && path.is_file()).ok_or(Errno::NOENT)
}

/// Waits for a process's end; false if it has not come.
fn wait(pidfd: &OwnedFd, deadline: Duration) -> io::Result<bool> {
    let begun = Instant::now();
    loop {
        let left = deadline.saturating_sub(begun.elapsed());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    level: String,
    #[serde(default)]
    msg: String,
}

fn last_error(log: &str) -> Option<String> {
    let lines = log.lines().rev().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let mut errors =
        lines.filter(|line| matches!(line.level.as_str(), "error" | "fatal" | "panic"));
    errors.next().map(|line| shortened(line.msg.trim()))
}

/// Bounded, and the kernel's words as Go has them, which clients look for.
fn shortened(text: &str) -> String {
    let mut text: String = text.chars().take(SAID).collect();
    for words in
        ["No such file or directory", "Permission denied", "Is a directory", "Not a directory"]
    {
        text = text.replace(words, &words.to_lowercase());
    }
    text
}

/// A call that failed, in the runtime's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CallError {
    text: String,
}

impl CallError {
    /// For a process that was to begin: what failed, and what that means for the exit code.
    pub fn refused(self, prefix: &str) -> StartError {
        StartError::new(start_reason(&self.text), format!("{prefix}: {}", self.text))
    }

    /// For a container that is there.
    pub fn plain(self) -> StartError {
        let lower = self.text.to_lowercase();
        let ended = ["not running", "already finished", "no such process", "does not exist"];
        let reason = if ended.iter().any(|words| lower.contains(words)) {
            FailureReason::State
        } else {
            FailureReason::System
        };
        StartError::new(reason, self.text)
    }
}

/// By Docker's rules, which look for these words.
fn start_reason(text: &str) -> FailureReason {
    let lower = text.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|words| lower.contains(words));
    if has(&["permission denied", "is a directory"]) {
        FailureReason::NotExecutable
    } else if has(&["not a directory", "executable file not found", "no such file or directory"])
        || (lower.contains("executable file") && lower.contains("not found"))
    {
        FailureReason::NotFound
    } else {
        FailureReason::System
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_counts() {
        let log = r#"{"level":"warning","msg":"a","time":"x"}
{"level":"error","msg":"runc create failed: exec: \"x\": executable file not found in $PATH"}
not json
{"level":"info","msg":"b"}"#;
        let text = last_error(log).unwrap();
        assert_eq!(text, "runc create failed: exec: \"x\": executable file not found in $PATH");
        assert_eq!(last_error("nothing"), None);
    }

    #[test]
    fn what_words_mean() {
        for (text, reason) in [
            ("exec: \"x\": executable file not found in $PATH", FailureReason::NotFound),
            ("executable file `x` not found in $PATH: No such file", FailureReason::NotFound),
            ("open executable: Permission denied", FailureReason::NotExecutable),
            ("exec: \"/etc\": is a directory", FailureReason::NotExecutable),
            ("cgroups: busy", FailureReason::System),
        ] {
            assert_eq!(start_reason(text), reason, "{text}");
        }
    }
}
