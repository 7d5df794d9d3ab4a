//! Answers: containers, images, networks, events, statistics, and the daemon about itself.

use hoy_wire as wire;
use serde_json::{Map, Value, json};

use super::{Version, at, is_empty, object, with, without, without_empty};

/// The default network's settings once more, from before there were others; gone since 1.52.
const SETTINGS_OF_OLD: &[&str] = &[
    "Bridge",
    "HairpinMode",
    "LinkLocalIPv6Address",
    "LinkLocalIPv6PrefixLen",
    "SecondaryIPAddresses",
    "SecondaryIPv6Addresses",
    "EndpointID",
    "Gateway",
    "GlobalIPv6Address",
    "GlobalIPv6PrefixLen",
    "IPAddress",
    "IPPrefixLen",
    "IPv6Gateway",
    "MacAddress",
];

/// `GET /containers/{id}/json`.
pub(crate) fn container(found: &mut Value, version: Version) {
    if version < (1, 45) {
        aliases_of_old(found);
    }
    if version < (1, 48) {
        without(object(found), &["ImageManifestDescriptor"]);
    }
    if version < (1, 52) {
        without(object(found), &["Storage"]);
    } else {
        without(at(found, &["NetworkSettings"]), SETTINGS_OF_OLD);
        without(at(found, &["Config"]), &["MacAddress"]);
        without_empty(at(found, &["Config"]), &["OnBuild"]);
        without(at(found, &["HostConfig"]), &["KernelMemoryTCP"]);
    }
}

/// A container's short id and its host name were aliases in every network that people made.
fn aliases_of_old(found: &mut Value) {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or("").to_owned();
    let id = text(found.get("Id"));
    let own =
        [id.get(..12).unwrap_or_default().to_owned(), text(found.pointer("/Config/Hostname"))];
    let Some(networks) = at(found, &["NetworkSettings", "Networks"]) else { return };
    for (name, endpoint) in networks {
        if matches!(name.as_str(), "default" | "bridge" | "host" | "none") {
            continue;
        }
        let Some(endpoint) = endpoint.as_object_mut() else { continue };
        let aliases = endpoint.entry("Aliases").or_insert(Value::Null);
        if !aliases.is_array() {
            *aliases = json!([]);
        }
        let Some(aliases) = aliases.as_array_mut() else { continue };
        for alias in own.iter().filter(|alias| !alias.is_empty()) {
            if !aliases.iter().any(|known| known == alias) {
                aliases.push(alias.as_str().into());
            }
        }
    }
}

/// `GET /containers/json`.
pub(crate) fn containers(found: &mut Value, version: Version) {
    for one in found.as_array_mut().into_iter().flatten() {
        container_entry(one, version);
    }
}

pub(super) fn container_entry(one: &mut Value, version: Version) {
    if version < (1, 46) {
        without(at(one, &["HostConfig"]), &["Annotations"]);
    }
    if version < (1, 48) {
        without(object(one), &["ImageManifestDescriptor"]);
    }
    if version < (1, 52) {
        without(object(one), &["Health"]);
    }
}

