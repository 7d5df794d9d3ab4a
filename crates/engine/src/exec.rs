//! Further processes in a running container.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hoy_runtime::{ExecPlan, FailureReason};
use hoy_shim::message::{AttachRequest, ExecRequest, Failure};
use hoy_types::ContainerId;
use hoy_wire as wire;

use crate::driver::Command;
use crate::engine::{Engine, Inner, new_id};
use crate::error::{Error, Result};
use crate::life::{Phase, Wish};
use crate::registry::Handle;
use crate::streams::{HijackedConn, write_text};
use crate::{detach, plan};

/// Sessions that are remembered; those that ended first make room.
const KEPT: usize = 4096;
/// How long one that has ended is remembered, as with Docker.
const REMEMBERED: Duration = Duration::from_secs(300);
/// How long a resize waits for its session to start.
const STARTING: Duration = Duration::from_secs(10);
/// How often it is looked whether one has started.
const LOOK: Duration = Duration::from_millis(20);
/// How long an inspect may wait to hear what was said already.
const HEAR: Duration = Duration::from_secs(1);

/// What is known of a session.
#[derive(Clone, Debug)]
pub(crate) struct ExecState {
    container: ContainerId,
    config: wire::ExecConfig,
    pid: i32,
    running: bool,
    started: bool,
    code: Option<i32>,
    ended: Option<Instant>,
}

/// A session that is about to start.
pub struct ExecSession {
    engine: Engine,
    handle: Handle,
    id: String,
    config: wire::ExecConfig,
    console_size: Option<[u32; 2]>,
    /// It ends with its client.
    ends_with_client: bool,
    /// The client wants no frames.
    pub tty: bool,
}

fn execs(inner: &Inner) -> std::sync::MutexGuard<'_, HashMap<String, ExecState>> {
    inner.execs.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Inner {
    pub(crate) fn exec_ended(&self, id: &str, code: i32) {
        if let Some(state) = execs(self).get_mut(id) {
            state.running = false;
            state.code = Some(code);
            state.ended = Some(Instant::now());
        }
    }

    /// Nobody asks for the sessions of a container that is gone.
    pub(crate) fn execs_of_removed(&self, container: &ContainerId) {
        execs(self).retain(|_, state| state.container != *container);
    }

    /// A container's sessions end with it.
    pub(crate) fn execs_of_ended(&self, container: &ContainerId) {
        for state in execs(self).values_mut().filter(|state| state.container == *container) {
            if state.running {
                state.running = false;
                state.code.get_or_insert(137);
                state.ended = Some(Instant::now());
            }
        }
    }

    pub(crate) fn exec_ids(&self, container: &ContainerId) -> Vec<String> {
        let all = execs(self);
        let of =
            all.iter().filter(|(_, state)| state.container == *container && state.ended.is_none());
        of.map(|(id, _)| id.clone()).collect()
    }
}

/// A command as Docker's events have it: with a space behind the first word, also where it is
/// alone.
fn told(command: Option<&[String]>) -> String {
    match command.and_then(<[String]>::split_first) {
        Some((program, arguments)) => format!("{program} {}", arguments.join(" ")),
        None => String::new(),
    }
}

