//! Lists of containers, and what `ps --filter` means.

use std::collections::HashSet;
use std::sync::Arc;

use hoy_types::Digest;
use hoy_wire as wire;

use crate::containers::ListOptions;
use crate::engine::{Engine, Inner};
use crate::error::{Error, Result};
use crate::life::Phase;
use crate::record::{MountKind, NetworkMode, Record};
use crate::show;

/// An expression may not cost more than this.
const MAX_EXPRESSION: usize = 1 << 18;

const FILTERS: &[&str] = &[
    "ancestor",
    "annotation",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];
const STATES: &[&str] =
    &["created", "restarting", "running", "removing", "paused", "exited", "dead"];
const HEALTH: &[&str] = &["none", "starting", "healthy", "unhealthy"];

impl Engine {
    pub fn list(&self, options: &ListOptions) -> Result<Vec<wire::ContainerSummary>> {
        let filter = Filter::new(&options.filters, &Lookup(self))?;
        let all = options.all || options.limit > 0 || filter.names_a_state();
        let mut out = Vec::new();
        let all_there = self.inner.registry.all();
        let mut linked = self.inner.linked_names(&all_there);
        for handle in all_there {
            let record = handle.record();
            if (all || record.state.phase.is_up()) && filter.admits(&record, &self.inner) {
                let mut shown = show::summary(&self.inner, &record);
                if options.size {
                    (shown.size_rw, shown.size_root_fs) =
                        self.container_size(handle.id.as_str(), &record.image);
                }
                if let (Some(names), Some(more)) = (&mut shown.names, linked.remove(&handle.id)) {
                    names.extend(more);
                    names.sort();
                }
                out.push(shown);
            }
            if options.limit > 0 && out.len() == options.limit {
                break;
            }
        }
        Ok(out)
    }
}

/// What a filter has to look up.
struct Lookup<'a>(&'a Engine);

/// What `--filter` asks for.
#[derive(Default)]
struct Filter {
    pairs: Vec<(String, Vec<String>)>,
    before: Option<Arc<Record>>,
    since: Option<Arc<Record>>,
    /// Images, and their layers; a container of one that is built on them is meant, too.
    ancestors: Vec<(Digest, Vec<String>)>,
    published: HashSet<(u16, String)>,
    exposed: HashSet<(u16, String)>,
}

