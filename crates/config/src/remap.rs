//! `userns-remap`: from a user's name to the ids that its containers' users have on the machine.
//!
//! Pure: the caller reads the files. The rules are Docker's, but for `default`: nothing is
//! added to the machine's users, since what counts is the range of ids alone.

use hoy_types::{IdMaps, IdRange};

/// Whose range `default` is.
const DEFAULT: &str = "dockremap";
/// Where ranges begin, and how long they are, where useradd makes them.
const FIRST: u64 = 100_000;
const LENGTH: u64 = 65_536;

/// The contents of /etc/passwd, /etc/group, /etc/subuid and /etc/subgid.
#[derive(Clone, Debug, Default)]
pub struct IdFiles {
    pub passwd: String,
    pub group: String,
    pub subuid: String,
    pub subgid: String,
}

/// Why there are no ids.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemapError {
    #[error("Invalid user/group specification in --userns-remap: {0:?}")]
    Format(String),
    #[error("userns-remap: Uid {0} has no entry in /etc/passwd")]
    Uid(u32),
    #[error("userns-remap: Gid {0} has no entry in /etc/group")]
    Gid(u32),
    #[error("userns-remap: no user {0:?} in /etc/passwd")]
    User(String),
    #[error("userns-remap: no group {0:?} in /etc/group")]
    Group(String),
    #[error(
        "userns-remap: no {file} ranges found for user {user:?}: add the line \
         \"{user}:{free}:{LENGTH}\" to /etc/{file}"
    )]
    NoRange { file: &'static str, user: String, free: u64 },
    #[error("userns-remap: a line of /etc/{file} is no range of ids: {line:?}")]
    Range { file: &'static str, line: String },
    #[error("userns-remap: {line:?} of /etc/{file} holds the machine's own root")]
    Root { file: &'static str, line: String },
}

/// The name and the number in each line of passwd or group.
fn named(text: &str) -> impl Iterator<Item = (&str, u32)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        Some((name, fields.nth(1)?.parse().ok()?))
    })
}

/// The ids that a setting asks for; `None` where it is the machine's root itself.
pub fn remap(value: &str, files: &IdFiles) -> Result<Option<IdMaps>, RemapError> {
    let format = || RemapError::Format(value.to_owned());
    let (user, group) = match value.split(':').collect::<Vec<_>>().as_slice() {
        [user] => (*user, None),
        [user, group] if !group.is_empty() => (*user, Some(*group)),
        _ => return Err(format()),
    };
    if user.is_empty() {
        return Err(format());
    }
    let (name, uid) = match user.parse::<u32>() {
        Ok(uid) => {
            let found = named(&files.passwd).find(|(_, known)| *known == uid);
            let (name, _) = found.ok_or(RemapError::Uid(uid))?;
            (name, Some(uid))
        }
        Err(_) => {
            let default = user == "default";
            let name = if default { DEFAULT } else { user };
            let found = named(&files.passwd).find(|(known, _)| *known == name);
            if found.is_none() && !default {
                return Err(RemapError::User(name.to_owned()));
            }
            (name, found.map(|(_, uid)| uid))
        }
    };
    let group = match (group, uid) {
        (Some(group), _) => match group.parse::<u32>() {
            Ok(gid) => {
                let found = named(&files.group).find(|(_, known)| *known == gid);
                found.ok_or(RemapError::Gid(gid))?.0
            }
            Err(_) if named(&files.group).any(|(known, _)| known == group) => group,
            Err(_) => return Err(RemapError::Group(group.to_owned())),
        },
        // As Docker: a number stands for the group of that number too, a name for that name.
        (None, Some(uid)) if user.parse::<u32>().is_ok() => {
            let found = named(&files.group).find(|(_, known)| *known == uid);
            found.ok_or(RemapError::Gid(uid))?.0
        }
        (None, _) if user == "default" => name,
        (None, _) => {
            let found = named(&files.group).find(|(known, _)| *known == name);
            found.ok_or_else(|| RemapError::Group(name.to_owned()))?.0
        }
    };
    if name == "root" || uid == Some(0) {
        return Ok(None);
    }
    let uids = ranges("subuid", &files.subuid, name, uid)?;
    // Written for the user, as today's tools do, or for the group, as they once did.
    let gids = match ranges("subgid", &files.subgid, name, uid) {
        Err(RemapError::NoRange { .. }) if group != name => {
            ranges("subgid", &files.subgid, group, None)?
        }
        other => other?,
    };
    Ok(Some(IdMaps { uids, gids }))
}

