//! One engine, many versions of its API: what a client's version says otherwise than today's.
//!
//! Everything inside knows one shape, the superset: every field of every version. Here is the one
//! place where an answer loses what its version does not have yet or has no more, and where a
//! request of another version is brought into today's form. Pure; as Docker's own engine does it,
//! which leaves some new fields in answers of older versions, too, since clients ignore them.

mod answers;
mod create;
mod usage;

use serde_json::{Map, Value};

pub(crate) use answers::{
    container, containers, event, image, images, info, network, networks, stats, stream_of_events,
};
pub(crate) use create::{create, update};
pub(crate) use usage::{prune_lines, usage, usage_kinds};

/// Of the API, as in `/v1.50/info`.
pub(crate) type Version = (u32, u32);

/// Reads `1.50`.
pub(crate) fn number(version: &str) -> Option<Version> {
    let (major, minor) = version.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The version of requests that name none.
pub(crate) fn newest() -> Version {
    number(hoy_wire::API_VERSION).unwrap_or_default()
}

/// The first version that waits for a condition.
pub(crate) const CONDITIONS: Version = (1, 30);
/// The first version whose containers are made for a platform.
pub(crate) const PLATFORMS: Version = (1, 41);
/// The first version whose prune spares volumes that have a name.
pub(crate) const SPARES_NAMED: Version = (1, 42);
/// The first version in which a terminal begins with a size.
pub(crate) const SIZES_CONSOLES: Version = (1, 42);
/// The first version that tells streams with headers by their type.
pub(crate) const TELLS_STREAMS: Version = (1, 42);
/// The first version whose prune can answer line by line.
pub(crate) const PRUNES_IN_STREAMS: Version = (1, 56);
/// The first version that knows of gateways' priorities and of networks without IPv4.
pub(crate) const PRIORITIES: Version = (1, 48);

fn object(value: &mut Value) -> Option<&mut Map<String, Value>> {
    value.as_object_mut()
}

/// The object at this place below a value.
fn at<'a>(value: &'a mut Value, path: &[&str]) -> Option<&'a mut Map<String, Value>> {
    let mut here = value;
    for name in path {
        here = here.get_mut(*name)?;
    }
    here.as_object_mut()
}

/// Takes fields away; the others stay in their order.
fn without(map: Option<&mut Map<String, Value>>, names: &[&str]) {
    let Some(map) = map else { return };
    map.retain(|name, _| !names.contains(&name.as_str()));
}

/// Takes fields away that say nothing.
fn without_empty(map: Option<&mut Map<String, Value>>, names: &[&str]) {
    let Some(map) = map else { return };
    map.retain(|name, value| !(names.contains(&name.as_str()) && is_empty(value)));
}

/// Go's `omitempty`.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Bool(true) => false,
    }
}

/// Adds fields that are not there.
fn with(map: Option<&mut Map<String, Value>>, fields: &[(&str, Value)]) {
    let Some(map) = map else { return };
    for (name, value) in fields {
        map.entry(*name).or_insert_with(|| value.clone());
    }
}
