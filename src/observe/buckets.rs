//! Latency histograms as numbers to draw: counts in few buckets, the same for every histogram and
//! every moment, and points of the percentile curve. What was recorded between two readings is the
//! difference of their counts.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::hgrm::TICKS_PER_HALF_DISTANCE;
use crate::limits::{BUCKETS_PER_DOUBLING, HISTOGRAM_MAX};

/// The upper bounds of the buckets, inclusive, in microseconds: a doubling has
/// [`BUCKETS_PER_DOUBLING`] of them, but the lowest, where there are not so many integers. The last
/// holds whatever is longer than the one before.
#[must_use]
pub fn bucket_bounds() -> Vec<u64> {
    let largest = HISTOGRAM_MAX.as_micros() as f64;
    let steps = (largest.log2() * f64::from(BUCKETS_PER_DOUBLING)).ceil() as u32;
    let bound = |step| (f64::from(step) / f64::from(BUCKETS_PER_DOUBLING)).exp2();
    let mut bounds: Vec<u64> = (0..=steps).map(|step| bound(step).round() as u64).collect();
    bounds.dedup();
    bounds
}

/// How many values each of the [`bucket_bounds`] has.
#[must_use]
pub fn bucket_counts(histogram: &Histogram<u64>) -> Vec<u64> {
    let bounds = bucket_bounds();
    let mut counts = vec![0; bounds.len()];
    for value in histogram.iter_recorded() {
        let place = bounds.partition_point(|bound| *bound < value.value_iterated_to());
        // A value at the very end may stand for one that is a little beyond it.
        counts[place.min(bounds.len() - 1)] += value.count_at_value();
    }
    counts
}

/// A point of the percentile curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PercentilePoint {
    /// The share of the values that are not above `value`: 0 to 1.
    pub quantile: f64,
    /// In microseconds.
    pub value: u64,
    /// How many values are not above it.
    pub total: u64,
}

/// The percentile curve, with as many points for each halving of the distance to 100 % as the text
/// format has lines. At most a few hundred: the halvings end where a single value is left. None for
/// an empty histogram.
#[must_use]
pub fn percentile_points(histogram: &Histogram<u64>) -> Vec<PercentilePoint> {
    let mut total = 0;
    let steps = histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE);
    let points = steps.map(|step| {
        total += step.count_since_last_iteration();
        PercentilePoint {
            quantile: step.quantile_iterated_to(),
            value: step.value_iterated_to(),
            total,
        }
    });
    let points = points.collect();
    if histogram.is_empty() {
        Vec::new()
    } else {
        points
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::observe::metrics::latencies_of as of;
    use crate::observe::{latency_histogram, record_latency};

    #[test]
    fn bounds_rise_from_the_smallest_to_the_largest() {
        let bounds = bucket_bounds();
        assert_eq!(bounds[..8], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert!(bounds.is_sorted_by(|a, b| a < b));
        assert!(bounds.len() <= 128, "{}", bounds.len());
        let largest = HISTOGRAM_MAX.as_micros() as u64;
        let last = &bounds[bounds.len() - 2..];
        assert!(last[0] < largest && largest <= last[1], "{last:?}");
        assert!(bounds.windows(2).skip(12).all(|pair| {
            let ratio = pair[1] as f64 / pair[0] as f64;
            (1.12..1.26).contains(&ratio)
        }));
    }

    #[test]
    fn every_value_is_in_the_bucket_that_its_bounds_name() {
        let bounds = bucket_bounds();
        let values = [1, 2, 7, 8, 9, 200, 1000, 5_000_000, u64::MAX];
        let counts = bucket_counts(&of(values));
        assert_eq!(counts.iter().sum::<u64>(), values.len() as u64);
        assert_eq!(counts[6..9], [1, 1, 1], "7, 8 and 9 to 10");
        assert_eq!(counts.last(), Some(&1), "what is beyond the range");
        let at = |value| bounds.partition_point(|bound| *bound < value);
        assert_eq!(counts[at(200)], 1);
        // 1 % is the histogram's own step, and may lead over a bound.
        assert_eq!(counts[at(5_000_000)..=at(5_050_000)].iter().sum::<u64>(), 1);
        assert_eq!(bucket_counts(&of([])), vec![0; bounds.len()]);
    }

    #[test]
    fn the_difference_of_two_readings_is_what_came_between() {
        let mut histogram = of([100; 5]);
        let before = bucket_counts(&histogram);
        record_latency(&mut histogram, Duration::from_micros(100));
        record_latency(&mut histogram, Duration::from_micros(9000));
        let after = bucket_counts(&histogram);
        let came: u64 = after.iter().zip(&before).map(|(a, b)| a - b).sum();
        assert_eq!(came, 2);
    }

    #[test]
    fn the_curve_ends_at_the_largest_value() {
        let points = percentile_points(&of(1..=1000));
        let last = points.last().unwrap();
        assert_eq!((last.quantile, last.total), (1.0, 1000));
        assert!(last.value >= 1000);
        let median = points.iter().find(|point| point.quantile == 0.5).unwrap();
        assert_eq!(
            (median.value.abs_diff(500) <= 4, median.total >= 500),
            (true, true)
        );
        assert!(points.is_sorted_by(|a, b| a.quantile <= b.quantile && a.value <= b.value));
        assert!(percentile_points(&of([])).is_empty());
        let mut many = latency_histogram();
        many.record_n(5, 1 << 50).unwrap();
        many.record(3_000_000_000).unwrap();
        assert!(percentile_points(&many).len() < 400);
    }
}
