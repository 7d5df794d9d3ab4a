//! What Go sees of a template before it runs, and where it says that a mistake is. Pure.

/// An action `{{…}}`: where its text begins, and the text without trimming marks.
fn actions(template: &str) -> Vec<(usize, &str)> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(open) = template[at..].find("{{").map(|found| at + found) {
        let from = open + 2;
        let Some(length) = end_of_action(&template[from..]) else { break };
        let whole = &template[from..from + length];
        let trimmed = whole.strip_prefix("- ").unwrap_or(whole);
        let trimmed = trimmed.strip_suffix(" -").unwrap_or(trimmed);
        let skipped = whole.len() - whole.strip_prefix("- ").unwrap_or(whole).len();
        let blank = trimmed.len() - trimmed.trim_start().len();
        out.push((from + skipped + blank, trimmed.trim()));
        at = from + length + 2;
    }
    out
}

/// How long an action's text is: braces in strings and comments end none.
fn end_of_action(text: &str) -> Option<usize> {
    if text.trim_start_matches("- ").starts_with("/*") {
        let end = text.find("*/")?;
        return text[end..].find("}}").map(|found| end + found);
    }
    let bytes = text.as_bytes();
    let mut quote = None;
    let mut at = 0;
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(b'"' | b'\''), b'\\') => at += 1,
            (Some(open), byte) if open == byte => quote = None,
            (None, byte @ (b'"' | b'`' | b'\'')) => quote = Some(byte),
            (None, b'}') if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

/// What is wrong with the order of `if`, `range`, `end` and the like, in Go's words.
pub fn check(template: &str) -> Result<(), String> {
    let mut open: Vec<&str> = Vec::new();
    for (_, text) in actions(template) {
        let word = text.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        match word {
            "if" | "range" | "with" | "define" | "block" => open.push(word),
            "else" if open.is_empty() => return Err("unexpected {{else}}".to_owned()),
            "end" if open.pop().is_none() => return Err("unexpected {{end}}".to_owned()),
            "break" | "continue" if text == word && !open.contains(&"range") => {
                return Err(format!("{{{{{word}}}}} outside {{{{range}}}}"));
            }
            _ => {}
        }
    }
    if open.is_empty() { Ok(()) } else { Err("unexpected EOF".to_owned()) }
}

/// Go's words for what is no template.
pub fn parse_words(message: &str) -> String {
    match message {
        "unterminated string" => "unterminated quoted string".to_owned(),
        "empty command" => "missing value for command".to_owned(),
        text if text.starts_with("expected RightParen, got RightDelim") => {
            "unclosed left paren".to_owned()
        }
        text => text.to_owned(),
    }
}

/// `:LINE:COLUMN: executing "" at <NODE>`, for the first field of this name.
pub fn field(template: &str, name: &str) -> Option<String> {
    for (from, text) in actions(template) {
        for (found, _) in text.match_indices(&format!(".{name}")) {
            let after = text[found + 1 + name.len()..].chars().next();
            if after.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let part = |c: char| c.is_alphanumeric() || "_.$".contains(c);
            let begin = text[..found].rfind(|c| !part(c)).map_or(0, |before| before + 1);
            // Go names the whole chain.
            let rest = &text[found + 1 + name.len()..];
            let chain = |c: char| !(c.is_alphanumeric() || c == '_' || c == '.');
            let end = text.len() - rest.len() + rest.find(chain).unwrap_or(rest.len());
            return Some(place(template, from + found, &text[begin..end]));
        }
    }
    None
}

/// The same, for the first call of this function.
pub fn call(template: &str, name: &str) -> Option<String> {
    for (from, text) in actions(template) {
        let found = text.match_indices(name).find(|(found, _)| {
            let after = text[found + name.len()..].chars().next();
            !after.is_some_and(|c| c.is_alphanumeric() || c == '_')
                && !text[..*found].ends_with(|c: char| c.is_alphanumeric() || c == '.' || c == '_')
        });
        let Some((found, _)) = found else { continue };
        let mut depth = 0;
        let end = text[found..].find(|c| {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            depth < 0 || (depth == 0 && c == '|')
        });
        let node = end.map_or(&text[found..], |end| &text[found..found + end]).trim();
        return Some(place(template, from + found, node));
    }
    None
}

fn place(template: &str, at: usize, node: &str) -> String {
    let before = &template[..at];
    let line = before.matches('\n').count() + 1;
    let column = at - before.rfind('\n').map_or(0, |found| found + 1);
    let node = match node.char_indices().nth(20) {
        // Go shows so much of a node.
        Some((cut, _)) if node.chars().count() > 20 => format!("{}...", &node[..cut]),
        _ => node.to_owned(),
    };
    format!("template: :{line}:{column}: executing \"\" at <{node}>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order() {
        for good in
            ["{{if .A}}x{{end}}", "{{range .}}{{break}}{{end}}", "{{/* if */}}", "{{\"{{if\"}}"]
        {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        assert_eq!(check("{{if .A}}"), Err("unexpected EOF".to_owned()));
        assert_eq!(check("{{end}}"), Err("unexpected {{end}}".to_owned()));
        assert_eq!(check("{{else}}"), Err("unexpected {{else}}".to_owned()));
        assert_eq!(check("{{break}}"), Err("{{break}} outside {{range}}".to_owned()));
    }

    #[test]
    fn places_as_go_counts() {
        assert_eq!(
            field("{{.Nope}}", "Nope").unwrap(),
            "template: :1:2: executing \"\" at <.Nope>"
        );
        assert_eq!(
            field("x {{json .State.Nope}}", "Nope").unwrap(),
            "template: :1:15: executing \"\" at <.State.Nope>"
        );
        assert_eq!(
            call("{{index .Mounts 0}}", "index").unwrap(),
            "template: :1:2: executing \"\" at <index .Mounts 0>"
        );
        assert_eq!(
            field("{{.State.Nope.Status}}", "Nope").unwrap(),
            "template: :1:8: executing \"\" at <.State.Nope.Status>"
        );
        assert_eq!(field("{{.Nopes}}", "Nope"), None);
    }
}
