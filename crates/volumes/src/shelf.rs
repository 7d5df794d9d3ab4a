//! All volumes: which there are, who names them, who runs with them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write as _;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use hoy_store::Store;
use hoy_types::Timestamp;

use crate::mounts::{is_mounted, mount_on, unmount_from};
use crate::options::LocalOptions;
use crate::plugin::{Mounted, PluginSettings, Plugins};
use crate::populate::{self, DATA};
use crate::quota::{Quotas, Usage};
use crate::turn::Turns;
use crate::volume::{ANONYMOUS, LOCAL, Volume, VolumeRequest, check_name};
use crate::{Result, VolumeError};

const DOCUMENT: &str = "volume.json";
const FRESH: &str = "volume.json.new";
/// Mounts that may lie over each other on one directory.
const STACKED: usize = 16;

/// What became of the first contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// From the image.
    Now,
    /// It had contents of its own.
    Before,
}

/// Every volume. Reads never wait for changes; changes of one volume are one after the other.
pub struct Volumes {
    store: Store,
    root: PathBuf,
    quotas: Arc<Quotas>,
    known: RwLock<BTreeMap<String, Arc<Volume>>>,
    state: Mutex<State>,
    pub(crate) turns: Arc<Turns>,
    pub(crate) plugins: Arc<Plugins>,
    pub(crate) mounted: Arc<Mounted>,
}

#[derive(Default)]
struct State {
    /// By volume: the containers that name it.
    users: HashMap<String, BTreeSet<String>>,
    /// By volume: the containers that run with it.
    running: HashMap<String, BTreeSet<String>>,
}

