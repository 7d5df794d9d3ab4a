//! One task per container: the only one that changes it.
//!
//! Requests come as commands, the shim's words as messages; each is admitted by `life`, carried
//! out, written down and published. Nothing here waits for the container itself.

mod again;
mod health;
mod unlink;

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hoy_cgroup::Limits;
use hoy_network::DnsSockets;
use hoy_shim::client::Connection;
use hoy_shim::message::{
    AttachRequest, Event, ExecRequest, ExitRecord, Failure, Reply, Request, StartRequest, Status,
};
use hoy_types::Timestamp;
use hoy_wire::{EndpointSettings, HostConfig};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};

use crate::attachments::{self, Attachment};
use crate::containers::cpus;
use crate::directory::Document;
use crate::engine::Inner;
use crate::error::{Error, Result, failed, lost};
use crate::life::{Phase, Wish};
use crate::limits;
use crate::networks::network_error;
use crate::record::{NetworkMode, NetworkRecord, Record, State};
use crate::registry::View;
use crate::sandbox::{Sandbox, namespace_of, set_up};
use crate::shim_link::{Answer, Incoming, LinkError, ShimLink};

/// Commands that may wait for one container.
pub(crate) const QUEUE: usize = 64;
/// Clients that may wait for one start.
const MAX_WAITING: usize = 32;
/// A shim answers at once, or it is stopped or stuck.
const ANSWER: Duration = Duration::from_secs(10);
/// A copy that goes on for longer makes a start or a removal fail.
const COPIED: Duration = Duration::from_secs(20);
/// The start itself may have to wait for a slow disk.
const START: Duration = Duration::from_secs(60);

/// The name server's sockets, with the supervisor.
const KEPT_DNS: &str = "dns";
/// The owner of the firewall's rules, with every supervisor of a container that they are for.
pub(crate) const KEPT_RULES: &str = "rules";

type Done<T> = oneshot::Sender<Result<T>>;

/// What the rest of the house asks of a container.
pub(crate) enum Command {
    Start(Done<()>),
    /// Started if its policy has it come back with the daemon.
    Begin(Done<()>),
    /// A signal that somebody sends: its policy heeds that.
    Signal {
        signal: i32,
        all: bool,
        done: Done<()>,
    },
    /// Its next end is the first half of a restart: it stays although it was to be removed.
    KeepAtEnd(Done<()>),
    Pause(bool, Done<()>),
    Resize {
        exec: Option<String>,
        rows: u16,
        columns: u16,
        done: Done<()>,
    },
    Attach {
        request: AttachRequest,
        client: OwnedFd,
        done: Done<()>,
    },
    Exec {
        request: Box<ExecRequest>,
        client: Option<OwnedFd>,
        done: Done<std::result::Result<i32, Failure>>,
    },
    Rename {
        name: String,
        done: Done<()>,
    },
    /// One of its links is no more.
    Unlink {
        alias: String,
        done: Done<()>,
    },
    /// Limits that were checked for themselves.
    Update {
        asked: Box<HostConfig>,
        done: Done<()>,
    },
    /// More room for what it writes.
    Grow {
        size: String,
        done: Done<()>,
    },
    Connect {
        network: Arc<Document>,
        settings: Box<EndpointSettings>,
        done: Done<()>,
    },
    Disconnect {
        network: Arc<Document>,
        force: bool,
        done: Done<()>,
    },
    Remove {
        force: bool,
        /// With the volumes that were made for it alone.
        volumes: bool,
        done: Done<()>,
    },
    /// Answered once everything that the supervisor has said before is known.
    Hear(Done<()>),
    /// The same, and one that does not run has let go of its files.
    Rest(Done<()>),
    /// Ends a supervisor that does not answer; its container ends with it.
    EndSupervisor(Done<()>),
}

pub(crate) struct Driver {
    inner: Arc<Inner>,
    record: Record,
    view: watch::Sender<View>,
    commands: mpsc::Receiver<Command>,
    link: Option<ShimLink>,
    /// Readable once the shim is gone.
    shim: Option<AsyncFd<OwnedFd>>,
    waiting: Vec<(AttachRequest, OwnedFd)>,
    exits: u64,
    /// The code of its last end, which a next run does not change.
    last_code: i32,
    starts: u64,
    /// When its policy starts it again.
    again_at: Option<tokio::time::Instant>,
    /// What was before this daemon is taken up: nothing is started yet.
    settling: bool,
    /// It is stopped to be started again by somebody.
    keep_at_end: bool,
    /// Signals whose answers are awaited.
    signals: Vec<again::Sent>,
    /// The supervisor keeps sockets.
    keeps: bool,
    /// As in the handle.
    tree: Arc<tokio::sync::RwLock<()>>,
    /// It knows of health checks.
    probes: bool,
}

/// What a running container was found as when the daemon started.
pub(crate) enum Found {
    Nothing,
    Alive(Connection),
}

impl Driver {
    /// Starts the task of a container. The handle's view is there at once; `settled` is told when
    /// what was found is taken up.
    pub fn spawn(
        inner: &Arc<Inner>,
        record: Record,
        found: Found,
        settled: Option<oneshot::Sender<()>>,
    ) -> crate::registry::Handle {
        let (view, receiver) = watch::channel(View {
            record: Arc::new(record.clone()),
            exits: 0,
            last_code: record.state.exit_code,
            starts: 0,
            removed: false,
        });
        let last_code = record.state.exit_code;
        let (sender, commands) = mpsc::channel(QUEUE);
        let handle = crate::registry::Handle {
            id: record.id.clone(),
            view: receiver,
            commands: sender,
            attaching: Arc::default(),
            tree: Arc::default(),
        };
        let tree = Arc::clone(&handle.tree);
        let driver = Self {
            inner: Arc::clone(inner),
            record,
            view,
            commands,
            link: None,
            shim: None,
            waiting: Vec::new(),
            exits: 0,
            last_code,
            starts: 0,
            again_at: None,
            settling: settled.is_some(),
            keep_at_end: false,
            signals: Vec::new(),
            keeps: false,
            tree,
            probes: false,
        };
        tokio::spawn(driver.run(found, settled));
        handle
    }

