//! What a daemon may ask for, and the answers.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime};

use hoy_runtime::{FailureReason, GivenFds, NamespaceMode, NetMode, Refusal, StartError, Stdio};
use hoy_types::Timestamp;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::beginning::{Beginning, Begun};
use crate::health::Health;
use crate::held::{Further, Held};
use crate::log::Log;
use crate::message::{
    AttachRequest, ExecRequest, ExitRecord, Failure, Reply, Request, StartRequest, Status, VERSION,
};
use crate::session::{Pipes, Session};
use crate::supervise::{Alive, Container, Shim};
use crate::witness::Witness;

/// Clients that wait for a start.
const MAX_WAITING: usize = 64;
/// How long a kill of everything may be tried before the answer.
const KILL: Duration = Duration::from_millis(200);
const SIGKILL: i32 = 9;
const SIGCHLD: i32 = 17;

impl Shim {
    /// None for what takes its time: that is answered later.
    pub fn answer(
        &mut self,
        sequence: u32,
        request: Request,
        mut descriptors: Vec<OwnedFd>,
    ) -> Option<Reply> {
        Some(match request {
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
            Request::Exec(exec) => return self.exec(sequence, *exec, descriptors.pop()),
            Request::Resize { exec, rows, columns } => self.resize(exec.as_deref(), rows, columns),
            Request::Pause => self.freeze(true),
            Request::Resume => self.freeze(false),
            Request::Release => self.release(),
            Request::Update(limits) => match &self.container {
                Container::Running(alive) => done(alive.running.update(&limits)),
                _ => not_running(),
            },
            Request::Keep { name } => match &self.container {
                // What it serves is gone: kept, it would hold the network namespace open.
                Container::Exited { .. } => not_running(),
                _ if self.kept.keep(name, descriptors) => Reply::Done,
                _ => failed(FailureReason::State, "too much to keep"),
            },
            Request::Kept { .. } => Reply::Kept,
            Request::Health => Reply::Health(self.health.as_ref().map(Health::state)),
        })
    }

    /// When this is answered, another shim may be started for the container.
    fn release(&mut self) -> Reply {
        self.released = true;
        if !matches!(self.container, Container::Running(_)) {
            self.clean_up();
            // One with something left is to be found by the next daemon, too.
            if self.leftovers.is_empty() {
                self.hide();
            }
        }
        Reply::Done
    }

    fn status(&self) -> Status {
        match &self.container {
            Container::New => Status::New,
            Container::Running(alive) => Status::Running {
                pid: alive.pid,
                started_at: alive.started_at,
                paused: alive.paused,
                execs: self.execs.status(),
            },
            Container::Exited { record, .. } => Status::Exited(record.clone()),
        }
    }

    fn kill(&mut self, signal: i32, all: bool) -> Reply {
        let Container::Running(alive) = &mut self.container else { return not_running() };
        self.witness.asked(signal, all, now());
        if !all {
            return done(alive.running.signal(signal));
        }
        if alive.paused {
            // A frozen process dies of nothing. The signal first, so that it does nothing else.
            let thawed = alive.running.signal(SIGKILL).and_then(|()| alive.running.freeze(false));
            alive.paused = thawed.is_err();
        }
        done(alive.running.kill_all(KILL))
    }

    fn freeze(&mut self, frozen: bool) -> Reply {
        let Container::Running(alive) = &mut self.container else { return not_running() };
        let result = alive.running.freeze(frozen);
        if result.is_ok() {
            alive.paused = frozen;
            if let Some(health) = &mut self.health {
                health.pause(frozen);
            }
        }
        done(result)
    }

