//! The disk: what is said to be on it is on it, what would go goes, and what nobody owns is found.

use std::path::Path;

use hoy_e2e::{counts, daemon, import};
use hoy_testkit::{Daemon, Output, Run, wait_until};
use serde_json::Value;

fn docker(daemon: &Daemon, line: &str) -> Output {
    daemon.docker(&line.split_whitespace().collect::<Vec<_>>()).run()
}

fn sh(daemon: &Daemon, flags: &str, script: &str) {
    let mut args = vec!["run"];
    args.extend(flags.split_whitespace());
    args.extend(["busybox", "sh", "-c", script]);
    daemon.docker(&args).run().ok();
}

fn ask(daemon: &Daemon, method: &str, path: &str) -> Value {
    let url = format!("http://d{path}");
    let text = daemon.curl(&["-X", method, &url]);
    serde_json::from_str(text.ok()).unwrap_or_else(|error| panic!("{path}: {error}: {text:?}"))
}

/// With the filters as clients encode them.
fn prune(daemon: &Daemon, kind: &str, filters: &str, trial: bool) -> Value {
    let filters = filters.replace('{', "%7B").replace('}', "%7D").replace('"', "%22");
    let filters = filters.replace('[', "%5B").replace(']', "%5D");
    let trial = if trial { "&hoy-dry-run=1" } else { "" };
    ask(daemon, "POST", &format!("/{kind}/prune?filters={filters}{trial}"))
}

fn du(path: &Path) -> u64 {
    du_without(path, &[])
}

/// In one look: what is beside may grow between two.
fn du_without(path: &Path, beside: &[&str]) -> u64 {
    let beside = beside.iter().map(|name| format!("--exclude={}", path.join(name).display()));
    let output = Run::new("du").args(["-sxB1"]).args(beside).args([path]).run();
    output.ok().split_whitespace().next().unwrap().parse().unwrap()
}

fn sum(list: &Value, field: impl Fn(&Value) -> i64) -> i64 {
    list.as_array().unwrap().iter().map(field).sum()
}

#[track_caller]
fn near(said: u64, is: u64, what: &str) {
    assert!(said.abs_diff(is) * 100 <= is.max(1), "{what}: {said} for {is}");
}

fn trash_is_empty(daemon: &Daemon) -> bool {
    daemon.path("data/trash").read_dir().unwrap().next().is_none()
}

