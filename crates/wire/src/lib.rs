//! Words: the JSON of the Docker Engine API, field by field in Docker's order; nothing else.
//!
//! `Option<Vec<_>>` and `Option<BTreeMap<_>>` are Go's nil-able ones, written as `null`; a bare
//! `Vec` or map is left out when empty. Maps are sorted, as Go's encoder does. Decoders take
//! `null` for anything and ignore unknown fields.

mod archive;
mod container;
mod disk;
mod event;
mod exec;
mod explain;
mod go;
mod image;
mod inspect;
mod network;
mod prune;
mod stats;
mod system;
mod volume;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use archive::*;
pub use container::*;
pub use disk::*;
pub use event::*;
pub use exec::*;
pub use explain::*;
pub use image::*;
pub use inspect::*;
pub use network::*;
pub use prune::*;
pub use stats::*;
pub use system::*;
pub use volume::*;

/// The newest API version that hoy speaks.
pub const API_VERSION: &str = "1.56";
/// The oldest one.
pub const MIN_API_VERSION: &str = "1.24";
/// The Docker release whose API this is: clients parse it.
pub const DOCKER_VERSION: &str = "29.8.0";

/// Go's `struct{}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// `nat.PortMap`: `null` for an exposed port that is not published.
pub type PortMap = BTreeMap<String, Option<Vec<PortBinding>>>;

/// What every refused request is answered with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorResponse {
    pub message: String,
}

impl CreateRequest {
    /// The three documents that a create request is made of.
    pub fn split(self) -> (ContainerConfig, HostConfig, Option<NetworkingConfig>) {
        let config = ContainerConfig {
            hostname: self.hostname,
            domainname: self.domainname,
            user: self.user,
            attach_stdin: self.attach_stdin,
            attach_stdout: self.attach_stdout,
            attach_stderr: self.attach_stderr,
            exposed_ports: self.exposed_ports,
            tty: self.tty,
            open_stdin: self.open_stdin,
            stdin_once: self.stdin_once,
            env: self.env,
            cmd: self.cmd,
            healthcheck: self.healthcheck,
            args_escaped: self.args_escaped,
            image: self.image,
            volumes: self.volumes,
            working_dir: self.working_dir,
            entrypoint: self.entrypoint,
            network_disabled: self.network_disabled,
            mac_address: self.mac_address,
            on_build: self.on_build,
            labels: self.labels,
            stop_signal: self.stop_signal,
            stop_timeout: self.stop_timeout,
            shell: self.shell,
        };
        (config, self.host_config.unwrap_or_default(), self.networking_config)
    }
}
