//! Restart policies as pure decisions: whether a container that has ended comes back, and when.
//!
//! The rules are Docker's. What differs: a container with `on-failure` that somebody has stopped
//! stays down when the daemon or the machine starts, as Docker's manual says and its daemon does
//! not.

use std::time::Duration;

use hoy_types::Signal;
use hoy_wire::{HostConfig, RestartPolicy};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How long the first restart waits.
const FIRST: Duration = Duration::from_millis(100);
/// No restart waits longer.
const LONGEST: Duration = Duration::from_secs(60);
/// Whoever ran this long begins at the first delay again.
const STEADY: Duration = Duration::from_secs(10);

/// What is remembered of a container for its policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartRecord {
    /// How often the policy has started it since somebody has.
    pub count: u32,
    /// It has run at least once.
    pub started: bool,
    /// Somebody has stopped it or sent it a signal.
    pub stopped: bool,
    /// The policy does not count at the next end.
    pub canceled: bool,
    /// How long the last restart waited.
    pub delay_ms: u64,
}

impl RestartRecord {
    /// Somebody starts it.
    pub fn begun(&mut self) {
        *self = Self { started: true, ..Self::default() };
    }
}

/// After an end: how long to wait until the next start, or that there is none. What is remembered
/// changes with the answer.
pub(crate) fn after_end(
    policy: &RestartPolicy,
    memory: &mut RestartRecord,
    code: i32,
    ran: Duration,
) -> Option<Duration> {
    if memory.canceled {
        return None;
    }
    let before = Duration::from_millis(memory.delay_ms);
    let delay = if ran >= STEADY || before.is_zero() { FIRST } else { (before * 2).min(LONGEST) };
    let again = match policy.name.as_str() {
        "always" => true,
        "unless-stopped" => !memory.stopped,
        "on-failure" => code != 0 && has_tries(policy, memory),
        _ => false,
    };
    memory.delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    again.then(|| {
        memory.count = memory.count.saturating_add(1);
        delay
    })
}

/// Whether a container that does not run is started when a daemon finds it.
pub(crate) fn at_the_beginning(policy: &RestartPolicy, memory: &RestartRecord, code: i32) -> bool {
    memory.started
        && match policy.name.as_str() {
            "always" => true,
            "unless-stopped" => !memory.stopped,
            "on-failure" => code != 0 && !memory.stopped && has_tries(policy, memory),
            _ => false,
        }
}

/// Zero is no bound.
fn has_tries(policy: &RestartPolicy, memory: &RestartRecord) -> bool {
    policy.maximum_retry_count <= 0 || i64::from(memory.count) < policy.maximum_retry_count
}

/// Whether a signal means that the container is to end for good: SIGKILL, the one that stops it,
/// or any where none is named for that.
pub(crate) fn ends_for_good(stop_signal: &str, signal: i32) -> bool {
    let configured = stop_signal.parse::<Signal>().ok().filter(|_| !stop_signal.is_empty());
    signal == Signal::KILL.number() || configured.is_none_or(|own| own.number() == signal)
}

pub(crate) fn has_policy(host: &HostConfig) -> bool {
    !matches!(host.restart_policy.name.as_str(), "" | "no")
}

