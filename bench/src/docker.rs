//! dockerd with its containerd, private.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::account::Account;
use crate::peer::{Engine, Kind, Peer};
use crate::place::Place;

/// The docker command line.
pub fn client(place: &Place, host: String) -> Engine {
    let config = place.work.join("docker-client").display().to_string();
    Engine {
        prefix: vec!["docker".to_owned()],
        env: vec![("DOCKER_HOST".to_owned(), host), ("DOCKER_CONFIG".to_owned(), config)],
        run: Vec::new(),
        remove: &["rm", "-f"],
        guest: false,
    }
}

pub fn start(place: &Place) -> Result<Peer> {
    for program in ["docker", "dockerd", "containerd", "runc", "iptables"] {
        ensure!(
            crate::installed(program),
            "{program} is not installed (packages docker.io, iptables)"
        );
    }
    let account = Account::open(place, "docker")?;
    account.enter()?;
    let work = place.work.join("docker");
    std::fs::create_dir(&work)?;
    std::fs::write(work.join("daemon.json"), "{}")?;
    let host = format!("unix://{}", work.join("sock").display());
    let log = std::fs::File::create(work.join("log"))?;
    let mut daemon = Command::new("dockerd");
    daemon.arg("--config-file").arg(work.join("daemon.json"));
    daemon.arg("--data-root").arg(work.join("data")).arg("--exec-root").arg(exec_root(place));
    daemon.arg("--pidfile").arg(work.join("pid")).args(["--host", &host]);
    daemon.args(["--storage-driver", "overlay2", "--exec-opt", "native.cgroupdriver=cgroupfs"]);
    daemon.arg("--cgroup-parent").arg(format!("{}/containers", account.cgroup));
    daemon.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut daemon = daemon.spawn().context("start dockerd")?;
    let engine = client(place, host);
    let started = Instant::now();
    while !engine.command(["ps", "-q"]).output()?.status.success() {
        if daemon.try_wait()?.is_some() || started.elapsed() > Duration::from_secs(60) {
            let _ = daemon.kill();
            let log = std::fs::read_to_string(work.join("log")).unwrap_or_default();
            bail!("dockerd does not answer: {}", log.lines().last().unwrap_or_default());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(Peer { name: "docker", account: Rc::new(account), kind: Kind::Engine(engine) })
}

fn exec_root(place: &Place) -> PathBuf {
    place.work.join("docker/exec")
}

/// The configuration that dockerd gives its runtime.
pub fn pattern(place: &Place, docker: &Peer) -> Result<Value> {
    let engine = docker.engine().context("dockerd is an engine")?;
    docker.account.enter()?;
    let id = crate::output(&mut engine.run(&["-d", "--net", "none", "busybox", "sleep", "60"]))?;
    let id = id.trim().to_owned();
    let path = find(&exec_root(place), &id).context("dockerd wrote no config.json")?;
    let config = serde_json::from_slice(&std::fs::read(path)?)?;
    docker.remove(&[id])?;
    Ok(config)
}

fn find(root: &Path, id: &str) -> Option<PathBuf> {
    let mut stack = vec![root.to_owned()];
    while let Some(directory) = stack.pop() {
        if directory.ends_with(id) && directory.join("config.json").exists() {
            return Some(directory.join("config.json"));
        }
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && name != "rootfs" {
                stack.push(entry.path());
            }
        }
    }
    None
}
