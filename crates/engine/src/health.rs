//! Health checks: what a request and its image ask for, and how what is known is shown. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use hoy_runtime::ExecPlan;
use hoy_shim::message::{HealthPlan, HealthState, HealthStatus, ProbeResult};
use hoy_types::Timestamp;
use hoy_wire as wire;
use serde::{Deserialize, Serialize};
use wire::{ContainerConfig, HealthConfig};

use crate::error::{Error, Result};
use crate::plan;
use crate::record::Record;

const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;
/// Docker's shortest time that is not the default.
const SHORTEST: i64 = 1_000_000;
/// Results that are shown.
const SHOWN: usize = 5;
/// Docker's shell where the image names none.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// What is known of a container's health since its first start with probes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthRecord {
    pub status: HealthStatus,
    pub streak: u32,
    pub log: VecDeque<ProbeResult>,
}

impl HealthRecord {
    /// At a start; what was said before it stays, as with Docker.
    pub fn begun(before: Option<Self>) -> Self {
        let log = before.map(|before| before.log).unwrap_or_default();
        Self { status: HealthStatus::Starting, streak: 0, log }
    }

    pub fn add(&mut self, result: ProbeResult) {
        self.log.push_back(result);
        while self.log.len() > SHOWN {
            self.log.pop_front();
        }
    }

    /// The supervisor knows the run; of those before it only this record does.
    pub fn take_up(&mut self, state: HealthState, run_began: i64) {
        self.log.retain(|result| result.started_at < run_began);
        (self.status, self.streak) = (state.status, state.streak);
        state.log.into_iter().for_each(|result| self.add(result));
    }
}

pub(crate) const fn word(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::Starting => "starting",
        HealthStatus::Healthy => "healthy",
        HealthStatus::Unhealthy => "unhealthy",
    }
}

/// The word that filters know a container's health by.
pub(crate) fn of(record: &Record) -> &'static str {
    record.health.as_ref().map_or("none", |health| word(health.status))
}

/// As `ps` has it in parentheses.
pub(crate) fn in_a_list(record: &Record) -> Option<&'static str> {
    record.health.as_ref().map(|health| match health.status {
        HealthStatus::Starting => "health: starting",
        other => word(other),
    })
}

pub(crate) fn shown(record: &Record) -> Option<wire::Health> {
    let health = record.health.as_ref()?;
    let result = |result: &ProbeResult| wire::HealthcheckResult {
        start: Timestamp::from_nanos(result.started_at),
        end: Timestamp::from_nanos(result.ended_at),
        exit_code: result.code.into(),
        output: result.output.clone(),
    };
    Some(wire::Health {
        status: word(health.status).to_owned(),
        failing_streak: health.streak.into(),
        log: Some(health.log.iter().map(result).collect()),
    })
}

/// What the request does not say, the image does.
pub(crate) fn merge(asked: &mut Option<HealthConfig>, image: Option<&HealthConfig>) {
    let Some(image) = image else { return };
    let Some(asked) = asked else {
        *asked = Some(image.clone());
        return;
    };
    if asked.test.is_empty() {
        asked.test.clone_from(&image.test);
    }
    for (own, other) in [
        (&mut asked.interval, image.interval),
        (&mut asked.timeout, image.timeout),
        (&mut asked.start_period, image.start_period),
        (&mut asked.start_interval, image.start_interval),
        (&mut asked.retries, image.retries),
    ] {
        if *own == 0 {
            *own = other;
        }
    }
}

/// Whether it can be, in Docker's words.
pub(crate) fn check(config: &ContainerConfig) -> Result<()> {
    let Some(check) = &config.healthcheck else { return Ok(()) };
    let times = [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ];
    if let Some((name, _)) = times.iter().find(|(_, time)| *time != 0 && *time < SHORTEST) {
        return Err(Error::invalid(format!("{name} in Healthcheck cannot be less than 1ms")));
    }
    if check.retries < 0 {
        return Err(Error::invalid("Retries in Healthcheck cannot be negative"));
    }
    match check.test.first().map_or("", String::as_str) {
        "" if check.test.is_empty() => Ok(()),
        "NONE" => Ok(()),
        "CMD" | "CMD-SHELL" if check.test.len() > 1 => Ok(()),
        // Docker accepts these, and never probes.
        kind => Err(Error::invalid(format!(
            "a health check of the kind {kind:?} with {} words cannot be run",
            check.test.len().saturating_sub(1)
        ))),
    }
}

/// The words of a probe; none for a container that is not probed.
pub(crate) fn command(config: &ContainerConfig) -> Option<Vec<String>> {
    let check = config.healthcheck.as_ref()?;
    let (kind, words) = check.test.split_first()?;
    match kind.as_str() {
        "CMD" if !words.is_empty() => Some(words.to_vec()),
        "CMD-SHELL" if !words.is_empty() => {
            let own = config.shell.clone();
            let shell = if own.is_empty() { SHELL.map(str::to_owned).to_vec() } else { own };
            Some(shell.into_iter().chain(words.iter().cloned()).collect())
        }
        _ => None,
    }
}

