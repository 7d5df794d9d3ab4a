//! Ports are found, noted and held: all of a request, or none.

use std::net::SocketAddr;

use rustix::io::Errno;

use super::busy::{self, Busy};
use super::jobs::{Choice, Job, exhausted, jobs, lost, protocols};
use super::places::{self, Place};
use super::{BoundPort, Carrier, HELD_AT_ONCE, State, Wanted};
use crate::keeper::{Hold, Key};

/// How often other ports are tried in place of those that somebody took since the kernel was asked.
const ATTEMPTS: usize = 64;

impl State {
    /// The keeper was lost: another one is to hold the same.
    pub(crate) fn hold_again(&mut self) {
        let mut holds = self.taken.holds();
        if holds.is_empty() {
            return;
        }
        // Those that carry something first: they are missed at once.
        holds.sort_by_key(|hold| (hold.proxy.is_none(), hold.key));
        let _ = self.holder.hold(&holds);
        let _ = self.holder.take_renewed();
    }

    pub(super) fn reserve(&mut self, wanted: &Wanted<'_>) -> Result<Vec<BoundPort>, String> {
        let mut wide = wanted.bindings.len() > HELD_AT_ONCE;
        let mut jobs = jobs(wanted);
        let room = self.holder.limit().saturating_sub(self.taken.held);
        let places = || jobs.iter().flat_map(|job| &job.places);
        wide |= places().count() > room;
        if wide && places().filter(|place| place.by != Carrier::Kernel).count() > room {
            jobs = super::jobs::jobs(&Wanted { proxied: false, ..*wanted });
            lost(wanted, &jobs)?;
        }
        let mut out: Vec<(usize, BoundPort)> = Vec::new();
        let result = self.place(wanted, &mut jobs, wide, &mut out);
        if let Err(reason) = result {
            let done: Vec<BoundPort> = out.iter().map(|(_, port)| *port).collect();
            self.release(&done);
            return Err(reason);
        }
        for (at, binding) in wanted.bindings.iter().enumerate() {
            let direct = places::direct(wanted, binding);
            out.extend(direct.into_iter().map(|port| (at, port)));
        }
        out.sort_by_key(|(at, port)| (*at, port.host_ip.is_ipv6()));
        Ok(out.into_iter().map(|(_, port)| port).collect())
    }

    /// Finds a port for each job and holds it. What is done is in `out`, also after an error.
    fn place(
        &mut self,
        wanted: &Wanted<'_>,
        jobs: &mut [Job],
        wide: bool,
        out: &mut Vec<(usize, BoundPort)>,
    ) -> Result<(), String> {
        let mut busy = if wide { Some(Busy::ask(&protocols(wanted))) } else { None };
        for attempt in 0..ATTEMPTS {
            if attempt == 1 && busy.is_none() {
                // Something was in the way: from now on what the kernel knows is passed over.
                busy = Some(Busy::ask(&protocols(wanted)));
            }
            let mut fresh: Vec<(usize, BoundPort)> = Vec::new();
            for (index, job) in jobs.iter_mut().enumerate() {
                if job.port.is_some() {
                    continue;
                }
                match self.choose(wanted, job, busy.as_ref(), wide) {
                    Ok(ports) => fresh.extend(ports.into_iter().map(|port| (index, port))),
                    Err(reason) => {
                        out.extend(fresh);
                        return Err(reason);
                    }
                }
            }
            if fresh.is_empty() {
                return Ok(());
            }
            let failed = self.hold(&fresh, wide)?;
            let again = self.take_back(jobs, &failed, &mut fresh);
            out.extend(fresh.into_iter().map(|(index, port)| (jobs[index].binding, port)));
            match again {
                Ok(false) => return Ok(()),
                Ok(true) => {}
                Err(reason) => return Err(reason),
            }
        }
        Err("all ports are allocated".to_owned())
    }

    /// The next port for a job that nobody is known to have; it is noted as taken.
    fn choose(
        &mut self,
        wanted: &Wanted<'_>,
        job: &mut Job,
        busy: Option<&Busy>,
        wide: bool,
    ) -> Result<Vec<BoundPort>, String> {
        let protocol = wanted.bindings[job.binding].container.protocol;
        if let Choice::Any { first, last, begin, tried: 0, ephemeral: true } = &mut job.choice {
            let next = self.next.get(&protocol).copied().unwrap_or(*first);
            *begin = next.clamp(*first, *last);
        }
        loop {
            let Some(port) = job.choice.next() else { return Err(exhausted(job)) };
            let fixed = matches!(job.choice, Choice::Fixed(_));
            let keys = || job.places.iter().map(|place| Key { protocol, ip: place.ip, port });
            if let Some(key) = keys().find(|key| self.taken.conflicts(key)) {
                if fixed {
                    return Err(format!(
                        "Bind for {}:{port} failed: port is already allocated",
                        key.ip
                    ));
                }
                continue;
            }
            let passed = busy.filter(|_| wide || !fixed);
            let other = passed.and_then(|busy| keys().find(|key| busy.conflicts(key)));
            if let Some(key) = other {
                if fixed {
                    let place = job.places.iter().find(|place| place.ip == key.ip);
                    let target = place.map(|place| place.target);
                    return Err(in_use(&key, target, Errno::ADDRINUSE));
                }
                continue;
            }
            job.port = Some(port);
            if let Choice::Any { last, first, ephemeral: true, .. } = job.choice {
                self.next.insert(protocol, if port == last { first } else { port + 1 });
            }
            let container = wanted.bindings[job.binding].container;
            let bound = |place: &Place| BoundPort {
                container,
                host_ip: place.ip,
                host_port: port,
                target: place.target,
                by: place.by,
            };
            let ports: Vec<BoundPort> = job.places.iter().map(bound).collect();
            for port in &ports {
                self.taken.add(&port.key(), is_held(port, wide).then(|| port.hold()));
            }
            return Ok(ports);
        }
    }

