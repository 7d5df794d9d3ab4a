//! `top`: what the host's own `ps` says of a container's processes.
//!
//! `ps` is the machine's program, never the image's. It reads what processes say of themselves and
//! may wait for one that the kernel holds: it has a deadline, and only so many run at a time. Where
//! the machine has none, what `ps -ef` shows is read from /proc.

use std::collections::HashSet;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hoy_types::Timestamp;
use hoy_wire as wire;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::engine::{Engine, Inner};
use crate::error::{Error, Result, failed, lost};
use crate::life::Wish;
use crate::plan;

/// Docker's arguments where there are none.
const USUAL: &str = "-ef";
/// How long `ps` may take, and how many run at a time; one that the kernel holds counts.
const DEADLINE: Duration = Duration::from_secs(10);
const AT_A_TIME: usize = 8;
/// No honest table is longer.
const MOST: u64 = 16 << 20;
/// Where programs of the machine are, whatever the daemon's own environment says.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The places of those that run.
pub(crate) struct Tops(Arc<Semaphore>);

impl Default for Tops {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_A_TIME)))
    }
}

impl Engine {
    /// The processes of a container, as the host sees them.
    pub async fn top(&self, id: &str, arguments: &str) -> Result<wire::TopResponse> {
        let arguments = if arguments.is_empty() { USUAL } else { arguments }.to_owned();
        check(&arguments)?;
        let handle = self.find(id)?;
        let record = handle.record();
        let admitted = record.state.phase.admits(Wish::Top, handle.id.as_str());
        admitted.map_err(|(kind, message)| Error::new(kind, message))?;
        let busy = || Error::system("ps: too many are still running");
        let place = tokio::time::timeout(DEADLINE, Arc::clone(&self.inner.tops.0).acquire_owned());
        let place = place.await.map_err(|_| busy())?.map_err(|_| busy())?;
        let cgroup = plan::cgroup(&record, &self.inner.settings);
        let table = tokio::task::spawn_blocking(move || {
            let cgroup = hoy_cgroup::Cgroup::open(&cgroup).map_err(failed("open the cgroup"))?;
            let processes = cgroup.map(|cgroup| cgroup.processes()).unwrap_or_default();
            ask(&arguments, &processes, place)
        });
        let table = table.await.map_err(lost)??;
        self.inner.top_event(&record);
        Ok(table)
    }
}

impl Inner {
    fn top_event(&self, record: &crate::record::Record) {
        self.container_event(record, "top", &[]);
    }
}

/// A column under another column's name would be taken for the process's number.
fn check(arguments: &str) -> Result<()> {
    for (at, _) in arguments.match_indices('=') {
        let (before, after) = (&arguments[..at], arguments[at + 1..].trim_start());
        let start = before.rfind(|c: char| c.is_ascii_whitespace());
        let Some(start) = start else { continue };
        let name = &before[start + 1..];
        let title = after.split_ascii_whitespace().next().unwrap_or_default();
        if title.starts_with("PID") && name != "pid" {
            return Err(Error::system(format!("specifying \"{name}={title}\" is not allowed")));
        }
    }
    Ok(())
}

fn ask(
    arguments: &str,
    processes: &[i32],
    place: OwnedSemaphorePermit,
) -> Result<wire::TopResponse> {
    let numbers: Vec<String> = processes.iter().map(ToString::to_string).collect();
    let only = format!("-q{}", numbers.join(","));
    let words: Vec<&str> = arguments.split(' ').collect();
    let place = Arc::new(place);
    let wanted: HashSet<i32> = processes.iter().copied().collect();
    // Some options go with no list of numbers: then all are asked for.
    let narrow = match run(&[words.as_slice(), &[only.as_str()]].concat(), &place) {
        Ok(output) => Some(output),
        Err(Failure::Missing) if arguments == USUAL => return Ok(from_proc(processes)),
        Err(Failure::Refused(_)) => None,
        Err(failure) => return Err(failure.told()),
    };
    let output = match narrow {
        Some(output) => output,
        None => run(&words, &place).map_err(Failure::told)?,
    };
    parse(&output, &wanted)
}

/// Why there is no table.
enum Failure {
    Missing,
    Refused(String),
    Late,
    Other(std::io::Error),
}

impl Failure {
    fn told(self) -> Error {
        match self {
            Self::Missing => Error::system("ps: executable file not found in $PATH"),
            Self::Refused(text) => Error::system(text),
            Self::Late => Error::system(format!(
                "ps did not end in {} seconds: perhaps the kernel holds a process",
                DEADLINE.as_secs()
            )),
            Self::Other(error) => failed("run ps")(error),
        }
    }
}

fn run(words: &[&str], place: &Arc<OwnedSemaphorePermit>) -> std::result::Result<String, Failure> {
    let mut command = Command::new("ps");
    command.args(words).env_clear().env("PATH", PATH).env("LC_ALL", "C.UTF-8");
    if let Ok(zone) = std::env::var("TZ") {
        command.env("TZ", zone);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::Missing,
        _ => Failure::Other(error),
    })?;
    let read = read(&mut child, Instant::now() + DEADLINE);
    let (output, complaint) = match read {
        Ok(read) => read,
        Err(failure) => {
            let _ = child.kill();
            // It may not even die: whoever waits for it keeps its place.
            let place = Arc::clone(place);
            std::thread::spawn(move || {
                let _ = child.wait();
                drop(place);
            });
            return Err(failure);
        }
    };
    let status = child.wait().map_err(Failure::Other)?;
    if !status.success() {
        let first = complaint.lines().next().unwrap_or_default();
        let why = if first.is_empty() { status.to_string() } else { first.to_owned() };
        return Err(Failure::Refused(format!("ps: {why}")));
    }
    Ok(output)
}

