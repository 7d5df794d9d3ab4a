//! `--use-api-socket`: the engine's socket inside of a container, and with it what the client's
//! settings know of registries. What Docker's client does with this flag is what this does.

use serde::Serialize as _;
use serde_json::{Map, Value, json};

/// Where a container has the engine's socket.
const SOCKET: &str = "/var/run/docker.sock";
const DIRECTORY: &str = "/run/secrets/docker";
const FILE: &str = "run/secrets/docker/config.json";
/// The fields of an entry that say who somebody is.
const FIELDS: &[&str] = &["auth", "identitytoken", "registrytoken"];

/// Mounts the socket, and says where the settings are; gives these, where there are any and the
/// container has no others.
pub fn prepare(body: &mut Value, host: &str, settings: &Value) -> Result<Option<Value>, String> {
    let Some(socket) = host.strip_prefix("unix://") else {
        return Err(format!(
            "flag --use-api-socket can only be used with unix sockets: docker endpoint {host} \
             incompatible"
        ));
    };
    let mount = json!({"Type": "bind", "Source": socket, "Target": SOCKET, "BindOptions": {}});
    if let Some(host) = body["HostConfig"].as_object_mut() {
        match host.get_mut("Mounts").and_then(Value::as_array_mut) {
            Some(mounts) => mounts.push(mount),
            None => before(host, "MaskedPaths", "Mounts", json!([mount])),
        }
    }
    let mut variables = body["Env"].as_array().cloned().unwrap_or_default();
    let theirs = |one: &Value| one.as_str().is_some_and(|one| one.starts_with("DOCKER_CONFIG="));
    if variables.iter().any(theirs) {
        return Ok(None);
    }
    let Some(auths) = credentials(settings)? else { return Ok(None) };
    variables.push(format!("DOCKER_CONFIG={DIRECTORY}").into());
    body["Env"] = variables.into();
    Ok(Some(json!({ "auths": auths })))
}

fn before(map: &mut Map<String, Value>, before: &str, key: &str, value: Value) {
    let at = map.keys().position(|known| known == before).unwrap_or(map.len());
    map.shift_insert(at, key.to_owned(), value);
}

/// What the settings know themselves. Helpers are programs that Docker's client runs.
fn credentials(settings: &Value) -> Result<Option<Value>, String> {
    let helpers = ["credsStore", "credHelpers"].map(|key| &settings[key]);
    let named = |value: &&Value| match value {
        Value::String(text) => !text.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => false,
    };
    if helpers.iter().any(named) {
        return Err("--use-api-socket with helpers for credentials (credsStore, credHelpers) is \
                    not available yet"
            .to_owned());
    }
    let Some(auths) = settings["auths"].as_object().filter(|auths| !auths.is_empty()) else {
        return Ok(None);
    };
    let mut names: Vec<&String> = auths.keys().collect();
    names.sort();
    let mut out = Map::new();
    for name in names {
        let of = |field: &&str| Some(((*field).to_owned(), auths[name].get(*field)?.clone()));
        let entry: Map<String, Value> = FIELDS.iter().filter_map(of).collect();
        out.insert(name.clone(), entry.into());
    }
    Ok(Some(out.into()))
}

/// The archive with which a container gets them: readable for its root only.
pub fn archive(settings: &Value) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    settings.serialize(&mut serde_json::Serializer::with_formatter(&mut text, tabs))?;
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o600);
    header.set_size(text.len() as u64);
    header.set_entry_type(tar::EntryType::Regular);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, FILE, text.as_slice())?;
    tar.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body() -> Value {
        json!({"Env": ["A=b"], "HostConfig": {"CpuCount": 0, "MaskedPaths": null, "Init": true}})
    }

    #[test]
    fn as_docker_does() {
        let settings = json!({
            "auths": {"r.example": {"auth": "dTpw", "email": "x"}, "b": {"identitytoken": "t"}},
            "psFormat": "x"
        });
        let mut asked = body();
        let given = prepare(&mut asked, "unix:///run/d.sock", &settings).unwrap().unwrap();
        let says = r#"{"auths":{"b":{"identitytoken":"t"},"r.example":{"auth":"dTpw"}}}"#;
        assert_eq!(given.to_string(), says);
        assert_eq!(
            asked.to_string(),
            r#"{"Env":["A=b","DOCKER_CONFIG=/run/secrets/docker"],"HostConfig":{"CpuCount":0,"Mounts":[{"Type":"bind","Source":"/run/d.sock","Target":"/var/run/docker.sock","BindOptions":{}}],"MaskedPaths":null,"Init":true}}"#
        );
    }

    #[test]
    fn without_settings_and_without_a_socket() {
        let mut asked = body();
        assert_eq!(prepare(&mut asked, "unix:///s", &json!({})), Ok(None));
        assert_eq!(asked["Env"], json!(["A=b"]));
        asked["Env"] = json!(["DOCKER_CONFIG=/x"]);
        let settings = json!({"auths": {"a": {"auth": "b"}}});
        assert_eq!(prepare(&mut asked, "unix:///s", &settings), Ok(None));
        assert!(prepare(&mut body(), "tcp://h:1", &settings).unwrap_err().contains("tcp://h:1"));
        let helped = json!({"credsStore": "pass"});
        assert!(prepare(&mut body(), "unix:///s", &helped).unwrap_err().contains("not available"));
    }
}
