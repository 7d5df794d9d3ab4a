//! The program `hoy-shim`: one container's supervisor.
//!
//! A single thread and a poll loop. It holds the container's process, its streams, its log and
//! its exec sessions; daemons come and go on the control socket. It links nothing large, runs
//! from memory, in a session of its own, as a child of init.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use hoy_logs::Writer;
use hoy_runtime::{FailureReason, GivenFds, Running, StartError, Stdio, prepare};
use hoy_sys::process;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::codec::{self, Received};
use crate::message::{
    AttachRequest, Call, Event, ExecRequest, ExecStatus, ExitRecord, Failure, FromShim, LogPlan,
    Reply, Request, StartRequest, Status, VERSION,
};
use crate::session::{Note, Session, Slot, poll_fds};

/// A shim that nobody ever told to start anything gives up.
const UNUSED: Duration = Duration::from_secs(60);
/// Clients that wait for a start.
const MAX_WAITING: usize = 64;
/// Exec sessions at the same time.
const MAX_EXECS: usize = 1024;

/// The whole program.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let [_, exec_root, id] = args.as_slice() else { return ExitCode::from(2) };
    let (exec_root, Some(id)) = (PathBuf::from(exec_root), id.to_str().map(str::to_owned)) else {
        return ExitCode::from(2);
    };
    // The parent goes at once, so that init becomes the shim's parent, whatever the daemon does.
    match process::spawn(process::CloneArgs::default(), || run(exec_root, id)) {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(exec_root: PathBuf, id: String) -> i32 {
    let ready = || -> std::io::Result<Shim> {
        rustix::process::setsid()?;
        rustix::process::umask(Mode::from_raw_mode(0o077));
        rustix::process::chdir("/")?;
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
        // HUP, INT, QUIT, PIPE, TERM: a supervisor ends with its container.
        for signal in [1, 2, 3, 13, 15] {
            process::ignore_signal(signal);
        }
        let control = rustix::stdio::stdin().try_clone_to_owned()?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::io::fcntl_setfd(&control, rustix::io::FdFlags::CLOEXEC)?;
        let (listener, socket) = listener(&exec_root, &id)?;
        Ok(Shim {
            socket,
            listener,
            control: Some(control),
            container: Container::New,
            session: None,
            waiting: Vec::new(),
            execs: Vec::new(),
            state_dir: PathBuf::new(),
            released: false,
            dropped: 0,
        })
    };
    match ready() {
        Ok(mut shim) => shim.work(),
        Err(_) => 1,
    }
}

/// A listening socket by which later daemons find us; by descriptor, since paths may be long.
fn listener(exec_root: &std::path::Path, id: &str) -> std::io::Result<(OwnedFd, PathBuf)> {
    use std::os::fd::AsRawFd as _;
    let directory = exec_root.join("shims");
    let path = directory.join(format!("{id}.sock"));
    let _ = std::fs::remove_file(&path);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let handle = rustix::fs::open(&directory, flags, Mode::empty())?;
    let short = format!("/proc/self/fd/{}/{id}.sock", handle.as_raw_fd());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(short)?)?;
    listen(&socket, 8)?;
    Ok((socket, path))
}

enum Container {
    New,
    Running { running: Running, pid: i32, started_at: i64, paused: bool },
    Exited(ExitRecord),
}

struct Exec {
    id: String,
    session: Session,
    code: Option<i32>,
}

struct Shim {
    socket: PathBuf,
    listener: OwnedFd,
    control: Option<OwnedFd>,
    container: Container,
    session: Option<Session>,
    /// Clients that came before the start.
    waiting: Vec<(OwnedFd, AttachRequest)>,
    execs: Vec<Exec>,
    state_dir: PathBuf,
    released: bool,
    dropped: u64,
}

/// Whose descriptor poll looked at.
enum Owner {
    Control,
    Listener,
    Container(Slot),
    Exec(usize, Slot),
}

impl Shim {
    fn work(&mut self) -> i32 {
        loop {
            if self.finished() {
                self.leave();
                return 0;
            }
            let found = match self.wait() {
                Ok(found) => found,
                Err(Errno::INTR) => continue,
                Err(_) => return 1,
            };
            if found.is_empty()
                && matches!(self.container, Container::New)
                && self.control.is_none()
            {
                self.leave();
                return 0;
            }
            for (owner, flags) in found {
                self.act(owner, flags);
            }
            self.tidy();
        }
    }