    async fn run(mut self, found: Found, settled: Option<oneshot::Sender<()>>) {
        match found {
            Found::Alive(connection) => self.adopt(connection).await,
            Found::Nothing if settled.is_some() => self.settle().await,
            Found::Nothing => {}
        }
        self.settling = false;
        if let Some(settled) = settled {
            let _ = settled.send(());
        }
        loop {
            let again_at = self.again_at;
            let again = async {
                match again_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let gone = async {
                match &self.shim {
                    Some(shim) => shim.readable().await.map(drop),
                    None => std::future::pending().await,
                }
            };
            let incoming = async {
                match &mut self.link {
                    Some(link) => link.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                incoming = incoming => self.hear(incoming).await,
                _ = gone => self.shim_gone().await,
                () = again => self.start_again().await,
                command = self.commands.recv() => match command {
                    Some(command) => {
                        if self.obey(command).await {
                            return;
                        }
                    }
                    None => return,
                },
            }
        }
    }

    fn id(&self) -> &str {
        self.record.id.as_str()
    }

    fn directory(&self) -> PathBuf {
        self.inner.store.container_directory(self.id())
    }

    fn publish(&self) {
        let record = Arc::new(self.record.clone());
        self.view.send_replace(View {
            record,
            exits: self.exits,
            last_code: self.last_code,
            starts: self.starts,
            removed: false,
        });
    }

    /// Off the path: the truth of a running container is its shim's.
    fn save_later(&self) {
        if let Ok(op) = self.inner.put_record(&self.record) {
            self.inner.store.write_later(vec![op]);
        }
    }

    fn event(&self, action: &str, extra: &[(&str, String)]) {
        self.inner.container_event(&self.record, action, extra);
    }

    fn network_events(&self, action: &str, networks: &[Arc<Document>]) {
        for network in networks {
            self.inner.network_event(action, network, Some(self.record.key()));
        }
    }

    fn admit(&self, wish: Wish) -> Result<()> {
        self.record
            .state
            .phase
            .admits(wish, self.id())
            .map_err(|(kind, message)| Error::new(kind, message))
    }

    /// True once the container is removed.
    async fn obey(&mut self, command: Command) -> bool {
        // Whoever asked may have gone meanwhile; the deed is done all the same.
        match command {
            Command::Start(done) => {
                let result = self.start().await;
                let _ = done.send(result);
            }
            Command::Begin(done) => {
                let result = self.begin().await;
                let _ = done.send(result);
            }
            Command::Signal { signal, all, done } => self.signal(signal, all, done).await,
            Command::KeepAtEnd(done) => {
                self.keep_at_end = true;
                let _ = done.send(Ok(()));
            }
            Command::Pause(pause, done) => {
                let result = self.pause(pause).await;
                let _ = done.send(result);
            }
            Command::Resize { exec, rows, columns, done } => {
                let admitted = self.admit(Wish::Resize);
                let request = Request::Resize { exec, rows, columns };
                self.forward(admitted, request, Vec::new(), done).await;
            }
            Command::Attach { request, client, done } => self.attach(request, client, done).await,
            Command::Exec { request, client, done } => self.exec(*request, client, done).await,
            Command::Rename { name, done } => {
                let result = self.rename(name).await;
                let _ = done.send(result);
            }
            Command::Unlink { alias, done } => {
                let result = self.unlink(&alias).await;
                let _ = done.send(result);
            }
            Command::Update { asked, done } => {
                let result = self.update(&asked).await;
                let _ = done.send(result);
            }
            Command::Grow { size, done } => {
                let result = self.grow(size).await;
                let _ = done.send(result);
            }
            Command::Connect { network, settings, done } => {
                let result = self.connect(&network, &settings).await;
                let _ = done.send(result);
            }
            Command::Disconnect { network, force, done } => {
                let result = self.disconnect(&network, force).await;
                let _ = done.send(result);
            }
            Command::Remove { force, volumes, done } => match self.remove(force, volumes).await {
                Ok(()) => {
                    let _ = done.send(Ok(()));
                    return true;
                }
                Err(error) => drop(done.send(Err(error))),
            },
            // The supervisor's words come first, always.
            Command::Hear(done) => drop(done.send(Ok(()))),
            Command::Rest(done) => {
                let result = match self.record.state.phase.is_alive() {
                    true => Ok(()),
                    false => self.wait_for_shim().await,
                };
                let _ = done.send(result);
            }
            Command::EndSupervisor(done) => {
                let result = self.end_supervisor();
                let _ = done.send(result);
            }
        }
        false
    }

    async fn call(&mut self, request: Request, descriptors: &[OwnedFd]) -> Result<Answer> {
        let link = self.link.as_mut();
        let link = link.ok_or_else(|| Error::conflict("the container's supervisor is gone"))?;
        link.call(request, descriptors).await.map_err(failed("talk to the container's supervisor"))
    }

    /// Sends a request on and lets another task wait for the answer.
    async fn forward(
        &mut self,
        admitted: Result<()>,
        request: Request,
        descriptors: Vec<OwnedFd>,
        done: Done<()>,
    ) {
        let answer = match admitted {
            Ok(()) => self.call(request, &descriptors).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) => {
                tokio::spawn(async move {
                    let _ = done.send(plain(answer).await);
                });
            }
            Err(error) => drop(done.send(Err(error))),
        }
    }

    /// Waits for an answer while going on to hear the shim.
    async fn answer<T>(
        &mut self,
        mut answer: oneshot::Receiver<T>,
        deadline: Duration,
    ) -> Result<T> {
        let mut early = Vec::new();
        let result = {
            let link = self.link.as_mut();
            let link = link.ok_or_else(|| Error::conflict("the container's supervisor is gone"))?;
            let wait = async {
                loop {
                    tokio::select! {
                        biased;
                        reply = &mut answer => return reply.map_err(|_| LinkError::Gone),
                        incoming = link.next() => match incoming {
                            Incoming::Answered => {}
                            Incoming::Event(event) => early.push(event),
                            Incoming::Closed => return Err(LinkError::Gone),
                        },
                    }
                }
            };
            tokio::time::timeout(deadline, wait).await
        };
        for event in early {
            self.on_event(event).await;
        }
        result
            .map_err(|_| Error::system("the container's supervisor does not answer"))?
            .map_err(failed("talk to the container's supervisor"))
    }

    async fn hear(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Answered => self.signals_answered(),
            Incoming::Event(event) => self.on_event(event).await,
            // The pidfd says when it is really gone.
            Incoming::Closed => {
                self.link = None;
                self.signals_answered();
            }
        }
    }

