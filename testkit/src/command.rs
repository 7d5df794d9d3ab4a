//! Running a program with a deadline, and looking at what came of it.

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::patience;

/// What a finished program left.
#[derive(Clone, Debug)]
pub struct Output {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Standard output of a program that must have succeeded.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert_eq!(self.code, Some(0), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        &self.stdout
    }

    /// Checks the exit code.
    #[track_caller]
    pub fn fails_with(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }
}

/// A command under a deadline.
pub struct Run {
    command: Command,
    input: Option<Vec<u8>>,
    deadline: Duration,
}

impl Run {
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self { command: Command::new(program), input: None, deadline: patience(120) }
    }

    #[must_use]
    pub fn args<I, S>(mut self, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.command.args(args);
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    #[must_use]
    pub fn deadline(mut self, seconds: u64) -> Self {
        self.deadline = patience(seconds);
        self
    }

    /// Starts it without waiting; standard streams are pipes.
    pub fn spawn(mut self) -> Child {
        let stdin = if self.input.is_some() { Stdio::piped() } else { Stdio::null() };
        self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.command.spawn().unwrap_or_else(|error| panic!("spawn {:?}: {error}", self.command))
    }

    /// Runs it to its end. One that misses the deadline is killed and fails the test.
    #[track_caller]
    pub fn run(mut self) -> Output {
        let input = self.input.take();
        let deadline = self.deadline;
        let shown = format!("{:?}", self.command);
        self.input = input.clone();
        let mut child = self.spawn();
        let feeder = child.stdin.take().map(|mut stdin| {
            let bytes = input.unwrap_or_default();
            std::thread::spawn(move || drop(stdin.write_all(&bytes)))
        });
        let mut out = child.stdout.take().expect("piped");
        let mut err = child.stderr.take().expect("piped");
        let read = |mut source: Box<dyn std::io::Read + Send>| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                let _ = source.read_to_end(&mut bytes);
                String::from_utf8_lossy(&bytes).into_owned()
            })
        };
        let (out, err) = {
            let _ = out.by_ref();
            let _ = err.by_ref();
            (read(Box::new(out)), read(Box::new(err)))
        };
        let started = Instant::now();
        let mut late = false;
        let status = loop {
            match child.try_wait().expect("wait") {
                Some(status) => break status,
                None if started.elapsed() > deadline => {
                    late = true;
                    let _ = child.kill();
                    break child.wait().expect("wait");
                }
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        let stdout = out.join().expect("reader");
        let stderr = err.join().expect("reader");
        if let Some(feeder) = feeder {
            let _ = feeder.join();
        }
        assert!(!late, "{shown} did not end in {deadline:?}\nstdout: {stdout}\nstderr: {stderr}");
        Output { code: status.code(), stdout, stderr }
    }
}

/// Asks again and again until the answer is yes; fails the test after a minute, or some more on an
/// emulated processor: what takes a moment may take long on a machine that stands still.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < patience(60), "not in {:?}: {what}", patience(60));
        std::thread::sleep(Duration::from_millis(10));
    }
}