/// Whether a policy can be, in Docker's words.
pub(crate) fn check(host: &HostConfig) -> Result<()> {
    let RestartPolicy { name, maximum_retry_count: tries } = &host.restart_policy;
    let invalid = |text: String| Err(Error::invalid(format!("invalid restart policy: {text}")));
    match name.as_str() {
        "" | "no" | "always" | "unless-stopped" if *tries != 0 => {
            let more = if *tries < 0 { " and cannot be negative" } else { "" };
            return invalid(format!(
                "maximum retry count can only be used with 'on-failure'{more}"
            ));
        }
        "on-failure" if *tries < 0 => {
            return invalid("maximum retry count cannot be negative".into());
        }
        "" | "no" | "always" | "unless-stopped" | "on-failure" => {}
        other => {
            return invalid(format!(
                "unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or \
                 'unless-stopped'"
            ));
        }
    }
    if host.auto_remove && has_policy(host) {
        return Err(Error::invalid("can't create 'AutoRemove' container with restart policy"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: &str, tries: i64) -> RestartPolicy {
        RestartPolicy { name: name.into(), maximum_retry_count: tries }
    }

    const SHORT: Duration = Duration::from_millis(5);

    #[test]
    fn the_delay_doubles_up_to_a_minute_and_begins_anew_after_ten_seconds() {
        let mut memory = RestartRecord::default();
        let mut next =
            |ran| after_end(&policy("always", 0), &mut memory, 0, ran).unwrap().as_millis();
        let first: Vec<u128> = (0..12).map(|_| next(SHORT)).collect();
        assert_eq!(
            first,
            [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000]
        );
        assert_eq!(next(Duration::from_secs(10)), 100);
        assert_eq!(next(SHORT), 200);
        assert_eq!(memory.count, 14);
    }

    #[test]
    fn who_comes_back_after_an_end() {
        let again = |name: &str, code, memory: RestartRecord| {
            after_end(&policy(name, 2), &mut memory.clone(), code, SHORT).is_some()
        };
        let plain = RestartRecord { started: true, ..RestartRecord::default() };
        let stopped = RestartRecord { stopped: true, ..plain };
        let canceled = RestartRecord { canceled: true, ..stopped };
        for (name, zero, failed, after_stop) in [
            ("", false, false, false),
            ("no", false, false, false),
            ("always", true, true, true),
            ("unless-stopped", true, true, false),
            ("on-failure", false, true, true),
        ] {
            assert_eq!(again(name, 0, plain), zero, "{name}");
            assert_eq!(again(name, 3, plain), failed, "{name}");
            assert_eq!(again(name, 3, stopped), after_stop, "{name}");
            assert!(!again(name, 3, canceled), "{name}");
        }
        assert!(again("on-failure", 1, RestartRecord { count: 1, ..plain }));
        assert!(!again("on-failure", 1, RestartRecord { count: 2, ..plain }));
        let mut endless = RestartRecord { count: u32::MAX, ..plain };
        assert!(after_end(&policy("on-failure", 0), &mut endless, 1, SHORT).is_some());
    }

    #[test]
    fn who_comes_back_with_the_daemon() {
        let again = |name: &str, code, memory: RestartRecord| {
            at_the_beginning(&policy(name, 0), &memory, code)
        };
        let plain = RestartRecord { started: true, ..RestartRecord::default() };
        let stopped = RestartRecord { stopped: true, canceled: true, ..plain };
        for (name, zero, failed, after_stop) in [
            ("no", false, false, false),
            ("always", true, true, true),
            ("unless-stopped", true, true, false),
            ("on-failure", false, true, false),
        ] {
            assert_eq!(again(name, 0, plain), zero, "{name}");
            assert_eq!(again(name, 255, plain), failed, "{name}");
            assert_eq!(again(name, 143, stopped), after_stop, "{name}");
            assert!(!again(name, 255, RestartRecord::default()), "{name}: it never ran");
        }
        let used_up = RestartRecord { count: 3, ..plain };
        assert!(!at_the_beginning(&policy("on-failure", 3), &used_up, 1));
    }

    #[test]
    fn which_signals_end_for_good() {
        assert!(ends_for_good("", 1));
        assert!(ends_for_good("", 15));
        assert!(ends_for_good("SIGQUIT", 9));
        assert!(ends_for_good("SIGQUIT", 3));
        assert!(!ends_for_good("SIGQUIT", 1));
        assert!(!ends_for_good("QUIT", 15));
    }

    #[test]
    fn policies_that_cannot_be_are_refused() {
        let says = |name: &str, tries, auto_remove| {
            let restart_policy = policy(name, tries);
            check(&HostConfig { restart_policy, auto_remove, ..HostConfig::default() })
                .map_err(|error| error.to_string())
        };
        for name in ["", "no", "always", "unless-stopped", "on-failure"] {
            says(name, 0, false).unwrap();
        }
        says("on-failure", 5, false).unwrap();
        says("no", 0, true).unwrap();
        for (name, tries, rm, text) in [
            ("on-failure", -1, false, "maximum retry count cannot be negative"),
            ("always", 3, false, "maximum retry count can only be used with 'on-failure'"),
            ("no", -1, false, "with 'on-failure' and cannot be negative"),
            ("sometimes", 0, false, "unknown policy 'sometimes'; use one of 'no', 'always'"),
            ("always", 0, true, "can't create 'AutoRemove' container with restart policy"),
        ] {
            let error = says(name, tries, rm).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }
}
