//! `run` and `create`.

use std::io::Write as _;
use std::path::PathBuf;

use hoy_client::{ClientError, Response};
use serde_json::Value;

use super::{App, explain, segment};
use crate::api_socket;
use crate::create::{self, Attached};
use crate::failure::{Failure, Result};
use crate::networking;
use crate::progress;
use crate::session::{End, Running, Session};
use crate::terminal;
use crate::{print, say, settings};

/// `create`: prints the new container's ID.
pub fn create(app: &App<'_>) -> Result<u8> {
    of_another_system(app)?;
    let mut body = create::body(app.flags, app.arg(0), &app.args()[1..], false)
        .map_err(|text| app.run_failure(text, 125))?;
    give_proxies(app, &mut body);
    let id = make(app, &mut body).map_err(|failure| decorate(app, failure, 1))?;
    print(&format!("{id}\n")).map(|()| 0)
}

/// The proxies of the client's settings, where nobody said otherwise.
fn give_proxies(app: &App<'_>, body: &mut Value) {
    let proxies = settings::proxies(&app.config(), &app.client.endpoint().to_string());
    if proxies.is_empty() {
        return;
    }
    let mut all: Vec<Value> = body["Env"].as_array().cloned().unwrap_or_default();
    let names: Vec<String> = all
        .iter()
        .filter_map(|entry| Some(entry.as_str()?.split('=').next()?.to_owned()))
        .collect();
    let new = proxies.into_iter().filter(|(name, _)| !names.contains(name));
    all.extend(new.map(|(name, value)| Value::from(format!("{name}={value}"))));
    body["Env"] = all.into();
}

/// `run`: creates, attaches, starts, and ends as the container ends.
pub fn run(app: &App<'_>) -> Result<u8> {
    of_another_system(app)?;
    let flags = app.flags;
    let detached = flags.switch("detach");
    let tty = flags.switch("tty");
    if detached && !flags.list("attach").is_empty() {
        return Err(Failure::new("conflicting options: cannot specify both --attach and --detach"));
    }
    let streams = create::attached(flags, detached).map_err(|text| app.run_failure(text, 125))?;
    if tty && streams.stdin && !terminal::stdin_is_terminal() {
        return Err(Failure::new("the input device is not a TTY"));
    }
    let mut body = create::body(flags, app.arg(0), &app.args()[1..], detached)
        .map_err(|text| app.run_failure(text, 125))?;
    give_proxies(app, &mut body);
    if let (true, Some((rows, columns))) = (tty, terminal::size()) {
        body["HostConfig"]["ConsoleSize"] = serde_json::json!([rows, columns]);
    }
    // Bad keys cost nothing when they are seen before anything is made.
    let attaches = streams.stdin || streams.stdout || streams.stderr;
    let (keys_text, keys) = match attaches {
        true => app.detach_keys().map_err(|f| app.run_failure(f, 125))?,
        false => (String::new(), crate::terminal::DetachKeys::default()),
    };
    let id = make(app, &mut body).map_err(|failure| decorate(app, failure, 125))?;
    let object = format!("/containers/{id}");
    if !attaches {
        app.client
            .post(format!("{object}/start"))
            .send()
            .map_err(|error| start_failure(app, &id, &error))?;
        return print(&format!("{id}\n")).map(|()| 0);
    }
    let mut session = Running::prepare(Session {
        client: &app.client,
        object: object.clone(),
        proxy_to: (!tty && flags.switch("sig-proxy")).then(|| object.clone()),
        tty,
        stdin: streams.stdin,
        keys,
    })?;
    let attached =
        attach(app, &object, streams, &keys_text).map_err(|error| app.run_failure(error, 125))?;
    // Asked for before the start: an end that comes at once is not missed.
    let condition = if flags.switch("rm") { "removed" } else { "next-exit" };
    let ended = app
        .client
        .post(format!("{object}/wait"))
        .query("condition", condition)
        .send()
        .map_err(|error| app.run_failure(error, 125))?;
    if let Err(error) = app.client.post(format!("{object}/start")).send() {
        drop(attached);
        if flags.switch("rm") {
            // It is gone before its name is free again for the next attempt.
            let _ = session.await_answer(ended);
        }
        return Err(start_failure(app, &id, &error));
    }
    session.take_terminal()?;
    session.send_first_size();
    match session.pump(attached)? {
        End::Detached => Ok(0),
        End::Output => exit_code(&mut session, ended),
    }
}

