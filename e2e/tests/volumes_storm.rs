//! Volumes when everything happens at once and the daemon is killed in between.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hoy_client::{Client, ClientError, Endpoint};
use hoy_e2e::{Chance, daemon, import};
use hoy_testkit::{Daemon, KernelCounts, wait_until};
use serde_json::{Value, json};

/// Files that the image brings into a volume.
const FILES: usize = 300;
const WORKERS: usize = 8;
/// Operations between two kills.
const PHASE: usize = 250;

fn client(daemon: &Daemon) -> Client {
    Client::new(Endpoint::parse(&daemon.host()).expect("a path"))
}

fn status<T>(answer: &Result<T, ClientError>) -> Option<u16> {
    match answer {
        Ok(_) => Some(200),
        Err(error) => error.status(),
    }
}

fn names(path: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn listed(client: &Client) -> BTreeSet<String> {
    let found: Value = client.get("/volumes").fetch().expect("a list");
    let all = found["Volumes"].as_array().expect("an array").iter();
    all.map(|one| one["Name"].as_str().expect("a name").to_owned()).collect()
}

/// A volume is there with all that the image has, or empty, or not there: never a part of it. One
/// that was made for a container alone is there when the container is.
#[test]
fn killed_at_any_step_a_volume_is_whole_or_not_there() {
    let mut daemon = daemon();
    let fill = format!("mkdir srv; for i in $(seq {FILES}); do echo $i > srv/$i; done");
    import(&daemon, "full", &fill, &[]);
    let volumes = daemon.path("data/volumes");
    let host = json!({"Binds": ["x1:/srv"]});
    let body =
        json!({"Image": "full", "Cmd": ["true"], "Volumes": {"/own": {}}, "HostConfig": host});
    let remove = |client: &Client| client.delete("/containers/c1").query("v", "1").send().map(drop);
    let create = |client: &Client| {
        client.post("/containers/create").query("name", "c1").json(&body).send().map(drop)
    };
    // Kills fall before, into and behind what this machine takes for it, as fast as it is by then.
    let started = Instant::now();
    create(&client(&daemon)).expect("create");
    let mut span = usize::try_from(started.elapsed().as_micros()).expect("a short time") * 5 / 4;
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let (mut acknowledged, mut lost) = (0, 0);
    for round in 0..40 {
        // Alternately it is made with its contents, and removed.
        let makes = round % 2 == 1;
        let asked = std::thread::spawn({
            let (client, body) = (client(&daemon), body.clone());
            move || {
                if makes {
                    let request = client.post("/containers/create").query("name", "c1");
                    return request.json(&body).send().map(drop);
                }
                client.delete("/containers/c1").query("v", "1").send()?;
                client.delete("/volumes/x1").send().map(drop)
            }
        });
        std::thread::sleep(Duration::from_micros(chance.below(span) as u64));
        daemon.kill();
        let answer = asked.join().expect("no panic");
        daemon.launch();
        let client = client(&daemon);
        assert_eq!(listed(&client), names(&volumes), "round {round}");
        let there = listed(&client).contains("x1");
        let all: Value = client.get("/containers/json").query("all", "1").fetch().expect("a list");
        let own = listed(&client).len() - usize::from(there);
        assert_eq!(own, all.as_array().expect("an array").len(), "round {round}: {all}");
        let found = names(&volumes.join("x1/_data"));
        assert!(found.is_empty() || found.len() == FILES, "round {round}: {} files", found.len());
        let beside: BTreeSet<String> = ["_data", "volume.json"].map(str::to_owned).into();
        assert!(!there || names(&volumes.join("x1")) == beside, "round {round}");
        match status(&answer) {
            Some(200) => {
                assert_eq!(there, makes, "round {round}");
                assert!(!makes || found.len() == FILES, "round {round}");
                acknowledged += 1;
                span = (span * 9 / 10).max(100);
            }
            Some(other) => panic!("round {round}: {other}"),
            None => {
                lost += 1;
                span = span * 10 / 9;
            }
        }
        // The next round begins with what it undoes.
        if makes {
            let answer = create(&client);
            assert!(matches!(status(&answer), Some(200 | 409)), "{answer:?}");
            assert_eq!(names(&volumes.join("x1/_data")).len(), FILES, "round {round}");
        } else {
            let gone = remove(&client);
            assert!(matches!(status(&gone), Some(200 | 404)), "{gone:?}");
            let gone = client.delete("/volumes/x1").send().map(drop);
            assert!(matches!(status(&gone), Some(200 | 404)), "{gone:?}");
        }
    }
    assert!(acknowledged > 0 && lost > 0, "{acknowledged} done, {lost} lost: no test");
}

/// What one worker knows to be: its volumes with what was written last, and its containers with
/// the volumes that they name.
struct Worker {
    number: usize,
    chance: Chance,
    made: usize,
    volumes: BTreeMap<String, Option<String>>,
    boxes: BTreeMap<String, Vec<String>>,
    open: Option<Operation>,
}

#[derive(Clone, Debug)]
enum Operation {
    Create(String),
    /// With another driver than it has.
    Contradict(String),
    Remove(String),
    Write(String, String),
    Read(String),
    Box(String, Vec<String>),
    /// The volumes of another container.
    Share(String, String),
    /// Whether with its anonymous volumes.
    Unbox(String, bool),
}

impl Operation {
    fn ask(&self, client: &Client) -> Result<Value, ClientError> {
        let done = |answer: Result<_, ClientError>| answer.map(|_| Value::Null);
        let volume = |body: Value| done(client.post("/volumes/create").json(&body).send());
        let container = |name: &str, host: Value| {
            let body = json!({"Image": "busybox", "Volumes": {"/an": {}}, "HostConfig": host});
            done(client.post("/containers/create").query("name", name).json(&body).send())
        };
        match self {
            Self::Create(name) => volume(json!({"Name": name})),
            Self::Contradict(name) => volume(json!({"Name": name, "Driver": "another"})),
            Self::Remove(name) => done(client.delete(format!("/volumes/{name}")).send()),
            Self::Write(name, text) => run(client, name, &format!("echo {text} > /v/t")),
            Self::Read(name) => run(client, name, "cat /v/t 2>/dev/null || true"),
            Self::Box(name, volumes) => {
                let bind = |(at, volume)| format!("{volume}:/v{at}");
                let binds: Vec<String> = volumes.iter().enumerate().map(bind).collect();
                container(name, json!({"Binds": binds}))
            }
            Self::Share(name, from) => container(name, json!({"VolumesFrom": [from]})),
            Self::Unbox(name, volumes) => {
                done(client.delete(format!("/containers/{name}")).switch("v", *volumes).send())
            }
        }
    }
}

/// In a container of a moment; the answer is what it prints.
fn run(client: &Client, volume: &str, script: &str) -> Result<Value, ClientError> {
    let body = json!({
        "Image": "busybox", "Cmd": ["sh", "-c", script],
        "HostConfig": {"Binds": [format!("{volume}:/v")], "NetworkMode": "none"},
    });
    let made: Value = client.post("/containers/create").json(&body).fetch()?;
    let id = made["Id"].as_str().expect("an id").to_owned();
    client.post(format!("/containers/{id}/start")).send()?;
    let ended: Value = client.post(format!("/containers/{id}/wait")).fetch()?;
    assert_eq!(ended["StatusCode"], 0, "{script}");
    client.delete(format!("/containers/{id}")).send()?;
    Ok(Value::Null)
}

impl Worker {
    fn new(number: usize) -> Self {
        Self {
            number,
            chance: Chance(0xabcd_ef12_3456_789b ^ (number as u64) << 20),
            made: 0,
            volumes: BTreeMap::new(),
            boxes: BTreeMap::new(),
            open: None,
        }
    }

    fn fresh(&mut self, kind: char) -> String {
        self.made += 1;
        format!("{kind}{}-{}", self.number, self.made)
    }

    fn pick<T: Clone>(&mut self, from: Vec<T>) -> Option<T> {
        let at = if from.is_empty() { return None } else { self.chance.below(from.len()) };
        from.get(at).cloned()
    }

    fn decide(&mut self) -> Option<Operation> {
        let known: Vec<String> = self.volumes.keys().cloned().collect();
        let boxes: Vec<String> = self.boxes.keys().cloned().collect();
        Some(match self.chance.below(16) {
            0..=3 if known.len() < 6 => Operation::Create(self.fresh('v')),
            4 => Operation::Create(self.pick(known)?),
            5 => Operation::Contradict(self.pick(known)?),
            6..=8 => Operation::Remove(self.pick(known)?),
            9 => {
                let text = self.fresh('t');
                Operation::Write(self.pick(known)?, text)
            }
            10 => Operation::Read(self.pick(known)?),
            11 | 12 if boxes.len() < 4 => {
                // One that is there, and one that comes with it.
                let mut volumes = vec![self.fresh('v')];
                volumes.extend(self.pick(known));
                Operation::Box(self.fresh('c'), volumes)
            }
            13 if boxes.len() < 4 => {
                let from = self.pick(boxes)?;
                Operation::Share(self.fresh('c'), from)
            }
            14 | 15 => {
                let with = self.chance.below(2) == 1;
                Operation::Unbox(self.pick(boxes)?, with)
            }
            _ => return None,
        })
    }

    fn expected(&self, operation: &Operation) -> u16 {
        let used = |name: &String| self.boxes.values().any(|volumes| volumes.contains(name));
        match operation {
            Operation::Contradict(_) => 409,
            Operation::Remove(name) if used(name) => 409,
            _ => 200,
        }
    }

    fn done(&mut self, operation: &Operation) {
        match operation {
            Operation::Create(name) => drop(self.volumes.entry(name.clone()).or_default()),
            Operation::Remove(name) => drop(self.volumes.remove(name)),
            Operation::Write(name, text) => {
                self.volumes.insert(name.clone(), Some(text.clone()));
            }
            Operation::Box(name, volumes) => {
                for volume in volumes {
                    self.volumes.entry(volume.clone()).or_default();
                }
                self.boxes.insert(name.clone(), volumes.clone());
            }
            Operation::Share(name, from) => {
                let volumes = self.boxes.get(from).cloned().unwrap_or_default();
                self.boxes.insert(name.clone(), volumes);
            }
            Operation::Unbox(name, _) => drop(self.boxes.remove(name)),
            Operation::Contradict(_) | Operation::Read(_) => {}
        }
    }

    /// False once there is no daemon to answer.
    fn step(&mut self, client: &Client, operation: &Operation) -> bool {
        self.open = Some(operation.clone());
        let answer = operation.ask(client);
        let Some(status) = status(&answer) else { return false };
        let expected = self.expected(operation);
        assert_eq!(status, expected, "{operation:?}: {answer:?}");
        if expected == 200 {
            self.done(operation);
        }
        self.open = None;
        true
    }

    /// What was under way when the daemon was killed has happened or not: the daemon tells which.
    fn learn(&mut self, client: &Client, data: &Path) {
        let Some(operation) = self.open.take() else { return };
        let own = format!("v{}-", self.number);
        let there: BTreeSet<String> =
            listed(client).into_iter().filter(|name| name.starts_with(&own)).collect();
        let has = |name: &str| client.get(format!("/containers/{name}/json")).fetch();
        match &operation {
            // The file was made, written, or not touched yet.
            Operation::Write(name, text) => {
                let (found, before) = (written(data, name), self.volumes.get(name).cloned());
                let known = [before.flatten(), Some(text.clone()), Some(String::new())];
                assert!(known.contains(&found), "{name}: {found:?}, not one of {known:?}");
                self.volumes.insert(name.clone(), found);
            }
            Operation::Box(name, _) | Operation::Share(name, _) if has(name).is_ok() => {
                self.done(&operation);
            }
            Operation::Unbox(name, _) if has(name).is_err() => self.done(&operation),
            _ => {}
        }
        self.volumes.retain(|name, _| there.contains(name));
        for name in there {
            self.volumes.entry(name).or_default();
        }
    }
}

fn written(data: &Path, volume: &str) -> Option<String> {
    let path: PathBuf = data.join("volumes").join(volume).join("_data/t");
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// What a cut-off run has left names its volume still.
fn end_strays(client: &Client) {
    let all = client.get("/containers/json").switch("all", true).fetch().expect("a list");
    for one in all.as_array().expect("an array") {
        let name = one["Names"][0].as_str().expect("a name").trim_start_matches('/');
        // What workers make has names with a dash, what runs for a moment has a friendly one.
        if !name.contains('-') {
            let gone = client.delete(format!("/containers/{name}")).switch("force", true);
            gone.send().expect("remove a container");
        }
    }
}

/// Everything is as the models say.
fn compare(client: &Client, data: &Path, workers: &[Worker]) {
    let there = listed(client);
    assert_eq!(there, names(&data.join("volumes")));
    let named = there.iter().filter(|name| name.starts_with('v') && name.contains('-'));
    let known: BTreeSet<&String> =
        workers.iter().flat_map(|worker| worker.volumes.keys()).collect();
    assert_eq!(named.collect::<BTreeSet<_>>(), known);
    for worker in workers {
        for (name, text) in &worker.volumes {
            assert_eq!(&written(data, name), text, "{name}");
        }
    }
}

struct Work {
    stop: AtomicBool,
    done: AtomicUsize,
    wanted: usize,
}

fn phase(client: &Client, workers: &mut [Worker], work: &Work) {
    std::thread::scope(|scope| {
        for worker in workers {
            scope.spawn(move || {
                while !work.stop.load(Ordering::Relaxed) {
                    let Some(operation) = worker.decide() else { continue };
                    if !worker.step(client, &operation)
                        || work.done.fetch_add(1, Ordering::Relaxed) + 1 >= work.wanted
                    {
                        return;
                    }
                }
            });
        }
    });
}

#[test]
fn thousands_of_operations_beside_a_model() {
    let wanted = std::env::var("HOY_STORM").map_or(1000, |text| text.parse().expect("a number"));
    let mut daemon = daemon();
    let before = hoy_e2e::counts(&daemon);
    let data = daemon.path("data");
    let mut workers: Vec<Worker> = (0..WORKERS).map(Worker::new).collect();
    let mut chance = Chance(0x1234_5678_9abc_def1);
    let started = Instant::now();
    let (mut total, mut cut) = (0, 0);
    while total < wanted {
        let killed = total + PHASE < wanted;
        let work = Work {
            stop: AtomicBool::new(false),
            done: AtomicUsize::new(0),
            wanted: if killed { usize::MAX } else { wanted - total },
        };
        let killer = Mutex::new(&mut daemon);
        let connection = client(*killer.lock().expect("a daemon"));
        std::thread::scope(|scope| {
            let all = scope.spawn(|| phase(&connection, &mut workers, &work));
            let deadline = Instant::now() + Duration::from_secs(120);
            while killed && !all.is_finished() && work.done.load(Ordering::Relaxed) < PHASE {
                assert!(Instant::now() < deadline, "no end of the phase in two minutes");
                std::thread::sleep(Duration::from_millis(1));
            }
            if killed {
                std::thread::sleep(Duration::from_micros(chance.below(30_000) as u64));
                killer.lock().expect("a daemon").kill();
                work.stop.store(true, Ordering::Relaxed);
            }
            assert!(all.join().is_ok(), "a worker failed");
        });
        total += work.done.load(Ordering::Relaxed);
        if killed {
            cut += workers.iter().filter(|worker| worker.open.is_some()).count();
            daemon.launch();
        }
        let connection = client(&daemon);
        end_strays(&connection);
        workers.iter_mut().for_each(|worker| worker.learn(&connection, &data));
        compare(&connection, &data, &workers);
    }
    println!("{total} operations, {cut} of them cut off, in {:?}", started.elapsed());
    assert!(cut > 0, "no kill met an operation");
    for id in daemon.docker(&["ps", "-aq"]).run().ok().lines() {
        daemon.docker(&["rm", "-f", "-v", id]).run().ok();
    }
    daemon.docker(&["volume", "prune", "-a", "-f"]).run().ok();
    assert_eq!(listed(&client(&daemon)), BTreeSet::new());
    let empty = |name: &str| names(&data.join(name)).is_empty();
    wait_until("nothing is left", || ["volumes", "trash", "ingest"].iter().all(|name| empty(name)));
    let now = KernelCounts::of(&daemon).daemon_descriptors;
    KernelCounts { daemon_descriptors: now, ..before }.wait_for(&daemon);
}
