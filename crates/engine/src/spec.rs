//! What a create request means: the request, the image and the daemon's settings become a record.
//!
//! Pure: everything here is decided from its arguments. Docker's rules, Docker's messages.

use std::collections::BTreeMap;

use hoy_config::Settings;
use hoy_types::{PortBinding, PortSpec, Signal, UserSpec};
use hoy_wire::{ContainerConfig, HostConfig, ImageConfig};

use crate::error::{Error, Result};
use crate::record::Record;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Merges the image's configuration into the request's.
pub(crate) fn merge_config(config: &mut ContainerConfig, image: &ImageConfig) {
    if config.user.is_empty() {
        config.user.clone_from(&image.user);
    }
    for port in image.exposed_ports.keys() {
        config.exposed_ports.entry(port.clone()).or_default();
    }
    config.env = Some(merge_env(&image.env, config.env.as_deref().unwrap_or(&[])));
    let asked_entrypoint = config.entrypoint.as_ref().is_some_and(|words| !words.is_empty());
    if !asked_entrypoint {
        if config.cmd.as_ref().is_none_or(Vec::is_empty) && !image.cmd.is_empty() {
            config.cmd = Some(image.cmd.clone());
        }
        config.entrypoint = (!image.entrypoint.is_empty()).then(|| image.entrypoint.clone());
    } else if config.entrypoint.as_deref() == Some(&[String::new()]) {
        // `--entrypoint ""` takes the image's entrypoint away.
        config.entrypoint = None;
    }
    let labels = config.labels.get_or_insert_default();
    for (name, value) in &image.labels {
        labels.entry(name.clone()).or_insert_with(|| value.clone());
    }
    if config.volumes.as_ref().is_some_and(std::collections::BTreeMap::is_empty) {
        config.volumes = None;
    }
    if !image.volumes.is_empty() {
        let volumes = config.volumes.get_or_insert_default();
        volumes.extend(image.volumes.iter().map(|(path, empty)| (path.clone(), *empty)));
    }
    if config.working_dir.is_empty() {
        config.working_dir.clone_from(&image.working_dir);
    }
    if config.stop_signal.is_empty() {
        config.stop_signal.clone_from(&image.stop_signal);
    }
    if config.shell.is_empty() {
        config.shell.clone_from(&image.shell);
    }
    crate::health::merge(&mut config.healthcheck, image.healthcheck.as_ref());
}

/// The image's variables, overridden by key; `KEY` without `=` takes one away.
fn merge_env(image: &[String], asked: &[String]) -> Vec<String> {
    let key = |entry: &str| entry.split('=').next().unwrap_or(entry).to_owned();
    let mut out: Vec<String> = image.to_vec();
    if !out.iter().chain(asked).any(|entry| key(entry) == "PATH") {
        out.insert(0, PATH.to_owned());
    }
    for entry in asked {
        let name = key(entry);
        match (out.iter().position(|known| key(known) == name), entry.contains('=')) {
            (Some(at), true) => out[at].clone_from(entry),
            (Some(at), false) => drop(out.remove(at)),
            (None, true) => out.push(entry.clone()),
            (None, false) => {}
        }
    }
    out
}

/// Entrypoint and command as one list.
pub(crate) fn command(config: &ContainerConfig) -> Result<Vec<String>> {
    let words = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let mut out = words(&config.entrypoint);
    out.extend(words(&config.cmd));
    if out.is_empty() || (out.len() == 1 && out[0].is_empty()) {
        return Err(Error::invalid("no command specified"));
    }
    if out.iter().any(|word| word.contains('\0')) {
        return Err(Error::invalid("the command contains a NUL byte"));
    }
    Ok(out)
}

