//! What the house is made of, and taking up work where a daemon before this one left it.

mod facts;
mod names;
mod network;
mod records;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hoy_config::{CgroupDriver, Settings};
use hoy_images::{Images, Worker};
use hoy_network::{Dns, Forwarding, Networks};
use hoy_shim::ShimProgram;
use hoy_store::{Durability, Op, Store};
use hoy_types::{ContainerId, IdMaps, Timestamp};
use hoy_volumes::Volumes;
use tokio::sync::{mpsc, oneshot};

use self::names::host_resolv_conf_path;
pub(crate) use self::names::{host_name, host_resolv_conf, hostname};
use crate::barriers::Barriers;
use crate::directory::Directory;
use crate::disk::{Pressure, Sizes};
use crate::driver::{Driver, Found};
use crate::error::{Error, Result, failed, lost};
use crate::events::Journal;
use crate::exec::ExecState;
use crate::lsm::Lsm;
use crate::plan;
use crate::prune::Prunes;
use crate::record::Record;
use crate::registry::Registry;
use crate::reload::Reloaded;
use crate::seccomp::Filters;
use crate::stats::Sampler;
use crate::system::lies_on_overlay;
use crate::top::Tops;
use crate::userns;

pub(crate) const CONTAINER: &str = "container";
pub(crate) const META: &str = "meta";
/// Removals that wait behind an exit.
const REMOVALS: usize = 4096;
/// What was running is taken up in this time, or while requests are answered.
const SETTLE: Duration = Duration::from_secs(3);

/// What the daemon gives the house.
pub struct Parts {
    pub settings: Settings,
    /// hoyd itself, for workers.
    pub program: PathBuf,
    /// hoy-shim.
    pub shim: PathBuf,
    /// hoy-init.
    pub init: PathBuf,
    /// The program of the image `hello`.
    pub hello: &'static [u8],
}

/// The engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    /// As they were at the start.
    pub settings: Settings,
    /// With what has been read again since.
    pub reloaded: Reloaded,
    pub store: Store,
    pub images: Images,
    pub volumes: Volumes,
    pub network: Networks,
    pub barriers: Barriers,
    /// What people know of networks.
    pub networks: Directory,
    pub dns: Dns,
    pub registry: Registry,
    pub journal: Journal,
    pub sampler: Sampler,
    pub tops: Tops,
    /// The machine's, in bytes.
    pub memory: u64,
    /// Works on containers' files.
    pub archives: hoy_archive::Worker,
    pub sizes: Sizes,
    pub pressure: Pressure,
    pub prunes: Prunes,
    pub looks: crate::explain::Looks,
    pub shim: ShimProgram,
    pub init: PathBuf,
    pub lsm: Lsm,
    /// Of the containers' user namespaces, where they have any.
    pub id_maps: Option<IdMaps>,
    pub hello: &'static [u8],
    /// Names this installation.
    pub id: String,
    pub execs: Mutex<HashMap<String, ExecState>>,
    pub filters: Filters,
    pub(crate) support: std::sync::OnceLock<hoy_cgroup::Support>,
    pub(crate) probing: Mutex<()>,
    removals: mpsc::Sender<ContainerId>,
    pub stop: Mutex<Option<oneshot::Sender<()>>>,
}

impl Engine {
    /// Opens the data root and takes up every container where it is. `stop` is told when a client
    /// asks the daemon to end.
    pub async fn open(parts: Parts, stop: oneshot::Sender<()>) -> Result<Self> {
        let (removals, queue) = mpsc::channel(REMOVALS);
        let handle = tokio::runtime::Handle::current();
        let inner = tokio::task::spawn_blocking(move || Inner::open(parts, removals, stop, handle));
        let (inner, records) = inner.await.map_err(lost)??;
        let inner = Arc::new(inner);
        let looked = Arc::clone(&inner);
        tokio::task::spawn_blocking(move || Barriers::start(&looked)).await.map_err(lost)?;
        let engine = Self { inner };
        engine.adopt(records).await?;
        engine.begin();
        tokio::spawn(engine.clone().remove_ended(queue));
        tokio::spawn(engine.clone().write_events());
        engine.watch_the_disk();
        Ok(engine)
    }

