//! The commands, each a function of its flags.

mod check;
mod containers;
pub mod contexts;
mod copy;
mod dial;
mod disk;
mod exec;
mod explain;
mod images;
mod inspect;
mod list;
mod logs;
mod networks;
mod prune;
mod run;
mod stats;
mod system;
mod trees;
mod volumes;

use hoy_client::Client;

use crate::connect;
use crate::failure::{Failure, Result};
use crate::grammar::Command;
use crate::help::NAME;
use crate::parse::Parsed;
use crate::settings;
use crate::terminal::DetachKeys;

/// What a command works with.
pub struct App<'a> {
    pub client: Client,
    pub context: String,
    pub flags: &'a Parsed,
    pub global: &'a Parsed,
    pub command: &'a Command,
}

impl App<'_> {
    pub fn args(&self) -> &[String] {
        &self.flags.args
    }

    pub fn arg(&self, index: usize) -> &str {
        self.flags.args.get(index).map_or("", String::as_str)
    }

    /// The client's own settings, `config.json`.
    pub fn config(&self) -> serde_json::Value {
        settings::load(&settings::directory(self.global))
    }

    /// The keys that leave a session: the flag, else the settings, else Docker's.
    pub fn detach_keys(&self) -> Result<(String, DetachKeys)> {
        let mut text = self.flags.text("detach-keys").to_owned();
        if text.is_empty() {
            text = self.config()["detachKeys"].as_str().unwrap_or_default().to_owned();
        }
        let keys = DetachKeys::parse(&text)?;
        Ok((text, keys))
    }

    /// Does the same to each argument and shows its name, or why not; one failure fails all.
    pub fn each(&self, mut act: impl FnMut(&str) -> Result<()>) -> Result<u8> {
        let mut failed = false;
        for name in self.args() {
            match act(name) {
                Ok(()) => crate::print(&format!("{name}\n"))?,
                Err(failure) => {
                    failed = true;
                    crate::say(&failure.message);
                }
            }
        }
        if failed { Err(Failure::silent(1)) } else { Ok(0) }
    }

    /// An error in the way `run` shows it.
    pub fn run_failure(&self, text: impl std::fmt::Display, code: u8) -> Failure {
        let path = self.command.path;
        Failure::new(format!("{NAME}: {text}\n\nRun '{NAME} {path} --help' for more information"))
            .with_code(code)
    }
}

/// Escapes a name for a path: what a user typed must not become another path.
pub fn segment(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => out.push(char::from(byte)),
            b'-' | b'_' | b'.' | b'~' | b'/' | b':' | b'@' => out.push(char::from(byte)),
            other => {
                out.push('%');
                out.push_str(&format!("{other:02X}"));
            }
        }
    }
    out
}

/// `{"name":{"value":true}}` of `name=value` texts, as filters travel.
pub fn filters(list: &[String]) -> String {
    if list.is_empty() {
        return String::new();
    }
    let mut all: std::collections::BTreeMap<String, std::collections::BTreeMap<String, bool>> =
        std::collections::BTreeMap::new();
    for entry in list {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        let values = all.entry(name.trim().to_ascii_lowercase()).or_default();
        values.insert(value.trim().to_owned(), true);
    }
    serde_json::to_string(&all).unwrap_or_default()
}