/// What a subuid or subgid file gives to a user, one range after the other from 0 on.
fn ranges(
    file: &'static str,
    text: &str,
    name: &str,
    uid: Option<u32>,
) -> Result<Vec<IdRange>, RemapError> {
    let mut out = Vec::new();
    let mut inside: u32 = 0;
    let mut free = FIRST;
    for line in text.lines().map(str::trim) {
        let fields: Vec<&str> = line.split(':').collect();
        let range = match fields.as_slice() {
            [_, start, count] => start.parse::<u32>().ok().zip(count.parse::<u32>().ok()),
            _ => None,
        };
        if let Some((start, count)) = range {
            free = free.max(u64::from(start) + u64::from(count));
        }
        let owner = fields.first().copied().unwrap_or("");
        let number = uid.is_some_and(|uid| owner.parse() == Ok(uid));
        if line.starts_with('#') || (owner != name && !number) {
            continue;
        }
        let wrong = || RemapError::Range { file, line: line.to_owned() };
        let (outside, count) = range.ok_or_else(wrong)?;
        let next = inside.checked_add(count).ok_or_else(wrong)?;
        // The last number of all means "nobody" to the kernel.
        if count == 0 || outside.checked_add(count).is_none() {
            return Err(wrong());
        }
        if outside == 0 {
            return Err(RemapError::Root { file, line: line.to_owned() });
        }
        out.push(IdRange { inside, outside, count });
        inside = next;
    }
    if out.is_empty() {
        return Err(RemapError::NoRange { file, user: name.to_owned(), free });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> IdFiles {
        IdFiles {
            passwd: "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/:\nbob:x:1001:50::/:\n"
                .into(),
            group: "root:x:0:\nann:x:1000:\nstaff:x:50:\nbob:x:1001:\n".into(),
            subuid: "ann:100000:65536\n1001:300000:10\nbob:400000:20\n".into(),
            subgid: "ann:200000:65536\nstaff:500000:30\nzero:0:9\n".into(),
        }
    }

    fn range(inside: u32, outside: u32, count: u32) -> IdRange {
        IdRange { inside, outside, count }
    }

    #[test]
    fn every_form() {
        let ann =
            IdMaps { uids: vec![range(0, 100_000, 65_536)], gids: vec![range(0, 200_000, 65_536)] };
        for value in ["ann", "1000", "ann:ann", "1000:1000", "ann:50", "ann:staff"] {
            assert_eq!(remap(value, &files()).unwrap().as_ref(), Some(&ann), "{value}");
        }
        // By name and by number, one after the other; the group's range where the user has none.
        let bob = remap("bob:staff", &files()).unwrap().unwrap();
        assert_eq!(bob.uids, [range(0, 300_000, 10), range(10, 400_000, 20)]);
        assert_eq!(bob.gids, [range(0, 500_000, 30)]);
        assert_eq!(remap("root", &files()), Ok(None));
        assert_eq!(remap("0:0", &files()), Ok(None));
    }

    #[test]
    fn the_default_needs_its_ranges_only() {
        let error = remap("default", &files()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "userns-remap: no subuid ranges found for user \"dockremap\": add the line \
             \"dockremap:400020:65536\" to /etc/subuid"
        );
        let both = "ann:100000:65536\ndockremap:165536:65536\n";
        let files = IdFiles { subuid: both.into(), subgid: both.into(), ..IdFiles::default() };
        let maps = remap("default", &files).unwrap().unwrap();
        assert_eq!((maps.uid(0), maps.gid(65_535)), (Some(165_536), Some(231_071)));
    }

    #[test]
    fn what_is_refused() {
        let files = files();
        for (value, says) in [
            ("", "Invalid user/group"),
            (":", "Invalid user/group"),
            ("ann:", "Invalid user/group"),
            ("a:b:c", "Invalid user/group"),
            ("eve", "no user \"eve\""),
            ("7", "Uid 7"),
            ("ann:7", "Gid 7"),
            ("ann:eve", "no group \"eve\""),
            ("bob", "no subgid ranges found for user \"bob\": add the line \"bob:500030:65536\""),
        ] {
            let error = remap(value, &files).unwrap_err().to_string();
            assert!(error.contains(says), "{value}: {error}");
        }
        let with = |subuid: &str| IdFiles { subuid: subuid.into(), ..files.clone() };
        for (subuid, says) in [
            ("ann:0:65536", "holds the machine's own root"),
            ("ann:x:65536", "is no range of ids"),
            ("ann:1", "is no range of ids"),
            ("ann:100000:0", "is no range of ids"),
            ("ann:4294967290:10", "is no range of ids"),
        ] {
            let error = remap("ann", &with(subuid)).unwrap_err().to_string();
            assert!(error.contains(says), "{subuid}: {error}");
        }
    }
}
