//! Latency histograms in the forms that people and tools read: the HdrHistogram text percentile
//! format, a JSON summary and a small plot for a terminal.
//!
//! Every histogram here holds microseconds, as [`latency_histogram`](super::latency_histogram)
//! makes it.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Lines for each halving of the distance to 100 %, as HdrHistogram's own tools print.
pub(super) const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// Microseconds in a millisecond, the unit of the text format.
const MICROS_PER_MILLI: f64 = 1000.0;

/// The distribution in the text format of HdrHistogram's `outputPercentileDistribution`, in
/// milliseconds with three decimals: what its plotter and `HistogramLogProcessor` users expect of
/// an `.hgrm` file.
#[must_use]
pub fn percentile_text(histogram: &Histogram<u64>) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{:>12} {:>14} {:>10} {:>14}\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut total = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        total += step.count_since_last_iteration();
        let value = step.value_iterated_to() as f64 / MICROS_PER_MILLI;
        let quantile = step.quantile_iterated_to();
        let _ = write!(text, "{value:12.3} {quantile:.12} {total:10}");
        // The last line has no fourth column: the number would be infinite.
        let _ = if quantile < 1.0 {
            writeln!(text, " {:14.2}", 1.0 / (1.0 - quantile))
        } else {
            writeln!(text)
        };
    }
    let buckets = u64::from(histogram.buckets());
    let sub_buckets = 2 * histogram.distinct_values() as u64 / (buckets + 1);
    let _ = writeln!(
        text,
        "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]",
        histogram.mean() / MICROS_PER_MILLI,
        histogram.stdev() / MICROS_PER_MILLI
    );
    let _ = writeln!(
        text,
        "#[Max     = {:12.3}, Total count    = {:12}]",
        histogram.max() as f64 / MICROS_PER_MILLI,
        histogram.len()
    );
    let _ = writeln!(
        text,
        "#[Buckets = {buckets:12}, SubBuckets     = {sub_buckets:12}]"
    );
    text
}

/// A histogram in a few numbers; all but the count are microseconds. All zero when nothing was
/// recorded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct HistogramSummary {
    /// How many values.
    pub count: u64,
    /// The smallest.
    pub min: u64,
    /// The largest.
    pub max: u64,
    /// The arithmetic mean.
    pub mean: f64,
    /// The standard deviation.
    pub stddev: f64,
    /// The median.
    pub p50: u64,
    /// The 75th percentile.
    pub p75: u64,
    /// The 90th percentile.
    pub p90: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The 99.9th percentile.
    #[serde(rename = "p99.9")]
    pub p99_9: u64,
    /// The 99.99th percentile.
    #[serde(rename = "p99.99")]
    pub p99_99: u64,
}

/// Sums a histogram up.
#[must_use]
pub fn summarize(histogram: &Histogram<u64>) -> HistogramSummary {
    // One decimal is finer than the histogram's own steps and keeps the JSON readable.
    let rounded = |value: f64| (value * 10.0).round() / 10.0;
    let at = |quantile| histogram.value_at_quantile(quantile);
    HistogramSummary {
        count: histogram.len(),
        min: histogram.min(),
        max: histogram.max(),
        mean: rounded(histogram.mean()),
        stddev: rounded(histogram.stdev()),
        p50: at(0.5),
        p75: at(0.75),
        p90: at(0.9),
        p99: at(0.99),
        p99_9: at(0.999),
        p99_99: at(0.9999),
    }
}

/// A plot of the distribution: one line for each step of 1-2-5 from the smallest value to the
/// largest, with a bar of at most `width` columns and the share of the values, and a last line with
/// the usual percentiles.
#[must_use]
pub fn plot(histogram: &Histogram<u64>, width: usize) -> String {
    if histogram.is_empty() {
        return "no values\n".to_owned();
    }
    let mut rows: Vec<(u64, u64)> = Vec::new();
    for value in histogram.iter_recorded() {
        let upper = step_above(value.value_iterated_to());
        let mut next = rows.last().map_or(upper, |(last, _)| step_above(last + 1));
        // Empty steps between two that hold values keep the axis even.
        while rows.last().is_none_or(|(last, _)| *last < upper) {
            rows.push((next, 0));
            next = step_above(next + 1);
        }
        if let Some((_, count)) = rows.last_mut() {
            *count += value.count_at_value();
        }
    }
    let largest = rows.iter().map(|(_, count)| *count).max().unwrap_or(1);
    let mut text = String::new();
    for (upper, count) in rows {
        let share = 100.0 * count as f64 / histogram.len() as f64;
        let label = format!("<= {}", human(upper));
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{label:>11} |{:width$}| {share:6.2} %",
            bar(count, largest, width)
        );
    }
    let _ = writeln!(
        text,
        "{:>11}  p50 {}  p90 {}  p99 {}  p99.9 {}  max {}",
        "",
        human(histogram.value_at_quantile(0.5)),
        human(histogram.value_at_quantile(0.9)),
        human(histogram.value_at_quantile(0.99)),
        human(histogram.value_at_quantile(0.999)),
        human(histogram.max())
    );
    text
}