/// Flags that mean something to Windows alone, refused before anything else as Docker's client does.
fn of_another_system(app: &App<'_>) -> Result<()> {
    let flags = ["cpu-count", "cpu-percent", "io-maxbandwidth", "io-maxiops"];
    match flags.into_iter().find(|flag| app.flags.given(flag)) {
        Some(flag) => Err(Failure::new(format!(
            "\"--{flag}\" is only supported on a Docker daemon running on windows, but the Docker \
             daemon is running on linux"
        ))),
        None => Ok(()),
    }
}

fn exit_code(session: &mut Running<'_>, ended: Response) -> Result<u8> {
    let answer = session.await_answer(ended)?;
    if let Some(message) = answer["Error"]["Message"].as_str().filter(|text| !text.is_empty()) {
        return Err(Failure::new(format!("Error waiting for container: {message}")).with_code(125));
    }
    let code = answer["StatusCode"].as_i64().unwrap_or(125);
    // Exit codes are of one byte.
    Ok(u8::try_from(code & 0xff).unwrap_or(125))
}

/// The connection on which a container's streams run.
pub fn attach(
    app: &App<'_>,
    object: &str,
    streams: Attached,
    keys: &str,
) -> std::result::Result<hoy_client::Hijacked, ClientError> {
    app.client
        .post(format!("{object}/attach"))
        .given("detachKeys", keys)
        .switch("stderr", streams.stderr)
        .switch("stdin", streams.stdin)
        .switch("stdout", streams.stdout)
        .query("stream", "1")
        .hijack()
}

/// What a start that failed means for the exit code, by Docker's rules.
fn start_failure(app: &App<'_>, id: &str, error: &ClientError) -> Failure {
    let text = error.to_string();
    let name = Some(app.flags.text("name")).filter(|name| !name.is_empty());
    let stays = !app.flags.switch("rm");
    let hint = stays.then(|| explain::hint(name.unwrap_or(id.get(..12).unwrap_or(id))));
    let says = |part: &str| text.contains(part);
    let code = if says("executable file not found") || says("no such file or directory") {
        127
    } else if says("permission denied") || says("is a directory") {
        126
    } else {
        125
    };
    app.run_failure(text, code).with_hint(hint)
}

fn decorate(app: &App<'_>, failure: Failure, code: u8) -> Failure {
    // Shapes differ between the two commands, as Docker's do.
    let hint = failure.hint.clone();
    let mut shown = if code == 125 { app.run_failure(&failure, 125) } else { failure };
    shown.hint = hint;
    shown
}

