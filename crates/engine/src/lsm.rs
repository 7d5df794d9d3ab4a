//! What the host's security modules confine containers as: the request and the host decide.

use std::collections::HashSet;

use hoy_runtime::ProcessLabels;
use hoy_wire::HostConfig;

use crate::apparmor::{self, AppArmor};
use crate::engine::{Inner, random};
use crate::error::{Error, Result};
use crate::record::{LabelRecord, Record};
use crate::selinux::{self, SeLinux};

/// The modules of this host that hoy uses.
#[derive(Debug, Default)]
pub(crate) struct Lsm {
    apparmor: Option<AppArmor>,
    selinux: Option<SeLinux>,
    /// What `info` is to say about them.
    pub warnings: Vec<String>,
}

impl Lsm {
    /// Looks at the host and loads the default profile where AppArmor is on.
    pub fn open(selinux_enabled: bool) -> Self {
        let mut lsm = Self { apparmor: AppArmor::of_this_host(), ..Self::default() };
        match lsm.apparmor.as_ref().map(AppArmor::has_default) {
            None | Some(Ok(true)) => {}
            Some(Ok(false)) => lsm.warn(format!(
                "AppArmor is on, but there is no apparmor_parser to load the profile {}: \
                 containers run without one",
                apparmor::DEFAULT
            )),
            // Every start tries again, and fails for this reason.
            Some(Err(error)) => lsm.warn(error.to_string()),
        }
        if selinux_enabled {
            match SeLinux::of_this_host() {
                Ok(Some(found)) => lsm.selinux = Some(found),
                Ok(None) => lsm.warn("SELinux is not enabled on this host".to_owned()),
                Err(reason) => lsm.warn(format!("SELinux labels no containers: {reason}")),
            }
        }
        lsm
    }

    fn warn(&mut self, text: String) {
        tracing::warn!("{text}");
        self.warnings.push(format!("WARNING: {text}"));
    }

    pub fn apparmor(&self) -> bool {
        self.apparmor.is_some()
    }

    pub fn selinux(&self) -> bool {
        self.selinux.is_some()
    }

    /// Refuses what this host cannot give.
    pub fn check(&self, host: &HostConfig) -> Result<()> {
        if let (None, Some(name)) = (&self.apparmor, asked_profile(host))
            && name != apparmor::UNCONFINED
        {
            return Err(Error::invalid(format!(
                "--security-opt apparmor={name}: AppArmor is not enabled on this host"
            )));
        }
        if !selinux::only_disabled(&label_options(host))? && self.selinux.is_none() {
            return Err(Error::invalid(
                "--security-opt label: SELinux is not enabled on this host, or not for this \
                 daemon (selinux-enabled)",
            ));
        }
        Ok(())
    }

    /// The profile that a container starts under; empty for none.
    pub fn profile(&self, host: &HostConfig) -> Result<String> {
        let Some(apparmor) = &self.apparmor else { return Ok(String::new()) };
        let profile = chosen_profile(host);
        if profile == apparmor::DEFAULT && !apparmor.has_default()? && asked_profile(host).is_none()
        {
            return Ok(String::new());
        }
        Ok(profile.to_owned())
    }
}

/// The last one counts.
fn asked_profile(host: &HostConfig) -> Option<&str> {
    options(host, "apparmor").last()
}

fn chosen_profile(host: &HostConfig) -> &str {
    match asked_profile(host) {
        // The name by which Docker's users know the default one.
        Some("docker-default") => apparmor::DEFAULT,
        Some(name) => name,
        None if host.privileged => apparmor::UNCONFINED,
        None => apparmor::DEFAULT,
    }
}

fn label_options(host: &HostConfig) -> Vec<&str> {
    options(host, "label").collect()
}

/// The values of an option, with the separator of today or the one of old.
fn options<'a>(host: &'a HostConfig, name: &'static str) -> impl Iterator<Item = &'a str> {
    host.security_opt
        .iter()
        .flatten()
        .filter_map(move |option| option.strip_prefix(name)?.strip_prefix(['=', ':']))
}

/// Who shares the host's processes or memory, or is privileged, is not separated by labels: as
/// Docker, told in the container's own settings.
pub(crate) fn fill_host(host: &mut HostConfig) {
    let shares = host.privileged || host.ipc_mode == "host" || host.pid_mode == "host";
    if shares && label_options(host).is_empty() {
        host.security_opt.get_or_insert_default().push("label=disable".to_owned());
    }
}

