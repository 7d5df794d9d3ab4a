//! What Go's types know of documents beside their JSON: a list or a map that is null is an empty one to
//! a template (`[]`, `map[]`), and what is left out is there with its type's nothing. Pure.

use serde_json::Value as Json;

/// What a field is when it is null, or is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nothing {
    List,
    Map,
    Pointer,
    Text,
    False,
}

use Nothing::{False, List, Map, Pointer, Text};

type Fields = &'static [(&'static str, Nothing, &'static [&'static str])];

/// Without those that have another name in Go (`Dns`): only what is written has them.
const CONTAINER: Fields = &[
    ("", List, &["Args", "ExecIDs", "Mounts"]),
    ("", Pointer, &["SizeRw", "SizeRootFs", "ImageManifestDescriptor"]),
    ("State", Pointer, &["Health"]),
    ("GraphDriver", Map, &["Data"]),
    ("Config", List, &["Env", "Cmd", "Entrypoint", "OnBuild", "Shell"]),
    ("Config", Map, &["Volumes", "Labels", "ExposedPorts"]),
    ("Config", Pointer, &["Healthcheck", "StopTimeout"]),
    ("Config", Text, &["StopSignal"]),
    ("Config", False, &["NetworkDisabled", "ArgsEscaped"]),
    (
        "HostConfig",
        List,
        &[
            "Binds",
            "VolumesFrom",
            "CapAdd",
            "CapDrop",
            "ExtraHosts",
            "GroupAdd",
            "Links",
            "SecurityOpt",
            "BlkioWeightDevice",
            "BlkioDeviceReadBps",
            "BlkioDeviceWriteBps",
            "BlkioDeviceReadIOps",
            "BlkioDeviceWriteIOps",
            "Devices",
            "DeviceCgroupRules",
            "DeviceRequests",
            "Ulimits",
            "Mounts",
            "MaskedPaths",
            "ReadonlyPaths",
        ],
    ),
    ("HostConfig", Map, &["PortBindings", "Annotations", "StorageOpt", "Tmpfs", "Sysctls"]),
    ("HostConfig", Pointer, &["MemorySwappiness", "OomKillDisable", "PidsLimit", "Init"]),
    ("HostConfig", Text, &["Runtime"]),
    ("HostConfig.LogConfig", Map, &["Config"]),
    ("NetworkSettings", Map, &["Ports", "Networks"]),
];

const IMAGE: Fields = &[
    ("", List, &["RepoTags", "RepoDigests"]),
    ("GraphDriver", Map, &["Data"]),
    ("RootFS", List, &["Layers"]),
    ("Config", List, &["Env", "Cmd", "Entrypoint", "OnBuild", "Shell"]),
    ("Config", Map, &["Volumes", "Labels", "ExposedPorts"]),
    ("Config", Pointer, &["Healthcheck"]),
    ("Config", Text, &["User", "WorkingDir", "StopSignal"]),
    ("Config", False, &["ArgsEscaped"]),
];

const NETWORK: Fields = &[
    ("", Map, &["Containers", "Options", "Labels"]),
    ("", List, &["Peers"]),
    ("IPAM", Map, &["Options"]),
    ("IPAM", List, &["Config"]),
];

const VOLUME: Fields =
    &[("", Map, &["Labels", "Options", "Status"]), ("", Pointer, &["UsageData"])];

/// The fields of a document that may be nothing, by its own.
fn of(document: &Json) -> Fields {
    let has = |name: &str| document.get(name).is_some();
    if has("State") && has("HostConfig") {
        CONTAINER
    } else if has("RootFS") {
        IMAGE
    } else if has("IPAM") {
        NETWORK
    } else if has("Mountpoint") && has("Driver") {
        VOLUME
    } else {
        &[]
    }
}

/// Where in a document is nothing, and of which kind: the object's path and the field.
pub fn nothings(document: &Json) -> Vec<(&'static str, &'static str, Nothing)> {
    let mut out = Vec::new();
    for (path, nothing, fields) in of(document) {
        let mut parts = path.split('.').filter(|part| !part.is_empty());
        let Some(object) = parts.try_fold(document, |at, part| at.get(part)) else { continue };
        if object.is_object() {
            let empty = |field: &&&str| object.get(**field).is_none_or(Json::is_null);
            out.extend(fields.iter().filter(empty).map(|field| (*path, *field, *nothing)));
        }
    }
    out
}

