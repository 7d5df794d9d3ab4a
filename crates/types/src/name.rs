//! Container names: checked when given, made up when not.

/// Why a name is refused. The text is Docker's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Invalid container name ({0}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")]
pub struct NameError(pub String);

/// Checks a name against Docker's grammar; a leading `/` is allowed and dropped.
pub fn validate_name(name: &str) -> Result<&str, NameError> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    let bytes = bare.as_bytes();
    let good = bytes.len() >= 2
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-'));
    if good { Ok(bare) } else { Err(NameError(name.to_owned())) }
}

/// A friendly name from a random number; a retry appends a digit, as Docker does.
pub fn generate_name(random: u64, retry: u32) -> String {
    let index = |part: u64, list: &[&'static str]| list[(part % list.len() as u64) as usize];
    let left = index(random >> 32, MOODS);
    let right = index(random & 0xffff_ffff, SAILORS);
    if retry == 0 {
        format!("{left}_{right}")
    } else {
        format!("{left}_{right}{}", random.rotate_left(retry) % 10)
    }
}

const MOODS: &[&str] = &[
    "able", "agile", "amber", "ample", "apt", "aware", "balmy", "blithe", "bold", "brave",
    "breezy", "bright", "brisk", "buoyant", "calm", "candid", "careful", "cheery", "civil",
    "clear", "clever", "cosy", "crisp", "curious", "daring", "deft", "dapper", "eager", "early",
    "earnest", "easy", "exact", "fair", "famous", "fearless", "fine", "firm", "fleet", "fond",
    "frank", "free", "fresh", "gallant", "gentle", "glad", "golden", "good", "grand", "great",
    "handy", "happy", "hardy", "hearty", "helpful", "honest", "humble", "jaunty", "jolly",
    "jovial", "keen", "kind", "lively", "loyal", "lucid", "lucky", "mellow", "merry", "mighty",
    "modest", "neat", "nifty", "nimble", "noble", "patient", "placid", "plucky", "polite", "proud",
    "quick", "quiet", "ready", "robust", "serene", "sharp", "silver", "smart", "snug", "sober",
    "solid", "spry", "stable", "steady", "stout", "sturdy", "sunny", "swift", "tidy", "tranquil",
    "trim", "trusty", "upbeat", "valiant", "vivid", "warm", "wise", "witty", "worthy", "zesty",
];

/// People of the sea and of its sciences.
const SAILORS: &[&str] = &[
    "amundsen",
    "anning",
    "baret",
    "beaufort",
    "bering",
    "blackburn",
    "bligh",
    "bowditch",
    "cabot",
    "carson",
    "chichester",
    "columbus",
    "cook",
    "cousteau",
    "cunningham",
    "dampier",
    "darwin",
    "davis",
    "drake",
    "earhart",
    "earle",
    "elcano",
    "erikson",
    "fitzroy",
    "flinders",
    "franklin",
    "frobisher",
    "gama",
    "grotius",
    "hadley",
    "harrison",
    "heyerdahl",
    "hopper",
    "hudson",
    "humboldt",
    "ibnmajid",
    "jansz",
    "kupe",
    "laperouse",
    "lind",
    "lovelace",
    "mackenzie",
    "magellan",
    "marsigli",
    "maury",
    "mercator",
    "moitessier",
    "nansen",
    "nelson",
    "palliser",
    "peary",
    "perry",
    "piccard",
    "plimsoll",
    "polo",
    "pytheas",
    "raleigh",
    "rennell",
    "ross",
    "scoresby",
    "scott",
    "shackleton",
    "slocum",
    "sturdee",
    "tabei",
    "tasman",
    "tharp",
    "torres",
    "tryggvason",
    "tupaia",
    "vancouver",
    "vespucci",
    "waghenaer",
    "wegener",
    "weddell",
    "wilkes",
    "worsley",
    "zhenghe",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_are_valid() {
        for seed in 0..2000_u64 {
            let name = generate_name(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), (seed % 4) as u32);
            assert_eq!(validate_name(&name), Ok(name.as_str()));
        }
    }

    #[test]
    fn grammar() {
        assert_eq!(validate_name("/web-1"), Ok("web-1"));
        for bad in ["", "a", "/", "-a", ".a", "a b", "a/b", "ü1", "a\n"] {
            assert!(validate_name(bad).is_err(), "{bad:?}");
        }
    }
}