impl Inner {
    /// The labels of a new container.
    pub fn labels(&self, host: &HostConfig) -> Result<LabelRecord> {
        let Some(selinux) = &self.lsm.selinux else { return Ok(LabelRecord::default()) };
        let records = self.registry.all().into_iter().map(|handle| handle.record());
        let used: HashSet<String> = records
            .filter_map(|record| selinux::level_of(&record.labels.mount).map(str::to_owned))
            .collect();
        let level = selinux::unique_level(&used, || {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&random()?[..8]);
            Ok(u64::from_ne_bytes(bytes))
        })?;
        let labels = selinux.labels(&label_options(host), &level)?;
        let selinux::Labels { process, mount } = labels;
        Ok(LabelRecord { process, mount, ..LabelRecord::default() })
    }

    /// What a start of a container tells the kernel. What the record says of SELinux counts only
    /// while it is in use.
    pub fn labels_now(&self, record: &Record) -> Result<LabelRecord> {
        self.lsm.check(&record.host)?;
        let apparmor = self.lsm.profile(&record.host)?;
        if self.lsm.selinux.is_none() {
            return Ok(LabelRecord { apparmor, ..LabelRecord::default() });
        }
        if record.labels.mount.is_empty() {
            // It was made before SELinux was.
            return Ok(LabelRecord { apparmor, ..self.labels(&record.host)? });
        }
        Ok(LabelRecord { apparmor, ..record.labels.clone() })
    }
}

impl LabelRecord {
    /// What its processes are confined as.
    pub fn of_processes(&self) -> ProcessLabels {
        ProcessLabels { apparmor: self.apparmor.clone(), selinux: self.process.clone() }
    }

    /// What the source of a bind mount is labelled as, by the words `z` and `Z` of its mode.
    pub fn of_source(&self, mode: &str) -> Option<String> {
        let word = |wanted: &str| mode.split(',').any(|word| word == wanted);
        match (self.mount.as_str(), word("z"), word("Z")) {
            ("", ..) | (_, false, false) => None,
            (label, true, _) => Some(selinux::shared(label)),
            (label, false, true) => Some(label.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(options: &[&str]) -> HostConfig {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        HostConfig { security_opt: Some(options), ..HostConfig::default() }
    }

    #[test]
    fn profiles_by_request() {
        assert_eq!(chosen_profile(&host(&[])), "hoy-default");
        assert_eq!(chosen_profile(&host(&["apparmor=docker-default"])), "hoy-default");
        assert_eq!(chosen_profile(&host(&["apparmor:one", "apparmor=two"])), "two");
        let privileged = HostConfig { privileged: true, ..host(&[]) };
        assert_eq!(chosen_profile(&privileged), "unconfined");
        let privileged = HostConfig { privileged: true, ..host(&["apparmor=mine"]) };
        assert_eq!(chosen_profile(&privileged), "mine");
    }

    #[test]
    fn without_modules_only_what_asks_for_nothing() {
        let none = Lsm::default();
        for options in [&[][..], &["apparmor=unconfined"], &["label=disable"], &["label:disable"]] {
            none.check(&host(options)).unwrap();
            assert_eq!(none.profile(&host(options)).unwrap(), "");
        }
        for (option, says) in [
            ("apparmor=mine", "apparmor=mine: AppArmor is not enabled on this host"),
            ("label=type:spc_t", "SELinux is not enabled on this host"),
            ("label=nonsense", "bad label option \"nonsense\""),
        ] {
            let error = none.check(&host(&[option])).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn who_shares_with_the_host_has_no_label() {
        let filled = |mut host: HostConfig| {
            fill_host(&mut host);
            host.security_opt.unwrap_or_default()
        };
        assert!(filled(HostConfig::default()).is_empty());
        let privileged = HostConfig { privileged: true, ..HostConfig::default() };
        assert_eq!(filled(privileged), ["label=disable"]);
        let shares = HostConfig { pid_mode: "host".into(), ..HostConfig::default() };
        assert_eq!(filled(shares), ["label=disable"]);
        let asked = HostConfig { ipc_mode: "host".into(), ..host(&["label=type:t"]) };
        assert_eq!(filled(asked), ["label=type:t"]);
    }

    #[test]
    fn sources_by_mode() {
        let labels = LabelRecord { mount: "u:o:f_t:s0:c1,c2".into(), ..LabelRecord::default() };
        assert_eq!(labels.of_source("ro"), None);
        assert_eq!(labels.of_source("ro,z").unwrap(), "u:o:f_t:s0");
        assert_eq!(labels.of_source("Z").unwrap(), "u:o:f_t:s0:c1,c2");
        assert_eq!(LabelRecord::default().of_source("Z"), None);
    }
}
