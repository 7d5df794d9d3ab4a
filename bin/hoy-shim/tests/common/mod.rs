//! A daemon's side for tests: a real shim, a root file system made from busybox, private cgroups
//! and a private network namespace. Nothing of it is left when a `Place` is dropped.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hoy_cgroup::{Cgroup, CgroupPlan, Limits};
use hoy_runtime::{
    BpfInstruction, ContainerPlan, DevicePlan, ExecPlan, NamespaceMode, NamespacePlan, NetMode,
    ProcessLabels, ProcessPlan, RootPlan, caps,
};
use hoy_shim::client::{self, Connection, ShimProgram};
use hoy_shim::message::{
    AttachRequest, Call, Event, ExecRequest, ExitRecord, FromShim, LogPlan, Reply, Request,
    StartRequest, Status,
};
use hoy_types::{UserRef, UserSpec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

const APPLETS: [&str; 14] = [
    "cat", "dd", "echo", "head", "kill", "ls", "printf", "seq", "sh", "sleep", "stty", "true",
    "wc", "yes",
];
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Where a test's containers live.
pub struct Place {
    pub directory: tempfile::TempDir,
    program: ShimProgram,
    cgroup: String,
    /// What must not outlive a test that fails.
    shims: RefCell<Vec<(String, i32)>>,
}

impl Place {
    pub fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests run as root");
        let directory = tempfile::tempdir().unwrap();
        let layer = directory.path().join("layer");
        for name in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
            std::fs::create_dir_all(layer.join(name)).unwrap();
        }
        std::fs::copy("/bin/busybox", layer.join("bin/busybox"))
            .expect("the package busybox-static");
        for name in APPLETS {
            symlink("busybox", layer.join("bin").join(name)).unwrap();
        }
        // As people have it, if it is built.
        let built = std::env::var_os("HOY_PROGRAMS")
            .map(|path| std::path::Path::new(&path).join("hoy-shim"));
        let program = built.unwrap_or_else(|| env!("CARGO_BIN_EXE_hoy-shim").into());
        client::prepare(directory.path()).unwrap();
        let unique = directory.path().file_name().unwrap().to_str().unwrap().replace('.', "");
        Self {
            program: ShimProgram::load(&program).unwrap(),
            cgroup: format!("hoy-test-{unique}"),
            shims: RefCell::new(Vec::new()),
            directory,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn shim(&self, id: &str) -> Daemon {
        let connection = client::spawn(&self.program, self.directory.path(), id).unwrap();
        let mut daemon = Daemon::new(connection);
        daemon.hello();
        self.shims.borrow_mut().push((id.to_owned(), daemon.pid));
        daemon
    }

    /// As a daemon that was started anew.
    pub fn find(&self, id: &str) -> Option<Daemon> {
        let mut daemon = Daemon::new(client::find(self.directory.path(), id).unwrap()?);
        daemon.hello();
        Some(daemon)
    }

    pub fn log(&self, id: &str) -> PathBuf {
        self.path(id).join("log")
    }

    pub fn log_text(&self, id: &str) -> String {
        let query = hoy_logs::Query { stdout: true, stderr: true, since: None, until: None };
        let mut log = hoy_logs::Follower::open(
            &self.log(id),
            hoy_logs::Format::Json,
            query,
            hoy_logs::Tail::All,
        )
        .unwrap();
        let mut text = Vec::new();
        while let Some(record) = log.next_record().unwrap() {
            text.extend(record.text);
        }
        String::from_utf8(text).unwrap()
    }

    /// A container that runs `script` in a shell.
    pub fn start_request(&self, id: &str, script: &str) -> StartRequest {
        let state_dir = self.path(id);
        for name in ["upper", "work"] {
            std::fs::create_dir_all(state_dir.join("tree").join(name)).unwrap();
        }
        StartRequest {
            plan: ContainerPlan {
                id: id.to_owned(),
                hostname: id.to_owned(),
                domainname: String::new(),
                root: RootPlan {
                    lower: vec![self.path("layer")],
                    upper: state_dir.join("tree/upper"),
                    work: state_dir.join("tree/work"),
                    volatile: false,
                    readonly: false,
                },
                namespaces: NamespacePlan {
                    net: NetMode::Given,
                    pid: NamespaceMode::New,
                    ipc: NamespaceMode::New,
                    uts: NamespaceMode::New,
                    cgroup: NamespaceMode::New,
                },
                process: process(script),
                mounts: Vec::new(),
                devices: DevicePlan::Default,
                masked_paths: vec!["/proc/kcore".to_owned()],
                readonly_paths: vec!["/proc/sys".to_owned()],
                sysctls: Vec::new(),
                cgroup: CgroupPlan {
                    parent: self.cgroup.clone(),
                    name: id.to_owned(),
                    limits: Limits::default(),
                    devices: None,
                    ..CgroupPlan::default()
                },
                shm_size: Some(1 << 20),
                writable_sys: false,
                init: None,
                extra_devices: Vec::new(),
                userns: None,
                mount_label: String::new(),
                external: None,
            },
            log: LogPlan::JsonFile {
                path: self.log(id),
                max_size: Some(20 << 20),
                max_files: 5,
                compress: false,
                attributes: Vec::new(),
                nonblocking: None,
            },
            state_dir,
            open_stdin: false,
            stdin_once: false,
            health: None,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let plan = |parent: &str, name: &str| CgroupPlan {
            parent: parent.to_owned(),
            name: name.to_owned(),
            ..CgroupPlan::default()
        };
        for (id, pid) in self.shims.take() {
            for helper in log_helpers(pid) {
                signal(helper, Signal::CONT);
            }
            if comm(pid).is_some_and(|name| name == "hoy-shim\n") {
                signal(pid, Signal::KILL);
            }
            if let Ok(Some(cgroup)) = Cgroup::open(&plan(&self.cgroup, &id)) {
                let _ = cgroup.kill(PATIENCE);
                cgroup.remove();
            }
        }
        if let Ok(Some(cgroup)) = Cgroup::open(&plan("/", &self.cgroup)) {
            cgroup.remove();
        }
    }
}

fn comm(pid: i32) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()
}

/// The processes that a shim made for its log.
pub fn log_helpers(shim: i32) -> Vec<i32> {
    let children = std::fs::read_to_string(format!("/proc/{shim}/task/{shim}/children"));
    let children = children.unwrap_or_default();
    let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    children.filter(|pid| comm(*pid).is_some_and(|name| name == "hoy-log\n")).collect()
}

pub fn signal(pid: i32, signal: Signal) {
    // One that has ended meanwhile needs no signal.
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn docker_filter() -> Vec<BpfInstruction> {
    let facts = hoy_seccomp::Facts {
        capabilities: caps::DEFAULT,
        machine: hoy_seccomp::Machine::current(),
        kernel: hoy_seccomp::Version(6, 1),
    };
    let resolved = hoy_seccomp::builtin().resolve(&facts).unwrap();
    let program = hoy_seccomp::compile(&resolved).unwrap();
    let step =
        |i: &hoy_seccomp::Instruction| BpfInstruction { code: i.code, jt: i.jt, jf: i.jf, k: i.k };
    program.instructions.iter().map(step).collect()
}

fn process(script: &str) -> ProcessPlan {
    ProcessPlan {
        args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec!["PATH=/bin".to_owned(), "HOME=/".to_owned()],
        cwd: "/".to_owned(),
        user: UserSpec { user: Some(UserRef::Id(0)), group: None },
        additional_groups: Vec::new(),
        tty: false,
        console_size: None,
        capabilities: caps::DEFAULT,
        no_new_privileges: false,
        rlimits: Vec::new(),
        seccomp: docker_filter(),
        oom_score_adj: None,
        seccomp_flags: 0,
        labels: ProcessLabels::default(),
    }
}

pub fn exec_request(id: &str, script: &str, attach: Option<AttachRequest>) -> ExecRequest {
    let plan = ExecPlan { process: process(script) };
    ExecRequest { id: id.to_owned(), plan, attach, ends_with_client: false }
}

pub fn attach_request(stdin: bool, framed: bool) -> AttachRequest {
    AttachRequest {
        stdin,
        stdout: true,
        stderr: true,
        early: Vec::new(),
        framed,
        detach_keys: Vec::new(),
    }
}

/// A network namespace of its own, with nothing in it.
pub fn netns() -> OwnedFd {
    std::thread::spawn(|| {
        hoy_sys::process::unshare(hoy_sys::process::NEWNET).unwrap();
        std::fs::File::open("/proc/thread-self/ns/net").unwrap().into()
    })
    .join()
    .unwrap()
}

/// The daemon's end of a shim.
pub struct Daemon {
    pub connection: Connection,
    next: u32,
    pub events: VecDeque<Event>,
    pub pid: i32,
}

impl Daemon {
    fn new(connection: Connection) -> Self {
        Self { connection, next: 1, events: VecDeque::new(), pid: 0 }
    }

    fn hello(&mut self) {
        match self.call(Request::Hello { version: 1 }, &[]) {
            Reply::Hello { pid, .. } => self.pid = pid,
            other => panic!("no hello: {other:?}"),
        }
    }

    fn receive(&self, deadline: Instant) -> Option<FromShim> {
        loop {
            match self.connection.recv() {
                Ok(Some((message, _))) => return Some(message),
                Ok(None) => {}
                Err(_) => return None,
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the shim says nothing");
            let left = Timespec { tv_sec: left.as_secs() as i64 + 1, tv_nsec: 0 };
            poll(&mut [PollFd::new(&self.connection.as_fd(), PollFlags::IN)], Some(&left)).unwrap();
        }
    }

    pub fn call(&mut self, request: Request, fds: &[BorrowedFd<'_>]) -> Reply {
        let sequence = self.next;
        self.next += 1;
        assert!(self.connection.send(&Call { sequence, request }, fds).unwrap());
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.receive(deadline).expect("the shim is gone") {
                FromShim::Reply { sequence: number, reply } if number == sequence => return reply,
                FromShim::Reply { .. } => panic!("an answer to nothing"),
                FromShim::Event(event) => self.events.push_back(event),
            }
        }
    }

    pub fn done(&mut self, request: Request) {
        assert_eq!(self.call(request, &[]), Reply::Done);
    }

    pub fn start(&mut self, request: StartRequest) -> i32 {
        match self.call(Request::Start(Box::new(request)), &[netns().as_fd()]) {
            Reply::Started { pid, .. } => pid,
            other => panic!("not started: {other:?}"),
        }
    }

    /// A client that is attached from now on.
    pub fn attach(&mut self, request: AttachRequest) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(self.call(Request::Attach(request), &[theirs.as_fd()]), Reply::Done);
        ours
    }

    pub fn exec(&mut self, request: ExecRequest) -> (i32, Option<UnixStream>) {
        let pair = request.attach.as_ref().map(|_| UnixStream::pair().unwrap());
        let fds: Vec<BorrowedFd<'_>> = pair.iter().map(|(_, theirs)| theirs.as_fd()).collect();
        match self.call(Request::Exec(Box::new(request)), &fds) {
            Reply::Started { pid, .. } => (pid, pair.map(|(ours, _)| ours)),
            other => panic!("not started: {other:?}"),
        }
    }

    pub fn event(&mut self) -> Event {
        if let Some(event) = self.events.pop_front() {
            return event;
        }
        match self.receive(Instant::now() + PATIENCE).expect("the shim is gone") {
            FromShim::Event(event) => event,
            other => panic!("no event: {other:?}"),
        }
    }

    pub fn exited(&mut self) -> ExitRecord {
        loop {
            match self.event() {
                Event::Exited(record) => return record,
                Event::LogDropped { .. } | Event::OutOfMemory { .. } => {}
                other => panic!("no exit: {other:?}"),
            }
        }
    }

    pub fn status(&mut self) -> Status {
        match self.call(Request::Status, &[]) {
            Reply::Status(status) => status,
            other => panic!("no status: {other:?}"),
        }
    }

    /// Lets the shim go and waits until it is gone.
    pub fn release(mut self) {
        let pid = self.pid;
        self.done(Request::Release);
        drop(self);
        wait_until("the shim is gone", || !exists(pid));
    }
}

/// Whether a process lives; one that only waits to be reaped by init does not.
pub fn exists(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "{what}: it never comes to that");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The frames of a stream without a terminal: what came on stdout and on stderr.
pub fn unframe(mut bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_first_chunk::<8>().expect("a whole head");
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let (text, rest) = rest.split_at(length);
        match head[0] {
            1 => stdout.extend_from_slice(text),
            2 => stderr.extend_from_slice(text),
            other => panic!("stream {other}"),
        }
        bytes = rest;
    }
    (stdout, stderr)
}
