//! Ends of containers that somebody wants: stop, kill, restart.

use std::time::{Duration, Instant};

use hoy_config::InstantStop;
use hoy_types::{ErrorKind, Signal, SignalError};

use crate::driver::Command;
use crate::engine::Engine;
use crate::error::{Error, Result, lost};
use crate::life::{Phase, Wish};
use crate::registry::Handle;
use crate::{restart, vain};

/// Docker's time between a stop's signal and SIGKILL.
const STOP_TIMEOUT: i64 = 10;
/// How long after SIGKILL a process may take to end before it is said that it does not.
const KILL_GRACE: Duration = Duration::from_secs(10);
/// How long a supervisor may take to pass a signal on before it is ended itself.
const SHIM_GRACE: Duration = Duration::from_secs(3);
/// How long it may take where it is not.
const ANSWER: Duration = Duration::from_secs(10);

/// When it is looked for the second time whether a signal was lost: a program that has just begun
/// may not be ready for it before.
const SECOND_LOOK: Duration = Duration::from_millis(200);
/// Where that look has not told, there is another one after twice that time, up to this.
const LAST_LOOK: Duration = Duration::from_millis(1600);

/// How a stop came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// By the signal, or by SIGKILL when its time was over.
    AsAsked,
    /// Its first process loses this signal: it was killed without waiting.
    InVain(i32),
}

fn parse(signal: &str) -> Result<Signal> {
    signal.parse().map_err(|error: SignalError| Error::invalid(error.to_string()))
}

impl Handle {
    /// Whether the container has ended within a time.
    async fn ended(&self, deadline: Option<Duration>) -> bool {
        let mut view = self.view.clone();
        let ended = view.wait_for(|view| view.removed || !view.record.state.phase.is_up());
        match deadline {
            Some(deadline) => tokio::time::timeout(deadline, ended).await.is_ok(),
            None => ended.await.is_ok(),
        }
    }

    /// A signal to its first process.
    async fn signal(&self, signal: Signal) -> Result<()> {
        let signal = signal.number();
        let sent = self.ask(|done| Command::Signal { signal, all: false, done });
        let late = || Error::system("the container's supervisor does not answer");
        tokio::time::timeout(ANSWER, sent).await.map_err(|_| late())?
    }
}

impl Engine {
    /// A signal, then SIGKILL. Goes on when the client leaves. `hoy`: the client is our own.
    pub async fn stop(
        &self,
        id: &str,
        signal: Option<String>,
        timeout: Option<i64>,
        hoy: bool,
    ) -> Result<Stopped> {
        let handle = self.find(id)?;
        let engine = self.clone();
        let stop = tokio::spawn(async move { engine.stop_it(&handle, signal, timeout, hoy).await });
        stop.await.map_err(lost)?
    }

    async fn stop_it(
        &self,
        handle: &Handle,
        signal: Option<String>,
        timeout: Option<i64>,
        hoy: bool,
    ) -> Result<Stopped> {
        let at_once = match self.inner.settings.instant_stop {
            InstantStop::Hoy => hoy,
            InstantStop::All => true,
            InstantStop::None => false,
        };
        let stopped = stop(handle, signal, timeout, at_once).await?;
        let why: &[(&str, String)] = match stopped {
            Stopped::AsAsked => &[],
            Stopped::InVain(signal) => &[("signalInVain", signal.to_string())],
        };
        self.inner.container_event(&handle.record(), "stop", why);
        Ok(stopped)
    }

    pub async fn restart(
        &self,
        id: &str,
        signal: Option<String>,
        timeout: Option<i64>,
        hoy: bool,
    ) -> Result<()> {
        let handle = self.find(id)?;
        let engine = self.clone();
        let restart = tokio::spawn(async move {
            if handle.record().state.phase.is_up() {
                handle.ask(Command::KeepAtEnd).await?;
            }
            match engine.stop_it(&handle, signal, timeout, hoy).await {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotModified => {}
                Err(error) => return Err(error),
            }
            handle.ask(Command::Start).await?;
            engine.inner.container_event(&handle.record(), "restart", &[]);
            Ok(())
        });
        restart.await.map_err(lost)?
    }

