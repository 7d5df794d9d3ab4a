//! Other people's rules that drop forwarded packets. What they drop stays dropped, whatever ours
//! say; so it is told, together with the command that helps. Only when asked to we add marked
//! rules to their chains, and take them back.

use std::collections::BTreeSet;

use hoy_netlink::nft::{ChainFound, Expression as E, Family};
use hoy_netlink::{NetlinkError, Socket, SocketKind};

use crate::NetworkError;
use crate::firewall::{TABLE, USER_TABLE};

/// What the comments of our rules in other people's chains begin with.
const MARK: &str = "hoy:";
const FORWARD: u32 = 2;

/// Whose rules they probably are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspect {
    Ufw,
    Firewalld,
    Docker,
    /// The chain FORWARD of iptables, by whomever.
    Iptables,
    /// The old kernel part of iptables, whose rules cannot be seen by nftables: it may drop, or
    /// not.
    LegacyIptables,
    /// Somebody's nftables.
    Other,
}

impl Suspect {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ufw => "ufw",
            Self::Firewalld => "firewalld",
            Self::Docker => "Docker",
            Self::Iptables => "iptables",
            Self::LegacyIptables => "legacy iptables",
            Self::Other => "nftables",
        }
    }
}

/// A chain that drops forwarded packets unless a rule accepts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    pub suspect: Suspect,
    /// IPv4, IPv6 or both.
    pub v4: bool,
    pub v6: bool,
    /// As `nft` names the family: ip, ip6 or inet.
    pub family: &'static str,
    pub table: String,
    pub chain: String,
    /// The interfaces that our rules in it let pass already.
    pub allowed: BTreeSet<String>,
}

impl Obstacle {
    /// What to type, so that packets of an interface pass.
    pub fn help(&self, interface: &str) -> Vec<String> {
        let both = |line: fn(&str, &str) -> String| {
            let programs = [(self.v4, "iptables"), (self.v6, "ip6tables")];
            let wanted = programs.into_iter().filter(|(wanted, _)| *wanted);
            wanted.map(|(_, program)| line(program, interface)).collect()
        };
        match self.suspect {
            Suspect::Ufw => vec![format!(
                "ufw route allow in on {interface} && ufw route allow out on {interface}"
            )],
            Suspect::Firewalld => vec![format!(
                "firewall-cmd --permanent --zone=trusted --add-interface={interface} && \
                 firewall-cmd --reload"
            )],
            Suspect::Docker => both(|program, interface| {
                format!(
                    "{program} -I DOCKER-USER -i {interface} -j ACCEPT && {program} -I DOCKER-USER \
                     -o {interface} -j ACCEPT"
                )
            }),
            Suspect::Iptables | Suspect::LegacyIptables => both(|program, interface| {
                format!(
                    "{program} -I FORWARD -i {interface} -j ACCEPT && {program} -I FORWARD -o \
                     {interface} -j ACCEPT"
                )
            }),
            Suspect::Other => {
                let (family, table, chain) = (self.family, &self.table, &self.chain);
                let line = |what| {
                    format!("nft insert rule {family} {table} {chain} {what} {interface} accept")
                };
                vec![format!("{} && {}", line("iifname"), line("oifname"))]
            }
        }
    }

    /// One line for people.
    pub fn message(&self, interface: &str) -> String {
        let Self { family, table, chain, .. } = self;
        let what = match self.suspect {
            Suspect::LegacyIptables => "may drop",
            _ => "drops",
        };
        format!(
            "{} (chain {chain} of table {family} {table}) {what} forwarded packets; to let those of \
             {interface} pass: {}",
            self.suspect.name(),
            self.help(interface).join(" && ")
        )
    }
}

/// A chain that we were not allowed to change.
#[derive(Debug)]
pub struct Refused {
    /// With its family.
    pub table: String,
    pub chain: String,
    pub error: NetlinkError,
}

/// What stands in the way, in the network namespace of the calling thread.
pub fn detect() -> Result<Vec<Obstacle>, NetworkError> {
    let mut nft = Socket::open(SocketKind::Netfilter)?;
    let mut found: Vec<Obstacle> =
        forward_chains(&mut nft)?.into_iter().filter_map(|chain| chain.obstacle()).collect();
    for (file, v6) in [("ip_tables_names", false), ("ip6_tables_names", true)] {
        let names = std::fs::read_to_string(format!("/proc/thread-self/net/{file}"));
        // Absent where the kernel does not have it.
        if names.unwrap_or_default().lines().any(|name| name == "filter") {
            found.push(Obstacle {
                suspect: Suspect::LegacyIptables,
                v4: !v6,
                v6,
                family: if v6 { "ip6" } else { "ip" },
                table: "filter".into(),
                chain: "FORWARD".into(),
                allowed: BTreeSet::new(),
            });
        }
    }
    Ok(found)
}