/// What it writes, until it has closed both.
fn read(child: &mut Child, until: Instant) -> std::result::Result<(String, String), Failure> {
    let (Some(mut out), Some(mut err)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(Failure::Other(std::io::ErrorKind::BrokenPipe.into()));
    };
    let mut texts = [Vec::new(), Vec::new()];
    let mut open = [true, true];
    while open[0] || open[1] {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || (texts[0].len() + texts[1].len()) as u64 > MOST {
            return Err(Failure::Late);
        }
        let ready = {
            let wanted = |open: bool| if open { PollFlags::IN } else { PollFlags::empty() };
            let mut fds = [PollFd::new(&out, wanted(open[0])), PollFd::new(&err, wanted(open[1]))];
            let left =
                Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut fds, Some(&left)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(Failure::Other(errno.into())),
            }
            [!fds[0].revents().is_empty(), !fds[1].revents().is_empty()]
        };
        let mut piece = [0; 16 * 1024];
        for index in [0, 1] {
            if !(open[index] && ready[index]) {
                continue;
            }
            let length = match index {
                0 => out.read(&mut piece),
                _ => err.read(&mut piece),
            };
            match length.map_err(Failure::Other)? {
                0 => open[index] = false,
                length => texts[index].extend_from_slice(&piece[..length]),
            }
        }
    }
    let [output, complaint] = texts.map(|text| String::from_utf8_lossy(&text).into_owned());
    Ok((output, complaint))
}

/// The rows of some processes. Threads have no number of their own: they follow their process.
fn parse(output: &str, wanted: &HashSet<i32>) -> Result<wire::TopResponse> {
    let mut lines = output.split('\n');
    let fields = |line: &str| -> Vec<String> {
        line.split(['\t', '\n', '\x0c', '\r', ' '])
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let titles = fields(lines.next().unwrap_or_default());
    let number = titles.iter().position(|title| title == "PID");
    let number = number.ok_or_else(|| Error::system("Couldn't find PID field in ps output"))?;
    let mut rows = Vec::new();
    let mut follows = false;
    for line in lines {
        let mut row = fields(line);
        let Some(pid) = row.get(number) else { continue };
        if pid != "-" {
            let parsed = pid.parse::<i32>();
            let parsed = parsed
                .map_err(|_| Error::system(format!("Unexpected pid '{pid}': invalid syntax")))?;
            follows = wanted.contains(&parsed);
        }
        if follows {
            // What is too much belongs to the last column.
            if row.len() >= titles.len() {
                let rest = row.split_off(titles.len() - 1).join(" ");
                row.push(rest);
            }
            rows.push(row);
        }
    }
    Ok(wire::TopResponse { titles: Some(titles), processes: Some(rows) })
}

/// What `ps -ef` would say, read from /proc.
fn from_proc(processes: &[i32]) -> wire::TopResponse {
    let titles = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];
    let rows = processes.iter().filter_map(|pid| process_row(*pid)).collect();
    wire::TopResponse {
        titles: Some(titles.iter().map(|title| (*title).to_owned()).collect()),
        processes: Some(rows),
    }
}

fn process_row(pid: i32) -> Option<Vec<String>> {
    use std::os::unix::fs::MetadataExt as _;
    let directory = format!("/proc/{pid}");
    let uid = std::fs::metadata(&directory).ok()?.uid();
    let stat = std::fs::read_to_string(format!("{directory}/stat")).ok()?;
    let (head, rest) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |index: usize| fields.get(index).and_then(|text| text.parse::<i64>().ok());
    let command = std::fs::read(format!("{directory}/cmdline")).unwrap_or_default();
    let words: Vec<String> = command
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let ticks = number(11)? + number(12)?;
    let seconds = ticks / 100;
    let terminal = match number(4)? {
        0 => "?".to_owned(),
        device => format!("pts/{}", device & 0xff | (device >> 12) & 0xfff00),
    };
    let started = boot_time() + number(19)? / 100;
    let time = Timestamp::from_parts(started, 0).to_string();
    let user = if uid == 0 { "root".to_owned() } else { uid.to_string() };
    Some(vec![
        user,
        pid.to_string(),
        number(1)?.to_string(),
        "0".to_owned(),
        time.get(11..16).unwrap_or_default().to_owned(),
        terminal,
        format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
        if words.is_empty() { format!("[{name}]") } else { words.join(" ") },
    ])
}

fn boot_time() -> i64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables() {
        let wanted = HashSet::from([7, 9]);
        let output = "  PID TTY  CMD\n    7 ?  sh -c x\n    - -  -\n    8 ?  other\n    - -  -\n    9 ?  a\n";
        let table = parse(output, &wanted).unwrap_or_default();
        let rows = [["7", "?", "sh -c x"], ["-", "-", "-"], ["9", "?", "a"]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec()).to_vec();
        assert_eq!(table.processes, Some(rows));
        assert!(parse("USER CMD\nroot sh\n", &wanted).is_err());
        assert!(parse("PID CMD\nx sh\n", &wanted).is_err());
    }

    #[test]
    fn another_column_is_not_the_number() {
        for arguments in ["-o pid,comm=PID", "-o ppid=PIDX", "-o uid= PID"] {
            let refused = check(&format!("-e {arguments}")).is_err();
            assert!(refused || arguments.contains("pid,comm"), "{arguments}");
        }
        for arguments in ["-ef", "-o pid=PID", "-o pid=PIDX,comm=x", "aux", "=PID"] {
            assert!(check(arguments).is_ok(), "{arguments}");
        }
    }
}