    async fn adopt(&self, records: Vec<Record>) -> Result<()> {
        let inner = &self.inner;
        let mut settling = Vec::new();
        let known: HashSet<String> = records.iter().map(|r| r.key().to_owned()).collect();
        // All names before the first question is answered that has waited for this daemon.
        for record in &records {
            inner.tell_names(record);
        }
        for record in records {
            inner.registry.reserve(&record.name, &record.id)?;
            let exec_root = inner.settings.exec_root.clone();
            let id = record.key().to_owned();
            let found =
                tokio::task::spawn_blocking(move || hoy_shim::client::find(&exec_root, &id));
            let found = match found.await.map_err(lost)? {
                Ok(Some(connection)) => Found::Alive(connection),
                Ok(None) => Found::Nothing,
                Err(error) => {
                    tracing::error!(container = record.id.short(), %error, "find the supervisor");
                    Found::Nothing
                }
            };
            let (settled, settles) = oneshot::channel();
            settling.push(settles);
            inner.registry.insert(Driver::spawn(inner, record, found, Some(settled)));
        }
        // The first answers are about what is; but one that does not settle delays nobody.
        let all = async {
            for settles in settling {
                let _ = settles.await;
            }
        };
        let _ = tokio::time::timeout(SETTLE, all).await;
        let inner = Arc::clone(inner);
        let sweep = tokio::task::spawn_blocking(move || {
            inner.volumes.settle();
            inner.remove_orphans();
            inner.settle_room();
            inner.sweep(&known);
        });
        sweep.await.map_err(lost)
    }

    /// `--rm`: behind the exit, in order.
    async fn remove_ended(self, mut queue: mpsc::Receiver<ContainerId>) {
        while let Some(id) = queue.recv().await {
            let engine = self.clone();
            tokio::spawn(async move {
                if let Err(error) = engine.remove_quietly(&id).await {
                    tracing::warn!(container = id.short(), %error, "remove after exit");
                }
            });
        }
    }
}

impl Inner {
    fn open(
        parts: Parts,
        removals: mpsc::Sender<ContainerId>,
        stop: oneshot::Sender<()>,
        handle: tokio::runtime::Handle,
    ) -> Result<(Self, Vec<Record>)> {
        let mut settings = parts.settings;
        settle_cgroups(&mut settings)?;
        let id_maps = userns::maps(&settings)?;
        let filters = Filters::open(&settings.seccomp_profile)?;
        let lsm = Lsm::open(settings.selinux_enabled);
        let store = Store::open(&settings.data_root).map_err(failed("open the data root"))?;
        if lies_on_overlay(&settings.data_root) {
            tracing::warn!("{}", crate::system::ON_OVERLAY);
        }
        hoy_shim::client::prepare(&settings.exec_root).map_err(failed("open the exec root"))?;
        let shim = ShimProgram::load(&parts.shim).map_err(failed("load hoy-shim"))?;
        let program = parts.program.clone();
        let archives = hoy_archive::Worker { program: parts.program.clone() };
        let worker = Worker { program: parts.program };
        let images = Images::open(store.clone(), worker).map_err(failed("open the images"))?;
        let volumes = Volumes::open(store.clone(), hoy_volumes::PluginSettings::from_environment())
            .map_err(failed("open the volumes"))?;
        let records = records::read(&store, &settings.exec_root)?;
        let meta: BTreeMap<String, Vec<u8>> =
            store.documents(META).map_err(failed("read the settings"))?.into_iter().collect();
        let id = installation(&store, &meta)?;
        let (networks, specs) = network::read(&store, &settings, &id)?;
        let endpoints: Vec<_> =
            records.iter().flat_map(|record| record.network.endpoints.iter().cloned()).collect();
        let forwarding = meta.get("forwarding").map(Vec::as_slice);
        let forwarding: Forwarding =
            forwarding.and_then(|value| serde_json::from_slice(value).ok()).unwrap_or_default();
        let network = network::settings(&settings, &id, &program);
        let network = network::open(&settings.exec_root, &|kept| {
            Networks::open(network.clone(), specs.clone(), &endpoints, forwarding, kept)
        })
        .map_err(failed("open the network"))?;
        let sampler = Sampler::start(&handle);
        let journal = Journal::open(&settings.data_root.join("events"));
        let dns = Dns::start(handle, host_resolv_conf_path());
        let looks = crate::explain::Looks::new(program);
        let inner = Self {
            reloaded: Reloaded::of(&settings),
            looks,
            settings,
            store,
            images,
            volumes,
            network,
            barriers: Barriers::default(),
            networks,
            dns,
            registry: Registry::default(),
            journal,
            sampler,
            tops: Tops::default(),
            memory: u64::try_from(crate::system::memory()).unwrap_or(0),
            archives,
            sizes: Sizes::default(),
            pressure: Pressure::default(),
            prunes: Prunes::default(),
            shim,
            init: parts.init,
            lsm,
            id_maps,
            hello: parts.hello,
            id,
            execs: Mutex::default(),
            filters,
            support: std::sync::OnceLock::new(),
            probing: Mutex::default(),
            removals,
            stop: Mutex::new(Some(stop)),
        };
        inner.take_up_volumes(&records);
        inner.open_links_again(&records);
        Ok((inner, records))
    }

