//! Process numbers and IPC that containers share: what a mode means, and whose they are at a start.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use hoy_config::Settings;
use hoy_runtime::NamespaceMode;
use hoy_types::{ContainerId, ErrorKind};
use hoy_wire::{ContainerConfig, HostConfig};

use crate::engine::Inner;
use crate::error::{Error, Result};
use crate::life::Phase;
use crate::record::Record;

/// The processes (pidfd) whose namespaces a container is to have.
#[derive(Debug, Default)]
pub(crate) struct Others {
    pub pid: Option<OwnedFd>,
    pub ipc: Option<OwnedFd>,
    /// The user namespace that these belong to, where the container is to have one: it is that.
    pub userns: Option<Arc<OwnedFd>>,
}

impl Others {
    /// In the order that a supervisor expects them in, behind network and user namespace.
    pub fn into_descriptors(self) -> impl Iterator<Item = OwnedFd> {
        self.pid.into_iter().chain(self.ipc)
    }
}

/// The other container that a mode names.
fn named(mode: &str) -> Option<&str> {
    mode.strip_prefix("container:")
}

/// Whose namespace a mode gives.
pub(crate) fn mode(text: &str) -> NamespaceMode {
    match text {
        "host" => NamespaceMode::Host,
        text if named(text).is_some() => NamespaceMode::Given,
        _ => NamespaceMode::New,
    }
}

/// Docker's rules for `--pid`, `--ipc`, `--uts` and `--cgroupns`, and the daemon's defaults. The
/// others are named by their ids from now on: other containers may get their names.
pub(crate) fn settle(
    config: &ContainerConfig,
    host: &mut HostConfig,
    settings: &Settings,
    find: impl Fn(&str) -> Result<ContainerId>,
) -> Result<()> {
    if host.ipc_mode.is_empty() {
        host.ipc_mode.clone_from(&settings.default_ipc_mode);
    }
    if host.cgroupns_mode.is_empty() {
        host.cgroupns_mode.clone_from(&settings.default_cgroupns_mode);
    }
    if !matches!(host.cgroupns_mode.as_str(), "private" | "host") {
        let text = format!("invalid cgroup namespace mode: {}", host.cgroupns_mode);
        return Err(Error::invalid(text));
    }
    if !matches!(host.uts_mode.as_str(), "" | "host") {
        return Err(Error::invalid(format!("invalid UTS mode: {}", host.uts_mode)));
    }
    if host.uts_mode == "host" && !config.hostname.is_empty() {
        return Err(Error::invalid("conflicting options: hostname and the UTS mode"));
    }
    let usual = ["private", "shareable", "host", "none"];
    if !usual.contains(&host.ipc_mode.as_str()) && named(&host.ipc_mode).is_none() {
        return Err(Error::invalid(format!("invalid IPC mode: {}", host.ipc_mode)));
    }
    if !matches!(host.pid_mode.as_str(), "" | "host") && named(&host.pid_mode).is_none() {
        return Err(Error::invalid(format!("invalid PID mode: {}", host.pid_mode)));
    }
    for mode in [&mut host.pid_mode, &mut host.ipc_mode] {
        if let Some(name) = named(mode) {
            if name.is_empty() {
                return Err(Error::invalid("invalid name or ID supplied: \"\""));
            }
            // Not "not found", which would mean the image to clients.
            let id = find(name).map_err(|error| Error::invalid(error.to_string()))?;
            *mode = format!("container:{id}");
        }
    }
    let others = [&host.pid_mode, &host.ipc_mode].into_iter().any(|mode| named(mode).is_some());
    if others && settings.runtimes.contains_key(&host.runtime) {
        return Err(Error::unavailable(
            "to share with another container (--pid, --ipc) with another runtime (--runtime)",
        ));
    }
    Ok(())
}

