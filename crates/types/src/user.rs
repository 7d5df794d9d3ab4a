//! `--user` values: a name or a number, with an optional group.

use std::str::FromStr;

use hoy_weak::{Protection, without};

/// A user or a group as given.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum UserRef {
    Id(u32),
    Name(String),
}

/// `user[:group]`; nothing means root.
#[derive(Clone, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct UserSpec {
    pub user: Option<UserRef>,
    pub group: Option<UserRef>,
}

/// Why a text is not a user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    #[error("uids and gids must be in range 0-2147483647")]
    Range,
    #[error("invalid user {0:?}")]
    Format(String),
}

/// What Docker allows, and all that the kernel's interfaces agree on.
const MAX_ID: u64 = i32::MAX as u64;

fn part(text: &str) -> Result<Option<UserRef>, UserError> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.bytes().all(|c| c.is_ascii_digit()) {
        return match text.parse::<u64>() {
            Ok(id) if without(Protection::Ids) => Ok(Some(UserRef::Id(id as u32))),
            Ok(id) if id <= MAX_ID => Ok(Some(UserRef::Id(id as u32))),
            _ => Err(UserError::Range),
        };
    }
    if text.starts_with('-') || text.chars().any(|c| c == ':' || c == '/' || c.is_control()) {
        return Err(UserError::Format(text.to_owned()));
    }
    Ok(Some(UserRef::Name(text.to_owned())))
}

impl FromStr for UserSpec {
    type Err = UserError;

    fn from_str(text: &str) -> Result<Self, UserError> {
        match text.split_once(':') {
            Some((user, group)) => Ok(Self { user: part(user)?, group: part(group)? }),
            None => Ok(Self { user: part(text)?, group: None }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammar() {
        let spec: UserSpec = "1000:staff".parse().unwrap();
        assert_eq!(spec.user, Some(UserRef::Id(1000)));
        assert_eq!(spec.group, Some(UserRef::Name("staff".into())));
        assert_eq!("".parse::<UserSpec>().unwrap(), UserSpec::default());
        for bad in
            ["2147483648", "4294967296", "99999999999999999999", "-1", "a/b", "a:b:c", "a\nb"]
        {
            assert!(bad.parse::<UserSpec>().is_err(), "{bad}");
        }
    }
}
