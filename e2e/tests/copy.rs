//! Files of containers in and out, what has changed, exports and commits: by Docker's client and
//! by ours, of containers that run, rest, are paused or were never started.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use hoy_e2e::{both, daemon, give_busybox, idle, import, pid};
use hoy_testkit::{Daemon, Run, wait_until};

/// What a shell in a container says.
fn inside(daemon: &Daemon, name: &str, script: &str) -> String {
    daemon.hoy(&["exec", name, "sh", "-c", script]).run().ok().to_owned()
}

/// A tree by its names and what the files hold.
fn shown(path: &Path) -> String {
    let script =
        "find . | sort | while read f; do echo \"$f\" $(test -f \"$f\" && cat \"$f\"); done";
    let line = format!("cd {}; {script}", path.display());
    Run::new("sh").args(["-c", &line]).run().ok().to_owned()
}

#[test]
fn names_and_kinds() {
    let daemon = daemon();
    idle(&daemon, "box", &["-v", "vol:/vol", "--tmpfs", "/tmp"]);
    let place = daemon.path("files");
    std::fs::create_dir_all(place.join("dir/sub")).unwrap();
    std::fs::write(place.join("file"), "file").unwrap();
    std::fs::write(place.join("dir/sub/two"), "two").unwrap();
    std::os::unix::fs::symlink("file", place.join("link")).unwrap();
    let local = |name: &str| format!("{}/{name}", place.display());
    inside(&daemon, "box", "mkdir -p /d/e; echo -n hi >/d/e/f; ln -s /d/e /l; ln -s f /d/e/g");

    // Into it, by each client: the source, the target, and what is there then.
    let cases: &[(&[&str], &str, &str, &str)] = &[
        (&[], "file", "/new", "cat /new"),
        (&[], "file", "/d/", "cat /d/file"),
        (&[], "file", "/l", "cat /d/e/file"),
        (&[], "dir", "/there", "cat /there/sub/two"),
        (&[], "dir", "/d", "cat /d/dir/sub/two"),
        (&[], "dir/.", "/d", "cat /d/sub/two"),
        (&[], "link", "/asl", "readlink /asl"),
        (&["-L"], "link", "/asf", "cat /asf"),
        (&[], "file", "/vol/deep", "cat /vol/deep"),
        (&[], "file", "/tmp/t", "cat /tmp/t"),
        (&["-a"], "file", "/own", "cat /own"),
    ];
    for (flags, from, to, look) in cases {
        let target = format!("box:{to}");
        let mut args = vec!["cp"];
        args.extend(*flags);
        let from = local(from);
        args.extend([from.as_str(), target.as_str()]);
        let mut said = Vec::new();
        for run in both(&daemon, &args) {
            let output = run.run();
            output.ok();
            said.push((inside(&daemon, "box", look), output.stderr));
            inside(
                &daemon,
                "box",
                "rm -rf /new /d/file /d/e/file /there /d/dir /d/sub /asl /asf /vol/* /own",
            );
        }
        assert_eq!(said[0], said[1], "{args:?}");
        assert!(!said[0].0.is_empty(), "{args:?}");
    }
    // Out of it.
    let cases: &[(&[&str], &str, &str)] = &[
        (&[], "/d/e/f", "out"),
        (&[], "/d", "out"),
        (&[], "/d/.", "dir"),
        (&[], "/d/e/", "dir"),
        (&[], "/l", "out"),
        (&["-L"], "/l", "out"),
        (&["-L"], "/l", "dir"),
        (&[], "/l/", "dir"),
        (&[], "d/e/g", "dir"),
        (&["-L"], "d/e/g", "dir/"),
    ];
    for (flags, from, to) in cases {
        let source = format!("box:{from}");
        let mut trees = Vec::new();
        for (name, run) in ["docker", "hoy"].into_iter().zip(both(&daemon, &["cp"])) {
            let target = place.join(name);
            std::fs::create_dir_all(target.join("dir")).unwrap();
            let to = format!("{}/{to}", target.display());
            run.args(*flags).args([source.as_str(), to.as_str()]).run().ok();
            trees.push(shown(&target));
            std::fs::remove_dir_all(&target).unwrap();
        }
        assert_eq!(trees[0], trees[1], "{flags:?} {from} {to}");
        assert!(trees[0].lines().count() > 2, "{from}: {trees:?}");
    }
    // Refusals, word for word.
    let out = local("nowhere/x");
    for args in [
        ["cp", "box:/nope", &local("x")],
        ["cp", "none:/x", &local("x")],
        ["cp", "box:/d", &out],
        ["cp", "box:/d", &local("file")],
        ["cp", &local("dir"), "box:/d/e/f"],
        ["cp", &local("file"), "box:/not/there"],
        ["cp", &local("file"), "box:/not/"],
        ["cp", &local("nope"), "box:/d"],
        ["cp", "box:/a", "box:/b"],
        ["cp", "-", "box:/d/e/f"],
        ["cp", "box:/d/e/f/", &local("x")],
    ] {
        let [docker, hoy] = both(&daemon, &args).map(Run::run);
        docker.fails_with(1);
        // Its own log of what it packs in vain is noise.
        let words = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| !line.starts_with("time="));
            lines.map(|line| line.replace("docker", "hoy")).collect()
        };
        let said = words(&hoy.fails_with(1).stderr);
        assert_eq!(words(&docker.stderr), said, "{args:?}");
    }
    // Archives by the pipe, through both.
    let line = |program: &str, to: &str| {
        let host = daemon.host();
        format!("export DOCKER_HOST={host} HOY_HOST={host}; {program} cp box:/d/e - | {to}")
    };
    let hoy = hoy_testkit::programs().join("hoy").display().to_string();
    let docker = hoy_testkit::docker_cli().display().to_string();
    let list = |program: &str| {
        Run::new("sh").args(["-c", &line(program, "tar tvf -")]).run().ok().to_owned()
    };
    assert_eq!(list(&hoy), list(&docker));
    let through = format!("{docker} cp - box:/tmp");
    Run::new("sh").args(["-c", &line(&hoy, &through)]).run().ok();
    assert_eq!(inside(&daemon, "box", "cat /tmp/e/f"), "hi");
    let kinds = daemon.hoy(&["events", "--since", "1h", "--until", "0s"]).run();
    for kind in ["archive-path", "extract-to-dir"] {
        assert!(kinds.ok().contains(&format!("container {kind}")), "{kinds:?}");
    }
}