impl Inner {
    /// The others of a container that is about to start. Blocks.
    pub fn others(&self, record: &Record) -> Result<Others> {
        let mut out = Others::default();
        let remapped = self.userns(&record.host).is_some();
        for (kind, mode) in [("PID", &record.host.pid_mode), ("IPC", &record.host.ipc_mode)] {
            let Some(id) = named(mode) else { continue };
            // As Docker: whatever is wrong with another is this one's failure to start.
            let refused = |error: Error| {
                let text = format!("failed to join {kind} namespace: {error}");
                Error::new(ErrorKind::System, text).with_source(error)
            };
            let (process, other) = self.other(id, kind == "IPC").map_err(refused)?;
            if remapped {
                let doing = format!("join {kind} namespace");
                let userns = self.userns_of(&other, &doing).map_err(refused)?.into();
                match &out.userns {
                    None => out.userns = Some(Arc::new(userns)),
                    Some(known) => same(known, &userns).map_err(refused)?,
                }
            }
            match kind {
                "PID" => out.pid = Some(process),
                _ => out.ipc = Some(process),
            }
        }
        Ok(out)
    }

    fn other(&self, id: &str, ipc: bool) -> Result<(OwnedFd, Arc<Record>)> {
        let handle = self.registry.find(id)?;
        let record = handle.record();
        let not_running = || Error::conflict(format!("container {id} is not running"));
        if record.state.phase == Phase::Restarting {
            return Err(Error::conflict(format!(
                "Container {id} is restarting, wait until the container is running"
            )));
        }
        if !record.state.phase.is_alive() {
            return Err(not_running());
        }
        if ipc && matches!(record.host.ipc_mode.as_str(), "private" | "none") {
            return Err(Error::invalid(format!(
                "container {id}: non-shareable IPC (hint: use IpcMode:shareable for the donor \
                 container)"
            )));
        }
        let pid = rustix::process::Pid::from_raw(record.state.pid).ok_or_else(not_running)?;
        let held = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
            .map_err(|_| not_running())?;
        // Its supervisor has not let go of the number while it is said to run with it.
        let now = handle.record();
        if !now.state.phase.is_alive() || now.state.pid != record.state.pid {
            return Err(not_running());
        }
        Ok((held, now))
    }
}

/// What a container shares with several must be of one user namespace: it can only be in one.
pub(crate) fn same(one: &OwnedFd, other: &OwnedFd) -> Result<()> {
    let of = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino)).ok();
    match of(one) == of(other) {
        true => Ok(()),
        false => Err(Error::conflict(
            "the containers that it shares namespaces with have different user namespaces",
        )
        .hint("one of them can join the other, as with --network container:NAME")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        let settings = Settings::default();
        let id = "1".repeat(64);
        let find = |name: &str| match name {
            "there" => Ok(id.parse().unwrap()),
            name => Err(Error::not_found(format!("No such container: {name}"))),
        };
        let config = ContainerConfig::default();
        let host = |ipc: &str, pid: &str, uts: &str, cgroup: &str| HostConfig {
            ipc_mode: ipc.into(),
            pid_mode: pid.into(),
            uts_mode: uts.into(),
            cgroupns_mode: cgroup.into(),
            ..HostConfig::default()
        };
        let mut plain = host("", "", "", "");
        settle(&config, &mut plain, &settings, find).unwrap();
        assert_eq!((plain.ipc_mode.as_str(), plain.cgroupns_mode.as_str()), ("private", "private"));
        let mut shares = host("container:there", "container:there", "host", "host");
        settle(&config, &mut shares, &settings, find).unwrap();
        assert_eq!(shares.pid_mode, format!("container:{id}"));
        assert_eq!(mode(&shares.ipc_mode), NamespaceMode::Given);
        for (mut bad, says) in [
            (host("x", "", "", ""), "invalid IPC mode: x"),
            (host("", "x", "", ""), "invalid PID mode: x"),
            (host("", "", "container:there", ""), "invalid UTS mode: container:there"),
            (host("", "", "", "x"), "invalid cgroup namespace mode: x"),
            (host("container:", "", "", ""), "invalid name or ID supplied: \"\""),
            (host("container:gone", "", "", ""), "No such container: gone"),
        ] {
            let error = settle(&config, &mut bad, &settings, find).unwrap_err();
            assert_eq!(error.to_string(), says);
        }
        let named = ContainerConfig { hostname: "x".into(), ..ContainerConfig::default() };
        assert!(settle(&named, &mut host("", "", "host", ""), &settings, find).is_err());
    }
}
