//! Other people's firewalls: what stands in the way of containers' packets is known, told, and
//! passed where the settings say so.
//!
//! Nobody waits for a look at the host's rules but the daemon's start: whoever asks gets what the
//! last one saw, and a new one is begun behind him now and then.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hoy_network::foreign::{self, Obstacle};
use hoy_network::{NetworkError, Watcher};

use crate::engine::Inner;

/// Looks follow one another no sooner, however often somebody asks.
const BETWEEN_LOOKS: Duration = Duration::from_secs(5);

/// What the last look saw.
#[derive(Default)]
pub(crate) struct Barriers {
    seen: Mutex<Seen>,
    looking: AtomicBool,
    /// One at a time changes their rules; nobody any more, once they were taken back.
    ended: Mutex<bool>,
    /// Only where their rules are ours to mend.
    watcher: Mutex<Option<Watcher>>,
}

#[derive(Default)]
struct Seen {
    obstacles: Vec<Obstacle>,
    at: Option<Instant>,
    /// What the log said last.
    told: Vec<String>,
}

impl Barriers {
    /// The first look, and the rules that the settings ask for or ask no more for. Blocks.
    pub fn start(inner: &Arc<Inner>) {
        if let Err(error) = inner.barriers.settle(inner) {
            tracing::warn!(%error, "look at other people's firewalls");
        }
        if !inner.settings.networking.allow_through_firewall {
            return;
        }
        let watched = Arc::downgrade(inner);
        let watcher = Watcher::start(move || match watched.upgrade() {
            Some(inner) => inner.barriers.settle(&inner).map(|()| false),
            None => Ok(false),
        });
        match watcher {
            Ok(watcher) => {
                let mut place =
                    inner.barriers.watcher.lock().unwrap_or_else(PoisonError::into_inner);
                *place = Some(watcher);
            }
            Err(error) => tracing::warn!(%error, "watch other people's firewalls"),
        }
    }

    /// Lets what is to pass pass, and looks what is left. Blocks.
    fn settle(&self, inner: &Inner) -> Result<(), NetworkError> {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if *ended {
            return Ok(());
        }
        let allowed = match inner.settings.networking.allow_through_firewall {
            true => inner.network.bridges(),
            false => Vec::new(),
        };
        for refused in foreign::allow(&allowed)? {
            let (table, chain) = (&refused.table, &refused.chain);
            tracing::warn!(table, chain, error = %refused.error, "another firewall");
        }
        let obstacles = foreign::detect()?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.obstacles = obstacles;
        seen.at = Some(Instant::now());
        Ok(())
    }

    /// Takes our rules out of other people's chains. Blocks.
    pub fn take_back(&self) -> Result<(), NetworkError> {
        drop(self.watcher.lock().unwrap_or_else(PoisonError::into_inner).take());
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        for refused in foreign::take_back()? {
            let (table, chain) = (&refused.table, &refused.chain);
            tracing::warn!(table, chain, error = %refused.error, "another firewall");
        }
        Ok(())
    }
}

impl Inner {
    /// One line for each chain that stops packets of our bridges, with the command that helps.
    /// Never waits.
    pub fn barriers_in_the_way(self: &Arc<Self>) -> Vec<String> {
        self.look_again();
        let bridges = self.network.bridges();
        let seen = self.barriers.seen.lock().unwrap_or_else(PoisonError::into_inner);
        messages(&seen.obstacles, &bridges)
    }

    /// Begins a look, if the last one is old.
    fn look_again(self: &Arc<Self>) {
        let barriers = &self.barriers;
        let at = barriers.seen.lock().unwrap_or_else(PoisonError::into_inner).at;
        if at.is_some_and(|at| at.elapsed() < BETWEEN_LOOKS)
            || barriers.looking.swap(true, Ordering::AcqRel)
        {
            return;
        }
        let inner = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = inner.barriers.settle(&inner) {
                tracing::warn!(%error, "look at other people's firewalls");
            }
            inner.barriers.looking.store(false, Ordering::Release);
        });
    }

    /// A network has come or gone. Blocks.
    pub fn bridges_changed(&self) {
        if self.settings.networking.allow_through_firewall
            && let Err(error) = self.barriers.settle(self)
        {
            tracing::warn!(%error, "pass other people's firewalls");
        }
    }

    /// Says in the log, once, that a container with a network may not be reached, or reach others.
    pub fn tell_barriers(self: &Arc<Self>) {
        let now = self.barriers_in_the_way();
        let mut seen = self.barriers.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.told != now {
            now.iter().for_each(|line| tracing::warn!("{line}"));
            seen.told = now;
        }
    }
}

/// Pure: each obstacle for the first bridge that it is one for.
fn messages(obstacles: &[Obstacle], bridges: &[String]) -> Vec<String> {
    let one = |obstacle: &Obstacle| {
        let bridge = bridges.iter().find(|bridge| !obstacle.allowed.contains(*bridge))?;
        Some(obstacle.message(bridge))
    };
    obstacles.iter().filter_map(one).collect()
}
