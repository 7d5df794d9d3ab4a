//! podman with a store of its own for each runtime: a container keeps the one it was made with.

use std::rc::Rc;

use anyhow::{Result, ensure};
use rustix::process::{Resource, getrlimit};

use crate::account::Account;
use crate::peer::{Engine, Kind, Peer};
use crate::place::Place;

pub fn prepare(place: &Place, name: &'static str, runtime: &str) -> Result<Peer> {
    for program in ["podman", "conmon", runtime] {
        ensure!(crate::installed(program), "{program} is not installed (package {program})");
    }
    let account = Account::open(place, name)?;
    let work = place.work.join(name);
    std::fs::create_dir(&work)?;
    let conf = work.join("containers.conf");
    std::fs::write(&conf, configuration(getrlimit(Resource::Nofile).maximum))?;
    let mut prefix = vec!["podman".to_owned()];
    for (flag, directory) in [
        ("--root", "root"),
        ("--runroot", "run"),
        ("--tmpdir", "tmp"),
        ("--network-config-dir", "net"),
    ] {
        prefix.extend([flag.to_owned(), work.join(directory).display().to_string()]);
    }
    let words =
        ["--cgroup-manager", "cgroupfs", "--storage-driver", "overlay", "--runtime", runtime];
    prefix.extend(words.map(str::to_owned));
    let engine = Engine {
        prefix,
        env: vec![("CONTAINERS_CONF".to_owned(), conf.display().to_string())],
        run: vec![format!("--cgroup-parent={}/containers", account.cgroup)],
        remove: &["rm", "-f", "-t", "0"],
        guest: false,
    };
    Ok(Peer { name, account: Rc::new(account), kind: Kind::Engine(engine) })
}

/// podman asks for more descriptors than a limited root may have, and for a log and events in the
/// journal, which is not everywhere.
fn configuration(descriptors: Option<u64>) -> String {
    let limit = descriptors.unwrap_or(1 << 20).min(1 << 20);
    format!(
        "[containers]\n\
         default_ulimits = [\"nofile={limit}:{limit}\", \"nproc=32768:32768\"]\n\
         log_driver = \"k8s-file\"\n\
         [engine]\n\
         events_logger = \"file\"\n\
         [network]\n\
         network_backend = \"netavark\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_descriptors_than_allowed() {
        assert!(configuration(Some(4096)).contains("nofile=4096:4096"));
        assert!(configuration(None).contains("nofile=1048576:1048576"));
    }
}
