//! Who had the memory when there was none left: the kernel's own table where its log can be read,
//! else the processes as they were when it was first heard of.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;

use crate::end::Task;

/// Processes that are told.
const SHOWN: usize = 10;
/// Processes that are looked at, and records of the kernel's log that are read.
const LOOKED_AT: usize = 1000;
const RECORDS: usize = 50_000;
const PAGE: u64 = 4096;

/// The largest of some processes.
pub(crate) fn of_processes(pids: &[i32]) -> Vec<Task> {
    let found = pids.iter().take(LOOKED_AT).filter_map(|pid| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        of_status(*pid, &text)
    });
    largest(found.collect())
}

fn of_status(pid: i32, text: &str) -> Option<Task> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let rss = field("VmRSS:")?.split(' ').next()?.parse::<u64>().ok()?;
    Some(Task {
        pid,
        name: field("Name:")?.to_owned(),
        rss: rss.saturating_mul(1024),
        killed: false,
    })
}

fn largest(mut tasks: Vec<Task>) -> Vec<Task> {
    tasks.sort_by_key(|task| (!task.killed, std::cmp::Reverse(task.rss)));
    tasks.truncate(SHOWN);
    tasks
}

/// The last table of the kernel's log that is about the cgroup of this id; none where the log is
/// not ours to read or has no table.
pub(crate) fn of_the_kernel(id: &str) -> Vec<Task> {
    const NONBLOCK: i32 = 0o4000;
    let open = File::options().read(true).custom_flags(NONBLOCK).open("/dev/kmsg");
    let Ok(mut log) = open else { return Vec::new() };
    let mut tables = Tables::new(id);
    let mut record = vec![0; 8192];
    for _ in 0..RECORDS {
        match log.read(&mut record) {
            Ok(length) if length > 0 => {
                let text = String::from_utf8_lossy(record.get(..length).unwrap_or_default());
                // "level,sequence,time,flags;text", then lines of other facts.
                let line = text.lines().next().and_then(|line| line.split_once(';'));
                tables.line(line.map_or("", |(_, line)| line));
            }
            // What was overwritten before it was read.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::PIPE.raw_os_error()) => {}
            _ => break,
        }
    }
    largest(tables.last)
}

/// Finds the tables of one cgroup among the lines of the log.
struct Tables<'a> {
    id: &'a str,
    reading: Vec<Task>,
    ours: bool,
    last: Vec<Task>,
}

impl<'a> Tables<'a> {
    fn new(id: &'a str) -> Self {
        Self { id, reading: Vec::new(), ours: false, last: Vec::new() }
    }

    fn line(&mut self, line: &str) {
        if line.starts_with("Tasks state") {
            self.reading.clear();
        } else if let Some(task) = row(line) {
            if self.reading.len() < LOOKED_AT {
                self.reading.push(task);
            }
        } else if let Some(rest) = line.strip_prefix("oom-kill:") {
            let of = |name: &str| rest.split(',').find_map(|word| word.strip_prefix(name));
            let place = of("oom_memcg=").unwrap_or_default();
            self.ours = place.split('/').any(|part| part.contains(self.id));
            let rows = std::mem::take(&mut self.reading);
            if self.ours {
                self.last = rows;
            }
        } else if let Some((_, rest)) = line.split_once("illed process ")
            && self.ours
        {
            let pid = rest.split(' ').next().and_then(|pid| pid.parse().ok());
            let named = rest.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')'));
            self.killed(pid.unwrap_or(0), named.map_or("", |(name, _)| name));
        }
    }

    fn killed(&mut self, pid: i32, name: &str) {
        match self.last.iter_mut().find(|task| task.pid == pid) {
            Some(task) => task.killed = true,
            None => {
                self.last.push(Task { pid, name: name.to_owned(), rss: 0, killed: true });
            }
        }
    }
}

/// `[  1234]     0  1234      553      288       32      256        0    45056  0   0 sh`
fn row(line: &str) -> Option<Task> {
    let (pid, rest) = line.trim_start().strip_prefix('[')?.split_once(']')?;
    let mut words = rest.split_whitespace();
    let _uid: u64 = words.next()?.parse().ok()?;
    let _tgid: u64 = words.next()?.parse().ok()?;
    let _total: u64 = words.next()?.parse().ok()?;
    let rss: u64 = words.next()?.parse().ok()?;
    let name = words.last()?;
    Some(Task {
        pid: pid.trim().parse().ok()?,
        name: name.to_owned(),
        rss: rss.saturating_mul(PAGE),
        killed: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
hog invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0
Tasks state (memory values in pages):
[  pid  ]   uid  tgid total_vm      rss rss_anon rss_file rss_shmem pgtables_bytes swapents oom_score_adj name
[   1234]     0  1234      553      288       32      256         0    45056        0             0 sh
[   1250]     0  1250    20000    16000    15900      100         0   145056        0             0 hog
oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=abc,mems_allowed=0,oom_memcg=/hoy/abc,task_memcg=/hoy/abc,task=hog,pid=1250,uid=0
Memory cgroup out of memory: Killed process 1250 (hog) total-vm:80000kB, anon-rss:63600kB, file-rss:400kB, shmem-rss:0kB, UID:0 pgtables:141kB oom_score_adj:0
Tasks state (memory values in pages):
[      9]     0     9     1000      900      800      100         0    45056        0             0 other
oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=x,mems_allowed=0,oom_memcg=/hoy/other,task_memcg=/hoy/other,task=other,pid=9,uid=0
Memory cgroup out of memory: Killed process 9 (other) total-vm:4000kB, anon-rss:3600kB
";

    #[test]
    fn the_table_of_one_cgroup_is_found() {
        let mut tables = Tables::new("abc");
        LOG.lines().for_each(|line| tables.line(line));
        let found = largest(tables.last);
        let hog = Task { pid: 1250, name: "hog".into(), rss: 16000 * PAGE, killed: true };
        let sh = Task { pid: 1234, name: "sh".into(), rss: 288 * PAGE, killed: false };
        assert_eq!(found, [hog, sh]);
        let mut none = Tables::new("nothing");
        LOG.lines().for_each(|line| none.line(line));
        assert_eq!(none.last, []);
    }

    #[test]
    fn a_process_says_what_it_has() {
        let text = "Name:\tsh\nVmPeak:\t 10 kB\nVmRSS:\t     772 kB\n";
        let task = Task { pid: 7, name: "sh".into(), rss: 772 * 1024, killed: false };
        assert_eq!(of_status(7, text), Some(task));
        assert_eq!(of_status(7, "Name:\tkthreadd\n"), None);
    }
}
