//! What the house is made of, and taking up work where a daemon before this one left it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hoy_config::{CgroupDriver, Settings};
use hoy_images::{Images, RootfsTicket, Worker};
use hoy_network::{Cidr, Dns, Forwarding, NetworkRequest, Networks, PoolRequest, Supply};
use hoy_runtime::ContainerPlan;
use hoy_shim::ShimProgram;
use hoy_store::{Durability, Op, Store};
use hoy_types::{ContainerId, IdMaps, PortBinding, Timestamp};
use hoy_volumes::Volumes;
use tokio::sync::{mpsc, oneshot};

use crate::barriers::Barriers;
use crate::directory::{Directory, Document, NETWORK};
use crate::disk::{Pressure, Sizes};
use crate::driver::{Driver, Found};
use crate::error::{Error, Result, failed, lost};
use crate::events::{Happening, Journal};
use crate::exec::ExecState;
use crate::files::{self, DnsOverrides};
use crate::lsm::Lsm;

use crate::plan::{self, Facts};
use crate::prune::Prunes;
use crate::record::{LabelRecord, MountKind, NetworkMode, Record};
use crate::registry::Registry;
use crate::reload::Reloaded;
use crate::sandbox::noted_endpoints;
use crate::seccomp::Filters;
use crate::stats::Sampler;
use crate::top::Tops;
use crate::userns;
use crate::volumes;