    fn finished(&self) -> bool {
        let clients = self.session.as_ref().is_some_and(Session::has_clients)
            || self.execs.iter().any(|exec| exec.session.has_clients());
        match &self.container {
            Container::Exited(_) => (self.released || self.control.is_none()) && !clients,
            Container::New => self.released,
            Container::Running { .. } => false,
        }
    }

    fn leave(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }

    /// Waits for anything.
    fn wait(&self) -> Result<Vec<(Owner, PollFlags)>, Errno> {
        let mut owners = Vec::new();
        let mut fds: Vec<PollFd<'_>> = Vec::new();
        if let Some(control) = &self.control {
            owners.push(Owner::Control);
            fds.push(PollFd::new(control, PollFlags::IN));
        }
        owners.push(Owner::Listener);
        fds.push(PollFd::new(&self.listener, PollFlags::IN));
        let mut deadline = None;
        let mut sooner = |session: &Session| {
            if let Some(left) = session.deadline() {
                deadline = Some(deadline.map_or(left, |known: Duration| known.min(left)));
            }
        };
        if let Some(session) = &self.session {
            let interests = session.interests();
            owners.extend(interests.iter().map(|(slot, ..)| Owner::Container(*slot)));
            fds.extend(poll_fds(&interests));
            sooner(session);
        }
        for (index, exec) in self.execs.iter().enumerate() {
            let interests = exec.session.interests();
            owners.extend(interests.iter().map(|(slot, ..)| Owner::Exec(index, *slot)));
            fds.extend(poll_fds(&interests));
            sooner(&exec.session);
        }
        if matches!(self.container, Container::New) {
            deadline = Some(UNUSED);
        }
        let timeout = deadline.map(|left| Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()) + 1_000_000,
        });
        let timeout = timeout.map(|mut time| {
            if time.tv_nsec >= 1_000_000_000 {
                time.tv_sec += 1;
                time.tv_nsec -= 1_000_000_000;
            }
            time
        });
        poll(&mut fds, timeout.as_ref())?;
        let happened = owners.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(happened.map(|(owner, fd)| (owner, fd.revents())).collect())
    }

    fn act(&mut self, owner: Owner, flags: PollFlags) {
        let mut notes = Vec::new();
        match owner {
            Owner::Listener => self.accept(),
            Owner::Control => self.listen_to_daemon(),
            Owner::Container(slot) => {
                if let Some(session) = &mut self.session {
                    session.handle(slot, flags, &mut notes);
                }
                self.tell_notes(&notes, None);
            }
            Owner::Exec(index, slot) => {
                let Some(exec) = self.execs.get_mut(index) else { return };
                exec.session.handle(slot, flags, &mut notes);
                let id = exec.id.clone();
                self.tell_notes(&notes, Some(id));
            }
        }
    }

    fn tell_notes(&mut self, notes: &[Note], exec: Option<String>) {
        for note in notes {
            match note {
                Note::Detached => self.tell(Event::Detached { exec: exec.clone() }),
                Note::LogDropped => {
                    self.dropped += 1;
                    if self.dropped.is_power_of_two() {
                        self.tell(Event::LogDropped { records: self.dropped });
                    }
                }
            }
        }
    }

    /// The newest daemon is the one to listen to.
    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(peer) = accept_with(&self.listener, flags) else { return };
        let root = rustix::net::sockopt::socket_peercred(&peer).is_ok_and(|c| c.uid.is_root());
        if root {
            self.control = Some(peer);
        }
    }

    fn listen_to_daemon(&mut self) {
        let Some(control) = &self.control else { return };
        match codec::receive::<Call>(control.as_fd()) {
            Ok(Received::Message(call, descriptors)) => {
                let reply = self.answer(call.request, descriptors);
                self.send(&FromShim::Reply { sequence: call.sequence, reply });
            }
            Ok(Received::Nothing) => {}
            Ok(Received::Closed) | Err(_) => self.control = None,
        }
    }

    fn send(&mut self, message: &FromShim) {
        let Some(control) = &self.control else { return };
        if !matches!(codec::send(control.as_fd(), message, &[]), Ok(true)) {
            // A daemon that does not read is as good as none: it will ask again.
            self.control = None;
        }
    }

    fn tell(&mut self, event: Event) {
        self.send(&FromShim::Event(event));
    }

    fn answer(&mut self, request: Request, mut descriptors: Vec<OwnedFd>) -> Reply {
        match request {
            Request::Hello { .. } => Reply::Hello {
                version: VERSION,
                pid: rustix::process::getpid().as_raw_nonzero().get(),
                build: env!("CARGO_PKG_VERSION").to_owned(),
            },
            Request::Status => Reply::Status(self.status()),
            Request::Kill { signal, all } => self.kill(signal, all),
            Request::Upgrade => failed(FailureReason::State, "this shim cannot be replaced"),
            Request::Start(start) => self.start(*start, descriptors),
            Request::Attach(request) => match descriptors.pop() {
                Some(client) => self.attach(client, request),
                None => failed(FailureReason::Invalid, "no client came with the request"),
            },
            Request::Exec(exec) => self.exec(*exec, descriptors.pop()),
            Request::Resize { exec, rows, columns } => self.resize(exec.as_deref(), rows, columns),
            Request::Pause => self.freeze(true),
            Request::Resume => self.freeze(false),
            Request::Release => {
                self.released = true;
                Reply::Done
            }
        }
    }

    fn status(&self) -> Status {
        match &self.container {
            Container::New => Status::New,
            Container::Running { pid, started_at, paused, .. } => Status::Running {
                pid: *pid,
                started_at: *started_at,
                paused: *paused,
                execs: self
                    .execs
                    .iter()
                    .map(|exec| ExecStatus {
                        id: exec.id.clone(),
                        pid: exec.session.pid,
                        code: exec.code,
                    })
                    .collect(),
            },
            Container::Exited(record) => Status::Exited(record.clone()),
        }
    }

    fn kill(&mut self, signal: i32, all: bool) -> Reply {
        let Container::Running { running, .. } = &self.container else { return not_running() };
        let result =
            if all { running.kill_all(Duration::from_millis(200)) } else { running.signal(signal) };
        done(result)
    }

    fn freeze(&mut self, frozen: bool) -> Reply {
        let Container::Running { running, paused, .. } = &mut self.container else {
            return not_running();
        };
        let result = running.freeze(frozen);
        if result.is_ok() {
            *paused = frozen;
        }
        done(result)
    }

    fn resize(&self, exec: Option<&str>, rows: u16, columns: u16) -> Reply {
        let session = match exec {
            None => self.session.as_ref(),
            Some(id) => self.execs.iter().find(|exec| exec.id == id).map(|exec| &exec.session),
        };
        match session.and_then(Session::console) {
            Some(console) => match hoy_runtime::resize(console, rows, columns) {
                Ok(()) => Reply::Done,
                Err(error) => failed(FailureReason::System, &format!("resize: {error}")),
            },
            None => failed(FailureReason::State, "there is no terminal"),
        }
    }

    fn attach(&mut self, client: OwnedFd, request: AttachRequest) -> Reply {
        match (&mut self.session, &self.container) {
            (Some(session), Container::Running { .. }) => session.attach(client, &request),
            (_, Container::New) if self.waiting.len() < MAX_WAITING => {
                self.waiting.push((client, request));
            }
            (_, Container::New) => return failed(FailureReason::State, "too many clients wait"),
            _ => return not_running(),
        }
        Reply::Done
    }

    fn start(&mut self, request: StartRequest, mut descriptors: Vec<OwnedFd>) -> Reply {
        if !matches!(self.container, Container::New) {
            return failed(FailureReason::State, "the container was started already");
        }
        self.state_dir.clone_from(&request.state_dir);
        match self.try_start(request, descriptors.pop()) {
            Ok(reply) => reply,
            Err(error) => {
                self.waiting.clear();
                Reply::Failed(Failure { reason: error.reason, message: error.message })
            }
        }
    }

    fn try_start(
        &mut self,
        request: StartRequest,
        netns: Option<OwnedFd>,
    ) -> Result<Reply, StartError> {
        let log = match &request.log {
            LogPlan::None => None,
            LogPlan::JsonFile { path, max_size, max_files } => {
                let writer = Writer::open(path, *max_size, *max_files);
                Some(writer.map_err(|e| StartError::new(FailureReason::System, e.to_string()))?)
            }
        };
        let tty = request.plan.process.tty;
        let streams = Streams::new(tty, request.open_stdin)?;
        let prepared = prepare(request.plan, GivenFds { netns })?;
        let (running, started) = prepared.spawn(streams.theirs)?;
        let started_at = now();
        let pid = started.pid.as_raw_nonzero().get();
        let session = Session::new(
            pid,
            started.pidfd,
            started.console,
            streams.ours,
            request.stdin_once,
            log,
        );
        let mut session = match session {
            Ok(session) => session,
            Err(error) => {
                running.clean_up();
                return Err(StartError::system("set up the streams", error));
            }
        };
        for (client, attach) in self.waiting.drain(..) {
            session.attach(client, &attach);
        }
        self.session = Some(session);
        self.container = Container::Running { running, pid, started_at, paused: false };
        Ok(Reply::Started { pid, started_at })
    }

    fn exec(&mut self, request: ExecRequest, client: Option<OwnedFd>) -> Reply {
        let Container::Running { running, .. } = &self.container else { return not_running() };
        let live = self.execs.iter().filter(|exec| exec.code.is_none()).count();
        if live >= MAX_EXECS {
            return failed(FailureReason::State, "too many exec sessions");
        }
        let wants_input = request.attach.as_ref().is_some_and(|attach| attach.stdin);
        let started = || -> Result<Session, StartError> {
            let streams = Streams::new(request.plan.process.tty, wants_input)?;
            let started = running.exec(&request.plan, streams.theirs)?;
            let pid = started.pid.as_raw_nonzero().get();
            Session::new(pid, started.pidfd, started.console, streams.ours, true, None)
                .map_err(|error| StartError::system("set up the streams", error))
        };
        match started() {
            Ok(mut session) => {
                if let (Some(client), Some(attach)) = (client, &request.attach) {
                    session.attach(client, attach);
                }
                let pid = session.pid;
                // Finished ones are kept for Status, but not for ever.
                if self.execs.len() >= 2 * MAX_EXECS {
                    self.execs.retain(|exec| exec.code.is_none());
                }
                self.execs.push(Exec { id: request.id, session, code: None });
                Reply::Started { pid, started_at: now() }
            }
            Err(error) => Reply::Failed(Failure { reason: error.reason, message: error.message }),
        }
    }

    /// After each round: what has ended is told.
    fn tidy(&mut self) {
        let mut ended = Vec::new();
        for exec in &mut self.execs {
            if exec.code.is_some() && !exec.session.has_clients() {
                continue;
            }
            exec.session.tidy();
            if exec.code.is_none()
                && let Some(code) = exec.session.finished()
                && !exec.session.has_clients()
            {
                exec.code = Some(code);
                ended.push(Event::ExecExited { id: exec.id.clone(), code });
            }
        }
        for event in ended {
            self.tell(event);
        }
        let Some(session) = &mut self.session else { return };
        session.tidy();
        let Some(code) = session.finished() else { return };
        if !matches!(self.container, Container::Running { .. }) {
            return;
        }
        if let Container::Running { running, pid, started_at, .. } =
            std::mem::replace(&mut self.container, Container::New)
        {
            let record = ExitRecord {
                code,
                oom_killed: running.oom_kills() > 0,
                pid,
                started_at,
                finished_at: now(),
            };
            // Without it the daemon still hears the event; both missing reads as a lost shim.
            let _ = record.write(&self.state_dir);
            self.container = Container::Exited(record.clone());
            self.tell(Event::Exited(record));
            running.clean_up();
        }
    }
}

