//! Names that look like another: for who has mistyped.

/// At most so many.
const MOST: usize = 3;

/// The names that differ from one by a slip or two, the likest first.
pub fn near<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let allowed = match wanted.chars().count() {
        0 | 1 => return Vec::new(),
        2..=4 => 1,
        _ => 2,
    };
    let mut found: Vec<(usize, String)> = names
        .filter_map(|name| {
            let distance = distance(wanted, name);
            (distance > 0 && distance <= allowed).then(|| (distance, name.to_owned()))
        })
        .collect();
    found.sort();
    found.dedup();
    found.into_iter().take(MOST).map(|(_, name)| name).collect()
}

/// Letters that are put in, left out, changed, or in the wrong order.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) =
        (a.chars().take(64).collect(), b.chars().take(64).collect());
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, right) in b.iter().enumerate() {
            let changed = row[j] + usize::from(left != right);
            let mut least = changed.min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && a[i - 1] == *right && *left == b[j - 1] {
                least = least.min(before[j - 1] + 1);
            }
            next.push(least);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_seen_and_others_are_not() {
        let names = ["sleep", "sh", "ls", "sed", "python3"];
        let find = |wanted: &str| near(wanted, names.into_iter());
        assert_eq!(find("slep"), ["sleep"]);
        assert_eq!(find("sleepp"), ["sleep"]);
        assert_eq!(find("slepe"), ["sleep"]);
        assert_eq!(find("pyhton3"), ["python3"]);
        assert_eq!(find("nginx"), Vec::<String>::new());
        assert_eq!(find("x"), Vec::<String>::new());
        assert_eq!(find("hs"), ["ls", "sh"]);
    }
}