/// Fills the host configuration with the daemon's defaults, as inspect shows them.
pub(crate) fn fill_host(host: &mut HostConfig, settings: &Settings) {
    if host.memory > 0 && host.memory_swap == 0 {
        host.memory_swap = host.memory.saturating_mul(2);
    }
    if host.shm_size == 0 {
        host.shm_size = i64::try_from(settings.default_shm_size).unwrap_or(i64::MAX);
    }
    if host.log_config.kind.is_empty() {
        host.log_config.kind.clone_from(&settings.log_driver);
        if host.log_config.config.as_ref().is_none_or(BTreeMap::is_empty) {
            host.log_config.config = Some(settings.log_opts.clone());
        }
    }
    host.log_config.config.get_or_insert_default();
    if host.restart_policy.name.is_empty() {
        host.restart_policy.name = "no".into();
    }
    if matches!(host.network_mode.as_str(), "" | "default") {
        host.network_mode = "bridge".into();
    }
    if host.runtime.is_empty() {
        host.runtime.clone_from(&settings.default_runtime);
    }
    host.port_bindings.get_or_insert_default();
    let unconfined =
        host.security_opt.iter().flatten().any(|option| option == "systempaths=unconfined");
    if host.privileged || unconfined {
        host.masked_paths = Some(Vec::new());
        host.readonly_paths = Some(Vec::new());
    } else {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        host.masked_paths.get_or_insert_with(|| texts(MASKED));
        host.readonly_paths.get_or_insert_with(|| texts(READONLY));
    }
    let own = host.ulimits.get_or_insert_default();
    for (name, (soft, hard)) in &settings.default_ulimits {
        if !own.iter().any(|ulimit| ulimit.name == *name) {
            own.push(hoy_wire::Ulimit { name: name.clone(), soft: *soft, hard: *hard });
        }
    }
    crate::lsm::fill_host(host);
    if settings.init && host.init.is_none() {
        host.init = Some(true);
    }
}

const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READONLY: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Checks all that can be wrong without looking at the host.
pub(crate) fn check(config: &ContainerConfig, host: &HostConfig) -> Result<()> {
    let invalid = |text: &str| Err(Error::invalid(text));
    config.user.parse::<UserSpec>().map_err(|error| Error::invalid(error.to_string()))?;
    if !config.stop_signal.is_empty() {
        config.stop_signal.parse::<Signal>().map_err(|error| Error::invalid(error.to_string()))?;
    }
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return Err(Error::invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        )));
    }
    for entry in config.env.iter().flatten() {
        if entry.starts_with('=') || entry.contains('\0') {
            return Err(Error::invalid(format!("invalid environment variable: {entry}")));
        }
    }
    hostname(&config.hostname)?;
    if !matches!(host.isolation.as_str(), "" | "default") {
        return Err(Error::invalid(format!(
            "Invalid isolation: {:?} - linux only supports 'default'",
            host.isolation
        )));
    }
    if host.annotations.keys().any(String::is_empty) {
        return invalid(
            "invalid Annotations: the empty string is not permitted as an annotation key",
        );
    }
    if host.oom_score_adj < -1000 || host.oom_score_adj > 1000 {
        return Err(Error::invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        )));
    }
    if host.shm_size < 0 {
        return invalid("SHM size can not be less than 0");
    }
    for port in config.exposed_ports.keys() {
        port_spec(port)?;
    }
    for (port, bindings) in host.port_bindings.iter().flatten() {
        port_spec(port)?;
        for binding in bindings.iter().flatten() {
            host_ports(&binding.host_port)?;
            if !binding.host_ip.is_empty() && binding.host_ip.parse::<std::net::IpAddr>().is_err() {
                return Err(Error::invalid(format!("invalid IP address: {}", binding.host_ip)));
            }
        }
    }
    crate::logging::check(host)?;
    for ulimit in host.ulimits.iter().flatten() {
        crate::plan::rlimit(ulimit)?;
    }
    for rule in host.device_cgroup_rules.iter().flatten() {
        crate::devices::rule(rule)?;
    }
    Ok(())
}

