//! What a start needs beside the record, gathered from the host for `plan`, which decides.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hoy_images::RootfsTicket;
use hoy_runtime::ContainerPlan;

use super::Inner;
use super::names::hostname;
use crate::error::{Result, failed};
use crate::plan::{self, Facts};
use crate::record::{LabelRecord, MountKind, NetworkMode, Record};

impl Inner {
    /// Writes the container's files and makes its plan. The ticket keeps its layers.
    pub fn container_plan(
        &self,
        record: &Record,
        volumes: &BTreeMap<String, PathBuf>,
    ) -> Result<(ContainerPlan, RootfsTicket, LabelRecord)> {
        let labels = self.labels_now(record)?;
        let ticket = self.images.layers(record.layers.clone()).map_err(failed("open the image"))?;
        let hostname = hostname(record);
        let files = self.files_of_the_network(record);
        if !matches!(record.network.mode, NetworkMode::Container(_)) {
            self.write_files(record, &hostname, &files)?;
        }
        let mut table = None;
        for mount in &record.mounts {
            if let MountKind::Bind { source, .. } = &mount.kind
                && !matches!(mount.propagation.as_str(), "private" | "rprivate")
            {
                let table = table.get_or_insert_with(|| {
                    std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()
                });
                crate::mounts::check_propagation(table, source, &mount.propagation)?;
            }
            if let MountKind::Bind { source, create: true, .. } = &mount.kind
                && self.socket_for(source).is_none()
            {
                std::fs::create_dir_all(source)
                    .or_else(|error| match error.kind() {
                        std::io::ErrorKind::AlreadyExists => Ok(()),
                        _ => Err(error),
                    })
                    .map_err(failed(&format!("make the bind mount's source {source}")))?;
            }
        }
        let directory = self.layer_directory(record);
        let settings = self.current();
        let facts = Facts {
            settings: &settings,
            socket: &|source| self.socket_for(source),
            layers: ticket.layers.clone(),
            upper: directory.join("upper"),
            work: directory.join("work"),
            files: &files,
            init: self.init.clone(),
            hostname,
            limits: self.limits(&record.host)?,
            devices: crate::devices::gather(&record.host)?,
            cdi: crate::cdi::edits(&record.host, &self.settings)?,
            seccomp: &|host, capabilities| self.filters.filter(host, capabilities),
            seccomp_rules: &|host, capabilities| self.filters.rules(host, capabilities),
            userns: self.userns(&record.host).cloned(),
            labels: labels.clone(),
            volumes,
            layer: &|key| self.store.layer_path(key),
            environment: self
                .links_of_the_bridge(record)?
                .into_iter()
                .flat_map(|link| link.environment)
                .collect(),
        };
        Ok((plan::container(record, facts)?, ticket, labels))
    }
}
