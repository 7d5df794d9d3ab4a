//! The words of volumes, mounts, prunes and the disk: `hoy` says to an engine what `docker` says,
//! and to people what it says; what it says beyond that it says to its own engine alone.

mod words;

use hoy_e2e::both;
use hoy_testkit::{Daemon, programs};
use serde_json::{Value, json};
use words::{Recorder, all_same, same, same_typing};

#[test]
fn volume_commands() {
    let recorder = Recorder::start(json!({
        "GET /volumes/v": [200, {"Driver": "local", "Labels": {"a": "b"}, "Mountpoint": "/m", "Name": "v", "Options": null, "Scope": "local"}],
        "GET /volumes/c": [200, {"Driver": "csi", "Name": "c", "ClusterVolume": {"ID": "id1", "Version": {"Index": 7}, "Spec": {"Group": "g", "Availability": "active"}}}],
        "GET /volumes/gone": [404, {"message": "get gone: no such volume"}],
        "DELETE /volumes/used": [409, {"message": "remove used: volume is in use - [abc]"}],
        "DELETE /volumes/gone": [404, {"message": "get gone: no such volume"}],
    }));
    all_same(
        &recorder,
        "volume create
        volume create --name n
        volume create --name n v
        volume create -d x -o a=b -o c -o a=2 --label l --label m=n v
        volume create --group g --scope multi --sharing all --type mount --required-bytes 1k --topology-required a=b,c=d --secret k=v v
        volume create --label =c v
        volume create --nosuch v
        volume ls x
        volume ls -q -f dangling=true -f name=x
        volume ls --cluster
        volume inspect v gone
        volume inspect -f {{.Labels.a}} v
        volume inspect --format json v
        volume inspect
        volume rm used gone x
        volume rm -f gone used x
        volume rm
        volume remove a
        volume update v
        volume update gone
        volume update --availability drain c
        volume update
        volume prune
        volume prune -a
        volume prune -f
        volume prune -af --filter label=a
        volume prune -f --filter all=1
        volume prune -a -f --filter all=0
        volume foo
        volume --foo
        rm -v a
        ps -as
        create --mount type=bind,src=/a,dst=/b,ro,bind-recursive=readonly,bind-propagation=rprivate --tmpfs /t:size=1m -v /x:/y:ro --volumes-from c:ro --volume-driver d --storage-opt size=1g x
        create --mount type=volume,src=v,dst=/b,volume-opt=type=nfs,volume-label=a=b,volume-subpath=s,volume-nocopy --annotation a=b --runtime r x
        create --mount type=image,src=i,dst=/b,image-subpath=s --mount type=tmpfs,dst=/c,tmpfs-size=1m,tmpfs-mode=1777 x
        create --mount type=bind,src=/a,dst=/b,tmpfs-size=1m x
        create -v vol:/z -v /anonymous x
        create -v /a: x
        create --storage-opt size x
        inspect -s --type volume v",
    );
    same(&recorder, &["volume", "rm", ""]);
    same(&recorder, &["volume", "inspect", ""]);
    same(&recorder, &["create", "-v", "", "x"]);
    same_typing(&recorder, &["volume", "prune"], "y\n");
    same_typing(&recorder, &["volume", "prune"], "yes\n");
}

