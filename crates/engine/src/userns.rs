//! User namespaces: whose ids containers have on the machine, and what does not go with them.

use hoy_config::{IdFiles, Settings};
use hoy_types::IdMaps;
use hoy_wire::HostConfig;

use crate::engine::Inner;
use crate::error::{Error, Result, failed};
use crate::record::Record;

/// What `userns-remap` comes to on this machine.
pub(crate) fn maps(settings: &Settings) -> Result<Option<IdMaps>> {
    let Some(value) = &settings.userns_remap else { return Ok(None) };
    let read = |path: &str| match std::fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(failed(&format!("read {path}"))(error)),
    };
    let files = IdFiles {
        passwd: read("/etc/passwd")?,
        group: read("/etc/group")?,
        subuid: read("/etc/subuid")?,
        subgid: read("/etc/subgid")?,
    };
    let maps = hoy_config::remap(value, &files);
    let maps = maps.map_err(|error| Error::invalid(error.to_string()))?;
    if maps.is_none() {
        tracing::warn!("User namespaces: root cannot be remapped with itself: they are off");
    }
    Ok(maps)
}

/// Docker's rules for what cannot be had in a user namespace.
pub(crate) fn check(host: &HostConfig, remapped: bool) -> Result<()> {
    let text = match host.userns_mode.as_str() {
        "host" => return Ok(()),
        "" if !remapped => return Ok(()),
        "" if host.privileged => {
            "privileged mode is incompatible with user namespaces.  You must run the container in \
             the host namespace when running privileged mode"
        }
        "" if host.network_mode == "host" => {
            "cannot share the host's network namespace when user namespaces are enabled"
        }
        "" if host.pid_mode == "host" => {
            "cannot share the host PID namespace when user namespaces are enabled"
        }
        "" => return Ok(()),
        other => return Err(Error::invalid(format!("invalid user namespace mode: {other}"))),
    };
    Err(Error::invalid(text))
}

impl Inner {
    /// The ids of a container's own user namespace, if it is to have one.
    pub fn userns(&self, host: &HostConfig) -> Option<&IdMaps> {
        self.id_maps.as_ref().filter(|_| host.userns_mode != "host")
    }

    /// A container's other namespaces belong to its user namespace: who shares one shares that.
    pub fn userns_of(&self, other: &Record, to: &str) -> Result<std::fs::File> {
        let path = |file: &str| format!("/proc/{}/{file}", other.state.pid);
        let doing = || failed("open the other's user namespace");
        let userns = std::fs::File::open(path("ns/user")).map_err(doing())?;
        for (file, wanted) in [
            ("uid_map", self.id_maps.as_ref().map(IdMaps::uid_map)),
            ("gid_map", self.id_maps.as_ref().map(IdMaps::gid_map)),
        ] {
            let text = std::fs::read_to_string(path(file)).map_err(doing())?;
            if !wanted.is_some_and(|wanted| text.split_whitespace().eq(wanted.split_whitespace())) {
                return Err(Error::conflict(format!(
                    "cannot {to} of container {}: its user namespace has other ids",
                    other.name
                )));
            }
        }
        Ok(userns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_go_together() {
        let host = |mode: &str| HostConfig { userns_mode: mode.into(), ..HostConfig::default() };
        for (change, says) in [
            (HostConfig { privileged: true, ..host("") }, "privileged mode is incompatible"),
            (HostConfig { network_mode: "host".into(), ..host("") }, "the host's network"),
            (HostConfig { pid_mode: "host".into(), ..host("") }, "the host PID"),
        ] {
            assert!(check(&change, true).unwrap_err().to_string().contains(says));
            check(&change, false).unwrap();
            check(&HostConfig { userns_mode: "host".into(), ..change }, true).unwrap();
        }
        check(&host(""), true).unwrap();
        assert!(check(&host("private"), false).is_err());
    }
}
