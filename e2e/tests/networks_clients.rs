//! Networks and volumes through the clients that people have: the docker CLI beside Docker's own engine, field
//! by field and word by word; docker-py; Compose.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use hoy_e2e::dockerd::Dockerd;
use hoy_e2e::{counts, daemon};
use hoy_testkit::{Daemon, Output, Run, wait_until, workspace};
use serde_json::Value;

const SCENARIO: &str =
    concat!(include_str!("clients/networks.txt"), include_str!("clients/volumes.txt"));
/// Beside the former, and by our client, too.
const CONTAINERS: &str = include_str!("clients/containers.txt");

/// Ids are anybody's; what is a path or a time, too.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    for c in text.chars().chain(['\n']) {
        if c.is_ascii_alphanumeric() {
            word.push(c);
            continue;
        }
        let hex = word.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match (hex, word.len()) {
            (true, 64) => out.push_str("ID"),
            (true, 12) => out.push_str("SHORT"),
            _ => out.push_str(&word),
        }
        word.clear();
        out.push(c);
    }
    out.pop();
    out
}

/// A document as lines: where, and what is there.
fn flat(value: &Value, at: &str, out: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                // By a name that both engines have.
                let named = at.ends_with("/Containers").then(|| value["Name"].as_str()).flatten();
                let key = named.map_or_else(|| plain(key), str::to_owned);
                flat(value, &format!("{at}/{key}"), out);
            }
        }
        // They come in no order, and none is as good as an empty list.
        _ if at.ends_with("/Aliases") || at.ends_with("/HostConfig/Binds") => {
            let names: BTreeSet<&str> =
                value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            out.insert(at.to_owned(), format!("{names:?}"));
        }
        Value::Array(list) if !list.is_empty() => {
            for (number, value) in list.iter().enumerate() {
                // Mounts come in no order.
                let key = value["Destination"].as_str().map(|at| at.replace('/', "|"));
                let key = key.unwrap_or_else(|| number.to_string());
                flat(value, &format!("{at}/{key}"), out);
            }
        }
        other => drop(out.insert(at.to_owned(), plain(&other.to_string()))),
    }
}

/// The fields of a container that tell of networks and mounts.
fn is_meant(at: &str) -> bool {
    const HOST: [&str; 13] = [
        "NetworkMode",
        "PortBindings",
        "Dns",
        "ExtraHosts",
        "Links",
        "PublishAllPorts",
        "UTSMode",
        "Binds",
        "Mounts",
        "Tmpfs",
        "VolumeDriver",
        "VolumesFrom",
        "ReadonlyRootfs",
    ];
    const CONFIG: [&str; 5] = ["Hostname", "Domainname", "ExposedPorts", "MacAddress", "Volumes"];
    let below = |place: &str, names: &[&str]| {
        at.split_once(place).is_some_and(|(_, rest)| names.iter().any(|n| rest.starts_with(n)))
    };
    at.contains("/NetworkSettings/")
        || at.contains("/0/Mounts/")
        || below("/HostConfig/", &HOST)
        || below("/0/Config/", &CONFIG)
        || at.ends_with("/State/Status")
}

/// What newer engines than the peer (20.10) say otherwise, and what hoy does on purpose.
fn deliberate(at: &str, docker: Option<&String>, hoy: Option<&String>) -> bool {
    let name = at.rsplit('/').next().unwrap_or(at);
    match name {
        // Since 28, 25 and 28.
        "EnableIPv4" | "DNSNames" | "GwPriority" => docker.is_none(),
        "0" | "1" | "2" | "3" if at.contains("/DNSNames/") => docker.is_none(),
        // What was chosen is told also where nobody asked for it.
        "Gateway" if at.contains("/IPAM/Config/") => docker.is_none(),
        // Until 24 the container's id and its hostname were among the aliases.
        "Aliases" => {
            let (docker, hoy) = (docker.map_or("", |d| d), hoy.map_or("", |h| h));
            let names = |text: &str| -> BTreeSet<String> {
                text.split(['{', '}', '"', ',', ' ']).map(str::to_owned).collect()
            };
            let missing: Vec<String> = names(docker).difference(&names(hoy)).cloned().collect();
            names(hoy).is_subset(&names(docker))
                && missing.iter().all(|name| name == "hh" || is_short(name))
        }
        // Since 26 the default network has its name.
        "NetworkMode" => docker.is_some_and(|d| d == "\"default\"") && is(hoy, "\"bridge\""),
        "com.docker.network.bridge.name" => is(docker, "\"docker0\"") && is(hoy, "\"hoy0\""),
        // Below each one's own root.
        "Mountpoint" | "Source" => {
            let below = |text: Option<&String>| {
                text.and_then(|text| Some(text.split_once("/volumes/")?.1.to_owned()))
            };
            below(docker).is_some() && below(docker) == below(hoy)
        }
        "CreatedAt" => hoy.is_some_and(|hoy| hoy.ends_with("Z\"")),
        "Created" => !hoy.is_some_and(|hoy| hoy.starts_with("\"0001")),
        // A place in /proc, which ends with the container.
        "SandboxKey" => true,
        "SandboxID" => is(docker, "\"\"") || is(hoy, "\"\""),
        _ => false,
    }
}