    async fn on_event(&mut self, event: Event) {
        // What follows from a signal is told after it.
        self.signals_answered();
        match event {
            Event::Exited(exit) => self.exited(&exit).await,
            Event::ExecExited { id, code } => {
                self.inner.exec_ended(&id, code);
                self.event("exec_die", &[("execID", id), ("exitCode", code.to_string())]);
            }
            Event::Detached { exec: None } => self.event("detach", &[]),
            Event::Detached { exec: Some(id) } => self.event("exec_detach", &[("execID", id)]),
            Event::OutOfMemory { .. } => {
                if self.record.state.phase.is_alive() {
                    self.record.state.oom_killed = true;
                    self.publish();
                    self.save_later();
                    self.event("oom", &[]);
                }
            }
            Event::ProbeBegins { .. } | Event::Probed { .. } => self.on_probe(event),
            Event::LogDropped { records } => {
                tracing::warn!(container = self.record.id.short(), records, "log records lost");
            }
        }
    }

    async fn exited(&mut self, exit: &ExitRecord) {
        if !matches!(self.record.state.phase, Phase::Running | Phase::Paused | Phase::Starting) {
            return;
        }
        let ran = Duration::from_nanos((exit.finished_at - exit.started_at).max(0).unsigned_abs());
        let phase = self.phase_after_end(exit.code, ran);
        self.record.state = State {
            phase,
            pid: 0,
            exit_code: exit.code,
            error: self.record.state.error.clone(),
            oom_killed: exit.oom_killed,
            started_at: Timestamp::from_nanos(exit.started_at),
            finished_at: Timestamp::from_nanos(exit.finished_at),
        };
        let networks = self.release_network().await;
        self.exits += 1;
        self.last_code = exit.code;
        self.health_ended();
        self.inner.execs_of_ended(&self.record.id);
        self.publish();
        self.save_later();
        self.tell_death(exit.code, (exit.finished_at - exit.started_at).max(0));
        self.network_events("disconnect", &networks);
        self.detach_volumes().await;
        // The supervisor may clean up; nobody waits for that.
        if self.link.is_some() {
            let _ = self.call(Request::Release, &[]).await;
        }
    }

    /// Where the container's volumes lie from now on.
    async fn attach_volumes(&self) -> Result<BTreeMap<String, PathBuf>> {
        if self.record.volumes().next().is_none() && !crate::room::is_limited(&self.record) {
            return Ok(BTreeMap::new());
        }
        let (inner, record) = (Arc::clone(&self.inner), self.record.clone());
        tokio::task::spawn_blocking(move || inner.attach_volumes(&record)).await.map_err(lost)?
    }

    async fn detach_volumes(&self) {
        if self.record.volumes().next().is_none() && !crate::room::is_limited(&self.record) {
            return;
        }
        let (inner, record) = (Arc::clone(&self.inner), self.record.clone());
        let detached = tokio::task::spawn_blocking(move || inner.detach_volumes(&record));
        let _ = detached.await;
        self.inner.volume_events("unmount", &self.record);
    }

    /// Takes back what the container has of networks; which those were.
    async fn release_network(&mut self) -> Vec<Arc<Document>> {
        let endpoints = std::mem::take(&mut self.record.network.endpoints);
        // One that has left its networks while it ran has noted that.
        let mode = &self.record.network.mode;
        let documents = self.inner.documents_of_running(mode, &endpoints);
        if endpoints.is_empty() && *mode != NetworkMode::Networks {
            return documents;
        }
        let inner = Arc::clone(&self.inner);
        let id = self.record.id.clone();
        let release = tokio::task::spawn_blocking(move || inner.give_back(&id, &endpoints));
        let _ = release.await;
        documents
    }

