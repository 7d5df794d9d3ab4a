//! The order of names in lists: numbers within them count by their value. Pure.

use std::cmp::Ordering;

/// Numbers within names by their value: `net2` before `net10`.
pub fn order(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one.as_bytes(), other.as_bytes());
    let digits = |text: &[u8]| text.iter().take_while(|c| c.is_ascii_digit()).count();
    while let (Some(a), Some(b)) = (one.first(), other.first()) {
        let order = if a.is_ascii_digit() && b.is_ascii_digit() {
            let (left, right) = (one.split_at(digits(one)), other.split_at(digits(other)));
            (one, other) = (left.1, right.1);
            let bare = |text: &[u8]| -> Vec<u8> {
                text.iter().copied().skip_while(|digit| *digit == b'0').collect()
            };
            let (a, b) = (bare(left.0), bare(right.0));
            let by_value = (a.len(), a).cmp(&(b.len(), b));
            by_value.then(left.0.len().cmp(&right.0.len()))
        } else {
            (one, other) = (&one[1..], &other[1..]);
            a.cmp(b)
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    one.len().cmp(&other.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_their_numbers() {
        let mut names = ["net10", "a", "net2", "net", "net02", "b1c", "b1b"];
        names.sort_by(|a, b| order(a, b));
        assert_eq!(names, ["a", "b1b", "b1c", "net", "net2", "net02", "net10"]);
    }
}
