//! Volumes of a plugin that is a process of its own, with real mounts, by the real docker CLI; and
//! what remains when it hangs, dies or lies.

use std::path::PathBuf;
use std::process::{Child, Command};

use hoy_e2e::{field, give_busybox, pid};
use hoy_testkit::{Daemon, Output, Run, wait_until};

/// A running plugin; nothing of it is left when it is dropped.
struct Plugin {
    child: Child,
    arguments: Vec<String>,
    state: PathBuf,
}

impl Plugin {
    fn start(daemon: &Daemon, address: &str, more: &[&str]) -> Self {
        let state = daemon.path("plugin").join(address.rsplit('/').next().unwrap());
        std::fs::create_dir_all(&state).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/plugins/volumes.py");
        let mut arguments = vec![format!("--net={}", daemon.netns().path())];
        // The interpreter itself: nothing between it and its signals.
        let python = ["--", "/usr/bin/env", "python3", "-SEB", script, address];
        arguments.extend(python.map(str::to_owned));
        arguments.push(state.display().to_string());
        arguments.extend(more.iter().map(|word| (*word).to_owned()));
        let child = Command::new("nsenter").args(&arguments).spawn().unwrap();
        Self { child, arguments, state }
    }

    fn again(&mut self) {
        self.kill();
        self.child = Command::new("nsenter").args(&self.arguments).spawn().unwrap();
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn behave(&self, how: &str) {
        std::fs::write(self.state.join("behave"), how).unwrap();
    }

    /// What it was asked since the last time.
    fn calls(&self, kind: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.state.join("calls")).unwrap_or_default();
        let kind = format!("VolumeDriver.{kind} ");
        text.lines().filter_map(|line| line.strip_prefix(&kind)).map(str::to_owned).collect()
    }

    fn mounts(&self) -> usize {
        let place = self.state.join("mnt").display().to_string();
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.lines().filter(|line| line.contains(&place)).count()
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for entry in std::fs::read_dir(self.state.join("mnt")).into_iter().flatten().flatten() {
            let _ = Command::new("umount").args(["-l", "-q"]).arg(entry.path()).output();
        }
    }
}

fn docker(daemon: &Daemon, line: &str) -> Output {
    daemon.docker(&line.split_whitespace().collect::<Vec<_>>()).run()
}

#[track_caller]
fn ok(daemon: &Daemon, line: &str) -> String {
    docker(daemon, line).ok().trim().to_owned()
}

#[track_caller]
fn refused(daemon: &Daemon, line: &str, says: &str) {
    let output = docker(daemon, line);
    assert_ne!(output.code, Some(0), "{line}");
    assert!(output.stderr.contains(says), "{line}: {}", output.stderr);
}

fn daemon() -> Daemon {
    let mut daemon = Daemon::prepare(&[]);
    let directory = daemon.path("plugins");
    std::fs::create_dir_all(&directory).unwrap();
    daemon.set("HOY_PLUGIN_DIRS", &directory.display().to_string());
    daemon.launch();
    give_busybox(&daemon);
    daemon
}

fn socket(daemon: &Daemon, name: &str) -> String {
    daemon.path("plugins").join(format!("{name}.sock")).display().to_string()
}

/// The list as the API has it: clients do not show warnings.
fn list(daemon: &Daemon) -> String {
    daemon.curl(&["http://d/volumes"]).ok().to_owned()
}