    /// What a killed daemon left half made: directories without a record.
    fn sweep(&self, known: &HashSet<String>) {
        let directory = self.store.root().join("containers");
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !known.contains(&name) {
                let _ = self.store.discard(&entry.path());
                let _ = std::fs::remove_dir_all(self.files_directory_of(&name));
            }
        }
        let exec_root = &self.settings.exec_root;
        for id in hoy_shim::external::list(exec_root).iter().filter(|id| !known.contains(*id)) {
            hoy_shim::external::take_back(exec_root, id);
        }
    }
}

/// The number of this installation, which its first daemon has given it.
fn installation(store: &Store, meta: &BTreeMap<String, Vec<u8>>) -> Result<String> {
    if let Some(id) = meta.get("id").and_then(|id| String::from_utf8(id.clone()).ok()) {
        return Ok(id);
    }
    let id = new_id()?.to_string();
    let op = Op::Put { kind: META, key: "id".into(), body: id.clone().into_bytes() };
    store.write(vec![op], Durability::Sync).map_err(failed("name the installation"))?;
    Ok(id)
}

/// Who makes cgroups here; and room for them, where the daemon itself is in a container.
fn settle_cgroups(settings: &mut Settings) -> Result<()> {
    let systemd = hoy_cgroup::systemd::is_running();
    if settings.cgroup_driver == Some(CgroupDriver::Systemd) && !systemd {
        return Err(Error::invalid(
            "systemd not running on this host, cannot use systemd cgroups manager",
        ));
    }
    let unified = hoy_cgroup::Hierarchies::of_this_machine().is_ok_and(|found| found.unified());
    plan::settle_cgroups(settings, systemd && unified)?;
    if plan::driver(settings) == hoy_cgroup::Driver::Cgroupfs
        && let Err(error) = hoy_cgroup::make_room()
    {
        tracing::warn!(%error, "this container's cgroups are not ours to divide: \
            without --privileged there will be no containers in it");
    }
    Ok(())
}

pub(crate) fn now() -> Timestamp {
    Timestamp::from_system(std::time::SystemTime::now())
}

pub(crate) fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| failed("get random bytes")(std::io::Error::from(errno)))?;
    Ok(bytes)
}

pub(crate) fn new_id() -> Result<ContainerId> {
    loop {
        if let Some(id) = ContainerId::from_random(random()?) {
            return Ok(id);
        }
    }
}
