//! What is to be published, and which ports would do for it. Decided from what is wanted and from
//! the kernel's range of ports.

use std::collections::HashSet;

use hoy_types::{PortBinding, Protocol};

use super::Wanted;
use super::places::{Place, places};

/// One binding on its way.
pub(super) struct Job {
    pub binding: usize,
    pub places: Vec<Place>,
    pub choice: Choice,
    pub port: Option<u16>,
}

/// The ports that would do, in their order.
pub(super) enum Choice {
    Fixed(u16),
    Any { first: u16, last: u16, begin: u16, tried: u32, ephemeral: bool },
}

impl Choice {
    pub(super) fn next(&mut self) -> Option<u16> {
        match self {
            Self::Fixed(port) => Some(*port),
            Self::Any { first, last, begin, tried, .. } => {
                let count = u32::from(*last - *first) + 1;
                if *tried == count {
                    return None;
                }
                let offset = (u32::from(*begin - *first) + *tried) % count;
                *tried += 1;
                u16::try_from(u32::from(*first) + offset).ok()
            }
        }
    }

    /// Fixed ports are given first, what can be anywhere last.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Fixed(_) => 0,
            Self::Any { ephemeral: false, .. } => 1,
            Self::Any { .. } => 2,
        }
    }
}

pub(super) fn jobs(wanted: &Wanted<'_>) -> Vec<Job> {
    let mut range = None;
    let mut jobs: Vec<Job> = Vec::with_capacity(wanted.bindings.len());
    for (at, binding) in wanted.bindings.iter().enumerate() {
        let places = places(wanted, binding);
        if places.is_empty() {
            continue;
        }
        let choice = match binding.host_ports {
            Some((first, last)) if first == last && first != 0 => Choice::Fixed(first),
            Some((first, last)) if first != 0 && first < last => {
                Choice::Any { first, last, begin: first, tried: 0, ephemeral: false }
            }
            _ => {
                let (first, last) = *range.get_or_insert_with(ephemeral_range);
                Choice::Any { first, last, begin: first, tried: 0, ephemeral: true }
            }
        };
        jobs.push(Job { binding: at, places, choice, port: None });
    }
    // Stable: within a rank in the order in which they were asked for.
    jobs.sort_by_key(|job| job.choice.rank());
    jobs
}

pub(super) fn protocols(wanted: &Wanted<'_>) -> Vec<Protocol> {
    let mut all: Vec<Protocol> = wanted.bindings.iter().map(|b| b.container.protocol).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Refuses bindings that only the keeper could carry.
pub(super) fn lost(wanted: &Wanted<'_>, jobs: &[Job]) -> Result<(), String> {
    let served: HashSet<usize> = jobs.iter().map(|job| job.binding).collect();
    let mut all = wanted.bindings.iter().enumerate();
    let lost = |(at, binding): &(usize, &PortBinding)| {
        wanted.proxied && !served.contains(at) && !places(wanted, binding).is_empty()
    };
    match all.find(lost) {
        None => Ok(()),
        Some((_, binding)) => Err(format!(
            "publish {}: this needs a proxy, of which there are as many as half of the descriptors \
             that the daemon may have (LimitNOFILE)",
            binding.container
        )),
    }
}

pub(super) fn exhausted(job: &Job) -> String {
    let ip = job.places.first().map_or_else(String::new, |place| place.ip.to_string());
    match &job.choice {
        Choice::Any { first, last, ephemeral: false, .. } => {
            format!("Bind for {ip}:{first}-{last} failed: all ports are allocated")
        }
        _ => "all ports are allocated".to_owned(),
    }
}

/// Where the kernel takes ports of its own from.
fn ephemeral_range() -> (u16, u16) {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let text = text.unwrap_or_default();
    let mut numbers = text.split_whitespace().map(|word| word.parse::<u16>());
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) if first > 0 && first <= last => (first, last),
        _ => (49_153, 65_535),
    }
}