    /// The supervisor's process has ended.
    async fn shim_gone(&mut self) {
        self.shim = None;
        // What it said last may still lie in the socket.
        while let Some(link) = &mut self.link {
            match link.next().await {
                Incoming::Event(event) => self.on_event(event).await,
                Incoming::Answered => {}
                Incoming::Closed => self.link = None,
            }
        }
        hoy_shim::client::forget(&self.inner.settings.exec_root, self.id());
        self.take_back_external().await;
        if matches!(self.record.state.phase, Phase::Running | Phase::Paused | Phase::Starting) {
            self.lost().await;
        }
        let ended = self.record.state.phase == Phase::Exited && !self.keep_at_end;
        if self.record.host.auto_remove && ended {
            self.inner.remove_later(&self.record.id);
        }
        self.publish();
    }

    /// What a supervisor that was killed left of a container that another runtime has made.
    async fn take_back_external(&self) {
        let settings = &self.inner.settings;
        let (exec_root, id) = (settings.exec_root.clone(), self.id().to_owned());
        if !hoy_shim::external::place(&exec_root, &id).exists() {
            return;
        }
        let plan = crate::plan::cgroup(&self.record, settings);
        let taken = tokio::task::spawn_blocking(move || {
            if let Ok(Some(cgroup)) = hoy_cgroup::Cgroup::open(&plan) {
                let _ = cgroup.kill(Duration::from_secs(5));
            }
            hoy_shim::external::take_back(&exec_root, &id);
            let _ = hoy_cgroup::remove_everywhere(&plan);
        });
        let _ = taken.await;
    }

    fn end_supervisor(&self) -> Result<()> {
        let shim = self.shim.as_ref();
        let shim = shim.ok_or_else(|| Error::conflict("the container's supervisor is gone"))?;
        hoy_sys::process::pidfd_signal(shim.get_ref().as_fd(), hoy_types::Signal::KILL.number())
            .map_err(failed("end the container's supervisor"))
    }

    /// What the daemon before has known of a container that has no supervisor may be old: the
    /// container's end is told by its exit record.
    async fn settle(&mut self) {
        self.take_back_external().await;
        if matches!(self.record.state.phase, Phase::Running | Phase::Paused | Phase::Starting) {
            self.lost().await;
        } else if let Some(exit) = ExitRecord::read(&self.directory())
            && exit.finished_at > self.record.state.finished_at.nanos()
        {
            self.record.state.phase = Phase::Running;
            self.exited(&exit).await;
        } else {
            if self.record.state.phase == Phase::Restarting {
                // Its policy is asked again once everything is taken up.
                self.record.state.phase = Phase::Exited;
            }
            if !self.release_network().await.is_empty() {
                self.save_later();
            }
            self.tell_missed_death();
        }
        if self.record.host.auto_remove && self.record.state.phase == Phase::Exited {
            self.inner.remove_later(&self.record.id);
        }
        self.publish();
    }

    /// A daemon may have been killed between the end of a container and its word of that.
    fn tell_missed_death(&self) {
        let state = &self.record.state;
        if state.phase == Phase::Exited
            && self.inner.journal.has_missed(self.id(), state.finished_at)
        {
            let lasted = (state.finished_at.nanos() - state.started_at.nanos()).max(0);
            self.tell_death(state.exit_code, lasted);
        }
    }

    fn tell_death(&self, code: i32, lasted: i64) {
        let lasted = lasted / 1_000_000_000;
        let die = [("exitCode", code.to_string()), ("execDuration", lasted.to_string())];
        self.event("die", &die);
    }

    /// There is no supervisor: either the container has ended and its record says how, or what is
    /// left of it is ended now.
    async fn lost(&mut self) {
        let directory = self.directory();
        if let Some(exit) = ExitRecord::read(&directory) {
            return self.exited(&exit).await;
        }
        let plan = crate::plan::cgroup(&self.record, &self.inner.settings);
        let killed = tokio::task::spawn_blocking(move || match hoy_cgroup::Cgroup::open(&plan) {
            Ok(Some(cgroup)) => {
                let killed = cgroup.kill(Duration::from_secs(10)).is_ok();
                cgroup.remove();
                (killed, true)
            }
            _ => (true, false),
        });
        let (killed, found) = killed.await.unwrap_or((false, true));
        if !killed {
            tracing::error!(container = self.id(), "processes without a supervisor do not end");
        }
        // The machine was started anew where not even its cgroup is there: Docker's code for that.
        let code = if self.settling && !found {
            255
        } else {
            self.record.state.error = "supervisor lost".to_owned();
            137
        };
        // A daemon before this one may have noticed it, and ended before that was written down.
        let known = self.inner.journal.death_since(self.id(), self.record.state.started_at);
        let finished_at = known.unwrap_or_else(crate::engine::now);
        let exit = ExitRecord {
            code,
            oom_killed: false,
            pid: self.record.state.pid,
            started_at: self.record.state.started_at.nanos(),
            finished_at: finished_at.nanos(),
        };
        self.exited(&exit).await;
    }