#[test]
fn a_plugins_life() {
    let mut daemon = daemon();
    refused(&daemon, "volume create -d shelf early", "plugin \"shelf\" not found");
    let mut plugin = Plugin::start(&daemon, &socket(&daemon, "shelf"), &[]);
    wait_until("the plugin is there", || PathBuf::from(socket(&daemon, "shelf")).exists());

    // Made, shown, made again, and refused.
    assert_eq!(ok(&daemon, "volume create -d shelf -o colour=red --label a=1 data"), "data");
    assert_eq!(ok(&daemon, "volume create -d shelf data"), "data");
    assert_eq!(plugin.calls("Create"), ["data "]);
    refused(&daemon, "volume create data", "driver 'shelf' already has volume 'data'");
    let refused_by_it = "create other: VolumeDriver.Create: full";
    refused(&daemon, "volume create -d shelf -o refuse=full other", refused_by_it);
    let refusals = 1;
    assert_eq!(ok(&daemon, "volume create plain"), "plain");
    refused(&daemon, "volume create -d shelf plain", "volume name must be unique");
    let shown = "{{.Driver}}|{{.Scope}}|{{.Labels}}|{{.Options}}|{{.CreatedAt}}|{{.Status}}|";
    assert_eq!(
        ok(&daemon, &format!("volume inspect -f {shown} data")),
        "shelf|global|map[a:1]|map[colour:red]|2026-01-02T03:04:05Z|\
         map[mounts:0 options:map[colour:red]]|"
    );
    let names = ok(&daemon, "volume ls --format {{.Driver}}/{{.Name}}");
    assert_eq!(names, "shelf/data\nlocal/plain");
    assert_eq!(ok(&daemon, "volume ls -q -f driver=shelf"), "data");

    // Two containers share it; the image fills it, and what they write is the plugin's.
    ok(&daemon, "run -d --name one -v data:/etc busybox sleep 1000");
    let mount = "type=volume,source=data,target=/d,volume-driver=shelf,readonly";
    ok(&daemon, &format!("run -d --name two --mount {mount} busybox sleep 1000"));
    assert_eq!(plugin.mounts(), 1);
    let passwd = std::fs::read_to_string(plugin.state.join("data/data/passwd")).unwrap();
    assert!(passwd.starts_with("root:"), "{passwd}");
    ok(&daemon, "exec one cp /etc/passwd /etc/written");
    assert_eq!(ok(&daemon, "exec two cat /d/written"), passwd.trim());
    assert_ne!(docker(&daemon, "exec two touch /d/x").code, Some(0));
    let place = plugin.state.join("mnt/data").display().to_string();
    assert_eq!(field(&daemon, "two", "{{(index .Mounts 0).Source}}"), place);
    let (one, two) = (field(&daemon, "one", "{{.Id}}"), field(&daemon, "two", "{{.Id}}"));
    let mounts = plugin.calls("Mount");
    assert_eq!(mounts[1..], [format!("data {one}"), format!("data {two}")]);

    // A daemon that was killed knows who runs with what, and lets go for those that ended.
    let process = pid(&daemon, "one").to_string();
    daemon.kill();
    Run::new("kill").args(["-9", &process]).run().ok();
    daemon.launch();
    wait_until("it lets go", || plugin.calls("Unmount").contains(&format!("data {one}")));
    assert_eq!(plugin.mounts(), 1);
    assert_eq!(field(&daemon, "two", "{{(index .Mounts 0).Source}}"), place);
    refused(&daemon, "volume rm data", "volume is in use - [");
    ok(&daemon, "rm -f two");
    wait_until("nothing is mounted", || plugin.mounts() == 0);
    ok(&daemon, "rm one");

    // The plugin's own: known by asking it, taken by its name alone.
    plugin.again();
    wait_until("the plugin is back", || docker(&daemon, "volume inspect data").code == Some(0));
    let call = "-d {\"Name\":\"own\"} http://p/VolumeDriver.Create --unix-socket";
    let call = call.split(' ').map(str::to_owned).chain([socket(&daemon, "shelf")]);
    assert_eq!(Run::new("curl").args(["-sS"]).args(call).run().ok(), "{}");
    assert_eq!(ok(&daemon, "volume ls -q"), "data\nown\nplain");
    assert_eq!(ok(&daemon, "volume inspect -f {{.Driver}}/{{.Labels}} own"), "shelf/map[]");
    ok(&daemon, "run --rm -v own:/d busybox touch /d/file");
    assert!(plugin.state.join("data/own/file").exists());
    ok(&daemon, "volume rm data own");
    // For all volumes of a container, also those without a name.
    ok(&daemon, "run --rm --volume-driver shelf -v third:/d -v /anonymous busybox touch /d/file");
    assert_eq!(ok(&daemon, "volume inspect -f {{.Driver}} third"), "shelf");
    assert_eq!(plugin.calls("Create").len(), plugin.calls("Remove").len() + 1 + refusals);
    assert_eq!(ok(&daemon, "info -f {{.Plugins.Volume}}"), "[local shelf]");
    ok(&daemon, "volume prune -af");
    assert_eq!(ok(&daemon, "volume ls -q"), "third");
    ok(&daemon, "volume rm third");
    ok(&daemon, "volume create plain");
    assert_eq!(ok(&daemon, "volume ls -q"), "plain");
    assert!(!plugin.state.join("data/data").exists());
}

/// What is made for TLS: an authority, and a certificate of it for both sides.
fn certificates(daemon: &Daemon, name: &str) -> String {
    let directory = daemon.path(name).display().to_string();
    let line = format!(
        "mkdir {directory}; cd {directory}; printf 'subjectAltName=IP:127.0.0.1\n' >names; \
         openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key \
         -out ca -days 2 -subj /CN=authority; \
         openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key -out request \
         -subj /CN=plugin; \
         openssl x509 -req -in request -CA ca -CAkey ca.key -CAcreateserial -days 2 \
         -extfile names -out cert"
    );
    Run::new("sh").args(["-ec", &line]).run().ok();
    directory
}

