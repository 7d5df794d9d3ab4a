//! The create request that `run` and `create` send: flags turned into Docker's document.
//!
//! Pure but for the files and variables that flags name. It judges form only; what the engine
//! cannot do, the engine refuses.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::contexts::io_words;
use crate::device_requests;
use crate::mounts;
use crate::networking;
use crate::parse::{Parsed, decimal, duration};
use crate::publish;

type Result<T> = std::result::Result<T, String>;

/// The body of `POST /containers/create`.
pub fn body(flags: &Parsed, image: &str, command: &[String], detached: bool) -> Result<Value> {
    if flags.switch("rm") && flags.given("restart") && flags.text("restart") != "no" {
        return Err("conflicting options: cannot specify both --restart and --rm".to_owned());
    }
    let shared =
        |mode: &str| mode.split_once(':').is_some_and(|(k, v)| k == "container" && !v.is_empty());
    if !matches!(flags.text("pid"), "" | "host") && !shared(flags.text("pid")) {
        return Err("--pid: invalid PID mode".to_owned());
    }
    if !matches!(flags.text("uts"), "" | "host") {
        return Err("--uts: invalid UTS mode".to_owned());
    }
    let (exposed, published) = publish::ports(flags)?;
    let (binds, volumes) = mounts::volumes(flags)?;
    let mut config = container_config(flags, image, command, detached)?;
    if !exposed.is_empty() {
        insert_before(&mut config, "Tty", "ExposedPorts", Value::Object(exposed));
    }
    config["Volumes"] = Value::Object(volumes);
    let mut host = host_config(flags)?;
    host["Binds"] = nullable(&binds);
    host["PortBindings"] = Value::Object(published);
    let (mode, endpoints) = networking::endpoints(flags)?;
    host["NetworkMode"] = mode.into();
    config.insert("HostConfig".to_owned(), Value::Object(host));
    config.insert("NetworkingConfig".to_owned(), json!({ "EndpointsConfig": endpoints }));
    Ok(Value::Object(config))
}

fn insert_before(map: &mut Map<String, Value>, before: &str, key: &str, value: Value) {
    let old = std::mem::take(map);
    for (name, other) in old {
        if name == before {
            map.insert(key.to_owned(), value.clone());
        }
        map.insert(name, other);
    }
}

/// Go's nil slice is `null`.
fn nullable(values: &[String]) -> Value {
    if values.is_empty() { Value::Null } else { json!(values) }
}

fn container_config(
    flags: &Parsed,
    image: &str,
    command: &[String],
    detached: bool,
) -> Result<Map<String, Value>> {
    let streams = attached(flags, detached)?;
    let interactive = flags.switch("interactive");
    let env = environment(flags)?;
    let labels = labels(flags)?;
    let entrypoint = match flags.text("entrypoint") {
        "" if flags.given("entrypoint") => json!([""]),
        "" => Value::Null,
        text => json!([text]),
    };
    let Value::Object(mut config) = json!({
        "Hostname": flags.text("hostname"),
        "Domainname": flags.text("domainname"),
        "User": flags.text("user"),
        "AttachStdin": streams.stdin,
        "AttachStdout": streams.stdout,
        "AttachStderr": streams.stderr,
        "Tty": flags.switch("tty"),
        "OpenStdin": interactive,
        "StdinOnce": interactive && streams.stdin,
        "Env": nullable(&env),
        "Cmd": nullable(command),
        "Image": image,
        "Volumes": {},
        "WorkingDir": flags.text("workdir"),
        "Entrypoint": entrypoint,
        "OnBuild": null,
        "Labels": labels,
    }) else {
        return Err("no document".to_owned());
    };
    if let Some(check) = health(flags)? {
        insert_before(&mut config, "Image", "Healthcheck", check);
    }
    if flags.given("stop-signal") {
        config.insert("StopSignal".to_owned(), flags.text("stop-signal").into());
    }
    if flags.given("stop-timeout") {
        config.insert("StopTimeout".to_owned(), flags.int("stop-timeout").into());
    }
    Ok(config)
}

