//! How a user namespace's ids correspond to the machine's.

/// Consecutive ids: `count` of them, from `inside` in the namespace and `outside` on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct IdRange {
    pub inside: u32,
    pub outside: u32,
    pub count: u32,
}

impl IdRange {
    fn outside(&self, id: u32) -> Option<u32> {
        let distance = id.checked_sub(self.inside)?;
        if distance < self.count { self.outside.checked_add(distance) } else { None }
    }
}

/// The users and groups of a user namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct IdMaps {
    pub uids: Vec<IdRange>,
    pub gids: Vec<IdRange>,
}

impl IdMaps {
    /// Whom the machine calls what the namespace calls `id`.
    pub fn uid(&self, id: u32) -> Option<u32> {
        self.uids.iter().find_map(|range| range.outside(id))
    }

    pub fn gid(&self, id: u32) -> Option<u32> {
        self.gids.iter().find_map(|range| range.outside(id))
    }

    /// As the kernel's uid_map wants it.
    pub fn uid_map(&self) -> String {
        lines(&self.uids)
    }

    pub fn gid_map(&self) -> String {
        lines(&self.gids)
    }
}

fn lines(ranges: &[IdRange]) -> String {
    ranges.iter().map(|r| format!("{} {} {}\n", r.inside, r.outside, r.count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_in_their_range() {
        let range = |inside, outside, count| IdRange { inside, outside, count };
        let maps = IdMaps { uids: vec![range(0, 100_000, 10), range(10, 500, 2)], gids: vec![] };
        assert_eq!(maps.uid(0), Some(100_000));
        assert_eq!(
            (maps.uid(9), maps.uid(10), maps.uid(11)),
            (Some(100_009), Some(500), Some(501))
        );
        assert_eq!((maps.uid(12), maps.uid(u32::MAX), maps.gid(0)), (None, None, None));
        assert_eq!(maps.uid_map(), "0 100000 10\n10 500 2\n");
    }
}