    /// Takes up a container whose supervisor runs on.
    async fn adopt(&mut self, connection: Connection) {
        let status = async {
            self.meet(connection).await?;
            let answer = self.call(Request::Status, &[]).await?;
            self.answer(answer, ANSWER).await
        };
        match status.await {
            Ok(Reply::Status(Status::Running { pid, started_at, paused, .. })) => {
                self.record.state.phase = if paused { Phase::Paused } else { Phase::Running };
                self.record.state.pid = pid;
                self.record.state.started_at = Timestamp::from_nanos(started_at);
                if let Err(error) = self.take_up_names().await {
                    tracing::error!(container = self.record.id.short(), %error, "take up names");
                }
                self.take_up_health().await;
                self.publish();
                self.save_later();
            }
            Ok(Reply::Status(Status::Exited(exit))) => {
                self.record.state.phase = Phase::Running;
                self.exited(&exit).await;
            }
            Ok(_) => {
                // It was never told to start anything.
                if self.link.is_some() {
                    let _ = self.call(Request::Release, &[]).await;
                }
            }
            Err(error) => {
                // One that was about to end when it was found.
                let exec_root = self.inner.settings.exec_root.clone();
                let id = self.id().to_owned();
                let again =
                    tokio::task::spawn_blocking(move || hoy_shim::client::find(&exec_root, &id));
                if matches!(again.await, Ok(Ok(None))) {
                    (self.link, self.shim) = (None, None);
                    return self.settle().await;
                }
                tracing::error!(container = self.id(), %error, "adopt");
            }
        }
    }

    /// The rules outlive the daemon as long as their owner does.
    async fn keep_rules(&mut self) -> Result<()> {
        let owner = self.inner.network.owner_of_the_rules().map_err(network_error)?;
        drop(self.call(Request::Keep { name: KEPT_RULES.into() }, &[owner]).await?);
        Ok(())
    }

    /// Names are answered before anything of the container runs; the supervisor keeps the sockets
    /// for the daemon to come.
    async fn serve_names(&mut self, sockets: DnsSockets, netns: OwnedFd) -> Result<()> {
        let copy = |socket: &OwnedFd| {
            socket.try_clone().map_err(failed("keep the sockets of the name server"))
        };
        let kept = [copy(&sockets.udp)?, copy(&sockets.tcp)?];
        drop(self.call(Request::Keep { name: KEPT_DNS.into() }, &kept).await?);
        self.inner.tell_names(&self.record);
        self.inner.serve_names(&self.record, sockets, netns);
        Ok(())
    }

    /// Goes on answering names where the daemon before has ended.
    async fn take_up_names(&mut self) -> Result<()> {
        if !self.inner.has_names(&self.record) {
            return Ok(());
        }
        if !self.keeps {
            return Err(Error::system(
                "its supervisor is too old to keep the name server's sockets",
            ));
        }
        let link = self.link.as_mut();
        let link = link.ok_or_else(|| Error::conflict("the container's supervisor is gone"))?;
        let answer = link.call_for_descriptors(Request::Kept { name: KEPT_DNS.into() }).await;
        let answer = answer.map_err(failed("talk to the container's supervisor"))?;
        let (_, sockets) = self.answer(answer, ANSWER).await?;
        let Ok([udp, tcp]) = <[OwnedFd; 2]>::try_from(sockets) else {
            return Ok(());
        };
        let netns = namespace_of(&self.record)?;
        self.inner.serve_names(&self.record, DnsSockets { udp, tcp }, netns);
        Ok(())
    }

    /// The first words with a supervisor, and a hold on its process.
    async fn meet(&mut self, connection: Connection) -> Result<()> {
        let link = ShimLink::new(connection).map_err(failed("talk to the supervisor"))?;
        self.link = Some(link);
        let hello = Request::Hello { version: hoy_shim::message::VERSION };
        let answer = self.call(hello, &[]).await?;
        let Reply::Hello { pid, version, .. } = self.answer(answer, ANSWER).await? else {
            return Err(Error::system("the supervisor does not say who it is"));
        };
        self.keeps = version >= hoy_shim::message::KEEPS_SINCE;
        self.probes = version >= hoy_shim::message::PROBES_SINCE;
        let pid = rustix::process::Pid::from_raw(pid);
        let pid = pid.ok_or_else(|| Error::system("the supervisor has no process id"))?;
        let flags = rustix::process::PidfdFlags::empty();
        let pidfd = rustix::process::pidfd_open(pid, flags)
            .map_err(|errno| failed("hold the supervisor")(std::io::Error::from(errno)))?;
        self.shim = Some(crate::shim_link::watch(pidfd).map_err(failed("watch the supervisor"))?);
        Ok(())
    }

    async fn start(&mut self) -> Result<()> {
        self.admit(Wish::Start)?;
        self.wait_for_shim().await?;
        self.keep_at_end = false;
        let memory = self.record.restart;
        self.record.restart.begun();
        let started = self.start_now().await;
        if started.is_err() {
            self.record.restart = memory;
            self.publish();
            self.save_later();
        }
        started
    }

    async fn start_now(&mut self) -> Result<()> {
        let _tree = self.files_for_itself().await?;
        let before = self.record.state.clone();
        // As with Docker, one that comes back is restarting until it runs.
        if before.phase != Phase::Restarting {
            self.record.state.phase = Phase::Starting;
        }
        self.record.state.error.clear();
        self.publish();
        match self.try_start().await {
            Ok(()) => Ok(()),
            Err((error, code)) => {
                self.release_network().await;
                if self.link.is_some() {
                    let _ = self.call(Request::Release, &[]).await;
                }
                self.detach_volumes().await;
                self.waiting.clear();
                let phase = match before.phase {
                    Phase::Restarting => Phase::Exited,
                    other => other,
                };
                self.record.state =
                    State { exit_code: code, error: error.to_string(), phase, ..before };
                self.last_code = code;
                self.exits += u64::from(before.phase == Phase::Restarting);
                self.starts += 1;
                self.publish();
                self.save_later();
                Err(error)
            }
        }
    }

