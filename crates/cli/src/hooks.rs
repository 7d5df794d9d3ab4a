//! Hooks of plugins: what a plugin that the settings name has to say after a command.
//!
//! As with Docker they are off unless the settings or the environment switch them on, and nothing
//! is said where no person reads. A plugin that fails or says nothing sensible is not told of.

use std::collections::BTreeMap;
use std::sync::Arc;

use gotmpl::{Template, TemplateError, Value};
use serde_json::{Value as Json, json};

use crate::failure::{Failure, Result};
use crate::grammar::{Command, Kind};
use crate::parse::{self, Parsed};
use crate::{help, plugins, say, settings, terminal};

const SUBCOMMAND: &str = "docker-cli-plugin-hooks";
/// The one kind of answer that there is.
const NEXT_STEPS: i64 = 0;

/// What was done, as plugins and their templates see it.
struct Done {
    /// The words that hooks are matched with.
    line: String,
    /// The command's own name.
    name: String,
    /// Flags that were given; values of switches alone.
    given: BTreeMap<String, String>,
    /// Every flag that the command knows, with its value.
    values: BTreeMap<String, String>,
    args: Vec<String>,
    error: String,
}

/// After a command of our own, however it ended.
pub fn after_command(command: &Command, rest: &[String], global: &Parsed, result: &Result<u8>) {
    let Some(settings) = wanted(global) else { return };
    let parsed = parse::parse(command.flags(), rest, command.stops_at_argument())
        .or_else(|_| parse::parse(command.flags(), &[], true))
        .unwrap_or_default();
    // Of a group's command Docker takes the name, not what it was called by; at the top each has
    // its own.
    let line = if command.path.contains(' ') { command.canonical } else { command.path };
    let mut done = Done {
        line: line.to_owned(),
        name: line.rsplit(' ').next().unwrap_or(line).to_owned(),
        given: BTreeMap::new(),
        values: BTreeMap::new(),
        args: parsed.args.clone(),
        error: result.as_ref().err().map(error_of).unwrap_or_default(),
    };
    for flag in command.flags() {
        let text = match flag.kind() {
            Kind::List if !parsed.given(flag.long) => String::new(),
            Kind::List => format!("[{}]", parsed.list(flag.long).join(" ")),
            _ => parsed.text(flag.long).to_owned(),
        };
        done.values.insert(flag.long.to_owned(), text);
    }
    for flag in command.flags().filter(|flag| parsed.given(flag.long)) {
        let shown = if flag.kind() == Kind::Bool { parsed.text(flag.long) } else { "" };
        done.given.insert(flag.long.to_owned(), shown.to_owned());
    }
    ask_all(&settings, &done, global);
}

/// After a plugin's command that has gone well; its flags are nobody's but its own.
pub fn after_plugin(args: &[String], global: &Parsed) {
    let Some(settings) = wanted(global) else { return };
    let flag = |word: &String| {
        word.strip_prefix("--")
            .or(word.strip_prefix('-'))
            .map(|name| (name.to_owned(), String::new()))
    };
    let done = Done {
        line: args.join(" "),
        name: help::NAME.to_owned(),
        given: args.iter().filter_map(flag).collect(),
        values: BTreeMap::new(),
        args: Vec::new(),
        error: String::new(),
    };
    ask_all(&settings, &done, global);
}

/// The settings, if hooks are on and somebody reads.
fn wanted(global: &Parsed) -> Option<Json> {
    if !terminal::stdout_is_terminal() {
        return None;
    }
    let settings = settings::silently(&settings::directory(global))?;
    settings["plugins"].as_object()?;
    let said = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let switch = said("DOCKER_CLI_HOOKS")
        .or_else(|| said("DOCKER_CLI_HINTS"))
        .or_else(|| settings["features"]["hooks"].as_str().map(str::to_owned));
    let on = switch.and_then(|text| parse::boolean(&text)).unwrap_or(false);
    on.then_some(settings)
}

fn error_of(failure: &Failure) -> String {
    match failure.message.as_str() {
        "" => format!("exit status {}", failure.code),
        message => message.to_owned(),
    }
}

/// The hook that a plugin has for this command, if any.
fn matching<'a>(plugin: &'a Json, done: &Done) -> Option<&'a str> {
    let words: Vec<&str> = done.line.split(' ').collect();
    let of = |key: &str| {
        let hooks = plugin[key].as_str().filter(|text| !text.is_empty())?;
        hooks.split(',').find(|hook| {
            let hook: Vec<&str> = hook.split(' ').collect();
            words.starts_with(&hook)
        })
    };
    of("hooks").or_else(|| of("error-hooks").filter(|_| !done.error.is_empty()))
}

