//! Commands on containers that are there.

use serde_json::Value;

use super::run::{attach as attach_to, container};
use super::{App, segment};
use crate::create::Attached;
use crate::experiments;
use crate::failure::{Failure, Result};
use crate::format::table;
use crate::session::{End, Running, Session};
use crate::{print, say, terminal};

/// `start`: one after another, or one with its streams attached.
pub fn start(app: &App<'_>) -> Result<u8> {
    let attached = app.flags.switch("attach") || app.flags.switch("interactive");
    for flag in ["checkpoint", "checkpoint-dir"] {
        if app.flags.given(flag) {
            return Err(experiments::flag(&app.client, flag)?);
        }
    }
    if !attached {
        let mut failed = Vec::new();
        for name in app.args() {
            match app.client.post(format!("{}/start", container(name))).send() {
                Ok(_) => print(&format!("{name}\n"))?,
                Err(error) => {
                    say(&error.to_string());
                    failed.push(name.as_str());
                }
            }
        }
        if !failed.is_empty() {
            return Err(Failure::new(format!(
                "Error: failed to start containers: {}",
                failed.join(", ")
            ))
            .with_hint(failed.first().map(|name| super::explain::hint(name))));
        }
        return Ok(0);
    }
    if app.args().len() > 1 {
        return Err(Failure::new("you cannot start and attach multiple containers at once"));
    }
    let about = app.client.get(format!("{}/json", container(app.arg(0)))).fetch()?;
    session(app, &about, app.flags.switch("interactive"), true)
}

/// `attach`.
pub fn attach(app: &App<'_>) -> Result<u8> {
    let about = app.client.get(format!("{}/json", container(app.arg(0)))).fetch()?;
    let state = &about["State"];
    if state["Running"] != true {
        return Err(Failure::new("You cannot attach to a stopped container, start it first"));
    }
    if state["Paused"] == true {
        return Err(Failure::new("You cannot attach to a paused container, unpause it first"));
    }
    if state["Restarting"] == true {
        return Err(Failure::new(
            "You cannot attach to a restarting container, wait until it is running",
        ));
    }
    session(app, &about, !app.flags.switch("no-stdin"), false)
}

/// Attaches to a container known by its document; starts it where asked to.
fn session(app: &App<'_>, about: &Value, wants_stdin: bool, start: bool) -> Result<u8> {
    let config = &about["Config"];
    let tty = config["Tty"] == true;
    let stdin = wants_stdin && config["OpenStdin"] == true;
    if tty && stdin && !terminal::stdin_is_terminal() {
        return Err(Failure::new("the input device is not a TTY"));
    }
    let id = about["Id"].as_str().unwrap_or_default();
    let object = format!("/containers/{}", segment(id));
    let (keys_text, keys) = app.detach_keys()?;
    let mut session = Running::prepare(Session {
        client: &app.client,
        object: object.clone(),
        proxy_to: (!tty && app.flags.switch("sig-proxy")).then(|| object.clone()),
        tty,
        stdin,
        keys,
    })?;
    let streams = Attached { stdin, stdout: true, stderr: true };
    let attached = attach_to(app, &object, streams, &keys_text)?;
    let removed = start && about["HostConfig"]["AutoRemove"] == true;
    let condition = match (start, removed) {
        (_, true) => "removed",
        (true, _) => "next-exit",
        (false, _) => "",
    };
    let ended = app.client.post(format!("{object}/wait")).given("condition", condition).send()?;
    if start {
        app.client.post(format!("{object}/start")).send()?;
    }
    session.take_terminal()?;
    if !start {
        session.ask_to_redraw();
    }
    session.send_first_size();
    match session.pump(attached)? {
        End::Detached if start => Ok(0),
        End::Detached => Err(Failure::new("read escape sequence")),
        End::Output => {
            let answer = session.await_answer(ended)?;
            let code = answer["StatusCode"].as_i64().unwrap_or(1);
            Ok(u8::try_from(code & 0xff).unwrap_or(1))
        }
    }
}

/// `stop` and `restart`.
pub fn stop(app: &App<'_>, action: &str) -> Result<u8> {
    let flags = app.flags;
    let seconds = ["timeout", "time"].into_iter().find(|name| flags.given(name));
    app.each(|name| {
        let request = app.client.post(format!("{}/{action}", container(name)));
        let request = request
            .given("signal", flags.text("signal"))
            .given("t", seconds.map_or("", |flag| flags.text(flag)));
        request.send().map(drop).map_err(Failure::from)
    })
}

pub fn kill(app: &App<'_>) -> Result<u8> {
    app.each(|name| {
        let request = app.client.post(format!("{}/kill", container(name)));
        request.given("signal", app.flags.text("signal")).send()?;
        Ok(())
    })
}

/// An action without options.
pub fn plain(app: &App<'_>, action: &str) -> Result<u8> {
    app.each(|name| {
        app.client.post(format!("{}/{action}", container(name))).send()?;
        Ok(())
    })
}

pub fn remove(app: &App<'_>) -> Result<u8> {
    let flags = app.flags;
    let mut failed = false;
    for name in app.args() {
        let short = name.trim_matches('/');
        if short.is_empty() {
            failed = true;
            say("container name cannot be empty");
            continue;
        }
        let request = app.client.delete(container(short));
        let request = request
            .switch("force", flags.switch("force"))
            .switch("link", flags.switch("link"))
            .switch("v", flags.switch("volumes"));
        match request.send() {
            Ok(_) => print(&format!("{name}\n"))?,
            Err(error) => {
                // Who removes by force wants it gone, and it is.
                failed |= !(flags.switch("force") && error.status() == Some(404));
                say(&error.to_string());
            }
        }
    }
    if failed { Err(Failure::silent(1)) } else { Ok(0) }
}