/// After a workload, what is said is what an independent program counts; and what a trial says
/// would go is what goes.
#[test]
fn what_is_said_is_so() {
    let daemon = daemon();
    let before = counts(&daemon);
    import(&daemon, "other", "dd if=/dev/urandom of=big bs=1M count=3; mkdir -p d/e/f", &[]);
    // The same layer under another configuration: shared.
    let tar = daemon.path("other.tar").display().to_string();
    daemon.docker(&["import", "-c", "LABEL a=1", &tar]).run().ok();
    sh(&daemon, "--name ended", "dd if=/dev/zero of=/f bs=1M count=5; ln /f /g; mkdir -p /a/b/c");
    sh(&daemon, "--name talks", "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo $i; done");
    sh(&daemon, "-d --name runs --init -v used:/v", "echo > /v/x; touch /up; sleep 1000");
    sh(&daemon, "--rm -v full:/v", "dd if=/dev/zero of=/v/big bs=1M count=4; echo > /v/small");
    sh(&daemon, "--rm -v holes:/v", "dd if=/dev/zero of=/v/f bs=1 count=1 seek=99999999");
    docker(&daemon, "volume create").ok();
    docker(&daemon, "volume create -o type=tmpfs -o device=tmpfs memory").ok();
    docker(&daemon, "create --name never --label keep=1 busybox").ok();
    wait_until("the trash is empty", || trash_is_empty(&daemon));

    let data = daemon.path("data");
    let df = ask(&daemon, "GET", "/v1.43/system/df");
    let check = ask(&daemon, "POST", "/hoy/check?repair=0");
    assert_eq!(check["Findings"], Value::Array(Vec::new()));
    let disk = |name: &str| check["Disk"][name].as_u64().unwrap();
    near(disk("Total"), du(&data), "all of it");
    near(
        df["LayersSize"].as_u64().unwrap(),
        du(&data.join("layers")) + du(&data.join("blobs")),
        "images",
    );
    near(df["LayersSize"].as_u64().unwrap(), disk("Images"), "images");
    let volumes = sum(&df["Volumes"], |one| one["UsageData"]["Size"].as_i64().unwrap().max(0));
    near(volumes as u64, disk("Volumes"), "volumes");
    let written = sum(&df["Containers"], |one| one["SizeRw"].as_i64().unwrap_or(0));
    near(written as u64, disk("Containers"), "containers");
    let parts = ["Images", "Containers", "Volumes", "Logs", "Trash", "Database", "Other"];
    assert_eq!(parts.iter().map(|name| disk(name)).sum::<u64>(), disk("Total"));
    assert!(disk("Logs") >= 100_000 && disk("Other") < 2_000_000, "{check}");
    // A file with two names counts once, and holes are none.
    let upper = docker(&daemon, "inspect -f {{.GraphDriver.Data.UpperDir}} ended").ok().to_owned();
    let rw = ask(&daemon, "GET", "/containers/ended/json?size=1")["SizeRw"].as_u64().unwrap();
    near(rw, du(Path::new(upper.trim())) - 4096, "one container");
    let volume = |name: &str| {
        let all = df["Volumes"].as_array().unwrap();
        all.iter().find(|one| one["Name"] == name).unwrap()["UsageData"].clone()
    };
    assert_eq!(volume("holes")["Size"], 4096);
    assert_eq!((&volume("memory")["Size"], &volume("used")["RefCount"]), (&(-1).into(), &1.into()));
    let busybox = |image: &&Value| image["RepoTags"].to_string().contains("\"busybox:latest\"");
    let images = df["Images"].as_array().unwrap();
    assert_eq!(images.iter().find(busybox).unwrap()["Containers"], 4);
    let shares = |image: &&Value| image["SharedSize"].as_u64().unwrap() > 3_000_000;
    assert_eq!(images.iter().filter(shares).count(), 2, "{images:?}");
    assert!(images.iter().all(|image| image["VirtualSize"] == image["Size"]));

    // Only what was asked for; and the independent client reads it.
    let some = ask(&daemon, "GET", "/v1.51/system/df?type=volume");
    assert!(some["Images"].is_null() && some["Volumes"].is_array());
    let wrong = ask(&daemon, "GET", "/v1.51/system/df?type=nosuch");
    assert_eq!(wrong["message"], "unknown object type: nosuch");
    assert!(docker(&daemon, "system df -v").ok().contains("holes"));
    assert!(docker(&daemon, "system df").ok().contains("Build Cache"));
    assert!(docker(&daemon, "ps -as --format {{.Names}}={{.Size}}").ok().contains("ended=5.2"));
    // What runs is counted anew.
    docker(&daemon, "exec runs dd if=/dev/zero of=/v/more bs=1M count=2").ok();
    let df = ask(&daemon, "GET", "/v1.51/system/df?type=volume");
    assert!(
        sum(&df["Volumes"], |one| one["UsageData"]["Size"].as_i64().unwrap()) as u64
            > disk("Volumes") + 2_000_000
    );

    // As a part of a prune of all: what is left once the ended containers are gone.
    let all = "%7B%22dangling%22%3A%5B%22false%22%5D%7D";
    let path = format!("/images/prune?hoy-dry-run=1&hoy-after-containers=1&filters={all}");
    let after = ask(&daemon, "POST", &path);
    assert_eq!(after["AfterContainers"], true);
    assert_eq!(after["ImagesDeleted"].as_array().unwrap().len(), 4, "{after}");
    // What the file system has put off is on the disk: its own blocks are counted, too.
    Run::new("sync").args(["-f"]).args([&data]).run().ok();
    for (kind, filters, gone) in [
        ("containers", r#"{"label!":["keep=1"]}"#, 2),
        ("containers", "{}", 1),
        ("volumes", "{}", 1),
        // One with options stays.
        ("volumes", r#"{"all":["true"]}"#, 2),
        // Its layer is another one's, too.
        ("images", "{}", 1),
        ("images", r#"{"dangling":["false"]}"#, 3),
        ("networks", "{}", 0),
        ("build", "{}", 0),
    ] {
        // What is told of it is written down, too; and a database keeps its documents where it
        // likes, not only while it is asked to.
        let held = || du_without(&data, &["events", "db"]);
        let before = held();
        let trial = prune(&daemon, kind, filters, true);
        assert_eq!(held(), before, "a trial of {kind}");
        let real = prune(&daemon, kind, filters, false);
        assert_eq!(trial, real, "{kind}");
        wait_until("the trash is empty", || trash_is_empty(&daemon));
        let (list, reclaimed) = (real.as_object().unwrap(), real["SpaceReclaimed"].as_u64());
        let list = list.values().next().unwrap().as_array().map_or(0, Vec::len);
        assert_eq!(list, gone, "{kind} {filters}: {real}");
        // The directories of each object come to that.
        let went = before - held().min(before);
        let reclaimed = reclaimed.unwrap_or(0);
        assert!(reclaimed <= went + 4096 && went <= reclaimed + 100_000, "{kind}: {went} {real}");
    }
    docker(&daemon, "rm -f -v runs").ok();
    docker(&daemon, "volume rm used memory").ok();
    before.wait_for(&daemon);
}

/// What nobody owns is found and taken away; a volume without a document is taken up.
#[test]
fn what_nobody_owns() {
    let mut daemon = daemon();
    docker(&daemon, "create --name one -v kept:/v busybox").ok();
    let id = "ab".repeat(32);
    let data = daemon.path("data");
    let planted = [
        format!("containers/{id}/upper"),
        format!("layers/{id}/fs"),
        "volumes/found/_data".to_owned(),
    ];
    for path in &planted {
        std::fs::create_dir_all(data.join(path)).unwrap();
        std::fs::write(data.join(path).join("file"), vec![1; 10_000]).unwrap();
    }
    std::fs::write(data.join("blobs/sha256").join(&id), "blob").unwrap();
    std::fs::create_dir_all(daemon.path("run/files").join(&id)).unwrap();
    let mounted = data.join("trash/mounted");
    std::fs::create_dir(&mounted).unwrap();
    Run::new("mount").args(["-t", "tmpfs", "none"]).args([&mounted]).run().ok();
    let kinds = |report: &Value, repaired: bool| {
        let all = report["Findings"].as_array().unwrap();
        let all = all.iter().filter(|one| one["Repaired"] == repaired);
        let mut out: Vec<String> =
            all.map(|one| one["Kind"].as_str().unwrap().to_owned()).collect();
        out.sort();
        out
    };
    let expected = [
        "orphan-blob",
        "orphan-container",
        "orphan-files",
        "orphan-layer",
        "orphan-mount",
        "unknown-volume",
    ];
    let found = ask(&daemon, "POST", "/hoy/check?repair=0");
    assert_eq!(kinds(&found, false), expected);
    assert!(data.join(&planted[0]).exists());
    let of = |kind: &str| {
        let all = found["Findings"].as_array().unwrap();
        all.iter().find(|one| one["Kind"] == kind).unwrap()["Bytes"].as_u64().unwrap()
    };
    assert_eq!(of("orphan-container"), du(&data.join("containers").join(&id)));
    let repaired = ask(&daemon, "POST", "/hoy/check?repair=1");
    assert_eq!(kinds(&repaired, true), expected, "{repaired}");
    let after = ask(&daemon, "POST", "/hoy/check?repair=1");
    assert_eq!(after["Findings"], Value::Array(Vec::new()));
    assert_eq!(std::fs::metadata(data.join(&planted[2]).join("file")).unwrap().len(), 10_000);
    assert_eq!(docker(&daemon, "volume ls -q").ok(), "found\nkept\n");
    docker(&daemon, "run --rm --volumes-from one -v found:/f busybox cat /f/file").ok();

    // What a killed daemon left half made or half deleted goes behind the next one's first answer.
    daemon.kill();
    for place in ["ingest", "trash"] {
        std::fs::create_dir_all(data.join(place).join("x/y/z")).unwrap();
    }
    daemon.launch();
    assert!(data.join("ingest").read_dir().unwrap().next().is_none());
    wait_until("the trash is empty", || trash_is_empty(&daemon));
}
