//! Containers' records in the database, and what goes when they go.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hoy_store::{Durability, Op, Store};
use hoy_types::ContainerId;

use super::{CONTAINER, Inner};
use crate::error::{Result, failed, lost};
use crate::record::{NetworkMode, Record};
use crate::sandbox::noted_endpoints;
use crate::volumes;

impl Inner {
    pub fn put_record(&self, record: &Record) -> Result<Op> {
        let body = serde_json::to_vec(record).map_err(failed("write down a container"))?;
        Ok(Op::Put { kind: CONTAINER, key: record.key().to_owned(), body })
    }

    /// As durable as the container: what is removed at its exit need not survive a power cut.
    pub async fn save(self: &Arc<Self>, record: &Record) -> Result<()> {
        let durability =
            if record.host.auto_remove { Durability::Written } else { Durability::Sync };
        self.write(vec![self.put_record(record)?], durability).await
    }

    pub(super) async fn write(
        self: &Arc<Self>,
        ops: Vec<Op>,
        durability: Durability,
    ) -> Result<()> {
        let inner = Arc::clone(self);
        tokio::task::spawn_blocking(move || inner.store.write(ops, durability))
            .await
            .map_err(lost)?
            .map_err(failed("write to the database"))
    }

    /// A new container: from here on its volumes have it.
    pub async fn save_new(self: &Arc<Self>, record: &Record) -> Result<()> {
        let durability =
            if record.host.auto_remove { Durability::Written } else { Durability::Sync };
        let ops = volumes::adopted(&record.mounts).chain([self.put_record(record)?]);
        self.write(ops.collect(), durability).await
    }

    /// Takes everything of a container back. The record first: what is left after a crash is
    /// swept at the next start.
    pub async fn forget(self: &Arc<Self>, record: &Record, volumes: bool) -> Result<()> {
        let durability =
            if record.host.auto_remove { Durability::Written } else { Durability::Sync };
        let mut ops = vec![Op::Delete { kind: CONTAINER, key: record.key().to_owned() }];
        if volumes {
            ops.extend(volumes::orphaned(&record.mounts));
        } else {
            // An earlier attempt may have been to take them, too: the last word counts.
            ops.extend(volumes::adopted(&record.mounts));
        }
        self.write(ops, durability).await?;
        self.execs_of_removed(&record.id);
        let inner = Arc::clone(self);
        let record = record.clone();
        let discarded = tokio::task::spawn_blocking(move || {
            let _ = std::fs::remove_dir_all(inner.files_directory(&record.id));
            inner.discard_container(&record)
        });
        discarded.await.map_err(lost)?.map_err(failed("remove the container's files"))
    }

    pub fn remove_later(&self, id: &ContainerId) {
        // A full queue leaves the container as it is: it can be removed by hand.
        let _ = self.removals.try_send(id.clone());
    }

    pub fn log_path(&self, record: &Record) -> PathBuf {
        let id = &record.id;
        self.store.container_directory(id.as_str()).join(
            match crate::logging::format(&record.host) {
                hoy_logs::Format::Json => format!("{id}-json.log"),
                hoy_logs::Format::Local => "container.log".to_owned(),
            },
        )
    }
}

/// All containers that there are, with what was noted of the networks of those that run.
pub(super) fn read(store: &Store, exec_root: &Path) -> Result<Vec<Record>> {
    let documents = store.documents(CONTAINER).map_err(failed("read the containers"))?;
    let mut records = Vec::new();
    for (key, body) in documents {
        match serde_json::from_slice::<Record>(&body) {
            Ok(mut record) => {
                if let Some(found) = noted_endpoints(exec_root, record.key()) {
                    record.network.endpoints = found;
                    forget_cut_off(&mut record);
                }
                records.push(record);
            }
            Err(error) => tracing::error!(container = key, %error, "an unreadable record"),
        }
    }
    Ok(records)
}

/// A daemon that ended while a running container was connected or disconnected left a wish without
/// an endpoint: the container is not in that network.
fn forget_cut_off(record: &mut Record) {
    if record.state.phase.is_alive() && record.network.mode == NetworkMode::Networks {
        let network = &mut record.network;
        let there = |id: &String| network.endpoints.iter().any(|one| one.network == *id);
        network.attachments.retain(|one| there(&one.network));
    }
}
