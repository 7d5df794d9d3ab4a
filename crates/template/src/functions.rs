//! Docker's functions in templates, and Go's `index`, over values of templates.

use std::sync::Arc;

use gotmpl::{Template, TemplateError, Value};

/// What turns a value into JSON.
pub type Writer = Arc<dyn Fn(&Value) -> String + Send + Sync>;

/// The longest padding that makes sense.
const MAX_PAD: usize = 4096;

fn text(args: &[Value], index: usize) -> String {
    args.get(index).map(ToString::to_string).unwrap_or_default()
}

fn count(args: &[Value], index: usize) -> usize {
    let number = args.get(index).and_then(Value::as_int).unwrap_or(0);
    usize::try_from(number).unwrap_or(0)
}

fn string(text: impl Into<String>) -> Value {
    let text: String = text.into();
    Value::String(text.into())
}

/// The functions over values.
pub fn of_values(template: Template, json: Writer) -> Template {
    let template = template
        .func("json", move |args| match args {
            [value] => Ok(string(json(value))),
            _ => Err(TemplateError::ArgCount {
                name: "json".to_owned(),
                expected: 1,
                got: args.len(),
            }),
        })
        .func("upper", |args| Ok(string(text(args, 0).to_uppercase())))
        .func("lower", |args| Ok(string(text(args, 0).to_lowercase())))
        .func("title", |args| Ok(string(title(&text(args, 0)))))
        .func("split", |args| {
            let (whole, by) = (text(args, 0), text(args, 1));
            Ok(Value::List(
                whole.split(&by).filter(|p| !by.is_empty() || !p.is_empty()).map(string).collect(),
            ))
        })
        .func("join", |args| {
            let parts: Vec<String> = match args.first() {
                Some(Value::List(values)) => values.iter().map(ToString::to_string).collect(),
                _ => Vec::new(),
            };
            Ok(string(parts.join(&text(args, 1))))
        })
        .func("truncate", |args| Ok(string(truncate(&text(args, 0), count(args, 1)))));
    common(template)
}

/// The same over the names of columns, which stay as they are.
pub fn of_headers(template: Template) -> Template {
    let same = |args: &[Value]| Ok(string(text(args, 0)));
    let names = ["json", "upper", "lower", "title", "split", "join", "truncate"];
    common(names.into_iter().fold(template, |template, name| template.func(name, same)))
}

fn common(template: Template) -> Template {
    template.func("index", index).func("pad", |args| {
        let text = text(args, 0);
        if text.is_empty() {
            return Ok(string(text));
        }
        let blank = |at: usize| " ".repeat(count(args, at).min(MAX_PAD));
        Ok(string(format!("{}{text}{}", blank(1), blank(2))))
    })
}

/// The first letter of each word, as Go's `strings.Title`.
fn title(text: &str) -> String {
    let mut within = false;
    text.chars()
        .flat_map(|c| {
            let first = !within;
            within = c.is_alphanumeric() || c == '_' || (!c.is_ascii() && !c.is_whitespace());
            let upper: Vec<char> = if first { c.to_uppercase().collect() } else { vec![c] };
            upper
        })
        .collect()
}

/// So many bytes; a letter that is cut shows that it is.
fn truncate(text: &str, length: usize) -> String {
    let bytes = text.as_bytes();
    String::from_utf8_lossy(&bytes[..length.min(bytes.len())]).into_owned()
}

/// Go's `index`: what a map has not is its kind's nothing, and no mistake.
fn index(args: &[Value]) -> gotmpl::Result<Value> {
    let (mut at, keys) = match args.split_first() {
        Some((of, keys)) => (of.clone(), keys),
        None => {
            return Err(TemplateError::Exec(
                "wrong number of args for index: want at least 1 got 0".into(),
            ));
        }
    };
    for key in keys {
        at = match &at {
            Value::Map(map) => match map.get(key.to_string().as_str()) {
                Some(found) => found.clone(),
                None => nothing_like(map.values().next()),
            },
            Value::List(list) => {
                let number = key.as_int().unwrap_or(-1);
                let found = usize::try_from(number).ok().and_then(|number| list.get(number));
                found.cloned().ok_or(TemplateError::IndexOutOfRange { index: number })?
            }
            Value::String(text) => {
                let number = key.as_int().unwrap_or(-1);
                let found = usize::try_from(number).ok().and_then(|n| text.as_bytes().get(n));
                let byte = found.ok_or(TemplateError::IndexOutOfRange { index: number })?;
                Value::Int((*byte).into())
            }
            _ => {
                return Err(TemplateError::Exec(
                    "error calling index: index of untyped nil".into(),
                ));
            }
        };
    }
    Ok(at)
}

/// What a map without a key answers, by what it holds: Go knows that without any entry.
fn nothing_like(value: Option<&Value>) -> Value {
    match value {
        Some(Value::List(_)) => Value::List(Vec::new().into()),
        Some(Value::Int(_) | Value::Uint(_)) => Value::Int(0),
        Some(Value::Bool(_)) => Value::Bool(false),
        Some(Value::Map(_)) => Value::Nil,
        _ => string(""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        assert_eq!(title("hello wORLD foo-bar a_b 1x"), "Hello WORLD Foo-Bar A_b 1x");
        assert_eq!(truncate("héllo", 3), "hé");
        assert_eq!(truncate("ab", 5), "ab");
        assert_eq!(truncate("héllo", 2), "h\u{fffd}");
    }
}