/// The smallest of 1, 2, 5, 10, 20, 50 ... that is not below the value.
fn step_above(value: u64) -> u64 {
    let mut decade: u64 = 1;
    loop {
        for step in [1, 2, 5] {
            let bound = decade.saturating_mul(step);
            if value <= bound {
                return bound;
            }
        }
        decade = decade.saturating_mul(10);
    }
}

/// A bar in eighths of a column; what is not zero shows at least one.
fn bar(count: u64, largest: u64, width: usize) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths = (count as f64 / largest as f64 * width as f64 * 8.0).round() as usize;
    let eighths = eighths.clamp(usize::from(count > 0 && width > 0), width * 8);
    let mut bar = "█".repeat(eighths / 8);
    if eighths % 8 > 0 {
        bar.push(EIGHTHS[eighths % 8]);
    }
    bar
}

/// Microseconds as people write them, with three significant digits.
fn human(micros: u64) -> String {
    let value = micros as f64;
    let (value, unit) = match micros {
        0..1_000 => (value, "us"),
        1_000..1_000_000 => (value / 1e3, "ms"),
        _ => (value / 1e6, "s"),
    };
    let decimals = match value {
        _ if value.fract() == 0.0 => 0,
        0.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::latencies_of as of;

    #[test]
    fn percentile_text_has_the_classic_shape() {
        let text = percentile_text(&of(1..=100));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "       Value     Percentile TotalCount 1/(1-Percentile)"
        );
        assert_eq!(lines[1], "");
        assert_eq!(
            lines[2],
            "       0.001 0.000000000000          1           1.00"
        );
        assert!(
            text.contains("\n       0.050 0.500000000000         50           2.00\n"),
            "{text}"
        );
        assert!(
            text.contains("\n       0.100 1.000000000000        100\n#[Mean    = "),
            "{text}"
        );
        assert!(
            text.contains("#[Mean    =        0.051, StdDeviation   =        0.029]\n"),
            "{text}"
        );
        assert!(
            text.contains("#[Max     =        0.100, Total count    =          100]\n"),
            "{text}"
        );
        assert!(
            text.ends_with(", SubBuckets     =          256]\n"),
            "{text}"
        );
    }

    #[test]
    fn totals_never_fall_and_end_at_the_count() {
        let histogram = of((0..5000u64).map(|n| n * n % 900_001));
        let text = percentile_text(&histogram);
        let totals: Vec<u64> = text
            .lines()
            .skip(2)
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().nth(2).unwrap().parse().unwrap())
            .collect();
        assert!(totals.is_sorted());
        assert_eq!(totals.last(), Some(&5000));
    }

    #[test]
    fn an_empty_histogram_has_every_form() {
        let empty = of([]);
        assert!(percentile_text(&empty).contains("Total count    =            0]"));
        assert_eq!(plot(&empty, 40), "no values\n");
        let summary = summarize(&empty);
        assert_eq!(
            (summary.count, summary.min, summary.max, summary.p99),
            (0, 0, 0, 0)
        );
    }

    #[test]
    fn summary_names_its_percentiles() {
        let summary = summarize(&of(1..=100));
        assert_eq!(
            (summary.p50, summary.p90, summary.p99, summary.mean),
            (50, 90, 99, 50.5)
        );
        let json = serde_json::to_value(summary).unwrap();
        assert_eq!(json["p99.99"], 100);
        assert_eq!(json["count"], 100);
    }

    #[test]
    fn plot_keeps_the_axis_even_and_shows_the_smallest() {
        let text = plot(&of(std::iter::repeat_n(15, 9999).chain([180])), 8);
        let labels: Vec<&str> = text
            .lines()
            .filter_map(|line| line.split(" |").next())
            .collect();
        let labels: Vec<&str> = labels.iter().map(|label| label.trim()).collect();
        assert_eq!(
            labels[..4],
            ["<= 20 us", "<= 50 us", "<= 100 us", "<= 200 us"]
        );
        assert!(text.contains("|████████|  99.99 %"), "{text}");
        assert!(text.contains("|▏       |   0.01 %"), "{text}");
        assert!(text.contains("|        |   0.00 %"), "{text}");
        assert!(text.contains("p50 15 us"), "{text}");
    }

    #[test]
    fn plot_of_extremes_stays_small() {
        let text = plot(&of([0, u64::MAX]), 0);
        assert!(text.lines().count() < 40, "{text}");
    }

    #[test]
    fn durations_are_readable() {
        let words = [999, 1000, 1500, 12_345, 123_456, 1_000_000, 3_600_000_000].map(human);
        assert_eq!(
            words,
            [
                "999 us", "1 ms", "1.50 ms", "12.3 ms", "123 ms", "1 s", "3600 s"
            ]
        );
    }
}
