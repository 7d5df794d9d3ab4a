//! hoy, from the four programs beside each other.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::account::Account;
use crate::peer::{Engine, Kind, Peer};
use crate::place::Place;

pub fn start(place: &Place) -> Result<Peer> {
    let programs: PathBuf =
        std::env::var_os("HOY_PROGRAMS").context("HOY_PROGRAMS: run `./x bench start`")?.into();
    let account = Account::open(place, "hoy")?;
    account.enter()?;
    let work = place.work.join("hoy");
    std::fs::create_dir(&work)?;
    let socket = work.join("sock");
    let host = format!("unix://{}", socket.display());
    let log = std::fs::File::create(work.join("log"))?;
    let mut daemon = Command::new(programs.join("hoyd"));
    daemon.arg("--data-root").arg(work.join("data")).arg("--exec-root").arg(work.join("run"));
    daemon.arg("--pidfile").arg(work.join("pid")).arg("--cgroup-parent");
    daemon.arg(format!("{}/containers", account.cgroup)).args(["--host", &host]);
    daemon.arg("--config-file=/dev/null").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut daemon = daemon.spawn().context("start hoyd")?;
    let started = Instant::now();
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        if daemon.try_wait()?.is_some() || started.elapsed() > Duration::from_secs(20) {
            let log = std::fs::read_to_string(work.join("log")).unwrap_or_default();
            bail!("hoyd does not answer:\n{log}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let program = programs.join("hoy");
    ensure!(program.exists(), "{} is missing", program.display());
    let engine = Engine {
        prefix: vec![program.display().to_string()],
        env: vec![("HOY_HOST".to_owned(), host)],
        run: Vec::new(),
        remove: &["rm", "-f"],
        guest: false,
    };
    Ok(Peer { name: "hoy", account: Rc::new(account), kind: Kind::Engine(engine) })
}

/// The docker command line with hoy's daemon: what of docker's time is its client's.
pub fn by_docker(place: &Place, hoy: &Peer) -> Result<Peer> {
    ensure!(crate::installed("docker"), "docker is not installed (package docker-cli)");
    let host = format!("unix://{}", place.work.join("hoy/sock").display());
    let kind = Kind::Engine(Engine { guest: true, ..crate::docker::client(place, host) });
    Ok(Peer { name: "docker+hoyd", account: Rc::clone(&hoy.account), kind })
}
