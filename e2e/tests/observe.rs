//! What one sees of containers: statistics, processes, events and their history, lists and names.

use std::collections::BTreeMap;

use hoy_e2e::{both, cgroup, daemon, field, idle, import, pid, unified};
use hoy_testkit::{Daemon, Run, wait_until};
use serde_json::Value;

/// What both command lines print, which must be the same; where that has times in it, a second may
/// go by between the two: they are asked once more, and on a slow machine again.
#[track_caller]
fn same(daemon: &Daemon, line: &str) -> String {
    let args: Vec<&str> = line.split(' ').collect();
    let asked = || both(daemon, &args).map(Run::run);
    let timed = |text: &str| text.contains(" ago ") || text.contains("TIME");
    let mut answers = asked();
    for _ in 0..20 {
        if answers[0].stdout == answers[1].stdout || !timed(&answers[1].stdout) {
            break;
        }
        answers = asked();
    }
    let [docker, hoy] = answers;
    assert_eq!(docker.stdout, hoy.stdout, "{line}");
    assert_eq!(docker.code, hoy.code, "{line}: {docker:?} {hoy:?}");
    hoy.stdout
}

/// Both clients' tables of the processes, without what may change from one to the other.
#[track_caller]
fn same_processes(daemon: &Daemon, line: &str) -> String {
    let args: Vec<&str> = line.split(' ').collect();
    let [docker, hoy] = both(daemon, &args).map(Run::run);
    let still = |table: &str| -> Vec<String> {
        let mut rows = table.lines();
        let head: Vec<&str> = rows.next().unwrap_or_default().split_whitespace().collect();
        let moves = |index: usize| {
            let moving = ["C", "%CPU", "%MEM", "TIME", "STAT", "RSS", "VSZ"];
            head.get(index).is_some_and(|name| moving.contains(name))
        };
        let still = |row: &str| {
            let words = row.split_whitespace().enumerate();
            let words: Vec<&str> = words.map(|(i, w)| if moves(i) { "" } else { w }).collect();
            words.join(" ")
        };
        [head.join(" ")].into_iter().chain(rows.map(still)).collect()
    };
    assert_eq!(still(docker.ok()), still(hoy.ok()), "{line}");
    hoy.stdout
}

/// As [`same`], for what is refused: the message, too.
#[track_caller]
fn refused(daemon: &Daemon, line: &str, says: &str) {
    let args: Vec<&str> = line.split(' ').collect();
    let [docker, hoy] = both(daemon, &args).map(Run::run);
    assert_eq!(docker.stderr, hoy.stderr, "{line}");
    assert!(hoy.stderr.contains(says) && hoy.code == docker.code, "{line}: {hoy:?}");
    assert_ne!(hoy.code, Some(0), "{line}");
}

