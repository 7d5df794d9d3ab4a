//! What a process holds in memory.

use std::path::Path;

/// KiB of one process or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Of nobody else: given back when it ends.
    pub private: u64,
    /// With its part of what is shared.
    pub proportional: u64,
}

impl std::iter::Sum for Memory {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            private: sum.private + one.private,
            proportional: sum.proportional + one.proportional,
        })
    }
}

/// Of these processes together.
pub fn of(pids: &[u32]) -> Memory {
    let rollups = pids.iter().map(|pid| format!("/proc/{pid}/smaps_rollup"));
    rollups.filter_map(|path| std::fs::read_to_string(path).ok()).map(|text| parse(&text)).sum()
}

fn parse(rollup: &str) -> Memory {
    let mut memory = Memory::default();
    for line in rollup.lines() {
        let mut words = line.split_whitespace();
        let (Some(key), Some(Ok(number))) = (words.next(), words.next().map(str::parse::<u64>))
        else {
            continue;
        };
        match key {
            "Private_Clean:" | "Private_Dirty:" | "Private_Hugetlb:" => memory.private += number,
            "Pss:" => memory.proportional += number,
            _ => {}
        }
    }
    memory
}

/// Whether a process is a container's own: it sees other processes than we do.
pub fn contained(pid: u32) -> bool {
    let namespace =
        |pid: &str| std::fs::read_link(Path::new("/proc").join(pid).join("ns/pid")).ok();
    namespace(&pid.to_string()) != namespace("self")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_sums_are_read() {
        let text = "5581-7ffe ---p 00000000 00:00 0 [rollup]\nRss: 900 kB\nPss: 40 kB\n\
            Pss_Dirty: 7 kB\nShared_Clean: 800 kB\nPrivate_Clean: 4 kB\nPrivate_Dirty: 32 kB\n";
        assert_eq!(parse(text), Memory { private: 36, proportional: 40 });
    }

    #[test]
    fn our_own_memory_is_ours() {
        let me = std::process::id();
        assert!(!contained(me));
        let found = of(&[me]);
        assert!(found.private > 0 && found.proportional >= found.private, "{found:?}");
    }
}
