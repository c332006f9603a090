//! Holds new results against those that are committed, as ratios to peer and floor: another machine is slower or quicker
//! for all of them.

use crate::contender::{FLOOR, OURS, PEER};
use crate::report::Report;
use crate::statistics::Better;
use crate::wasmtime::WASMTIME;

/// How much worse a ratio may be than before.
const TOLERANCE: f64 = 0.15;
/// Samples that a median is made of, at least.
const FEWEST: usize = 3;

/// A line for each of our rows that fell behind, or is gone.
pub(crate) fn fallen(before: &Report, now: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for what in before.subjects() {
        let Some(ours) = before.row(what, OURS) else { continue };
        if now.row(what, OURS).is_none() {
            lines.push(format!("{what}: not measured any more"));
        }
        // One look at what the node has is no measure of a change.
        if ours.samples < FEWEST {
            continue;
        }
        for other in [PEER, FLOOR, WASMTIME] {
            let (Some(was), Some(is)) = (ratio(before, what, other), ratio(now, what, other)) else { continue };
            let better = ours.better;
            let worse = match better {
                Better::Lower => is / was - 1.0,
                Better::Higher => was / is - 1.0,
            };
            // Not by what the samples before differed anyway.
            let spread = (ours.p90 / ours.median - 1.0).abs();
            if worse > TOLERANCE.max(spread) {
                lines.push(format!("{what}: {is:.2} x {other}, was {was:.2}: worse by {:.0} %", worse * 100.0));
            }
        }
    }
    lines
}

fn ratio(report: &Report, what: &str, other: &str) -> Option<f64> {
    let ratio = report.row(what, OURS)?.median / report.row(what, other)?.median;
    ratio.is_finite().then_some(ratio)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Row;

    fn report(better: Better, ours: f64, peer: f64) -> Report {
        let row = |who, value| Row::of("it", who, "ms", better, vec![value; 3]);
        Report { rows: vec![row(OURS, ours), row(PEER, peer)], machine: Default::default() }
    }

    #[test]
    fn what_fell_by_more_than_is_tolerated_is_named() {
        let before = report(Better::Lower, 10.0, 100.0);
        assert!(fallen(&before, &report(Better::Lower, 22.0, 200.0)).is_empty());
        let lines = fallen(&before, &report(Better::Lower, 24.0, 200.0));
        assert!(lines.len() == 1 && lines[0].starts_with("it: 0.12 x peer"), "{lines:?}");
        let before = report(Better::Higher, 30.0, 10.0);
        assert!(fallen(&before, &report(Better::Higher, 40.0, 10.0)).is_empty());
        assert_eq!(fallen(&before, &report(Better::Higher, 20.0, 10.0)).len(), 1);
        let nothing = Report { rows: Vec::new(), machine: Default::default() };
        assert_eq!(fallen(&before, &nothing), ["it: not measured any more"]);
    }
}
