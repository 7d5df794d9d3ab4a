//! Libraries of other languages that Debian does not have, for the tests of what speaks to an
//! engine. They are fetched while everything is compiled; what cannot be had, its test names.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use crate::programs::target_directory;
use crate::tasks::say;

/// By the registries' own clients, in the versions that the tests were written with.
const DOCKERODE: &str = "dockerode@5.0.1";
const TESTCONTAINERS: &str = "testcontainers==4.15.0";

/// A registry that has not answered by then is not waited for, in seconds.
const PATIENCE: &str = "120";

/// Begins to fetch what is missing; the result is where it is.
pub fn prepare() -> JoinHandle<PathBuf> {
    std::thread::spawn(|| {
        let directory = target_directory().join("clients");
        let _ = std::fs::create_dir_all(&directory);
        std::thread::scope(|scope| {
            scope.spawn(|| dockerode(&directory));
            scope.spawn(|| testcontainers(&directory));
        });
        directory
    })
}

fn dockerode(directory: &Path) {
    let there = directory.join("node_modules/dockerode/package.json");
    let prefix = directory.display().to_string();
    let install = ["npm", "install", "--prefix", &prefix, "--ignore-scripts", "--omit=optional"];
    let quiet = ["--no-audit", "--no-fund", "--no-save", "--silent", DOCKERODE];
    if !there.exists() && !runs(&[&install[..], &quiet].concat()) {
        say("dockerode is not to be had: its test is left out");
    }
}

fn testcontainers(directory: &Path) {
    let venv = directory.join("venv").display().to_string();
    let (python, done) = (format!("{venv}/bin/python"), format!("{venv}/done"));
    if Path::new(&done).exists() {
        return;
    }
    let made = runs(&["python3", "-m", "venv", &venv])
        && runs(&[&python, "-m", "pip", "install", "--quiet", TESTCONTAINERS])
        && std::fs::write(&done, "").is_ok();
    if !made {
        // Half of it would fail in a test, which cannot say why.
        let _ = std::fs::remove_dir_all(&venv);
        say("Testcontainers is not to be had: its test is left out");
    }
}

fn runs(words: &[&str]) -> bool {
    let mut command = Command::new("timeout");
    command.arg(PATIENCE).args(words).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
