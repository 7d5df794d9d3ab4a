//! Containers as the API shows them. Pure, but for the names of directories.

use std::collections::BTreeMap;

use hoy_types::Timestamp;
use hoy_wire as wire;

use crate::attachments::{self, Attachment};
use crate::engine::{Inner, now};
use crate::health;
use crate::life::Phase;
use crate::record::{MountKind, NetworkMode, Record};

pub(crate) fn inspect(inner: &Inner, record: &Record) -> wire::ContainerInspect {
    let state = &record.state;
    let files = inner.files_of_the_network(record);
    let file = |name: &str| files.join(name).display().to_string();
    let directory = inner.store.container_directory(record.key());
    let lower: Vec<String> = record
        .layers
        .iter()
        .rev()
        .map(|key| inner.store.layer_path(key).display().to_string())
        .collect();
    let mut data = BTreeMap::from([
        ("LowerDir".to_owned(), lower.join(":")),
        ("UpperDir".to_owned(), directory.join("upper").display().to_string()),
        ("WorkDir".to_owned(), directory.join("work").display().to_string()),
    ]);
    let merged =
        if state.phase.is_alive() { format!("/proc/{}/root", state.pid) } else { String::new() };
    data.insert("MergedDir".to_owned(), merged);
    let execs = inner.exec_ids(&record.id);
    wire::ContainerInspect {
        id: record.id.to_string(),
        created: record.created.to_string(),
        path: record.command.first().cloned().unwrap_or_default(),
        args: Some(record.command.get(1..).unwrap_or_default().to_vec()),
        state: Some(wire::ContainerState {
            status: state.shown().status().to_owned(),
            running: state.phase.is_up(),
            paused: state.phase == Phase::Paused,
            restarting: state.phase == Phase::Restarting,
            oom_killed: state.oom_killed,
            pid: if state.phase.is_alive() { state.pid.into() } else { 0 },
            exit_code: state.exit_code.into(),
            error: state.error.clone(),
            started_at: state.started_at.to_string(),
            finished_at: state.finished_at.to_string(),
            health: health::shown(record),
            ..wire::ContainerState::default()
        }),
        image: record.image.to_string(),
        resolv_conf_path: file("resolv.conf"),
        hostname_path: file("hostname"),
        hosts_path: file("hosts"),
        app_armor_profile: record.labels.apparmor.clone(),
        process_label: record.labels.process.clone(),
        mount_label: record.labels.mount.clone(),
        log_path: if record.host.log_config.kind != "json-file" {
            String::new()
        } else {
            inner.log_path(record).display().to_string()
        },
        name: format!("/{}", record.name),
        restart_count: record.restart.count.into(),
        driver: "overlay2".to_owned(),
        platform: "linux".to_owned(),
        exec_ids: (!execs.is_empty()).then_some(execs),
        host_config: Some(wire::HostConfig {
            links: inner.shown_links(record),
            ..record.host.clone()
        }),
        graph_driver: wire::DriverData { name: "overlay2".to_owned(), data: Some(data) },
        mounts: Some(mounts(inner, record)),
        config: Some(record.config.clone()),
        network_settings: Some(network(inner, record)),
        ..wire::ContainerInspect::default()
    }
}

fn mounts(inner: &Inner, record: &Record) -> Vec<wire::MountPoint> {
    // Docker does not count what `--tmpfs` asks for among them.
    let targets: Vec<String> = record.host.tmpfs.keys().map(|t| crate::mounts::clean(t)).collect();
    record
        .mounts
        .iter()
        .filter(|mount| !targets.contains(&mount.target))
        .map(|mount| {
            let mut volume = (String::new(), String::new());
            let (kind, source) = match &mount.kind {
                MountKind::Bind { source, .. } => ("bind", source.clone()),
                MountKind::Tmpfs { .. } => ("tmpfs", String::new()),
                MountKind::Volume { name, driver, .. } => {
                    volume = (name.clone(), driver.clone());
                    ("volume", inner.volume_place(name))
                }
                MountKind::Image { source, .. } => ("image", source.clone()),
            };
            let (name, driver) = volume;
            wire::MountPoint {
                kind: kind.to_owned(),
                name,
                driver,
                source,
                destination: mount.target.clone(),
                mode: mount.mode.clone(),
                rw: !mount.readonly,
                propagation: mount.propagation.clone(),
            }
        })
        .collect()
}

