//! The disk: what everything takes, pressure, and what nobody owns.

mod check;
mod pressure;
mod sizes;
mod usage;

pub(crate) use pressure::Pressure;
pub(crate) use sizes::{Sizes, Tree};
pub use usage::{DiskUsage, UsageKinds};

use std::sync::Arc;
use std::time::Duration;

use crate::engine::Engine;

/// How often what nobody owns is looked for.
const CHECK: Duration = Duration::from_secs(3600);

impl Engine {
    /// Begins what watches the disk behind everything else.
    pub(crate) fn watch_the_disk(&self) {
        tokio::spawn(sizes::keep(Arc::clone(&self.inner)));
        tokio::spawn(pressure::watch(Arc::clone(&self.inner)));
        let engine = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(CHECK).await;
                match engine.check(false).await {
                    Ok(report) => report.findings.iter().for_each(|found| {
                        tracing::warn!(kind = found.kind, what = found.what, "nobody owns this");
                    }),
                    Err(error) => tracing::warn!(%error, "look for what nobody owns"),
                }
            }
        });
    }
}