/// Fields whose names in Go are not those of their JSON.
const GO_NAMES: &[(&str, &str)] = &[
    ("ID", "Id"),
    ("ID", "id"),
    ("Status", "status"),
    ("From", "from"),
    ("Scope", "scope"),
    ("Time", "time"),
    ("TimeNano", "timeNano"),
    ("DNS", "Dns"),
    ("DNSOptions", "DnsOptions"),
    ("DNSSearch", "DnsSearch"),
    ("CPUShares", "CpuShares"),
    ("NanoCPUs", "NanoCpus"),
    ("CPUPeriod", "CpuPeriod"),
    ("CPUQuota", "CpuQuota"),
    ("CPURealtimePeriod", "CpuRealtimePeriod"),
    ("CPURealtimeRuntime", "CpuRealtimeRuntime"),
    ("CPUCount", "CpuCount"),
    ("CPUPercent", "CpuPercent"),
];

/// The document with those names beside its own that a template asks for; nothing if it asks for
/// none of them.
pub fn as_go_names_it(document: &Json, template: &str) -> Option<Json> {
    let asked = |(go, _): &&(&'static str, &'static str)| template.contains(&format!(".{go}"));
    let asked: Vec<_> = GO_NAMES.iter().filter(asked).copied().collect();
    let mut named = document.clone();
    // What an event leaves out is empty to Go.
    if let Some(event) = named.as_object_mut().filter(|event| event.contains_key("timeNano")) {
        for field in ["status", "id", "from"] {
            event.entry(field).or_insert_with(|| "".into());
        }
    }
    (!asked.is_empty() && add_names(&mut named, &asked)).then_some(named)
}

/// Whether there was anything to add.
fn add_names(value: &mut Json, names: &[(&'static str, &'static str)]) -> bool {
    let mut added = false;
    match value {
        Json::Object(fields) => {
            added = fields.values_mut().fold(added, |added, field| add_names(field, names) | added);
            for (go, json) in names {
                if let (false, Some(field)) = (fields.contains_key(*go), fields.get(*json)) {
                    let field = field.clone();
                    fields.insert((*go).to_owned(), field);
                    added = true;
                }
            }
        }
        Json::Array(all) => added = all.iter_mut().fold(added, |a, one| add_names(one, names) | a),
        _ => {}
    }
    added
}

/// What Go calls the rows of a list, and how a mistake in a template of them begins.
pub fn of_rows(row: &Json) -> Option<(&'static str, &'static str)> {
    let has = |name: &str| row.get(name).is_some();
    const FIRST: &str = "failed to execute template";
    const LATER: &str = "template parsing error";
    Some(match () {
        () if has("LocalVolumes") => (FIRST, "*formatter.ContainerContext"),
        () if has("MemPerc") => (LATER, "*container.statsContext"),
        () if has("Repository") && has("Digest") => (LATER, "*formatter.imageContext"),
        () if has("CreatedBy") => (LATER, "*image.historyContext"),
        () if has("DockerEndpoint") => (LATER, "*formatter.clientContextContext"),
        () if has("IPv6") && has("Internal") => (LATER, "*network.networkContext"),
        () if has("Mountpoint") && has("Links") => (LATER, "*formatter.volumeContext"),
        () => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_that_go_has_and_json_has_not() {
        let document = json!({"Id": "12", "HostConfig": {"NanoCpus": 5, "Dns": []}});
        let named = as_go_names_it(&document, "{{.ID}} {{.HostConfig.NanoCPUs}}").unwrap();
        assert_eq!((&named["ID"], &named["HostConfig"]["NanoCPUs"]), (&json!("12"), &json!(5)));
        assert_eq!(named["HostConfig"].get("DNS"), None);
        assert_eq!(as_go_names_it(&document, "{{.Id}} {{.Nosuch}}"), None);
        let event = json!({"Type": "network", "Actor": {"ID": "x"}, "timeNano": 7});
        let named = as_go_names_it(&event, "{{.Status}}{{.ID}}{{.TimeNano}}").unwrap();
        assert_eq!(named["Status"], "");
        assert_eq!((&named["ID"], &named["TimeNano"]), (&json!(""), &json!(7)));
        assert_eq!(named["Actor"], json!({"ID": "x"}));
    }

    #[test]
    fn by_the_document_s_own_fields() {
        let container = json!({
            "State": {"Health": {}},
            "HostConfig": {"Binds": null, "LogConfig": {"Config": {}}},
            "Mounts": []
        });
        let found = nothings(&container);
        assert!(found.contains(&("HostConfig", "Binds", List)));
        assert!(found.contains(&("", "ExecIDs", List)));
        assert!(!found.iter().any(|(_, field, _)| matches!(*field, "Health" | "Config")));
        assert!(!found.contains(&("", "Mounts", List)));
        assert_eq!(nothings(&json!({"a": null})), []);
    }
}
