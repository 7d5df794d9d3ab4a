//! Thousands of operations, sixteen at a time, with kills of the daemon in between, beside a model
//! of what must be.
//!
//! Each worker has networks and containers of its own, and all use a few networks together. What
//! was acknowledged must be there after the kill, what was refused must not be; what was under way
//! may be either, and the model learns which.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hoy_client::{Client, ClientError};
use hoy_e2e::daemon;
use hoy_testkit::{Daemon, KernelCounts, Run};
use serde_json::{Value, json};

use crate::Chance;

const WORKERS: usize = 16;
const SHARED: [&str; 4] = ["s0", "s1", "s2", "s3"];
/// Containers of one worker at the same time.
const BOXES: usize = 2;
/// Operations between two kills.
const PHASE: usize = 250;

/// Why a worker stops: there is no daemon to answer.
struct Gone;

/// An address in a network and the container that has it, as told by the daemon.
type Addresses = Mutex<HashMap<(String, String), String>>;

/// What one worker knows to be.
struct Worker {
    number: usize,
    chance: Chance,
    made: usize,
    networks: BTreeSet<String>,
    /// Running containers, and the networks they are in.
    boxes: BTreeMap<String, BTreeSet<String>>,
    /// What was asked for when the daemon went.
    open: Option<Operation>,
}

#[derive(Clone, Debug)]
enum Operation {
    Create(String),
    Remove(String),
    Run(String, String),
    Kill(String),
    Connect(String, String),
    Disconnect(String, String),
    /// Something that must be refused, with this status.
    Wrong(Box<Operation>, u16),
}

/// An answer, or that there is none.
fn answered(answer: Result<Value, ClientError>) -> Result<Result<Value, ClientError>, Gone> {
    match answer {
        Err(error) if error.status().is_none() => Err(Gone),
        answer => Ok(answer),
    }
}

/// An answer whose body is of no interest.
fn sent(request: hoy_client::Request<'_>) -> Result<Value, ClientError> {
    request.send().map(|_| Value::Null)
}

fn inspect(client: &Client, name: &str) -> Result<Value, ClientError> {
    client.get(format!("/containers/{name}/json")).fetch()
}

