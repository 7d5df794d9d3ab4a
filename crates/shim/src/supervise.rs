//! The loop of one container's supervisor: what it waits for, and what has ended since.
//!
//! A single thread. It holds the container's process, its streams and its exec sessions; daemons
//! come and go on the control socket. It never waits for any of them alone.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hoy_cgroup::OomWatch;
use hoy_sys::process;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::beginning::Beginning;
use crate::codec::{self, Received};
use crate::execs::{Execs, State};
use crate::health::{Health, ProbeSlot};
use crate::held::Held;
use crate::kept::Kept;
use crate::leftovers::Leftovers;
use crate::message::{AttachRequest, Call, Event, ExitRecord, FromShim, Reply, Request};
use crate::session::{CHUNK, Exit, Note, Session, Slot};
use crate::witness::Witness;

/// After this long without anything to do the buffer for reading is given back.
const IDLE: Duration = Duration::from_secs(1);

/// How long after a shortage of memory it is looked whether the kernel has ended anything: often
/// at first, since who manages cgroups may remove an emptied one at once.
const SHORT_OF_MEMORY: Duration = Duration::from_secs(2);
const AT_FIRST: Duration = Duration::from_millis(50);

/// One container, from before its start to after its end.
pub(crate) struct Shim {
    /// Where the listening socket lies, until it was removed.
    pub socket: Option<PathBuf>,
    listener: OwnedFd,
    control: Option<OwnedFd>,
    /// Counts the daemons that `control` has been of.
    pub daemon: u64,
    pub container: Container,
    pub session: Option<Session>,
    /// Clients that came before the start.
    pub waiting: Vec<(OwnedFd, AttachRequest)>,
    pub execs: Execs,
    pub beginnings: Vec<Beginning>,
    pub leftovers: Leftovers,
    pub health: Option<Health>,
    pub kept: Kept,
    /// Tells of children that have ended, where an external runtime leaves some to us.
    pub children: Option<File>,
    pub state_dir: PathBuf,
    /// What is seen for who asks why it ended.
    pub witness: Witness,
    /// Nothing more is wanted of this shim.
    pub released: bool,
    /// Log records that are missing, and how many of them a daemon has heard of.
    dropped: u64,
    dropped_told: u64,
    scratch: Vec<u8>,
}

pub(crate) enum Container {
    New,
    Running(Box<Alive>),
    /// What remains is taken back when nobody is served any more.
    Exited {
        record: ExitRecord,
        remains: Option<Held>,
    },
}

pub(crate) struct Alive {
    pub running: Held,
    pub pid: i32,
    pub started_at: i64,
    pub paused: bool,
    /// Its processes do not end by themselves with the first one.
    pub shares_pids: bool,
    pub oom: Option<OomWatch>,
    /// As told to the daemon.
    pub oom_kills: u64,
    /// Since when it is looked whether more have been.
    pub oom_since: Option<Instant>,
}

/// Whose descriptor poll looked at.
#[derive(Clone, Copy)]
enum Owner {
    Control,
    Listener,
    Memory,
    Children,
    Container(Slot),
    Exec(usize, Slot),
    Probe(ProbeSlot),
    /// Looked at after each round.
    Other,
}

impl Shim {
    pub fn new(control: OwnedFd, listener: OwnedFd, socket: PathBuf) -> Self {
        Self {
            socket: Some(socket),
            listener,
            control: Some(control),
            daemon: 0,
            container: Container::New,
            session: None,
            waiting: Vec::new(),
            execs: Execs::default(),
            beginnings: Vec::new(),
            leftovers: Leftovers::default(),
            health: None,
            kept: Kept::default(),
            children: None,
            state_dir: PathBuf::new(),
            witness: Witness::default(),
            released: false,
            dropped: 0,
            dropped_told: 0,
            scratch: Vec::new(),
        }
    }

    /// Works until there is nothing left to do; the exit status.
    pub fn work(&mut self) -> i32 {
        while !self.finished() {
            match self.wait() {
                Ok(found) => {
                    for (owner, flags) in found {
                        self.act(owner, flags);
                    }
                    self.tidy();
                }
                Err(Errno::INTR) => {}
                Err(_) => return 1,
            }
        }
        self.hide();
        0
    }