/// Creates the container, fetching the image where it is missing.
fn make(app: &App<'_>, body: &mut Value) -> Result<String> {
    let flags = app.flags;
    let mut id_file = IdFile::open(flags.text("cidfile"))?;
    let image = app.arg(0);
    let pull = flags.text("pull");
    if !matches!(pull, "always" | "missing" | "never") {
        let text = format!(
            "invalid pull option: '{pull}': must be one of \"always\", \"missing\" or \"never\""
        );
        return Err(app.run_failure(text, 125));
    }
    if image.parse::<hoy_types::Reference>().is_err() && !is_id(image) {
        return Err(Failure::new("invalid reference format"));
    }
    for address in body["HostConfig"]["Dns"].as_array().into_iter().flatten() {
        let address = address.as_str().unwrap_or_default();
        if networking::is_own_resolver(address) {
            say(&format!("WARNING: Localhost DNS ({address}) may fail in containers."));
        }
    }
    let mut credentials = None;
    if flags.switch("use-api-socket") {
        let host = app.client.endpoint().to_string();
        credentials = api_socket::prepare(body, &host, &app.config()).map_err(Failure::new)?;
    }
    let body = &*body;
    if pull == "always" {
        fetch(app, image)?;
    }
    let answer = match request(app, body) {
        Err(ClientError::Api(error))
            if error.status == 404
                && pull == "missing"
                && error.message.contains("No such image") =>
        {
            if !flags.switch("quiet") {
                say(&format!("Unable to find image '{}' locally", with_tag(image)));
            }
            fetch(app, image)?;
            request(app, body)?
        }
        other => other?,
    };
    for warning in answer["Warnings"].as_array().into_iter().flatten() {
        say(&format!("WARNING: {}", warning.as_str().unwrap_or_default()));
    }
    let id = answer["Id"].as_str().unwrap_or_default().to_owned();
    id_file.write(&id)?;
    if let Some(credentials) = credentials {
        give(app, &id, &credentials).map_err(|error| {
            let text = "injecting docker config.json into container failed: copying config.json \
                        into container failed";
            Failure::new(format!("{text}: {error}"))
        })?;
    }
    Ok(id)
}

/// A container's own settings for a client in it.
fn give(app: &App<'_>, id: &str, settings: &Value) -> Result<()> {
    let archive = api_socket::archive(settings).map_err(|error| Failure::new(error.to_string()))?;
    let request = app.client.request("PUT", format!("/containers/{id}/archive"));
    let request = request.query("noOverwriteDirNonDir", "true").query("path", "/");
    request.stream("text/plain", &mut archive.as_slice()).send()?;
    Ok(())
}

fn request(app: &App<'_>, body: &Value) -> std::result::Result<Value, ClientError> {
    app.client
        .post("/containers/create")
        .given("name", app.flags.text("name"))
        .given("platform", app.flags.text("platform"))
        .json(body)
        .fetch()
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|c| c.is_ascii_hexdigit())
}

fn with_tag(image: &str) -> String {
    match image.parse::<hoy_types::Reference>() {
        Ok(reference) => reference.with_default_tag().familiar(),
        Err(_) => image.to_owned(),
    }
}

fn fetch(app: &App<'_>, image: &str) -> Result<()> {
    let reference: hoy_types::Reference =
        image.parse().map_err(|e| Failure::new(format!("{e}")))?;
    let reference = reference.with_default_tag();
    let answer = app
        .client
        .post("/images/create")
        .query("fromImage", reference.name())
        .given("platform", app.flags.text("platform"))
        .given("tag", reference.tag().unwrap_or_default())
        .header("X-Registry-Auth", "e30=")
        .send()?;
    progress::show(answer, app.flags.switch("quiet"))
}

/// The file that `--cidfile` names: claimed before, filled after, removed if nothing was made.
struct IdFile {
    path: Option<PathBuf>,
    written: bool,
}

impl IdFile {
    fn open(path: &str) -> Result<Self> {
        if path.is_empty() {
            return Ok(Self { path: None, written: false });
        }
        if std::fs::exists(path).unwrap_or(false) {
            return Err(Failure::new(format!(
                "container ID file found, make sure the other container isn't running or delete {path}"
            )));
        }
        std::fs::File::create_new(path).map_err(|error| {
            Failure::new(format!("failed to create the container ID file: {error}"))
        })?;
        Ok(Self { path: Some(path.into()), written: false })
    }

    fn write(&mut self, id: &str) -> Result<()> {
        if let Some(path) = &self.path {
            std::fs::File::options().write(true).open(path)?.write_all(id.as_bytes())?;
            self.written = true;
        }
        Ok(())
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if let (Some(path), false) = (&self.path, self.written) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The object's path for a name that a user typed.
pub fn container(name: &str) -> String {
    format!("/containers/{}", segment(name))
}