/// The streams that are attached.
#[derive(Clone, Copy, Debug)]
pub struct Attached {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// Which streams the flags attach.
pub fn attached(flags: &Parsed, detached: bool) -> Result<Attached> {
    let mut streams = Attached { stdin: false, stdout: false, stderr: false };
    for name in flags.list("attach") {
        match name.to_ascii_lowercase().as_str() {
            "stdin" => streams.stdin = true,
            "stdout" => streams.stdout = true,
            "stderr" => streams.stderr = true,
            _ => {
                return Err(format!(
                    "invalid argument \"{name}\" for \"-a, --attach\" flag: valid streams are STDIN, STDOUT and STDERR"
                ));
            }
        }
    }
    if detached {
        return Ok(Attached { stdin: false, stdout: false, stderr: false });
    }
    if flags.list("attach").is_empty() {
        streams.stdout = true;
        streams.stderr = true;
        streams.stdin = flags.switch("interactive");
    }
    Ok(streams)
}

/// `--env-file` and `--env`, in this order.
pub fn environment(flags: &Parsed) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for path in flags.list("env-file") {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("open {path}: {}", io_words(&error)))?;
        for line in text.trim_start_matches('\u{feff}').lines() {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let name = line.split('=').next().unwrap_or_default();
            if name.is_empty() {
                return Err(format!("no variable name on line '{line}'"));
            }
            if name.contains(char::is_whitespace) {
                return Err(format!("variable '{name}' contains whitespaces"));
            }
            if line.contains('=') {
                all.push(line.to_owned());
            } else if let Ok(value) = std::env::var(name) {
                all.push(format!("{name}={value}"));
            }
        }
    }
    for entry in flags.list("env") {
        match entry.split_once('=') {
            Some(_) => all.push(entry.clone()),
            None => match std::env::var(entry) {
                Ok(value) => all.push(format!("{entry}={value}")),
                Err(_) => all.push(entry.clone()),
            },
        }
    }
    Ok(all)
}

fn labels(flags: &Parsed) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    let mut add = |line: &str| {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        all.insert(key.to_owned(), value.to_owned());
    };
    for path in flags.list("label-file") {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("open {path}: {}", io_words(&error)))?;
        text.lines()
            .map(str::trim_start)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .for_each(&mut add);
    }
    flags.list("label").iter().for_each(|line| add(line));
    Ok(all)
}

fn health(flags: &Parsed) -> Result<Option<Value>> {
    let times =
        ["health-interval", "health-timeout", "health-start-period", "health-start-interval"];
    let any = flags.given("health-cmd")
        || flags.given("health-retries")
        || times.iter().any(|time| flags.given(time));
    if flags.switch("no-healthcheck") {
        if any {
            return Err("--no-healthcheck conflicts with --health-* options".to_owned());
        }
        return Ok(Some(json!({ "Test": ["NONE"] })));
    }
    if !any {
        return Ok(None);
    }
    let mut check = Map::new();
    if !flags.text("health-cmd").is_empty() {
        check.insert("Test".to_owned(), json!(["CMD-SHELL", flags.text("health-cmd")]));
    }
    for (flag, key) in
        times.into_iter().zip(["Interval", "Timeout", "StartPeriod", "StartInterval"])
    {
        let nanos = duration(flags.text(flag))?;
        if nanos < 0 {
            return Err(format!("--{flag} cannot be negative"));
        }
        if nanos > 0 {
            check.insert(key.to_owned(), nanos.into());
        }
    }
    if flags.int("health-retries") < 0 {
        return Err("--health-retries cannot be negative".to_owned());
    }
    if flags.int("health-retries") > 0 {
        check.insert("Retries".to_owned(), flags.int("health-retries").into());
    }
    Ok(Some(Value::Object(check)))
}

fn pairs(list: &[String]) -> Map<String, Value> {
    let mut all: Map<String, Value> = list
        .iter()
        .map(|entry| entry.split_once('=').unwrap_or((entry, "")))
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
    all.sort_keys();
    all
}

