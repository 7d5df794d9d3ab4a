//! Volumes as people use them: data that outlives containers, what an image brings, what is shared
//! and with which rights.

use hoy_e2e::{counts, daemon, field, import};
use hoy_testkit::{Daemon, Output, Run, wait_until};

fn docker(daemon: &Daemon, line: &str) -> Output {
    let words = words(line);
    daemon.docker(&words.iter().map(String::as_str).collect::<Vec<_>>()).run()
}

/// By spaces, with single quotes.
fn words(line: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        if index % 2 == 1 {
            out.push(part.to_owned());
        } else {
            out.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    out
}

/// What a shell in a new container prints.
fn sh(daemon: &Daemon, flags: &str, image: &str, script: &str) -> String {
    let output = docker(daemon, &format!("run --rm {flags} {image} sh -c '{script}'"));
    output.ok().trim().to_owned()
}

#[track_caller]
fn refused(daemon: &Daemon, line: &str, says: &str) {
    let output = docker(daemon, line);
    assert_ne!(output.code, Some(0), "{line}");
    assert!(output.stderr.contains(says), "{line}: {}", output.stderr);
}

/// A mount of the test's own, which goes with it.
struct Mounted(String);

impl Mounted {
    fn tmpfs(at: String) -> Self {
        Run::new("mount").args(["-t", "tmpfs", "x", &at]).run().ok();
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let flags = rustix::mount::UnmountFlags::DETACH;
        let _ = rustix::mount::unmount(self.0.as_str(), flags);
    }
}

fn mounts_below(daemon: &Daemon) -> Vec<String> {
    let root = daemon.path("data").display().to_string();
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter(|line| line.contains(&root)).map(str::to_owned).collect()
}

#[test]
fn by_name() {
    let mut daemon = daemon();
    assert_eq!(docker(&daemon, "volume create --label a=1 data").ok(), "data\n");
    assert_eq!(docker(&daemon, "volume create data").ok(), "data\n");
    refused(&daemon, "volume create -d nosuch data", "volume name must be unique");
    refused(&daemon, "volume create -d nosuch other", "plugin \"nosuch\" not found");
    refused(&daemon, "volume create a/b", "includes invalid characters for a local volume name");
    refused(&daemon, "volume create a", "volume name is too short");
    refused(&daemon, "volume create -o foo=1 bad", "invalid option: \"foo\"");
    refused(&daemon, "volume inspect nosuch", "get nosuch: no such volume");
    let anonymous = docker(&daemon, "volume create").ok().trim().to_owned();
    assert_eq!(anonymous.len(), 64);
    let inspect = |template: &str| {
        docker(&daemon, &format!("volume inspect -f '{template}' data")).ok().trim().to_owned()
    };
    let place = inspect("{{.Mountpoint}}");
    assert_eq!(place, daemon.path("data/volumes/data/_data").display().to_string());
    assert_eq!(
        inspect("{{.Driver}} {{.Scope}} {{json .Labels}} {{json .Options}}"),
        "local local {\"a\":\"1\"} null"
    );

    sh(&daemon, "-v data:/d", "busybox", "echo hello > /d/file; ln /d/file /d/second");
    assert_eq!(std::fs::read_to_string(format!("{place}/file")).unwrap(), "hello\n");
    // Also after the daemon was killed; a running container names it.
    docker(&daemon, "run -d --name one -v data:/d:ro --init busybox sleep 1000").ok();
    daemon.kill();
    daemon.launch();
    assert_eq!(sh(&daemon, "-v data:/x", "busybox", "cat /x/second"), "hello");
    assert_ne!(docker(&daemon, "exec one touch /d/x").code, Some(0));
    refused(&daemon, "volume rm data", "volume is in use - [");
    let mount =
        "{{with (index .Mounts 0)}}{{.Type}} {{.Name}} {{.Driver}} {{.Mode}} {{.RW}}{{end}}";
    assert_eq!(field(&daemon, "one", mount), "volume data local ro false");
    let list = |filters: &str| {
        let output = docker(&daemon, &format!("volume ls -q {filters}"));
        let mut names: Vec<String> = output.ok().lines().map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(list("-f dangling=true"), [anonymous.as_str()]);
    assert_eq!(list("-f dangling=false"), ["data"]);
    assert_eq!(list("-f label=a=1"), ["data"]);
    assert_eq!(list("-f name=at"), ["data"]);
    assert_eq!(list("-f driver=local").len(), 2);
    refused(&daemon, "volume ls -f nosuch=1", "invalid filter 'nosuch'");

    // A name like a request's is a name.
    docker(&daemon, "volume create prune").ok();
    docker(&daemon, "volume rm prune").ok();

    // A prune takes what has no name of its own, or all.
    docker(&daemon, "volume create spare").ok();
    assert!(docker(&daemon, "volume prune -f").ok().contains(&anonymous));
    assert_eq!(list(""), ["data", "spare"]);
    assert!(docker(&daemon, "volume prune -f -a").ok().contains("spare"));
    assert_eq!(list(""), ["data"]);
    docker(&daemon, "rm -f one").ok();
    assert_eq!(docker(&daemon, "volume rm data").ok(), "data\n");
    refused(&daemon, "volume rm data", "get data: no such volume");
    docker(&daemon, "volume rm -f data").ok();
}

/// What an image has where an empty volume is mounted becomes the volume's, as it is.
#[test]
fn first_contents() {
    let daemon = daemon();
    import(
        &daemon,
        "full",
        "mkdir -p srv/in; echo one > srv/in/one; ln srv/in/one srv/two; ln -s /etc/passwd srv/away; \
         mkfifo srv/pipe; mknod srv/null c 1 3; chown -R 33:44 srv/in; chmod 2750 srv; \
         chmod 4711 srv/in/one; chown 7:8 srv; setfattr -n user.x -v y srv/two 2>/dev/null || true; \
         touch -d @1000000 srv/in; echo file > afile",
        &["VOLUME /srv"],
    );
    const LOOK: &str = "cd /srv; stat -c \"%n %a %u %g %F %h\" . in in/one two pipe null away | sort; \
                        stat -c %Y in; readlink away; cat in/one";
    let own = sh(&daemon, "-v /elsewhere", "full", LOOK);
    assert!(own.contains(". 2750 7 8 directory"), "{own}");
    assert!(own.contains("in/one 4711 33 44 regular file 2"), "{own}");
    assert!(own.contains("null 644 0 0 character special file"), "{own}");
    assert!(own.ends_with("1000000\n/etc/passwd\none"), "{own}");
    assert_eq!(docker(&daemon, "volume ls -q").ok(), "", "--rm takes anonymous volumes with it");

    // By name, once: later containers see what was made of it.
    assert_eq!(sh(&daemon, "-v kept:/srv", "full", LOOK), own);
    sh(&daemon, "-v kept:/srv", "full", "rm /srv/two; echo new > /srv/new");
    assert_eq!(sh(&daemon, "-v kept:/srv", "full", "ls /srv"), "away\nin\nnew\nnull\npipe");
    assert_eq!(sh(&daemon, "-v kept:/other", "busybox", "ls /other"), "away\nin\nnew\nnull\npipe");
    // Not if that is not wanted, nor over a bind mount.
    assert_eq!(sh(&daemon, "-v none:/srv:nocopy", "full", "ls /srv"), "");
    let nocopy = "--mount type=volume,source=no2,target=/srv,volume-nocopy";
    assert_eq!(sh(&daemon, nocopy, "full", "ls /srv"), "");
    let sub = "--mount type=volume,source=kept,target=/mnt,volume-subpath=in";
    assert_eq!(sh(&daemon, sub, "busybox", "cat /mnt/one"), "one");
    refused(
        &daemon,
        "run --rm --mount type=volume,source=kept,target=/mnt,volume-subpath=nosuch busybox true",
        "cannot access path nosuch of the volume",
    );
    refused(
        &daemon,
        "run --rm --mount type=volume,source=kept,target=/mnt,volume-subpath=../x busybox true",
        "subpath must be a relative path within the volume",
    );
    refused(
        &daemon,
        "run --name half -v /afile full true",
        "cannot mount volume over existing file, file exists /afile",
    );
    refused(&daemon, "inspect half", "o such object");

    // Shared by --volumes-from, with its rights; anonymous ones go with `rm -v`.
    docker(&daemon, "run --name holder -v /extra full sh -c 'echo x > /extra/x'").ok();
    assert_eq!(
        sh(&daemon, "--volumes-from holder", "busybox", "cat /extra/x /srv/in/one"),
        "x\none"
    );
    refused(&daemon, "run --rm --volumes-from holder:ro busybox touch /extra/y", "Read-only");
    refused(&daemon, "run --rm --volumes-from nosuch busybox true", "No such container: nosuch");
    refused(&daemon, "run --rm --volumes-from holder:xx busybox true", "invalid mode: xx");
    docker(&daemon, "create --name second --volumes-from holder busybox").ok();
    assert_eq!(docker(&daemon, "volume ls -q -f dangling=true").ok().lines().count(), 3);
    docker(&daemon, "rm -v holder").ok();
    assert_eq!(docker(&daemon, "volume ls -q").ok().lines().count(), 5, "the second has them");
    docker(&daemon, "rm -v second").ok();
    docker(&daemon, "run --name holder full true").ok();
    docker(&daemon, "rm -v holder").ok();
    assert_eq!(docker(&daemon, "volume ls -q").ok().lines().count(), 5);
}

/// What is mounted on a volume by its options: while somebody runs with it, and seen by all.
#[test]
fn by_options() {
    let mut daemon = daemon();
    let there = daemon.path("there");
    std::fs::create_dir(&there).unwrap();
    docker(&daemon, "volume create -o type=tmpfs -o device=tmpfs -o o=size=1m,noexec mem").ok();
    let bind = format!("volume create -o type=none -o o=bind -o device={} host", there.display());
    docker(&daemon, &bind).ok();
    docker(&daemon, "volume create -o type=none -o o=bind -o device=/nosuch gone").ok();
    docker(&daemon, "volume create -o type=nosuchfs -o device=x lacking").ok();
    docker(&daemon, "run -d --name one -v mem:/m -v host:/h --init busybox sleep 1000").ok();
    assert_eq!(docker(&daemon, "exec one df -k /m").ok().split_whitespace().nth(8), Some("1024"));
    docker(&daemon, "exec one sh -c 'echo shared > /m/x; echo out > /h/x'").ok();
    assert_eq!(sh(&daemon, "-v mem:/m", "busybox", "cat /m/x"), "shared");
    daemon.kill();
    daemon.launch();
    assert_eq!(sh(&daemon, "-v mem:/m", "busybox", "cat /m/x"), "shared");
    assert_eq!(std::fs::read_to_string(there.join("x")).unwrap(), "out\n");
    refused(
        &daemon,
        "run --name bad -v gone:/g busybox true",
        "failed to mount local volume: mount /nosuch:",
    );
    refused(&daemon, "run --rm -v lacking:/g busybox true", "this kernel has no file system of");
    docker(&daemon, "rm -f one").ok();
    wait_until("nothing is mounted", || mounts_below(&daemon).is_empty());
    assert_eq!(sh(&daemon, "-v mem:/m", "busybox", "ls /m"), "", "a new one each time");
    // What is removed is the volume, not what was mounted on it.
    docker(&daemon, "volume rm host").ok();
    assert!(there.join("x").exists());
    // Nor what others have mounted inside.
    docker(&daemon, "volume create deep").ok();
    let inside = daemon.path("data/volumes/deep/_data/mnt");
    std::fs::create_dir(&inside).unwrap();
    Run::new("mount").args(["--bind"]).args([&there, &inside]).run().ok();
    docker(&daemon, "volume rm deep").ok();
    assert!(there.join("x").exists());
    let moved = mounts_below(&daemon);
    for line in &moved {
        let at = line.split(' ').nth(4).unwrap();
        Run::new("umount").args([at]).run().ok();
    }
    assert_eq!(moved.len(), 1);
}

/// Files and directories of the host, and what an image holds.
#[test]
fn mounts() {
    let daemon = daemon();
    let before = counts(&daemon);
    let room = daemon.path("room");
    std::fs::create_dir_all(room.join("below")).unwrap();
    std::fs::write(room.join("file"), "text\n").unwrap();
    let room = room.display().to_string();
    let below = Mounted::tmpfs(format!("{room}/below"));
    let bind = |rest: &str| format!("--mount type=bind,source={room},target=/r{rest}");
    assert_eq!(sh(&daemon, &bind(""), "busybox", "touch /r/a /r/below/b; cat /r/file"), "text");
    // Read-only means all of it, unless only the top is meant.
    let touches =
        "touch /r/a 2>/dev/null && echo top; touch /r/below/b 2>/dev/null && echo deep; true";
    assert_eq!(sh(&daemon, &bind(",readonly"), "busybox", touches), "");
    assert_eq!(sh(&daemon, &bind(",readonly,bind-recursive=writable"), "busybox", touches), "deep");
    let alone = sh(&daemon, &bind(",bind-recursive=disabled"), "busybox", "ls /r/below");
    assert_eq!(alone, "");
    // One file, and what is mounted over what.
    let one = format!("-v {room}/file:/etc/one -v {room}:/r:ro -v inner:/r/below");
    assert_eq!(
        sh(&daemon, &one, "busybox", "cat /etc/one; touch /r/below/x; ls /r/below"),
        "text\nx"
    );
    assert_eq!(
        sh(&daemon, "--mount type=image,source=busybox,target=/img", "busybox", "ls /img/bin/sh"),
        "/img/bin/sh"
    );
    refused(
        &daemon,
        "run --rm --mount type=image,source=busybox,target=/img busybox touch /img/x",
        "Read-only",
    );
    let part = "--mount type=image,source=busybox,target=/img,image-subpath=etc";
    assert!(sh(&daemon, part, "busybox", "ls /img").contains("passwd"));
    for (flags, says) in [
        ("--mount type=bind,source=/no/such,target=/x", "bind source path does not exist"),
        (&format!("-v {room}/file:/tmp"), "not a directory"),
        ("-v aa:/x -v bb:/x", "Duplicate mount point: /x"),
        ("--mount type=volume,source=a1,target=relative", "mount path must be absolute"),
        ("--mount type=image,source=nosuch,target=/x", "o such image"),
        ("-v a1:/x:rshared", "must not be specified"),
        ("--mount type=volume,target=/", "destination can't be '/'"),
    ] {
        refused(&daemon, &format!("run --rm {flags} busybox true"), says);
    }
    assert!(!daemon.path("data/volumes/a1").exists(), "nothing of a refused one is made");
    drop(below);
    before.wait_for(&daemon);
}
