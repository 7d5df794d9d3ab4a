//! `version`, `info`, `events`, and the daemon's end.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use hoy_client::{Client, ClientError, Endpoint, Stream};
use serde_json::{Value, json};

use super::list::labels;
use super::logs::moment;
use super::{App, filters};
use crate::failure::{Failure, Result};
use crate::format::human;
use crate::format::template::{self, Missing};
use crate::parse::Parsed;
use crate::{connect, print, say};

/// The longest event that makes sense.
const MAX_EVENT: u64 = 1 << 20;
/// How long a daemon may take to end.
const PATIENCE: Duration = Duration::from_secs(15);

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// A build date as Go's `time.ANSIC`, as both sides show it.
fn build_time(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => time.strftime("%a %b %e %H:%M:%S %Y").to_string(),
        Err(_) => text.to_owned(),
    }
}

fn own(app: &App<'_>) -> Value {
    json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "ApiVersion": app.client.version(),
        "DefaultAPIVersion": "1.50",
        "GitCommit": "",
        "GoVersion": "",
        "Os": std::env::consts::OS,
        "Arch": "amd64",
        "BuildTime": "",
        "Context": app.context,
    })
}

pub fn version(app: &App<'_>) -> Result<u8> {
    let format = app.flags.text("format");
    let format = if format == "json" { "{{json .}}" } else { format };
    if !format.is_empty() {
        template::check(format)?;
    }
    let server = app.client.get("/version").fetch();
    let client = own(app);
    let document = json!({ "Client": client, "Server": server.as_ref().ok() });
    if format.is_empty() {
        print(&version_text(&client, server.as_ref().ok()))?;
    } else {
        print(&(template::one(format, &document, Missing::Mistake)? + "\n"))?;
    }
    server.map(|_| 0).map_err(Failure::from)
}

fn version_text(client: &Value, server: Option<&Value>) -> String {
    let mut out = String::from("Client: hoy\n");
    let mut line = |indent: usize, name: &str, value: &str| {
        let head = format!("{:indent$}{name}:", "");
        let _ = writeln!(out, "{head:<20}{value}");
    };
    line(1, "Version", text(client, "Version"));
    line(1, "API version", text(client, "ApiVersion"));
    line(1, "OS/Arch", &format!("{}/{}", text(client, "Os"), text(client, "Arch")));
    line(1, "Context", text(client, "Context"));
    let Some(server) = server else { return out };
    let name = text(&server["Platform"], "Name");
    let _ = write!(out, "\nServer: {name}\n");
    for part in server["Components"].as_array().into_iter().flatten() {
        let _ = writeln!(out, " {}:", text(part, "Name"));
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(out, "  {:<17} {value}", format!("{name}:"));
        };
        line("Version", text(part, "Version"));
        let details = &part["Details"];
        if text(part, "Name") == "Engine" {
            let least = text(details, "MinAPIVersion");
            line(
                "API version",
                &format!("{} (minimum version {least})", text(details, "ApiVersion")),
            );
            line("OS/Arch", &format!("{}/{}", text(details, "Os"), text(details, "Arch")));
            for (key, name) in [("GitCommit", "Git commit"), ("BuildTime", "Built")] {
                if !text(details, key).is_empty() {
                    line(name, &build_time(text(details, key)));
                }
            }
        }
    }
    out
}

pub fn info(app: &App<'_>) -> Result<u8> {
    let format = app.flags.text("format");
    let format = if format == "json" { "{{json .}}" } else { format };
    if !format.is_empty() {
        template::check(format)?;
    }
    let plugins = crate::plugins::all(app.global);
    let client = json!({
        "Debug": app.global.switch("debug"),
        "Context": app.context,
        "Plugins": plugins.iter().map(crate::plugins::Plugin::document).collect::<Vec<_>>(),
        "Warnings": null,
        "Version": env!("CARGO_PKG_VERSION"),
    });
    // What the client knows alone needs no engine.
    let alone = json!({ "ClientInfo": client });
    if !format.is_empty()
        && format.contains("ClientInfo")
        && let Ok(text) = template::one(format, &alone, Missing::Mistake)
    {
        return print(&(text + "\n")).map(|()| 0);
    }
    let answer = app.client.get("/info").fetch();
    if format.is_empty() {
        print(&info_text(&client, answer.as_ref().ok()))?;
        let info = answer?;
        for warning in info["Warnings"].as_array().into_iter().flatten() {
            say(warning.as_str().unwrap_or_default());
        }
        return Ok(0);
    }
    let mut document = answer?;
    document["ClientInfo"] = client;
    print(&(template::one(format, &document, Missing::Mistake)? + "\n")).map(|()| 0)
}