#[test]
fn whatever_its_state() {
    let daemon = daemon();
    let host = daemon.path("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("on-host"), "host").unwrap();
    let bind = format!("{}:/bind", host.display());
    let read_only = format!("{}:/ro:ro", host.display());
    let file = daemon.path("file");
    std::fs::write(&file, "text").unwrap();
    let file = file.display().to_string();
    let flags = ["--name", "made", "-v", "vol:/vol", "-v", &bind, "-v", &read_only, "busybox"];
    let mut create = vec!["create"];
    create.extend(flags);
    create.extend(["sh", "-c", "cat /given; echo; echo made >/left; sleep 1000"]);
    daemon.hoy(&create).run().ok();
    let put = |path: &str| daemon.hoy(&["cp", &file, &format!("made:{path}")]).run();
    let get = |path: &str| {
        let source = format!("made:{path}");
        let target = daemon.path("got").display().to_string();
        daemon.docker(&["cp", &source, &target]).run().ok();
        std::fs::read_to_string(&target).unwrap()
    };
    // Before it has ever run.
    put("/given").ok();
    for path in ["/vol/one", "/bind/one"] {
        put(path).ok();
    }
    assert_eq!((get("/vol/one"), get("/bind/on-host")), ("text".into(), "host".into()));
    assert_eq!(std::fs::read_to_string(host.join("one")).unwrap(), "text");
    let refused = put("/ro/x");
    assert!(refused.fails_with(1).stderr.contains("mounted volume is marked read-only"));
    assert_eq!(daemon.hoy(&["diff", "made"]).run().ok().lines().last(), Some("A /vol"));
    // While it runs, while it is paused, and after its end.
    daemon.hoy(&["start", "made"]).run().ok();
    wait_until("it has written", || got(&daemon, "made:/left").as_deref() == Some("made\n"));
    daemon.hoy(&["pause", "made"]).run().ok();
    put("/paused").ok();
    assert_eq!((get("/paused"), get("/left")), ("text".into(), "made\n".into()));
    daemon.hoy(&["unpause", "made"]).run().ok();
    assert_eq!(inside(&daemon, "made", "cat /paused /vol/one"), "texttext");
    wait_until("it is logged", || daemon.hoy(&["logs", "made"]).run().ok().starts_with("text"));
    daemon.hoy(&["kill", "made"]).run().ok();
    put("/dead").ok();
    assert_eq!((get("/dead"), get("/left")), ("text".into(), "made\n".into()));
    daemon.hoy(&["start", "made"]).run().ok();
    assert_eq!(inside(&daemon, "made", "cat /dead /etc/hosts | grep -c localhost"), "2\n");
    // A root file system that may only be read, before its start and after it.
    daemon
        .hoy(&["create", "--name", "still", "--read-only", "busybox", "sleep", "1000"])
        .run()
        .ok();
    for _ in 0..2 {
        let refused = daemon.docker(&["cp", &file, "still:/x"]).run();
        assert!(
            refused.fails_with(1).stderr.contains("container rootfs is marked read-only"),
            "{refused:?}"
        );
        daemon.hoy(&["start", "still"]).run().ok();
    }
    // The user's own.
    daemon.hoy(&["create", "--name", "user", "-u", "7:8", "busybox"]).run().ok();
    daemon.hoy(&["cp", "-a", &file, "user:/theirs"]).run().ok();
    daemon.hoy(&["cp", &file, "user:/ours"]).run().ok();
    let script = format!(
        "DOCKER_HOST={} {} cp user:/theirs - | tar tnvf -",
        daemon.host(),
        hoy_testkit::docker_cli().display()
    );
    let listed = Run::new("sh").args(["-c", &script]).run();
    assert!(listed.ok().contains(" 7/8 "), "{listed:?}");
}

/// What a file has in it that may not be there yet.
fn got(daemon: &Daemon, source: &str) -> Option<String> {
    let target = daemon.path("maybe");
    let copied = daemon.hoy(&["cp", source, &target.display().to_string()]).run();
    (copied.code == Some(0)).then(|| std::fs::read_to_string(&target).unwrap())
}

#[test]
fn changes_exports_and_images() {
    let daemon = daemon();
    let script = "mkdir -p a/gone keep/inner; echo 1 >a/one; echo x >a/gone/x; echo k >keep/inner/k; \
                  touch -d 2020-01-01 a/one";
    import(&daemon, "base", script, &["CMD [\"sh\"]", "ENV A=1"]);
    let line = "rm -rf /a/gone /keep; mkdir /keep; echo new >/keep/new; ln /keep/new /keep/again; \
                echo 2 >>/a/one; chmod 700 /bin; mkfifo /fifo; ln -s /a /l; touch /b; \
                chown 5:6 /b; echo done; sleep 1000";
    daemon
        .hoy(&["run", "-d", "--name", "work", "-v", "vol:/v", "base", "sh", "-c", line])
        .run()
        .ok();
    wait_until("it is done", || daemon.hoy(&["logs", "work"]).run().ok().contains("done"));
    let [docker, hoy] = both(&daemon, &["diff", "work"]).map(Run::run);
    assert_eq!(
        docker.ok(),
        "C /a\nD /a/gone\nC /a/one\nA /b\nC /bin\nA /fifo\nC /keep\nA /keep/again\n\
         D /keep/inner\nA /keep/new\nA /l\nA /v\n"
    );
    assert_eq!(docker.stdout, hoy.ok());

    let archive = daemon.path("work.tar").display().to_string();
    daemon.hoy(&["export", "-o", &archive, "work"]).run().ok();
    let listed = Run::new("tar").args(["tvf", &archive]).run();
    for part in [
        " a/one\n",
        " keep/again\n",
        "keep/new link to keep/again\n",
        " l -> /a\n",
        " fifo\n",
        " v/\n",
        " proc/\n",
    ] {
        assert!(listed.ok().contains(part), "{part:?} in {listed:?}");
    }
    assert!(!listed.stdout.contains("gone") && !listed.stdout.contains("proc/1"), "{listed:?}");
    let again = Run::new("sh")
        .args([
            "-c",
            &format!("{} export work | cmp - {archive}", hoy_testkit::docker_cli().display()),
        ])
        .env("DOCKER_HOST", daemon.host());
    again.run().ok();

    let args =
        ["commit", "-m", "message", "-a", "me", "-c", "ENV B=2", "-c", "CMD [\"cat\", \"/a/one\"]"];
    let mut ids = Vec::new();
    for (name, run) in ["by/docker:1", "by/hoy:1"].into_iter().zip(both(&daemon, &args)) {
        let id = run.args(["work", name]).run();
        let inspected = daemon.docker(&[
            "inspect",
            "-f",
            "{{.Author}}|{{.Comment}}|{{.Config.Env}}|{{.Config.Cmd}}|{{len .RootFS.Layers}}",
            name,
        ]);
        let inspected = inspected.run();
        assert!(inspected.ok().starts_with("me|message|["), "{inspected:?}");
        assert!(inspected.stdout.ends_with("A=1 B=2]|[cat /a/one]|2\n"), "{inspected:?}");
        assert_eq!(daemon.hoy(&["run", "--rm", name]).run().ok(), "1\n2\n");
        ids.push(id.ok().trim().to_owned());
    }
    assert_eq!(daemon.hoy(&["inspect", "-f", "{{.State.Status}}", "work"]).run().ok(), "running\n");
    let look = "ls /a /keep /v; stat -c '%u:%g' /b; stat -c %a /bin; stat -c %h /keep/new; \
                cat /keep/again; readlink /l; test -p /fifo && echo fifo";
    assert_eq!(
        daemon.hoy(&["run", "--rm", "by/hoy:1", "sh", "-c", look]).run().ok(),
        "/a:\none\n\n/keep:\nagain\nnew\n\n/v:\n5:6\n700\n2\nnew\n/a\nfifo\n"
    );
    let history =
        daemon.docker(&["history", "--format", "{{.CreatedBy}}|{{.Comment}}", "by/hoy:1"]);
    let history = history.run();
    assert!(history.ok().starts_with("sh -c rm -rf"), "{history:?}");
    assert!(history.stdout.lines().next().unwrap().ends_with("|message"), "{history:?}");
    // One that has changed nothing adds no layer.
    daemon.hoy(&["create", "--name", "idle", "base"]).run().ok();
    assert_eq!(daemon.hoy(&["diff", "idle"]).run().ok(), "");
    daemon.docker(&["commit", "--pause=false", "idle", "same"]).run().ok();
    let layers = daemon.hoy(&["inspect", "-f", "{{len .RootFS.Layers}}", "same"]).run();
    assert_eq!(layers.ok(), "1\n");
    // Its layer is another image's, too.
    let removed = daemon.hoy(&["rmi", "same"]).run();
    let removed: Vec<&str> = removed.ok().lines().collect();
    assert_eq!((removed.len(), removed[0]), (2, "Untagged: same:latest"), "{removed:?}");
    for (args, words) in [
        (["commit", "-c", "RUN x", "idle"], "RUN is not a valid change command"),
        (["commit", "-c", "ENV", "idle"], "ENV"),
    ] {
        let refused = daemon.hoy(&args).run();
        assert!(refused.fails_with(1).stderr.contains(words), "{refused:?}");
    }
    let events = daemon.hoy(&["events", "--since", "1h", "--until", "0s"]).run();
    let id = &ids[1];
    for part in [
        format!("image create {id}"),
        format!("image tag {id} (name=by/hoy:1)"),
        "container export".to_owned(),
        "container commit".to_owned(),
        "container pause".to_owned(),
        "container unpause".to_owned(),
        format!("imageID={id}, imageRef=by/hoy:1"),
    ] {
        assert!(events.ok().contains(&part), "{part} in {events:?}");
    }
}

/// Somebody changes what names mean, for as long as somebody else copies: what lies outside stays
/// as it is. `HOY_SWAPS` says how often.
#[test]
fn swapped_meanwhile() {
    let daemon = daemon();
    let canary = daemon.path("canary");
    std::fs::create_dir_all(canary.join("sub")).unwrap();
    std::fs::write(canary.join("file"), "untouched").unwrap();
    std::fs::write(canary.join("sub/file"), "untouched").unwrap();
    let before = shown(&canary);
    idle(&daemon, "box", &["-v", "vol:/vol"]);
    let outside = canary.display().to_string();
    inside(
        &daemon,
        "box",
        &format!(
            "mkdir -p /t/real/sub /vol/t/real/sub; echo own >/t/real/file; echo own >/t/real/sub/file; \
             cp -a /t/real /vol/t; for d in /t /vol/t; do ln -s {outside} $d/away; \
             ln -s ../../../../../../../../../../{outside} $d/climb; done"
        ),
    );
    // By the container's own root, with the machine's speed.
    let swaps: u32 =
        std::env::var("HOY_SWAPS").ok().and_then(|text| text.parse().ok()).unwrap_or(300);
    let first = pid(&daemon, "box");
    let roots = ["t", "vol/t"].map(|path| format!("/proc/{first}/root/{path}"));
    let roots = roots.map(|path| std::fs::File::open(path).unwrap());
    let (over, done) = (AtomicBool::new(false), AtomicU32::new(0));
    let source = daemon.path("source");
    std::fs::create_dir_all(source.join("sub")).unwrap();
    std::fs::write(source.join("file"), "hostile").unwrap();
    std::fs::write(source.join("sub/file"), "hostile").unwrap();
    let from = format!("{}/.", source.display());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            while !over.load(Ordering::Relaxed) {
                for root in &roots {
                    for link in ["away", "climb"] {
                        let swapped = rustix::fs::renameat_with(root, "real", root, link, flags);
                        let _ = swapped.map(|()| done.fetch_add(1, Ordering::Relaxed));
                        std::thread::yield_now();
                        let _ = rustix::fs::renameat_with(root, "real", root, link, flags);
                    }
                }
            }
        });
        let mut turn = 0;
        while done.load(Ordering::Relaxed) < swaps || turn < 4 {
            let out = daemon.path(&format!("out-{turn}"));
            std::fs::create_dir(&out).unwrap();
            let to = out.display().to_string();
            // Refused or not: nothing of this is outside.
            daemon.hoy(&["cp", &from, "box:/t/real"]).run();
            daemon.docker(&["cp", &from, "box:/vol/t/real"]).run();
            daemon.hoy(&["cp", "box:/t/real/.", &to]).run();
            daemon.hoy(&["cp", "-L", "box:/vol/t/real", &to]).run();
            daemon.hoy(&["exec", "-w", "/t/real", "box", "sh", "-c", "echo x >>file"]).run();
            if turn % 2 == 0 {
                daemon.hoy(&["export", "-o", &format!("{to}/tar"), "box"]).run().ok();
                daemon.hoy(&["commit", "--no-pause", "box", "attacked"]).run();
            }
            let found = shown(&out);
            assert!(!found.contains("untouched"), "{found}");
            turn += 1;
        }
        over.store(true, Ordering::Relaxed);
    });
    let held = daemon.hoy(&["run", "--rm", "attacked", "grep", "-r", "untouched", "/t"]).run();
    assert_eq!(held.stdout, "", "{held:?}");
    assert_eq!(shown(&canary), before);
}

