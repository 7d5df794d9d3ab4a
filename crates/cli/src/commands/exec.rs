//! `exec`: one more process in a running container.

use serde_json::json;

use super::App;
use super::run::container;
use crate::failure::{Failure, Result};
use crate::session::{End, Running, Session};
use crate::{create, terminal};

pub fn exec(app: &App<'_>) -> Result<u8> {
    let flags = app.flags;
    let detached = flags.switch("detach");
    let ends_with_client = flags.switch("kill-on-disconnect");
    if detached && ends_with_client {
        return Err(Failure::new("conflicting options: --kill-on-disconnect and --detach"));
    }
    let tty = flags.switch("tty");
    let stdin = flags.switch("interactive") && !detached;
    if tty && stdin && !terminal::stdin_is_terminal() {
        return Err(Failure::new("the input device is not a TTY"));
    }
    // What Docker's engine says of them.
    let (keys_text, keys) = app.detach_keys().map_err(|failure| {
        let keys = app.flags.text("detach-keys");
        match keys {
            "" => failure,
            _ => Failure::new(format!(
                "Error response from daemon: Invalid escape keys ({keys}) provided"
            )),
        }
    })?;
    let env = create::environment(flags).map_err(Failure::new)?;
    let mut request = json!({
        "User": flags.text("user"),
        "Privileged": flags.switch("privileged"),
        "Tty": tty,
    });
    if let (true, Some((rows, columns))) = (tty, terminal::size()) {
        request["ConsoleSize"] = json!([rows, columns]);
    }
    request["AttachStdin"] = stdin.into();
    request["AttachStderr"] = (!detached).into();
    request["AttachStdout"] = (!detached).into();
    request["Detach"] = detached.into();
    request["DetachKeys"] = keys_text.into();
    request["Env"] = if env.is_empty() { serde_json::Value::Null } else { json!(env) };
    request["WorkingDir"] = flags.text("workdir").into();
    request["Cmd"] = json!(app.args()[1..]);
    let answer =
        app.client.post(format!("{}/exec", container(app.arg(0)))).json(&request).fetch()?;
    let object = format!("/exec/{}", answer["Id"].as_str().unwrap_or_default());
    let start = app
        .client
        .post(format!("{object}/start"))
        .switch("hoy-kill-on-disconnect", ends_with_client);
    if detached {
        start.json(&json!({ "Detach": true, "Tty": tty })).send()?;
        return Ok(0);
    }
    let mut session = Running::prepare(Session {
        client: &app.client,
        object: object.clone(),
        proxy_to: None,
        tty,
        stdin,
        keys,
    })?;
    let mut how = json!({ "Detach": false, "Tty": tty });
    if let Some(size) = request.get("ConsoleSize") {
        how["ConsoleSize"] = size.clone();
    }
    let streams = start.json(&how).hijack()?;
    session.take_terminal()?;
    session.send_first_size();
    match session.pump(streams)? {
        End::Detached => Err(Failure::new("read escape sequence")),
        End::Output => {
            let answer = app.client.get(format!("{object}/json")).fetch()?;
            let code = answer["ExitCode"].as_i64().unwrap_or(1);
            Ok(u8::try_from(code & 0xff).unwrap_or(1))
        }
    }
}