fn host_config(flags: &Parsed) -> Result<Map<String, Value>> {
    let restart = restart(flags.text("restart"))?;
    let options = pairs(flags.list("log-opt"));
    if flags.text("log-driver") == "none" && !options.is_empty() {
        return Err("invalid logging opts for driver none".to_owned());
    }
    let swappiness = flags.int("memory-swappiness");
    if !(-1..=100).contains(&swappiness) {
        return Err(format!("invalid value: {swappiness}. Valid memory swappiness range is 0-100"));
    }
    let (security, unmasked) = security(flags)?;
    let other = flags.text("pid").strip_prefix("container:").is_some_and(|name| !name.is_empty());
    if !matches!(flags.text("pid"), "" | "host") && !other {
        return Err("--pid: invalid PID mode".to_owned());
    }
    if !matches!(flags.text("uts"), "" | "host") {
        return Err("--uts: invalid UTS mode".to_owned());
    }
    if !matches!(flags.text("cgroupns"), "" | "private" | "host") {
        return Err("--cgroupns: invalid CGROUP mode".to_owned());
    }
    if !matches!(flags.text("userns"), "" | "host") {
        return Err("--userns: invalid USER mode".to_owned());
    }
    let (named, nodes): (Vec<String>, Vec<String>) =
        flags.list("device").iter().cloned().partition(|name| device_requests::is_name(name));
    let list = |name: &str| nullable(flags.list(name));
    let each = |name: &str, one: fn(&str) -> Result<String>| -> Result<Vec<String>> {
        flags.list(name).iter().map(|value| one(value)).collect()
    };
    let text = |name: &str| flags.text(name);
    let Value::Object(mut host) = json!({
        "Binds": null,
        "ContainerIDFile": text("cidfile"),
        "LogConfig": { "Type": text("log-driver"), "Config": options },
        "NetworkMode": "default",
        "PortBindings": {},
        "RestartPolicy": restart,
        "AutoRemove": flags.switch("rm"),
        "VolumeDriver": text("volume-driver"),
        "VolumesFrom": list("volumes-from"),
        "ConsoleSize": [0, 0],
        "CapAdd": list("cap-add"),
        "CapDrop": list("cap-drop"),
        "CgroupnsMode": text("cgroupns"),
        "Dns": each("dns", networking::resolver)?,
        "DnsOptions": flags.list("dns-option"),
        "DnsSearch": each("dns-search", networking::search_domain)?,
        "ExtraHosts": nullable(&each("add-host", networking::extra_host)?),
        "GroupAdd": list("group-add"),
        "IpcMode": text("ipc"),
        "Cgroup": "",
        "Links": list("link"),
        "OomScoreAdj": flags.int("oom-score-adj"),
        "PidMode": text("pid"),
        "Privileged": flags.switch("privileged"),
        "PublishAllPorts": flags.switch("publish-all"),
        "ReadonlyRootfs": flags.switch("read-only"),
        "SecurityOpt": nullable(&security),
        "UTSMode": text("uts"),
        "UsernsMode": text("userns"),
        "ShmSize": flags.bytes("shm-size"),
        "Isolation": text("isolation"),
        "CpuShares": flags.int("cpu-shares"),
        "Memory": flags.bytes("memory"),
        "NanoCpus": if flags.given("cpus") { decimal(text("cpus"))? } else { 0 },
        "CgroupParent": text("cgroup-parent"),
        "BlkioWeight": flags.int("blkio-weight"),
        "BlkioWeightDevice": device_weights(flags.list("blkio-weight-device"))?,
        "BlkioDeviceReadBps": device_rates(flags.list("device-read-bps"), true)?,
        "BlkioDeviceWriteBps": device_rates(flags.list("device-write-bps"), true)?,
        "BlkioDeviceReadIOps": device_rates(flags.list("device-read-iops"), false)?,
        "BlkioDeviceWriteIOps": device_rates(flags.list("device-write-iops"), false)?,
        "CpuPeriod": flags.int("cpu-period"),
        "CpuQuota": flags.int("cpu-quota"),
        "CpuRealtimePeriod": flags.int("cpu-rt-period"),
        "CpuRealtimeRuntime": flags.int("cpu-rt-runtime"),
        "CpusetCpus": text("cpuset-cpus"),
        "CpusetMems": text("cpuset-mems"),
        "Devices": devices(&nodes)?,
        "DeviceCgroupRules": list("device-cgroup-rule"),
        "DeviceRequests": device_requests::requests(flags, &named)?,
        "MemoryReservation": flags.bytes("memory-reservation"),
        "MemorySwap": flags.bytes("memory-swap"),
        "MemorySwappiness": swappiness,
        "OomKillDisable": flags.switch("oom-kill-disable"),
        "PidsLimit": flags.int("pids-limit"),
        "Ulimits": ulimits(flags.list("ulimit"))?,
        "CpuCount": flags.int("cpu-count"),
        "CpuPercent": flags.int("cpu-percent"),
        "IOMaximumIOps": flags.int("io-maxiops"),
        "IOMaximumBandwidth": flags.bytes("io-maxbandwidth"),
    }) else {
        return Err("no document".to_owned());
    };
    let mut put = |key: &str, value: Value| host.insert(key.to_owned(), value);
    let mounts = mounts::mounts(flags)?;
    if !mounts.is_empty() {
        put("Mounts", mounts.into());
    }
    let blank = if unmasked { json!([]) } else { Value::Null };
    put("MaskedPaths", blank.clone());
    put("ReadonlyPaths", blank);
    if flags.given("init") {
        put("Init", flags.switch("init").into());
    }
    let sets = [
        ("CapAdd", "Annotations", pairs(flags.list("annotation"))),
        ("UTSMode", "StorageOpt", mounts::storage(flags)?),
        ("UTSMode", "Tmpfs", mounts::tmpfs(flags)),
        ("Isolation", "Sysctls", pairs(flags.list("sysctl"))),
    ];
    for (before, key, map) in sets.into_iter().filter(|(_, _, map)| !map.is_empty()) {
        insert_before(&mut host, before, key, map.into());
    }
    if flags.given("runtime") {
        insert_before(&mut host, "Isolation", "Runtime", flags.text("runtime").into());
    }
    Ok(host)
}