fn json(daemon: &Daemon, path: &str) -> Value {
    let output = daemon.curl(&[&format!("http://d/v1.50{path}")]);
    serde_json::from_str(output.ok()).unwrap_or_else(|error| panic!("{path}: {error}: {output:?}"))
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

#[test]
fn statistics() {
    let daemon = daemon();
    idle(&daemon, "quiet", &["--memory", "64m", "--pids-limit", "50"]);
    idle(&daemon, "guest", &["--network", "container:quiet"]);
    idle(&daemon, "bare", &["--network", "host"]);
    let busy = "dd if=/dev/zero of=/f bs=1M count=8 2>&1; while :; do :; done";
    daemon.hoy(&["run", "-d", "--name", "busy", "busybox", "sh", "-c", busy]).run().ok();
    daemon.hoy(&["create", "--name", "rest", "busybox"]).run().ok();

    // The first answer has two looks in it, and what the kernel says.
    let quiet = json(&daemon, "/containers/quiet/stats?stream=0");
    assert_eq!(quiet["name"], "/quiet");
    assert_eq!(quiet["id"], field(&daemon, "quiet", "{{.Id}}"));
    assert_eq!(number(&quiet["memory_stats"]["limit"]), 64 << 20);
    assert_eq!(number(&quiet["pids_stats"]["current"]), 1);
    assert_eq!(number(&quiet["pids_stats"]["limit"]), 50);
    assert!(number(&quiet["memory_stats"]["usage"]) > 0);
    let (now, before) = (&quiet["cpu_stats"], &quiet["precpu_stats"]);
    assert!(number(&now["system_cpu_usage"]) > number(&before["system_cpu_usage"]));
    assert!(quiet["read"].as_str() > quiet["preread"].as_str());
    assert!(quiet["blkio_stats"]["io_service_bytes_recursive"].is_array() || unified());
    let busy = json(&daemon, "/containers/busy/stats?stream=0");
    let total = |stats: &Value| number(&stats["cpu_usage"]["total_usage"]);
    assert!(total(&busy["cpu_stats"]) > total(&busy["precpu_stats"]), "{busy:#}");
    let host = "cat /proc/cpuinfo | grep -c ^processor";
    let cpus = Run::new("sh").args(["-c", host]).run().ok().trim().parse::<u64>().expect("CPUs");
    assert_eq!(number(&busy["cpu_stats"]["online_cpus"]), cpus);

    // The network that it is in, as the container itself counts; nobody's own has none.
    daemon.hoy(&["exec", "quiet", "ping", "-c1", "-W1", "172.17.0.1"]).run();
    let inside = daemon.hoy(&["exec", "quiet", "cat", "/sys/class/net/eth0/statistics/tx_packets"]);
    let inside: u64 = inside.run().ok().trim().parse().expect("a number");
    let sent = |name: &str| {
        let stats = json(&daemon, &format!("/containers/{name}/stats?stream=0&one-shot=1"));
        assert_eq!(number(&stats["precpu_stats"]["system_cpu_usage"]), 0);
        stats["networks"]["eth0"]["tx_packets"].as_u64()
    };
    assert!(inside > 0 && sent("quiet") >= Some(inside) && sent("guest") >= Some(inside));
    assert_eq!(sent("bare"), None);

    // One that does not run has nothing; a stream goes on until its container is removed.
    let rest = json(&daemon, "/containers/rest/stats?stream=0");
    assert_eq!((&rest["name"], &rest["read"]), (&"/rest".into(), &"0001-01-01T00:00:00Z".into()));
    assert!(rest["memory_stats"].as_object().is_some_and(serde_json::Map::is_empty));
    let file = daemon.path("frames");
    let to = file.display().to_string();
    let args = ["--no-buffer", "-o", &to, "http://d/v1.50/containers/busy/stats"];
    let stream = std::thread::scope(|scope| {
        let stream = scope.spawn(|| daemon.curl(&args));
        let seen = || std::fs::read_to_string(&file).unwrap_or_default();
        wait_until("two have come", || seen().lines().count() >= 2);
        daemon.hoy(&["rm", "-f", "busy"]).run().ok();
        stream.join().expect("curl").ok();
        seen()
    });
    let frames: Vec<Value> =
        stream.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(frames.len() >= 2 && total(&frames[1]["cpu_stats"]) > total(&frames[0]["cpu_stats"]));
    assert_eq!(frames[1]["precpu_stats"], frames[0]["cpu_stats"]);
    let wrong = daemon.curl(&["http://d/v1.50/containers/quiet/stats?stream=1&one-shot=1"]);
    assert!(wrong.ok().contains("cannot have stream=true and one-shot=true"));

    // Both command lines: what stands still is the same.
    let format = "{{.Container}} {{.Name}} {{.PIDs}} {{.MemPerc}}";
    for args in [
        vec!["stats", "--no-stream", "--format", format, "rest"],
        vec!["stats", "--no-stream", "-a", "--no-trunc", "--format", "{{.ID}} {{.Name}} {{.PIDs}}"],
    ] {
        let [docker, hoy] = both(&daemon, &args).map(Run::run);
        assert_eq!(docker.ok(), hoy.ok());
    }
    let table = daemon.hoy(&["stats", "--no-stream"]).run();
    let head = "CONTAINER ID   NAME      CPU %     MEM USAGE / LIMIT";
    assert!(table.ok().starts_with(head) && table.ok().lines().count() == 4, "{table:?}");
    assert!(table.ok().contains(" / 64MiB"), "{table:?}");
    let rows = daemon.hoy(&["stats", "--no-stream", "--format", "json", "quiet"]).run();
    let row: BTreeMap<String, String> = serde_json::from_str(rows.ok()).expect("a row");
    let keys: Vec<&str> = row.keys().map(String::as_str).collect();
    let wanted = ["BlockIO", "CPUPerc", "Container", "ID", "MemPerc", "MemUsage", "Name", "NetIO"];
    assert_eq!(keys[..8], wanted);
    refused(&daemon, "stats --no-stream nosuch other quiet", "No such container: other");
}

#[test]
fn processes() {
    let daemon = daemon();
    let script = "sleep 1001 & exec sleep 1000";
    daemon.hoy(&["run", "-d", "--name", "two", "busybox", "sh", "-c", script]).run().ok();
    daemon.hoy(&["create", "--name", "rest", "busybox"]).run().ok();
    let first = pid(&daemon, "two").to_string();
    wait_until("both run", || daemon.hoy(&["top", "two"]).run().ok().lines().count() == 3);
    let usual = same_processes(&daemon, "top two");
    assert!(usual.starts_with("UID ") && usual.contains("sleep 1001"), "{usual}");
    for options in ["-o pid,comm", "aux", "-eo user,pid,args", "-ef f", "m", "-eLf"] {
        let table = same_processes(&daemon, &format!("top two {options}"));
        let has = table.lines().any(|line| line.split_whitespace().any(|word| word == first));
        assert!(has, "{options}: {table}");
        assert!(!table.contains("hoyd"), "{options}: {table}");
    }
    refused(&daemon, "top two -o cmd", "Couldn't find PID field in ps output");
    refused(&daemon, "top two --nosuch", "ps: error: unknown gnu long option");
    refused(&daemon, "top two -eo pid,comm=PID", "specifying \"pid,comm=PID\" is not allowed");
    refused(&daemon, "top rest", "is not running");
    refused(&daemon, "top nosuch", "No such container: nosuch");

    // What a container has is not what the host has: no program of an image is asked.
    import(
        &daemon,
        "trojan",
        "rm -f bin/ps; printf '#!/bin/sh\\necho evil' >bin/ps; chmod +x bin/ps",
        &[],
    );
    daemon.hoy(&["run", "-d", "--name", "bad", "trojan", "sleep", "1000"]).run().ok();
    assert!(same_processes(&daemon, "top bad").contains("sleep 1000"));
}

/// Actions on a container and on what belongs to it, in order.
fn told(daemon: &Daemon, args: &[&str]) -> Vec<String> {
    let args = [&["events", "--until", "0s", "--format", "{{.Type}} {{.Action}}"], args].concat();
    let [docker, hoy] = both(daemon, &args).map(Run::run);
    assert_eq!(docker.ok(), hoy.ok());
    hoy.ok().lines().map(str::to_owned).collect()
}

fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("after 1970").as_secs()
}