    fn resize(&self, exec: Option<&str>, rows: u16, columns: u16) -> Reply {
        let session = match exec {
            None => self.session.as_ref(),
            Some(id) => self.execs.named(id),
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
        let mut notes = Vec::new();
        match (&mut self.session, &self.container) {
            (Some(session), Container::Running(_)) => {
                session.attach(client, &request, &mut notes);
            }
            (_, Container::New) if self.waiting.len() < MAX_WAITING => {
                self.waiting.push((client, request));
            }
            (_, Container::New) => return failed(FailureReason::State, "too many clients wait"),
            _ => return not_running(),
        }
        self.tell_notes(&notes, None);
        Reply::Done
    }

    fn start(&mut self, request: StartRequest, descriptors: Vec<OwnedFd>) -> Reply {
        if self.released || !matches!(self.container, Container::New) {
            return failed(FailureReason::State, "the container was started already");
        }
        self.state_dir.clone_from(&request.state_dir);
        ExitRecord::clear(&self.state_dir);
        self.witness = Witness::new(&self.state_dir, &request.plan);
        match self.try_start(request, descriptors) {
            Ok(reply) => reply,
            Err(Refusal { error, remains }) => {
                // The daemon tells the clients why, and starts the next attempt with a new shim.
                self.waiting = Vec::new();
                self.released = true;
                match remains {
                    Some(remains) => self.leftovers.add_remains(*remains),
                    None => self.hide(),
                }
                refused(error)
            }
        }
    }

    fn try_start(
        &mut self,
        request: StartRequest,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Reply, Refusal> {
        let log = Log::new(&request.log)?;
        let streams = Streams::new(request.plan.process.tty, request.open_stdin)?;
        let shares_pids = request.plan.namespaces.pid != NamespaceMode::New;
        let mut given = descriptors.into_iter();
        let netns = if request.plan.namespaces.net == NetMode::Given { given.next() } else { None };
        let userns = request.plan.userns.as_ref().and_then(|_| given.next());
        let mut other = |mode| if mode == NamespaceMode::Given { given.next() } else { None };
        let pid_of = other(request.plan.namespaces.pid);
        let ipc_of = other(request.plan.namespaces.ipc);
        if request.plan.external.is_some() {
            let children = hoy_sys::process::signal_fd(&[SIGCHLD]);
            let children =
                children.map_err(|error| StartError::system("hear of children", error))?;
            self.children = Some(children);
        }
        let given = GivenFds { netns, userns, pid_of, ipc_of };
        let (running, started) = Held::start(request.plan, given, streams.theirs)?;
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
                return Err(StartError::system("set up the streams", error).into());
            }
        };
        let mut notes = Vec::new();
        for (client, attach) in std::mem::take(&mut self.waiting) {
            session.attach(client, &attach, &mut notes);
        }
        self.session = Some(session);
        let oom = running.watch_oom();
        let alive = Alive {
            running,
            pid,
            started_at,
            paused: false,
            shares_pids,
            oom,
            oom_kills: 0,
            oom_since: None,
        };
        self.container = Container::Running(Box::new(alive));
        self.health = request.health.map(Health::new);
        self.tell_notes(&notes, None);
        Ok(Reply::Started { pid, started_at })
    }

    fn exec(
        &mut self,
        sequence: u32,
        request: ExecRequest,
        client: Option<OwnedFd>,
    ) -> Option<Reply> {
        let Container::Running(alive) = &self.container else { return Some(not_running()) };
        if alive.paused {
            return Some(failed(FailureReason::State, "the container is paused"));
        }
        if !self.execs.has_room(self.beginnings.len()) {
            return Some(failed(FailureReason::State, "too many exec sessions"));
        }
        let wants_input =
            client.is_some() && request.attach.as_ref().is_some_and(|attach| attach.stdin);
        let begun = Streams::new(request.plan.process.tty, wants_input).and_then(|streams| {
            Ok((alive.running.exec(&request.plan, streams.theirs)?, streams.ours))
        });
        let daemon = self.daemon;
        match begun {
            Ok((Further::Starting(starting), ours)) => {
                let since = Instant::now();
                let beginning =
                    Beginning { sequence, daemon, request, client, ours, starting, since };
                self.beginnings.push(beginning);
                None
            }
            Ok((Further::Started(started), ours)) => {
                let session = Session::begun(started, ours);
                let (reply, notes, id) =
                    self.take_in(Begun { sequence, daemon, request, client, session });
                self.tell_notes(&notes, Some(&id));
                Some(reply)
            }
            Err(error) => Some(refused(error)),
        }
    }
}

/// Both ends of the standard streams.
struct Streams {
    theirs: Stdio,
    ours: Option<Pipes>,
}

impl Streams {
    fn new(tty: bool, open_stdin: bool) -> Result<Self, StartError> {
        if tty {
            return Ok(Self { theirs: Stdio::Terminal, ours: None });
        }
        let pipe = || {
            pipe_with(PipeFlags::CLOEXEC).map_err(|errno| StartError::system("make a pipe", errno))
        };
        let (stdout, out_write) = pipe()?;
        let (stderr, err_write) = pipe()?;
        let (their_stdin, stdin) = if open_stdin {
            let (read, write) = pipe()?;
            (read, Some(write))
        } else {
            let flags = OFlags::RDWR | OFlags::CLOEXEC;
            let null = rustix::fs::open("/dev/null", flags, Mode::empty())
                .map_err(|errno: Errno| StartError::system("open /dev/null", errno))?;
            (null, None)
        };
        Ok(Self {
            theirs: Stdio::Pipes { stdin: their_stdin, stdout: out_write, stderr: err_write },
            ours: Some(Pipes { stdin, stdout, stderr }),
        })
    }
}

fn done(result: Result<(), StartError>) -> Reply {
    result.map_or_else(refused, |()| Reply::Done)
}

pub(crate) fn refused(error: StartError) -> Reply {
    Reply::Failed(Failure { reason: error.reason, message: error.message })
}

fn failed(reason: FailureReason, message: &str) -> Reply {
    refused(StartError::new(reason, message))
}

fn not_running() -> Reply {
    failed(FailureReason::State, "the container is not running")
}

pub(crate) fn now() -> i64 {
    Timestamp::from_system(SystemTime::now()).nanos()
}