pub fn rename(app: &App<'_>) -> Result<u8> {
    let (old, new) = (app.arg(0).trim(), app.arg(1).trim());
    if old.is_empty() || new.is_empty() {
        return Err(Failure::new("Error: Neither old nor new names may be empty"));
    }
    let renamed = app.client.post(format!("{}/rename", container(old))).query("name", new).send();
    if let Err(error) = renamed {
        say(&error.to_string());
        return Err(Failure::new(format!("Error: failed to rename container named {old}")));
    }
    Ok(0)
}

pub fn wait(app: &App<'_>) -> Result<u8> {
    let mut failed = false;
    for name in app.args() {
        match app.client.post(format!("{}/wait", container(name))).fetch() {
            Ok(answer) => print(&format!("{}\n", answer["StatusCode"]))?,
            Err(error) => {
                failed = true;
                say(&error.to_string());
            }
        }
    }
    if failed { Err(Failure::silent(1)) } else { Ok(0) }
}

/// `port`: all publications, or those of one port.
pub fn port(app: &App<'_>) -> Result<u8> {
    let about = app.client.get(format!("{}/json", container(app.arg(0)))).fetch()?;
    let ports = about["NetworkSettings"]["Ports"].as_object();
    let line = |binding: &Value| {
        let ip = binding["HostIp"].as_str().unwrap_or_default();
        join(ip, binding["HostPort"].as_str().unwrap_or_default())
    };
    let mut out = Vec::new();
    if !app.arg(1).is_empty() {
        let wanted = app.arg(1);
        let (port, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
        hoy_types::parse_port_number(port)
            .map_err(|error| Failure::new(format!("Error: invalid port ({port}): {error}")))?;
        let protocol = if protocol.is_empty() { "tcp" } else { protocol };
        let found = ports.and_then(|all| all.get(&format!("{port}/{protocol}")));
        let found = found.and_then(Value::as_array).filter(|bindings| !bindings.is_empty());
        let found = found.ok_or_else(|| {
            Failure::new(format!("Error: No public port '{wanted}' published for {}", app.arg(0)))
        })?;
        out.extend(found.iter().map(|binding| (0, line(binding))));
    } else {
        for (port, bindings) in ports.into_iter().flatten() {
            let number = port.split('/').next().and_then(|n| n.parse().ok()).unwrap_or(0);
            for binding in bindings.as_array().into_iter().flatten() {
                out.push((number, format!("{port} -> {}", line(binding))));
            }
        }
    }
    out.sort_by_key(|(number, _): &(u16, String)| *number);
    print(&out.into_iter().map(|(_, line)| line + "\n").collect::<String>()).map(|()| 0)
}

/// Host and port, an IPv6 address in brackets.
pub fn join(host: &str, port: &str) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

pub fn top(app: &App<'_>) -> Result<u8> {
    let request = app.client.get(format!("{}/top", container(app.arg(0))));
    let answer = request.given("ps_args", &app.args()[1..].join(" ")).fetch()?;
    let row = |row: &Value| {
        let cells = row.as_array().into_iter().flatten();
        cells.map(|cell| cell.as_str().unwrap_or_default()).collect::<Vec<_>>().join("\t")
    };
    let mut lines = vec![row(&answer["Titles"])];
    lines.extend(answer["Processes"].as_array().into_iter().flatten().map(row));
    print(&table::align_at_least(&lines, 20)).map(|()| 0)
}

/// `update`: the same limits for each container; what was not given stays.
pub fn update(app: &App<'_>) -> Result<u8> {
    let flags = app.flags;
    if !flags.any() {
        return Err(Failure::new("you must provide one or more flags when using this command"));
    }
    let mut body = serde_json::json!({
        "BlkioWeight": flags.int("blkio-weight"),
        "CpuPeriod": flags.int("cpu-period"),
        "CpuQuota": flags.int("cpu-quota"),
        "CpuRealtimePeriod": flags.int("cpu-rt-period"),
        "CpuRealtimeRuntime": flags.int("cpu-rt-runtime"),
        "CpuShares": flags.int("cpu-shares"),
        "CpusetCpus": flags.text("cpuset-cpus"),
        "CpusetMems": flags.text("cpuset-mems"),
        "KernelMemory": flags.bytes("kernel-memory"),
        "Memory": flags.bytes("memory"),
        "MemoryReservation": flags.bytes("memory-reservation"),
        "MemorySwap": flags.bytes("memory-swap"),
        "NanoCpus": match flags.text("cpus") {
            "" => 0,
            text => crate::parse::decimal(text).map_err(Failure::new)?,
        },
        "PidsLimit": flags.int("pids-limit"),
    });
    if flags.given("restart") {
        body["RestartPolicy"] =
            crate::create::restart(flags.text("restart")).map_err(Failure::new)?;
    }
    let mut warnings = Vec::new();
    let size = crate::mounts::size(flags).map_err(Failure::new)?;
    let result = app.each(|name| {
        if let Some(size) = size {
            app.client.post(format!("/hoy{}/disk", container(name))).query("size", size).send()?;
            if flags.count() == 1 {
                return Ok(());
            }
        }
        let answer = app.client.post(format!("{}/update", container(name))).json(&body).fetch()?;
        let said = answer["Warnings"].as_array().into_iter().flatten();
        warnings.extend(said.filter_map(Value::as_str).map(str::to_owned));
        Ok(())
    });
    if !warnings.is_empty() {
        print(&format!("{}\n", warnings.join("\n")))?;
    }
    result
}
