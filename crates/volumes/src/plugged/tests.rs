//! Volumes of plugins without containers: what is remembered, given back and forgotten.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hoy_store::Store;
use hoy_types::ErrorKind;

use crate::plugin::tests::{Asked, json, serve, settings, with};
use crate::volume::LOCAL;
use crate::{VolumeRequest, Volumes};

fn open(root: &Path, plugins: &Path) -> Volumes {
    Volumes::open(Store::open(root).unwrap(), settings(plugins)).unwrap()
}

fn asks(name: &str, driver: &str) -> VolumeRequest {
    VolumeRequest { name: name.into(), driver: driver.into(), ..VolumeRequest::default() }
}

fn times(asked: &Asked, call: &str) -> usize {
    asked.lock().unwrap().iter().filter(|asked| asked.starts_with(call)).count()
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A plugin that has whatever it is asked for, and does not unmount while `stuck`.
fn sticky(path: &Path, stuck: &Arc<AtomicBool>) -> Asked {
    let stuck = Arc::clone(stuck);
    serve(path.join("p.sock"), move |method, body| {
        let name = body.split('"').nth(3).unwrap_or_default();
        match method {
            "Plugin.Activate" => json(r#"{"Implements":["VolumeDriver"]}"#),
            "VolumeDriver.Get" => json(&format!(r#"{{"Volume":{{"Name":"{name}"}}}}"#)),
            "VolumeDriver.Mount" if body.contains("relative") => json(r#"{"Mountpoint":"tmp"}"#),
            "VolumeDriver.Mount" => json(r#"{"Mountpoint":"/tmp"}"#),
            "VolumeDriver.Unmount" if stuck.load(Ordering::Relaxed) => None,
            _ => json("{}"),
        }
    })
}

#[test]
fn what_a_container_had_is_given_back() {
    let (root, plugins) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let stuck = Arc::new(AtomicBool::new(true));
    let asked = sticky(plugins.path(), &stuck);
    let volumes = open(root.path(), plugins.path());
    let (made, new) = volumes.claim(asks("v1", "p"), "c1").unwrap();
    assert!(new && made.driver == "p" && !root.path().join("volumes/v1/_data").exists());
    assert_eq!(volumes.mountpoint(&made), Path::new(""));
    assert_eq!(volumes.attach("v1", "c1").unwrap(), Path::new("/tmp"));
    // As by --volumes-from: one that has gone meanwhile is not made again, empty.
    let taken_over = |name: &str| VolumeRequest { existing: true, ..asks(name, "") };
    let gone = volumes.claim(taken_over("gone"), "c2").unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    assert!(!root.path().join("volumes/gone").exists() && volumes.users("gone").is_empty());
    volumes.claim(taken_over("v1"), "c2").unwrap();
    volumes.attach("v1", "c2").unwrap();
    assert_eq!(volumes.mountpoint(&made), Path::new("/tmp"));

    // The end of one is not held up; another daemon asks again for that one alone.
    let error = volumes.detach("v1", "c1").unwrap_err().to_string();
    assert_eq!(error, "plugin p takes its time to unmount");
    volumes.create(asks("other", LOCAL)).unwrap();
    drop(volumes);
    wait_until("it was asked", || times(&asked, "VolumeDriver.Unmount") > 0);
    stuck.store(false, Ordering::Relaxed);
    let before = times(&asked, "VolumeDriver.Unmount");
    let volumes = open(root.path(), plugins.path());
    assert_eq!(volumes.mountpoint(&made), Path::new("/tmp"));
    volumes.attached("v1", "c2");
    volumes.settle();
    let note = || std::fs::read_to_string(root.path().join("volumes/v1/mounted.json")).unwrap();
    wait_until("it gives back", || !note().contains("c1"));
    assert!(note().contains("c2"));
    assert_eq!(times(&asked, "VolumeDriver.Unmount"), before + 1);
    volumes.detach("v1", "c2").unwrap();
    // Only once.
    volumes.detach("v1", "c2").unwrap();
    assert_eq!(times(&asked, "VolumeDriver.Unmount"), before + 2);
}

#[test]
fn what_may_be_mounted_is_not_forgotten() {
    let (root, plugins) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let stuck = Arc::new(AtomicBool::new(true));
    let asked = sticky(plugins.path(), &stuck);
    let volumes = open(root.path(), plugins.path());
    volumes.claim(asks("v1", "p"), "relative").unwrap();
    let error = volumes.attach("v1", "relative").unwrap_err().to_string();
    assert!(error.contains("gave \"tmp\" as mount point"), "{error}");
    let note = || std::fs::read_to_string(root.path().join("volumes/v1/mounted.json")).unwrap();
    assert!(note().contains("relative"));
    let before = times(&asked, "VolumeDriver.Unmount");
    stuck.store(false, Ordering::Relaxed);
    volumes.detach("v1", "relative").unwrap();
    assert_eq!(times(&asked, "VolumeDriver.Unmount"), before + 1);
    assert!(!note().contains("relative"));
}

#[test]
fn a_name_has_one_owner() {
    let (root, plugins) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    with(plugins.path(), "p", "", None);
    let volumes = open(root.path(), plugins.path());
    // A name that nobody said whose it is is the plugin's that has it.
    assert_eq!(volumes.create(asks("v1", "")).unwrap().0.driver, "p");
    assert_eq!(volumes.create(asks("v2", "")).unwrap().0.driver, LOCAL);
    for (request, says) in [
        (asks("v1", LOCAL), "create v1: driver 'p' already has volume 'v1': volume name must be"),
        (asks("v2", "p"), "volume name must be unique"),
    ] {
        let error = volumes.create(request).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(error.kind(), ErrorKind::Conflict);
    }
    let error = volumes.create(asks("v3", "q")).unwrap_err();
    let says = "create v3: error looking up volume plugin q: plugin \"q\" not found";
    assert_eq!((error.to_string().as_str(), error.kind()), (says, ErrorKind::NotFound));
    let (seen, warnings) = volumes.survey();
    let names: Vec<&str> = seen.iter().map(|seen| seen.volume.name.as_str()).collect();
    assert_eq!((names, warnings.len()), (vec!["v1", "v2"], 0));
    assert_eq!((seen[0].scope, seen[1].scope), ("global", "local"));
    assert_eq!(volumes.drivers(), [LOCAL, "p"]);
}

#[test]
fn what_its_plugin_lost_is_lost() {
    let (root, plugins) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let there = Arc::new(AtomicBool::new(true));
    let has = Arc::clone(&there);
    serve(plugins.path().join("p.sock"), move |method, _| {
        json(match method {
            "Plugin.Activate" => r#"{"Implements":["VolumeDriver"]}"#,
            "VolumeDriver.Get" if has.load(Ordering::Relaxed) => r#"{"Volume":{"Name":"v1"}}"#,
            "VolumeDriver.Get" => r#"{"Err":"what is v1?"}"#,
            "VolumeDriver.Remove" => r#"{"Err":"no"}"#,
            _ => "{}",
        })
    });
    let volumes = open(root.path(), plugins.path());
    volumes.claim(asks("v1", "p"), "c1").unwrap();
    let error = volumes.remove_by_force("v1").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    there.store(false, Ordering::Relaxed);
    let error = volumes.create(asks("v1", "p")).unwrap_err().to_string();
    assert!(error.contains("found references to volume 'v1' in driver 'p'"), "{error}");
    assert_eq!(volumes.look("v1").unwrap_err().to_string(), "get v1: no such volume");
    volumes.let_go("c1");
    there.store(true, Ordering::Relaxed);
    assert_eq!(volumes.remove("v1").unwrap_err().to_string(), "remove v1: no");
    assert!(volumes.get("v1").is_ok());
    volumes.remove_by_force("v1").unwrap();
    assert!(volumes.get("v1").is_err() && !root.path().join("volumes/v1").exists());
    // Stale and unused, its name is free again.
    volumes.create(asks("v1", "p")).unwrap();
    there.store(false, Ordering::Relaxed);
    assert!(volumes.create(asks("v1", LOCAL)).unwrap().1);
    assert!(root.path().join("volumes/v1/_data").exists());
}
