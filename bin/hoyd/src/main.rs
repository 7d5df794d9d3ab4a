//! hoyd: the daemon. Settings, sockets and signals; the work is in the rooms.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use hoy_config::{Flags, Invocation, Settings};
use hoy_engine::{Engine, Parts};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

mod sockets;

/// The program of the embedded image `hello`.
const HELLO: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hello"));

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|first| first == "worker") {
        // The jailed halves of unpacking, of copying and of looking: nothing else of the daemon
        // runs in them.
        return match args.get(1).map(String::as_str) {
            Some("tree") => hoy_archive::main(),
            Some("look") => hoy_look::main(),
            _ => hoy_images::worker::main(),
        };
    }
    if let Some(("ports", rest)) = args.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        // The helper that holds published ports, beyond this daemon's end.
        return hoy_network::keeper::main(rest);
    }
    if let Some(("dial", rest)) = args.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        // The half of the command line that speaks TLS.
        return ended("hoyd dial", hoy_api::dial::main(rest).map_err(anyhow::Error::from));
    }
    ended("hoyd", run(&args))
}

fn ended(who: &str, result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{who}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn run(args: &[String]) -> Result<()> {
    match hoy_config::parse_flags(args)? {
        Invocation::Help => say(&hoy_config::help()),
        Invocation::Version => say(&format!("hoy version {}", env!("CARGO_PKG_VERSION"))),
        Invocation::Validate(flags) => {
            settings(&flags)?;
            say("configuration OK");
        }
        Invocation::Run(flags) => daemon(settings(&flags)?, flags)?,
    }
    Ok(())
}

fn settings(flags: &hoy_config::Flags) -> Result<Settings> {
    let path = flags.config_file.clone().unwrap_or_else(|| hoy_config::DEFAULT_FILE.into());
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error)
            if flags.config_file.is_none() && error.kind() == std::io::ErrorKind::NotFound =>
        {
            None
        }
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    Ok(hoy_config::resolve(text.as_deref(), flags)?)
}

/// What the log is to tell, changed while the daemon runs.
type Level = tracing_subscriber::reload::Handle<LevelFilter, tracing_subscriber::Registry>;

fn level(settings: &Settings) -> LevelFilter {
    match (settings.debug, settings.log_level.as_str()) {
        (true, _) | (_, "debug") => LevelFilter::DEBUG,
        (_, "warn") => LevelFilter::WARN,
        (_, "error" | "fatal") => LevelFilter::ERROR,
        _ => LevelFilter::INFO,
    }
}

fn daemon(settings: Settings, flags: Flags) -> Result<()> {
    let (filter, level) = tracing_subscriber::reload::Layer::new(level(&settings));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(filter).with(lines).init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(1, |n| n.get().min(4)))
        .thread_stack_size(512 * 1024)
        .enable_all()
        .build()
        .context("start the runtime")?;
    let result = runtime.block_on(serve(settings, &flags, &level));
    // Threads that wait for a slow disk must not keep the daemon.
    runtime.shutdown_background();
    result
}

fn beside(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program")?;
    let path = own.parent().unwrap_or(Path::new("/")).join(name);
    anyhow::ensure!(path.exists(), "{} is missing: install it beside hoyd", path.display());
    Ok(path)
}

async fn serve(settings: Settings, flags: &Flags, level: &Level) -> Result<()> {
    let (stop, asked) = oneshot::channel();
    let parts = Parts {
        program: std::env::current_exe().context("find this program")?,
        shim: beside("hoy-shim")?,
        init: match &settings.init_path {
            Some(path) => path.clone(),
            None => beside("hoy-init")?,
        },
        hello: HELLO,
        settings: settings.clone(),
    };
    // Before anything is made: what cannot be listened on needs no daemon.
    let places = sockets::places(&settings)?;
    let engine = Engine::open(parts, stop).await?;
    std::fs::write(&settings.pidfile, std::process::id().to_string())
        .with_context(|| format!("write {}", settings.pidfile.display()))?;
    let group = group_id(settings.group.as_deref());
    let mut servers = tokio::task::JoinSet::new();
    for (host, place) in places {
        let engine = engine.clone();
        servers.spawn(async move {
            let result = hoy_api::serve(engine, place, group).await;
            result.with_context(|| format!("listen on {host}"))
        });
    }
    tracing::info!(hosts = ?settings.hosts, "ready");
    sockets::tell("READY=1");
    let mut hangup = signal(SignalKind::hangup()).context("wait for SIGHUP")?;
    let mut terminate = signal(SignalKind::terminate()).context("wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("wait for SIGINT")?;
    let again = async {
        while hangup.recv().await.is_some() {
            reload(&engine, flags, level);
        }
    };
    let result = tokio::select! {
        () = again => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        _ = asked => {
            // The answer to whoever asked leaves first.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            Ok(())
        }
        Some(ended) = servers.join_next() => ended.unwrap_or_else(|error| Err(error.into())),
    };
    sockets::tell("STOPPING=1");
    tracing::info!("containers run on; this daemon ends");
    servers.shutdown().await;
    engine.keep_events().await;
    for path in settings.hosts.iter().filter_map(|host| host.strip_prefix("unix://")) {
        let _ = std::fs::remove_file(path);
    }
    let _ = std::fs::remove_file(&settings.pidfile);
    result
}

/// The settings' file is read again; what is wrong in it changes nothing.
fn reload(engine: &Engine, flags: &Flags, now: &Level) {
    match settings(flags) {
        Ok(new) => {
            let _ = now.reload(level(&new));
            if engine.reload(&new) {
                tracing::warn!("of the changed settings some need another start of the daemon");
            }
            tracing::info!(debug = new.debug, labels = ?new.labels, "settings are read again");
        }
        Err(error) => tracing::error!("settings stay as they are: {error:#}"),
    }
}

/// The socket's group: as asked for, else hoy's, else docker's, else root's.
fn group_id(name: Option<&str>) -> Option<u32> {
    let text = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let find = |wanted: &str| {
        text.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(wanted)).then(|| fields.nth(1)?.parse().ok())?
        })
    };
    match name {
        Some(name) => name.parse().ok().or_else(|| find(name)),
        None => find("hoy").or_else(|| find("docker")),
    }
}