/// Networks of a container with their addresses.
fn endpoints(container: &Value) -> BTreeMap<String, String> {
    let all = container["NetworkSettings"]["Networks"].as_object().expect("networks");
    let text = |one: &Value| one["IPAddress"].as_str().unwrap_or_default().to_owned();
    all.iter().map(|(name, one)| (name.clone(), text(one))).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Operation {
    fn ask(&self, client: &Client) -> Result<Value, ClientError> {
        match self {
            Self::Create(name) => {
                sent(client.post("/networks/create").json(&json!({ "Name": name })))
            }
            Self::Remove(name) => sent(client.delete(format!("/networks/{name}"))),
            Self::Run(name, network) => {
                let body = json!({
                    "Image": "busybox",
                    "Cmd": ["sleep", "1000"],
                    "HostConfig": { "NetworkMode": network },
                });
                sent(client.post("/containers/create").query("name", name).json(&body))?;
                sent(client.post(format!("/containers/{name}/start")))
            }
            Self::Kill(name) => {
                sent(client.delete(format!("/containers/{name}")).switch("force", true))
            }
            Self::Connect(name, network) => {
                let body = json!({ "Container": name });
                sent(client.post(format!("/networks/{network}/connect")).json(&body))
            }
            Self::Disconnect(name, network) => {
                let body = json!({ "Container": name, "Force": false });
                sent(client.post(format!("/networks/{network}/disconnect")).json(&body))
            }
            Self::Wrong(operation, _) => operation.ask(client),
        }
    }
}

impl Worker {
    fn new(number: usize) -> Self {
        Self {
            number,
            chance: Chance(0x2545_f491_4f6c_dd1d ^ (number as u64 + 1) << 32),
            made: 0,
            networks: BTreeSet::new(),
            boxes: BTreeMap::new(),
            open: None,
        }
    }

    fn name(&mut self, kind: char) -> String {
        self.made += 1;
        format!("{kind}{}-{}", self.number, self.made)
    }

    fn pick<'a>(chance: &mut Chance, from: &[&'a String]) -> Option<&'a String> {
        (!from.is_empty()).then(|| from[chance.below(from.len())])
    }

    /// What to do next; not everything can be done at every moment.
    fn decide(&mut self) -> Option<Operation> {
        let draw = self.chance.below(100);
        let used: BTreeSet<String> = self.boxes.values().flatten().cloned().collect();
        let chance = &mut self.chance;
        let one = Self::pick(chance, &self.boxes.keys().collect::<Vec<_>>()).cloned();
        let own: Vec<&String> = self.networks.iter().collect();
        Some(match draw {
            // One each: the default pools have room for thirty.
            0..20 if own.is_empty() => {
                let name = self.name('n');
                Operation::Create(name)
            }
            0..20 => {
                let free: Vec<_> = own.into_iter().filter(|name| !used.contains(*name)).collect();
                Operation::Remove(Self::pick(chance, &free)?.clone())
            }
            20..30 if self.boxes.len() < BOXES => {
                let network = SHARED[chance.below(SHARED.len())].to_owned();
                Operation::Run(self.name('c'), network)
            }
            30..34 => Operation::Kill(one?),
            34..38 => {
                let within: Vec<_> = self.boxes.get(one.as_ref()?)?.iter().collect();
                let network = Self::pick(chance, &within)?.clone();
                let wrong = match chance.below(2) {
                    0 => Operation::Connect(one?, network),
                    _ if network.starts_with('s') => return None,
                    _ => Operation::Remove(network),
                };
                Operation::Wrong(Box::new(wrong), 403)
            }
            38..41 => {
                let taken = Operation::Create(Self::pick(chance, &own)?.clone());
                Operation::Wrong(Box::new(taken), 409)
            }
            41..75 => {
                let name = one?;
                let shared = SHARED.map(str::to_owned);
                let within = &self.boxes[&name];
                let free: Vec<_> =
                    own.into_iter().chain(&shared).filter(|name| !within.contains(*name)).collect();
                let network = Self::pick(chance, &free)?.clone();
                Operation::Connect(name, network)
            }
            _ => {
                let name = one?;
                let within: Vec<_> = self.boxes[&name].iter().collect();
                let network = Self::pick(chance, &within)?.clone();
                Operation::Disconnect(name, network)
            }
        })
    }

    /// Does it; the model follows the answer.
    fn step(
        &mut self,
        client: &Client,
        given: &Addresses,
        operation: &Operation,
    ) -> Result<(), Gone> {
        // From here on the addresses may be somebody else's.
        match operation {
            Operation::Kill(name) => lock(given).retain(|_, owner| owner != name),
            Operation::Disconnect(name, network) => {
                lock(given).retain(|(of, _), owner| of != network || owner != name);
            }
            _ => {}
        }
        self.open = Some(operation.clone());
        let answer = answered(operation.ask(client))?;
        self.open = None;
        if let Operation::Wrong(_, status) = operation {
            let refused = answer.err().unwrap_or_else(|| panic!("{operation:?} was done"));
            assert_eq!(refused.status(), Some(*status), "{operation:?}: {refused}");
            return Ok(());
        }
        answer.unwrap_or_else(|error| panic!("{operation:?}: {error}"));
        self.done(operation);
        if let Operation::Run(name, network) | Operation::Connect(name, network) = operation {
            let shown = answered(inspect(client, name))?.expect("inspect");
            let address = endpoints(&shown).remove(network).unwrap_or_default();
            assert!(!address.is_empty(), "{name} has no address in {network}");
            let before = lock(given).insert((network.clone(), address.clone()), name.clone());
            assert_eq!(before, None, "{address} of {network} is given to {name}, too");
        }
        Ok(())
    }

    fn done(&mut self, operation: &Operation) {
        match operation.clone() {
            Operation::Create(name) => drop(self.networks.insert(name)),
            Operation::Remove(name) => drop(self.networks.remove(&name)),
            Operation::Run(name, network) => {
                drop(self.boxes.insert(name, BTreeSet::from([network])));
            }
            Operation::Kill(name) => drop(self.boxes.remove(&name)),
            Operation::Connect(name, network) => {
                self.boxes.get_mut(&name).expect("known").insert(network);
            }
            Operation::Disconnect(name, network) => {
                self.boxes.get_mut(&name).expect("known").remove(&network);
            }
            Operation::Wrong(..) => {}
        }
    }

    /// Which way went what was under way.
    fn learn(&mut self, client: &Client) {
        let Some(operation) = self.open.take() else { return };
        match &operation {
            Operation::Create(name) | Operation::Remove(name) => {
                match client.get(format!("/networks/{name}")).fetch() {
                    Ok(_) => drop(self.networks.insert(name.clone())),
                    Err(error) => {
                        assert_eq!(error.status(), Some(404), "{operation:?}: {error}");
                        self.networks.remove(name);
                    }
                }
            }
            Operation::Run(name, _) | Operation::Kill(name) => {
                self.boxes.remove(name);
                if let Err(error) = Operation::Kill(name.clone()).ask(client) {
                    assert_eq!(error.status(), Some(404), "{operation:?}: {error}");
                }
            }
            Operation::Connect(name, network) | Operation::Disconnect(name, network) => {
                let shown = inspect(client, name).expect("inspect");
                let within = self.boxes.get_mut(name).expect("known");
                if endpoints(&shown).contains_key(network) {
                    within.insert(network.clone());
                } else {
                    within.remove(network);
                }
            }
            Operation::Wrong(..) => {}
        }
    }
}