    /// Whoever copies has let go of its files.
    async fn files_for_itself(&self) -> Result<tokio::sync::OwnedRwLockWriteGuard<()>> {
        let turn = tokio::time::timeout(COPIED, Arc::clone(&self.tree).write_owned()).await;
        turn.map_err(|_| {
            Error::conflict(format!(
                "the files of container {} are in use by a copy, export or commit that goes on",
                self.record.id
            ))
        })
    }

    /// The supervisor of the run before must have let go of the root file system.
    async fn wait_for_shim(&mut self) -> Result<()> {
        if let Some(shim) = &self.shim {
            let gone = tokio::time::timeout(Duration::from_secs(30), shim.readable()).await;
            gone.map_err(|_| {
                Error::conflict("what is left of the run before has not been cleaned up yet")
            })?
            .map(drop)
            .map_err(failed("wait for the supervisor"))?;
            self.shim_gone().await;
        }
        Ok(())
    }

    async fn try_start(&mut self) -> std::result::Result<(), (Error, i32)> {
        let other = |error: Error| (error, 128);
        let inner = Arc::clone(&self.inner);
        attachments::resolve(&inner.networks, &mut self.record)
            .map_err(|error| other(set_up(error)))?;
        let record = self.record.clone();
        let others = inner.others(&record).map_err(other)?;
        let network = tokio::task::spawn_blocking({
            let inner = Arc::clone(&inner);
            move || inner.make_sandbox(&record)
        });
        let id = self.id().to_owned();
        let shim = tokio::task::spawn_blocking({
            let inner = Arc::clone(&inner);
            move || {
                hoy_shim::client::spawn(&inner.shim, &inner.settings.exec_root, &id)
                    .map_err(failed("start the container's supervisor"))
            }
        });
        let (network, shim) = tokio::join!(network, shim);
        let network = network.map_err(lost).and_then(|result| result);
        let mut descriptors = Vec::new();
        let mut names = None;
        match network.map_err(other)? {
            Sandbox::Host => {}
            Sandbox::Joined(netns, userns) => {
                descriptors.push(netns);
                descriptors.extend(userns);
            }
            Sandbox::Made(ticket) => {
                self.record.network.endpoints = ticket.endpoints;
                if let Some(sockets) = ticket.dns {
                    let own = ticket.netns.try_clone().map_err(failed("keep the network"));
                    names = Some((sockets, own.map_err(other)?));
                }
                descriptors.push(ticket.netns);
                descriptors.extend(ticket.userns);
            }
        }
        descriptors.extend(others.into_descriptors());
        let connection = shim.map_err(lost).and_then(|result| result).map_err(other)?;
        self.meet(connection).await.map_err(other)?;
        if !self.record.network.endpoints.is_empty() {
            self.keep_rules().await.map_err(other)?;
        }
        if let Some((sockets, netns)) = names {
            self.serve_names(sockets, netns).await.map_err(other)?;
        }
        for (request, client) in std::mem::take(&mut self.waiting) {
            drop(self.call(Request::Attach(request), &[client]).await.map_err(other)?);
        }
        let directory = self.directory();
        ExitRecord::clear(&directory);
        let volumes = self.attach_volumes().await.map_err(other)?;
        let (plan, ticket, labels) = inner.container_plan(&self.record, &volumes).map_err(other)?;
        self.record.labels = labels;
        let log =
            crate::logging::plan(&self.record, inner.log_path(&self.record)).map_err(other)?;
        let request = StartRequest {
            plan,
            log,
            state_dir: directory,
            open_stdin: self.record.config.open_stdin,
            stdin_once: self.record.config.stdin_once,
            health: inner.health_plan(&self.record).map_err(other)?,
        };
        let probed = request.health.is_some();
        let answer = self.call(Request::Start(Box::new(request)), &descriptors).await;
        let reply = match answer {
            Ok(answer) => self.answer(answer, START).await,
            Err(error) => Err(error),
        };
        drop((descriptors, ticket));
        match reply.map_err(other)? {
            Reply::Started { pid, started_at } => {
                // It may have ended already: the event is handled after this.
                self.record.state = State {
                    phase: Phase::Running,
                    pid,
                    started_at: Timestamp::from_nanos(started_at),
                    // As Docker does, the end of the run before is told during this one.
                    finished_at: self.record.state.finished_at,
                    ..State::default()
                };
                self.starts += 1;
                self.health_begun(probed);
                self.publish();
                self.save_later();
                let network = &self.record.network;
                let networks = inner.documents_of_running(&network.mode, &network.endpoints);
                self.network_events("connect", &networks);
                if !networks.is_empty() {
                    inner.tell_barriers();
                }
                inner.volume_events("mount", &self.record);
                self.event("start", &[]);
                Ok(())
            }
            Reply::Failed(failure) => {
                Err(start_error(&failure, crate::plan::is_external(&self.record)))
            }
            _ => Err(other(Error::system("the supervisor gave a wrong answer"))),
        }
    }

    async fn pause(&mut self, pause: bool) -> Result<()> {
        self.admit(if pause { Wish::Pause } else { Wish::Resume })?;
        let request = if pause { Request::Pause } else { Request::Resume };
        let answer = self.call(request, &[]).await?;
        let reply = self.answer(answer, ANSWER).await?;
        done(reply)?;
        if self.record.state.phase.is_alive() {
            self.record.state.phase = if pause { Phase::Paused } else { Phase::Running };
        }
        if pause {
            self.health_ended();
        }
        self.publish();
        self.save_later();
        self.event(if pause { "pause" } else { "unpause" }, &[]);
        Ok(())
    }