fn info_text(client: &Value, server: Option<&Value>) -> String {
    let mut out = String::from("Client: hoy\n");
    let _ = writeln!(out, " Version:    {}", text(client, "Version"));
    let _ = writeln!(out, " Context:    {}", text(client, "Context"));
    let _ = writeln!(out, " Debug Mode: {}", client["Debug"]);
    let plugins: Vec<&Value> = client["Plugins"].as_array().into_iter().flatten().collect();
    if plugins.iter().any(|plugin| plugin["Err"].is_null()) {
        out.push_str(" Plugins:\n");
    }
    for plugin in plugins {
        let (name, path) = (text(plugin, "Name"), text(plugin, "Path"));
        if !plugin["Err"].is_null() {
            say(&format!("WARNING: Plugin \"{path}\" is not valid: {}", text(plugin, "Err")));
            continue;
        }
        let (about, vendor) = (text(plugin, "ShortDescription"), text(plugin, "Vendor"));
        let _ = writeln!(out, "  {name}: {about} ({vendor})");
        if !text(plugin, "Version").is_empty() {
            let _ = writeln!(out, "    Version:  {}", text(plugin, "Version"));
        }
        let _ = writeln!(out, "    Path:     {path}");
    }
    out.push_str("\nServer:\n");
    let Some(info) = server else { return out };
    line(&mut out, "Containers", &info["Containers"]);
    line(&mut out, " Running", &info["ContainersRunning"]);
    line(&mut out, " Paused", &info["ContainersPaused"]);
    line(&mut out, " Stopped", &info["ContainersStopped"]);
    line(&mut out, "Images", &info["Images"]);
    line(&mut out, "Server Version", &info["ServerVersion"]);
    line(&mut out, "Storage Driver", &info["Driver"]);
    for pair in info["DriverStatus"].as_array().into_iter().flatten() {
        line(&mut out, &format!(" {}", pair[0].as_str().unwrap_or_default()), &pair[1]);
    }
    line(&mut out, "Logging Driver", &info["LoggingDriver"]);
    line(&mut out, "Cgroup Driver", &info["CgroupDriver"]);
    line(&mut out, "Cgroup Version", &info["CgroupVersion"]);
    let words = |value: &Value| -> Value {
        let all = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        all.collect::<Vec<_>>().join(" ").into()
    };
    out.push_str(" Plugins:\n");
    line(&mut out, " Volume", &words(&info["Plugins"]["Volume"]));
    line(&mut out, " Network", &words(&info["Plugins"]["Network"]));
    line(&mut out, " Log", &words(&info["Plugins"]["Log"]));
    line(&mut out, "Swarm", &info["Swarm"]["LocalNodeState"]);
    let runtimes = info["Runtimes"].as_object();
    let runtimes: Vec<&str> =
        runtimes.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    line(&mut out, "Runtimes", &runtimes.join(" ").into());
    line(&mut out, "Default Runtime", &info["DefaultRuntime"]);
    line(&mut out, "Init Binary", &info["InitBinary"]);
    out.push_str(" Security Options:\n");
    for option in info["SecurityOptions"].as_array().into_iter().flatten() {
        let mut parts = option.as_str().unwrap_or_default().split(',');
        let name = parts.next().unwrap_or_default().trim_start_matches("name=").to_owned();
        let _ = writeln!(out, "  {name}");
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            line(&mut out, &format!("  {}", capital(key)), &value.into());
        }
    }
    for (name, key) in [
        ("Kernel Version", "KernelVersion"),
        ("Operating System", "OperatingSystem"),
        ("OSType", "OSType"),
        ("Architecture", "Architecture"),
        ("CPUs", "NCPU"),
    ] {
        line(&mut out, name, &info[key]);
    }
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    let memory = hoy_types::human_size_binary(info["MemTotal"].as_i64().unwrap_or(0) as f64);
    line(&mut out, "Total Memory", &memory.into());
    line(&mut out, "Name", &info["Name"]);
    line(&mut out, "ID", &info["ID"]);
    line(&mut out, "Docker Root Dir", &info["DockerRootDir"]);
    line(&mut out, "Debug Mode", &info["Debug"]);
    for (name, key) in
        [("HTTP Proxy", "HttpProxy"), ("HTTPS Proxy", "HttpsProxy"), ("No Proxy", "NoProxy")]
    {
        if !text(info, key).is_empty() {
            line(&mut out, name, &info[key]);
        }
    }
    if info["Debug"] == true {
        for (name, key) in [
            ("File Descriptors", "NFd"),
            ("Goroutines", "NGoroutines"),
            ("System Time", "SystemTime"),
            ("EventsListeners", "NEventsListener"),
        ] {
            line(&mut out, &format!(" {name}"), &info[key]);
        }
    }
    line(&mut out, "Experimental", &info["ExperimentalBuild"]);
    line(&mut out, "Live Restore Enabled", &info["LiveRestoreEnabled"]);
    out.push('\n');
    out
}

