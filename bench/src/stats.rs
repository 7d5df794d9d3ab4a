//! Figures from samples. Pure.

/// One run: milliseconds of the clock and of all processors.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    pub wall: f64,
    pub cpu: f64,
}

/// What is told of many numbers. Of none, nothing is a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    pub count: usize,
    pub median: f64,
    pub least: f64,
    pub mean: f64,
}

pub fn figures(values: impl IntoIterator<Item = f64>) -> Figures {
    let mut all: Vec<f64> = values.into_iter().collect();
    all.sort_by(f64::total_cmp);
    let at = |index: usize| all.get(index).copied().unwrap_or(f64::NAN);
    let (half, count) = (all.len() / 2, all.len());
    let median =
        if count % 2 == 1 { at(half) } else { at(half.wrapping_sub(1)).midpoint(at(half)) };
    Figures { count, median, least: at(0), mean: all.iter().sum::<f64>() / count as f64 }
}

/// One peer's samples of one test.
#[derive(Clone, Debug)]
pub struct Series {
    pub peer: &'static str,
    pub samples: Vec<Sample>,
}

impl Series {
    pub fn wall(&self) -> Figures {
        figures(self.samples.iter().map(|sample| sample.wall))
    }

    pub fn cpu(&self) -> Figures {
        figures(self.samples.iter().map(|sample| sample.cpu))
    }
}

/// One test, by all who took part.
#[derive(Clone, Debug)]
pub struct Test {
    pub name: &'static str,
    pub series: Vec<Series>,
}

impl Test {
    pub fn of(&self, peer: &str) -> Option<&Series> {
        self.series.iter().find(|series| series.peer == peer)
    }
}

/// The order of a round: forth and back in turn, so that nobody always comes after the same one
/// and pays for what the kernel still does for that one.
pub fn order(count: usize, round: usize) -> Vec<usize> {
    if round.is_multiple_of(2) { (0..count).collect() } else { (0..count).rev().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_even_and_none() {
        let odd = figures([3.0, 1.0, 2.0]);
        assert_eq!(odd, Figures { count: 3, median: 2.0, least: 1.0, mean: 2.0 });
        let even = figures([4.0, 1.0, 2.0, 9.0]);
        assert_eq!((even.median, even.least, even.mean), (3.0, 1.0, 4.0));
        assert!(figures([]).median.is_nan() && figures([]).least.is_nan());
        assert_eq!(figures([7.0]).median, 7.0);
    }

    #[test]
    fn rounds_alternate() {
        assert_eq!((order(3, 0), order(3, 1)), (vec![0, 1, 2], vec![2, 1, 0]));
    }
}