fn is(value: Option<&String>, text: &str) -> bool {
    value.is_some_and(|value| value == text)
}

fn is_short(name: &str) -> bool {
    name.len() == 12 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

fn documents(line: &str, docker: &Output, hoy: &Output, out: &mut Vec<String>) {
    let [docker, hoy] = [docker, hoy].map(|output| {
        let mut fields = BTreeMap::new();
        let value = serde_json::from_str(&output.stdout);
        let value: Value = value.unwrap_or_else(|error| panic!("{line}: {error}: {output:?}"));
        flat(&value, "", &mut fields);
        // The other scenario, which plays at the same time, names its containers so.
        fields.retain(|at, _| !at.contains("/Containers/c-"));
        fields
    });
    let all: BTreeSet<&String> = docker.keys().chain(hoy.keys()).collect();
    for at in all {
        let (theirs, ours) = (docker.get(at), hoy.get(at));
        let meant = !line.starts_with("inspect") || is_meant(at);
        if meant && theirs != ours && !deliberate(at, theirs, ours) {
            out.push(format!("{line}: {at}: docker {theirs:?}, hoy {ours:?}"));
        }
    }
}

/// Lists of what was removed or has changed come in no order.
fn shown(line: &str, text: &str) -> String {
    let text = plain(text);
    if !line.contains("prune") && !line.starts_with("diff ") {
        return text;
    }
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// What is said to an engine, and by whom.
type Say<'a> = dyn Fn(&[&str]) -> Run + Sync + 'a;

/// All at once: most of it is waiting.
fn at_once(says: &[&Say<'_>], args: &[&str]) -> Vec<Output> {
    std::thread::scope(|scope| {
        let asked: Vec<_> = says.iter().map(|say| scope.spawn(|| say(args).run())).collect();
        asked.into_iter().map(|one| one.join().expect("a client")).collect()
    })
}

/// Says every line to hoy, to the peer, and by our client to another hoy; tells what differs.
fn play(
    scenario: &str,
    hoy: &Say<'_>,
    peer: Option<&Say<'_>>,
    ours: Option<&Say<'_>>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    for line in scenario.lines().filter(|line| !line.starts_with('#')) {
        let (line, words) = match line.split_once(" => ") {
            Some((line, words)) => (line, Some(words)),
            None => (line, None),
        };
        let (kind, line) = match line.split_once(' ') {
            Some((kind @ ("J" | "-" | "28" | "W" | "D"), rest)) => (kind, rest),
            _ => ("", line),
        };
        let args: Vec<String> = line.split(' ').map(|word| word.replace('~', " ")).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let peer = peer.filter(|_| kind != "28");
        let ours = ours.filter(|_| kind != "D");
        let says: Vec<&Say<'_>> = [Some(hoy), peer, ours].into_iter().flatten().collect();
        let mut answers = at_once(&says, &args).into_iter();
        let hoy = answers.next().expect("hoy's answer");
        let docker = peer.and_then(|_| answers.next());
        if let Some(ours) = answers.next() {
            let said = |output: &Output| {
                (output.code, shown(line, &output.stdout), as_docker(&plain(&output.stderr)))
            };
            if said(&hoy) != said(&ours) {
                wrong.push(format!("{line}:\n  docker {hoy:?}\n  hoy's client {ours:?}"));
            }
        }
        let said = |words| hoy.code != Some(0) && hoy.stderr.replace('\n', " ").contains(words);
        if words.is_some_and(|words| !said(words)) {
            wrong.push(format!("{line}: hoy says {:?}", hoy.stderr));
        }
        let Some(docker) = docker.filter(|_| kind != "-") else { continue };
        if docker.code != hoy.code {
            wrong.push(format!("{line}:\n  docker {docker:?}\n  hoy {hoy:?}"));
        } else if kind == "J" {
            documents(line, &docker, &hoy, &mut wrong);
        } else {
            if shown(line, &docker.stdout) != shown(line, &hoy.stdout) {
                wrong.push(format!("{line}: docker {:?}, hoy {:?}", docker.stdout, hoy.stdout));
            }
            if words.is_none() && kind != "W" && plain(&docker.stderr) != plain(&hoy.stderr) {
                wrong.push(format!("{line}: docker {:?}, hoy {:?}", docker.stderr, hoy.stderr));
            }
        }
    }
    wrong
}

/// Each client has its own name.
fn as_docker(text: &str) -> String {
    let text = match text.strip_prefix("hoy ") {
        Some(rest) => format!("docker {rest}"),
        None => text.to_owned(),
    };
    let text = text
        .replace("hoy: ", "docker: ")
        .replace("'hoy ", "'docker ")
        .replace("\thoy ", "\tdocker ");
    text.replace(" hoy ", " docker ").replace("\"hoy ", "\"docker ")
}

#[test]
fn as_docker_s_engine_has_it() {
    let (peer, daemon, other) = std::thread::scope(|scope| {
        let peer = scope.spawn(Dockerd::start_with_networks);
        let daemons = (daemon(), daemon());
        (peer.join().expect("the peer"), daemons.0, daemons.1)
    });
    match &peer {
        Some(peer) => drop(peer.docker(&["tag", "bb", "busybox"]).run().ok()),
        None => println!("only hoy's words are looked at: Debian's docker.io is not installed"),
    }
    let hoy = |args: &[&str]| daemon.docker(args);
    let docker = peer.as_ref().map(|peer| |args: &[&str]| peer.docker(args));
    let docker = docker.as_ref().map(|say| say as &Say<'_>);
    let ours = |args: &[&str]| other.hoy(args);
    let wrong = std::thread::scope(|scope| {
        let containers = scope.spawn(|| play(CONTAINERS, &hoy, docker, Some(&ours)));
        let mut wrong = play(SCENARIO, &hoy, docker, None);
        wrong.extend(containers.join().expect("containers"));
        wrong
    });
    assert!(wrong.is_empty(), "{} differences\n{}", wrong.len(), wrong.join("\n"));
}

fn client_file(name: &str) -> PathBuf {
    workspace().join("e2e/tests/clients").join(name)
}

#[test]
fn docker_py() {
    if !Path::new("/usr/lib/python3/dist-packages/docker/__init__.py").exists() {
        println!("not shown here: Debian's python3-docker is not installed");
        return;
    }
    let run = |name: &str, host: String| {
        let script = client_file(&format!("{name}.py"));
        let output =
            Run::new("python3").args([script.as_os_str()]).args([host]).deadline(120).run();
        serde_json::from_str::<Value>(output.ok()).expect("JSON")
    };
    let scripts = ["docker_py", "docker_py_volumes"];
    let of_peer = || {
        let peer = Dockerd::start_with_networks()?;
        peer.docker(&["tag", "bb", "busybox"]).run().ok();
        Some(scripts.map(|name| run(name, peer.host())))
    };
    let mut all = serde_json::Map::new();
    let mut of_hoy = || {
        let daemon = daemon();
        let before = counts(&daemon);
        for name in scripts {
            let ours = run(name, daemon.host());
            let said = client_file(&format!("{name}.json"));
            let said = std::fs::read_to_string(said).expect("what it shall see");
            let said: Value = serde_json::from_str(&said).expect("JSON");
            assert_eq!(ours, said, "{ours:#}");
            all.extend(ours.as_object().expect("an object").clone());
        }
        before.wait_for(&daemon);
    };
    let theirs = std::thread::scope(|scope| {
        let theirs = scope.spawn(of_peer);
        of_hoy();
        theirs.join().expect("the peer")
    });
    let Some(theirs) = theirs else { return };
    let theirs = |name: &str| theirs.iter().rev().find_map(|one| one.get(name)).cloned();
    for (name, ours) in &all {
        let mut docker = theirs(name).unwrap_or_default();
        match name.as_str() {
            // An internal network has none for its containers; older engines name it nevertheless.
            "two" | "low" => docker["Gateway"] = "".into(),
            // 500 there: a plain refusal is told by its kind here.
            "not connected" => docker[1] = 403.into(),
            _ => {}
        }
        assert_eq!(*ours, docker, "{name}");
    }
}

/// Every Compose there is: the old one by its own name, the new one as the CLI's plugin.
fn composes() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        |name: &str| std::env::split_paths(&path).map(|d| d.join(name)).find(|p| p.exists());
    let plugins = ["/usr/libexec/docker", "/usr/lib/docker", "/usr/local/lib/docker"];
    let plugin = plugins.map(|d| Path::new(d).join("cli-plugins/docker-compose"));
    let named = std::env::var_os("HOY_COMPOSE").map(PathBuf::from);
    found("docker-compose")
        .into_iter()
        .chain(plugin.into_iter().filter(|path| path.exists()))
        .chain(named)
        .collect()
}

#[test]
fn compose() {
    let all = composes();
    if all.is_empty() {
        println!("not shown here: no docker-compose is installed");
    }
    for program in all {
        let daemon = daemon();
        let before = counts(&daemon);
        with_compose(&daemon, &program);
        before.wait_for(&daemon);
    }
}

fn with_compose(daemon: &Daemon, program: &Path) {
    let compose = |args: &[&str]| {
        let run = Run::new(program).args(["-f".as_ref(), client_file("compose.yaml").as_os_str()]);
        let run = run.args(args).deadline(120).env("DOCKER_HOST", daemon.host());
        run.env("COMPOSE_PROJECT_NAME", "proj").env("HOME", daemon.path("home")).run()
    };
    compose(&["up", "-d"]).ok();
    let networks = |format: &str| {
        let args = ["network", "ls", "--filter", "label=com.docker.compose.project=proj"];
        let text = daemon.docker(&args).args(["--format", format]).run().ok().to_owned();
        text.lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let made = ["proj_back bridge", "proj_default bridge", "proj_front bridge"].map(str::to_owned);
    assert_eq!(networks("{{.Name}} {{.Driver}}"), made.clone().into());
    let front = ["network", "inspect", "proj_front", "-f"];
    let shape = "{{json .IPAM.Config}} {{json .Options}}";
    assert_eq!(
        daemon.docker(&front).args([shape]).run().ok().trim(),
        r#"[{"Subnet":"10.92.0.0/16","IPRange":"10.92.5.0/24","Gateway":"10.92.0.254"}] {"com.docker.network.driver.mtu":"1400"}"#
    );
    let internal = ["network", "inspect", "proj_back", "-f", "{{.Internal}} {{.Labels.tier}}"];
    assert_eq!(daemon.docker(&internal).run().ok().trim(), "true back");

    let exec = |service: &str, args: &[&str]| compose(&[&["exec", "-T", service], args].concat());
    // By service, by alias, and with the address that was asked for.
    for name in ["shop", "till", "site"] {
        let answer = exec("web", &["ping", "-c1", "-W30", name]);
        let head = answer.ok().lines().next().unwrap_or_default().to_owned();
        assert!(name != "site" || head.contains("(10.92.5.10)"), "{head}");
    }
    exec("shop", &["ping", "-c1", "-W30", "web"]).ok();
    // Others' networks are not seen, nor are their names.
    assert_ne!(exec("lone", &["ping", "-c1", "-W2", "shop"]).code, Some(0));
    let address = |service: &str| exec(service, &["ip", "-4", "-o", "addr", "show", "eth0"]);
    assert_eq!(address("guest").ok(), address("shop").ok());
    assert!(!exec("recluse", &["ip", "-o", "link"]).ok().contains("eth0"));
    assert_eq!(compose(&["port", "web", "80"]).ok().trim(), "127.0.0.1:8291");
    let page = ["-s", "--max-time", "30", "http://127.0.0.1:8291/hosts"];
    wait_until("the page is served", || {
        daemon.netns().run("curl").args(page).run().stdout.contains("10.92.5.10")
    });

    // Once more changes nothing.
    let ids = || daemon.docker(&["ps", "-q", "--no-trunc"]).run().ok().to_owned();
    let first = ids();
    compose(&["up", "-d"]).ok();
    assert_eq!(ids(), first);
    // Stopped and started: the same networks, addresses and names.
    compose(&["stop", "-t", "0"]).ok();
    compose(&["start"]).ok();
    exec("shop", &["ping", "-c1", "-W30", "web"]).ok();
    compose(&["down", "-t", "0"]).ok();
    assert_eq!(networks("{{.Name}}"), BTreeSet::new());
    assert_eq!(ids(), "");
}
