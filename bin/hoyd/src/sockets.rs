//! Where the daemon listens, with what a service manager gives it.

use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result, ensure};
use hoy_api::{Place, Tls, TlsFiles};
use hoy_config::Settings;

/// The settings' addresses as places to listen on; all files are read now.
pub fn places(settings: &Settings) -> Result<Vec<(String, Place)>> {
    let files = &settings.tls;
    let tls = if files.on {
        let files = TlsFiles {
            ca: Some(files.ca.clone()),
            cert: Some(files.cert.clone()),
            key: Some(files.key.clone()),
            verify: files.verify,
        };
        Some(Tls::open(&files).context("TLS")?)
    } else {
        None
    };
    let mut given: Vec<(usize, OwnedFd, String)> = hoy_sys::inherited::sockets()
        .context("take the service manager's sockets")?
        .into_iter()
        .enumerate()
        .map(|(index, (socket, name))| (index + 3, socket, name))
        .collect();
    let mut out = Vec::new();
    for host in &settings.hosts {
        match host.split_once("://") {
            Some(("unix", path)) => out.push((host.clone(), Place::Unix(path.into()))),
            Some(("fd", wanted)) => {
                let is = |(number, _, name): &mut (usize, OwnedFd, String)| {
                    matches!(wanted, "" | "*") || *name == wanted || number.to_string() == wanted
                };
                let before = out.len();
                let found = given.extract_if(.., is);
                out.extend(
                    found.map(|(_, socket, _)| (host.clone(), Place::Given(socket, tls.clone()))),
                );
                ensure!(
                    out.len() > before,
                    "no sockets found via socket activation for {host}: make sure the service was started by systemd"
                );
            }
            Some((_, address)) => {
                // Docker's ports, where none is named.
                let port = if tls.is_some() { 2376 } else { 2375 };
                let address = match address.rsplit_once(':') {
                    Some((_, after)) if !after.is_empty() && !after.ends_with(']') => {
                        address.to_owned()
                    }
                    _ => format!("{}:{port}", address.trim_end_matches(':')),
                };
                let address = match address.strip_prefix(':') {
                    Some(port) => format!("127.0.0.1:{port}"),
                    None => address,
                };
                out.push((host.clone(), Place::Tcp(address, tls.clone())));
            }
            None => {}
        }
    }
    Ok(out)
}

/// Tells the service manager, if one asked to be told.
pub fn tell(what: &str) {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let path = path.to_string_lossy();
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&*path),
    };
    // Nobody there: the daemon serves all the same.
    let sent = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(what.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::debug!(%error, "tell the service manager");
    }
}
