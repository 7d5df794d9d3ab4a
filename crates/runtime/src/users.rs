//! Users and groups from the image's own passwd and group files. Parsing is pure.

use hoy_rootfd::RootFd;
use hoy_types::{IdMaps, UserRef, UserSpec};
use hoy_weak::Protection;

use crate::error::StartError;

/// Larger files are not believed.
const LIMIT: u64 = 1 << 20;
const MAX_GROUPS: usize = 1024;

/// Who a process is.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Credentials {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

/// Looks a user up below a root.
pub(crate) fn resolve(
    root: &RootFd,
    spec: &UserSpec,
    additional: &[UserRef],
) -> Result<Credentials, StartError> {
    let read = |path: &str| match root.read(path, LIMIT) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.is_missing() => Ok(String::new()),
        Err(error) => Err(StartError::invalid(error.to_string())),
    };
    find(&read("/etc/passwd")?, &read("/etc/group")?, spec, additional)
}

/// Whether a user namespace has all of somebody's ids.
pub(crate) fn check_mapped(who: &Credentials, maps: Option<&IdMaps>) -> Result<(), StartError> {
    let Some(maps) = maps else { return Ok(()) };
    if maps.uid(who.uid).is_none() {
        return Err(unmapped("uid", who.uid));
    }
    match who.groups.iter().chain([&who.gid]).find(|gid| maps.gid(**gid).is_none()) {
        Some(gid) => Err(unmapped("gid", *gid)),
        None => Ok(()),
    }
}

fn unmapped(kind: &str, id: u32) -> StartError {
    StartError::invalid(format!("{kind} {id} is not mapped in the container's user namespace"))
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd(text: &str) -> impl Iterator<Item = Passwd<'_>> {
    text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.trim().split(':').collect();
        let &[name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
        Some(Passwd { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
    })
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn groups(text: &str) -> impl Iterator<Item = Group<'_>> {
    text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.trim().split(':').collect();
        let &[name, _, gid, ref rest @ ..] = fields.as_slice() else { return None };
        let members = rest.first().copied().unwrap_or("");
        Some(Group { name, gid: gid.parse().ok()?, members })
    })
}

fn find(
    passwd_text: &str,
    group_text: &str,
    spec: &UserSpec,
    additional: &[UserRef],
) -> Result<Credentials, StartError> {
    let root = UserRef::Id(0);
    let user = spec.user.as_ref().unwrap_or(&root);
    // A number is a number, also where somebody in the image bears it as a name.
    let entry = passwd(passwd_text).find(|entry| match user {
        UserRef::Id(id) if hoy_weak::without(Protection::Numbers) => entry.name == id.to_string(),
        UserRef::Id(id) => entry.uid == *id,
        UserRef::Name(name) => entry.name == name,
    });
    let mut out = Credentials { home: "/".to_owned(), ..Credentials::default() };
    match (&entry, user) {
        (Some(entry), _) => {
            out.uid = entry.uid;
            out.gid = entry.gid;
            entry.home.clone_into(&mut out.home);
        }
        (None, UserRef::Id(id)) => out.uid = *id,
        (None, UserRef::Name(name)) => {
            return Err(StartError::invalid(format!(
                "unable to find user {name}: no matching entries in passwd file"
            )));
        }
    }
    let group_id = |group: &UserRef| match group {
        UserRef::Id(id) => Ok(*id),
        UserRef::Name(name) => groups(group_text)
            .find(|group| group.name == name)
            .map(|group| group.gid)
            .ok_or_else(|| {
                StartError::invalid(format!(
                    "unable to find group {name}: no matching entries in group file"
                ))
            }),
    };
    match &spec.group {
        Some(group) => out.gid = group_id(group)?,
        None => {
            if let Some(entry) = &entry {
                let member = |group: &Group<'_>| group.members.split(',').any(|m| m == entry.name);
                out.groups.extend(groups(group_text).filter(member).map(|group| group.gid));
            }
        }
    }
    for group in additional {
        out.groups.push(group_id(group)?);
    }
    out.groups.truncate(MAX_GROUPS);
    // The primary group counts among the others, as the kernel's own logins have it.
    out.groups.insert(0, out.gid);
    out.groups.sort_unstable();
    out.groups.dedup();
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\n1000:x:0:0::/evil:/bin/sh\nweb:x:33:33::/srv:\nbad\n";
    const GROUP: &str = "root:x:0:\nstaff:x:50:web,other\nweb:x:33:\nnumbers:x:x:\n";

    fn found(user: &str, add: &[UserRef]) -> Result<Credentials, StartError> {
        find(PASSWD, GROUP, &user.parse().unwrap(), add)
    }

    #[test]
    fn names_and_numbers() {
        let web = found("web", &[]).unwrap();
        assert_eq!((web.uid, web.gid, web.groups.as_slice()), (33, 33, &[33, 50][..]));
        assert_eq!(web.home, "/srv");
        let number = found("1000", &[]).unwrap();
        assert_eq!((number.uid, number.gid), (1000, 0), "not the user who is called 1000");
        let other = found("web:staff", &[UserRef::Id(7)]).unwrap();
        assert_eq!((other.gid, other.groups.as_slice()), (50, &[7, 50][..]));
        assert_eq!(found("", &[]).unwrap().home, "/root");
    }

    #[test]
    fn unknown() {
        let text = found("nobody", &[]).unwrap_err().message;
        assert_eq!(text, "unable to find user nobody: no matching entries in passwd file");
        assert!(found("web:none", &[]).is_err());
        assert!(found("web", &[UserRef::Name("none".into())]).is_err());
    }
}