    /// Which could not be held, and why.
    fn hold(
        &mut self,
        fresh: &[(usize, BoundPort)],
        wide: bool,
    ) -> Result<Vec<(usize, Key, Errno)>, String> {
        let held = || fresh.iter().filter(|(_, port)| is_held(port, wide));
        let holds: Vec<Hold> = held().map(|(_, port)| port.hold()).collect();
        if holds.is_empty() {
            return Ok(Vec::new());
        }
        let result = self.holder.hold(&holds);
        if self.holder.take_renewed() && self.taken.held > holds.len() {
            self.hold_again();
        }
        let results = match result {
            Ok(results) => results,
            Err(reason) => {
                let ports: Vec<BoundPort> = fresh.iter().map(|(_, port)| *port).collect();
                self.release(&ports);
                return Err(reason);
            }
        };
        Ok(held()
            .zip(results)
            .filter_map(|((index, port), result)| Some((*index, port.key(), result.err()?)))
            .collect())
    }

    /// Takes back jobs that failed; whether there is something to try again.
    fn take_back(
        &mut self,
        jobs: &mut [Job],
        failed: &[(usize, Key, Errno)],
        fresh: &mut Vec<(usize, BoundPort)>,
    ) -> Result<bool, String> {
        let mut fatal: Option<(usize, String)> = None;
        for (index, key, errno) in failed {
            let job = &mut jobs[*index];
            let of_job = |(at, port): &(usize, BoundPort)| (at == index).then_some(*port);
            let ports: Vec<BoundPort> = fresh.iter().filter_map(of_job).collect();
            fresh.retain(|(at, _)| at != index);
            self.release(&ports);
            job.port = None;
            let another = *errno == Errno::ADDRINUSE && !matches!(job.choice, Choice::Fixed(_));
            let earlier = fatal.as_ref().is_none_or(|(at, _)| job.binding < *at);
            if !another && earlier {
                let place = job.places.iter().find(|place| place.ip == key.ip);
                fatal = Some((job.binding, in_use(key, place.map(|place| place.target), *errno)));
            }
        }
        match fatal {
            Some((_, reason)) => Err(reason),
            None => Ok(!failed.is_empty()),
        }
    }

    pub(super) fn restore(&mut self, ports: &[BoundPort]) -> Vec<String> {
        let bound = ports.iter().filter(|port| port.host_port != 0);
        let fresh: Vec<BoundPort> =
            bound.filter(|port| !self.taken.contains(&port.key())).copied().collect();
        let holder = &mut self.holder;
        let found = self.found.get_or_insert_with(|| holder.list().into_iter().collect());
        // A keeper that lives holds all that was to be held. Without one, it is held anew.
        let all = found.is_empty();
        let mut room = self.holder.limit().saturating_sub(self.taken.held);
        let mut holds = Vec::new();
        for port in &fresh {
            let wanted = all || port.by != Carrier::Kernel || found.contains(&port.key());
            let hold = (wanted && room > 0).then(|| port.hold());
            room -= usize::from(hold.is_some());
            self.taken.add(&port.key(), hold);
            holds.extend(hold);
        }
        if holds.is_empty() {
            return Vec::new();
        }
        match self.holder.hold(&holds) {
            Err(reason) => vec![reason],
            Ok(results) => {
                let pairs = holds.iter().zip(results);
                pairs
                    .filter_map(|(hold, result)| Some(in_use(&hold.key, hold.proxy, result.err()?)))
                    .collect()
            }
        }
    }

    pub(super) fn release(&mut self, ports: &[BoundPort]) {
        let keys: Vec<Key> = ports
            .iter()
            .map(BoundPort::key)
            .filter(|key| key.port != 0 && self.taken.remove(key))
            .collect();
        self.holder.release(&keys);
    }
}

/// Whether there is a socket for a port; of many only for those that the keeper carries.
fn is_held(port: &BoundPort, wide: bool) -> bool {
    !wide || port.by != Carrier::Kernel
}

/// Docker's words for a port that another program has, and which program that is.
fn in_use(key: &Key, target: Option<SocketAddr>, errno: Errno) -> String {
    let host = SocketAddr::new(key.ip, key.port);
    let target = target.map_or_else(String::new, |target| format!(":{target}"));
    let why = match errno {
        Errno::ADDRINUSE => "address already in use".to_owned(),
        Errno::ADDRNOTAVAIL => "cannot assign requested address".to_owned(),
        Errno::AFNOSUPPORT => "address family not supported by protocol".to_owned(),
        Errno::ACCESS => "permission denied".to_owned(),
        other => other.to_string(),
    };
    let who = match errno {
        Errno::ADDRINUSE => busy::whose(key).map_or_else(String::new, |who| format!(". {who}")),
        _ => String::new(),
    };
    format!("failed to bind host port for {host}{target}/{}: {why}{who}", key.protocol)
}
