//! A list as Docker prints lists: a table, a template over rows, or JSON lines.

use serde_json::Value as Json;

use super::table;
use super::template::{self, Headers, Missing};
use crate::failure::Result;

/// How a list was asked for.
#[derive(Debug)]
pub struct Listing<'a> {
    /// `--format`, or what the client's configuration says.
    pub format: &'a str,
    pub quiet: bool,
    /// The columns of the plain table.
    pub columns: &'a [&'static str],
    pub headers: &'a Headers,
    /// The field that `--quiet` prints.
    pub key: &'static str,
    /// Names and fields of `--format raw`, one per line; empty where there is no such format.
    pub raw: &'a [(&'static str, &'static str)],
}

/// The text of a list.
pub fn render(listing: &Listing<'_>, rows: &[Json]) -> Result<String> {
    let field = |row: &Json, name: &str| match &row[name] {
        Json::String(text) => text.clone(),
        Json::Null => String::new(),
        other => other.to_string(),
    };
    let plain_table = matches!(listing.format, "" | "table");
    let raw = listing.format == "raw" && !listing.raw.is_empty();
    if listing.quiet && raw {
        let name =
            listing.raw.iter().find(|(_, of)| *of == listing.key).map_or("", |(name, _)| name);
        let line = |row: &Json| format!("{name}: {}\n", field(row, listing.key));
        return Ok(rows.iter().map(line).collect());
    }
    if listing.quiet && plain_table {
        return Ok(rows.iter().map(|row| field(row, listing.key) + "\n").collect());
    }
    if raw {
        // A blank line ends each.
        let line = |row: &Json, (name, of): (&str, &str)| match field(row, of).as_str() {
            "" => format!("{name}:\n"),
            value => format!("{name}: {value}\n"),
        };
        let of = |row: &Json| -> String {
            listing.raw.iter().map(|pair| line(row, *pair)).chain(["\n".to_owned()]).collect()
        };
        return Ok(rows.iter().map(of).collect());
    }
    if plain_table {
        let head = listing.columns.iter().map(|column| name_of(listing.headers, column));
        let mut lines = vec![head.collect::<Vec<_>>().join("\t")];
        for row in rows {
            let cells: Vec<String> =
                listing.columns.iter().map(|column| field(row, column)).collect();
            lines.push(cells.join("\t"));
        }
        return Ok(table::align(&lines));
    }
    if let Some(rest) = listing.format.strip_prefix("table ") {
        let text = escapes(rest.trim());
        let mut lines = vec![template::header(&text, listing.headers)?];
        lines.extend(template::lines(&text, rows, Missing::Mistake)?);
        return Ok(table::align(&lines));
    }
    let text = match listing.format {
        "json" => "{{json .}}".to_owned(),
        other => escapes(other),
    };
    let lines = template::lines(&text, rows, Missing::Mistake)?;
    Ok(lines.into_iter().map(|line| line + "\n").collect())
}

/// The column's words.
fn name_of(headers: &Headers, column: &str) -> &'static str {
    headers.iter().find(|(field, _)| *field == column).map_or("", |(_, name)| name)
}

/// `\t` and `\n` as shells leave them.
pub fn escapes(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}
