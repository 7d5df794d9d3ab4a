//! Descriptors that are held open for daemons to come: what a container's clients wait at must not
//! close while there is no daemon.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const MAX_NAMES: usize = 8;
const MAX_LENGTH: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Kept {
    by_name: BTreeMap<String, Vec<OwnedFd>>,
}

impl Kept {
    /// Replaces what was kept under a name; false if that is too much.
    pub fn keep(&mut self, name: String, descriptors: Vec<OwnedFd>) -> bool {
        if descriptors.is_empty() {
            self.by_name.remove(&name);
            return true;
        }
        let new = !self.by_name.contains_key(&name);
        if name.len() > MAX_LENGTH || new && self.by_name.len() >= MAX_NAMES {
            return false;
        }
        self.by_name.insert(name, descriptors);
        true
    }

    pub fn get(&self, name: &str) -> Vec<BorrowedFd<'_>> {
        self.by_name.get(name).into_iter().flatten().map(AsFd::as_fd).collect()
    }

    pub fn forget(&mut self) {
        self.by_name.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn bounded_and_replaced() {
        let mut kept = Kept::default();
        for number in 0..MAX_NAMES {
            assert!(kept.keep(number.to_string(), vec![null()]));
        }
        assert!(!kept.keep("one more".into(), vec![null()]));
        assert!(!kept.keep("x".repeat(MAX_LENGTH + 1), vec![null()]));
        let two = vec![null(), null()];
        let numbers: Vec<_> = two.iter().map(AsRawFd::as_raw_fd).collect();
        assert!(kept.keep("0".into(), two));
        assert_eq!(kept.get("0").iter().map(AsRawFd::as_raw_fd).collect::<Vec<_>>(), numbers);
        assert!(kept.keep("0".into(), Vec::new()));
        assert!(kept.get("0").is_empty());
        assert!(kept.keep("one more".into(), vec![null()]));
        kept.forget();
        assert!(kept.get("one more").is_empty());
    }
}