/// Both ends of the standard streams.
struct Streams {
    theirs: Stdio,
    ours: Option<(Option<OwnedFd>, OwnedFd, OwnedFd)>,
}

impl Streams {
    fn new(tty: bool, open_stdin: bool) -> Result<Self, StartError> {
        if tty {
            return Ok(Self { theirs: Stdio::Terminal, ours: None });
        }
        let failed = |errno: Errno| StartError::system("make a pipe", errno);
        let (out_read, out_write) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        let (err_read, err_write) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        let (stdin, input) = if open_stdin {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
            (read, Some(write))
        } else {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let null = rustix::fs::open("/dev/null", flags, Mode::empty())
                .map_err(|errno| StartError::system("open /dev/null", errno))?;
            (null, None)
        };
        Ok(Self {
            theirs: Stdio::Pipes { stdin, stdout: out_write, stderr: err_write },
            ours: Some((input, out_read, err_read)),
        })
    }
}

fn done(result: Result<(), StartError>) -> Reply {
    match result {
        Ok(()) => Reply::Done,
        Err(error) => Reply::Failed(Failure { reason: error.reason, message: error.message }),
    }
}

fn failed(reason: FailureReason, message: &str) -> Reply {
    Reply::Failed(Failure { reason, message: message.to_owned() })
}

fn not_running() -> Reply {
    failed(FailureReason::State, "the container is not running")
}

fn now() -> i64 {
    hoy_types::Timestamp::from_system(SystemTime::now()).nanos()
}
