//! The tests on another machine: Debian's cloud kernel with cgroup v2 alone, in qemu.
//!
//! Nothing of it needs to be installed but qemu: kernel, modules, programs and tests go into one
//! archive that the kernel unpacks into memory at boot.

mod content;
mod cpio;
mod kernel;
mod machine;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::programs::{self, Effort, TestProgram};

/// Whose tests can run there.
const TESTED: &[&str] = &["e2e", "crates/cgroup", "crates/network", "crates/volumes"];

/// What runs unless something is asked for: what depends on the kernel's version and on cgroups,
/// in a few minutes of an emulated processor.
const DEFAULT: &[&str] = &["limits", "block", "lsm", "cgroup-*"];

const DEADLINE: Duration = Duration::from_secs(900);

pub const USAGE: &str = "  guest [OPTIONS] [-- NAMES [LIBTEST ARGS]]
                    tests on Debian's kernel with cgroup v2, in qemu; NAMES: test programs,
                    as main_path,leaks or all; without: the regular check
                      --append WORDS     more for the kernel's command line
                      --deadline SECONDS end it then (900)
                      --command LINE     a shell line instead of tests
";

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    append: String,
    deadline: Duration,
    command: Option<String>,
    names: Vec<String>,
    rest: Vec<String>,
}

/// Runs it; the answer is the guest's exit code.
pub fn run(args: &[String]) -> Result<u8> {
    let request = parse(args)?;
    let target = programs::target_directory();
    let programs = target.join("programs");
    programs::build_into(&programs, Effort::Quick)?;
    let mut tests = programs::build_tests()?;
    tests.retain(|test| !test.unit && TESTED.contains(&test.package.as_str()));
    let tests = chosen(tests, &request.names)?;
    let kernel = kernel::Kernel::fetch(&target.join("guest"))?;
    let directory = Directory::make(&target.join("guest"))?;
    let archive = directory.0.join("archive");
    content::write(&archive, &kernel, &programs, &tests, &commands(&request, &tests))?;
    machine::Machine {
        kernel: kernel.image(),
        archive,
        append: &request.append,
        deadline: request.deadline,
        directory: &directory.0,
    }
    .run()
}

fn parse(args: &[String]) -> Result<Request> {
    let mut request = Request {
        append: String::new(),
        deadline: DEADLINE,
        command: None,
        names: DEFAULT.iter().map(|name| (*name).to_owned()).collect(),
        rest: Vec::new(),
    };
    let mut args = args.iter();
    while let Some(option) = args.next() {
        let mut value = || args.next().with_context(|| format!("{option} needs a value"));
        match option.as_str() {
            "--append" => value()?.clone_into(&mut request.append),
            "--deadline" => {
                let seconds = value()?.parse().context("--deadline takes seconds")?;
                request.deadline = Duration::from_secs(seconds);
            }
            "--command" => request.command = Some(value()?.clone()),
            "--" => {
                if let Some(names) = args.next() {
                    request.names = names.split(',').map(str::to_owned).collect();
                }
                request.rest = args.by_ref().cloned().collect();
            }
            _ => bail!("unknown option {option:?}"),
        }
    }
    Ok(request)
}

/// The tests of these names, in the names' order; one of the default list may be missing.
fn chosen(all: Vec<TestProgram>, names: &[String]) -> Result<Vec<TestProgram>> {
    let fits = |test: &TestProgram, name: &str| match name.strip_suffix('*') {
        Some(start) => test.name.starts_with(start),
        None => name == "all" || test.name == name,
    };
    let known: Vec<String> = all.iter().map(|test| test.name.clone()).collect();
    let mut chosen: Vec<TestProgram> = Vec::new();
    let mut left = all;
    for name in names {
        let (fitting, others) = left.into_iter().partition(|test| fits(test, name));
        left = others;
        let fitting: Vec<TestProgram> = fitting;
        if fitting.is_empty()
            && !DEFAULT.contains(&name.as_str())
            && !chosen.iter().any(|test| fits(test, name))
        {
            bail!("no test program {name}; there are: {}", known.join(", "));
        }
        chosen.extend(fitting);
    }
    Ok(chosen)
}

/// The script that the guest runs.
fn commands(request: &Request, tests: &[TestProgram]) -> String {
    let mut out = content::environment();
    if let Some(line) = &request.command {
        out.push_str("export PATH=$PATH:/hoy/programs\n");
        out.push_str(&format!("run / command /usr/bin/bash -c {}\n", quoted(line)));
        return out;
    }
    for test in tests {
        let mut line = vec![
            "run".to_owned(),
            content::directory_of(test),
            test.name.clone(),
            content::test_path(test),
        ];
        line.extend(request.rest.iter().cloned());
        let line: Vec<String> = line.iter().map(|word| quoted(word)).collect();
        out.push_str(&line.join(" "));
        out.push('\n');
    }
    out
}

/// One word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// A directory for one run, removed with it.
struct Directory(PathBuf);

impl Directory {
    fn make(parent: &Path) -> Result<Self> {
        // Some hundred megabytes of each run that was interrupted.
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let dead = |pid: &str| !Path::new("/proc").join(pid).exists();
            if name.strip_prefix("run-").is_some_and(dead) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let path = parent.join(format!("run-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn requests() {
        let request = parse(&words("--append quiet --deadline 60 -- leaks,doors -q x")).unwrap();
        assert_eq!(request.append, "quiet");
        assert_eq!(request.deadline, Duration::from_secs(60));
        assert_eq!(request.names, ["leaks", "doors"]);
        assert_eq!(request.rest, ["-q", "x"]);
        assert!(parse(&words("--nonsense")).is_err());
        assert!(parse(&words("--append")).is_err());
    }

    #[test]
    fn tests_by_name() {
        let all = || {
            ["doors", "leaks", "cgroup-kernel"]
                .map(|name| TestProgram {
                    name: name.to_owned(),
                    unit: false,
                    package: String::new(),
                    path: PathBuf::new(),
                })
                .into()
        };
        let names = |names: &str| {
            let names: Vec<String> = names.split(',').map(str::to_owned).collect();
            let chosen = chosen(all(), &names)?;
            Ok::<_, anyhow::Error>(chosen.into_iter().map(|test| test.name).collect::<Vec<_>>())
        };
        assert_eq!(names("leaks,cgroup-*").unwrap(), ["leaks", "cgroup-kernel"]);
        assert_eq!(names("all").unwrap().len(), 3);
        assert_eq!(names("limits").unwrap().len(), 0, "of the default list");
        assert!(names("nosuch").is_err());
    }

    #[test]
    fn quoting() {
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }
}