    pub async fn kill(&self, id: &str, signal: &str) -> Result<()> {
        // Docker looks at the signal first.
        let text = signal;
        let signal = parse(if signal.is_empty() { "KILL" } else { signal });
        let signal = signal.map_err(|error| match text.parse::<i64>() {
            Ok(number) if number != 0 => {
                Error::invalid(format!("the linux daemon does not support signal {number}"))
            }
            _ => error,
        })?;
        let handle = self.find(id)?;
        handle.signal(signal).await?;
        let record = handle.record();
        let ends = restart::ends_for_good(&record.config.stop_signal, signal.number());
        if record.state.phase == Phase::Paused && ends {
            // A frozen process takes its signal when it thaws.
            let _ = handle.ask(|done| Command::Pause(false, done)).await;
        }
        if signal == Signal::KILL {
            handle.ended(Some(KILL_GRACE)).await;
        }
        Ok(())
    }
}

pub(crate) async fn kill_for_good(handle: &Handle) -> Result<()> {
    let signal = handle.ask(|done| Command::Signal { signal: 9, all: true, done });
    if tokio::time::timeout(SHIM_GRACE, signal).await.is_err() {
        // It is stopped, or stuck itself. What it supervises ends with it.
        let _ = handle.ask(Command::EndSupervisor).await;
    }
    if handle.record().state.phase == Phase::Paused {
        let _ = handle.ask(|done| Command::Pause(false, done)).await;
    }
    if handle.ended(Some(KILL_GRACE)).await {
        return Ok(());
    }
    let pid = handle.record().state.pid;
    let place = std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    let place = match place.as_str() {
        "" | "0" => String::new(),
        place => format!(" in {place}"),
    };
    Err(Error::system(format!(
        "container {} does not end although it was killed: process {pid} waits in the \
         kernel{place}, perhaps for a file system that does not answer; it is removed by another \
         `rm -f` once that ends",
        handle.id,
    )))
}

async fn stop(
    handle: &Handle,
    signal: Option<String>,
    timeout: Option<i64>,
    at_once: bool,
) -> Result<Stopped> {
    let record = handle.record();
    record
        .state
        .phase
        .admits(Wish::Stop, handle.id.as_str())
        .map_err(|(kind, message)| Error::new(kind, message))?;
    let configured = Some(record.config.stop_signal.clone()).filter(|signal| !signal.is_empty());
    let signal = signal.filter(|signal| !signal.is_empty()).or(configured);
    let signal = parse(signal.as_deref().unwrap_or("TERM"))?;
    // Whoever names a time has it.
    let said = timeout.or(record.config.stop_timeout);
    let timeout = said.unwrap_or(STOP_TIMEOUT);
    let (pid, number) = (record.state.pid, signal.number());
    let look = async || {
        let look = tokio::task::spawn_blocking(move || vain::look(pid, number));
        look.await.unwrap_or(vain::Seen::Heard)
    };
    let may_be_lost = at_once
        && said.is_none()
        && record.state.phase.is_alive()
        && look().await == vain::Seen::Lost;
    // One that has just ended is what is wanted.
    let _ = handle.signal(signal).await;
    if record.state.phase == Phase::Paused {
        let _ = handle.ask(|done| Command::Pause(false, done)).await;
    }
    let begun = Instant::now();
    let mut wait = SECOND_LOOK;
    while may_be_lost && wait <= LAST_LOOK && !handle.ended(Some(wait)).await {
        match look().await {
            vain::Seen::Lost => {
                kill_for_good(handle).await?;
                return Ok(Stopped::InVain(number));
            }
            vain::Seen::Unclear => wait *= 2,
            vain::Seen::Heard => break,
        }
    }
    let deadline = u64::try_from(timeout).ok().map(Duration::from_secs);
    let deadline = deadline.map(|all| all.saturating_sub(begun.elapsed()));
    if !handle.ended(deadline).await {
        kill_for_good(handle).await?;
    }
    Ok(Stopped::AsAsked)
}