    async fn attach(&mut self, request: AttachRequest, client: OwnedFd, done: Done<()>) {
        let admitted = self.admit(Wish::Attach);
        if admitted.is_ok() && !self.record.state.phase.is_alive() {
            // Before the start, so that no output is missed.
            self.waiting.retain(|(_, client)| still_there(client));
            let full = self.waiting.len() >= MAX_WAITING;
            let result = if full {
                Err(Error::conflict("too many clients wait for this container to start"))
            } else {
                self.waiting.push((request, client));
                self.event("attach", &[]);
                Ok(())
            };
            let _ = done.send(result);
            return;
        }
        if admitted.is_ok() {
            self.event("attach", &[]);
        }
        self.forward(admitted, Request::Attach(request), vec![client], done).await;
    }

    async fn exec(
        &mut self,
        request: ExecRequest,
        client: Option<OwnedFd>,
        done: Done<std::result::Result<i32, Failure>>,
    ) {
        let descriptors: Vec<OwnedFd> = client.into_iter().collect();
        let answer = match self.admit(Wish::Exec) {
            Ok(()) => self.call(Request::Exec(Box::new(request)), &descriptors).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) => {
                tokio::spawn(async move {
                    let result = match wait(answer, START).await {
                        Ok(Reply::Started { pid, .. }) => Ok(Ok(pid)),
                        Ok(Reply::Failed(failure)) => Ok(Err(failure)),
                        Ok(_) => Err(Error::system("the supervisor gave a wrong answer")),
                        Err(error) => Err(error),
                    };
                    let _ = done.send(result);
                });
            }
            Err(error) => drop(done.send(Err(error))),
        }
    }

    async fn rename(&mut self, name: String) -> Result<()> {
        self.admit(Wish::Rename)?;
        self.inner.registry.reserve(&name, &self.record.id)?;
        let old = std::mem::replace(&mut self.record.name, name);
        if let Err(error) = self.inner.save(&self.record).await {
            let new = std::mem::replace(&mut self.record.name, old);
            self.inner.registry.release(&new, &self.record.id);
            return Err(error);
        }
        self.inner.registry.release(&old, &self.record.id);
        self.inner.tell_names(&self.record);
        self.publish();
        self.event("rename", &[("oldName", format!("/{old}"))]);
        Ok(())
    }

    /// Decided here, from what is true now: of two updates at once neither undoes the other.
    async fn update(&mut self, asked: &HostConfig) -> Result<()> {
        let phase = self.record.state.phase;
        if phase == Phase::Removing {
            return Err(Error::conflict(
                "Container is marked for removal and cannot be \"update\".",
            ));
        }
        let mut host = limits::updated(&self.record.host, asked)?;
        // What is there and what comes may contradict each other.
        limits::verify(&mut host, self.inner.support()?, cpus(), true)?;
        let limits = self.inner.limits(&host)?;
        if phase.is_alive() {
            self.limit(limits).await?;
        }
        let before = std::mem::replace(&mut self.record.host, host);
        if let Err(error) = self.inner.save(&self.record).await {
            self.record.host = before;
            if let (true, Ok(old)) = (phase.is_alive(), self.inner.limits(&self.record.host)) {
                let _ = self.limit(old).await;
            }
            return Err(error);
        }
        self.publish();
        self.event("update", &[]);
        Ok(())
    }

    async fn grow(&mut self, size: String) -> Result<()> {
        let phase = self.record.state.phase;
        if phase == Phase::Removing {
            return Err(Error::conflict(
                "Container is marked for removal and cannot be \"update\".",
            ));
        }
        if !phase.is_alive() {
            // Nobody has it then.
            self.wait_for_shim().await?;
        }
        let mut record = self.record.clone();
        crate::room::grown(&mut record.host, size)?;
        let host = record.host.clone();
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || inner.grow_layer(&record)).await.map_err(lost)??;
        self.record.host = host;
        self.inner.save(&self.record).await?;
        self.publish();
        self.event("update", &[]);
        Ok(())
    }

    /// All or nothing: what the kernel refuses leaves the limits as they were.
    async fn limit(&mut self, limits: Limits) -> Result<()> {
        let answer = self.call(Request::Update(Box::new(limits)), &[]).await?;
        let result = done(self.answer(answer, ANSWER).await?);
        if result.is_err()
            && let Ok(old) = self.inner.limits(&self.record.host)
            && let Ok(answer) = self.call(Request::Update(Box::new(old)), &[]).await
        {
            let _ = self.answer(answer, ANSWER).await;
        }
        result
    }

    async fn connect(&mut self, network: &Arc<Document>, asked: &EndpointSettings) -> Result<()> {
        let settings = attachments::wanted(asked);
        let name = self.record.name.clone();
        attachments::may_connect(&self.record, network)?;
        attachments::check(&settings, network)?;
        if self.record.state.phase == Phase::Removing {
            return Err(Error::conflict(
                "Container is marked for removal and cannot be connected or disconnected to the \
                 network",
            ));
        }
        let before = self.record.network.clone();
        let one = Attachment { network: network.id.clone(), name: network.name.clone(), settings };
        if self.record.state.phase.is_alive() {
            let spec = attachments::endpoint(&one)?;
            self.record.network.attachments.push(one);
            // First the wish, with its aliases and addresses: a daemon that finds the endpoint
            // must know what it is for, and one that finds none forgets the wish.
            if let Err(error) = self.inner.save(&self.record).await {
                self.record.network = before;
                return Err(error);
            }
            let inner = Arc::clone(&self.inner);
            let record = self.record.clone();
            let done = tokio::task::spawn_blocking(move || inner.plug(&record, &name, &spec));
            match done.await.map_err(lost).and_then(|done| done) {
                Ok(endpoints) => self.record.network.endpoints = endpoints,
                Err(error) => {
                    self.record.network = before;
                    if let Err(error) = self.inner.save(&self.record).await {
                        tracing::error!(container = self.record.id.short(), %error, "connect");
                    }
                    return Err(error);
                }
            }
            self.networks_changed().await;
        } else {
            self.record.network.attachments.push(one);
        }
        self.networks_written(before).await?;
        self.network_events("connect", std::slice::from_ref(network));
        Ok(())
    }

    async fn disconnect(&mut self, network: &Arc<Document>, force: bool) -> Result<()> {
        attachments::may_disconnect(&self.record, network)?;
        let before = self.record.network.clone();
        self.record.network.attachments.retain(|one| one.network != network.id);
        if self.record.network.mode == NetworkMode::None {
            // It has a namespace of its own, in which interfaces may come.
            self.record.network.mode = NetworkMode::Networks;
        } else if self.record.state.phase.is_alive() {
            let inner = Arc::clone(&self.inner);
            let record = self.record.clone();
            let id = network.id.clone();
            let done = tokio::task::spawn_blocking(move || inner.unplug(&record, &id, force));
            match done.await.map_err(lost).and_then(|done| done) {
                Ok(endpoints) => self.record.network.endpoints = endpoints,
                Err(error) => {
                    self.record.network = before;
                    return Err(error);
                }
            }
            self.networks_changed().await;
        }
        self.networks_written(before).await?;
        self.network_events("disconnect", std::slice::from_ref(network));
        Ok(())
    }

    /// What a running container and its neighbours know of its networks is told anew.
    async fn networks_changed(&mut self) {
        let inner = Arc::clone(&self.inner);
        let record = self.record.clone();
        let told = tokio::task::spawn_blocking(move || inner.networks_changed(&record));
        let sockets = match told.await.map_err(lost).and_then(|told| told) {
            Ok(sockets) => sockets,
            Err(error) => {
                tracing::error!(container = self.record.id.short(), %error, "tell of networks");
                return;
            }
        };
        if let Some((sockets, netns)) = sockets
            && let Err(error) = self.serve_names(sockets, netns).await
        {
            tracing::error!(container = self.record.id.short(), %error, "serve names");
        }
    }

    /// The kernel's state is what it is: where it cannot be written down, the next daemon finds it
    /// by what was noted.
    async fn networks_written(&mut self, before: NetworkRecord) -> Result<()> {
        if let Err(error) = self.inner.save(&self.record).await {
            if !self.record.state.phase.is_alive() {
                self.record.network = before;
            }
            self.publish();
            return Err(error);
        }
        self.publish();
        Ok(())
    }

    async fn remove(&mut self, force: bool, volumes: bool) -> Result<()> {
        self.admit(Wish::Remove { force })?;
        // Whoever forces has it killed first; what still lives here does not die.
        self.admit(Wish::Remove { force: false })?;
        let before = self.record.state.phase;
        self.record.state.phase = Phase::Removing;
        self.publish();
        let removed = async {
            self.wait_for_shim().await?;
            let _tree = self.files_for_itself().await?;
            self.inner.forget(&self.record).await
        };
        if let Err(error) = removed.await {
            self.record.state.phase = before;
            self.publish();
            return Err(error);
        }
        self.waiting.clear();
        if !self.record.mounts.is_empty() {
            let inner = Arc::clone(&self.inner);
            let (id, mounts) = (self.record.key().to_owned(), self.record.mounts.clone());
            let released =
                tokio::task::spawn_blocking(move || inner.release_volumes(&id, &mounts, volumes));
            let _ = released.await;
        }
        self.inner.registry.remove(&self.record.id, &self.record.name);
        self.event("destroy", &[]);
        self.view.send_modify(|view| view.removed = true);
        Ok(())
    }
}

