//! One of those that are measured: what each test asks of it, as commands.

use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;

use anyhow::Result;

use crate::account::Account;
use crate::bundle::Bare;

#[derive(Clone)]
pub struct Peer {
    pub name: &'static str,
    pub account: Rc<Account>,
    pub kind: Kind,
}

#[derive(Clone)]
pub enum Kind {
    Engine(Engine),
    /// A runtime alone: no images, no network, no log.
    Bare(Bare),
}

/// A command line with Docker's grammar.
#[derive(Clone)]
pub struct Engine {
    pub prefix: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Flags for `run`.
    pub run: Vec<String>,
    /// How it removes what runs, at once.
    pub remove: &'static [&'static str],
    /// The same containers as another's: it takes no part in the test of many.
    pub guest: bool,
}

impl Engine {
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.prefix[0]);
        command.args(&self.prefix[1..]).args(args);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Command {
        let flags = self.run.iter().map(String::as_str);
        self.command(["run"].into_iter().chain(flags).chain(args.iter().copied()))
    }

    pub fn import(&self, tar: &Path) -> Result<()> {
        crate::output(self.command(["import"]).arg(tar).arg("busybox")).map(drop)
    }
}

impl Peer {
    /// `true`, from nothing to nothing.
    pub fn run_true(&self, id: &str) -> Result<Vec<Command>> {
        Ok(vec![match &self.kind {
            Kind::Engine(engine) => engine.run(&["--rm", "busybox", "true"]),
            Kind::Bare(bare) => bare.with_bundle("run", &[], id, &["true"], None)?,
        }])
    }

    /// Writes a byte to `pipe` in the directory, as soon as it runs.
    pub fn first(&self, id: &str, directory: &Path) -> Result<Vec<Command>> {
        const WRITE: &[&str] = &["sh", "-c", "echo >/first/pipe"];
        Ok(match &self.kind {
            Kind::Engine(engine) => {
                let volume = format!("{}:/first", directory.display());
                let mut args = vec!["-d", "--name", id, "-v", &volume, "busybox"];
                args.extend(WRITE);
                vec![engine.run(&args)]
            }
            Kind::Bare(bare) => vec![
                bare.with_bundle("create", &[], id, WRITE, Some(directory))?,
                bare.command(&["start", id]),
            ],
        })
    }

    /// Starts one that does nothing, and comes back.
    pub fn detached(&self, id: &str) -> Result<Vec<Command>> {
        const IDLE: &[&str] = &["sleep", "100000"];
        Ok(vec![match &self.kind {
            Kind::Engine(engine) => {
                let mut args = vec!["-d", "--name", id, "busybox"];
                args.extend(IDLE);
                engine.run(&args)
            }
            Kind::Bare(bare) => bare.with_bundle("run", &["-d"], id, IDLE, None)?,
        }])
    }

    pub fn exec_true(&self, id: &str) -> Vec<Command> {
        vec![match &self.kind {
            Kind::Engine(engine) => engine.command(["exec", id, "true"]),
            Kind::Bare(bare) => bare.command(&["exec", id, "true"]),
        }]
    }

    /// The engine, where there is more than a runtime.
    pub fn engine(&self) -> Option<&Engine> {
        match &self.kind {
            Kind::Engine(engine) => Some(engine),
            Kind::Bare(_) => None,
        }
    }

    /// Ends and removes containers, unmeasured.
    pub fn remove(&self, ids: &[String]) -> Result<()> {
        self.account.enter()?;
        match &self.kind {
            Kind::Engine(engine) => {
                for some in ids.chunks(20) {
                    crate::output(engine.command(engine.remove).args(some))?;
                }
            }
            Kind::Bare(bare) => {
                for id in ids {
                    crate::output(&mut bare.command(&["delete", "-f", id]))?;
                }
            }
        }
        Ok(())
    }
}
