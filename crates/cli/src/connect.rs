//! Which engine to talk to, and starting ours when nobody listens on the default socket.

use std::path::{Path, PathBuf};

use hoy_client::{Client, ClientError, Endpoint, Program};

use crate::autostart;
use crate::contexts::{self, Store};
use crate::failure::{Failure, Result};
use crate::parse::Parsed;
use crate::settings;

/// Where `hoyd` listens unless told otherwise.
pub const DEFAULT: &str = "unix:///run/hoy.sock";
/// Where an engine with TLS listens unless told otherwise.
const DEFAULT_TLS: &str = "tcp://localhost:2376";

/// The engine that was chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    pub host: String,
    pub context: String,
    /// Nobody chose: the default, where a daemon may be started.
    pub default: bool,
    /// Other programs would not find it by Docker's own rules: it is ours alone to know.
    pub own: bool,
    pub tls: Option<Tls>,
}

/// Files for TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub skip_verify: bool,
}

/// What the choice depends on, as plain data.
#[derive(Debug, Default)]
pub struct Said {
    pub hosts: Vec<String>,
    pub context_flag: Option<String>,
    pub hoy_host: Option<String>,
    pub docker_host: Option<String>,
    pub docker_context: Option<String>,
    /// `currentContext` of the settings.
    pub current: Option<String>,
    pub tls: Option<Tls>,
    pub config: PathBuf,
}

impl Said {
    /// What flags, environment and settings say.
    pub fn of(global: &Parsed) -> Self {
        let var = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        let config = settings::directory(global);
        let current = settings::load(&config)["currentContext"].as_str().map(str::to_owned);
        Self {
            hosts: global.list("host").iter().filter(|host| !host.is_empty()).cloned().collect(),
            context_flag: global.given("context").then(|| global.text("context").to_owned()),
            hoy_host: var("HOY_HOST"),
            docker_host: var("DOCKER_HOST"),
            docker_context: var("DOCKER_CONTEXT"),
            current: current.filter(|name| !name.is_empty()),
            tls: tls(global, &config, &var),
            config,
        }
    }

    /// The host that the environment names.
    pub fn environment(&self) -> Option<&String> {
        self.hoy_host.as_ref().or(self.docker_host.as_ref())
    }

    /// The name of the context in use, by Docker's order.
    pub fn context(&self) -> &str {
        if let Some(name) = &self.context_flag {
            return name;
        }
        if !self.hosts.is_empty() || self.environment().is_some() {
            return contexts::DEFAULT;
        }
        self.docker_context.as_deref().or(self.current.as_deref()).unwrap_or(contexts::DEFAULT)
    }
}

