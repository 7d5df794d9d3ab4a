//! A container loses a link.

use std::sync::Arc;

use super::Driver;
use crate::error::{Result, lost};
use crate::links::split;

impl Driver {
    /// Written down first: should the daemon die now, the next one opens nothing for it.
    pub(super) async fn unlink(&mut self, alias: &str) -> Result<()> {
        let before = self.record.host.links.clone();
        let other = |link: &String| split(link).map_or(true, |(_, known)| known != alias);
        self.record.host.links.iter_mut().for_each(|links| links.retain(other));
        if let Err(error) = self.inner.save(&self.record).await {
            self.record.host.links = before;
            return Err(error);
        }
        self.publish();
        if !self.record.state.phase.is_alive() {
            return Ok(());
        }
        let (inner, record) = (Arc::clone(&self.inner), self.record.clone());
        let alias = alias.to_owned();
        let done = tokio::task::spawn_blocking(move || inner.forget_link(&record, &alias));
        done.await.map_err(lost)?
    }
}
