//! Probes of a container's health: when one is run, what it says, what follows from that.
//!
//! A probe is a plain child that enters the container as an exec session does. The supervisor
//! holds timers and state, so that probes go on while there is no daemon; daemons hear results. At
//! most one probe exists at a time, and one that does not end holds up nothing but the next.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

use hoy_runtime::{ExecPlan, StartError, Starting, Stdio};
use hoy_sys::process;
use hoy_types::Timestamp;
use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::descent;
use crate::held::{Further, Held};
use crate::leftovers::Leftovers;
use crate::message::{Event, HealthPlan, HealthState, HealthStatus, ProbeResult};

/// Results that are remembered.
const REMEMBERED: usize = 5;
/// How much of a probe's output is.
const OUTPUT: usize = 4096;
/// How much is read at once.
const CHUNK: usize = 4096;

/// See the module.
#[derive(Debug)]
pub(crate) struct Health {
    plan: HealthPlan,
    started: Instant,
    status: HealthStatus,
    streak: u32,
    log: VecDeque<ProbeResult>,
    /// When the next probe is due; none while one runs, or the container is paused.
    next: Option<Instant>,
    paused: bool,
    probe: Option<Probe>,
}

#[derive(Debug)]
struct Probe {
    id: String,
    process: Process,
    output: Option<OwnedFd>,
    said: Said,
    since: Instant,
    started_at: i64,
    code: Option<i32>,
    /// It is not asked any more: only its end is awaited.
    dismissed: bool,
}

#[derive(Debug)]
enum Process {
    /// It is not its program yet.
    Starting(Box<Starting>),
    Runs {
        pid: i32,
        pidfd: OwnedFd,
    },
    /// It never was.
    None,
}

/// The beginning of what a probe has said.
#[derive(Debug, Default)]
struct Said {
    bytes: Vec<u8>,
    more: bool,
}

impl Said {
    fn add(&mut self, bytes: &[u8]) {
        let room = OUTPUT.saturating_sub(self.bytes.len());
        self.bytes.extend(bytes.iter().take(room));
        self.more |= bytes.len() > room;
    }

    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        if self.more { format!("{text}...") } else { text.into_owned() }
    }
}

/// Which descriptor of a probe poll has looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ProbeSlot {
    Process,
    Output,
}

impl Health {
    /// The container has just been started.
    pub fn new(plan: HealthPlan) -> Self {
        let mut health = Self {
            plan,
            started: Instant::now(),
            status: HealthStatus::Starting,
            streak: 0,
            log: VecDeque::new(),
            next: None,
            paused: false,
            probe: None,
        };
        health.plan_next();
        health
    }

    pub fn state(&self) -> HealthState {
        HealthState {
            status: self.status,
            streak: self.streak,
            log: self.log.iter().cloned().collect(),
        }
    }

    /// Measured from the end of one probe to the start of the next.
    fn plan_next(&mut self) {
        let starting = self.status == HealthStatus::Starting
            && self.started.elapsed() < self.plan.start_period;
        let wait = if starting { self.plan.start_interval } else { self.plan.interval };
        self.next = (!self.paused).then(|| Instant::now() + wait);
    }

    /// When something is to be done although nothing happens.
    pub fn deadline(&self) -> Option<Duration> {
        let at = match &self.probe {
            Some(probe) if probe.dismissed => self.next?,
            Some(probe) => probe.since + self.plan.timeout,
            None => self.next?,
        };
        Some(at.saturating_duration_since(Instant::now()))
    }

    pub fn interests(&self) -> impl Iterator<Item = (ProbeSlot, BorrowedFd<'_>, PollFlags)> {
        let runs = self.probe.as_ref().filter(|probe| probe.code.is_none());
        let output = self.probe.as_ref().and_then(|probe| probe.output.as_ref());
        let runs = runs.and_then(|probe| {
            let fd = match &probe.process {
                Process::Starting(starting) => starting.as_fd(),
                Process::Runs { pidfd, .. } => pidfd.as_fd(),
                Process::None => return None,
            };
            Some((ProbeSlot::Process, fd, PollFlags::IN))
        });
        runs.into_iter().chain(output.map(|fd| (ProbeSlot::Output, fd.as_fd(), PollFlags::IN)))
    }

