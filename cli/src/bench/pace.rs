//! Pace: messages that are due at a steady rate, and the time in each.

use std::time::Duration;

use crate::system::clock::now;

/// So many bytes at the start of a payload are the time.
pub(crate) const STAMP_BYTES: usize = 8;

/// The times of the messages that have become due. What could not be sent when it was due is late since then, not since
/// it is sent.
pub(crate) fn due(count: u64, rate: u32) -> impl Iterator<Item = Duration> {
    stamps(now(), count, interval(rate))
}

/// The time from one message to the next.
pub(crate) fn interval(rate: u32) -> Duration {
    Duration::from_secs(1) / rate
}

fn stamps(now: Duration, count: u64, interval: Duration) -> impl Iterator<Item = Duration> {
    (0..count).rev().map(move |late| {
        let late = u32::try_from(late).unwrap_or(u32::MAX);
        now.saturating_sub(interval.saturating_mul(late))
    })
}

/// Puts a time where [`stamp_of`] finds it.
pub(crate) fn stamp(payload: &mut [u8], time: Duration) {
    let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    payload[..STAMP_BYTES].copy_from_slice(&nanoseconds.to_le_bytes());
}

/// The time in a payload; `None` if that is too short.
pub(crate) fn stamp_of(payload: &[u8]) -> Option<Duration> {
    payload.first_chunk().map(|stamp| Duration::from_nanos(u64::from_le_bytes(*stamp)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::clock::Timer;

    #[test]
    fn what_is_late_is_so_since_it_was_due() {
        let seconds = Duration::from_secs;
        let all: Vec<_> = stamps(seconds(10), 3, seconds(2)).collect();
        assert_eq!(all, [6, 8, 10].map(seconds));
    }

    #[test]
    fn a_time_is_found_again() {
        let mut payload = [0; STAMP_BYTES + 1];
        stamp(&mut payload, Duration::from_nanos(123_456_789_012));
        assert_eq!(stamp_of(&payload), Some(Duration::from_nanos(123_456_789_012)));
        assert_eq!(stamp_of(&payload[..STAMP_BYTES - 1]), None);
    }

    #[tokio::test]
    async fn a_pace_is_kept() {
        let begun = now();
        let mut timer = Timer::start(interval(1000)).unwrap();
        let mut so_far = 0;
        while so_far < 10 {
            so_far += due(timer.count().await.unwrap(), 1000).count();
        }
        assert!(now() - begun >= Duration::from_millis(10));
    }
}