/// Who joins another's network has that one's names, and cannot ask for its own.
pub(crate) fn names_of_the_network(config: &ContainerConfig, host: &HostConfig) -> Result<()> {
    let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let conflict = if !config.hostname.is_empty() {
        "hostname"
    } else if some(&host.dns) {
        "dns"
    } else if some(&host.extra_hosts) {
        "custom host-to-IP mapping"
    } else {
        return Ok(());
    };
    Err(Error::invalid(format!("conflicting options: {conflict} and the network mode")))
}

fn hostname(text: &str) -> Result<()> {
    let good = text.len() <= 64
        && !text.starts_with('-')
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_'));
    if good { Ok(()) } else { Err(Error::invalid(format!("invalid hostname: {text:?}"))) }
}

pub(crate) fn port_spec(text: &str) -> Result<PortSpec> {
    text.parse().map_err(|error: hoy_types::PortError| Error::invalid(error.to_string()))
}

/// `8080`, `8000-9000`, or nothing for any.
pub(crate) fn host_ports(text: &str) -> Result<Option<(u16, u16)>> {
    if text.is_empty() || text == "0" {
        return Ok(None);
    }
    let bad = || Error::invalid(format!("invalid port specification: {text:?}"));
    let number = |part: &str| part.parse::<u16>().map_err(|_| bad());
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    if first > last || first == 0 { Err(bad()) } else { Ok(Some((first, last))) }
}

/// What `-p` and `-P` come to.
pub(crate) fn ports(record: &Record) -> Result<Vec<PortBinding>> {
    let mut out = Vec::new();
    let bindings = record.host.port_bindings.iter().flatten();
    for (port, wanted) in bindings {
        let container = port_spec(port)?;
        for binding in wanted.iter().flatten() {
            let host_ip = match binding.host_ip.as_str() {
                "" => None,
                text => Some(
                    text.parse()
                        .map_err(|_| Error::invalid(format!("invalid IP address: {text}")))?,
                ),
            };
            let host_ports = host_ports(&binding.host_port)?;
            out.push(PortBinding { container, host_ip, host_ports });
        }
    }
    if record.host.publish_all_ports {
        for port in record.config.exposed_ports.keys() {
            let container = port_spec(port)?;
            if !out.iter().any(|known| known.container == container) {
                out.push(PortBinding { container, host_ip: None, host_ports: None });
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    fn merged(entrypoint: Option<&[&str]>, cmd: &[&str]) -> Result<Vec<String>> {
        let image = ImageConfig {
            entrypoint: strings(&["/entry"]),
            cmd: strings(&["default"]),
            ..ImageConfig::default()
        };
        let mut config = ContainerConfig {
            entrypoint: entrypoint.map(strings),
            cmd: Some(strings(cmd)),
            ..ContainerConfig::default()
        };
        merge_config(&mut config, &image);
        command(&config)
    }

    #[test]
    fn entrypoint_rules() {
        assert_eq!(merged(None, &[]).unwrap(), ["/entry", "default"]);
        assert_eq!(merged(None, &["x"]).unwrap(), ["/entry", "x"]);
        assert_eq!(merged(Some(&["/other"]), &[]).unwrap(), ["/other"]);
        assert_eq!(merged(Some(&[""]), &["x"]).unwrap(), ["x"]);
        assert_eq!(merged(Some(&[""]), &[]).unwrap_err().to_string(), "no command specified");
    }

    #[test]
    fn environment_rules() {
        let image = strings(&["A=1", "B=2", "PATH=/x"]);
        let env = merge_env(&image, &strings(&["B=3", "A", "C=4", "D"]));
        assert_eq!(env, ["B=3", "PATH=/x", "C=4"]);
        assert_eq!(merge_env(&[], &[]), [PATH]);
    }

    #[test]
    fn port_ranges() {
        assert_eq!(host_ports("8000-8010").unwrap(), Some((8000, 8010)));
        assert_eq!(host_ports("").unwrap(), None);
        for bad in ["x", "70000", "2-1", "-", "0-1"] {
            assert!(host_ports(bad).is_err(), "{bad}");
        }
    }
}