pub(crate) const CONTAINER: &str = "container";
pub(crate) const META: &str = "meta";
/// Supervisors that are asked for the owner of the rules: the first one that answers has it.
const ASKED_FOR_THE_OWNER: usize = 8;
/// How long somebody else may own the rules when a daemon starts.
const OWNER_GIVEN_UP: Duration = Duration::from_secs(10);
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
        let documents = store.documents(CONTAINER).map_err(failed("read the containers"))?;
        let mut records = Vec::new();
        for (key, body) in documents {
            match serde_json::from_slice::<Record>(&body) {
                Ok(mut record) => {
                    if let Some(found) = noted_endpoints(&settings.exec_root, record.key()) {
                        record.network.endpoints = found;
                        forget_cut_off(&mut record);
                    }
                    records.push(record);
                }
                Err(error) => tracing::error!(container = key, %error, "an unreadable record"),
            }
        }
        let meta: BTreeMap<String, Vec<u8>> =
            store.documents(META).map_err(failed("read the settings"))?.into_iter().collect();
        let id = match meta.get("id").and_then(|id| String::from_utf8(id.clone()).ok()) {
            Some(id) => id,
            None => {
                let id = new_id()?.to_string();
                let op = Op::Put { kind: META, key: "id".into(), body: id.clone().into_bytes() };
                store.write(vec![op], Durability::Sync).map_err(failed("name the installation"))?;
                id
            }
        };
        let networks = Directory::default();
        let documents = store.documents(NETWORK).map_err(failed("read the networks"))?;
        let mut specs = Vec::new();
        for (key, body) in documents {
            match serde_json::from_slice::<Document>(&body) {
                Ok(document) => {
                    specs.extend(document.spec.clone());
                    networks.insert(document);
                }
                Err(error) => tracing::error!(network = key, %error, "an unreadable record"),
            }
        }
        for document in predefined(&settings, &id) {
            networks.insert(document);
        }
        let endpoints: Vec<_> =
            records.iter().flat_map(|record| record.network.endpoints.iter().cloned()).collect();
        let forwarding = meta.get("forwarding").map(Vec::as_slice);
        let forwarding: Forwarding =
            forwarding.and_then(|value| serde_json::from_slice(value).ok()).unwrap_or_default();
        let network = network_settings(&settings, &id, &program);
        let network = open_networks(&settings.exec_root, &|kept| {
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

    pub fn log_path(&self, record: &Record) -> PathBuf {
        let id = &record.id;
        self.store.container_directory(id.as_str()).join(
            match crate::logging::format(&record.host) {
                hoy_logs::Format::Json => format!("{id}-json.log"),
                hoy_logs::Format::Local => "container.log".to_owned(),
            },
        )
    }

    pub fn files_directory(&self, id: &ContainerId) -> PathBuf {
        self.files_directory_of(id.as_str())
    }

    /// Where the hosts, hostname and resolv.conf of a container's network lie: they belong to
    /// whoever has the network.
    pub fn files_of_the_network(&self, record: &Record) -> PathBuf {
        match &record.network.mode {
            NetworkMode::Container(other) => match self.registry.find(other.as_str()) {
                Ok(other) => self.files_of_the_network(&other.record()),
                Err(_) => self.files_directory(other),
            },
            _ => self.files_directory(&record.id),
        }
    }

    fn files_directory_of(&self, id: &str) -> PathBuf {
        self.settings.exec_root.join("files").join(id)
    }

    pub fn put_record(&self, record: &Record) -> Result<Op> {
        let body = serde_json::to_vec(record).map_err(failed("write down a container"))?;
        Ok(Op::Put { kind: CONTAINER, key: record.key().to_owned(), body })
    }

    async fn write(self: &Arc<Self>, ops: Vec<Op>, durability: Durability) -> Result<()> {
        let inner = Arc::clone(self);
        tokio::task::spawn_blocking(move || inner.store.write(ops, durability))
            .await
            .map_err(lost)?
            .map_err(failed("write to the database"))
    }

    /// As durable as the container: what is removed at its exit need not survive a power cut.
    pub async fn save(self: &Arc<Self>, record: &Record) -> Result<()> {
        let durability =
            if record.host.auto_remove { Durability::Written } else { Durability::Sync };
        self.write(vec![self.put_record(record)?], durability).await
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

    pub fn container_event(&self, record: &Record, action: &str, extra: &[(&str, String)]) {
        self.container_event_with(record, action, extra, || ());
    }

    /// As [`crate::events::Journal::record_with`].
    pub fn container_event_with(
        &self,
        record: &Record,
        action: &str,
        extra: &[(&str, String)],
        publish: impl FnOnce(),
    ) {
        let mut attributes: BTreeMap<String, String> =
            record.labels().map(|(name, value)| (name.clone(), value.clone())).collect();
        attributes.insert("image".into(), record.config.image.clone());
        attributes.insert("name".into(), record.name.clone());
        attributes.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        // Told once: by this daemon, or one before it.
        let death = (action == "die").then_some(record.state.finished_at);
        if death.is_some_and(|death| self.journal.has_told(record.key(), death)) {
            return publish();
        }
        let happening = Happening {
            kind: "container",
            action: action.to_owned(),
            id: record.key().to_owned(),
            attributes,
            at: now(),
            death,
        };
        self.journal.record_with(happening, publish);
    }

    pub fn event(
        &self,
        kind: &'static str,
        action: &str,
        id: &str,
        attributes: BTreeMap<String, String>,
    ) {
        self.journal.record(Happening {
            kind,
            action: action.to_owned(),
            id: id.to_owned(),
            attributes,
            at: now(),
            death: None,
        });
    }

    /// Takes bridge, table and forwarding back.
    pub fn clean_network(&self) -> Result<()> {
        self.barriers.take_back().map_err(failed("take rules out of other firewalls"))?;
        self.network.clean().map_err(failed("take the network back"))?;
        if plan::driver(&self.settings) == hoy_cgroup::Driver::Cgroupfs {
            let _ = hoy_cgroup::remove_parent(&self.settings.cgroup_parent);
        }
        self.store
            .write(vec![Op::Delete { kind: META, key: "forwarding".into() }], Durability::Written)
            .map_err(failed("write to the database"))
    }

    /// Writes the container's files and makes its plan. The ticket keeps its layers.
    pub fn container_plan(
        &self,
        record: &Record,
        volumes: &BTreeMap<String, PathBuf>,
    ) -> Result<(ContainerPlan, RootfsTicket, LabelRecord)> {
        let labels = self.labels_now(record)?;
        let ticket = self.images.layers(record.layers.clone()).map_err(failed("open the image"))?;
        let hostname = hostname(record);
        let files = self.files_of_the_network(record);
        if !matches!(record.network.mode, NetworkMode::Container(_)) {
            self.write_files(record, &hostname, &files)?;
        }
        let mut table = None;
        for mount in &record.mounts {
            if let MountKind::Bind { source, .. } = &mount.kind
                && !matches!(mount.propagation.as_str(), "private" | "rprivate")
            {
                let table = table.get_or_insert_with(|| {
                    std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()
                });
                crate::mounts::check_propagation(table, source, &mount.propagation)?;
            }
            if let MountKind::Bind { source, create: true, .. } = &mount.kind
                && self.socket_for(source).is_none()
            {
                std::fs::create_dir_all(source)
                    .or_else(|error| match error.kind() {
                        std::io::ErrorKind::AlreadyExists => Ok(()),
                        _ => Err(error),
                    })
                    .map_err(failed(&format!("make the bind mount's source {source}")))?;
            }
        }
        let directory = self.layer_directory(record);
        let settings = self.current();
        let facts = Facts {
            settings: &settings,
            socket: &|source| self.socket_for(source),
            layers: ticket.layers.clone(),
            upper: directory.join("upper"),
            work: directory.join("work"),
            files: &files,
            init: self.init.clone(),
            hostname,
            limits: self.limits(&record.host)?,
            devices: crate::devices::gather(&record.host)?,
            cdi: crate::cdi::edits(&record.host, &self.settings)?,
            seccomp: &|host, capabilities| self.filters.filter(host, capabilities),
            seccomp_rules: &|host, capabilities| self.filters.rules(host, capabilities),
            userns: self.userns(&record.host).cloned(),
            labels: labels.clone(),
            volumes,
            layer: &|key| self.store.layer_path(key),
            environment: self
                .links_of_the_bridge(record)?
                .into_iter()
                .flat_map(|link| link.environment)
                .collect(),
        };
        Ok((plan::container(record, facts)?, ticket, labels))
    }

    /// `name:address`, with `host-gateway` for the host as the container reaches it.
    fn extra_hosts(&self, record: &Record) -> Result<Vec<(String, IpAddr)>> {
        let said = &self.settings.networking.host_gateways;
        let gateways: Vec<IpAddr> = match self.networks.find("bridge") {
            Ok(bridge) => self.network.spec(&bridge.id).map(|spec| {
                let own = [spec.gateway(true), spec.gateway(false)];
                own.into_iter().flatten().map(|gateway| gateway.address).collect()
            }),
            Err(_) => None,
        }
        .unwrap_or_default();
        let gateways = if said.is_empty() { gateways } else { said.clone() };
        let mut out = Vec::new();
        for text in record.host.extra_hosts.iter().flatten() {
            let bad = || Error::invalid(format!("bad format for add-host: {text:?}"));
            let (name, address) = text.split_once([':', '=']).ok_or_else(bad)?;
            if address == "host-gateway" {
                if gateways.is_empty() {
                    return Err(Error::invalid(
                        "unable to derive the IP value for host-gateway: there is no default bridge",
                    ));
                }
                out.extend(gateways.iter().map(|gateway| (name.to_owned(), *gateway)));
                continue;
            }
            let address = address.trim_start_matches('[').trim_end_matches(']');
            out.push((name.to_owned(), address.parse().map_err(|_| bad())?));
        }
        Ok(out)
    }

    /// What a person or the daemon's settings say about names.
    pub fn dns_overrides(&self, record: &Record) -> DnsOverrides {
        let host = &record.host;
        let list = |own: &Option<Vec<String>>, default: &[String]| match own {
            Some(own) if !own.is_empty() => own.clone(),
            _ => default.to_vec(),
        };
        DnsOverrides {
            servers: list(&host.dns, &self.settings.dns),
            search: list(&host.dns_search, &self.settings.dns_search),
            options: list(&host.dns_options, &self.settings.dns_opts),
        }
    }

    /// Writes what the container's network says of itself: at its start, and when its networks
    /// change.
    pub fn write_network_files(&self, record: &Record) -> Result<()> {
        self.write_files(record, &hostname(record), &self.files_of_the_network(record))
    }

    fn write_files(
        &self,
        record: &Record,
        hostname: &str,
        directory: &std::path::Path,
    ) -> Result<()> {
        let doing = "write the container's files";
        std::fs::create_dir_all(directory).map_err(failed(doing))?;
        let host = &record.host;
        let addresses: Vec<IpAddr> = record
            .network
            .endpoints
            .iter()
            .flat_map(|endpoint| [endpoint.v4, endpoint.v6])
            .flatten()
            .map(|cidr| cidr.address)
            .collect();
        let extra = self.extra_hosts(record)?;
        let links = self.links_of_the_bridge(record)?;
        let links: Vec<_> = links.into_iter().map(|link| (link.names, link.address)).collect();
        let ipv6 = addresses.iter().any(IpAddr::is_ipv6);
        let hosts = if record.network.mode == NetworkMode::Host && extra.is_empty() {
            std::fs::read_to_string("/etc/hosts").unwrap_or_default()
        } else {
            files::hosts(&files::Hosts {
                hostname,
                domainname: &record.config.domainname,
                addresses: &addresses,
                extra: &extra,
                links: &links,
                // A container without IPv6 addresses has ::1 all the same.
                ipv6: true,
            })
        };
        let overrides = self.dns_overrides(record);
        let own = host_resolv_conf();
        let resolv = if self.has_names(record) {
            files::user_network_resolv_conf(&own, &overrides)
        } else if record.network.mode == NetworkMode::Host && overrides == DnsOverrides::default() {
            own
        } else {
            files::resolv_conf(&own, &overrides, ipv6)
        };
        for (name, text) in
            [("hosts", hosts), ("hostname", format!("{hostname}\n")), ("resolv.conf", resolv)]
        {
            let path = directory.join(name);
            std::fs::write(&path, text).map_err(failed(doing))?;
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            std::fs::set_permissions(&path, mode).map_err(failed(doing))?;
            if let Some(maps) = self.userns(host) {
                // It may write to them as it may without a user namespace.
                std::os::unix::fs::chown(&path, maps.uid(0), maps.gid(0)).map_err(failed(doing))?;
            }
        }
        Ok(())
    }
}

/// What a container calls itself: what it was given, the machine's name beside the machine's
/// network, else its own number.
pub(crate) fn hostname(record: &Record) -> String {
    match (&record.config.hostname, &record.network.mode) {
        (name, _) if !name.is_empty() => name.clone(),
        (_, NetworkMode::Host) => host_name(),
        _ if record.host.uts_mode == "host" => host_name(),
        _ => record.id.short().to_owned(),
    }
}

/// The networks that the daemon has by itself.
fn predefined(settings: &Settings, id: &str) -> Vec<Document> {
    let mut bridge = Document::predefined("bridge", "bridge", network_id(id, 'b'));
    let yes = |value: bool| value.to_string();
    let options = [
        ("bridge.default_bridge", yes(true)),
        ("bridge.enable_icc", yes(settings.icc)),
        ("bridge.enable_ip_masquerade", yes(settings.ip_masq)),
        (
            "bridge.host_binding_ipv4",
            settings.ip.map_or_else(|| "0.0.0.0".to_owned(), |ip| ip.to_string()),
        ),
        ("bridge.name", settings.bridge.clone()),
        ("driver.mtu", settings.mtu.to_string()),
    ];
    bridge.ipv6 = settings.networking.ipv6;
    bridge.options = options
        .into_iter()
        .map(|(name, value)| (format!("com.docker.network.{name}"), value))
        .collect();
    let bridge = settings.has_bridge().then_some(bridge);
    let others = [
        Document::predefined("host", "host", network_id(id, 'h')),
        Document::predefined("none", "null", network_id(id, 'n')),
    ];
    bridge.into_iter().chain(others).collect()
}

/// The predefined networks' ids hang together with the installation's.
fn network_id(id: &str, letter: char) -> String {
    let shift = letter as usize % 32;
    let (left, right) = id.split_at(shift.min(id.len()));
    format!("{right}{left}")
}

/// How networks are to be on this host.
fn network_settings(settings: &Settings, id: &str, program: &Path) -> hoy_network::Settings {
    let options = predefined(settings, id).into_iter().next().map(|bridge| bridge.options);
    let mut options = options.unwrap_or_default();
    // What the default bridge is needs no saying; where it publishes is said below.
    options.remove("com.docker.network.bridge.default_bridge");
    options.remove("com.docker.network.bridge.host_binding_ipv4");
    let networking = &settings.networking;
    hoy_network::Settings {
        default: settings.has_bridge().then(|| NetworkRequest {
            id: network_id(id, 'b'),
            name: "bridge".into(),
            driver: hoy_network::Driver::Bridge,
            ipv4: true,
            ipv6: networking.ipv6,
            internal: false,
            options,
            pools: default_pools(settings),
        }),
        supplies: supplies(networking, id),
        mtu: settings.mtu,
        forward: settings.ip_forward,
        open: networking.forward_no_drop,
        direct: networking.direct_routing,
        host_ip4: match settings.ip {
            Some(IpAddr::V4(address)) => address,
            _ => std::net::Ipv4Addr::UNSPECIFIED,
        },
        host_ip6: match settings.ip {
            Some(IpAddr::V6(address)) => address,
            _ => std::net::Ipv6Addr::UNSPECIFIED,
        },
        proxied: !networking.without_proxy,
        keeper: Some(hoy_network::KeeperPlace {
            program: program.to_owned(),
            socket: settings.exec_root.join("ports.sock"),
        }),
        resolv_conf: host_resolv_conf_path(),
    }
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

fn cidr(subnet: hoy_config::Subnet) -> Option<Cidr> {
    Cidr::new(subnet.address, subnet.prefix)
}

/// The default bridge's addresses, as far as the settings name them.
fn default_pools(settings: &Settings) -> Vec<PoolRequest> {
    let networking = &settings.networking;
    let bip = settings.bip.as_ref().and_then(|bip| bip.parse::<Cidr>().ok());
    let bip6 = networking.bip6.and_then(cidr);
    let gateway = networking.gateway.map(IpAddr::V4);
    let gateway6 = networking.gateway6.map(IpAddr::V6);
    let families = [
        (bip, networking.fixed_cidr, gateway, hoy_network::OTHER_GATEWAY4),
        (bip6, networking.fixed_cidr6, gateway6, hoy_network::OTHER_GATEWAY6),
    ];
    let asked = families.into_iter().filter_map(|(own, range, gateway, name)| {
        let range = range.and_then(cidr).map(|range| range.network());
        // Without an address of its own the bridge has what containers have.
        let subnet = own.map(|own| own.network()).or(range);
        (subnet.is_some() || gateway.is_some()).then(|| PoolRequest {
            subnet,
            range,
            gateway: own.map(|own| own.address),
            set_aside: gateway.map(|gateway| (name.to_owned(), gateway)).into_iter().collect(),
        })
    });
    // What the default bridge has not needs no addresses.
    asked.filter(|pool| networking.ipv6 || pool.subnet.is_none_or(|s| s.is_ipv4())).collect()
}

/// Where networks take subnets from that name none. IPv6 is never without.
fn supplies(networking: &hoy_config::Networking, id: &str) -> Vec<Supply> {
    let own = networking
        .pools
        .iter()
        .filter_map(|pool| Some(Supply { base: cidr(pool.base)?.network(), size: pool.size }));
    let mut out: Vec<Supply> = own.collect();
    if out.is_empty() {
        out = hoy_network::docker_supply();
    }
    if out.iter().all(|supply| supply.base.is_ipv4()) {
        out.push(hoy_network::local_supply(seed(id)));
    }
    out
}

/// With the owner of the firewall's rules, where a supervisor has kept it. One that is about to
/// end, or is slow, is waited for: as long as it holds the owner nobody else can be that.
fn open_networks(
    exec_root: &Path,
    open: &dyn Fn(Option<OwnedFd>) -> std::result::Result<Networks, hoy_network::NetworkError>,
) -> std::result::Result<Networks, hoy_network::NetworkError> {
    let started = std::time::Instant::now();
    loop {
        match open(kept_owner(exec_root)) {
            Err(error) if error.is_owned_elsewhere() && started.elapsed() < OWNER_GIVEN_UP => {
                std::thread::sleep(Duration::from_millis(50));
            }
            other => return other,
        }
    }
}

/// The owner of the firewall's rules, from any supervisor that has kept it for us.
fn kept_owner(exec_root: &Path) -> Option<OwnedFd> {
    let shims = hoy_shim::client::list(exec_root).unwrap_or_default();
    shims.iter().take(ASKED_FOR_THE_OWNER).find_map(|id| {
        let kept = hoy_shim::client::kept(exec_root, id, crate::driver::KEPT_RULES);
        kept.ok()?.into_iter().next()
    })
}

/// Of the installation's unique local addresses.
fn seed(id: &str) -> [u8; 8] {
    u64::from_str_radix(id.get(..16).unwrap_or("0"), 16).unwrap_or(0).to_be_bytes()
}

pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

pub(crate) fn host_resolv_conf() -> String {
    std::fs::read_to_string(host_resolv_conf_path()).unwrap_or_default()
}

/// Where the host's name servers are told: beside systemd's own, where that is all there is.
fn host_resolv_conf_path() -> PathBuf {
    const USUAL: &str = "/etc/resolv.conf";
    const SYSTEMD: &str = "/run/systemd/resolve/resolv.conf";
    let own = std::fs::read_to_string(USUAL).unwrap_or_default();
    let servers: Vec<&str> =
        own.lines().filter_map(|line| line.trim().strip_prefix("nameserver")).collect();
    let stub = servers.iter().all(|server| server.trim() == "127.0.0.53") && !servers.is_empty();
    if stub && Path::new(SYSTEMD).exists() { SYSTEMD.into() } else { USUAL.into() }
}

/// What `-p` and `-P` come to.
pub(crate) fn ports(record: &Record) -> Result<Vec<PortBinding>> {
    let mut out = Vec::new();
    let bindings = record.host.port_bindings.iter().flatten();
    for (port, wanted) in bindings {
        let container = crate::spec::port_spec(port)?;
        for binding in wanted.iter().flatten() {
            let host_ip = match binding.host_ip.as_str() {
                "" => None,
                text => Some(
                    text.parse()
                        .map_err(|_| Error::invalid(format!("invalid IP address: {text}")))?,
                ),
            };
            let host_ports = crate::spec::host_ports(&binding.host_port)?;
            out.push(PortBinding { container, host_ip, host_ports });
        }
    }
    if record.host.publish_all_ports {
        for port in record.config.exposed_ports.keys() {
            let container = crate::spec::port_spec(port)?;
            if !out.iter().any(|known| known.container == container) {
                out.push(PortBinding { container, host_ip: None, host_ports: None });
            }
        }
    }
    Ok(out)
}

/// Whether a directory can carry no container: as the data root of a daemon in one, if it is not a
/// volume.
pub(crate) fn lies_on_overlay(path: &std::path::Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type == 0x794c_7630)
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