impl Volumes {
    /// Finds what there is, and ends what a killed daemon has begun.
    pub fn open(store: Store, plugins: PluginSettings) -> Result<Self> {
        let root = store.root().join("volumes");
        std::fs::DirBuilder::new()
            .recursive(true)
            // Each volume's own owner and mode decide below it, as with Docker.
            .mode(0o711)
            .create(&root)
            .map_err(VolumeError::io("create", root.display()))?;
        let mounted = Mounted::new(root.clone());
        let mut known = BTreeMap::new();
        let entries = std::fs::read_dir(&root).map_err(VolumeError::io("list", root.display()))?;
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            match take_up(&entry.path(), &name) {
                Ok(volume) => {
                    if !volume.is_local() {
                        mounted.take_up(&name);
                    }
                    known.insert(name, Arc::new(volume));
                }
                Err(error) => tracing::error!(volume = name, %error, "take up a volume"),
            }
        }
        Ok(Self {
            quotas: Arc::new(Quotas::open(store.root())),
            store,
            root,
            known: RwLock::new(known),
            state: Mutex::default(),
            turns: Arc::default(),
            plugins: Arc::new(Plugins::new(plugins)),
            mounted: Arc::new(mounted),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, change: impl FnOnce(&mut BTreeMap<String, Arc<Volume>>)) {
        change(&mut self.known.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Where a volume's data is seen on the host; of a plugin's, where it was last. Nobody is asked.
    pub fn mountpoint(&self, volume: &Volume) -> PathBuf {
        if !volume.is_local() {
            return self.mounted.place(&volume.name).unwrap_or_default();
        }
        self.directory(&volume.name).join(DATA)
    }

    /// What limits directories below the data root.
    pub fn quotas(&self) -> &Arc<Quotas> {
        &self.quotas
    }

    /// How full a volume with a limit is.
    pub fn usage(&self, volume: &Volume) -> Result<Option<Usage>> {
        match size_of(volume)? {
            Some(_) => self.quotas.usage(&self.mountpoint(volume)).map(Some),
            None => Ok(None),
        }
    }

    /// All of them, by name.
    pub fn list(&self) -> Vec<Arc<Volume>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub fn get(&self, name: &str) -> Result<Arc<Volume>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(name).cloned().ok_or_else(|| VolumeError::NotFound(name.to_owned()))
    }

    /// The drivers that there are, as far as is known without asking: local, and plugins that have
    /// answered before.
    pub fn drivers(&self) -> Vec<String> {
        std::iter::once(LOCAL.to_owned()).chain(self.plugins.active()).collect()
    }

    /// The containers that name a volume.
    pub fn users(&self, name: &str) -> BTreeSet<String> {
        self.state().users.get(name).cloned().unwrap_or_default()
    }

    /// Whether a container runs with it.
    pub fn is_running(&self, name: &str) -> bool {
        self.state().running.contains_key(name)
    }

    /// Makes a volume, or gives the one that is there if it is what is asked for. Without a name
    /// it gets one and is anonymous. The answer also says whether it is new.
    pub fn create(&self, request: VolumeRequest) -> Result<(Arc<Volume>, bool)> {
        self.make(request, None)
    }

    /// The same for a container: from here on the volume is in use.
    pub fn claim(&self, request: VolumeRequest, container: &str) -> Result<(Arc<Volume>, bool)> {
        self.make(request, Some(container))
    }

    fn make(
        &self,
        mut request: VolumeRequest,
        container: Option<&str>,
    ) -> Result<(Arc<Volume>, bool)> {
        let random = request.anonymous || request.name.is_empty();
        if random {
            if request.name.is_empty() {
                request.name = random_name()?;
            }
            request.labels.insert(ANONYMOUS.to_owned(), String::new());
        }
        let _turn = self.turns.take(&request.name)?;
        let (volume, new) = match self.get(&request.name) {
            Ok(known) if known.is_local() => {
                known.fits(&request)?;
                (known, false)
            }
            Ok(known) if self.still_there(&known, &request)? => (known, false),
            _ if request.existing => return Err(VolumeError::NotFound(request.name)),
            _ => (self.make_new(request, random)?, true),
        };
        if let Some(container) = container {
            let mut state = self.state();
            state.users.entry(volume.name.clone()).or_default().insert(container.to_owned());
        }
        Ok((volume, new))
    }

    fn make_new(&self, request: VolumeRequest, random: bool) -> Result<Arc<Volume>> {
        check_name(&request.name)?;
        // Without a driver it is whose the name is.
        let owner = if random { None } else { self.owner(&request) };
        let driver = owner.unwrap_or_else(|| request.driver.clone());
        if !matches!(driver.as_str(), "" | LOCAL) {
            return self.make_plugged(request, &driver);
        }
        let of_name = |error: VolumeError| match error {
            VolumeError::Invalid(said) => {
                VolumeError::Invalid(format!("create {}: {said}", request.name))
            }
            other => other,
        };
        let size = LocalOptions::parse(&request.options).map_err(of_name)?.size;
        let volume = Volume {
            name: request.name,
            driver: LOCAL.to_owned(),
            labels: request.labels,
            options: request.options,
            created: Timestamp::from_system(std::time::SystemTime::now()),
        };
        self.remember(volume, size)
    }

    /// From here on there is a volume.
    pub(crate) fn remember(&self, volume: Volume, size: Option<u64>) -> Result<Arc<Volume>> {
        self.write_down(&volume, size)?;
        let volume = Arc::new(volume);
        self.publish(|known| drop(known.insert(volume.name.clone(), Arc::clone(&volume))));
        Ok(volume)
    }

    /// From here on there is none.
    pub(crate) fn forget(&self, name: &str) -> Result<()> {
        // Out of sight first, so that nobody is given what is about to go.
        self.store.discard(&self.directory(name))?;
        self.publish(|known| drop(known.remove(name)));
        self.mounted.forget(name);
        let root = std::fs::File::open(&self.root).and_then(|root| root.sync_all());
        root.map_err(VolumeError::io("remove the volume", name))
    }

    /// Takes up a directory that has come to be without us.
    pub fn adopt(&self, name: &str) -> Result<Arc<Volume>> {
        let _turn = self.turns.take(name)?;
        if let Ok(known) = self.get(name) {
            return Ok(known);
        }
        let volume = Arc::new(take_up(&self.directory(name), name)?);
        self.publish(|known| drop(known.insert(name.to_owned(), Arc::clone(&volume))));
        Ok(volume)
    }

    /// Complete and on the disk before it has its name.
    fn write_down(&self, volume: &Volume, size: Option<u64>) -> Result<()> {
        let target = self.directory(&volume.name);
        let fresh = self.store.fresh("ingest");
        let data = fresh.join(DATA);
        let failed = || VolumeError::io("create the volume", &volume.name);
        let mode = || std::fs::Permissions::from_mode(0o755);
        let contents = || match size {
            // A plugin's has its data elsewhere.
            _ if !volume.is_local() => Ok(()),
            Some(bytes) => self.quotas.limited(&data, bytes, |inside| {
                Ok(rustix::fs::fchmod(inside, rustix::fs::Mode::from_raw_mode(mode().mode()))?)
            }),
            None => std::fs::create_dir(&data)
                .and_then(|()| std::fs::set_permissions(&data, mode()))
                .and_then(|()| std::fs::File::open(&data)?.sync_all())
                .map_err(failed()),
        };
        let named = || -> std::io::Result<()> {
            write_document(&fresh, volume)?;
            std::fs::rename(&fresh, &target)?;
            std::fs::File::open(&self.root)?.sync_all()
        };
        let directory = std::fs::DirBuilder::new().mode(0o701).create(&fresh).map_err(failed());
        let made = directory.and_then(|()| contents());
        let made = made.and_then(|()| named().map_err(failed()));
        if made.is_err() {
            if size.is_some() {
                let _ = self.quotas.remove(&data);
            }
            let _ = std::fs::remove_dir_all(&fresh);
        }
        made
    }

    /// What an image has at the place where a container mounts an empty volume.
    pub fn populate(&self, name: &str, from: BorrowedFd<'_>) -> Result<Filled> {
        let _turn = self.turns.take(name)?;
        let volume = self.get(name)?;
        let failed = VolumeError::io("copy the image's files to the volume", name);
        if !volume.is_local() {
            let filled = self.mount_for_a_moment(&volume, |data| {
                populate::populate_in_place(data, from).map_err(failed)
            });
            return Ok(if filled? { Filled::Now } else { Filled::Before });
        }
        let options = LocalOptions::parse(&volume.options)?;
        let filled = if options.size.is_some() {
            // What is copied counts: it is made in there, and a mark says that it is not whole.
            let data = self.mount(&volume)?;
            let filled = populate::populate_marked(&self.directory(name), &data, from);
            self.unmount_unused(&volume)?;
            filled
        } else if options.mount.is_some() {
            let data = self.mount(&volume)?;
            let filled = populate::populate_in_place(&data, from);
            self.unmount_unused(&volume)?;
            filled
        } else {
            populate::populate(&self.directory(name), from)
        };
        Ok(if filled.map_err(failed)? { Filled::Now } else { Filled::Before })
    }

    /// For a container that starts: where the data lies from now on.
    pub fn attach(&self, name: &str, container: &str) -> Result<PathBuf> {
        let _turn = self.turns.take(name)?;
        let volume = self.get(name)?;
        let path = if volume.is_local() {
            self.mount(&volume)?
        } else {
            self.mount_plugged(&volume, container)?
        };
        self.attached(name, container);
        Ok(path)
    }

    /// A container that runs already was found to have it.
    pub fn attached(&self, name: &str, container: &str) {
        let mut state = self.state();
        state.running.entry(name.to_owned()).or_default().insert(container.to_owned());
        self.mounted.wanted(name, container);
    }

    /// A container names it, since before this daemon.
    pub fn claimed(&self, name: &str, container: &str) {
        let mut state = self.state();
        state.users.entry(name.to_owned()).or_default().insert(container.to_owned());
    }

    fn mount(&self, volume: &Volume) -> Result<PathBuf> {
        let data = self.mountpoint(volume);
        let options = LocalOptions::parse(&volume.options)?;
        if let Some(options) = options.mount
            && !is_mounted(&data)
        {
            mount_on(&options, &data)?;
        }
        if options.size.is_some() {
            self.quotas.attach(&data)?;
            populate::undo_marked(&self.directory(&volume.name), &data)
                .map_err(VolumeError::io("recover the volume", &volume.name))?;
        }
        Ok(data)
    }

    /// A container has ended, or never began.
    pub fn detach(&self, name: &str, container: &str) -> Result<()> {
        if let Ok(volume) = self.get(name)
            && !volume.is_local()
        {
            self.not_running(name, container);
            return self.unmount_plugged(&volume, container);
        }
        let _turn = self.turns.take(name)?;
        self.not_running(name, container);
        match self.get(name) {
            Ok(volume) => self.unmount_unused(&volume),
            Err(_) => Ok(()),
        }
    }

    fn not_running(&self, name: &str, container: &str) {
        let mut state = self.state();
        if let Some(running) = state.running.get_mut(name) {
            running.remove(container);
            if running.is_empty() {
                state.running.remove(name);
            }
        }
    }

    fn unmount_unused(&self, volume: &Volume) -> Result<()> {
        if volume.options.is_empty() || self.state().running.contains_key(&volume.name) {
            return Ok(());
        }
        unmount_all(&self.mountpoint(volume))
    }

    /// Once it is known what runs: mounts that nobody uses are taken off.
    pub fn settle(&self) {
        for volume in self.list() {
            let done = match volume.is_local() {
                true => self.unmount_unused(&volume),
                false => self.give_back_stale(&volume),
            };
            if let Err(error) = done {
                tracing::warn!(volume = volume.name, %error, "take off an unused mount");
            }
        }
    }

    /// A container is no more: it names nothing.
    pub fn let_go(&self, container: &str) {
        let mut state = self.state();
        state.users.retain(|_, users| {
            users.remove(container);
            !users.is_empty()
        });
    }

    /// Lets a volume with a limit hold more, also while containers run with it.
    pub fn grow(&self, name: &str, size: &str) -> Result<Arc<Volume>> {
        let _turn = self.turns.take(name)?;
        let known = self.get(name)?;
        if size_of(&known)?.is_none() {
            return Err(VolumeError::Invalid(format!(
                "volume {name} has no limit that could grow: it was made without the option size"
            )));
        }
        let mut volume = Volume::clone(&known);
        volume.options.insert("size".to_owned(), size.to_owned());
        let bytes = size_of(&volume)?.unwrap_or_default();
        self.quotas.grow(&self.mountpoint(&volume), bytes)?;
        write_document(&self.directory(name), &volume)
            .map_err(VolumeError::io("write down the volume", name))?;
        let volume = Arc::new(volume);
        self.publish(|known| drop(known.insert(name.to_owned(), Arc::clone(&volume))));
        Ok(volume)
    }

    /// Removes a volume that nobody names.
    pub fn remove(&self, name: &str) -> Result<Arc<Volume>> {
        self.take_away(name, false)
    }

    /// Removes a volume that nobody names, also one whose plugin does not or cannot agree.
    pub fn remove_by_force(&self, name: &str) -> Result<Arc<Volume>> {
        self.take_away(name, true)
    }

    fn take_away(&self, name: &str, force: bool) -> Result<Arc<Volume>> {
        let _turn = self.turns.take(name)?;
        let Ok(volume) = self.get(name) else {
            return self.remove_unknown(name);
        };
        let users = self.users(name);
        if !users.is_empty() {
            let users: Vec<&str> = users.iter().map(String::as_str).collect();
            return Err(VolumeError::Conflict(format!(
                "remove {name}: volume is in use - [{}]",
                users.join(", ")
            )));
        }
        if volume.is_local() {
            let data = self.mountpoint(&volume);
            unmount_all(&data)?;
            let leaving = self.quotas.leave(&data)?;
            self.forget(name)?;
            leaving.gone();
        } else {
            self.remove_plugged(&volume, force)?;
        }
        Ok(volume)
    }
}

/// The bytes that a volume of ours may hold.
fn size_of(volume: &Volume) -> Result<Option<u64>> {
    if !volume.is_local() {
        return Ok(None);
    }
    Ok(LocalOptions::parse(&volume.options)?.size)
}

/// The old one or the new one, whatever happens.
fn write_document(directory: &Path, volume: &Volume) -> std::io::Result<()> {
    let fresh = directory.join(FRESH);
    let mut file = std::fs::File::create(&fresh)?;
    file.write_all(&serde_json::to_vec(volume)?)?;
    file.sync_all()?;
    std::fs::rename(&fresh, directory.join(DOCUMENT))?;
    std::fs::File::open(directory)?.sync_all()
}

fn unmount_all(data: &Path) -> Result<()> {
    for _ in 0..STACKED {
        if !is_mounted(data) {
            return Ok(());
        }
        unmount_from(data)?;
    }
    Err(VolumeError::Conflict(format!("{} stays a mount point", data.display())))
}

/// What lies in a volume's directory. One whose document is lost is a volume all the same: nothing
/// that may be somebody's data goes away by itself.
fn take_up(directory: &Path, name: &str) -> Result<Volume> {
    check_name(name)?;
    populate::recover(directory).map_err(VolumeError::io("recover the volume", name))?;
    let read = std::fs::read(directory.join(DOCUMENT));
    let document = read.ok().and_then(|body| serde_json::from_slice::<Volume>(&body).ok());
    if let Some(volume) = document.filter(|volume| volume.name == name) {
        return Ok(volume);
    }
    tracing::warn!(volume = name, "a volume without a document is taken up as it is");
    let made = std::fs::metadata(directory).and_then(|meta| meta.modified());
    let created = made.unwrap_or(std::time::SystemTime::UNIX_EPOCH);
    Ok(Volume {
        name: name.to_owned(),
        driver: LOCAL.to_owned(),
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
        created: Timestamp::from_system(created),
    })
}

/// 64 hexadecimal digits, as Docker's.
pub fn random_name() -> Result<String> {
    let mut bytes = [0; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled += rustix::rand::getrandom(&mut bytes[filled..], flags)
            .map_err(VolumeError::errno("find a name", "for the volume"))?;
    }
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
