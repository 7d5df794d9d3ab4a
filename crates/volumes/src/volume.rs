//! What a volume is, as plain data.

use std::collections::BTreeMap;

use hoy_types::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Result, VolumeError};

/// The driver that is always there.
pub const LOCAL: &str = "local";
/// The label of a volume that nobody has named.
pub const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// A name that a directory can have.
const LONGEST: usize = 255;

/// What is known of a volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    pub name: String,
    pub driver: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    pub created: Timestamp,
}

/// A volume that is asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VolumeRequest {
    pub name: String,
    /// Empty: whatever driver it has, local for a new one.
    pub driver: String,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
    /// Made for somebody alone, also if it has a name already.
    pub anonymous: bool,
    /// One that is not there is not made: another container has it, and nothing in its place would
    /// be what is asked for.
    pub existing: bool,
}

impl Volume {
    pub fn is_anonymous(&self) -> bool {
        self.labels.contains_key(ANONYMOUS)
    }

    pub fn is_local(&self) -> bool {
        self.driver == LOCAL
    }

    /// Docker's rule for asking twice: it is the one that is there, unless its driver is another.
    pub(crate) fn fits(&self, request: &VolumeRequest) -> Result<()> {
        if !request.driver.is_empty() && request.driver != self.driver {
            return Err(VolumeError::Conflict(format!(
                "create {}: conflict: volume name must be unique",
                self.name
            )));
        }
        Ok(())
    }
}

/// Docker's rule for names of local volumes.
pub fn check_name(name: &str) -> Result<()> {
    if name.len() == 1 {
        return Err(VolumeError::Invalid(format!(
            "create {name}: volume name is too short, names should be at least two alphanumeric \
             characters"
        )));
    }
    let first = name.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric());
    let rest = name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-'));
    if !first || !rest {
        return Err(VolumeError::Invalid(format!(
            "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
             \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, \
             use absolute path"
        )));
    }
    if name.len() > LONGEST {
        return Err(VolumeError::Invalid(format!(
            "create {name}: a volume's name has at most {LONGEST} characters"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["ab", "a.b", "A_b-1", "0x"] {
            check_name(good).unwrap();
        }
        for bad in ["", "a", ".a", "-a", "a/b", "a b", "..", "ä1", "a\n", "a\0"] {
            check_name(bad).unwrap_err();
        }
        check_name(&"a".repeat(256)).unwrap_err();
    }

    #[test]
    fn asking_twice() {
        let options = BTreeMap::from([("type".to_owned(), "tmpfs".to_owned())]);
        let volume = Volume {
            name: "v1".into(),
            driver: LOCAL.into(),
            labels: BTreeMap::new(),
            options: options.clone(),
            created: Timestamp::ZERO,
        };
        let asked = |driver: &str, options: BTreeMap<String, String>| VolumeRequest {
            driver: driver.into(),
            options,
            ..VolumeRequest::default()
        };
        volume.fits(&asked("", BTreeMap::new())).unwrap();
        volume.fits(&asked(LOCAL, options.clone())).unwrap();
        volume.fits(&asked("other", options)).unwrap_err();
    }
}