#[test]
fn bad_ones_harm_nobody_else() {
    let daemon = daemon();
    let mut plugin = Plugin::start(&daemon, &socket(&daemon, "bad"), &[]);
    // Another one is reached by TCP, and both sides say who they are.
    let (keys, others) = (certificates(&daemon, "keys"), certificates(&daemon, "others"));
    let far = Plugin::start(&daemon, "7500", &[&keys]);
    let spec = |name: &str, ca: &str, keys: &str| {
        let text = format!(
            r#"{{"Name":"{name}","Addr":"https://127.0.0.1:7500","TLSConfig":{{"CAFile":"{ca}",
            "CertFile":"{keys}/cert","KeyFile":"{keys}/key"}}}}"#
        );
        std::fs::write(daemon.path("plugins").join(format!("{name}.json")), text).unwrap();
    };
    spec("far", &format!("{keys}/ca"), &keys);
    wait_until("both are there", || {
        PathBuf::from(socket(&daemon, "bad")).exists()
            && daemon.netns().sh("cat /proc/net/tcp").contains(":1D4C ")
    });
    ok(&daemon, "volume create -d bad data");
    ok(&daemon, "volume create -d far distant");
    ok(&daemon, "run --rm -v distant:/d busybox touch /d/file");
    assert!(far.state.join("data/distant/file").exists());
    // Of another authority, to it and to us; and one for which anybody will do.
    spec("wrong", &format!("{others}/ca"), &keys);
    spec("stranger", &format!("{keys}/ca"), &others);
    spec("anybody", "", &keys);
    // They are asked briefly: on a slow machine, again.
    let lists = |what: &str, words: &[&str]| {
        wait_until(what, || {
            let listed = list(&daemon);
            words.iter().all(|word| listed.contains(word)) && !listed.contains("anybody")
        });
    };
    let wrong = "list wrong: Post \\\"https://127.0.0.1:7500/";
    lists("wrong ones are told", &[wrong, "\"distant\"", "certificate", "list stranger: "]);
    for name in ["wrong", "stranger", "anybody"] {
        std::fs::remove_file(daemon.path("plugins").join(format!("{name}.json"))).unwrap();
    }

    // It lies: no container starts, and what may be mounted is given back.
    ok(&daemon, "create --name one -v data:/d:nocopy busybox true");
    for (said, shown) in [
        (r#"{"Mountpoint":"relative"}"#, "which is not an absolute path"),
        (r#"{"Mountpoint":"/no/such/place"}"#, "which does not exist"),
        ("<html>", "VolumeDriver.Mount: error reading plugin response"),
        (r#"{"Err":"the shelf is locked"}"#, "the shelf is locked"),
    ] {
        plugin.behave(&format!("VolumeDriver.Mount say {said}"));
        refused(&daemon, "start one", "error while mounting volume");
        refused(&daemon, "start one", shown);
    }
    plugin.behave("VolumeDriver.Mount endless");
    refused(&daemon, "start one", "the answer is longer than");
    assert_eq!(field(&daemon, "one", "{{.State.Status}}"), "created");
    plugin.behave("VolumeDriver.Create say []");
    refused(&daemon, "volume create -d bad new", "error reading plugin response");
    plugin.behave("");
    assert!(!ok(&daemon, "volume ls -q").contains("new"));
    ok(&daemon, "start -a one");
    wait_until("what was mounted is given back", || plugin.mounts() == 0);

    // It hangs: a list says so soon and has the rest; who is not asked is not delayed.
    plugin.behave("VolumeDriver.List hang");
    lists("the rest is listed", &["list bad: Post", "\"distant\"", "\"data\""]);
    plugin.behave("VolumeDriver.Create hang");
    let before = plugin.calls("Create").len();
    let making = daemon.docker(&["volume", "create", "-d", "bad", "slow"]).spawn();
    wait_until("it hangs", || plugin.calls("Create").len() > before);
    ok(&daemon, "volume create -d far quick");
    assert_eq!(ok(&daemon, "ps -q -a").lines().count(), 1);
    assert_eq!(field(&daemon, "one", "{{(index .Mounts 0).Name}}"), "data");
    // It dies in the middle of it.
    plugin.kill();
    let output = making.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("create slow: Post") && said.contains("/VolumeDriver.Create\": EOF"),
        "{said}"
    );

    // It is gone for good: what is known of its volumes goes by force alone.
    std::fs::remove_file(socket(&daemon, "bad")).unwrap();
    ok(&daemon, "rm one");
    refused(&daemon, "volume rm data", "plugin \"bad\" not found");
    assert_eq!(ok(&daemon, "volume ls -q"), "data\ndistant\nquick");
    ok(&daemon, "volume rm -f data");
    assert_eq!(ok(&daemon, "volume ls -q"), "distant\nquick");
    assert!(!daemon.path("data/volumes/data").exists());
    ok(&daemon, "volume prune -af");
    ok(&daemon, "volume rm distant quick");
}