    pub fn handle(&mut self, slot: ProbeSlot) {
        let Some(probe) = &mut self.probe else { return };
        match slot {
            ProbeSlot::Process => probe.reap(),
            ProbeSlot::Output => probe.read(),
        }
    }

    /// Takes the end of a child that may be the probe.
    pub fn reap(&mut self, pid: i32) -> bool {
        match &mut self.probe {
            Some(probe) if probe.code.is_none() => match &probe.process {
                Process::Runs { pid: own, .. } if *own == pid => {
                    probe.reap();
                    probe.code.is_some()
                }
                _ => false,
            },
            _ => false,
        }
    }

    /// The container has ended.
    pub fn end(self, left: &mut Leftovers) {
        if let Some(probe) = self.probe {
            match probe.process {
                Process::Starting(starting) => left.add(starting.give_up()),
                Process::Runs { pidfd, .. } if probe.code.is_none() => left.add(vec![pidfd]),
                _ => {}
            }
        }
    }

    /// Nobody is asked while nobody could answer. Docker calls that unhealthy.
    pub fn pause(&mut self, paused: bool) {
        self.paused = paused;
        if paused {
            self.next = None;
            self.status = HealthStatus::Unhealthy;
            if let Some(probe) = &mut self.probe {
                probe.dismiss();
            }
        } else if self.probe.is_none() {
            self.plan_next();
        }
    }

    /// What is due now; what a daemon is to hear of it.
    pub fn tick(&mut self, held: &Held, left: &mut Leftovers, tell: &mut Vec<Event>) {
        if let Some(mut probe) = self.probe.take() {
            let begun = probe.advance(left);
            if probe.dismissed {
                if !probe.is_over() {
                    self.probe = Some(probe);
                    self.count_held(tell);
                    return;
                }
                self.plan_next();
            } else if let Err(error) = begun {
                self.not_begun(&probe.id, probe.started_at, &error, tell);
            } else if let Some(code) = probe.code {
                // What others still hold of its output is not waited for.
                probe.read();
                let text = probe.said.text();
                self.conclude(&probe.id, probe.started_at, code, text, Some(code), tell);
                self.plan_next();
            } else if probe.since.elapsed() >= self.plan.timeout {
                probe.read();
                let mut text = self.exceeded();
                let died = match &probe.process {
                    Process::Starting(starting) => {
                        let late = starting.late(&self.plan.exec.process);
                        text = format!("{text}: {}", late.message);
                        None
                    }
                    _ => Some(137),
                };
                if !probe.said.bytes.is_empty() {
                    text = format!("{text}: {}", probe.said.text());
                }
                probe.dismiss();
                self.conclude(&probe.id, probe.started_at, -1, text, died, tell);
                self.probe = Some(probe);
                self.plan_next();
                return;
            } else {
                self.probe = Some(probe);
                return;
            }
        }
        if self.next.is_some_and(|next| next <= Instant::now()) && !self.paused {
            self.begin(held, tell);
        }
    }

    fn exceeded(&self) -> String {
        format!("Health check exceeded timeout ({})", spoken(self.plan.timeout))
    }

    /// While one that was ended goes on, since the kernel holds it, there is no other: each that
    /// would have been due has failed like it.
    fn count_held(&mut self, tell: &mut Vec<Event>) {
        if self.paused || self.next.is_none_or(|next| next > Instant::now()) {
            return;
        }
        let text = format!("{}: the probe before it waits in the kernel", self.exceeded());
        self.conclude(&fresh_id(), now(), -1, text, None, tell);
        self.plan_next();
    }

    fn not_begun(&mut self, id: &str, at: i64, error: &StartError, tell: &mut Vec<Event>) {
        let text = format!("OCI runtime exec failed: exec failed: {}", error.message);
        self.conclude(id, at, -1, text, None, tell);
        self.plan_next();
    }

