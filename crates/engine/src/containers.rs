//! Use cases of containers: create, start, stop, kill, wait, remove, rename, pause, list.

use std::sync::Arc;
use std::time::Duration;

use hoy_images::RootfsTicket;
use hoy_types::{Digest, generate_name, validate_name};
use hoy_wire as wire;
use tokio::sync::oneshot;

use crate::driver::{Command, Driver, Found};
use crate::engine::{Engine, Inner, host_name, hostname, new_id, now, random};
use crate::error::{Error, Result, failed, lost};
use crate::life::Wish;
use crate::record::{NetworkMode, NetworkRecord, Record, State};
use crate::registry::Handle;
use crate::stop::kill_for_good;
use crate::{attachments, health, limits, plan, refuse, restart, sharing, show, spec, userns};

pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// How long a start waits for an attach that came before it.
const ATTACHING: Duration = Duration::from_secs(1);

/// Which containers, and how much of each.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    pub all: bool,
    pub limit: usize,
    pub size: bool,
    /// Filter name and its values.
    pub filters: Vec<(String, Vec<String>)>,
}

impl Handle {
    /// Sends a command and waits for what became of it.
    pub(crate) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command,
    ) -> Result<T> {
        let gone = || Error::not_found(format!("No such container: {}", self.id));
        let (done, answer) = oneshot::channel();
        self.commands.send(command(done)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Engine {
    pub(crate) fn find(&self, id: &str) -> Result<Handle> {
        self.inner.registry.find(id)
    }

    /// Makes a container; nothing of a refused one remains.
    pub async fn create(
        &self,
        name: Option<String>,
        platform: Option<String>,
        request: wire::CreateRequest,
    ) -> Result<wire::CreateResponse> {
        if let Some(platform) = platform.filter(|platform| !platform.is_empty()) {
            let host = hoy_oci::host_architecture();
            if platform != format!("linux/{host}") && platform != "linux" {
                return Err(Error::not_found(format!(
                    "no image for the platform {platform}: this machine runs linux/{host}"
                )));
            }
        }
        let inner = Arc::clone(&self.inner);
        let record = tokio::task::spawn_blocking(move || inner.prepare_record(name, request));
        // The ticket keeps the image's layers until everybody knows the container.
        let (record, mut warnings, _ticket) = record.await.map_err(lost)??;
        warnings.extend(self.inner.pressure.warning());
        if let Err(error) = self.inner.save_new(&record).await {
            self.inner.abandon(&record);
            return Err(error);
        }
        let id = record.id.to_string();
        self.inner.container_event(&record, "create", &[]);
        self.inner.registry.insert(Driver::spawn(&self.inner, record, Found::Nothing, None));
        Ok(wire::CreateResponse { id, warnings: Some(warnings) })
    }

    /// Changes limits, of a running container at once.
    pub async fn update(&self, id: &str, mut asked: wire::HostConfig) -> Result<Vec<String>> {
        let handle = self.find(id)?;
        let inner = Arc::clone(&self.inner);
        let checked = tokio::task::spawn_blocking(move || {
            refuse::unbuilt(&asked)?;
            restart::check(&asked)?;
            let warnings = limits::verify(&mut asked, inner.support()?, cpus(), true)?;
            Ok((Box::new(asked), warnings))
        });
        let (asked, warnings) = checked.await.map_err(lost)??;
        let result = handle.ask(|done| Command::Update { asked, done }).await;
        result.map_err(|error| {
            Error::new(error.kind(), format!("Cannot update container {}: {error}", handle.id))
        })?;
        Ok(warnings)
    }

    pub async fn start(&self, id: &str) -> Result<()> {
        let handle = self.find(id)?;
        // Whoever has heard that it is attached misses nothing; one that does not take that answer
        // delays the start no longer than this.
        let attached = tokio::time::timeout(ATTACHING, handle.attaching.write()).await;
        drop(attached);
        let result = handle.ask(Command::Start).await;
        if let Err(error) = &result
            && error.kind() != hoy_types::ErrorKind::NotModified
            && handle.record().host.auto_remove
        {
            self.remove_quietly(&handle.id).await?;
        }
        result
    }

    pub async fn pause(&self, id: &str, pause: bool) -> Result<()> {
        self.find(id)?.ask(|done| Command::Pause(pause, done)).await
    }

    pub async fn rename(&self, id: &str, name: &str) -> Result<()> {
        let handle = self.find(id)?;
        let wrong =
            |error: &dyn std::fmt::Display| format!("Error when allocating new name: {error}");
        if name.is_empty() {
            return Err(Error::invalid("Neither old nor new names may be empty"));
        }
        if handle.record().name == name.trim_start_matches('/') {
            return Err(Error::invalid(
                "Renaming a container with the same name as its current name",
            ));
        }
        let name = name.strip_prefix('/').unwrap_or(name);
        // Docker means it as it is stored: with the slash.
        validate_name(name).map_err(|error| {
            let text = error.to_string().replacen(&format!("({name})"), &format!("(/{name})"), 1);
            Error::invalid(wrong(&text))
        })?;
        let name = name.to_owned();
        let renamed = handle.ask(|done| Command::Rename { name, done }).await;
        renamed.map_err(|error| match error.kind() {
            hoy_types::ErrorKind::Conflict
                if handle.record().state.phase != crate::life::Phase::Removing =>
            {
                Error::conflict(wrong(&error))
            }
            _ => error,
        })
    }

    pub async fn resize(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        let handle = self.find(id)?;
        handle.ask(|done| Command::Resize { exec: None, rows, columns, done }).await?;
        let size = [("height", rows.to_string()), ("width", columns.to_string())];
        self.inner.container_event(&handle.record(), "resize", &size);
        Ok(())
    }

    /// Removes a container; a running one only by force. `volumes`: with those that were made for
    /// it alone.
    pub async fn remove(&self, id: &str, force: bool, volumes: bool) -> Result<()> {
        let handle = self.find(id)?;
        let remove = tokio::spawn(async move {
            let record = handle.record();
            let phase = record.state.phase;
            // Docker names it as it is stored: with the slash.
            let admitted = phase.admits(Wish::Remove { force }, &format!("/{}", record.name));
            admitted.map_err(|(kind, message)| Error::new(kind, message))?;
            if force && phase.is_up() {
                kill_for_good(&handle).await?;
            }
            match handle.ask(|done| Command::Remove { force, volumes, done }).await {
                // Its own `--rm` was faster.
                Err(error) if error.kind() == hoy_types::ErrorKind::NotFound => Ok(()),
                other => other,
            }
        });
        remove.await.map_err(lost)?
    }

    pub(crate) async fn remove_quietly(&self, id: &hoy_types::ContainerId) -> Result<()> {
        match self.find(id.as_str()) {
            Ok(handle) => {
                handle.ask(|done| Command::Remove { force: false, volumes: true, done }).await
            }
            Err(_) => Ok(()),
        }
    }

    pub fn inspect(&self, id: &str, size: bool) -> Result<wire::ContainerInspect> {
        let handle = self.find(id)?;
        let mut out = show::inspect(&self.inner, &handle.record());
        if size {
            let (written, all) = self.container_size(handle.id.as_str(), &handle.record().image);
            (out.size_rw, out.size_root_fs) = (Some(written), Some(all));
        }
        Ok(out)
    }

    pub(crate) fn image_size(&self, id: &Digest) -> i64 {
        self.inner.images.get(*id).map_or(0, |image| image.size() as i64)
    }
}

impl Inner {
    /// Everything about a new container but its place in the database. Blocks.
    fn prepare_record(
        &self,
        name: Option<String>,
        request: wire::CreateRequest,
    ) -> Result<(Record, Vec<String>, RootfsTicket)> {
        let (mut config, mut host, networking) = request.split();
        if let Some(name) = &name {
            validate_name(name).map_err(|error| Error::invalid(error.to_string()))?;
        }
        refuse::unbuilt(&host)?;
        if config.image.is_empty() {
            return Err(Error::invalid("no image specified"));
        }
        let image = self.image_for(&config.image)?;
        let layers = image.layers.iter().map(|layer| layer.key.clone()).collect();
        let ticket = self.images.layers(layers).map_err(failed("open the image"))?;
        let image_config: wire::ImageConfig =
            serde_json::from_value(match &image.document.config {
                serde_json::Value::Null => serde_json::json!({}),
                config => config.clone(),
            })
            .map_err(failed("read the image's configuration"))?;
        spec::check(&config, &host)?;
        crate::room::limit(&host)?;
        restart::check(&host)?;
        health::check(&config)?;
        let exposed = !config.exposed_ports.is_empty();
        spec::merge_config(&mut config, &image_config);
        spec::check(&config, &host)?;
        let mut warnings = limits::verify(&mut host, self.support()?, cpus(), false)?;
        let settings = self.current();
        spec::fill_host(&mut host, &settings);
        sharing::settle(&config, &mut host, &settings, |other| Ok(self.registry.find(other)?.id))?;
        userns::check(&host, self.id_maps.is_some())?;
        if !settings.has_runtime(&host.runtime) {
            let text = format!("unknown or invalid runtime name: {}", host.runtime);
            return Err(Error::invalid(text));
        }
        if settings.runtimes.contains_key(&host.runtime) && self.userns(&host).is_some() {
            return Err(Error::unavailable("another runtime (--runtime) in a user namespace")
                .hint("--userns=host has it in the host's"));
        }
        plan::check_sysctls(&host)?;
        self.filters.filter(&host, plan::capabilities(&host)?)?;
        plan::check_cgroup_parent(&host.cgroup_parent, &self.settings)?;
        self.lsm.check(&host)?;
        let (mode, attachments) = attachments::decide(
            &self.networks,
            |other| Ok(self.registry.find(other)?.id),
            &config,
            &host,
            networking.as_ref(),
        )?;
        self.check_links(&host)?;
        if let NetworkMode::Container(other) = &mode {
            let other = self.registry.find(other.as_str())?.record();
            spec::names_of_the_network(&config, &host)?;
            // As Docker has it: another container may get the name.
            host.network_mode = format!("container:{}", other.id);
            config.hostname = hostname(&other);
            config.domainname.clone_from(&other.config.domainname);
        }
        let published =
            host.publish_all_ports || host.port_bindings.as_ref().is_some_and(|p| !p.is_empty());
        if let (NetworkMode::Container(_), true) = (&mode, published) {
            return Err(Error::invalid(
                "conflicting options: port publishing and the container type network mode",
            ));
        }
        if let (NetworkMode::Container(_), true) = (&mode, exposed) {
            return Err(Error::invalid(
                "conflicting options: port exposing and the container type network mode",
            ));
        }
        if host.network_mode == "host" && host.port_bindings.as_ref().is_some_and(|p| !p.is_empty())
        {
            warnings.push("Published ports are discarded when using host network mode".into());
        }
        let command = spec::command(&config)?;
        let none = std::collections::BTreeMap::new();
        let wanted = self.wanted_mounts(&host, config.volumes.as_ref().unwrap_or(&none))?;
        let labels = self.labels(&host)?;
        let id = new_id()?;
        let name = match name {
            Some(name) => {
                let name = name.trim_start_matches('/').to_owned();
                self.registry.reserve(&name, &id)?;
                name
            }
            None => self.friendly_name(&id)?,
        };
        if config.hostname.is_empty() {
            config.hostname = match mode {
                NetworkMode::Host => host_name(),
                _ => id.short().to_owned(),
            };
        }
        config.labels.get_or_insert_default();
        let mut record = Record {
            id,
            name,
            created: now(),
            image: image.id,
            layers: ticket.keys.clone(),
            config,
            host,
            command,
            mounts: Vec::new(),
            network: NetworkRecord { mode, attachments, endpoints: Vec::new() },
            state: State::default(),
            labels,
            restart: restart::RestartRecord::default(),
            health: None,
        };
        let made = self.make_directories(&record);
        let made = made.and_then(|()| self.claim_volumes(record.key(), &record.layers, wanted));
        match made {
            Ok(mounts) => record.mounts = mounts,
            Err(error) => {
                self.abandon(&record);
                return Err(error);
            }
        }
        Ok((record, warnings, ticket))
    }

    /// What this kernel can limit; looked at once.
    pub(crate) fn support(&self) -> Result<&hoy_cgroup::Support> {
        if let Some(known) = self.support.get() {
            return Ok(known);
        }
        // One after the other: they would look at the same cgroup.
        let _turn = self.probing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(known) = self.support.get() {
            return Ok(known);
        }
        let found =
            hoy_cgroup::Support::probe(&self.settings.cgroup_parent, plan::driver(&self.settings))
                .map_err(failed("look at the kernel's cgroups"))?;
        Ok(self.support.get_or_init(|| found))
    }

    /// What a container's settings mean to the kernel.
    pub(crate) fn limits(&self, host: &wire::HostConfig) -> Result<hoy_cgroup::Limits> {
        limits::limits(host, &self.settings, &crate::devices::block)
    }

    pub(crate) fn image_for(&self, name: &str) -> Result<Arc<hoy_images::ImageRecord>> {
        let error = |error: hoy_images::ImageError| {
            let kind = error.kind();
            Error::new(kind, error.to_string()).with_source(error)
        };
        match self.images.resolve(name) {
            Err(hoy_images::ImageError::NotFound(_))
                if matches!(name, "hello" | "hello:latest") =>
            {
                // Embedded: it comes into being when somebody wants it, never by a pull.
                let id = self.images.make_hello(self.hello).map_err(error)?;
                self.images.resolve(&id.to_string()).map_err(error)
            }
            other => other.map_err(error),
        }
    }

    fn friendly_name(&self, id: &hoy_types::ContainerId) -> Result<String> {
        for retry in 0..20 {
            let bytes = random()?;
            let seed = u64::from_ne_bytes(bytes[..8].try_into().unwrap_or_default());
            let name = generate_name(seed, retry);
            if self.registry.reserve(&name, id).is_ok() {
                return Ok(name);
            }
        }
        let name = id.short().to_owned();
        self.registry.reserve(&name, id)?;
        Ok(name)
    }

    /// Nothing of a container that was not created remains.
    fn abandon(&self, record: &Record) {
        self.registry.release(&record.name, &record.id);
        self.release_volumes(record.key(), &record.mounts, true);
        let _ = self.discard_container(record);
    }
}
