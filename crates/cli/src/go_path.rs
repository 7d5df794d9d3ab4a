//! Paths by their text, as Go's `filepath` and Docker's `cp` understand them. Pure.

/// The shortest path that means the same, by its text alone.
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let text = parts.join("/");
    match (rooted, text.as_str()) {
        (true, _) => format!("/{text}"),
        (false, "") => ".".to_owned(),
        _ => text,
    }
}

pub fn join(above: &str, below: &str) -> String {
    clean(&format!("{above}/{below}"))
}

/// The last part.
pub fn base(path: &str) -> &str {
    if path.is_empty() {
        return ".";
    }
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() {
        return "/";
    }
    trimmed.rsplit('/').next().unwrap_or(trimmed)
}

/// All but the last part, cleaned.
pub fn dir(path: &str) -> String {
    match path.rfind('/') {
        Some(at) => clean(&path[..=at]),
        None => ".".to_owned(),
    }
}

pub fn ends_with_separator(path: &str) -> bool {
    path.ends_with('/')
}

/// Whether a path means the contents of a directory.
pub fn names_contents(path: &str) -> bool {
    base(path) == "."
}

/// Whether a path says by its end that it is a directory.
pub fn asserts_directory(path: &str) -> bool {
    ends_with_separator(path) || names_contents(path)
}

/// Gives a cleaned path the end that it was written with.
pub fn with_end_of(cleaned: String, original: &str) -> String {
    let mut out = cleaned;
    if !names_contents(&out) && names_contents(original) {
        if !ends_with_separator(&out) {
            out.push('/');
        }
        out.push('.');
    }
    if !ends_with_separator(&out) && ends_with_separator(original) {
        out.push('/');
    }
    out
}

/// The directory of what is meant, and its name there.
pub fn split_entry(path: &str) -> (String, String) {
    let mut cleaned = clean(path);
    if names_contents(path) {
        cleaned.push_str("/.");
    }
    (dir(&cleaned), base(&cleaned).to_owned())
}

/// What a link was resolved to, with the end of what was written; and the name that it had, where
/// that is another one.
pub fn rebased(path: &str, resolved: String) -> (String, String) {
    let mut resolved = resolved;
    if names_contents(path) && !names_contents(&resolved) {
        resolved.push_str("/.");
    }
    if ends_with_separator(path) && !ends_with_separator(&resolved) {
        resolved.push('/');
    }
    let name = if base(path) != base(&resolved) { base(path).to_owned() } else { String::new() };
    (resolved, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_has_it() {
        for (path, cleaned) in
            [("", "."), ("a/../..", ".."), ("/../a//b/.", "/a/b"), ("./x/", "x"), ("/", "/")]
        {
            assert_eq!(clean(path), cleaned, "{path}");
        }
        assert_eq!((base("/a/b/"), base("/"), base(""), base("a/.")), ("b", "/", ".", "."));
        assert_eq!((dir("/a/b"), dir("a"), dir("/a")), ("/a".into(), ".".into(), "/".into()));
        assert_eq!(with_end_of("/a".into(), "a/."), "/a/.");
        assert_eq!(with_end_of("/a".into(), "a/"), "/a/");
        assert_eq!(split_entry("/a/b/."), ("/a/b".into(), ".".into()));
        assert_eq!(split_entry("a/"), (".".into(), "a".into()));
        assert_eq!(rebased("/l/.", "/x/y".into()), ("/x/y/.".into(), String::new()));
        assert_eq!(rebased("/l", "/x/y".into()), ("/x/y".into(), "l".into()));
    }
}