fn line(out: &mut String, name: &str, value: &Value) {
    let value = match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let _ = writeln!(out, " {name}: {value}");
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

pub fn events(app: &App<'_>) -> Result<u8> {
    let flags = app.flags;
    let format = flags.text("format");
    let format = if format == "json" { "{{json .}}" } else { format };
    if !format.is_empty() {
        template::check(format)?;
    }
    let answer = app
        .client
        .get("/events")
        .given("filters", &filters(flags.list("filter")))
        .given("since", &moment(flags.text("since"), "")?)
        .given("until", &moment(flags.text("until"), "")?)
        .send()?;
    let mut reader = BufReader::new(answer);
    loop {
        let mut line = Vec::new();
        (&mut reader).take(MAX_EVENT).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(0);
        }
        let Ok(event) = serde_json::from_slice::<Value>(&line) else { continue };
        if format.is_empty() {
            print(&event_line(&event))?;
        } else {
            print(&(template::one(format, &event, Missing::Document)? + "\n"))?;
        }
    }
}

fn event_line(event: &Value) -> String {
    let actor = &event["Actor"];
    let attributes = labels(&actor["Attributes"]).replace(',', ", ");
    let attributes = if attributes.is_empty() { String::new() } else { format!(" ({attributes})") };
    format!(
        "{} {} {} {}{attributes}\n",
        human::rfc3339_nano(event["timeNano"].as_i64().unwrap_or(0)),
        text(event, "Type"),
        text(event, "Action"),
        text(actor, "ID"),
    )
}

/// `system stop`: the daemon ends; with `--clean` its containers and traces, too.
pub fn stop(flags: &Parsed, global: &Parsed) -> Result<u8> {
    let host = ["HOY_HOST", "DOCKER_HOST"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|text| !text.is_empty()));
    let host = if global.given("host") {
        global.text("host").to_owned()
    } else {
        host.unwrap_or_else(|| connect::DEFAULT.to_owned())
    };
    let endpoint = Endpoint::parse(&host)?;
    let client = Client::new(endpoint);
    let clean = if flags.switch("clean") { "1" } else { "" };
    // Taken before the request is, so that its end is the daemon's.
    let beside = client.raw().ok();
    match client.post("/hoy/stop").given("clean", clean).send() {
        Ok(mut answer) => {
            let kept = answer.header("Hoy-Socket") == Some("kept");
            let mut rest = Vec::new();
            let _ = answer.read_to_end(&mut rest);
            if let (true, Some(Stream::Unix(beside))) = (kept, beside) {
                return wait_for_close(beside);
            }
        }
        Err(error) if error.nobody_there() => {
            say("no daemon was running");
            return Ok(0);
        }
        Err(ClientError::Api(error)) if error.status == 404 => {
            return Err(Failure::new("the daemon that answers is not hoyd: it is not ended"));
        }
        Err(error) => return Err(error.into()),
    }
    wait_for_end(client.endpoint())
}

/// A connection beside the request ends with the daemon. Where a service manager listens for it, a
/// new one would start the next.
fn wait_for_close(mut beside: UnixStream) -> Result<u8> {
    beside.set_read_timeout(Some(PATIENCE))?;
    match beside.read(&mut [0]) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Err(Failure::new("the daemon was asked to end and still answers"))
        }
        // Its end, or what it has still said.
        _ => Ok(0),
    }
}

/// The command's end is the daemon's end: what follows finds nobody.
fn wait_for_end(endpoint: &Endpoint) -> Result<u8> {
    let Endpoint::Unix(socket) = endpoint else { return Ok(0) };
    let started = std::time::Instant::now();
    while UnixStream::connect(socket).is_ok() {
        if started.elapsed() > PATIENCE {
            return Err(Failure::new("the daemon was asked to end and still answers"));
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    Ok(0)
}
