//! Medians and percentiles, and what is kept of a measurement.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One line of the results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) what: String,
    /// Of whom.
    pub(crate) who: String,
    /// `ms`, `MB`, `tasks/s` and so on.
    pub(crate) unit: String,
    /// Which direction is good.
    pub(crate) better: Better,
    pub(crate) median: f64,
    pub(crate) p90: f64,
    pub(crate) samples: usize,
}

/// Which direction is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Lower,
    Higher,
}

impl Row {
    pub(crate) fn of(what: &str, who: &str, unit: &str, better: Better, mut samples: Vec<f64>) -> Row {
        samples.sort_by(f64::total_cmp);
        Row {
            what: what.to_owned(),
            who: who.to_owned(),
            unit: unit.to_owned(),
            better,
            median: at(&samples, 0.5),
            p90: at(&samples, if better == Better::Lower { 0.9 } else { 0.1 }),
            samples: samples.len(),
        }
    }

    /// Milliseconds, of which fewer are better.
    pub(crate) fn ms(what: &str, who: &str, samples: &[Duration]) -> Row {
        let samples = samples.iter().map(|time| time.as_secs_f64() * 1e3).collect();
        Row::of(what, who, "ms", Better::Lower, samples)
    }
}

/// The value in milliseconds below which this part of the times is.
pub(crate) fn percentile_ms(times: &[Duration], part: f64) -> f64 {
    let mut ms: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    ms.sort_by(f64::total_cmp);
    at(&ms, part)
}

/// The value below which this part of the sorted samples is, between two of them if need be.
fn at(sorted: &[f64], part: f64) -> f64 {
    let place = part * (sorted.len().max(1) - 1) as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    match (sorted.get(low), sorted.get(high)) {
        (Some(low_value), Some(high_value)) => low_value + (high_value - low_value) * (place - low as f64),
        _ => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_in_the_middle() {
        let row = Row::of("w", "ours", "ms", Better::Lower, vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!((row.median, row.samples), (2.5, 4));
        assert!((row.p90 - 3.7).abs() < 1e-9);
        assert!(Row::of("w", "ours", "ms", Better::Lower, Vec::new()).median.is_nan());
    }
}
