//! Finding bytes, eight at a time. Pure; for log lines, where a loop over single bytes would be
//! most of the cost.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

const fn all(byte: u8) -> u64 {
    ONES * byte as u64
}

/// The high bit of each byte that is zero. Exact up to and including the lowest one, which is all
/// that is asked for: what is above may be off by a borrow.
const fn zeros(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGHS
}

/// The first position whose byte `mark` (of eight at once) or `test` (of a single one) finds.
fn first(bytes: &[u8], mark: impl Fn(u64) -> u64, test: impl Fn(u8) -> bool) -> Option<usize> {
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let found = mark(u64::from_le_bytes(*word));
        if found != 0 {
            return Some(index * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    rest.iter().position(|byte| test(*byte)).map(|at| words.len() * 8 + at)
}

/// Where the first newline is.
pub(crate) fn newline(bytes: &[u8]) -> Option<usize> {
    first(bytes, |word| zeros(word ^ all(b'\n')), |byte| byte == b'\n')
}

/// Where the first byte is that JSON text, as Docker writes it, cannot hold as it is.
pub(crate) fn special(bytes: &[u8]) -> Option<usize> {
    let mark = |word: u64| {
        let control = word.wrapping_sub(all(0x20)) & !word & HIGHS;
        let wide = word & HIGHS;
        // Two pairs that differ in one bit: `"` and `&`, `<` and `>`.
        let quote_and = zeros((word ^ all(b'"')) & all(!4));
        let angles = zeros((word ^ all(b'<')) & all(!2));
        control | wide | quote_and | angles | zeros(word ^ all(b'\\'))
    };
    first(bytes, mark, is_special)
}

fn is_special(byte: u8) -> bool {
    matches!(byte, ..0x20 | 0x80.. | b'"' | b'\\' | b'<' | b'>' | b'&')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_at_every_place() {
        for length in 0..20 {
            for place in 0..length {
                for byte in 0..=255_u8 {
                    for other in [b'a', b' ', b'~'] {
                        let mut text = vec![other; length];
                        text[place] = byte;
                        let expected = is_special(byte).then_some(place);
                        assert_eq!(special(&text), expected, "{byte} at {place} of {length}");
                        let expected = (byte == b'\n').then_some(place);
                        assert_eq!(newline(&text), expected, "{byte} at {place} of {length}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_first_of_two_neighbours() {
        for a in 0..=255_u8 {
            for b in 0..=255_u8 {
                let text = [b'x', a, b, b'x', b'x', b'x', b'x', b'x'];
                assert_eq!(special(&text), text.iter().position(|byte| is_special(*byte)));
                assert_eq!(newline(&text), text.iter().position(|byte| *byte == b'\n'));
            }
        }
    }
}