#[test]
fn events() {
    let mut daemon = daemon();
    let begun = (now() - 60).to_string();
    daemon.hoy(&["network", "create", "net"]).run().ok();
    let flags = ["--network", "net", "-v", "data:/d", "--label", "tier=front"];
    idle(&daemon, "one", &flags);
    daemon.hoy(&["rename", "one", "uno"]).run().ok();
    daemon.hoy(&["top", "uno"]).run().ok();
    daemon.hoy(&["exec", "uno", "true"]).run().ok();
    daemon.hoy(&["pause", "uno"]).run().ok();
    daemon.hoy(&["unpause", "uno"]).run().ok();
    daemon.hoy(&["update", "--memory", "1g", "--memory-swap", "1g", "uno"]).run().ok();
    daemon.hoy(&["tag", "busybox", "other:1"]).run().ok();
    daemon.hoy(&["rmi", "other:1"]).run().ok();
    idle(&daemon, "survivor", &[]);
    idle(&daemon, "last", &[]);
    let survivor = pid(&daemon, "survivor").to_string();
    let id = field(&daemon, "uno", "{{.Id}}");

    // One dies while the daemon runs, one just before the daemon is killed, and one while there is
    // none.
    daemon.hoy(&["kill", "uno"]).run().ok();
    let written = || std::fs::read_to_string(daemon.path("data/events/events.log"));
    wait_until("a death and what follows are written", || {
        let all = ["\"die\"", "\"disconnect\"", "\"unmount\""];
        written().is_ok_and(|text| all.iter().all(|action| text.contains(action)))
    });
    daemon.hoy(&["kill", "last"]).run().ok();
    wait_until("it has ended", || field(&daemon, "last", "{{.State.Status}}") == "exited");
    daemon.kill();
    Run::new("kill").args(["-KILL", &survivor]).run().ok();
    wait_until("it is gone", || !std::path::Path::new("/proc").join(&survivor).exists());
    daemon.launch();
    let written = || std::fs::read_to_string(daemon.path("data/events/events.log"));
    // What followed the death just before the kill may be lost with the daemon; a death is not.
    let survivor = field(&daemon, "survivor", "{{.Id}}");
    let left = |line: &str| line.contains("\"disconnect\"") && line.contains(&survivor);
    wait_until("what follows the last death is written", || {
        written().is_ok_and(|text| text.matches("\"die\"").count() == 3 && text.lines().any(left))
    });
    // Docker's client tells lengths of time in whole seconds.
    std::thread::sleep(std::time::Duration::from_secs(1));
    let since = ["--since", begun.as_str()];
    let all = told(&daemon, &since);
    let of = |filters: &[&str]| told(&daemon, &[&since, filters].concat());
    let container = of(&["--filter", &format!("container={}", &id[..12])]);
    let container: Vec<&str> =
        container.iter().filter_map(|line| line.strip_prefix("container ")).collect();
    assert_eq!(container[..4], ["create", "start", "rename", "top"], "{container:?}");
    let exec: Vec<&&str> = container.iter().filter(|line| line.starts_with("exec_")).collect();
    assert_eq!(exec, [&"exec_create: true ", &"exec_start: true ", &"exec_die"], "{container:?}");
    assert!(container.ends_with(&["pause", "unpause", "update", "kill", "die"]), "{container:?}");
    for name in ["uno", "last", "survivor"] {
        let filter = format!("container={name}");
        let deaths = of(&["--filter", &filter, "--filter", "event=die"]);
        assert_eq!(deaths, ["container die"], "{name}: {all:?}");
    }
    // Each has what belongs to it before it runs, and after it has ended.
    let network = of(&["--filter", "network=net"]);
    assert_eq!(network, ["network create", "network connect", "network disconnect"]);
    let volume = of(&["--filter", "volume=data", "--filter", "type=volume"]);
    assert_eq!(volume, ["volume create", "volume mount", "volume unmount"]);
    let place = |line: &str| all.iter().position(|one| one == line).expect("told");
    assert!(place("network connect") < place("container start"));
    assert!(place("volume mount") < place("container start"));
    assert!(place("container die") < place("network disconnect"));
    assert!(place("container die") < place("volume unmount"));
    let image = of(&["--filter", "type=image"]);
    assert!(image.ends_with(&["image tag".into(), "image untag".into()]), "{image:?}");
    assert!(of(&["--filter", "label=tier=front", "--filter", "event=exec_start"]).len() == 1);
    assert!(of(&["--filter", "label=tier=back"]).is_empty());
    // As with Docker, nobody takes notice of it.
    assert_eq!(of(&["--filter", "x=y", "--filter", "network=net"]), network);
    let turned = daemon.curl(&["http://d/v1.50/events?since=20&until=10"]);
    assert!(turned.ok().contains("`since` time (20) cannot be after `until` time (10)"));

    // What belongs to a death; the line as people see it.
    let args = ["events", "--since", &begun, "--until", "0s", "--filter", "event=die"];
    let [docker, hoy] = both(&daemon, &args).map(Run::run);
    assert_eq!(docker.ok(), hoy.ok());
    let line = hoy.ok().lines().next().unwrap_or_default();
    for part in [" container die ", "execDuration=", "exitCode=137", "image=busybox", "name=uno"] {
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn lists_and_names() {
    let daemon = daemon();
    idle(
        &daemon,
        "web",
        &["-p", "8080:80", "--expose", "9000/udp", "-v", "vol:/v", "--label", "x=y"],
    );
    idle(&daemon, "bare", &["--network", "host"]);
    import(&daemon, "child", "true", &[]);
    daemon.hoy(&["create", "--name", "rest", "child", "sh", "-c", "echo a b"]).run().ok();
    let ps = |filters: &str| same(&daemon, &format!("ps -a --format {{{{.Names}}}} {filters}"));
    for (filter, wanted) in [
        ("status=running", "bare web"),
        ("status=created", "rest"),
        ("exited=0", ""),
        ("health=none", "rest bare web"),
        ("health=healthy", ""),
        ("expose=80", "web"),
        ("expose=9000/udp", "web"),
        ("publish=8080/tcp", "web"),
        ("publish=8000-9000", "web"),
        ("publish=9000/udp", ""),
        ("volume=vol", "web"),
        ("volume=/v", "web"),
        ("volume=/x", ""),
        ("is-task=false", "rest bare web"),
        ("is-task=true", ""),
        ("isolation=default", "rest bare web"),
        ("ancestor=busybox", "bare web"),
        ("ancestor=child", "rest"),
        ("ancestor=nosuch", ""),
        ("network=host", "bare"),
        ("network=bridge", "rest web"),
        ("before=bare", "web"),
        ("since=web", "rest bare"),
        ("label=x=y", "web"),
        ("label=x=z", ""),
        ("name=^/we", "web"),
        ("id=zz", ""),
    ] {
        let found = ps(&format!("-f {filter}"));
        assert_eq!(found.split_whitespace().collect::<Vec<_>>().join(" "), wanted, "{filter}");
    }
    // A state is asked of all; an exit code of those that are shown.
    assert_eq!(same(&daemon, "ps -q -f status=created").lines().count(), 1);
    assert_eq!(same(&daemon, "ps -q -f exited=0"), "");
    assert_eq!(same(&daemon, "ps -l --format {{.Names}}"), "rest\n");
    assert_eq!(same(&daemon, "ps -n 2 --format {{.Names}}"), "rest\nbare\n");
    same(&daemon, "ps -as --no-trunc");
    let shown = same(&daemon, "ps -a -f name=rest --no-trunc --format {{.Command}}");
    assert_eq!(shown, "\"sh -c 'echo a b'\"\n");
    for (filter, says) in [
        ("foo=1", "invalid filter 'foo'"),
        ("until=1h", "invalid filter 'until'"),
        ("status=foo", "invalid filter 'status=foo'"),
        ("health=foo", "invalid filter 'health=foo'"),
        ("is-task=x", "invalid filter 'is-task=[x]'"),
        ("publish=1:2", "filter for 'publish' should not contain ':': 1:2"),
        ("publish=x", "error while looking up for publish x: strconv.ParseUint: parsing \"x\""),
        ("before=nosuch", "No such container: nosuch"),
    ] {
        refused(&daemon, &format!("ps -f {filter}"), says);
    }

    assert_eq!(same(&daemon, "port web"), "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n");
    assert_eq!(same(&daemon, "port web 80"), "0.0.0.0:8080\n[::]:8080\n");
    assert_eq!(same(&daemon, "port rest"), "");
    refused(&daemon, "port web 80/udp", "No public port '80/udp' published for web");
    refused(&daemon, "port web x", "invalid port (x): strconv.ParseUint");

    refused(&daemon, "rename web bare", "Error when allocating new name: Conflict.");
    refused(
        &daemon,
        "rename web web",
        "Renaming a container with the same name as its current name",
    );
    refused(&daemon, "rename web a", "Invalid container name");
    refused(&daemon, "rename nosuch other", "No such container: nosuch");
    daemon.hoy(&["rename", "web", "site"]).run().ok();
    assert_eq!(ps("-f name=site"), "site\n");
    daemon.docker(&["rename", "site", "/web"]).run().ok();
    assert_eq!(field(&daemon, "web", "{{.Name}}"), "/web");
    assert!(cgroup(&daemon, "web", "memory").exists());
}
