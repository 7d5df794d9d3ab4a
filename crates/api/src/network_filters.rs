//! Which networks a list shows: Docker's filters. Pure.

use hoy_wire::{self as wire, NetworkInspect};
use regex::bytes::{Regex, RegexBuilder};

use crate::ApiError;
use crate::networks::Filters;

/// An expression may not cost more than this.
const MAX_EXPRESSION: usize = 1 << 20;

/// See the module. Values of one name: any of them, but all labels; names: all.
#[derive(Debug, Default)]
pub(crate) struct NetworkFilter {
    names: Vec<Expression>,
    ids: Vec<Expression>,
    drivers: Vec<String>,
    scopes: Vec<String>,
    labels: Vec<String>,
    /// Made by people, or always there.
    custom: Option<bool>,
    unused: Option<bool>,
}

/// A text is meant by itself or by an expression that matches somewhere in it.
#[derive(Debug)]
struct Expression {
    text: String,
    expression: Option<Regex>,
}

impl Expression {
    fn new(text: &str) -> Self {
        // Go's expressions know ASCII alone in their classes, as these do without Unicode.
        let expression =
            RegexBuilder::new(text).unicode(false).size_limit(MAX_EXPRESSION).build().ok();
        Self { text: text.to_owned(), expression }
    }

    fn admits(&self, value: &str) -> bool {
        self.text == value
            || self.expression.as_ref().is_some_and(|known| known.is_match(value.as_bytes()))
    }
}

impl NetworkFilter {
    pub fn parse(filters: &Filters) -> Result<Self, ApiError> {
        let mut out = Self::default();
        for (name, values) in filters {
            let expressions = || values.iter().map(|value| Expression::new(value)).collect();
            match name.as_str() {
                "name" => out.names = expressions(),
                "id" => out.ids = expressions(),
                "driver" => out.drivers.clone_from(values),
                "scope" => out.scopes.clone_from(values),
                "label" => out.labels.clone_from(values),
                "type" => out.custom = kind(values)?,
                "dangling" => out.unused = unused(values)?,
                other => return Err(ApiError::bad(format!("invalid filter '{other}'"))),
            }
        }
        Ok(out)
    }

    pub fn admits(&self, network: &NetworkInspect, used: bool) -> bool {
        let matches = |all: &[Expression], value: &str| {
            all.is_empty() || all.iter().any(|one| one.admits(value))
        };
        let is = |all: &[String], value: &String| all.is_empty() || all.contains(value);
        let builtin = matches!(network.name.as_str(), "bridge" | "host" | "none" | "default");
        matches(&self.names, &network.name)
            && matches(&self.ids, &network.id)
            && is(&self.drivers, &network.driver)
            && is(&self.scopes, &network.scope)
            && wire::has_labels(&self.labels, network.labels.as_ref())
            && self.custom.is_none_or(|custom| custom != builtin)
            && self.unused.is_none_or(|unused| unused != (builtin || used))
    }
}

/// `custom` or `builtin`; both are all.
fn kind(values: &[String]) -> Result<Option<bool>, ApiError> {
    let mut out = None;
    for value in values {
        let custom = match value.as_str() {
            "custom" => true,
            "builtin" => false,
            other => return Err(ApiError::bad(format!("invalid filter: 'type'='{other}'"))),
        };
        match out {
            Some(known) if known != custom => return Ok(None),
            _ => out = Some(custom),
        }
    }
    Ok(out)
}

fn unused(values: &[String]) -> Result<Option<bool>, ApiError> {
    match values {
        [] => Ok(None),
        [value] => match value.as_str() {
            "1" | "true" => Ok(Some(true)),
            "0" | "false" => Ok(Some(false)),
            _ => Err(ApiError::bad(
                "invalid value for filter 'dangling', must be \"true\" (or \"1\"), or \"false\" \
                 (or \"0\")",
            )),
        },
        _ => Err(ApiError::bad("got more than one value for filter key \"dangling\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(filters: &[(&str, &[&str])]) -> Result<NetworkFilter, ApiError> {
        let owned = filters.iter().map(|(name, values)| {
            ((*name).to_owned(), values.iter().map(|value| (*value).to_owned()).collect())
        });
        NetworkFilter::parse(&owned.collect())
    }

    /// Names of those shown among the three that are always there, `a-net` and, in use, `b-net`.
    fn shown(filters: &[(&str, &[&str])]) -> String {
        let filter = parse(filters).unwrap();
        let network =
            |name: &str, driver: &str, id: &str, labels: &[(&str, &str)]| NetworkInspect {
                name: name.to_owned(),
                driver: driver.to_owned(),
                id: id.to_owned(),
                scope: "local".to_owned(),
                labels: Some(labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()),
                ..NetworkInspect::default()
            };
        let all = [
            network("bridge", "bridge", "00aa", &[]),
            network("host", "host", "11bb", &[]),
            network("none", "null", "22cc", &[]),
            network("a-net", "bridge", "33aa", &[("x", "1"), ("y", "2")]),
            network("b-net", "macvlan", "44dd", &[("x", "2")]),
        ];
        let names = all.iter().filter(|one| filter.admits(one, one.name == "b-net"));
        names.map(|one| one.name.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn as_docker_filters() {
        for (filters, names) in [
            (&[][..], "bridge host none a-net b-net"),
            (&[("name", &["net"][..])], "a-net b-net"),
            (&[("name", &["^b"])], "bridge b-net"),
            (&[("name", &["^host$", "a-"])], "host a-net"),
            (&[("name", &[r"^\w-"])], "a-net b-net"),
            (&[("name", &["("])], ""),
            (&[("id", &["aa"])], "bridge a-net"),
            (&[("driver", &["null", "macvlan"])], "none b-net"),
            (&[("scope", &["swarm"])], ""),
            (&[("label", &["x"])], "a-net b-net"),
            (&[("label", &["x=1", "y"])], "a-net"),
            (&[("type", &["custom"])], "a-net b-net"),
            (&[("type", &["builtin"])], "bridge host none"),
            (&[("type", &["builtin", "custom"])], "bridge host none a-net b-net"),
            (&[("dangling", &["true"])], "a-net"),
            (&[("dangling", &["0"])], "bridge host none b-net"),
            (&[("driver", &["bridge"]), ("type", &["custom"])], "a-net"),
        ] {
            assert_eq!(shown(filters), names, "{filters:?}");
        }
        for (filters, words) in [
            (&[("foo", &["x"][..])][..], "invalid filter 'foo'"),
            (&[("type", &["x"])], "invalid filter: 'type'='x'"),
            (&[("dangling", &["true", "false"])], "got more than one value for filter key"),
            (&[("dangling", &["maybe"])], "invalid value for filter 'dangling'"),
        ] {
            let error = parse(filters).unwrap_err();
            assert!(error.status == 400 && error.message.starts_with(words), "{error}");
        }
    }
}