/// Everything that the model knows is there, and nothing else: by the documents, by each other,
/// and by the kernel.
fn compare(client: &Client, workers: &[Worker]) -> HashMap<(String, String), String> {
    let listed = client.get("/networks").fetch().expect("list networks");
    let names = listed.as_array().expect("a list").iter().map(|one| one["Name"].as_str().unwrap());
    let names: BTreeSet<&str> = names.filter(|name| name.contains('-')).collect();
    let known = workers.iter().flat_map(|worker| &worker.networks).map(String::as_str).collect();
    assert_eq!(names, known);
    let listed = client.get("/containers/json").switch("all", true).fetch().expect("list");
    let names = listed.as_array().expect("a list").iter();
    let names: BTreeSet<&str> = names.map(|one| &one["Names"][0].as_str().unwrap()[1..]).collect();
    let boxes = || workers.iter().flat_map(|worker| &worker.boxes);
    assert_eq!(names, boxes().map(|(name, _)| name.as_str()).collect());
    let mut given = HashMap::new();
    let mut inside: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
    for (name, within) in boxes() {
        let shown = inspect(client, name).expect("inspect");
        assert_eq!(shown["State"]["Running"], true, "{name}");
        let endpoints = endpoints(&shown);
        assert_eq!(&endpoints.keys().cloned().collect::<BTreeSet<_>>(), within, "{name}");
        let pid = shown["State"]["Pid"].to_string();
        let line = "ip -o -4 addr show scope global | tr -s ' ' | cut -d ' ' -f 4 | cut -d / -f 1";
        let kernel = Run::new("nsenter").args(["-t", &pid, "-n", "--", "sh", "-c", line]).run();
        let kernel: BTreeSet<String> = kernel.ok().lines().map(str::to_owned).collect();
        assert_eq!(kernel, endpoints.values().cloned().collect(), "{name}");
        for (network, address) in endpoints {
            let who = (name.clone(), address.clone());
            inside.entry(network.clone()).or_default().insert(who);
            let before = given.insert((network.clone(), address.clone()), name.clone());
            assert_eq!(before, None, "{address} of {network} is given to {name}, too");
        }
    }
    for (network, inside) in inside {
        let shown = client.get(format!("/networks/{network}")).fetch().expect("inspect");
        let all = shown["Containers"].as_object().expect("containers").values();
        let pair = |one: &Value| {
            let address = one["IPv4Address"].as_str().unwrap().split('/').next().unwrap();
            (one["Name"].as_str().unwrap().to_owned(), address.to_owned())
        };
        assert_eq!(all.map(pair).collect::<BTreeSet<_>>(), inside, "{network}");
    }
    given
}

/// Files that containers and networks come with. The helper of published ports has a socket while
/// it lives.
fn files(daemon: &Daemon) -> BTreeSet<String> {
    let line = "cd \"$1\"; find data run ! -name '*-wal' ! -name '*-shm' ! -name ports.sock | sort";
    let root = daemon.path("").display().to_string();
    Run::new("sh").args(["-ec", line, "sh", &root]).run().ok().lines().map(str::to_owned).collect()
}

