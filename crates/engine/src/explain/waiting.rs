//! What processes of a container wait for in the kernel, and sources of mounts that do not answer.

use std::time::Duration;

use tokio::sync::mpsc;

/// Processes that are looked at.
const LOOKED_AT: usize = 200;
/// One that still waits after this time waits for what does not come soon.
const BETWEEN: Duration = Duration::from_millis(150);
/// How long sources of mounts may take to be looked at, all together.
const SOURCES: Duration = Duration::from_secs(2);
/// What the places are called in which the kernel waits for the server of a file system.
const PLACES: [&str; 9] =
    ["request_wait_answer", "fuse", "rpc_", "nfs", "cifs", "smb", "ceph", "p9_", "v9fs"];
/// File systems with a server, by the beginnings of their names.
const SERVED: [&str; 8] = ["fuse", "nfs", "cifs", "smb", "ceph", "9p", "glusterfs", "lustre"];

/// A process that waits for a file system's server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub pid: i32,
    pub name: String,
    pub place: String,
}

/// Those of some processes that wait now and go on to. Blocks for a moment where there are any.
pub(super) fn of_processes(pids: &[i32]) -> Vec<Waiting> {
    let first: Vec<Waiting> = pids.iter().take(LOOKED_AT).filter_map(|pid| look(*pid)).collect();
    if first.is_empty() {
        return first;
    }
    std::thread::sleep(BETWEEN);
    first.into_iter().filter(|one| look(one.pid).as_ref() == Some(one)).collect()
}

fn look(pid: i32) -> Option<Waiting> {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
    let stat = read("stat")?;
    let (head, rest) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let place = read("wchan").unwrap_or_default();
    let waits = rest.trim_start().starts_with(['D', 'S']) && is_a_server(&place);
    waits.then_some(Waiting { pid, name, place })
}

fn is_a_server(place: &str) -> bool {
    PLACES.iter().any(|known| place.contains(known))
}

/// Mounts in a tree of mounts whose file systems have servers: where, and of which kind.
pub(super) fn served(mountinfo: &str) -> Vec<(String, String)> {
    let of = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let (target, kind) = (before.split(' ').nth(4)?, after.split(' ').next()?);
        let known = SERVED.iter().any(|start| kind.starts_with(start));
        known.then(|| (target.to_owned(), kind.to_owned()))
    };
    mountinfo.lines().filter_map(of).collect()
}

/// What came of looking for the sources of mounts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sources {
    pub gone: Vec<String>,
    /// The one that has not answered; those behind it were not looked for.
    pub silent: Option<String>,
}

/// Looks for them where it keeps nobody: one that does not answer holds a thread until it does, and
/// `turn` for as long.
pub(super) async fn sources<T: Send + 'static>(paths: Vec<String>, turn: T) -> Sources {
    let (tell, mut told) = mpsc::channel(paths.len().max(1));
    let asked = paths.clone();
    tokio::task::spawn_blocking(move || {
        let _turn = turn;
        for path in asked {
            let found = std::fs::symlink_metadata(&path);
            let gone = found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
            if tell.blocking_send(gone).is_err() {
                return;
            }
        }
    });
    let deadline = tokio::time::Instant::now() + SOURCES;
    let mut out = Sources::default();
    for path in paths {
        match tokio::time::timeout_at(deadline, told.recv()).await {
            Ok(Some(true)) => out.gone.push(path),
            Ok(_) => {}
            Err(_) => {
                out.silent = Some(path);
                break;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_mounts() {
        assert!(is_a_server("request_wait_answer") && is_a_server("rpc_wait_bit_killable"));
        assert!(!is_a_server("io_schedule") && !is_a_server("0") && !is_a_server(""));
        let text = "30 24 0:26 / / rw - overlay overlay rw\n\
                    31 30 0:60 / /data rw,nosuid shared:2 - fuse.sshfs host: rw\n\
                    32 30 0:61 /x /n rw - nfs4 host:/x rw\nnothing\n";
        let found = served(text);
        assert_eq!(found, [("/data".into(), "fuse.sshfs".into()), ("/n".into(), "nfs4".into())]);
        assert_eq!(of_processes(&[std::process::id().cast_signed(), -1]), []);
    }

    #[test]
    fn what_is_not_there_is_gone() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let found = runtime.block_on(sources(vec!["/proc".into(), "/nosuch".into()], ()));
        assert_eq!(found, Sources { gone: vec!["/nosuch".into()], silent: None });
    }
}