    fn finished(&self) -> bool {
        if !self.leftovers.is_empty() || !self.beginnings.is_empty() {
            return false;
        }
        let unwanted = self.released || self.control.is_none();
        match &self.container {
            Container::New => unwanted,
            Container::Running(_) => false,
            Container::Exited { remains, .. } => {
                let served = self.session.as_ref().is_none_or(|session| !session.has_clients());
                unwanted && served && remains.is_none() && self.execs.live().next().is_none()
            }
        }
    }

    /// Cannot be found any more. Before a daemon hears that it may start another shim of this id.
    pub fn hide(&mut self) {
        if let Some(path) = self.socket.take() {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Waits for anything.
    fn wait(&mut self) -> Result<Vec<(Owner, PollFlags)>, Errno> {
        let mut owners = vec![Owner::Listener];
        let mut fds = vec![PollFd::new(&self.listener, PollFlags::IN)];
        if let Some(control) = &self.control {
            owners.push(Owner::Control);
            fds.push(PollFd::new(control, PollFlags::IN));
        }
        if let Container::Running(alive) = &self.container
            && let Some(oom) = &alive.oom
        {
            owners.push(Owner::Memory);
            fds.push(PollFd::new(oom, PollFlags::IN));
        }
        if let Some(children) = &self.children {
            owners.push(Owner::Children);
            fds.push(PollFd::new(children, PollFlags::IN));
        }
        let mut deadlines = Vec::new();
        if let Container::Running(alive) = &self.container
            && let Some(since) = alive.oom_since
        {
            let milliseconds = if since.elapsed() < AT_FIRST { 0 } else { 20 };
            deadlines.push(Duration::from_millis(milliseconds));
        }
        let mut add = |session: &'_ Session| deadlines.extend(session.deadline());
        if let Some(session) = &self.session {
            add(session);
            for (slot, fd, flags) in session.interests() {
                owners.push(Owner::Container(slot));
                fds.push(PollFd::from_borrowed_fd(fd, flags));
            }
        }
        for (index, session) in self.execs.live() {
            add(session);
            for (slot, fd, flags) in session.interests() {
                owners.push(Owner::Exec(index, slot));
                fds.push(PollFd::from_borrowed_fd(fd, flags));
            }
        }
        for beginning in &self.beginnings {
            deadlines.push(beginning.deadline());
            owners.push(Owner::Other);
            fds.push(PollFd::from_borrowed_fd(beginning.as_fd(), PollFlags::IN));
        }
        for pidfd in self.leftovers.interests() {
            owners.push(Owner::Other);
            fds.push(PollFd::from_borrowed_fd(pidfd, PollFlags::IN));
        }
        if let Some(health) = &self.health {
            deadlines.extend(health.deadline());
            for (slot, fd, flags) in health.interests() {
                owners.push(Owner::Probe(slot));
                fds.push(PollFd::from_borrowed_fd(fd, flags));
            }
        }
        if self.scratch.capacity() > 0 {
            deadlines.push(IDLE);
        }
        let timeout = deadlines.into_iter().min().map(timespec);
        let count = poll(&mut fds, timeout.as_ref())?;
        let happened = owners.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        let happened = happened.map(|(owner, fd)| (owner, fd.revents())).collect();
        if count == 0 {
            self.scratch = Vec::new();
        }
        Ok(happened)
    }

    fn act(&mut self, owner: Owner, flags: PollFlags) {
        let mut notes = Vec::new();
        match owner {
            Owner::Listener => self.accept(),
            Owner::Memory => self.short_of_memory(),
            Owner::Control => self.listen_to_daemon(),
            Owner::Children => self.reap_children(),
            Owner::Other => {}
            Owner::Probe(slot) => {
                if let Some(health) = &mut self.health {
                    health.handle(slot);
                }
            }
            Owner::Container(slot) => {
                self.scratch.reserve(CHUNK);
                if let Some(session) = &mut self.session {
                    session.handle(slot, flags, &mut self.scratch, &mut notes);
                }
                self.tell_notes(&notes, None);
            }
            Owner::Exec(index, slot) => {
                self.scratch.reserve(CHUNK);
                let Some((id, session)) = self.execs.at(index) else { return };
                session.handle(slot, flags, &mut self.scratch, &mut notes);
                if !notes.is_empty() {
                    let id = id.to_owned();
                    self.tell_notes(&notes, Some(&id));
                }
            }
        }
    }

    /// The watch fires before anything is ended, and for what ends nothing: from then on it is
    /// looked at for a while.
    fn short_of_memory(&mut self) {
        let Container::Running(alive) = &mut self.container else { return };
        if let Some(oom) = &alive.oom {
            oom.clear();
        }
        alive.oom_since = Some(Instant::now());
        self.witness.short_of_memory(&alive.running);
    }

    fn tell_oom_kills(&mut self) {
        let Container::Running(alive) = &mut self.container else { return };
        let Some(since) = alive.oom_since else { return };
        let kills = alive.running.oom_kills();
        if kills > alive.oom_kills {
            alive.oom_kills = kills;
            alive.oom_since = None;
            self.witness.oom_killed(&alive.running);
            self.tell(Event::OutOfMemory { kills });
        } else if since.elapsed() > SHORT_OF_MEMORY {
            alive.oom_since = None;
        }
    }

    /// Orphans of the container and of its runtime have no other parent to wait for them.
    fn reap_children(&mut self) {
        let Some(children) = &mut self.children else { return };
        // One record is enough to hear of: the children themselves are asked.
        while matches!(children.read(&mut [0; 128]), Ok(read) if read > 0) {}
        while let Some(child) = process::ended_child() {
            let pid = child.as_raw_nonzero().get();
            if self.health.as_mut().is_some_and(|health| health.reap(pid)) {
                continue;
            }
            let first = self.session.as_mut().filter(|session| session.pid == pid);
            match first.or_else(|| self.execs.by_pid(pid)) {
                Some(session) if !session.has_exited() => session.reap(),
                _ => drop(waitid(WaitId::Pid(child), WaitIdOptions::EXITED)),
            }
        }
    }

    pub fn tell_notes(&mut self, notes: &[Note], exec: Option<&str>) {
        for note in notes {
            match note {
                Note::Detached => {
                    self.tell(Event::Detached { exec: exec.map(str::to_owned) });
                }
                Note::LogDropped(records) => {
                    self.dropped += records;
                    // Each time that they have doubled, and all at the end: a log in trouble must
                    // not bury the daemon in events.
                    if self.dropped >= 2 * self.dropped_told {
                        self.tell_dropped();
                    }
                }
            }
        }
    }

    fn tell_dropped(&mut self) {
        if self.dropped > self.dropped_told {
            self.dropped_told = self.dropped;
            self.tell(Event::LogDropped { records: self.dropped });
        }
    }

    /// The newest daemon is the one to listen to.
    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(peer) = accept_with(&self.listener, flags) else { return };
        if rustix::net::sockopt::socket_peercred(&peer).is_ok_and(|peer| peer.uid.is_root()) {
            self.control = Some(peer);
            self.daemon += 1;
        }
    }

    fn listen_to_daemon(&mut self) {
        let Some(control) = &self.control else { return };
        match codec::receive::<Call>(control.as_fd()) {
            Ok(Received::Message(call, descriptors)) => {
                let kept = match &call.request {
                    Request::Kept { name } => Some(name.clone()),
                    _ => None,
                };
                if let Some(reply) = self.answer(call.sequence, call.request, descriptors) {
                    let message = FromShim::Reply { sequence: call.sequence, reply };
                    self.send(&message, kept.as_deref());
                }
            }
            Ok(Received::Nothing) => {}
            Ok(Received::Closed) | Err(_) => self.control = None,
        }
    }

    /// Whether it is on its way to a daemon, together with what is kept under a name.
    fn send(&mut self, message: &FromShim, kept: Option<&str>) -> bool {
        let Some(control) = &self.control else { return false };
        let descriptors = kept.map_or_else(Vec::new, |name| self.kept.get(name));
        let sent = matches!(codec::send(control.as_fd(), message, &descriptors), Ok(true));
        if !sent {
            // A daemon that does not read is as good as none: it will ask again.
            self.control = None;
        }
        sent
    }

    /// Answers a call that took its time, if who made it is still there.
    pub fn reply(&mut self, sequence: u32, daemon: u64, reply: Reply) {
        if daemon == self.daemon {
            self.send(&FromShim::Reply { sequence, reply }, None);
        }
    }

    fn tell(&mut self, event: Event) -> bool {
        self.send(&FromShim::Event(event), None)
    }

    /// After each round: what has ended is told.
    fn tidy(&mut self) {
        self.tell_oom_kills();
        self.tidy_execs();
        self.tidy_health();
        let mut notes = Vec::new();
        if let Some(session) = &mut self.session {
            session.tidy(&mut notes);
            if let Container::Running(alive) = &mut self.container
                && alive.shares_pids
                && session.has_exited()
            {
                // Those that take longer are waited for by the clean-up.
                let _ = alive.running.kill_all(Duration::ZERO);
                alive.shares_pids = false;
            }
        }
        self.tell_notes(&notes, None);
        if let (Some(exit), Container::Running(_)) =
            (self.session.as_ref().and_then(Session::finished), &self.container)
        {
            self.container_ended(exit);
        }
        if let Some(session) = &mut self.session {
            session.close_clients();
        }
        self.tend_beginnings();
        self.leftovers.reap();
        let idle = self.session.as_ref().is_none_or(|session| !session.has_clients());
        if idle || self.released {
            self.clean_up();
        }
    }

    fn tidy_health(&mut self) {
        let (Some(health), Container::Running(alive)) = (&mut self.health, &self.container) else {
            return;
        };
        let mut events = Vec::new();
        health.tick(&alive.running, &mut self.leftovers, &mut events);
        for event in events {
            self.tell(event);
        }
    }

    fn tidy_execs(&mut self) {
        let mut ended = Vec::new();
        for exec in self.execs.iter_mut() {
            let State::Live(session) = &mut exec.state else { continue };
            session.tidy(&mut Vec::new());
            match session.finished() {
                // The daemon hears the code before the client sees the end of the stream.
                Some(exit) if !session.serves_clients() => {
                    let state = State::Ended { code: exit.code, told: false };
                    let State::Live(session) = std::mem::replace(&mut exec.state, state) else {
                        continue;
                    };
                    ended.push((exec.id.clone(), exit.code, session));
                }
                _ => session.close_clients(),
            }
        }
        if ended.is_empty() {
            return;
        }
        for (id, code, mut session) in ended {
            if self.tell(Event::ExecExited { id: id.clone(), code }) {
                self.execs.told(&id);
            }
            session.close_clients();
        }
        self.execs.prune();
    }

    /// Report first, clean up after.
    fn container_ended(&mut self, exit: Exit) {
        let state = std::mem::replace(&mut self.container, Container::New);
        let Container::Running(alive) = state else {
            self.container = state;
            return;
        };
        // Of a cgroup that is gone already nothing more is known than was told.
        let kills = alive.running.oom_kills().max(alive.oom_kills);
        if kills > alive.oom_kills {
            self.tell(Event::OutOfMemory { kills });
        }
        // Before who may remove its cgroup hears of the end.
        self.witness.ended(&alive.running, &exit, kills);
        let record = ExitRecord {
            code: exit.code,
            oom_killed: kills > 0,
            pid: alive.pid,
            started_at: alive.started_at,
            finished_at: exit.at,
        };
        // Without it the daemon still hears the event; both missing reads as a lost shim.
        let _ = record.write(&self.state_dir);
        self.tell_dropped();
        let remains = Some(alive.running);
        self.container = Container::Exited { record: record.clone(), remains };
        self.kept.forget();
        // What still runs of a probe ends with the container.
        if let Some(health) = self.health.take() {
            health.end(&mut self.leftovers);
        }
        self.tell(Event::Exited(record));
    }

    /// Takes back what the kernel does not take back by itself, once nothing of ours is in it.
    pub fn clean_up(&mut self) {
        if !self.leftovers.is_empty() || !self.beginnings.is_empty() {
            return;
        }
        if let Container::Exited { remains, .. } = &mut self.container
            && let Some(running) = remains.take()
        {
            running.clean_up();
        }
    }
}

/// Rounded up, so that what is waited for has come.
fn timespec(left: Duration) -> Timespec {
    let left = left + Duration::from_millis(1);
    Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    }
}
