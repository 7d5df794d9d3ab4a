//! `commit`: an image of what a container has written and runs with.

use std::sync::Arc;

use hoy_archive::ArchiveError;
use hoy_images::CommitPlan;
use hoy_types::Reference;
use hoy_wire as wire;
use serde_json::{Map, Value};

use crate::archive::nothing_yet;
use crate::engine::Engine;
use crate::error::{Error, Result, failed, lost};
use crate::images::image_error;
use crate::life::Phase;
use crate::record::Record;
use crate::spec;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct CommitRequest {
    pub container: String,
    pub repo: String,
    pub tag: String,
    pub comment: String,
    pub author: String,
    pub pause: bool,
    pub changes: Vec<String>,
    /// Instead of what the container runs with.
    pub config: Option<wire::ContainerConfig>,
}

impl Engine {
    /// The new image's id. The container does not move while its files are read, if it is asked
    /// for; it goes on whatever comes of the image, also when the client leaves.
    pub async fn commit(&self, request: CommitRequest) -> Result<String> {
        if request.container.is_empty() {
            return Err(Error::invalid("invalid name or ID supplied: \"\""));
        }
        let handle = self.find(&request.container)?;
        let name = name(&request)?;
        let plan = plan(&handle.record(), &request, name.clone())?;
        self.inner.images.check_instructions(&plan).map_err(image_error)?;
        let engine = self.clone();
        let work = tokio::spawn(async move {
            let paused = request.pause
                && handle.record().state.phase == Phase::Running
                && engine.pause(handle.id.as_str(), true).await.is_ok();
            let committed = engine.commit_layer(handle.id.as_str(), plan).await;
            if paused && let Err(error) = engine.pause(handle.id.as_str(), false).await {
                tracing::warn!(container = handle.id.short(), %error, "unpause after a commit");
            }
            let id = committed?;
            let record = handle.record();
            engine.image_event("create", id, &id.to_string());
            let familiar = name.map(|name| name.with_default_tag().familiar()).unwrap_or_default();
            if !familiar.is_empty() {
                engine.image_event("tag", id, &familiar);
            }
            let extra =
                [("comment", request.comment), ("imageID", id.to_string()), ("imageRef", familiar)];
            engine.inner.container_event(&record, "commit", &extra);
            Ok(id.to_string())
        });
        work.await.map_err(lost)?
    }

    async fn commit_layer(&self, id: &str, plan: CommitPlan) -> Result<hoy_types::Digest> {
        let held = self.hold_files(id).await?;
        let inner = Arc::clone(&self.inner);
        self.with_worker(held, nothing_yet(true), move |worker| {
            let broken = |error: ArchiveError| failed("read the container's layer")(error);
            // Found out before it is known whether the layer holds anything: it goes beside.
            let mut writer = tempfile_of(&inner)?;
            let entries = {
                use std::io::Write as _;
                worker.pass_on(|piece| writer.write_all(piece)).map_err(broken)?
            };
            use std::io::Seek as _;
            writer.rewind().map_err(failed("read the container's layer"))?;
            inner.images.commit(plan, (entries > 0).then_some(writer)).map_err(image_error)
        })
        .await
    }
}

/// A file without a name in the data root.
fn tempfile_of(inner: &crate::engine::Inner) -> Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::DIRECTORY;
    let mut options = std::fs::File::options();
    let options = options.read(true).write(true).mode(0o600);
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    options
        .custom_flags(flags)
        .open(inner.store.root().join("ingest"))
        .map_err(failed("make room for a layer"))
}

fn name(request: &CommitRequest) -> Result<Option<Reference>> {
    if request.repo.is_empty() {
        return Ok(None);
    }
    let invalid = |error: hoy_types::ReferenceError| Error::invalid(error.to_string());
    let mut name: Reference = request.repo.parse().map_err(invalid)?;
    if !request.tag.is_empty() {
        name = name.with_tag(&request.tag).map_err(|_| Error::invalid("invalid tag format"))?;
    }
    if name.digest().is_some() {
        return Err(Error::invalid("refusing to create a tag with a digest reference"));
    }
    Ok(Some(name))
}

fn plan(record: &Record, request: &CommitRequest, name: Option<Reference>) -> Result<CommitPlan> {
    let own = image_config(&record.config);
    let config = match &request.config {
        Some(asked) => {
            // What it does not say is as the container has it.
            let mut asked = asked.clone();
            spec::merge_config(&mut asked, &own);
            image_config(&asked)
        }
        None => own,
    };
    let config = match serde_json::to_value(config) {
        Ok(Value::Object(config)) => config,
        _ => Map::new(),
    };
    Ok(CommitPlan {
        parent: Some(record.image),
        config,
        instructions: request.changes.clone(),
        author: request.author.clone(),
        comment: request.comment.clone(),
        created_by: record.config.cmd.clone().unwrap_or_default().join(" "),
        name,
    })
}

/// What an image keeps of a container's configuration.
fn image_config(config: &wire::ContainerConfig) -> wire::ImageConfig {
    let config = config.clone();
    wire::ImageConfig {
        user: config.user,
        exposed_ports: config.exposed_ports,
        env: config.env.unwrap_or_default(),
        entrypoint: config.entrypoint.unwrap_or_default(),
        cmd: config.cmd.unwrap_or_default(),
        volumes: config.volumes.unwrap_or_default(),
        working_dir: config.working_dir,
        labels: config.labels.unwrap_or_default(),
        stop_signal: config.stop_signal,
        args_escaped: config.args_escaped,
        healthcheck: config.healthcheck,
        on_build: config.on_build.unwrap_or_default(),
        shell: config.shell,
    }
}