    fn begin(&mut self, held: &Held, tell: &mut Vec<Event>) {
        self.next = None;
        let id = fresh_id();
        let started_at = now();
        tell.push(Event::ProbeBegins { id: id.clone() });
        match start(held, &self.plan.exec) {
            Ok((process, output)) => {
                self.probe = Some(Probe {
                    id,
                    process,
                    output: Some(output),
                    said: Said::default(),
                    since: Instant::now(),
                    started_at,
                    code: None,
                    dismissed: false,
                });
            }
            Err(error) => self.not_begun(&id, started_at, &error, tell),
        }
    }

    fn conclude(
        &mut self,
        id: &str,
        started_at: i64,
        code: i32,
        output: String,
        died: Option<i32>,
        tell: &mut Vec<Event>,
    ) {
        let result = ProbeResult { started_at, ended_at: now(), code, output };
        if code == 0 {
            self.streak = 0;
            self.status = HealthStatus::Healthy;
        } else if self.status != HealthStatus::Starting
            || self.started.elapsed() >= self.plan.start_period
        {
            self.streak = self.streak.saturating_add(1);
            if self.streak >= self.plan.retries {
                self.status = HealthStatus::Unhealthy;
            }
        }
        if self.log.len() == REMEMBERED {
            self.log.pop_front();
        }
        self.log.push_back(result.clone());
        tell.push(Event::Probed {
            id: id.to_owned(),
            died,
            status: self.status,
            streak: self.streak,
            result: Box::new(result),
        });
    }
}