/// Whether a client's connection is still open.
fn still_there(client: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(client, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok()
        && !fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

async fn wait(answer: Answer, deadline: Duration) -> Result<Reply> {
    tokio::time::timeout(deadline, answer)
        .await
        .map_err(|_| Error::system("the container's supervisor does not answer"))?
        .map_err(|_| Error::conflict("the container's supervisor is gone"))
}

async fn plain(answer: Answer) -> Result<()> {
    done(wait(answer, ANSWER).await?)
}

fn done(reply: Reply) -> Result<()> {
    match reply {
        Reply::Done => Ok(()),
        Reply::Failed(failure) => Err(match failure.reason {
            hoy_runtime::FailureReason::State => Error::conflict(failure.message),
            _ => Error::system(failure.message),
        }),
        _ => Err(Error::system("the supervisor gave a wrong answer")),
    }
}

/// Docker's words, status and exit code for a start that failed.
fn start_error(failure: &Failure, external: bool) -> (Error, i32) {
    use hoy_runtime::FailureReason as Reason;
    // Another runtime names itself.
    let runtime = if external { "" } else { "OCI runtime create failed: runc create failed: " };
    let message = format!(
        "failed to create task for container: failed to create shim task: {runtime}{}",
        failure.message
    );
    match failure.reason {
        Reason::NotFound => (Error::invalid(message), 127),
        Reason::NotExecutable => (Error::invalid(message), 126),
        Reason::Invalid => (Error::invalid(failure.message.clone()), 128),
        Reason::State => (Error::conflict(message), 128),
        Reason::System => (Error::system(message), 128),
    }
}