/// Runs a command that is built.
pub fn run(command: &Command, flags: &Parsed, global: &Parsed) -> Result<u8> {
    // Works, in part, without an engine.
    if command.canonical == "system stop" {
        return system::stop(flags, global);
    }
    if command.path.starts_with("context ") {
        return contexts::run(command, flags, global);
    }
    let (client, context) = connect::client(global)?;
    let app = App { client, context, flags, global, command };
    match command.canonical {
        "container run" => run::run(&app),
        "container create" => run::create(&app),
        "container start" => containers::start(&app),
        "container stop" => containers::stop(&app, "stop"),
        "container restart" => containers::stop(&app, "restart"),
        "container kill" => containers::kill(&app),
        "container rm" => containers::remove(&app),
        "container pause" => containers::plain(&app, "pause"),
        "container unpause" => containers::plain(&app, "unpause"),
        "container rename" => containers::rename(&app),
        "container update" => containers::update(&app),
        "container wait" => containers::wait(&app),
        "container port" => containers::port(&app),
        "container top" => containers::top(&app),
        "container stats" => stats::stats(&app),
        "container attach" => containers::attach(&app),
        "container cp" => copy::copy(&app),
        "container diff" => trees::diff(&app),
        "container export" => trees::export(&app),
        "container commit" => trees::commit(&app),
        "container exec" => exec::exec(&app),
        "container logs" => logs::logs(&app),
        "container ls" => list::containers(&app),
        "image ls" => images::list(&app),
        "image tag" => images::tag(&app),
        "image rm" => images::remove(&app),
        "image load" => images::load(&app),
        "image import" => images::import(&app),
        "image save" => images::save(&app),
        "image history" => images::history(&app),
        "container inspect" => inspect::inspect(&app, &[inspect::Kind::Container]),
        "image inspect" => inspect::inspect(&app, &[inspect::Kind::Image]),
        "network inspect" => inspect::inspect(&app, &[inspect::Kind::Network]),
        "inspect" => inspect::any(&app),
        "network create" => networks::create(&app),
        "network ls" => networks::list(&app),
        "network rm" => networks::remove(&app),
        "network prune" => prune::one(&app, prune::What::Networks),
        "network connect" => networks::connect(&app),
        "network disconnect" => networks::disconnect(&app),
        "volume inspect" => inspect::inspect(&app, &[inspect::Kind::Volume]),
        "volume create" => volumes::create(&app),
        "volume ls" => volumes::list(&app),
        "volume rm" => volumes::remove(&app),
        "volume update" => volumes::update(&app),
        "volume prune" => prune::one(&app, prune::What::Volumes),
        "container prune" => prune::one(&app, prune::What::Containers),
        "image prune" => prune::one(&app, prune::What::Images),
        "builder prune" | "buildx prune" => prune::one(&app, prune::What::Cache),
        "system prune" => prune::system(&app),
        "system df" => disk::usage(&app),
        "container explain" => explain::explain(&app),
        "system check" => check::check(&app),
        "version" => system::version(&app),
        "system info" => system::info(&app),
        "system dial-stdio" => dial::stdio(&app),
        "system events" => system::events(&app),
        other => Err(Failure::new(format!("{NAME}: '{NAME} {other}' is not available yet"))),
    }
}

/// Of which objects names may complete a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names<'a> {
    Images,
    Containers,
    Networks,
    Volumes,
    /// Containers in one of these states.
    State(&'a [&'a str]),
    /// Those of one network.
    ContainersIn(&'a str),
}

/// What there is by these names.
pub fn names(of: Names<'_>, global: &Parsed) -> Vec<String> {
    let Ok(client) =
        connect::choose(&connect::Said::of(global)).and_then(|c| connect::client_of(&c))
    else {
        return Vec::new();
    };
    let path = match of {
        Names::Images => "/images/json".to_owned(),
        Names::Containers | Names::State(_) => "/containers/json?all=1".to_owned(),
        Names::Networks => "/networks".to_owned(),
        Names::Volumes => "/volumes".to_owned(),
        Names::ContainersIn(network) => format!("/networks/{}", segment(network)),
    };
    let Ok(answer) = client.get(path).fetch() else { return Vec::new() };
    let rows = answer.as_array().into_iter().flatten();
    let listed = |field: &'static str| {
        rows.clone().flat_map(move |row| row[field].as_array().into_iter().flatten())
    };
    let found: Vec<&serde_json::Value> = match of {
        Names::Images => listed("RepoTags").collect(),
        Names::Containers => listed("Names").collect(),
        Names::State(states) => {
            let is = |row: &&serde_json::Value| states.iter().any(|state| row["State"] == *state);
            rows.clone()
                .filter(is)
                .flat_map(|row| row["Names"].as_array().into_iter().flatten())
                .collect()
        }
        Names::Networks => rows.clone().map(|row| &row["Name"]).collect(),
        Names::Volumes => {
            let all = answer["Volumes"].as_array().into_iter().flatten();
            all.map(|volume| &volume["Name"]).collect()
        }
        Names::ContainersIn(_) => {
            let inside = answer["Containers"].as_object().into_iter().flatten();
            inside.map(|(_, about)| &about["Name"]).collect()
        }
    };
    let found = found.into_iter().filter_map(|name| name.as_str());
    found.map(|name| name.trim_start_matches('/').to_owned()).collect()
}