/// Lets all work until so many operations are done or the daemon is gone.
fn phase(client: &Client, workers: &mut [Worker], given: &Addresses, work: &Work) {
    std::thread::scope(|scope| {
        for worker in workers {
            scope.spawn(move || {
                while !work.stop.load(Ordering::Relaxed) {
                    let Some(operation) = worker.decide() else { continue };
                    if worker.step(client, given, &operation).is_err() {
                        return;
                    }
                    if work.done.fetch_add(1, Ordering::Relaxed) + 1 >= work.wanted {
                        return;
                    }
                }
            });
        }
    });
}

struct Work {
    stop: AtomicBool,
    done: AtomicUsize,
    wanted: usize,
}

#[test]
fn thousands_of_operations_and_kills_in_between() {
    let wanted = std::env::var("HOY_STORM").map_or(1000, |text| text.parse().expect("a number"));
    let mut daemon = daemon();
    let before = hoy_e2e::counts(&daemon);
    let files_before = files(&daemon);
    for name in SHARED {
        daemon.docker(&["network", "create", name]).run().ok();
    }
    let mut workers: Vec<Worker> = (0..WORKERS).map(Worker::new).collect();
    let given = Addresses::default();
    let mut chance = Chance(0x1234_5678_9abc_def1);
    let started = Instant::now();
    let (mut total, mut open) = (0, 0);
    while total < wanted {
        let client = crate::client(&daemon);
        // Some phases end by themselves: all that was asked for is answered.
        let killed = total + PHASE < wanted;
        let work = Work {
            stop: AtomicBool::new(false),
            done: AtomicUsize::new(0),
            wanted: if killed { usize::MAX } else { wanted - total },
        };
        std::thread::scope(|scope| {
            let all = scope.spawn(|| phase(&client, &mut workers, &given, &work));
            let (mut last, mut moved) = (0, Instant::now());
            while !all.is_finished() {
                let done = work.done.load(Ordering::Relaxed);
                if done != last {
                    (last, moved) = (done, Instant::now());
                }
                let stuck = moved.elapsed() > Duration::from_secs(60);
                if stuck || killed && done >= PHASE {
                    std::thread::sleep(Duration::from_micros(chance.below(30_000) as u64));
                    daemon.kill();
                    work.stop.store(true, Ordering::Relaxed);
                    let _ = all.join();
                    assert!(!stuck, "no operation has ended in a minute");
                    return;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(all.join().is_ok(), "a worker failed");
            if killed {
                daemon.kill();
            }
        });
        total += work.done.load(Ordering::Relaxed);
        if killed {
            open += workers.iter().filter(|worker| worker.open.is_some()).count();
            daemon.launch();
        }
        let client = crate::client(&daemon);
        workers.iter_mut().for_each(|worker| worker.learn(&client));
        *lock(&given) = compare(&client, &workers);
    }
    println!("{total} operations, {open} of them cut off, in {:?}", started.elapsed());
    assert!(open > 0, "no kill met an operation");
    let client = crate::client(&daemon);
    for worker in &workers {
        for name in worker.boxes.keys() {
            Operation::Kill(name.clone()).ask(&client).expect("remove a container");
        }
        for name in &worker.networks {
            Operation::Remove(name.clone()).ask(&client).expect("remove a network");
        }
    }
    daemon.docker(&["network", "rm"]).args(SHARED).run().ok();
    let now = KernelCounts::of(&daemon).daemon_descriptors;
    KernelCounts { daemon_descriptors: now, ..before }.wait_for(&daemon);
    let files = files(&daemon);
    let left: Vec<_> = files.symmetric_difference(&files_before).collect();
    assert!(left.is_empty(), "{left:?}");
    // The pools are as before: the first is the first again.
    daemon.docker(&["network", "create", "first"]).run().ok();
    let template = "{{(index .IPAM.Config 0).Subnet}}";
    let first = daemon.docker(&["network", "inspect", "-f", template, "first"]).run();
    assert_eq!(first.ok().trim(), "172.18.0.0/16");
    daemon.docker(&["network", "rm", "first"]).run().ok();
}
