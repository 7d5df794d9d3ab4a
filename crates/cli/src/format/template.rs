//! Go templates over JSON values: `--format '{{.Names}}'`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use gotmpl::{MissingKey, Template, TemplateError, Value};
use serde_json::Value as Json;

use hoy_template::shape;

use super::typed::{self, Nothing};
use crate::failure::{Failure, Result};

/// The fields of JSON objects in the order they came in: templates know sorted maps only, and
/// `json` must print what the engine said.
type Orders = Arc<HashMap<usize, Vec<Arc<str>>>>;

/// How fields that are not there are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// A row of a list: its fields are known, another one is a mistake.
    Mistake,
    /// A document of the engine: below labels, ports and options anything may be asked for.
    Document,
}

/// Docker's words for the columns of a `table` template.
pub type Headers = [(&'static str, &'static str)];

/// Runs one template over each value; every result is one line.
pub fn lines(text: &str, values: &[Json], missing: Missing) -> Result<Vec<String>> {
    values.iter().map(|value| one(text, value, missing)).collect()
}

/// Checks a template without running it, so that a bad one costs no request.
pub fn check(text: &str) -> Result<()> {
    let orders = Orders::default();
    functions(Template::new(""), &orders).parse(&with_calls(text)).map_err(bad_syntax)?;
    shape::check(text).map_err(|why| {
        Failure::new(format!("template parsing error: template: :1: {why}")).with_code(64)
    })
}

/// As [`check`], in the words that lists have.
pub fn check_of_list(text: &str) -> Result<()> {
    check(text).map_err(|failure| {
        let text =
            failure.message.replacen("template parsing error:", "failed to parse template:", 1);
        Failure::new(text)
    })
}

/// A template's mistake as Go words it.
fn mistake(
    text: &str,
    error: &TemplateError,
    missing: Missing,
    rows: Option<(&'static str, &'static str)>,
) -> Failure {
    let document = missing == Missing::Document;
    let of = if document { "template parsing error" } else { "failed to execute template" };
    let of = rows.map_or(of, |(of, _)| of);
    let (place, why) = match error {
        TemplateError::MissingKey { key } => {
            let why = match rows {
                _ if document => format!("map has no entry for key \"{key}\""),
                Some((_, go)) => format!("can't evaluate field {key} in type {go}"),
                None => format!("can't evaluate field {key}"),
            };
            (shape::field(text, key), why)
        }
        TemplateError::IndexOutOfRange { index } => {
            let why = if document {
                "error calling index: reflect: slice index out of range".to_owned()
            } else {
                format!("error calling index: index out of range: {index}")
            };
            (shape::call(text, "index"), why)
        }
        TemplateError::ArgCount { name, expected, got } => (
            shape::call(text, name),
            format!("wrong number of args for {name}: want {expected} got {got}"),
        ),
        TemplateError::UndefinedFunction(name) => {
            let parse =
                if document { "template parsing error" } else { "failed to parse template" };
            let text = format!("{parse}: template: :1: function \"{name}\" not defined");
            return Failure::new(text).with_code(if document { 64 } else { 1 });
        }
        TemplateError::UndefinedVariable(name) => {
            let name = name.trim_start_matches('$');
            let parse =
                if document { "template parsing error" } else { "failed to parse template" };
            let text = format!("{parse}: template: :1: undefined variable \"${name}\"");
            return Failure::new(text).with_code(if document { 64 } else { 1 });
        }
        // A field of what has none.
        TemplateError::Exec(said) => match said.strip_prefix("can't evaluate field ") {
            Some(rest) => {
                let (key, kind) = rest.split_once(" in type ").unwrap_or((rest, "string"));
                let kind = if document { "interface {}" } else { kind };
                (shape::field(text, key), format!("can't evaluate field {key} in type {kind}"))
            }
            None => (None, error.to_string()),
        },
        other => (None, other.to_string()),
    };
    let place = place.map(|place| place + ": ").unwrap_or_default();
    Failure::new(format!("{of}: {place}{why}"))
}

fn bad_syntax(error: TemplateError) -> Failure {
    // Go names the template, which has no name here, and the line.
    let text = error.to_string();
    let text = match text.strip_prefix("template: ").and_then(|rest| {
        let (place, reason) = rest.split_once(": ")?;
        let (line, _) = place.split_once(':')?;
        Some(format!("template: :{line}: {}", shape::parse_words(reason)))
    }) {
        Some(text) => text,
        None => text,
    };
    Failure::new(format!("template parsing error: {text}")).with_code(64)
}