impl Probe {
    /// Looks whether it has begun. An error is the end of one that has not.
    fn advance(&mut self, left: &mut Leftovers) -> Result<(), StartError> {
        let Process::Starting(starting) = &mut self.process else { return Ok(()) };
        if !starting.advance() {
            return Ok(());
        }
        let Process::Starting(starting) = std::mem::replace(&mut self.process, Process::None)
        else {
            return Ok(());
        };
        let (started, over) = starting.finish();
        left.add(over);
        let started = started?;
        self.process =
            Process::Runs { pid: started.pid.as_raw_nonzero().get(), pidfd: started.pidfd };
        if self.dismissed {
            self.kill();
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.code.is_some() || matches!(self.process, Process::None)
    }

    fn reap(&mut self) {
        let Process::Runs { pidfd, .. } = &self.process else { return };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        if let Ok(Some(status)) = waitid(WaitId::PidFd(pidfd.as_fd()), options) {
            let killed = status.terminating_signal().map(|signal| 128 + signal);
            self.code = Some(status.exit_status().or(killed).unwrap_or(255));
        }
    }

    /// What there is now.
    fn read(&mut self) {
        let mut chunk = [0; CHUNK];
        // Bounded: others may write without end.
        for _ in 0..16 {
            let Some(output) = &self.output else { return };
            match rustix::io::read(output, &mut chunk) {
                Ok(length) if length > 0 => self.said.add(chunk.get(..length).unwrap_or_default()),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return,
                _ => self.output = None,
            }
        }
    }

    /// Ends it and all that it has begun.
    fn dismiss(&mut self) {
        self.dismissed = true;
        self.output = None;
        self.kill();
    }

    fn kill(&self) {
        match &self.process {
            Process::Starting(starting) => starting.kill(),
            Process::Runs { pid, pidfd } if self.code.is_none() => {
                descent::kill(*pid);
                let _ = process::pidfd_signal(pidfd.as_fd(), 9);
            }
            _ => {}
        }
    }
}

fn start(held: &Held, plan: &ExecPlan) -> Result<(Process, OwnedFd), StartError> {
    let failed = |errno: rustix::io::Errno| StartError::system("make a pipe", errno);
    let (output, write) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
    rustix::io::ioctl_fionbio(&output, true).map_err(failed)?;
    let stderr = write.try_clone().map_err(|error| StartError::system("make a pipe", error))?;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let null = rustix::fs::open("/dev/null", flags, Mode::empty())
        .map_err(|errno| StartError::system("open /dev/null", errno))?;
    let process = match held.exec(plan, Stdio::Pipes { stdin: null, stdout: write, stderr })? {
        Further::Starting(starting) => Process::Starting(Box::new(starting)),
        Further::Started(started) => {
            Process::Runs { pid: started.pid.as_raw_nonzero().get(), pidfd: started.pidfd }
        }
    };
    Ok((process, output))
}

/// A duration in the words of Docker: `30s`, `1m0s`, `500ms`.
fn spoken(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        let (value, unit) = match time.as_nanos() {
            nanos if nanos >= 1_000_000 => (nanos as f64 / 1e6, "ms"),
            nanos if nanos >= 1000 => (nanos as f64 / 1e3, "µs"),
            nanos => (nanos as f64, "ns"),
        };
        return format!("{value}{unit}");
    }
    let (hours, minutes) = (time.as_secs() / 3600, time.as_secs() / 60 % 60);
    let seconds = (time.as_secs() % 60) as f64 + f64::from(time.subsec_nanos()) / 1e9;
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// Names a probe as an exec session is named.
fn fresh_id() -> String {
    use std::fmt::Write as _;
    let mut bytes = [0_u8; 32];
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn now() -> i64 {
    Timestamp::from_system(SystemTime::now()).nanos()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(retries: u32, start_period: Duration) -> Health {
        let process = hoy_runtime::ProcessPlan {
            args: vec!["true".into()],
            env: Vec::new(),
            cwd: "/".into(),
            user: "".parse().unwrap(),
            additional_groups: Vec::new(),
            tty: false,
            console_size: None,
            capabilities: 0,
            no_new_privileges: false,
            rlimits: Vec::new(),
            seccomp: Vec::new(),
            oom_score_adj: None,
            seccomp_flags: 0,
            labels: hoy_runtime::ProcessLabels::default(),
        };
        Health::new(HealthPlan {
            exec: ExecPlan { process },
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            start_period,
            start_interval: Duration::from_secs(5),
            retries,
        })
    }

    fn probed(health: &mut Health, code: i32) -> HealthStatus {
        health.conclude("id", 1, code, String::new(), Some(code), &mut Vec::new());
        health.plan_next();
        health.status
    }

    #[test]
    fn failures_count_from_the_end_of_the_start_period_on() {
        use HealthStatus::{Healthy, Starting, Unhealthy};
        let mut plain = health(2, Duration::ZERO);
        assert_eq!(
            [1, 1, 0, 1, 3].map(|code| probed(&mut plain, code)),
            [Starting, Unhealthy, Healthy, Healthy, Unhealthy]
        );
        assert_eq!(plain.streak, 2);
        let mut patient = health(1, Duration::from_secs(1000));
        assert_eq!(probed(&mut patient, 1), Starting);
        assert_eq!(patient.streak, 0);
        // Within the start period it is asked more often, until it is healthy.
        assert!(patient.deadline().unwrap() <= Duration::from_secs(5));
        assert_eq!(probed(&mut patient, 0), Healthy);
        assert!(patient.deadline().unwrap() > Duration::from_secs(5));
        // A success ends the start period.
        assert_eq!(probed(&mut patient, 1), Unhealthy);
    }

    #[test]
    fn the_last_five_are_remembered() {
        let mut health = health(3, Duration::ZERO);
        for code in 0..9 {
            probed(&mut health, code);
        }
        let codes: Vec<i32> = health.state().log.iter().map(|result| result.code).collect();
        assert_eq!(codes, [4, 5, 6, 7, 8]);
        health.pause(true);
        assert_eq!((health.status, health.deadline()), (HealthStatus::Unhealthy, None));
        health.pause(false);
        assert!(health.deadline().is_some());
    }

    #[test]
    fn long_output_is_cut_and_times_are_spoken() {
        let mut said = Said::default();
        said.add(&[b'a'; 4000]);
        said.add(&[b'b'; 96]);
        assert_eq!(said.text().len(), 4096);
        said.add(b"c");
        assert!(said.text().ends_with("b..."));
        for (milliseconds, text) in [
            (30_000, "30s"),
            (1500, "1.5s"),
            (250, "250ms"),
            (60_000, "1m0s"),
            (90_500, "1m30.5s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(spoken(Duration::from_millis(milliseconds)), text);
        }
    }
}
