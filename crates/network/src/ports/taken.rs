//! What is published. Pure.

use std::collections::HashMap;
use std::net::IpAddr;

use hoy_types::Protocol;

use crate::keeper::{Hold, Key};

/// What is published, by protocol, family and port.
#[derive(Debug, Default)]
pub(super) struct Taken {
    by_port: HashMap<(Protocol, bool, u16), Vec<Entry>>,
    pub held: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    ip: IpAddr,
    /// There is a socket.
    held: Option<Hold>,
}

impl Taken {
    pub(super) fn conflicts(&self, key: &Key) -> bool {
        let all = self.by_port.get(&(key.protocol, key.ip.is_ipv4(), key.port));
        all.is_some_and(|all| {
            key.ip.is_unspecified()
                || all.iter().any(|entry| entry.ip == key.ip || entry.ip.is_unspecified())
        })
    }

    pub(super) fn add(&mut self, key: &Key, held: Option<Hold>) {
        let all = self.by_port.entry((key.protocol, key.ip.is_ipv4(), key.port)).or_default();
        all.push(Entry { ip: key.ip, held });
        self.held += usize::from(held.is_some());
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        let all = self.by_port.get(&(key.protocol, key.ip.is_ipv4(), key.port));
        all.is_some_and(|all| all.iter().any(|entry| entry.ip == key.ip))
    }

    /// Whether there was a socket.
    pub(super) fn remove(&mut self, key: &Key) -> bool {
        let place = (key.protocol, key.ip.is_ipv4(), key.port);
        let Some(all) = self.by_port.get_mut(&place) else { return false };
        let Some(at) = all.iter().position(|entry| entry.ip == key.ip) else { return false };
        let held = all.swap_remove(at).held.is_some();
        if all.is_empty() {
            self.by_port.remove(&place);
        }
        self.held -= usize::from(held);
        held
    }

    pub(super) fn holds(&self) -> Vec<Hold> {
        self.by_port.values().flatten().filter_map(|entry| entry.held).collect()
    }
}
