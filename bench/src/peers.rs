//! The engines that are measured: each with its daemon, if it has one, its command line and a
//! cgroup that holds all of it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::account::Account;
use crate::{bundle, output, say};

/// One engine.
pub struct Peer {
    pub name: &'static str,
    pub account: Account,
    prefix: Vec<String>,
    env: Vec<(String, String)>,
    /// Flags for `run`.
    flags: Vec<String>,
    /// A bare runtime: it has `run` alone.
    pub bare: Option<PathBuf>,
    /// How it removes what runs, at once.
    pub remove: &'static [&'static str],
    /// Programs that hold one container.
    pub holders: &'static [&'static str],
    pub daemons: &'static [&'static str],
}

impl Peer {
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.prefix[0]);
        command.args(&self.prefix[1..]).args(args);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Command {
        let mut all = vec!["run"];
        all.extend(self.flags.iter().map(String::as_str));
        all.extend(args);
        self.command(&all)
    }
}

/// Everything that was started for the benchmark.
pub struct Field {
    pub peers: Vec<Peer>,
    hoyd: Child,
    work: PathBuf,
    docker: bool,
    podman: Vec<&'static str>,
}

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).exists())
}

/// The scripts that start other engines privately.
fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/peers")
}

impl Field {
    pub fn open(work: &Path, only: &[String]) -> Result<Self> {
        let wanted = |name: &str| only.is_empty() || only.iter().any(|w| name.contains(w.as_str()));
        let rootfs = rootfs(work)?;
        let tar = work.join("busybox.tar");
        output(Command::new("tar").args(["-C"]).arg(&rootfs).arg("-cf").arg(&tar).arg("."))?;
        let (hoyd, hoy) = start_hoyd(work)?;
        let mut field = Self {
            peers: vec![hoy],
            hoyd,
            work: work.to_owned(),
            docker: false,
            podman: Vec::new(),
        };
        if installed("docker") && wanted("docker+hoyd") {
            field.peers.push(Peer {
                name: "docker+hoyd",
                account: Account::open("hoy")?,
                prefix: vec!["docker".to_owned()],
                env: vec![("DOCKER_HOST".to_owned(), socket(work, "hoy.sock"))],
                flags: Vec::new(),
                bare: None,
                remove: &["rm", "-f"],
                holders: &["hoy-shim"],
                daemons: &["hoyd"],
            });
        }
        if wanted("docker") && !only.iter().any(|w| w == "docker+hoyd") {
            field.add_docker()?;
        }
        for runtime in ["crun", "runc"] {
            if wanted(if runtime == "crun" { "podman-crun" } else { "podman-runc" }) {
                field.add_podman(runtime)?;
            }
        }
        field.import(&tar)?;
        for runtime in ["crun", "runc"] {
            if wanted(runtime) {
                field.add_bare(runtime, &rootfs)?;
            }
        }
        Ok(field)
    }

    fn add_docker(&mut self) -> Result<()> {
        if !installed("dockerd") || !installed("docker") || !scripts().exists() {
            say("docker: skipped, dockerd or the docker CLI is not installed");
            return Ok(());
        }
        // The script's own cgroup holds daemon and containers.
        let account = Account::at("peerbench/docker")?;
        let mut start = Command::new(scripts().join("start-dockerd.sh"));
        start.env("PEERS_DIR", self.work.join("peers")).env("PEERS_SHARES", "1024");
        if let Err(error) = output(&mut start) {
            say(&format!("docker: skipped, it does not start: {error:#}"));
            return Ok(());
        }
        self.docker = true;
        self.peers.push(Peer {
            name: "docker",
            account,
            prefix: vec!["docker".to_owned()],
            env: vec![("DOCKER_HOST".to_owned(), socket(&self.work.join("peers"), "docker.sock"))],
            flags: Vec::new(),
            bare: None,
            remove: &["rm", "-f"],
            holders: &["containerd-shim-runc-v2"],
            daemons: &["dockerd", "containerd"],
        });
        Ok(())
    }

    fn add_podman(&mut self, runtime: &'static str) -> Result<()> {
        let name = if runtime == "crun" { "podman-crun" } else { "podman-runc" };
        if !installed("podman") || !installed(runtime) || !scripts().exists() {
            say(&format!("{name}: skipped, not installed"));
            return Ok(());
        }
        let print = output(
            Command::new(scripts().join("podman.sh"))
                .arg("--print")
                .env("PEERS_DIR", self.work.join("peers"))
                .env("RUNTIME", runtime),
        )?;
        let mut words: Vec<String> = print.split_whitespace().map(str::to_owned).collect();
        ensure!(!words.is_empty(), "podman.sh prints nothing");
        let conf = words.remove(0);
        let (key, value) = conf.split_once('=').context("podman.sh names no configuration")?;
        self.podman.push(runtime);
        self.peers.push(Peer {
            name,
            account: Account::open(name)?,
            prefix: words,
            env: vec![(key.to_owned(), value.to_owned())],
            flags: vec![format!("--cgroup-parent=/hoybench/{name}/containers")],
            bare: None,
            remove: &["rm", "-f", "-t", "0"],
            holders: &["conmon"],
            daemons: &[],
        });
        Ok(())
    }

