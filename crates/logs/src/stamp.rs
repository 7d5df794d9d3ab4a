//! The times of records: formatted once a second, and never the same twice, since clients resume
//! a log behind the last time they saw. Pure.

use hoy_types::Timestamp;

/// Steps back that are smaller are taken for lines of one read, larger ones for a clock that was
/// set.
const SAME_MOMENT: i64 = 1_000_000_000;
const NANOS: i64 = 1_000_000_000;

#[derive(Debug)]
pub(crate) struct Stamps {
    last: i64,
    second: i64,
    /// Date and time up to `prefix`, then the fraction of the last stamp.
    text: Vec<u8>,
    prefix: usize,
}

impl Stamps {
    pub fn new() -> Self {
        Self { last: i64::MIN / 2, second: i64::MIN, text: Vec::new(), prefix: 0 }
    }

    /// The stamp of the next record that was heard at `at`: as Go's RFC 3339 with nanoseconds.
    pub fn next(&mut self, at: Timestamp) -> &[u8] {
        let mut nanos = at.nanos();
        if nanos <= self.last && self.last.saturating_sub(nanos) < SAME_MOMENT {
            nanos = self.last + 1;
        }
        self.last = nanos;
        let second = nanos.div_euclid(NANOS);
        if second != self.second {
            self.second = second;
            self.text = Timestamp::from_parts(second, 0).to_string().into_bytes();
            self.text.pop();
            self.prefix = self.text.len();
        }
        self.text.truncate(self.prefix);
        let mut fraction = nanos.rem_euclid(NANOS);
        if fraction != 0 {
            let mut digits = [b'0'; 9];
            for digit in digits.iter_mut().rev() {
                *digit = b'0' + (fraction % 10) as u8;
                fraction /= 10;
            }
            let used = digits.iter().rposition(|digit| *digit != b'0').map_or(0, |at| at + 1);
            self.text.push(b'.');
            self.text.extend_from_slice(&digits[..used]);
        }
        self.text.push(b'Z');
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_timestamps_are_written() {
        let mut stamps = Stamps::new();
        for nanos in [0, 1, 1_000_000_000, 1_500_000_000, 1_763_694_000_123_456_700] {
            let at = Timestamp::from_nanos(nanos);
            assert_eq!(stamps.next(at), at.to_string().as_bytes());
        }
    }

    #[test]
    fn never_twice_the_same_and_a_set_clock_counts() {
        let mut stamps = Stamps::new();
        let at = Timestamp::from_parts(100, 999_999_999);
        assert_eq!(stamps.next(at), b"1970-01-01T00:01:40.999999999Z");
        assert_eq!(stamps.next(at), b"1970-01-01T00:01:41Z");
        assert_eq!(stamps.next(at), b"1970-01-01T00:01:41.000000001Z");
        let earlier = Timestamp::from_parts(50, 0);
        assert_eq!(stamps.next(earlier), b"1970-01-01T00:00:50Z");
    }
}
