//! Which engine to talk to, and starting ours when nobody listens on the default socket.

use std::path::{Path, PathBuf};

use hoy_client::{Client, ClientError, Endpoint};
use serde_json::Value;

use crate::autostart;
use crate::failure::{Failure, Result};
use crate::parse::Parsed;

/// Where `hoyd` listens unless told otherwise.
pub const DEFAULT: &str = "unix:///run/hoy.sock";

/// The engine that was chosen.
#[derive(Debug, PartialEq, Eq)]
struct Choice {
    host: String,
    context: String,
    /// Nobody chose: the default, where a daemon may be started.
    default: bool,
}

/// What the choice depends on, as plain data.
struct Said<'a> {
    host_flag: Option<&'a str>,
    context_flag: Option<&'a str>,
    hoy_host: Option<String>,
    docker_host: Option<String>,
    docker_context: Option<String>,
    config: PathBuf,
}

/// A client for what the flags, the environment or the current context name.
pub fn client(global: &Parsed) -> Result<(Client, String)> {
    let var = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    let given = |name| global.given(name).then(|| global.text(name));
    let said = Said {
        host_flag: given("host"),
        context_flag: given("context"),
        hoy_host: var("HOY_HOST"),
        docker_host: var("DOCKER_HOST"),
        docker_context: var("DOCKER_CONTEXT"),
        config: config_directory(global),
    };
    let choice = choose(&said)?;
    let endpoint = Endpoint::parse(&choice.host).map_err(|error| match error {
        ClientError::Host(text) => Failure::new(format!(
            "Failed to initialize: unable to resolve docker endpoint: invalid bind address format: {text}"
        )),
        other => other.into(),
    })?;
    if choice.default {
        autostart::ensure(&endpoint)?;
    }
    let mut client = Client::new(endpoint);
    if let Some(version) = var("DOCKER_API_VERSION") {
        client = client.pinned(&version);
    }
    Ok((client, choice.context))
}

/// `~/.docker`, as Docker's.
pub fn config_directory(global: &Parsed) -> PathBuf {
    if global.given("config") {
        return global.text("config").into();
    }
    match std::env::var_os("DOCKER_CONFIG") {
        Some(path) if !path.is_empty() => path.into(),
        _ => PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into()))
            .join(".docker"),
    }
}

fn choose(said: &Said<'_>) -> Result<Choice> {
    let direct = |host: &str| Choice {
        host: host.to_owned(),
        context: "default".to_owned(),
        default: false,
    };
    if let Some(host) = said.host_flag {
        if said.context_flag.is_some() {
            return Err(Failure::new(
                "conflicting options: cannot specify both --host and --context",
            ));
        }
        return Ok(direct(host));
    }
    if let Some(name) = said.context_flag {
        return from_context(&said.config, name);
    }
    if let Some(host) = said.hoy_host.as_ref().or(said.docker_host.as_ref()) {
        return Ok(direct(host));
    }
    if let Some(name) = &said.docker_context {
        return from_context(&said.config, name);
    }
    let config = std::fs::read(said.config.join("config.json")).unwrap_or_default();
    let config: Value = serde_json::from_slice(&config).unwrap_or_default();
    match config["currentContext"].as_str() {
        Some(name) if !name.is_empty() => from_context(&said.config, name),
        _ => from_context(&said.config, "default"),
    }
}

fn from_context(config: &Path, name: &str) -> Result<Choice> {
    if name == "default" {
        let host = DEFAULT.to_owned();
        return Ok(Choice { host, context: name.to_owned(), default: true });
    }
    let bad = || {
        Failure::new(format!(
            "Failed to initialize: unable to resolve docker endpoint: context \"{name}\": context not found"
        ))
    };
    // Stored below the digest of its name; looking into each spares hashing here.
    for entry in std::fs::read_dir(config.join("contexts/meta")).into_iter().flatten().flatten() {
        let meta = std::fs::read(entry.path().join("meta.json")).unwrap_or_default();
        let meta: Value = serde_json::from_slice(&meta).unwrap_or_default();
        if meta["Name"].as_str() == Some(name) {
            let host = meta["Endpoints"]["docker"]["Host"].as_str().ok_or_else(bad)?;
            let context = name.to_owned();
            return Ok(Choice { host: host.to_owned(), context, default: false });
        }
    }
    Err(bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> Said<'static> {
        Said {
            host_flag: None,
            context_flag: None,
            hoy_host: None,
            docker_host: None,
            docker_context: None,
            config: "/nonexistent".into(),
        }
    }

    #[test]
    fn order_of_sources() {
        let host = |said: &Said<'_>| choose(said).unwrap().host;
        assert_eq!(choose(&said()).unwrap().host, DEFAULT);
        assert!(choose(&said()).unwrap().default);
        let mut all = said();
        all.docker_host = Some("unix:///d".to_owned());
        assert_eq!(host(&all), "unix:///d");
        all.hoy_host = Some("unix:///h".to_owned());
        assert_eq!(host(&all), "unix:///h");
        all.host_flag = Some("unix:///f");
        assert_eq!(host(&all), "unix:///f");
        all.context_flag = Some("x");
        assert!(choose(&all).is_err());
    }

    #[test]
    fn contexts_are_dockers() {
        let directory = tempfile::tempdir().unwrap();
        let meta = directory.path().join("contexts/meta/abc");
        std::fs::create_dir_all(&meta).unwrap();
        std::fs::write(
            meta.join("meta.json"),
            r#"{"Name":"far","Metadata":{},"Endpoints":{"docker":{"Host":"tcp://10.0.0.1:2375"}}}"#,
        )
        .unwrap();
        std::fs::write(directory.path().join("config.json"), r#"{"currentContext":"far"}"#)
            .unwrap();
        let mut all = said();
        all.config = directory.path().to_owned();
        assert_eq!(choose(&all).unwrap().host, "tcp://10.0.0.1:2375");
        all.docker_context = Some("gone".to_owned());
        assert!(choose(&all).unwrap_err().message.contains("context not found"));
    }
}