/// Lets packets from and to these interfaces, and to no others, pass the chains that drop them: two
/// rules for each interface at the beginning of each chain, marked by a comment. Chains of legacy
/// iptables are not touched. Says which chains refused.
pub fn allow(interfaces: &[String]) -> Result<Vec<Refused>, NetworkError> {
    let mut nft = Socket::open(SocketKind::Netfilter)?;
    let mut refused = Vec::new();
    for found in forward_chains(&mut nft)? {
        let allowed = found.allowed();
        let wanted: &[String] = if found.suspect.is_some() { interfaces } else { &[] };
        let mut transaction = nft.nft_of(found.family, &found.table);
        for (interface, handle) in &found.ours {
            if !wanted.contains(interface) || !allowed.contains(interface) {
                transaction.delete_rule(&found.chain, *handle);
            }
        }
        for interface in wanted.iter().filter(|one| !allowed.contains(*one)) {
            let name = interface.clone();
            for (rule, way) in [
                (E::InterfaceIn { name: name.clone(), is: true }, "from"),
                (E::InterfaceOut { name, is: true }, "to"),
            ] {
                let comment = format!("{MARK} {way} {interface}");
                transaction.insert_rule(&found.chain, &[rule, E::Accept], &comment);
            }
        }
        if let Err(error) = transaction.commit("let forwarded packets pass another firewall") {
            let table = format!("{} {}", found.family.name(), found.table);
            refused.push(Refused { table, chain: found.chain, error });
        }
    }
    Ok(refused)
}

/// Takes all our rules out of other people's chains.
pub fn take_back() -> Result<Vec<Refused>, NetworkError> {
    allow(&[])
}

/// A chain of somebody else's at the hook forward.
struct Found {
    family: Family,
    table: String,
    chain: String,
    /// If it drops.
    suspect: Option<Suspect>,
    /// Our rules in it: interface and handle.
    ours: Vec<(String, u64)>,
}

impl Found {
    /// The interfaces that both of our rules are there for.
    fn allowed(&self) -> BTreeSet<String> {
        let both = |one: &&(String, u64)| self.ours.iter().filter(|o| o.0 == one.0).count() > 1;
        self.ours.iter().filter(both).map(|(interface, _)| interface.clone()).collect()
    }

    fn obstacle(self) -> Option<Obstacle> {
        Some(Obstacle {
            suspect: self.suspect?,
            v4: self.family != Family::Ipv6,
            v6: self.family != Family::Ipv4,
            family: self.family.name(),
            allowed: self.allowed(),
            table: self.table,
            chain: self.chain,
        })
    }
}

fn forward_chains(nft: &mut Socket) -> Result<Vec<Found>, NetworkError> {
    let chains = nft.nft_chains()?;
    let mut out = Vec::new();
    for chain in &chains {
        let own = chain.family == Family::Inet && [TABLE, USER_TABLE].contains(&&*chain.table);
        if own || chain.family == Family::Bridge || chain.hook.is_none_or(|(h, _)| h != FORWARD) {
            continue;
        }
        let rules = match nft.nft_rules(chain.family, &chain.table) {
            // Gone meanwhile.
            Err(error) if error.is_missing() => continue,
            other => other?,
        };
        let rules = rules.into_iter().filter(|rule| rule.chain == chain.name);
        let ours = rules
            .filter_map(|rule| Some((interface(rule.comment.as_deref()?)?.to_owned(), rule.handle)))
            .collect();
        out.push(Found {
            family: chain.family,
            table: chain.table.clone(),
            chain: chain.name.clone(),
            suspect: suspect(chain, &chains),
            ours,
        });
    }
    Ok(out)
}

/// The interface in a comment of ours.
fn interface(comment: &str) -> Option<&str> {
    let rest = comment.strip_prefix(MARK)?.trim_start();
    rest.strip_prefix("from ").or_else(|| rest.strip_prefix("to "))
}

/// Who made a chain at the hook forward, if it drops by itself.
fn suspect(chain: &ChainFound, all: &[ChainFound]) -> Option<Suspect> {
    // Its policy is to accept; its last rule rejects the rest.
    if chain.table == "firewalld" {
        return (chain.name == "filter_FORWARD").then_some(Suspect::Firewalld);
    }
    if chain.accepts != Some(false) {
        return None;
    }
    let beside = |name: &str| {
        all.iter().any(|other| {
            other.family == chain.family && other.table == chain.table && other.name == name
        })
    };
    Some(match (&*chain.table, &*chain.name) {
        ("filter", "FORWARD") if beside("ufw-before-forward") || beside("ufw6-before-forward") => {
            Suspect::Ufw
        }
        ("filter", "FORWARD") if beside("DOCKER-USER") => Suspect::Docker,
        ("filter", "FORWARD") => Suspect::Iptables,
        _ => Suspect::Other,
    })
}