/// Fields of a container's configuration, which an image has not.
fn not_of_an_image() -> [(&'static str, Value); 9] {
    [
        ("AttachStderr", false.into()),
        ("AttachStdin", false.into()),
        ("AttachStdout", false.into()),
        ("Domainname", "".into()),
        ("Hostname", "".into()),
        ("Image", "".into()),
        ("OpenStdin", false.into()),
        ("StdinOnce", false.into()),
        ("Tty", false.into()),
    ]
}

/// Fields of an image's configuration that were written empty, too.
fn once_written_empty() -> [(&'static str, Value); 8] {
    [
        ("Cmd", Value::Null),
        ("Entrypoint", Value::Null),
        ("Env", Value::Null),
        ("Labels", Value::Null),
        ("OnBuild", Value::Null),
        ("User", "".into()),
        ("Volumes", Value::Null),
        ("WorkingDir", "".into()),
    ]
}

/// `GET /images/{name}/json`.
pub(crate) fn image(found: &mut Value, version: Version) {
    size_of_old(found, version);
    if version < (1, 44) {
        with(object(found), &[("Created", "0001-01-01T00:00:00Z".into())]);
    }
    if version < (1, 48) {
        without(object(found), &["Descriptor", "Manifests"]);
    }
    let config = at(found, &["Config"]);
    if version < (1, 52) {
        if let Some(config) = config {
            with(Some(&mut *config), &once_written_empty());
            if version < (1, 50) {
                with(Some(&mut *config), &not_of_an_image());
            }
            config.sort_keys();
        }
    } else {
        without_empty(object(found), &["Parent", "Comment", "DockerVersion", "Author"]);
    }
    if version < (1, 53) {
        without(object(found), &["Identity"]);
    }
}

/// `GET /images/json`.
pub(crate) fn images(found: &mut Value, version: Version) {
    for one in found.as_array_mut().into_iter().flatten() {
        image_entry(one, version);
        if version < (1, 51) {
            with_value(object(one), "Containers", (-1).into());
        }
    }
}

pub(super) fn image_entry(one: &mut Value, version: Version) {
    size_of_old(one, version);
    if version < (1, 43) {
        for (field, nothing) in [("RepoTags", "<none>:<none>"), ("RepoDigests", "<none>@<none>")] {
            let both = one.get("RepoTags").is_none_or(is_empty);
            if field == "RepoTags" && !both {
                break;
            }
            if one.get(field).is_none_or(is_empty) {
                with_value(object(one), field, json!([nothing]));
            }
        }
    }
    if version < (1, 47) {
        without(object(one), &["Manifests"]);
    }
    if version < (1, 48) {
        without(object(one), &["Descriptor"]);
    }
}

/// Until 1.43 there was a second size, which was the same.
fn size_of_old(one: &mut Value, version: Version) {
    if version < (1, 44) {
        let size = one.get("Size").cloned().unwrap_or_default();
        with_value(object(one), "VirtualSize", size);
    }
}

fn with_value(map: Option<&mut Map<String, Value>>, name: &str, value: Value) {
    if let Some(map) = map {
        map.insert(name.to_owned(), value);
    }
}

/// `GET /networks/{name}`.
pub(crate) fn network(found: &mut Value, version: Version) {
    if version < (1, 52) {
        without(object(found), &["Status"]);
    }
}

/// `GET /networks`: until 1.27 with what is in them, until 1.51 with a place for it.
pub(crate) fn networks(found: &mut Value, version: Version) {
    for one in found.as_array_mut().into_iter().flatten() {
        without(object(one), &["Status"]);
        if version >= (1, 52) {
            without(object(one), &["Containers"]);
        } else if version >= (1, 28) {
            with_value(object(one), "Containers", json!({}));
        }
    }
}

/// `GET /info`.
pub(crate) fn info(found: &mut Value, version: Version) {
    if version < (1, 25) {
        names_of_security(found);
        with_value(object(found), "ExecutionDriver", "<not supported>".into());
    }
    if version < (1, 39) {
        for field in ["KernelVersion", "OperatingSystem"] {
            if found.get(field).is_some_and(is_empty) {
                with_value(object(found), field, "<unknown>".into());
            }
        }
    }
    if version < (1, 44) {
        let runtimes = at(found, &["Runtimes"]).into_iter().flatten();
        runtimes.for_each(|(_, runtime)| without(object(runtime), &["status"]));
    }
    if version < (1, 46) {
        without(object(found), &["Containerd"]);
    }
    if version < (1, 49) {
        without(object(found), &["FirewallBackend"]);
        for field in ["ContainerdCommit", "RuncCommit", "InitCommit"] {
            let Some(commit) = at(found, &[field]) else { continue };
            let id = commit.get("ID").cloned().unwrap_or_default();
            if !is_empty(&id) {
                commit.insert("Expected".to_owned(), id);
            }
        }
        let nothing = |name| (name, Value::Null);
        with(
            at(found, &["RegistryConfig"]),
            &[
                nothing("AllowNondistributableArtifactsCIDRs"),
                nothing("AllowNondistributableArtifactsHostnames"),
            ],
        );
    }
    if version < (1, 50) {
        without(object(found), &["DiscoveredDevices"]);
        // Said whether bridged packets pass by the firewall's rules.
        let fields = [("BridgeNfIptables", false.into()), ("BridgeNfIp6tables", false.into())];
        with(object(found), &fields);
    }
    if version < (1, 53) {
        without(object(found), &["NRI"]);
    }
}

/// `name=seccomp,profile=builtin` was `seccomp`.
fn names_of_security(found: &mut Value) {
    let Some(options) = found.get_mut("SecurityOptions").and_then(Value::as_array_mut) else {
        return;
    };
    for option in options {
        let text = option.as_str().unwrap_or_default();
        let name = text.split(',').find_map(|part| part.strip_prefix("name="));
        *option = name.unwrap_or(text).into();
    }
}

/// One line of `GET /events`.
pub(crate) fn event(message: &mut wire::EventMessage, version: Version) {
    if version >= (1, 52) {
        message.status.clear();
        message.id.clear();
        message.from.clear();
    }
}

/// The type of a stream of events for a client that accepts these, and what stands before each.
pub(crate) fn stream_of_events(accept: &str, version: Version) -> (&'static str, &'static [u8]) {
    let wanted = accept.split(',').filter_map(|one| one.split(';').next()).map(str::trim);
    for kind in wanted {
        match kind {
            "application/json" => break,
            "application/jsonl" if version >= (1, 53) => return ("application/jsonl", b""),
            "application/x-ndjson" if version >= (1, 52) => return ("application/x-ndjson", b""),
            // RFC 7464: a record separator before each.
            "application/json-seq" if version >= (1, 52) => {
                return ("application/json-seq", b"\x1e");
            }
            _ => {}
        }
    }
    ("application/json", b"")
}

/// `GET /containers/{id}/stats`.
pub(crate) fn stats(found: &mut Value, version: Version) {
    if version < (1, 52) {
        without(object(found), &["os_type"]);
    } else {
        with(object(found), &[("os_type", "linux".into())]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(value: &Value) -> Vec<&str> {
        value.as_object().unwrap().keys().map(String::as_str).collect()
    }

    #[test]
    fn settings_of_old_go() {
        let settings = wire::NetworkSettings::default();
        let found = wire::ContainerInspect {
            network_settings: Some(settings),
            config: Some(wire::ContainerConfig::default()),
            ..Default::default()
        };
        let shaped = |version| {
            let mut value = serde_json::to_value(&found).unwrap();
            container(&mut value, version);
            value
        };
        let old = shaped((1, 51));
        assert_eq!(keys(&old["NetworkSettings"]).len(), 18);
        assert_eq!(keys(&old["NetworkSettings"])[..2], ["Bridge", "SandboxID"]);
        assert!(old["Config"].as_object().unwrap().contains_key("OnBuild"));
        let new = shaped((1, 52));
        let left = ["SandboxID", "SandboxKey", "Ports", "Networks"];
        assert_eq!(keys(&new["NetworkSettings"]), left);
        assert!(!new["Config"].as_object().unwrap().contains_key("OnBuild"));
        assert_eq!(new, shaped((1, 56)));
    }

    #[test]
    fn names_of_old_are_aliases() {
        let text = r#"{"Id":"0123456789abcdef","Config":{"Hostname":"boat"},"NetworkSettings":{
            "Networks":{"bridge":{},"n":{"Aliases":["boat","a"]},"m":{"Aliases":null}}}}"#;
        let aliases = |version| -> Vec<Value> {
            let mut found: Value = serde_json::from_str(text).unwrap();
            container(&mut found, version);
            let networks = &found["NetworkSettings"]["Networks"];
            ["bridge", "n", "m"].map(|name| networks[name]["Aliases"].clone()).to_vec()
        };
        let own = json!(["0123456789ab", "boat"]);
        assert_eq!(aliases((1, 44)), [Value::Null, json!(["boat", "a", "0123456789ab"]), own]);
        assert_eq!(aliases((1, 45)), [Value::Null, json!(["boat", "a"]), Value::Null]);
    }

    #[test]
    fn an_image_through_the_versions() {
        let found = wire::ImageInspect {
            size: 7,
            config: Some(wire::ImageConfig::default()),
            comment: "made".into(),
            ..Default::default()
        };
        let shaped = |minor| {
            let mut value = serde_json::to_value(&found).unwrap();
            image(&mut value, (1, minor));
            value
        };
        assert_eq!(shaped(43)["VirtualSize"], 7);
        assert!(shaped(44).get("VirtualSize").is_none());
        assert_eq!(shaped(43)["Created"], "0001-01-01T00:00:00Z");
        assert_eq!(keys(&shaped(49)["Config"]).len(), 17);
        assert_eq!(keys(&shaped(50)["Config"]).len(), 8);
        assert_eq!(keys(&shaped(51)["Config"])[..2], ["Cmd", "Entrypoint"]);
        assert_eq!(shaped(52)["Config"], json!({}));
        assert!(shaped(51).get("Author").is_some() && shaped(52).get("Author").is_none());
        assert_eq!(shaped(52)["Comment"], "made");
    }

    #[test]
    fn lists_through_the_versions() {
        let image = |minor| {
            let summary = wire::ImageSummary {
                containers: 3,
                size: 9,
                repo_tags: Some(Vec::new()),
                repo_digests: Some(Vec::new()),
                ..Default::default()
            };
            let mut list = serde_json::to_value([summary]).unwrap();
            images(&mut list, (1, minor));
            list[0].take()
        };
        assert_eq!(image(42)["RepoTags"], json!(["<none>:<none>"]));
        assert_eq!(image(42)["RepoDigests"], json!(["<none>@<none>"]));
        assert_eq!(image(43)["RepoTags"], json!([]));
        assert_eq!(image(43)["VirtualSize"], 9);
        assert_eq!(
            (image(50)["Containers"].as_i64(), image(51)["Containers"].as_i64()),
            (Some(-1), Some(3))
        );

        let entry = |minor| {
            let mut list = json!([{"Id":"a","HostConfig":{"NetworkMode":"n","Annotations":{"a":"b"}},
                "Health":{"Status":"healthy","FailingStreak":0}}]);
            containers(&mut list, (1, minor));
            list[0].take()
        };
        assert_eq!(entry(45), json!({"Id":"a","HostConfig":{"NetworkMode":"n"}}));
        assert!(entry(46)["HostConfig"].get("Annotations").is_some());
        assert!(entry(51).get("Health").is_none() && entry(52).get("Health").is_some());
    }

    #[test]
    fn networks_through_the_versions() {
        let list = |minor| {
            let mut list = json!([{"Name":"n","Containers":{"c":{}},"Status":{}}]);
            networks(&mut list, (1, minor));
            list[0].take()
        };
        assert_eq!(list(27)["Containers"], json!({"c":{}}));
        assert_eq!(list(28)["Containers"], json!({}));
        assert_eq!(list(52), json!({"Name":"n"}));
        let mut one = json!({"Name":"n","Status":{"IPAM":{}}});
        network(&mut one, (1, 52));
        assert!(one.get("Status").is_some());
        network(&mut one, (1, 51));
        assert!(one.get("Status").is_none());
    }

    #[test]
    fn the_daemon_through_the_versions() {
        let shaped = |minor| {
            let mut value = json!({
                "SecurityOptions": ["name=seccomp,profile=builtin", "name=apparmor"],
                "KernelVersion": "", "Containerd": {}, "FirewallBackend": {}, "NRI": {},
                "Runtimes": {"hoy": {"path": "x", "status": {}}}, "DiscoveredDevices": [],
                "RuncCommit": {"ID": "a"}, "RegistryConfig": {},
            });
            info(&mut value, (1, minor));
            value
        };
        assert_eq!(shaped(24)["SecurityOptions"], json!(["seccomp", "apparmor"]));
        assert_eq!(
            (&shaped(38)["KernelVersion"], &shaped(39)["KernelVersion"]),
            (&json!("<unknown>"), &json!(""))
        );
        assert_eq!(shaped(43)["Runtimes"]["hoy"], json!({"path": "x"}));
        assert!(shaped(45).get("Containerd").is_none() && shaped(46).get("Containerd").is_some());
        assert_eq!(shaped(48)["RuncCommit"], json!({"ID": "a", "Expected": "a"}));
        assert_eq!(shaped(49)["BridgeNfIptables"], false);
        assert!(shaped(50).get("BridgeNfIptables").is_none());
        assert!(shaped(52).get("NRI").is_none() && shaped(53).get("NRI").is_some());
    }

    #[test]
    fn events_through_the_versions() {
        let all = wire::EventMessage {
            status: "die".into(),
            id: "a".into(),
            from: "i".into(),
            action: "die".into(),
            ..Default::default()
        };
        let (mut old, mut new) = (all.clone(), all.clone());
        event(&mut old, (1, 51));
        event(&mut new, (1, 52));
        assert_eq!(old, all);
        assert_eq!((new.status.as_str(), new.from.as_str(), new.action.as_str()), ("", "", "die"));
        for (accept, minor, kind) in [
            ("", 56, "application/json"),
            ("application/json-seq", 51, "application/json"),
            ("application/json-seq", 52, "application/json-seq"),
            ("text/x, application/jsonl;q=1", 53, "application/jsonl"),
            ("application/jsonl, application/x-ndjson", 52, "application/x-ndjson"),
            ("application/json, application/jsonl", 56, "application/json"),
        ] {
            assert_eq!(stream_of_events(accept, (1, minor)).0, kind, "{accept} {minor}");
        }
        let mut said = json!({"name": "/a"});
        stats(&mut said, (1, 52));
        assert_eq!(said["os_type"], "linux");
        stats(&mut said, (1, 51));
        assert!(said.get("os_type").is_none());
    }
}
