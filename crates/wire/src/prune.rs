//! Which objects a prune takes away: the filters of Docker's prune requests. Pure.

use std::collections::BTreeMap;

use hoy_types::Timestamp;

/// The query parameter with which a prune only tells, and the filter that must stand beside it.
pub const DRY_RUN: &str = "hoy-dry-run";

/// Beside it: tell what would go once the containers that the same filters mean are gone, as with a
/// prune of the whole system. An engine that does so adds `"AfterContainers": true` to its answer.
pub const AFTER_CONTAINERS: &str = "hoy-after-containers";

type Labels = BTreeMap<String, String>;

/// `until`, `label` and `label!`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PruneFilter {
    until: Option<Timestamp>,
    label: Vec<String>,
    not_label: Vec<String>,
}

impl PruneFilter {
    /// Of values by name; the error is what the client is told.
    pub fn parse<'a>(
        filters: impl IntoIterator<Item = (&'a str, &'a [String])>,
        now: Timestamp,
    ) -> Result<Self, String> {
        let mut out = Self::default();
        for (name, values) in filters {
            match name {
                "label" => out.label = values.to_vec(),
                "label!" => out.not_label = values.to_vec(),
                "until" => match values {
                    [] => {}
                    [text] => {
                        let time = Timestamp::said(text, now).ok_or_else(|| {
                            format!("failed to parse value as time or duration: {text:?}")
                        })?;
                        out.until = Some(time);
                    }
                    _ => return Err("more than one until filter specified".to_owned()),
                },
                // Said beside the query parameter of this name, which is what counts: an engine
                // that knows neither refuses a filter, and would not see the parameter.
                DRY_RUN => {}
                other => return Err(format!("invalid filter '{other}'")),
            }
        }
        Ok(out)
    }

    /// Whether an object of these labels, made then, is meant.
    pub fn admits(&self, labels: Option<&Labels>, created: Timestamp) -> bool {
        self.until.is_none_or(|until| created <= until)
            && has_labels(&self.label, labels)
            // Only what has all of them is spared.
            && (self.not_label.is_empty() || !has_labels(&self.not_label, labels))
    }
}

/// Whether every wanted label is there: `key`, or `key=value`.
pub fn has_labels(wanted: &[String], labels: Option<&Labels>) -> bool {
    wanted.iter().all(|wanted| {
        let (key, value) = match wanted.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (wanted.as_str(), None),
        };
        let found = labels.and_then(|labels| labels.get(key));
        found.is_some_and(|found| value.is_none_or(|value| value == found))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_meant() {
        let now = Timestamp::from_parts(1_700_000_000, 0);
        let parse = |filters: &[(&str, &[&str])]| {
            let owned: Vec<(&str, Vec<String>)> = filters
                .iter()
                .map(|(name, values)| (*name, values.iter().map(|v| (*v).to_owned()).collect()))
                .collect();
            PruneFilter::parse(owned.iter().map(|(name, values)| (*name, values.as_slice())), now)
        };
        let labels = Labels::from([("a".into(), "1".into()), ("b".into(), String::new())]);
        let admits = |filters: &[(&str, &[&str])], seconds_ago: i64| {
            let created = Timestamp::from_parts(1_700_000_000 - seconds_ago, 0);
            parse(filters).unwrap().admits(Some(&labels), created)
        };
        assert!(admits(&[], 0) && admits(&[(DRY_RUN, &["true"])], 0));
        assert!(!admits(&[("until", &["1h"])], 3599) && admits(&[("until", &["1h"])], 3600));
        assert!(admits(&[("label", &["a", "b"])], 0) && admits(&[("label", &["a=1"])], 0));
        assert!(!admits(&[("label", &["a", "c"])], 0) && !admits(&[("label", &["a=2"])], 0));
        assert!(!admits(&[("label!", &["a"])], 0) && admits(&[("label!", &["a", "c"])], 0));
        assert!(!parse(&[("label", &["a"])]).unwrap().admits(None, now));
        for (filters, words) in [
            (&[("foo", &["x"][..])][..], "invalid filter 'foo'"),
            (&[("until", &["1h", "2h"])], "more than one until filter specified"),
            (&[("until", &["bogus"])], "failed to parse value as time or duration: \"bogus\""),
        ] {
            assert_eq!(parse(filters).unwrap_err(), words);
        }
    }
}