pub fn restart(text: &str) -> Result<Value> {
    let (name, count) = text.split_once(':').unwrap_or((text, ""));
    let count = match count {
        "" => 0,
        count => count.parse::<i64>().map_err(|_| {
            "invalid restart policy format: maximum retry count must be an integer".to_owned()
        })?,
    };
    Ok(json!({ "Name": name, "MaximumRetryCount": count }))
}

fn security(flags: &Parsed) -> Result<(Vec<String>, bool)> {
    let mut all = Vec::new();
    let mut unmasked = false;
    for option in flags.list("security-opt") {
        let (key, value) =
            option.split_once('=').or_else(|| option.split_once(':')).unwrap_or((option, ""));
        match (key, value) {
            ("systempaths", "unconfined") => unmasked = true,
            ("seccomp", path) if !matches!(path, "unconfined" | "builtin" | "") => {
                all.push(format!("seccomp={}", seccomp_profile(path)?));
            }
            ("no-new-privileges", _) => all.push(option.clone()),
            (_, "") => return Err(format!("Invalid --security-opt: \"{option}\"")),
            _ => all.push(option.clone()),
        }
    }
    Ok((all, unmasked))
}

/// A profile's content: that is what the daemon gets, which may be on another machine.
fn seccomp_profile(path: &str) -> Result<String> {
    let text = std::fs::read(path).map_err(|error| {
        let reason = error.to_string().to_lowercase();
        let reason = reason.split(" (os error").next().unwrap_or_default();
        format!("opening seccomp profile ({path}) failed: open {path}: {reason}")
    })?;
    let failed = |error: &dyn std::fmt::Display| {
        format!("compacting json for seccomp profile ({path}) failed: {error}")
    };
    let text = String::from_utf8(text).map_err(|error| failed(&error))?;
    serde_json::from_str::<serde::de::IgnoredAny>(&text).map_err(|error| failed(&error))?;
    // Left out is nothing but space, so that the daemon judges what stands in the file.
    let (mut quoted, mut escaped) = (false, false);
    let keeps = |c: &char| {
        let kept = quoted || !c.is_ascii_whitespace();
        match c {
            '"' if !escaped => quoted = !quoted,
            _ => {}
        }
        escaped = quoted && *c == '\\' && !escaped;
        kept
    };
    Ok(text.chars().filter(keeps).collect())
}

fn device_weights(list: &[String]) -> Result<Vec<Value>> {
    list.iter().map(|entry| device_weight(entry)).collect()
}

/// `/dev/sda:500`.
pub fn device_weight(entry: &str) -> Result<Value> {
    let (path, weight) = device_path(entry)?;
    let weight = weight.parse::<u16>().ok().filter(|weight| {
        // 0 takes a weight away.
        *weight == 0 || (10..=1000).contains(weight)
    });
    let weight = weight.ok_or_else(|| format!("invalid weight for device: {entry}"))?;
    Ok(json!({ "Path": path, "Weight": weight }))
}

fn device_path(entry: &str) -> Result<(&str, &str)> {
    let parts = entry.split_once(':').filter(|(path, _)| !path.is_empty());
    let (path, rest) = parts.ok_or_else(|| format!("bad format: {entry}"))?;
    if !path.starts_with("/dev/") {
        return Err(format!("bad format for device path: {entry}"));
    }
    Ok((path, rest))
}

fn device_rates(list: &[String], bytes: bool) -> Result<Vec<Value>> {
    list.iter().map(|entry| device_rate(entry, bytes)).collect()
}

/// `/dev/sda:1mb`, or a number of operations.
pub fn device_rate(entry: &str, bytes: bool) -> Result<Value> {
    let (path, text) = device_path(entry)?;
    let (rate, form) = if bytes {
        let unit = "[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb";
        (hoy_types::parse_bytes(text).ok(), unit)
    } else {
        (text.parse().ok(), ". Number must be a positive integer")
    };
    let rate = rate.filter(|rate: &i64| *rate >= 0).ok_or_else(|| {
        format!(
            "invalid rate for device: {entry}. The correct format is <device-path>:<number>{form}"
        )
    })?;
    Ok(json!({ "Path": path, "Rate": rate }))
}