/// Runs a template over one value. Go knows more of a document than is written there; where that
/// leads nowhere, Docker tries what is written.
pub fn one(text: &str, value: &Json, missing: Missing) -> Result<String> {
    let said = as_it_is(text, value, missing);
    if said.is_err()
        && missing == Missing::Document
        && let Some(named) = typed::as_go_names_it(value, text)
        && let Ok(said) = as_it_is(text, &named, missing)
    {
        return Ok(said);
    }
    said
}

fn as_it_is(text: &str, value: &Json, missing: Missing) -> Result<String> {
    if missing == Missing::Document {
        let nothings = typed::nothings(value);
        let typed = (!nothings.is_empty()).then(|| over(text, value, missing, &nothings));
        if let Some(Ok(said)) = typed {
            return Ok(said);
        }
    }
    over(text, value, missing, &[])
}

/// `nothings`: what is there beside what is written.
fn over(
    text: &str,
    value: &Json,
    missing: Missing,
    nothings: &[(&str, &str, Nothing)],
) -> Result<String> {
    let mut orders = HashMap::new();
    let root = convert(value, "", nothings, &mut orders);
    let orders: Orders = Arc::new(orders);
    let run = |keys: MissingKey| {
        functions(Template::new(""), &orders)
            .missing_key(keys)
            .parse(&with_calls(text))
            .map_err(bad_syntax)
            .map(|template| template.execute_to_string(&root))
    };
    match run(MissingKey::Error)? {
        // Nothing is missing: what has no value is a pointer to nothing.
        Ok(said) if !nothings.is_empty() && said.contains("<no value>") => {
            let behind = |(_, field, nothing): &(&str, &str, Nothing)| {
                *nothing == Nothing::Pointer && text.contains(&format!(".{field}."))
            };
            match nothings.iter().any(behind) {
                // To Go a field of nothing is a mistake.
                true => Err(Failure::new("nil pointer evaluating")),
                false => Ok(said.replace("<no value>", "<nil>")),
            }
        }
        Ok(said) => Ok(said),
        Err(error) => {
            // A label that is not set is no mistake.
            if missing == Missing::Document
                && asks_a_free_map(text, &error.to_string())
                && let Ok(text) = run(MissingKey::Invalid)?
            {
                return Ok(text);
            }
            let rows = (missing == Missing::Mistake).then(|| typed::of_rows(value)).flatten();
            Err(mistake(text, &error, missing, rows))
        }
    }
}

/// Maps whose keys users choose.
const FREE_MAPS: &[&str] = &[
    "Labels",
    "Options",
    "Ports",
    "Networks",
    "Sysctls",
    "DriverOpts",
    "Volumes",
    "ExposedPorts",
    "PortBindings",
    "Annotations",
    "Data",
    "Containers",
    "Tmpfs",
    "LogConfig.Config",
];

fn asks_a_free_map(template: &str, error: &str) -> bool {
    FREE_MAPS.iter().any(|map| {
        template.match_indices(&format!(".{map}.")).any(|(at, found)| {
            let rest = &template[at + found.len()..];
            let key: String =
                rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            !key.is_empty() && error.contains(&key)
        })
    })
}