    fn import(&self, tar: &Path) -> Result<()> {
        for peer in self.peers.iter().filter(|peer| peer.name != "docker+hoyd") {
            peer.account.enter()?;
            output(peer.command(&["import"]).arg(tar).arg("busybox"))
                .with_context(|| format!("{}: import the image", peer.name))?;
        }
        Ok(())
    }

    fn add_bare(&mut self, runtime: &'static str, rootfs: &Path) -> Result<()> {
        if !installed(runtime) {
            say(&format!("{runtime}: skipped, not installed"));
            return Ok(());
        }
        let docker = self.peers.iter().find(|peer| peer.name == "docker");
        let pattern = match docker {
            Some(docker) => {
                let id =
                    output(&mut docker.run(&["-d", "--net", "none", "busybox", "sleep", "60"]))?;
                Some((docker, id.trim().to_owned()))
            }
            None => None,
        };
        let directory = self.work.join(format!("bundle-{runtime}"));
        let exec_root = self.work.join("peers/dockerx");
        let cgroup = format!("/hoybench/{runtime}/container");
        let from = pattern.as_ref().map(|_| exec_root.as_path());
        let kind = bundle::make(&directory, rootfs, from, &cgroup)?;
        if let Some((docker, id)) = pattern {
            output(&mut docker.command(&["rm", "-f", &id]))?;
        }
        say(&format!("{runtime}: bare, with {kind}"));
        self.peers.push(Peer {
            name: runtime,
            account: Account::open(runtime)?,
            prefix: vec![
                runtime.to_owned(),
                "--root".to_owned(),
                self.work.join(format!("state-{runtime}")).display().to_string(),
            ],
            env: Vec::new(),
            flags: Vec::new(),
            bare: Some(directory),
            remove: &["rm", "-f"],
            holders: &[],
            daemons: &[],
        });
        Ok(())
    }

    /// Ends all of it.
    pub fn close(mut self) {
        for peer in self.peers.iter().filter(|p| p.bare.is_none() && p.name != "docker+hoyd") {
            if let Ok(ids) = output(&mut peer.command(&["ps", "-aq"])) {
                let ids: Vec<&str> = ids.split_whitespace().collect();
                if !ids.is_empty() {
                    let _ = peer.command(peer.remove).args(ids).output();
                }
            }
        }
        let scripts = scripts();
        let peers = self.work.join("peers");
        for runtime in &self.podman {
            let mut stop = Command::new(scripts.join("podman.sh"));
            let _ = stop.arg("--stop").env("PEERS_DIR", &peers).env("RUNTIME", runtime).output();
        }
        if self.docker {
            let _ = Command::new(scripts.join("stop-dockerd.sh")).env("PEERS_DIR", &peers).output();
        }
        let _ = self.peers[0].command(&["system", "stop", "--clean"]).output();
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(10) {
            if self.hoyd.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.hoyd.kill();
        let _ = self.hoyd.wait();
    }
}

fn socket(directory: &Path, name: &str) -> String {
    format!("unix://{}", directory.join(name).display())
}

/// busybox alone.
fn rootfs(work: &Path) -> Result<PathBuf> {
    let rootfs = work.join("rootfs");
    for name in ["bin", "dev", "proc", "sys", "etc", "tmp"] {
        std::fs::create_dir_all(rootfs.join(name))?;
    }
    std::fs::copy("/bin/busybox", rootfs.join("bin/busybox"))
        .context("the package busybox-static is missing")?;
    for name in ["sh", "true", "sleep", "echo"] {
        std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name))?;
    }
    Ok(rootfs)
}

fn start_hoyd(work: &Path) -> Result<(Child, Peer)> {
    let programs = PathBuf::from(
        std::env::var_os("HOY_PROGRAMS").context("HOY_PROGRAMS: run `./x bench start`")?,
    );
    let account = Account::open("hoy")?;
    account.enter()?;
    let host = socket(work, "hoy.sock");
    let log = std::fs::File::create(work.join("hoyd.log"))?;
    let hoyd = Command::new(programs.join("hoyd"))
        .arg("--data-root")
        .arg(work.join("hoy-data"))
        .arg("--exec-root")
        .arg(work.join("hoy-run"))
        .arg("--pidfile")
        .arg(work.join("hoy.pid"))
        .args(["--cgroup-parent", "/hoybench/hoy/containers", "--config-file=/dev/null"])
        .args(["--host", &host])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start hoyd")?;
    let started = Instant::now();
    while std::os::unix::net::UnixStream::connect(work.join("hoy.sock")).is_err() {
        ensure!(started.elapsed() < Duration::from_secs(15), "hoyd does not answer");
        std::thread::sleep(Duration::from_millis(5));
    }
    let peer = Peer {
        name: "hoy",
        account,
        prefix: vec![programs.join("hoy").display().to_string()],
        env: vec![("HOY_HOST".to_owned(), host)],
        flags: Vec::new(),
        bare: None,
        remove: &["rm", "-f"],
        holders: &["hoy-shim"],
        daemons: &["hoyd"],
    };
    Ok((hoyd, peer))
}