/// An engine with something of everything.
fn full() -> Value {
    let id = |digit: &str| digit.repeat(64);
    let image = |digit: &str, tags: Value, size: i64, shared: i64, containers: i64| {
        json!({
            "Id": format!("sha256:{}", id(digit)), "RepoTags": tags, "Created": 1_700_000_000,
            "Size": size, "SharedSize": shared, "Containers": containers,
        })
    };
    let container = |digit: &str, state: &str, written: i64| {
        json!({
            "Id": id(digit), "Names": [format!("/c{digit}")], "Image": "busybox", "ImageID": "sha256:1",
            "Command": "sleep 1000000 and then some more", "Created": 1_700_000_000, "State": state,
            "Status": state, "SizeRw": written, "SizeRootFs": 5_000_000,
            "Mounts": [{"Name": "v1", "Driver": "local"}, {"Source": "/x"}],
        })
    };
    let volume = |name: &str, links: i64, size: i64| {
        json!({
            "Name": name, "Driver": "local", "Mountpoint": "/m", "Scope": "local",
            "Labels": {"a": "b"}, "UsageData": {"RefCount": links, "Size": size},
        })
    };
    let record = |name: &str, busy: bool, shared: bool, used: Value| {
        json!({
            "ID": name, "Type": "regular", "InUse": busy, "Shared": shared, "Size": 500,
            "CreatedAt": "2023-01-02T03:04:05Z", "LastUsedAt": used, "UsageCount": 3,
        })
    };
    let volumes = json!([volume("v10", 1, 123_456), volume("v2", 0, 1000), volume("v3", 0, -1)]);
    let containers = json!([
        container("1", "running", 1234),
        container("2", "exited", 70_000),
        container("3", "paused", 0)
    ]);
    json!({
        "GET /volumes": [200, {"Volumes": volumes, "Warnings": null}],
        "GET /containers/json": [200, containers],
        "GET /system/df": [200, {
            "LayersSize": 200_000_000,
            "Images": [
                image("a", json!(["busybox:latest", "b:1"]), 4_450_000, 1_000_000, 2),
                image("b", json!([]), 1230, -1, 0),
                image("c", json!(["reg.example:5000/x/y:v1"]), 123_456_789, 23_456_789, 0),
            ],
            "Containers": containers,
            "Volumes": volumes,
            "BuildCache": [
                record("b1bbbbbbbbbbbbbbbbbbbb", true, false, json!("2023-02-02T03:04:05Z")),
                record("b2", false, true, Value::Null),
                record("b3", false, false, json!("2023-01-03T03:04:05Z")),
            ],
        }],
        "GET /version": [200, {"Components": [{"Name": "Engine"}, {"Name": "hoy"}]}],
        "POST /containers/prune": [200, {"ContainersDeleted": ["c1", "c2"], "SpaceReclaimed": 1_234_567}],
        "POST /images/prune": [200, {"ImagesDeleted": [{"Untagged": "a:b"}, {"Deleted": "sha256:aa"}], "SpaceReclaimed": 10}],
        "POST /volumes/prune": [200, {"VolumesDeleted": ["x", "y"], "SpaceReclaimed": 10_000}],
        "POST /networks/prune": [200, {"NetworksDeleted": ["n"]}],
        "POST /build/prune": [200, {"CachesDeleted": ["b1"], "SpaceReclaimed": 99}],
        "POST /hoy/check": [200, {
            "Findings": [
                {"Kind": "orphan-mount", "What": "volumes/x", "Bytes": 0, "Repaired": true},
                {"Kind": "orphan-directory", "What": "containers/y", "Bytes": 4096, "Repaired": false},
            ],
            "Disk": {"Images": 1_000_000, "Trash": 5, "Total": 1_000_005},
        }],
    })
}

#[test]
fn prunes_and_the_disk() {
    let recorder = Recorder::start(full());
    all_same(
        &recorder,
        "volume ls
        volume ls -q
        volume ls --format json
        volume ls --format raw
        volume ls --format {{.Name}}:{{.Size}}:{{.Links}}:{{.Mountpoint}}:{{.Labels}}
        ps -s
        ps --format {{.Names}}:{{.Size}}:{{.Mounts}}:{{.LocalVolumes}}
        container prune
        container prune -f --filter until=24h --filter label!=a
        image prune
        image prune -a
        image prune -f
        image prune -af
        volume prune -f
        network prune -f
        system prune
        system prune --volumes
        system prune -a --filter label=a --filter label!=b --filter until=24h
        system prune --volumes --filter until=24h
        system prune -f
        system prune -af --volumes
        system prune -f --filter bogus
        system prune x
        system df
        system df -v
        system df --format json
        system df --format raw
        system df -v --format json
        system df -v --format raw
        system df x",
    );
    same(&recorder, &["system", "df", "--format", "table {{.Type}}\t{{.Size}}"]);
    let ids = "{{range .Images}}{{.ID}} {{.UniqueSize}}\\n{{end}}";
    same(&recorder, &["system", "df", "-v", "--format", ids]);
    same_typing(&recorder, &["system", "prune"], "Y\n");
}

