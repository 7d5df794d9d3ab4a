//! What Docker's engines have only with experiments: none of it is here, and an engine that has none
//! is told of in Docker's words.

use crate::connect;
use crate::failure::{Failure, Result};
use crate::grammar::Command;
use crate::help::NAME;
use crate::parse::Parsed;

/// What Docker says of a command or a flag.
fn words(what: &str) -> String {
    format!("{what} is only supported on a Docker daemon with experimental features enabled")
}

fn unbuilt(what: &str) -> Failure {
    Failure::new(format!("{what} is not available yet"))
}

/// Whether the engine says that it has experiments.
fn has_them(client: &hoy_client::Client) -> Result<bool> {
    let answer = client.get("/_ping").send()?;
    Ok(answer.header("Docker-Experimental") == Some("true"))
}

/// `checkpoint …`: refused, whatever is said with it; help is given only where the engine has it.
pub fn command(command: &Command, help: bool, global: &Parsed) -> Result<u8> {
    let (client, _) = connect::client(global)?;
    let name = format!("{NAME} {}", command.path);
    if has_them(&client)? {
        return Err(unbuilt(&format!("{NAME}: '{name}'")));
    }
    if help {
        return crate::print(&(words(&name) + "\n")).map(|()| 0);
    }
    Err(Failure::new(words(&name)))
}

/// A flag that means something with experiments.
pub fn flag(client: &hoy_client::Client, flag: &str) -> Result<Failure> {
    let name = format!("--{flag}");
    Ok(match has_them(client)? {
        true => unbuilt(&name),
        false => Failure::new(words(&format!("\"{name}\""))),
    })
}