impl Filter {
    fn new(pairs: &[(String, Vec<String>)], lookup: &Lookup<'_>) -> Result<Self> {
        let mut out = Self { pairs: pairs.to_vec(), ..Self::default() };
        for (name, values) in pairs {
            if !FILTERS.contains(&name.as_str()) {
                return Err(Error::invalid(format!("invalid filter '{name}'")));
            }
            for value in values {
                let bad = || Err(Error::invalid(format!("invalid filter '{name}={value}'")));
                let find = || lookup.0.find(value).map(|handle| handle.record());
                match name.as_str() {
                    "before" => out.before = Some(find()?),
                    "since" => out.since = Some(find()?),
                    "exited" if value.parse::<i32>().is_err() => return bad(),
                    "status" if !STATES.contains(&value.as_str()) => return bad(),
                    "health" if !HEALTH.contains(&value.as_str()) => return bad(),
                    "is-task" if truth(value).is_none() => {
                        return Err(Error::invalid(format!("invalid filter 'is-task=[{value}]'")));
                    }
                    "publish" => out.published.extend(ports(name, value)?),
                    "expose" => out.exposed.extend(ports(name, value)?),
                    "ancestor" => {
                        // One that is not there has no containers.
                        if let Ok(image) = lookup.0.inner.images.resolve(value) {
                            let layers = image.layers.iter().map(|layer| layer.key.clone());
                            out.ancestors.push((image.id, layers.collect()));
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(out)
    }

    fn has(&self, name: &str) -> bool {
        self.pairs.iter().any(|(known, values)| known == name && !values.is_empty())
    }

    fn names_a_state(&self) -> bool {
        self.has("status")
    }

    /// Values of one filter: any; filters: all; labels: all of them.
    fn admits(&self, record: &Record, inner: &Inner) -> bool {
        self.pairs.iter().all(|(name, values)| {
            let any = |test: &dyn Fn(&str) -> bool| {
                values.is_empty() || values.iter().any(|value| test(value))
            };
            match name.as_str() {
                "label" => values.iter().all(|value| has_label(record, value)),
                "annotation" => wire::has_labels(values, Some(&record.host.annotations)),
                "id" => any(&|value| !value.is_empty() && matches(value, record.key())),
                // With the slash before it, and without.
                "name" => any(&|value| {
                    matches(value, &record.name) || matches(value, &format!("/{}", record.name))
                }),
                "status" => any(&|value| record.state.shown().status() == value),
                "health" => any(&|value| crate::health::of(record) == value),
                "exited" => any(&|value| {
                    record.state.shown() == Phase::Exited
                        && value.parse() == Ok(record.state.exit_code)
                }),
                // Of Windows.
                "isolation" => true,
                // There are no tasks here.
                "is-task" => any(&|value| truth(value) == Some(false)),
                "volume" => any(&|value| has_volume(record, value)),
                "network" => any(&|value| is_in(record, value, inner)),
                "ancestor" => values.is_empty() || self.descends(record),
                _ => true,
            }
        }) && (!(self.has("publish") || self.has("expose")) || self.has_port(record))
            && self.before.as_ref().is_none_or(|other| record.created < other.created)
            && self.since.as_ref().is_none_or(|other| record.created > other.created)
    }

    fn descends(&self, record: &Record) -> bool {
        self.ancestors.iter().any(|(id, layers)| {
            *id == record.image || (!layers.is_empty() && record.layers.starts_with(layers))
        })
    }

    /// Published or exposed: either will do, as with Docker.
    fn has_port(&self, record: &Record) -> bool {
        show::port_list(record).into_iter().any(|port| {
            self.published.contains(&(port.public_port, port.kind.clone()))
                || self.exposed.contains(&(port.private_port, port.kind))
        })
    }
}

fn has_label(record: &Record, value: &str) -> bool {
    match value.split_once('=') {
        Some((key, value)) => record.labels().any(|(k, v)| k == key && v == value),
        None => record.labels().any(|(k, _)| k == value),
    }
}

/// By name, by source, or by where it is mounted.
fn has_volume(record: &Record, value: &str) -> bool {
    record.mounts.iter().any(|mount| {
        mount.target == value
            || match &mount.kind {
                MountKind::Volume { name, .. } => name == value,
                MountKind::Bind { source, .. } => source == value,
                _ => false,
            }
    })
}

fn is_in(record: &Record, value: &str, inner: &Inner) -> bool {
    match record.network.mode {
        NetworkMode::Host => value == "host",
        NetworkMode::None => value == "none",
        NetworkMode::Container(_) => false,
        NetworkMode::Networks => record.network.attachments.iter().any(|one| {
            let name = inner.networks.by_id(&one.network).map(|network| network.name.clone());
            name.as_deref().unwrap_or(&one.name) == value || one.network.starts_with(value)
        }),
    }
}

/// `80`, `80/udp`, `8000-8010/tcp`.
fn ports(filter: &str, value: &str) -> Result<Vec<(u16, String)>> {
    if value.contains(':') {
        return Err(Error::invalid(format!(
            "filter for '{filter}' should not contain ':': {value}"
        )));
    }
    let (range, protocol) = value.split_once('/').unwrap_or((value, "tcp"));
    let protocol = if protocol.is_empty() { "tcp" } else { protocol };
    let (first, last) = hoy_types::parse_port_range(range).map_err(|error| {
        Error::invalid(format!("error while looking up for {filter} {value}: {error}"))
    })?;
    Ok((first..=last).map(|port| (port, protocol.to_ascii_lowercase())).collect())
}

/// As Docker reads filters that are true or false.
fn truth(value: &str) -> Option<bool> {
    match value {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

/// A text means itself or, as an expression, what it matches somewhere in. Go's expressions know
/// ASCII alone in their classes.
fn matches(wanted: &str, value: &str) -> bool {
    let expression = || {
        let mut builder = regex::bytes::RegexBuilder::new(wanted);
        builder.unicode(false).size_limit(MAX_EXPRESSION).build()
    };
    wanted == value || expression().is_ok_and(|known| known.is_match(value.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_filters() {
        let tcp = |port: u16| (port, "tcp".to_owned());
        assert_eq!(ports("publish", "80").unwrap(), [tcp(80)]);
        assert_eq!(ports("publish", "80-82/tcp").unwrap(), [tcp(80), tcp(81), tcp(82)]);
        assert_eq!(ports("expose", "53/UDP").unwrap(), [(53, "udp".to_owned())]);
        for value in ["1:2", "x", "5-4", "", "70000"] {
            assert!(ports("publish", value).is_err(), "{value}");
        }
    }

    #[test]
    fn expressions() {
        assert!(matches("a.c", "xabcx") && matches("[", "[") && !matches("[", "x"));
    }
}
