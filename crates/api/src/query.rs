//! Query strings by Docker's rules. Pure.

use serde_json::Value;

use crate::ApiError;

/// Decoded pairs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

/// `%2F` and `+`. Something that is no encoding stays as it is.
pub(crate) fn decode(text: &str, plus: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let hex = |index: usize| bytes.get(index).and_then(|c| char::from(*c).to_digit(16));
        match (byte, hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
                continue;
            }
            (b'+', ..) if plus => out.push(b' '),
            (byte, ..) => out.push(*byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Query {
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name, true), decode(value, true))
        });
        Self(pairs.collect())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default().to_owned()
    }

    pub fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect()
    }

    /// Anything but nothing, 0, no, false and none is true.
    pub fn flag(&self, name: &str) -> bool {
        let value = self.get(name).unwrap_or_default().trim().to_ascii_lowercase();
        !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
    }

    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        match self.get(name).filter(|value| !value.is_empty()) {
            None => Ok(None),
            Some(text) => match text.parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(ApiError::bad(format!("invalid value for {name}: {text:?}"))),
            },
        }
    }

    /// `{"label":["a=b"]}` or `{"label":{"a=b":true}}`.
    pub fn filters(&self) -> Result<Vec<(String, Vec<String>)>, ApiError> {
        let Some(text) = self.get("filters").filter(|text| !text.is_empty()) else {
            return Ok(Vec::new());
        };
        let invalid = || ApiError::bad("invalid filter");
        let Ok(Value::Object(object)) = serde_json::from_str(text) else { return Err(invalid()) };
        let mut out = Vec::new();
        for (name, values) in object {
            let values = match values {
                Value::Array(list) => list
                    .into_iter()
                    .map(|value| value.as_str().map(str::to_owned).ok_or_else(invalid))
                    .collect::<Result<_, _>>()?,
                Value::Object(map) => map
                    .into_iter()
                    .filter(|(_, wanted)| wanted != &Value::Bool(false))
                    .map(|(value, _)| value)
                    .collect(),
                _ => return Err(invalid()),
            };
            out.push((name, values));
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let query = Query::parse("a=1&b=x%2Fy+z&c&all=banana&d=%zz&a=2");
        assert_eq!(query.get("b"), Some("x/y z"));
        assert!(query.flag("all") && query.flag("a") && !query.flag("c") && !query.flag("none"));
        assert_eq!(query.get("d"), Some("%zz"));
        assert_eq!(query.all("a"), ["1", "2"]);
        assert!(query.number::<i64>("b").is_err());
    }

    #[test]
    fn both_forms_of_filters() {
        for text in ["{\"label\":[\"a=b\"]}", "{\"label\":{\"a=b\":true}}"] {
            let query = Query(vec![("filters".into(), text.into())]);
            assert_eq!(query.filters().unwrap(), [("label".to_owned(), vec!["a=b".to_owned()])]);
        }
        for text in ["x", "[]", "{\"a\":1}", "{\"a\":[1]}"] {
            assert!(Query(vec![("filters".into(), text.into())]).filters().is_err(), "{text}");
        }
    }
}
