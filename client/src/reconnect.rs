//! Back-off: how long to wait before connecting again.

use std::time::Duration;

/// The wait after the first loss; doubled after each failure.
const FIRST: Duration = Duration::from_millis(20);

/// The longest wait.
const LONGEST: Duration = Duration::from_secs(2);

/// Grows with each failure, and spreads clients that lost the same broker over time.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait; `random` is any number, the jitter.
    pub(crate) fn next_delay(&mut self, random: u64) -> Duration {
        let whole = LONGEST.min(FIRST.saturating_mul(1 << self.failures.min(16)));
        self.failures += 1;
        let half = whole / 2;
        half + half.mul_f64((random % 1024) as f64 / 1024.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_are_spread_over_half_of_themselves() {
        let mut backoff = Backoff::default();
        let delays: Vec<_> = (0..20).map(|_| backoff.next_delay(0)).collect();
        assert_eq!(delays[0], FIRST / 2);
        assert_eq!(delays[1], FIRST);
        assert_eq!(delays[19], LONGEST / 2);
        let mut backoff = Backoff::default();
        let most = backoff.next_delay(1023);
        assert!(most > FIRST / 2 && most < FIRST, "{most:?}");
    }
}
