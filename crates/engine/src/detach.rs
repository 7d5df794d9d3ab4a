//! `--detach-keys`: a text like `ctrl-p,ctrl-q` as the bytes that a terminal sends.

/// Docker's default: ctrl-p, ctrl-q.
pub const DEFAULT: &[u8] = &[16, 17];

/// Why a text is not a key sequence. The text is Docker's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Invalid detach keys ({0}) provided")]
pub struct DetachKeysError(pub String);

/// The bytes of a sequence; an absent or empty text is the default one.
pub fn parse(text: Option<&str>) -> Result<Vec<u8>, DetachKeysError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(DEFAULT.to_vec()) };
    let key = |part: &str| -> Option<u8> {
        if let [byte] = part.as_bytes() {
            return byte.is_ascii().then_some(*byte);
        }
        match part.strip_prefix("ctrl-")?.as_bytes() {
            [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
            [b'@'] => Some(0),
            [b'['] => Some(27),
            [b'\\'] => Some(28),
            [b']'] => Some(29),
            [b'^'] => Some(30),
            [b'_'] => Some(31),
            _ => None,
        }
    };
    text.split(',')
        .map(key)
        .collect::<Option<Vec<u8>>>()
        .ok_or_else(|| DetachKeysError(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences() {
        assert_eq!(parse(None), Ok(vec![16, 17]));
        assert_eq!(parse(Some("ctrl-a,b")), Ok(vec![1, b'b']));
        assert_eq!(parse(Some("ctrl-\\")), Ok(vec![28]));
        for bad in ["ctrl-", "ctrl-A", "ctrl-aa", "ab", ",", "é"] {
            assert!(parse(Some(bad)).is_err(), "{bad}");
        }
    }
}