fn endpoints(inner: &Inner, record: &Record) -> BTreeMap<String, wire::EndpointSettings> {
    let predefined = |name: &str| {
        let mut settings = wire::EndpointSettings::default();
        if let (true, Ok(network)) = (record.state.phase.is_alive(), inner.networks.find(name)) {
            settings.network_id.clone_from(&network.id);
            settings.endpoint_id = attachments::endpoint_without_interface(record, &network.id);
        }
        BTreeMap::from([(name.to_owned(), settings)])
    };
    match record.network.mode {
        NetworkMode::Host => return predefined("host"),
        NetworkMode::None => return predefined("none"),
        NetworkMode::Container(_) => return BTreeMap::new(),
        NetworkMode::Networks => {}
    }
    let shown = |one: &Attachment| {
        let name = match inner.networks.by_id(&one.network) {
            Some(network) => network.name.clone(),
            // Removed meanwhile.
            None if one.name.is_empty() => one.network.clone(),
            None => one.name.clone(),
        };
        (name, inner.show_endpoint(record, one))
    };
    record.network.attachments.iter().map(shown).collect()
}

fn ports(record: &Record) -> wire::PortMap {
    let mut out = wire::PortMap::new();
    if !record.state.phase.is_alive() || record.network.endpoints.is_empty() {
        return out;
    }
    for port in record.config.exposed_ports.keys() {
        out.insert(port.clone(), None);
    }
    for port in bound(record) {
        let binding = wire::PortBinding {
            host_ip: port.host_ip.to_string(),
            host_port: port.host_port.to_string(),
        };
        out.entry(port.container.to_string()).or_default().get_or_insert_default().push(binding);
    }
    out
}

fn bound(record: &Record) -> impl Iterator<Item = &hoy_network::BoundPort> {
    record.network.endpoints.iter().flat_map(|endpoint| &endpoint.ports)
}

fn network(inner: &Inner, record: &Record) -> wire::NetworkSettings {
    let endpoints = endpoints(inner, record);
    let bridge = endpoints.get("bridge").cloned().unwrap_or_default();
    let alive = record.state.phase.is_alive();
    wire::NetworkSettings {
        sandbox_id: if alive { record.id.to_string() } else { String::new() },
        sandbox_key: if alive {
            format!("/proc/{}/ns/net", record.state.pid)
        } else {
            String::new()
        },
        ports: Some(ports(record)),
        endpoint_id: bridge.endpoint_id,
        gateway: bridge.gateway,
        global_ipv6_address: bridge.global_ipv6_address,
        global_ipv6_prefix_len: bridge.global_ipv6_prefix_len,
        ip_address: bridge.ip_address,
        ip_prefix_len: bridge.ip_prefix_len,
        ipv6_gateway: bridge.ipv6_gateway,
        mac_address: bridge.mac_address,
        networks: Some(endpoints),
        ..wire::NetworkSettings::default()
    }
}

/// What is published and what is exposed, as lists show it.
pub(crate) fn port_list(record: &Record) -> Vec<wire::PortSummary> {
    let mut ports = Vec::new();
    if !(record.state.phase.is_alive() && record.network.mode == NetworkMode::Networks) {
        return ports;
    }
    for bound in bound(record) {
        ports.push(wire::PortSummary {
            ip: bound.host_ip.to_string(),
            private_port: bound.container.port,
            public_port: bound.host_port,
            kind: bound.container.protocol.to_string(),
        });
    }
    for port in record.config.exposed_ports.keys() {
        if let Ok(spec) = crate::spec::port_spec(port)
            && !ports.iter().any(|known| {
                known.private_port == spec.port && known.kind == spec.protocol.to_string()
            })
        {
            ports.push(wire::PortSummary {
                private_port: spec.port,
                kind: spec.protocol.to_string(),
                ..wire::PortSummary::default()
            });
        }
    }
    ports
}

