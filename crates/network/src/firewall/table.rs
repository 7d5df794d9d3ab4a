//! The table in the kernel: put there in one transaction, looked after, and taken away.

use hoy_netlink::nft::{self, Base, Chain, ChainKind, Family, Hook, Policy};
use hoy_netlink::{NetlinkError, Socket};

use super::chains::chains;
use super::elements::Elements;
use super::sets::SETS;
use super::{Firewall, Installed, TABLE, USER_TABLE, openings};
use crate::NetworkError;

/// Before our own chain, which has the priority of filters.
const BEFORE_FILTER: i32 = -10;

impl Firewall {
    /// Brings a difference to the kernel. Where the table is not what it should be, all of it.
    pub(super) fn change(
        &mut self,
        operation: &'static str,
        removed: &Elements,
        added: &Elements,
    ) -> Result<(), NetworkError> {
        let Some(installed) = &mut self.installed else { return self.reinstall() };
        let before = self.nft.nft_generation()?;
        let mut transaction = self.nft.nft(TABLE);
        removed.remove_from(&mut transaction);
        added.add_to(&mut transaction);
        match transaction.commit(operation) {
            Err(error) if error.is_missing() => return self.reinstall(),
            other => other?,
        }
        // Whoever else changed something in between is looked after by `repair`.
        let after = self.nft.nft_generation()?;
        if installed.seen == Some(before) && after == before.wrapping_add(1) {
            installed.seen = Some(after);
        }
        Ok(())
    }

    /// Puts the table back if it is not there, or not as we made it. Says whether it had to.
    pub fn repair(&mut self) -> Result<bool, NetworkError> {
        let Some(installed) = &mut self.installed else { return Ok(false) };
        let generation = self.nft.nft_generation()?;
        if installed.seen == Some(generation) {
            return Ok(false);
        }
        let whole = is_whole(&mut self.nft, installed)?
            && (installed.owned || self.counts_agree()?)
            && has_user_table(&mut self.nft)?
            && self.bridged_is_whole()?;
        if whole {
            if let Some(installed) = &mut self.installed {
                installed.seen = Some(generation);
            }
            return Ok(false);
        }
        self.reinstall()?;
        Ok(true)
    }

    /// Whether every set has as many elements as it should.
    fn counts_agree(&mut self) -> Result<bool, NetworkError> {
        let elements = self.elements();
        for set in SETS {
            let wanted = elements.count(set);
            if self.nft.nft_count(Family::Inet, TABLE, set.name)? != wanted {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn reinstall(&mut self) -> Result<(), NetworkError> {
        let elements = self.elements();
        let chains = chains(self.closed);
        let mut attempt = |exists: bool, flags: u32| {
            let mut transaction = self.nft.nft(TABLE);
            if exists {
                transaction.delete_table();
            }
            transaction.table(flags);
            for set in SETS {
                transaction.set(set);
            }
            for chain in &chains {
                transaction.chain(chain);
            }
            elements.add_to(&mut transaction);
            transaction.commit("install the table")
        };
        let mut replace = |flags| match attempt(true, flags) {
            Err(error) if error.is_missing() => attempt(false, flags),
            other => other,
        };
        let owned = match self.own.then(|| replace(nft::OWNER | nft::PERSIST)) {
            Some(Ok(())) => true,
            // A kernel that does not know these flags.
            Some(Err(error)) if unknown_flags(&error) => {
                replace(0)?;
                false
            }
            Some(Err(error)) => return Err(self.explained(error)),
            None => {
                replace(0).map_err(|error| self.explained(error))?;
                false
            }
        };
        self.make_user_table()?;
        let tables = self.nft.nft_tables()?;
        let ours = tables.iter().find(|table| table.family == Family::Inet && table.name == TABLE);
        let handle = ours.map_or(0, |table| table.handle);
        let rules = if owned { Vec::new() } else { rules(&mut self.nft)? };
        // Not `seen`: somebody may have been quicker than we looked.
        let bridged = self.installed.take().and_then(|before| before.bridged);
        self.installed = Some(Installed { owned, handle, rules, seen: None, bridged });
        self.repair_bridged()
    }

    /// Why the table cannot be replaced, where it is somebody else's.
    fn explained(&mut self, error: NetlinkError) -> NetworkError {
        let denied = error.errno() == Some(rustix::io::Errno::PERM.raw_os_error());
        let owned = |nft: &mut Socket| {
            let tables = nft.nft_tables().unwrap_or_default();
            tables
                .iter()
                .any(|t| t.family == Family::Inet && t.name == TABLE && t.flags & nft::OWNER != 0)
        };
        if denied && owned(&mut self.nft) {
            return NetworkError::OwnedElsewhere;
        }
        error.into()
    }

    fn make_user_table(&mut self) -> Result<(), NetworkError> {
        if has_user_table(&mut self.nft)? {
            return Ok(());
        }
        let mut transaction = self.nft.nft(USER_TABLE);
        transaction.new_table(0).chain(&Chain {
            name: "forward",
            base: Some(Base {
                kind: ChainKind::Filter,
                hook: Hook::Forward,
                priority: BEFORE_FILTER,
                policy: Policy::Accept,
            }),
            rules: Vec::new(),
        });
        match transaction.commit("make the table for people's own rules") {
            Err(error) if error.exists() => Ok(()),
            other => Ok(other?),
        }
    }

    /// Takes both tables away. What is wanted stays known, but is not put back by `repair`.
    pub fn remove(&mut self) -> Result<(), NetworkError> {
        self.installed = None;
        for table in [TABLE, USER_TABLE] {
            let mut transaction = self.nft.nft(table);
            transaction.delete_table();
            match transaction.commit("delete the table") {
                Err(error) if error.is_missing() => {}
                other => other?,
            }
        }
        Ok(openings::remove(&mut self.nft)?)
    }
}

fn has_user_table(nft: &mut Socket) -> Result<bool, NetworkError> {
    let tables = nft.nft_tables()?;
    Ok(tables.iter().any(|table| table.family == Family::Inet && table.name == USER_TABLE))
}

pub(super) fn rules(nft: &mut Socket) -> Result<Vec<(String, u64)>, NetworkError> {
    let mut rules: Vec<_> = nft
        .nft_rules(Family::Inet, TABLE)?
        .into_iter()
        .map(|rule| (rule.chain, rule.handle))
        .collect();
    rules.sort();
    Ok(rules)
}

/// Whether the table is the one that we made, with our rules.
fn is_whole(nft: &mut Socket, installed: &Installed) -> Result<bool, NetworkError> {
    let tables = nft.nft_tables()?;
    let ours = tables.iter().find(|table| table.family == Family::Inet && table.name == TABLE);
    if ours.is_none_or(|table| table.handle != installed.handle) {
        return Ok(false);
    }
    Ok(installed.owned || rules(nft)? == installed.rules)
}

fn unknown_flags(error: &NetlinkError) -> bool {
    use rustix::io::Errno;
    [Errno::OPNOTSUPP, Errno::INVAL].iter().any(|e| error.errno() == Some(e.raw_os_error()))
}
