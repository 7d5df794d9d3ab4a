//! A process and all that it has begun: by parents, and by the session that it leads, where a
//! parent has ended.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;

use hoy_sys::process;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// New ones may begin while the known ones are ended.
const ROUNDS: usize = 5;

/// What /proc/PID/stat says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Member {
    parent: i32,
    session: i32,
    /// Nothing is left of it but its exit status.
    over: bool,
}

/// Ends a process and its descendants.
pub(crate) fn kill(leader: i32) {
    for _ in 0..ROUNDS {
        let known = all();
        let victims = members(leader, &known);
        if victims.is_empty() {
            return;
        }
        for pid in victims {
            let Some(raw) = Pid::from_raw(pid) else { continue };
            let Ok(pidfd) = pidfd_open(raw, PidfdFlags::empty()) else { continue };
            // The number may be another's by now: asked again, it is the one that is held.
            let session = |member: &Member| member.session;
            if look(pid).as_ref().map(session) == known.get(&pid).map(session) {
                let _ = process::pidfd_signal(pidfd.as_fd(), 9);
            }
        }
    }
}

fn all() -> BTreeMap<i32, Member> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids: Vec<i32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    all_of(&pids)
}

fn all_of(pids: &[i32]) -> BTreeMap<i32, Member> {
    pids.iter().filter_map(|pid| Some((*pid, look(*pid)?))).collect()
}

fn look(pid: i32) -> Option<Member> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in parentheses may have anything in it.
fn parse(stat: &str) -> Option<Member> {
    let mut words = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    let over = matches!(words.next()?, "Z" | "X");
    let parent = words.next()?.parse().ok()?;
    let session = words.nth(1)?.parse().ok()?;
    Some(Member { parent, session, over })
}

/// Those of them that live.
fn members(leader: i32, all: &BTreeMap<i32, Member>) -> Vec<i32> {
    let belongs = |mut pid: i32| {
        // No deeper than there are processes: what is read one after the other may have circles.
        for _ in 0..=all.len() {
            if pid == leader {
                return true;
            }
            match all.get(&pid) {
                Some(member) if member.session == leader => return true,
                Some(member) => pid = member.parent,
                None => return false,
            }
        }
        false
    };
    all.iter().filter(|(pid, member)| !member.over && belongs(**pid)).map(|(pid, _)| *pid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_behind_the_name() {
        let member = parse("12 (a) b (c) S 7 12 5 0 -1 4194304").unwrap();
        assert_eq!(member, Member { parent: 7, session: 5, over: false });
        assert!(parse("12 (x) Z 1 1 1 0").unwrap().over);
        assert_eq!(parse("nothing"), None);
        assert_eq!(parse("1 (x) S"), None);
    }

    #[test]
    fn children_and_the_session_belong_to_it() {
        let member = |parent, session| Member { parent, session, over: false };
        let all = BTreeMap::from([
            (1, member(0, 1)),
            (10, member(1, 10)),
            (11, member(10, 10)),
            // Its parent has ended.
            (12, member(1, 10)),
            // Led away from the session, and still a grandchild.
            (13, member(11, 13)),
            (14, member(1, 14)),
            // A circle, as one that reads while numbers change may see.
            (20, member(21, 20)),
            (21, member(20, 20)),
            (15, Member { over: true, ..member(10, 10) }),
        ]);
        assert_eq!(members(10, &all), [10, 11, 12, 13]);
    }

    #[test]
    fn all_of_them_end() {
        use std::process::{Command, Stdio};
        let line = "(sleep 1000 & sleep 1000 & wait) & echo up; sleep 1000";
        let mut child = Command::new("setsid")
            .args(["-w", "sh", "-c", line])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let leader = i32::try_from(child.id()).unwrap();
        let mut word = [0; 3];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut word).unwrap();
        kill(leader);
        child.wait().unwrap();
        // They have been told to; each takes the moment that the kernel gives it.
        for _ in 0..500 {
            if members(leader, &all()).is_empty() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("{:?} go on", members(leader, &all()));
    }
}
