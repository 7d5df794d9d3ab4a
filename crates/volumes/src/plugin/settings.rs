//! Where plugins are looked for, and how long they are waited for.

use std::path::PathBuf;
use std::time::Duration;

/// Directories in the place of Docker's, separated by colons: sockets, spec and json files are
/// looked for in each. For people who keep the plugins of two engines apart, and for tests; Docker
/// has no setting for it.
const DIRECTORIES: &str = "HOY_PLUGIN_DIRS";

/// What is to be known before the first plugin is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginSettings {
    /// Where their sockets are.
    pub sockets: Vec<PathBuf>,
    /// Where files say where they are.
    pub specs: Vec<PathBuf>,
    pub limits: PluginLimits,
}

/// How long a plugin may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginLimits {
    /// To make and to mount a volume.
    pub long: Duration,
    /// For everything else.
    pub other: Duration,
    /// For an answer that somebody only wants to see.
    pub read: Duration,
    /// How long one that takes no connection is tried again.
    pub retry: Duration,
    /// The first pause between two tries; each is twice as long as the one before.
    pub pause: Duration,
    /// Calls that may wait for its answer at one time: each is a thread.
    pub calls: usize,
}

impl Default for PluginLimits {
    /// Docker's; it has none for reads.
    fn default() -> Self {
        Self {
            long: Duration::from_secs(120),
            other: Duration::from_secs(60),
            read: Duration::from_secs(3),
            retry: Duration::from_secs(30),
            pause: Duration::from_secs(1),
            calls: 64,
        }
    }
}

impl Default for PluginSettings {
    /// Where Docker looks.
    fn default() -> Self {
        Self {
            sockets: vec!["/run/docker/plugins".into()],
            specs: vec!["/etc/docker/plugins".into(), "/usr/lib/docker/plugins".into()],
            limits: PluginLimits::default(),
        }
    }
}

impl PluginSettings {
    /// Docker's directories, or those that `HOY_PLUGIN_DIRS` names.
    pub fn from_environment() -> Self {
        let named = std::env::var_os(DIRECTORIES).filter(|named| !named.is_empty());
        let Some(named) = named else { return Self::default() };
        let directories: Vec<PathBuf> = std::env::split_paths(&named).collect();
        Self { sockets: directories.clone(), specs: directories, limits: PluginLimits::default() }
    }
}