/// What the supervisor is told. `exec` makes the plan of a further process.
pub(crate) fn plan(
    config: &ContainerConfig,
    exec: impl FnOnce(wire::ExecConfig) -> Result<ExecPlan>,
) -> Result<Option<HealthPlan>> {
    let (Some(check), Some(command)) = (&config.healthcheck, command(config)) else {
        return Ok(None);
    };
    let exec = exec(wire::ExecConfig { cmd: Some(command), ..wire::ExecConfig::default() })?;
    let time = |nanos: i64, default| match u64::try_from(nanos) {
        Ok(nanos) if nanos > 0 => Duration::from_nanos(nanos),
        _ => default,
    };
    Ok(Some(HealthPlan {
        exec,
        interval: time(check.interval, INTERVAL),
        timeout: time(check.timeout, TIMEOUT),
        start_period: time(check.start_period, Duration::ZERO),
        start_interval: time(check.start_interval, START_INTERVAL),
        retries: u32::try_from(check.retries).ok().filter(|n| *n > 0).unwrap_or(RETRIES),
    }))
}

impl crate::engine::Inner {
    /// The probes of a container that is about to start, as its exec sessions would be.
    pub(crate) fn health_plan(&self, record: &Record) -> Result<Option<HealthPlan>> {
        plan(&record.config, |request| {
            let filter = |host: &_, capabilities| self.filters.filter(host, capabilities);
            let process = plan::exec(record, &request, None, &self.settings, &filter)?;
            let links = self.links_of_the_bridge(record)?;
            let links = links.into_iter().flat_map(|link| link.environment);
            Ok(ExecPlan { process: plan::with_links(process, links) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(test: &[&str]) -> ContainerConfig {
        let test = test.iter().map(|word| (*word).to_owned()).collect();
        let healthcheck = Some(HealthConfig { test, ..HealthConfig::default() });
        ContainerConfig { healthcheck, ..ContainerConfig::default() }
    }

    #[test]
    fn who_is_probed_and_how() {
        assert_eq!(command(&config(&["CMD", "a", "b"])).unwrap(), ["a", "b"]);
        assert_eq!(command(&config(&["CMD-SHELL", "a b"])).unwrap(), ["/bin/sh", "-c", "a b"]);
        let shell = vec!["/bin/bash".to_owned(), "-ec".to_owned()];
        let own = ContainerConfig { shell, ..config(&["CMD-SHELL", "a"]) };
        assert_eq!(command(&own).unwrap(), ["/bin/bash", "-ec", "a"]);
        for none in [&["NONE"][..], &[], &["NONE", "x"]] {
            assert_eq!(command(&config(none)), None);
            check(&config(none)).unwrap();
        }
        for bad in [&["SOMETHING", "x"][..], &["CMD"], &[""]] {
            assert!(check(&config(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_image_fills_what_is_not_said() {
        let image = HealthConfig {
            test: vec!["CMD".into(), "x".into()],
            interval: 7_000_000,
            retries: 9,
            ..HealthConfig::default()
        };
        let mut asked = None;
        merge(&mut asked, Some(&image));
        assert_eq!(asked.as_ref(), Some(&image));
        let own = HealthConfig { retries: 2, ..HealthConfig::default() };
        let mut asked = Some(own.clone());
        merge(&mut asked, Some(&image));
        assert_eq!(asked, Some(HealthConfig { retries: 2, ..image.clone() }));
        let mut none = Some(HealthConfig { test: vec!["NONE".into()], ..HealthConfig::default() });
        merge(&mut none, Some(&image));
        assert_eq!(none.unwrap().test, ["NONE"]);
        let mut alone = Some(own.clone());
        merge(&mut alone, None);
        assert_eq!(alone, Some(own));
    }

    #[test]
    fn times_that_cannot_be_are_refused() {
        let says = |change: fn(&mut HealthConfig)| {
            let mut config = config(&["CMD", "x"]);
            change(config.healthcheck.as_mut().unwrap());
            check(&config).map_err(|error| error.to_string())
        };
        says(|check| check.interval = SHORTEST).unwrap();
        for (change, text) in [
            (
                (|check| check.interval = 5) as fn(&mut HealthConfig),
                "Interval in Healthcheck cannot be less than 1ms",
            ),
            (|check| check.timeout = -1, "Timeout in Healthcheck cannot be less than 1ms"),
            (|check| check.start_period = 1, "StartPeriod in Healthcheck cannot be less than 1ms"),
            (|check| check.start_interval = 1, "StartInterval in Healthcheck cannot be less"),
            (|check| check.retries = -1, "Retries in Healthcheck cannot be negative"),
        ] {
            assert!(says(change).unwrap_err().starts_with(text));
        }
    }

    #[test]
    fn the_supervisor_knows_the_run_and_the_record_those_before() {
        let result = |started_at| ProbeResult {
            started_at,
            ended_at: started_at,
            code: 0,
            output: String::new(),
        };
        let before =
            HealthRecord { status: HealthStatus::Unhealthy, streak: 3, log: VecDeque::new() };
        let mut health = HealthRecord::begun(Some(before));
        assert_eq!((health.status, health.streak), (HealthStatus::Starting, 0));
        for at in [1, 2, 11] {
            health.add(result(at));
        }
        let log = vec![result(11), result(12), result(13)];
        health.take_up(HealthState { status: HealthStatus::Healthy, streak: 0, log }, 10);
        let at: Vec<i64> = health.log.iter().map(|result| result.started_at).collect();
        assert_eq!((at, health.status), (vec![1, 2, 11, 12, 13], HealthStatus::Healthy));
    }
}
