//! A daemon of a test's own: its roots in a temporary directory, its network in a namespace, its
//! cgroups below a parent of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::command::{Output, Run};
use crate::{NetNs, images, patience};

/// The directory with hoy, hoyd, hoy-shim and hoy-init.
pub fn programs() -> PathBuf {
    let path = match std::env::var_os("HOY_PROGRAMS") {
        Some(path) => path.into(),
        None => images::target().join("programs"),
    };
    assert!(path.join("hoyd").exists(), "no programs in {}: run `./x test`", path.display());
    path
}

/// The real Docker CLI: the one on PATH, else Debian's package unpacked under target/.
pub fn docker_cli() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(found) = std::env::split_paths(&path).map(|d| d.join("docker")).find(|p| p.exists())
    {
        return found;
    }
    images::unpacked_package("docker.io").join("usr/bin/docker")
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A running `hoyd`; ended, with all it made, when dropped.
pub struct Daemon {
    child: Option<Child>,
    root: tempfile::TempDir,
    netns: NetNs,
    cgroup: String,
    arguments: Vec<String>,
    programs: PathBuf,
    environment: Vec<(String, String)>,
}

impl Daemon {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more arguments for `hoyd`.
    pub fn start_with(arguments: &[&str]) -> Self {
        let mut daemon = Self::prepare(arguments);
        daemon.launch();
        daemon
    }

    /// Its place and namespaces; not running yet.
    pub fn prepare(arguments: &[&str]) -> Self {
        crate::require_root();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self {
            child: None,
            root: tempfile::Builder::new()
                .prefix("hoy-test-")
                .tempdir()
                .expect("temporary directory"),
            netns: NetNs::new(),
            cgroup: format!("hoytest-{}-{number}", std::process::id()),
            arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
            programs: programs(),
            environment: Vec::new(),
        }
    }

    /// To the daemon, and to nobody else, a file in /etc has this content.
    #[must_use]
    pub fn with_etc(self, name: &str, content: &str) -> Self {
        for directory in ["etc", "etc-work"] {
            std::fs::create_dir_all(self.path(directory)).expect("make a directory");
        }
        std::fs::write(self.path("etc").join(name), content).expect("write a file for /etc");
        self
    }

    /// Other arguments from the next launch on.
    pub fn set_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|a| (*a).to_owned()).collect();
    }

    /// The daemon and what it starts from another directory.
    pub fn use_programs(&mut self, directory: PathBuf) {
        self.programs = directory;
    }

    /// A variable of the daemon's own environment.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Starts `hoyd` (again) and waits until it answers.
    pub fn launch(&mut self) {
        assert!(self.child.is_none(), "still running");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path("log"));
        let log = log.expect("open the daemon's log");
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.netns.path())).arg("--");
        if self.path("etc").exists() {
            let line = format!(
                "mount -t overlay -o lowerdir=/etc,upperdir={},workdir={} etc /etc; exec \"$@\"",
                self.path("etc").display(),
                self.path("etc-work").display()
            );
            command.args(["unshare", "--mount", "--propagation", "private", "sh", "-ec"]);
            command.args([line.as_str(), "sh"]);
        }
        command
            .arg(self.programs.join("hoyd"))
            .arg("--data-root")
            .arg(self.path("data"))
            .arg("--exec-root")
            .arg(self.path("run"))
            .arg("--pidfile")
            .arg(self.path("pid"))
            .arg("--cgroup-parent")
            .arg(&self.cgroup)
            .arg("--host")
            .arg(self.host())
            .arg("--config-file=/dev/null")
            .arg("--exec-opt=native.cgroupdriver=cgroupfs")
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("clone"))
            .stderr(log);
        self.child = Some(command.spawn().expect("spawn hoyd"));
        let started = Instant::now();
        while std::os::unix::net::UnixStream::connect(self.path("sock")).is_err() {
            let child = self.child.as_mut().expect("just spawned");
            if let Some(status) = child.try_wait().expect("wait") {
                panic!("hoyd ended with {status}:\n{}", self.log());
            }
            assert!(started.elapsed() < patience(60), "hoyd is late:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// SIGKILL, in the middle of whatever it does.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("running");
        child.kill().expect("kill hoyd");
        child.wait().expect("wait for hoyd");
    }

    /// As after a reset of the machine: no process, no cgroup, no namespace and nothing of the
    /// exec root is left; the data root is.
    pub fn lose_machine(&mut self) {
        self.kill();
        crate::kernel::end_all(&self.cgroup, &self.path("run").display().to_string());
        for parent in [self.cgroup.clone(), format!("{}-shims", self.cgroup)] {
            crate::kernel::remove_cgroups(&parent);
        }
        self.netns = NetNs::new();
        std::fs::remove_dir_all(self.path("run")).expect("empty the exec root");
        let _ = std::fs::remove_file(self.path("sock"));
    }

    /// SIGTERM, and its exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("running");
        let pid = child.id().to_string();
        Run::new("kill").args(["-TERM", &pid]).run().ok();
        let started = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("wait") {
                return status.code();
            }
            if started.elapsed() > patience(60) {
                let _ = child.kill();
                panic!("hoyd did not end:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("running").id()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn host(&self) -> String {
        format!("unix://{}", self.path("sock").display())
    }

    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// `hoy ARGS` against this daemon.
    pub fn hoy(&self, args: &[&str]) -> Run {
        self.cli(&programs().join("hoy"), args)
    }

    /// The real `docker ARGS` against this daemon.
    pub fn docker(&self, args: &[&str]) -> Run {
        self.cli(&docker_cli(), args)
    }

    fn cli(&self, program: &Path, args: &[&str]) -> Run {
        Run::new(program)
            .args(args)
            .env("DOCKER_HOST", self.host())
            .env("HOY_HOST", self.host())
            .env("DOCKER_CONFIG", self.path("client"))
            .env("DOCKER_CONTEXT", "")
    }

    /// A request by an independent client.
    pub fn curl(&self, args: &[&str]) -> Output {
        let socket = self.path("sock");
        Run::new("curl")
            .args(["--silent", "--show-error", "--max-time", "100", "--unix-socket"])
            .args([socket.as_os_str()])
            .args(args)
            .run()
    }

    /// Imports busybox under its name.
    pub fn with_busybox(self) -> Self {
        let tar = images::busybox_rootfs();
        let tar = tar.to_str().expect("UTF-8 path");
        self.hoy(&["import", "-c", "CMD [\"sh\"]", tar, "busybox"]).run().ok();
        self
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.is_none() {
            if std::thread::panicking() {
                eprintln!("the daemon's log:\n{}", self.log());
            }
            // Somebody must take back what a killed daemon left.
            self.launch();
        }
        let ids = self.hoy(&["ps", "-aq"]).run().stdout;
        let ids: Vec<&str> = ids.split_whitespace().collect();
        if !ids.is_empty() {
            let _ = self.hoy(&["rm", "-f"]).args(&ids).run();
        }
        if let Some(mut child) = self.child.take() {
            let pid = child.id().to_string();
            let _ = Run::new("kill").args(["-TERM", &pid]).run();
            let started = Instant::now();
            while child.try_wait().ok().flatten().is_none() {
                if started.elapsed() > patience(60) {
                    let _ = child.kill();
                    let _ = child.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
        for parent in [self.cgroup.clone(), format!("{}-shims", self.cgroup)] {
            crate::kernel::remove_cgroups(&parent);
        }
    }
}
