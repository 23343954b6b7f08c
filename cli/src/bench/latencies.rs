//! Latencies: how long messages took, as a distribution.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Values are kept to one part in a thousand.
const DIGITS: u8 = 3;

/// Whatever takes longer counts as this long.
const LONGEST: Duration = Duration::from_secs(60);

/// How long each of many messages took.
#[derive(Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> Latencies {
        let histogram = Histogram::new_with_max(nanoseconds(LONGEST), DIGITS);
        Latencies(histogram.expect("the bounds are in order, and there are few digits"))
    }

    pub(crate) fn record(&mut self, took: Duration) {
        self.0.saturating_record(nanoseconds(took));
    }

    /// `None` if nothing was recorded.
    pub(crate) fn summary(&self) -> Option<Summary> {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1e3;
        let summary =
            Summary { p50_us: at(0.5), p99_us: at(0.99), p999_us: at(0.999), max_us: self.0.max() as f64 / 1e3 };
        (!self.0.is_empty()).then_some(summary)
    }
}

/// What people want to know of a distribution, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_true_to_one_in_a_thousand() {
        let mut latencies = Latencies::new();
        assert_eq!(latencies.summary(), None);
        (1..=1000).for_each(|us| latencies.record(Duration::from_micros(us)));
        let summary = latencies.summary().unwrap();
        for (is, wanted) in [(summary.p50_us, 500.0), (summary.p99_us, 990.0), (summary.p999_us, 999.0)] {
            assert!((is / wanted - 1.0f64).abs() < 1.5e-3, "{is} is not {wanted}");
        }
        latencies.record(Duration::MAX);
        assert!(latencies.summary().unwrap().max_us >= 60e6);
    }
}