/// Ids are those that the container sees, whether it runs or not.
#[test]
fn ids_of_a_user_namespace() {
    let mut daemon = Daemon::prepare(&["--userns-remap=default"])
        .with_etc("subuid", "dockremap:100000:65536\n")
        .with_etc("subgid", "dockremap:200000:65536\n");
    daemon.launch();
    give_busybox(&daemon);
    idle(&daemon, "box", &["-v", "vol:/vol"]);
    let file = daemon.path("file");
    std::fs::write(&file, "text").unwrap();
    std::os::unix::fs::chown(&file, Some(7), Some(8)).unwrap();
    let file = file.display().to_string();
    let owners = |source: &str| {
        let docker = hoy_testkit::docker_cli().display().to_string();
        let line =
            format!("DOCKER_HOST={} {docker} {source} | tar tnvf - | grep ' own$'", daemon.host());
        let listed = Run::new("sh").args(["-c", &line]).run();
        let words = listed.ok().split_whitespace().nth(1).map(str::to_owned);
        words.unwrap_or_default()
    };
    for (place, id) in [("/own", "7:8\n"), ("/vol/own", "7:8\n")] {
        daemon.hoy(&["cp", &file, &format!("box:{place}")]).run().ok();
        assert_eq!(inside(&daemon, "box", &format!("stat -c %u:%g {place}")), id);
    }
    assert_eq!((owners("cp box:/own -"), owners("export box")), ("7/8".into(), "7/8".into()));
    daemon.hoy(&["commit", "box", "owned"]).run().ok();
    let said = daemon.hoy(&["run", "--rm", "owned", "stat", "-c", "%u:%g", "/own"]).run();
    assert_eq!(said.ok(), "7:8\n");
    daemon.hoy(&["kill", "box"]).run().ok();
    daemon.hoy(&["cp", &file, "box:/own2"]).run().ok();
    assert_eq!((owners("cp box:/own -"), owners("export box")), ("7/8".into(), "7/8".into()));
    daemon.hoy(&["start", "box"]).run().ok();
    assert_eq!(inside(&daemon, "box", "stat -c %u:%g /own /own2"), "7:8\n7:8\n");
}