/// A method with an argument, `.Label "x"`, becomes a call: rows hold functions for those.
fn with_calls(text: &str) -> String {
    if !text.contains(".Label ") {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(".Label ") {
        let (head, tail) = rest.split_at(at);
        out.push_str(head);
        let free = head.chars().last().is_none_or(|c| " ({|-=".contains(c));
        out.push_str(if free { "call .Label " } else { ".Label " });
        rest = &tail[".Label ".len()..];
    }
    out.push_str(rest);
    out
}

/// What a list or a map that is null has as its order: it is empty, and no JSON says so.
const NULL: &str = "\0";

fn nothing_of(nothing: Nothing, orders: &mut HashMap<usize, Vec<Arc<str>>>) -> Value {
    match nothing {
        Nothing::List => {
            let list: Arc<[Value]> = Vec::new().into();
            orders.insert(list.as_ptr().addr(), vec![NULL.into()]);
            Value::List(list)
        }
        Nothing::Map => {
            let map = Arc::new(BTreeMap::new());
            orders.insert(Arc::as_ptr(&map).addr(), vec![NULL.into()]);
            Value::Map(map)
        }
        Nothing::Pointer => Value::Nil,
        Nothing::Text => Value::String("".into()),
        Nothing::False => Value::Bool(false),
    }
}

/// `path` leads to the value; `nothings` is what is there beside what is written.
fn convert(
    value: &Json,
    path: &str,
    nothings: &[(&str, &str, Nothing)],
    orders: &mut HashMap<usize, Vec<Arc<str>>>,
) -> Value {
    match value {
        Json::Null => Value::Nil,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(number) => Value::Int(number),
            None => match number.as_u64() {
                Some(number) => Value::Uint(number),
                None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
        },
        Json::String(text) => Value::String(text.as_str().into()),
        Json::Array(values) => {
            Value::List(values.iter().map(|value| convert(value, "[]", &[], orders)).collect())
        }
        Json::Object(map) => {
            let mut order = Vec::with_capacity(map.len());
            let mut sorted = BTreeMap::new();
            for (key, value) in map {
                let key: Arc<str> = key.as_str().into();
                order.push(key.clone());
                let below = match path {
                    _ if nothings.is_empty() => String::new(),
                    "" => key.to_string(),
                    path => format!("{path}.{key}"),
                };
                sorted.insert(key, convert(value, &below, nothings, orders));
            }
            for (_, field, nothing) in nothings.iter().filter(|(at, ..)| *at == path) {
                sorted.insert((*field).into(), nothing_of(*nothing, orders));
            }
            // Rows of lists: `.Label "x"` looks into the labels, written `a=b,c=d`.
            if let (Some(Json::String(labels)), None) = (map.get("Labels"), map.get("Config")) {
                let labels = labels.clone();
                sorted.insert("Label".into(), Value::Function(label_of(labels)));
            }
            let map = Arc::new(sorted);
            orders.insert(Arc::as_ptr(&map).addr(), order);
            Value::Map(map)
        }
    }
}

fn label_of(labels: String) -> gotmpl::ValueFunc {
    Arc::new(move |args: &[Value]| {
        let name = args.first().map(ToString::to_string).unwrap_or_default();
        let found = labels
            .split(',')
            .find_map(|label| label.split_once('=').filter(|(key, _)| *key == name))
            .map_or("", |(_, value)| value);
        Ok(Value::String(found.into()))
    })
}

fn functions(template: Template, orders: &Orders) -> Template {
    let orders = orders.clone();
    let json = move |value: &Value| {
        let mut out = String::new();
        write_json(value, &orders, &mut out);
        out
    };
    hoy_template::functions::of_values(template, Arc::new(json))
}

/// As Go's encoder writes a string: safe inside HTML, too.
fn quoted(text: &str) -> String {
    let json = Json::from(text).to_string();
    if !json.contains(['<', '>', '&']) {
        return json;
    }
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

fn is_null(orders: &Orders, at: usize) -> bool {
    orders.get(&at).is_some_and(|order| matches!(order.as_slice(), [one] if &**one == NULL))
}

fn write_json(value: &Value, orders: &Orders, out: &mut String) {
    match value {
        Value::Nil | Value::Function(_) => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Int(number) => out.push_str(&number.to_string()),
        Value::Uint(number) => out.push_str(&number.to_string()),
        Value::Float(number) => out.push_str(&Json::from(*number).to_string()),
        Value::String(text) => out.push_str(&quoted(text)),
        Value::List(values) if is_null(orders, values.as_ptr().addr()) => out.push_str("null"),
        Value::Map(map) if is_null(orders, Arc::as_ptr(map).addr()) => out.push_str("null"),
        Value::List(values) => {
            out.push('[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_json(value, orders, out);
            }
            out.push(']');
        }
        Value::Map(map) => {
            out.push('{');
            let sorted;
            let order = match orders.get(&Arc::as_ptr(map).addr()) {
                Some(order) => order,
                None => {
                    sorted = map.keys().cloned().collect();
                    &sorted
                }
            };
            for (index, key) in order.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&quoted(key));
                out.push(':');
                write_json(map.get(key).unwrap_or(&Value::Nil), orders, out);
            }
            out.push('}');
        }
    }
}

