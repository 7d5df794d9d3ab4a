//! The greeting of the embedded image `hello`: the first program that hoy runs for anybody.
//!
//! It tells what it sees, so that a first look shows that the isolation is real.

use std::io::Write as _;
use std::process::ExitCode;

const BOAT: &str = r"
              |\
              | \        Hello from inside a container!
              |  \
              |___\      This greeting was printed by process {pid}
          ____|_____     on host {host}, which sees {processes} of its kind
    ~~~~~~\________/~~~~ and nothing of the machine around it.
";

fn main() -> ExitCode {
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let text = BOAT
        .replace("{pid}", &std::process::id().to_string())
        .replace("{host}", hostname.trim())
        .replace("{processes}", &processes());
    let next = "\nWhat next?\n  \
        hoy load -i image.tar            bring in an image that `docker save` wrote\n  \
        hoy import rootfs.tar.gz name    make an image of a root file system\n  \
        hoy run -it name sh              look around in it\n  \
        hoy ps -a                        what ran, and how it ended\n\n\
        `alias docker=hoy` works; so does DOCKER_HOST=unix:///run/hoy.sock docker.\n\n";
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(next.as_bytes())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn processes() -> String {
    let numeric = |name: &std::ffi::OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    let count = std::fs::read_dir("/proc")
        .map(|dir| dir.flatten().filter(|entry| numeric(&entry.file_name())).count())
        .unwrap_or(0);
    if count == 1 { "1 process".into() } else { format!("{count} processes") }
}
