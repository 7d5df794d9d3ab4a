//! What comes back when the daemon starts: containers whose policies say so, each after those that
//! it needs, some at a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hoy_types::ContainerId;
use tokio::sync::{Semaphore, watch};

use crate::driver::Command;
use crate::engine::Engine;
use crate::record::{NetworkMode, Record};
use crate::registry::Handle;
use crate::restart;

/// Containers that are started at the same time.
const AT_ONCE: usize = 8;
/// How long one waits for those that it needs, as with Docker.
const NEEDED: Duration = Duration::from_secs(5);

impl Engine {
    /// Asks every container that has a policy, oldest first. Does not wait for the starts.
    pub(crate) fn begin(&self) {
        let mut candidates: Vec<Handle> = self.inner.registry.all();
        candidates.retain(|handle| restart::has_policy(&handle.record().host));
        candidates.reverse();
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let mut begun = HashMap::new();
        let mut tellers = Vec::new();
        for handle in candidates {
            let (tell, told) = watch::channel(false);
            begun.insert(handle.id.clone(), told);
            tellers.push((handle, tell));
        }
        for (handle, tell) in tellers {
            let needed = self.needed(&handle.record());
            let mut needed: Vec<watch::Receiver<bool>> =
                needed.iter().filter_map(|id| begun.get(id).cloned()).collect();
            let turns = Arc::clone(&turns);
            tokio::spawn(async move {
                let all = async {
                    for told in &mut needed {
                        let _ = told.wait_for(|begun| *begun).await;
                    }
                };
                let _ = tokio::time::timeout(NEEDED, all).await;
                let _turn = turns.acquire().await;
                if let Err(error) = handle.ask(Command::Begin).await {
                    tracing::warn!(container = handle.id.short(), %error, "start with the daemon");
                }
                let _ = tell.send(true);
            });
        }
    }

    /// The containers that must run before this one can.
    fn needed(&self, record: &Record) -> Vec<ContainerId> {
        let mut out = Vec::new();
        if let NetworkMode::Container(other) = &record.network.mode {
            out.push(other.clone());
        }
        let links = record.host.links.iter().flatten();
        let linked = links.map(|link| link.split(':').next().unwrap_or(link).to_owned());
        let modes = [&record.host.ipc_mode, &record.host.pid_mode];
        let shared = modes.into_iter().filter_map(|mode| mode.strip_prefix("container:"));
        for name in linked.chain(shared.map(str::to_owned)) {
            out.extend(self.inner.registry.find(&name).ok().map(|handle| handle.id));
        }
        out.retain(|id| *id != record.id);
        out
    }
}
