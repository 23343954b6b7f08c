//! Latency: how long messages are in the broker, from the read that brought their last byte to the write that took it
//! on.
//!
//! Numbers only, shared by all threads. Which messages are timed is the shell's to say.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets that have a bound; what takes longer is in one more.
pub const BOUNDS: usize = 25;

/// A histogram of durations. The first bucket is for up to 1 µs, each further one for up to twice as much as the one
/// before: the last bound is 16.8 s.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [AtomicU64; BOUNDS + 1],
    nanoseconds: AtomicU64,
}

/// What a histogram says at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latencies {
    /// How many took at most as long as each of [`Latency::bounds`], those before included.
    pub within: [u64; BOUNDS],
    /// How many there were.
    pub count: u64,
    /// How long they took together.
    pub sum: Duration,
}

impl Latency {
    /// The bounds of the buckets, which are part of them.
    pub fn bounds() -> [Duration; BOUNDS] {
        std::array::from_fn(|bucket| Duration::from_micros(1 << bucket))
    }

    /// One more took so long.
    pub fn record(&self, took: Duration) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        // Of a microsecond that has begun the bits that are needed to count those before it.
        let bucket = u64::BITS - nanoseconds.div_ceil(1000).saturating_sub(1).leading_zeros();
        self.buckets[(bucket as usize).min(BOUNDS)].fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// What there is by now. The sum may be of a few more or fewer than the count, while others record.
    pub fn read(&self) -> Latencies {
        let mut count = 0;
        let mut total = |bucket: &AtomicU64| {
            count += bucket.load(Ordering::Relaxed);
            count
        };
        let within = std::array::from_fn(|bucket| total(&self.buckets[bucket]));
        let count = total(&self.buckets[BOUNDS]);
        Latencies { within, count, sum: Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of the only bucket that such a duration is in, counted from 0.
    fn bucket(nanoseconds: u64) -> usize {
        let latency = Latency::default();
        latency.record(Duration::from_nanos(nanoseconds));
        let latencies = latency.read();
        assert_eq!((latencies.count, latencies.sum), (1, Duration::from_nanos(nanoseconds)));
        assert!(latencies.within.is_sorted());
        latencies.within.iter().filter(|count| **count == 0).count()
    }

    #[test]
    fn each_duration_is_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        for (number, bound) in Latency::bounds().into_iter().enumerate() {
            let bound = u64::try_from(bound.as_nanos()).unwrap();
            assert_eq!((bucket(bound), bucket(bound + 1)), (number, number + 1), "{bound} ns");
        }
        assert_eq!((bucket(0), bucket(u64::MAX)), (0, BOUNDS));
    }

    #[test]
    fn the_bounds_go_from_a_microsecond_to_more_than_ten_seconds() {
        let bounds = Latency::bounds();
        assert_eq!(bounds[0], Duration::from_micros(1));
        assert!(bounds[BOUNDS - 1] > Duration::from_secs(10));
    }

    #[test]
    fn a_bucket_counts_those_before_it_too() {
        let latency = Latency::default();
        for microseconds in [1, 2, 3, 4, 60_000_000] {
            latency.record(Duration::from_micros(microseconds));
        }
        let latencies = latency.read();
        assert_eq!(latencies.within[..4], [1, 2, 4, 4]);
        assert_eq!((latencies.within[BOUNDS - 1], latencies.count), (4, 5));
        assert_eq!(latencies.sum, Duration::from_micros(60_000_010));
    }
}