/// The header line of a `table` template: the template run over the columns' names.
pub fn header(text: &str, headers: &Headers) -> Result<String> {
    let mut row: serde_json::Map<String, Json> =
        headers.iter().map(|(field, name)| ((*field).to_owned(), (*name).into())).collect();
    // `.Label "com.example.some-name"` is headed by the last part of the key.
    let mut text = text.to_owned();
    while let Some(at) = text.find(".Label \"") {
        let tail = &text[at + ".Label \"".len()..];
        let Some(end) = tail.find('"') else { break };
        let name = tail[..end].rsplit('.').next().unwrap_or_default().replace(['-', '_'], " ");
        let key = format!("Label_{}", row.len());
        row.insert(key.clone(), name.into());
        text.replace_range(at..at + ".Label \"".len() + end + 1, &format!(".{key}"));
    }
    let mut orders = HashMap::new();
    let root = convert(&Json::Object(row), "", &[], &mut orders);
    let template = hoy_template::functions::of_headers(Template::new(""));
    let template = template.missing_key(MissingKey::Invalid).parse(&text).map_err(bad_syntax)?;
    let result = template.execute_to_string(&root);
    result.map_err(|error| mistake(&text, &error, Missing::Mistake, None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(text: &str, value: Json) -> String {
        one(text, &value, Missing::Document).unwrap_or_else(|error| error.message)
    }

    #[test]
    fn order_is_kept_and_functions_are_there() {
        let value = json!({"b": 1, "a": {"z": [1, "x"], "y": null}, "s": "hi"});
        assert_eq!(run("{{json .}}", value.clone()), value.to_string());
        assert_eq!(run("{{json .a}}", value.clone()), r#"{"z":[1,"x"],"y":null}"#);
        assert_eq!(run("{{.b}} {{upper .s}} {{.a.z}}", value.clone()), "1 HI [1 x]");
        assert_eq!(run("{{range $k, $v := .a}}{{$k}} {{end}}", value), "y z ");
    }

    #[test]
    fn what_is_null_or_left_out() {
        let value = json!({
            "State": {"Pid": 1},
            "HostConfig": {"Binds": null, "LogConfig": {"Type": "x", "Config": null}},
            "Config": {"Entrypoint": null, "Labels": null, "Cmd": []}
        });
        for (text, says) in [
            ("{{.Config.Entrypoint}}{{json .Config.Entrypoint}}", "[]null"),
            ("{{len .HostConfig.Binds}}{{.HostConfig.LogConfig.Config}}", "0map[]"),
            ("{{json .Config}}", r#"{"Entrypoint":null,"Labels":null,"Cmd":[]}"#),
            ("{{.State.Health}}{{if .State.Health}}x{{end}}{{.Config.Volumes}}", "<nil>map[]"),
            ("{{range .Config.Entrypoint}}x{{else}}y{{end}}{{json .Config.Cmd}}", "y[]"),
            ("{{index .Config.Labels \"a\"}}|{{.Config.Labels.a}}", "|<no value>"),
        ] {
            assert_eq!(run(text, value.clone()), says, "{text}");
        }
        let says = "template parsing error: template: :1:8: executing \"\" at <.State.Health.Status>: map has no entry for key \"Health\"";
        assert_eq!(run("{{.State.Health.Status}}", value.clone()), says);
        let says = "template parsing error: template: :1:12: executing \"\" at <.State.Pid.Foo>: can't evaluate field Foo in type interface {}";
        assert_eq!(run("{{.State.Pid.Foo}}", value), says);
    }

    #[test]
    fn missing_keys() {
        let value = json!({"Config": {"Labels": {"a": "b"}}});
        assert_eq!(run("{{.Config.Labels.a}}", value.clone()), "b");
        assert_eq!(run("{{.Config.Labels.gone}}", value.clone()), "<no value>");
        let says = "template parsing error: template: :1:2: executing \"\" at <.Gone>: map has no entry for key \"Gone\"";
        assert_eq!(run("{{.Gone}}", value.clone()), says);
        assert_eq!(run("{{index .Config.Labels \"gone\"}}", value), "");
        assert!(check("{{.X").unwrap_err().message.contains("template parsing error"));
    }

    #[test]
    fn labels_of_rows() {
        let row = json!({"Labels": "a=b,com.x=y z", "Names": "n"});
        let run = |text: &str| one(text, &row, Missing::Mistake).unwrap();
        assert_eq!(run("{{.Label \"com.x\"}}-{{.Label \"none\"}}"), "y z-");
        assert_eq!(run("{{if eq (.Label \"a\") \"b\"}}yes{{end}}"), "yes");
        assert_eq!(
            header("{{.Names}}\t{{.Label \"com.a-b\"}}", &[("Names", "NAMES")]).unwrap(),
            "NAMES\ta b"
        );
    }
}