/// `c 1:3 rwm`, with `a`, `b` or `c` and `*` for any number.
pub fn is_device_rule(text: &str) -> bool {
    let mut words = text.split(' ');
    let (Some(kind), Some(numbers), Some(access), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return false;
    };
    let number =
        |text: &str| text == "*" || (!text.is_empty() && text.bytes().all(|c| c.is_ascii_digit()));
    matches!(kind, "a" | "b" | "c")
        && numbers.split_once(':').is_some_and(|(major, minor)| number(major) && number(minor))
        && (1..=3).contains(&access.len())
        && access.bytes().all(|c| matches!(c, b'r' | b'w' | b'm'))
}

fn devices(list: &[String]) -> Result<Vec<Value>> {
    list.iter()
        .map(|entry| {
            let parts: Vec<&str> = entry.split(':').collect();
            let is_mode = |text: &str| {
                !text.is_empty() && text.bytes().all(|c| matches!(c, b'r' | b'w' | b'm'))
            };
            let (source, target, mode) = match parts[..] {
                [source] => (source, source, "rwm"),
                [source, mode] if is_mode(mode) => (source, source, mode),
                [source, target] => (source, target, "rwm"),
                [source, target, mode] if is_mode(mode) => (source, target, mode),
                [_, _, mode] => return Err(format!("bad mode specified: {mode}")),
                _ => return Err(format!("bad format for path: {entry}")),
            };
            if source.is_empty() {
                return Err(format!("bad format for path: {entry}"));
            }
            if !target.starts_with('/') {
                return Err(format!("{target} is not an absolute path"));
            }
            Ok(json!({ "PathOnHost": source, "PathInContainer": target, "CgroupPermissions": mode }))
        })
        .collect()
}

fn ulimits(list: &[String]) -> Result<Vec<Value>> {
    list.iter()
        .map(|entry| {
            let (name, soft, hard) = hoy_types::parse_ulimit(entry)?;
            Ok(json!({ "Name": name, "Hard": hard, "Soft": soft }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grammar::Command;

    fn made(line: &[&str]) -> Result<Value> {
        let command = Command::find("create").unwrap();
        let words: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
        let parsed = crate::parse::parse(command.flags(), &words, true);
        let parsed = parsed.map_err(|failure| failure.message)?;
        let (image, rest) = parsed.args.split_first().unwrap();
        body(&parsed, image, rest, false)
    }

    /// What docker 28.2 sends, as recorded in the shared reference.
    fn recorded(line: &str) -> Value {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/reference/cli-wire.tsv");
        let text = std::fs::read_to_string(path).unwrap();
        let row = text.lines().find(|row| row.split('\t').next() == Some(line)).unwrap();
        serde_json::from_str(row.split('\t').nth(6).unwrap()).unwrap()
    }

    #[test]
    fn sends_what_docker_sends() {
        for line in [
            "docker create alpine",
            "docker create --name c -it -e A=b -p 8080:80 -v /x:/y:ro -v vol:/z --mount type=tmpfs,dst=/t --network n1 --restart on-failure:3 -m 64m --cpus 1.5 --label l=v --health-cmd true --ulimit nofile=1:2 --device /dev/null --gpus all --init --rm=false alpine sh -c ls",
        ] {
            let words: Vec<&str> = line.split(' ').skip(2).collect();
            let mut wanted = recorded(line);
            let mut got = made(&words).unwrap();
            assert_eq!(got, wanted, "{line}");
            // The order of the fields, too, of the outer document.
            let keys = |value: &mut Value| -> Vec<String> {
                value.as_object().unwrap().keys().cloned().collect()
            };
            assert_eq!(keys(&mut got), keys(&mut wanted), "{line}");
        }
    }

    #[test]
    fn refusals() {
        let says = |line: &[&str]| made(line).unwrap_err();
        assert_eq!(
            says(&["--rm", "--restart", "always", "x"]),
            "conflicting options: cannot specify both --restart and --rm"
        );
        assert_eq!(says(&["-p", "x", "y"]), "invalid containerPort: x");
        assert_eq!(says(&["--network", "", "y"]), "no name set for network");
        assert!(says(&["--mount", "type=bind", "y"]).contains("target is required"));
        assert!(says(&["--security-opt", "nonsense", "y"]).contains("Invalid --security-opt"));
        assert!(says(&["--add-host", "x", "y"]).contains("bad format for add-host"));
    }
}