impl Engine {
    pub fn exec_create(&self, container: &str, config: wire::ExecConfig) -> Result<String> {
        let handle = self.find(container)?;
        admit(&handle, container)?;
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            return Err(Error::invalid("No exec command specified"));
        }
        detach::parse(Some(&config.detach_keys)).map_err(|_| {
            Error::system(format!("Invalid escape keys ({}) provided", config.detach_keys))
        })?;
        let id = new_id()?.to_string();
        let command = told(config.cmd.as_deref());
        let state = ExecState {
            container: handle.id.clone(),
            config,
            pid: 0,
            running: false,
            started: false,
            code: None,
            ended: None,
        };
        let mut all = execs(&self.inner);
        make_room(&mut all)?;
        all.insert(id.clone(), state);
        drop(all);
        let action = format!("exec_create: {command}");
        self.inner.container_event(&handle.record(), &action, &[("execID", id.clone())]);
        Ok(id)
    }

    /// All errors that can be known before the stream begins.
    pub fn exec_begin(
        &self,
        id: &str,
        start: &wire::ExecStart,
        ends_with_client: bool,
    ) -> Result<ExecSession> {
        let mut all = execs(&self.inner);
        let state = all.get_mut(id).ok_or_else(|| missing(id))?;
        let handle = self.find(state.container.as_str()).map_err(|_| missing(id))?;
        if state.ended.is_some() {
            let text = format!("Error: Exec command {id} has already run");
            return Err(Error::conflict(text));
        }
        if state.started {
            let text = format!("Error: Exec command {id} is already running");
            return Err(Error::conflict(text));
        }
        admit(&handle, handle.id.as_str())?;
        state.started = true;
        Ok(ExecSession {
            engine: self.clone(),
            handle,
            id: id.to_owned(),
            tty: start.tty,
            config: state.config.clone(),
            // What is no terminal has no size.
            console_size: start.console_size.filter(|_| start.tty),
            ends_with_client,
        })
    }

    pub async fn exec_resize(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        let asked = Instant::now();
        let container = loop {
            let state = execs(&self.inner).get(id).cloned().ok_or_else(|| missing(id))?;
            if state.ended.is_some() {
                return Err(Error::not_found("no such exec"));
            }
            if state.pid != 0 && !state.config.tty {
                // As Docker: a size that nothing has is no error.
                return Ok(());
            }
            if state.pid != 0 {
                break state.container;
            }
            if asked.elapsed() >= STARTING {
                return Err(Error::system("timeout waiting for exec session ready"));
            }
            tokio::time::sleep(LOOK).await;
        };
        let exec = Some(id.to_owned());
        let handle = self.find(container.as_str()).map_err(|_| missing(id))?;
        handle.ask(|done| Command::Resize { exec, rows, columns, done }).await
    }

    pub async fn exec_inspect(&self, id: &str) -> Result<wire::ExecInspect> {
        let of = execs(&self.inner).get(id).filter(|s| s.running).map(|s| s.container.clone());
        if let Some(handle) = of.and_then(|of| self.find(of.as_str()).ok()) {
            // Whoever has seen the end of the stream asks for the code: it was told before.
            let _ = tokio::time::timeout(HEAR, handle.ask(Command::Hear)).await;
        }
        let all = execs(&self.inner);
        let state = all.get(id).ok_or_else(|| missing(id))?;
        let config = &state.config;
        let words = config.cmd.clone().unwrap_or_default();
        let keys = match config.detach_keys.as_str() {
            "" => Vec::new(),
            text => detach::parse(Some(text)).unwrap_or_default(),
        };
        Ok(wire::ExecInspect {
            id: id.to_owned(),
            running: state.running,
            exit_code: state.code.map(i64::from),
            process_config: Some(wire::ExecProcess {
                tty: config.tty,
                entrypoint: words.first().cloned().unwrap_or_default(),
                arguments: Some(words.get(1..).unwrap_or_default().to_vec()),
                privileged: Some(config.privileged),
                user: config.user.clone(),
            }),
            open_stdin: config.attach_stdin,
            open_stderr: config.attach_stderr,
            open_stdout: config.attach_stdout,
            can_remove: state.ended.is_some_and(|ended| ended.elapsed() >= REMEMBERED),
            container_id: state.container.to_string(),
            detach_keys: Some(crate::encoding::base64(&keys)),
            pid: state.pid.into(),
        })
    }
}

impl ExecSession {
    /// With nobody attached.
    pub async fn run_detached(self) -> Result<()> {
        match self.start(None).await? {
            Ok(()) => Ok(()),
            Err((text, _)) => Err(Error::invalid(text)),
        }
    }

    /// With the client's connection, whose head is written.
    pub async fn run(self, conn: HijackedConn) {
        let framed = !self.tty;
        let copy = conn.fd.try_clone();
        let outcome = self.start(Some(conn)).await;
        let text = match outcome {
            Ok(Ok(())) => return,
            Ok(Err((text, _))) => text,
            Err(error) => error.to_string(),
        };
        // Too late for a status: the text goes where the output would have gone.
        if let Ok(fd) = copy {
            write_text(fd, &format!("{text}\r\n"), framed).await;
        }
    }