/// Its first word, and the others in quotes where they have spaces.
fn shown_command(command: &[String]) -> String {
    let others = command.iter().skip(1).map(|word| match word.contains(' ') {
        true => format!("'{word}'"),
        false => word.clone(),
    });
    command.first().cloned().into_iter().chain(others).collect::<Vec<_>>().join(" ")
}

pub(crate) fn summary(inner: &Inner, record: &Record) -> wire::ContainerSummary {
    wire::ContainerSummary {
        id: record.id.to_string(),
        names: Some(vec![format!("/{}", record.name)]),
        image: shown_image(inner, record),
        image_id: record.image.to_string(),
        command: shown_command(&record.command),
        created: record.created.seconds(),
        ports: Some(port_list(record)),
        labels: Some(record.config.labels.clone().unwrap_or_default()),
        state: record.state.shown().status().to_owned(),
        status: status(record, now()),
        host_config: wire::HostConfigSummary {
            network_mode: record.host.network_mode.clone(),
            ..wire::HostConfigSummary::default()
        },
        network_settings: Some(wire::NetworkSettingsSummary {
            networks: Some(endpoints(inner, record)),
        }),
        mounts: Some(mounts(inner, record)),
        health: health::shown(record).map(|health| wire::HealthSummary {
            status: health.status,
            failing_streak: health.failing_streak,
        }),
        ..wire::ContainerSummary::default()
    }
}

/// As asked for, while that name still means the same image; else the id.
fn shown_image(inner: &Inner, record: &Record) -> String {
    match inner.images.resolve(&record.config.image) {
        Ok(image) if image.id == record.image => record.config.image.clone(),
        _ => record.image.to_string(),
    }
}

/// `Up 3 seconds`, `Exited (0) 5 minutes ago`.
fn status(record: &Record, now: Timestamp) -> String {
    let state = &record.state;
    match state.shown() {
        Phase::Created | Phase::Starting => "Created".to_owned(),
        Phase::Removing => "Removal In Progress".to_owned(),
        Phase::Running => {
            let up = format!("Up {}", since(state.started_at, now));
            health::in_a_list(record).map_or_else(|| up.clone(), |text| format!("{up} ({text})"))
        }
        Phase::Paused => format!("Up {} (Paused)", since(state.started_at, now)),
        Phase::Restarting => {
            format!("Restarting ({}) {} ago", state.exit_code, since(state.finished_at, now))
        }
        Phase::Exited => {
            format!("Exited ({}) {} ago", state.exit_code, since(state.finished_at, now))
        }
    }
}

/// Docker's way of saying how long.
fn since(then: Timestamp, now: Timestamp) -> String {
    let seconds = (now.seconds() - then.seconds()).max(0);
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        _ if minutes == 1 => "About a minute".to_owned(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_as_people_would_type_them() {
        let words = ["sh", "-c", "echo a b", "x"].map(str::to_owned);
        assert_eq!(shown_command(&words), "sh -c 'echo a b' x");
        assert_eq!(shown_command(&[]), "");
    }

    #[test]
    fn durations_in_words() {
        let at = |seconds| since(Timestamp::from_parts(0, 0), Timestamp::from_parts(seconds, 0));
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (300, "5 minutes"),
            (3600, "About an hour"),
            (4 * 3600, "4 hours"),
            (3 * 86_400, "3 days"),
        ] {
            assert_eq!(at(seconds), text);
        }
    }
}