/// Whether there is to be TLS, and with which files.
fn tls(
    global: &Parsed,
    config: &Path,
    var: &dyn Fn(&'static str) -> Option<String>,
) -> Option<Tls> {
    let verify = if global.given("tlsverify") {
        global.switch("tlsverify")
    } else {
        var("DOCKER_TLS_VERIFY").is_some()
    };
    let on = verify
        || global.given("tlsverify")
        || global.switch("tls")
        || (!global.given("tls") && var("DOCKER_TLS").is_some());
    if !on {
        return None;
    }
    let directory = var("DOCKER_CERT_PATH").map_or_else(|| config.to_owned(), PathBuf::from);
    let file = |flag: &str, name: &str| match global.given(flag) {
        true => Some(PathBuf::from(global.text(flag).trim_matches(['\'', '"']))),
        // Files that nobody named need not be there.
        false => Some(directory.join(name)).filter(|path| name == "ca.pem" || path.exists()),
    };
    Some(Tls {
        ca: file("tlscacert", "ca.pem"),
        cert: file("tlscert", "cert.pem"),
        key: file("tlskey", "key.pem"),
        skip_verify: !verify,
    })
}

/// A client for what the flags, the environment or the current context name.
pub fn client(global: &Parsed) -> Result<(Client, String)> {
    let choice = chosen(global)?;
    let client = client_of(&choice)?;
    let settings = settings::load(&settings::directory(global));
    let custom = std::env::var("DOCKER_CUSTOM_HEADERS").ok();
    let mut client = client.with_headers(settings::headers(&settings, custom.as_deref())?);
    if let Ok(version) = std::env::var("DOCKER_API_VERSION")
        && !version.is_empty()
    {
        client = client.pinned(&version);
    }
    Ok((client, choice.context))
}

/// What is chosen; our own daemon runs, where it is chosen by default.
pub fn chosen(global: &Parsed) -> Result<Choice> {
    let choice = choose(&Said::of(global))?;
    if choice.default {
        autostart::ensure(&endpoint(&choice)?)?;
    }
    Ok(choice)
}

/// A client of what was chosen, without anybody's settings.
pub fn client_of(choice: &Choice) -> Result<Client> {
    Ok(Client::new(endpoint(choice)?))
}

fn unresolved(text: impl std::fmt::Display) -> Failure {
    Failure::new(format!("Failed to initialize: unable to resolve docker endpoint: {text}"))
}

fn endpoint(choice: &Choice) -> Result<Endpoint> {
    let port = if choice.tls.is_some() { 2376 } else { 2375 };
    let endpoint = Endpoint::parse_for(&choice.host, port).map_err(|error| match error {
        ClientError::Host(text) => unresolved(format!("invalid bind address format: {text}")),
        other => other.into(),
    })?;
    match (endpoint, &choice.tls) {
        (Endpoint::Tcp(host, port), Some(tls)) => by_tls(&host, port, tls),
        (Endpoint::Program(mut program), _) => {
            // In a session of its own: keys that are typed are not for ssh.
            program.words.splice(0..0, ["/proc/self/exe".to_owned(), "__session".to_owned()]);
            Ok(Endpoint::Program(program))
        }
        (other, _) => Ok(other),
    }
}

/// The daemon's program speaks TLS; this one stays small.
fn by_tls(host: &str, port: u16, tls: &Tls) -> Result<Endpoint> {
    for path in [&tls.ca, &tls.cert, &tls.key].into_iter().flatten() {
        std::fs::File::open(path).map_err(|error| {
            unresolved(format!("open {}: {}", path.display(), contexts::io_words(&error)))
        })?;
    }
    let program = autostart::program().ok_or_else(|| {
        Failure::new("a connection by TLS needs the program hoyd beside hoy or in PATH")
    })?;
    let address =
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let mut words = vec![
        "/proc/self/exe".to_owned(),
        "__session".to_owned(),
        program.display().to_string(),
        "dial".to_owned(),
        host.to_owned(),
        port.to_string(),
    ];
    for (flag, path) in [("--ca", &tls.ca), ("--cert", &tls.cert), ("--key", &tls.key)] {
        if let Some(path) = path {
            words.extend([flag.to_owned(), path.display().to_string()]);
        }
    }
    if tls.skip_verify {
        words.push("--skip-verify".to_owned());
    }
    Ok(Endpoint::Program(Program { words, shown: format!("tcp://{address}"), host: address }))
}

/// The engine that this says; pure but for the store of contexts.
pub fn choose(said: &Said) -> Result<Choice> {
    if said.hosts.len() > 1 {
        return Err(unresolved("Specify only one -H"));
    }
    if !said.hosts.is_empty() && said.context_flag.is_some() {
        return Err(Failure::new("conflicting options: cannot specify both --host and --context"));
    }
    let name = said.context().to_owned();
    if name != contexts::DEFAULT {
        return from_context(said, &name);
    }
    let tls = said.tls.clone();
    let host = said.hosts.first().or_else(|| said.environment());
    let default = host.is_none() && tls.is_none();
    let own = said.hosts.is_empty() && (default || said.hoy_host.is_some());
    let fallback = if tls.is_some() { DEFAULT_TLS } else { DEFAULT };
    let host = host.map_or(fallback, String::as_str).to_owned();
    Ok(Choice { host, context: name, default, own, tls })
}

fn from_context(said: &Said, name: &str) -> Result<Choice> {
    let store = Store::of(&said.config);
    let context = store.load(name).map_err(|failure| unresolved(failure.message))?;
    let host = context.host().to_owned();
    if host.is_empty() {
        return Err(unresolved(format!("no Docker endpoint set in context \"{name}\"")));
    }
    let directory = store.tls(name).join("docker");
    let file = |name: &str| Some(directory.join(name)).filter(|path| path.exists());
    let [ca, cert, key] = contexts::PEMS.map(file);
    let skip_verify = context.skips_verification();
    let wanted = skip_verify || ca.is_some() || cert.is_some();
    let tls = wanted.then_some(Tls { ca, cert, key, skip_verify });
    Ok(Choice { host, context: name.to_owned(), default: false, own: false, tls })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_sources() {
        let host = |said: &Said| choose(said).unwrap().host;
        let mut all = Said::default();
        let first = choose(&all).unwrap();
        assert!(first.host == DEFAULT && first.default && first.own);
        all.docker_host = Some("unix:///d".to_owned());
        assert!(host(&all) == "unix:///d" && !choose(&all).unwrap().own);
        all.hoy_host = Some("unix:///h".to_owned());
        assert!(host(&all) == "unix:///h" && choose(&all).unwrap().own);
        all.context_flag = Some("default".to_owned());
        assert_eq!(host(&all), "unix:///h", "the default context is the environment's");
        all.context_flag = None;
        all.hosts = vec!["unix:///f".to_owned()];
        assert_eq!(host(&all), "unix:///f");
        all.context_flag = Some("x".to_owned());
        assert!(choose(&all).unwrap_err().message.contains("both --host and --context"));
        all.hosts.push("unix:///g".to_owned());
        assert!(choose(&all).unwrap_err().message.ends_with("Specify only one -H"));
        let tls = Said { tls: Some(Tls::default()), ..Said::default() };
        assert!(host(&tls) == DEFAULT_TLS && !choose(&tls).unwrap().default);
    }

    #[test]
    fn contexts_are_dockers() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::of(directory.path());
        let mut far = contexts::Context { name: "far".to_owned(), ..Default::default() };
        let docker = serde_json::json!({"Host": "tcp://10.0.0.1:2375", "SkipTLSVerify": false});
        far.endpoints.insert("docker".to_owned(), docker);
        store.save(&far, None).unwrap();
        let mut all = Said {
            current: Some("far".to_owned()),
            config: directory.path().to_owned(),
            ..Said::default()
        };
        let chosen = choose(&all).unwrap();
        assert!(chosen.host == "tcp://10.0.0.1:2375" && chosen.tls.is_none());
        store.save(&far, Some(&vec![("ca.pem".to_owned(), Vec::new())])).unwrap();
        assert!(choose(&all).unwrap().tls.unwrap().ca.is_some());
        all.docker_context = Some("gone".to_owned());
        assert!(choose(&all).unwrap_err().message.contains("context not found"));
        all.docker_host = Some("unix:///d".to_owned());
        assert_eq!(choose(&all).unwrap().context, "default");
    }
}