    async fn start(
        self,
        conn: Option<HijackedConn>,
    ) -> Result<std::result::Result<(), (String, i32)>> {
        let inner = &self.engine.inner;
        let record = self.handle.record();
        let filter = |host: &_, capabilities| inner.filters.filter(host, capabilities);
        // It may have been unloaded since the start.
        let profile = inner.lsm.profile(&record.host);
        let planned = profile.and_then(|_| {
            plan::exec(&record, &self.config, self.console_size, &inner.settings, &filter)
        });
        // Who asks for its code hears that there was no success.
        let process = planned.inspect_err(|_| inner.exec_ended(&self.id, 126))?;
        // As the first process was told; of what has stopped since, nothing.
        let links = inner.links_of_the_bridge(&record).unwrap_or_default();
        let mut process =
            plan::with_links(process, links.into_iter().flat_map(|link| link.environment));
        // The same of devices that have a name.
        let devices = crate::cdi::edits(&record.host, &inner.settings).unwrap_or_default();
        process.additional_groups.extend(devices.groups);
        let said = devices.environment.iter().filter_map(|entry| entry.split_once('='));
        let said = said.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let process = plan::with_links(process, said);
        let mut client: Option<OwnedFd> = None;
        let attach = conn.map(|conn| {
            client = Some(conn.fd);
            AttachRequest {
                stdin: self.config.attach_stdin,
                stdout: self.config.attach_stdout,
                stderr: self.config.attach_stderr,
                early: conn.early,
                framed: !self.tty,
                detach_keys: detach::parse(Some(&self.config.detach_keys)).unwrap_or_default(),
            }
        });
        let command = told(self.config.cmd.as_deref());
        if let Some(state) = execs(inner).get_mut(&self.id) {
            state.running = true;
        }
        let request = ExecRequest {
            id: self.id.clone(),
            plan: ExecPlan { process },
            attach,
            ends_with_client: self.ends_with_client,
        };
        let request = Box::new(request);
        // Before its end can be told.
        let action = format!("exec_start: {command}");
        inner.container_event(&record, &action, &[("execID", self.id.clone())]);
        let result = self.handle.ask(|done| Command::Exec { request, client, done }).await;
        match result {
            Ok(Ok(pid)) => {
                if let Some(state) = execs(inner).get_mut(&self.id) {
                    state.pid = pid;
                }
                Ok(Ok(()))
            }
            Ok(Err(failure)) => {
                let code = code(&failure);
                inner.exec_ended(&self.id, code);
                // Another runtime names itself.
                // Whom it is to run as, Docker finds out without its runtime.
                let own = failure.message.starts_with("unable to find ");
                let text = match own || plan::is_external(&record) {
                    true => failure.message,
                    false => format!("OCI runtime exec failed: exec failed: {}", failure.message),
                };
                Ok(Err((text, code)))
            }
            Err(error) => {
                inner.exec_ended(&self.id, 126);
                Err(error)
            }
        }
    }
}

fn missing(id: &str) -> Error {
    Error::not_found(format!("No such exec instance: {id}"))
}

/// Whether the container takes further processes now. `name` is what messages call it.
fn admit(handle: &Handle, name: &str) -> Result<()> {
    let phase = handle.record().state.phase;
    if phase == Phase::Paused {
        let text = format!("Container {name} is paused, unpause the container before exec");
        return Err(Error::conflict(text));
    }
    phase
        .admits(Wish::Exec, handle.id.as_str())
        .map_err(|(kind, message)| Error::new(kind, message))
}

/// Forgets sessions that ended long ago, and where there are too many, those that ended first.
fn make_room(all: &mut HashMap<String, ExecState>) -> Result<()> {
    let old = |state: &ExecState| state.ended.is_some_and(|ended| ended.elapsed() >= REMEMBERED);
    all.retain(|_, state| !old(state));
    while all.len() >= KEPT {
        let first = all.iter().filter_map(|(id, state)| Some((state.ended?, id))).min();
        let Some((_, id)) = first else {
            return Err(Error::conflict("too many exec sessions"));
        };
        let id = id.clone();
        all.remove(&id);
    }
    all.shrink_to(64);
    Ok(())
}

fn code(failure: &Failure) -> i32 {
    match failure.reason {
        FailureReason::NotFound => 127,
        _ => 126,
    }
}
