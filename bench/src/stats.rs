//! Figures from samples. Pure.

/// One run: milliseconds of the clock and of all processors.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    pub wall: f64,
    pub cpu: f64,
}

/// What a peer did in one test.
#[derive(Clone, Debug, Default)]
pub struct Series {
    pub samples: Vec<Sample>,
}

impl Series {
    pub fn median(&self) -> f64 {
        middle(self.samples.iter().map(|s| s.wall))
    }

    pub fn least(&self) -> f64 {
        self.samples.iter().map(|s| s.wall).fold(f64::INFINITY, f64::min)
    }

    /// The mean: work that is done behind falls into the next sample.
    pub fn cpu(&self) -> f64 {
        let count = self.samples.len().max(1) as f64;
        self.samples.iter().map(|s| s.cpu).sum::<f64>() / count
    }
}

fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = values.collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        let samples = [3.0, 1.0, 2.0].map(|wall| Sample { wall, cpu: wall }).to_vec();
        let series = Series { samples };
        assert_eq!((series.median(), series.least(), series.cpu()), (2.0, 1.0, 2.0));
    }
}