/// What there is beyond Docker's grammar.
#[test]
fn words_of_our_own() {
    let recorder = Recorder::start(full());
    let program = programs().join("hoy");
    let hoy = |recorder: &Recorder, line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let output = recorder.run(&program, &words).run();
        (output, recorder.requests())
    };
    // Docker's own build cache command is told to go away by Docker; ours is there.
    let (output, asked) = hoy(&recorder, "builder prune -af --filter until=1h --keep-storage 1k");
    assert_eq!(output.ok(), "Deleted build cache objects:\nb1\n\nTotal reclaimed space: 99B\n");
    assert!(asked[0].contains("/build/prune?all=1&filters="), "{asked:?}");
    assert!(asked[0].contains("&keep-storage=1024 "), "{asked:?}");
    let (output, asked) = hoy(&recorder, "buildx prune -f --max-used-space 1k");
    assert!(output.ok().contains("b1") && asked[0].contains("&max-used-space=1024"), "{asked:?}");

    // Nothing is asked, in both senses, and nothing goes.
    let (output, asked) = hoy(&recorder, "system prune -a --volumes --dry-run");
    let text = output.ok();
    assert!(text.starts_with("Containers that would be deleted:\nc1\nc2\n\nNetworks"), "{text}");
    assert!(text.ends_with("would be reclaimed: 1.245MB (1244676 bytes)\n"), "{text}");
    assert_eq!(asked.len(), 6, "{asked:?}");
    assert!(asked[0].starts_with("GET") && asked[0].contains("/version"), "{asked:?}");
    assert!(asked[1..].iter().all(|asked| asked.contains("hoy-dry-run=1")), "{asked:?}");
    // A filter, too, which an engine refuses that does not know it.
    assert!(asked[1..].iter().all(|asked| asked.contains("%22hoy-dry-run%22%3A")), "{asked:?}");
    assert!(asked[2..5].iter().all(|a| a.contains("hoy-after-containers=1")), "{asked:?}");
    assert!(output.stderr.starts_with("What only these containers use"), "{output:?}");
    for kind in ["container", "image", "volume", "network", "builder"] {
        let (output, asked) = hoy(&recorder, &format!("{kind} prune --dry-run"));
        assert!(output.ok().contains("that would be deleted:\n"), "{output:?}");
        assert!(asked[1].contains("hoy-dry-run=1"), "{asked:?}");
    }
    // An engine that does not know the question would do it.
    let other =
        Recorder::start(json!({"GET /version": [200, {"Components": [{"Name": "Engine"}]}]}));
    let (output, asked) = hoy(&other, "volume prune -f --dry-run");
    assert!(output.code == Some(1) && output.stderr.contains("is not hoyd"), "{output:?}");
    assert!(asked.iter().all(|asked| asked.starts_with("GET")), "{asked:?}");

    let (output, asked) = hoy(&recorder, "system check");
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(
        output.stdout.contains("orphan-directory   containers/y   4.096kB   no\n"),
        "{output:?}"
    );
    assert!(output.stdout.contains("\nTotal        1MB\n"), "{output:?}");
    assert!(asked[0].contains("/hoy/check?repair=0"), "{asked:?}");
    let (output, asked) = hoy(&recorder, "system check --repair --format json");
    let report: Value = serde_json::from_str(&output.stdout).expect("JSON");
    assert!(report["Findings"][0]["Kind"] == "orphan-mount", "{report}");
    assert!(asked[0].contains("/hoy/check?repair=1"), "{asked:?}");

    // Sizes in a word of their own.
    let (output, asked) = hoy(&recorder, "volume create --disk 1g v");
    assert_eq!(output.ok(), "made\n");
    assert!(asked[0].contains(r#""DriverOpts":{"size":"1g"}"#), "{asked:?}");
    let (_, asked) = hoy(&recorder, "create --disk 1g x");
    assert!(asked[0].contains(r#""StorageOpt":{"size":"1g"}"#), "{asked:?}");

    // Names where a name is awaited.
    let (output, _) = hoy(&recorder, "__complete volume rm v1");
    assert_eq!(output.ok(), "v10\n:4\n");
    let (output, _) = hoy(&recorder, "__complete run -v v2");
    assert!(output.ok().starts_with("v2:\n:"), "{output:?}");
    let (output, _) = hoy(&recorder, "__complete inspect v");
    assert!(output.ok().starts_with("v10\nv2\nv3\n:"), "{output:?}");
    let (output, _) = hoy(&recorder, "__complete volume prune --dr");
    assert!(output.ok().starts_with("--dry-run"), "{output:?}");
}

/// Both clients against the daemon itself.
#[test]
fn volumes_that_are_there() {
    let daemon = Daemon::start();
    daemon.hoy(&["volume", "create", "--label", "a=b", "one"]).run().ok();
    daemon.docker(&["volume", "create", "two"]).run().ok();
    for args in [
        &["volume", "ls"][..],
        &["volume", "ls", "-f", "label=a", "--format", "{{json .}}"],
        &["volume", "inspect", "one", "nosuch"],
        &["volume", "inspect", "-f", "{{.Name}} {{.Driver}} {{.Scope}} {{json .Labels}}", "one"],
        &["inspect", "--type", "volume", "two"],
        &["volume", "rm", "nosuch"],
        &["volume", "rm", "-f", "nosuch"],
        &["volume", "create", "--group", "g", "three"],
        &["volume", "update", "one"],
        &["volume", "create", "a/b"],
    ] {
        let [docker, hoy] = both(&daemon, args).map(|run| run.run());
        assert_eq!((docker.code, &docker.stdout), (hoy.code, &hoy.stdout), "{args:?} {hoy:?}");
        let stderr = docker.stderr.replace("\nexit status 1\n", "\n");
        assert_eq!(stderr, hoy.stderr, "{args:?}");
    }
}