fn ask_all(settings: &Json, done: &Done, global: &Parsed) {
    let mut steps = Vec::new();
    for (name, plugin) in settings["plugins"].as_object().into_iter().flatten() {
        let Some(hook) = matching(plugin, done) else { continue };
        let Some(plugin) = plugins::find(name, global).filter(|plugin| plugin.about.is_ok()) else {
            continue;
        };
        let question =
            json!({"RootCmd": hook, "Flags": done.given, "CommandError": done.error}).to_string();
        let answer = plugins::answer(&plugin.path, &[name, SUBCOMMAND, &question]);
        let said = answer.ok().and_then(|text| serde_json::from_slice::<Json>(&text).ok());
        if let Some(lines) = said.and_then(|said| lines_of(&said, done)) {
            steps.extend(lines);
        }
    }
    if steps.is_empty() {
        return;
    }
    say("\x1b[1m\nWhat's next:\x1b[0m");
    for line in steps {
        say(&format!("    {line}"));
    }
}

/// The lines of an answer; none where it says nothing.
fn lines_of(said: &Json, done: &Done) -> Option<Vec<String>> {
    if said.get("Type").is_some_and(|kind| kind.as_i64() != Some(NEXT_STEPS)) {
        return None;
    }
    let text = filled(said["Template"].as_str().unwrap_or_default(), done).ok()?;
    let lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
    lines.iter().any(|line| !line.trim().is_empty()).then_some(lines)
}

/// A template of a plugin: the command's name, and functions for its flags and arguments.
fn filled(text: &str, done: &Done) -> std::result::Result<String, TemplateError> {
    let (values, args) = (Arc::new(done.values.clone()), Arc::new(done.args.clone()));
    let root: BTreeMap<Arc<str>, Value> =
        [("Name".into(), Value::String(done.name.as_str().into()))].into();
    Template::new("")
        .func("flag", move |given| {
            let name = given.get(1).map(ToString::to_string).unwrap_or_default();
            let value = values.get(&name);
            let value = value.ok_or_else(|| TemplateError::MissingKey { key: name.clone() })?;
            Ok(Value::String(value.as_str().into()))
        })
        .func("arg", move |given| {
            let index = given.get(1).and_then(Value::as_int);
            let index = index.and_then(|index| usize::try_from(index).ok());
            let arg = index.and_then(|index| args.get(index)).map_or("", String::as_str);
            Ok(Value::String(arg.into()))
        })
        .parse(text)?
        .execute_to_string(&Value::Map(Arc::new(root)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(line: &str, error: &str) -> Done {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        Done {
            line: line.to_owned(),
            name: line.rsplit(' ').next().unwrap().to_owned(),
            given: map(&[("name", "")]),
            values: map(&[("name", "web"), ("rm", "false")]),
            args: vec!["busybox".to_owned()],
            error: error.to_owned(),
        }
    }

    #[test]
    fn which_hook_it_is() {
        let plugin = json!({"hooks": "run,image ls", "error-hooks": "pull,ps"});
        let of = |line: &str, error: &str| matching(&plugin, &done(line, error)).map(str::to_owned);
        assert_eq!(of("run", ""), Some("run".to_owned()));
        assert_eq!(of("image ls", "x"), Some("image ls".to_owned()));
        assert_eq!(of("image", ""), None);
        assert_eq!(of("running", ""), None);
        assert_eq!(of("ps", ""), None);
        assert_eq!(of("ps", "failed"), Some("ps".to_owned()));
    }

    #[test]
    fn what_is_said() {
        let of = |answer: Json| lines_of(&answer, &done("run", ""));
        let text = r#"{{.Name}} {{flag . "name"}} {{arg . 0}}{{arg . 7}}"#;
        let lines = of(json!({"Type": 0, "Template": format!("{text}\nand")}));
        assert_eq!(lines, Some(vec!["run web busybox".to_owned(), "and".to_owned()]));
        assert_eq!(of(json!({"Template": r#"{{flag . "gone"}}"#})), None);
        assert_eq!(of(json!({"Template": " \n"})), None);
        assert_eq!(of(json!({"Type": 1, "Template": "x"})), None);
        assert_eq!(of(json!({"Template": "{{"})), None);
    }
}
